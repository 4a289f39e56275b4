"""How an image becomes noise: the forward processes of the course.

Contract for everything here: images `x` are float tensors of shape (B, ...), batch first; a per-image number such
as an amount or a step has shape (B,). Randomness is an argument, so every function is pure.

Steps are 1-based, as in the papers: t = 1 is the first step that adds noise, t = T the last, and index 0 of every
table is the clean image. Libraries that count from 0 call our step t their timestep t - 1.
"""

import copy
import math
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class NoiseSchedule:
    """How much noise each step adds, and what follows from it: tables of shape (T+1,), indexed by the step t.

    Made from `beta` alone, in float64; stored in float32, square roots included, on the device of `beta`.

    Args:
        beta: (T+1,), beta[0] = 0 and all others in (0, 1): the variance that step t adds.
        name: short label for plots.

    Raises:
        ValueError: if `beta` has another shape, does not start with 0, or holds a value outside (0, 1).

    >>> NoiseSchedule(torch.tensor([0, 0.5, 0.5])).alpha_bar
    tensor([1.0000, 0.5000, 0.2500])
    """

    beta: Tensor
    name: str = "custom"
    alpha: Tensor = field(init=False)  # 1 - beta
    alpha_bar: Tensor = field(init=False)  # product of alpha[1..t]; alpha_bar[0] = 1
    sqrt_alpha_bar: Tensor = field(init=False)  # what is left of the signal
    sigma: Tensor = field(init=False)  # sqrt(1 - alpha_bar): how much noise there is
    posterior_variance: Tensor = field(init=False)  # of q(x_{t-1} | x_t, x_0): Ho et al. 2020, eq. 7; 0 at t = 1

    def __post_init__(self):
        beta = torch.as_tensor(self.beta).detach()
        device, beta = beta.device, beta.cpu().double()  # off the device first: MPS has no float64
        if beta.ndim != 1 or len(beta) < 2 or beta[0] != 0:
            raise ValueError(f"beta must have shape (T+1,) with T >= 1 and beta[0] = 0, got shape {tuple(beta.shape)}")
        if not bool(((beta[1:] > 0) & (beta[1:] < 1)).all()):
            raise ValueError(
                f"beta[1:] must lie between 0 and 1, got {beta[1:].min().item():g} to {beta[1:].max().item():g}"
            )
        for name, table in tables(beta).items():
            object.__setattr__(self, name, table.float().to(device))

    def __repr__(self) -> str:
        return f"NoiseSchedule({self.name!r}, alpha_bar[T]={self.alpha_bar[-1].item():.2g})"

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.beta) - 1

    def to(self, device: str | torch.device) -> "NoiseSchedule":
        """The same schedule with its tables on `device`."""
        moved = copy.copy(self)
        for f in fields(self):
            value = getattr(self, f.name)
            object.__setattr__(moved, f.name, value.to(device) if isinstance(value, Tensor) else value)
        return moved


def tables(beta: Tensor) -> dict[str, Tensor]:
    """All tables of a schedule, name -> (T+1,), from `beta` (T+1,) with beta[0] = 0 and in its precision."""
    log_alpha_bar = torch.log1p(-beta).cumsum(0)
    variance = -torch.expm1(log_alpha_bar)  # 1 - alpha_bar, with no digit lost where alpha_bar is close to 1
    return {
        "beta": beta,
        "alpha": 1 - beta,
        "alpha_bar": log_alpha_bar.exp(),
        "sqrt_alpha_bar": (log_alpha_bar / 2).exp(),
        "sigma": variance.sqrt(),
        "posterior_variance": torch.cat([beta[:1], beta[1:] * variance[:-1] / variance[1:]]),
    }


def linear_beta(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02, rescale: bool = True) -> Tensor:
    """Betas on a straight line from `beta_1` to `beta_T` (Ho et al. 2020, section 4, made for T = 1000).

    Args:
        T: number of steps.
        beta_1: first beta, for T = 1000.
        beta_T: last beta, for T = 1000.
        rescale: multiply both by 1000 / T, so that step T is noise whatever T is. Without it, T well below 1000
            leaves much of the image in step T.

    Returns:
        (T+1,) float64, with 0 in front for the clean image.

    Raises:
        ValueError: if T is not an integer >= 1, or a beta, rescaled, lies outside (0, 1): with the default ends
            that is T <= 20.

    >>> linear_beta(4, 1e-4, 0.001)
    tensor([0.0000, 0.0250, 0.1000, 0.1750, 0.2500], dtype=torch.float64)
    """
    _check_length(T)
    factor = 1000 / T if rescale else 1.0
    if not all(0 < end * factor < 1 for end in (beta_1, beta_T)):
        raise ValueError(
            f"linear_beta: beta would go from {beta_1 * factor:g} to {beta_T * factor:g} (rescaled by {factor:g}), "
            "and must stay between 0 and 1; where T is small: smaller ends, rescale=False, or cosine_schedule"
        )
    beta = torch.zeros(T + 1, dtype=torch.float64)
    beta[1:] = torch.linspace(beta_1 * factor, beta_T * factor, T, dtype=torch.float64)
    return beta


