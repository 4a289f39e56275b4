"""Heun, DPM-Solver++, the spacing of steps, and the sampler that a network carries."""

import pytest
import torch

from ddpm_helpers import (
    TrainConfig,
    Trainer,
    UNet,
    cosine_schedule,
    ddim_trajectory,
    linear_schedule,
    load_pretrained,
    sample,
)
from ddpm_helpers.files import WEIGHTS, CheckpointError, read, write
from ddpm_helpers.pretrained import SAMPLER
from ddpm_helpers.sampling import dpm_solver_trajectory, guide, heun_trajectory, spaced_steps

SCHEDULE = cosine_schedule()
DATA = 0.5  # standard deviation of Gaussian images


def gaussian_model(x, t):
    """The best predictor of the noise for images that are Gaussian, mean 0.2."""
    signal, sigma = SCHEDULE.sqrt_alpha_bar[t][:, None, None, None], SCHEDULE.sigma[t][:, None, None, None]
    return sigma * (x - signal * 0.2) / (signal**2 * DATA**2 + sigma**2)


def exact(x, t):
    """Where the probability-flow ODE takes x at step t for those images."""
    signal, sigma = SCHEDULE.sqrt_alpha_bar[t], SCHEDULE.sigma[t]
    return 0.2 + (x - signal * 0.2) * DATA / (signal**2 * DATA**2 + sigma**2).sqrt()


@pytest.mark.parametrize(("solver", "calls"), [(heun_trajectory, 2 * 20 - 1), (dpm_solver_trajectory, 20)])
def test_solvers_of_second_order_end_nearer_than_ddim(solver, calls):
    asked, steps = [], spaced_steps(SCHEDULE, 20, "log-snr")
    x = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    model = lambda x, t: asked.append(t) or gaussian_model(x, t)  # noqa: E731
    *_, last = solver(model, SCHEDULE, x, steps, clip=False)
    assert last.t == 0
    assert len(asked) == calls
    *_, ddim = ddim_trajectory(gaussian_model, SCHEDULE, x, steps, clip=False)
    error, of_ddim = ((end.x - exact(x, steps[0])).abs().max() for end in (last, ddim))
    assert error < of_ddim / 2


def test_dpm_solver_equals_diffusers():
    diffusers = pytest.importorskip("diffusers")
    steps = spaced_steps(SCHEDULE, 20, "log-snr")
    theirs = diffusers.DPMSolverMultistepScheduler(trained_betas=SCHEDULE.beta[1:].numpy(), final_sigmas_type="zero")
    x = ours = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    theirs.set_timesteps(timesteps=[t - 1 for t in steps])
    for t, step in zip(steps, dpm_solver_trajectory(gaussian_model, SCHEDULE, ours, steps, clip=False), strict=True):
        x = theirs.step(gaussian_model(x, torch.full((4,), t)), t - 1, x).prev_sample
        torch.testing.assert_close(step.x, x, atol=1e-4, rtol=1e-4)


def test_heun_equals_diffusers():
    """Their images are ours over the signal; each of their timesteps is a call of the model."""
    diffusers = pytest.importorskip("diffusers")
    steps = spaced_steps(SCHEDULE, 10, "karras")
    theirs = diffusers.HeunDiscreteScheduler(trained_betas=SCHEDULE.beta[1:].numpy())
    theirs.set_timesteps(timesteps=[t - 1 for t in steps])
    x = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    *_, ours = heun_trajectory(gaussian_model, SCHEDULE, x, steps, clip=False)
    x = x / SCHEDULE.sqrt_alpha_bar[steps[0]]
    for t in theirs.timesteps:
        eps = gaussian_model(theirs.scale_model_input(x, t), torch.full((4,), int(t) + 1))
        x = theirs.step(eps, t, x).prev_sample
    torch.testing.assert_close(ours.x, x, atol=1e-3, rtol=1e-3)


