"""Exercises of notebook 02: one forward step, the jump, the signal-to-noise ratio, betas rescaled."""

import torch

from ..schedule import (
    NoiseSchedule,
    cosine_schedule,
    forward_step,
    linear_beta,
    linear_schedule,
    per_image,
    q_sample,
    snr,
)
from .core import Exercise


def _images(*shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    x, noise = torch.randn((2, *shape), generator=generator)
    return x, noise


def _step(beta: float, *shape: int) -> tuple:
    x, noise = _images(*shape)
    return x, beta, noise


def _jump(schedule, steps: list[int], *shape: int) -> tuple:
    x0, noise = _images(*shape)
    return schedule, x0, torch.tensor(steps), noise


def _blend(schedule, x0, t, noise, signal, sigma):
    return per_image(signal[t], x0) * x0 + per_image(sigma[t], x0) * noise


def _shifted_jump(schedule, x0, t, noise):
    return _blend(schedule, x0, t - 1, noise, schedule.sqrt_alpha_bar, schedule.sigma)


def _jump_with_global_tables(schedule, x0, t, noise):
    notebook = linear_schedule(1000)  # the notebook's `signal` and `sigma` are its tables
    return _blend(schedule, x0, t, noise, notebook.sqrt_alpha_bar, notebook.sigma)


def _jump_with_three_axes(schedule, x0, t, noise):
    signal, sigma = schedule.sqrt_alpha_bar[t].reshape(-1, 1, 1), schedule.sigma[t].reshape(-1, 1, 1)
    return signal * x0 + sigma * noise


def _mostly_noise() -> NoiseSchedule:
    """So much noise from step 1 on that 1 / sigma ** 2 - 1 shows how few digits it has."""
    return NoiseSchedule(torch.tensor([0, 1 - 2049 / 2**24, 0.25, 0.5]))


def _snr_from_betas(schedule):
    alpha_bar = (1 - schedule.beta).cumprod(0)
    return alpha_bar / (1 - alpha_bar)


def _betas_in_a_list(T, beta_1, beta_T):
    beta = torch.zeros(T + 1, dtype=torch.float64)
    beta[1:] = [beta_1] * T
    return beta


def _betas(T, first, last, points=None):
    beta = torch.zeros(T + 1, dtype=torch.float64)
    beta[1:] = torch.linspace(first, last, points or T, dtype=torch.float64)
    return beta


Exercise(
    tag="2.1",
    reference=forward_step,
    cases=lambda: [
        _step(0.02, 5, 3, 4, 2),
        _step(0.3, 3, 1, 2, 5),
        _step(0.8, 2, 3, 5, 4),
        _step(0.1, 5),
        _step(0.5, 6, 1),
    ],
    mistakes={
        "It looks as if x is not shrunk: the variance then grows by beta in every step. Weight x by sqrt(1 - beta).": (
            lambda x, beta, noise: x + beta**0.5 * noise
        ),
        "It looks as if the noise has weight beta: its variance is then beta squared. Take the square root.": (
            lambda x, beta, noise: (1 - beta) ** 0.5 * x + beta * noise
        ),
        "It looks as if x has weight 1 - beta: its variance is then (1 - beta) squared. Take the square root.": (
            lambda x, beta, noise: (1 - beta) * x + beta**0.5 * noise
        ),
        "It looks as if both square roots are missing: beta and 1 - beta are variances, weights are their roots.": (
            lambda x, beta, noise: (1 - beta) * x + beta * noise
        ),
        "It looks as if the two weights are swapped: a small beta adds little noise and keeps most of x.": (
            lambda x, beta, noise: beta**0.5 * x + (1 - beta) ** 0.5 * noise
        ),
        "It looks as if the two weights add up to 1, as in notebook 01. Here their squares do: the noise has weight "
        "sqrt(beta).": lambda x, beta, noise: (1 - beta) ** 0.5 * x + (1 - (1 - beta) ** 0.5) * noise,
        "It looks as if the two weights add up to 1, as in notebook 01. Here their squares do: x has weight "
        "sqrt(1 - beta).": lambda x, beta, noise: (1 - beta**0.5) * x + beta**0.5 * noise,
        "It looks as if beta is taken for a standard deviation: it is a variance, and the weight is its root.": (
            lambda x, beta, noise: (1 - beta**2) ** 0.5 * x + beta * noise
        ),
        "It looks as if ** 1/2 was meant as a root: ** comes before /, so write ** 0.5.": (
            lambda x, beta, noise: (1 - beta) ** 1 / 2 * x + beta**1 / 2 * noise
        ),
        "torch.sqrt wants a tensor, and beta is a number here: write beta ** 0.5.": (
            lambda x, beta, noise: torch.sqrt(1 - beta) * x + torch.sqrt(beta) * noise
        ),
    },
)

Exercise(
    tag="2.2",
    reference=q_sample,
    cases=lambda: [
        _jump(linear_schedule(50), [1, 50, 17, 3, 30], 5, 3, 4, 2),
        _jump(cosine_schedule(40), [20, 39, 8], 3, 1, 2, 5),
        _jump(linear_schedule(50), [40, 12, 25, 5], 4, 1, 3, 4),  # B = W: a wrong broadcast runs through
    ],
    mistakes={
        "It looks as if the square roots are missing: alpha_bar and 1 - alpha_bar are variances, weights are their "
        "roots, schedule.sqrt_alpha_bar and schedule.sigma.": (
            lambda s, x0, t, noise: _blend(s, x0, t, noise, s.alpha_bar, s.sigma**2)
        ),
        "It looks as if the image has weight alpha_bar: take its root, schedule.sqrt_alpha_bar.": (
            lambda s, x0, t, noise: _blend(s, x0, t, noise, s.alpha_bar, s.sigma)
        ),
        "It looks as if the noise has weight 1 - alpha_bar: take its root, schedule.sigma.": (
            lambda s, x0, t, noise: _blend(s, x0, t, noise, s.sqrt_alpha_bar, s.sigma**2)
        ),
        "It looks as if the two weights add up to 1, as in notebook 01. Here their squares do: the noise has weight "
        "schedule.sigma.": lambda s, x0, t, noise: _blend(s, x0, t, noise, s.sqrt_alpha_bar, 1 - s.sqrt_alpha_bar),
        "It looks as if the two weights add up to 1, as in notebook 01. Here their squares do: the image has weight "
        "schedule.sqrt_alpha_bar.": lambda s, x0, t, noise: _blend(s, x0, t, noise, 1 - s.sigma, s.sigma),
        "It looks as if roots of the tables were taken: sqrt_alpha_bar and sigma are the roots already.": (
            lambda s, x0, t, noise: _blend(s, x0, t, noise, s.sqrt_alpha_bar**0.5, s.sigma**0.5)
        ),
        "It looks as if the root of schedule.sigma was taken: it is a root already.": (
            lambda s, x0, t, noise: _blend(s, x0, t, noise, s.sqrt_alpha_bar, s.sigma**0.5)
        ),
        "It looks as if the noise has the weight of one step, the root of beta: that of t steps is schedule.sigma.": (
            lambda s, x0, t, noise: _blend(s, x0, t, noise, s.sqrt_alpha_bar, s.beta**0.5)
        ),
        "It looks as if alpha and beta stand where alpha_bar belongs: that is one step, not the jump over t of them.": (
            lambda s, x0, t, noise: _blend(s, x0, t, noise, s.alpha**0.5, s.beta**0.5)
        ),
        "It looks as if the two weights are swapped: schedule.sqrt_alpha_bar belongs to the image, schedule.sigma to "
        "the noise.": lambda s, x0, t, noise: _blend(s, x0, t, noise, s.sigma, s.sqrt_alpha_bar),
        "It looks as if the tables were read at t - 1: here step t stands at index t, index 0 is the clean image.": (
            _shifted_jump
        ),
        "It looks as if the notebook's tables `signal` and `sigma` are used: read those of the argument, "
        "schedule.sqrt_alpha_bar and schedule.sigma.": _jump_with_global_tables,
        "It looks as if the tables at t, shape (B,), met the last axis of the images: "
        "per_image(schedule.sigma[t], x0) has shape (B, 1, 1, 1), and so for the other.": lambda s, x0, t, noise: (
            s.sqrt_alpha_bar[t] * x0 + s.sigma[t] * noise
        ),
        "It looks as if schedule.sqrt_alpha_bar[t] alone met the last axis of the images: "
        "per_image(schedule.sqrt_alpha_bar[t], x0) gives it shape (B, 1, 1, 1).": lambda s, x0, t, noise: (
            s.sqrt_alpha_bar[t] * x0 + per_image(s.sigma[t], x0) * noise
        ),
        "It looks as if schedule.sigma[t] alone met the last axis of the images: per_image(schedule.sigma[t], x0) "
        "gives it shape (B, 1, 1, 1).": lambda s, x0, t, noise: (
            per_image(s.sqrt_alpha_bar[t], x0) * x0 + s.sigma[t] * noise
        ),
        "It looks as if the weights have shape (B, 1, 1): broadcasting then lines them up with the channels. "
        "They need (B, 1, 1, 1).": _jump_with_three_axes,
    },
)

Exercise(
    tag="2.3",
    reference=snr,
    cases=lambda: [
        (linear_schedule(1000),),
        (cosine_schedule(40),),
        (linear_schedule(300, rescale=False),),
        (_mostly_noise(),),
    ],
    mistakes={
        "Right on paper. But schedule.alpha_bar is stored in 32 bits, and at t = 1 four of its seven digits are lost "
        "when it is taken from 1; .double() does not bring them back. schedule.sigma ** 2 is the same variance, and "
        "was computed in 64 bits.": lambda s: s.alpha_bar / (1 - s.alpha_bar),
        "Right on paper. But at t = 1 the square of schedule.sqrt_alpha_bar is close to 1, and most of its digits are "
        "lost when it is taken from 1: schedule.sigma ** 2 is the same variance, and was computed in 64 bits.": (
            lambda s: s.alpha_bar / (1 - s.sqrt_alpha_bar**2)
        ),
        "Right on paper. But at t = 1 the quotient 1 / alpha_bar is close to 1, and most of its digits are lost when 1 "
        "is taken away: divide alpha_bar by schedule.sigma ** 2, which was computed in 64 bits.": (
            lambda s: 1 / (1 / s.alpha_bar - 1)
        ),
        "Right on paper. But the product of the alphas, in 32 bits, is close to 1 at t = 1, and most of its digits are "
        "lost when it is taken from 1: schedule.sigma ** 2 is the same variance, and was computed in 64 bits.": (
            _snr_from_betas
        ),
        "Right on paper. But where there is much noise, 1 / sigma ** 2 is close to 1, and few digits are left when 1 "
        "is taken away: alpha_bar is a table, take it.": lambda s: 1 / s.sigma**2 - 1,
        "Right on paper. But where there is much noise, 1 - sigma ** 2 is a small difference of two numbers close to "
        "1, and few of its digits are left: alpha_bar is a table, take it.": lambda s: (1 - s.sigma**2) / s.sigma**2,
        "It looks as if this is the ratio of the weights: square them, signal and noise are measured as variances.": (
            lambda s: s.sqrt_alpha_bar / s.sigma
        ),
        "It looks as if this is noise over signal: turn it around, the clean image has an infinite ratio.": (
            lambda s: s.sigma**2 / s.alpha_bar
        ),
        "It looks as if only the noise keeps its root: the variance of the noise is schedule.sigma**2.": (
            lambda s: s.alpha_bar / s.sigma
        ),
        "It looks as if alpha and beta stand where alpha_bar belongs: that compares the parts of one step alone.": (
            lambda s: s.alpha / s.beta
        ),
        "It looks as if this is alpha_bar itself: divide it by the variance of the noise.": lambda s: s.alpha_bar,
        "It looks as if the logarithm was taken: it belongs in the plot, not in the function.": (
            lambda s: (s.alpha_bar / s.sigma**2).log()
        ),
    },
)

Exercise(
    tag="2.4",
    reference=linear_beta,
    cases=lambda: [(50, 1e-4, 0.02), (300, 1e-4, 0.02), (40, 2e-3, 0.01), (1000, 1e-4, 0.02)],
    mistakes={
        "It looks as if the ends are not rescaled: multiply both by 1000 / T.": (
            lambda T, beta_1, beta_T: _betas(T, beta_1, beta_T)
        ),
        "It looks as if the ends are multiplied by T / 1000: fewer steps must be larger ones.": (
            lambda T, beta_1, beta_T: _betas(T, beta_1 * T / 1000, beta_T * T / 1000)
        ),
        "It looks as if only the last beta is rescaled: the first one belongs to the line, too.": (
            lambda T, beta_1, beta_T: _betas(T, beta_1, beta_T * 1000 / T)
        ),
        "It looks as if the line starts at index 0: beta[0] belongs to the clean image and is 0, the line to 1 to T.": (
            lambda T, beta_1, beta_T: torch.linspace(beta_1 * 1000 / T, beta_T * 1000 / T, T + 1, dtype=torch.float64)
        ),
        "It looks as if the line has T + 1 points, so that beta[1] is already past its start: it has T points, "
        "beta[1] to beta[T].": (
            lambda T, beta_1, beta_T: torch.cat(
                [torch.zeros(1), torch.linspace(beta_1 * 1000 / T, beta_T * 1000 / T, T + 1, dtype=torch.float64)[1:]]
            )
        ),
        "beta[1:] has T entries, and you gave it T + 1: count the steps, without step 0.": (
            lambda T, beta_1, beta_T: _betas(T, beta_1 * 1000 / T, beta_T * 1000 / T, points=T + 1)
        ),
        "A tensor takes no list: put torch.tensor(...) around it, or write torch.linspace.": _betas_in_a_list,
        "It looks as if the line stops short of its end: from 1 to T there are T points and T - 1 gaps.": (
            lambda T, beta_1, beta_T: _betas(
                T, beta_1 * 1000 / T, (beta_1 + (beta_T - beta_1) * (T - 1) / T) * 1000 / T
            )
        ),
    },
)
