"""The forward process against closed forms, against simulation, and against bad input."""

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
SHAPE = (5, 3, 4, 2)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# closed forms


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_tables_equal_a_plain_product_in_float64(schedule):
    assert all(getattr(schedule, name).shape == (schedule.T + 1,) for name in TABLES)
    assert all(getattr(schedule, name).dtype == torch.float32 for name in TABLES)
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


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_step_zero_is_the_clean_image(schedule):
    first = [getattr(schedule, name)[0].item() for name in TABLES]
    assert first == [0, 1, 1, 1, 0, 0]
    assert schedule.posterior_variance[1] == 0
    assert snr(schedule)[0] == math.inf


def test_small_noise_keeps_its_digits():
    beta = torch.zeros(11, dtype=torch.float64)
    beta[1:] = 1e-9  # 1 - alpha_bar would be 0 in float32
    sigma = NoiseSchedule(beta).sigma[1:]
    assert torch.allclose(sigma, (torch.arange(1, 11) * 1e-9).sqrt(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("T", [21, 50, 200, 300, 1000, 4000])
def test_rescaled_linear_schedule_ends_in_noise(T):
    assert linear_schedule(T).alpha_bar[T] < 1e-4
    assert torch.allclose(linear_schedule(T).beta[[1, T]], torch.tensor([0.1, 20.0]) / T)


@pytest.mark.parametrize(("T", "left"), [(50, 0.603), (200, 0.132), (300, 0.0481)])
def test_unscaled_linear_schedule_does_not(T, left):
    assert linear_schedule(T, rescale=False).beta[[1, T]].tolist() == pytest.approx([1e-4, 0.02], rel=1e-6)
    assert linear_schedule(T, rescale=False).alpha_bar[T].item() == pytest.approx(left, rel=2e-3)


def test_cosine_schedule_is_a_squared_cosine_until_the_clip():
    T, s = 1000, 0.008
    schedule = cosine_schedule(T)
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(T + 1)]
    expected = torch.tensor([value / f[0] for value in f[:-1]], dtype=torch.float64)  # step T alone is clipped
    assert torch.allclose(schedule.alpha_bar[:-1].double(), expected, rtol=1e-6, atol=0)
    assert schedule.beta.max().item() == pytest.approx(0.999)


def test_posterior_equals_bayes_on_a_grid():
    schedule, t, x0, x_t = linear_schedule(50), 20, 0.7, -0.3
    grid = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    a_bar, beta = (getattr(schedule, n).double() for n in ("alpha_bar", "beta"))
    log_p = -((grid - a_bar[t - 1].sqrt() * x0) ** 2) / (1 - a_bar[t - 1]) / 2
    log_p = log_p - ((x_t - (1 - beta[t]).sqrt() * grid) ** 2) / beta[t] / 2
    p = log_p.softmax(0)
    mean = (p * grid).sum()
    variance = (p * (grid - mean) ** 2).sum()
    x0, x_t = (torch.full((1, 1, 1, 1), value) for value in (x0, x_t))
    ours, our_variance = posterior(schedule, x0, x_t, torch.tensor([t]))
    assert ours.item() == pytest.approx(mean.item(), rel=1e-5)
    assert our_variance.item() == pytest.approx(variance.item(), rel=1e-5)


# simulation


def test_many_small_steps_have_the_moments_of_one_jump():
    schedule, t, n = linear_schedule(50), 25, 200_000
    x = torch.full((n, 1), 0.8)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, t + 1):
        x = forward_step(x, schedule.beta[step], torch.randn(x.shape, generator=generator))
    mean, variance = 0.8 * schedule.sqrt_alpha_bar[t], schedule.sigma[t] ** 2
    assert abs(x.mean() - mean) < 4 * (variance / n) ** 0.5
    assert abs(x.var() - variance) < 4 * variance * (2 / n) ** 0.5


