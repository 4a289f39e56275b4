"""Samplers. A trajectory is a generator of `Step`s, yielded after the step is complete; callers draw, log or stop.

A `model` is a callable (x (B, ...), t (B,) int64 in 1 ... T) -> predicted noise (B, ...); a net stands in eval mode.
Steps t, s are plain integers for the whole batch; 0 is the clean image. Noise is an argument: a tensor for one step, a
callable () -> (B, ...) for a trajectory. Each predicted clean image is clipped to [-1, 1], or a small error of the
model near t = T would grow; `clip=False` is the bare algorithm of the papers, for data without a range.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from .checks import _check_chosen, _check_eta, _check_images, _check_step, check_counts, check_step_batch
from .schedule import NoiseSchedule, per_image

Model = Callable[..., Tensor]
Noise = Callable[[], Tensor]


class Step(NamedTuple):
    """One completed step of a sampler."""

    t: float  # where the step ended: a step in 0 ... T - 1; for the naive sampler the amount of corruption left
    x: Tensor  # (B, C, H, W) where the step ended
    x0_hat: Tensor  # (B, C, H, W) the clean images that the model predicted
    eps: Tensor | None = None  # (B, C, H, W) the noise that the model predicted; the naive sampler has none


def ddpm_step(
    schedule: NoiseSchedule,
    x_t: Tensor,
    t: int,
    eps: Tensor,
    noise: Tensor | None,
    variance: str = "beta",
    clip: bool = True,
) -> Tensor:
    """From x_t (B, ...) to x_{t-1}: the loop body of Algorithm 2 (Ho et al. 2020), with the mean of eq. 7 for the clean
    images that `eps` says. The `variance` of the added noise is "beta" or "posterior"; at t = 1 none is added."""
    _check_step("t", t, 1, schedule.T)
    _check_images(schedule.beta.device, x_t=x_t, eps=eps, noise=x_t if t == 1 else noise)
    if variance not in ("beta", "posterior"):
        raise ValueError(f"unknown variance {variance!r}: it is 'beta' or 'posterior'")
    x0_hat = clean_guess(schedule, x_t, t, eps, clip)
    of_x0 = schedule.sqrt_alpha_bar[t - 1] * schedule.beta[t] / schedule.sigma[t] ** 2
    of_x_t = schedule.alpha[t].sqrt() * schedule.sigma[t - 1] ** 2 / schedule.sigma[t] ** 2
    mean = of_x0 * x0_hat + of_x_t * x_t
    added = schedule.beta[t] if variance == "beta" else schedule.posterior_variance[t]
    return mean if t == 1 else mean + added.sqrt() * noise


def ddim_step(
    schedule: NoiseSchedule,
    x_t: Tensor,
    t: int,
    s: int,
    eps: Tensor,
    noise: Tensor | None = None,
    eta: float = 0.0,
    clip: bool = True,
) -> Tensor:
    """From x_t (B, ...) to x_s, for any s < t (Song et al. 2021, eq. 12); `eta` in [0, 1] is the share of fresh noise.
    Where the clean image was clipped, `eps` becomes the noise that fits it: so eta = 1 with s = t - 1 is `ddpm_step`
    with variance "posterior"."""
    _check_step("t", t, 1, schedule.T)
    _check_step("s", s, 0, t - 1)
    _check_eta(eta, noisy=noise is not None or s == 0)
    _check_images(schedule.beta.device, x_t=x_t, eps=eps, noise=noise if eta and s else x_t)
    x0_hat = clean_guess(schedule, x_t, t, eps, clip)
    if clip:
        eps = (x_t - schedule.sqrt_alpha_bar[t] * x0_hat) / schedule.sigma[t]
    between = -torch.log1p(-schedule.beta[s + 1 : t + 1]).sum().expm1()  # 1 - alpha_bar_t / alpha_bar_s, all its digits
    fresh = eta * schedule.sigma[s] / schedule.sigma[t] * between.sqrt()  # eq. 16, the paper's sigma_t
    kept = (schedule.sigma[s] ** 2 - fresh**2).clamp(min=0).sqrt()  # rounding must not make it negative
    x_s = schedule.sqrt_alpha_bar[s] * x0_hat + kept * eps
    return x_s if eta == 0 or s == 0 else x_s + fresh * noise


@torch.no_grad()
def ddpm_trajectory(
    model: Model, schedule: NoiseSchedule, x_T: Tensor, noise: Noise, variance: str = "beta", clip: bool = True
) -> Iterator[Step]:
    """Algorithm 2 of Ho et al. 2020: all T steps, from x_T (B, ...), standard normal, to images. Yields the `Step`s
    that end at t = T - 1 ... 0; `noise` is called once for each but the last."""
    x = x_T
    for t in range(schedule.T, 0, -1):
        eps = model(x, torch.full((len(x),), t, device=x.device))
        x0_hat = clean_guess(schedule, x, t, eps, clip)
        x = ddpm_step(schedule, x, t, eps, noise() if t > 1 else None, variance, clip)
        yield Step(t - 1, x, x0_hat, eps)


@torch.no_grad()
def ddim_trajectory(
    model: Model,
    schedule: NoiseSchedule,
    x_T: Tensor,
    steps: int | Iterable[int] = 50,
    eta: float = 0.0,
    noise: Noise | None = None,
    clip: bool = True,
) -> Iterator[Step]:
    """DDIM (Song et al. 2021): from x_T (B, ...), noise or images at the first step of a list, to images in few steps
    (see `ddim_steps`). Yields `Step`s down to t = 0; `noise` is needed where eta > 0."""
    x = x_T
    for t, s in pairwise([*ddim_steps(schedule.T, steps), 0]):
        eps = model(x, torch.full((len(x),), t, device=x.device))
        x0_hat = clean_guess(schedule, x, t, eps, clip)
        x = ddim_step(schedule, x, t, s, eps, noise() if noise and eta > 0 and s > 0 else None, eta, clip)
        yield Step(s, x, x0_hat, eps)


@torch.no_grad()
def heun_trajectory(
    model: Model, schedule: NoiseSchedule, x_T: Tensor, steps: int | Iterable[int] = 25, clip: bool = True
) -> Iterator[Step]:
    """Heun's method for the probability-flow ODE, in x / signal and sigma / signal (Karras et al. 2022, algorithm 1):
    n steps ask the model 2 n - 1 times. Yields `Step`s down to t = 0."""
    signal, ratio, x = schedule.sqrt_alpha_bar, schedule.sigma / schedule.sqrt_alpha_bar, x_T
    for t, s in pairwise([*ddim_steps(schedule.T, steps), 0]):
        eps = model(x, torch.full((len(x),), t, device=x.device))
        x0_hat = clean_guess(schedule, x, t, eps, clip)
        slope = (x / signal[t] - x0_hat) / ratio[t]
        y = x0_hat + ratio[s] * slope  # Euler's step, which is DDIM's
        if s > 0:
            eps_s = model(signal[s] * y, torch.full((len(x),), s, device=x.device))
            there = clean_guess(schedule, signal[s] * y, s, eps_s, clip)
            y = y + (ratio[s] - ratio[t]) / 2 * ((y - there) / ratio[s] - slope)
        x = signal[s] * y
        yield Step(s, x, x0_hat, eps)


@torch.no_grad()
def dpm_solver_trajectory(
    model: Model, schedule: NoiseSchedule, x_T: Tensor, steps: int | Iterable[int] = 25, clip: bool = True
) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2), of second order with one call a step: each clean guess is
    carried on along a line through the one before, in log(signal / sigma). Yields `Step`s down to t = 0."""
    x, r, before = x_T, None, None
    for t, s in pairwise([*ddim_steps(schedule.T, steps), 0]):
        eps = model(x, torch.full((len(x),), t, device=x.device))
        x0_hat = clean_guess(schedule, x, t, eps, clip)
        x = dpm_solver_step(schedule, x, t, s, x0_hat, r, before)
        r, before = t, x0_hat
        yield Step(s, x, x0_hat, eps)


