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
            problem = _odd(result) or _changed_argument(function, case, arguments) or changed_settings()
            if not problem and result is not None and difference(result, function(*copied(case)), 0.0):
                problem = "two equal calls give two results: use the arguments, and nothing that changes"
        except (Exception, SystemExit) as error:
            return error
    return Spoilt(problem) if problem else result


def copied(case: tuple) -> tuple:
    """Arguments that may be spoilt; the parameters of networks are the same in all copies, to compare gradients."""
    networks = [argument for argument in case if isinstance(argument, torch.nn.Module)]
    shared = {id(parameter): parameter for network in networks for parameter in network.parameters()}
    return tuple(part.clone() if isinstance(part, Tensor) else copy.deepcopy(part, dict(shared)) for part in case)


SETTINGS = {
    torch.get_default_dtype: torch.set_default_dtype,
    torch.is_grad_enabled: torch.set_grad_enabled,
    torch.are_deterministic_algorithms_enabled: torch.use_deterministic_algorithms,  # its first call takes seconds
}


@contextmanager
def settings_kept() -> Iterator[Callable[[], str]]:
    """Puts PyTorch's settings back at the end; until then, the function it gives says in words what has changed."""
    random, before = torch.get_rng_state(), [get() for get in SETTINGS]

    def changed() -> str:
        if [get() for get in SETTINGS] != before:
            return "your function changes settings of PyTorch: leave the default dtype and gradients alone"
        if not torch.equal(random, torch.get_rng_state()):
            return "your function draws random numbers or sets a seed: use what it is given, so that runs repeat"
        return ""

    try:
        yield changed
    finally:
        torch.set_rng_state(random)
        for (get, put), value in zip(SETTINGS.items(), before, strict=True):
            if get() != value:
                put(value)


def _odd(result: Any) -> str:
    """What is wrong with a kind of result that no exercise asks for."""
    parts = result if isinstance(result, tuple) else (result,)  # NumPy's float64 is a Python float, and stays one
    if any(isinstance(part, np.ndarray | np.generic) and not isinstance(part, float) for part in parts):
        return "your function returns a NumPy array; return a tensor, or with .tolist() a list of numbers"
    if hasattr(result, "__next__"):
        return "your function has a `yield`, which must be `return`, or returns an iterator: list(...) makes a list"
    return ""


def _changed_argument(function: Callable, case: tuple, arguments: tuple) -> str:
    """Which argument a call has changed, and what to do instead."""
    names = [*inspect.signature(function).parameters, *["its argument"] * len(case)]
    for name, before, after in zip(names, case, arguments, strict=False):
        now = _parts(name, after)
        for part, value in _parts(name, before).items():
            lists = isinstance(value, list | torch.nn.ModuleList)
            if len(value) != len(now[part]) if lists else isinstance(value, Tensor) and difference(value, now[part], 0):
                how = "(+=, []=, .pop(), or a method whose name ends in _)"
                return f"your function changes {part} in place {how}: leave it as it is, and make a new one"
    return ""


def _parts(name: str, value: Any) -> dict[str, Any]:
    """What may be changed of an argument: a tensor, or what a schedule or a network holds."""
    if not isinstance(value, NoiseSchedule | torch.nn.Module | SimpleNamespace):
        return {name: value}
    return {f"{name}.{part}": inside for part, inside in (vars(value) | vars(value).get("_modules", {})).items()}


class _OnCpu(TorchFunctionMode):
    """Follows the tensors that are made on the CPU wherever the arguments lie, and sees whether one meets another."""

    def __init__(self):
        super().__init__()
        self.made: dict[int, Tensor] = {}  # by id; held, so that no later tensor gets the id of one of them
        self.meets = False

    def __torch_function__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result, name, given = function(*args, **kwargs), function.__name__, [*args, *kwargs.values()]
        tensors = [part for value in given for part in as_list(value) if isinstance(part, Tensor)]
        if name.endswith("_as") or name in ("__getitem__", "__setitem__", "copy_"):
            tensors = tensors[:1]  # of the others only their shape, places or values count
        made = [part for part in tensors if id(part) in self.made]
        if "device" in kwargs or (name in ("to", "type_as") and {*map(type, given[1:])} != {torch.dtype}):
            self.made.pop(id(result), None)
        elif name in ("tensor", "cpu") or len(made) == len(tensors):  # 0 of 0 where it makes one out of numbers
            self.made |= {id(part): part for part in as_list(result) if isinstance(part, Tensor)}
        else:
            self.meets |= any(part.ndim for part in made)  # a single number may lie anywhere
        return result


def as_list(value: Any) -> list | tuple:
    return value if isinstance(value, list | tuple) else [value]


