"""check, verify, show_solution; and every exercise: its answer is accepted, its mistakes are named."""

import ast
import dataclasses
import inspect
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddpm_helpers import AnswerError, EquationError, check, corrupt, naive_loss, per_image, show_solution, verify
from ddpm_helpers.exercises import EXERCISES
from ddpm_helpers.marking import mark, solution
from ddpm_helpers.outcomes import run
from ddpm_helpers.table import edited, function, mistakes

SOURCES = Path(__file__).parent.parent / "notebooks" / "src"
NOTEBOOKS = [ast.parse(re.sub(r"(?m)^[%!]", "#", path.read_text())) for path in SOURCES.glob("*.py")]
MISTAKES = [
    pytest.param(exercise, sentence, mistake, id=f"{exercise.name}-{number}")
    for exercise in EXERCISES.values()
    for number, (sentence, mistake) in enumerate(exercise.wrong.items(), start=1)
]
each_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
each_table = pytest.mark.parametrize("exercise", [e for e in EXERCISES.values() if isinstance(e.mistakes, str)])


def named(function, name):
    """A copy of a function under the exercise's name, as a learner would have it."""

    def copy(*arguments):
        return function(*arguments)

    copy.__name__, copy.__signature__ = name, inspect.signature(function)
    return copy


def printed(capsys) -> str:
    """What was printed, on one line."""
    return " ".join(capsys.readouterr().out.split())


def name_of(node) -> str:
    return node.name if isinstance(node, ast.FunctionDef) else ""


def said(answer, capsys, name="corrupt") -> str:
    """What check prints about a wrong answer; it must hand back the course's own."""
    answer.__name__ = name
    assert check(answer) is EXERCISES[name].reference
    return printed(capsys)


def mean_and_variance(*arguments):
    return EXERCISES["posterior"].reference(*arguments)


def blend(x, amount, noise):
    return (1 - per_image(amount, x)) * x + per_image(amount, x) * noise


def results(function, exercise):
    return [run(function, case) for case in exercise.cases()]


@each_exercise
def test_right_answer_is_accepted(exercise, capsys):
    answer = named(exercise.reference, exercise.name)
    assert check(answer) is answer
    assert capsys.readouterr().out == f"Exercise {exercise.tag} ({exercise.name}): correct.\n"


@each_table
def test_the_written_answer_is_right(exercise):
    assert mark(exercise, function(exercise.reference, exercise.body, exercise.names, exercise.asked)).right


@each_exercise
def test_every_exercise_has_enough_mistakes(exercise):
    assert len(exercise.wrong) >= 3


@pytest.mark.parametrize(("exercise", "sentence", "mistake"), MISTAKES)
def test_mistake_is_named(exercise, sentence, mistake, monkeypatch):
    monkeypatch.setenv("DDPM_STRICT", "1")  # as graders run it
    with pytest.raises(AnswerError) as caught:
        check(named(mistake, exercise.name))
    assert sentence in str(caught.value)


@each_exercise
def test_cases_are_repeatable(exercise):
    """Else a mistake could pass or fail by luck."""
    assert str(results(exercise.reference, exercise)) == str(results(exercise.reference, exercise))


def test_a_table_that_says_nothing_new_is_refused():
    for table in ("no such text -> x\n  a", "x -> -x\n  a\nx -> 2 * x\n  a", "x -> -x"):
        with pytest.raises(ValueError, match=r"changes nothing|no sentence"):
            mistakes(corrupt, "return x", table, {})
    assert edited("a = 1\nreturn a", "a = 2 ; a + 1") == "a = 2\nreturn a + 1"


def test_exercises_are_loaded_and_tables_read_when_they_are_needed():
    names = "import sys, ddpm_helpers; print([name for name in sys.modules if 'ddpm_helpers.exercises' in name])"
    assert subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=True).stdout == "[]\n"
    own = EXERCISES["corrupt"]
    fresh = dataclasses.replace(own)
    EXERCISES["corrupt"] = own
    assert mark(fresh, blend).right
    assert "wrong" not in vars(fresh)


