"""Exercises of notebook 12: the ideal denoiser of a few images, and the loss that any network must beat."""

import torch

from ..diagnosis import ideal_x0, straight_line_loss
from ..schedule import cosine_schedule, linear_schedule, per_image
from .core import Exercise


def _noisy(count: int, *shape: int) -> tuple:
    """A few images, and noisy ones for which more than one of them is likely."""
    generator = torch.Generator().manual_seed(count)
    images = torch.rand((count, *shape[1:]), generator=generator) * 2 - 1
    sigma = torch.linspace(0.5, 0.99, shape[0])
    signal = (1 - sigma**2).sqrt()
    noise = torch.randn(shape, generator=generator)
    return images, per_image(signal, noise) * images[: shape[0]] + per_image(sigma, noise) * noise, signal, sigma


def _weighted(images, x_t, signal, sigma, weigh=lambda d, sigma: (-d / (2 * sigma**2)).softmax(1), scaled=True):
    pairs = x_t[:, None] - (signal[:, None, None, None, None] if scaled else 1) * images[None]  # (B, N, C, H, W)
    weight = weigh(pairs.square().sum((2, 3, 4)), sigma[:, None])
    return (weight @ images.flatten(1)).reshape(x_t.shape)


def _nearest(d, sigma):
    return torch.nn.functional.one_hot(d.argmin(1), d.shape[1]).to(d.dtype)


def _pixels(T: int, steps: list[int], *shape: int, make=linear_schedule) -> tuple:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(T))
    return make(T), x * torch.linspace(0.1, 2, shape[-1]) - 1, torch.tensor(steps)  # every column has its own variance


def _line(schedule, images, t, variance=lambda images: images.var(0).flatten(), signal="alpha_bar", power=2):
    kept = getattr(schedule, signal)[t, None] * variance(images)
    return (kept / (kept + schedule.sigma[t, None] ** power)).mean(1)


Exercise(
    tag="12.1",
    reference=ideal_x0,
    cases=lambda: [_noisy(5, 4, 3, 2, 6), _noisy(7, 3, 1, 4, 2), _noisy(6, 2, 1, 3, 5)],
    mistakes={
        "It looks as if the distance was divided by 2 sigma instead of 2 sigma^2.": (
            lambda images, x, signal, sigma: _weighted(images, x, signal, sigma, lambda d, s: (-d / (2 * s)).softmax(1))
        ),
        "It looks as if the 2 in 2 sigma^2 is missing: the weights come out too sharp.": (
            lambda images, x, signal, sigma: _weighted(images, x, signal, sigma, lambda d, s: (-d / s**2).softmax(1))
        ),
        "It looks as if the minus sign is missing: the images farthest away get the largest weights.": (
            lambda images, x, signal, sigma: _weighted(
                images, x, signal, sigma, lambda d, s: (d / (2 * s**2)).softmax(1)
            )
        ),
        "It looks as if the softmax runs over the batch: the weights of one x_t, over the images, must add up to 1.": (
            lambda images, x, signal, sigma: _weighted(
                images, x, signal, sigma, lambda d, s: (-d / (2 * s**2)).softmax(0)
            )
        ),
        "It looks as if the images were not scaled: x_t is compared with sqrt(alpha_bar_t) times an image.": (
            lambda images, x, signal, sigma: _weighted(images, x, signal, sigma, scaled=False)
        ),
        "It looks as if you took the square root of the squared distance.": (
            lambda images, x, signal, sigma: _weighted(
                images, x, signal, sigma, lambda d, s: (-d.sqrt() / (2 * s**2)).softmax(1)
            )
        ),
        "It looks as if the squared differences were averaged over the pixels: a squared length is their sum.": (
            lambda images, x, signal, sigma: _weighted(
                images, x, signal, sigma, lambda d, s: (-d / images[0].numel() / (2 * s**2)).softmax(1)
            )
        ),
        "It looks as if you returned the nearest image: the best answer is the mean over all, with their weights.": (
            lambda images, x, signal, sigma: _weighted(images, x, signal, sigma, _nearest)
        ),
        "It looks as if the weights were not divided by their sum: a softmax does that.": (
            lambda images, x, signal, sigma: _weighted(images, x, signal, sigma, lambda d, s: (-d / (2 * s**2)).exp())
        ),
        "It looks as if the mean was scaled by signal, too: the clean image is asked for, not its share in x_t.": (
            lambda images, x, signal, sigma: per_image(signal, x) * _weighted(images, x, signal, sigma)
        ),
    },
    tolerance=1e-4,
)

Exercise(
    tag="12.2",
    reference=straight_line_loss,
    cases=lambda: [
        _pixels(50, [1, 50, 7], 5, 3, 4, 2),
        _pixels(1000, [500, 3, 1000, 40], 6, 1, 2, 5, make=cosine_schedule),
    ],
    mistakes={
        "It looks as if one variance was taken over all pixels: each pixel has its own, over the images (axis 0).": (
            lambda schedule, images, t: _line(schedule, images, t, lambda x: x.var().reshape(1))
        ),
        "It looks as if the variance runs over the pixels of each image: it runs over the images, one for each pixel "
        "(axis 0).": lambda schedule, images, t: _line(schedule, images, t, lambda x: x.flatten(1).var(1)),
        "It looks as if the variances were averaged first: average the losses of the pixels, not their variances.": (
            lambda schedule, images, t: _line(schedule, images, t, lambda x: x.var(0).mean().reshape(1))
        ),
        "It looks as if you took the standard deviation of a pixel: v is its variance.": (
            lambda schedule, images, t: _line(schedule, images, t, lambda x: x.std(0).flatten())
        ),
        "It looks as if sigma is not squared.": lambda schedule, images, t: _line(schedule, images, t, power=1),
        "It looks as if sqrt(alpha_bar) stands where alpha_bar belongs: a factor of an image enters a variance "
        "squared.": lambda schedule, images, t: _line(schedule, images, t, signal="sqrt_alpha_bar"),
        "That is the part of the noise that the line explains. The loss is what is left: 1 minus this.": (
            lambda schedule, images, t: 1 - _line(schedule, images, t)
        ),
        "It looks as if the variance was divided by N: torch's var divides by N - 1, and here we leave it at that.": (
            lambda schedule, images, t: _line(schedule, images, t, lambda x: x.var(0, correction=0).flatten())
        ),
        "It looks as if the losses of the steps were averaged, too: return one number for each step of t.": (
            lambda schedule, images, t: _line(schedule, images, t).mean()
        ),
    },
)
