"""The samplers against ideal denoisers, whose results are known, against the formulas, and against bad input."""

import itertools
import math
from functools import partial

import pytest
import torch

from ddpm_helpers import (
    IdealDenoiser,
    NoiseSchedule,
    UNet,
    VelocityNet,
    cosine_schedule,
    ddim_invert,
    ddim_step,
    ddim_steps,
    ddim_trajectory,
    ddpm_step,
    ddpm_trajectory,
    guide,
    guided_eps,
    image_noise,
    linear_schedule,
    load_pretrained,
    per_image,
    posterior,
    predict_eps,
    predict_x0,
    q_sample,
    sample,
    slerp,
)
from ddpm_helpers.lessons.toy import double

SHAPE = (5, 3, 4, 2)
SCHEDULE, SHORT = linear_schedule(50), cosine_schedule(20)
each_schedule = pytest.mark.parametrize(
    "schedule", [SCHEDULE, linear_schedule(300, rescale=False), cosine_schedule(100)], ids=lambda s: s.name
)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


X = normal(*SHAPE)


def gaussian_model(schedule: NoiseSchedule, c: float):
    """The ideal noise prediction for data N(0, c^2): the mean of the noise given x_t."""

    def model(x, t):
        a_bar, variance = schedule.alpha_bar[t], schedule.sigma[t] ** 2
        return per_image(schedule.sigma[t] / (a_bar * c**2 + variance), x) * x

    return model


class Labelled(torch.nn.Module):
    """Answers with a multiple of x that depends on the label: 0.3 for none, 0.1 k for label k."""

    classes = 3

    def forward(self, x, t, label):
        return label[:, None, None, None] / 10 * x


def unet(classes: int | None = 3) -> UNet:
    return UNet(base=8, multipliers=(1,), attention=0, classes=classes)


def end(trajectory):
    *_, last = trajectory
    return last.x


# data N(0, c^2): the variance where sampling ends is known


def impulses(count):
    """A start and noises that separate the draws: image 0 gets only the start 1, image k only noise 1 in call k.

    The sampler is linear for Gaussian data, so the squares of the results add up to the variance: no luck involved. A
    call too many is a StopIteration.
    """
    calls = iter(torch.eye(count, dtype=torch.float64).reshape(count, count, 1, 1, 1))
    return lambda: next(calls)


@pytest.mark.parametrize("c", [1.0, 0.3, 2.5])
@pytest.mark.parametrize(
    "options", [{"variance": "beta"}, {"variance": "posterior"}, {"eta": 0.5}, {"eta": 1.0}], ids=str
)
@each_schedule
def test_variance_follows_the_scalar_recursion(schedule, options, c):
    """x_s = m x_t + sqrt(w) z, so v_s = m^2 v_t + w, from v_T = 1."""
    T, beta, a_bar, v = schedule.T, schedule.beta.tolist(), double(schedule).alpha_bar.tolist(), 1.0
    steps = [T, T - 10, T - 11, T // 2, 5, 2, 1] if "eta" in options else list(range(T, 0, -1))
    for t, s in itertools.pairwise([*steps, 0]):
        eps = math.sqrt(1 - a_bar[t]) / (a_bar[t] * c**2 + 1 - a_bar[t])  # times x_t: the ideal answer
        x0 = (1 - math.sqrt(1 - a_bar[t]) * eps) / math.sqrt(a_bar[t])
        w = options.get("eta", 1) ** 2 * (1 - a_bar[s]) / (1 - a_bar[t]) * (1 - a_bar[t] / a_bar[s])  # eq. 16
        m = math.sqrt(a_bar[s]) * x0 + math.sqrt(1 - a_bar[s] - w) * eps
        v = m**2 * v + (beta[t] if options.get("variance") == "beta" and s else w)
    noise, model = impulses(len(steps)), gaussian_model(schedule, c)
    if "eta" in options:
        path = ddim_trajectory(model, schedule, noise(), steps, noise=noise, clip=False, **options)
    else:
        path = ddpm_trajectory(model, schedule, noise(), noise, clip=False, **options)
    assert end(path).square().sum().item() == pytest.approx(v, rel=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 10, 50, [50, 7, 6, 1]])
def test_ddim_turns_by_known_angles(steps):
    """For data N(0, 1), x_s = cos(angle_t - angle_s) x_t with sigma_t = sin(angle_t). Noise is never asked for."""
    angles = double(SCHEDULE).sqrt_alpha_bar.acos()
    shrink = math.prod((angles[t] - angles[s]).cos() for t, s in itertools.pairwise([*ddim_steps(50, steps), 0]))
    path = ddim_trajectory(gaussian_model(SCHEDULE, 1.0), SCHEDULE, X.double(), steps, noise=lambda: 1 / 0, clip=False)
    assert torch.allclose(end(path), shrink * X.double(), rtol=1e-5, atol=1e-4)  # atol: 1 - sigma_T^2 in float32


