"""Exercises of notebook 01: corrupt, the loss, and one sampling step."""

import torch
import torch.nn.functional as F

from ..lessons.naive import corrupt, naive_loss, naive_step
from ..marking import Exercise


def _batch(*shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    x, noise = (torch.rand(shape, generator=generator) for _ in range(2))
    return x, torch.linspace(0, 1, shape[0]), noise


def _apart(*shape: int) -> tuple:
    """Images, and a prediction that leaves [0, 1] at both ends, as a network's may; in 64 bits."""
    x, _, noise = _batch(*shape)
    return x.double(), 3 * noise.double() - 1


HALF = torch.tensor(0.5, requires_grad=True)


def half_and_a_bit(x):
    """Stands in for a network: cheap, with one parameter, and its output is neither its input nor the target."""
    return HALF * x + 0.1


def three_halves(x):
    """Another one: its output leaves [0, 1] at both ends, as a network's may."""
    return 3 * HALF * x - 0.3


Exercise(
    tag="1.1",
    reference=corrupt,
    cases=lambda: [_batch(5, 3, 4, 2), _batch(3, 1, 2, 5), _batch(4, 1, 4, 4)],
    table="""
weight = amount.reshape(-1, 1, 1, 1)
return (1 - weight) * x + weight * noise

weight * x + (1 - weight) * noise
  the two weights are swapped: amount 0 must return the clean image.
x + weight * noise
  the image keeps its full strength: weight it by 1 - amount.
(1 - weight) * x + noise
  the noise has its full strength: weight it by amount.
weight = amount
  amount, shape (B,), met the last axis of the images. Give it three more axes: amount.reshape(-1, 1, 1, 1).
weight = amount.reshape(-1, 1, 1)
  amount was reshaped to (B, 1, 1): broadcasting then lines it up with the channels. It needs (B, 1, 1, 1).
""",
)

Exercise(
    tag="1.2",
    reference=naive_loss,
    cases=lambda: [(three_halves, *_batch(5, 3, 4, 2)), (half_and_a_bit, *_batch(3, 1, 2, 5))],
    names={"F": F, "corrupt": corrupt},
    table="""
seen = corrupt(x, amount, noise)
return F.mse_loss(model(seen), x)

F.mse_loss(model(seen), seen)
  the prediction is compared with the corrupted images: the target is the clean x.
F.mse_loss(model(seen), noise)
  the prediction is compared with the noise: the target is the clean x.
seen = x
  the network is shown the clean images: it must see the corrupted ones.
(model(seen) - x).flatten(1).square().sum(1).mean() / 784
(model(seen) - x).square().sum() / 784
  you divided by 784: divide by the number of pixels that these images have, and average over the images, too.
  F.mse_loss does both.
F.mse_loss(seen, x)
  the network is not asked: compare model(corrupted) with x.
(model(seen) - x).norm()
  the length of the error is returned: (1.2) has its square, divided by the number of pixels.
F.mse_loss(model(seen, amount), x)
  the network is told the amount: it sees the corrupted images alone, model(corrupted).
F.mse_loss(model(seen), x) / 2
  there is a factor 1/2, which F.smooth_l1_loss has, too: (1.2) has none.
F.mse_loss(model(seen), x) * x.shape[1]
  you divided by B H W: an image has C H W numbers, so the channels count, too.
F.mse_loss(model(seen).clamp(0, 1), x)
  the prediction is clipped to [0, 1]: (1.2) takes it as it is, and no gradient would come from the pixels outside.
(model(seen) - x).square().mean((1, 2, 3))
  there is a loss for each image: return the mean over all of them, a scalar.
F.l1_loss(model(seen), x)
  absolute errors were averaged: square them.
""",
)

Exercise(
    tag="1.3",
    reference=naive_step,
    cases=lambda: [(*_batch(5, 3, 4, 2)[::2], i, 7) for i in (0, 3, 6)] + [(*_apart(4, 2, 3, 5), i, 3) for i in (0, 2)],
    table="""
return x + (x0_hat - x) / (steps - i)

x + (x0_hat - x) / steps
  every step moves the share 1 / steps: the last step would then stop short of the prediction. Divide by the steps that
  are left.
x0_hat + (x - x0_hat) / (steps - i)
  the two images are swapped: start at x and move towards x0_hat.
x + (x0_hat - x) / (steps - i + 1)
x + (x0_hat - x) / (steps - i - 1)
  the count is off by one: in step i, counted from 0, there are steps - i left.
(x0_hat - x) / (steps - i)
  the move alone is returned: add it to x.
x + (x - x0_hat) / (steps - i)
  the step leads away from the prediction: the difference is x0_hat - x, and the steps that are left are steps - i.
x + (x0_hat - x) / steps - i
  parentheses are missing: divide by (steps - i).
x + x0_hat - x / (steps - i)
  only x is divided: divide the whole difference, x0_hat - x.
x + x0_hat / (steps - i)
  - x is missing: the step moves by a share of the difference x0_hat - x.
x0_hat
  the prediction itself is returned: only the last step goes all the way. Move by the share 1 / (steps - i).
x + (x0_hat - x) * (steps - i)
  the difference is multiplied by the steps that are left: divide by them.
x + (x0_hat - x) * i / steps
  step i moves the share i / steps: step 0 would stand still. The share is 1 / (steps - i).
x + (x0_hat - x) * (i + 1) / steps
  step i moves the share (i + 1) / steps: that is how far x has come from its start after step i. Of the way that is
  left, step i moves the share 1 / (steps - i).
""",
)
