"""Every planted fault is found and named; a system without one is left in peace."""

import pytest
import torch

from ddpm_helpers import DataError, load_images, load_pretrained, sample, synthetic_digits, to_float
from ddpm_helpers.lessons import clinic
from ddpm_helpers.lessons.diagnosis import IdealDenoiser, diagnose, loss_by_t, straight_line_loss
from ddpm_helpers.schedule import cosine_schedule, linear_schedule, per_image, q_sample

IMAGES = to_float(synthetic_digits(64, seed=1)[0])
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


@pytest.mark.parametrize("fault", FOUND_BY, ids=lambda f: f.__name__)
def test_fault_is_found(fault, capsys):
    assert FOUND_BY[fault] in checks(fault(IMAGES))
    assert FOUND_BY[fault] in capsys.readouterr().out


def test_healthy_system_is_left_in_peace(capsys):
    system = clinic.healthy(IMAGES)
    assert diagnose(system.model, system.schedule, IMAGES, system.samples, average=system.model) == []
    assert capsys.readouterr().out == "Nothing found.\n"


SCHEDULES = [linear_schedule(1000), cosine_schedule(1000), linear_schedule(30), *map(cosine_schedule, (1, 2, 3, 4))]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_healthy_with_other_schedules(schedule):
    model = IdealDenoiser(IMAGES, schedule)
    assert diagnose(model, schedule, IMAGES, sample(model, schedule, 32, steps=20) if schedule.T > 4 else None) == []


def real(name):
    try:
        return to_float(load_images(name, strict=True).images[:64])
    except DataError as error:
        pytest.skip(f"no {name} here: {error}")


@pytest.mark.parametrize("name", ["fashion", "mnist", "mnist_velocity"])
def test_shipped_networks(name):
    """One of the digits' was trained by weighted timestep sampling alone: hardly at t = 1, and not from t = 990 on."""
    model, schedule, _ = load_pretrained(name)
    found = diagnose(model, schedule, real(name.partition("_")[0]), sample(model, schedule, 32, steps=20))
    assert [f.check for f in found] == ["loss by t"] * (name == "mnist")
    assert all("at t = 1, 1000; at 1 " in f.measured for f in found)


@pytest.mark.parametrize(
    ("schedule", "first"),
    [(linear_schedule(), 651), (linear_schedule(), 750), (cosine_schedule(), 921), (cosine_schedule(), 960)],
)
def test_a_network_that_never_saw_the_last_steps(schedule, first):
    """From step `first` on it returns its input."""
    ideal = IdealDenoiser(IMAGES, schedule)
    model = clinic.Model(lambda x, t: torch.where(per_image(t >= first, x), x, ideal(x, t)))
    [found] = diagnose(model, schedule, IMAGES)
    assert found.check == "loss by t"


@pytest.mark.parametrize(("T", "off"), [(300, True), (500, True), (700, False)])
def test_the_end_of_the_process_is_told_by_the_mean_pixel(T, off):
    """At T = 500 the image has less than 1 % of the variance, and the mean pixel still is 1.7 standard deviations."""
    schedule = linear_schedule(T, rescale=False)
    found = diagnose(IdealDenoiser(IMAGES, schedule), schedule, IMAGES)
    assert [finding.check for finding in found] == ["end of the process"] * off


def test_lines_with_the_right_gradient_arrive():
    system = clinic.trained_lines(IMAGES)
    t = torch.tensor([1, 10, 50, 100])
    lines = straight_line_loss(system.schedule, IMAGES, t)
    torch.testing.assert_close(loss_by_t(system.model, system.schedule, IMAGES, t), lines, rtol=0.1, atol=0.02)
    assert "loss by t" not in checks(system)


def test_ideal_denoiser_of_one_image_finds_the_noise_and_knows_its_steps_alone():
    schedule, x0, noise = linear_schedule(50), torch.randn(1, 3, 4, 4), torch.randn(5, 3, 4, 4)
    t = torch.tensor([1, 2, 10, 49, 50])
    x, ideal = q_sample(schedule, x0.expand(5, -1, -1, -1), t, noise), IdealDenoiser(x0, schedule)
    torch.testing.assert_close(ideal(x, t), noise, rtol=1e-3, atol=1e-3)
    for step in (0, 51):
        with pytest.raises(ValueError, match=f"IdealDenoiser: t must lie in 1 ... 50, got {step} to {step}"):
            ideal(x, torch.full((5,), step))


def test_ideal_denoiser_of_two_points_by_hand():
    """Data -1 and 1: the mean of x_0 given x_t is tanh(signal x_t / sigma^2)."""
    schedule, t = linear_schedule(50), torch.arange(1, 51)
    data, x = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1), torch.linspace(-2, 2, 50).reshape(50, 1, 1, 1)
    signal, sigma = schedule.sqrt_alpha_bar[t], schedule.sigma[t]
    x0_hat = torch.tanh(signal * x.flatten() / sigma**2)
    expected = ((x.flatten() - signal * x0_hat) / sigma).reshape(x.shape)
    torch.testing.assert_close(IdealDenoiser(data, schedule)(x, t), expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_looked_at():
    system, samples = clinic.healthy(IMAGES), torch.zeros(32, 1, 28, 28)
    [found] = diagnose(system.model, system.schedule, (IMAGES * 100).to(torch.uint8), system.samples)
    assert found.check == "data"
    assert "to_float" in found.advice
    for wrong in (samples[:3], samples[..., :14], samples.flatten(1)):
        with pytest.raises(ValueError, match="samples must be"):
            diagnose(system.model, system.schedule, IMAGES, wrong)
    with pytest.raises(ValueError, match="images must be"):
        diagnose(system.model, system.schedule, IMAGES[:5])
    broken = clinic.Model(lambda x, t: x * float("nan"))
    found = diagnose(broken, system.schedule, IMAGES, system.samples * float("nan"))
    assert [f.check for f in found] == ["loss by t", "samples"]


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Apple GPU here")
def test_on_mps():
    system = clinic.healthy(IMAGES)
    model = IdealDenoiser(IMAGES, system.schedule).to("mps")
    assert diagnose(model, system.schedule.to("mps"), IMAGES.to("mps"), system.samples.to("mps")) == []


def test_an_image_that_sees_its_batch():
    ideal = IdealDenoiser(IMAGES, linear_schedule(100))
    mixed = clinic.Model(lambda x, t: ideal(x, t) + 0.2 * x.mean(0))
    assert "batch" in [f.check for f in diagnose(mixed, linear_schedule(100), IMAGES)]
