"""Notebook 17 where its equations do not reach: bad input, limits, the samplers against the posterior."""

import pytest
import torch

from ddpm_helpers import cosine_schedule, load_feature_net
from ddpm_helpers.lessons import prior
from ddpm_helpers.lessons.toy import double

SCHEDULE = double(cosine_schedule(100))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def world() -> prior.World:
    means = torch.tensor([[-0.8, -0.6], [0.4, 0.9]], dtype=torch.float64)
    covariances = torch.tensor([[[0.1, 0.06], [0.06, 0.1]], [[0.2, -0.1], [-0.1, 0.15]]], dtype=torch.float64)
    return prior.World(torch.tensor([0.4, 0.6], dtype=torch.float64), means, covariances)


def first(x):
    return x[:, :1]


def normal(*shape):
    return torch.randn(shape, generator=generator()).double()


X = normal(4, 2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: prior.matrix_of(torch.square, 2), "this operator is not linear"),
        (lambda: prior.inpaint(None, SCHEDULE, X, X[:, :1] > 0, None), r"shape \(4, 1\), and must say for each pixel"),
        (lambda: prior.inpaint(None, SCHEDULE, X, X, None), r"the mask is torch.float64"),
        (lambda: prior.inpaint(None, SCHEDULE, X, X > 0, None, rounds=0), "rounds must be a whole number"),
        (lambda: prior.data_term(X, first, 0.1)(X), r"y has shape \(4, 2\), the operator gives \(4, 1\)"),
        (lambda: prior.edit_start(SCHEDULE, X, 0.0, [50, 10], X), r"strength must lie in \(0, 1\]"),
        (lambda: prior.edit_start(SCHEDULE, X, 0.05, [50, 10], X), "leave some of the steps"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_matrix_of_a_linear_operator():
    matrix = normal(3, 2)
    torch.testing.assert_close(prior.matrix_of(lambda x: x @ matrix.T, 2), matrix)


def test_posterior_of_a_perfect_and_of_a_useless_measurement():
    y, matrix = torch.tensor([0.3], dtype=torch.float64), prior.matrix_of(first, 2)
    sharp, blind = world().given(y, matrix, 1e-4), world().given(y, matrix, 1e4)
    torch.testing.assert_close((sharp.weights @ sharp.means)[:1], y, atol=1e-5, rtol=0)
    assert sharp.covariance()[0, 0] < 1e-7
    torch.testing.assert_close(blind.log_density(X), world().log_density(X))


def test_draws_have_the_moments_of_the_world():
    x = world().draw(100_000, generator())
    torch.testing.assert_close(x.mean(0), world().weights @ world().means, atol=0.01, rtol=0)
    torch.testing.assert_close(x.T.cov(), world().covariance(), atol=0.02, rtol=0)


def test_what_is_known_stays():
    streams = generator()
    noise = lambda: torch.randn(4, 2, generator=streams).double()  # noqa: E731
    model = world().model(SCHEDULE)
    half = torch.tensor([[True, False]]).expand(4, 2)
    answers = prior.inpaint(model, SCHEDULE, X, half, noise, 10, 3, clip=False)
    assert torch.equal(answers[:, 0], X[:, 0])
    assert not torch.isclose(answers[:, 1], X[:, 1]).any()
    assert torch.equal(prior.inpaint(model, SCHEDULE, X, X == X, noise, 5), X)


def test_rounds_are_calls():
    asked = []
    model = lambda x, t: asked.append(t[0].item()) or x  # noqa: E731
    prior.inpaint(model, SCHEDULE, X, X > 0, lambda: X, [60, 20], 3)
    assert asked == [60] * 3 + [20] * 3


def test_guidance_that_says_nothing_changes_nothing():
    model, t = world().model(SCHEDULE), torch.full((4,), 40)
    for of_guess in (True, False):
        silent = prior.guided(model, SCHEDULE, lambda x, t: 0 * x.sum(1), of_guess)
        torch.testing.assert_close(silent(X, t), model(X, t))


def test_each_image_has_its_own_weight():
    y, variances = first(X) + 1, torch.tensor([0.1, 0.2, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(prior.data_term(y, first, variances)(X), -1 / (2 * variances))


@pytest.mark.parametrize("way", ["exact", "prior", "narrow"])
def test_trial_sees_what_is_wrong(way):
    """Exact guidance is right, the prior has the coverage and not the mean, half the spread has too little of both."""
    data, streams, matrix = world(), generator(), prior.matrix_of(first, 2)

    def method(y):
        if way == "prior":
            return data.draw(len(y), streams)
        log_p = lambda x, t: data.log_likelihood(SCHEDULE, x, int(t[0]), y, matrix, 0.3)  # noqa: E731
        noise = lambda: torch.randn(len(y), 2, generator=streams).double()  # noqa: E731
        model = prior.guided(data.model(SCHEDULE), SCHEDULE, log_p, of_guess=False)
        x = prior.answers(model, SCHEDULE, noise, SCHEDULE.T, clip=False)
        return x if way == "exact" else x.mean(0) + 0.5 * (x - x.mean(0))

    row = prior.trial(method, data, first, 0.3, 0.5, 1000, 200, streams)
    off = {name: abs(value) if name != "coverage" else abs(value - 0.9) for name, (value, _) in row.items()}
    right = {name: off[name] < 4 * row[name][1] + 0.06 for name in row}
    assert (
        right
        == {
            "exact": {"mean": True, "variance": True, "coverage": True},
            "prior": {"mean": False, "variance": False, "coverage": True},
            "narrow": {"mean": right["mean"], "variance": False, "coverage": False},
        }[way]
    )


def test_the_scribble_is_crude_and_a_two():
    x = prior.scribble()
    assert (x.shape, x.min(), x.max()) == ((1, 1, 28, 28), -1, 1)
    assert load_feature_net()(x).argmax() == 2
