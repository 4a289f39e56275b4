"""The exercises as content, one module a notebook; importing this loads them all (see marking.py)."""

from importlib import import_module
from pathlib import Path

from ..marking import EXERCISES, Exercise, check, mark, show_solution, solution, verify

for _file in sorted(Path(__file__).parent.glob("notebook_*.py")):
    import_module(f"{__name__}.{_file.stem}")

__all__ = ["EXERCISES", "Exercise", "check", "mark", "show_solution", "solution", "verify"]
