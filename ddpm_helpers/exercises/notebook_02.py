"""Exercises of notebook 02: one forward step, the closed form, the signal-to-noise ratio, betas rescaled."""

import torch

from ..marking import Exercise
from ..schedule import NoiseSchedule, cosine_schedule, forward_step, linear_beta, linear_schedule, q_sample, snr


def _images(*shape: int) -> tuple:
    x, noise = torch.randn((2, *shape), generator=torch.Generator().manual_seed(shape[0]))
    return x, noise


def _step(beta: float, *shape: int) -> tuple:
    x, noise = _images(*shape)
    return x, beta, noise


def _noised(schedule: NoiseSchedule, steps: list[int], *shape: int) -> tuple:
    x0, noise = _images(*shape)
    return schedule, x0, torch.tensor(steps), noise


# So much noise from step 1 on that 1 / sigma ** 2 - 1 shows how few digits it has.
NOISY = NoiseSchedule(torch.tensor([0, 1 - 2049 / 2**24, 0.25, 0.5]))


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
    table="""
return (1 - beta) ** 0.5 * x + beta**0.5 * noise

x + beta**0.5 * noise
  x is not shrunk: the variance then grows by beta in every step. Weight x by sqrt(1 - beta).
(1 - beta) ** 0.5 * x + beta * noise
  the noise has weight beta: its variance is then beta squared. Take the square root.
(1 - beta) ** 0.5 * x + noise
  the noise has its full strength: weight it by sqrt(beta).
(1 - beta) * x + beta**0.5 * noise
  x has weight 1 - beta: its variance is then (1 - beta) squared. Take the square root.
(1 - beta) * x + beta * noise
  both square roots are missing: beta and 1 - beta are variances, weights are their roots.
beta**0.5 * x + (1 - beta) ** 0.5 * noise
  the two weights are swapped: a small beta adds little noise and keeps most of x.
(1 - beta) ** 0.5 * x + (1 - (1 - beta) ** 0.5) * noise
(1 - beta**0.5) * x + beta**0.5 * noise
  the two weights add up to 1, as in notebook 01. Here their squares do: they are sqrt(1 - beta) and sqrt(beta).
(1 - beta**2) ** 0.5 * x + beta * noise
  beta is taken for a standard deviation: it is a variance, and the weight is its root.
(1 - beta) ** 1 / 2 * x + beta**1 / 2 * noise
  ** 1/2 was meant as a root: ** comes before /, so write ** 0.5.
torch.sqrt(1 - beta) * x + torch.sqrt(beta) * noise
  ! torch.sqrt wants a tensor, and beta is a number here: write beta ** 0.5.
""",
)

Exercise(
    tag="2.2",
    reference=q_sample,
    cases=lambda: [
        _noised(linear_schedule(50), [1, 50, 17, 3, 30], 5, 3, 4, 2),
        _noised(cosine_schedule(40), [20, 39, 8], 3, 1, 2, 5),
        _noised(linear_schedule(50), [40, 12, 25, 5], 4, 1, 3, 4),  # B = W: a wrong broadcast runs through
    ],
    table="""
signal, sigma = schedule.sqrt_alpha_bar[t], schedule.sigma[t]
return per_image(signal, x0) * x0 + per_image(sigma, x0) * noise

.sqrt_alpha_bar -> .alpha_bar ; .sigma[t] -> .sigma[t] ** 2
.sqrt_alpha_bar -> .alpha_bar
.sigma[t] -> .sigma[t] ** 2
  a square root is missing: alpha_bar and 1 - alpha_bar are variances, weights are their roots, schedule.sqrt_alpha_bar
  and schedule.sigma.
x0 + per_image(sigma, x0) * noise
  the image keeps its full strength: weight it by schedule.sqrt_alpha_bar.
per_image(signal, x0) * x0 + noise
  the noise has its full strength: weight it by schedule.sigma.
per_image(sigma, -> per_image(1 - signal,
per_image(signal, -> per_image(1 - sigma,
  the two weights add up to 1, as in notebook 01. Here their squares do: take schedule.sqrt_alpha_bar for the image and
  schedule.sigma for the noise.
[t] -> [t].sqrt()
.sigma[t] -> .sigma[t].sqrt()
  the root of a table was taken: sqrt_alpha_bar and sigma are roots already.
.sigma[t] -> .beta[t].sqrt()
  the noise has the weight of one step, the root of beta: that of t steps is schedule.sigma.
.sqrt_alpha_bar[t] -> .alpha[t].sqrt() ; .sigma[t] -> .beta[t].sqrt()
  alpha and beta stand where alpha_bar belongs: that is one step, not the closed form for t of them.
per_image(sigma, x0) * x0 + per_image(signal, x0) * noise
  the two weights are swapped: schedule.sqrt_alpha_bar belongs to the image, schedule.sigma to the noise.
[t] -> [t - 1]
  the tables were read at t - 1: here step t stands at index t, index 0 is the clean image.
schedule. -> linear_schedule(1000).
  the notebook's tables `signal` and `sigma` are used: read those of the argument, schedule.sqrt_alpha_bar and
  schedule.sigma.
signal * x0 + sigma * noise
signal * x0 + per_image(sigma, x0) * noise
per_image(signal, x0) * x0 + sigma * noise
  a table at t, shape (B,), met the last axis of the images: per_image(schedule.sigma[t], x0) has shape (B, 1, 1, 1),
  and so has per_image(schedule.sqrt_alpha_bar[t], x0).
[t] -> [t].reshape(-1, 1, 1) ; signal * x0 + sigma * noise
  the weights have shape (B, 1, 1): broadcasting then lines them up with the channels. They need (B, 1, 1, 1).
""",
)

