"""How exercises are checked and equations verified.

An exercise is a function name, the helper's own function as reference, cases to call both with, and typical mistakes:
wrong functions, each with the sentence that a learner who wrote it should read.
"""

import ast
import difflib
import inspect
import os
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

EXERCISES: dict[str, "Exercise"] = {}


class AnswerError(AssertionError):
    """A wrong or missing answer, raised only where DDPM_STRICT=1 asks for it."""


class EquationError(AssertionError):
    """The two sides of a numbered equation differ by more than the stated tolerance."""


@dataclass(frozen=True)
class Exercise:
    """One exercise of one notebook; making one registers it under its reference's name."""

    tag: str  # "1.2": notebook 1, second exercise
    reference: Callable  # the right answer: a public function of the helper module
    cases: Callable[[], list[tuple]]  # argument tuples; make B, C, H and W all different
    mistakes: dict[str, Callable]  # sentence for the learner -> the wrong function that earns it
    tolerance: float = 1e-5  # largest error allowed, relative to the largest expected value

    def __post_init__(self):
        EXERCISES[self.name] = self

    @property
    def name(self) -> str:
        return self.reference.__name__


def check(answer: Callable) -> Callable:
    """Mark an exercise: returns `answer` if it is right, else the helper's own function, and prints why.

    The exercise is found by the function's name. The notebook always goes on; with the environment variable
    DDPM_STRICT=1, which tests set, a wrong or missing answer raises instead.

    Raises:
        AnswerError: only under DDPM_STRICT=1.
    """
    name = getattr(answer, "__name__", repr(answer))
    exercise = EXERCISES.get(name)
    if exercise is None:
        near = difflib.get_close_matches(name, EXERCISES, n=1)
        hint = f"; did you mean {near[0]!r}? Keep the name that the exercise gives" if near else ""
        return _report(f"check knows no exercise called {name!r}{hint}.", answer)
    title = f"Exercise {exercise.tag} ({name})"
    goes_on = f"Until then the notebook goes on with the course's own {name}."
    verdict = mark(exercise, answer)
    if not verdict.tried:
        return _report(f"{title} is yours to write. {goes_on}", exercise.reference)
    if not verdict.right:
        return _report(f"{title}: not yet. {verdict.problem}\n{goes_on}", exercise.reference)
    print(f"{title}: correct.")
    return answer


@dataclass(frozen=True)
class Verdict:
    """What an answer is worth."""

    right: bool
    tried: bool = True  # False while the answer is the skeleton, or the course's own function
    problem: str = ""  # what is wrong with an answer that was tried, in words


def mark(exercise: Exercise, answer: Callable) -> Verdict:
    """Mark an answer; nothing is printed, and no exception of the answer comes through."""
    if answer is exercise.reference or _is_skeleton(answer, exercise.cases()[0]):
        return Verdict(right=False, tried=False)
    problem = _problem(exercise, answer)
    return Verdict(right=problem is None, problem=problem or "")


def show_solution(exercise: str | Callable) -> None:
    """Print the course's own solution of an exercise, given its name or its function.

    Raises:
        ValueError: if there is no such exercise.
    """
    name = exercise if isinstance(exercise, str) else exercise.__name__
    if name not in EXERCISES:
        raise ValueError(f"no exercise called {name!r}; there are: {', '.join(EXERCISES)}")
    print(textwrap.dedent(inspect.getsource(EXERCISES[name].reference)))


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
    """Run a numbered equation: compare its two sides, print how far apart they are, raise if too far.

    Two ways to call it. Both sides exact: `verify("1.2", left, right, tol=1e-6)`, where the largest difference is
    taken relative to the largest value on the right (absolute if the right is zero). One side an average of random
    draws: `verify("1.2", samples=draws, expected=value)`, where the mean over the first axis of `draws` must lie
    within `sigmas` standard errors of `expected`.

    Raises:
        EquationError: if the sides differ by more than the tolerance, or contain NaN.
        ValueError: if the two sides have different shapes.
    """
    if samples is not None:
        return _verify_mean(tag, samples, expected, sigmas)
    left, right = (_double(side) for side in (left, right))
    if left.shape != right.shape and right.ndim > 0:
        raise ValueError(f"({tag}): left has shape {tuple(left.shape)}, right {tuple(right.shape)}")
    scale = right.abs().max().item() or 1.0
    difference = (left - right).abs().max().item() / scale
    text = f"largest relative difference {difference:.1e}, tolerance {tol:.0e}"
    if not difference <= tol:  # also catches NaN
        raise EquationError(f"({tag}) fails: {text}")
    print(f"({tag}) holds: {text}")


