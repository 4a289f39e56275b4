"""A notebook under nbval, quick budget, again and again: does it ever fail?"""

import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import course  # noqa: E402

NOTEBOOKS = {path.stem[:2]: path for path in sorted(course.NOTEBOOKS.glob("*.ipynb"))}


def flake(number: str, rounds: int) -> dict:
    """The notebook with this number, so many copies of it, two at a time."""
    with tempfile.TemporaryDirectory() as name:
        python = course.colab_python(Path(name), sys.executable)
        copies = [Path(name) / f"{number}_{i:03}.ipynb" for i in range(rounds)]
        for copy in copies:
            shutil.copy(NOTEBOOKS[number], copy)
        failed = course.nbval(python, copies)
    return {"ok": not failed, "result": "some failed" if failed else "all green"}