Exercise(
    tag="2.3",
    reference=snr,
    cases=lambda: [(linear_schedule(1000),), (cosine_schedule(40),), (linear_schedule(300, rescale=False),), (NOISY,)],
    table="""
alpha_bar, variance = schedule.alpha_bar, schedule.sigma**2
return alpha_bar / variance

alpha_bar / (1 - alpha_bar)
alpha_bar / (1 - schedule.sqrt_alpha_bar**2)
1 / (1 / alpha_bar - 1)
schedule.alpha_bar -> (1 - schedule.beta).cumprod(0) ; alpha_bar / (1 - alpha_bar)
  ! Right on paper. But at t = 1 alpha_bar, its root and 1 / alpha_bar are close to 1, and in 32 bits four of their
  seven digits are lost when the 1 is taken away; .double() does not bring them back. schedule.sigma ** 2 is 1 -
  alpha_bar, computed in 64 bits.
1 / variance - 1
(1 - variance) / variance
  ! Right on paper. But where there is much noise, sigma ** 2 and 1 / sigma ** 2 are close to 1, and few digits are left
  of the difference from 1: alpha_bar is a table, take it.
schedule.sqrt_alpha_bar / schedule.sigma
  this is the ratio of the weights: square them, signal and noise are measured as variances.
alpha_bar / schedule.sigma
  only the noise keeps its root: the variance of the noise is schedule.sigma**2.
schedule.alpha / schedule.beta
  alpha and beta stand where alpha_bar belongs: that compares the parts of one step alone.
alpha_bar
  this is alpha_bar itself: divide it by the variance of the noise.
""",
)


Exercise(
    tag="2.4",
    reference=linear_beta,
    cases=lambda: [(50, 1e-4, 0.02), (300, 1e-4, 0.02), (40, 2e-3, 0.01), (1000, 1e-4, 0.02)],
    table="""
first, last = beta_1 * 1000 / T, beta_T * 1000 / T
beta = torch.zeros(T + 1, dtype=torch.float64)
beta[1:] = torch.linspace(first, last, T, dtype=torch.float64)
return beta

* 1000 / T ->
  the ends are not rescaled: multiply both by 1000 / T.
* 1000 / T -> * T / 1000
  the ends are multiplied by T / 1000: fewer steps must be larger ones.
beta_1 * 1000 / T -> beta_1
  only the last beta is rescaled: the first one belongs to the line, too.
torch.linspace(first, last, T + 1, dtype=torch.float64)
  the line starts at index 0: beta[0] belongs to the clean image and is 0, the line to 1 to T.
last, T, dtype=torch.float64) -> last, T + 1, dtype=torch.float64)[1:]
  the line has T + 1 points, so that beta[1] is already past its start: it has T points, beta[1] to beta[T].
last, T, -> last, T + 1,
  ! beta[1:] has T entries, and you gave it T + 1: count the steps, without step 0.
torch.linspace(first, last, T, dtype=torch.float64) -> [beta_1] * T
  ! A tensor takes no list: put torch.tensor(...) around it, or write torch.linspace.
beta[1:]
torch.linspace(beta_1, beta_T, T, dtype=torch.float64)
  step 0 is missing: the table has T + 1 entries, and beta[0], of the clean image, is 0.
last, T, -> first + (last - first) * (T - 1) / T, T,
  the line stops short of its end: from 1 to T there are T points and T - 1 gaps.
""",
)
