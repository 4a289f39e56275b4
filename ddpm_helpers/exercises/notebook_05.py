"""Exercises of notebook 05: time as a channel, time as waves, time as scale and shift."""

import math

import torch

from ..marking import Exercise
from ..nets import append_time, film, sinusoidal_embedding


def _timed(steps: list[int], T: int, *shape: int) -> tuple:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))
    return x, torch.tensor(steps), T


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


def _asking(x, *rest) -> tuple:
    """The same, and a gradient is asked for the images."""
    return (x.requires_grad_(), *rest)


Exercise(
    tag="5.1",
    reference=append_time,
    cases=lambda: [
        _timed([1, 50, 17, 3, 30], 50, 5, 3, 4, 2),
        _timed([1000, 1, 250], 1000, 3, 1, 2, 5),
        _timed([7, 300, 2, 40], 300, 4, 2, 6, 4),  # B = W: a wrong broadcast runs through
        _timed([9, 2, 30, 4], 40, 4, 2, 3, 5),  # no step is T, so T is not t.max()
        _asking(*_timed([5, 20, 1], 20, 3, 1, 2, 5)),
    ],
    table="""
time = (t / T).reshape(-1, 1, 1, 1).expand_as(x[:, :1])
return torch.cat([x, time], dim=1)

.reshape(-1, 1, 1, 1) ->
time = t / T * torch.ones_like(x[:, :1])
  t / T, shape (B,), met the last axis of the images. Where B happens to equal W that runs, and each column of pixels
  gets the step of another image. Give it three more axes: (t / T).reshape(-1, 1, 1, 1).
time = (t / T).repeat(x[0, 0].numel()).reshape(len(x), 1, *x.shape[2:])
  you repeated t before reshaping: repeat runs through all images again and again, so the numbers get mixed over the
  images. Reshape to (B, 1, 1, 1) first, then expand.
x[:, :1] -> x
  there is a time channel for every channel of the image: one is enough. Expand to the shape of x[:, :1], not of x.
, dim=1 ->
  torch.cat got no dim: without it the images of the batch are put one after another. Channels are dim=1.
time = t / T
  ! t / T has shape (B,), and torch.cat wants the four axes of the images: reshape it to (B, 1, 1, 1), then expand it to
  (B, 1, H, W).
/ T -> / t.max()
  you divided by the largest step in the batch: divide by T, or the same step gets another number in another batch.
(-1, 1, 1, 1) -> (-1, 1, 1)
  t was reshaped to (B, 1, 1): broadcasting lines that up with the channel axis, not with the images. It needs (B, 1, 1,
  1).
(t / T) -> t
  the step itself was appended: divide it by T, so that the channel lies in [0, 1].
/ T -> // T
  only whole numbers are left: by //, or because t / T was written into an integer tensor.
[x, time] -> [time, x]
  time is the first channel: the images come first, time last.
x + time
  time was added to the pixels: then nobody can tell it from brightness. Append it as a channel of its own.
.expand_as(x[:, :1]) ->
  ! torch.cat does not broadcast: the time channel must have the H and W of the images. time.expand_as(x[:, :1]) gives
  it that.
""",
)

