"""The instructor's kit: what is in it, that its answers are right, that its wheel installs, and nbgrader."""

import csv
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from test_notebooks import code_cells, read, run_cell, tags

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import lab_kit  # noqa: E402

from ddpm_helpers import load_images  # noqa: E402
from ddpm_helpers.exercises import EXERCISES, solution  # noqa: E402

NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
FILES = [f"{half}-{part}-ubyte" for half in ("t10k", "train") for part in ("images-idx3", "labels-idx1")]


def write_mnist(folder: Path) -> Path:
    """Five black images and their labels in MNIST's layout, and a file that is nobody's business."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        shape = (5, 28, 28) if "images" in name else (5,)
        head = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
        (raw / name).write_bytes(head + bytes(5 * 784 if "images" in name else 5))
    (folder / "marks of last year.csv").touch()
    return raw


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    """The kit, unpacked."""
    folder = tmp_path_factory.mktemp("kit")
    write_mnist(folder / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab_kit, "KIT", folder / "build" / "lab-kit.zip")
        assert lab_kit.main([str(folder / "images")]) == 0
        assert [path.name for path in lab_kit.KIT.parent.iterdir()] == ["lab-kit.zip"]
        zipfile.ZipFile(lab_kit.KIT).extractall(folder)
    return folder / "lab-kit"


def exercises(path: Path) -> list:
    return [cell for cell in code_cells(path) if "exercise" in tags(cell)]


def test_contents(kit, monkeypatch):
    assert sorted(path.name for path in kit.iterdir()) == [
        *("INSTALL.md", "LAB-PLAN.md", "LICENSE", "answers", "figures"),
        *("grade.py", "grade_worker.py", "nbgrader", "notebooks", "wheels"),
    ]
    [wheel] = (kit / "wheels").iterdir()
    assert f"./wheels/{wheel.name}[lab]" in (kit / "INSTALL.md").read_text(encoding="utf-8")
    for edition in ("notebooks", "answers", "nbgrader/source"):
        assert sorted(path.stem for path in (kit / edition).rglob("*.ipynb")) == NAMES
    assert sorted(path.name for path in (kit / "notebooks" / "data").rglob("*") if path.is_file()) == FILES
    monkeypatch.chdir(kit / "notebooks")
    monkeypatch.delenv("DDPM_DATA", raising=False)
    images = load_images("mnist", strict=True)
    assert (len(images.images), images.source) == (5, "MNIST, training images, from your data folder.")


def test_pictures_are_found_from_every_edition(kit):
    paths = list(kit.rglob("*.ipynb"))
    links = [
        path.parent / link
        for path in paths
        for cell in read(path).cells
        if cell.cell_type == "markdown"
        for link in re.findall(r"\]\(([\w./]*figures/[^)]+)\)", cell.source)
    ]
    assert len(links) >= len(paths) - 3
    assert [link for link in links if not link.exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_learners_get_the_committed_cells_without_outputs_and_instructors_right_answers(kit, name, monkeypatch):
    """Of the answers set-up and exercises are run alone; `check` raises at anything but a right one of their own."""
    committed, learners, answers = (
        read(folder / f"{name}.ipynb").cells for folder in (ROOT / "notebooks", kit / "notebooks", kit / "answers")
    )
    assert [cell.source for cell in learners] == [cell.source.replace(*lab_kit.ADVICE) for cell in committed]
    assert any(lab_kit.ADVICE[1] in cell.source for cell in learners)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in learners)
    for answer, learner in zip(answers, learners, strict=True):
        assert (answer.source != learner.source) == ("exercise" in tags(learner))

    monkeypatch.setenv("DDPM_STRICT", "1")
    namespace = {}
    for tag in ("setup", "exercise"):
        for cell in answers:
            if tag in tags(cell):
                run_cell(cell.source, namespace)
    own = [exercise for exercise in EXERCISES.values() if exercise.tag.split(".")[0] == str(int(name[:2]))]
    assert bool(own) == (name != NAMES[-1])  # the glossary has none
    assert all(namespace[exercise.name] is not exercise.reference for exercise in own)


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.mkdir(), "no images that load_images reads"),
        (lambda folder: (write_mnist(folder) / FILES[0]).write_bytes(b"\0\0\x08\x03"), "truncated"),
    ],
)
def test_bad_data_folder_is_refused_before_anything_is_written(fill, says, tmp_path, monkeypatch, capsys):
    fill(tmp_path / "images")
    monkeypatch.setattr(lab_kit, "KIT", tmp_path / "build" / "lab-kit.zip")
    assert lab_kit.main([str(tmp_path / "images")]) == 2
    assert says in capsys.readouterr().err
    assert not lab_kit.KIT.parent.exists()


def test_a_solved_exercise_is_refused_and_every_skeleton_is_not():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = read(path)
        lab_kit.refuse_answers(notebook, path)
        for cell, exercise, skeleton in lab_kit.exercise_cells(notebook):
            before = cell.source
            cell.source = before.replace(skeleton, solution(exercise), 1)
            with pytest.raises(SystemExit, match=f"{path.name} holds an answer to exercise {exercise.tag}"):
                lab_kit.refuse_answers(notebook, path)
            cell.source = before


def test_wheel_installs_without_network_and_the_grader_runs_on_it(kit, tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, *map(str, (kit / "wheels").iterdir())], check=True)
    code = "import ddpm_helpers; ddpm_helpers.load_pretrained('mnist'); print(ddpm_helpers.__file__)"
    options = {"env": os.environ | {"PYTHONPATH": str(tmp_path)}, "capture_output": True, "text": True, "check": True}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, **options).stdout
    assert Path(found.strip()).parent == tmp_path / "ddpm_helpers"
    written = {path.relative_to(ROOT) for path in (ROOT / "ddpm_helpers").rglob("*") if "__pycache__" not in path.parts}
    assert all((tmp_path / path).exists() for path in written)

    (tmp_path / "class" / "ada").mkdir(parents=True)
    answers = read(kit / "answers" / "00_start_here.ipynb")
    answers.cells = [cell for cell in answers.cells if {"setup", "exercise"} & set(tags(cell))]
    nbformat.write(answers, tmp_path / "class" / "ada" / "00_start_here.ipynb")
    line = [sys.executable, "grade.py", str(tmp_path / "class"), "--csv", str(tmp_path / "marks.csv")]
    subprocess.run(line, cwd=kit, **options)
    [row] = csv.DictReader((tmp_path / "marks.csv").read_text(encoding="utf-8-sig").splitlines())
    assert row["learner"] == "ada"
    assert row["right"] == row["of"] != "0"


def test_plan_has_every_notebook_and_its_sessions_fit(kit):
    text = (kit / "LAB-PLAN.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d\d) ", text, flags=re.M) == [name[:2] for name in NAMES]
    minutes = [int(m) for m in re.findall(r"^### .*: (\d+) minutes$", text, flags=re.M)]
    assert len(minutes) == len(lab_kit.SESSIONS)
    assert 40 <= min(minutes) <= max(minutes) <= lab_kit.MINUTES


@pytest.fixture(scope="module")
def nbgrader(kit, tmp_path_factory):
    """A function that runs nbgrader in the kit's course folder, its notebooks cut down to set-up and exercises."""
    pytest.importorskip("nbgrader", reason="nbgrader is not installed: pip install nbgrader")
    folder = Path(shutil.copytree(kit / "nbgrader", tmp_path_factory.mktemp("nbgrader") / "course"))
    for path in folder.rglob("*.ipynb"):
        notebook = read(path)
        notebook.cells = [cell for cell in notebook.cells if "nbgrader" in cell.metadata or "setup" in tags(cell)]
        nbformat.write(notebook, path)

    def run(*arguments: str) -> Path:
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it calls alembic by name
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": programs}
        line = [sys.executable, "-m", "nbgrader", *arguments]
        result = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return folder

    return run


