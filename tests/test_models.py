"""corrupt, the naive net and sampler, budget: values, shapes, and what bad input is told."""

import pytest
import torch
import torch.nn.functional as F

from ddpm_helpers import BasicUNet, corrupt, count_parameters, naive_loss, naive_step, naive_trajectory
from ddpm_helpers.exercises.notebook_01 import half_and_a_bit


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_corrupt_ends(generator):
    x, noise = torch.rand(2, 4, 3, 2, 5, generator=generator)
    assert torch.equal(corrupt(x, torch.zeros(4), noise), x)
    assert torch.equal(corrupt(x, torch.ones(4), noise), noise)
    middle = corrupt(x, torch.tensor([0.0, 0.25, 0.5, 1.0]), noise)
    torch.testing.assert_close(middle[1], 0.75 * x[1] + 0.25 * noise[1])


X = torch.rand(4, 3, 2, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((X, torch.tensor([0.0, 0.5, 1.0, 1.5]), X), ValueError, r"must lie in \[0, 1\], got 0 to 1.5"),
        ((X, torch.tensor([0.0, 0.5, 1.0, -0.1]), X), ValueError, "got -0.1 to 1"),
        ((X, torch.full((4,), float("nan")), X), ValueError, "must lie in"),
        ((X, torch.rand(3), X), ValueError, r"expected one number per image, shape \(4,\), got shape \(3,\)"),
        ((X, torch.rand(4, 1), X), ValueError, r"got shape \(4, 1\)"),
        ((X, torch.ones(4, dtype=torch.long), X), TypeError, "amount must be a float tensor, got torch.int64"),
        ((X, 0.5, X), TypeError, "amount must be a float tensor, got float"),
        (((255 * X).to(torch.uint8), torch.rand(4), X), TypeError, r"x must be a float tensor, got torch.uint8"),
        ((X, torch.rand(4), X[:, :1]), ValueError, r"noise has shape \(4, 1, 2, 5\)"),
    ],
)
def test_corrupt_bad_input(arguments, error, says):
    with pytest.raises(error, match=says):
        corrupt(*arguments)


def test_basic_unet_is_the_published_one(generator):
    model = BasicUNet()
    assert count_parameters(model) == 309_057
    x = torch.rand(2, 1, 28, 28, generator=generator)
    assert model(x).shape == x.shape
    assert torch.equal(model(x), model(x, torch.zeros(2))), "this net ignores time"
    assert model(-50 * x).min() > -0.2785
    assert BasicUNet(channels=3)(torch.rand(1, 3, 32, 20)).shape == (1, 3, 32, 20)


def test_basic_unet_uses_every_parameter_and_skip(generator):
    model = BasicUNet()
    model(torch.rand(2, 1, 28, 28, generator=generator)).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    for skipped in (0, 1):  # silence what a skip carries by silencing its source, but keep the way down
        cut, kept = BasicUNet(), model
        cut.load_state_dict(kept.state_dict())
        x = torch.rand(1, 1, 8, 8, generator=generator)
        full = F.silu(cut.down[0](x))
        half = F.silu(cut.down[1](F.max_pool2d(full, 2)))
        h = F.silu(cut.up[0](F.silu(cut.down[2](F.max_pool2d(half, 2)))))
        h = F.silu(cut.up[1](F.interpolate(h, scale_factor=2) + half * (skipped != 1)))
        without = F.silu(cut.up[2](F.interpolate(h, scale_factor=2) + full * (skipped != 0)))
        assert not torch.allclose(without, kept(x))


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.rand(1, 1, 30, 28), "divisible by 4, got 30x28; resize or pad to 32x28"),
        (torch.rand(1, 3, 28, 28), r"make it with BasicUNet\(channels=3\)"),
        (torch.rand(28, 28), r"expected images \(B, 1, H, W\), got \(28, 28\)"),
        (torch.zeros(1, 1, 28, 28, dtype=torch.uint8), "expected float images, got torch.uint8"),
    ],
)
def test_basic_unet_bad_input(x, says):
    with pytest.raises(ValueError, match=says):
        BasicUNet()(x)


def test_naive_loss_by_hand():
    x, noise, amount = X[:2], X[2:], torch.tensor([0.0, 1.0])
    by_hand = torch.stack([half_and_a_bit(x[0]) - x[0], half_and_a_bit(noise[1]) - x[1]]).square().mean()
    torch.testing.assert_close(naive_loss(half_and_a_bit, x, amount, noise), by_hand)


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_naive_trajectory_ends_on_a_fixed_prediction(steps):
    target, noise = X[:2].double(), X[2:].double()
    path = list(naive_trajectory(lambda x, t: target, noise, steps))
    assert len(path) == steps
    torch.testing.assert_close(path[-1].x, target)
    assert path[-1].t == 0
    # On the way it stands on the straight line, at the amount that t says.
    for step in path:
        torch.testing.assert_close(step.x, corrupt(target, torch.full((2,), step.t, dtype=torch.double), noise))


def test_naive_trajectory_tells_the_model_the_amount_left():
    seen = []
    list(naive_trajectory(lambda x, t: seen.append(t[0].item()) or x, X, 4))
    assert seen == [1.0, 0.75, 0.5, 0.25]


def test_naive_sampler_bad_input():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        next(naive_trajectory(lambda x, t: x, X, 0))
    with pytest.raises(ValueError, match="got i = 5 of 5 steps"):
        naive_step(X, X, 5, 5)


def test_a_sample_does_not_depend_on_its_neighbours(generator):
    model = BasicUNet().eval()
    noise = torch.rand(6, 1, 8, 8, generator=generator)
    *_, together = naive_trajectory(model, noise, 3)
    *_, alone = naive_trajectory(model, noise[4:5], 3)
    torch.testing.assert_close(together.x[4:5], alone.x, rtol=1e-5, atol=1e-6)
