"""Flow matching on the straight path x_a = (1 - a) x_0 + a noise (notebook 14): a = 0 is the image, a = 1 noise.

A velocity is a callable (x, a) -> dx / da, same shape as x, with a number a in [0, 1].
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import _check_images, check_counts
from ..schedule import NoiseSchedule, per_image
from .toy import Mixture, path_means

Velocity = Callable[[Tensor, float], Tensor]


def interpolate(x0: Tensor, noise: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """x_a (B, ...) on the straight path between images and noise, amounts a (B,) in [0, 1], and its velocity there
    (Lipman et al. 2023, eq. 20 to 23, with time reversed; Liu et al. 2023, eq. 1)."""
    _check_images(x0=x0, noise=noise)
    if not bool(((a >= 0) & (a <= 1)).all()):
        raise ValueError(f"interpolate: a must lie in [0, 1], got {a.min().item():g} to {a.max().item():g}")
    share = per_image(a, x0)
    return (1 - share) * x0 + share * noise, noise - x0


def flow_matching_loss(model: Callable, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity at the amounts t / T, t (B,) in 1 ... T; of the schedule only T counts."""
    x_a, velocity = interpolate(x0, noise, t / schedule.T)
    prediction = model(x_a, t)
    _check_images(noise=noise, prediction=prediction)
    return F.mse_loss(prediction, velocity)


def from_velocity(x_a: Tensor, a: float, velocity: Tensor) -> tuple[Tensor, Tensor]:
    """Clean image and noise that lie on the straight line through x_a with this velocity."""
    return x_a - a * velocity, x_a + (1 - a) * velocity


def euler_step(velocity: Velocity, x: Tensor, a: float, b: float) -> Tensor:
    """From x at amount a to amount b along the velocity at a."""
    return x + (b - a) * velocity(x, a)


def heun_step(velocity: Velocity, x: Tensor, a: float, b: float) -> Tensor:
    """From x at amount a to amount b along the mean of the velocities at both ends: second order, two calls."""
    first = velocity(x, a)
    return x + (b - a) / 2 * (first + velocity(x + (b - a) * first, b))


@torch.no_grad()
def flow_trajectory(velocity: Velocity, x: Tensor, steps: int, step: Callable = euler_step) -> Iterator[Tensor]:
    """From noise x at a = 1 to images at a = 0 in equal steps; yields x after each."""
    check_counts("flow_trajectory", steps=steps)
    for a, b in pairwise(i / steps for i in range(steps, -1, -1)):
        x = step(velocity, x, a, b)
        yield x


def velocity_of(model: Callable, T: int, *label: Tensor) -> Velocity:
    """A network trained by `flow_matching_loss` as a velocity; at a = 0 it is asked about step 1."""
    return lambda x, a: model(x, torch.full((len(x),), max(round(a * T), 1), device=x.device), *label)


def exact_velocity(data: Mixture) -> Velocity:
    """E[noise - x_0 | x_a = x] for data from a mixture; `a` is a number, or one for each x."""

    def velocity(x: Tensor, a: float | Tensor) -> Tensor:
        x0, noise = path_means(data, x, 1 - a, a)
        return noise - x0

    return velocity


def logit_normal_steps(t: Tensor, T: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Uniform steps t (B,) in 1 ... T, moved so that logit(t / T) is normal: most lie in the middle (Esser et al.
    2024, eq. 19)."""
    a = torch.special.ndtri((t - 0.5).double() / T).mul(std).add(mean).sigmoid()
    return (a * T).ceil().long().clamp(1, T)
