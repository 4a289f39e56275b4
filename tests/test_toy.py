"""The one-pixel world against closed forms, and what it refuses."""

import pytest
import torch

from ddpm_helpers import cosine_schedule, linear_schedule, snr
from ddpm_helpers.lessons.toy import (
    Mixture,
    ReverseModel,
    double,
    gaussian_kl,
    log_closed_form,
    log_forward,
    log_normal,
    log_weight,
    loss_weight,
)

GRID = torch.linspace(-10, 10, 1001, dtype=torch.float64)
STEP = GRID[1] - GRID[0]


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def mixture():
    return Mixture(numbers(0.3, 0.7), numbers(-1.0, 0.5), numbers(0.2, 0.4))


def close(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def test_double_keeps_the_schedule_and_gains_digits():
    single, exact = linear_schedule(1000), double(linear_schedule(1000))
    for name in ("beta", "alpha", "alpha_bar", "sqrt_alpha_bar", "sigma", "posterior_variance"):
        assert getattr(exact, name).dtype == torch.float64
        assert getattr(single, name).dtype == torch.float32
        close(getattr(exact, name), getattr(single, name).double(), 1e-6)
    close(exact.alpha_bar + exact.sigma**2, torch.ones(1001, dtype=torch.float64), 1e-14)
    assert exact.T == 1000
    assert exact.name == single.name


def test_log_normal_is_torchs():
    x, mean, std = torch.randn(3, 50, dtype=torch.float64)
    std = std.abs() + 0.1
    close(log_normal(x, mean, std**2), torch.distributions.Normal(mean, std).log_prob(x))


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan")])
def test_log_normal_refuses_a_variance(variance):
    with pytest.raises(ValueError, match="variance must be above 0"):
        log_normal(GRID, 0.0, variance)


def test_mixture_has_total_one_mean_and_variance():
    density = mixture().log_density(GRID).exp()
    close(density.sum() * STEP, numbers(1.0)[0])
    mean = 0.3 * -1.0 + 0.7 * 0.5
    close((density * GRID).sum() * STEP, numbers(mean)[0])
    second = 0.3 * (0.2**2 + 1) + 0.7 * (0.4**2 + 0.25)
    close((density * GRID**2).sum() * STEP, numbers(second)[0])


@pytest.mark.parametrize("t", [1, 4, 8])
def test_noised_mixture_is_the_integral(t):
    schedule = double(cosine_schedule(8, max_beta=0.9))
    jump = log_closed_form(schedule, GRID[:, None], GRID[None, :], t).exp()  # row x_0, column x_t
    density = mixture().log_density(GRID).exp()
    close(density @ jump * STEP, mixture().noised(schedule, t).log_density(GRID).exp())


def test_jump_is_many_forward_steps():
    schedule = double(cosine_schedule(4, max_beta=0.9))
    walk = torch.eye(1001, dtype=torch.float64) / STEP
    for t in range(1, 5):
        walk = walk @ log_forward(schedule, GRID[:, None], GRID[None, :], t).exp() * STEP
    middle = slice(400, 601)
    close(walk[middle], log_closed_form(schedule, GRID[:, None], GRID[None, :], 4).exp()[middle])


def test_ideal_eps_of_one_gaussian_is_a_straight_line():
    schedule = double(linear_schedule(50))
    eps = Mixture(numbers(1.0), numbers(0.0), numbers(1.0)).ideal_eps(schedule)
    close(eps(GRID, 20), schedule.sigma[20] * GRID)


def test_ideal_eps_is_minus_sigma_times_the_score():
    schedule = double(cosine_schedule(8, max_beta=0.9))
    x = GRID[300:701].clone().requires_grad_()
    score = torch.autograd.grad(mixture().noised(schedule, 3).log_density(x).sum(), x)[0]
    close(mixture().ideal_eps(schedule)(x.detach(), 3), -schedule.sigma[3] * score)


def test_perfect_model_of_a_standard_normal_has_no_gap():
    """For data N(0, 1) and variance beta the reverse chain is exact: log W is log p(x_0) on every single path."""
    schedule = double(cosine_schedule(6, max_beta=0.9))
    standard = Mixture(numbers(1.0), numbers(0.0), numbers(1.0))
    model = ReverseModel(schedule, schedule.beta, standard.ideal_eps(schedule))
    path = torch.randn(7, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    close(log_weight(model, path), log_normal(path[0], 0.0, 1.0))


def test_kl_against_torch():
    means, stds = torch.randn(2, 40, dtype=torch.float64), torch.rand(2, 40, dtype=torch.float64) + 0.1
    normals = [torch.distributions.Normal(m, s) for m, s in zip(means, stds, strict=True)]
    expected = torch.distributions.kl_divergence(*normals)
    close(gaussian_kl(means[0], stds[0] ** 2, means[1], stds[1] ** 2), expected)
    close(gaussian_kl(means[0], stds[0], means[0], stds[0]), torch.zeros(40, dtype=torch.float64))


def test_loss_weight_is_the_share_of_signal_lost():
    schedule = double(linear_schedule(1000))
    variance = torch.cat([schedule.beta[:2], schedule.posterior_variance[2:]])
    ratio = snr(schedule)
    close(loss_weight(schedule, variance)[2:], 0.5 * (ratio[1:-1] / ratio[2:] - 1))
    assert loss_weight(schedule, variance)[0] == 0
    close(loss_weight(schedule, schedule.beta)[1], 0.5 / schedule.alpha[1])


@pytest.mark.parametrize("t", [0, 9, 2.0, True, torch.tensor(2)])
def test_steps_outside_are_refused(t):
    schedule = double(cosine_schedule(8, max_beta=0.9))
    model = ReverseModel(schedule, schedule.beta, lambda x, t: x)
    for call in (
        lambda: log_forward(schedule, GRID, GRID, t),
        lambda: log_closed_form(schedule, GRID, GRID, t),
        lambda: model.log_step(GRID, GRID, t),
    ):
        with pytest.raises(ValueError, match=r"int in 1 \.\.\. 8"):
            call()


@pytest.mark.parametrize(
    ("weights", "means", "stds"),
    [
        ((0.5, 0.5), (0.0, 1.0), (1.0,)),
        ((0.5, 0.4), (0.0, 1.0), (1.0, 1.0)),
        ((1.5, -0.5), (0.0, 1.0), (1.0, 1.0)),
        ((0.5, 0.5), (0.0, 1.0), (1.0, 0.0)),
    ],
)
def test_bad_mixtures_are_refused(weights, means, stds):
    with pytest.raises(ValueError, match="Mixture"):
        Mixture(numbers(*weights), numbers(*means), numbers(*stds))


def test_bad_shapes_are_refused():
    schedule = double(cosine_schedule(4, max_beta=0.9))
    model = ReverseModel(schedule, schedule.beta, lambda x, t: x)
    for shape in ((4, 3), (6, 3), (5,)):
        with pytest.raises(ValueError, match="T \\+ 1 = 5 rows"):
            log_weight(model, torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match="variance must have shape"):
        loss_weight(schedule, schedule.beta[1:])
