"""check, verify, show_solution; and every exercise: its answer is accepted, its mistakes are named."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddpm_helpers import AnswerError, EquationError, check, corrupt, naive_loss, per_image, show_solution, verify
from ddpm_helpers.exercises import EXERCISES
from ddpm_helpers.exercises import solution as solve
from ddpm_helpers.outcomes import run as _run

MISTAKES = [
    pytest.param(exercise, sentence, mistake, id=f"{exercise.name}-{number}")
    for exercise in EXERCISES.values()
    for number, (sentence, mistake) in enumerate(exercise.wrong.items(), start=1)
]


def named(function, name):
    """A copy of a function under the exercise's name, as a learner would have it."""

    def copy(*arguments):
        return function(*arguments)

    copy.__name__ = name
    return copy


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_right_answer_is_accepted(exercise, capsys):
    answer = named(exercise.reference, exercise.name)
    assert check(answer) is answer
    assert " ".join(capsys.readouterr().out.split()) == f"Exercise {exercise.tag} ({exercise.name}): correct."


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_every_exercise_has_enough_mistakes(exercise):
    assert len(exercise.wrong) >= 3


@pytest.mark.parametrize(("exercise", "sentence", "mistake"), MISTAKES)
def test_mistake_is_named(exercise, sentence, mistake, capsys):
    assert check(named(mistake, exercise.name)) is exercise.reference
    assert sentence in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("exercise", "sentence", "mistake"), MISTAKES)
def test_mistake_raises_for_graders(exercise, sentence, mistake, monkeypatch):
    monkeypatch.setenv("DDPM_STRICT", "1")
    with pytest.raises(AnswerError) as caught:
        check(named(mistake, exercise.name))
    assert sentence in str(caught.value)


def said(answer, capsys) -> str:
    """What check prints about a wrong `corrupt`; it must hand back the course's own."""
    answer.__name__ = "corrupt"
    assert check(answer) is corrupt
    return " ".join(capsys.readouterr().out.split())


def blend(x, amount, noise):
    return (1 - per_image(amount, x)) * x + per_image(amount, x) * noise


def test_skeleton_is_greeted(capsys):
    def skeleton(x, amount, noise): ...

    def half_written(x, amount, noise):
        weight = ...
        return x * weight

    for answer in (skeleton, half_written):
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


def test_a_pair_and_a_result_that_are_left_are_named(capsys):
    def begun(x, amount, noise):
        weight = per_image(amount, x)  # noqa: F841
        kept, added = ...  # noqa: RUF059
        return ...

    assert "is yours to write: kept and added and the result are still `...`." in said(begun, capsys)


def test_a_line_of_dots_left_over_is_no_skeleton(capsys):
    def answer(x, amount, noise):
        ...  # two lines
        return blend(x, amount, noise)

    answer.__name__ = "corrupt"
    assert check(answer) is answer


def test_a_value_of_dots_left_over_is_no_skeleton(capsys):
    def answer(x, amount, noise):
        corrupted = ...  # noqa: F841
        return blend(x, amount, noise)

    answer.__name__ = "corrupt"
    assert check(answer) is answer

    def wrong(x, amount, noise):
        corrupted = ...  # two lines
        corrupted = blend(x, amount, noise) + 0.25
        return corrupted

    assert "the largest error is 0.25" in said(wrong, capsys)


def test_ellipsis_as_an_index_is_no_skeleton(capsys):
    def answer(x, amount, noise):
        weight = amount[..., None, None, None]
        return (1 - weight) * x + weight * noise

    answer.__name__ = "corrupt"
    assert check(answer) is answer


def test_a_schedule_that_is_spoilt_is_seen(capsys):
    def snr(schedule):
        variance = schedule.sigma
        variance **= 2
        return schedule.alpha_bar / variance

    check(snr)
    assert "changes schedule.sigma in place" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("ddim_steps", lambda T, steps: [T * i / steps // 1 for i in range(steps, 0, -1)], "some are floats"),
        ("ddim_steps", lambda T, steps: list(range(T, 0, -1))[:steps], "At index 1 it should be 750, and is 999."),
        ("snr", lambda s: s.alpha_bar / (s.sigma**2 + 1e-5), "At index 0 it should be inf"),
        ("naive_loss", lambda m, *batch: naive_loss(m, *batch).detach().requires_grad_(), "no gradient can flow"),
    ],
)
def test_results_that_look_right(name, wrong, says, capsys):
    check(named(wrong, name))
    assert says in " ".join(capsys.readouterr().out.split())


