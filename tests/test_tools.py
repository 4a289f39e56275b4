"""The commands behind make: set-up happens once, progress bars shrink to their last line, formulas survive."""

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_output

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import long_runs  # noqa: E402

import build  # noqa: E402
import course  # noqa: E402
import tables  # noqa: E402


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A checkout in an empty folder; the commands that would run are noted, not run."""
    noted: list[list[str]] = []

    def run(command, **_):
        noted.append(command)
        (tmp_path / ".venv").mkdir(exist_ok=True)
        return 0

    monkeypatch.setattr(course, "ROOT", tmp_path)
    monkeypatch.setattr(course, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(course, "run", run)
    monkeypatch.setattr(course, "starts", lambda python: python.exists() or not python.is_symlink())
    monkeypatch.setattr(course, "colab_python", lambda folder, python: python)
    monkeypatch.setattr(course, "without_cuda", lambda: False)  # tests/test_install.py has these two
    which = shutil.which
    monkeypatch.setattr(course.shutil, "which", lambda name, **_: None if name == "uv" else which(name))
    (tmp_path / "pyproject.toml").write_text("one")
    return noted


def test_set_up_runs_once_and_again_where_requirements_change_or_python_is_gone(commands, tmp_path):
    settings = '[project]\ndependencies = [{}]\n[tool.ddpm-course]\nrepo = "{}"\n'
    (tmp_path / "pyproject.toml").write_text(settings.format("", ""))
    python = course.set_up()
    assert len(commands) == 2  # make the environment, install into it
    (tmp_path / "pyproject.toml").write_text(settings.format("", "a/b"))
    assert course.set_up() == python
    assert len(commands) == 2, "badges change nothing that is installed"
    (tmp_path / "pyproject.toml").write_text(settings.format('"einops"', "a/b"))
    course.set_up()
    assert len(commands) == 4
    course.VENV.joinpath("bin").mkdir()
    course.VENV.joinpath("bin", "python").symlink_to(tmp_path / "upgraded-away")
    course.set_up()
    assert len(commands) == 6


def test_two_set_ups_at_once_are_refused(commands, tmp_path):
    lock = tmp_path / ".venv-setup"
    lock.touch()
    with pytest.raises(SystemExit, match="wait for it"):
        course.set_up()
    assert not commands
    lock.unlink()
    course.set_up()
    assert not lock.exists()


@pytest.mark.skipif(os.name != "posix", reason="signals are sent to a group of processes")
@pytest.mark.parametrize("status", [0, 2])
def test_ctrl_c_waits_for_the_command(status):
    """Jupyter asks a question then, and pytest stops its workers; neither may be killed under it."""
    child = (
        "import sys, time\ntry:\n    print('ready', flush=True); time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    time.sleep(0.5); print('tidied up', flush=True); sys.exit({status})"
    )
    parent = f"import course, sys; print(course.run([sys.executable, '-c', {child!r}]))"
    with subprocess.Popen(
        [sys.executable, "-c", parent], cwd=ROOT / "tools", stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        said = process.stdout.read().split("\n")
    assert said == (["tidied up", "0", ""] if status == 0 else ["tidied up", ""])
    assert process.returncode == (0 if status == 0 else 130)


def test_an_old_python_is_told_so():
    """What Python 3.6 cannot read in the file would hide the sentence that it is too old."""
    tree = ast.parse((ROOT / "tools" / "course.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    assert ast.unparse(tree.body[1]) == "import sys"
    assert "sys.version_info" in ast.unparse(tree.body[2]), "before anything that is not in Python 3.6"


def test_failed_set_up_is_not_taken_for_done(commands, monkeypatch):
    monkeypatch.setattr(course, "run", lambda command, **_: 1 if "pip" in command else 0)
    with pytest.raises(SystemExit, match="Run the same command again"):
        course.set_up()
    assert not (course.VENV / "installed-for").exists()


def test_lab_keeps_its_token_and_asks_nobody(commands, tmp_path, monkeypatch):
    """The options are real ones: JupyterLab's own classes know them; learners' notebooks are not paired."""
    labapp = pytest.importorskip("jupyterlab.labapp")
    monkeypatch.setattr(course, "ROOT", tmp_path)
    for folder in ("notebooks/src", "figures"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copytree(ROOT / "tools" / "jupyterlab", tmp_path / "tools" / "jupyterlab")
    course.lab("python", [])
    [line] = commands
    options = " ".join(part.partition("=")[0] for part in line)
    assert not [word for word in ("token", "password", ".ip", "allow") if word in options]
    assert "AsyncLargeFileManager" in " ".join(line)
    app = labapp.LabApp()
    app.parse_command_line([part for part in line if part.startswith("--LabApp")])
    assert Path(app.app_settings_dir, "overrides.json").is_file()
    [settings] = [json.loads(Path(app.app_settings_dir, "overrides.json").read_text(encoding="utf-8"))]
    schemas = Path(app.app_dir) / "schemas"
    for name in settings:
        assert (schemas / name.replace(":", "/")).with_suffix(".json").is_file(), f"JupyterLab knows no {name}"
    layout = next(Path(app.workspaces_dir).iterdir())
    layout.write_text("{}")
    course.lab("python", [])
    assert layout.read_text() == "{}", "the learner's own layout stays"


def test_versions_oldest_takes_each_lower_bound(commands, tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=68"]\n[project]\nrequires-python = ">=3.10"\n'
        'dependencies = [\n  "torch>=2.4",\n  "a-b>=0.11",\n]\nlab = ["a-b>=1.2"]\n'
    )
    assert long_runs.versions(["oldest"]) == 0
    assert (tmp_path / "build" / "versions" / "oldest.txt").read_text().split() == ["torch==2.4.*", "a-b==1.2.*"]
    own = str(course.python_of(tmp_path / "build" / "versions" / "oldest"))
    assert [command[0] for command in commands] == [sys.executable, *[own] * (len(commands) - 1)]
    long_runs.versions(["newest"])
    assert (tmp_path / "build" / "versions" / "newest.txt").read_text() == "", "no bounds"
    with pytest.raises(SystemExit, match="oldest, or newest"):
        long_runs.versions(["older"])


def test_every_requirement_has_a_lower_bound():
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    bounds = dict(requirement.split(">=") for requirement in wanted)  # an extra's bound is the higher one
    assert long_runs.oldest() == [f"{name}=={bound}.*" for name, bound in bounds.items()]


def test_pieces_of_a_stream_are_joined_and_progress_bars_keep_their_end():
    pieces = [
        new_output("stream", text=text)
        for text in ("a\n", " 0%|  |", "\r50%|# |", "\r100%|##| [00:02<00:00, 9step/s]\n")
    ]
    errors = new_output("stream", name="stderr", text="note\n")
    joined = build.joined([*pieces, errors])
    assert [output.text for output in joined] == ["a\n100%|##|\n", "note\n"]


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_can_be_imported(path, monkeypatch):
    """They run too long for a test; a name that they use and the course has no longer must still be noticed."""
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_tables_come_from_the_benchmarks():
    """What docs/RESULTS.md says is what the JSON holds; `make readme` writes it."""
    readme = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    for name, table in tables.TABLES.items():
        assert tables.fill(readme, name, table()) == readme, f"the table {name!r} is older than its JSON"
