"""Exercises that mark themselves (`check`, `mark`, `show_solution`) and equations that are run (`verify`).

An exercise is a function name, the helper's own function as reference, cases to call both with, and typical mistakes:
edits of the right answer's text, each with the sentence that a learner who wrote it should read (see table.py).
"""

import ast
import difflib
import inspect
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .outcomes import call_of, run, stays_on_cpu, summary
from .probes import Trial, probed
from .table import mistakes, plain_body, written

EXERCISES: dict[str, "Exercise"] = {}  # filled by `ddpm_helpers.exercises`, which is imported when it is first needed


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
    mistakes: str  # a table: edits of the answer, and below each what to say to it
    answer: str = ""  # the right body, as the text asked for it; empty: the reference's own body is plain enough
    names: dict = field(default_factory=dict)  # what else the table's functions see
    tolerance: float = 1e-5  # largest error allowed, relative to the largest expected value
    tolerance_64: float = 1e-9  # the same where the expected result is a float64 tensor
    also: Callable[[Callable], str | None] = lambda answer: None  # answer with right values -> what else is wrong

    def __post_init__(self):
        EXERCISES[self.name] = self

    @property
    def name(self) -> str:
        return self.reference.__name__

    @property
    def body(self) -> str:
        return textwrap.dedent(self.answer).strip() or plain_body(self.reference)

    @property
    def asked(self) -> int:
        """How many arguments the text asks for; the reference may have more, with defaults."""
        return len(self.cases()[0])

    @cached_property
    def wrong(self) -> dict[str, Callable]:
        """Sentence -> the wrong function that earns it; read from the table when an answer is wrong."""
        if isinstance(self.mistakes, dict):
            return self.mistakes
        return mistakes(self.reference, self.body, self.mistakes, self.names, self.asked)


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
        return _report(f"{_unknown(answer)}\nIt is not marked, and the notebook goes on with it.", answer)
    title = f"Exercise {exercise.tag} ({name})"
    goes_on = f"Until then the notebook goes on with the course's own {name}."
    verdict = mark(exercise, answer)
    if not verdict.tried:
        left_open = f": {verdict.problem}" if verdict.problem else ""
        return _report(f"{title} is yours to write{left_open}. {goes_on}", exercise.reference)
    if not verdict.right:
        return _report(f"{title}: not yet. {verdict.problem}\n{goes_on}", exercise.reference)
    print(f"{title}: correct.")
    return answer


def _report(message: str, function: Callable) -> Callable:
    if os.environ.get("DDPM_STRICT") == "1":
        raise AnswerError(message)
    print("\n".join(_folded(line) for line in message.splitlines()))
    return function


def _folded(line: str) -> str:
    return textwrap.fill(line, 88, break_long_words=False, break_on_hyphens=False)


