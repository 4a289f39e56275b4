"""Every notebook under nbval, quick budget, again and again: how often does one fail?"""

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import course  # noqa: E402


def flake(rounds: int) -> dict:
    """As many notebooks at a time as there are processors; each so many times."""
    failures, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        python = course.colab_python(Path(folder), sys.executable)

        def again_and_again(path: Path) -> None:
            began = time.monotonic()
            failures[path.stem] = sum(bool(course.nbval(python, [path])) for _ in range(rounds))
            seconds[path.stem] = round((time.monotonic() - began) / rounds)
            print(f"  {path.stem}: {failures[path.stem]} of {rounds} failed", flush=True)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(again_and_again, sorted(course.NOTEBOOKS.glob("*.ipynb"))))
    return {"ok": not any(failures.values()), "failures": failures, "seconds": seconds}
