"""Notebook 01's process: images in [0, 1], uniform noise, a straight line between them, and a walk back along it."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import _check_images
from ..sampling import Step
from ..schedule import per_image


def corrupt(x: Tensor, amount: Tensor, noise: Tensor) -> Tensor:
    """Images (B, C, H, W) and noise in [0, 1], blended along a straight line: amount (B,) is the share of noise."""
    _check_corrupt(x, amount, noise)
    weight = per_image(amount, x)  # (B, 1, 1, 1)
    return (1 - weight) * x + weight * noise


def naive_loss(model: Callable[[Tensor], Tensor], x: Tensor, amount: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error between the clean images `x` and the model's repair of the corrupted ones; a scalar."""
    prediction = model(corrupt(x, amount, noise))
    _check_images(x=x, prediction=prediction)
    return F.mse_loss(prediction, x)


def naive_step(x: Tensor, x0_hat: Tensor, i: int, steps: int) -> Tensor:
    """From `x` towards the prediction `x0_hat`, by the share 1 / (steps left), in step i = 0 ... steps - 1.

    The last step lands on the prediction. This is Euler's method on the straight path of `corrupt` (equation 1.5).
    """
    _check_count(i, steps)
    _check_images(x=x, x0_hat=x0_hat)
    return x + (x0_hat - x) / (steps - i)


@torch.no_grad()
def naive_trajectory(model: Callable[..., Tensor], noise: Tensor, steps: int) -> Iterator[Step]:
    """Sample with a model (x, amount (B,)) -> predicted clean images: `steps` small moves towards an ever better guess.

    Starts at `noise` (B, C, H, W), uniform in [0, 1], and yields one `Step` per move; the last one's `x` is the sample.
    """
    if steps < 1:
        raise ValueError(f"naive_trajectory: steps must be at least 1, got {steps}")
    x = noise
    for i in range(steps):
        amount = 1 - i / steps
        x0_hat = model(x, torch.full((len(x),), amount, device=x.device))
        x = naive_step(x, x0_hat, i, steps)
        yield Step(1 - (i + 1) / steps, x, x0_hat)


def _check_corrupt(x: Tensor, amount: Tensor, noise: Tensor) -> None:
    _check_images(x=x, noise=noise)
    if not isinstance(amount, Tensor) or not amount.is_floating_point():
        found = amount.dtype if isinstance(amount, Tensor) else type(amount).__name__
        raise TypeError(f"amount must be a float tensor, got {found}; one per image: torch.tensor([0.5])")
    if not bool(((amount >= 0) & (amount <= 1)).all()):
        raise ValueError(f"corrupt: amounts must lie in [0, 1], got {amount.min().item():g} to {amount.max().item():g}")


def _check_count(i: int, steps: int) -> None:
    if not 0 <= i < steps:
        raise ValueError(f"naive_step: i counts 0 ... steps - 1, got i = {i} of {steps} steps")
