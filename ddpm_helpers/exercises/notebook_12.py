"""Exercises of notebook 12: the ideal denoiser of a few images, and the loss that any network must beat."""

import torch

from ..lessons.diagnosis import ideal_x0, straight_line_loss
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


def _far(*shape: int) -> tuple:
    """Noisy ones with little noise in them, but far from every image: exp of minus the distance underflows."""
    generator = torch.Generator().manual_seed(shape[0])
    images, sigma = torch.rand((4, *shape[1:]), generator=generator) * 2 - 1, torch.tensor([0.03, 0.9, 0.1])
    return images, torch.randn(shape, generator=generator), (1 - sigma**2).sqrt(), sigma


def _softmax(d, sigma):
    return (-d / (2 * sigma**2)).softmax(1)


def _weighted(images, x_t, signal, sigma, weigh=_softmax, of_x=torch.ones_like, of_image=lambda signal: signal):
    """An `ideal_x0` with other weights, functions of (squared distances, sigma), or other factors in the distance."""
    of_x, of_image = (factor(signal)[:, None, None, None, None] for factor in (of_x, of_image))
    pairs = of_x * x_t[:, None] - of_image * images[None]  # (B, N, C, H, W)
    weight = weigh(pairs.square().sum((2, 3, 4)), sigma[:, None])
    return (weight @ images.flatten(1)).reshape(x_t.shape)


def _nearest(d, sigma):
    return torch.nn.functional.one_hot(d.argmin(1), d.shape[1]).to(d.dtype)


def _pixels(T: int, steps: list[int], *shape: int, make=linear_schedule, least: float = 0.1) -> tuple:
    """Images in which every column has its own variance; `least` = 0 makes the first one as black as MNIST's border."""
    x = torch.rand(shape, generator=torch.Generator().manual_seed(T))
    return make(T), x * torch.linspace(least, 2, shape[-1]) - 1, torch.tensor(steps)


def _line(schedule, images, t, variance=lambda images: images.var(0).flatten(), signal="alpha_bar", power=2):
    kept = getattr(schedule, signal)[t, None] * variance(images)
    return (kept / (kept + schedule.sigma[t, None] ** power)).mean(1)


