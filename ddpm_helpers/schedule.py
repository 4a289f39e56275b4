"""How an image becomes noise: the forward process.

Images are float tensors (B, ...), a number per image, such as a step, has shape (B,); noise is an argument. Steps are
1-based, as in the papers: t = 1 is the first step that adds noise, t = T the last, and index 0 of every table is the
clean image. Libraries that count from 0 call our step t their timestep t - 1.
"""

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .checks import _check_beta_ends, _check_images, check_counts, check_step_batch


@dataclass(frozen=True, eq=False, repr=False)
class NoiseSchedule:
    """How much noise each step adds, and what follows from it: tables (T+1,), indexed by the step t, on one device.

    Computed from `beta` in float64, square roots included, and stored in float32.

    >>> NoiseSchedule(torch.tensor([0, 0.5, 0.5])).alpha_bar
    tensor([1.0000, 0.5000, 0.2500])
    """

    beta: Tensor  # the variance that step t adds: beta[0] = 0, the others in (0, 1)
    name: str = "custom"  # for plots
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
            least, most = beta[1:].min().item(), beta[1:].max().item()
            raise ValueError(f"beta[1:] must lie between 0 and 1, got {least:g} to {most:g}")
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
        vars(moved).update({name: table.to(device) for name, table in vars(self).items() if isinstance(table, Tensor)})
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
    """(T+1,) float64: 0, then a line from `beta_1` to `beta_T` (Ho et al. 2020, section 4, T = 1000). For other T both
    ends are multiplied by 1000 / T, so that step T is noise; with `rescale=False` a small T leaves some image."""
    check_counts("linear_beta", T=T)
    factor = 1000 / T if rescale else 1.0
    _check_beta_ends(beta_1 * factor, beta_T * factor)
    line = torch.linspace(beta_1 * factor, beta_T * factor, T, dtype=torch.float64)
    return torch.cat([line.new_zeros(1), line])


def linear_schedule(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02, rescale: bool = True) -> NoiseSchedule:
    """The schedule with the betas of `linear_beta`.

    >>> linear_schedule(200), linear_schedule(200, rescale=False)
    (NoiseSchedule('linear, T = 200', alpha_bar[T]=3e-05), NoiseSchedule('unscaled linear, T = 200', alpha_bar[T]=0.13))
    """
    unscaled = "" if rescale or T == 1000 else "unscaled "
    return NoiseSchedule(linear_beta(T, beta_1, beta_T, rescale), f"{unscaled}linear, T = {T}")


def cosine_schedule(T: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    """alpha_bar along a squared cosine (Nichol & Dhariwal 2021, eq. 17), each beta at most `max_beta`."""
    check_counts("cosine_schedule", T=T)
    if not s >= 0 or not 0 < max_beta < 1:
        raise ValueError(f"cosine_schedule: need s >= 0 and 0 < max_beta < 1, got s = {s}, max_beta = {max_beta}")
    angle = (torch.arange(T + 1, dtype=torch.float64) / T + s) / (1 + s) * math.pi / 2
    f = angle.cos() ** 2  # (T+1,); the paper's f(t), and alpha_bar = f(t) / f(0)
    beta = (1 - f[1:] / f[:-1]).clamp(max=max_beta)  # of the steps 1 ... T
    return NoiseSchedule(torch.cat([beta.new_zeros(1), beta]), f"cosine, T = {T}")


def forward_step(x: Tensor, beta: float | Tensor, noise: Tensor) -> Tensor:
    """One step of the forward process (Ho et al. 2020, eq. 2), `beta` in (0, 1): a number, or one `per_image`."""
    _check_images(x=x, noise=noise)
    values = torch.as_tensor(beta)
    if values.ndim not in (0, x.ndim) or not bool(((values > 0) & (values < 1)).all()):
        raise ValueError(f"beta must lie between 0 and 1, one number or per_image(beta, x), got {values.tolist()}")
    return (1 - beta) ** 0.5 * x + beta**0.5 * noise


def q_sample(schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Clean images x0 (B, ...) in [-1, 1], steps t (B,) in 1 ... T, standard normal noise -> x_t (B, ...), in closed
    form (Ho et al. 2020, eq. 4). All on the schedule's device; on a GPU the values of `t` are not checked."""
    _check_steps(schedule, t, x0=x0, noise=noise)
    return per_image(schedule.sqrt_alpha_bar[t], x0) * x0 + per_image(schedule.sigma[t], x0) * noise


def predict_x0(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """The clean images that `x_t` came from if its noise was `eps`: `q_sample` solved for x0. Near t = T an error in
    `eps` grows by sigma / sqrt(alpha_bar): clip the result to [-1, 1] where that matters."""
    _check_steps(schedule, t, x_t=x_t, eps=eps)
    return (x_t - per_image(schedule.sigma[t], x_t) * eps) / per_image(schedule.sqrt_alpha_bar[t], x_t)


def predict_eps(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
    """The noise in `x_t` if the clean images were `x0`: `q_sample` solved for the noise."""
    _check_steps(schedule, t, x_t=x_t, x0=x0)
    return (x_t - per_image(schedule.sqrt_alpha_bar[t], x_t) * x0) / per_image(schedule.sigma[t], x_t)


def posterior(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, ...) and variance (B, 1, ..., 1) of q(x_{t-1} | x_t, x_0), a Gaussian (Ho et al. 2020, eq. 6 and 7); at
    t = 1 they are x0 and 0."""
    _check_steps(schedule, t, x0=x0, x_t=x_t)
    of_x0 = schedule.sqrt_alpha_bar[t - 1] * schedule.beta[t] / schedule.sigma[t] ** 2  # (B,)
    of_x_t = schedule.alpha[t].sqrt() * schedule.sigma[t - 1] ** 2 / schedule.sigma[t] ** 2  # (B,)
    mean = per_image(of_x0, x0) * x0 + per_image(of_x_t, x_t) * x_t
    return mean, per_image(schedule.posterior_variance[t], x0)


def snr(schedule: NoiseSchedule) -> Tensor:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) of each step, (T+1,); infinite at step 0, the clean image."""
    return schedule.alpha_bar / schedule.sigma**2


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """(B,) numbers as (B, 1, ..., 1), so that each multiplies its own image of `like` (B, ...)."""
    if not isinstance(values, Tensor):
        raise TypeError(
            f"expected a tensor with one number per image, got {type(values).__name__}; "
            f"the same for all: torch.full(({len(like)},), {values!r})"
        )
    if values.ndim != 1 or values.shape != like.shape[:1]:
        raise ValueError(
            f"expected one number per image, shape ({', '.join(map(str, like.shape[:1]))},), "
            f"got shape {tuple(values.shape)} for images of shape {tuple(like.shape)}"
        )
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _check_steps(schedule: NoiseSchedule, t: Tensor, **images: Tensor) -> None:
    _check_images(schedule.beta.device, **images)
    check_step_batch(t, next(iter(images.values())), T=schedule.T)
