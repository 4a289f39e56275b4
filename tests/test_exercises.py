"""check, verify, show_solution; and every exercise: its answer is accepted, its mistakes are named."""

import dataclasses
import inspect
import math
import sys
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddpm_helpers import (
    check,
    corrupt,
    marking,
    naive_loss,
    per_image,
    posterior,
    probes,
    share_of_batch,
    show_solution,
    verify,
)
from ddpm_helpers.exercises import EXERCISES
from ddpm_helpers.losses import random_flip, stratified_steps
from ddpm_helpers.marking import AnswerError, EquationError, mark
from ddpm_helpers.metrics import prior_bits
from ddpm_helpers.nets import append_time, down_and_up, film
from ddpm_helpers.outcomes import SETTINGS, as_list, run
from ddpm_helpers.table import edited

each_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)


def named(function, name):
    """A copy of a function under the exercise's name, as a learner would have it."""

    def copy(*arguments):
        return function(*arguments)

    copy.__name__, copy.__signature__ = name, inspect.signature(function)
    return copy


def printed(capsys) -> str:
    """What was printed, on one line."""
    return " ".join(capsys.readouterr().out.split())


def said(answer, capsys, name="corrupt") -> str:
    """What check prints about a wrong answer; it must hand back the course's own."""
    answer.__name__ = name
    assert check(answer) is EXERCISES[name].reference
    return printed(capsys)


def blend(x, amount, noise):
    return (1 - per_image(amount, x)) * x + per_image(amount, x) * noise


def middle_without_gradient(net, h, known):
    parts = {name: getattr(net, name) for name in ("down", "shrink", "up", "grow")}
    return down_and_up(SimpleNamespace(**parts, middle=torch.no_grad()(net.middle)), h, known)


def results(function, exercise):
    return [run(function, case) for case in exercise.cases()]


@each_exercise
def test_right_answers_are_accepted_and_repeatable(exercise, capsys):
    """The reference, the written answer; twice the same, else a mistake could pass or fail by luck."""
    for function in (exercise.reference, exercise.function(exercise.body)):
        answer = named(function, exercise.name)
        assert check(answer) is answer
        assert capsys.readouterr().out == f"Exercise {exercise.tag} ({exercise.name}): correct.\n"
    assert str(results(exercise.reference, exercise)) == str(results(exercise.reference, exercise))
    assert len(exercise.wrong) >= 3


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("frechet_distance", lambda a, b: np.float64(EXERCISES["frechet_distance"].reference(a, b))),
        # tensors of the CPU that a GPU would take
        ("film", lambda h, scale, shift: film(h, scale * torch.tensor(1.0), shift)),
        ("film", lambda h, scale, shift: film(h, torch.ones(scale.shape).to(h) * scale, shift)),
        ("random_flip", lambda x, chance: random_flip(x[torch.arange(len(x))], chance)),
    ],
)
def test_what_is_accepted_beside(name, answer):
    assert mark(EXERCISES[name], answer).right


@each_exercise
def test_every_mistake_is_named(exercise, monkeypatch):
    """By its own sentence, as graders run it; what one gives on a case is computed once, for all that come after it."""
    cases = exercise.cases()
    known = cache(lambda function, place: run(function, cases[place]))
    monkeypatch.setenv("DDPM_STRICT", "1")
    monkeypatch.setitem(EXERCISES, exercise.name, exercise)
    dataclasses.replace(exercise, cases=lambda: cases)
    places = {id(case): place for place, case in enumerate(cases)}
    for module in (marking, probes):
        monkeypatch.setattr(module, "run", lambda function, case: known(function, places[id(case)]))
    wrong = {}
    for sentence, mistake in EXERCISES[exercise.name].wrong:
        with pytest.raises(AnswerError) as caught:
            check(mistake)
        if sentence not in str(caught.value):
            wrong[sentence] = str(caught.value)
    assert not wrong


def test_a_table_that_says_nothing_new_is_refused():
    own = EXERCISES["corrupt"]
    for table in ("no such text -> x\n  a\n", "x -> -x\n  a\nx -> 2 * x\n  a\n", "x -> -x\n"):
        with pytest.raises(ValueError, match=r"changes nothing|no sentence"):
            assert dataclasses.replace(own, table=f"return x\n\n{table}").wrong
    EXERCISES["corrupt"] = own
    assert edited("a = 1\nreturn a", "a = 2 ; a + 1") == "a = 2\nreturn a + 1"


