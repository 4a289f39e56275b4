"""The grader on a small class: every kind of answer and of vandal, in notebooks made here."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import grade as grader  # noqa: E402

from ddpm_helpers.exercises import EXERCISES, solution  # noqa: E402


@pytest.fixture(autouse=True)
def keep_signals(monkeypatch):
    """What is called here, and not as a command, leaves the handlers of pytest's process alone."""
    monkeypatch.setattr(grader, "end_like_ctrl_c", lambda: None)


NONSENSE = """import os, time
def shout():
    for number in range(3, 30):
        for line in (b"5\\n", b"\\xff\\0 no line end", b'{"begins": 999}\\n{"step": 2, "kind": "right"}\\n'):
            try:
                os.write(number, line)
            except OSError:
                pass"""
FILL = "for start in range(0, 15 * 10**8, 2**20):\n    hoard[start : start + 2**20] = bytes(2**20)"
CHILD = "import time; hoard = b'x' * 7 * 10**8; time.sleep(1000)"
SETUP = "import math\nimport torch\nimport ddpm_helpers\nfrom ddpm_helpers import check, per_image"
RIGHT = {
    "forward_step": "def forward_step(x, beta, noise):\n    return (1 - beta) ** 0.5 * x + beta**0.5 * noise",
    "q_sample": "def q_sample(schedule, x0, t, noise):\n"
    "    return per_image(schedule.sqrt_alpha_bar[t], x0) * x0 + per_image(schedule.sigma[t], x0) * noise",
    "snr": "def snr(schedule):\n    return schedule.alpha_bar / schedule.sigma**2",
    "linear_beta": "def linear_beta(T, beta_1, beta_T):\n    beta = torch.zeros(T + 1, dtype=torch.float64)\n"
    "    beta[1:] = torch.linspace(beta_1 * 1000 / T, beta_T * 1000 / T, T, dtype=torch.float64)\n    return beta",
}
NAMES = list(RIGHT)


def setup(source: str = SETUP) -> dict:
    return {"cell_type": "code", "source": source, "metadata": {"tags": ["setup"]}}


def code(source: str) -> dict:
    return {"cell_type": "code", "source": source.splitlines(keepends=True), "metadata": {}}


def exercise(name: str, answer: str) -> dict:
    return code(f"{answer}\n\n\n{name} = check({name})")


def notebook(*cells: dict) -> str:
    return json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {}})


def answers(**changed: str) -> list[dict]:
    """Cells with the four exercises of notebook 02: right, but for those given here."""
    return [exercise(name, answer) for name, answer in (RIGHT | changed).items()]


