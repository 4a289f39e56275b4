"""The instructor's kit: what is in it, that its answers are right, that its wheel installs, and nbgrader."""

import copy
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
from test_notebooks import run_cell

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import lab_kit  # noqa: E402

from ddpm_helpers import load_images  # noqa: E402
from ddpm_helpers.exercises import EXERCISES, solution  # noqa: E402

NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("name", NAMES)


def write_mnist(folder: Path) -> None:
    """Five black images and their labels in MNIST's layout, and a file that is nobody's business."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for half in ("train", "t10k"):
        (raw / f"{half}-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 5, 28, 28) + bytes(5 * 784))
        (raw / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 5) + bytes(5))
    (folder / "marks of last year.csv").touch()


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


def cells(path: Path, tag: str | None = None) -> list:
    return [
        cell
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code" and (tag is None or tag in cell.metadata.get("tags", []))
    ]


def test_contents(kit):
    assert sorted(path.name for path in kit.iterdir()) == [
        *("INSTALL.md", "LAB-PLAN.md", "LICENSE", "answers", "figures"),
        *("grade.py", "grade_worker.py", "nbgrader", "notebooks", "wheels"),
    ]
    for edition in ("notebooks", "answers", "nbgrader/source"):
        assert sorted(path.stem for path in (kit / edition).rglob("*.ipynb")) == NAMES
    assert sorted(path.name for path in (kit / "notebooks" / "data").rglob("*") if path.is_file()) == [
        f"{half}-{part}-ubyte" for half in ("t10k", "train") for part in ("images-idx3", "labels-idx1")
    ]


def test_pictures_are_found_from_every_edition(kit):
    paths = list(kit.rglob("*.ipynb"))
    links = [
        path.parent / link
        for path in paths
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
        for link in re.findall(r"\]\(([\w./]*figures/[^)]+)\)", cell.source)
    ]
    assert len(links) >= len(paths) - 3
    assert [link for link in links if not link.exists()] == []


@each_notebook
def test_learners_get_the_committed_cells_without_outputs(kit, name):
    path = kit / "notebooks" / f"{name}.ipynb"
    committed = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    assert sources == [cell.source.replace(*lab_kit.ADVICE) for cell in committed]
    assert any(lab_kit.ADVICE[1] in source for source in sources)
    assert all(not cell.outputs and cell.execution_count is None for cell in cells(path))


@each_notebook
def test_answers_are_right(kit, name, monkeypatch):
    """Set-up and exercises alone, and `check` raises at anything but a right answer of the notebook's own."""
    monkeypatch.setenv("DDPM_STRICT", "1")
    path, namespace = kit / "answers" / f"{name}.ipynb", {}
    for cell in [*cells(path, "setup"), *cells(path, "exercise")]:
        run_cell(cell.source, namespace)
    own = [exercise for exercise in EXERCISES.values() if exercise.tag.split(".")[0] == str(int(name[:2]))]
    assert bool(own) == (name != NAMES[-1])  # the glossary has none
    assert all(namespace[exercise.name] is not exercise.reference for exercise in own)


@each_notebook
def test_the_other_cells_of_the_answers_are_the_learners(kit, name):
    answers, learners = (
        nbformat.read(kit / edition / f"{name}.ipynb", 4).cells for edition in ("answers", "notebooks")
    )
    for answer, learner in zip(answers, learners, strict=True):
        exercise = "exercise" in learner.metadata.get("tags", [])
        assert (answer.source != learner.source) == exercise


def test_data_lies_where_load_images_looks(kit, monkeypatch):
    monkeypatch.chdir(kit / "notebooks")
    monkeypatch.delenv("DDPM_DATA", raising=False)
    images = load_images("mnist", strict=True)
    assert (len(images.images), images.source) == (5, "MNIST, training images, from your data folder.")