def test_skeleton_is_greeted(capsys):
    def skeleton(x, amount, noise): ...

    def half_written(x, amount, noise):
        weight = ...
        return x * weight

    for answer in (skeleton, half_written, corrupt):  # checking twice is no answer
        text = said(answer, capsys)
        assert "is yours to write" in text
        assert "not yet" not in text


def test_what_is_left_of_an_answer_that_was_begun_is_named(capsys):
    def begun(x, amount, noise):
        weight = per_image(amount, x)
        kept = ...
        added = ...
        return weight * (kept + added)

    assert "is yours to write: kept and added are still `...`." in said(begun, capsys)

    def pair(x, amount, noise):
        weight = per_image(amount, x)  # noqa: F841
        kept, added = ...  # noqa: RUF059
        return ...

    assert "is yours to write: kept and added and the result are still `...`." in said(pair, capsys)


def test_dots_left_over_are_no_skeleton(capsys):
    def line(x, amount, noise):
        ...  # two lines
        return blend(x, amount, noise)

    def value(x, amount, noise):
        corrupted = ...  # noqa: F841
        return blend(x, amount, noise)

    def index(x, amount, noise):
        weight = amount[..., None, None, None]
        return (1 - weight) * x + weight * noise

    for answer in (line, value, index):
        assert check(named(answer, "corrupt")) is not corrupt

    def wrong(x, amount, noise):
        corrupted = ...  # two lines
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
        (lambda x, a, n: blend(x, a, torch.rand_like(x)), "two equal calls give two results"),
        (lambda x, a, n: blend(x, a, n).numpy(), "returns a NumPy array; return a tensor"),
        (lambda x, a, n: np.mean(x, 0), "torch has them for tensors"),
        (lambda x, a, n: x.astype(float), "write .float()"),
        (lambda x, a, n: a * n, "per_image(numbers, images)"),
        (lambda x, a, n: x.copy_(blend(x, a, n)), "changes x in place"),
        (lambda x, a, n: blend(x, a, n) * float("nan"), "contains NaN or infinity"),
        (lambda x, a, n: blend(x, a, n) * 1j, "The result is complex"),
        (lambda x, a, n: (torch.rand(1), blend(x, a, n))[1], "draws random numbers"),
        (lambda x, a, n: (torch.manual_seed(5), blend(x, a, n))[1], "changes settings of PyTorch: leave the seed"),
        (lambda x, a, n: map(float, x), "returns an iterator"),
        (lambda x, a, n: (yield blend(x, a, n)), "write `return`"),
        (lambda x, a, n: sys.exit(), "leave them out, and return the result"),
        (lambda x, a, n: math.sqrt(x), "one number. For a tensor there are"),
        # what is said without a table
        (lambda x, n, a: blend(x, a, n), "right if called as corrupt(x, noise, amount)"),
        (lambda x, a, n: -blend(x, a, n), "-r is returned, where r is the right result"),
        (lambda x, a, n: blend(x, a, n).flip(0), "r.flip(0) is returned"),
        (lambda x, a, n: blend(x, a, n) ** 0.5, "r**0.5 is returned"),
        (lambda x, a, n: blend(x, a[0].expand_as(a), n), "amount[0] stands where amount belongs"),
        (lambda x, a, n: blend(x, a**2, n), "amount**2 stands where amount belongs"),
        (lambda x, a, n: blend(x, a, n) * 3, "Every value is 3 times what it should be"),
        (lambda x, a, n: blend(x, a, n) + 0.25, "Every value is off by the same number, +0.25"),
        (
            lambda x, a, n: blend(x, a, n) * x.numel(),
            "The values are 120, 30, 64 times what they should be: is there a sum for a mean",
        ),
        (lambda x, a, n: blend(x, a, n).roll(2, 3), "The values are right, but stand in another order"),
        (lambda x, a, n: blend(x, a, n).flatten(), "The values are right, their shape or dtype is not"),
        (lambda x, a, n: blend(x, a, n).clamp(max=0.5), ", 0.5]: return it as it is"),
        (
            lambda x, a, n: torch.cat([blend(x, a, n)[:1], n[1:] + 1]),
            "Of 5 images, counted from 0, only 1, 2, 3, 4 are wrong",
        ),
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
        ("ddim_steps", lambda T, steps: list(range(T, 0, -1))[:steps], "At index 1 it should be 750, and is 999."),
        ("ddim_steps", lambda *a: torch.tensor(EXERCISES["ddim_steps"].reference(*a)), ".tolist() makes a list"),
        ("leading_steps", lambda T, steps: [200 * i + 1 for i in range(steps)][::-1], "It is right in 2 of 7 calls"),
        ("guided_eps", lambda eps, label, s: eps + 1.5 * s * (label - eps), "It is right where scale is 0"),
        ("frechet_distance", lambda a, b: torch.tensor(EXERCISES["frechet_distance"].reference(a, b)), "a number, got"),
        ("snr", lambda s: s.alpha_bar / (s.sigma**2 + 1e-5), "At index 0 it should be inf"),
        ("snr", lambda s: s.alpha_bar / s.sigma.mul_(s.sigma), "changes schedule.sigma in place"),
        ("naive_loss", lambda *a: naive_loss(*a) + naive_loss(*a) ** 2, "expected 0."),  # one number: any factor fits
        ("film", lambda h, scale, shift: h * scale[:, None], "at non-singleton dimension"),
        ("share_of_batch", lambda batch, rank, world: batch[rank::world].float(), "int64, got a tensor of shape (3,)"),
        ("drop_labels", lambda *a: a[0].masked_fill(a[1] < torch.full((len(a[1]),), a[2]), a[3]), "on a GPU it would"),
        ("down_and_up", lambda net, h, known: (net.down.pop(0), h)[1], "changes the length of net.down"),
        (
            "posterior",
            lambda *a: (mean_and_variance(*a)[0], 3 * mean_and_variance(*a)[1]),
            "The second of the two values",
        ),
        # right values, and another gradient
        ("naive_loss", lambda m, *batch: naive_loss(m, *batch).detach().requires_grad_(), "no gradient can flow"),
        ("naive_loss", torch.no_grad()(lambda m, *batch: naive_loss(m, *batch)), "no gradient can flow"),
        ("naive_loss", lambda m, x, a, n: (e := m(blend(x, a, n)) - x).mul_(e).mean(), "Do not change in place"),
        ("append_time", lambda *a: EXERCISES["append_time"].reference(*a).detach(), "no gradient can flow"),
    ],
)
def test_results_that_look_right(name, wrong, says, capsys):
    text = said(named(wrong, name), capsys, name)
    assert says in text
    assert "per_image" not in text  # spoken of only where there are numbers for each image


