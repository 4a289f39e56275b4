"""What a function gives on a case, and how two results differ, in words."""

import copy
import inspect
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .schedule import NoiseSchedule


class Spoilt(Exception):
    """What a function does beside returning a result, in words."""


def run(function: Callable, case: tuple) -> Any:
    """The function's result on a case; an exception, or what else it does, is a result, too."""
    with settings_kept() as changed_settings:
        try:
            arguments = copied(case)
            result = function(*arguments)
            if problem := _odd(function, result) or _changed_argument(function, case, arguments):
                return Spoilt(problem)
            again = function(*copied(case))
            if result is not None and difference(result, again, 0.0):
                return Spoilt("two equal calls give two results; use the arguments instead of new random numbers")
            problem = changed_settings()
        except (Exception, SystemExit) as error:
            return error
    return Spoilt(problem) if problem else result


def copied(case: tuple) -> tuple:
    """Arguments that may be spoilt: tensors, and objects with tensors in them, such as a schedule or a network.

    What a gradient is asked for is the same in all copies, so that gradients can be compared.
    """

    def copy_of(argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return argument.clone()
        parameters = argument.parameters() if isinstance(argument, torch.nn.Module) else ()
        return copy.deepcopy(argument, {id(parameter): parameter for parameter in parameters})

    return tuple(copy_of(argument) for argument in case)


def _settings() -> tuple:
    reproducible = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.initial_seed(), torch.get_default_dtype(), torch.is_grad_enabled(), *reproducible


@contextmanager
def settings_kept() -> Iterator[Callable[[], str]]:
    """Puts PyTorch's settings back at the end; until then, the function it gives says in words what has changed."""
    random, before = torch.get_rng_state(), _settings()

    def changed() -> str:
        if _settings() != before:
            return "your function changes settings of PyTorch: leave the seed, the default dtype and gradients alone"
        if not torch.equal(random, torch.get_rng_state()):
            return "your function draws random numbers: use those that it is given, so that a run can be repeated"
        return ""

    try:
        yield changed
    finally:
        torch.set_rng_state(random)
        _, dtype, gradients, deterministic, warn_only = before
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if _settings() != before:  # not always: the first time this call takes seconds
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def _odd(function: Callable, result: Any) -> str:
    """What is wrong with a kind of result that no exercise asks for."""
    parts = result if isinstance(result, tuple) else (result,)  # NumPy's float64 is a Python float, and stays one
    if any(isinstance(part, np.ndarray | np.generic) and not isinstance(part, float) for part in parts):
        return "your function returns a NumPy array; return a tensor, or with .tolist() a list of numbers"
    if inspect.isgeneratorfunction(function):
        return "there is a `yield`, which makes the function a generator and its call no result: write `return`"
    if hasattr(result, "__next__"):
        return "your function returns an iterator, which is used up after one reading; list(...) makes a list"
    return ""


def _changed_argument(function: Callable, case: tuple, arguments: tuple) -> str:
    """Which argument a call has changed, and what to do instead."""
    names = [*inspect.signature(function).parameters, *["its argument"] * len(case)]
    for name, before, after in zip(names, case, arguments, strict=False):
        inside = {}
        if isinstance(before, Tensor):
            inside = {name: (before, after)}
        elif isinstance(before, NoiseSchedule):
            inside = {f"schedule.{table}": (value, vars(after)[table]) for table, value in vars(before).items()}
        elif isinstance(before, torch.nn.Module | SimpleNamespace):
            parts = vars(before) | vars(before).get("_modules", {})
            inside = {f"{name}.{part}": (value, getattr(after, part)) for part, value in parts.items()}
        for what, (value, now) in inside.items():
            if isinstance(value, list | torch.nn.ModuleList) and len(value) != len(now):
                return (
                    f"your function changes the length of {what}: the next call would find another network. Read the "
                    "list, with a loop or an index, instead of taking from it"
                )
            if isinstance(value, Tensor) and difference(value, now, 0.0):
                return (
                    f"your function changes {what} in place (+=, []=, or a method whose name ends in _); make a new "
                    "tensor instead"
                )
    return ""


class _Makes(TorchFunctionMode):
    """Sees whether a tensor is made that does not follow the device of an argument."""

    seen = False

    def __torch_function__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        parts = [part for arg in args for part in (arg if isinstance(arg, list | tuple) else [arg])]
        if isinstance(result, Tensor) and result.ndim and not any(isinstance(part, Tensor) for part in parts):
            self.seen |= "device" not in (kwargs or {})
        return result


def stays_on_cpu(reference: Callable, answer: Callable, cases: list[tuple]) -> bool:
    """Whether the answer makes tensors on the CPU though its arguments lie elsewhere: on a GPU it would stop.

    Tried on the device "meta", where tensors have shapes and no numbers; its first use takes two seconds.
    """
    with settings_kept(), suppress(Exception, SystemExit), _Makes() as makes:
        answer(*copied(cases[0]))
    for case in cases if makes.seen else ():
        with settings_kept():
            try:
                right = _devices(reference(*_on_meta(case)))
            except Exception:
                continue  # it needs numbers
            if torch.device("meta") not in right:
                continue
            try:
                return _devices(answer(*_on_meta(case))) != right
            except (Exception, SystemExit) as error:  # that it needs numbers is no fault
                return bool(re.search("expected device|same device", str(error)))
    return False


def _on_meta(case: tuple) -> list:
    movable = Tensor | NoiseSchedule | torch.nn.Module
    alone = [copy.deepcopy(part) if isinstance(part, torch.nn.Module) else part for part in case]
    return [part.to("meta") if isinstance(part, movable) else part for part in alone]


def _devices(result: Any) -> list[torch.device]:
    parts = result if isinstance(result, tuple | list) else [result]
    return [part.device for part in parts if isinstance(part, Tensor)]


ORDINALS = ("first", "second", "third", "fourth", "fifth")
NUMERALS = {2: "two", 3: "three", 4: "four", 5: "five"}


def difference(expected: Any, actual: Any, tolerance: float) -> str | None:
    """How `actual` differs from `expected`, as a sentence; None if it does not.

    The tolerance is relative to the largest value expected. With 0, which asks for equality, gradients do not count.
    """
    if isinstance(actual, BaseException):
        if type(expected) is type(actual) and sorted(str(expected).split()) == sorted(str(actual).split()):
            return None  # words in any order: a * b and b * a name the sizes the other way round
        return explained(actual)
    if isinstance(expected, BaseException):
        return "It ran."
    if actual is None:
        return None if expected is None else "It returned None: is there a return, and in front of the result?"
    if isinstance(expected, tuple | list):
        return _difference_of_lists(expected, actual, tolerance)
    wanted = summary(expected) if isinstance(expected, Tensor) else "a number"
    if not isinstance(actual, Tensor | tuple | list | int | float | complex):  # a dict, a set, some other object
        return None if type(actual) is type(expected) else f"Expected {wanted}, got {summary(actual)}."
    if actual.is_complex() if isinstance(actual, Tensor) else isinstance(actual, complex):
        alike = isinstance(expected, complex) or (isinstance(expected, Tensor) and expected.is_complex())
        return (
            None if alike else "The result is complex, and a real one is wanted: take .real, or a form that stays real."
        )
    number = not isinstance(expected, Tensor)
    if number:
        right, expected, actual = expected, _as_number(expected), _as_number(actual)
        if not isinstance(expected, Tensor) or not isinstance(actual, Tensor):
            return None if expected == actual else f"Expected {right!r}, got {summary(actual)}."
    if not isinstance(actual, Tensor):
        return f"Expected {wanted}, got {summary(actual)}."
    if (actual.shape, actual.dtype, actual.device) != (expected.shape, expected.dtype, expected.device):
        advice = ""
        if number and actual.numel() == 1:
            advice = "; .item() makes one of it"
        elif actual.dtype == torch.float64 and expected.dtype == torch.float32 and actual.shape == expected.shape:
            advice = "; .float() makes it float32"
        return f"Expected {wanted}, got {summary(actual)}{advice}."
    if not expected.numel():
        return None
    theirs, ours = actual.detach().double(), expected.detach().double()
    alike = (theirs == ours) | (theirs.isnan() & ours.isnan())  # an infinity equals itself, NaN is NaN again
    error = torch.where(alike, 0.0, (theirs - ours).abs())
    largest = error.max().item()
    if largest <= tolerance * max(ours.nan_to_num(0, 0, 0).abs().max().item(), 1e-30):
        return _difference_of_gradients(expected, actual, tolerance) if tolerance else None
    if not theirs.isfinite().all() and ours.isfinite().all():
        return (
            "It contains NaN or infinity: is something divided by 0, or is it the root, logarithm or arc cosine of a "
            "number that has none?"
        )
    infinite = ours.isinf() & ~alike
    worst = (infinite if infinite.any() else error).flatten().max(0).indices.item()
    place = ", ".join(str(int(i)) for i in np.unravel_index(worst, tuple(error.shape)))
    one, other = _told_apart(ours.flatten()[worst].item(), theirs.flatten()[worst].item())
    if infinite.any():
        return f"At index {place} it should be {one}, and is {other}."
    if number:
        return f"Expected {one}, got {other}."
    text = f"Shape and dtype are right, values are not: the largest error is {largest:.3g}"
    text += f", at index {place}: expected {one}, got {other}" if place else f": expected {one}, got {other}"
    if expected.dtype == torch.float64 and largest <= 1e-5 * ours.abs().max().item():
        return (
            f"{text}. That is little, but too much for 64 bits: is a small number added against a division by 0, or "
            "something computed in 32 bits?"
        )
    return f"{text}."


def _told_apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers, written with as few digits as tell them apart."""
    pairs = [(f"{one:.{digits}g}", f"{other:.{digits}g}") for digits in (4, 8, 17)]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[-1])


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
        if isinstance(ours, RuntimeError):
            return None
        said = str(theirs).splitlines()[0].split(": [")[0].rstrip(".")
        advice = " Do not change in place (+=, []=, or a method whose name ends in _) what a gradient still needs."
        text = f"The values are right, but no gradient flows back: PyTorch says {said!r}."
        return text + advice * ("inplace" in said)
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


def _difference_of_lists(expected: tuple | list, actual: Any, tolerance: float) -> str | None:
    alike = type(actual) is type(expected) or (type(expected), type(actual)) == (tuple, list)  # it unpacks as well
    if not alike or len(actual) != len(expected):
        advice = "; .tolist() makes a list of it" if isinstance(expected, list) and isinstance(actual, Tensor) else ""
        return f"Expected a {type(expected).__name__} of {len(expected)} values, got {summary(actual)}{advice}."
    if isinstance(expected, list) and all(map(_is_number, [*expected, *actual])):
        pairs = list(zip(expected, actual, strict=True))
        if expected != actual:
            place = next(i for i, (e, a) in enumerate(pairs) if e != a)
            return f"At index {place} it should be {expected[place]!r}, and is {actual[place]!r}."
        if all(type(a) is int for e, a in pairs if type(e) is int):
            return None
        return (
            "The numbers are right, but some are floats, or integers of NumPy or PyTorch: int(...) turns each into an "
            "integer of Python."
        )
    parts = (difference(e, a, tolerance) for e, a in zip(expected, actual, strict=True))
    place, part = next(((place, part) for place, part in enumerate(parts) if part), (0, None))
    if part is None or len(expected) == 1:
        return part
    if isinstance(expected, list) or len(expected) > len(ORDINALS):
        return f"At index {place}: {part}"
    return f"The {ORDINALS[place]} of the {NUMERALS[len(expected)]} values: {part}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) or (isinstance(value, Tensor) and value.ndim == 0)


def _as_number(value: Any) -> Any:
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, int | float) else value


def summary(value: Any) -> str:
    """A value in a few words: of a tensor its shape, dtype and device."""
    if isinstance(value, Tensor):
        on = f" on {value.device}" if value.device.type != "cpu" else ""
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}{on}"
    if isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value):
        parts = [*map(summary, value[:4]), *["..."] * (len(value) > 4)]
        return f"a {type(value).__name__} of {len(value)}: {'; '.join(parts)}"
    return " ".join(f"{type(value).__name__} {value!r}".split())[:80]


def call_of(reference: Callable, case: tuple) -> str:
    """A call in words: corrupt(x: [5, 3, 4, 2], amount: [5], noise: [5, 3, 4, 2])."""
    parts = []
    for name, value in zip(inspect.signature(reference).parameters, case, strict=False):
        shown = f"{list(value.shape)}" if isinstance(value, Tensor) and value.ndim else f"{value!r}"
        shown = shown if len(shown) < 40 else f"a {type(value).__name__}"
        parts.append(f"{name}: {getattr(value, '__name__', shown)}")
    return f"{reference.__name__}({', '.join(parts)})"


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
    "SystemExit": "exit() and sys.exit() end a program: leave them out, and return the result.",
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


def explained(error: BaseException) -> str:
    """What an exception says, in which line, and what to do about it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    if not frames:  # what a call does, or how it was called
        return f"It seems that {error}."
    text = f"It stopped with {type(error).__name__}: {error}\n  in the line: {frames[0].line}"
    return "\n".join([text, *(hint for pattern, hint in HINTS.items() if re.search(pattern, text))])