def damaged(folder: Path) -> None:
    write_mnist(folder)
    (folder / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.mkdir(), "no images that load_images reads"),
        (damaged, "truncated"),
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
        notebook = nbformat.read(path, as_version=4)
        lab_kit.refuse_answers(notebook, path)
        for cell, exercise, skeleton in lab_kit.exercise_cells(notebook):
            before = cell.source
            cell.source = before.replace(skeleton, solution(exercise), 1)
            with pytest.raises(SystemExit, match=f"{path.name} holds an answer to exercise {exercise.tag}"):
                lab_kit.refuse_answers(notebook, path)
            cell.source = before


def test_wheel_installs_without_network_and_the_grader_runs_on_it(kit, tmp_path_factory):
    [wheel] = (kit / "wheels").glob("*.whl")
    tmp_path = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, str(wheel)], check=True)
    code = "import ddpm_helpers; ddpm_helpers.load_pretrained('mnist'); print(ddpm_helpers.__file__)"
    line = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    found = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).parent == tmp_path / "ddpm_helpers"

    learner = tmp_path_factory.mktemp("class") / "ada"
    learner.mkdir()
    answers = nbformat.read(kit / "answers" / "00_start_here.ipynb", as_version=4)
    answers.cells = [cell for cell in answers.cells if {"setup", "exercise"} & set(cell.metadata.get("tags", []))]
    nbformat.write(answers, learner / "00_start_here.ipynb")
    line = [sys.executable, "grade.py", str(learner.parent), "--csv", str(tmp_path / "marks.csv")]
    subprocess.run(line, cwd=kit, env=environment, check=True)
    [row] = csv.DictReader((tmp_path / "marks.csv").read_text(encoding="utf-8-sig").splitlines())
    assert row["learner"] == "ada"
    assert row["right"] == row["of"] != "0"

    written = {path.relative_to(ROOT) for path in (ROOT / "ddpm_helpers").rglob("*") if "__pycache__" not in path.parts}
    assert all((tmp_path / path).exists() for path in written)


def test_instructions_name_the_wheel_that_is_there(kit):
    [wheel] = (kit / "wheels").glob("*.whl")
    assert f"./wheels/{wheel.name}[lab]" in (kit / "INSTALL.md").read_text(encoding="utf-8")


def test_plan_has_every_notebook_and_its_sessions_fit(kit):
    text = (kit / "LAB-PLAN.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d\d) ", text, flags=re.M) == [name[:2] for name in NAMES]
    minutes = [int(m) for m in re.findall(r"^### .*: (\d+) minutes$", text, flags=re.M)]
    assert len(minutes) == len(lab_kit.SESSIONS)
    assert 45 < min(minutes) <= max(minutes) <= lab_kit.MINUTES


@pytest.fixture(scope="module")
def nbgrader(kit, tmp_path_factory):
    """A function that runs nbgrader in the kit's course folder, its notebooks cut down to set-up and exercises."""
    pytest.importorskip("nbgrader", reason="nbgrader is not installed: pip install nbgrader")
    folder = Path(shutil.copytree(kit / "nbgrader", tmp_path_factory.mktemp("nbgrader") / "course"))
    for path in folder.rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        keep = [
            cell for cell in notebook.cells if "nbgrader" in cell.metadata or "setup" in cell.metadata.get("tags", [])
        ]
        notebook.cells = keep
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
    released = nbformat.read(folder / "release" / name / f"{name}.ipynb", as_version=4)
    skeletons = [cell for cell in released.cells if "exercise" in cell.metadata.get("tags", [])]
    learners = cells(kit / "notebooks" / f"{name}.ipynb", "exercise")
    squeezed = [[re.sub(r"\n+", "\n", cell.source) for cell in edition] for edition in (skeletons, learners)]
    assert squeezed[0] == squeezed[1], "blank lines apart, the learner's skeletons"

    answers = [cell.source for cell in cells(kit / "answers" / f"{name}.ipynb", "exercise")]
    wrong = [re.sub(r"return .*", "return 3", cell.source.replace("...", "3")) for cell in learners]
    for learner, sources in (("right", answers), ("wrong", wrong), ("untouched", [c.source for c in skeletons])):
        submitted = copy.deepcopy(released)
        filled = [cell for cell in submitted.cells if "exercise" in cell.metadata.get("tags", [])]
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
