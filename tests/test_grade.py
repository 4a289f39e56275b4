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

end_like_ctrl_c = grader.end_like_ctrl_c


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
CHILD = """import mmap, time
hoard = mmap.mmap(-1, 16 * 10**8)
for start in range(0, 15 * 10**8, 2**20):
    hoard[start : start + 2**20] = bytes(2**20)
time.sleep(1000)"""
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


def learner(*after: dict, before: tuple = (), **changed: str | tuple[str, str]) -> tuple[str, list[str]]:
    """A notebook with the four exercises of notebook 02, right but for those given here, each with its mark's begin."""
    answers = {name: changed.get(name, answer) for name, answer in RIGHT.items()}
    pairs = {name: (one, "right") if isinstance(one, str) else one for name, one in answers.items()}
    cells = [exercise(name, answer) for name, (answer, _) in pairs.items()]
    return notebook(setup(), *before, *cells, *after), [mark for _, mark in pairs.values()]


def with_right(name: str, before: str, after: str = "") -> str:
    return f"{before}\n{RIGHT[name]}\n{after}"


TOO_MUCH = "not run: its cell took more than 1.3 GB of memory"
DAMAGED = "the file is damaged, or not a notebook"
# Name -> notebook, and how the marks of its exercises begin, or what is said instead of marks.
CLASS = {
    "right/02": learner(),
    "mixed/02": learner(
        exercise("snr", RIGHT["snr"]),  # a second cell, for the first was kept
        exercise("snr", "def snr(schedule):\n    ..."),
        code("forward_step.no_such_thing"),
        forward_step=(
            "def forward_step(x, beta, noise):\n    return x + beta**0.5 * noise",
            "wrong: It looks as if x is not shrunk",
        ),
        q_sample=(
            "def q_sample(schedule, x0, t, noise):\n    return x0.odd",
            "wrong: It stopped with AttributeError: 'Tensor' object has no attribute 'odd' in the line: return x0.odd",
        ),
        snr="def snr(schedule):\n    ratio = ...  # (T+1,)\n    return ratio",
    ),
    # A line now and then, and nonsense on every pipe, buy no time and harm nobody.
    "loops": learner(
        forward_step=(
            with_right("forward_step", NONSENSE, "while True:\n    shout()\n    time.sleep(0.5)"),
            "not run: its cell ran longer than 12 s",
        ),
        q_sample=(
            "def q_sample(schedule, x0, t, noise):\n    while True:\n        pass",
            "not run: a call of q_sample ran longer than 12 s",
        ),
    ),
    "crashes": learner(
        forward_step=(
            "import os\ndef forward_step(x, beta, noise):\n    os._exit(0)",
            "not run: a call of forward_step ended the process (exit status 0)",
        ),
        q_sample=(
            with_right("q_sample", "import ctypes", "ctypes.string_at(0)"),
            "not run: its cell ended the process (",
        ),
        snr=("import sys\ndef snr(schedule):\n    sys.exit(3)", "wrong: It stopped with SystemExit: 3"),
    ),
    # Taken, asked for at once, and mapped in a child.
    "greedy": learner(
        forward_step=("hoard = []\nwhile True:\n    hoard.append(torch.empty(10**8))\ndef forward_step(): 0", TOO_MUCH),
        q_sample=("hoard = bytearray(10**10)\ndef q_sample(): 0", TOO_MUCH),
        snr=(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {CHILD!r}])\ndef snr(): 0", TOO_MUCH),
    ),
    "vandal": learner(
        forward_step=with_right("forward_step", "check = print\nddpm_helpers.check = lambda f: 1 / 0"),
        q_sample=with_right("q_sample", "import os\nprint('line\\n' * 1_000_000)\nos.chdir('/')", "input()"),
        snr=with_right("snr", "del torch, math, forward_step", "raise SystemExit"),
        linear_beta=with_right("linear_beta", "ddpm_helpers.exercises.EXERCISES.clear()", "del torch"),
    ),
    # Magics and shell commands do nothing; what is written, started or forked away harms nobody.
    "writes": learner(
        forward_step=with_right(
            "forward_step",
            "%matplotlib widget\n%config InlineBackend.figure_format = 'svg'\n"
            "from pathlib import Path\nPath('torch.py').write_text('1 / 0')",
        ),
        q_sample=with_right(
            "q_sample",
            "%pip install nothing\n!touch {ddpm_helpers.__file__}.was_here\n"
            "import subprocess\nsubprocess.Popen(['sleep', '1234'])\n"
            "subprocess.Popen('sleep 1235 &', shell=True, start_new_session=True)",
        ),
        snr=with_right("snr", "%%time\nimport os\nif hasattr(os, 'fork'):\n    os.fork()"),
        linear_beta=with_right(
            "linear_beta", f"files = !touch here\nassert not files\n%time x = 3\nassert x\n{NONSENSE}\nshout()"
        ),
    ),
    # Only with all cells are the names there; one of the others ends the process, one stops, one would take for ever.
    "helpers": learner(
        code("import time\ntime.sleep(1000)  # after the last exercise: not run"),
        before=(
            code("import os\nos._exit(5)"),
            code("1 / 0"),
            code("def weights(beta):\n    return (1 - beta) ** 0.5, beta**0.5"),
        ),
        forward_step="def forward_step(x, beta, noise):\n    a, b = weights(beta)\n    return a * x + b * noise",
        q_sample=("def q_sample(schedule, x0, t, noise):\n    ...", "not tried"),
        snr=(
            "def snr(schedule):\n    return nowhere",
            "wrong: It stopped with NameError: name 'nowhere' is not defined",
        ),
    ),
    "renamed": learner(
        before=({"cell_type": "markdown", "source": "# Exercise 2.1 - `forward_step`", "metadata": {}},),
        forward_step=(
            RIGHT["forward_step"].replace("step", "stepp"),
            "not run: no cell defines a function forward_step; was it renamed to forward_stepp?",
        ),
        q_sample=(
            "q_sample = lambda schedule, x0, t, noise: x0",
            "not run: q_sample is a lambda: it has no name to mark it by; write it as `def q_sample(...):`",
        ),
        snr=("def snr(schedule)\n    return 1", "not run: its cell stopped with SyntaxError"),
        linear_beta=("linear_beta = 3\ndef linear_beta(T): 1\nlinear_beta = None", "not run: its cell deletes it"),
    ),
    "=1+1": (notebook(setup(), code("def f(x): return x")), "no exercise of this course is in it"),
    "damaged": (learner()[0][:-20], DAMAGED),
    "empty": ("", DAMAGED),
    "list": ("[1, 2]", DAMAGED),
    "deep": ("[" * 100_000, DAMAGED),
    "strange": (json.dumps({"cells": [{"cell_type": "code", "source": [1], "metadata": None}]}), DAMAGED),
}


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
    write_class(folder / "class", {name: text for name, (text, _) in CLASS.items()})
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


