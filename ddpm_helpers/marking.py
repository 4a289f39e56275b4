"""Exercises that mark themselves (`check`, `mark`, `show_solution`) and equations that are run (`verify`)."""

import ast
import difflib
import inspect
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .outcomes import call_of, run, stays_on_cpu, summary
from .probes import Trial, probed
from .table import EXERCISES, Exercise


class AnswerError(AssertionError):
    """A wrong or missing answer, raised only where DDPM_STRICT=1 asks for it."""


class EquationError(AssertionError):
    """The two sides of a numbered equation differ by more than the stated tolerance."""


def _exercises() -> dict[str, Exercise]:
    import_module(f"{__package__}.exercises")
    return EXERCISES


def check(answer: Callable) -> Callable:
    """Mark an exercise: returns `answer` if it is right, else the helper's own function, and prints why.

    The exercise is found by the function's name. The notebook always goes on; with the environment variable
    DDPM_STRICT=1, which tests set, a wrong or missing answer raises AnswerError instead.
    """
    name = getattr(answer, "__name__", "<no name>")
    exercise = _exercises().get(name)
    if exercise is None:
        return _report(f"{_unknown(answer, name)}\nIt is not marked, and the notebook goes on with it.", answer)
    title, verdict = f"Exercise {exercise.tag} ({name})", mark(exercise, answer)
    if verdict.right:
        print(f"{title}: correct.")
        return answer
    goes_on = f"Until then the notebook goes on with the course's own {name}."
    if verdict.tried:
        return _report(f"{title}: not yet. {verdict.problem}\n{goes_on}", exercise.reference)
    left_open = f": {verdict.problem}" if verdict.problem else ""
    return _report(f"{title} is yours to write{left_open}. {goes_on}", exercise.reference)


def _report(message: str, function: Callable) -> Callable:
    if os.environ.get("DDPM_STRICT") == "1":
        raise AnswerError(message)
    for line in message.splitlines():
        print(textwrap.fill(line, 88, break_long_words=False, break_on_hyphens=False))
    return function


