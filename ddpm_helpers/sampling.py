"""Samplers. A trajectory is a generator of `Step`s, yielded after the step is complete; callers draw, log or stop.

Contract of the diffusion samplers: `model` is a callable (x (B, ...) float, t (B,) int64 in 1 ... T) -> predicted
noise, same shape as x. A net stands in eval mode, its weights, x and the schedule on one device. All images of a
batch are at the same step, so in `ddpm_step` and `ddim_step` the steps t and s are plain integers; 0 is the clean
image. Noise is an argument: a tensor for one step, a callable without arguments for a trajectory (`image_noise`).

Clipping: images live in [-1, 1], so by default each predicted clean image is clipped to that range before the step
moves towards it. Near t = T a small error of the model is a large one of the clean image, and clipping keeps it from
growing. `clip=False` is the bare algorithm of the papers, for data that has no such range.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from .schedule import NoiseSchedule, _check_images, per_image, posterior, predict_eps, predict_x0


class Step(NamedTuple):
    """One completed step of a sampler."""

    t: float  # where the step ended: a step in 0 ... T - 1; for the naive sampler the amount of corruption left
    x: Tensor  # (B, C, H, W) where the step ended
    x0_hat: Tensor  # (B, C, H, W) the clean images that the model predicted, and the step moved towards
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
    """From step t to step t - 1: the loop body of Algorithm 2 (Ho et al. 2020).

    The mean is the posterior's (eq. 7) for the predicted clean image; without clipping that is the paper's eq. 11.

    Args:
        schedule: on the device of the images.
        x_t: images at step t, (B, ...).
        t: in 1 ... T, the same for all images.
        eps: predicted noise, same shape as `x_t`.
        noise: same shape as `x_t`, standard normal; at t = 1 none is added, and None will do.
        variance: of the added noise: "beta" (beta_t) or "posterior" (that of q(x_{t-1} | x_t, x_0)).
        clip: clip the predicted clean image to [-1, 1].

    Returns:
        x_{t-1}, same shape as `x_t`.

    Raises:
        TypeError: if an image tensor is not a float tensor.
        ValueError: if t is not an integer in 1 ... T, the variance is unknown, shapes do not fit, or the images are
            on another device than the schedule.
    """
    _check_step("t", t, 1, schedule.T)
    variance_t = sampling_variance(schedule, variance)[t]
    x0_hat = clean_guess(schedule, x_t, t, eps, clip)
    mean, _ = posterior(schedule, x0_hat, x_t, _for_each(x_t, t))
    if t == 1:
        return mean
    _check_images(x_t=x_t, noise=noise)
    return mean + variance_t.sqrt() * noise


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
    """From step t down to any step s < t (Song et al. 2021, eq. 12); s = 0 gives the clean images.

    Where the clean image was clipped, `eps` is replaced by the noise that fits it: x_t still is their mix. So
    eta = 1 with s = t - 1 is `ddpm_step` with variance "posterior", clipped or not.

    Args:
        schedule: on the device of the images.
        x_t: images at step t, (B, ...).
        t: in 1 ... T, the same for all images.
        s: in 0 ... t - 1.
        eps: predicted noise, same shape as `x_t`.
        noise: same shape as `x_t`, standard normal; needed only where eta > 0 and s > 0.
        eta: in [0, 1], share of fresh noise: 0 adds none, so the images depend on the start alone.
        clip: clip the predicted clean image to [-1, 1].

    Returns:
        x_s, same shape as `x_t`.

    Raises:
        TypeError: if an image tensor is not a float tensor.
        ValueError: if t, s or eta is out of its range, noise is missing, shapes do not fit, or the images are on
            another device than the schedule.
    """
    _check_step("t", t, 1, schedule.T)
    _check_step("s", s, 0, t - 1)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1] (0: no fresh noise, 1: as much as DDPM), got {eta!r}")
    x0_hat = clean_guess(schedule, x_t, t, eps, clip)
    if clip:
        eps = predict_eps(schedule, x_t, _for_each(x_t, t), x0_hat)
    a_bar, sigma = schedule.alpha_bar, schedule.sigma
    fresh = eta * sigma[s] / sigma[t] * (1 - a_bar[t] / a_bar[s]).sqrt()  # eq. 16, the paper's sigma_t
    kept = (sigma[s] ** 2 - fresh**2).clamp(min=0).sqrt()  # rounding must not make it negative
    x_s = schedule.sqrt_alpha_bar[s] * x0_hat + kept * eps
    if eta == 0 or s == 0:
        return x_s
    if noise is None:
        raise ValueError(f"ddim_step: eta = {eta} adds noise at every step but the last: pass noise")
    _check_images(x_t=x_t, noise=noise)
    return x_s + fresh * noise


@torch.no_grad()
def ddpm_trajectory(
    model: Callable[[Tensor, Tensor], Tensor],
    schedule: NoiseSchedule,
    x_T: Tensor,
    noise: Callable[[], Tensor],
    variance: str = "beta",
    clip: bool = True,
) -> Iterator[Step]:
    """Algorithm 2 of Ho et al. 2020: all T steps, from noise to images.

    Args:
        model: callable (x, t) -> predicted noise; see the top of this file.
        schedule: on the device of the images.
        x_T: the start (B, ...), standard normal.
        noise: callable () -> (B, ...), standard normal; called once a step, except for the last.
        variance: "beta" or "posterior".
        clip: clip each predicted clean image to [-1, 1].

    Yields:
        one `Step` per step, t = T - 1 ... 0; the last one's `x` are the samples.

    Raises:
        as `ddpm_step`, when the first step is asked for.
    """
    x = x_T
    for t in range(schedule.T, 0, -1):
        eps = model(x, _for_each(x, t))
        x0_hat = clean_guess(schedule, x, t, eps, clip)
        x = ddpm_step(schedule, x, t, eps, noise() if t > 1 else None, variance, clip)
        yield Step(t - 1, x, x0_hat, eps)


@torch.no_grad()
def ddim_trajectory(
    model: Callable[[Tensor, Tensor], Tensor],
    schedule: NoiseSchedule,
    x_T: Tensor,
    steps: int | Iterable[int] = 50,
    eta: float = 0.0,
    noise: Callable[[], Tensor] | None = None,
    clip: bool = True,
) -> Iterator[Step]:
    """DDIM (Song et al. 2021): from noise to images in few steps, without retraining.

    Args:
        model: callable (x, t) -> predicted noise; see the top of this file.
        schedule: on the device of the images.
        x_T: the start (B, ...): standard normal, or images at the first step of an explicit list.
        steps: how many, or which: see `ddim_steps`.
        eta: in [0, 1], share of fresh noise; see `ddim_step`.
        noise: callable () -> (B, ...), standard normal; needed where eta > 0.
        clip: clip each predicted clean image to [-1, 1].

    Yields:
        one `Step` per step, down to t = 0; the last one's `x` are the samples.

    Raises:
        as `ddim_step` and `ddim_steps`, when the first step is asked for.
    """
    x = x_T
    for t, s in pairwise([*ddim_steps(schedule.T, steps), 0]):
        eps = model(x, _for_each(x, t))
        x0_hat = clean_guess(schedule, x, t, eps, clip)
        x = ddim_step(schedule, x, t, s, eps, noise() if noise and eta > 0 and s > 0 else None, eta, clip)
        yield Step(s, x, x0_hat, eps)


def ddim_steps(T: int, steps: int | Iterable[int]) -> list[int]:
    """The steps at which DDIM asks the model, largest first; 0, where it ends, is left out.

    Args:
        T: steps of the schedule.
        steps: a number in 1 ... T of evenly spaced steps, the first of them T, where images are noise; or the steps
            themselves, in 1 ... T and decreasing.

    Raises:
        ValueError: if it is neither.

    >>> ddim_steps(1000, 5), ddim_steps(1000, [1000, 100, 10])
    ([1000, 800, 600, 400, 200], [1000, 100, 10])
    """
    if not isinstance(steps, Iterable):
        if not isinstance(steps, Integral) or not 1 <= steps <= T:
            raise ValueError(f"DDIM takes from 1 to T = {T} steps, got {steps!r}")
        return [T * i // steps for i in range(steps, 0, -1)]
    steps = list(steps)
    whole = bool(steps) and all(isinstance(t, Integral) for t in steps)
    if not whole or not all(t > s for t, s in pairwise([T + 1, *steps, 0])):
        raise ValueError(
            f"a list of DDIM steps must hold integers in 1 ... T = {T}, each below the one before, got {steps}"
        )
    return steps


@torch.no_grad()
def ddim_invert(
    model: Callable[[Tensor, Tensor], Tensor],
    schedule: NoiseSchedule,
    x0: Tensor,
    steps: int | Iterable[int] = 50,
) -> Tensor:
    """DDIM upwards: the noise from which `ddim_trajectory` (same `steps`, `clip=False`) leads back to about `x0`.

    A step without fresh noise is a step of Euler's method, and can be taken either way. On the way up it starts at
    the clean end, with the noise predicted there, so the way back is not quite the same: the more steps, the closer.
    Near t = T the predicted clean image is a difference of large numbers: where alpha_bar_T is tiny, as in
    `cosine_schedule`, start below it, say with steps = range(950, 0, -19).

    Args:
        model: callable (x, t) -> predicted noise; see the top of this file. At the clean end it is asked with t = 1.
        schedule: on the device of the images.
        x0: images (B, ...) in [-1, 1].
        steps: how many, or which: see `ddim_steps`.

    Returns:
        images at the highest of the steps, same shape as `x0`.

    Raises:
        TypeError: if `x0` is not a float tensor.
        ValueError: as `ddim_steps`.
    """
    _check_images(x0=x0)
    signal, sigma = schedule.sqrt_alpha_bar, schedule.sigma
    x = x0
    for s, t in pairwise([0, *reversed(ddim_steps(schedule.T, steps))]):
        eps = model(x, _for_each(x, max(s, 1)))
        _check_images(x=x, eps=eps)
        x = signal[t] * (x - sigma[s] * eps) / signal[s] + sigma[t] * eps
    return x


def slerp(x: Tensor, y: Tensor, amount: Tensor) -> Tensor:
    """From `x` to `y` along a circle around 0: where both have the same norm, so has everything in between.

    Args:
        x: (B, ...).
        y: same shape as `x`.
        amount: (B,), how far each image goes along its circle: 0 is `x`, 1 is `y`.

    Raises:
        TypeError: if an image tensor is not a float tensor.
        ValueError: if shapes do not fit, or an image of `x` and its partner have the same or opposite directions:
            then no circle is the one.

    >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5]))
    tensor([[0.7071, 0.7071]])
    """
    _check_images(x=x, y=y)
    amount = per_image(amount, x)  # (B, 1, ..., 1), as is the angle
    angle = per_image(torch.cosine_similarity(x.flatten(1), y.flatten(1)).acos(), x)
    if not bool((angle.sin() > 1e-3).all()):  # NaN, too: rounding can push a cosine past 1
        raise ValueError("slerp: an image and its partner have the same direction, or opposite ones")
    return (((1 - amount) * angle).sin() * x + (amount * angle).sin() * y) / angle.sin()


def sample(
    model: Callable[[Tensor, Tensor], Tensor],
    schedule: NoiseSchedule,
    count: int,
    shape: tuple[int, ...] = (1, 28, 28),
    steps: int | Iterable[int] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
    labels: Tensor | None = None,
    **options,
) -> Tensor:
    """Draw `count` images. Image i depends on (seed, i) alone, whatever `count` and `batch_size` are.

    (Its noise is the same to the bit; a net's own arithmetic may differ in the last digits from one batch size, and
    more from one device, to another.)

    Args:
        model: callable (x, t) -> predicted noise; see the top of this file. With labels: (x, t, label).
        schedule: on the device of the model's weights.
        count: number of images, at least 1.
        shape: of one image, (C, H, W).
        steps: None for all T steps of `ddpm_trajectory`; a number or a list for `ddim_trajectory`.
        seed: any integer.
        batch_size: images at a time, at least 1.
        progress: show a progress bar.
        labels: (count,) int64, what each image shall show, handed to the model batch by batch; see also `guide`.
        options: for the trajectory: `clip`; `variance` (DDPM) or `eta` (DDIM).

    Returns:
        (count, C, H, W) on the schedule's device.

    Raises:
        TypeError: if the labels are no tensor of integers.
        ValueError: if `count` or `batch_size` is below 1, or an option belongs to the other trajectory, or there are
            not `count` labels, or the model has the attribute `classes` and one lies outside of 0 ... classes; and as
            the trajectories do.
    """
    if not all(isinstance(number, Integral) and number >= 1 for number in (count, batch_size)):
        raise ValueError(f"sample: count and batch_size must be at least 1, and whole, got {count} and {batch_size}")
    if wrong := options.keys() - {"clip", "variance" if steps is None else "eta"}:
        raise ValueError(
            f"sample: {', '.join(sorted(wrong))} is no option here; all T steps (steps=None) take variance, "
            "DDIM (steps=50) takes eta, and both take clip"
        )
    if labels is not None:
        _check_labels(labels, count, getattr(model, "classes", None))
    steps = None if steps is None else ddim_steps(schedule.T, steps)
    batches = [range(count)[first : first + batch_size] for first in range(0, count, batch_size)]
    total, samples = len(batches) * (schedule.T if steps is None else len(steps)), []
    with tqdm(total=total, desc="sampling", unit="step", ncols=88, file=sys.stdout, disable=not progress) as bar:
        for images in batches:
            noise = image_noise(seed, images, shape, schedule.beta.device)
            asked = model if labels is None else _told(model, labels[images.start : images.stop])
            if steps is None:
                path = ddpm_trajectory(asked, schedule, noise(), noise, **options)
            else:
                path = ddim_trajectory(asked, schedule, noise(), steps, noise=noise, **options)
            for step in path:
                x = step.x
                bar.update()
            samples.append(x)
    return torch.cat(samples)


def _check_labels(labels: Tensor, count: int, classes: int | None) -> None:
    if not isinstance(labels, Tensor) or labels.dtype not in (torch.int64, torch.int32):
        found = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"sample: labels must be an integer tensor, one per image, got {found}; torch.tensor([3, 1])")
    if labels.shape != (count,):
        raise ValueError(f"sample: expected one label for each of {count} images, got shape {tuple(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())  # once here: on a GPU the network does not look
    if classes is not None and not 0 <= low <= high <= classes:
        raise ValueError(
            f"sample: labels must lie in 0 ... {classes - 1}, or be {classes} for no label; found {low} to {high}"
        )


def _told(model: Callable[[Tensor, Tensor, Tensor], Tensor], label: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: model(x, t, label)


def guided_eps(eps: Tensor, eps_label: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: from the noise predicted without the label past the one predicted with it.

    Ho & Salimans 2022, eq. 6, whose w is scale - 1: at scale 0 the label does not count, at 1 the network is taken at
    its word, above 1 what the label changed is exaggerated.

    Args:
        eps: (B, C, H, W) predicted noise, label unknown.
        eps_label: same shape, label known.
        scale: 0 or above.

    Returns:
        same shape as `eps`.
    """
    _check_images(eps=eps, eps_label=eps_label)
    return eps + scale * (eps_label - eps)


