"""How exercises are checked and equations verified.

An exercise is a function name, the helper's own function as reference, cases to call both with, and typical mistakes:
wrong functions, each with the sentence that a learner who wrote it should read.
"""

import ast
import copy
import difflib
import inspect
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..schedule import NoiseSchedule
from ..table import mistakes, plain_body
from .solutions import solution

EXERCISES: dict[str, "Exercise"] = {}


class AnswerError(AssertionError):
    """A wrong or missing answer, raised only where DDPM_STRICT=1 asks for it."""


class EquationError(AssertionError):
    """The two sides of a numbered equation differ by more than the stated tolerance."""


def _nothing_else(answer: Callable) -> None:
    return None


@dataclass(frozen=True)
class Exercise:
    """One exercise of one notebook; making one registers it under its reference's name."""

    tag: str  # "1.2": notebook 1, second exercise
    reference: Callable  # the right answer: a public function of the helper module
    cases: Callable[[], list[tuple]]  # argument tuples; make B, C, H and W all different
    mistakes: dict[str, Callable] | str  # sentence for the learner -> the wrong function that earns it; or its table
    answer: str = ""  # the right body, as the text asked for it; empty: the reference's own body is plain enough
    names: dict = field(default_factory=dict)  # what else the table's functions see
    tolerance: float = 1e-5  # largest error allowed, relative to the largest expected value
    tolerance_64: float = 1e-5  # the same where the expected result is a float64 tensor
    also: Callable[[Callable], str | None] = _nothing_else  # answer with right values -> what else is wrong with it

    def __post_init__(self):
        EXERCISES[self.name] = self
        if isinstance(self.mistakes, str):
            body = self.answer or plain_body(self.reference)
            object.__setattr__(self, "mistakes", mistakes(self.reference, body, self.mistakes, self.names))

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


def _unknown(answer: Any) -> str:
    """Why `check` finds no exercise for what it was given."""
    if not callable(answer):
        return f"check wants the function itself, without brackets: check(corrupt). It was given {_summary(answer)}."
    name = getattr(answer, "__name__", "<no name>")
    if name.startswith("<"):
        return "check finds an exercise by the function's name, and this has none: write it as `def corrupt(...):`."
    near = difflib.get_close_matches(name, EXERCISES, n=1)
    hint = f"; did you mean {near[0]!r}? Keep the name that the exercise gives" if near else ""
    return f"check knows no exercise called {name!r}{hint}."


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
    """Print the course's own solution of an exercise, given its name or its function.

    It can be pasted into the notebook: what it needs and the notebook has not is imported above it.

    Raises:
        ValueError: if there is no such exercise.
    """
    name = exercise if isinstance(exercise, str) else exercise.__name__
    if name not in EXERCISES:
        raise ValueError(f"no exercise called {name!r}; there are: {', '.join(EXERCISES)}")
    print(solution(EXERCISES[name].reference, vars(sys.modules["__main__"])))


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
        function = _parsed(answer)
    except (OSError, TypeError, SyntaxError):
        return False
    if isinstance(function, ast.FunctionDef) and all(
        isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in function.body
    ):
        return True
    unwritten = any(_is_unwritten(node) for node in ast.walk(function))
    return unwritten and "ellipsis" in repr(_run(answer, case)).lower()


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


