"""How good are the samples? Numbers that compare sets of images, and the likelihood of images under a model.

Images are float tensors (N, C, H, W) in [-1, 1], compared by what a small classifier, the feature network, computes
just before its answer.
"""

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .checks import _check_images
from .files import WEIGHTS, read
from .losses import Model
from .schedule import NoiseSchedule, predict_x0, q_sample


class FeatureNet(nn.Module):
    """A classifier: images (B, 1, 28, 28) in [-1, 1] -> logits (B, classes); 257,674 parameters for ten classes. The
    shipped one, trained on MNIST, reads more than 99 % of the test digits."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, kernel_size=3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)),
            nn.Linear(64 * 7 * 7, 64),  # the features
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def load_feature_net(device: str | torch.device = "cpu") -> FeatureNet:
    """The shipped feature network of digits, in eval mode."""
    state = read(WEIGHTS / "mnist_features.safetensors", "feature network")
    net = FeatureNet(state["classes"])
    net.load_state_dict(state["weights"])
    return net.eval().to(device)


class Evaluation(NamedTuple):
    """What the feature network makes of a set of images."""

    features: Tensor  # (N, 64)
    histogram: Tensor  # (classes,) the share of each class
    entropy: float  # of that histogram in nats: log(classes) if all classes come equally often, 0 if one does
    recognisable: float  # share of images of whose class it is at least 95 % sure; noise can fool it


@torch.no_grad()
def evaluate(net: FeatureNet, images: Tensor, batch_size: int = 500) -> Evaluation:
    """Show images (N, 1, 28, 28) in [-1, 1] to the feature network. Values out of range are an error, not clipped."""
    found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
    if found[1:] != (1, 28, 28) or len(images) < 2:
        raise ValueError(f"evaluate: expected images (N, 1, 28, 28), in grey, N at least 2, got {found}")
    low, high, real = images.min().item(), images.max().item(), images.is_floating_point()
    if not (real and low >= -1.001 and high <= 1.001):  # NaN fails both
        advice = "clip samples" if real else f"they are {images.dtype}, use to_float"
        raise ValueError(f"evaluate: images must lie in [-1, 1], found {low:.3g} to {high:.3g}: {advice}")
    if net.training:
        raise ValueError("evaluate: the net is in train mode, where dropout is at work; call net.eval() first")
    device = next(net.parameters()).device
    features = torch.cat([net.body(batch.to(device, torch.float32)) for batch in images.split(batch_size)])
    probability = net.head(features).softmax(1)  # (N, classes)
    histogram = torch.bincount(probability.argmax(1), minlength=probability.shape[1]).cpu() / len(images)
    recognisable = (probability.amax(1) >= 0.95).float().mean().item()
    return Evaluation(features.cpu(), histogram, torch.special.entr(histogram).sum().item(), recognisable)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance of two sets of features (N, D) and (M, D), taken for Gaussians (Dowson & Landau 1982, eq. 16):
    squared distance of the means plus tr(A + B - 2 (A^1/2 B A^1/2)^1/2) of covariances, in 64 bits. With Inception's
    features, the FID (Heusel et al. 2017). It is biased upwards for few features: compare equal numbers."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"frechet_distance: expected (N, D) and (M, D), got {tuple(a.shape)} and {tuple(b.shape)}")
    (mean_a, cov_a), (mean_b, cov_b) = _moments(a, "first"), _moments(b, "second")
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap
    return max(distance.item(), 0.0)


def _moments(features: Tensor, name: str) -> tuple[Tensor, Tensor]:
    x = features.detach().cpu().double()
    if len(x) < 2 or not x.isfinite().all():
        raise ValueError(f"frechet_distance: the {name} set needs at least 2 rows, all finite; it is {tuple(x.shape)}")
    covariance = x.T.cov().reshape(x.shape[1], x.shape[1])
    if not covariance.diagonal().any():
        raise ValueError(f"frechet_distance: all rows of the {name} set are equal: constant samples?")
    if len(x) <= x.shape[1]:
        few = f"{len(x)} samples cannot fill a {x.shape[1]}-dimensional covariance"
        warnings.warn(f"frechet_distance: {few}; the distance says little", stacklevel=3)
    return x.mean(0), covariance


def frechet_floor(features: Tensor, count: int, seed: int = 0) -> float:
    """The distance of two disjoint random sets of `count` rows of real features: what a perfect model would score."""
    if 2 * count > len(features):
        raise ValueError(f"frechet_floor: two sets of {count} need {2 * count} real images, there are {len(features)}")
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    return frechet_distance(features[order[:count]], features[order[count : 2 * count]])


def nearest_images(samples: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """For each sample the index of the closest of `images` (N,), and the root mean square of their difference (N,)."""
    if samples.shape[1:] != images.shape[1:] or not len(images):
        raise ValueError(f"nearest_images: shapes {tuple(samples.shape)} and {tuple(images.shape)} do not fit together")
    if not samples.is_floating_point() or samples.dtype != images.dtype:
        found = f"{samples.dtype} and {images.dtype}"
        raise TypeError(f"nearest_images: both must be floats in [-1, 1], got {found}; see to_float")
    flat, indices, distances = images.flatten(1), [], []
    for batch in samples.flatten(1).split(200):
        # cdist multiplies matrices, and near copies differ in its last digits: so take the first few, and subtract.
        near = torch.cdist(batch, flat).topk(min(5, len(flat)), largest=False).indices  # (n, 5)
        best = (batch[:, None] - flat[near]).square().mean(2).sqrt().min(1)
        indices.append(near.gather(1, best.indices[:, None])[:, 0])
        distances.append(best.values)
    return torch.cat(indices), torch.cat(distances)


class BitsPerDim(NamedTuple):
    """The variational bound of Ho et al. 2020, eq. 5, in bits per pixel and channel; means over the images."""

    prior: float  # L_T: how far x_T is from N(0, I)
    steps: Tensor  # (K,) the steps at which L_{t-1} was computed, rising
    per_step: Tensor  # (K,) L_{t-1} at those steps
    width: Tensor  # (K,) how many of the steps 2 ... T each of those stands for
    middle: float  # the sum of L_{t-1} over t = 2 ... T, estimated: that of `per_step` times `width`
    decoder: float  # L_0: -log p(x_0 | x_1), discretised to the 256 grey levels

    @property
    def total(self) -> float:
        return self.prior + self.middle + self.decoder


@torch.no_grad()
def bits_per_dim(
    model: Model, schedule: NoiseSchedule, images: Tensor, steps: int | None = None, seed: int = 0, clip: bool = True
) -> BitsPerDim:
    """An upper bound on -log2 p per dimension of images (N, C, H, W) made of 256 grey levels, with reverse variances
    beta_t (Ho et al. 2020, section 3.3). L_{t-1} is computed at all steps 2 ... T, or at most at `steps` of them: one
    from each of so many stretches, short where t is small and the terms are large, for a sum without bias. `clip` clips
    the predicted clean images to [-1, 1]."""
    if not (images.min() >= -1.001 and images.max() <= 1.001):
        raise ValueError("bits_per_dim: images must lie in [-1, 1], on 256 grey levels: use to_float")
    T, generator = schedule.T, torch.Generator().manual_seed(seed)
    if steps is not None and (not isinstance(steps, int) or not 1 <= steps <= T - 1):
        raise ValueError(f"bits_per_dim: steps must be in 1 ... T - 1 = {T - 1}, got {steps}")
    edges = torch.arange(2, T + 2) if steps is None else torch.logspace(1, math.log2(T + 1), steps + 1, base=2)
    edges = edges.round().long().unique()  # each stretch edges[i] ... edges[i + 1] - 1 of steps is seen by one of them
    width = edges.diff()
    chosen = edges[:-1] + (torch.rand(len(width), generator=generator) * width).long()

    def guess(t: int) -> Tensor:  # the clean images, as the model finds them in x_t
        steps = torch.full((len(images),), t, device=images.device)
        x_t = q_sample(schedule, images, steps, torch.randn(images.shape, generator=generator).to(images.device))
        parts = zip(x_t.split(500), steps.split(500), strict=True)  # a network needs most of the memory
        x0_hat = predict_x0(schedule, x_t, steps, torch.cat([model(*part) for part in parts]))
        return x0_hat.clamp(-1, 1) if clip else x0_hat

    error = torch.stack([(images - guess(t)).square().mean() for t in chosen.tolist()]).cpu()
    s = schedule.to("cpu")
    ratio = (s.posterior_variance / s.beta)[chosen]
    weight = s.alpha_bar[chosen - 1] * s.beta[chosen] / s.sigma[chosen] ** 4  # the posterior's mean is linear in x_0
    nats = 1 / math.log(2)
    per_step = 0.5 * (ratio - 1 - ratio.log() + weight * error) * nats
    decoder = -discretised_log_likelihood(images, guess(1), schedule.beta[1].sqrt()).mean() * nats
    middle = (per_step * width).sum().item()
    return BitsPerDim(prior_bits(schedule, images), chosen, per_step, width, middle, decoder.item())


def prior_bits(schedule: NoiseSchedule, images: Tensor) -> float:
    """L_T in bits per dimension: how far x_T is from N(0, I), if `images` (N, C, H, W) are where it started."""
    _check_images(images=images)
    a_bar = schedule.alpha_bar[-1]
    nats = 0.5 * (a_bar * images.square() - a_bar - torch.log1p(-a_bar)).mean()
    return nats.item() / math.log(2)


def discretised_log_likelihood(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-probability in nats of grey levels x, 2 u / 255 - 1, under a Gaussian cut into 256 bins (Ho et al. 2020, eq.
    13), of which the first and the last reach to infinity; `mean` is shaped as x, `std` a scalar; on the CPU."""
    x, mean, std = (value.cpu().double() for value in (x, mean, std))  # MPS has no float64
    side = torch.where(x > mean, -1.0, 1.0)  # the bin or its mirror image below the mean, where no digit is lost
    x, mean = side * x, side * mean
    upper = torch.where(x > 1 - 1 / 255, math.inf, (x + 1 / 255 - mean) / std)
    lower = torch.where(x < -1 + 1 / 255, -math.inf, (x - 1 / 255 - mean) / std)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return (log_upper + torch.log(-torch.expm1((log_lower - log_upper).clamp(max=-1e-300)))).float()