def linear_schedule(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02, rescale: bool = True) -> NoiseSchedule:
    """The schedule with the betas of `linear_beta`; arguments and errors as there.

    >>> linear_schedule(200), linear_schedule(200, rescale=False)
    (NoiseSchedule('linear, T = 200', alpha_bar[T]=3e-05), NoiseSchedule('unscaled linear, T = 200', alpha_bar[T]=0.13))
    """
    unscaled = "" if rescale or T == 1000 else "unscaled "
    return NoiseSchedule(linear_beta(T, beta_1, beta_T, rescale), f"{unscaled}linear, T = {T}")


def cosine_schedule(T: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    """alpha_bar along a squared cosine (Nichol & Dhariwal 2021, eq. 17), each beta at most `max_beta`.

    Raises:
        ValueError: if T is not an integer >= 1, s is negative, or max_beta lies outside (0, 1).
    """
    _check_length(T)
    if not s >= 0 or not 0 < max_beta < 1:
        raise ValueError(f"cosine_schedule: need s >= 0 and 0 < max_beta < 1, got s = {s}, max_beta = {max_beta}")
    angle = (torch.arange(T + 1, dtype=torch.float64) / T + s) / (1 + s) * math.pi / 2
    f = angle.cos() ** 2  # (T+1,); the paper's f(t), and alpha_bar = f(t) / f(0)
    beta = torch.zeros(T + 1, dtype=torch.float64)
    beta[1:] = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
    return NoiseSchedule(beta, f"cosine, T = {T}")


def forward_step(x: Tensor, beta: float | Tensor, noise: Tensor) -> Tensor:
    """One step of the forward process: sqrt(1 - beta) x + sqrt(beta) noise (Ho et al. 2020, eq. 2).

    Args:
        x: images (B, ...).
        beta: in (0, 1): one number for all, or (B,), one per image.
        noise: same shape as `x`, standard normal.

    Raises:
        TypeError: if `x` or `noise` is not a float tensor.
        ValueError: if shapes do not fit or a beta lies outside (0, 1).
    """
    _check_images(x=x, noise=noise)
    beta = torch.as_tensor(beta, dtype=x.dtype, device=x.device)
    if not bool(((beta > 0) & (beta < 1)).all()):
        raise ValueError(f"forward_step: beta must lie between 0 and 1, got {beta.tolist()}")
    beta = per_image(beta, x) if beta.ndim else beta  # (B, 1, 1, 1) or ()
    return (1 - beta).sqrt() * x + beta.sqrt() * noise


def q_sample(schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Jump from the clean images to step t: sqrt(alpha_bar_t) x0 + sigma_t noise (Ho et al. 2020, eq. 4).

    Args:
        schedule: on the device of the images.
        x0: clean images (B, ...), in [-1, 1].
        t: (B,) integers in 1 ... T, each image its own step.
        noise: same shape as `x0`, standard normal.

    Returns:
        x_t, same shape as `x0`.

    Raises:
        TypeError: if an image tensor is not float or `t` is not an integer tensor.
        ValueError: if shapes do not fit, `t` is on another device than the schedule, or a step is not in 1 ... T.
            (On a GPU the values of `t` are not read: that would make the CPU wait for it at every step.)
    """
    _check_steps(schedule, t, x0=x0, noise=noise)
    return per_image(schedule.sqrt_alpha_bar[t], x0) * x0 + per_image(schedule.sigma[t], x0) * noise


def predict_x0(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """The clean images that `x_t` came from if its noise was `eps`: `q_sample` solved for x0. Errors as there.

    Near t = T an error in `eps` grows by sigma / sqrt(alpha_bar): clip the result to [-1, 1] where that matters.
    """
    _check_steps(schedule, t, x_t=x_t, eps=eps)
    return (x_t - per_image(schedule.sigma[t], x_t) * eps) / per_image(schedule.sqrt_alpha_bar[t], x_t)


def predict_eps(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
    """The noise in `x_t` if the clean images were `x0`: `q_sample` solved for the noise. Errors as there."""
    _check_steps(schedule, t, x_t=x_t, x0=x0)
    return (x_t - per_image(schedule.sqrt_alpha_bar[t], x_t) * x0) / per_image(schedule.sigma[t], x_t)


def posterior(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_{t-1} | x_t, x_0), a Gaussian (Ho et al. 2020, eq. 6 and 7). Errors as `q_sample`.

    Returns:
        mean: same shape as `x0`; at t = 1 it is x0.
        variance: (B, 1, ..., 1); at t = 1 it is 0.
    """
    _check_steps(schedule, t, x0=x0, x_t=x_t)
    before, now = schedule.sigma[t - 1] ** 2, schedule.sigma[t] ** 2  # (B,): 1 - alpha_bar
    of_x0 = schedule.sqrt_alpha_bar[t - 1] * schedule.beta[t] / now
    of_x_t = schedule.alpha[t].sqrt() * before / now
    mean = per_image(of_x0, x0) * x0 + per_image(of_x_t, x_t) * x_t
    return mean, per_image(schedule.posterior_variance[t], x0)


def snr(schedule: NoiseSchedule) -> Tensor:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) of each step, (T+1,); infinite at step 0, the clean image."""
    return schedule.alpha_bar / schedule.sigma**2


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) numbers to (B, 1, ..., 1) so that each multiplies its own image of `like` (B, ...).

    Raises:
        TypeError: if `values` is not a tensor.
        ValueError: if `values` is not one-dimensional with as many entries as `like` has images.

    >>> per_image(torch.rand(5), torch.rand(5, 3, 28, 28)).shape
    torch.Size([5, 1, 1, 1])
    """
    if not isinstance(values, Tensor):
        raise TypeError(
            f"expected a tensor with one number per image, got {type(values).__name__}; "
            f"the same for all: torch.full(({len(like)},), {values!r})"
        )
    if values.ndim != 1 or like.ndim < 1 or len(values) != len(like):
        raise ValueError(
            f"expected one number per image, shape ({like.shape[0] if like.ndim else '?'},), "
            f"got shape {tuple(values.shape)} for images of shape {tuple(like.shape)}"
        )
    return values.reshape(-1, *[1] * (like.ndim - 1))


def corrupt(x: Tensor, amount: Tensor, noise: Tensor) -> Tensor:
    """Blend each image with noise, along a straight line: (1 - amount) x + amount noise.

    Args:
        x: images (B, C, H, W), float, in [0, 1].
        amount: (B,) float in [0, 1]; 0 leaves the image alone, 1 leaves only noise.
        noise: same shape as `x`, uniform in [0, 1] in notebook 01.

    Returns:
        corrupted images, same shape and dtype as `x`.

    Raises:
        TypeError: if `x` or `amount` is not a float tensor.
        ValueError: if shapes do not fit or an amount lies outside [0, 1].
    """
    for name, tensor in (("x", x), ("amount", amount)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(
                f"corrupt: {name} must be a float tensor, got {found}; "
                "images: x.float() / 255, one amount per image: torch.tensor([0.5])"
            )
    if noise.shape != x.shape:
        raise ValueError(f"corrupt: noise has shape {tuple(noise.shape)}, images have {tuple(x.shape)}")
    weight = per_image(amount, x)  # (B, 1, 1, 1)
    if not bool(((weight >= 0) & (weight <= 1)).all()):
        raise ValueError(f"corrupt: amounts must lie in [0, 1], got {amount.min().item():g} to {amount.max().item():g}")
    return (1 - weight) * x + weight * noise


def _check_length(T: int) -> None:
    if not isinstance(T, int) or T < 1:
        raise ValueError(f"T, the number of steps, must be an integer >= 1, got {T!r}")


def _check_images(**images: Tensor) -> None:
    """Float tensors of one shape on one device: broadcasting between images is a bug that would pass silently."""
    (first, like), *_ = images.items()
    for name, image in images.items():
        if not isinstance(image, Tensor) or not image.is_floating_point():
            found = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise TypeError(f"{name} must be a float tensor, got {found}; uint8 images: to_float(images)")
        if image.shape != like.shape:
            raise ValueError(f"{name} has shape {tuple(image.shape)}, {first} has {tuple(like.shape)}")
        if image.device != like.device:
            raise ValueError(f"{name} is on {image.device}, {first} on {like.device}: {name}.to({str(like.device)!r})")


def _check_steps(schedule: NoiseSchedule, t: Tensor, **images: Tensor) -> None:
    """`t` is one step in 1 ... T per image, an integer tensor (B,) on the schedule's device."""
    _check_images(**images)
    name, image = next(iter(images.items()))
    if not isinstance(t, Tensor) or t.dtype not in (torch.int64, torch.int32):
        found = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"t must be an integer tensor, one step per image, got {found}; torch.full((B,), 500)")
    if t.ndim != 1 or t.shape != image.shape[:1]:
        raise ValueError(f"t must hold one step per image: {name} has shape {tuple(image.shape)}, t {tuple(t.shape)}")
    if t.device != schedule.beta.device:
        raise ValueError(f"t is on {t.device}, the schedule on {schedule.beta.device}: schedule.to({str(t.device)!r})")
    if t.device.type == "cpu" and len(t) and not 1 <= t.min() <= t.max() <= schedule.T:
        low, high = t.min().item(), t.max().item()
        raise ValueError(f"steps count from 1 to T = {schedule.T} (0 is the clean image), got {low} to {high}")