CLASS = {
    "right/02": notebook(setup(), *answers()),
    "mixed/02": notebook(
        setup(),
        *answers(
            forward_step="def forward_step(x, beta, noise):\n    return x + beta**0.5 * noise",
            q_sample="def q_sample(schedule, x0, t, noise):\n    return x0.no_such_thing",
            snr="def snr(schedule):\n    ratio = ...  # (T+1,)\n    return ratio",
        ),
        exercise("snr", RIGHT["snr"]),  # a second cell, for the first was kept
        exercise("snr", "def snr(schedule):\n    ..."),
        code("forward_step.no_such_thing"),
    ),
    # A line now and then, and nonsense on every pipe, buy no time and harm nobody.
    "loops": notebook(
        setup(),
        *answers(
            forward_step=RIGHT["forward_step"] + f"\n\n{NONSENSE}\nwhile True:\n    shout()\n    time.sleep(0.5)",
            q_sample="def q_sample(schedule, x0, t, noise):\n    while True:\n        pass",
        ),
    ),
    "crashes": notebook(
        setup(),
        *answers(
            forward_step="import os\ndef forward_step(x, beta, noise):\n    os._exit(0)",
            q_sample="import ctypes\n" + RIGHT["q_sample"] + "\n\nctypes.string_at(0)",
            snr="import sys\ndef snr(schedule):\n    sys.exit(3)",
        ),
    ),
    "greedy": notebook(
        setup(),
        *answers(
            forward_step="hoard = []\nwhile True:\n    hoard.append(torch.empty(10**8))\n" + RIGHT["forward_step"],
            q_sample="hoard = bytearray(10**10)\n" + RIGHT["q_sample"],
            snr=f"import mmap\nhoard = mmap.mmap(-1, 16 * 10**8)\n{FILL}\n{RIGHT['snr']}",
            linear_beta="import subprocess, sys\nchildren = [subprocess.Popen([sys.executable, '-c', "
            f'"{CHILD}"]) for _ in range(2)]\nchildren[0].wait()\n{RIGHT["linear_beta"]}',
        ),
    ),
    "vandal": notebook(
        setup(),
        exercise("forward_step", RIGHT["forward_step"] + "\ncheck = print\nddpm_helpers.check = lambda f: 1 / 0"),
        exercise(
            "q_sample", "import os\nprint('line\\n' * 1_000_000)\nos.chdir('/')\n" + RIGHT["q_sample"] + "\ninput()"
        ),
        exercise("snr", "del torch, math, forward_step\n" + RIGHT["snr"] + "\nraise SystemExit"),
        exercise("linear_beta", "ddpm_helpers.exercises.EXERCISES.clear()\n" + RIGHT["linear_beta"] + "\ndel torch"),
    ),
    "writes": notebook(
        setup(),
        *answers(
            forward_step="from pathlib import Path\nPath('torch.py').write_text('1 / 0')\n" + RIGHT["forward_step"],
            q_sample="import subprocess\nsubprocess.Popen(['sleep', '1234'])\n"
            "subprocess.Popen('sleep 1235 &', shell=True, start_new_session=True)\n" + RIGHT["q_sample"],
            snr="import os\nif hasattr(os, 'fork'):\n    os.fork()\n" + RIGHT["snr"],
            linear_beta=NONSENSE + "\nshout()\n" + RIGHT["linear_beta"],
        ),
    ),
    "magics": notebook(
        setup(),
        *answers(
            forward_step="%matplotlib widget\n%config InlineBackend.figure_format = 'svg'\n" + RIGHT["forward_step"],
            q_sample="%pip install nothing\n!touch {ddpm_helpers.__file__}.was_here\n" + RIGHT["q_sample"],
            snr="%%time\n" + RIGHT["snr"],
            linear_beta="files = !touch here\nassert not files\n%time x = 3\nassert x\n" + RIGHT["linear_beta"],
        ),
    ),
    # Only with all cells are the names there; one of the others never ends, one stops, one prints.
    "helpers": notebook(
        setup(),
        code("while True: pass"),
        code("1 / 0"),
        code("def weights(beta):\n    return (1 - beta) ** 0.5, beta**0.5"),
        *answers(
            forward_step="def forward_step(x, beta, noise):\n    a, b = weights(beta)\n    return a * x + b * noise",
            snr="def snr(schedule):\n    return nowhere",
        ),
        code("import time\ntime.sleep(1000)  # after the last exercise: not run"),
    ),
    "renamed": notebook(
        setup(),
        {"cell_type": "markdown", "source": "# Exercise 2.1 - `forward_step`", "metadata": {}},
        code("q_sample = lambda schedule, x0, t, noise: x0"),
        exercise("forward_stepp", RIGHT["forward_step"].replace("step", "stepp")),
        exercise("snr", "def snr(schedule)\n    return 1"),
        exercise("linear_beta", "linear_beta = 3\ndef linear_beta(T): 1\nlinear_beta = None"),
    ),
    "other_course": notebook(setup(), code("def f(x): return x")),
    "damaged": notebook(setup(), *answers())[:-20],
    "empty": "",
    "list": "[1, 2]",
    "deep": "[" * 100_000,
    "strange": json.dumps({"cells": [{"cell_type": "code", "source": [1], "metadata": None}]}),
}


CLASS |= {"=1+1": notebook(setup(), *answers())}


