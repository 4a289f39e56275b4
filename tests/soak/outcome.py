"""What pytest said, as a part of the report."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def of_pytest(done: subprocess.CompletedProcess) -> dict:
    """Whether all was well, and how many tests passed; the last lines say more where one failed."""
    lines = done.stdout.strip().splitlines()
    said = lines[-1].partition(",")[0].partition(" in ")[0]
    return {"ok": not done.returncode, "result": said, "output": lines[-12:]}


def unit_tests(words: str, files: list[str], _count: int) -> dict:
    """Those whose names have one of these words."""
    line = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-k", words]
    line += [str(TESTS / file) for file in files]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DDPM_TEST_SILENCE": "5"}  # seconds of silence that are borne
    return of_pytest(subprocess.run(line, env=environment, cwd=TESTS.parent, capture_output=True, text=True))
