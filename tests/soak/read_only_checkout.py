"""Every notebook, quick budget, from a checkout that cannot be written to (the tests run them from a wheel)."""

import os
import sys
import tempfile
from pathlib import Path

from outcome import of_pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]
from read_only import copy_of_the_checkout, run_read_only  # noqa: E402

import course  # noqa: E402


def notebooks(most: int) -> dict:
    """So many of them, in the order of their numbers."""
    with tempfile.TemporaryDirectory() as name:
        checkout, empty = copy_of_the_checkout(Path(name)), Path(name) / "empty"
        empty.mkdir()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(checkout), str(ROOT / "tests" / "offline")]),
            "OMP_NUM_THREADS": "1",
            "DDPM_BUDGET": "quick",
            "DDPM_DATA": str(empty),
            "XDG_CACHE_HOME": str(empty),
        }
        line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *course.NBVAL]
        line += [path.name for path in sorted((checkout / "notebooks").glob("*.ipynb"))[:most]]
        done = run_read_only(checkout, line, checkout / "notebooks", env=environment, capture_output=True, text=True)
    return of_pytest(done)
