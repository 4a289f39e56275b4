"""Exercises of notebook 10: mirrored images, and the part of a batch that one of several processes takes."""

import torch

from ..losses import random_flip, share_of_batch
from ..schedule import per_image
from .core import Exercise


def _images(chance: list[float], *shape: int) -> tuple:
    generator = torch.Generator().manual_seed(len(chance))
    return torch.randn((len(chance), *shape), generator=generator), torch.tensor(chance)


def _mirrored(x, chance, mirror):
    return torch.where(per_image(chance, x) < 0.5, mirror(x), x)


def _each_mirrored(x, chance, mirror):
    return torch.stack([mirror(image) if c < 0.5 else image for image, c in zip(x, chance, strict=True)])


def _batch(size: int, *shape: int) -> torch.Tensor:
    return torch.randn((size, *shape), generator=torch.Generator().manual_seed(size))


Exercise(
    tag="10.1",
    reference=random_flip,
    cases=lambda: [
        _images([0.7, 0.1, 0.45, 0.99, 0.2], 3, 4, 2),
        _images([0.3, 0.8, 0.6], 1, 2, 5),
        _images([0.5, 0.25, 0.1, 0.75], 2, 3, 4),
        _images([0.2, 0.4, 0.45, 0.97, 0.98, 0.3], 1, 3, 2),  # the mean is above 1/2, and most are below
    ],
    mistakes={
        "It looks as if images are turned upside down: left and right is the last axis.": (
            lambda x, chance: _mirrored(x, chance, lambda x: x.flip(-2))
        ),
        "It looks as if the colour channels are reversed, red for blue: left and right is the last axis.": (
            lambda x, chance: _mirrored(x, chance, lambda x: x.flip(1))
        ),
        "It looks as if the order of the batch is reversed: left and right is the last axis.": (
            lambda x, chance: _mirrored(x, chance, lambda x: x.flip(0))
        ),
        "It looks as if images are turned by half a circle: mirror the last axis only, not the one before it.": (
            lambda x, chance: _mirrored(x, chance, lambda x: x.flip(-1, -2))
        ),
        "It looks as if all axes of an image are reversed: mirror the last one only.": (
            lambda x, chance: _mirrored(x, chance, lambda x: x.flip(1, 2, 3))
        ),
        "It looks as if left and right and the colour channels are reversed: mirror the last axis only.": (
            lambda x, chance: _mirrored(x, chance, lambda x: x.flip(1, -1))
        ),
        "It looks as if the values change their sign, which makes a negative: what changes is the order of the last "
        "axis.": lambda x, chance: _mirrored(x, chance, torch.neg),
        "It looks as if nothing is mirrored: the images whose number is below 1/2 should be.": lambda x, chance: x,
        "It looks as if the mirrored images are appended: the batch keeps its length, and each of them stands in its "
        "own place.": lambda x, chance: torch.cat([x, x[chance < 0.5].flip(-1)]),
        "It looks as if the condition itself is returned: torch.where(condition, a, b) takes from a where it holds, "
        "else from b.": lambda x, chance: per_image(chance, x) < 0.5,
        "It looks as if the numbers meet the last axis: per_image(chance, x) gives them the shape (B, 1, 1, 1).": (
            lambda x, chance: torch.where(chance < 0.5, x.flip(-1), x)
        ),
        "It looks as if one `if` asks for all images at once: each has its own number. torch.where chooses image by "
        "image.": lambda x, chance: x.flip(-1) if chance < 0.5 else x,
        "It looks as if the whole batch follows the first number: each image has its own.": (
            lambda x, chance: x.flip(-1) if chance[0] < 0.5 else x
        ),
        "It looks as if the whole batch follows the last number, as when a loop writes over its result: each image "
        "has its own.": lambda x, chance: x.flip(-1) if chance[-1] < 0.5 else x,
        "It looks as if the whole batch follows the mean of the numbers: each image has its own.": (
            lambda x, chance: x.flip(-1) if chance.mean() < 0.5 else x
        ),
        "It looks as if every image is mirrored: that gives other pictures, and no more of them than before. Mirror "
        "where the number is below 1/2.": lambda x, chance: x.flip(-1),
        "It looks as if the other half is mirrored: here it is the images whose number is below 1/2. (It would train "
        "as well.)": lambda x, chance: torch.where(per_image(chance, x) < 0.5, x, x.flip(-1)),
        "Nearly: a number of exactly 1/2 is not below 1/2.": (
            lambda x, chance: torch.where(per_image(chance, x) <= 0.5, x.flip(-1), x)
        ),
        "It looks as if only the mirrored images are returned: the others belong to the batch, too.": (
            lambda x, chance: x[chance < 0.5].flip(-1)
        ),
        "It looks as if the mirrored images come first and the others behind them: every image must keep its place, "
        "or it gets another one's label.": (lambda x, chance: torch.cat([x[chance < 0.5].flip(-1), x[chance >= 0.5]])),
        "It looks as if the pixels are shifted round, not mirrored: flip, not roll.": (
            lambda x, chance: _mirrored(x, chance, lambda x: x.roll(1, -1))
        ),
        "It looks as if an image and its mirror image are blended by the number: it is one or the other.": (
            lambda x, chance: torch.lerp(x.flip(-1), x, per_image(chance, x))
        ),
        "It looks as if the ones above 1/2 are chosen (by >, or by rounding): mirror those below 1/2.": (
            lambda x, chance: _each_mirrored(x, 1 - chance.round(), lambda image: image.flip(-1))
        ),
    },
)

