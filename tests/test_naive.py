"""Notebook 01's process: corrupt, loss and sampler, by hand, and what bad input is told."""

import pytest
import torch

from ddpm_helpers import corrupt, naive_loss, naive_step, naive_trajectory
from ddpm_helpers.exercises.notebook_01 import half_and_a_bit

X, NOISE = torch.rand(2, 4, 3, 2, 5, generator=torch.Generator().manual_seed(1))


def test_corrupt_and_loss_by_hand():
    mixed = corrupt(X, torch.tensor([0.0, 0.25, 0.5, 1.0]), NOISE)
    assert torch.equal(mixed[0], X[0])
    assert torch.equal(mixed[3], NOISE[3])
    torch.testing.assert_close(mixed[1], 0.75 * X[1] + 0.25 * NOISE[1])
    by_hand = torch.stack([half_and_a_bit(X[0]) - X[0], half_and_a_bit(NOISE[1]) - X[1]]).square().mean()
    torch.testing.assert_close(naive_loss(half_and_a_bit, X[:2], torch.tensor([0.0, 1.0]), NOISE[:2]), by_hand)


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_trajectory_ends_on_a_fixed_prediction(steps):
    """On the way it stands on the straight line, at the amount that t says; the model is told the amount left."""
    told, target, noise = [], X.double(), NOISE.double()
    path = list(naive_trajectory(lambda x, t: told.append(t.tolist()) or target, noise, steps))
    assert told == [[pytest.approx(1 - i / steps)] * 4 for i in range(steps)]
    assert (len(path), path[-1].t) == (steps, 0)
    torch.testing.assert_close(path[-1].x, target)
    for step in path:
        torch.testing.assert_close(step.x, corrupt(target, torch.full((4,), step.t, dtype=torch.double), noise))


HALF = torch.full((4,), 0.5)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: corrupt(X, HALF + 1, NOISE), r"must lie in \[0, 1\], got 1.5 to 1.5"),
        (lambda: corrupt(X, torch.tensor([0.0, 0.5, 1.0, -0.1]), NOISE), "got -0.1 to 1"),
        (lambda: corrupt(X, HALF * torch.nan, NOISE), "must lie in"),
        (lambda: corrupt(X, HALF[:3], NOISE), r"expected one number per image, shape \(4,\), got shape \(3,\)"),
        (lambda: corrupt(X, HALF[:, None], NOISE), r"got shape \(4, 1\)"),
        (lambda: corrupt(X, HALF.long(), NOISE), "amount must be a float tensor, got torch.int64"),
        (lambda: corrupt(X, 0.5, NOISE), "amount must be a float tensor, got float"),
        (lambda: corrupt((255 * X).to(torch.uint8), HALF, NOISE), "x must be a float tensor, got torch.uint8"),
        (lambda: corrupt(X, HALF, NOISE[:, :1]), r"noise has shape \(4, 1, 2, 5\)"),
        (lambda: naive_loss(lambda x: x[:, :1], X, HALF, NOISE), r"prediction has shape \(4, 1, 2, 5\)"),
        (lambda: naive_step(X, X[0], 0, 5), r"x0_hat has shape \(3, 2, 5\), x has \(4, 3, 2, 5\)"),
        (lambda: naive_step(X, X, 5, 5), "got i = 5 of 5 steps"),
        (lambda: next(naive_trajectory(lambda x, t: x, X, 0)), "steps must be at least 1, got 0"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call()
