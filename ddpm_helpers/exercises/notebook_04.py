"""Exercises of notebook 04: time as a channel, time as waves, time as scale and shift."""

import math

import torch

from ..nets import append_time, film, sinusoidal_embedding
from .core import Exercise


def _timed(steps: list[int], T: int, *shape: int) -> tuple:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))
    return x, torch.tensor(steps), T


def _asking(x, *rest) -> tuple:
    """The same, and a gradient is asked for the images."""
    return (x.requires_grad_(), *rest)


def _with_channel(x, values, first=False):
    time = values.to(x.dtype).expand_as(x[:, :1])
    return torch.cat([time, x] if first else [x, time], dim=1)


def _waves(t, dim, power=lambda k, half: -k / half, order="sin cos", values=None, base=10_000.0):
    half = dim // 2
    k = torch.arange(half, dtype=torch.float32)
    frequency = torch.exp(math.log(base) * power(k, half))
    angle = (t.float() if values is None else values)[:, None] * frequency
    sin, cos = angle.sin(), angle.cos()
    if order == "interleaved":
        return torch.stack([sin, cos], dim=2).flatten(1)
    return torch.cat({"sin cos": [sin, cos], "cos sin": [cos, sin], "sin sin": [sin, sin]}[order], dim=1)


def _features(*shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    h = torch.randn(shape, generator=generator)
    scale, shift = torch.randn((2, *shape[:2]), generator=generator)
    return h, scale, shift


def _learning(which: int, *shape: int) -> tuple:
    """The same, and a gradient is asked for one of the three."""
    features = _features(*shape)
    features[which].requires_grad_()
    return features


def _wide(values):
    return values[:, :, None, None]


Exercise(
    tag="4.1",
    reference=append_time,
    cases=lambda: [
        _timed([1, 50, 17, 3, 30], 50, 5, 3, 4, 2),
        _timed([1000, 1, 250], 1000, 3, 1, 2, 5),
        _timed([7, 300, 2, 40], 300, 4, 2, 6, 4),  # B = W: a wrong broadcast runs through
        _timed([9, 2, 30, 4], 40, 4, 2, 3, 5),  # no step is T, so T is not t.max()
        _asking(*_timed([5, 20, 1], 20, 3, 1, 2, 5)),
    ],
    mistakes={
        "It looks as if t, shape (B,), met the last axis of the images. Where B happens to equal W that runs, and each "
        "column of pixels gets the step of another image. Give it three more axes: t.reshape(-1, 1, 1, 1).": (
            lambda x, t, T: _with_channel(x, t / T)
        ),
        "It looks as if t / T, shape (B,), was multiplied with a picture: broadcasting lines it up with the last axis, "
        "the columns. Give it three more axes: (t / T).reshape(-1, 1, 1, 1).": (
            lambda x, t, T: torch.cat([x, t / T * torch.ones_like(x[:, :1])], dim=1)
        ),
        "It looks as if you repeated t before reshaping: repeat runs through all images again and again, so the "
        "numbers get mixed over the images. Reshape to (B, 1, 1, 1) first, then expand.": (
            lambda x, t, T: torch.cat([x, (t / T).repeat(x[0, 0].numel()).reshape(len(x), 1, *x.shape[2:])], dim=1)
        ),
        "It looks as if there is a time channel for every channel of the image: one is enough. Expand to the shape of "
        "x[:, :1], not of x.": (lambda x, t, T: torch.cat([x, (t / T).reshape(-1, 1, 1, 1).expand_as(x)], dim=1)),
        "It looks as if torch.cat got no dim: without it the images of the batch are put one after another. Channels "
        "are dim=1.": lambda x, t, T: torch.cat([x, (t / T).reshape(-1, 1, 1, 1).expand_as(x[:, :1])]),
        "t / T has shape (B,), and torch.cat wants the four axes of the images: reshape it to (B, 1, 1, 1), then "
        "expand it to (B, 1, H, W).": lambda x, t, T: torch.cat([x, t / T], dim=1),
        "It looks as if you divided by 1000: divide by the argument T.": (
            lambda x, t, T: _with_channel(x, (t / 1000).reshape(-1, 1, 1, 1))
        ),
        "It looks as if you divided by the largest step in the batch: divide by T, or the same step gets another "
        "number in another batch.": lambda x, t, T: _with_channel(x, (t / t.max()).reshape(-1, 1, 1, 1)),
        "It looks as if t was reshaped to (B, 1, 1): broadcasting lines that up with the channel axis, not with the "
        "images. It needs (B, 1, 1, 1).": lambda x, t, T: _with_channel(x, (t / T).reshape(-1, 1, 1)),
        "It looks as if the step itself was appended: divide it by T, so that the channel lies in [0, 1].": (
            lambda x, t, T: _with_channel(x, t.reshape(-1, 1, 1, 1))
        ),
        "It looks as if only whole numbers are left: by //, or because t / T was written into an integer tensor.": (
            lambda x, t, T: _with_channel(x, (t // T).reshape(-1, 1, 1, 1))
        ),
        "It looks as if time is the first channel: the images come first, time last.": (
            lambda x, t, T: _with_channel(x, (t / T).reshape(-1, 1, 1, 1), first=True)
        ),
        "It looks as if time was added to the pixels: then nobody can tell it from brightness. Append it as a channel "
        "of its own.": lambda x, t, T: x + (t / T).reshape(-1, 1, 1, 1),
        "It looks as if the steps were counted from 0: here they run from 1 to T, and step T becomes 1.": (
            lambda x, t, T: _with_channel(x, ((t - 1) / T).reshape(-1, 1, 1, 1))
        ),
        "torch.cat does not broadcast: the time channel must have the H and W of the images. "
        "time.expand_as(x[:, :1]) gives it that.": (
            lambda x, t, T: torch.cat([x, (t / T).reshape(-1, 1, 1, 1)], dim=1)
        ),
    },
)

Exercise(
    tag="4.2",
    reference=sinusoidal_embedding,
    cases=lambda: [(torch.tensor([1, 2, 50, 999, 1000]), 8), (torch.tensor([0, 3, 700]), 32)],
    tolerance=2e-4,  # an angle of 1000 in float32 is off by 6e-5 at most, and by that much between two right ways
    mistakes={
        "It looks as if the exponent is doubled: k counts the waves, and there are dim/2 of them, so k / (dim/2) runs "
        "from 0 to almost 1. Writing 2 k there as well makes half of the waves stand still.": (
            lambda t, dim: _waves(t, dim, lambda k, half: -2 * k / half)
        ),
        "It looks as if the exponent is halved: k / dim ends at 1/2, so slow waves are missing. Divide k by dim/2.": (
            lambda t, dim: _waves(t, dim, lambda k, half: -k / (2 * half))
        ),
        "It looks as if the sign of the exponent is missing: the waves must get slower, not faster.": (
            lambda t, dim: _waves(t, dim, lambda k, half: k / half)
        ),
        "It looks as if k was divided by dim/2 - 1. Some libraries do, so that the last wave has frequency 1/10000; "
        "here k is divided by dim/2.": lambda t, dim: _waves(t, dim, lambda k, half: -k / (half - 1)),
        "It looks as if k starts at 1: the first wave has frequency 1, which is k = 0.": (
            lambda t, dim: _waves(t, dim, lambda k, half: -(k + 1) / half)
        ),
        "Right numbers, another order: sines and cosines alternate. Here all sines come first, then all cosines.": (
            lambda t, dim: _waves(t, dim, order="interleaved")
        ),
        "Right numbers, another order: here the sines come first, then the cosines.": (
            lambda t, dim: _waves(t, dim, order="cos sin")
        ),
        "It looks as if there are sines only: without the cosines, two steps at the same height of a wave look alike "
        "to it.": lambda t, dim: _waves(t, dim, order="sin sin"),
        "It looks as if t was divided by 1000 first: then even the fastest wave turns by no more than one radian.": (
            lambda t, dim: _waves(t, dim, values=t / 1000)
        ),
        "It looks as if exp was taken without the logarithm of 10000: the slowest wave then has frequency 1/e.": (
            lambda t, dim: _waves(t, dim, base=math.e)
        ),
        "It looks as if the power was taken before the division: 10000.0 ** -k / n is (10000.0 ** -k) / n. Put the "
        "whole exponent in brackets.": lambda t, dim: _waves(t, dim, lambda k, half: -k - math.log(half, 10_000)),
        "It looks as if the power was taken before the division: 10000 ** -k / n is (10000 ** -k) / n, and among whole "
        "numbers 10000 ** -k is 0. Put the whole exponent in brackets.": (
            lambda t, dim: _waves(t, dim, lambda k, half: torch.where(k == 0, -math.log(half, 10_000), -math.inf))
        ),
        "It looks as if the minus is missing in 10000 ** (-k / n): the waves must get slower, not faster.": (
            lambda t, dim: (lambda angle: torch.cat([angle.sin(), angle.cos()], dim=1))(
                t[:, None] * 10_000.0 ** (torch.arange(dim // 2) / (dim // 2))
            )
        ),
        "It looks as if you divided with //, which leaves only whole exponents, and among whole numbers 10000 ** -1 is "
        "0: use /.": lambda t, dim: _waves(t, dim, lambda k, half: torch.where(k == 0, 0.0, -math.inf)),
        "It looks as if you divided with //, which leaves only whole exponents: use /.": (
            lambda t, dim: _waves(t, dim, lambda k, half: -k // half)
        ),
        "It looks as if k was divided by dim and then by 2: put dim / 2 in brackets.": (
            lambda t, dim: _waves(t, dim, lambda k, half: -k / (4 * half))
        ),
        "It looks as if there is a factor 2 pi: here the frequencies are in radians a step, and the first is 1.": (
            lambda t, dim: _waves(t, dim, values=2 * math.pi * t.float())
        ),
        "It looks as if the base is 1000, the number of steps: it is 10000, whatever the schedule.": (
            lambda t, dim: _waves(t, dim, base=1000.0)
        ),
        "It looks as if 1 was taken from t: use the step as it is.": (
            lambda t, dim: _waves(t, dim, values=t.float() - 1)
        ),
        "It looks as if t, shape (B,), was multiplied with the frequencies, shape (dim/2,), as it is. Give it a second "
        "axis, t[:, None], and the product has shape (B, dim/2).": lambda t, dim: t * torch.ones(dim // 2),
    },
)

Exercise(
    tag="4.3",
    reference=film,
    cases=lambda: [
        _features(5, 3, 4, 2),
        _features(3, 2, 6, 5),
        _features(4, 6, 4, 6),  # (B, C) = (H, W): a wrong broadcast runs through
        *[_learning(i, 3, 2, 6, 5) for i in range(3)],
    ],
    mistakes={
        "It looks as if the 1 is missing: scale 0 must leave the features as they are, and here it wipes them out.": (
            lambda h, scale, shift: h * _wide(scale) + _wide(shift)
        ),
        "It looks as if the shift is scaled, too: scale first, then shift.": (
            lambda h, scale, shift: (h + _wide(shift)) * (1 + _wide(scale))
        ),
        "It looks as if scale and shift are swapped.": lambda h, scale, shift: h * (1 + _wide(shift)) + _wide(scale),
        "It looks as if the shift is left out.": lambda h, scale, shift: h * (1 + _wide(scale)),
        "It looks as if scale, shape (B, C), met the axes (H, W). Where the sizes happen to agree that runs, and every "
        "pixel gets the number of another image. Give it two more axes: scale[:, :, None, None].": (
            lambda h, scale, shift: h * (1 + scale) + shift
        ),
        "The scale has its two new axes, but the shift has not: shift[:, :, None, None].": (
            lambda h, scale, shift: h * (1 + _wide(scale)) + shift
        ),
        "It looks as if the channels of scale met the axis H of h: both new axes come last, scale[:, :, None, None].": (
            lambda h, scale, shift: h * (1 + scale[:, :, None]) + shift[:, :, None]
        ),
        "It looks as if the brackets are missing: 1 + scale * h + shift adds the 1 to the features. It belongs to the "
        "scale: (1 + scale) * h + shift.": lambda h, scale, shift: 1 + _wide(scale) * h + _wide(shift),
        "It looks as if the scale is left out.": lambda h, scale, shift: h + _wide(shift),
        "It looks as if the scale is 1 - scale: (4.7) has a plus.": (
            lambda h, scale, shift: h * (1 - _wide(scale)) + _wide(shift)
        ),
        "It looks as if the shift is subtracted: (4.7) has a plus.": (
            lambda h, scale, shift: h * (1 + _wide(scale)) - _wide(shift)
        ),
        "It looks as if there is a 1 at the shift, too: shift 0 must leave the features as they are.": (
            lambda h, scale, shift: h * (1 + _wide(scale)) + 1 + _wide(shift)
        ),
        "It looks as if you took exp(scale). That, too, leaves the features alone at 0, but (4.7) has 1 + scale.": (
            lambda h, scale, shift: h * _wide(scale).exp() + _wide(shift)
        ),
        "It looks as if scale and shift each became one number for an image: every channel has its own.": (
            lambda h, scale, shift: h * (1 + _wide(scale[:, :1])) + _wide(shift[:, :1])
        ),
    },
)
