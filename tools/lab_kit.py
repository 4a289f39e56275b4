"""What an instructor needs for a room without network, as build/lab-kit.zip: python tools/lab_kit.py [DATA-FOLDER]

The learners' notebooks, the answers, the grader, the sources for nbgrader, the helper as a wheel, a plan by measured
times, and, if a data folder is given, the images in it.
"""

import ast
import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from build import NOTEBOOKS, ROOT, in_words, measured, title_of
from ddpm_helpers.data import DATASETS, DataError
from ddpm_helpers.datasets import load_files
from ddpm_helpers.exercises import EXERCISES, solution
from ddpm_helpers.pictures import load_folder

KIT = ROOT / "build" / "lab-kit.zip"
GRADER = ("grade.py", "grade_worker.py")  # in tools/; they need nothing else of the course but its module
UNWRITTEN = (ast.Expr, ast.Assign, ast.Return)  # where a skeleton has its `...`
MINUTES = 90
EXERCISE_MINUTES = 10  # a guess, and LAB-PLAN.md says so
ROOM_MINUTES = 10  # to start the machines, and to hand in
ADVICE = (  # where the helper is missing: in the course, in the kit
    "start this notebook with `make lab`, or see Colab in the README.",
    "start JupyterLab as INSTALL.md says, in the terminal in which env is active.",
)


@dataclass(frozen=True)
class Part:
    """What of a notebook belongs to a session."""

    number: str
    tags: tuple[str, ...]  # of its exercises
    share: float = 1.0  # of its text
    which: str = ""  # in words, if it is not all


SESSIONS = {
    "A diffusion model on one page": [Part("00", ("0.1",))],
    "A first generative model": [Part("01", ("1.1", "1.2", "1.3"))],
    "Noise, and its closed form": [Part("02", ("2.1", "2.2", "2.3"))],
    "Training": [Part("07", ("7.1", "7.2"), 0.37, "up to lever 3")],
    "Training, the real run": [Part("07", ("7.3",), 0.63, "from lever 4 on")],
    "What the training learns from": [Part("16", ("16.1", "16.2", "16.3"), 0.5, "up to unit variance")],
    "Sampling": [Part("08", ("8.1", "8.2"), 0.75, "up to the few steps that are enough")],
}


def main(arguments: list[str]) -> int:
    if len(arguments) > 1:
        print("usage: python tools/course.py lab-kit [DATA-FOLDER]", file=sys.stderr)
        return 2
    try:
        data = data_files(Path(arguments[0])) if arguments else []
    except DataError as error:
        print(f"lab-kit: {error}", file=sys.stderr)
        return 2
    KIT.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KIT.parent) as temporary:
        write_kit(Path(temporary) / "lab-kit", data, Path(arguments[0]) if arguments else None)
        os.replace(shutil.make_archive(f"{temporary}/packed", "zip", temporary, "lab-kit"), KIT)
    print(f"{KIT}: {KIT.stat().st_size / 1e6:.0f} MB")
    return 0


