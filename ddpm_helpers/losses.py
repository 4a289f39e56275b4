"""What is minimised, and what a training step draws."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .schedule import NoiseSchedule, _check_images, corrupt, per_image, q_sample, snr


def naive_loss(model: Callable[[Tensor], Tensor], x: Tensor, amount: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error between the clean images and the model's repair of the corrupted ones.

    Args:
        model: callable, corrupted images (B, C, H, W) -> predicted clean images.
        x: clean images (B, C, H, W) in [0, 1].
        amount: (B,) in [0, 1], how much noise each image gets.
        noise: same shape as `x`, uniform in [0, 1].

    Returns:
        a scalar tensor.
    """
    prediction = model(corrupt(x, amount, noise))
    _check_images(x=x, prediction=prediction)
    return F.mse_loss(prediction, x)


def ddpm_loss(
    model: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Mean squared error between the noise that was added and the noise that the model sees (Ho et al. 2020, eq. 14).

    Args:
        model: callable, noisy images (B, C, H, W) and steps (B,) -> predicted noise (B, C, H, W).
        schedule: on the device of the images.
        x0: clean images (B, C, H, W) in [-1, 1].
        t: (B,) integers in 1 ... T.
        noise: same shape as `x0`, standard normal.

    Returns:
        a scalar tensor.

    Raises:
        as `q_sample` and the model do.
        ValueError: if the model's answer has another shape than the noise.
    """
    prediction = model(q_sample(schedule, x0, t, noise), t)
    _check_images(noise=noise, prediction=prediction)
    return F.mse_loss(prediction, noise)


def velocity_loss(
    model: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Mean squared error of the velocity: `ddpm_loss` with each image's squared error divided by its alpha_bar.

    sqrt(alpha_bar) noise - sigma x0 is the velocity (Salimans & Ho 2022); notebook 03, equation 3.34, has the factor.
    For a `VelocityNet`, or for steps drawn by `middle_weight`; with all steps equally often a network that predicts the
    noise itself would hear of nothing but the last ones.

    Arguments, result and errors as `ddpm_loss`.
    """
    prediction = model(q_sample(schedule, x0, t, noise), t)
    _check_images(noise=noise, prediction=prediction)
    error = (prediction - noise) / per_image(schedule.sqrt_alpha_bar[t], noise)  # (B, C, H, W)
    return error.square().mean()


def min_snr_loss(
    model: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Mean over the images of the smaller of two squared errors: that of the noise, and that of the clean image.

    One answer has both errors, and they differ by the factor snr (notebook 03, equation 3.34): in much noise the image
    is hard to tell and the noise is easy, in little noise it is the other way round. So the steps at the two ends,
    where there is little to learn, weigh little. The weight of the noise's error is min(1, 1 / snr) (notebook 06,
    equation 6.11): min-SNR weighting (Hang et al. 2023) with gamma = 1; they take 5.

    Arguments, result and errors as `ddpm_loss`.
    """
    prediction = model(q_sample(schedule, x0, t, noise), t)
    _check_images(noise=noise, prediction=prediction)
    error = (prediction - noise).square()  # (B, C, H, W)
    weight = (1 / snr(schedule)[t]).clamp(max=1)
    return (error * per_image(weight, error)).mean()


def ema_update(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """One step of an exponential moving average: the share `decay` of the old average, the rest of the new value.

    Args:
        average: any shape.
        value: same shape.
        decay: in [0, 1]; 0.999 averages over about the last 1,000 values.

    Returns:
        same shape, a new tensor.
    """
    return decay * average + (1 - decay) * value


def stratified_steps(u: Tensor, T: int) -> Tensor:
    """Steps of a batch: 1 ... T is cut into equal stretches, one for each image, and u says where in its stretch.

    Each step is as likely as any other, but no batch sees only easy or only hard ones, so the loss is less noisy.

    Args:
        u: (B,) in [0, 1), uniform.
        T: steps of the schedule.

    Returns:
        (B,) int64 in 1 ... T, rising.
    """
    place = (torch.arange(len(u), device=u.device) + u) / len(u)  # in [0, 1], rising; 1 by rounding alone
    return (place * T).long().clamp(max=T - 1) + 1


def weighted_steps(u: Tensor, weight: Tensor) -> Tensor:
    """Steps of a batch, each drawn as often as it weighs, and spread like `stratified_steps`.

    A step with twice the weight comes twice as often, so the loss needs no weight, and few images are spent on steps
    that hardly count: importance sampling.

    Args:
        u: (B,) in [0, 1), uniform.
        weight: (T,), the weights of the steps 1 ... T, all positive; they need not add up to 1.

    Returns:
        (B,) int64 in 1 ... T, rising.

    >>> weighted_steps(torch.zeros(4), torch.tensor([1.0, 3.0]))
    tensor([1, 1, 2, 2])
    """
    place = (torch.arange(len(u), device=u.device) + u) / len(u)  # in [0, 1], rising
    ends = weight.cumsum(0)  # (T,): the stretches of the steps, end to end, are as long as their weights
    return torch.searchsorted(ends, place * ends[-1]).clamp(max=len(weight) - 1) + 1  # beyond the end by rounding alone


def middle_weight(schedule: NoiseSchedule) -> Tensor:
    """(T,): min(alpha_bar_t, 1 - alpha_bar_t) for t = 1 ... T, large where image and noise are both strong.

    At the two ends there is little to learn: there is hardly any noise to see, or hardly any image. With this weight
    the error of the velocity is the smaller of the two errors in `min_snr_loss`.
    """
    return torch.minimum(schedule.alpha_bar, schedule.sigma.square())[1:]


def draw_steps(schedule: NoiseSchedule, count: int, generator: torch.Generator, middle: bool = False) -> Tensor:
    """Random steps (count,) on the generator's device: `stratified_steps`, or `weighted_steps` by `middle_weight`."""
    u = torch.rand(count, generator=generator, device=generator.device)
    return weighted_steps(u, middle_weight(schedule)) if middle else stratified_steps(u, schedule.T)


def random_flip(x: Tensor, chance: Tensor) -> Tensor:
    """Mirror each image whose number is below 1/2, left to right.

    Args:
        x: images (B, C, H, W).
        chance: (B,) in [0, 1), one number for each image.

    Returns:
        same shape as `x`, a new tensor.
    """
    return torch.where(per_image(chance, x) < 0.5, x.flip(-1), x)


def share_of_batch(batch: Tensor, rank: int, world: int) -> Tensor:
    """The part of a batch that process `rank` of `world` works on: every world-th entry, from its own number on.

    The steps t of a batch rise (`stratified_steps`), so each process gets small ones and large ones.

    Args:
        batch: (B, ...), B divisible by `world`.
        rank: the number of the process, 0 ... world - 1.
        world: how many processes there are.

    Returns:
        (B / world, ...).
    """
    return batch[rank::world]


def drop_labels(labels: Tensor, chance: Tensor, share: float, none: int) -> Tensor:
    """Some labels replaced by "no label", each by its own coin (Ho & Salimans 2022, algorithm 1).

    Args:
        labels: (B,) int64.
        chance: (B,) uniform in [0, 1), the coins.
        share: of the labels that are to be replaced, in [0, 1).
        none: the label that says "no label".

    Returns:
        (B,) int64, a new tensor.

    >>> drop_labels(torch.tensor([3, 1, 4]), torch.tensor([0.5, 0.05, 0.9]), 0.1, none=10)
    tensor([ 3, 10,  4])
    """
    return labels.masked_fill(chance < share, none)
