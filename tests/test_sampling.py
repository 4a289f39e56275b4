"""The samplers against ideal denoisers, whose results are known, against the formulas, and against bad input."""

import itertools
import math

import pytest
import torch

from ddpm_helpers import (
    NoiseSchedule,
    VelocityNet,
    cosine_schedule,
    ddim_invert,
    ddim_step,
    ddim_steps,
    ddim_trajectory,
    ddpm_step,
    ddpm_trajectory,
    guided_eps,
    image_noise,
    linear_schedule,
    naive_step,
    per_image,
    posterior,
    predict_x0,
    q_sample,
    sample,
    slerp,
)

SHAPE = (5, 3, 4, 2)
SCHEDULES = [linear_schedule(50), linear_schedule(300, rescale=False), cosine_schedule(100)]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
each_variance = pytest.mark.parametrize("variance", ["beta", "posterior"])
each_c = pytest.mark.parametrize("c", [1.0, 0.3, 2.5])


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gaussian_model(schedule: NoiseSchedule, c: float):
    """The ideal noise prediction for data N(0, c^2): the mean of the noise given x_t."""

    def model(x, t):
        a_bar, variance = schedule.alpha_bar[t], schedule.sigma[t] ** 2
        return per_image(schedule.sigma[t] / (a_bar * c**2 + variance), x) * x

    return model


def finite_set_model(schedule: NoiseSchedule, images):
    """The ideal noise prediction where the data are these images (N, C, H, W), each as likely as the others."""

    def model(x, t):
        signal, sigma = per_image(schedule.sqrt_alpha_bar[t], x), per_image(schedule.sigma[t], x)
        squares = (x[:, None] - signal[:, None] * images).square().flatten(2).sum(2)  # (B, N)
        weights = (-squares / (2 * sigma.reshape(-1, 1) ** 2)).softmax(1)
        return (x - signal * torch.einsum("bn,nchw->bchw", weights, images)) / sigma

    return model


def end(trajectory):
    for step in trajectory:
        last = step
    return last


# data N(0, c^2): the variance where sampling ends is known


def double_tables(schedule):
    """beta, alpha_bar and posterior variance as lists of floats, from plain products."""
    beta, a_bar = schedule.beta.double().tolist(), [1.0]
    for b in beta[1:]:
        a_bar.append(a_bar[-1] * (1 - b))
    small = [0.0] + [beta[t] * (1 - a_bar[t - 1]) / (1 - a_bar[t]) for t in range(1, len(beta))]
    return beta, a_bar, small


def variance_at_the_end(schedule, variance, c):
    """The scalar recursion: x_{t-1} = m x_t + sqrt(w) z, so v_{t-1} = m^2 v_t + w, from v_T = 1; w = 0 at t = 1."""
    beta, a_bar, small = double_tables(schedule)
    added, v = {"beta": beta, "posterior": small}[variance], 1.0
    for t in range(schedule.T, 0, -1):
        m = (1 - beta[t] / (a_bar[t] * c**2 + 1 - a_bar[t])) / math.sqrt(1 - beta[t])  # eq. 11 with the ideal eps
        v = m**2 * v + (added[t] if t > 1 else 0)
    return v


def impulses(count):
    """A start and noises that separate the draws: image 0 gets only the start 1, image k only noise 1 in call k.

    The sampler is linear for Gaussian data, so the squares of the results add up to the variance: no luck involved.
    """
    eye = torch.eye(count, dtype=torch.float64).reshape(count, count, 1, 1, 1)
    calls = iter(eye)
    return lambda: next(calls)


@each_c
@each_variance
@each_schedule
def test_variance_follows_the_scalar_recursion(schedule, variance, c):
    noise = impulses(schedule.T)  # the start and T - 1 noises: a call too many is a StopIteration
    last = end(ddpm_trajectory(gaussian_model(schedule, c), schedule, noise(), noise, variance, clip=False))
    assert last.x.square().sum().item() == pytest.approx(variance_at_the_end(schedule, variance, c), rel=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 10, 50, [50, 7, 6, 1]])