def data_files(folder: Path) -> list[Path]:
    """The files in the folder that `load_images` would read, after reading them all.

    Raises:
        DataError: if there is no such folder, or a file in it is damaged, or none is there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    files: list[Path] = []
    for name, title in DATASETS.items():
        if all(load_files(name, folder, train) for train in (True, False)):
            place = folder / ("cifar-10-batches-py" if name == "cifar10" else f"{title}/raw")
            unpacked = {path for path in place.glob("*") if path.suffix != ".gz"}
            files += [path for path in place.glob("*") if path in unpacked or path.with_suffix("") not in unpacked]
        elif name == "cifar10" and (folder / name / "train").is_dir():
            for half in ("train", "test"):
                load_folder(folder / name / half)
            files += [path for path in (folder / name).rglob("*") if path.is_file()]
    if not files:
        raise DataError(
            f"{folder}: no images that load_images reads are here; it looks for MNIST/raw, FashionMNIST/raw, "
            "cifar-10-batches-py, cifar10/train and cifar10/test"
        )
    return files


def write_kit(folder: Path, data: list[Path], data_folder: Path | None) -> None:
    """All that goes into the zip, as files in a folder."""
    wheel = build_wheel(folder / "wheels")
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        learners = learner_edition(nbformat.read(path, as_version=4))
        refuse_answers(learners, path)
        write(learners, folder / "notebooks" / path.name)
        write(answer_edition(learners), folder / "answers" / path.name)
        assignment = folder / "nbgrader" / "source" / path.stem
        source = nbgrader_edition(learners)
        for cell in source.cells:
            for figure in re.findall(r"\]\(\.\./(figures/[\w.-]+)\)", cell.source):
                for place in (folder, assignment):  # nbgrader hands out the folder of one assignment alone
                    (place / "figures").mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / figure, place / figure)
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace("](../figures/", "](figures/")
        write(source, assignment / path.name)
    for path in data:
        target = folder / "notebooks" / "data" / path.relative_to(data_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name in GRADER:
        shutil.copy(ROOT / "tools" / name, folder)
    texts = {
        "nbgrader/nbgrader_config.py": NBGRADER_CONFIG,
        "INSTALL.md": install_text(wheel.name, bool(data)),
        "LAB-PLAN.md": lab_plan(),
        "LICENSE": (ROOT / "LICENSE").read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def build_wheel(folder: Path) -> Path:
    """The helper as a wheel, built from copies, so that no older build beside the checkout gets into it."""
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copytree(ROOT / "ddpm_helpers", Path(temporary, "ddpm_helpers"), ignore=shutil.ignore_patterns("__py*"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, temporary)
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), temporary]
        with suppress(PackageNotFoundError):  # from 70.1 setuptools makes wheels by itself, and needs no network
            if tuple(map(int, version("setuptools").split(".")[:2])) >= (70, 1):
                command.insert(4, "--no-build-isolation")
        if subprocess.run(command).returncode:
            sys.exit("lab-kit: the wheel could not be built; pip's message above says why.")
    [wheel] = folder.glob("ddpm_helpers-*.whl")
    return wheel


def write(notebook: NotebookNode, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def learner_edition(notebook: NotebookNode) -> NotebookNode:
    """The notebook as it is before anyone has run it; without the helper it speaks of the kit."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.source = cell.source.replace(*ADVICE)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def refuse_answers(learners: NotebookNode, path: Path) -> None:
    """Stops if an exercise was done in the notebook that the kit is made from: the class would get the answer."""
    for _, exercise, skeleton in exercise_cells(learners):
        values = [node.value for node in ast.walk(ast.parse(skeleton)) if isinstance(node, UNWRITTEN)]
        if not any(isinstance(value, ast.Constant) and value.value is ... for value in values):
            sys.exit(
                f"lab-kit: {path.name} holds an answer to exercise {exercise.tag}, which the learners would get. Put "
                "the notebooks back (git restore notebooks), or make the kit in a fresh copy of the course."
            )


def answer_edition(learners: NotebookNode) -> NotebookNode:
    """Each skeleton replaced by the course's own solution."""
    notebook = copy.deepcopy(learners)
    for cell, exercise, skeleton in exercise_cells(notebook):
        cell.source = cell.source.replace(skeleton, solution(exercise), 1)
    return notebook


def nbgrader_edition(learners: NotebookNode) -> NotebookNode:
    """nbgrader's source: its `generate_assignment` takes the solutions out, and what is left are the skeletons.

    The cell below each exercise gives the point. `check` above it has put the course's own function in the place
    of a wrong answer, and the course's own function is none.
    """
    notebook = copy.deepcopy(learners)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        cell.metadata.pop("nbgrader", None)
        for _, exercise, skeleton in exercise_cells(notebook, [cell]):
            hidden = f"### BEGIN SOLUTION\n{solution(exercise)}\n### END SOLUTION"
            cell.source = cell.source.replace(skeleton, f"{skeleton}\n\n\n{hidden}", 1)
            cell.metadata["nbgrader"] = marks(f"{exercise.name}-answer", solution=True)
            test = nbformat.v4.new_code_cell(
                "from ddpm_helpers.exercises import EXERCISES, mark\n\n"
                f'assert mark(EXERCISES["{exercise.name}"], {exercise.name}).right, "what check says above"',
                id=f"{cell.id}-mark",
            )
            test.metadata["nbgrader"] = marks(exercise.name, grade=True, locked=True, points=1)
            cells.append(test)
    notebook.cells = cells
    return notebook


def marks(grade_id: str, grade: bool = False, locked: bool = False, solution: bool = False, **more) -> NotebookNode:
    """What nbgrader wants to know about a cell."""
    about = {"grade": grade, "grade_id": grade_id, "locked": locked, "schema_version": 3, "solution": solution}
    return nbformat.from_dict({**about, "task": False, **more})


def exercise_cells(notebook: NotebookNode, cells: list[NotebookNode] | None = None):
    """(cell, its exercise, its skeleton's text) of each exercise in a notebook."""
    for cell in cells or notebook.cells:
        if "exercise" in cell.metadata.get("tags", []):
            [function] = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
            skeleton = "\n".join(cell.source.splitlines()[function.lineno - 1 : function.end_lineno])
            yield cell, EXERCISES[function.name], skeleton


