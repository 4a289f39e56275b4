"""A world with one pixel, where likelihood, bound and posterior can be computed exactly (notebooks 03, 04, 14, 15).

Numbers are float64, `t` is a plain int in 1 ... T, and points broadcast: a path (N,), or a grid (n, 1) against (1, n).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..schedule import NoiseSchedule, tables


def double(schedule: NoiseSchedule) -> NoiseSchedule:
    """The same schedule with its tables computed afresh from `beta` and kept in float64 (on the CPU)."""
    exact = copy.copy(schedule)
    vars(exact).update(tables(schedule.beta.cpu().double()))
    return exact


def log_normal(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    """Log density of N(mean, variance) at `x`; all three broadcast."""
    variance = torch.as_tensor(variance, dtype=x.dtype)
    if not bool((variance > 0).all()):
        raise ValueError(f"log_normal: variance must be above 0, got {variance.min().item():g}")
    return -0.5 * ((x - mean) ** 2 / variance + torch.log(2 * math.pi * variance))


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of Gaussians on the line."""

    weights: Tensor  # (K,), they sum to 1
    means: Tensor  # (K,)
    stds: Tensor  # (K,)

    def __post_init__(self):
        alike = self.weights.shape == self.means.shape == self.stds.shape == (len(self.weights),)
        positive = bool((self.weights > 0).all() and (self.stds > 0).all())
        if not alike or not positive or abs(self.weights.sum().item() - 1) > 1e-6:
            raise ValueError("Mixture: three tensors (K,), weights and stds above 0, and the weights with sum 1")

    def log_density(self, x: Tensor) -> Tensor:
        """log q(x), same shape as `x`."""
        return self._log_peaks(x).logsumexp(-1)

    def _log_peaks(self, x: Tensor) -> Tensor:
        return self.weights.log() + log_normal(x[..., None], self.means, self.stds**2)  # (..., K)

    def noised(self, schedule: NoiseSchedule, t: int) -> "Mixture":
        """The distribution of x_t: each peak moves towards 0 and widens towards 1."""
        variance = schedule.alpha_bar[t] * self.stds**2 + schedule.sigma[t] ** 2
        return Mixture(self.weights, schedule.sqrt_alpha_bar[t] * self.means, variance.sqrt())

    def ideal_eps(self, schedule: NoiseSchedule) -> Callable[[Tensor, int], Tensor]:
        """The function (x_t, t) -> E[noise | x_t]: what a perfect network would answer for this data."""

        def eps(x_t: Tensor, t: int) -> Tensor:
            peaks = self.noised(schedule, t)
            noise = schedule.sigma[t] * (x_t[..., None] - peaks.means) / peaks.stds**2  # E[noise | x_t, peak]
            return (peaks._log_peaks(x_t).softmax(-1) * noise).sum(-1)

        return eps


def path_density(data: Mixture, x: Tensor, signal: Tensor | float, sigma: Tensor | float) -> Tensor:
    """log density of signal x_0 + sigma noise at x (N,), data from a mixture; signal and sigma are numbers or (N,)."""
    return _path_peaks(data, x, signal, sigma)[0].logsumexp(-1)


