"""Exercises of notebook 00: a first taste."""

import torch

from ..data import to_float
from ..marking import Exercise


def _images() -> list[tuple]:
    ramp = torch.arange(256, dtype=torch.uint8)  # every value once: nothing can hide
    return [
        (ramp.reshape(4, 2, 32, 1),),
        (ramp[:120].reshape(5, 2, 3, 4),),
        (ramp[-3:],),
        (ramp.repeat(4)[:784].reshape(28, 28),),
    ]


Exercise(
    tag="0.1",
    reference=to_float,
    cases=_images,
    table="""
return 2 * images.float() / 255 - 1

(2 * images).float() / 255 - 1
  you computed in uint8: 2 * 200 wraps around to 144 there. Call .float() first.
images.float() / 255
  you stopped at [0, 1]: 0 must become -1 and 255 must become 1.
images.float() / 128 - 1
  you divided by 256 or 128: then 255, the brightest value, does not become 1.
2 * (images.float() / 255 - 1)
  you subtracted 1 before doubling: [0, 1] became [-2, 0].
images.float() / 255 - 1
  you did not double: [0, 1] became [-1, 0].
2 * (images - images.min()).float() / (images.max() - images.min()).float() - 1
  the images were rescaled by their own smallest and largest value. A fixed scale is wanted: the same grey must become
  the same number in every image.
""",
)
