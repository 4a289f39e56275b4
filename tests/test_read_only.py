"""A checkout that learners may read and not write, as in a laboratory: a notebook and a training run work from it."""

import os
import sys

import pytest
from read_only import ROOT, copy_of_the_checkout, run_read_only

CODE = "import ddpm_helpers; print(ddpm_helpers.__file__); open('written', 'w')"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_of_the_checkout(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def options(tmp_path, checkout):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(checkout), str(ROOT / "tests" / "offline")]),
        "DDPM_DATA": str(tmp_path),
        "DDPM_BUDGET": "quick",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return {"env": environment, "capture_output": True, "text": True, "timeout": 600}


def test_the_copy_is_read_only(checkout, options):
    done = run_read_only(checkout, [sys.executable, "-c", CODE], checkout, **options)
    assert str(checkout) in done.stdout
    assert "PermissionError" in done.stderr or "Read-only file system" in done.stderr


def test_a_notebook(checkout, options):
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    done = run_read_only(checkout, [*line, "00_start_here.ipynb"], checkout / "notebooks", **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def test_training(checkout, options, tmp_path):
    line = [sys.executable, "-m", "ddpm_helpers.cli", "--data", "digits", "--steps", "2", "--base", "8"]
    line += ["--multipliers", "1", "--batch-size", "2", "--T", "20", "--checkpoint"]
    done = run_read_only(checkout, [*line, str(tmp_path / "a.safetensors")], checkout, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "a.safetensors").is_file()
    done = run_read_only(checkout, [*line, "runs/a.safetensors"], checkout, **options)
    assert done.returncode == 1
    assert "Error: runs/a.safetensors: cannot be written" in done.stderr
    assert "step 1" not in done.stdout, "it is told before training"
