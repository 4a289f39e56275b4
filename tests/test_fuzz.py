"""Two thousand mutated files, the smallest part of `make soak`: only documented errors come out of any reader."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_two_thousand_mutated_inputs():
    """In a process of its own, whose forks have little memory behind them."""
    line = [sys.executable, str(ROOT / "tests" / "soak" / "fuzz.py"), "2000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "2,000 inputs, 0 failures" in done.stdout