@pytest.mark.parametrize("name", ["00_start_here", "02_forward_process"])
def test_nbgrader_marks_answers(nbgrader, kit, name):
    folder = nbgrader("generate_assignment", name, "--create")
    released = folder / "release" / name / f"{name}.ipynb"
    skeletons = [cell.source for cell in exercises(released)]
    learners = [cell.source for cell in exercises(kit / "notebooks" / f"{name}.ipynb")]
    squeezed = [[re.sub(r"\n+", "\n", source) for source in edition] for edition in (skeletons, learners)]
    assert squeezed[0] == squeezed[1], "blank lines apart, the learner's skeletons"

    answers = [cell.source for cell in exercises(kit / "answers" / f"{name}.ipynb")]
    wrong = [re.sub(r"return .*", "return 3", source.replace("...", "3")) for source in learners]
    for learner, sources in {"right": answers, "wrong": wrong, "untouched": skeletons}.items():
        submitted = read(released)
        filled = [cell for cell in submitted.cells if "exercise" in tags(cell)]
        for cell, source in zip(filled, sources, strict=True):
            cell.source = source
        path = folder / "submitted" / learner / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(submitted, path)
    nbgrader("autograde", name)
    nbgrader("export", "--to", f"{name}.csv")
    with open(folder / f"{name}.csv", newline="") as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file) if row["assignment"] == name}
    assert scores == {"right": len(answers), "wrong": 0, "untouched": 0}
