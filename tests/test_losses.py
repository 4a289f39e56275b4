"""What training minimises, by hand; and the steps that it draws: each as often as it should come."""

import math

import pytest
import torch

from ddpm_helpers import (
    cosine_schedule,
    ddpm_loss,
    ema_update,
    linear_schedule,
    min_snr_loss,
    step_weight,
    stratified_steps,
    velocity_loss,
    weighted_steps,
)
from ddpm_helpers.losses import draw_steps

T = 20


def test_ddpm_loss_by_hand():
    schedule, x0, noise = linear_schedule(100), torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    t = torch.tensor([1, 50, 100])
    seen = []

    def model(x, t):
        seen.append((x, t))
        return 0.3 * x

    loss = ddpm_loss(model, schedule, x0, t, noise)
    total = 0.0
    for i in range(3):
        alpha_bar = schedule.alpha_bar[t[i]].item()
        x_t = math.sqrt(alpha_bar) * x0[i] + math.sqrt(1 - alpha_bar) * noise[i]
        torch.testing.assert_close(seen[0][0][i], x_t)
        total += ((0.3 * x_t - noise[i]) ** 2).sum().item()
    assert loss.shape == ()
    assert loss.item() == pytest.approx(total / 12, rel=1e-5)
    assert seen[0][1] is t
    assert ddpm_loss(lambda x, t: noise, schedule, x0, t, noise) == 0


@pytest.mark.parametrize("loss", [ddpm_loss, velocity_loss, min_snr_loss])
def test_an_answer_of_another_shape_is_refused(loss):
    x0, t = torch.zeros(2, 1, 4, 4), torch.tensor([1, 2])
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 1\)"):
        loss(lambda x, t: x.mean((2, 3)), linear_schedule(100), x0, t, x0)


@pytest.mark.parametrize("schedule", [linear_schedule(100), cosine_schedule(T)], ids=["linear", "cosine"])
def test_the_velocity_drawn_by_weight_is_the_smaller_error_on_average(schedule):
    x0, noise = torch.randn((2, 5, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight, losses = step_weight(schedule).double(), {velocity_loss: [], min_snr_loss: []}
    for t in range(1, schedule.T + 1):
        for loss, values in losses.items():
            values.append(loss(lambda x, t: 0.3 * x, schedule, x0, torch.full((5,), t), noise).item())
    drawn = (weight / weight.sum() * torch.tensor(losses[velocity_loss])).sum()
    assert weight.mean() * drawn == pytest.approx(sum(losses[min_snr_loss]) / schedule.T, rel=1e-5)


def test_ema_update_by_hand():
    average, value = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    torch.testing.assert_close(ema_update(average, value, 0.75), torch.tensor([1.5, 1.0]))
    assert torch.equal(ema_update(average, value, 1.0), average)
    assert torch.equal(ema_update(average, value, 0.0), value)
    assert average.tolist() == [1, 2], "the old average is left alone"


# steps


@pytest.mark.parametrize(("length", "count"), [(1000, 64), (20, 4), (7, 3), (3, 10), (1, 5), (10, 10)])
def test_draw_steps_one_from_each_stretch(length, count):
    schedule, generator = cosine_schedule(length), torch.Generator().manual_seed(0)
    for _ in range(50):
        t = draw_steps(schedule, count, generator)
        assert t.dtype == torch.int64
        assert t.shape == (count,)
        assert t.min() >= 1
        assert t.max() <= length
        for i, step in enumerate(t.tolist()):  # the stretch from i T / count to (i + 1) T / count touches step - 1
            assert i * length / count - 1 < step - 1 <= (i + 1) * length / count


@pytest.mark.parametrize(("length", "count"), [(20, 4), (7, 3), (3, 10)])
def test_draw_steps_are_uniform(length, count):
    schedule, generator = cosine_schedule(length), torch.Generator().manual_seed(0)
    drawn = torch.cat([draw_steps(schedule, count, generator) for _ in range(3000)])
    found, expected = drawn.bincount(minlength=length + 1)[1:].float(), len(drawn) / length
    chi_square = ((found - expected) ** 2 / expected).sum().item()
    assert chi_square < length + 5 * math.sqrt(2 * length), found


@pytest.mark.parametrize("count", [4, 7])
def test_weighted_steps_come_as_often_as_they_weigh(count):
    weight, generator = torch.tensor([1.0, 3.0, 0.5, 2.0, 4.0, 0.25]), torch.Generator().manual_seed(0)
    drawn = torch.stack([weighted_steps(torch.rand(count, generator=generator), weight) for _ in range(3000)])
    assert drawn.dtype == torch.int64
    assert (drawn.diff(dim=1) >= 0).all()
    expected = drawn.numel() * weight / weight.sum()
    chi_square = ((drawn.flatten().bincount(minlength=7)[1:] - expected) ** 2 / expected).sum().item()
    assert chi_square < 6 + 5 * math.sqrt(2 * 6), drawn.flatten().bincount()
    ends = weight.cumsum(0) / weight.sum()
    for i in range(count):  # the stretch of image i touches that of its step
        begin, end = torch.cat([torch.zeros(1), ends])[drawn[:, i] - 1], ends[drawn[:, i] - 1]
        assert (begin < (i + 1) / count + 1e-6).all()
        assert (end > i / count - 1e-6).all()


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


def test_step_999_comes_from_uniforms_in_32_bits():
    u = torch.full((64,), 1 - 2**-24)  # the largest below 1
    assert weighted_steps(u, step_weight(cosine_schedule(1000)))[-1] == 999


def test_equal_weights_are_stratified_steps():
    u = torch.rand(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weighted_steps(u, torch.full((1000,), 0.25)), stratified_steps(u, 1000))
