"""The learner's own notebooks: nothing is overwritten, nothing that was written is lost."""

import datetime
import json
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import my_notebooks  # noqa: E402

ANSWER = "def corrupt(x, amount, noise):\n    return x  # mine\n\n\ncorrupt = check(corrupt)"
NAMES = ["01_corrupt_and_predict", "02_forward_process"]


@pytest.fixture
def root(tmp_path):
    """A checkout with two notebooks."""
    folder = tmp_path / "course"
    (folder / "notebooks" / "src").mkdir(parents=True)
    (folder / "figures").mkdir()
    shutil.copy(ROOT / "notebooks" / "AGENTS.md", folder / "notebooks")
    for name in NAMES:
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder / "notebooks")
        shutil.copy(ROOT / "notebooks" / "src" / f"{name}.py", folder / "notebooks" / "src")
    return folder


def put(path: Path, old_start: str, new: str) -> None:
    """What an editor does: the code cell that begins so is written anew."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    [cell] = [c for c in notebook["cells"] if c["cell_type"] == "code" and "".join(c["source"]).startswith(old_start)]
    cell["source"] = new
    path.write_text(json.dumps(notebook), encoding="utf-8")


def change_course(root: Path, name: str = NAMES[0]) -> None:
    path = root / "notebooks" / f"{name}.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("You will", "You shall"), encoding="utf-8")


def test_copies_have_no_outputs_and_stay(root, capsys):
    mine = my_notebooks.prepare(root) / f"{NAMES[0]}.ipynb"
    notebook = nbformat.read(mine, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert (mine.parent / "AGENTS.md").is_file()
    put(mine, "def corrupt", ANSWER)
    before = mine.read_bytes()
    change_course(root)
    capsys.readouterr()
    my_notebooks.prepare(root)
    assert mine.read_bytes() == before
    said = capsys.readouterr().out
    assert "make lab NEW=01" in said
    assert "make lab NEW=02" not in said


def test_new_carries_answers_over_and_keeps_the_old_copy(root, capsys):
    mine = my_notebooks.prepare(root) / f"{NAMES[0]}.ipynb"
    put(mine, "def corrupt", ANSWER)
    before = mine.read_bytes()
    change_course(root)
    for number in range(2):  # twice a day, too
        my_notebooks.prepare(root, renew="01")
        assert "Carried over: your answers to corrupt\n" in capsys.readouterr().out
        assert ANSWER in ["".join(cell["source"]) for cell in my_notebooks.read(mine)["cells"]]
        aside = mine.with_name(my_notebooks.numbered(f"{NAMES[0]}.{datetime.date.today()}", number + 1))
        assert aside.is_file()
    assert mine.with_name(f"{NAMES[0]}.{datetime.date.today()}.ipynb").read_bytes() == before
    assert "You shall" in mine.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("def corrupt(x, amount, noise):\n    return (", "return ("),  # cannot be parsed
        ("!pip list\ndef corrupt(x, amount, noise):\n    return 1", "corrupt = check(corrupt)"),  # check is put back
        ("def corrupt(picture, noise):\n    return 1", None),  # other arguments
    ],
)
def test_odd_answers(root, capsys, answer, kept):
    mine = my_notebooks.prepare(root) / f"{NAMES[0]}.ipynb"
    put(mine, "def corrupt", answer)
    my_notebooks.prepare(root, renew="all")
    text = "\n".join("".join(cell["source"]) for cell in my_notebooks.read(mine)["cells"])
    said = capsys.readouterr().out
    if kept:
        assert answer in text
        assert kept in text
    else:
        assert answer not in text
    assert ("other ones now: corrupt" in said) == (kept is None)


def test_answers_of_an_older_course_are_found_by_name_whatever_its_numbers(root, tmp_path, capsys):
    older = tmp_path / "older" / "notebooks"
    older.mkdir(parents=True)
    shutil.copy(root / "notebooks" / f"{NAMES[0]}.ipynb", older / "17_other_name.ipynb")
    put(older / "17_other_name.ipynb", "def corrupt", ANSWER)
    folder = my_notebooks.prepare(root, older=str(tmp_path / "older"))
    assert ANSWER in ["".join(cell["source"]) for cell in my_notebooks.read(folder / f"{NAMES[0]}.ipynb")["cells"]]
    assert "corrupt" in capsys.readouterr().out


def test_answers_in_the_course_s_own_notebooks_go_along(root):
    """Written there before there were copies; nothing of the course's folder is touched."""
    put(root / "notebooks" / f"{NAMES[0]}.ipynb", "def corrupt", ANSWER)
    before = {path: path.read_bytes() for path in (root / "notebooks").rglob("*.*")}
    folder = my_notebooks.prepare(root)
    assert ANSWER in ["".join(cell["source"]) for cell in my_notebooks.read(folder / f"{NAMES[0]}.ipynb")["cells"]]
    assert {path: path.read_bytes() for path in (root / "notebooks").rglob("*.*")} == before


def test_a_damaged_copy_is_named_and_left_alone(root, capsys):
    mine = my_notebooks.prepare(root) / f"{NAMES[0]}.ipynb"
    mine.write_text("{", encoding="utf-8")
    my_notebooks.prepare(root, renew="02")
    assert "01_corrupt_and_predict.ipynb cannot be read" in capsys.readouterr().out
    assert mine.read_text(encoding="utf-8") == "{"


def test_what_make_lab_refuses(root):
    with pytest.raises(SystemExit, match="no notebook 77"):
        my_notebooks.prepare(root, renew="77")
    with pytest.raises(SystemExit, match="no such folder"):
        my_notebooks.prepare(root, older="/nowhere")


def test_a_read_only_course(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (root / "my_notebooks").write_text("in the way")  # for root, who may write everywhere
    folder = my_notebooks.prepare(root)
    assert folder == tmp_path / "home" / "ddpm-course" / "my_notebooks"
    assert (folder / f"{NAMES[0]}.ipynb").is_file()
    assert (folder.parent / "figures").is_dir()
    assert "cannot be written to" in capsys.readouterr().out