def middle_without_gradient(net, h, known):
    parts = {name: getattr(net, name) for name in ("down", "shrink", "up", "grow")}
    middle = torch.no_grad()(net.middle)
    return EXERCISES["down_and_up"].reference(SimpleNamespace(**parts, middle=middle), h, known)


def test_right_values_with_another_gradient(capsys):
    text = said(named(middle_without_gradient, "down_and_up"), capsys, "down_and_up")
    assert "The values are right, but their gradient is not" in text


@each_exercise
def test_rounding_to_32_bits_is_refused_where_64_are_given(exercise):
    """Else `check` accepts what the equations of the notebook, verified to 1e-9, then refuse."""

    def rounded(value):
        if isinstance(value, tuple):
            return tuple(map(rounded, value))
        return value.float().to(value.dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    exact = [
        result for result in results(exercise.reference, exercise) if getattr(result, "dtype", None) == torch.float64
    ]
    verdict = mark(exercise, lambda *case: rounded(exercise.reference(*case)))
    assert verdict.right == (not any((rounded(result) - result).any() for result in exact))


def test_settings_are_put_back():
    def corrupt(x, amount, noise):
        torch.manual_seed(3)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        return blend(x, amount, noise)

    def settings():
        flags = torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
        return *flags, torch.initial_seed(), torch.get_rng_state().tolist()

    before = settings()
    assert "changes settings of PyTorch" in mark(EXERCISES["corrupt"], corrupt).problem
    assert settings() == before


def test_a_number_of_numpy_is_a_number():
    exercise = EXERCISES["frechet_distance"]
    assert mark(exercise, lambda a, b: np.float64(exercise.reference(a, b))).right


def test_sizes_that_do_not_fit_are_named_in_either_order(capsys):
    assert said(lambda x, a, n: (1 - a) * x + a * n, capsys) == said(lambda x, a, n: x * (1 - a) + n * a, capsys)


def test_the_failing_call_is_shown_and_lines_are_folded(capsys):
    check(named(lambda x, a, n: blend(x, a, n) + 1, "corrupt"))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 88
    assert "The call was corrupt(x: [5, 3, 4, 2], amount: [5], noise: [5, 3, 4, 2])" in text


def test_what_is_no_exercise_is_not_marked(capsys):
    def corrupts(x, amount, noise): ...

    for answer, says in {
        corrupts: "did you mean 'corrupt'?",
        (lambda x, amount, noise: x): "write it as `def name(...):`",
        (lambda x: x): "with the name that the exercise gives",
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


@each_table
def test_a_printed_solution_needs_only_what_its_notebook_has(exercise):
    """The names that a notebook imports, and the exercises; no checks of arguments, nothing private."""
    [(cells, skeleton)] = [
        (cells, node) for cells in NOTEBOOKS for node in cells.body if name_of(node) == exercise.name
    ]
    [written] = ast.parse(solution(exercise)).body
    assert [a.arg for a in written.args.args] == [a.arg for a in skeleton.args.args]
    imports = [node for node in cells.body if isinstance(node, ast.Import | ast.ImportFrom)]
    scope = {name: case.reference for name, case in EXERCISES.items() if name != exercise.name}
    exec("\n".join(map(ast.unparse, imports)), scope)
    exec(solution(exercise), scope)
    assert mark(exercise, scope[exercise.name]).right
    assert "_check" not in solution(exercise)


def test_verify_exact(capsys):
    verify("9.1", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0 + 3e-7]))
    text = "(9.1) holds: largest difference 1.2e-07 of the largest value, tolerance 1e-06\n"
    assert capsys.readouterr().out == text
    verify("9.2", 0.5, 0.5, tol=0)
    verify("9.2", 1e-9, 0.0)
    assert "largest difference 1.0e-09, tolerance" in capsys.readouterr().out
    with pytest.raises(EquationError, match=r"\(9.3\) fails"):
        verify("9.3", 1.0, 1.001)
    with pytest.raises(EquationError, match="nan"):
        verify("9.4", float("nan"), 1.0)
    with pytest.raises(EquationError):
        verify("9.5", torch.tensor([1.0, float("nan")]), 1.0)
    with pytest.raises(ValueError, match="shape"):
        verify("9.6", torch.zeros(2), torch.zeros(3))


def test_verify_mean_would_notice_a_wrong_factor(capsys):
    draws = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(0))
    verify("9.7", samples=draws.square(), expected=1.0)
    assert "mean of 100,000 draws" in capsys.readouterr().out
    with pytest.raises(EquationError):
        verify("9.7", samples=draws.square(), expected=2**0.5)
    with pytest.raises(EquationError, match="nan"):
        verify("9.8", samples=draws * float("nan"), expected=0.0)
    with pytest.raises(EquationError):
        verify("9.9", samples=torch.ones(10), expected=1.5)
