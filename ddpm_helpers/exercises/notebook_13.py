"""Exercises of notebook 13: the ideal denoiser of a few images, and the loss that any network must beat."""

import torch
import torch.nn.functional as F

from ..lessons.diagnosis import ideal_x0, straight_line_loss
from ..marking import Exercise
from ..schedule import cosine_schedule, linear_schedule, per_image


def _noisy(count: int, *shape: int) -> tuple:
    """A few images, and noisy ones for which more than one of them is likely."""
    generator = torch.Generator().manual_seed(count)
    images = torch.rand((count, *shape[1:]), generator=generator) * 2 - 1
    sigma = torch.linspace(0.5, 0.99, shape[0])
    signal = (1 - sigma**2).sqrt()
    noise = torch.randn(shape, generator=generator)
    return images, per_image(signal, noise) * images[: shape[0]] + per_image(sigma, noise) * noise, signal, sigma


def _far(*shape: int) -> tuple:
    """Noisy ones with little noise in them, but far from every image: exp of minus the distance underflows."""
    generator = torch.Generator().manual_seed(shape[0])
    images, sigma = torch.rand((4, *shape[1:]), generator=generator) * 2 - 1, torch.tensor([0.03, 0.9, 0.1])
    return images, torch.randn(shape, generator=generator), (1 - sigma**2).sqrt(), sigma


def _pixels(T: int, steps: list[int], *shape: int, make=linear_schedule, least: float = 0.1) -> tuple:
    """Images in which every column has its own variance; `least` = 0 makes the first one as black as MNIST's border."""
    x = torch.rand(shape, generator=torch.Generator().manual_seed(T))
    return make(T), x * torch.linspace(least, 2, shape[-1]) - 1, torch.tensor(steps)


Exercise(
    tag="13.1",
    reference=ideal_x0,
    cases=lambda: [_noisy(5, 4, 3, 2, 6), _noisy(7, 3, 1, 4, 2), _noisy(6, 2, 1, 3, 5), _far(3, 2, 4, 5)],
    tolerance=1e-4,
    table="""
pairs = x_t[:, None] - signal[:, None, None, None, None] * images  # (B, N, C, H, W)
distance, s = pairs.square().sum((2, 3, 4)), sigma[:, None]
weight = (-distance / (2 * s**2)).softmax(1)
return (weight @ images.flatten(1)).reshape(x_t.shape)

(2 * s**2) -> (2 * s)
  the distance was divided by 2 sigma instead of 2 sigma^2.
(2 * s**2) -> s**2
  the 2 in 2 sigma^2 is missing: the weights come out too sharp.
(2 * s**2) -> 2 * s**2
  / 2 * sigma^2 has lost its brackets: Python divides by 2 and then multiplies.
(2 * s**2) -> (2 * s) ** 2
  the 2 is squared, too: it is 2 times sigma^2.
-distance -> distance
  the minus sign is missing: the images farthest away get the largest weights.
softmax(1) -> softmax(0)
softmax(1) -> flatten().softmax(0).reshape(distance.shape)
  the softmax runs over the batch, or over all distances: the weights of one x_t, over the images, must add up to 1.
signal[:, None, None, None, None] -> signal[0] ; sigma[:, None] -> sigma[0]
  signal and sigma of the first noisy image are used for all: each has its own.
x_t[:, None] - signal[:, None, None, None, None] * images -> signal[:, None, None, None, None] * x_t[:, None] - images
  signal multiplies x_t: it multiplies the images, x_t holds it already.
x_t[:, None] - signal[:, None, None, None, None] * images -> x_t[:, None] / signal[:, None, None, None, None] - images
  x_t is divided by signal: that makes its noise larger than sigma. Multiply the images.
signal[:, None, None, None, None] * images -> images
  the images were not scaled: x_t is compared with sqrt(alpha_bar_t) times an image.
-distance -> -distance.sqrt()
  you took the square root of the squared distance.
sum((2, 3, 4)) -> mean((2, 3, 4))
  the squared differences were averaged over the pixels: a squared length is their sum.
weight = F.one_hot(distance.argmin(1), len(images)).float()
  you returned the nearest image: the best answer is the mean over all, with their weights.
softmax(1) -> exp()
  the weights were not divided by their sum: a softmax does that.
softmax(1) -> exp() ; weight @ -> weight / weight.sum(1, keepdim=True) @
  ! Nearly. exp of a large negative number is 0, and 0 / 0 is NaN: softmax avoids it.
per_image(signal, x_t) * right(images, x_t, signal, sigma)
  the mean was scaled by signal, too: the clean image is asked for, not its share in x_t.
""",
    names={"F": F, "per_image": per_image},
)

Exercise(
    tag="13.2",
    reference=straight_line_loss,
    cases=lambda: [
        _pixels(50, [1, 50, 7], 5, 3, 4, 2),
        _pixels(1000, [500, 3, 1000, 40], 6, 1, 2, 5, make=cosine_schedule),
        _pixels(30, [2, 20], 7, 1, 3, 4, least=0.0),
        _pixels(100, [20], 6, 1, 1, 1),  # one pixel and one step
    ],
    table="""
variance = images.var(0).flatten()  # (D,)
signal = schedule.alpha_bar[t, None] * variance  # (K, D)
return (signal / (signal + schedule.sigma[t, None] ** 2)).mean(1)

variance = images.var().reshape(1)
  one variance was taken of all pixels: each has its own, over the images (axis 0).
variance = images.var((0, 2, 3))
  one variance was taken of each channel: each pixel has its own, over the images (axis 0).
variance = images.flatten(1).var(1)
  the variance runs over the pixels of each image: it runs over the images, one for each pixel (axis 0).
variance = images.var(0).mean().reshape(1)
  the variances were averaged first: average the losses of the pixels, not their variances.
.var(0) -> .std(0)
  you took the standard deviation of a pixel: v is its variance.
.var(0) -> .square().mean(0)
  the mean square of a pixel was taken: v is its variance, about its mean.
.flatten() -> .flatten(); variance = variance[variance > 0]
  pixels that never change are left out: their loss is 0, and it counts in the mean.
.flatten() -> .flatten(); variance = variance * variance / variance
  something is divided by the variance: pixels that never change, as in MNIST's black border, have the variance 0 and
  the loss 0, not 0 / 0.
** 2 ->
  sigma is not squared.
schedule.alpha_bar -> schedule.sqrt_alpha_bar
  sqrt(alpha_bar) stands where alpha_bar belongs: a factor of an image enters a variance squared.
schedule.alpha_bar -> schedule.alpha
  alpha of one step stands where alpha_bar of all t steps belongs.
1 - right(schedule, images, t)
  ! That is the part of the noise that the line explains. The loss is what is left: 1 minus this.
.var(0) -> .var(0, correction=0)
  the variance was divided by N: torch's var divides by N - 1, and here we leave it at that.
""",
)