def test_checking_twice_is_not_an_answer(capsys):
    assert check(corrupt) is corrupt
    assert "is yours to write" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda x, a, n: None, "is there a return"),
        (lambda x, a, n: blend(x, a, n)[0], "Expected a tensor of shape (5, 3, 4, 2), float32, got a tensor of shape"),
        (lambda x, a, n: blend(x, a, n).double(), "got a tensor of shape (5, 3, 4, 2), float64"),
        (lambda x, a, n: 3.0, "got float 3.0"),
        (lambda x, a, n: {"image": x}, "Expected a tensor of shape (5, 3, 4, 2), float32, got dict {'image': tensor("),
        (lambda x, a, n: {1}, "got set {1}"),
        (lambda x, a, n: list(blend(x, a, n)), "got a list of 5: a tensor of shape (3, 4, 2), float32; a tensor"),
        (lambda x, a, n: torch.empty_like(x, device="meta"), "meta"),
        (lambda x, a, n: blend(x, a, n) + 0.25, "the largest error is 0.25"),
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
        (lambda x, a, n: (torch.rand(1), blend(x, a, n))[1], "leave the seed and the default dtype alone"),
        (lambda x, a, n: map(float, x), "returns an iterator"),
        (lambda x, a, n: math.sqrt(x), "one number. For a tensor there are"),
    ],
)
def test_other_mistakes_are_described(wrong, says, capsys):
    text = said(wrong, capsys)
    assert says in text
    assert "goes on with the course's own corrupt" in text


def test_a_tensor_where_a_list_or_a_number_is_asked(capsys):
    def ddim_steps(T, steps):
        return torch.tensor(EXERCISES["ddim_steps"].reference(T, steps))

    def frechet_distance(a, b):
        return torch.tensor(EXERCISES["frechet_distance"].reference(a, b), dtype=torch.float32)

    check(ddim_steps)
    check(frechet_distance)
    text = " ".join(capsys.readouterr().out.split())
    assert ".tolist() makes a list" in text
    assert "Expected a number, got a tensor" in text


def test_a_number_of_numpy_is_a_number(capsys):
    def frechet_distance(a, b):
        return np.float64(EXERCISES["frechet_distance"].reference(a, b))

    assert check(frechet_distance) is frechet_distance


def test_sizes_that_do_not_fit_are_named_in_either_order(capsys):
    assert said(lambda x, a, n: (1 - a) * x + a * n, capsys) == said(lambda x, a, n: x * (1 - a) + n * a, capsys)


def test_an_answer_without_gradient_is_not_right(capsys):
    """It would pass, and then training would stop at loss.backward()."""

    @torch.no_grad()
    def answer(model, x, amount, noise):
        return (model(blend(x, amount, noise)) - x).square().mean()

    answer.__name__ = "naive_loss"
    assert check(answer) is EXERCISES["naive_loss"].reference
    assert "no gradient can flow" in " ".join(capsys.readouterr().out.split())


def squared_in_place(model, x, amount, noise):
    error = model(blend(x, amount, noise)) - x
    error *= error
    return error.mean()


def norm_without_gradient_of_its_mean(x, groups):
    grouped = x.reshape(len(x), groups, -1)
    mean, variance = grouped.detach().mean(-1, keepdim=True), grouped.var(-1, keepdim=True, correction=0)
    return ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)


def norm_divided_in_place(x, groups):
    grouped = x.reshape(len(x), groups, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    centred /= (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred.reshape(x.shape)


def middle_without_gradient(net, h, known):
    middle = torch.no_grad()(net.middle)
    parts = {name: getattr(net, name) for name in ("down", "shrink", "up", "grow")}
    return EXERCISES["down_and_up"].reference(SimpleNamespace(**parts, middle=middle), h, known)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("naive_loss", squared_in_place, "no gradient flows back: PyTorch says"),
        ("group_norm", norm_divided_in_place, "Do not change in place"),
        ("group_norm", norm_without_gradient_of_its_mean, "their gradient is not"),
        ("down_and_up", middle_without_gradient, "their gradient is not"),
    ],
)
def test_right_values_with_another_gradient(name, wrong, says, capsys):
    check(named(wrong, name))
    assert says in " ".join(capsys.readouterr().out.split())


def test_a_network_that_is_taken_apart_is_seen(capsys):
    def down_and_up(net, h, known):
        answer = EXERCISES["down_and_up"].reference(net, h, known)
        net.down.pop(0)
        return answer

    check(down_and_up)
    assert "changes the length of net.down" in " ".join(capsys.readouterr().out.split())


