"""The forward process against closed forms, against many single steps, and against bad input."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_helpers import (
    NoiseSchedule,
    cosine_schedule,
    forward_step,
    linear_beta,
    linear_schedule,
    per_image,
    posterior,
    predict_eps,
    predict_x0,
    q_sample,
    snr,
)

TABLES = ("beta", "alpha", "alpha_bar", "sqrt_alpha_bar", "sigma", "posterior_variance")
SCHEDULES = [linear_schedule(), linear_schedule(50), linear_schedule(300, rescale=False), cosine_schedule(100)]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


X, NOISE, STEPS = normal(5, 3, 4, 2), normal(5, 3, 4, 2, seed=1), torch.tensor([1, 50, 7, 7, 30])


# closed forms


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_tables_equal_a_plain_product_in_float64(schedule):
    assert all(getattr(schedule, name).shape == (schedule.T + 1,) for name in TABLES)
    assert all(getattr(schedule, name).dtype == torch.float32 for name in TABLES)
    assert [getattr(schedule, name)[0].item() for name in TABLES] == [0, 1, 1, 1, 0, 0], "the clean image"
    assert schedule.posterior_variance[1] == 0
    assert snr(schedule)[0] == math.inf
    schedule, alpha_bar = NoiseSchedule(schedule.beta), 1.0  # from the float32 betas, so that both start alike
    for t in range(1, schedule.T + 1):
        beta, before = schedule.beta[t].item(), alpha_bar
        alpha_bar *= 1 - beta
        expected = {
            "alpha": 1 - beta,
            "alpha_bar": alpha_bar,
            "sqrt_alpha_bar": math.sqrt(alpha_bar),
            "sigma": math.sqrt(1 - alpha_bar),
            "posterior_variance": beta * (1 - before) / (1 - alpha_bar),
        }
        for name, value in expected.items():
            assert getattr(schedule, name)[t].item() == pytest.approx(value, rel=2e-7, abs=0), (name, t)
        assert snr(schedule)[t].item() == pytest.approx(alpha_bar / (1 - alpha_bar), rel=1e-6, abs=0)


def test_small_noise_keeps_its_digits():
    beta = torch.zeros(11, dtype=torch.float64)
    beta[1:] = 1e-9  # 1 - alpha_bar would be 0 in float32
    sigma = NoiseSchedule(beta).sigma[1:]
    assert torch.allclose(sigma, (torch.arange(1, 11) * 1e-9).sqrt(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("T", "left"), [(21, 0.809), (50, 0.603), (200, 0.132), (300, 0.0481), (1000, 4.036e-5)])
def test_linear_schedule_ends_in_noise_where_it_is_rescaled(T, left):
    rescaled, plain = linear_schedule(T), linear_schedule(T, rescale=False)
    assert rescaled.alpha_bar[T] < 1e-4
    assert torch.allclose(rescaled.beta[[1, T]], torch.tensor([0.1, 20.0]) / T)
    assert plain.beta[[1, T]].tolist() == pytest.approx([1e-4, 0.02], rel=1e-6)
    assert plain.alpha_bar[T].item() == pytest.approx(left, rel=2e-3)


def test_cosine_schedule_is_a_squared_cosine_until_the_clip():
    T, s = 1000, 0.008
    schedule = cosine_schedule(T)
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(T + 1)]
    expected = torch.tensor([value / f[0] for value in f[:-1]], dtype=torch.float64)  # step T alone is clipped
    assert torch.allclose(schedule.alpha_bar[:-1].double(), expected, rtol=1e-6, atol=0)
    assert schedule.beta.max().item() == pytest.approx(0.999)


def test_many_steps_are_the_closed_form():
    """Image 0 starts at 1 and gets no noise, image t only the noise 1 of step t: their squares add up."""
    schedule, x = linear_schedule(50), torch.eye(51)[:, :1]
    for t in range(1, 51):
        x = forward_step(x, schedule.beta[t], torch.eye(51)[:, t : t + 1])
        assert x[0].item() == pytest.approx(schedule.sqrt_alpha_bar[t].item(), rel=1e-5)
        assert x[1:].square().sum().item() == pytest.approx(schedule.sigma[t].item() ** 2, rel=1e-5)


def test_each_image_gets_its_own_step():
    schedule, single = linear_schedule(50), [slice(i, i + 1) for i in range(5)]
    alone = [q_sample(schedule, X[i], STEPS[i], NOISE[i]) for i in single]
    assert torch.equal(q_sample(schedule, X, STEPS, NOISE), torch.cat(alone))
    betas = schedule.beta[STEPS]
    alone = [forward_step(X[i], betas[i].item(), NOISE[i]) for i in single]
    assert torch.allclose(forward_step(X, per_image(betas, X), NOISE), torch.cat(alone), rtol=1e-6, atol=1e-7)


# any schedule, any shape, any kind of float

BETAS = st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=30)
KINDS = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)  # the batch first


@st.composite
def worlds(draw):
    """A schedule, images, noise and steps: of any length, shape and kind."""
    schedule = NoiseSchedule(torch.tensor([0.0, *draw(BETAS)], dtype=torch.float64))
    shape, dtype, seed = draw(SHAPES), draw(KINDS), draw(st.integers(0, 2**31))
    x0, noise = (normal(*shape, seed=seed + i, dtype=torch.float64).to(dtype) for i in range(2))
    steps = draw(st.lists(st.integers(1, schedule.T), min_size=shape[0], max_size=shape[0]))
    return schedule, x0, torch.tensor(steps, dtype=draw(st.sampled_from([torch.int32, torch.int64]))), noise


def close(found, expected, error):
    """Within 20 roundings, each of size `error`, which may be infinite."""
    return bool(((found.double() - expected.double()).abs() <= 20 * error).logical_or(error.isinf()).all())


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_round_trips_lose_no_more_than_rounding(world):
    schedule, x0, t, noise = world
    inputs = [tensor.clone() for tensor in (x0, t, noise)]
    x_t = q_sample(schedule, x0, t, noise)
    assert x_t.shape == x0.shape
    assert x_t.dtype == torch.promote_types(x0.dtype, torch.float32), "the schedule is float32: nothing gets coarser"
    signal, sigma = (per_image(getattr(schedule, name)[t].double(), x_t) for name in ("sqrt_alpha_bar", "sigma"))
    rounding = torch.finfo(x_t.dtype).eps * (x_t.abs() + signal * x0.abs() + sigma * noise.abs()).double()
    assert close(x_t, signal * x0 + sigma * noise, rounding)
    x0, noise = x0.to(x_t.dtype), noise.to(x_t.dtype)
    assert close(predict_x0(schedule, x_t, t, noise), x0, rounding / signal + rounding)
    assert close(predict_eps(schedule, x_t, t, x0), noise, rounding / sigma + rounding)
    assert all(torch.equal(before, after) for before, after in zip(inputs, (world[1], t, world[3]), strict=True))


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_posterior_is_bayes(world):
    """Precisions add up; and a step back from the closed form of t has the moments of the closed form of t - 1."""
    schedule, x0, t, noise = world
    x_t = q_sample(schedule, x0, t, noise)
    mean, variance = posterior(schedule, x0.to(x_t.dtype), x_t, t)
    assert mean.shape == x0.shape
    assert variance.shape == (len(x0), *[1] * (x0.ndim - 1))
    table = {name: getattr(schedule, name).double() for name in TABLES}
    before, variance, later = table["sigma"][t - 1] ** 2, variance.flatten().double(), t > 1
    precision = table["alpha"][t] / table["beta"][t] + 1 / before
    assert torch.allclose(1 / variance[later], precision[later], rtol=1e-4)
    assert torch.equal(variance[~later], torch.zeros_like(variance[~later]))

    def mean_of(clean: float, noisy: torch.Tensor) -> torch.Tensor:
        return posterior(schedule, torch.full((len(t),), clean), noisy.float(), t)[0].double()

    of_x0, of_x_t = mean_of(1.0, torch.zeros(len(t))), mean_of(0.0, torch.ones(len(t)))
    weights = (per_image(weight, mean) for weight in (of_x0, of_x_t))
    assert torch.allclose(mean.double(), sum(w * x for w, x in zip(weights, (x0, x_t), strict=True)), atol=1e-5)
    assert torch.allclose(of_x0 + of_x_t * table["sqrt_alpha_bar"][t], table["sqrt_alpha_bar"][t - 1], atol=1e-5)
    assert torch.allclose(of_x_t**2 * table["sigma"][t] ** 2 + variance, before, rtol=1e-4, atol=1e-9)


# bad input


BAD = {  # of each of four functions: what is changed, and what is said
    "step 0": ({"t": STEPS - 1}, ValueError, "t must lie in 1 ... 50, got 0 to 49 .0 is the clean image"),
    "beyond T": ({"t": STEPS + 1}, ValueError, "got 2 to 51$"),
    "negative": ({"t": STEPS - 2}, ValueError, "got -1 to 48$"),
    "float steps": ({"t": torch.rand(5)}, TypeError, "integer tensor, one per image, got torch.float32"),
    "bool steps": ({"t": STEPS > 0}, TypeError, "integer tensor, one per image, got torch.bool"),
    "a plain number": ({"t": 7}, TypeError, "integer tensor, one per image, got int"),
    "no axis": ({"t": torch.tensor(7)}, ValueError, r"shape \(5,\), one per image, got \(\)"),
    "too few": ({"t": STEPS[:3]}, ValueError, "one per image"),
    "one for all": ({"t": STEPS[:1]}, ValueError, r"the same for all: torch.full\(\(5,\), 1\)"),
    "two axes": ({"t": STEPS[:, None]}, ValueError, "one per image"),
    "steps elsewhere": ({"t": STEPS.to("meta")}, ValueError, r"t is on meta, the images on cpu: t\.to"),
    "noise elsewhere": ({"y": NOISE.to("meta")}, ValueError, r"is on meta, \w+ on cpu: \w+\.to\('cpu'\)"),
    "schedule elsewhere": ({"schedule": linear_schedule(50).to("meta")}, ValueError, r"meta: schedule\.to\('cpu'\)"),
}
for shape in ((5, 3, 4, 1), (1, 3, 4, 2), (5, 1, 1, 1), (3, 4, 2), (5,), (1, 5, 3, 4, 2)):
    BAD[f"shape {shape}"] = {"y": torch.zeros(shape)}, ValueError, "has shape"
for name, dtype in itertools.product("xy", (torch.uint8, torch.int64, torch.bool, torch.complex64)):
    BAD[f"{name} {dtype}"] = {name: X.to(dtype)}, TypeError, f"must be a float tensor, got {dtype}"


def posterior_of(schedule, x, t, y):
    return posterior(schedule, x, y, t)


@pytest.mark.parametrize("function", [q_sample, predict_x0, predict_eps, posterior_of])
@pytest.mark.parametrize(("change", "error", "says"), BAD.values(), ids=BAD)
def test_bad_arguments(function, change, error, says):
    arguments = {"schedule": linear_schedule(50), "x": X, "t": STEPS, "y": NOISE}
    function(*arguments.values())
    with pytest.raises(error, match=says):
        function(*(arguments | change).values())


@pytest.mark.parametrize("make", [linear_beta, linear_schedule, cosine_schedule])
@pytest.mark.parametrize("T", [0, -1, 10.0, "10", None])
def test_bad_numbers_of_steps(make, T):
    with pytest.raises(ValueError, match="T must be a whole number, at least 1, got"):
        make(T)


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, math.nan])
def test_bad_betas(beta):
    for make in (
        lambda: forward_step(X, beta, NOISE),
        lambda: NoiseSchedule(torch.tensor([0.0, 0.1, beta])),
        lambda: linear_schedule(100, 1e-4, beta),
    ):
        with pytest.raises(ValueError, match="between 0 and 1"):
            make()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        *((lambda T=T: linear_schedule(T), "for small T: .*rescale=False, or cosine_schedule") for T in (1, 2, 20)),
        *((lambda s=s: cosine_schedule(10, s), "cosine_schedule: need s >= 0") for s in (-1, math.nan)),
        *((lambda b=b: cosine_schedule(10, max_beta=b), "0 < max_beta < 1") for b in (0.0, 1.0)),
        *((lambda n=n: NoiseSchedule(torch.zeros(n)), r"beta must have shape \(T\+1,\)") for n in (0, 1, (2, 2))),
        (lambda: NoiseSchedule(torch.tensor([0.1, 0.2])), r"with T >= 1 and beta\[0\] = 0"),
        (lambda: forward_step(X, torch.rand(5), X), r"between 0 and 1, one number or per_image"),
        (lambda: per_image(torch.rand(3), X), r"one number per image, shape \(5,\), got shape \(3,\)"),
    ],
)
def test_bad_numbers(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_what_is_no_tensor():
    with pytest.raises(TypeError, match="must be a float tensor"):
        forward_step(X.to(torch.uint8), 0.1, NOISE)
    with pytest.raises(TypeError, match=r"got float; the same for all: torch.full\(\(5,\), 0.5\)"):
        per_image(0.5, X)


# one object, moved and shown


def test_moves_whole_without_float64():
    """MPS has no float64: nothing that is moved may be one. The meta device stands in for it."""
    schedule = linear_schedule(50)
    with pytest.raises(AttributeError):
        schedule.beta = schedule.alpha
    assert repr(schedule) == "NoiseSchedule('linear, T = 50', alpha_bar[T]=7.7e-06)"
    moved = schedule.to("meta")
    for name in TABLES:
        assert (getattr(moved, name).device.type, getattr(schedule, name).device.type) == ("meta", "cpu")
        assert getattr(moved, name).dtype == torch.float32
    assert (moved.name, moved.T) == (schedule.name, 50)
    assert all(torch.equal(getattr(schedule.to("cpu"), n), getattr(schedule, n)) for n in TABLES)
    assert all(linear_schedule(T, rescale=False).T == cosine_schedule(T).T == T for T in (1, 2, 20))


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_on_an_accelerator_without_waiting_for_it(device):
    if not getattr(torch, device).is_available():
        pytest.skip(f"needs {device}")
    schedule = linear_schedule(50).to(device)
    x, t, noise = (tensor.to(device) for tensor in (X, STEPS, NOISE))
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        x_t = q_sample(schedule, x, t, noise)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(x_t.cpu(), q_sample(linear_schedule(50), X, STEPS, NOISE), atol=1e-6)
    assert torch.equal(NoiseSchedule(schedule.beta).beta, schedule.beta)
    with pytest.raises(ValueError, match=rf"t is on cpu, the images on {device}:0"):
        q_sample(schedule, x, STEPS, noise)
    with pytest.raises(ValueError, match=rf"x0 is on {device}:0, the schedule on cpu: schedule\.to"):
        q_sample(linear_schedule(50), x, t, noise)