NBGRADER_CONFIG = """# nbgrader's settings for this folder; names and places of your own go here, too
import os

os.environ.setdefault("DDPM_BUDGET", "quick")  # every cell of a notebook is run, and training takes minutes
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "ddpm"
c.ClearSolutions.code_stub = {"python": ""}  # the skeleton stands above the solution
c.ExecutePreprocessor.timeout = 600
"""


WITH_DATA = """The images of the data folder that the kit was made with lie in `notebooks/data`, where notebooks that
are started in `notebooks` find them. For `answers`, set the environment variable `DDPM_DATA` to that folder."""

WITHOUT_DATA = """The kit holds no images. Without a data folder and a network each notebook draws its own digits, the
same ones everywhere, in a few seconds, and says so. (As files they would have to lie where MNIST is expected, and the
notebooks would call them MNIST.) For the real images make the kit with `make lab-kit DATA=FOLDER`, a folder in
torchvision's layout, or set the environment variable `DDPM_DATA` on each machine to one on a shared drive."""


SERVER = """Thirty kernels of notebook 08, under the quick budget, took 13 minutes and 13.5 GB on 2 cores, where one
alone takes half a minute; notebook 01 takes about twice the memory. So plan the quick budget there, 1.5 GB of memory
for each learner, and one core for every two of them. Ask them to shut down a notebook's kernel before they open the
next."""


def install_text(wheel: str, has_data: bool) -> str:
    data = WITH_DATA if has_data else WITHOUT_DATA
    return f"""# The lab kit

- `notebooks`, `figures`: for the learners.
- `wheels`: the course's helper module. PyTorch and the other packages are not in the kit: they come here, too.
- `answers`: the same notebooks with the course's own solutions. Read them, run them, keep them.
- `grade.py` marks learners' notebooks (`grade_worker.py` belongs to it); `nbgrader` is a course folder for nbgrader.
- `LAB-PLAN.md`: what fits into {MINUTES} minutes.

## Once, on a machine with a network

It needs the system and the Python version of the machines in the lab; for two systems do it on each. Each machine
needs Python 3.10 or newer with its module venv (on Debian and Ubuntu the package `python3-venv`; try
`python3 -m venv env` there while there is a network), 2 GB of free memory, and on Linux 6 GB of free disk for what is
installed, beside the folder `wheels`; much less with the CPU-only packages. In this folder (Windows:
`py` instead of `python3`, here and below):

```
python3 -m pip download --dest wheels "./wheels/{wheel}[lab]"
```

Write `[lab,compare]`, here and below, if notebook 10 is to compare with diffusers and deepinv; otherwise it leaves
those cells out. On Linux the line fetches CUDA libraries of several GB. For a lab without GPUs add
`--extra-index-url ADDRESS`, with the address of the CPU-only packages that PyTorch's site gives. (Take both torch and
torchvision from there or neither: the one kind does not work with the other.)

## On each machine, no network needed

Copy `notebooks`, `figures` and `wheels` there. Beside `wheels`:

```
python3 -m venv env
source env/bin/activate
python -m pip install --no-index --find-links wheels "ddpm-helpers[lab]"
```

(Windows, in the Command Prompt: `env\\Scripts\\activate` in the second line. If pip finds no version of a package, the
step above is missing, or was made for another system or Python.) This tells whether the machine is ready, with a list
of versions:

```
python -c "import jupyterlab, ddpm_helpers; print(ddpm_helpers.environment_report())"
```

Then, in the same terminal, still beside `wheels` (started in `notebooks`, JupyterLab could not show the pictures in
`figures`):

```
python -m jupyterlab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb
```

On one machine run notebook 00 from top to bottom with the network off.

Let learners start a training first and read on while it works. `DDPM_BUDGET=quick` in front of that line (Windows:
`set DDPM_BUDGET=quick` before it) makes every training short. It is for testing the room, and for machines on which
the times in `LAB-PLAN.md` are out of reach: the networks of notebooks 01 and 07 then draw no digit, while the captions
describe digits. Show the pictures in `figures` instead.

If one server runs the kernels of all, set `OMP_NUM_THREADS=1` there for everyone: threads of many kernels spend their
time waiting for each other. {SERVER}

## Images

{data}

## Marking

Collect the notebooks in a folder, each in a subfolder that is called as the learner
(`class/ada/02_forward_process.ipynb`), or each under a name of its own. On a machine with the same packages, `env`
active, in this folder:

```
python grade.py FOLDER --csv marks.csv
```

It runs each notebook in a process of its own, with limits of time and memory, and writes who has what right, and which
mistake the others made. The same line again marks only what has changed since. `--feedback TEXTS` writes a text for
each learner, `--roster NAMES.txt` adds who handed in nothing, `-j 4` marks four notebooks at once, `--help` lists the
rest. The limits are against accidents: learners' code runs with your rights, so take an account or a container of its
own if you do not trust it.

With nbgrader (0.9 or newer; activate the environment that holds it and what is installed above), in the folder
`nbgrader`, for each notebook that you want to hand out:

```
nbgrader generate_assignment 02_forward_process
nbgrader autograde 02_forward_process
```

Between the two lie handing out `release/02_forward_process` and collecting into
`submitted/LEARNER/02_forward_process`. Each exercise is worth one point. `autograde` runs every cell, under the quick
budget; `nbgrader_config.py` sets it.
"""