def test_ddim_turns_by_known_angles(steps):
    """For data N(0, 1), x_s = cos(angle_t - angle_s) x_t with sigma_t = sin(angle_t)."""
    schedule, x_T = linear_schedule(50), normal(*SHAPE, dtype=torch.float64)
    _, a_bar, _ = double_tables(schedule)
    angles = [math.acos(math.sqrt(a_bar[t])) for t in [*ddim_steps(50, steps), 0]]
    shrink = math.prod(math.cos(a - b) for a, b in itertools.pairwise(angles))
    last = end(ddim_trajectory(gaussian_model(schedule, 1.0), schedule, x_T, steps, clip=False))
    assert torch.allclose(last.x, shrink * x_T, rtol=1e-5, atol=1e-4)  # atol: 1 - sigma_T^2 in float32


@each_c
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_variance_follows_the_scalar_recursion(eta, c):
    schedule, steps = linear_schedule(50), [50, 40, 39, 20, 5, 2, 1]
    _, a_bar, _ = double_tables(schedule)
    v = 1.0
    for t, s in itertools.pairwise([*steps, 0]):
        eps = math.sqrt(1 - a_bar[t]) / (a_bar[t] * c**2 + 1 - a_bar[t])  # times x_t
        x0 = (1 - math.sqrt(1 - a_bar[t]) * eps) / math.sqrt(a_bar[t])
        w = eta**2 * (1 - a_bar[s]) / (1 - a_bar[t]) * (1 - a_bar[t] / a_bar[s])
        v = (math.sqrt(a_bar[s]) * x0 + math.sqrt(1 - a_bar[s] - w) * eps) ** 2 * v + w
    noise = impulses(len(steps))
    path = ddim_trajectory(gaussian_model(schedule, c), schedule, noise(), steps, eta, noise, clip=False)
    assert end(path).x.square().sum().item() == pytest.approx(v, rel=2e-5)


# a finite set of images: samples land on them


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    "options", [{"variance": "beta"}, {"variance": "posterior"}, {"steps": 20}, {"steps": 20, "eta": 1.0}], ids=str
)
def test_samples_land_on_the_images(options, clip):
    schedule, images, n = linear_schedule(200), normal(3, 1, 4, 3).sign(), 300
    x = sample(finite_set_model(schedule, images), schedule, n, (1, 4, 3), clip=clip, batch_size=n, **options)
    distance, which = (x[:, None] - images).abs().flatten(2).amax(2).min(1)  # (B,), to the closest image
    assert distance.max() < 1e-4
    counts = which.bincount(minlength=3)
    assert bool(((counts - n / 3).abs() < 4 * (n / 3 * 2 / 3) ** 0.5).all())  # each as often as in the set


# one step against the papers' formulas