def test_tables_are_read_when_they_are_needed():
    own = EXERCISES["corrupt"]
    fresh = dataclasses.replace(own)
    EXERCISES["corrupt"] = own
    assert mark(fresh, blend).right
    assert "wrong" not in vars(fresh)


def test_skeleton_is_greeted_and_what_is_left_of_it_named(capsys):
    def skeleton(x, amount, noise): ...

    def half_written(x, amount, noise):
        weight = ...
        return x * weight

    def begun(x, amount, noise):
        weight = per_image(amount, x)  # noqa: F841
        kept, added = ...  # noqa: RUF059
        return ...

    for answer in (skeleton, half_written, corrupt):  # checking twice is no answer
        assert "is yours to write. Until then" in said(answer, capsys)
    assert "is yours to write: kept and added and the result are still `...`. Until then" in said(begun, capsys)


def test_dots_left_over_are_no_skeleton(capsys):
    def value(x, amount, noise):
        ...  # two lines
        corrupted = ...  # noqa: F841
        return blend(x, amount, noise)

    def index(x, amount, noise):
        return torch.lerp(x, noise, amount[..., None, None, None])

    assert check(named(value, "corrupt")) is not corrupt
    assert check(named(index, "corrupt")) is not corrupt

    def wrong(x, amount, noise):
        corrupted = ...
        corrupted = blend(x, amount, noise) + 0.25
        return corrupted

    assert "the largest error is 0.25" in said(wrong, capsys)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda x, a, n: None, "is there a return"),
        (lambda x, a, n: blend(x, a, n)[0], "Expected a tensor of shape (5, 3, 4, 2), float32, got a tensor of shape"),
        (lambda x, a, n: blend(x, a, n).double(), "got a tensor of shape (5, 3, 4, 2), float64; .float() makes it"),
        (lambda x, a, n: 3.0, "got float 3.0"),
        (lambda x, a, n: {"image": x}, "Expected a tensor of shape (5, 3, 4, 2), float32, got dict {'image': tensor("),
        (lambda x, a, n: {1}, "got set {1}"),
        (lambda x, a, n: list(blend(x, a, n)), "got a list of 5: a tensor of shape (3, 4, 2), float32; a tensor"),
        (lambda x, a, n: torch.empty_like(x, device="meta"), "meta"),
        (lambda x, a, n: blend(x, a, n) + 0.25, "the largest error is 0.25, at index 0, 0, 0, 0: expected 0."),
        (lambda x, a: x, "takes 2 positional arguments but 3 were given"),
        (lambda x, a, n: x.no_such_thing, "no_such_thing"),
        (lambda x, a, n: blend(x, a, torch.rand_like(x)), "draws random numbers"),
        (lambda x, a, n: blend(x, a, n) + np.random.rand(), "two equal calls give two results"),
        (lambda x, a, n: blend(x, a, n).numpy(), "returns a NumPy array; return a tensor"),
        (lambda x, a, n: np.mean(x, 0), "torch has for tensors torch.sqrt"),
        (lambda x, a, n: x.astype(float), "and x.float() for astype"),
        (lambda x, a, n: a * n, "per_image(numbers, images)"),
        (lambda x, a, n: x.copy_(blend(x, a, n)), "changes x in place"),
        (lambda x, a, n: blend(x, a, n) * float("nan"), "contains NaN or infinity"),
        (lambda x, a, n: blend(x, a, n) * 1j, "float32, got a tensor of shape (5, 3, 4, 2), complex64."),
        (lambda x, a, n: (torch.manual_seed(5), blend(x, a, n))[1], "or sets a seed: use what it is given"),
        (lambda x, a, n: map(float, x), "or returns an iterator: list(...)"),
        (lambda x, a, n: (yield blend(x, a, n)), "has a `yield`, which must be `return`"),
        (lambda x, a, n: sys.exit(), "Leave out exit() and input(): use the arguments"),
        (lambda x, a, n: math.sqrt(x), "one number. For a tensor there are"),
        # what is said without a table
        (lambda x, n, a: blend(x, a, n), "right if called as corrupt(x, noise, amount)"),
        (lambda x, a, n: -blend(x, a, n), "-r is returned, where r is the right result"),
        (lambda x, a, n: blend(x, a, n).flip(0), "r.flip(0) is returned"),
        (lambda x, a, n: blend(x, a[0].expand_as(a), n), "amount[0] stands where amount belongs"),
        (lambda x, a, n: blend(x, a, n) * 3, "Every value is 3 times what it should be"),
        (lambda x, a, n: blend(x, a, n) + 0.25, "Every value is off by the same number, +0.25"),
        (
            lambda x, a, n: blend(x, a, n) * x.numel(),
            "120, 30, 64 times what they should be: is there a sum for a mean",
        ),
        (lambda x, a, n: blend(x, a, n).roll(2, 3), "The values are right, but stand in another order"),
        (lambda x, a, n: blend(x, a, n).flatten(), "The values are right, their shape or dtype is not"),
        (lambda x, a, n: blend(x, a, n).clamp(max=0.5), ", 0.5]: return it as it is"),
        (lambda x, a, n: torch.cat([blend(x, a, n)[:-1], n[-1:] + 1]), "Of 5 images, counted from 0, only 4 is wrong"),
        (lambda x, a, n: blend(x, a, n) + (x.shape[1] > 1), "It is right in 2 of 3 calls"),
    ],
)
def test_other_mistakes_are_described(wrong, says, capsys):
    text = said(wrong, capsys)
    assert says in text
    assert "goes on with the course's own corrupt" in text


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("ddim_steps", lambda T, steps: [T * i / steps // 1 for i in range(steps, 0, -1)], "some are floats"),
        ("ddim_steps", lambda T, steps: list(range(T, 0, -1))[:steps], "Value 2 of 4: Expected 750, got 999."),
        ("ddim_steps", lambda *a: torch.tensor(EXERCISES["ddim_steps"].reference(*a)), ".tolist() makes a list"),
        ("leading_steps", lambda T, steps: [200 * i + 1 for i in range(steps)][::-1], "It is right in 2 of 7 calls"),
        ("guided_eps", lambda eps, label, s: eps + 1.5 * s * (label - eps), "It is right in 1 of 5 calls"),
        ("frechet_distance", lambda a, b: torch.tensor(EXERCISES["frechet_distance"].reference(a, b)), "a number, got"),
        ("snr", lambda s: s.alpha_bar / (s.sigma**2 + 1e-5), "at index 0: expected inf, got"),
        ("snr", lambda s: s.alpha_bar / s.sigma.mul_(s.sigma), "changes s.sigma in place (+=, []=, .pop()"),
        ("naive_loss", lambda *a: naive_loss(*a) + naive_loss(*a) ** 2, "expected 0."),  # one number: any factor fits
        ("naive_loss", lambda *a: naive_loss(*a) / 784, "Every value is 1/784 times what it should be"),
        ("prior_bits", lambda *a: prior_bits(*a) * (1 + 1e-7), "That is little, but too much for 64 bits"),
        ("film", lambda h, scale, shift: h * scale[:, None], "at non-singleton dimension"),
        ("share_of_batch", lambda *a: share_of_batch(*a).float(), "(3,), float32; .long() makes it int64."),
        ("drop_labels", lambda *a: a[0].masked_fill(a[1] < torch.full((len(a[1]),), a[2]), a[3]), "on a GPU it would"),
        ("stratified_steps", lambda u, T: stratified_steps(torch.arange(len(u)) * 0.0 + u, T), "device=u.device"),
        ("append_time", lambda x, t, T: append_time(x, torch.tensor([*t]), T), "a tensor lies on the CPU"),
        ("film", lambda h, scale, shift: film(h, scale.cpu(), shift), "leave out .cpu()"),
        ("down_and_up", lambda net, h, known: (net.down.pop(0), h)[1], "changes net.down in place"),
        ("posterior", lambda *a: (posterior(*a)[0], 3 * posterior(*a)[1]), "Value 2 of 2: Shape and dtype are right"),
        # right values, and another gradient
        ("naive_loss", lambda *a: naive_loss(*a).detach().requires_grad_(), "their gradient is not, or none can flow"),
        ("naive_loss", torch.no_grad()(lambda *a: naive_loss(*a)), "their gradient is not, or none can flow"),
        ("naive_loss", lambda m, x, a, n: (e := m(blend(x, a, n)) - x).mul_(e).mean(), "do not change in place"),
        ("naive_loss", lambda *a: naive_loss(*a).item(), "return the tensor, or no gradient can flow"),
        ("append_time", lambda *a: append_time(*a).detach(), "their gradient is not"),
        ("down_and_up", middle_without_gradient, "their gradient is not"),
    ],
)
def test_results_that_look_right(name, wrong, says, capsys):
    text = said(named(wrong, name), capsys, name)
    assert says in text
    assert "per_image" not in text  # spoken of only where there are numbers for each image