@pytest.mark.parametrize("name", CLASS)
def test_marks(marks, name):
    if name == "greedy" and sys.platform != "linux":
        pytest.skip("only Linux limits the memory of a process")
    row, expected = marks["'=1+1" if name == "=1+1" else name.split("/")[0]], CLASS[name][1]
    if isinstance(expected, str):
        assert (row["problem"], row["right"]) == (expected, "0")
    else:
        assert [mark[: len(says)] for mark, says in zip(of(row), expected, strict=True)] == expected
        assert (row["right"], row["of"]) == (str(expected.count("right")), "4")


def test_feedback_is_a_text_for_each_learner(folder):
    text = (folder / "feedback" / "mixed.txt").read_text(encoding="utf-8")
    assert "2.1 forward_step: wrong: It looks as if x is not shrunk" in text
    assert "2 of 4 right." in text
    assert not (folder / "feedback" / "zoe.txt").exists()
    assert len(list((folder / "feedback").iterdir())) == len(CLASS)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, what left its process group is not found")
def test_nothing_is_left_running(marks):
    listed = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert not [seconds for seconds in (1234, 1235) if f"sleep {seconds}" in listed], "`writes` started them"
    assert not list(ROOT.glob("ddpm_helpers/*.was_here"))


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
    two = grader.read_class([tmp_path / "ann" / "02.ipynb", tmp_path / "Ju\u0308rgen"], [], (60, 4))
    assert [learner.name for learner in two] == ["ann/02", "J\u00fcrgen/02"], "files of the same name are of two"
    books = [grader.Notebook("a", marks={"snr": grader.Mark(kind)}) for kind in ("right", "not tried")]
    assert grader.Learner("ann", books).marks == {"snr": grader.Mark("right")}


def test_the_same_answers_are_noted(tmp_path):
    spaced = RIGHT["linear_beta"].replace("beta[1:] =", "# mine\n    beta[1:]  =")
    course = solution(EXERCISES["ddpm_step"])
    write_class(
        tmp_path,
        {
            "ann": learner()[0],
            "ben": learner(linear_beta=spaced)[0],
            "eva": learner(linear_beta=RIGHT["linear_beta"].replace("T", "steps"))[0],
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
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_end_like_ctrl_c(number):
    """Once: the next one does not disturb the saving. What nohup ignores stays ignored."""
    kept = {one: signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        end_like_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.Signals[number])
        signal.raise_signal(signal.Signals[number])
        end_like_ctrl_c()
        assert signal.getsignal(signal.Signals[number]) == signal.SIG_IGN
    finally:
        for one, handler in kept.items():
            signal.signal(one, handler)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_marks_survive_every_end(tmp_path, number):
    """The table is written after each notebook, and no process outlives the grader."""
    seconds = {"SIGTERM": "1236", "SIGKILL": "1237"}[number]
    loop = f"import subprocess\nsubprocess.run(['sleep', '{seconds}'])\n"
    late, _ = learner(forward_step=with_right("forward_step", loop))
    write_class(tmp_path / "class", {"ann": CLASS["right/02"][0], "ben": late})
    line = command("class", "--csv", "marks.csv")
    with subprocess.Popen(**line, cwd=tmp_path, stderr=subprocess.PIPE) as process:
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
        time.sleep(1)


def sleeping(seconds: str) -> bool:
    listed = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return f"sleep {seconds}\n" in listed


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_names_that_cannot_be_printed(tmp_path):
    for name in (b"M\xfcller", "\u0141ukasz".encode()):
        os.mkdir(os.path.join(os.fsencode(tmp_path), name))
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name, b"02.ipynb"))).write_text("")
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
