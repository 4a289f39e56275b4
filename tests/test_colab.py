"""The set-up cell where the helper is not installed, as in Colab: it installs in one line, and works twice in a row."""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parent.parent
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
def bare_python(tmp_path_factory) -> Path:
    """A Python that sees this one's packages, as Colab has torch, but not the course's checkout."""
    folder = tmp_path_factory.mktemp("colab")
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    # A .pth inside a folder named by a .pth is not followed: the editable install stays out of sight.
    Path(site.stdout.strip(), "packages.pth").write_text(sysconfig.get_path("purelib"))
    return python


def run_setup(python: Path, cwd: Path, cell: str, **environment: str) -> subprocess.CompletedProcess:
    code = CELL_TWICE.format(cell=cell.split("import gzip")[0])
    environment = {**os.environ, "IPYTHONDIR": str(cwd / "ipython"), **environment}
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