def stays_on_cpu(reference: Callable, answer: Callable, cases: list[tuple]) -> str | None:
    """What to do if the answer makes tensors on the CPU though its arguments lie elsewhere: on a GPU it would stop."""
    for case in cases:
        if _makes_on_cpu(answer, case) and not _makes_on_cpu(reference, case):
            named = zip(inspect.signature(reference).parameters, case, strict=False)
            name = next((name for name, value in named if isinstance(value, Tensor)), "x")
            return (
                "The numbers are right, but a tensor lies on the CPU wherever the arguments are: on a GPU it would "
                f"stop. Give torch.arange, torch.zeros or torch.tensor device={name}.device, and leave out .cpu()."
            )
    return None


def _makes_on_cpu(function: Callable, case: tuple) -> bool:
    """Whether a tensor made on the CPU is returned, or meets an argument."""
    with settings_kept(), suppress(Exception), _OnCpu() as seen:
        result = function(*copied(case))
        seen.meets |= any(id(part) in seen.made for part in as_list(result))
    return seen.meets


MAKES = {torch.float32: "; .float() makes it float32", torch.float64: "; .double() makes it float64"}
MAKES[torch.int64] = "; .long() makes it int64"


def difference(expected: Any, actual: Any, tolerance: float) -> str | None:
    """How `actual` differs from `expected`, as a sentence; None if it does not.

    The tolerance is relative to the largest value expected. With 0, which asks for equality, gradients do not count.
    """
    if isinstance(actual, BaseException):
        same = type(expected) is type(actual) and sorted(str(expected).split()) == sorted(str(actual).split())
        return None if same else explained(actual)  # words in any order: a * b and b * a name the sizes so
    if isinstance(expected, BaseException):
        return "It ran."
    if actual is None:
        return None if expected is None else "It returned None: is there a return, and in front of the result?"
    if isinstance(expected, tuple | list):
        return _difference_of_lists(expected, actual, tolerance)
    right, found, number = _as_tensor(expected), _as_tensor(actual), not isinstance(expected, Tensor)
    refused = f"Expected {'a number' if number else summary(expected)}, got {summary(actual)}"
    if not isinstance(right, Tensor) or not isinstance(found, Tensor):  # a dict, a set, some other object
        return None if type(actual) is type(expected) else f"{refused}."
    if not number and not isinstance(actual, Tensor):
        return f"{refused}{'; return the tensor, or no gradient can flow' * right.requires_grad}."
    if (found.shape, found.dtype, found.device) != (right.shape, right.dtype, right.device):
        advice = MAKES.get(right.dtype, "") * (found.shape == right.shape and not found.is_complex())
        return f"{refused}{'; .item() makes one of it' if number and found.numel() == 1 else advice}."
    if not right.numel() or right.is_complex():
        return None
    theirs, ours = found.detach().double(), right.detach().double()
    alike = (theirs == ours) | (theirs.isnan() & ours.isnan())  # an infinity equals itself, NaN is NaN again
    error = torch.where(alike, 0.0, (theirs - ours).abs())
    largest, scale = error.max().item(), ours.nan_to_num(0, 0, 0).abs().max().item()
    if largest <= tolerance * max(scale, 1e-30):
        return _difference_of_gradients(expected, actual, tolerance) if tolerance and not number else None
    if not theirs.isfinite().all() and ours.isfinite().all():
        why = "is something divided by 0, or is it the root, logarithm or arc cosine of a number that has none?"
        return f"It contains NaN or infinity: {why}"
    worst = error.flatten().max(0).indices.item()
    digits = 7 if right.dtype == torch.float32 else 12
    one, other = (f"{values.flatten()[worst].item():.{digits}g}" for values in (ours, theirs))
    place = ", ".join(str(int(i)) for i in np.unravel_index(worst, tuple(error.shape)))
    text = f"Shape and dtype are right, values are not: the largest error is {largest:.3g}"
    text += f"{', at index ' * bool(place)}{place}: expected {one}, got {other}."
    text = f"Expected {one}, got {other}." if number else text
    if right.dtype == torch.float64 and largest <= 1e-5 * scale:
        text += " That is little, but too much for 64 bits: is a small number added against a division by 0, or "
        text += "something computed in 32 bits?"
    return text


def _as_tensor(value: Any) -> Any:
    number = isinstance(value, int | float | complex | np.number)
    return torch.tensor(value, dtype=None if isinstance(value, complex) else torch.float64) if number else value


def _difference_of_gradients(expected: Tensor, actual: Tensor, tolerance: float) -> str | None:
    """How the gradients of two results with the same values differ, as a sentence; None if they do not."""
    if expected.grad_fn is None:
        return None
    ours, theirs = (_gradient(result, _leaves(expected)) for result in (expected, actual))
    if ours.shape == theirs.shape and (ours - theirs).norm() <= 100 * tolerance * ours.norm():
        return None  # a gradient has fewer digits than the values
    return (
        "The values are right, but their gradient is not, or none can flow: leave out torch.no_grad(), .detach() and "
        ".item() here, and do not change in place (+=, []=, or a method whose name ends in _) what a gradient needs."
    )