Exercise(
    tag="12.1",
    reference=ideal_x0,
    cases=lambda: [_noisy(5, 4, 3, 2, 6), _noisy(7, 3, 1, 4, 2), _noisy(6, 2, 1, 3, 5), _far(3, 2, 4, 5)],
    mistakes={
        "It looks as if the distance was divided by 2 sigma instead of 2 sigma^2.": (
            lambda images, x, signal, sigma: _weighted(images, x, signal, sigma, lambda d, s: (-d / (2 * s)).softmax(1))
        ),
        "It looks as if the 2 in 2 sigma^2 is missing: the weights come out too sharp.": (
            lambda images, x, signal, sigma: _weighted(images, x, signal, sigma, lambda d, s: (-d / s**2).softmax(1))
        ),
        "It looks as if / 2 * sigma^2 has lost its brackets: Python divides by 2 and then multiplies.": (
            lambda images, x, signal, sigma: _weighted(
                images, x, signal, sigma, lambda d, s: (-d / 2 * s**2).softmax(1)
            )
        ),
        "It looks as if the 2 is squared, too: it is 2 times sigma^2.": (
            lambda images, x, signal, sigma: _weighted(
                images, x, signal, sigma, lambda d, s: (-d / (2 * s) ** 2).softmax(1)
            )
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
        "It looks as if one softmax runs over all distances: the weights of each x_t must add up to 1.": (
            lambda images, x, signal, sigma: _weighted(
                images, x, signal, sigma, lambda d, s: (-d / (2 * s**2)).flatten().softmax(0).reshape(d.shape)
            )
        ),
        "It looks as if signal multiplies x_t: it multiplies the images, x_t holds it already.": (
            lambda images, x, signal, sigma: _weighted(
                images, x, signal, sigma, of_x=lambda s: s, of_image=torch.ones_like
            )
        ),
        "It looks as if x_t is divided by signal: that makes its noise larger than sigma. Multiply the images.": (
            lambda images, x, signal, sigma: _weighted(
                images, x, signal, sigma, of_x=lambda s: 1 / s, of_image=torch.ones_like
            )
        ),
        "It looks as if the root of signal was taken: signal is a root already, sqrt(alpha_bar_t).": (
            lambda images, x, signal, sigma: _weighted(images, x, signal, sigma, of_image=torch.sqrt)
        ),
        "It looks as if the images were not scaled: x_t is compared with sqrt(alpha_bar_t) times an image.": (
            lambda images, x, signal, sigma: _weighted(images, x, signal, sigma, of_image=torch.ones_like)
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
        "Nearly. exp of a large negative number is 0, and 0 / 0 is NaN: softmax avoids it.": (
            lambda images, x, signal, sigma: _weighted(
                images, x, signal, sigma, lambda d, s: (w := (-d / (2 * s**2)).exp()) / w.sum(1, keepdim=True)
            )
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
        _pixels(30, [2, 20], 7, 1, 3, 4, least=0.0),
        _pixels(100, [20], 6, 1, 1, 1),  # one pixel and one step
    ],
    mistakes={
        "It looks as if one variance was taken over all pixels: each pixel has its own, over the images (axis 0).": (
            lambda schedule, images, t: _line(schedule, images, t, lambda x: x.var().reshape(1))
        ),
        "It looks as if one variance was taken for each channel: each pixel has its own, over the images (axis 0).": (
            lambda schedule, images, t: _line(schedule, images, t, lambda x: x.var((0, 2, 3)))
        ),
        "It looks as if the variance runs over the pixels of each image: it runs over the images, one for each pixel "
        "(axis 0).": lambda schedule, images, t: _line(schedule, images, t, lambda x: x.flatten(1).var(1)),
        "It looks as if the variances were averaged first: average the losses of the pixels, not their variances.": (
            lambda schedule, images, t: _line(schedule, images, t, lambda x: x.var(0).mean().reshape(1))
        ),
        "It looks as if you took the standard deviation of a pixel: v is its variance.": (
            lambda schedule, images, t: _line(schedule, images, t, lambda x: x.std(0).flatten())
        ),
        "It looks as if the mean square of a pixel was taken: v is its variance, about its mean.": (
            lambda schedule, images, t: _line(schedule, images, t, lambda x: x.square().mean(0).flatten())
        ),
        "It looks as if pixels that never change are left out: their loss is 0, and it counts in the mean.": (
            lambda schedule, images, t: _line(schedule, images, t, lambda x: (v := x.var(0).flatten())[v > 0])
        ),
        "It looks as if something is divided by the variance: pixels that never change, as in MNIST's black border, "
        "have the variance 0 and the loss 0, not 0 / 0.": (
            lambda schedule, images, t: _line(schedule, images, t, lambda x: (v := x.var(0).flatten()) * v / v)
        ),
        "It looks as if the tables are read at t - 1: they begin with step 0, so that t itself is the index.": (
            lambda schedule, images, t: _line(schedule, images, t - 1)
        ),
        "It looks as if the losses of the pixels are summed: take their mean.": (
            lambda schedule, images, t: _line(schedule, images, t) * images[0].numel()
        ),
        "It looks as if sigma is not squared.": lambda schedule, images, t: _line(schedule, images, t, power=1),
        "It looks as if sqrt(alpha_bar) stands where alpha_bar belongs: a factor of an image enters a variance "
        "squared.": lambda schedule, images, t: _line(schedule, images, t, signal="sqrt_alpha_bar"),
        "It looks as if alpha of one step stands where alpha_bar of the whole jump belongs.": (
            lambda schedule, images, t: _line(schedule, images, t, signal="alpha")
        ),
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