def dpm_solver_step(
    schedule: NoiseSchedule,
    x_t: Tensor,
    t: int,
    s: int,
    guess: Tensor,
    r: int | None = None,
    before: Tensor | None = None,
) -> Tensor:
    """From x_t (B, ...) to x_s with the clean `guess` at t and the one `before`, at r > t (Lu et al. 2022b,
    algorithm 2). Without one, or for s = 0, the step is DDIM's."""
    signal, sigma = schedule.sqrt_alpha_bar, schedule.sigma
    if s == 0:
        return guess
    log_snr = lambda step: signal[step].double().log() - sigma[step].double().log()  # noqa: E731
    h = log_snr(s) - log_snr(t)
    if before is not None:
        guess = guess + (h / (log_snr(t) - log_snr(r)) / 2).to(guess.dtype) * (guess - before)
    return sigma[s] / sigma[t] * x_t - signal[s] * (-h).expm1().to(guess.dtype) * guess


def spaced_steps(schedule: NoiseSchedule, count: int, spacing: str = "even", most: float = 80.0) -> list[int]:
    """A list of `count` steps: "even" in t from T down; "sqrt", even in t^2, so half are above 0.7 T; "log-snr",
    even in log(sigma / signal); "karras", even in (sigma / signal)^(1/7) (Karras et al. 2022, eq. 5). The last two run
    from the last step at which sigma / signal is at most `most` to step 1."""
    scales = {"log-snr": lambda ratio: ratio.log(), "karras": lambda ratio: ratio ** (1 / 7)}
    if spacing not in ("even", "sqrt", *scales):
        raise ValueError(f"spacing is one of even, sqrt, {', '.join(scales)}; got {spacing!r}")
    steps = ddim_steps(schedule.T, count)
    if spacing == "sqrt":
        steps = [round((schedule.T * t) ** 0.5) for t in steps]
    elif spacing in scales:
        ratio = (schedule.sigma[1:].double() / schedule.sqrt_alpha_bar[1:].double()).cpu()
        scale = scales[spacing](ratio[ratio <= most])  # rising with t = 1, 2 ...
        wanted = torch.linspace(scale[-1].item(), scale[0].item(), count, dtype=torch.float64)
        steps = ((wanted[:, None] - scale).abs().argmin(1) + 1).tolist()
    if len(set(steps)) < count:
        raise ValueError(f"spaced_steps: {count} steps with spacing {spacing!r} would repeat some of T = {schedule.T}")
    return steps


