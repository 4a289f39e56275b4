"""A notebook under nbval, quick budget, again and again: how often does it fail?"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import course  # noqa: E402

NOTEBOOKS = {path.stem[:2]: path for path in sorted(course.NOTEBOOKS.glob("*.ipynb"))}


def flake(number: str, rounds: int) -> dict:
    """The notebook with this number, so many times, as many at a time as there are processors."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        python = course.colab_python(Path(folder), sys.executable)
        statuses = list(pool.map(lambda _: course.nbval(python, [NOTEBOOKS[number]]), range(rounds)))
    failures = sum(map(bool, statuses))
    return {"ok": not failures, "result": f"{failures} of {rounds} runs failed", "failures": failures}