def _problem(exercise: Exercise, answer: Callable) -> str | None:
    """What is wrong with `answer`, in words; None if nothing is."""
    cases = exercise.cases()
    expected = [exercise.reference(*_copy(case)) for case in cases]
    outcomes = [_run(answer, case) for case in cases]
    tolerances = [exercise.tolerance_64 if _is_double(right) else exercise.tolerance for right in expected]
    differences = [_difference(*each) for each in zip(expected, outcomes, tolerances, strict=True)]
    if not any(differences):
        return exercise.also(answer)

    def is_made_by(mistake: Callable, case: tuple, outcome: Any, tolerance: float) -> bool:
        result = _run(mistake, case)
        if isinstance(result, Tensor) != isinstance(outcome, Tensor):  # a number is another mistake than a tensor
            return False
        return _difference(result, outcome, tolerance) is None

    for sentence, mistake in exercise.mistakes.items():
        if all(is_made_by(mistake, *each) for each in zip(cases, outcomes, tolerances, strict=True)):
            return sentence
    case, difference = next((case, found) for case, found in zip(cases, differences, strict=True) if found)
    if "at non-singleton dimension" in difference and _has_numbers_per_image(case):
        difference += f"\n{NUMBERS_PER_IMAGE}"
    return f"{difference}\nThe call was {exercise.name}({_describe(exercise.reference, case)})."