def _gradient(result: Tensor, leaves: list[Tensor]) -> Tensor:
    """Of a weighted sum of the result, with respect to all leaves, as one vector; empty if there is none."""
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(0), dtype=result.dtype)
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    try:
        parts = torch.autograd.grad((result * weights).sum(), leaves, **options)
    except RuntimeError:
        return torch.empty(0)
    return torch.cat([part.flatten().double() for part in parts])


def _leaves(result: Tensor) -> list[Tensor]:
    """The tensors at which the gradient of `result` ends: arguments, or parameters of networks."""
    found, todo = {}, [result.grad_fn]
    for node in todo:  # which grows
        if node is not None and node not in found:
            found[node] = getattr(node, "variable", None)
            todo += [before for before, _ in node.next_functions]
    return [leaf for leaf in found.values() if leaf is not None]


def _difference_of_lists(expected: tuple | list, actual: Any, tolerance: float) -> str | None:
    alike = type(actual) is type(expected) or (type(expected), type(actual)) == (tuple, list)  # it unpacks as well
    if not alike or len(actual) != len(expected):
        makes = ".tolist()" if isinstance(actual, Tensor) else "list(...)" if isinstance(actual, tuple | range) else ""
        advice = f"; {makes} makes a list of it" if makes and isinstance(expected, list) else ""
        return f"Expected a {type(expected).__name__} of {len(expected)} values, got {summary(actual)}{advice}."
    pairs = list(zip(expected, actual, strict=True))
    for place, (one, other) in enumerate(pairs, start=1):
        if part := difference(one, other, tolerance):
            return part if len(pairs) == 1 else f"Value {place} of {len(pairs)}: {part}"
    if all(type(other) is int for one, other in pairs if type(one) is int):
        return None
    return (
        "The numbers are right, but some are floats, or integers of NumPy or PyTorch: int(...) turns each into an "
        "integer of Python."
    )


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
    r"in the line: .*\bnp\.|'astype'": "NumPy's functions and methods want arrays; torch has for tensors torch.sqrt, "
    "torch.log, x.mean(), x.sum(), and x.float() for astype.",
    "can be converted to Python scalars|cannot be converted to Scalar": "float(), .item() and math's functions take "
    "one number. For a tensor there are torch.sqrt(x), x.log(), x.acos(); and t itself, not t.item(), is an index.",
    "must be Tensor, not (int|float)|'(float|int)' object has no attribute": "torch's functions and methods are for "
    "tensors. A number has ** 0.5, math.sqrt, math.log.",
    "'float' object cannot be interpreted as an integer": "// divides and rounds down, and int(...) makes an integer.",
    "must be tuple of Tensors, not Tensor": "The tensors go into one list: torch.cat([a, b], dim=1).",
    "float division by zero": "A Python number stops there; a tensor gives inf, and goes on.",
    "SystemExit|EOFError": "Leave out exit() and input(): use the arguments, and return the result.",
    "failed to converge": "Is there NaN in the matrix? Rounding can make an eigenvalue negative: "
    ".clamp(min=0) before the root.",
    "step must be greater than zero": "A tensor is turned round by x.flip(dim).",
    "Could not infer sizes": "rearrange cannot split an axis into two unknown lengths: give it one, such as h=height.",
    r"(?s)Boolean value of Tensor.*in the line: .*\bif\b": "if wants one answer: torch.where(condition, a, b) "
    "chooses entry by entry.",
    "bitwise_xor": "A power is written with two stars: x ** 2.",
    r"expected one number per image, shape \(\d+,\), got shape \(\d+,\)": "A whole table of a schedule has T + 1 "
    "numbers: sigma[t] takes those of the steps t.",
    r"imum\(\): argument|(?s:(in range of \[-1, 0\]|\bmin\(\) received).*torch\.min\(|Boolean value of Tensor.*in the "
    r"line: .*\b(min|max)\()": "Python's min(1, x) wants numbers, torch.minimum two tensors, and torch.min(x, 1) looks "
    "along axis 1: the smaller of x and the number 1 is x.clamp(max=1).",
}


def explained(error: BaseException) -> str:
    """What an exception says, in which line, and what to do about it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    if not frames:  # what a call does, or how it was called
        return f"It seems that {error}."
    text = f"It stopped with {type(error).__name__}: {error}\n  in the line: {frames[0].line}"
    return "\n".join([text, *(hint for pattern, hint in HINTS.items() if re.search(pattern, text))])