def _verify_mean(tag: str, samples: Tensor, expected: Any, sigmas: float) -> None:
    samples, expected = _double(samples), _double(expected)  # (N, ...) and (...)
    mean, n = samples.mean(0), len(samples)
    standard_error = samples.std(0) / n**0.5
    apart = (mean - expected).abs()
    distance = torch.where(apart == 0, 0.0, apart / standard_error).max().item()  # 0 / 0 is agreement here
    text = f"mean of {n:,} draws is {distance:.1f} standard errors away, {sigmas:g} allowed"
    if not distance <= sigmas:
        raise EquationError(f"({tag}) fails: {text}")
    print(f"({tag}) holds: {text}")


def _double(side: Any) -> Tensor:
    """In 64 bits and on the CPU; in this order, since MPS has none. A Python number keeps all its digits."""
    return side.detach().cpu().double() if isinstance(side, Tensor) else torch.tensor(side, dtype=torch.float64)


def _report(message: str, function: Callable) -> Callable:
    if os.environ.get("DDPM_STRICT") == "1":
        raise AnswerError(message)
    print(message)
    return function


def _is_skeleton(answer: Callable, case: tuple) -> bool:
    """True while nothing but `...` (and a docstring) is there, or a `...` in place of a value decides the result.

    A `...` that was left beside an answer decides nothing: the answer is marked.
    """
    try:
        function = ast.parse(textwrap.dedent(inspect.getsource(answer))).body[0]
    except (OSError, TypeError, SyntaxError):
        return False
    if isinstance(function, ast.FunctionDef) and all(
        isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in function.body
    ):
        return True
    unwritten = any(
        isinstance(node, ast.Assign | ast.Return) and isinstance(node.value, ast.Constant) and node.value.value is ...
        for node in ast.walk(function)
    )
    return unwritten and "ellipsis" in repr(_run(answer, case)).lower()


def _problem(exercise: Exercise, answer: Callable) -> str | None:
    """What is wrong with `answer`, in words; None if nothing is."""
    cases = exercise.cases()
    expected = [exercise.reference(*_copy(case)) for case in cases]
    outcomes = [_run(answer, case) for case in cases]

    def same(results: list) -> bool:
        pairs = zip(results, outcomes, strict=True)
        return all(_difference(result, outcome, exercise.tolerance) is None for result, outcome in pairs)

    if same(expected):
        return None
    for sentence, mistake in exercise.mistakes.items():
        if same([_run(mistake, case) for case in cases]):
            return sentence
    for case, right, outcome in zip(cases, expected, outcomes, strict=True):
        difference = _difference(right, outcome, exercise.tolerance)
        if difference:
            return f"{difference}\nThe call was {exercise.name}({_describe(exercise.reference, case)})."
    return None


def _run(function: Callable, case: tuple) -> Any:
    """The function's result on a case; an exception, or an argument changed in place, is a result too."""
    arguments = _copy(case)
    try:
        result = function(*arguments)
        if _is_numpy(result):
            return TypeError("your function returns a NumPy array; return a tensor, with torch in place of np")
        again = function(*_copy(case))
        changed = [_difference(a, b, 0.0) for a, b in zip(case, arguments, strict=True) if isinstance(a, Tensor)]
        if any(changed):
            return RuntimeError("your function changes its argument in place; make a new tensor instead")
        if result is not None and _difference(result, again, 0.0):
            return RuntimeError("two equal calls give two results; use the arguments instead of new random numbers")
    except Exception as error:
        return error
    return result


def _is_numpy(result: Any) -> bool:
    """An array, or a number of NumPy's; float64 is a Python float as well, and stays one."""
    parts = result if isinstance(result, tuple) else (result,)
    return any(isinstance(part, np.ndarray | np.generic) and not isinstance(part, float) for part in parts)


def _copy(case: tuple) -> tuple:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in case)


