"""Colab: the set-up cell installs the helper in one line and twice in a row; notebooks run from the installed wheel.

Every notebook runs in the environment that is made here: see `test` in tools/course.py.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import course  # noqa: E402

# Of the freeze list in googlecolab/backend-info: its kernel has loaded the one, and its page speaks to the other.
COLAB = {"ipython": (7, 34), "ipywidgets": (7, 7)}
SETUP = next(
    cell.source
    for cell in jupytext.read(ROOT / "notebooks" / "src" / "00_start_here.py").cells
    if "setup" in cell.metadata.get("tags", [])
)
CELL_TWICE = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
cell = '''{cell}
import ddpm_helpers
print("installed from", ddpm_helpers.__file__)'''
for _ in range(2):
    shell.run_cell(cell).raise_error()
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> str:
    return course.bare_python(tmp_path_factory.mktemp("colab"), sys.executable)


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> str:
    return course.colab_python(tmp_path_factory.mktemp("colab"), sys.executable)


def run_setup(python: str, cwd: Path, cell: str, **environment: str) -> subprocess.CompletedProcess:
    code = CELL_TWICE.format(cell=cell.split("import torch")[0])
    environment = {**os.environ, "PYTHONPATH": "", "IPYTHONDIR": str(cwd / "ipython"), **environment}
    return subprocess.run([python, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


def test_without_an_address_it_says_what_to_do(bare_python, tmp_path):
    result = run_setup(bare_python, tmp_path, SETUP)
    assert result.returncode != 0
    assert "start this notebook with `make lab`" in result.stdout + result.stderr


def test_with_an_address_it_installs_once(bare_python, tmp_path):
    """The address is GitHub's; git is told to take this checkout instead, so no network is needed."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs the checkout's git history to install from")
    environment = {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/someone/course",
        "GIT_CONFIG_KEY_1": "safe.directory",
        "GIT_CONFIG_VALUE_1": "*",
        "PIP_NO_BUILD_ISOLATION": "1",
        "PIP_NO_DEPS": "1",
    }
    result = run_setup(bare_python, tmp_path, SETUP.replace('REPO = ""', 'REPO = "someone/course"'), **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("installed from") == 2
    assert str(ROOT / "ddpm_helpers") not in result.stdout


def test_the_wheel_holds_the_whole_package_and_nothing_else(colab):
    """Weights, results and all: what the notebooks read must not lie in the checkout alone."""
    installed = Path(colab).parents[1] / "lib"
    (package,) = installed.rglob("site-packages/ddpm_helpers")
    assert {path.name.partition("-")[0] for path in package.parent.iterdir()} == {"ddpm_helpers", "packages.pth"}
    assert contents(package) == contents(ROOT / "ddpm_helpers")
    assert any(path.suffix == ".safetensors" for path in contents(package))


def contents(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_what_a_notebook_finds_there(colab, tmp_path, capfd):
    claims = [
        "ddpm_helpers.__file__.startswith(sys.prefix)",
        "os.listdir() == ['tiny.ipynb']",
        "ddpm_helpers.load_images('mnist').source.startswith('Drawn')",
        "os.environ['DDPM_BUDGET'] == 'quick'",
        "sys.prefix == 'elsewhere'",  # is not true, and must be told
    ]
    cells = [nbformat.v4.new_code_cell(f"import os, sys, ddpm_helpers\nassert {claim}") for claim in claims]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "tiny.ipynb")
    assert course.nbval(colab, [tmp_path / "tiny.ipynb"]) == 1
    assert "1 failed, 4 passed" in capfd.readouterr().out


def test_pip_leaves_the_packages_of_colab_alone():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, there in COLAB.items():
        bound = re.search(rf'"{name}>=([\d.]+)"', text)[1]
        assert tuple(map(int, bound.split("."))) <= there, f"{name} would be upgraded under Colab's running kernel"