def lab_plan() -> str:
    """What fits into a session, from each notebook's reading time, its measured run time and its exercises."""
    plans = {path.stem[:2]: plan(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    rows = [
        f"| {number} {p['title']} | {p['reading']} min | {p['full']} | {p['quick']} | {len(p['tags'])} | "
        f"{total(p, len(p['tags']))} min | {advice(p)} |"
        for number, p in plans.items()
    ]
    sessions = [session(title, parts, plans) for title, parts in SESSIONS.items()]
    about = measured("notebooks")
    return f"""# What fits into {MINUTES} minutes

Reading is what each notebook states, for a careful reader. The cells' time is measured ({about["device"]},
{about["date"]}); an old laptop may need far longer. Cells run while you read, but a room waits for its
slowest laptop, so the time of the full budget is added. {EXERCISE_MINUTES} minutes an exercise are a guess: correct it
after the first session. A session has {ROOM_MINUTES} minutes more, for starting the machines and for handing in. With
two hours, use the rest to talk about the pictures.

| notebook | reading | cells, full | cells, quick | exercises | together | in {MINUTES} minutes |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

An exercise that is left out breaks nothing: the notebook goes on with the course's own version.

## Sessions of {MINUTES} minutes

{chr(10).join(sessions)}
Before the fourth session learners read notebooks 03 and 04 at home (two hours), or you tell them their result: the
loss is the squared error of the predicted noise. 05 and 06 are left out. For the fourth session it is enough to know
that a U-Net takes a noisy image and a step, and answers with an image.
"""


def plan(path: Path) -> dict:
    notebook = nbformat.read(path, as_version=4)
    seconds = {name: row["seconds"] for name, row in measured("notebooks")["notebooks"].get(path.stem[:2], {}).items()}
    return {
        "title": title_of(notebook),
        "reading": reading_minutes(notebook),
        "seconds": seconds.get("full", seconds.get("quick", 0)),
        "tags": [exercise.tag for _, exercise, _ in exercise_cells(notebook)],
    } | {budget: in_words(seconds[budget]) if budget in seconds else "not measured" for budget in ("quick", "full")}


def reading_minutes(notebook: NotebookNode) -> int:
    """The minutes that the header states: "30 minutes", "an hour", or "two sittings of an hour"."""
    text = " ".join(notebook.cells[0].source.partition("**Time**")[2].split())
    match = re.match(r"(\d+) minutes|(an|one|two|three) (?:hours?|sittings of an hour)", text)
    if not match:
        raise ValueError(f"{title_of(notebook)}: no reading time after **Time** that the plan understands: {text[:60]}")
    return int(match[1]) if match[1] else 60 * {"an": 1, "one": 1, "two": 2, "three": 3}[match[2]]


def total(plan: dict, exercises: int, share: float = 1.0) -> int:
    """Minutes, rounded up, without those of the room; all cells are counted, whatever the share of the text."""
    return round(share * plan["reading"]) + EXERCISE_MINUTES * exercises + -(-plan["seconds"] // 60)


def advice(plan: dict) -> str:
    count = len(plan["tags"])
    room = MINUTES - ROOM_MINUTES
    fits = [n for n in range(count + 1) if total(plan, n) <= room]
    if not fits:
        return f"no: {-(-total(plan, count) // room)} sessions"
    return "all of it" if fits[-1] == count else f"with {fits[-1]} of the {count} exercises"


def session(title: str, parts: list[Part], plans: dict[str, dict]) -> str:
    minutes = ROOM_MINUTES + sum(total(plans[part.number], len(part.tags), part.share) for part in parts)
    lines = [
        f"- {part.number} {plans[part.number]['title']}{', ' * bool(part.which)}{part.which}; "
        f"exercise{'s' * (len(part.tags) > 1)} {', '.join(part.tags)}"
        for part in parts
    ]
    return "\n".join([f"### {title}: {minutes} minutes\n", *lines, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
