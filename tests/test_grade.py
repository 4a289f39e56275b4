"""The grader on a small class: every kind of answer and of vandal, in notebooks made here."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_helpers.exercises import __main__
from ddpm_helpers.exercises.grading import Graded, Mark, exercises_of, grade, notebooks_in, others_in, read_notebook

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
    "loops": notebook(
        setup(),
        *answers(
            forward_step=RIGHT["forward_step"] + "\n\nwhile True:\n    print('line')",
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
            q_sample="import subprocess\nsubprocess.Popen(['sleep', '1234'])\n" + RIGHT["q_sample"],
            snr="import os\nif hasattr(os, 'fork'):\n    os.fork()\n" + RIGHT["snr"],
            linear_beta="%reset -f\n!exit 1\n" + RIGHT["linear_beta"],
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


@pytest.fixture(scope="module")
def marks(tmp_path_factory) -> dict[str, dict[str, str]]:
    """The grader's CSV, learner -> row, of the command as an instructor types it."""
    folder = tmp_path_factory.mktemp("grading")
    for name, text in CLASS.items():
        path = folder / "class" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "class" / "essay.docx").touch()
    command = [sys.executable, "-m", "ddpm_helpers.exercises", "grade", "class", "--csv", "marks.csv"]
    environment = os.environ | {"DDPM_STRICT": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    result = subprocess.run(
        [*command, "--seconds", "8", "--memory", "3"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert "Passed over, no notebooks: essay.docx\n" in result.stderr
    assert "2.1 forward_step: " in result.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["class", "marks.csv"], "a learner's cell wrote here"
    with open(folder / "marks.csv", encoding="utf-8-sig", newline="") as file:
        return {row["learner"]: row for row in csv.DictReader(file)}


def of(row: dict[str, str]) -> list[str]:
    return [row[f"2.{number} {name}"] for number, name in enumerate(NAMES, start=1)]


def test_every_file_has_a_row(marks):
    assert sorted(marks) == sorted(CLASS)
    assert all(len(row) == 8 for row in marks.values()), "no exercise of another notebook has a column"


def test_right_answers(marks):
    assert of(marks["right/02"]) == ["right"] * 4
    assert (marks["right/02"]["right"], marks["right/02"]["of"]) == ("4", "4")


def test_mistakes_are_named(marks):
    first, second, third, fourth = of(marks["mixed/02"])
    assert first.startswith("wrong: It looks as if x is not shrunk")
    assert second.startswith("wrong: It stopped with AttributeError")
    assert "in the line: return x0.no_such_thing" in second
    assert (third, fourth) == ("right", "right")


def test_not_tried(marks, tmp_path):
    skeletons = {name: answer.split("\n")[0] + "\n    ..." for name, answer in RIGHT.items()}
    path = tmp_path / "a.ipynb"
    path.write_text(notebook(setup(), *answers(**skeletons)))
    assert [mark.kind for mark in grade(path, "a").marks.values()] == ["not tried"] * 4


def test_endless_loops(marks):
    assert of(marks["loops"]) == [
        "not run: its cell ran longer than 8 s",
        "not run: a call of q_sample ran longer than 8 s",
        "right",
        "right",
    ]


def test_crashes(marks):
    first, second, third, fourth = of(marks["crashes"])
    assert first == "not run: a call of forward_step ended the process (exit status 0)"
    assert second.startswith("not run: its cell ended the process (")
    assert third == "wrong: It stopped with SystemExit: 3"
    assert fourth == "right"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_memory(marks):
    reason = "not run: its cell took more than 3 GB of memory"
    assert of(marks["greedy"]) == [reason, reason, "right", "right"]


@pytest.mark.parametrize("learner", ["vandal", "writes"])
def test_vandals_harm_nobody(marks, learner):
    assert of(marks[learner]) == ["right"] * 4


@pytest.mark.skipif(os.name != "posix", reason="there is no ps here")
def test_nothing_is_left_running(marks):
    listed = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 1234" not in listed, "the learner `writes` started it"


def test_names_of_other_cells_are_found(marks):
    first, second, third, fourth = of(marks["helpers"])
    assert (first, second, fourth) == ("right", "right", "right")
    assert third.startswith("wrong: It stopped with NameError: name 'nowhere' is not defined")


def test_what_is_missing_is_said(marks):
    first, second, third, fourth = of(marks["renamed"])
    assert first == "not run: no cell defines a function forward_step; was it renamed to forward_stepp?"
    assert second == "not run: no cell defines a function q_sample"
    assert third.startswith("not run: its cell stopped with SyntaxError")
    assert fourth == "not run: its cell deletes it"


def test_files_that_are_no_notebooks(marks):
    problems = {
        name: marks[name]["problem"] for name in ("other_course", "damaged", "empty", "list", "deep", "strange")
    }
    assert problems.pop("other_course") == "no exercise of this course is in it"
    assert set(problems.values()) == {"the file is damaged, or not a notebook"}
    assert all(marks[name]["right"] == "0" for name in problems)


def test_the_notebook_is_told_by_its_content(tmp_path):
    """All exercises deleted but for one: the headings still say which notebook it is, whatever the file is called."""
    headings = [{"cell_type": "markdown", "source": f"### Exercise 7.{n} - `f`"} for n in (1, 2)]
    path = tmp_path / "00_start_here.ipynb"
    path.write_text(notebook(setup(), *headings, exercise("snr", RIGHT["snr"])))
    assert exercises_of(*read_notebook(path)) == ["ddpm_step", "ddim_step", "ddim_steps", "slerp"]


def test_learners_are_called_as_their_files(tmp_path):
    for name in ("ann/02.ipynb", "ben/02.ipynb", "ben/x.ipynb", "ben/.ipynb_checkpoints/y.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(notebooks_in([tmp_path, tmp_path / "ann"])) == ["ann/02", "ben/02", "ben/x"]


def test_names_of_other_systems(tmp_path):
    (tmp_path / "Ju\u0308rgen 02.IPYNB").touch()
    (tmp_path / "essays").mkdir()
    (tmp_path / "essays" / "mine.docx").touch()
    assert list(notebooks_in([tmp_path])) == ["J\u00fcrgen 02"]
    assert others_in([tmp_path]) == ["essays/mine.docx"]


def test_ctrl_c_keeps_the_marks_so_far(tmp_path, monkeypatch, capsys):
    for name in ("ann", "ben"):
        (tmp_path / f"{name}.ipynb").touch()

    def stopped_at_ben(file, learner, *limits):
        if learner == "ben":
            raise KeyboardInterrupt
        return Graded(learner, {"snr": Mark("right")})

    monkeypatch.setattr(__main__, "grade", stopped_at_ben)
    monkeypatch.setattr("sys.argv", ["exercises", "grade", str(tmp_path), "--csv", str(tmp_path / "marks.csv")])
    assert __main__.main() == 130
    shown = capsys.readouterr()
    assert "Stopped: 1 of 2 notebooks are marked." in shown.err
    assert "ann  right" in shown.out
    assert "ann,1,1,right" in (tmp_path / "marks.csv").read_text(encoding="utf-8-sig")


@pytest.mark.parametrize("arguments", [[], ["grade"], ["grade", "no_such.ipynb"], ["grade", "."]])
def test_usage(arguments, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    line = [sys.executable, "-m", "ddpm_helpers.exercises", *arguments]
    result = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == (2 if arguments else 0)
    assert "usage: python -m ddpm_helpers.exercises" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
