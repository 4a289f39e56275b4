"""What can be said of a wrong answer that no table names: how its outcomes are related to the right ones."""

import re
import warnings
from collections.abc import Callable, Iterable
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from .outcomes import as_list, difference, run
from .table import Exercise


class Trial:
    """An answer on the cases of an exercise: its outcomes, and how they differ from what is expected."""

    def __init__(self, exercise: Exercise, answer: Callable):
        self.reference, self.answer, self.cases = exercise.reference, answer, exercise.cases()
        self.arguments = exercise.arguments
        self.expected = [run(self.reference, case) for case in self.cases]
        self.outcomes = [run(answer, case) for case in self.cases]
        exact = zip(self.cases, self.expected, strict=True)  # a number has the dtype of what it is made of
        exact = [as_list(case if type(right) is float else right) for case, right in exact]
        doubles = [any(getattr(part, "dtype", None) == torch.float64 for part in parts) for parts in exact]
        self.tolerances = [exercise.tolerance_64 if double else exercise.tolerance for double in doubles]
        self.differences = list(map(difference, self.expected, self.outcomes, self.tolerances))

    def is_like(self, results: Iterable[Any]) -> bool:
        """Whether the outcomes equal some other results; a number does not equal a tensor."""
        return all(
            isinstance(result, Tensor) == isinstance(outcome, Tensor) and difference(result, outcome, tolerance) is None
            for result, outcome, tolerance in zip(results, self.outcomes, self.tolerances, strict=True)
        )


# What may stand where an argument v belongs, and what may be returned where the right result is r.
ARGUMENTS = ["v[0].expand_as(v)", "v[-1].expand_as(v)", "v.mean().expand_as(v)", "v - 1", "v + 1", "-v", "1 - v"]
ARGUMENTS += ["v**2", "v**0.5", "2 * v", "v / 2", "v.clamp(-1, 1)", "0 * v", "0 * v + 1"]
RESULTS = ["-r", "1 - r", "1 / r", "r**2", "r**0.5", "r.log()", "r.exp()", "abs(r)", "r.clamp(-1, 1)", "r.clamp(0, 1)"]
RESULTS += ["r.mean()", "r.mean(0)", "r.sum()", "r.sum(0)", "r.flip(0)", "r.flip(1)", "r.flip(-1)", "r[::-1]", "r.mT"]
RESULTS += ["r.item()", "r.round()", "r.int()", "r.long()"]


def probed(trial: Trial) -> str | None:
    """One general sentence about a wrong answer, or None; what explains all calls goes first."""
    if any("The values are right" in str(said) for said in trial.differences):
        return None  # another gradient, of which the difference speaks
    looks = [_permuted, _right_for_some_calls]
    if not any(isinstance(outcome, BaseException) for outcome in trial.outcomes):
        looks[1:1] = _changed_argument, _changed_result, _by_numbers, _right_for_some_entries
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return next((found for look in looks if (found := _tried(look, (trial,)))), None)


def _tried(function: Callable, case: tuple) -> Any:
    """What a function gives, or None: where a probe cannot be made, nothing is said, and the answer is marked."""
    try:
        return function(*case)
    except Exception:
        return None


def _permuted(trial: Trial) -> str | None:
    names = trial.arguments
    for order in list(permutations(range(len(names))))[1:] if len(names) <= 4 else []:
        results = (run(trial.answer, tuple(case[i] for i in order)) for case in trial.cases)
        if not any(map(difference, trial.expected, results, trial.tolerances)):
            name, called = trial.reference.__name__, ", ".join(names[i] for i in order)
            return f"It would be right if called as {name}({called}); it is called as {name}({', '.join(names)})."
    return None


def _changed_argument(trial: Trial) -> str | None:
    for place, name in enumerate(trial.arguments):
        for text in ARGUMENTS:
            change = eval(f"lambda v: {text}")
            changed = [(*case[:place], _tried(change, (case[place],)), *case[place + 1 :]) for case in trial.cases]
            if trial.is_like(_tried(trial.reference, case) for case in changed):
                text = text.replace(".expand_as(v)", "").replace("0 * v + ", "").replace("0 * v", "0")
                shown = re.sub(r"\bv\b", name, text)
                return f"It looks as if {shown} stands where {name} belongs."
    return None