def _is_double(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float64


def _has_numbers_per_image(case: tuple) -> bool:
    shapes = [argument.shape for argument in case if isinstance(argument, Tensor)]
    return any(len(one) == 1 and len(other) > 1 and one[0] == other[0] for one in shapes for other in shapes)


def _run(function: Callable, case: tuple) -> Any:
    """The function's result on a case; an exception, or an argument changed in place, is a result too."""
    random, dtype = torch.get_rng_state(), torch.get_default_dtype()
    try:
        arguments = _copy(case)
        result = function(*arguments)
        if _is_numpy(result):
            return TypeError(
                "your function returns a NumPy array; return a tensor, or with .tolist() a list of numbers"
            )
        if hasattr(result, "__next__"):
            return TypeError(
                "your function returns an iterator, which is used up after one reading; list(...) makes a list"
            )
        names = [*inspect.signature(function).parameters, *["its argument"] * len(case)]
        if shortened := [name for name, a, b in _lists(names, case, arguments) if len(a) != len(b)]:
            return RuntimeError(
                f"your function changes the length of {shortened[0]}: the next call would find another network. Read "
                "the list, with a loop or an index, instead of taking from it"
            )
        changed = [name for name, a, b in _tensors(names, case, arguments) if _difference(a, b, 0.0)]
        if changed:
            return RuntimeError(
                f"your function changes {changed[0]} in place (+=, []=, or a method whose name ends in _); make a new "
                "tensor instead"
            )
        again = function(*_copy(case))
        if result is not None and _difference(result, again, 0.0):
            return RuntimeError("two equal calls give two results; use the arguments instead of new random numbers")
        if not torch.equal(random, torch.get_rng_state()) or dtype != torch.get_default_dtype():
            return RuntimeError("your function changes settings of PyTorch: leave the seed and the default dtype alone")
    except Exception as error:
        return error
    finally:
        torch.set_rng_state(random)
        torch.set_default_dtype(dtype)
    return result


def _is_numpy(result: Any) -> bool:
    """An array, or a number of NumPy's; float64 is a Python float as well, and stays one."""
    parts = result if isinstance(result, tuple) else (result,)
    return any(isinstance(part, np.ndarray | np.generic) and not isinstance(part, float) for part in parts)


def _copy(case: tuple) -> tuple:
    """Arguments that may be spoilt: tensors, and objects with tensors in them, such as a schedule or a network.

    What a gradient is asked for is the same in all copies, so that gradients can be compared.
    """

    def copied(argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return argument.clone()
        parameters = argument.parameters() if isinstance(argument, torch.nn.Module) else ()
        return copy.deepcopy(argument, {id(parameter): parameter for parameter in parameters})

    return tuple(copied(argument) for argument in case)


def _tensors(names: list[str], case: tuple, arguments: tuple) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(what it is, before, after) of each tensor among the arguments, and of each table of a schedule."""
    for name, before, after in zip(names, case, arguments, strict=False):
        if isinstance(before, Tensor):
            yield name, before, after
        elif isinstance(before, NoiseSchedule):
            yield from ((f"schedule.{table}", value, vars(after)[table]) for table, value in vars(before).items())


def _lists(names: list[str], case: tuple, arguments: tuple) -> Iterator[tuple[str, Sized, Sized]]:
    """(what it is, before, after) of each list of a network among the arguments, or of what stands in for one."""
    for name, before, after in zip(names, case, arguments, strict=False):
        if isinstance(before, torch.nn.Module | SimpleNamespace):
            parts = vars(before) | vars(before).get("_modules", {})
            yield from (
                (f"{name}.{part}", value, getattr(after, part))
                for part, value in parts.items()
                if isinstance(value, list | torch.nn.ModuleList)
            )


def _difference(expected: Any, actual: Any, tolerance: float) -> str | None:
    """How `actual` differs from `expected`, as a sentence; None if it does not."""
    if isinstance(actual, Exception):
        if type(expected) is type(actual) and sorted(str(expected).split()) == sorted(str(actual).split()):
            return None  # words in any order: a * b and b * a name the sizes the other way round
        return _explain(actual)
    if isinstance(expected, Exception):
        return "It ran."
    if actual is None:
        return None if expected is None else "It returned None: is there a return, and in front of the result?"
    if isinstance(expected, tuple | list):
        return _difference_of_lists(expected, actual, tolerance)
    if not isinstance(actual, Tensor | tuple | list | int | float | complex):  # a dict, a set, some other object
        return None if type(actual) is type(expected) else f"Expected {_wanted(expected)}, got {_summary(actual)}."
    if _is_complex(actual):
        wanted = "The result is complex, and a real one is wanted: take .real, or a form that stays real."
        return None if _is_complex(expected) else wanted
    number = not isinstance(expected, Tensor)
    wanted = _wanted(expected)
    if number:
        right, expected, actual = expected, _as_number(expected), _as_number(actual)
        if not isinstance(expected, Tensor) or not isinstance(actual, Tensor):
            return None if expected == actual else f"Expected {right!r}, got {_summary(actual)}."
    if not isinstance(actual, Tensor):
        return f"Expected {wanted}, got {_summary(actual)}."
    if (actual.shape, actual.dtype, actual.device) != (expected.shape, expected.dtype, expected.device):
        advice = ""
        if number and actual.numel() == 1:
            advice = "; .item() makes one of it"
        elif actual.dtype == torch.float64 and expected.dtype == torch.float32 and actual.shape == expected.shape:
            advice = "; .float() makes it float32"
        return f"Expected {wanted}, got {_summary(actual)}{advice}."
    if not expected.numel():
        return None
    theirs, ours = actual.detach().double(), expected.detach().double()
    alike = (theirs == ours) | (theirs.isnan() & ours.isnan())  # an infinity equals itself, NaN is NaN again
    error = torch.where(alike, 0.0, (theirs - ours).abs()).max().item()
    if error <= tolerance * max(ours.nan_to_num(0, 0, 0).abs().max().item(), 1e-30):
        return _difference_of_gradients(expected, actual, tolerance) if tolerance else None  # 0: two equal calls
    if not theirs.isfinite().all() and ours.isfinite().all():
        return (
            "It contains NaN or infinity: is something divided by 0, or is it the root, logarithm or arc cosine of a "
            "number that has none?"
        )
    if bool((infinite := ours.isinf() & ~alike).any()):
        place = ", ".join(map(str, infinite.nonzero()[0].tolist()))
        return f"At index {place} it should be {ours[infinite][0].item()}, and is {theirs[infinite][0].item():.3g}."
    if number:
        return f"Expected {right:.6g}, got {theirs.item():.6g}."
    text = f"Shape and dtype are right, values are not: the largest error is {error:.3g}"
    if _is_double(expected) and error <= 1e-5 * ours.abs().max().item():
        return (
            f"{text}. That is little, but too much for 64 bits: is a small number added against a division by 0, or "
            "something computed in 32 bits?"
        )
    return f"{text}."


def _difference_of_gradients(expected: Tensor, actual: Tensor, tolerance: float) -> str | None:
    """How the gradients of two results with the same values differ, as a sentence; None if they do not."""
    if expected.grad_fn is None:
        return None
    leave_out = "leave out torch.no_grad(), .detach() and .item() here."
    if actual.grad_fn is None:
        return f"The values are right, but no gradient can flow: {leave_out}"
    leaves = _leaves(expected)
    ours, theirs = _gradient(expected, leaves), _gradient(actual, leaves)
    if isinstance(theirs, RuntimeError):
        said = str(theirs).splitlines()[0].split(": [")[0].rstrip(".")
        advice = "Do not change in place (+=, []=, or a method whose name ends in _) what a gradient still needs."
        text = f"The values are right, but no gradient flows back: PyTorch says {said!r}."
        if isinstance(ours, RuntimeError):
            return None
        return f"{text} {advice}" if "inplace" in said else text
    if isinstance(ours, Tensor) and (ours - theirs).abs().max() <= 100 * tolerance * ours.abs().max():
        return None  # a gradient has fewer digits than the values
    return f"The values are right, but their gradient is not: {leave_out}"


def _gradient(result: Tensor, leaves: list[Tensor]) -> Tensor | RuntimeError:
    """Of a weighted sum of the result, with respect to all leaves, as one vector; or why there is none."""
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(0), dtype=result.dtype)
    try:
        parts = torch.autograd.grad(
            (result * weights).sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    except RuntimeError as error:
        return error
    return torch.cat([part.flatten().double() for part in parts])


def _leaves(result: Tensor) -> list[Tensor]:
    """The tensors at which the gradient of `result` ends: arguments, or parameters of networks."""
    found, todo, seen = [], [result.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += [node.variable] if hasattr(node, "variable") else []
        todo += [before for before, _ in node.next_functions]
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) or (isinstance(value, Tensor) and value.ndim == 0)


def _difference_of_lists(expected: tuple | list, actual: Any, tolerance: float) -> str | None:
    alike = type(actual) is type(expected) or (type(expected), type(actual)) == (tuple, list)  # it unpacks as well
    if not alike or len(actual) != len(expected):
        advice = "; .tolist() makes a list of it" if isinstance(expected, list) and isinstance(actual, Tensor) else ""
        return f"Expected a {type(expected).__name__} of {len(expected)} values, got {_summary(actual)}{advice}."
    numbers = all(isinstance(value, int | float) for value in expected) and all(map(_is_number, actual))
    if numbers and isinstance(expected, list) and expected != actual:
        place = next(i for i, (e, a) in enumerate(zip(expected, actual, strict=True)) if e != a)
        return f"At index {place} it should be {expected[place]!r}, and is {actual[place]!r}."
    if (
        numbers
        and isinstance(expected, list)
        and any(type(a) is not int for e, a in zip(expected, actual, strict=True) if type(e) is int)
    ):
        return (
            "The numbers are right, but some are floats, or integers of NumPy or PyTorch: int(...) turns each into an "
            "integer of Python."
        )
    parts = (_difference(e, a, tolerance) for e, a in zip(expected, actual, strict=True))
    place, part = next(((place, part) for place, part in enumerate(parts) if part), (0, None))
    if part is None or len(expected) == 1:
        return part
    if isinstance(expected, list) or len(expected) > len(ORDINALS):
        return f"At index {place}: {part}"
    return f"The {ORDINALS[place]} of the {NUMERALS[len(expected)]} values: {part}"


def _is_complex(value: Any) -> bool:
    return value.is_complex() if isinstance(value, Tensor) else isinstance(value, complex)


def _as_number(value: Any) -> Any:
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, int | float) else value


ORDINALS = ("first", "second", "third", "fourth", "fifth")
NUMERALS = {2: "two", 3: "three", 4: "four", 5: "five"}

HINTS = {  # pattern in an error, or in the line that raised it -> what else to say
    r"in the line: .*\bnp\.": "NumPy's functions want arrays; torch has them for tensors: torch.sqrt, torch.log, "
    "x.mean(), x.sum().",
    "'astype'": "A tensor has no .astype: write .float().",
    "can be converted to Python scalars|cannot be converted to Scalar": "float(), .item() and math's functions take "
    "one number. For a tensor there are torch.sqrt(x), x.log(), x.acos(); and t itself, not t.item(), is an index.",
    "must be Tensor, not (int|float)": "torch's functions want tensors. A number has ** 0.5, math.sqrt, math.log.",
    "'(float|int)' object has no attribute": "A number has no methods of tensors: write b ** 0.5, or math.log(b).",
    "'float' object cannot be interpreted as an integer": "// divides and rounds down, and int(...) makes an integer.",
    "must be tuple of Tensors, not Tensor": "The tensors go into one list: torch.cat([a, b], dim=1).",
    "float division by zero": "A Python number stops there; a tensor gives inf, and goes on.",
    "EOFError": "Nobody answers input() when an answer is marked: use the arguments.",
    "failed to converge": "Is there NaN in the matrix? Rounding can make an eigenvalue negative: "
    ".clamp(min=0) before the root.",
    "step must be greater than zero": "A tensor is turned round by x.flip(dim).",
    "Could not infer sizes": "rearrange cannot split an axis into two unknown lengths: give it one, such as h=height.",
    r"(?s)Boolean value of Tensor.*in the line: .*\bif\b": "if wants one answer: torch.where(condition, a, b) "
    "chooses entry by entry.",
    r"(?s)Boolean value of Tensor.*in the line: .*\b(min|max)\(": "Python's min and max want one number: for a tensor, "
    "min(1, x) is x.clamp(max=1).",
    "bitwise_xor": "A power is written with two stars: x ** 2.",
    r"expected one number per image, shape \(\d+,\), got shape \(\d+,\)": "A whole table of a schedule has T + 1 "
    "numbers: sigma[t] takes those of the steps t.",
    r"imum\(\): argument": "torch.minimum and torch.maximum want two tensors: with a number, x.clamp(max=1).",
    r"(?s)(in range of \[-1, 0\]|\bmin\(\) received).*torch\.min\(": "torch.min(x, 1) looks along axis 1, and "
    "torch.min(1, x) wants two tensors; x.clamp(max=1) is the smaller of x and the number 1.",
}

NUMBERS_PER_IMAGE = (  # said beside "at non-singleton dimension", where an argument has shape (B,)
    "Is one of the two a number for each image, shape (B,)? Beside images (B, C, H, W) it needs [:, None, None, None], "
    "or per_image(numbers, images); beside a table (B, N) it needs [:, None]. A whole table of a schedule has T + 1 "
    "numbers: sigma[t] takes those of the steps t."
)


def _explain(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    if not frames:
        return f"It seems that {error}."
    text = f"It stopped with {type(error).__name__}: {error}\n  in the line: {frames[0].line}"
    return "\n".join([text, *(hint for pattern, hint in HINTS.items() if re.search(pattern, text))])


def _wanted(expected: Any) -> str:
    return _summary(expected) if isinstance(expected, Tensor) else "a number"


def _summary(value: Any) -> str:
    if isinstance(value, Tensor):
        on = f" on {value.device}" if value.device.type != "cpu" else ""
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}{on}"
    if isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value):
        parts = [*map(_summary, value[:4]), *["..."] * (len(value) > 4)]
        return f"a {type(value).__name__} of {len(value)}: {'; '.join(parts)}"
    return " ".join(f"{type(value).__name__} {value!r}".split())[:80]


def _describe(reference: Callable, case: tuple) -> str:
    names = list(inspect.signature(reference).parameters)
    parts = []
    for name, value in zip(names, case, strict=False):
        shown = f"{list(value.shape)}" if isinstance(value, Tensor) and value.ndim else f"{value!r}"
        shown = shown if len(shown) < 40 else f"a {type(value).__name__}"
        parts.append(f"{name}: {getattr(value, '__name__', shown)}")
    return ", ".join(parts)
