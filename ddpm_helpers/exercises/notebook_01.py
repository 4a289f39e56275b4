"""Exercises of notebook 01: corrupt, the loss, and one sampling step."""

import torch
import torch.nn.functional as F

from ..losses import naive_loss
from ..sampling import naive_step
from ..schedule import corrupt, per_image
from .core import Exercise


def _batch(*shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    x, noise = (torch.rand(shape, generator=generator) for _ in range(2))
    return x, torch.linspace(0, 1, shape[0]), noise


HALF = torch.tensor(0.5, requires_grad=True)


def half_and_a_bit(x):
    """Stands in for a network: cheap, with one parameter, and its output is neither its input nor the target."""
    return HALF * x + 0.1


def three_halves(x):
    """Another one: its output leaves [0, 1] at both ends, as a network's may."""
    return 3 * HALF * x - 0.3


def _apart(*shape: int) -> tuple:
    """Images, and a prediction that leaves [0, 1] at both ends, as a network's may; in 64 bits."""
    x, _, noise = _batch(*shape)
    return x.double(), 3 * noise.double() - 1


Exercise(
    tag="1.1",
    reference=corrupt,
    cases=lambda: [_batch(5, 3, 4, 2), _batch(3, 1, 2, 5), _batch(4, 1, 4, 4)],
    mistakes={
        "It looks as if the two weights are swapped: amount 0 must return the clean image.": (
            lambda x, amount, noise: per_image(amount, x) * x + (1 - per_image(amount, x)) * noise
        ),
        "It looks as if the image keeps its full strength: weight it by 1 - amount.": (
            lambda x, amount, noise: x + per_image(amount, x) * noise
        ),
        "It looks as if the noise has its full strength: weight it by amount.": (
            lambda x, amount, noise: (1 - per_image(amount, x)) * x + noise
        ),
        "It looks as if amount, shape (B,), met the last axis of the images. Give it three more axes: "
        "amount.reshape(-1, 1, 1, 1).": lambda x, amount, noise: (1 - amount) * x + amount * noise,
        "It looks as if amount was reshaped to (B, 1, 1): broadcasting then lines it up with the channels. "
        "It needs (B, 1, 1, 1).": (
            lambda x, amount, noise: (1 - amount.reshape(-1, 1, 1)) * x + amount.reshape(-1, 1, 1) * noise
        ),
    },
)

Exercise(
    tag="1.2",
    reference=naive_loss,
    cases=lambda: [(three_halves, *_batch(5, 3, 4, 2)), (half_and_a_bit, *_batch(3, 1, 2, 5))],
    mistakes={
        "It looks as if the prediction is compared with the corrupted images: the target is the clean x.": (
            lambda model, x, amount, noise: F.mse_loss(model(corrupt(x, amount, noise)), corrupt(x, amount, noise))
        ),
        "It looks as if the prediction is compared with the noise: the target is the clean x.": (
            lambda model, x, amount, noise: F.mse_loss(model(corrupt(x, amount, noise)), noise)
        ),
        "It looks as if the network is shown the clean images: it must see the corrupted ones.": (
            lambda model, x, amount, noise: F.mse_loss(model(x), x)
        ),
        "It looks as if the squared errors are summed, not averaged: then the loss grows with the batch.": (
            lambda model, x, amount, noise: F.mse_loss(model(corrupt(x, amount, noise)), x, reduction="sum")
        ),
        "It looks as if the squared errors are summed over pixels, and only averaged over images: divide by the "
        "number of pixels, too.": (
            lambda model, x, amount, noise: (model(corrupt(x, amount, noise)) - x).flatten(1).square().sum(1).mean()
        ),
        "It looks as if you divided by 784: divide by the number of pixels that these images have, or let "
        "F.mse_loss do it.": (
            lambda model, x, amount, noise: (
                (model(corrupt(x, amount, noise)) - x).flatten(1).square().sum(1) / 784
            ).mean()
        ),
        "It looks as if the errors of all images are summed and divided by 784: average over the images, too, and "
        "divide by the number of pixels that they have. F.mse_loss does both.": (
            lambda model, x, amount, noise: (model(corrupt(x, amount, noise)) - x).square().sum() / 784
        ),
        "It looks as if the network is not asked: compare model(corrupted) with x.": (
            lambda model, x, amount, noise: F.mse_loss(corrupt(x, amount, noise), x)
        ),
        "It looks as if the length of the error is returned: (1.2) has its square, divided by the number of pixels.": (
            lambda model, x, amount, noise: torch.norm(model(corrupt(x, amount, noise)) - x)
        ),
        "It looks as if the network is told the amount: it sees the corrupted images alone, model(corrupted).": (
            lambda model, x, amount, noise: F.mse_loss(model(corrupt(x, amount, noise), amount), x)
        ),
        "It looks as if there is a factor 1/2, which F.smooth_l1_loss has, too: (1.2) has none.": (
            lambda model, x, amount, noise: F.mse_loss(model(corrupt(x, amount, noise)), x) / 2
        ),
        "It looks as if you divided by B H W: an image has C H W numbers, so the channels count, too.": (
            lambda model, x, amount, noise: F.mse_loss(model(corrupt(x, amount, noise)), x) * x.shape[1]
        ),
        "It looks as if .item() made a number of the loss: no gradient can flow through that. Return the tensor.": (
            lambda model, x, amount, noise: F.mse_loss(model(corrupt(x, amount, noise)), x).item()
        ),
        "It looks as if the prediction is clipped to [0, 1]: (1.2) takes it as it is, and no gradient would come from "
        "the pixels outside.": (
            lambda model, x, amount, noise: F.mse_loss(model(corrupt(x, amount, noise)).clamp(0, 1), x)
        ),
        "It looks as if the root of the mean squared error was taken: leave it squared.": (
            lambda model, x, amount, noise: F.mse_loss(model(corrupt(x, amount, noise)), x).sqrt()
        ),
        "It looks as if absolute errors were averaged: square them.": (
            lambda model, x, amount, noise: F.l1_loss(model(corrupt(x, amount, noise)), x)
        ),
    },
)

Exercise(
    tag="1.3",
    reference=naive_step,
    cases=lambda: [
        *[(*_batch(5, 3, 4, 2)[::2], i, 7) for i in (0, 3, 6)],
        *[(*_apart(4, 2, 3, 5), i, 3) for i in (0, 2)],
    ],
    mistakes={
        "It looks as if every step moves the share 1 / steps: the last step would then stop short of the "
        "prediction. Divide by the steps that are left.": (lambda x, x0_hat, i, steps: x + (x0_hat - x) / steps),
        "It looks as if the two images are swapped: start at x and move towards x0_hat.": (
            lambda x, x0_hat, i, steps: x0_hat + (x - x0_hat) / (steps - i)
        ),
        "It looks as if the count is off by one: in step i, counted from 0, there are steps - i left.": (
            lambda x, x0_hat, i, steps: x + (x0_hat - x) / (steps - i + 1)
        ),
        "It looks as if the count is off by one, and the last step divides by 0: in step i, counted from 0, there "
        "are steps - i left.": lambda x, x0_hat, i, steps: x + (x0_hat - x) / (steps - i - 1),
        "It looks as if the move alone is returned: add it to x.": (
            lambda x, x0_hat, i, steps: (x0_hat - x) / (steps - i)
        ),
        "It looks as if the difference points the wrong way: x0_hat - x leads to the prediction.": (
            lambda x, x0_hat, i, steps: x + (x - x0_hat) / (steps - i)
        ),
        "It looks as if parentheses are missing: divide by (steps - i).": (
            lambda x, x0_hat, i, steps: x + (x0_hat - x) / steps - i
        ),
        "It looks as if only x is divided: divide the whole difference, x0_hat - x.": (
            lambda x, x0_hat, i, steps: x + x0_hat - x / (steps - i)
        ),
        "It looks as if - x is missing: the step moves by a share of the difference x0_hat - x.": (
            lambda x, x0_hat, i, steps: x + x0_hat / (steps - i)
        ),
        "It looks as if the result is clipped to [0, 1]: (1.4) leaves it as it is.": (
            lambda x, x0_hat, i, steps: (x + (x0_hat - x) / (steps - i)).clamp(0, 1)
        ),
        "It looks as if step i moves the share i / steps: step 0 would stand still. The share is 1 / (steps - i).": (
            lambda x, x0_hat, i, steps: x + (x0_hat - x) * i / steps
        ),
        "It looks as if step i moves the share (i + 1) / steps: that is how far x has come from its start after "
        "step i. Of the way that is left, step i moves the share 1 / (steps - i).": lambda x, x0_hat, i, steps: (
            x + (x0_hat - x) * (i + 1) / steps
        ),
    },
)
