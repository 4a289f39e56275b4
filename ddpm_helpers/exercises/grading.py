"""Mark the exercises in learners' notebooks: each notebook in a process of its own, within limits of time and memory.

First only the set-up cell and the cells with exercises run. Where an answer then misses a name, all cells up to the
last exercise run, for another cell may define it. A cell that runs too long or ends the process is left out, and the
rest starts again.

The limits are against accidents. They are no protection from a learner who sets out to deceive or to harm: answers
run with the rights of whoever grades, and are marked in the process in which they run.
"""

import csv
import difflib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..marking import EXERCISES
from .worker import OUT_OF_MEMORY

PACKAGES = Path(__file__).resolve().parents[2]  # the folder from which this very package was imported
STARTS = 5  # how often a notebook is started; each start leaves out one cell more
START_SECONDS = 120  # to import PyTorch, on a slow disk


@dataclass(frozen=True)
class Mark:
    """One exercise of one learner."""

    kind: str  # "right", "wrong", "not tried" or "not run"
    reason: str = ""  # which mistake, or why it could not be run

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


@dataclass
class Graded:
    """One notebook of one learner."""

    learner: str
    marks: dict[str, Mark] = field(default_factory=dict)  # by the exercise's name; all of the notebook's exercises
    problem: str = ""  # why there are no marks


@dataclass
class Cell:
    """A code cell; `names` are the exercises that it defines."""

    source: str
    names: list[str]
    setup: bool
    run: bool = True


def notebooks_in(paths: list[Path]) -> dict[str, Path]:
    """Learner -> notebook: a folder stands for all notebooks in it and below. A learner is called as the file is, with
    the folders in front that lie below the given one, and more of them where several files are called alike.

    Raises:
        ValueError: if a path is neither a folder with notebooks nor a notebook.
    """
    names: dict[Path, str] = {}
    for path in paths:
        found = sorted(p for p in path.rglob("*") if is_notebook(p) and ".ipynb_checkpoints" not in p.parts)
        if path.is_dir() and not found:
            raise ValueError(f"{path}: no .ipynb file in this folder")
        if not path.is_dir() and not (is_notebook(path) and path.is_file()):
            raise ValueError(f"{path}: neither a folder nor an .ipynb file")
        for file in found if path.is_dir() else [path]:
            below = file.relative_to(path) if path.is_dir() else Path(file.name)
            names.setdefault(file.resolve(), called(below.with_suffix("").parts))
    for depth in range(1, max(len(file.parts) for file in names)):
        often = Counter(names.values())
        for file in names:
            if often[names[file]] > 1:
                names[file] = called([*file.parent.parts[-depth:], file.stem])
    return {name: file for file, name in names.items()}


def called(parts: Sequence[str]) -> str:
    """A Mac may take letters apart, u and its dots: they would count as two, and not be found in a list of names."""
    return unicodedata.normalize("NFC", "/".join(parts))


def is_notebook(path: Path) -> bool:
    return path.suffix.lower() == ".ipynb"


def others_in(paths: list[Path]) -> list[str]:
    """What lies in the folders, as seen from them, and is no notebook: perhaps somebody handed in a document."""
    found = ((path, file) for path in paths if path.is_dir() for file in sorted(path.rglob("*")) if file.is_file())
    return [
        file.relative_to(path).as_posix()
        for path, file in found
        if not is_notebook(file) and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]


def grade(path: Path, learner: str, seconds: float = 60, gigabytes: float = 4) -> Graded:
    """Mark one notebook. No cell, and no marking of an answer, may take longer than `seconds`.

    Nothing in the notebook makes this raise.
    """
    try:
        cells, tags = read_notebook(path)
    except ValueError as error:
        return Graded(learner, problem=str(error))
    asked = exercises_of(cells, tags)
    if not asked:
        return Graded(learner, problem="no exercise of this course is in it")
    for cell in cells:  # a helper that is called like another notebook's exercise is the learner's own business
        cell.names = [name for name in cell.names if name in asked]
    last = max((place for place, cell in enumerate(cells) if cell.names), default=-1)
    cells = cells[: last + 1]
    marks = run([cell for cell in cells if cell.setup or cell.names], seconds, gigabytes)
    if any("NameError" in mark.reason for mark in marks.values()):
        whole = run(cells, seconds, gigabytes)
        marks |= {name: whole[name] for name, mark in marks.items() if "NameError" in mark.reason}
    defined = {name for cell in cells for name in re.findall(r"^def\s+(\w+)", cell.source, flags=re.M)}
    return Graded(learner, {name: marks.get(name) or missing(name, defined - set(asked)) for name in asked})


