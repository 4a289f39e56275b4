"""Samplers. A trajectory is a generator of `Step`s, yielded after the step is complete; callers draw, log or stop."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """One completed step of a sampler."""

    t: float  # what is left to do after this step: an amount of corruption in [0, 1] for the naive sampler
    x: Tensor  # (B, C, H, W) where the step ended
    x0_hat: Tensor  # (B, C, H, W) the clean images that the model predicted, and the step moved towards


def naive_step(x: Tensor, x0_hat: Tensor, i: int, steps: int) -> Tensor:
    """Move from `x` towards the prediction `x0_hat` by the share 1 / (steps left), in step i = 0 ... steps - 1.

    The last step (i = steps - 1) lands on the prediction. This is Euler's method on the straight path of
    `schedule.corrupt`; notebook 01, equation 1.4, shows it.

    Raises:
        ValueError: if not 0 <= i < steps.
    """
    if not 0 <= i < steps:
        raise ValueError(f"naive_step: i counts 0 ... steps - 1, got i = {i} of {steps} steps")
    return x + (x0_hat - x) / (steps - i)


@torch.no_grad()
def naive_trajectory(model: Callable[..., Tensor], noise: Tensor, steps: int) -> Iterator[Step]:
    """Sample with a model that predicts the clean image: `steps` small moves towards an ever better guess.

    Args:
        model: callable (x, t) -> predicted clean images, same shape; t (B,) is the amount of corruption left.
        noise: the start (B, C, H, W), uniform in [0, 1].
        steps: number of moves, at least 1.

    Yields:
        one `Step` per move; the last one's `x` is the sample.

    Raises:
        ValueError: if steps < 1.
    """
    if steps < 1:
        raise ValueError(f"naive_trajectory: steps must be at least 1, got {steps}")
    x = noise
    for i in range(steps):
        amount = 1 - i / steps
        x0_hat = model(x, torch.full((len(x),), amount, device=x.device))
        x = naive_step(x, x0_hat, i, steps)
        yield Step(1 - (i + 1) / steps, x, x0_hat)