def _unknown(answer: Any) -> str:
    """Why `check` finds no exercise for what it was given."""
    if not callable(answer):
        return f"check wants the function itself, without brackets: check(name). It was given {summary(answer)}."
    name = getattr(answer, "__name__", "<no name>")
    if name.startswith("<"):
        return (
            "check finds an exercise by the function's name, and this has none: write it as `def name(...):`, with "
            "the name that the exercise gives."
        )
    near = difflib.get_close_matches(name, EXERCISES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"check knows no exercise called {name!r}{hint} Keep the exercise's name; a decorator may have changed it."


@dataclass(frozen=True)
class Verdict:
    """What an answer is worth."""

    right: bool
    tried: bool = True  # False while the answer is the skeleton, or the course's own function
    problem: str = ""  # what is wrong with an answer that was tried, in words; what is left of one that was begun


def mark(exercise: Exercise, answer: Callable) -> Verdict:
    """Mark an answer; nothing is printed, and no exception of the answer comes through."""
    if answer is exercise.reference:
        return Verdict(right=False, tried=False)
    if _is_skeleton(answer, exercise.cases()[0]):
        return Verdict(right=False, tried=False, problem=_left_open(answer))
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
    return written(exercise.reference, exercise.body, exercise.asked)


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
    if samples is not None:
        far, text = _mean_apart(_double(samples), _double(expected), sigmas)
    else:
        far, text = _apart(tag, _double(left), _double(right), tol)
    if far:
        raise EquationError(f"({tag}) fails: {text}")
    print(f"({tag}) holds: {text}")


def _apart(tag: str, left: Tensor, right: Tensor, tol: float) -> tuple[bool, str]:
    if left.shape != right.shape and right.ndim > 0:
        raise ValueError(f"({tag}): left has shape {tuple(left.shape)}, right {tuple(right.shape)}")
    scale = right.abs().max().item()
    apart = (left - right).abs().max().item() / (scale or 1.0)
    unit = " of the largest value" if scale else ""
    return not apart <= tol, f"largest difference {apart:.1e}{unit}, tolerance {tol:.0e}"  # `not`: NaN is far, too


def _mean_apart(samples: Tensor, expected: Tensor, sigmas: float) -> tuple[bool, str]:
    """samples (N, ...), expected (...)."""
    mean, n = samples.mean(0), len(samples)
    apart = (mean - expected).abs()
    distance = torch.where(apart == 0, 0.0, apart / (samples.std(0) / n**0.5)).max().item()  # 0 / 0 is agreement here
    return not distance <= sigmas, f"mean of {n:,} draws is {distance:.1f} standard errors away, {sigmas:g} allowed"


def _double(side: Any) -> Tensor:
    """In 64 bits and on the CPU; in this order, since MPS has none. A Python number keeps all its digits."""
    return side.detach().cpu().double() if isinstance(side, Tensor) else torch.tensor(side, dtype=torch.float64)


def _is_skeleton(answer: Callable, case: tuple) -> bool:
    """True while nothing but `...` (and a docstring) is there, or a `...` in place of a value decides the result.

    A `...` that was left beside an answer decides nothing: the answer is marked.
    """
    try:
        function = _parsed(answer)
    except (OSError, TypeError, SyntaxError):
        return False
    if isinstance(function, ast.FunctionDef) and all(
        isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in function.body
    ):
        return True
    unwritten = any(_is_unwritten(node) for node in ast.walk(function))
    return unwritten and "ellipsis" in repr(run(answer, case)).lower()


def _parsed(answer: Callable) -> ast.stmt:
    return ast.parse(textwrap.dedent(inspect.getsource(answer))).body[0]


def _is_unwritten(node: ast.AST) -> bool:
    has_value = isinstance(node, ast.Assign | ast.Return)
    return has_value and isinstance(node.value, ast.Constant) and node.value.value is ...


def _left_open(answer: Callable) -> str:
    """What of a skeleton is still `...`, in words; nothing if no line beside it is written."""
    nodes = list(ast.walk(_parsed(answer)))
    unwritten = [node for node in nodes if _is_unwritten(node)]
    if not unwritten or not any(isinstance(node, ast.Assign) and node not in unwritten for node in nodes):
        return ""
    targets = [target for node in unwritten if isinstance(node, ast.Assign) for target in node.targets]
    parts = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    names = [ast.unparse(part) for part in parts]
    names += ["the result"] if any(isinstance(node, ast.Return) for node in unwritten) else []
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} still `...`"


NUMBERS_PER_IMAGE = (  # said beside "at non-singleton dimension", where an argument has shape (B,)
    "Is one of the two a number for each image, shape (B,)? Beside images (B, C, H, W) it needs [:, None, None, None], "
    "or per_image(numbers, images); beside a table (B, N) it needs [:, None]. A whole table of a schedule has T + 1 "
    "numbers: sigma[t] takes those of the steps t."
)


def _problem(exercise: Exercise, answer: Callable) -> str | None:
    """What is wrong with `answer`, in words; None if nothing is."""
    cases = exercise.cases()
    trial = Trial(exercise.reference, answer, cases, exercise.tolerance, exercise.tolerance_64)
    if not any(trial.differences):
        if stays_on_cpu(exercise.reference, answer, cases):
            return (
                "The numbers are right, but it makes a tensor on the CPU, wherever its arguments are: on a GPU it "
                "would stop. Give what makes one the device of an argument, as in torch.arange(n, device=x.device)."
            )
        return exercise.also(answer)
    for sentence, mistake in exercise.wrong.items():
        if trial.is_like(run(mistake, case) for case in cases):
            return sentence
    case, difference = next((case, found) for case, found in zip(cases, trial.differences, strict=True) if found)
    if "at non-singleton dimension" in difference and _has_numbers_per_image(case):
        difference += f"\n{NUMBERS_PER_IMAGE}"
    said = [probed(trial), difference, f"The call was {call_of(exercise.reference, case)}."]
    return "\n".join(filter(None, said))


def _has_numbers_per_image(case: tuple) -> bool:
    shapes = [argument.shape for argument in case if isinstance(argument, Tensor)]
    return any(len(one) == 1 and len(other) > 1 and one[0] == other[0] for one in shapes for other in shapes)
