"""The forward process in continuous time, on the one-pixel world (notebook 15): t in [0, 1], 0 is the image.

dx = -1/2 beta(t) x dt + sqrt(beta(t)) dw with beta(t) = 0.1 + 19.9 t: the VP SDE of Song, Sohl-Dickstein et al. 2021.
Numbers are float64; `t` is a number, or one for each x (N,).
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from ..schedule import NoiseSchedule, tables
from .toy import Mixture, path_density, path_means

LOW, HIGH = 0.1, 20.0


def beta(t: Tensor | float) -> Tensor:
    """Noise added per unit of time."""
    return LOW + (HIGH - LOW) * torch.as_tensor(t, dtype=torch.float64)


def signal(t: Tensor | float) -> Tensor:
    """What is left of the image: exp(-1/2 of the integral of beta)."""
    t = torch.as_tensor(t, dtype=torch.float64)
    return torch.exp(-0.5 * (LOW * t + (HIGH - LOW) * t**2 / 2))


def sigma(t: Tensor | float) -> Tensor:
    """sqrt(1 - signal^2)."""
    return (1 - signal(t) ** 2).sqrt()


def time_of(log_snr: Tensor) -> Tensor:
    """The t at which log(signal / sigma) has this value."""
    total = torch.nn.functional.softplus(-2 * log_snr)  # integral of beta: signal^2 = sigmoid(2 log_snr)
    return ((LOW**2 + 2 * (HIGH - LOW) * total).sqrt() - LOW) / (HIGH - LOW)


def log_density(data: Mixture, x: Tensor, t: Tensor | float) -> Tensor:
    """log q_t(x), same shape as x."""
    return path_density(data, x, signal(t), sigma(t))


def noise_guess(data: Mixture, x: Tensor, t: Tensor | float) -> Tensor:
    """E[noise | x_t = x]: a perfect network; the score is minus it, over sigma."""
    return path_means(data, x, signal(t), sigma(t))[1]


def clean_guess(data: Mixture, x: Tensor, t: Tensor | float) -> Tensor:
    """E[x_0 | x_t = x]."""
    return path_means(data, x, signal(t), sigma(t))[0]


def score(data: Mixture, x: Tensor, t: Tensor | float) -> Tensor:
    """d/dx log q_t(x)."""
    return -noise_guess(data, x, t) / sigma(t)


def reverse_drift(x: Tensor, score: Tensor, beta: Tensor | float, share: float) -> Tensor:
    """What moves x on the way from noise to image, per unit of time, besides `share` times as much fresh noise as the
    forward process adds: 1 is the reverse SDE (Anderson 1982), 0 the probability-flow ODE."""
    return beta / 2 * x + (1 + share**2) / 2 * beta * score


def slope(data: Mixture, x: Tensor, t: Tensor | float) -> Tensor:
    """dx/dt along the probability-flow ODE."""
    return -beta(t) / 2 * (x + score(data, x, t))


def euler(data: Mixture, x: Tensor, times: Tensor) -> Tensor:
    """The ODE by Euler's method in t, along decreasing times (n+1,)."""
    for t, s in pairwise(times):
        x = x + (s - t) * slope(data, x, t)
    return x


def ddim(data: Mixture, x: Tensor, times: Tensor) -> Tensor:
    """The same by DDIM: clean guess and noise guess, mixed anew."""
    for t, s in pairwise(times):
        x = signal(s) * clean_guess(data, x, t) + sigma(s) * noise_guess(data, x, t)
    return x


def heun(data: Mixture, x: Tensor, times: Tensor) -> Tensor:
    """The same by Heun's method in x / signal and sigma / signal (Karras et al. 2022)."""
    for t, s in pairwise(times):
        h, first = sigma(s) / signal(s) - sigma(t) / signal(t), noise_guess(data, x, t)
        trial = signal(s) * (x / signal(t) + h * first)
        x = signal(s) * (x / signal(t) + h / 2 * (first + noise_guess(data, trial, s)))
    return x


def dpm_solver(data: Mixture, x: Tensor, times: Tensor) -> Tensor:
    """The same by DPM-Solver++(2M) (Lu et al. 2022b), the first step by DDIM."""
    last = before = None
    for t, s in pairwise(times):
        guess = clean_guess(data, x, t)
        h = (signal(s) / sigma(s)).log() - (signal(t) / sigma(t)).log()
        ahead = guess if last is None else guess + h / last / 2 * (guess - before)
        x, last, before = sigma(s) / sigma(t) * x - signal(s) * torch.expm1(-h) * ahead, h, guess
    return x


def random_walk(data: Mixture, x: Tensor, times: Tensor, generator: torch.Generator, ancestral: bool = False) -> Tensor:
    """The reverse SDE by Euler-Maruyama, or the DDPM's step with beta = beta(t) (t - s)."""
    for t, s in pairwise(times):
        b, z = beta(t) * (t - s), torch.randn(x.shape, generator=generator, dtype=x.dtype)
        mean = (x + b * score(data, x, t)) / (1 - b).sqrt() if ancestral else x + b / 2 * x + b * score(data, x, t)
        x = mean + b.sqrt() * z
    return x


def hutchinson(velocity, x: Tensor, signs: Tensor) -> Tensor:
    """z . (J z) of each image, J the derivative of `velocity` at x (B, ...), signs z (B, ...) of 1 and -1: its mean
    over random signs is the divergence (Hutchinson 1989; Grathwohl et al. 2019)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        [pulled] = torch.autograd.grad((velocity(x) * signs).sum(), x)
    return (pulled * signs).flatten(1).sum(1)


def rescaled_beta(beta: Tensor) -> Tensor:
    """Betas (T+1,), beta[0] = 0, changed so that nothing of the image is left at T: the square roots of alpha_bar are
    shifted to end at 0 and stretched to begin as before (Lin et al. 2024, algorithm 1). beta[T] becomes 1."""
    root = tables(beta)["sqrt_alpha_bar"]
    root = torch.cat([root[:1], (root[1:] - root[-1]) * root[1] / (root[1] - root[-1])])
    return torch.cat([beta[:1], 1 - root[1:] ** 2 / root[:-1] ** 2])


def brightness_kept(schedule: NoiseSchedule, spread: float, pixels: int) -> float:
    """Standard deviation of the samples' mean brightness, over that of the data, if the perfect sampler of Gaussian
    brightness begins with pure noise at T."""
    left = schedule.alpha_bar[-1].item()
    return 1 / math.sqrt(1 - left + left * pixels * spread**2)