@each_exercise
def test_rounding_to_32_bits_is_refused_where_64_are_given(exercise):
    """Else `check` accepts what the equations of the notebook, verified to 1e-9, then refuse."""

    def rounded(value):
        if isinstance(value, tuple):
            return tuple(map(rounded, value))
        return value.float().to(value.dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    parts = [part for result in results(exercise.reference, exercise) for part in as_list(result)]
    exact = [part for part in parts if getattr(part, "dtype", None) == torch.float64]
    verdict = mark(exercise, lambda *case: rounded(exercise.reference(*case)))
    assert verdict.right == (not any((rounded(part) - part).any() for part in exact))


def test_settings_are_put_back():
    def corrupt(x, amount, noise):
        torch.manual_seed(3)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        return blend(x, amount, noise)

    def settings():
        return [get() for get in SETTINGS], torch.get_rng_state().tolist()

    before = settings()
    assert "changes settings of PyTorch" in mark(EXERCISES["corrupt"], corrupt).problem
    assert settings() == before


def test_the_failing_call_is_shown_and_lines_are_folded(capsys):
    check(named(lambda x, a, n: blend(x, a, n) + 1, "corrupt"))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 88
    assert "The call was corrupt(x: [5, 3, 4, 2], amount: [5], noise: [5, 3, 4, 2])" in text
    for wrong in (lambda x, a, n: (1 - a) * x + a * n, lambda x, a, n: x * (1 - a) + n * a):  # sizes in either order
        assert "met the last axis of the images" in said(wrong, capsys)


def test_what_is_no_exercise_is_not_marked(capsys):
    def corrupts(x, amount, noise): ...

    for answer, says in {
        corrupts: "did you mean 'corrupt'?",
        (lambda x, amount, noise: x): "Write `def name(...):` with",
        (lambda x: x): "the exercise's name, undecorated",
        torch.zeros(2): "wants the function itself, without brackets: check(name)",
    }.items():
        assert check(answer) is answer
        text = printed(capsys)
        assert says in text
        assert "It is not marked, and the notebook goes on with it." in text


def test_nearest_images_must_not_hold_all_differences(capsys):
    def all_at_once(samples, images):
        found = (samples[:, None] - images).square().mean((2, 3, 4)).sqrt().min(1)
        return found.indices, found.values

    def one_by_one(samples, images):
        found = [all_at_once(sample[None], images) for sample in samples]
        return torch.cat([index for index, _ in found]), torch.cat([distance for _, distance in found])

    assert mark(EXERCISES["nearest_images"], one_by_one).right
    assert "that takes 38 GB" in said(all_at_once, capsys, "nearest_images")


def test_stop_button_is_not_swallowed():
    def corrupt(x, amount, noise):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(corrupt)


def test_show_solution(capsys):
    show_solution("guided_eps")
    assert capsys.readouterr().out == (
        "def guided_eps(eps, eps_label, scale):\n    return eps + scale * (eps_label - eps)\n"
    )
    with pytest.raises(ValueError, match="no exercise called 'nothing'"):
        show_solution("nothing")


def test_verify_exact(capsys):
    for left, right, says in (
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0 + 3e-7]), "difference 1.2e-07 of the largest value, tol"),
        (1e-9, 0.0, "difference 1.0e-09, tol"),
    ):
        verify("9.1", left, right)
        text = capsys.readouterr().out
        assert text.startswith("(9.1) holds: largest ")
        assert says in text
    verify("9.2", 0.5, 0.5, tol=0)
    for left, says in ((1.0, "9.3.*fails"), (float("nan"), "nan"), (torch.tensor([1.001, float("nan")]), "nan")):
        with pytest.raises(EquationError, match=says):
            verify("9.3", left, 1.001)
    with pytest.raises(ValueError, match="shape"):
        verify("9.6", torch.zeros(2), torch.zeros(3))


def test_verify_mean_would_notice_a_wrong_factor(capsys):
    draws = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(0))
    verify("9.7", samples=draws.square(), expected=1.0)
    assert "mean of 100,000 draws" in capsys.readouterr().out
    for samples, expected in ((draws.square(), 2**0.5), (draws * float("nan"), 0.0), (torch.ones(10), 1.5)):
        with pytest.raises(EquationError):
            verify("9.8", samples=samples, expected=expected)
