"""Every planted fault is found and named; a system without one is left in peace."""

import pytest
import torch

from ddpm_helpers import cosine_schedule, ddim_trajectory, linear_schedule, load_pretrained, sample, to_float
from ddpm_helpers.digits import synthetic_digits
from ddpm_helpers.lessons import clinic, quiz
from ddpm_helpers.lessons.diagnosis import IdealDenoiser, diagnose, loss_by_t, straight_line_loss

IMAGES = to_float(synthetic_digits(64, seed=1)[0])
FAULTS = [case.fault for case in quiz.CASES]
FOUND_BY = {
    clinic.unit_range: "data range",
    clinic.never_noise: "end of the process",
    clinic.noisy_last_step: "samples' grain",
    clinic.off_by_one: "time",
    clinic.no_square_root: "loss by t",
    clinic.alpha_for_alpha_bar: "loss by t",
    clinic.uniform_noise: "samples' brightness",
    clinic.no_time: "time",
    clinic.young_average: "average",
    clinic.wrapped_bytes: "samples' grain",
    clinic.rescaled_pictures: "samples' range",
    clinic.gradient_times_loss: "loss by t",
    clinic.train_mode: "mode",
    clinic.broadcast_loss: "loss by t",
    clinic.no_fine_skip: "loss by t",
    clinic.blind_to_brightness: "brightness",
}


def checks(system: clinic.System) -> list[str]:
    return [f.check for f in diagnose(system.model, system.schedule, system.images, system.samples, system.average)]


def test_every_fault_has_its_check():
    assert set(FAULTS) == set(FOUND_BY)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_fault_is_found(fault, capsys):
    assert FOUND_BY[fault] in checks(fault(IMAGES))
    assert FOUND_BY[fault] in capsys.readouterr().out


def test_healthy_system_is_left_in_peace(capsys):
    system = clinic.healthy(IMAGES)
    assert diagnose(system.model, system.schedule, IMAGES, system.samples, average=system.model) == []
    assert capsys.readouterr().out == "Nothing found.\n"


@pytest.mark.parametrize("schedule", [linear_schedule(1000), cosine_schedule(1000), linear_schedule(30)], ids=str)
def test_healthy_with_other_schedules(schedule):
    model = IdealDenoiser(IMAGES, schedule)
    samples = sample(model, schedule, 32, steps=20)
    assert diagnose(model, schedule, IMAGES, samples) == []


def test_shipped_network_is_left_in_peace():
    """Judged on drawn digits it would rightly be found lacking, so here it is looked at with its own samples."""
    model, schedule, _ = load_pretrained("mnist")
    samples = sample(model, schedule, 48, steps=15)
    assert diagnose(model, schedule, samples[:32].clamp(-1, 1), samples[16:]) == []


def test_lines_with_the_right_gradient_arrive():
    system = clinic.trained_lines(IMAGES)
    t = torch.tensor([1, 10, 50, 100])
    lines = straight_line_loss(system.schedule, IMAGES, t)
    torch.testing.assert_close(loss_by_t(system.model, system.schedule, IMAGES, t), lines, rtol=0.1, atol=0.02)
    assert "loss by t" not in checks(system)


def test_ideal_denoiser_of_one_image_finds_the_noise():
    schedule, x0, noise = linear_schedule(50), torch.randn(1, 3, 4, 4), torch.randn(5, 3, 4, 4)
    t = torch.tensor([1, 2, 10, 49, 50])
    x = schedule.sqrt_alpha_bar[t][:, None, None, None] * x0 + schedule.sigma[t][:, None, None, None] * noise
    torch.testing.assert_close(IdealDenoiser(x0, schedule)(x, t), noise, rtol=1e-3, atol=1e-3)


def test_ideal_denoiser_of_two_points_by_hand():
    """Data -1 and 1: the mean of x_0 given x_t is tanh(signal x_t / sigma^2)."""
    schedule, t = linear_schedule(50), torch.arange(1, 51)
    data, x = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1), torch.linspace(-2, 2, 50).reshape(50, 1, 1, 1)
    signal, sigma = schedule.sqrt_alpha_bar[t], schedule.sigma[t]
    x0_hat = torch.tanh(signal * x.flatten() / sigma**2)
    expected = ((x.flatten() - signal * x0_hat) / sigma).reshape(x.shape)
    torch.testing.assert_close(IdealDenoiser(data, schedule)(x, t), expected, rtol=1e-4, atol=1e-4)


def test_its_samples_are_the_images():
    schedule = linear_schedule(100)
    x = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for step in ddim_trajectory(IdealDenoiser(IMAGES, schedule), schedule, x, 50):
        x = step.x
    assert torch.cdist(x.flatten(1), IMAGES.flatten(1)).min(1).values.max() < 1e-2


def test_bytes_are_not_images(capsys):
    system = clinic.healthy(IMAGES)
    found = diagnose(system.model, system.schedule, (IMAGES * 100).to(torch.uint8), system.samples, system.model)
    assert [f.check for f in found] == ["data"]
    assert "to_float" in capsys.readouterr().out


def test_a_model_that_answers_nan():
    system = clinic.healthy(IMAGES)
    broken = clinic.Model(lambda x, t: x * float("nan"))
    found = diagnose(broken, system.schedule, IMAGES, system.samples * float("nan"))
    assert [f.check for f in found] == ["loss by t", "samples"]


@pytest.mark.parametrize("t", [0, 101])
def test_the_ideal_denoiser_knows_the_steps_of_its_schedule_alone(t):
    with pytest.raises(ValueError, match=f"IdealDenoiser: t must lie in 1 ... 100, got {t} to {t}"):
        IdealDenoiser(IMAGES, linear_schedule(100))(IMAGES, torch.full((len(IMAGES),), t))


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Apple GPU here")
def test_on_mps():
    system = clinic.healthy(IMAGES)
    model = IdealDenoiser(IMAGES, system.schedule).to("mps")
    assert diagnose(model, system.schedule.to("mps"), IMAGES.to("mps"), system.samples.to("mps")) == []


def test_an_image_that_sees_its_batch():
    ideal = IdealDenoiser(IMAGES, linear_schedule(100))
    mixed = clinic.Model(lambda x, t: ideal(x, t) + 0.2 * x.mean(0))
    assert "batch" in [f.check for f in diagnose(mixed, linear_schedule(100), IMAGES)]


@pytest.mark.parametrize("samples", [torch.zeros(3, 1, 28, 28), torch.zeros(32, 1, 14, 14), torch.zeros(32, 784)])
def test_samples_that_do_not_fit(samples):
    system = clinic.healthy(IMAGES)
    with pytest.raises(ValueError, match="samples must be"):
        diagnose(system.model, system.schedule, IMAGES, samples)


def test_too_few_images():
    with pytest.raises(ValueError, match="images must be"):
        diagnose(torch.nn.Identity(), linear_schedule(50), IMAGES[:5])


@pytest.mark.parametrize("T", [1, 2, 3, 4])
def test_diagnose_of_a_perfect_model_on_a_short_schedule(T, capsys):
    images, schedule = to_float(synthetic_digits(64, seed=0)[0]), cosine_schedule(T)
    diagnose(IdealDenoiser(images, schedule), schedule, images)
    assert capsys.readouterr().out == "Nothing found.\n"
