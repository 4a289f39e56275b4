"""The machinery of notebooks 14 and 15, where their equations do not reach: limits, bad input, inverse functions."""

import pytest
import torch

from ddpm_helpers import cosine_schedule, linear_schedule
from ddpm_helpers.lessons import flow, sde
from ddpm_helpers.schedule import NoiseSchedule


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: flow.interpolate(x, x, torch.tensor([0.5, 1.5])), r"a must lie in \[0, 1\], got 0\.5 to 1\.5"),
        (lambda x: flow.interpolate(x, x[:1], torch.rand(2)), "noise has shape"),
        (lambda x: next(flow.flow_trajectory(lambda x, a: x, x, 0)), "steps must be a whole number, at least 1, got 0"),
        (
            lambda x: flow.flow_matching_loss(lambda x, t: x[:1], cosine_schedule(), x, torch.tensor([1, 2]), x),
            "prediction has shape",
        ),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call(torch.zeros(2, 1, 2, 2))


def test_a_network_is_asked_about_whole_steps():
    asked = []
    velocity = flow.velocity_of(lambda x, t: asked.append(t.tolist()) or x, 1000)
    list(flow.flow_trajectory(velocity, torch.zeros(2, 1), 2, flow.heun_step))
    assert asked == [[1000] * 2, [500] * 2, [500] * 2, [1] * 2]


def test_logit_normal_steps():
    steps = flow.logit_normal_steps(torch.arange(1, 1001), 1000)
    assert (steps.min(), steps.dtype) == (flow.logit_normal_steps(torch.tensor([1]), 1000)[0], torch.int64)
    assert steps.max() <= 1000
    share = ((steps > 250) & (steps <= 750)).double().mean()
    assert share == pytest.approx(2 * torch.special.ndtr(torch.tensor(3.0).log()).item() - 1, abs=0.01)


def test_time_and_log_snr_are_inverse():
    t = torch.tensor([1e-3, 0.2, 0.7, 1.0]).double()
    torch.testing.assert_close(sde.time_of(sde.signal(t).log() - sde.sigma(t).log()), t, rtol=1e-9, atol=0)


def test_nothing_is_left_of_the_image_after_rescaling():
    before = linear_schedule(1000, 0.00085, 0.012)
    beta = sde.rescaled_beta(before.beta.double())
    assert beta[0] == 0
    assert beta[-1] == pytest.approx(1)
    assert (beta[1:-1] > 0).all()
    assert beta[1] == pytest.approx(before.beta[1].item(), rel=1e-4)
    almost = NoiseSchedule(beta.clamp(max=0.999_999))
    assert sde.brightness_kept(almost, 0.25, 12_288) > 0.999 > 0.7 > sde.brightness_kept(before, 0.25, 12_288)
