"""Exercises of notebook 18: the flow map, the skip, the target of two steps in one, how many calls are worth it."""

import torch

from ..lessons.few_steps import distilled_target, fewest_calls, flow_map, with_skip
from ..lessons.toy import Mixture
from ..marking import Exercise
from ..schedule import cosine_schedule, linear_schedule


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + shape[0]), dtype=torch.float64)


def _mixture(*numbers: list[float]) -> Mixture:
    return Mixture(*torch.tensor(numbers, dtype=torch.float64))


def _noised(n: int, signal: float, spread: float) -> tuple:
    signal = torch.tensor(signal, dtype=torch.float64)
    return _normal(n, 3), _normal(n, 3, seed=9), signal, (1 - signal**2).sqrt(), spread


def _steps(schedule, t: int, s: int) -> tuple:
    return schedule, _normal(3, 1, 4, 2), t, _normal(3, 1, 4, 2, seed=5), s


def _measured(calls: list[int], distance: list[float], error: list[float]) -> tuple:
    return torch.tensor(calls), torch.tensor(distance), torch.tensor(error)


Exercise(
    tag="18.1",
    reference=flow_map,
    cases=lambda: [
        (_mixture([0.3, 0.7], [-0.8, 0.9], [0.2, 0.3]), _normal(7), 0.5, 0.1),
        (_mixture([1.0], [0.6], [0.4]), _normal(5), 0.3, 0.2),
        (_mixture([0.5, 0.5], [0.1, 1.0], [0.4, 0.2]), _normal(4), 0.2, 0.6),
    ],
    table="""
share = distribution(data, x, t)
return quantile(data, share, s)

quantile(data, share, t)
share = distribution(data, x, s)
  both functions are taken at one time, which leads back to x: the distribution belongs to t, the quantile to s.
share = distribution(data, x, s) ; quantile(data, share, t)
  the two times have changed places: this is the way from s to t.
share = 1 - distribution(data, x, t)
  the share above x was taken. It turns the order round, and paths keep it.
share
  this is the share below x. The place where it is reached at time s is wanted.
quantile(data, share, 0.0)
  you go on to time 0 whatever s is.
share = distribution(data, x, 1.0)
  the share is that at time 1. The grain is at time t.
x + quantile(data, share, s)
  the old place is added: the quantile is the new place itself.
x + (s - t) * (quantile(data, share, s) - x)
  a step towards the end is taken, and the quantile is the end.
""",
)

Exercise(
    tag="18.2",
    reference=with_skip,
    cases=lambda: [_noised(4, 0.8, 0.5), _noised(5, 0.3, 2.0), _noised(6, 0.95, 0.7)],
    table="""
variance = signal**2 * spread**2 + sigma**2
skip, out = signal * spread**2 / variance, spread * sigma / variance.sqrt()
return skip * x + out * answer

variance = spread**2 + sigma**2
  the data's variance is not shrunk by the signal: x has the variance signal^2 spread^2 + sigma^2.
variance = signal * spread + sigma
  standard deviations were added, and variances add up.
variance = signal**2 + sigma**2
  the spread is missing in the variance of x.
skip, out = signal, sigma
  this is the velocity's skip, for data of standard deviation 1. Here it is `spread`.
skip, out = 1 / signal, sigma / signal
  this is, up to a sign, the clean image of a noise network: it divides by the signal, which is tiny at the end.
skip, out = signal * spread**2 / variance, spread * sigma / variance
  the second fraction has the variance below. Its square root belongs there.
skip, out = signal * spread**2 / variance.sqrt(), spread * sigma / variance.sqrt()
  the first fraction has a square root below: the coefficient of a regression is Cov / Var.
skip, out = spread**2 / variance, spread * sigma / variance.sqrt()
  the signal is missing above in the first fraction: Cov(x_0, x) = signal spread^2. (In the papers the signal is 1.)
skip, out = signal * spread / variance, spread * sigma / variance.sqrt()
  the spread is not squared in the first fraction: Cov(x_0, x) = signal spread^2.
skip, out = signal * spread**2 / variance, sigma / variance.sqrt()
  the spread is missing in the second fraction: near pure noise the answer should vary as the data do.
skip * x - out * answer
  the answer is subtracted. With F = -v that gives the velocity; here F is added.
skip, out = signal * spread**2 / variance, signal * spread / variance.sqrt()
  the second fraction does not vanish where there is no noise: it has sigma above, not the signal.
""",
)

