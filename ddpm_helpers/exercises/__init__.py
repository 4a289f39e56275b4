"""Exercises that mark themselves, and equations that are run. One module a notebook holds the exercises."""

from importlib import import_module
from pathlib import Path

from .core import EXERCISES, AnswerError, EquationError, Exercise, check, mark, show_solution, verify

for _file in sorted([*Path(__file__).parent.glob("notebook_*.py"), *Path(__file__).parent.glob("new_*.py")]):
    import_module(f"{__name__}.{_file.stem}")

__all__ = ["EXERCISES", "AnswerError", "EquationError", "Exercise", "check", "mark", "show_solution", "verify"]