def test_spacing():
    assert spaced_steps(SCHEDULE, 4) == [1000, 750, 500, 250]
    assert spaced_steps(SCHEDULE, 4, "sqrt") == [1000, 866, 707, 500]
    ratio = SCHEDULE.sigma / SCHEDULE.sqrt_alpha_bar
    for name in ("log-snr", "karras"):
        steps = spaced_steps(SCHEDULE, 25, name)
        assert steps == sorted(set(steps))[::-1]
        assert (steps[-1], steps[0]) == (1, int((ratio <= 80).sum()) - 1)
    gaps = ratio[spaced_steps(SCHEDULE, 8, "log-snr")].log().diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(7), rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "euler"}, "method is one of ddpm, ddim, heun, dpm_solver; got 'euler'"),
        ({"method": "heun", "steps": 5, "eta": 1.0}, "sample: eta: heun takes clip, spacing"),
        ({"method": "ddpm", "steps": 5}, "ddpm takes all T = 1000 steps; for fewer: method='ddim'"),
        ({"steps": 5, "spacing": "odd"}, "spacing is one of even, sqrt, log-snr, karras; got 'odd'"),
        ({"steps": 300, "spacing": "karras"}, "300 steps with spacing 'karras' would repeat some"),
        ({"steps": 900, "spacing": "sqrt"}, "900 steps with spacing 'sqrt' would repeat some"),
        ({"steps": 0}, "from 1 to T = 1000 steps, got 0"),
        ({"variance": "beta", "steps": 5}, "sample: variance: ddim takes clip, eta, spacing"),
    ],
)
def test_bad_samplers(options, says):
    with pytest.raises(ValueError, match=says):
        sample(gaussian_model, SCHEDULE, 2, (1, 2, 2), **options)


def test_the_networks_own_sampler(capsys):
    model, schedule, _ = load_pretrained("mnist_labels")
    own, labels = dict(model.sampler), torch.tensor([3, 4])
    assert own.keys() >= {"method", "steps"}
    model.sampler = {**own, "steps": 3}
    images = sample(model, schedule, 2, labels=labels)
    assert "by the network's own sampler: method" in capsys.readouterr().out
    told = sample(model, schedule, 2, labels=labels, **model.sampler)
    assert torch.equal(images, told)
    assert not capsys.readouterr().out
    assert sample(guide(model, 1.0), schedule, 2, labels=labels).allclose(images, atol=1e-4)
    assert not torch.equal(images, sample(model, schedule, 2, labels=labels, steps=3, method="ddim"))


def test_a_file_without_a_sampler(tmp_path):
    state = read(WEIGHTS / "mnist.safetensors", "weights")
    assert "sampler" not in state
    assert load_pretrained("mnist").model.sampler == SAMPLER
    sampler = {"method": "heun", "steps": 9}
    write(tmp_path / "a.safetensors", "weights", {**state, "sampler": sampler})
    assert load_pretrained(tmp_path / "a.safetensors").model.sampler == sampler
    write(tmp_path / "b.safetensors", "weights", {**state, "sampler": {"method": "guess", "steps": 3}})
    with pytest.raises(CheckpointError, match="method is one of ddpm, ddim, heun, dpm_solver; got 'guess'"):
        load_pretrained(tmp_path / "b.safetensors")


def test_another_schedule_than_the_networks_own():
    model, schedule, _ = load_pretrained("mnist")
    with pytest.raises(ValueError, match="trained on another schedule than NoiseSchedule"):
        sample(model, linear_schedule(), 1)
    trainer = Trainer(
        UNet(base=8, patch=2), schedule, torch.zeros(4, 1, 28, 28, dtype=torch.uint8), TrainConfig(steps=1)
    )
    with pytest.raises(ValueError, match="trained on another schedule"):
        sample(trainer.ema, linear_schedule(), 1)
    assert sample(lambda x, t: model(x, t), linear_schedule(50), 1, steps=1).shape == (1, 1, 28, 28)