def write_class(folder: Path, notebooks: dict[str, str]) -> None:
    for name, text in notebooks.items():
        path = folder / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def command(*arguments: str) -> dict:
    """What subprocess needs to run the grader as an instructor types it."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {
        "args": [sys.executable, str(ROOT / "tools" / "grade.py"), *arguments],
        "env": os.environ | {"DDPM_STRICT": "1", "PYTHONPATH": paths},
    }


def read_csv(path: Path) -> dict[str, dict[str, str]]:
    """Learner -> row."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return {row["learner"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the whole class has been marked: marks.csv, and feedback."""
    folder = tmp_path_factory.mktemp("grading")
    write_class(folder / "class", CLASS)
    (folder / "class" / "essay.docx").touch()
    (folder / "names.txt").write_text("right\nmixed\nzoe\n")
    options = ("--roster", "names.txt", "--feedback", "feedback", "--seconds", "12", "--memory", "1.3", "-j", "2")
    line = command("class", "--csv", "marks.csv", *options)
    result = subprocess.run(**line, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert "Passed over, no notebooks: essay.docx\n" in result.stderr
    assert "Not on the roster: =1+1, crashes" in result.stderr
    assert "2.1 forward_step: " in result.stdout
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["class", "feedback", "marks.csv", "names.txt"], "a learner's cell wrote here"
    return folder


@pytest.fixture(scope="module")
def marks(folder) -> dict[str, dict[str, str]]:
    return read_csv(folder / "marks.csv")


def of(row: dict[str, str]) -> list[str]:
    return [row[f"2.{number} {name}"] for number, name in enumerate(NAMES, start=1)]


def test_every_learner_has_a_row(marks):
    assert sorted(marks) == sorted(["'=1+1" if name == "=1+1" else name.split("/")[0] for name in CLASS] + ["zoe"])
    assert all(len(row) == 11 for row in marks.values()), "no exercise of another notebook has a column"
    assert (marks["zoe"]["of"], marks["zoe"]["problem"]) == ("0", "handed in nothing")


def test_right_answers(marks):
    assert of(marks["right"]) == ["right"] * 4
    assert (marks["right"]["right"], marks["right"]["of"], marks["right"]["files"]) == ("4", "4", "02.ipynb")


def test_mistakes_are_named(marks):
    first, second, third, fourth = of(marks["mixed"])
    assert first.startswith("wrong: It looks as if x is not shrunk")
    assert second.startswith("wrong: It stopped with AttributeError")
    assert "in the line: return x0.no_such_thing" in second
    assert (third, fourth) == ("right", "right")


def test_feedback_is_a_text_for_each_learner(folder):
    text = (folder / "feedback" / "mixed.txt").read_text(encoding="utf-8")
    assert "2.1 forward_step: wrong: It looks as if x is not shrunk" in text
    assert "2 of 4 right." in text
    assert not (folder / "feedback" / "zoe.txt").exists()
    assert len(list((folder / "feedback").iterdir())) == len(CLASS)


def test_endless_loops(marks):
    assert of(marks["loops"]) == [
        "not run: its cell ran longer than 12 s",
        "not run: a call of q_sample ran longer than 12 s",
        "right",
        "right",
    ]


def test_crashes(marks):
    first, second, third, fourth = of(marks["crashes"])
    assert first == "not run: a call of forward_step ended the process (exit status 0)"
    assert second.startswith("not run: its cell ended the process (")
    assert third.startswith("wrong: It stopped with SystemExit: 3")
    assert fourth == "right"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_memory_mapped_or_in_children_counts(marks):
    assert of(marks["greedy"]) == ["not run: its cell took more than 1.3 GB of memory"] * 4


@pytest.mark.parametrize("learner", ["vandal", "writes", "magics"])
def test_vandals_and_magics_harm_nobody(marks, learner):
    assert of(marks[learner]) == ["right"] * 4
    assert not list(ROOT.glob("ddpm_helpers/*.was_here"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, what left its process group is not found")
def test_nothing_is_left_running(marks):
    listed = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert not [seconds for seconds in (1234, 1235) if f"sleep {seconds}" in listed], "`writes` started them"


def test_names_of_other_cells_are_found(marks):
    first, second, third, fourth = of(marks["helpers"])
    assert (first, second, fourth) == ("right", "right", "right")
    assert third.startswith("wrong: It stopped with NameError: name 'nowhere' is not defined")


def test_what_is_missing_is_said(marks):
    first, second, third, fourth = of(marks["renamed"])
    assert first == "not run: no cell defines a function forward_step; was it renamed to forward_stepp?"
    assert second == "not run: q_sample is a lambda: it has no name to mark it by; write it as `def q_sample(...):`"
    assert third.startswith("not run: its cell stopped with SyntaxError")
    assert fourth == "not run: its cell deletes it"


def test_files_that_are_no_notebooks(marks):
    names = ("other_course", "damaged", "empty", "list", "deep", "strange")
    problems = {name: marks[name]["problem"] for name in names}
    assert problems.pop("other_course") == "no exercise of this course is in it"
    assert set(problems.values()) == {"the file is damaged, or not a notebook"}
    assert all(marks[name]["right"] == "0" for name in problems)


def test_what_is_unchanged_is_not_run_again(folder, monkeypatch, capsys):
    """Ran, an endless loop would take longer than the test may."""
    monkeypatch.chdir(folder)
    before = (folder / "marks.csv").read_bytes()
    monkeypatch.setattr(grader, "start", lambda *_: pytest.fail("something ran"))
    options = ["--roster", "names.txt", "--seconds", "12", "--memory", "1.3"]
    assert grader.main(["class", "--csv", "marks.csv", *options]) == 0
    assert (folder / "marks.csv").read_bytes() == before
    (folder / "marks.csv").write_text("name,points\nada,3\n")
    with pytest.raises(SystemExit):
        grader.main(["class", "--csv", "marks.csv"])
    assert "was not written by this grader" in capsys.readouterr().err
    (folder / "marks.csv").write_bytes(before)


def read(folder: Path, roster: tuple[str, ...] = ()) -> list[grader.Learner]:
    return grader.read_class([folder], list(roster), (60, 4))


def test_not_tried(tmp_path):
    skeletons = {name: answer.split("\n")[0] + "\n    ..." for name, answer in RIGHT.items()}
    write_class(tmp_path, {"a": notebook(setup(), *answers(**skeletons))})
    assert [mark.kind for mark in grader.grade(read(tmp_path)[0].notebooks[0]).values()] == ["not tried"] * 4


def test_the_notebook_is_told_by_its_content(tmp_path):
    """All exercises deleted but for one: the headings still say which notebook it is, whatever the file is called."""
    headings = [{"cell_type": "markdown", "source": f"### Exercise 8.{n} - `f`"} for n in (1, 2)]
    write_class(tmp_path, {"00_start_here": notebook(setup(), *headings, exercise("snr", RIGHT["snr"]))})
    own = [name for name, exercise in EXERCISES.items() if exercise.tag.startswith("8.")]
    assert read(tmp_path)[0].notebooks[0].asked == own


def test_one_row_a_learner(tmp_path):
    """Whatever the system, the LMS and the learner have made of the name; a skeleton beside an answer costs nothing."""
    names = ("ann/02", "ann/x/07", "ann/.ipynb_checkpoints/y", "Ju\u0308rgen/02", "ben_02", "Ben-07 (1)", "benno")
    write_class(tmp_path, dict.fromkeys(names, ""))
    (tmp_path / "zed 02.IPYNB").touch()
    learners = {one.name: [book.file for book in one.notebooks] for one in read(tmp_path, ("ben", "eva"))}
    assert learners == {
        "J\u00fcrgen": ["02.ipynb"],
        "ann": ["02.ipynb", "x/07.ipynb"],
        "ben": ["Ben-07 (1).ipynb", "ben_02.ipynb"],
        "benno": ["benno.ipynb"],
        "zed 02": ["zed 02.IPYNB"],
        "eva": [],
    }
    books = [grader.Notebook("a", marks={"snr": grader.Mark(kind)}) for kind in ("right", "not tried")]
    assert grader.Learner("ann", books).marks == {"snr": grader.Mark("right")}


def test_files_of_the_same_name_are_different_learners(tmp_path):
    write_class(tmp_path, {"ann/02": "", "ben/02": ""})
    learners = grader.read_class([tmp_path / "ann" / "02.ipynb", tmp_path / "ben"], [], (60, 4))
    assert [learner.name for learner in learners] == ["ann/02", "ben/02"]


def test_the_same_answers_are_noted(tmp_path):
    spaced = RIGHT["linear_beta"].replace("beta[1:] =", "# mine\n    beta[1:]  =")
    course = solution(EXERCISES["ddpm_step"])
    write_class(
        tmp_path,
        {
            "ann": notebook(*answers()),
            "ben": notebook(*answers(linear_beta=spaced)),
            "eva": notebook(*answers(linear_beta=RIGHT["linear_beta"].replace("T", "steps"))),
            "zoe": notebook(exercise("ddpm_step", course)),
        },
    )
    learners = read(tmp_path)
    for one in learners:
        one.notebooks[0].marks = dict.fromkeys(one.notebooks[0].asked, grader.Mark("right"))
    grader.note_same_answers(learners)
    assert {one.name: one.same for one in learners} == {
        "ann": "2.4 ben",
        "ben": "2.4 ann",
        "eva": "",
        "zoe": f"{EXERCISES['ddpm_step'].tag} the course's own",
    }


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_marks_survive_every_end(tmp_path, number):
    """The table is written after each notebook, and no process outlives the grader."""
    seconds = f"123{list(signal.Signals).index(signal.Signals[number])}"
    loop = f"import subprocess\nsubprocess.run(['sleep', '{seconds}'])\n"
    late = notebook(setup(), *answers(forward_step=loop + RIGHT["forward_step"]))
    write_class(tmp_path / "class", {"ann": CLASS["right/02"], "ben": late})
    heard = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)  # noqa: E731 - the tests may run under nohup
    line = command("class", "--csv", "marks.csv")
    with subprocess.Popen(**line, cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=heard) as process:
        until(lambda: sleeping(seconds))
        process.send_signal(signal.Signals[number])
        errors = process.stderr.read().decode()
    assert "Traceback" not in errors
    assert process.returncode == (-9 if number == "SIGKILL" else 130)
    marks = read_csv(tmp_path / "marks.csv")
    assert (of(marks["ann"]), marks["ben"]["problem"]) == (["right"] * 4, "not marked yet")
    if sys.platform == "linux" or number != "SIGKILL":
        until(lambda: not sleeping(seconds))


def until(true) -> None:
    deadline = time.monotonic() + 200
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def sleeping(seconds: str) -> bool:
    listed = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return f"sleep {seconds}\n" in listed


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_names_that_cannot_be_printed(tmp_path):
    for name in (b"M\xfcller", "\u0141ukasz".encode()):
        os.mkdir(os.path.join(os.fsencode(tmp_path), name))
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name, b"02.ipynb"))).write_text(CLASS["damaged"])
    line = command(".", "--csv", "marks.csv", "--feedback", "texts")
    line["env"]["PYTHONIOENCODING"] = "cp1252"
    result = subprocess.run(**line, cwd=tmp_path, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert b"?ukasz" in result.stdout
    assert b"\\udcfcller" in result.stdout
    assert {"\u0141ukasz", "M\\udcfcller"} <= set(read_csv(tmp_path / "marks.csv"))


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_nobody_reads_the_table(tmp_path):
    write_class(tmp_path, dict.fromkeys(["ann", "ben", "eva"], ""))
    line = command(".", "--csv", "marks.csv")
    with subprocess.Popen(**line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        process.stdout.close()
    assert process.returncode == 0
    assert list(read_csv(tmp_path / "marks.csv")) == ["ann", "ben", "eva"]


@pytest.mark.parametrize("arguments", [[], ["no_such.ipynb"], ["."], ["a.ipynb", "--csv", "no_such/marks.csv"]])
def test_usage(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if len(arguments) > 1:
        (tmp_path / "a.ipynb").touch()
    with pytest.raises(SystemExit) as ended:
        grader.main(arguments)
    assert ended.value.code == 2
    assert "usage: " in capsys.readouterr().err
