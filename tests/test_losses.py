"""What training minimises, by hand; and the steps that it draws: each as often as it should come."""

import math

import pytest
import torch

from ddpm_helpers import (
    VelocityNet,
    cosine_schedule,
    ddpm_loss,
    drop_labels,
    ema_update,
    linear_schedule,
    min_snr_loss,
    per_image,
    random_flip,
    share_of_batch,
    step_weight,
    stratified_steps,
    velocity_loss,
    weighted_steps,
)
from ddpm_helpers.losses import draw_steps

T = 20
X0, NOISE = torch.randn((2, 5, 2, 4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
each_schedule = pytest.mark.parametrize("schedule", [linear_schedule(1000), cosine_schedule(T)], ids=lambda s: s.name)


@each_schedule
def test_losses_by_hand(schedule):
    seen, t = [], torch.linspace(1, schedule.T, 5).long()
    model = lambda x, t: seen.append((x, t)) or 0.3 * x  # noqa: E731
    noise, image = [], []  # squared errors of one answer: of the noise, and of the clean image that it means
    for x0, eps, step in zip(X0, NOISE, t, strict=True):
        signal, sigma = schedule.sqrt_alpha_bar[step].double(), schedule.sigma[step].double()
        x_t = signal * x0 + sigma * eps
        noise.append((0.3 * x_t - eps).square().mean())
        image.append(((x_t - sigma * 0.3 * x_t) / signal - x0).square().mean())
    noise, image = torch.stack(noise), torch.stack(image)
    velocity = noise + image  # equation 4.21: 1 / alpha_bar is 1 + 1 / snr
    for loss, expected in ((ddpm_loss, noise), (velocity_loss, velocity), (min_snr_loss, torch.minimum(noise, image))):
        found = loss(model, schedule, X0, t, NOISE)
        assert found.shape == ()
        torch.testing.assert_close(found, expected.mean(), rtol=1e-5, atol=0)
        x_t, told = seen.pop()
        torch.testing.assert_close(x_t[4], schedule.sqrt_alpha_bar[-1] * X0[4] + schedule.sigma[-1] * NOISE[4])
        assert told is t
        assert loss(lambda x, t: NOISE, schedule, X0, t, NOISE) == 0
    guess, signal, sigma = torch.full_like(X0, 0.3), schedule.sqrt_alpha_bar[t], schedule.sigma[t]
    velocity = per_image(signal, X0) * NOISE - per_image(sigma, X0) * X0
    loss = velocity_loss(VelocityNet(lambda x, t: guess.float(), schedule), schedule, X0, t, NOISE)
    torch.testing.assert_close(loss, (guess - velocity).square().mean(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("loss", [ddpm_loss, velocity_loss, min_snr_loss])
def test_an_answer_of_another_shape_is_refused(loss):
    with pytest.raises(ValueError, match=r"prediction has shape \(5, 2\)"):
        loss(lambda x, t: x.mean((2, 3)), linear_schedule(100), X0, torch.arange(1, 6), NOISE)


@each_schedule
def test_the_velocity_drawn_by_weight_is_the_smaller_error_on_average(schedule):
    weight, losses = step_weight(schedule).double(), {velocity_loss: [], min_snr_loss: []}
    for t in range(1, schedule.T + 1):
        for loss, values in losses.items():
            values.append(loss(lambda x, t: 0.3 * x, schedule, X0, torch.full((5,), t), NOISE).item())
    drawn = (weight / weight.sum() * torch.tensor(losses[velocity_loss])).sum()
    assert weight.mean() * drawn == pytest.approx(sum(losses[min_snr_loss]) / schedule.T, rel=1e-5)


def test_what_is_done_with_a_batch():
    """At chances around the limit, which does not count."""
    x, chance = torch.arange(12.0).reshape(3, 1, 2, 2), torch.tensor([0.4999, 0.5, 0.0])
    flipped = random_flip(x, chance)
    assert [image.tolist() for image in flipped[:, 0]] == [[[1, 0], [3, 2]], [[4, 5], [6, 7]], [[9, 8], [11, 10]]]
    assert drop_labels(torch.tensor([1, 2, 0]), chance, 0.5, none=3).tolist() == [3, 2, 3]
    assert [share_of_batch(torch.arange(6), rank, 3).tolist() for rank in range(3)] == [[0, 3], [1, 4], [2, 5]]
    average, value = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    for decay, expected in ((0.75, [1.5, 1.0]), (1.0, [1.0, 2.0]), (0.0, [3.0, -2.0])):
        assert ema_update(average, value, decay).tolist() == expected
    assert average.tolist() == [1, 2], "the old average is left alone"


# steps


def too_far(drawn, share):
    """Whether steps come clearly more, or less, often than their share (T,) of all: chi squared."""
    expected = drawn.numel() * share
    chi_square = ((drawn.flatten().bincount(minlength=len(share) + 1)[1:] - expected) ** 2 / expected).sum().item()
    return chi_square > len(share) + 5 * math.sqrt(2 * len(share))


@pytest.mark.parametrize(("length", "count"), [(1000, 64), (20, 4), (7, 3), (3, 10), (1, 5), (10, 10)])
def test_equal_weights_draw_one_from_each_stretch(length, count):
    schedule, generator = cosine_schedule(length), torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_steps(schedule, count, generator) for _ in range(3000)])
    assert drawn.dtype == torch.int64
    assert bool(((drawn >= 1) & (drawn <= length)).all())
    i = torch.arange(count)  # the stretch from i T / count to (i + 1) T / count touches step - 1
    assert bool(((i * length / count - 1 < drawn - 1) & (drawn - 1 <= (i + 1) * length / count)).all())
    assert not too_far(drawn, torch.full((length,), 1 / length))
    u = torch.rand(count, generator=generator)
    assert torch.equal(weighted_steps(u, torch.full((length,), 0.25)), stratified_steps(u, length))


@pytest.mark.parametrize("count", [4, 7])
def test_weighted_steps_come_as_often_as_they_weigh(count):
    weight, generator = torch.tensor([1.0, 3.0, 0.5, 2.0, 4.0, 0.25]), torch.Generator().manual_seed(0)
    drawn = torch.stack([weighted_steps(torch.rand(count, generator=generator), weight) for _ in range(3000)])
    assert drawn.dtype == torch.int64
    assert (drawn.diff(dim=1) >= 0).all()
    assert not too_far(drawn, weight / weight.sum())
    ends = weight.cumsum(0) / weight.sum()
    for i in range(count):  # the stretch of image i touches that of its step
        begin, end = torch.cat([torch.zeros(1), ends])[drawn[:, i] - 1], ends[drawn[:, i] - 1]
        assert (begin < (i + 1) / count + 1e-6).all()
        assert (end > i / count - 1e-6).all()


@pytest.mark.parametrize("weighted", [0.5, 1.0])
def test_a_share_of_the_steps_is_weighted(weighted):
    schedule, generator = cosine_schedule(T), torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_steps(schedule, 8, generator, weighted) for _ in range(3000)])
    weight = step_weight(schedule)
    assert not too_far(drawn, (1 - weighted) / T + weighted * weight / weight.sum())


@pytest.mark.parametrize("last", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("length", [1, 3, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weighted_steps_stay_in_range(last, length, dtype):
    for weight in (torch.ones(length), step_weight(cosine_schedule(length))):
        t = weighted_steps(torch.full((64,), last), weight.to(dtype))
        assert t.min() >= 1
        assert t.max() <= length


@pytest.mark.parametrize("schedule", [linear_schedule(1000), cosine_schedule(1000)], ids=["linear", "cosine"])
def test_every_step_can_be_drawn_by_weight(schedule):
    """In 32 bits the running sum of the cosine schedule's weights no longer rises at its end, and 999 never comes."""
    weight = step_weight(schedule)
    ends = weight.double().cumsum(0) / weight.double().sum()
    middles = (ends - weight.double() / weight.double().sum() / 2).tolist()  # of the stretches of 1 ... T
    drawn = [weighted_steps(torch.tensor([u], dtype=torch.float64), weight).item() for u in middles]
    assert drawn == list(range(1, 1001))
    u = torch.full((64,), 1 - 2**-24)  # the largest below 1 in 32 bits
    assert weighted_steps(u, weight)[-1] >= 999