Exercise(
    tag="10.2",
    reference=share_of_batch,
    cases=lambda: [
        (_batch(12, 3, 4, 2), 1, 3),
        (_batch(12), 0, 4),
        (_batch(10, 2), 1, 2),
        (_batch(12, 5), 2, 3),
        (_batch(5, 2, 3), 0, 1),
        (_batch(6, 1, 4, 3), 1, 2),
        (_batch(4, 3), 2, 4),  # one image each
    ],
    mistakes={
        "It looks as if each process takes a block of neighbours: the steps of a batch rise, so the first process "
        "would see small steps only, and its loss would say nothing. Take every world-th entry.": (
            lambda batch, rank, world: batch[rank * (len(batch) // world) : (rank + 1) * (len(batch) // world)]
        ),
        "It looks as if all processes take the same images, those of process 0: begin at rank.": (
            lambda batch, rank, world: batch[::world]
        ),
        "It looks as if all processes take the first part: they would do the same work, and the rest none would do.": (
            lambda batch, rank, world: batch[: len(batch) // world]
        ),
        "It looks as if every process takes the whole batch: then several are no faster than one.": (
            lambda batch, rank, world: batch
        ),
        "It looks as if a process takes a single image: it takes every world-th, from its own on.": (
            lambda batch, rank, world: batch[rank : rank + 1]
        ),
        "It looks as if a process takes as many neighbours as there are processes: the third number of a slice is "
        "the stride.": lambda batch, rank, world: batch[rank : rank + world],
        "It looks as if processes count from 1: the first has rank 0, and begins at entry 0.": (
            lambda batch, rank, world: batch[rank + 1 :: world]
        ),
        "It looks as if 1 is taken from rank: processes count from 0, and process 0 begins at entry 0.": (
            lambda batch, rank, world: batch[rank - 1 :: world]
        ),
        "It looks as if rank is the stride: a slice is begin : end : stride, and the stride is world.": (
            lambda batch, rank, world: batch[:: rank + 1]
        ),
        "It looks as if rank itself is the stride: a slice is begin : end : stride, and the stride is world.": (
            lambda batch, rank, world: batch[::rank]
        ),
        "It looks as if rank and world have changed places: begin at rank, and stride by world.": (
            lambda batch, rank, world: batch[world::rank]
        ),
        "It looks as if world is the end of the slice: it is the stride, the third number.": (
            lambda batch, rank, world: batch[rank:world]
        ),
        "It looks as if a process begins where its block would, at rank times world: begin at rank.": (
            lambda batch, rank, world: batch[rank * world :: world]
        ),
        "It looks as if the stride is the length of a share: it is the number of processes.": (
            lambda batch, rank, world: batch[rank :: len(batch) // world]
        ),
        "It looks as if the stride is always 2: it is the number of processes.": (
            lambda batch, rank, world: batch[rank::2]
        ),
        "It looks as if the last axis is shared out: the images are along the first.": (
            lambda batch, rank, world: batch[..., rank::world]
        ),
        "It looks as if the second axis is shared out: the images are along the first.": (
            lambda batch, rank, world: batch[:, rank::world]
        ),
        "It looks as if the batch is cut into pieces of world entries: a piece is not a share. Take every world-th "
        "entry.": lambda batch, rank, world: batch.split(world)[rank],
        "It looks as if the images before rank are left out, and no others: the stride is missing.": (
            lambda batch, rank, world: batch[rank:]
        ),
        "It looks as if the shares are dealt from the end: process 0 begins at entry 0.": (
            lambda batch, rank, world: batch[world - 1 - rank :: world]
        ),
    },
)
