"""Exercises of notebook 20: how many images answer, when a copy is certain, the share of copies and its error."""

import torch

from ..lessons.memory import collapse_step, images_in_play, nearest_share, null_error
from ..marking import Exercise
from ..schedule import cosine_schedule, linear_schedule


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + shape[0]), dtype=torch.float64)


def _noisy(images: int, count: int) -> tuple:
    signal = torch.linspace(0.2, 0.7, count).double()
    return _normal(images, 1, 3, 2), _normal(count, 1, 3, 2, seed=7), signal, (1 - signal**2).sqrt()


def _sets(samples: int, train: int, held: int) -> tuple:
    found = _normal(samples, 1, 2, 3), _normal(train, 1, 2, 3, seed=20), _normal(held, 1, 2, 3, seed=40)
    found[0][: train // 2] = found[1][: train // 2] + 0.1  # nearly copies
    found[0][-1] = found[1][-1] = found[2][0]  # an image in both sets, drawn
    return found


Exercise(
    tag="20.1",
    reference=images_in_play,
    cases=lambda: [_noisy(5, 4), _noisy(7, 3)],
    table="""
away = (x_t[:, None] - signal[:, None, None, None, None] * images).flatten(2).square().sum(2)
weight = (-away / (2 * sigma[:, None] ** 2)).softmax(1)
return 1 / weight.square().sum(1)

weight = (-away / (2 * sigma[:, None] ** 2)).softmax(0)
  the softmax runs over the noisy images. For each of them the weights of the N images sum to 1: softmax(1).
weight = (-away / sigma[:, None] ** 2).softmax(1)
  the 2 is missing in the exponent, so the weights are those of less noise.
weight = (-away / (2 * sigma[:, None])).softmax(1)
  sigma is not squared in the exponent.
weight = (away / (2 * sigma[:, None] ** 2)).softmax(1)
  the minus is missing: the farthest image gets the largest weight.
away = (x_t[:, None] - images).flatten(2).square().sum(2)
  the images are not multiplied by the signal: a noisy image lies around the signal times its clean image.
away = (x_t[:, None] - signal[:, None, None, None, None] * images).flatten(2).square().mean(2)
  the squared distance is a mean over the pixels. The exponent needs their sum.
weight.square().sum(1)
  this is the sum of the squared weights; the count is 1 over it.
1 / weight.amax(1)
  you looked at the largest weight alone. All count, by their squares.
1 / weight.sum(1)
  the weights are not squared, and their sum is 1 always.
(-(weight * weight.log()).sum(1)).exp()
  this is the exponential of the entropy. It counts too, but (20.4) counts by squares.
""",
)

Exercise(
    tag="20.2",
    reference=collapse_step,
    cases=lambda: [
        (cosine_schedule(1000), 64, torch.linspace(0.01, 1.0, 40).double()),
        (linear_schedule(300), 5000, torch.linspace(0.2, 0.5, 25).double()),
    ],
    table="""
ratio = snr(schedule)[1:].double()
told = torch.log1p(ratio[:, None] * variances).sum(1) / 2
return int((told >= math.log(n)).sum())

told = torch.log1p(ratio[:, None] * variances).sum(1)
  the 1/2 in front of the sum is missing.
told = torch.log1p(ratio[:, None] * variances).mean(1) / 2
  the mean over the axes is taken. Each axis tells something, and that adds up.
told = torch.log(ratio[:, None] * variances).sum(1) / 2
  the 1 in the logarithm is missing: without a signal log(1 + 0) = 0 is told.
told = torch.log1p(ratio * variances.sum()) / 2
  the variances are added up inside the logarithm. The sum stands outside.
told = torch.log1p(ratio[:, None] * variances**2).sum(1) / 2
  the variances are squared.
told = torch.log1p(ratio.sqrt()[:, None] * variances).sum(1) / 2
  the ratio is that of signal and noise themselves; the signal-to-noise ratio is that of their squares.
int((told >= math.log2(n)).sum())
  log n is in bits, and the information is in nats.
int((told >= n).sum())
  the information is compared with n. It takes log n to single out one of n.
int((told < math.log(n)).sum())
  you counted the steps that tell too little.
int((told >= math.log(n)).sum()) + 1
  you are one step too far: at this one less than log n is told. The first entry is that of t = 1.
int((told >= math.log(n)).sum()) - 1
  you are one step short. The first entry is that of t = 1, so the count is the step.
""",
)

Exercise(
    tag="20.3",
    reference=nearest_share,
    cases=lambda: [_sets(15, 4, 40), _sets(12, 10, 10)],
    table="""
held = held[: len(train)]
a = torch.cdist(samples.flatten(1), train.flatten(1)).amin(1)
b = torch.cdist(samples.flatten(1), held.flatten(1)).amin(1)
return (a < b).double().mean() + (a == b).double().mean() / 2

held = held[:]
  all the held-out images are used. More of them are nearer by their number alone: take as many as there are for
  training.
a = torch.cdist(samples.flatten(1), train.flatten(1)).mean(1)
  the distance to the training images is still their mean. A copy is near to one of them, and far from the rest.
amin(1) -> mean(1)
  both distances are means over all images: that asks which set is nearer on the whole, and no copy is seen.
(a < b).double().mean()
  a tie counts as none. An image that both sets have is no sign of either: count one half.
(a <= b).double().mean()
  a tie counts as a whole. An image that both sets have is no sign of either: count one half.
(a > b).double().mean() + (a == b).double().mean() / 2
  you count the samples that are nearer to the held-out images.
(a < b).double().sum() + (a == b).double().sum() / 2
  this is their number. Divide by the number of samples.
(a / b).mean()
  this is the mean ratio of the two distances. Count the samples at which the first is smaller.
amin(1) -> amin(0)
  for each image you look for the nearest sample. Each sample asks for its nearest image.
""",
)

Exercise(
    tag="20.4",
    reference=null_error,
    cases=lambda: [(torch.tensor([5, 0, 2, 1, 0, 4]).double(),), (torch.tensor([1, 1, 0, 7, 0, 0, 3, 3]).double(),)],
    table="""
every, M = len(counts), counts.sum()
spread = counts.square().sum() - M**2 / every
return (spread * every / (every - 1)).sqrt() / (2 * M)

0.5 / M.sqrt()
  the samples are taken as independent. They share their nearest images, so the counts are needed.
spread = counts.square().sum()
  M^2 / 2N is not taken off: if each image had the same count there would be no spread at all.
spread = counts.square().sum() - M**2
  M^2 is not divided by the number of images.
spread = counts.square().sum() - M / every
  M is not squared.
(spread * every / (every - 1)) / (4 * M**2)
  this is the variance; its root is wanted.
spread.sqrt() / (2 * M)
  the factor 2N / (2N - 1) is missing.
(spread * (every - 1) / every).sqrt() / (2 * M)
  the factor 2N / (2N - 1) is upside down.
(spread * every / (every - 1)).sqrt() / M
  the 1/4 in front is missing; outside the root it is 1/2.
(spread * every / (every - 1)).sqrt() / 2
  the number of samples is missing: M belongs below, since a share is wanted.
(spread * 2 * every / (2 * every - 1)).sqrt() / (2 * M)
  `every` is 2N already, and you doubled it once more.
""",
)