@each_schedule
def test_mean_without_clipping_is_equation_11(schedule):
    for t in (1, 2, schedule.T // 2, schedule.T):
        x_t, eps = normal(*SHAPE, dtype=torch.float64), normal(*SHAPE, seed=1, dtype=torch.float64)
        mean = ddpm_step(schedule, x_t, t, eps, torch.zeros_like(x_t), clip=False)
        expected = (x_t - schedule.beta[t] / schedule.sigma[t] * eps) / schedule.alpha[t].sqrt()
        assert torch.allclose(mean, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clip", [True, False])
@each_schedule
def test_ddim_with_eta_1_and_adjacent_steps_is_ddpm(schedule, clip):
    x_t, eps, noise = normal(3, *SHAPE)
    for t in (1, 2, schedule.T // 2, schedule.T - 1, schedule.T):
        ddim = ddim_step(schedule, x_t, t, t - 1, eps, noise, 1.0, clip)
        assert torch.allclose(ddim, ddpm_step(schedule, x_t, t, eps, noise, "posterior", clip), rtol=1e-4, atol=2e-5)


def test_ddim_without_noise_mixes_the_prediction_anew():
    schedule, x_t, eps = linear_schedule(50), *normal(2, *SHAPE)
    forty, ten = torch.full((5,), 40), torch.full((5,), 10)
    x0_hat = predict_x0(schedule, x_t, forty, eps)
    expected = q_sample(schedule, x0_hat, ten, eps)
    assert torch.allclose(ddim_step(schedule, x_t, 40, 10, eps, clip=False), expected, atol=1e-5)
    assert torch.allclose(ddim_step(schedule, x_t, 40, 0, eps, clip=False), x0_hat, atol=1e-6)
    assert torch.equal(ddim_step(schedule, x_t, 40, 0, eps), x0_hat.clamp(-1, 1))
    mean = ddpm_step(schedule, x_t, 40, eps, torch.zeros_like(x_t))
    assert torch.equal(mean, posterior(schedule, x0_hat.clamp(-1, 1), x_t, forty)[0])


@each_schedule
def test_fresh_noise_of_ddim_has_all_digits(schedule):
    """1 - alpha_bar_t / alpha_bar_s, subtracted in 32 bits, would cost up to four of the seven."""
    a_bar, x, noise = torch.tensor(double_tables(schedule)[1], dtype=torch.float64), torch.zeros(1, 1), torch.ones(1, 1)
    for t in range(2, schedule.T + 1):
        for s in {t - 1, t // 2, 1}:
            expected = ((1 - a_bar[s]) / (1 - a_bar[t]) * (1 - a_bar[t] / a_bar[s])).sqrt()  # eq. 16
            assert ddim_step(schedule, x, t, s, x, noise, 1.0).item() == pytest.approx(expected.item(), rel=1e-6), (
                t,
                s,
            )


# noise: none at the last step, its own for each image


@each_variance
def test_no_noise_at_the_last_step(variance):
    schedule, x_t, eps = linear_schedule(50), *normal(2, *SHAPE)
    nothing = ddpm_step(schedule, x_t, 1, eps, None, variance)
    assert torch.equal(nothing, ddpm_step(schedule, x_t, 1, eps, torch.full(SHAPE, math.nan), variance))
    assert torch.equal(ddim_step(schedule, x_t, 9, 0, eps, None, eta=1.0), ddim_step(schedule, x_t, 9, 0, eps))


def test_noise_is_drawn_once_a_step_and_only_where_needed():
    schedule, x_T, calls = linear_schedule(50), normal(*SHAPE), []
    model = gaussian_model(schedule, 1.0)

    def noise():
        calls.append(1)
        return normal(*SHAPE, seed=len(calls))

    for path, expected in (
        (ddpm_trajectory(model, schedule, x_T, noise), 49),
        (ddim_trajectory(model, schedule, x_T, 10, 1.0, noise), 9),
        (ddim_trajectory(model, schedule, x_T, 10, 0.0, noise), 0),
    ):
        calls.clear()
        end(path)
        assert len(calls) == expected


@pytest.mark.parametrize(
    "options", [{}, {"variance": "posterior"}, {"steps": 7}, {"steps": [50, 20], "eta": 0.5}], ids=str
)
def test_same_images_for_any_batch_split(options):
    schedule = linear_schedule(50)
    model = gaussian_model(schedule, 0.5)  # works on each image alone, so that equal means equal to the bit
    together = sample(model, schedule, 7, (3, 4, 2), seed=5, batch_size=7, **options)
    assert together.shape == (7, 3, 4, 2)
    for size in (1, 2, 3, 100):
        assert torch.equal(sample(model, schedule, 7, (3, 4, 2), seed=5, batch_size=size, **options), together)
    assert torch.equal(sample(model, schedule, 3, (3, 4, 2), seed=5, **options), together[:3])
    assert not torch.isclose(sample(model, schedule, 7, (3, 4, 2), seed=6, **options), together).all(0).any()


def test_each_image_has_its_own_noise():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    noise, other = image_noise(0, range(4), (3, 5, 2)), image_noise(0, [2, 0], (3, 5, 2))
    first, second = noise(), noise()
    assert (first.shape, first.dtype) == ((4, 3, 5, 2), torch.float32)
    assert torch.equal(other(), first[[2, 0]])
    assert torch.equal(other(), second[[2, 0]])
    every = torch.cat([first, second, image_noise(1, range(4), (3, 5, 2))()]).flatten(1)
    assert len(every.unique(dim=0)) == 12
    assert image_noise(-1, [0], (1,))().isfinite()
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


def test_image_noise_is_standard_normal():
    draws = image_noise(0, range(2000), (1, 10, 10))()
    n = draws.numel()
    assert abs(draws.mean()) < 4 / n**0.5
    assert abs(draws.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((draws[1:] * draws[:-1]).mean()) < 4 / n**0.5  # neighbouring streams are not correlated


# trajectories


def test_trajectories_are_lazy_and_keep_no_gradient():
    schedule, asked, weight = linear_schedule(50), [], torch.ones((), requires_grad=True)
    model = lambda x, t: asked.append(t) or weight * x  # noqa: E731
    for path in (
        ddpm_trajectory(model, schedule, normal(*SHAPE), lambda: normal(*SHAPE)),
        ddim_trajectory(model, schedule, normal(*SHAPE), 5),
    ):
        asked.clear()
        assert not next(path).x.requires_grad
        assert torch.is_grad_enabled()
        assert [t.tolist() for t in asked] == [[50] * 5]
        assert asked[0].dtype == torch.int64


def test_steps_say_where_they_ended_and_what_was_predicted():
    schedule, x_T = linear_schedule(50), normal(*SHAPE)
    model, noise = gaussian_model(schedule, 1.0), image_noise(0, range(5), SHAPE[1:])
    for path, starts in (
        (list(ddpm_trajectory(model, schedule, x_T, noise, clip=False)), list(range(50, 0, -1))),
        (list(ddim_trajectory(model, schedule, x_T, [50, 30, 4], clip=False)), [50, 30, 4]),
    ):
        assert [step.t for step in path] == [*starts[1:], 0]
        x = x_T
        for t, step in zip(starts, path, strict=True):
            t = torch.full((5,), t)
            assert torch.equal(step.eps, model(x, t))
            assert torch.equal(step.x0_hat, predict_x0(schedule, x, t, step.eps))
            x = step.x
        assert torch.allclose(path[-1].x, path[-1].x0_hat, atol=1e-6)


def test_evenly_spaced_steps():
    assert ddim_steps(1000, 4) == [1000, 750, 500, 250]
    assert ddim_steps(50, 1) == [50]
    assert ddim_steps(50, range(50, 0, -10)) == [50, 40, 30, 20, 10]
    for T, count in itertools.product((1, 7, 50), (1, 2, 5, 7, 49, 50)):
        if count <= T:
            steps = ddim_steps(T, count)
            assert (len(steps), steps[0]) == (count, T)
            assert ddim_steps(T, steps) == steps
    assert ddim_steps(50, 50) == list(range(50, 0, -1))


def test_progress_bar(capsys):
    schedule = linear_schedule(50)
    sample(gaussian_model(schedule, 1.0), schedule, 3, (1, 2, 2), steps=5, batch_size=2, progress=True)
    assert "10/10" in capsys.readouterr().out
    sample(gaussian_model(schedule, 1.0), schedule, 3, (1, 2, 2), steps=5)
    assert capsys.readouterr().out == ""


# upwards: inversion, and arcs between starts


@pytest.mark.parametrize("steps", [3, 50, [40, 10, 1]])
def test_inversion_turns_back_by_known_angles(steps):
    """For data N(0, 1) a step up is the turn of the step down: x_t = cos(angle_t - angle_s) x_s; at s = 0, t = 1."""
    schedule, x0 = linear_schedule(50), normal(*SHAPE, dtype=torch.float64)
    _, a_bar, _ = double_tables(schedule)
    angles = [math.acos(math.sqrt(a)) for a in a_bar]
    up = [0, *reversed(ddim_steps(50, steps))]
    first = a_bar[up[1]] ** 0.5 * 1 + (1 - a_bar[up[1]]) ** 0.5 * math.sin(angles[1])  # asked at t = 1, not 0
    stretch = first * math.prod(math.cos(angles[t] - angles[s]) for s, t in itertools.pairwise(up[1:]))
    x_T = ddim_invert(gaussian_model(schedule, 1.0), schedule, x0, steps)
    assert torch.allclose(x_T, stretch * x0, rtol=1e-5, atol=1e-5)


def test_there_and_back_is_closer_with_more_steps():
    schedule, x0 = linear_schedule(1000), normal(*SHAPE)
    model, errors = gaussian_model(schedule, 0.5), []
    for count in (10, 40, 160):
        start = ddim_invert(model, schedule, x0, count)
        last = end(ddim_trajectory(model, schedule, start, count, clip=False))
        errors.append((last.x - x0).abs().max().item())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.1 * x0.abs().max()


def test_inversion_asks_where_the_images_are():
    asked = []

    def model(x, t):
        asked.append(t.tolist())
        return torch.zeros_like(x)

    x = ddim_invert(model, linear_schedule(50), normal(2, 3, 4, 2), [30, 20, 5])
    assert asked == [[1, 1], [5, 5], [20, 20]]
    assert torch.allclose(x, linear_schedule(50).sqrt_alpha_bar[30] * normal(2, 3, 4, 2), atol=1e-6)
    with pytest.raises(TypeError, match="to_float"):
        ddim_invert(model, linear_schedule(50), torch.zeros(2, 3, 4, 2, dtype=torch.uint8))


def test_slerp_keeps_lengths_and_divides_angles():
    x, y = normal(2, *SHAPE, dtype=torch.float64)
    y = y * per_image(x.flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1), y)
    amount = torch.linspace(0, 1, 5, dtype=torch.float64)
    mixed = slerp(x, y, amount)
    assert torch.allclose(mixed.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    whole = torch.acos(torch.cosine_similarity(x.flatten(1), y.flatten(1)))
    part = torch.acos(torch.cosine_similarity(x.flatten(1), mixed.flatten(1)).clamp(max=1))
    assert torch.allclose(part, amount * whole, atol=1e-6)
    assert torch.allclose(mixed[0], x[0])
    assert torch.allclose(mixed[-1], y[-1])


def test_slerp_refuses_what_has_no_arc():
    x = normal(*SHAPE)
    for y in (x, -2 * x):
        with pytest.raises(ValueError, match="same direction"):
            slerp(x, y, torch.full((5,), 0.5))
    with pytest.raises(ValueError, match="shape"):
        slerp(x, x[:, :1], torch.full((5,), 0.5))
    with pytest.raises(ValueError, match="one number per image"):
        slerp(x, normal(*SHAPE, seed=1), torch.full((2,), 0.5))


# bad input


SCHEDULE, X = linear_schedule(50), normal(*SHAPE)


@pytest.mark.parametrize("t", [0, 51, -1, 2.0, None, torch.tensor([1, 2, 3, 4, 5])], ids=str)
def test_bad_t(t):
    for call in (lambda: ddpm_step(SCHEDULE, X, t, X, X), lambda: ddim_step(SCHEDULE, X, t, 0, X)):
        with pytest.raises(ValueError, match="t must be an integer from 1 to 50, one for the whole batch, got"):
            call()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ddim_step(SCHEDULE, X, 20, 20, X), "s must be an integer from 0 to 19"),
        (lambda: ddim_step(SCHEDULE, X, 20, 3.0, X), "s must be an integer from 0 to 19"),
        (lambda: ddim_step(SCHEDULE, X, 20, 10, X, X, -0.1), r"eta must lie in \[0, 1\]"),
        (lambda: ddim_step(SCHEDULE, X, 20, 10, X, X, math.nan), r"eta must lie in \[0, 1\]"),
        (lambda: sample(lambda x, t: x, SCHEDULE, 1, steps=5, eta=1.1), r"eta must lie in \[0, 1\]"),
        (lambda: ddpm_step(SCHEDULE, X, 1, X, X, "fixed_large"), "it is 'beta' or 'posterior'"),
        (lambda: sample(gaussian_model, SCHEDULE, 0), "count must be a whole number, at least 1, got 0"),
        (lambda: sample(gaussian_model, SCHEDULE, 2.5), r"count must be a whole number, at least 1, got 2\.5"),
        (lambda: sample(gaussian_model, SCHEDULE, 2, batch_size=0), "batch_size must be a whole number"),
        (lambda: sample(gaussian_model, SCHEDULE, 2, eta=1.0), "sample: eta: ddpm takes clip, variance"),
        (
            lambda: sample(gaussian_model, SCHEDULE, 2, steps=5, variance="beta"),
            "sample: variance: ddim takes clip, eta, spacing",
        ),
    ],
)
def test_bad_numbers_and_options(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (0, "from 1 to T = 50 steps, got 0"),
        (51, "from 1 to T = 50 steps, got 51"),
        ([], "integers in 1 ... T = 50"),
        ([51, 20], "integers in 1 ... T = 50"),
        ([20, 50], "each below the one before"),
        ([50, 20.0], "must hold integers"),
        (torch.tensor([50, 20]), "must hold integers"),
    ],
    ids=str,
)
def test_bad_step_lists(steps, says):
    with pytest.raises(ValueError, match=says):
        next(ddim_trajectory(lambda x, t: x, SCHEDULE, X, steps))
    with pytest.raises(ValueError, match=says):
        sample(lambda x, t: x, SCHEDULE, 2, steps=steps)


def test_images_that_do_not_fit():
    with pytest.raises(ValueError, match="eps has shape"):
        ddpm_step(SCHEDULE, X, 20, X[:, :1], X)
    with pytest.raises(ValueError, match="noise has shape"):
        ddpm_step(SCHEDULE, X, 20, X, X[:1])
    with pytest.raises(ValueError, match="noise has shape"):
        ddim_step(SCHEDULE, X, 20, 10, X, X[:1], 1.0)
    with pytest.raises(TypeError, match="noise must be a float tensor, got NoneType"):
        ddpm_step(SCHEDULE, X, 20, X, None)
    with pytest.raises(ValueError, match="pass noise"):
        ddim_step(SCHEDULE, X, 20, 10, X, eta=0.5)
    with pytest.raises(ValueError, match=r"schedule\.to"):
        ddpm_step(SCHEDULE, X.to("meta"), 20, X.to("meta"), X.to("meta"))
    with pytest.raises(ValueError, match="eps has shape"):
        next(ddpm_trajectory(lambda x, t: x[:, :1], SCHEDULE, X, lambda: X))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_without_waiting_for_it():
    schedule, x_t = linear_schedule(50).to("cuda"), X.to("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        ddpm = ddpm_step(schedule, x_t, 20, x_t, x_t)
        ddim = ddim_step(schedule, x_t, 20, 10, x_t, x_t, 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(ddpm.cpu(), ddpm_step(SCHEDULE, X, 20, X, X), atol=1e-6)
    assert torch.allclose(ddim.cpu(), ddim_step(SCHEDULE, X, 20, 10, X, X, 1.0), atol=1e-6)
    options = {"count": 3, "shape": (1, 2, 2), "steps": 5, "eta": 1.0}
    on_gpu = sample(gaussian_model(schedule, 1.0), schedule, **options)
    assert torch.allclose(on_gpu.cpu(), sample(gaussian_model(SCHEDULE, 1.0), SCHEDULE, **options), atol=1e-5)


def test_answers_of_another_shape_are_refused():
    x, flat = torch.zeros(4, 1, 3, 3), torch.zeros(4, 3, 3)
    for call in (
        lambda: naive_step(x, flat, 0, 5),
        lambda: ddim_invert(lambda x, t: flat, cosine_schedule(10), x, 5),
        lambda: guided_eps(x, flat, 2.0),
        lambda: VelocityNet(lambda x, t: flat, cosine_schedule(10))(x, torch.full((4,), 3)),
    ):
        with pytest.raises(ValueError, match=r"has shape \(4, 3, 3\), \w+ has \(4, 1, 3, 3\)"):
            call()
