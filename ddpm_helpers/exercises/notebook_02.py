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
    answer="return (1 - beta) ** 0.5 * x + beta**0.5 * noise",
    mistakes="""
        x + beta**0.5 * noise
          x is not shrunk: the variance then grows by beta in every step. Weight x by sqrt(1 - beta).
        (1 - beta) ** 0.5 * x + beta * noise
          the noise has weight beta: its variance is then beta squared. Take the square root.
        (1 - beta) * x + beta**0.5 * noise
          x has weight 1 - beta: its variance is then (1 - beta) squared. Take the square root.
        (1 - beta) * x + beta * noise
          both square roots are missing: beta and 1 - beta are variances, weights are their roots.
        beta**0.5 * x + (1 - beta) ** 0.5 * noise
          the two weights are swapped: a small beta adds little noise and keeps most of x.
        (1 - beta) ** 0.5 * x + (1 - (1 - beta) ** 0.5) * noise
          the two weights add up to 1, as in notebook 01. Here their squares do: the noise has weight sqrt(beta).
        (1 - beta**0.5) * x + beta**0.5 * noise
          the two weights add up to 1, as in notebook 01. Here their squares do: x has weight sqrt(1 - beta).
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
    answer="""
        signal, sigma = schedule.sqrt_alpha_bar[t], schedule.sigma[t]
        return per_image(signal, x0) * x0 + per_image(sigma, x0) * noise
    """,
    mistakes="""
        .sqrt_alpha_bar -> .alpha_bar ; .sigma[t] -> .sigma[t] ** 2
          the square roots are missing: alpha_bar and 1 - alpha_bar are variances, weights are their roots,
          schedule.sqrt_alpha_bar and schedule.sigma.
        .sqrt_alpha_bar -> .alpha_bar
          the image has weight alpha_bar: take its root, schedule.sqrt_alpha_bar.
        .sigma[t] -> .sigma[t] ** 2
          the noise has weight 1 - alpha_bar: take its root, schedule.sigma.
        per_image(sigma, -> per_image(1 - signal,
          the two weights add up to 1, as in notebook 01. Here their squares do: the noise has weight schedule.sigma.
        per_image(signal, -> per_image(1 - sigma,
          the two weights add up to 1, as in notebook 01. Here their squares do: the image has weight
          schedule.sqrt_alpha_bar.
        [t] -> [t].sqrt()
          roots of the tables were taken: sqrt_alpha_bar and sigma are the roots already.
        .sigma[t] -> .sigma[t].sqrt()
          the root of schedule.sigma was taken: it is a root already.
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
          the tables at t, shape (B,), met the last axis of the images: per_image(schedule.sigma[t], x0) has shape
          (B, 1, 1, 1), and so for the other.
        signal * x0 + per_image(sigma, x0) * noise
          schedule.sqrt_alpha_bar[t] alone met the last axis of the images: per_image(schedule.sqrt_alpha_bar[t], x0)
          gives it shape (B, 1, 1, 1).
        per_image(signal, x0) * x0 + sigma * noise
          schedule.sigma[t] alone met the last axis of the images: per_image(schedule.sigma[t], x0) gives it shape
          (B, 1, 1, 1).
        [t] -> [t].reshape(-1, 1, 1) ; signal * x0 + sigma * noise
          the weights have shape (B, 1, 1): broadcasting then lines them up with the channels. They need (B, 1, 1, 1).
    """,
)

Exercise(
    tag="2.3",
    reference=snr,
    cases=lambda: [(linear_schedule(1000),), (cosine_schedule(40),), (linear_schedule(300, rescale=False),), (NOISY,)],
    answer="""
        alpha_bar, variance = schedule.alpha_bar, schedule.sigma**2
        return alpha_bar / variance
    """,
    mistakes="""
        alpha_bar / (1 - alpha_bar)
          ! Right on paper. But schedule.alpha_bar is stored in 32 bits, and at t = 1 four of its seven digits are lost
          when it is taken from 1; .double() does not bring them back. schedule.sigma ** 2 is the same variance, and was
          computed in 64 bits.
        alpha_bar / (1 - schedule.sqrt_alpha_bar**2)
          ! Right on paper. But at t = 1 the square of schedule.sqrt_alpha_bar is close to 1, and most of its digits are
          lost when it is taken from 1: schedule.sigma ** 2 is the same variance, and was computed in 64 bits.
        1 / (1 / alpha_bar - 1)
          ! Right on paper. But at t = 1 the quotient 1 / alpha_bar is close to 1, and most of its digits are lost when
          1 is taken away: divide alpha_bar by schedule.sigma ** 2, which was computed in 64 bits.
        schedule.alpha_bar -> (1 - schedule.beta).cumprod(0) ; alpha_bar / (1 - alpha_bar)
          ! Right on paper. But the product of the alphas, in 32 bits, is close to 1 at t = 1, and most of its digits
          are lost when it is taken from 1: schedule.sigma ** 2 is the same variance, and was computed in 64 bits.
        1 / variance - 1
          ! Right on paper. But where there is much noise, 1 / sigma ** 2 is close to 1, and few digits are left when 1
          is taken away: alpha_bar is a table, take it.
        (1 - variance) / variance
          ! Right on paper. But where there is much noise, 1 - sigma ** 2 is a small difference of two numbers close to
          1, and few of its digits are left: alpha_bar is a table, take it.
        schedule.sqrt_alpha_bar / schedule.sigma
          this is the ratio of the weights: square them, signal and noise are measured as variances.
        variance / alpha_bar
          this is noise over signal: turn it around, the clean image has an infinite ratio.
        alpha_bar / schedule.sigma
          only the noise keeps its root: the variance of the noise is schedule.sigma**2.
        schedule.alpha / schedule.beta
          alpha and beta stand where alpha_bar belongs: that compares the parts of one step alone.
        alpha_bar
          this is alpha_bar itself: divide it by the variance of the noise.
        (alpha_bar / variance).log()
          the logarithm was taken: it belongs in the plot, not in the function.
    """,
)


Exercise(
    tag="2.4",
    reference=linear_beta,
    cases=lambda: [(50, 1e-4, 0.02), (300, 1e-4, 0.02), (40, 2e-3, 0.01), (1000, 1e-4, 0.02)],
    answer="""
        first, last = beta_1 * 1000 / T, beta_T * 1000 / T
        beta = torch.zeros(T + 1, dtype=torch.float64)
        beta[1:] = torch.linspace(first, last, T, dtype=torch.float64)
        return beta
    """,
    mistakes="""
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
        last, T, -> first + (last - first) * (T - 1) / T, T,
          the line stops short of its end: from 1 to T there are T points and T - 1 gaps.
    """,
)