Exercise(
    tag="18.3",
    reference=distilled_target,
    cases=lambda: [
        _steps(cosine_schedule(), 700, 350),
        _steps(linear_schedule(200), 150, 90),
        _steps(cosine_schedule(50), 30, 0),
    ],
    table="""
signal, sigma = schedule.sqrt_alpha_bar, schedule.sigma
ratio = sigma[s] / sigma[t]
return (x_s - ratio * x_t) / (signal[s] - ratio * signal[t])

x_s
  this is where the two steps ended, with noise still in it. The clean image on that line is wanted.
x_s / signal[s]
  the noise in x_s is still there: x_s over the signal is right for s = 0 alone.
(x_s - ratio * x_t) / signal[s]
  x_t has a part of the clean image, too, which you subtracted with it: signal[s] - ratio signal[t] stands below.
(x_s - ratio * x_t) / (signal[s] - signal[t])
  the ratio is missing below.
(x_s - x_t) / (signal[s] - signal[t])
  the noise of x_s and of x_t has not the same weight: multiply x_t, and its signal, by the ratio of the sigmas.
(x_s + ratio * x_t) / (signal[s] + ratio * signal[t])
  the noise was added up, not removed: both signs are minus.
ratio = sigma[t] / sigma[s].clamp(min=1e-9)
  the ratio stands upside down: x_s has the smaller sigma, so it is below 1.
ratio = signal[s] / signal[t] ; (x_s - ratio * x_t) / (sigma[s] - ratio * sigma[t])
  this is the noise on that line. Eliminate the noise, and keep the clean image.
ratio = (sigma[s] / sigma[t]) ** 2
  the ratio is one of variances.
signal, sigma = schedule.alpha_bar, schedule.sigma
  alpha_bar stands for the signal, which is its square root.
(ratio * x_t - x_s) / (signal[s] - ratio * signal[t])
  above, the two terms have changed places, and below not: the image is a negative.
""",
)

Exercise(
    tag="18.4",
    reference=fewest_calls,
    cases=lambda: [
        _measured([1, 2, 4, 8], [90.0, 46.0, 41.0, 40.0], [5.0, 3.0, 2.0, 2.0]),
        _measured([50, 8, 3, 2], [30.0, 31.5, 33.0, 45.0], [1.0, 1.0, 1.0, 1.0]),
        _measured([4, 2, 1], [20.0, 24.0, 40.0], [1.0, 1.5, 4.0]),
        _measured([4, 1, 2], [10.0, 15.0, 10.5], [2.0, 1.0, 2.0]),
        _measured([5, 10, 2], [10.0, 12.0, 14.1], [1.0, 1.0, 1.0]),
        _measured([2, 10, 5], [17.5, 10.0, 13.0], [3.0, 2.0, 0.9]),
        _measured([2, 10, 5], [22.5, 10.0, 13.0], [6.0, 2.0, 0.9]),
    ],
    table="""
best = distance.argmin()
gap = distance - distance[best]
error_of_gap = (error**2 + error[best] ** 2).sqrt()
return int(calls[gap <= 2 * error_of_gap].min())

int(calls[best])
  the smallest distance wins, although others are as good within their errors.
int(calls.min())
  the fewest calls win, whatever their distance is.
int(calls[gap <= error_of_gap].min())
  one standard error is allowed. Two are.
int(calls[gap <= 3 * error_of_gap].min())
  three standard errors are allowed. Two are.
error_of_gap = error
  only the error of each row counts. The best one's distance is uncertain, too.
error_of_gap = error[best]
  only the error of the best one counts. The other's distance is uncertain, too.
error_of_gap = error + error[best]
  the two errors are added. Errors that are independent add as squares: the root of the sum of the squares.
error_of_gap = error**2 + error[best] ** 2
  the square root is missing: that is a variance.
int(calls[gap <= 2 * error_of_gap].max())
  of those that are close you take the one with most calls.
int(calls[gap <= 2 * error_of_gap][0])
  of those that are close you take the first one in the list. The smallest number is wanted.
""",
)