def read_notebook(path: Path) -> tuple[list[Cell], list[str]]:
    """The code cells of a notebook, and the tags ("2.1") in its exercises' headings.

    Raises:
        ValueError: if the file cannot be read or is no notebook.
    """
    try:
        content = json.loads(path.read_bytes())
        cells = [(cell["cell_type"], "".join(cell["source"]), cell.get("metadata", {})) for cell in content["cells"]]
        setups = ["setup" in metadata.get("tags", []) for _, _, metadata in cells]
    except OSError as error:
        raise ValueError(f"the file cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the file is damaged, or not a notebook") from error
    code, tags = [], []
    for (kind, source, _), setup in zip(cells, setups, strict=True):
        if kind == "code":
            defined = re.findall(r"^def\s+(\w+)", source, flags=re.M)
            code.append(Cell(source, [name for name in dict.fromkeys(defined) if name in EXERCISES], setup))
        elif kind == "markdown":
            tags += re.findall(r"^#+ Exercise (\d+\.\d+)", source, flags=re.M)
    return code, tags


def exercises_of(cells: list[Cell], tags: list[str]) -> list[str]:
    """All exercises of the course's notebook from which most of the headings and functions in this one come.

    The file's name says nothing: learners rename files.
    """
    tags = tags + [EXERCISES[name].tag for cell in cells for name in cell.names]
    known = {exercise.tag for exercise in EXERCISES.values()}
    numbers = Counter(tag.split(".")[0] for tag in tags if tag in known)
    if not numbers:
        return []
    [(number, _)] = numbers.most_common(1)
    return [name for name, exercise in EXERCISES.items() if exercise.tag.split(".")[0] == number]


def missing(name: str, others: set[str]) -> Mark:
    near = difflib.get_close_matches(name, sorted(others), n=1)
    hint = f"; was it renamed to {near[0]}?" if near else ""
    return Mark("not run", f"no cell defines a function {name}{hint}")


def run(cells: list[Cell], seconds: float, gigabytes: float) -> dict[str, Mark]:
    """The marks of all exercises that these cells define."""
    marks: dict[str, Mark] = {}
    for _ in range(STARTS):
        culprit, reason = run_once(cells, marks, seconds, gigabytes)
        if reason is None:
            return marks
        if culprit is None:
            break
        cells[culprit].run = False
        for name in cells[culprit].names:
            keep(marks, name, Mark("not run", reason))
    for cell in cells:
        for name in cell.names:
            marks.setdefault(name, Mark("not run", f"the notebook had to be stopped; the last time: {reason}"))
    return marks


def keep(marks: dict[str, Mark], name: str, mark: Mark) -> None:
    """The last cell that defines a function counts, but a skeleton takes nothing from an answer elsewhere."""
    if name not in marks or mark.kind != "not tried":
        marks[name] = mark


def run_once(
    cells: list[Cell], marks: dict[str, Mark], seconds: float, gigabytes: float
) -> tuple[int | None, str | None]:
    """Run the cells in a process and add to `marks`; the place of the cell that ended it, and why. None: it did not."""
    place, doing = None, "the start"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = start(cells, gigabytes, folder)
        try:
            for line in lines(process, seconds):
                if "begins" in line:
                    place, doing = line["begins"], "its cell"
                elif "marks" in line:
                    doing = f"a call of {line['marks']}"
                elif "stopped" in line:
                    keep(marks, line["name"], Mark("not run", line["stopped"]))
                elif "name" in line:
                    kind = "right" if line["right"] else "wrong" if line["tried"] else "not tried"
                    keep(marks, line["name"], Mark(kind, line["problem"]))
                elif "done" in line:
                    return None, None
            status = process.wait()
        except TimeoutError:
            return place, f"{doing} ran longer than {seconds:g} s"
        finally:
            kill(process)
    if status == OUT_OF_MEMORY:
        return place, f"{doing} took more than {gigabytes:g} GB of memory"
    with suppress(ValueError):  # not a signal
        return place, f"{doing} ended the process ({signal.Signals(-status).name})"
    return place, f"{doing} ended the process (exit status {status})"


