"""Metrics against cases whose answer is known in closed form."""

import math

import pytest
import torch

from ddpm_helpers import bits_per_dim, evaluate, frechet_distance, linear_schedule, metrics, synthetic_digits, to_float
from ddpm_helpers.metrics import FeatureNet, discretised_log_likelihood, nearest_images, prior_bits


def test_frechet_against_the_definition():
    """tr of (A B)^1/2 from the eigenvalues of the unsymmetric product A B, the formula as it is printed."""
    generator = torch.Generator().manual_seed(0)
    x, (of_a, of_b, turn) = (torch.randn(*n, 5, generator=generator, dtype=torch.float64) for n in ([900], [3, 5]))
    a, b, turn = x[:400] @ of_a + 1, x[400:] @ of_b, torch.linalg.qr(turn).Q
    root_trace = torch.linalg.eigvals(a.T.cov() @ b.T.cov()).sqrt().real.sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * root_trace
    for found in (frechet_distance(a, b), frechet_distance(b, a), frechet_distance(a @ turn, b @ turn)):
        assert found == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_floor_shrinks_with_the_sample():
    x = torch.randn(8000, 16, generator=torch.Generator().manual_seed(0))
    floors = [metrics.frechet_floor(x, n) for n in (100, 1000, 4000)]
    assert floors[0] > 5 * floors[1] > 5 * floors[2] > 0
    with pytest.raises(ValueError, match="need 10000 real images, there are 8000"):
        metrics.frechet_floor(x, 5000)