def path_means(data: Mixture, x: Tensor, signal: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
    """E[x_0 | x] and E[noise | x] for x = signal x_0 + sigma noise, each (N,): what a perfect network would answer."""
    log_peaks, away = _path_peaks(data, x, signal, sigma)
    share = log_peaks.softmax(-1)
    signal, sigma = (torch.as_tensor(number, dtype=x.dtype)[..., None] for number in (signal, sigma))
    return (share * (data.means + signal * data.stds**2 * away)).sum(-1), (share * sigma * away).sum(-1)


def _path_peaks(data: Mixture, x: Tensor, signal: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
    """Of each peak: its log density at x, weight included, and x less its mean, over its variance; both (N, K)."""
    signal, sigma = (torch.as_tensor(number, dtype=x.dtype)[..., None] for number in (signal, sigma))
    mean, variance = signal * data.means, signal**2 * data.stds**2 + sigma**2
    return data.weights.log() + log_normal(x[..., None], mean, variance), (x[..., None] - mean) / variance


def log_forward(schedule: NoiseSchedule, x_prev: Tensor, x_t: Tensor, t: int) -> Tensor:
    """log q(x_t | x_{t-1}): one step of noise."""
    _check_step(schedule, t)
    return log_normal(x_t, schedule.alpha[t].sqrt() * x_prev, schedule.beta[t])


def log_closed_form(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: int) -> Tensor:
    """log q(x_t | x_0): t steps of noise at once."""
    _check_step(schedule, t)
    return log_normal(x_t, schedule.sqrt_alpha_bar[t] * x0, schedule.sigma[t] ** 2)


@dataclass(frozen=True, eq=False)
class ReverseModel:
    """p_theta: x_T from N(0, 1), then T Gaussian steps down to x_0. The noise prediction `eps` is all it learns."""

    schedule: NoiseSchedule
    variance: Tensor  # (T+1,), variance[t] of the step from t to t - 1; index 0 is not used
    eps: Callable[[Tensor, int], Tensor]  # (x_t, t) -> predicted noise, same shape

    def mean(self, x_t: Tensor, t: int) -> Tensor:
        """Mean of the step from t to t - 1 (Ho et al. 2020, eq. 11)."""
        _check_step(self.schedule, t)
        s = self.schedule
        return (x_t - s.beta[t] / s.sigma[t] * self.eps(x_t, t)) / s.alpha[t].sqrt()

    def log_step(self, x_prev: Tensor, x_t: Tensor, t: int) -> Tensor:
        """log p_theta(x_{t-1} | x_t)."""
        return log_normal(x_prev, self.mean(x_t, t), self.variance[t])

    def log_prior(self, x_T: Tensor) -> Tensor:
        """log p(x_T), standard normal."""
        return log_normal(x_T, 0.0, 1.0)


def log_weight(model: ReverseModel, path: Tensor) -> Tensor:
    """log p_theta(x_0, ..., x_T) - log q(x_1, ..., x_T | x_0) of each `path` (T+1, N): (N,). Over paths drawn from q
    its mean is the ELBO; the mean of its exponential is the likelihood."""
    T = model.schedule.T
    if path.ndim != 2 or len(path) != T + 1:
        raise ValueError(f"log_weight: a path has T + 1 = {T + 1} rows, got shape {tuple(path.shape)}")
    total = model.log_prior(path[T])  # (N,)
    for t in range(1, T + 1):
        total = total + model.log_step(path[t - 1], path[t], t) - log_forward(model.schedule, path[t - 1], path[t], t)
    return total


def gaussian_kl(mean_1: Tensor, variance_1: Tensor, mean_2: Tensor, variance_2: Tensor) -> Tensor:
    """KL(N(mean_1, variance_1) || N(mean_2, variance_2)) in nats, element by element; the four broadcast."""
    ratio = variance_1 / variance_2
    return 0.5 * (ratio - 1 - torch.log(ratio) + (mean_1 - mean_2) ** 2 / variance_2)


def loss_weight(schedule: NoiseSchedule, variance: Tensor) -> Tensor:
    """What the bound puts in front of the squared noise error of each step (Ho et al. 2020, eq. 12): (T+1,), 0 first;
    variance[t] (T+1,) is that of the model's step from t to t - 1."""
    if variance.shape != schedule.beta.shape:
        raise ValueError(f"loss_weight: variance must have shape ({schedule.T + 1},), got {tuple(variance.shape)}")
    weight = schedule.beta**2 / (2 * variance * schedule.alpha * schedule.sigma**2)
    weight[0] = 0
    return weight


def _check_step(schedule: NoiseSchedule, t: int) -> None:
    if not isinstance(t, int) or isinstance(t, bool) or not 1 <= t <= schedule.T:
        raise ValueError(f"t must be an int in 1 ... {schedule.T}, got {t!r}")