def test_64_bits_are_compared_to_more_digits(capsys):
    def gaussian_kl(mean_1, variance_1, mean_2, variance_2):
        return EXERCISES["gaussian_kl"].reference(mean_1, variance_1 + 1e-8, mean_2, variance_2 + 1e-8)

    check(gaussian_kl)
    assert "too much for 64 bits" in " ".join(capsys.readouterr().out.split())


def test_the_wrong_one_of_two_values_is_named(capsys):
    def posterior(schedule, x0, x_t, t):
        mean, variance = EXERCISES["posterior"].reference(schedule, x0, x_t, t)
        return mean, 3 * variance

    check(posterior)
    assert "The second of the two values: Shape and dtype are right" in " ".join(capsys.readouterr().out.split())


def test_numbers_for_each_image_are_spoken_of_only_where_there_are_some(capsys):
    check(named(lambda h, scale, shift: h * scale[:, None], "film"))
    text = " ".join(capsys.readouterr().out.split())
    assert "at non-singleton dimension" in text
    assert "per_image" not in text


def test_the_failing_call_is_shown(capsys):
    text = said(lambda x, a, n: blend(x, a, n) + 1, capsys)
    assert "The call was corrupt(x: [5, 3, 4, 2], amount: [5], noise: [5, 3, 4, 2])" in text


def test_unknown_name_suggests_the_nearest(capsys):
    def corrupts(x, amount, noise): ...

    assert check(corrupts) is corrupts
    text = " ".join(capsys.readouterr().out.split())
    assert "did you mean 'corrupt'" in text
    assert "It is not marked, and the notebook goes on with it." in text


def test_what_has_no_name_is_not_marked(capsys):
    check(lambda x, amount, noise: x)
    assert "write it as `def corrupt(...):`" in " ".join(capsys.readouterr().out.split())
    result = torch.zeros(2)
    assert check(result) is result
    assert "wants the function itself, without brackets: check(corrupt)" in " ".join(capsys.readouterr().out.split())


def test_nearest_images_must_not_hold_all_differences(capsys):
    def all_at_once(samples, images):
        found = (samples[:, None] - images).square().mean((2, 3, 4)).sqrt().min(1)
        return found.indices, found.values

    def one_by_one(samples, images):
        found = [all_at_once(sample[None], images) for sample in samples]
        return torch.cat([index for index, _ in found]), torch.cat([distance for _, distance in found])

    def by_thousands(samples, images):
        found = [all_at_once(samples, part) for part in images.split(1000)]
        distances = torch.stack([distance for _, distance in found])  # (chunks, N)
        which = distances.argmin(0)
        indices = torch.stack([index for index, _ in found]).gather(0, which[None])[0] + 1000 * which
        return indices, distances.amin(0)

    for sparing in (one_by_one, by_thousands):
        check(named(sparing, "nearest_images"))
        assert "correct" in " ".join(capsys.readouterr().out.split())
    check(named(all_at_once, "nearest_images"))
    assert "that takes 38 GB" in " ".join(capsys.readouterr().out.split())


def test_stop_button_is_not_swallowed():
    def corrupt(x, amount, noise):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(corrupt)


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_cases_are_repeatable(exercise):
    """Else a mistake could pass or fail by luck."""
    first, second = ([_run(exercise.reference, case) for case in exercise.cases()] for _ in range(2))
    assert str(first) == str(second)


def test_show_solution(capsys):
    show_solution("corrupt")
    assert "def corrupt(" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ValueError, match="no exercise called 'nothing'"):
        show_solution("nothing")


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_a_printed_solution_can_be_pasted(exercise):
    names = {}
    exec(solve(exercise), names)
    answers, expected = (
        [_run(f, case) for case in exercise.cases()] for f in (names[exercise.name], exercise.reference)
    )
    assert str(answers) == str(expected)


def test_verify_exact(capsys):
    verify("9.1", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0 + 3e-7]))
    assert " ".join(capsys.readouterr().out.split()) == "(9.1) holds: largest relative difference 1.2e-07, tolerance 1e-06"
    verify("9.2", 0.5, 0.5, tol=0)
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
    assert "mean of 100,000 draws" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(EquationError):
        verify("9.7", samples=draws.square(), expected=2**0.5)
    with pytest.raises(EquationError, match="nan"):
        verify("9.8", samples=draws * float("nan"), expected=0.0)
    with pytest.raises(EquationError):
        verify("9.9", samples=torch.ones(10), expected=1.5)