def guide(model: torch.nn.Module, scale: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A network with labels as a callable (x, t, label) -> guided noise, for `sample(..., labels=...)`.

    Both predictions are made in one pass over a batch of twice the size.

    Args:
        model: with the attribute `classes`, trained with label dropout; label `classes` means "no label".
        scale: of the guidance, in [0, 100]; 1 to 5 is usual.

    Raises:
        ValueError: if the network has no labels, or the scale is out of its range; from the callable, if it is asked
            without a label.
    """
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

    guided.classes = model.classes
    return guided


def image_noise(
    seed: int, images: Iterable[int], shape: tuple[int, ...], device: str | torch.device = "cpu"
) -> Callable[[], Tensor]:
    """A source of standard normal noise in which every image has its own random stream, made from (seed, image).

    So an image gets the same noise in any batch. All is drawn on the CPU, whose numbers are the same on every machine
    but for the last digits, then moved: slower than one draw for the whole batch, and little beside what a net takes.

    Args:
        seed: any integer.
        images: the number of each image in the batch, each 0 or more.
        shape: of one image, (C, H, W).
        device: where the noise is wanted.

    Returns:
        callable () -> (B, C, H, W) float32; the first call gives the start, each further call a step's noise.

    >>> noise = image_noise(seed=0, images=range(16), shape=(1, 28, 28))
    >>> noise().shape
    torch.Size([16, 1, 28, 28])
    """
    streams = [torch.Generator().manual_seed((seed * 1_000_003 + i) % 2**32) for i in images]
    return lambda: torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(device)


def clean_guess(schedule: NoiseSchedule, x_t: Tensor, t: int, eps: Tensor, clip: bool) -> Tensor:
    """The clean images (B, ...) that `x_t` came from if its noise was `eps`, clipped to [-1, 1] if `clip`."""
    x0_hat = predict_x0(schedule, x_t, _for_each(x_t, t), eps)
    return x0_hat.clamp(-1, 1) if clip else x0_hat


def sampling_variance(schedule: NoiseSchedule, name: str) -> Tensor:
    """The table (T+1,) of the variance that `ddpm_step` adds: Ho et al. 2020, section 3.2, has both."""
    if name not in ("beta", "posterior"):
        raise ValueError(f"unknown variance {name!r}: it is 'beta' or 'posterior'")
    return schedule.beta if name == "beta" else schedule.posterior_variance


def naive_step(x: Tensor, x0_hat: Tensor, i: int, steps: int) -> Tensor:
    """Move from `x` towards the prediction `x0_hat` by the share 1 / (steps left), in step i = 0 ... steps - 1.

    The last step (i = steps - 1) lands on the prediction. This is Euler's method on the straight path of
    `schedule.corrupt`; notebook 01, equation 1.5, shows it.

    Raises:
        ValueError: if not 0 <= i < steps.
    """
    if not 0 <= i < steps:
        raise ValueError(f"naive_step: i counts 0 ... steps - 1, got i = {i} of {steps} steps")
    _check_images(x=x, x0_hat=x0_hat)
    return x + (x0_hat - x) / (steps - i)


@torch.no_grad()
def naive_trajectory(model: Callable[..., Tensor], noise: Tensor, steps: int) -> Iterator[Step]:
    """Sample with a model that predicts the clean image: `steps` small moves towards an ever better guess.

    Args:
        model: callable (x, t) -> predicted clean images, same shape; t (B,) is the amount of corruption left.
        noise: the start (B, C, H, W), uniform in [0, 1].
        steps: number of moves, at least 1.

    Yields:
        one `Step` per move; the last one's `x` is the sample.

    Raises:
        ValueError: if steps < 1.
    """
    if steps < 1:
        raise ValueError(f"naive_trajectory: steps must be at least 1, got {steps}")
    x = noise
    for i in range(steps):
        amount = 1 - i / steps
        x0_hat = model(x, torch.full((len(x),), amount, device=x.device))
        x = naive_step(x, x0_hat, i, steps)
        yield Step(1 - (i + 1) / steps, x, x0_hat)


def _for_each(x: Tensor, t: int) -> Tensor:
    """The step as models and schedule functions want it: (B,) int64, one entry per image of `x`."""
    return torch.full((len(x),), t, dtype=torch.int64, device=x.device)


def _check_step(name: str, t: int, low: int, high: int) -> None:
    if not isinstance(t, Integral) or not low <= t <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, one for the whole batch, got {t!r}")
