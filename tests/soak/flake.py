"""Every notebook under nbval, quick budget, again and again: how often does one fail?"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import course  # noqa: E402


def flake(rounds: int) -> dict:
    failures, seconds = {}, {}
    for path in sorted(course.NOTEBOOKS.glob("*.ipynb")):
        began = time.monotonic()
        failures[path.stem] = sum(bool(course.nbval(sys.executable, [path])) for _ in range(rounds))
        seconds[path.stem] = round((time.monotonic() - began) / rounds)
        print(f"  {path.stem}: {failures[path.stem]} of {rounds} failed", flush=True)
    return {"ok": not any(failures.values()), "failures": failures, "seconds": seconds}
