"""Few calls of a network: the exact flow map of the one-pixel world, distillation, and a challenge (notebook 18).

On the one-pixel world times are those of `sde`, numbers are float64; on images `t` and `s` are steps of a schedule.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checks import check_counts
from ..data import load_images, to_float
from ..machine import default_device
from ..metrics import evaluate, frechet_distance, load_feature_net
from ..pretrained import load_pretrained
from ..sampling import ddim_step, image_noise
from ..schedule import NoiseSchedule
from . import sde
from .ladder import RESULTS
from .toy import Mixture


def load_results() -> dict:
    """What `tests/benchmarks/distil.py` measured: "samples", "command", ... and "rows"."""
    return json.loads((RESULTS / "few_steps.json").read_text(encoding="utf-8"))


CALLS = (4, 2, 1)  # label 0, 1, 2 of the shipped student says how many calls it has


def distribution(data: Mixture, x: Tensor, t: Tensor | float) -> Tensor:
    """F_t(x), the share of the noised data below x (N,)."""
    m, s = sde.signal(t)[..., None], sde.sigma(t)[..., None]
    spread = (m**2 * data.stds**2 + s**2).sqrt()
    return (data.weights * torch.special.ndtr((x[..., None] - m * data.means) / spread)).sum(-1)


def quantile(data: Mixture, share: Tensor, t: Tensor | float) -> Tensor:
    """Q_t(share), the x with F_t(x) = share, for shares (N,) in (0, 1): found by halving an interval 60 times."""
    if not bool(((share > 0) & (share < 1)).all()):
        raise ValueError(f"quantile: shares must lie in (0, 1), got {share.min().item():g} to {share.max().item():g}")
    reach = data.means.abs().max() + 10 * data.stds.max() + 10
    low, high = -reach.expand_as(share), reach.expand_as(share)
    for _ in range(60):
        middle = (low + high) / 2
        below = distribution(data, middle, t) < share
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def flow_map(data: Mixture, x: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
    """Where the probability-flow ODE takes x (N,) from time t to time s: paths on a line keep their order."""
    return quantile(data, distribution(data, x, t), s)


def with_skip(x: Tensor, answer: Tensor, signal: Tensor, sigma: Tensor, spread: float) -> Tensor:
    """A clean image from the input x = signal x_0 + sigma noise and a network's answer, which has unit variance: the
    skip of Karras et al. 2022 and Song, Dhariwal et al. 2023, in our signal and sigma; `spread` is the data's standard
    deviation. Without noise it returns x."""
    variance = signal**2 * spread**2 + sigma**2
    return signal * spread**2 / variance * x + spread * sigma / variance.sqrt() * answer


def distilled_target(schedule: NoiseSchedule, x_t: Tensor, t: int, x_s: Tensor, s: int) -> Tensor:
    """The clean images (B, ...) with which one DDIM step from x_t at t ends in x_s at s (Salimans & Ho 2022, appendix
    G)."""
    ratio = schedule.sigma[s] / schedule.sigma[t]
    return (x_s - ratio * x_t) / (schedule.sqrt_alpha_bar[s] - ratio * schedule.sqrt_alpha_bar[t])


@torch.no_grad()
def walk(net: Callable, schedule: NoiseSchedule, x: Tensor, steps: list[int], *label: Tensor) -> Tensor:
    """x (B, ...) from steps[0] to steps[-1] by DDIM, one call of the network for each interval."""
    for t, s in pairwise(steps):
        x = ddim_step(schedule, x, t, s, net(x, torch.full((len(x),), t, device=x.device), *label))
    return x


def fewest_calls(calls: Tensor, distance: Tensor, error: Tensor) -> int:
    """The smallest number of calls whose distance is not clearly above the smallest one: the difference is at most
    twice its standard error. All three (N,); the errors are independent."""
    best = distance.argmin()
    close = distance - distance[best] <= 2 * (error**2 + error[best] ** 2).sqrt()
    return int(calls[close].min())


def distance(features: Tensor, real: Tensor, times: int = 50) -> tuple[float, float]:
    """Frechet distance of features (N, 64) to real ones, and its error: the standard deviation over so many bootstrap
    samples of the N."""
    generator = torch.Generator().manual_seed(0)
    again = (features[torch.randint(len(features), (len(features),), generator=generator)] for _ in range(times))
    spread = torch.tensor([frechet_distance(drawn, real) for drawn in again]).std()
    return frechet_distance(features, real), spread.item()


def recall(features: Tensor, real: Tensor, k: int = 3) -> float:
    """Share of real images that lie as near to some sample as that sample's k-th neighbour does (Kynkäänniemi et al.
    2019); features (N, D), as many of both."""
    if features.shape != real.shape:
        raise ValueError(f"recall: as many samples as real images, got {len(features)} and {len(real)}")
    reach = torch.cdist(features, features).kthvalue(k + 1).values  # the nearest is the sample itself
    return (torch.cdist(real, features) <= reach).any(1).double().mean().item()


class TinyStudent(nn.Module):
    """(x (N,), t (N,) or a number) -> a clean guess (N,), in float64: two hidden layers, dressed by `with_skip`."""

    def __init__(self, width: int = 64):
        super().__init__()
        layers = (nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.net = nn.Sequential(*layers).double()

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        m, s = sde.signal(t).expand_as(x), sde.sigma(t).expand_as(x)
        return with_skip(x, self.net(torch.stack([x, m, s], -1))[..., 0], m, s, 1.0)


def step(x: Tensor, guess: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
    """One DDIM step of the one-pixel world from t to s with this clean guess; all (N,) or numbers."""
    ratio = sde.sigma(s) / sde.sigma(t)
    return ratio * x + (sde.signal(s) - ratio * sde.signal(t)) * guess


class Refused(RuntimeError):
    """A sampler asked more, or otherwise, than the challenge allows: the message says how."""


@torch.no_grad()
def score(sampler: Callable, calls: int, count: int = 2_000, network: str | Path = "mnist_few", name="yours") -> str:
    """Draw `count` digits with at most `calls` calls of the network for each batch, print their distance with its
    error, and return the line for the table of records in docs/RESULTS.md.

    `sampler(ask, schedule, x_T (B, 1, 28, 28))` returns images in [-1, 1]. `ask(x (B, 1, 28, 28), t (B,), *label (B,))`
    answers with the noise; one call is one forward pass of one batch. The network is loaded here, from weights by name
    or file, and any module that runs outside of `ask` is seen. Not seen: a network without modules, stored images.
    """
    check_counts("score", calls=calls, count=count)
    device = default_device()
    (model, schedule, _), asked, inside = load_pretrained(network, device), 0, False

    def ask(x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        nonlocal asked, inside
        if x.shape != x_T.shape:
            raise Refused(f"a call with images {tuple(x.shape)}: the batch was {tuple(x_T.shape)}")
        if asked == calls:
            raise Refused(f"call {asked + 1} for one batch, and {calls} are allowed")
        asked, inside = asked + 1, True
        try:
            return model(x, t, *label)
        finally:
            inside = False

    def look(module: nn.Module, _) -> None:
        if not inside:
            raise Refused(f"a {type(module).__name__} ran outside of `ask`, where no call is counted")

    drawn = []
    for images in torch.arange(count).split(100):
        x_T, asked = image_noise(0, images.tolist(), (1, 28, 28), device)(), 0
        hook = nn.modules.module.register_module_forward_pre_hook(look)
        try:
            x = sampler(ask, schedule, x_T.clone())
        finally:
            hook.remove()
        if not isinstance(x, Tensor) or x.shape != x_T.shape or not x.isfinite().all():
            raise Refused(f"the sampler must return images {tuple(x_T.shape)}, all finite")
        drawn.append(x.clamp(-1, 1))
    net = load_feature_net(device)
    real = evaluate(net, to_float(load_images("mnist", train=False).images)).features
    value, error = distance(evaluate(net, torch.cat(drawn)).features, real)
    line = f"| {name} | {calls} | {value:.0f} ± {error:.0f} | {count:,} |"
    print(line)
    return line