Exercise(
    tag="5.2",
    reference=sinusoidal_embedding,
    cases=lambda: [(torch.tensor([1, 2, 50, 999, 1000]), 8), (torch.tensor([0, 3, 700]), 32)],
    tolerance=2e-4,  # an angle of 1000 in float32 is off by 6e-5 at most, and by that much between two right ways
    names={"math": math},
    table="""
n = dim // 2
k = torch.arange(n, device=t.device)
frequency = 10_000.0 ** (-k / n)
angle = t[:, None] * frequency
return torch.cat([angle.sin(), angle.cos()], dim=1)

-k / n -> -2 * k / n
  the exponent is doubled: k counts the waves, and there are dim/2 of them, so k / (dim/2) runs from 0 to almost 1.
  Writing 2 k there as well makes half of the waves stand still.
-k / n -> -k / dim
  the exponent is halved: k / dim ends at 1/2, so slow waves are missing. Divide k by dim/2.
-k / n -> -k / (n - 1)
  k was divided by dim/2 - 1. Some libraries do, so that the last wave has frequency 1/10000; here k is divided by
  dim/2.
-k / n -> -(k + 1) / n
  k starts at 1: the first wave has frequency 1, which is k = 0.
torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
[angle.sin(), angle.cos()] -> [angle.cos(), angle.sin()]
  ! Right numbers, another order: here all sines come first, then all cosines.
angle.cos() -> angle.sin()
  there are sines only: without the cosines, two steps at the same height of a wave look alike to it.
t[:, None] -> t[:, None] / 1000
  t was divided by 1000 first: then even the fastest wave turns by no more than one radian.
10_000.0 -> math.e
  exp was taken without the logarithm of 10000: the slowest wave then has frequency 1/e.
(-k / n) -> -k / n
10_000.0 ** (-k / n) -> 10_000 ** -k / n
  the power was taken before the division: 10000 ** -k / n is (10000 ** -k) / n, and among whole numbers 10000 ** -k is
  0. Put the whole exponent in brackets.
-k / n -> k / n
frequency = torch.exp(math.log(10_000) * (k / n))
  the minus is missing in 10000 ** (-k / n): the waves must get slower, not faster.
10_000.0 ** (-k / n) -> 10_000 ** (-k // n)
  all waves but the first stand still: by //, where -1 is the only other exponent, and among whole numbers 10000 ** -1
  is 0; or by exp(-10000 * k / n), where the logarithm of 10000 is missing. Write 10_000.0 ** (-k / n).
-k / n -> -k // n
  you divided with //, which leaves only whole exponents: use /.
-k / n -> -k / dim / 2
  k was divided by dim and then by 2: put dim / 2 in brackets.
t[:, None] -> 2 * math.pi * t[:, None]
  there is a factor 2 pi: here the frequencies are in radians a step, and the first is 1.
10_000.0 -> 1000.0
  the base is 1000, the number of steps: it is 10000, whatever the schedule.
t[:, None] -> t
  t, shape (B,), was multiplied with the frequencies, shape (dim/2,), as it is. Give it a second axis, t[:, None], and
  the product has shape (B, dim/2).
""",
)

Exercise(
    tag="5.3",
    reference=film,
    cases=lambda: [
        _features(5, 3, 4, 2),
        _features(3, 2, 6, 5),
        _features(4, 6, 4, 6),  # (B, C) = (H, W): a wrong broadcast runs through
        *[_learning(i, 3, 2, 6, 5) for i in range(3)],
    ],
    table="""
gamma, delta = scale[:, :, None, None], shift[:, :, None, None]
return h * (1 + gamma) + delta

h * gamma + delta
  the 1 is missing: scale 0 must leave the features as they are, and here it wipes them out.
(h + delta) * (1 + gamma)
  the shift is scaled, too: scale first, then shift.
h * (1 + gamma)
  the shift is left out.
h * (1 + scale) + shift
  scale, shape (B, C), met the axes (H, W). Where the sizes happen to agree that runs, and every pixel gets the number
  of another image. Give it two more axes: scale[:, :, None, None].
h * (1 + gamma) + shift
  ! The scale has its two new axes, but the shift has not: shift[:, :, None, None].
, None, None] -> , None]
  the channels of scale met the axis H of h: both new axes come last, scale[:, :, None, None].
1 + gamma * h + delta
  the brackets are missing: 1 + scale * h + shift adds the 1 to the features. It belongs to the scale: (1 + scale) * h +
  shift.
h + delta
  the scale is left out.
h * gamma.exp() + delta
  you took exp(scale). That, too, leaves the features alone at 0, but (5.7) has 1 + scale.
gamma, delta = scale[:, :1, None, None], shift[:, :1, None, None]
  scale and shift each became one number for an image: every channel has its own.
""",
)