def ddim_steps(T: int, steps: int | Iterable[int]) -> list[int]:
    """The steps at which DDIM asks the model, from a number of them, evenly spaced from T down, or a list of them.

    >>> ddim_steps(1000, 5), ddim_steps(1000, [1000, 100, 10])
    ([1000, 800, 600, 400, 200], [1000, 100, 10])
    """
    chosen = list(steps) if isinstance(steps, Iterable) else None
    _check_chosen(chosen, steps, T)
    return chosen or [T * i // steps for i in range(steps, 0, -1)]


@torch.no_grad()
def ddim_invert(model: Model, schedule: NoiseSchedule, x0: Tensor, steps: int | Iterable[int] = 50) -> Tensor:
    """DDIM upwards: the noise from which `ddim_trajectory` (same `steps`, `clip=False`) leads back to about `x0`.

    Up, a step has the noise predicted at its clean end (with t = 1 at t = 0): the more steps, the closer the way back.
    Where alpha_bar_T is tiny, as in `cosine_schedule`, end below T, say with steps = range(950, 0, -19).
    """
    _check_images(schedule.beta.device, x0=x0)
    signal, sigma = schedule.sqrt_alpha_bar, schedule.sigma
    x = x0
    for s, t in pairwise([0, *reversed(ddim_steps(schedule.T, steps))]):
        eps = model(x, torch.full((len(x),), max(s, 1), device=x.device))
        _check_images(x=x, eps=eps)
        x = signal[t] * (x - sigma[s] * eps) / signal[s] + sigma[t] * eps
    return x


def slerp(x: Tensor, y: Tensor, amount: Tensor) -> Tensor:
    """From x (B, ...) to y along a circle around 0, each image by its `amount` (B,) of the way: 0 is x, 1 is y. Where
    both have the same norm, so has everything in between."""
    _check_images(x=x, y=y)
    amount = per_image(amount, x)  # (B, 1, ..., 1), as is the angle
    angle = per_image(torch.cosine_similarity(x.flatten(1), y.flatten(1)).acos(), x)
    if not bool((angle.sin() > 1e-3).all()):  # NaN, too: rounding can push a cosine past 1
        raise ValueError("slerp: an image and its partner have the same direction, or opposite ones")
    return (((1 - amount) * angle).sin() * x + (amount * angle).sin() * y) / angle.sin()


def sample(
    model: Model,
    schedule: NoiseSchedule,
    count: int,
    shape: tuple[int, ...] = (1, 28, 28),
    steps: int | Iterable[int] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
    labels: Tensor | None = None,
    method: str | None = None,
    **options,
) -> Tensor:
    """Draw images (count, *shape); the noise of image i depends on (seed, i) alone, whatever `batch_size` is.

    Args:
        steps: how many, or which. None: those of the network's own sampler, `model.sampler`, which a trained network of
            `load_pretrained` has; all T steps for a network without.
        labels: (count,) int64, what each image shall show; see also `guide`.
        method: one of `METHODS`; None: the network's own for steps = None, else "ddim".
        options: for the trajectory: `clip`; `variance` (DDPM) or `eta` (DDIM); `spacing`, as in `spaced_steps`.
    """
    check_counts("sample", count=count, batch_size=batch_size)
    own = getattr(model, "own_signal", None)  # the table of the schedule that the network was trained on, if known
    if own is not None and not torch.equal(own.cpu(), schedule.sqrt_alpha_bar.cpu()):
        raise ValueError(
            f"sample: this network was trained on another schedule than {schedule!r}: pass its own (to see what "
            "happens otherwise, pass lambda x, t: model(x, t))"
        )
    if labels is not None:
        seen = labels.cpu() if isinstance(labels, Tensor) else labels  # once here: on a GPU the network does not look
        classes = getattr(model, "classes", None)
        check_step_batch(seen, torch.empty(count), T=classes, net="sample", name="labels", first=0)
    if steps is None and method is None and (its := getattr(model, "sampler", None)):
        options = {**its, **options}
        print("sample, by the network's own sampler:", ", ".join(f"{name} {value}" for name, value in options.items()))
        steps, method = options.pop("steps", None), options.pop("method")
    trajectory, steps, options = chosen_sampler(schedule, steps, method, **options)
    batches = [range(count)[first : first + batch_size] for first in range(0, count, batch_size)]
    total, samples = len(batches) * (len(steps) if steps else schedule.T), []
    with tqdm(total=total, desc="sampling", unit="step", ncols=88, file=sys.stdout, disable=not progress) as bar:
        for images in batches:
            noise = image_noise(seed, images, shape, schedule.beta.device)
            label = () if labels is None else (labels[images.start : images.stop],)
            asked = lambda x, t, label=label: model(x, t, *label)  # noqa: E731
            fresh = {"noise": noise} if trajectory in (ddpm_trajectory, ddim_trajectory) else {}
            which = {"steps": steps} if steps else {}
            for step in trajectory(asked, schedule, noise(), **which, **fresh, **options):
                x = step.x
                bar.update()
            samples.append(x)
    return torch.cat(samples)


METHODS = {  # and what each takes beside `steps`
    "ddpm": (ddpm_trajectory, {"clip", "variance"}),
    "ddim": (ddim_trajectory, {"clip", "eta", "spacing"}),
    "heun": (heun_trajectory, {"clip", "spacing"}),
    "dpm_solver": (dpm_solver_trajectory, {"clip", "spacing"}),
}


def chosen_sampler(
    schedule: NoiseSchedule, steps: int | Iterable[int] | None = None, method: str | None = None, **options
) -> tuple[Callable, list[int] | None, dict]:
    """The trajectory that these arguments of `sample` ask for, its steps (None: all T) and its options."""
    method = method or ("ddpm" if steps is None else "ddim")
    if method not in METHODS:
        raise ValueError(f"sample: method is one of {', '.join(METHODS)}; got {method!r}")
    trajectory, known = METHODS[method]
    if wrong := options.keys() - known:
        raise ValueError(f"sample: {', '.join(sorted(wrong))}: {method} takes {', '.join(sorted(known))}")
    spacing = options.pop("spacing", "even")
    if method == "ddpm":
        if steps is not None:
            raise ValueError(f"sample: ddpm takes all T = {schedule.T} steps; for fewer: method='ddim'")
        return trajectory, None, options
    if isinstance(steps, Iterable):
        return trajectory, ddim_steps(schedule.T, steps), options
    return trajectory, spaced_steps(schedule, 50 if steps is None else steps, spacing), options


def guided_eps(eps: Tensor, eps_label: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, whose w is scale - 1): at scale 0 the label does not count,
    at 1 the network is taken at its word, above 1 what the label changed is exaggerated."""
    _check_images(eps=eps, eps_label=eps_label)
    return eps + scale * (eps_label - eps)


def guide(model: torch.nn.Module, scale: float) -> Model:
    """A network trained with label dropout as a callable (x, t, label) -> guided noise, for `sample(..., labels=...)`;
    both predictions are made in one pass. A scale of 1 to 5 is usual."""
    if getattr(model, "classes", None) is None:
        raise ValueError("guide: this network knows no labels: train UNet(classes=...) with Trainer(labels=...)")
    if not 0 <= scale <= 100:
        raise ValueError(f"guide: scale must lie in [0, 100] (0: no label, 1: the label as learned), got {scale!r}")

    def guided(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            raise ValueError("guide: towards which label? Pass sample(..., labels=...), one per image")
        labels = torch.cat([torch.full_like(label, model.classes), label])
        eps, eps_label = model(torch.cat([x, x]), torch.cat([t, t]), labels).chunk(2)
        return guided_eps(eps, eps_label, scale)

    for name in ("classes", "own_signal", "sampler"):  # `sample` looks at them
        setattr(guided, name, getattr(model, name, None))
    return guided


def image_noise(seed: int, images: Iterable[int], shape: tuple[int, ...], device: str | torch.device = "cpu") -> Noise:
    """Standard normal noise, (B, *shape) from each call, in which every image has its own random stream, made from
    (seed, image): it gets the same noise in any batch. Drawn on the CPU: the same numbers on every machine."""
    streams = [torch.Generator().manual_seed((seed * 1_000_003 + i) % 2**32) for i in images]
    return lambda: torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(device)


def clean_guess(schedule: NoiseSchedule, x_t: Tensor, t: int, eps: Tensor, clip: bool) -> Tensor:
    """The clean images (B, ...) that `x_t` came from if its noise was `eps`, clipped to [-1, 1] if `clip`."""
    _check_images(x_t=x_t, eps=eps)
    x0_hat = (x_t - schedule.sigma[t] * eps) / schedule.sqrt_alpha_bar[t]
    return x0_hat.clamp(-1, 1) if clip else x0_hat