def test_frechet_bad_input():
    few = torch.ones(1, 4), torch.full((9, 4), torch.nan)
    for a, message in (
        *((x, "first set needs at least 2 rows, all finite") for x in few),
        (torch.ones(9, 4), "all rows of the first set are equal"),
        (torch.randn(9, 3), r"\(9, 3\) and \(20, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            frechet_distance(a, torch.randn(20, 4))
    with pytest.warns(UserWarning, match="4 samples cannot fill a 4-dimensional covariance") as caught:
        frechet_distance(torch.randn(4, 4), torch.randn(20, 4))
    assert caught[0].filename == __file__


def test_evaluate_counts():
    torch.manual_seed(0)
    net = FeatureNet().eval()
    with torch.no_grad():
        net.head[-1].weight.zero_()
        net.head[-1].bias.copy_(torch.tensor([50.0] + [0.0] * 9))
    images = torch.rand(7, 1, 28, 28)
    seen = evaluate(net, images, batch_size=3)
    torch.testing.assert_close(seen.features, evaluate(net, images.double()).features)
    assert seen.features.shape == (7, 64)
    assert seen.histogram.tolist() == [1.0] + [0.0] * 9
    assert (seen.entropy, seen.recognisable) == (0, 1)


def test_evaluate_bad_input():
    images, net = torch.zeros(5, 1, 28, 28), FeatureNet()
    with pytest.raises(ValueError, match=r"in train mode.*net.eval\(\)"):
        evaluate(net, images)
    for wrong, message in (
        (images.expand(-1, 3, -1, -1), r"expected images \(N, 1, 28, 28\), .*got \(5, 3, 28, 28\)"),
        (images[:1], "N at least 2, got"),
        (images + 1.5, "found 1.5 to 1.5: clip"),
        (images + torch.nan, "found nan"),
        (images.byte(), "use to_float"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(net.eval(), wrong)


def test_nearest_images():
    drawn = to_float(synthetic_digits(300, seed=0)[0])
    other = drawn.clone()  # near copies: one grey level off at one pixel
    other[:, 0, 14, 14] -= 2 / 255 * other[:, 0, 14, 14].sign()
    index, distance = nearest_images(drawn, torch.cat([other, drawn]))
    assert index.tolist() == list(range(300, 600))
    assert not distance.any()
    images = torch.rand(50, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    index, distance = nearest_images(images[[7, 3, 11]] + 0.01, images)
    assert index.tolist() == [7, 3, 11]
    torch.testing.assert_close(distance, torch.full((3,), 0.01), rtol=1e-2, atol=0)
    for other in (images[:, :1], images[:0]):
        with pytest.raises(ValueError, match="do not fit together"):
            nearest_images(images, other)
    with pytest.raises(TypeError, match=r"torch.float32 and torch.uint8; see to_float"):
        nearest_images(images, images.to(torch.uint8))


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Apple GPU here")
def test_on_mps(grey):
    evaluate(FeatureNet().eval().to("mps"), torch.rand(20, 1, 28, 28))
    bits_per_dim(lambda x, t: x, linear_schedule(50).to("mps"), grey.to("mps"))


@pytest.mark.parametrize("std", [1e-4, 0.01, 1.0])
@pytest.mark.parametrize("mean", [-1.2, -0.3, 0.999, 1.0])
def test_grey_levels_have_probability_one_together(std, mean):
    levels = to_float(torch.arange(256, dtype=torch.uint8))
    log_p = discretised_log_likelihood(levels, torch.full((256,), mean), torch.tensor(std))
    assert log_p.double().exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert (log_p <= 0).all(), "nor NaN"


def test_grey_levels_far_in_the_tail():
    """Where float32 differences of two probabilities near 0 or 1 would be lost; mirror images agree."""
    x, mean = to_float(torch.tensor([10, 245], dtype=torch.uint8)), torch.tensor([0.5, -0.5])
    log_p = discretised_log_likelihood(x, mean, torch.tensor(0.01))
    assert log_p[0].item() == pytest.approx(log_p[1].item(), rel=1e-5)
    z = (0.5 - x[0].item() - 1 / 255) / 0.01  # the nearer edge of the bin, in standard deviations
    assert log_p[0].item() == pytest.approx(-(z**2) / 2 - math.log(z * math.sqrt(2 * math.pi)), rel=1e-3)


@pytest.fixture
def grey():
    return to_float(torch.randint(256, (64, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))


def test_bits_per_dim_of_a_perfect_guess(grey):
    """A model that knows the clean images: each mean is right, so each KL is that of two variances."""
    schedule = linear_schedule(50)

    def model(x, t):
        signal, sigma = (table[t].reshape(-1, 1, 1, 1) for table in (schedule.sqrt_alpha_bar, schedule.sigma))
        return (x - signal * grey) / sigma

    bound = bits_per_dim(model, schedule, grey)
    ratio = (schedule.posterior_variance / schedule.beta)[2:].double()
    expected = 0.5 * (ratio - 1 - ratio.log()) / math.log(2)
    torch.testing.assert_close(bound.per_step.double(), expected, rtol=1e-2, atol=1e-6)
    assert bound.steps.tolist() == list(range(2, 51))
    assert bound.middle == pytest.approx(bound.per_step.sum().item(), rel=1e-5)
    assert bound.total == pytest.approx(bound.prior + bound.middle + bound.decoder)
    a_bar = schedule.alpha_bar[-1].double()
    prior = 0.5 * (a_bar * grey.double().square().mean() - a_bar - torch.log(1 - a_bar)) / math.log(2)
    assert bound.prior == pytest.approx(prior.item(), rel=1e-3, abs=1e-7)


def test_bits_per_dim_of_the_ideal_gaussian_model(grey):
    """For data N(0, 1/16) no model is better than this one; the bound then is close to the entropy of that data."""
    schedule = linear_schedule(1000)
    x = (torch.randn(400, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.25).clamp(-1, 1)
    x = to_float(((x + 1) * 255 / 2).round().to(torch.uint8))
    variance = 0.25**2

    def ideal(x, t):
        a_bar, sigma = (table[t].reshape(-1, 1, 1, 1) for table in (schedule.alpha_bar, schedule.sigma))
        return sigma * x / (a_bar * variance + sigma**2)

    total = bits_per_dim(ideal, schedule, x, clip=False).total
    entropy = 0.5 * math.log2(2 * math.pi * math.e * variance) + math.log2(255 / 2)
    assert entropy - 0.02 < total < entropy + 0.15
    assert bits_per_dim(ideal, schedule, x, steps=200, clip=False).total == pytest.approx(total, abs=0.05)


@pytest.mark.parametrize("steps", [25, 50, 1000])
def test_prior_bits_are_a_divergence(grey, steps):
    schedule = linear_schedule(steps)
    end = torch.distributions.Normal(schedule.sqrt_alpha_bar[-1] * grey.double(), schedule.sigma[-1].double())
    nats = torch.distributions.kl_divergence(end, torch.distributions.Normal(0.0, 1.0)).mean()
    assert prior_bits(schedule, grey) == pytest.approx(nats.item() / math.log(2), rel=1e-4, abs=1e-7)
    with pytest.raises(TypeError, match=r"must be a float tensor, got torch\.uint8"):
        prior_bits(schedule, grey.to(torch.uint8))
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
        bits_per_dim(lambda x, t: x, schedule, grey * 3)
    with pytest.raises(ValueError, match=f"steps must be in 1 ... T - 1 = {steps - 1}, got {steps}"):
        bits_per_dim(lambda x, t: x, schedule, grey, steps=steps)