@pytest.mark.parametrize(("steps", "lost"), [([40, 10, 1], 1), (3, 1), (10, 0.5), (50, 0.1)])
def test_inversion_turns_back_by_known_angles(steps, lost):
    """For data N(0, 1) a step up turns back the step down, but from 0 it asks at t = 1; `lost`: on both ways."""
    angles, model = double(SCHEDULE).sqrt_alpha_bar.acos(), gaussian_model(SCHEDULE, 1.0)
    first, *rest = reversed(ddim_steps(50, steps))
    stretch = angles[first].cos() + angles[first].sin() * angles[1].sin()
    stretch = math.prod(((angles[t] - angles[s]).cos() for s, t in itertools.pairwise([first, *rest])), start=stretch)
    x_T = ddim_invert(model, SCHEDULE, X.double(), steps)
    assert torch.allclose(x_T, stretch * X.double(), rtol=1e-5, atol=1e-5)
    back = end(ddim_trajectory(model, SCHEDULE, x_T, steps, clip=False))
    assert (back - X).abs().max() < lost * X.abs().max()


# a finite set of images: samples land on them


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    "options", [{"variance": "beta"}, {"variance": "posterior"}, {"steps": 20}, {"steps": 20, "eta": 1.0}], ids=str
)
def test_samples_land_on_the_images(options, clip):
    schedule, images, n = linear_schedule(200), normal(3, 1, 4, 3).sign(), 300
    x = sample(IdealDenoiser(images, schedule), schedule, n, (1, 4, 3), clip=clip, batch_size=n, **options)
    distance, which = (x[:, None] - images).abs().flatten(2).amax(2).min(1)  # (B,), to the closest image
    assert distance.max() < 1e-4
    counts = which.bincount(minlength=3)
    assert bool(((counts - n / 3).abs() < 4 * (n / 3 * 2 / 3) ** 0.5).all())  # each as often as in the set


# one step against the papers' formulas