def _changed_result(trial: Trial) -> str | None:
    for text in RESULTS:
        change = eval(f"lambda r: {text}")
        if trial.is_like(_tried(change, (right,)) for right in trial.expected):
            return f"It looks as if {text} is returned, where r is the right result."
    return None


def _by_numbers(trial: Trial) -> str | None:
    """Factors, offsets and orders, which are read off the numbers."""
    right, found = ([_flat(value) for value in values] for values in (trial.expected, trial.outcomes))
    count = sum(map(len, right))
    if list(map(len, right)) != list(map(len, found)) or count < 2:
        return None

    def equals(values: Iterable[Tensor], others: list[Tensor] = found) -> bool:
        calls = zip(right, values, others, trial.tolerances, strict=True)
        return all(bool((value - other).abs().max() <= share * r.abs().max()) for r, value, other, share in calls)

    if equals(right):
        return "The values are right, their shape or dtype is not."
    if equals([r.sort().values for r in right], [f.sort().values for f in found]):
        return "The values are right, but stand in another order."
    factors = [((f @ r) / (r @ r)).item() for r, f in zip(right, found, strict=True)]
    if equals(factor * r for factor, r in zip(factors, right, strict=True)):
        if max(factors) - min(factors) <= 1e-4 * abs(factors[0]) and abs(factors[0] - 1) > 1e-6:
            share = round(1 / factors[0]) if 0 < factors[0] < 1 else 1  # 0.001276 is 1/784
            shown = f"1/{share}" if share > 1 and abs(share * factors[0] - 1) < 1e-4 else f"{factors[0]:.4g}"
            return f"Every value is {shown} times what it should be."
        whole = [max(factor, 1 / factor) if factor > 0 else 0.5 for factor in factors]
        if max(whole) > 1.5 and all(abs(number - round(number)) < 1e-3 for number in whole):
            said = ", ".join(f"{factor:.4g}" for factor in factors)
            return f"The values are {said} times what they should be: is there a sum for a mean, or a mean for a sum?"
    low, high = min(f.min() for f in found), max(f.max() for f in found)
    if count >= 20 and equals(r.clamp(low, high) for r in right):
        return f"The result is clipped to [{low:.4g}, {high:.4g}]: return it as it is."
    offset = (found[0] - right[0]).mean()
    return f"Every value is off by the same number, {offset:+.4g}." if equals(r + offset for r in right) else None


def _flat(value: Any) -> Tensor:
    """The numbers of a result in 64 bits; none where there is something else in it."""
    numbers = value if isinstance(value, Tensor) else _tried(lambda: torch.tensor(value, dtype=torch.float64), ())
    usable = numbers is not None and not numbers.is_complex() and not numbers.is_meta and numbers.isfinite().all()
    return numbers.detach().flatten().double() if usable else torch.empty(0)


def _right_for_some_entries(trial: Trial) -> str | None:
    calls = zip(trial.expected, trial.outcomes, trial.tolerances, trial.differences, strict=True)
    right, found, tolerance = next(call[:3] for call in calls if call[3])
    if not isinstance(right, Tensor) or right.ndim == 0 or getattr(found, "shape", ()) != right.shape:
        return None
    error = (found.detach().double() - right.detach().double()).abs().reshape(len(right), -1).amax(1)
    wrong = (error > tolerance * right.abs().max()).nonzero().flatten().tolist()
    if not 0 < len(wrong) < len(right) or len(right) > 20:
        return None
    what, which = "images" if right.ndim == 4 else "entries", ", ".join(map(str, wrong))
    return f"Of {len(right)} {what}, counted from 0, only {which} {'is' if len(wrong) == 1 else 'are'} wrong."


def _right_for_some_calls(trial: Trial) -> str | None:
    right = sum(said is None for said in trial.differences)
    if not right or "64 bits" in str(trial.differences):
        return None  # 64 bits are asked for in some calls only, and are spoken of
    calls = f"{right} of {len(trial.cases)} calls"
    return f"It is right in {calls}: is a number or a size built in that belongs to one call? Use the arguments."
