"""The machinery of notebook 20, where its equations do not reach: limits, bad input, the shipped results."""

from itertools import combinations

import pytest
import torch

from ddpm_helpers import IdealDenoiser, cosine_schedule, ddpm_loss, predict_x0, snr
from ddpm_helpers.lessons import memory

SCHEDULE = cosine_schedule(100)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: memory.small_digits(x), r"expected uint8 \(N, 1, 28, 28\), got torch.float32"),
        (lambda x: memory.split(x, 3), "two sets of 3 need 6 images, there are 4"),
        (lambda x: memory.split(x, 0), "two sets of 0"),
        (lambda x: memory.patch_x0(x, x, 0.6, 0.8, 4), "side must be odd and at least 1, got 4"),
        (lambda x: memory.nearest_share(x, x, x[:2]), "4 training images need as many held-out ones, got 2"),
        (lambda x: memory.TinyNet(SCHEDULE)(x, torch.ones(4, dtype=torch.int64)), "14"),
        (lambda x: memory.TinyNet(SCHEDULE, 0), "width"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call(torch.zeros(4, 1, 28, 29))


def digits(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, 14, 14, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_small_digits_are_means_of_four_pixels():
    large = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    large[1, 0, 2:4, 4:6] = torch.tensor([[255, 255], [0, 3]])
    small = memory.small_digits(large)
    assert (small.shape, small.dtype, small[1, 0, 1, 2].item(), small.sum().item()) == (
        (2, 1, 14, 14),
        large.dtype,
        128,
        128,
    )


def test_the_two_sets_have_nothing_in_common():
    train, held = memory.split(torch.arange(101), 50)
    assert len(set(train.tolist()) | set(held.tolist())) == 100
    assert torch.equal(memory.split(torch.arange(101), 20)[0], train[:20])  # a smaller set is part of a larger one


def test_weights_are_those_of_the_ideal_denoiser():
    images, x, t = digits(5), digits(3, 1), torch.tensor([10, 50, 90])
    weight = memory.weights_of(images, x, SCHEDULE.sqrt_alpha_bar[t], SCHEDULE.sigma[t])
    clean = predict_x0(SCHEDULE, x, t, IdealDenoiser(images, SCHEDULE)(x, t))
    torch.testing.assert_close((weight @ images.flatten(1).double()).float(), clean.flatten(1), rtol=1e-3, atol=1e-3)
    assert memory.images_in_play(images, images[:1], torch.ones(1), torch.full((1,), 1e-3)).item() == 1
    assert memory.images_in_play(images, images[:1], torch.zeros(1), torch.ones(1)).item() == pytest.approx(5)


def test_the_collapse_comes_later_for_more_images():
    variances = torch.full((20,), 0.3).double()
    steps = [memory.collapse_step(SCHEDULE, n, variances) for n in (2, 10, 1000, 10**9)]
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) == 4
    ratio = (1000 ** (2 / 20) - 1) / 0.3  # equation 20.6
    assert snr(SCHEDULE)[steps[2]] >= ratio > snr(SCHEDULE)[steps[2] + 1]
    assert memory.information(0.0, variances) == 0


def test_a_copier_and_a_tie():
    train, held = digits(6), digits(9, 1)
    assert memory.nearest_share(train + 0.01, train, held) == 1
    assert memory.nearest_share(held[:6], train, held) == 0
    assert memory.nearest_share(train[:3] / 2 + held[6:] / 2, train, held) == 1  # the last three are not looked at
    assert memory.nearest_share(train, train, train) == 0.5


def test_null_error_counts_every_choice():
    counts = torch.tensor([3.0, 0, 2, 0, 0, 1])
    shares = torch.stack([counts[list(chosen)].sum() / 6 for chosen in combinations(range(6), 3)])
    assert memory.null_error(counts) == pytest.approx(shares.std(correction=0).item())


def test_tiny_net_predicts_noise_that_can_be_trained():
    torch.manual_seed(0)
    net, x, t = memory.TinyNet(SCHEDULE, width=16), digits(4), torch.tensor([1, 30, 60, 100])
    ddpm_loss(net, SCHEDULE, x, t, torch.randn(x.shape)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())
    assert memory.loss_on(net, SCHEDULE, x, 50) == memory.loss_on(net, SCHEDULE, x, 50)


def test_the_shipped_results_are_complete():
    results = memory.load_memory()
    assert all(part["about"]["command"].startswith("python tests/benchmarks/memory.py") for part in results.values())
    assert all("MNIST, training images" in part["about"]["data"] for part in results.values())
    sizes = [(row["n"], row["steps"]) for row in results["memory"]["rows"]]
    assert set(sizes) == {(n, steps) for n in (64, 250, 1000, 10_000) for steps in (60, 125, 250, 500, 1000, 2000)}
    grid = [(row["width"], row["steps"], row["seed"]) for row in results["scaling"]["rows"]]
    seeds = {row["seed"] for row in results["scaling"]["rows"]}
    assert len(seeds) >= 2
    assert set(grid) == {(w, s, seed) for w in (16, 32, 64, 128) for s in (100, 300, 900) for seed in seeds}
    assert {"VAE", "autoregressive", "diffusion"} <= {row["name"] for row in results["families"]["rows"]}
