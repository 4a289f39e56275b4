"""Exercises of notebook 11: mirrored images, and the part of a batch that one of several processes takes."""

import torch

from ..losses import random_flip, share_of_batch
from ..marking import Exercise


def _images(chance: list[float], *shape: int) -> tuple:
    generator = torch.Generator().manual_seed(len(chance))
    return torch.randn((len(chance), *shape), generator=generator), torch.tensor(chance)


def _batch(size: int, *shape: int) -> torch.Tensor:
    return torch.randn((size, *shape), generator=torch.Generator().manual_seed(size))


Exercise(
    tag="11.1",
    reference=random_flip,
    cases=lambda: [
        _images([0.7, 0.1, 0.45, 0.99, 0.2], 3, 4, 2),
        _images([0.3, 0.9, 0.55], 1, 2, 5),  # the mean is above 1/2, and a number lies between
        _images([0.5, 0.25, 0.1, 0.75], 2, 3, 4),
        _images([0.2, 0.4, 0.45, 0.97, 0.98, 0.3], 1, 3, 2),  # the mean is above 1/2, and most are below
    ],
    table="""
return torch.where(per_image(chance, x) < 0.5, x.flip(-1), x)

flip(-1) -> flip(-2)
  the images are turned upside down: left and right is the last axis, .flip(-1).
flip(-1) -> flip(1)
  the colour channels are reversed, red for blue: left and right is the last axis, .flip(-1).
flip(-1) -> flip(0)
  the order of the batch is reversed: left and right is the last axis, .flip(-1).
flip(-1) -> flip(-1, -2)
flip(-1) -> flip(1, 2, 3)
flip(-1) -> flip(1, -1)
  more than one axis is reversed: left and right is the last one alone, .flip(-1).
x.flip(-1) -> -x
  the values change their sign, which makes a negative: what changes is the order of the last axis.
x
  nothing is mirrored: the images whose number is below 1/2 should be.
torch.cat([x, x[chance < 0.5].flip(-1)])
  the mirrored images are appended: the batch keeps its length, and each of them stands in its own place.
per_image(chance, x) < 0.5
  the condition itself is returned: torch.where(condition, a, b) takes from a where it holds, else from b.
per_image(chance, x) -> chance
  the numbers meet the last axis: per_image(chance, x) gives them the shape (B, 1, 1, 1).
x.flip(-1) if chance < 0.5 else x
  one `if` asks for all images at once: each has its own number. torch.where chooses image by image.
x.flip(-1)
  every image is mirrored: that gives other pictures, and no more of them than before. Mirror where the number is below
  1/2.
x.flip(-1), x -> x, x.flip(-1)
< 0.5 -> > 0.5
  the other half is mirrored (by >, or by rounding): here it is the images whose number is below 1/2. (It would train as
  well.)
< 0.5 -> < chance.mean()
  the numbers are compared with their mean: compare each with 1/2.
< 0.5 -> <= 0.5
  ! Nearly: a number of exactly 1/2 is not below 1/2.
x[chance < 0.5].flip(-1)
  only the mirrored images are returned: the others belong to the batch, too.
torch.cat([x[chance < 0.5].flip(-1), x[chance >= 0.5]])
  the mirrored images come first and the others behind them: every image must keep its place, or it gets another one's
  label.
flip(-1) -> roll(1, -1)
  the pixels are shifted round, not mirrored: flip, not roll.
torch.lerp(x.flip(-1), x, per_image(chance, x))
  an image and its mirror image are blended by the number: it is one or the other.
""",
)

Exercise(
    tag="11.2",
    reference=share_of_batch,
    cases=lambda: [
        (_batch(12, 3, 4, 2), 1, 3),
        (_batch(12), 0, 4),
        (_batch(10, 2), 1, 2),
        (_batch(12, 5), 2, 3),
        (_batch(5, 2, 3), 0, 1),
        (_batch(6, 1, 4, 3), 1, 2),
        (_batch(4, 3), 2, 4),  # one image each
        (torch.arange(1, 13), 1, 4),  # steps: they are shared out, too, and stay integers
    ],
    table="""
return batch[rank::world]

batch[rank * (len(batch) // world) : (rank + 1) * (len(batch) // world)]
  each process takes a block of neighbours: the steps of a batch rise, so the first process would see small steps only,
  and its loss would say nothing. Take every world-th entry.
batch[::world]
  all processes take the same images, those of process 0: begin at rank.
batch[: len(batch) // world]
  all processes take the first part: they would do the same work, and the rest none would do.
batch
  every process takes the whole batch: then several are no faster than one.
batch[rank : rank + 1]
  a process takes a single image: it takes every world-th, from its own on.
batch[rank : rank + world]
  a process takes as many neighbours as there are processes: the third number of a slice is the stride.
batch[:: rank + 1]
batch[::rank]
  the stride has to do with rank: a slice is begin : end : stride, and the stride is world.
batch[rank:world]
  world is the end of the slice: it is the stride, the third number.
rank -> rank * world
  a process begins where its block would, at rank times world: begin at rank.
world -> len(batch) // world
  the stride is the length of a share: it is the number of processes.
world -> 2
  the stride is always 2: it is the number of processes.
rank::world -> ..., rank::world
rank::world -> :, rank::world
  another axis is shared out: the images are along the first.
batch.split(world)[rank]
  the batch is cut into pieces of world entries: a piece is not a share. Take every world-th entry.
:world ->
  the images before rank are left out, and no others: the stride is missing.
rank -> world - 1 - rank
  the shares are dealt from the end: process 0 begins at entry 0.
""",
)