@pytest.mark.parametrize("clip", [True, False])
@each_schedule
def test_steps_are_the_formulas(schedule, clip):
    x_t, eps, noise = normal(3, *SHAPE)
    alike = partial(torch.allclose, rtol=1e-4, atol=2e-5)
    for t in (1, 2, schedule.T // 2, schedule.T - 1, schedule.T):
        at_t, last = torch.full((5,), t), 0 if t == 1 else 1
        x0_hat = predict_x0(schedule, x_t, at_t, eps).clamp(*((-1, 1) if clip else (-math.inf, math.inf)))
        mean, small = posterior(schedule, x0_hat, x_t, at_t)
        if not clip:  # eq. 11
            assert alike(mean, (x_t - schedule.beta[t] / schedule.sigma[t] * eps) / schedule.alpha[t].sqrt())
        for variance, added in (("beta", schedule.beta[t]), ("posterior", small)):
            x = ddpm_step(schedule, x_t, t, eps, noise if last else None, variance, clip)
            assert alike(x, mean + last * added.sqrt() * noise)
        assert alike(x, ddim_step(schedule, x_t, t, t - 1, eps, noise, 1.0, clip)), "eta = 1 is DDPM"
        for eta in (0.0, 1.0):
            assert alike(ddim_step(schedule, x_t, t, 0, eps, None, eta, clip), x0_hat)
        for s in {t // 2, t - 1} - {0}:  # eq. 12: the prediction, mixed anew
            again = q_sample(schedule, x0_hat, torch.full((5,), s), predict_eps(schedule, x_t, at_t, x0_hat))
            assert alike(ddim_step(schedule, x_t, t, s, eps, clip=clip), again)


@each_schedule
def test_fresh_noise_of_ddim_has_all_digits(schedule):
    """1 - alpha_bar_t / alpha_bar_s, subtracted in 32 bits, would cost up to four of the seven."""
    a_bar, x, noise = double(schedule).alpha_bar, torch.zeros(1, 1), torch.ones(1, 1)
    for t in range(2, schedule.T + 1):
        for s in {t - 1, t // 2, 1}:
            expected = ((1 - a_bar[s]) / (1 - a_bar[t]) * (1 - a_bar[t] / a_bar[s])).sqrt().item()  # eq. 16
            assert ddim_step(schedule, x, t, s, x, noise, 1.0).item() == pytest.approx(expected, rel=1e-6), (t, s)


@pytest.mark.parametrize("scale", [0, 1, 2.5])
def test_guidance_goes_from_no_label_past_the_label(scale):
    x, t, label = normal(2, 1, 4, 4), torch.tensor([3, 3]), torch.tensor([0, 2])
    expected = torch.stack([(0.3 + scale * (0.1 * k - 0.3)) * image for k, image in zip((0, 2), x, strict=True)])
    torch.testing.assert_close(guide(Labelled(), scale)(x, t, label), expected)


# noise: each image has its own


@pytest.mark.parametrize("labels", [None, torch.arange(7) % 4], ids=["", "labels"])
@pytest.mark.parametrize(
    "options", [{}, {"variance": "posterior"}, {"steps": 7}, {"steps": [50, 20], "eta": 0.5}], ids=str
)
def test_same_images_for_any_batch_split(options, labels):
    """The model works on each image alone, so that equal means equal to the bit."""
    model = gaussian_model(SCHEDULE, 0.5) if labels is None else Labelled()

    def draw(count=7, seed=5, **split):
        asked = None if labels is None else labels[:count]
        return sample(model, SCHEDULE, count, SHAPE[1:], seed=seed, labels=asked, **options, **split)

    together = draw(batch_size=7)
    assert together.shape == (7, *SHAPE[1:])
    for size in (1, 2, 3, 100):
        assert torch.equal(draw(batch_size=size), together)
    assert torch.equal(draw(3), together[:3])
    assert not torch.isclose(draw(seed=6), together).flatten(1).all(1).any()


def test_each_image_has_its_own_noise():
    state = torch.get_rng_state()
    noise, other = image_noise(0, range(4), (3, 5, 2)), image_noise(0, [2, 0], (3, 5, 2))
    first, second = noise(), noise()
    assert (first.shape, first.dtype) == ((4, 3, 5, 2), torch.float32)
    assert torch.equal(other(), first[[2, 0]])
    assert torch.equal(other(), second[[2, 0]])
    every = torch.cat([first, second, image_noise(1, range(4), (3, 5, 2))()]).flatten(1)
    assert len(every.unique(dim=0)) == 12
    assert image_noise(-1, [0], (1,))().isfinite()
    draws = image_noise(0, range(2000), (1, 10, 10))()
    n = draws.numel()
    assert abs(draws.mean()) < 4 / n**0.5
    assert abs(draws.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((draws[1:] * draws[:-1]).mean()) < 4 / n**0.5  # neighbouring streams are not correlated
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


DRAWN = {  # mean, standard deviation and a pixel of two images in four steps: new weights need new numbers
    "mnist": (-0.6222, 0.7030, 0.9636),
    "mnist_velocity": (-0.6781, 0.6375, 0.9196),
    "fashion": (0.0144, 0.7966, 0.6529),
    "mnist_labels": (-0.6718, 0.6243, 0.9883),
    "cifar10": (-0.0360, 0.2325, 0.0884),
}


@pytest.mark.parametrize("name", DRAWN)
def test_shipped_weights_draw_the_same_images(name):
    model, schedule, _ = load_pretrained(name)
    labels = torch.tensor([3, 8]) if model.classes else None
    x = sample(model, schedule, 2, (3, 32, 32) if name == "cifar10" else (1, 28, 28), steps=4, labels=labels)
    assert [x.mean().item(), x.std().item(), x[1, 0, 10, 17].item()] == pytest.approx(DRAWN[name], abs=1e-3)


def test_shipped_weights_listen():
    """At scale 0 the label changes nothing, at 2 it changes the image; the net knows ten digits."""
    model, schedule, recipe = load_pretrained("mnist_labels")
    assert (model.classes, recipe["label_dropout"]) == (10, 0.1)
    for scale, same in ((0, True), (2, False)):
        one, two = (sample(guide(model, scale), schedule, 1, steps=2, labels=torch.tensor([k])) for k in (1, 8))
        assert torch.allclose(one, two, atol=1e-5) == same


# trajectories


def test_trajectories_are_lazy_and_keep_no_gradient():
    asked, weight = [], torch.ones((), requires_grad=True)
    model = lambda x, t: asked.append(t) or weight * x  # noqa: E731
    for path in (ddpm_trajectory(model, SCHEDULE, X, lambda: X), ddim_trajectory(model, SCHEDULE, X, 5)):
        asked.clear()
        assert not next(path).x.requires_grad
        assert torch.is_grad_enabled()
        assert [t.tolist() for t in asked] == [[50] * 5]
        assert asked[0].dtype == torch.int64


def test_steps_say_where_they_ended_and_what_was_predicted():
    model, noise = gaussian_model(SCHEDULE, 1.0), image_noise(0, range(5), SHAPE[1:])
    for path, starts in (
        (list(ddpm_trajectory(model, SCHEDULE, X, noise, clip=False)), list(range(50, 0, -1))),
        (list(ddim_trajectory(model, SCHEDULE, X, [50, 30, 4], clip=False)), [50, 30, 4]),
    ):
        assert [step.t for step in path] == [*starts[1:], 0]
        x = X
        for t, step in zip(starts, path, strict=True):
            t = torch.full((5,), t)
            assert torch.equal(step.eps, model(x, t))
            assert torch.equal(step.x0_hat, predict_x0(SCHEDULE, x, t, step.eps))
            x = step.x
        assert torch.allclose(path[-1].x, path[-1].x0_hat, atol=1e-6)


def test_evenly_spaced_steps():
    assert ddim_steps(1000, 4) == [1000, 750, 500, 250]
    assert ddim_steps(50, range(50, 0, -10)) == [50, 40, 30, 20, 10]
    for T, count in itertools.product((1, 7, 50), (1, 2, 5, 7, 49, 50)):
        if count <= T:
            steps = ddim_steps(T, count)
            assert (len(steps), steps[0]) == (count, T)
            assert ddim_steps(T, steps) == steps
    assert ddim_steps(50, 50) == list(range(50, 0, -1))


def test_progress_bar(capsys):
    for progress in (True, False):
        sample(gaussian_model(SCHEDULE, 1.0), SCHEDULE, 3, (1, 2, 2), steps=5, batch_size=2, progress=progress)
        out = capsys.readouterr().out
        assert "10/10" in out if progress else out == ""


def test_slerp_keeps_lengths_and_divides_angles():
    x, y = normal(2, *SHAPE, dtype=torch.float64)
    y = y * per_image(x.flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1), y)
    amount = torch.linspace(0, 1, 5, dtype=torch.float64)
    mixed = slerp(x, y, amount)
    assert torch.allclose(mixed.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    whole, part = (torch.cosine_similarity(x.flatten(1), z.flatten(1)).clamp(max=1).acos() for z in (y, mixed))
    assert torch.allclose(part, amount * whole, atol=1e-6)
    assert torch.allclose(mixed[0], x[0])
    assert torch.allclose(mixed[-1], y[-1])


# bad input


IDEAL = gaussian_model(SCHEDULE, 1.0)


def draw(model=IDEAL, schedule=SCHEDULE, count=2, **options):
    return sample(model, schedule, count, (1, 8, 8), **options)


FLAT, LABELS = torch.zeros(5, 4, 2), torch.tensor([0, 1])
OWN = VelocityNet(unet(), SHORT)
WRONG_T = (0, 51, -1, 2.0, None, torch.tensor([1, 2, 3, 4, 5]))
SAYS_T = "t must be an integer from 1 to 50, one for the whole batch, got"
WRONG_LISTS = (
    *((count, f"from 1 to T = 50 steps, got {count}") for count in (0, 51)),
    *((steps, "integers in 1 ... T = 50") for steps in ([], [51, 20])),
    ([20, 50], "each below the one before"),
    *((steps, "must hold integers") for steps in ([50, 20.0], torch.tensor([50, 20]))),
)
OTHER = "sample: this network was trained on another schedule than NoiseSchedule"
BAD = [
    *((lambda t=t: ddpm_step(SCHEDULE, X, t, X, X), SAYS_T) for t in WRONG_T),
    *((lambda t=t: ddim_step(SCHEDULE, X, t, 0, X), SAYS_T) for t in WRONG_T),
    *((lambda steps=steps: next(ddim_trajectory(IDEAL, SCHEDULE, X, steps)), says) for steps, says in WRONG_LISTS),
    *((lambda steps=steps: draw(steps=steps), says) for steps, says in WRONG_LISTS),
    (lambda: ddim_step(SCHEDULE, X, 20, 20, X), "s must be an integer from 0 to 19"),
    (lambda: ddim_step(SCHEDULE, X, 20, 3.0, X), "s must be an integer from 0 to 19"),
    (lambda: ddim_step(SCHEDULE, X, 20, 10, X, X, -0.1), r"eta must lie in \[0, 1\]"),
    (lambda: ddim_step(SCHEDULE, X, 20, 10, X, X, math.nan), r"eta must lie in \[0, 1\]"),
    (lambda: ddim_step(SCHEDULE, X, 20, 10, X, eta=0.5), "adds noise at every step but the last: pass noise"),
    (lambda: ddpm_step(SCHEDULE, X, 1, X, X, "fixed_large"), "it is 'beta' or 'posterior'"),
    (lambda: draw(steps=5, eta=1.1), r"eta must lie in \[0, 1\]"),
    (lambda: draw(count=0), "count must be a whole number, at least 1, got 0"),
    (lambda: draw(count=2.5), r"count must be a whole number, at least 1, got 2\.5"),
    (lambda: draw(batch_size=0), "batch_size must be a whole number"),
    (lambda: draw(eta=1.0), "sample: eta: ddpm takes clip, variance"),
    (lambda: draw(steps=5, variance="beta"), "sample: variance: ddim takes clip, eta, spacing"),
    *((lambda scale=scale: guide(Labelled(), scale), r"\[0, 100\]") for scale in (-1e-9, 101, math.nan, math.inf)),
    # images that do not fit
    (lambda: ddpm_step(SCHEDULE, X, 20, X[:, :1], X), "eps has shape"),
    (lambda: ddpm_step(SCHEDULE, X, 20, X, X[:1]), "noise has shape"),
    (lambda: ddim_step(SCHEDULE, X, 20, 10, X, X[:1], 1.0), "noise has shape"),
    (lambda: ddpm_step(SCHEDULE, X, 20, X, None), "noise must be a float tensor, got NoneType"),
    (lambda: ddpm_step(SCHEDULE, *[X.to("meta"), 20, *[X.to("meta")] * 2]), r"schedule\.to"),
    (lambda: next(ddpm_trajectory(lambda x, t: x[:, :1], SCHEDULE, X, lambda: X)), "eps has shape"),
    (lambda: ddim_invert(lambda x, t: FLAT, SCHEDULE, X, 5), r"eps has shape \(5, 4, 2\), x has \(5, 3, 4, 2\)"),
    (lambda: ddim_invert(gaussian_model, SCHEDULE, X.to(torch.uint8), 5), "to_float"),
    (lambda: guided_eps(X, FLAT, 2.0), r"eps_label has shape \(5, 4, 2\), eps has \(5, 3, 4, 2\)"),
    (lambda: slerp(X, X, torch.full((5,), 0.5)), "same direction"),
    (lambda: slerp(X, -2 * X, torch.full((5,), 0.5)), "same direction, or opposite"),
    (lambda: slerp(X, X[:, :1], torch.full((5,), 0.5)), "shape"),
    (lambda: slerp(X, X.flip(0), torch.full((2,), 0.5)), "one number per image"),
    # networks and what they are asked
    (lambda: draw(unet(), SHORT, steps=2), "needs a label per image"),
    (lambda: draw(guide(unet(), 2), SHORT, steps=2), "towards which label"),
    (lambda: draw(unet(None), SHORT, steps=2, labels=LABELS), "made without labels"),
    (lambda: draw(VelocityNet(unet(None), SHORT), SHORT, steps=2, labels=LABELS), "made without labels"),
    (lambda: guide(unet(None), 2), "knows no labels"),
    (lambda: guide(VelocityNet(unet(None), SHORT), 2), "knows no labels"),
    (lambda: draw(OWN, cosine_schedule(30), labels=LABELS), OTHER),
    (lambda: draw(guide(OWN, 2), linear_schedule(20, rescale=False), labels=LABELS), OTHER),
]


@pytest.mark.parametrize(("call", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_arguments(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call()


@pytest.mark.parametrize(
    ("labels", "error", "says"),
    [
        (torch.arange(30), ValueError, "labels must have shape \\(7,\\), one per image, got \\(30,\\)"),
        (torch.tensor(3), ValueError, "got \\(\\)"),
        (torch.zeros(7), TypeError, "integer tensor, one per image, got torch.float32"),
        (torch.arange(7) == 1, TypeError, "got torch.bool"),
        ([0, 1, 2, 0, 1, 2, 0], TypeError, "got list"),
        (torch.arange(7) % 3 + 2, ValueError, "0 ... 2, or be 3 for no label, got 2 to 4"),
        (torch.arange(7) % 3 - 1, ValueError, "got -1 to 1"),
    ],
)
@pytest.mark.parametrize("model", [Labelled(), guide(Labelled(), 2)], ids=["told", "guided"])
def test_labels_that_do_not_fit(model, labels, error, says):
    with pytest.raises(error, match=says):
        draw(model, count=7, steps=2, labels=labels)


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
    on_gpu = draw(gaussian_model(schedule, 1.0), schedule, steps=5, eta=1.0)
    assert torch.allclose(on_gpu.cpu(), draw(steps=5, eta=1.0), atol=1e-5)
