"""The one-pixel world against closed forms, and what it refuses."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ddpm_helpers import cosine_schedule, linear_schedule, snr
from ddpm_helpers.lessons import toy
from ddpm_helpers.lessons.toy import Mixture, ReverseModel, double

GRID = torch.linspace(-10, 10, 1001, dtype=torch.float64)
STEP = GRID[1] - GRID[0]
EIGHT = double(cosine_schedule(8, max_beta=0.9))


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


MIXTURE = Mixture(numbers(0.3, 0.7), numbers(-1.0, 0.5), numbers(0.2, 0.4))
STANDARD = Mixture(numbers(1.0), numbers(0.0), numbers(1.0))


def close(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def test_double_keeps_the_schedule_and_gains_digits():
    single, exact = linear_schedule(1000), double(linear_schedule(1000))
    for name in ("beta", "alpha", "alpha_bar", "sqrt_alpha_bar", "sigma", "posterior_variance"):
        assert (getattr(exact, name).dtype, getattr(single, name).dtype) == (torch.float64, torch.float32)
        close(getattr(exact, name), getattr(single, name).double(), 1e-6)
    close(exact.alpha_bar + exact.sigma**2, torch.ones(1001, dtype=torch.float64), 1e-14)
    assert (exact.T, exact.name) == (1000, single.name)


def test_densities_and_divergences_are_torchs():
    means, stds = torch.randn(2, 40, dtype=torch.float64), torch.rand(2, 40, dtype=torch.float64) + 0.1
    x, normals = torch.randn(40, dtype=torch.float64), [Normal(m, s) for m, s in zip(means, stds, strict=True)]
    close(toy.log_normal(x, means[0], stds[0] ** 2), normals[0].log_prob(x))
    close(toy.gaussian_kl(means[0], stds[0] ** 2, means[1], stds[1] ** 2), kl_divergence(*normals))


def test_mixture_has_total_one_mean_and_variance():
    density = MIXTURE.log_density(GRID).exp()
    close(density.sum() * STEP, numbers(1.0)[0])
    close((density * GRID).sum() * STEP, numbers(0.3 * -1.0 + 0.7 * 0.5)[0])
    close((density * GRID**2).sum() * STEP, numbers(0.3 * (0.2**2 + 1) + 0.7 * (0.4**2 + 0.25))[0])


@pytest.mark.parametrize("t", [1, 4, 8])
def test_noised_mixture_is_the_integral(t):
    closed_form = toy.log_closed_form(EIGHT, GRID[:, None], GRID[None, :], t).exp()  # row x_0, column x_t
    density = MIXTURE.log_density(GRID).exp()
    close(density @ closed_form * STEP, MIXTURE.noised(EIGHT, t).log_density(GRID).exp())


def test_closed_form_is_many_forward_steps():
    walk = torch.eye(1001, dtype=torch.float64) / STEP
    for t in range(1, 5):
        walk = walk @ toy.log_forward(EIGHT, GRID[:, None], GRID[None, :], t).exp() * STEP
    middle = slice(400, 601)
    close(walk[middle], toy.log_closed_form(EIGHT, GRID[:, None], GRID[None, :], 4).exp()[middle])


def test_ideal_eps_is_minus_sigma_times_the_score():
    x = GRID[300:701].clone().requires_grad_()
    score = torch.autograd.grad(MIXTURE.noised(EIGHT, 3).log_density(x).sum(), x)[0]
    close(MIXTURE.ideal_eps(EIGHT)(x.detach(), 3), -EIGHT.sigma[3] * score)
    close(STANDARD.ideal_eps(EIGHT)(GRID, 5), EIGHT.sigma[5] * GRID)


def test_perfect_model_of_a_standard_normal_has_no_gap():
    """For data N(0, 1) and variance beta the reverse chain is exact: log W is log p(x_0) on every single path."""
    model = ReverseModel(EIGHT, EIGHT.beta, STANDARD.ideal_eps(EIGHT))
    path = torch.randn(9, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    close(toy.log_weight(model, path), toy.log_normal(path[0], 0.0, 1.0))


def test_loss_weight_is_the_share_of_signal_lost():
    schedule = double(linear_schedule(1000))
    variance = torch.cat([schedule.beta[:2], schedule.posterior_variance[2:]])
    ratio = snr(schedule)
    close(toy.loss_weight(schedule, variance)[2:], 0.5 * (ratio[1:-1] / ratio[2:] - 1))
    assert toy.loss_weight(schedule, variance)[0] == 0
    close(toy.loss_weight(schedule, schedule.beta)[1], 0.5 / schedule.alpha[1])


STEPS = r"t must be an int in 1 \.\.\. 8"
LINE = ReverseModel(EIGHT, EIGHT.beta, lambda x, t: x)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        *((lambda t=t: toy.log_forward(EIGHT, GRID, GRID, t), STEPS) for t in (0, 9, 2.0, True, torch.tensor(2))),
        (lambda: toy.log_closed_form(EIGHT, GRID, GRID, 9), STEPS),
        (lambda: LINE.log_step(GRID, GRID, 9), STEPS),
        *(
            (lambda w=w: Mixture(numbers(*w), numbers(0, 1), numbers(1, 1)), "Mixture")
            for w in ((0.5, 0.4), (1.5, -0.5))
        ),
        *((lambda s=s: Mixture(numbers(0.5, 0.5), numbers(0, 1), numbers(*s)), "Mixture") for s in ((1,), (1, 0))),
        *((lambda n=n: toy.log_weight(LINE, numbers().expand(n)), r"T \+ 1 = 9 rows") for n in ((8, 0), (10, 0), (0,))),
        (lambda: toy.loss_weight(EIGHT, EIGHT.beta[1:]), "variance must have shape"),
        *((lambda v=v: toy.log_normal(GRID, 0.0, v), "variance must be above 0") for v in (0.0, -1.0, float("nan"))),
    ],
)
def test_bad_numbers(call, says):
    with pytest.raises(ValueError, match=says):
        call()