def _unknown(answer: Any, name: str) -> str:
    """Why `check` finds no exercise for what it was given."""
    if not callable(answer):
        return f"check wants the function itself, without brackets: check(name). It was given {summary(answer)}."
    near = difflib.get_close_matches(name, EXERCISES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return (
        f"check knows no exercise called {name!r}{hint} Write `def name(...):` with the exercise's name, undecorated."
    )


@dataclass(frozen=True)
class Verdict:
    """What an answer is worth."""

    right: bool
    tried: bool = True  # False while the answer is the skeleton, or the course's own function
    problem: str = ""  # what is wrong with an answer that was tried, in words; what is left of one that was begun


def mark(exercise: Exercise, answer: Callable) -> Verdict:
    """Mark an answer; nothing is printed, and no exception of the answer comes through."""
    left_open = "" if answer is exercise.reference else _left_open(answer, exercise.cases()[0])
    if left_open is not None:
        return Verdict(right=False, tried=False, problem=left_open)
    problem = _problem(exercise, answer)
    return Verdict(right=problem is None, problem=problem or "")


def show_solution(exercise: str | Callable) -> None:
    """Print the course's own solution of an exercise, given its name or its function."""
    name = exercise if isinstance(exercise, str) else exercise.__name__
    if name not in _exercises():
        raise ValueError(f"no exercise called {name!r}; there are: {', '.join(EXERCISES)}")
    print(solution(EXERCISES[name]))


def solution(exercise: Exercise) -> str:
    """The answer as the text asked for it, to be pasted into the notebook."""
    return exercise.written(exercise.body)


def verify(
    tag: str,
    left: Any = None,
    right: Any = None,
    *,
    tol: float = 1e-6,
    samples: Tensor | None = None,
    expected: Any = None,
    sigmas: float = 4.0,
) -> None:
    """Run a numbered equation: compare its two sides, print how far apart they are, raise EquationError if too far.

    Both sides exact: `verify("1.2", left, right, tol=1e-6)`; the largest difference is taken relative to the largest
    value on the right (absolute if the right is zero). One side an average of random draws:
    `verify("1.2", samples=draws, expected=value)`; the mean over the first axis of `draws` must lie within `sigmas`
    standard errors of `expected`.
    """
    left, right, samples, expected = map(_double, (left, right, samples, expected))
    if samples is not None:
        apart, error = (samples.mean(0) - expected).abs(), samples.std(0) / len(samples) ** 0.5
        far = torch.where(apart == 0, 0.0, apart / error).max().item()  # 0 / 0 is agreement here
        text = f"mean of {len(samples):,} draws is {far:.1f} standard errors away, {sigmas:g} allowed"
        holds = far <= sigmas
    elif left.shape != right.shape and right.ndim > 0:
        raise ValueError(f"({tag}): left has shape {tuple(left.shape)}, right {tuple(right.shape)}")
    else:
        scale = right.abs().max().item()
        apart = (left - right).abs().max().item() / (scale or 1.0)
        unit = " of the largest value" if scale else ""
        holds, text = apart <= tol, f"largest difference {apart:.1e}{unit}, tolerance {tol:.0e}"
    if not holds:  # NaN does not
        raise EquationError(f"({tag}) fails: {text}")
    print(f"({tag}) holds: {text}")


def _double(side: Any) -> Tensor | None:
    """In 64 bits and on the CPU; in this order, since MPS has none. A Python number keeps all its digits."""
    side = side.detach().cpu() if isinstance(side, Tensor) else side
    return None if side is None else torch.as_tensor(side, dtype=torch.float64)


def _left_open(answer: Callable, case: tuple) -> str | None:
    """What of a skeleton is still `...`, in words, empty if all of it; None if it is no skeleton.

    A `...` that was left beside an answer decides nothing: the answer is marked.
    """
    try:
        function = ast.parse(textwrap.dedent(inspect.getsource(answer))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    if isinstance(function, ast.FunctionDef) and all(
        isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in function.body
    ):
        return ""
    lines = [node for node in ast.walk(function) if isinstance(node, ast.Assign | ast.Return)]
    unwritten = [line for line in lines if isinstance(line.value, ast.Constant) and line.value.value is ...]
    if not unwritten or "ellipsis" not in repr(run(answer, case)).lower():
        return None
    if not any(isinstance(line, ast.Assign) and line not in unwritten for line in lines):
        return ""
    targets = [target for line in unwritten for target in getattr(line, "targets", [])]
    names = [ast.unparse(part) for target in targets for part in getattr(target, "elts", [target])]
    names += ["the result"] * any(isinstance(line, ast.Return) for line in unwritten)
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} still `...`"


NUMBERS_PER_IMAGE = (  # said beside "at non-singleton dimension", where an argument has shape (B,)
    "Is one of the two a number for each image, shape (B,)? Beside images (B, C, H, W) it needs [:, None, None, None], "
    "or per_image(numbers, images); beside a table (B, N) it needs [:, None]. A whole table of a schedule has T + 1 "
    "numbers: sigma[t] takes those of the steps t."
)


def _problem(exercise: Exercise, answer: Callable) -> str | None:
    """What is wrong with `answer`, in words; None if nothing is."""
    trial = Trial(exercise, answer)
    if not any(trial.differences):
        return stays_on_cpu(exercise.reference, answer, trial.cases) or exercise.also(answer)
    for sentence, mistake in exercise.wrong:
        if trial.is_like(run(mistake, case) for case in trial.cases):
            return sentence
    case, difference = next(pair for pair in zip(trial.cases, trial.differences, strict=True) if pair[1])
    axes = {argument.ndim for argument in case if isinstance(argument, Tensor)}
    if "at non-singleton dimension" in difference and 1 in axes and max(axes) > 1:
        difference += f"\n{NUMBERS_PER_IMAGE}"
    said = [probed(trial), difference, f"The call was {call_of(exercise.reference, case)}."]
    return "\n".join(filter(None, said))
