"""What a network is asked for, how much each step counts, and the bounds that weighted losses are (notebook 16)."""

import math
import statistics

import torch
from torch import Tensor

from ..schedule import posterior
from .toy import ReverseModel, gaussian_kl, log_closed_form, log_forward

# What notebook 16 makes of the rows of `load_ladder("levers_cpu")`: group -> what was changed -> names of the rows.
RECIPE = "the recipe"
LEVERS = {
    "target, weights, draws": {
        "weighted timestep sampling": "weighted timestep sampling",
        "target: the noise, weights as they were": "noise as target",
        "weights of the velocity's own error": "weights of the velocity",
        "weights of min-SNR with gamma = 5": "min-SNR, gamma 5",
        "weights of the noise's own error": "weights of the noise",
        "target noise and its own error": "noise and its weights",
        "steps drawn independently, not stratified": "independent steps",
        "linear schedule": "linear schedule",
    },
    "sampler": {
        "all 1000 steps, not 50": "sampled in all 1000 steps",
        "200 steps": "sampled in 200 steps",
        "50 steps, more of them near T": "more steps near T",
        "no fresh noise": "no fresh noise",
    },
    "optimizer": {
        "no average of the weights": "last weights, no average",
        "learning rate stays up at the end": "learning rate stays up",
        "learning rate halved": "learning rate 1e-3",
        "learning rate doubled": "learning rate 4e-3",
        "batches of 32": "batches of 32",
        "batches of 128": "batches of 128",
    },
    "network, equal time": {
        "pixels, not patches; three levels": "no patches; 16, 32, 64",
        "narrower, base 24": "base 24",
        "wider, base 48": "base 48",
        "attention in one more block": "attention at 7 x 7 too",
        "float32, not bfloat16": "float32",
    },
}


def preconditioning(rho: Tensor, s: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_in, c_skip and c_out, each like `rho`, for images of mean square s^2 with noise of standard deviation rho added
    (Karras et al. 2022, table 1): the clean guess is c_skip x + c_out F(c_in x)."""
    if not s > 0 or not bool((rho >= 0).all()):
        raise ValueError(f"preconditioning: s must be above 0 and rho at least 0, got s = {s}, rho {rho.tolist()}")
    total = s**2 + rho**2
    return 1 / total.sqrt(), s**2 / total, rho * s / total.sqrt()


def uniform_share(weight: Tensor, first: int, wanted: float) -> Tensor:
    """The smallest share of uniform draws with which the steps `first` ... T are at least the part `wanted` of all
    draws, the rest drawn by weight (T,) > 0; 0 if the weight alone is enough."""
    even = (len(weight) - first + 1) / len(weight)
    if not 1 <= first <= len(weight) or not 0 <= wanted <= even:
        raise ValueError(
            f"uniform_share: first must lie in 1 ... {len(weight)} and wanted in 0 ... {even:g}, which uniform draws "
            f"give, got {first} and {wanted}"
        )
    alone = weight[first - 1 :].sum() / weight.sum()
    return torch.where(alone < wanted, (wanted - alone) / (even - alone), 0.0)


def step_terms(model: ReverseModel, x0: Tensor, grid: Tensor) -> Tensor:
    """L_{t-1} of equation (3.13) at one x0 by sums over the grid (n,): (T+1,), entry t; those of 0 and 1 are 0."""
    s, dx, terms = model.schedule, grid[1] - grid[0], torch.zeros(model.schedule.T + 1, dtype=grid.dtype)
    for t in range(2, s.T + 1):
        mean, _ = posterior(s, x0.expand(len(grid)), grid, torch.full((len(grid),), t))
        apart = gaussian_kl(mean, s.posterior_variance[t], model.mean(grid, t), model.variance[t])
        terms[t] = (log_closed_form(s, x0, grid, t).exp() * apart).sum() * dx
    return terms


def noised_bounds(model: ReverseModel, x0: Tensor, grid: Tensor) -> Tensor:
    """For s = 0 ... T the mean, over q(x_s | x0), of the bound (3.8) of the noised image x_s, whose own path begins at
    s: (T+1,) in nats, by sums over the grid (n,)."""
    s, dx = model.schedule, grid[1] - grid[0]
    total = (log_closed_form(s, x0, grid, s.T).exp() * model.log_prior(grid)).sum() * dx
    bounds = [total]
    for t in range(s.T, 0, -1):
        start = x0[None] if t == 1 else grid
        share = torch.ones(1) if t == 1 else log_closed_form(s, x0, grid, t - 1).exp() * dx  # of x_{t-1}
        log_q = log_forward(s, start[:, None], grid, t)  # row x_{t-1}, column x_t
        gain = model.log_step(start[:, None], grid, t) - log_q
        total = total + (share * (log_q.exp() * gain).sum(1) * dx).sum()
        bounds.append(total)
    return torch.stack(bounds[::-1])


def entropy(variance: Tensor) -> Tensor:
    """Of a Gaussian with this variance, in nats."""
    return 0.5 * torch.log(2 * math.pi * math.e * variance)


def chance(results: dict, runs: int = 1) -> tuple[float, float]:
    """The recipe's mean distance over its seeds, and how far the mean of some runs of something no better or worse may
    lie from it (95 %): 2.31 standard deviations of such a difference, pooled over the four designs with three seeds."""
    groups = [group for row in results["systems"] if len(group := of_seeds(results, row["name"])) == 3]
    pooled = statistics.mean(statistics.variance(group) for group in groups)
    spread = math.sqrt(pooled * (1 / runs + 1 / 3))
    return statistics.mean(of_seeds(results, RECIPE)), 2.31 * spread  # t with 4 x 2 degrees of freedom


def of_seeds(results: dict, name: str) -> list[float]:
    """The distances of a row and of those of its other seeds, seed 0 first ("no patches; 16, 32, 64" has "no patches,
    seed 1")."""
    found, short = {row["name"]: row["frechet"] for row in results["systems"]}, name.partition(";")[0]
    return [found[key] for key in (name, f"{short}, seed 1", f"{short}, seed 2") if key in found]


def paired(results: dict, name: str) -> tuple[float, float]:
    """How much closer to real images a lever comes than the recipe of the same seed: mean over three seeds, and half
    the width of its 95 % interval (t with 2 degrees of freedom)."""
    both = zip(of_seeds(results, RECIPE), of_seeds(results, name), strict=True)
    gains = [before - after for before, after in both]
    return statistics.mean(gains), 4.30 * statistics.stdev(gains) / math.sqrt(len(gains))


def levers_table(results: dict) -> str:
    """`LEVERS` as text, the closest to real images first in each group: distance, its difference to the recipe's mean,
    and whether that is more than chance may do."""
    lines = [f"{'changed in the recipe':44}distance   change   more than chance?"]
    for group, rows in LEVERS.items():
        lines.append(f"-- {group}")
        found = {words: of_seeds(results, name) for words, name in rows.items()}
        for words, values in sorted(found.items(), key=lambda item: statistics.mean(item[1])):
            middle, limit = chance(results, len(values))
            value, words = statistics.mean(values), words + f" ({len(values)} seeds)" * (len(values) > 1)
            verdict = ("better" if value < middle else "worse") if abs(value - middle) > limit else "-"
            lines.append(f"{words:44}{value:8.0f}{value - middle:+9.0f}   {verdict}")
    return "\n".join(lines)