def _difference(expected: Any, actual: Any, tolerance: float) -> str | None:
    """How `actual` differs from `expected`, as a sentence; None if it does not."""
    if isinstance(actual, Exception):
        if type(expected) is type(actual) and sorted(str(expected).split()) == sorted(str(actual).split()):
            return None  # words in any order: a * b and b * a name the sizes the other way round
        return _explain(actual)
    if isinstance(expected, Exception):
        return "It ran."
    if isinstance(expected, tuple | list):
        if type(actual) is not type(expected) or len(actual) != len(expected):
            listed = isinstance(expected, list) and isinstance(actual, Tensor)
            advice = "; .tolist() makes a list of it" if listed else ""
            return f"Expected a {type(expected).__name__} of {len(expected)} values, got {_summary(actual)}{advice}."
        parts = (_difference(e, a, tolerance) for e, a in zip(expected, actual, strict=True))
        return next((part for part in parts if part), None)
    if actual is None:
        return None if expected is None else "It returned None: is there a return in front of the result?"
    number = not isinstance(expected, Tensor)
    if number:
        expected, actual = _as_number(expected), _as_number(actual)
        if not isinstance(expected, Tensor) or not isinstance(actual, Tensor):
            return None if expected == actual else f"Expected {expected!r}, got {actual!r}."
    if not isinstance(actual, Tensor):
        return f"Expected {_summary(expected)}, got {_summary(actual)}."
    if (actual.shape, actual.dtype, actual.device) != (expected.shape, expected.dtype, expected.device):
        wanted, advice = ("a number", "; .item() makes one of it") if number else (_summary(expected), "")
        return f"Expected {wanted}, got {_summary(actual)}{advice if actual.numel() == 1 else ''}."
    if not expected.numel():
        return None
    actual, expected = actual.double(), expected.double()
    alike = (actual == expected) | (actual.isnan() & expected.isnan())  # an infinity equals itself, NaN is NaN again
    error = torch.where(alike, 0.0, (actual - expected).abs()).max().item()
    if error <= tolerance * max(expected.nan_to_num(0, 0, 0).abs().max().item(), 1e-30):
        if expected.requires_grad and not actual.requires_grad:
            return "The values are right, but no gradient can flow: leave out torch.no_grad() and .detach() here."
        return None
    if not actual.isfinite().all() and expected.isfinite().all():
        return "The result contains NaN or infinity: is something divided by 0?"
    return f"Shape and dtype are right, values are not: the largest error is {error:.3g}."


def _as_number(value: Any) -> Any:
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, int | float) else value


HINTS = {  # part of an error, or of the line that raised it -> what else to say
    "np.": "NumPy's functions want arrays; torch has them for tensors: torch.sqrt, torch.log, x.mean(), x.sum().",
    "'astype'": "A tensor has no .astype: write .float().",
    "Could not infer sizes": "rearrange cannot split an axis into two unknown lengths: give it one, such as h=height.",
    "Boolean value of Tensor": "Python's min, max and if want one number: for a tensor, min(1, x) is x.clamp(max=1).",
    "imum(): argument": "torch.minimum and torch.maximum want two tensors: with a number, x.clamp(max=1).",
    "torch.min(": "torch.min(x, 1) looks along axis 1; the smaller of x and the number 1 is x.clamp(max=1).",
    "at non-singleton dimension 3": "One number for each image, shape (B,), does not fit beside images (B, C, H, W) "
    "before per_image(numbers, images), or [:, None, None, None], has given it their axes.",
}


def _explain(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    if not frames:
        return f"It seems that {error}."
    text = f"It stopped with {type(error).__name__}: {error}\n  in the line: {frames[0].line}"
    return "\n".join([text, *(hint for part, hint in HINTS.items() if part in text)])


def _summary(value: Any) -> str:
    if isinstance(value, Tensor):
        on = f" on {value.device}" if value.device.type != "cpu" else ""
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}{on}"
    return f"{type(value).__name__} {value!r}"[:80]


def _describe(reference: Callable, case: tuple) -> str:
    names = list(inspect.signature(reference).parameters)
    parts = []
    for name, value in zip(names, case, strict=False):
        shown = f"{list(value.shape)}" if isinstance(value, Tensor) and value.ndim else f"{value!r}"
        shown = shown if len(shown) < 40 else f"a {type(value).__name__}"
        parts.append(f"{name}: {getattr(value, '__name__', shown)}")
    return ", ".join(parts)