def test_each_image_gets_its_own_step():
    schedule, x0, noise = linear_schedule(50), normal(*SHAPE), normal(*SHAPE, seed=1)
    t = torch.tensor([1, 50, 7, 7, 30])
    together = q_sample(schedule, x0, t, noise)
    alone = [q_sample(schedule, x0[i : i + 1], t[i : i + 1], noise[i : i + 1]) for i in range(5)]
    assert torch.equal(together, torch.cat(alone))
    betas = schedule.beta[t]
    alone = [forward_step(x0[i : i + 1], betas[i].item(), noise[i : i + 1]) for i in range(5)]
    assert torch.allclose(forward_step(x0, per_image(betas, x0), noise), torch.cat(alone), rtol=1e-6, atol=1e-7)


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
def test_posterior_lies_between_its_limits(world):
    """Bayes: precisions add up; and a step back from the jump to t has the moments of the jump to t - 1."""
    schedule, x0, t, noise = world
    x_t = q_sample(schedule, x0, t, noise)
    mean, variance = posterior(schedule, x0.to(x_t.dtype), x_t, t)
    assert mean.shape == x0.shape
    assert variance.shape == (len(x0), *[1] * (x0.ndim - 1))
    table = {name: getattr(schedule, name).double() for name in TABLES}
    before, variance = table["sigma"][t - 1] ** 2, variance.flatten().double()
    assert bool((variance >= 0).all())
    assert bool((variance <= table["beta"][t] * (1 + 1e-6)).all()), "no more than the step added"
    assert bool((variance <= before * (1 + 1e-6)).all()), "no more than there was before it"
    later = t > 1
    precision = table["alpha"][t] / table["beta"][t] + 1 / before
    assert torch.allclose(1 / variance[later], precision[later], rtol=1e-4)
    assert torch.equal(variance[~later], torch.zeros_like(variance[~later]))

    def mean_of(clean: float, noisy: torch.Tensor) -> torch.Tensor:
        return posterior(schedule, torch.full((len(t),), clean), noisy.float(), t)[0].double()

    of_x0, of_x_t = mean_of(1.0, torch.zeros(len(t))), mean_of(0.0, torch.ones(len(t)))
    assert bool((of_x0 >= 0).all() and (of_x_t >= 0).all())
    assert torch.allclose(of_x0 + of_x_t * table["sqrt_alpha_bar"][t], table["sqrt_alpha_bar"][t - 1], atol=1e-5)
    assert torch.allclose(of_x_t**2 * table["sigma"][t] ** 2 + variance, before, rtol=1e-4, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(worlds(), SHAPES, st.sampled_from(["q_sample", "predict_x0", "predict_eps", "posterior"]))
def test_no_shape_is_stretched_to_another(world, shape, name):
    schedule, x0, t, _ = world
    functions = {"q_sample": q_sample, "predict_x0": predict_x0, "predict_eps": predict_eps}
    call = functions.get(name, lambda schedule, x, t, y: posterior(schedule, x, y, t))
    other = torch.zeros(shape)
    if shape == x0.shape:
        call(schedule, x0, t, other)
        return
    with pytest.raises(ValueError, match="has shape"):
        call(schedule, x0, t, other)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_what_is_no_float_is_refused(dtype):
    schedule, t, x = linear_schedule(50), torch.tensor([1, 2]), torch.zeros(2, 3)
    for first, second in ((x.to(dtype), x), (x, x.to(dtype))):
        for call in (q_sample, predict_x0, predict_eps, lambda s, a, t, b: posterior(s, a, b, t)):
            with pytest.raises(TypeError, match="must be a float tensor"):
                call(schedule, first, t, second)
    with pytest.raises(TypeError, match="must be a float tensor"):
        forward_step(x.to(dtype), 0.1, x)


# bad input


GOOD = (normal(*SHAPE), torch.arange(1, 6), normal(*SHAPE, seed=1))
BAD_STEPS = {
    "zero": (torch.tensor([0, 1, 2, 3, 4]), ValueError, "t must lie in 1 ... 50, got 0 to 4 .0 is the clean image"),
    "beyond T": (torch.tensor([1, 2, 3, 4, 51]), ValueError, "got 1 to 51"),
    "negative": (torch.tensor([1, 2, 3, 4, -1]), ValueError, "got -1 to 4"),
    "float": (torch.rand(5), TypeError, "integer tensor"),
    "bool": (torch.ones(5, dtype=torch.bool), TypeError, "integer tensor"),
    "a plain number": (7, TypeError, "integer tensor"),
    "no axis": (torch.tensor(7), ValueError, "one per image"),
    "too few": (torch.tensor([1, 2, 3]), ValueError, "one per image"),
    "one for all": (torch.tensor([1]), ValueError, "one per image"),
    "two axes": (torch.ones(5, 1, dtype=torch.int64), ValueError, "one per image"),
    "another device": (torch.ones(5, dtype=torch.int64, device="meta"), ValueError, "t.to"),
}
CALLS = {
    "q_sample": lambda s, t: q_sample(s, GOOD[0], t, GOOD[2]),
    "predict_x0": lambda s, t: predict_x0(s, GOOD[0], t, GOOD[2]),
    "predict_eps": lambda s, t: predict_eps(s, GOOD[0], t, GOOD[2]),
    "posterior": lambda s, t: posterior(s, GOOD[0], GOOD[2], t),
}


@pytest.mark.parametrize(("t", "error", "message"), BAD_STEPS.values(), ids=BAD_STEPS.keys())
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_bad_steps(call, t, error, message):
    with pytest.raises(error, match=message):
        call(linear_schedule(50), t)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_schedule_on_another_device(call):
    with pytest.raises(ValueError, match=r"is on cpu, the schedule on meta: schedule\.to\('cpu'\)"):
        call(linear_schedule(50).to("meta"), GOOD[1])


def test_what_makes_no_schedule():
    for make in (linear_beta, linear_schedule, cosine_schedule):
        for T in (0, -1, 10.0, "10", None):
            with pytest.raises(ValueError, match="T must be a whole number, at least 1, got"):
                make(T)
    for wrong in ({"s": -1}, {"s": math.nan}, {"max_beta": 1.0}, {"max_beta": 0.0}):
        with pytest.raises(ValueError, match="cosine_schedule"):
            cosine_schedule(10, **wrong)
    for beta in (torch.zeros(0), torch.zeros(1), torch.tensor([0.1, 0.2]), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="must have shape"):
            NoiseSchedule(beta)
    for T in (1, 2, 20):
        with pytest.raises(ValueError, match="rescale=False"):
            linear_schedule(T)
        assert linear_schedule(T, rescale=False).T == cosine_schedule(T).T == T


def test_numbers_that_are_not_one_per_image():
    x = GOOD[0]
    with pytest.raises(ValueError, match="one number per image"):
        per_image(torch.rand(3), x)
    with pytest.raises(TypeError, match=r"got float; the same for all: torch.full\(\(5,\), 0.5\)"):
        per_image(0.5, x)
    with pytest.raises(ValueError, match=r"between 0 and 1, one number or per_image"):
        forward_step(x, torch.rand(5), x)


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, math.nan])
def test_bad_betas(beta):
    with pytest.raises(ValueError, match="between 0 and 1"):
        forward_step(GOOD[0], beta, GOOD[2])
    with pytest.raises(ValueError, match="between 0 and 1"):
        NoiseSchedule(torch.tensor([0.0, 0.1, beta]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        linear_schedule(100, 1e-4, beta)


# one object, moved and shown


def test_frozen_and_short_to_look_at():
    schedule = linear_schedule(50)
    with pytest.raises(AttributeError):
        schedule.beta = schedule.alpha
    assert repr(schedule) == "NoiseSchedule('linear, T = 50', alpha_bar[T]=7.7e-06)"


def test_moves_whole_without_float64():
    """MPS has no float64: nothing that is moved may be one. The meta device stands in for it."""
    schedule = linear_schedule(50)
    moved = schedule.to("meta")
    for name in TABLES:
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).dtype == torch.float32
        assert getattr(schedule, name).device.type == "cpu"
    assert (moved.name, moved.T) == (schedule.name, 50)
    assert all(torch.equal(getattr(schedule.to("cpu"), n), getattr(schedule, n)) for n in TABLES)


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs Apple's MPS")
def test_on_mps():
    schedule = linear_schedule(50).to("mps")
    x0, t, noise = (tensor.to("mps") for tensor in GOOD)
    assert torch.allclose(q_sample(schedule, x0, t, noise).cpu(), q_sample(linear_schedule(50), *GOOD), atol=1e-6)
    assert torch.equal(NoiseSchedule(schedule.beta).beta, schedule.beta)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_without_waiting_for_it():
    schedule = linear_schedule(50).to("cuda")
    x0, t, noise = (tensor.to("cuda") for tensor in GOOD)
    torch.cuda.set_sync_debug_mode("error")
    try:
        x_t = q_sample(schedule, x0, t, noise)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(x_t.cpu(), q_sample(linear_schedule(50), *GOOD), atol=1e-6)
    with pytest.raises(ValueError, match=r"t is on cpu, the images on cuda:0"):
        q_sample(schedule, x0, t.cpu(), noise)
    with pytest.raises(ValueError, match=r"x0 is on cuda:0, the schedule on cpu: schedule\.to"):
        q_sample(linear_schedule(50), x0, t, noise)