def start(cells: list[Cell], gigabytes: float, folder: str) -> subprocess.Popen:
    """A worker in an empty folder of its own, with the job on its stdin."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DDPM_STRICT"},
        "DDPM_BUDGET": "quick",
        "DDPM_DATA": data_folder(),
        "IPYTHONDIR": folder,
        "MPLBACKEND": "agg",
        "CUDA_VISIBLE_DEVICES": "",  # marks are the same everywhere
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")])),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "ddpm_helpers.exercises.worker", f"{gigabytes}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        start_new_session=True,  # so that whatever it starts can be ended with it
    )
    with process.stdin as stdin:
        stdin.write(json.dumps([vars(cell) for cell in cells]).encode())
    return process


def data_folder() -> str:
    """Absolute, for the worker runs elsewhere; empty means none."""
    chosen = os.environ.get("DDPM_DATA") or ("data" if os.path.isdir("data") else "")
    return os.path.abspath(os.path.expanduser(chosen)) if chosen else ""


def lines(process: subprocess.Popen, seconds: float) -> Iterator[dict]:
    """What the worker says, until it ends.

    Raises:
        TimeoutError: if it says nothing for so long.
    """
    said: queue.Queue[bytes] = queue.Queue()

    def listen() -> None:
        with process.stdout as output:
            for line in output:
                said.put(line)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    limit = START_SECONDS
    while True:
        deadline = time.monotonic() + limit
        # The pipe alone does not tell: a process that the learner's code has started may keep it open.
        while said.empty() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if said.empty() and process.poll() is None:
            raise TimeoutError
        if said.empty():
            listener.join(1)  # its last words
        if said.empty():
            return
        yield json.loads(said.get())
        limit = seconds


def kill(process: subprocess.Popen) -> None:
    """End the worker and all that it has started."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def columns(graded: list[Graded]) -> list[str]:
    """The exercises that occur, in the course's order."""
    return [name for name in EXERCISES if any(name in row.marks for row in graded)]


def write_csv(graded: list[Graded], path: Path) -> None:
    """One row a notebook, one column an exercise, as spreadsheets read it (they tell UTF-8 by its mark)."""
    names = columns(graded)
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["learner", "right", "of", *(f"{EXERCISES[name].tag} {name}" for name in names), "problem"])
        for row in graded:
            marks = [row.marks.get(name, "") for name in names]
            right = sum(mark.kind == "right" for mark in row.marks.values())
            writer.writerow([row.learner, right, len(row.marks), *marks, row.problem])


def summary(graded: list[Graded]) -> str:
    """A table of learners and exercises, then what went wrong, the most frequent first."""
    names = columns(graded)
    width = max(len(row.learner) for row in graded)
    text = ["  ".join([" " * width, *(f"{EXERCISES[name].tag:9}" for name in names)]).rstrip()]
    for row in graded:
        cells = [f"{row.marks[name].kind if name in row.marks else '':9}" for name in names]
        text.append("  ".join([f"{row.learner:{width}}", *([row.problem] if row.problem else cells)]).rstrip())
    for name in names:
        marks = [row.marks[name] for row in graded if name in row.marks]
        right = sum(mark.kind == "right" for mark in marks)
        text.append(f"\n{EXERCISES[name].tag} {name}: {right} of {len(marks)} right")
        reasons = Counter(str(mark) for mark in marks if mark.kind != "right")
        text += [f"  {count} x {reason}" for reason, count in reasons.most_common()]
    return "\n".join(text)
