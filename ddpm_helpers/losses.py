"""What training minimises, at which steps, and what is done with a batch, labels and weights in each.

A loss is a scalar: the model (x_t (B, C, H, W), t (B,)) -> predicted noise is asked about clean images x0 in [-1, 1] at
steps t in 1 ... T with standard normal noise. Random numbers are arguments: `u` and `chance` (B,), uniform in [0, 1).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import _check_images
from .schedule import NoiseSchedule, per_image, q_sample, snr

Model = Callable[[Tensor, Tensor], Tensor]


def ddpm_loss(model: Model, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error between the noise that was added and the predicted one (Ho et al. 2020, eq. 14)."""
    prediction = model(q_sample(schedule, x0, t, noise), t)
    _check_images(noise=noise, prediction=prediction)
    return F.mse_loss(prediction, noise)


def velocity_loss(model: Model, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity sqrt(alpha_bar) noise - sigma x0 (Salimans & Ho 2022): that of the noise over
    alpha_bar (equation 4.21). For a `VelocityNet`, or with `step_weight`: else the last steps alone would count."""
    prediction = model(q_sample(schedule, x0, t, noise), t)
    _check_images(noise=noise, prediction=prediction)
    error = (prediction - noise) / per_image(schedule.sqrt_alpha_bar[t], noise)  # (B, C, H, W)
    return error.square().mean()


def min_snr_loss(model: Model, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean over the images of the smaller of two squared errors of one answer, that of the noise and that of the clean
    image, which is 1 / snr as large: min-SNR weighting (Hang et al. 2023) with gamma = 1; they take 5."""
    prediction = model(q_sample(schedule, x0, t, noise), t)
    _check_images(noise=noise, prediction=prediction)
    error = (prediction - noise).square()  # (B, C, H, W)
    weight = (1 / snr(schedule)[t]).clamp(max=1)  # (B,)
    return (error * per_image(weight, error)).mean()


def stratified_steps(u: Tensor, T: int) -> Tensor:
    """(B,) int64 in 1 ... T, rising: one from each of B equal stretches, `u` says where in it. Each step is as likely
    as any other, but no batch has only easy or only hard ones, so the loss is less noisy."""
    place = (torch.arange(len(u), device=u.device) + u) / len(u)  # in [0, 1], rising; 1 by rounding alone
    return (place * T).long().clamp(max=T - 1) + 1


def weighted_steps(u: Tensor, weight: Tensor) -> Tensor:
    """(B,) int64 in 1 ... T, rising: spread like `stratified_steps`, but each step comes as often as it weighs, weight
    (T,) > 0. So the loss needs no weight: importance sampling.

    >>> weighted_steps(torch.zeros(4), torch.tensor([1.0, 3.0]))
    tensor([1, 1, 2, 2])
    """
    there = "cpu" if u.device.type == "mps" else u.device  # MPS has no float64
    place = (torch.arange(len(u), device=there) + u.to(there).double()) / len(u)  # in [0, 1], rising
    # Stretches (T,) as long as the weights, end to end. In 32 bits tiny ones would vanish; and `u` in 32 bits ends at
    # 1 - 2^-24, which leaves out a last step of a smaller share, such as t = 1000 of the cosine schedule (1e-11).
    ends = weight.to(there).double().cumsum(0)
    steps = torch.searchsorted(ends, place * ends[-1]).clamp(max=len(weight) - 1) + 1  # past the end by rounding alone
    return steps.to(u.device)


def step_weight(schedule: NoiseSchedule) -> Tensor:
    """(T,): min(alpha_bar_t, 1 - alpha_bar_t) for t = 1 ... T, small at both ends, where there is hardly any noise, or
    hardly any image, to see. With this weight `velocity_loss` is `min_snr_loss`."""
    return torch.minimum(schedule.alpha_bar, schedule.sigma.square())[1:]


def draw_steps(schedule: NoiseSchedule, count: int, generator: torch.Generator, weighted: float = 0.0) -> Tensor:
    """Random steps (count,) on the generator's device, all equally often; of a share `weighted` of them each as often
    as its `step_weight` says. By weight alone the last steps never come, and every sampler starts there."""
    u = torch.rand(count, generator=generator, device=generator.device)
    if not weighted:
        return stratified_steps(u, schedule.T)
    weight = step_weight(schedule).double()
    return weighted_steps(u, (1 - weighted) / schedule.T + weighted * weight / weight.sum())


def random_flip(x: Tensor, chance: Tensor) -> Tensor:
    """Each image of x (B, C, H, W) whose `chance` is below 1/2 mirrored, left to right."""
    return torch.where(per_image(chance, x) < 0.5, x.flip(-1), x)


def drop_labels(labels: Tensor, chance: Tensor, share: float, none: int) -> Tensor:
    """Labels (B,), replaced by `none`, "no label", where `chance` is below `share` (Ho & Salimans 2022, algorithm 1).

    >>> drop_labels(torch.tensor([3, 1, 4]), torch.tensor([0.5, 0.05, 0.9]), 0.1, none=10)
    tensor([ 3, 10,  4])
    """
    return labels.masked_fill(chance < share, none)


def share_of_batch(batch: Tensor, rank: int, world: int) -> Tensor:
    """The part of a batch that process `rank` of `world` gets: every world-th entry, for the steps of a batch rise."""
    return batch[rank::world]


def ema_update(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """One step of an exponential moving average; decay 0.999 averages over about the last 1,000 values."""
    return decay * average + (1 - decay) * value
