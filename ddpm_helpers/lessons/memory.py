"""Does it copy? The denoiser that does, when it must, and how to notice it in samples (notebook 20).

Images are floats (N, C, H, W) in [-1, 1] unless said otherwise; small digits are (N, 1, 14, 14).
"""

import json
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_counts, check_image_batch, check_step_batch
from ..files import WEIGHTS
from ..losses import min_snr_loss, stratified_steps
from ..nets import sinusoidal_embedding
from ..schedule import NoiseSchedule, predict_eps, snr

RESULTS = WEIGHTS.parent / "results" / "memory.json"


def small_digits(images: Tensor) -> Tensor:
    """uint8 (N, 1, 28, 28) -> uint8 (N, 1, 14, 14): the mean of each square of four pixels, rounded."""
    if images.dtype != torch.uint8 or images.shape[1:] != (1, 28, 28):
        raise ValueError(f"small_digits: expected uint8 (N, 1, 28, 28), got {images.dtype} {tuple(images.shape)}")
    return F.avg_pool2d(images.float(), 2).round().to(torch.uint8)


def split(images: Tensor, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two sets of n images, drawn at random without a common one: to train on, and held out."""
    if not 1 <= n <= len(images) // 2:
        raise ValueError(f"split: two sets of {n} need {2 * n} images, there are {len(images)}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:n]], images[order[len(images) // 2 :][:n]]


class TinyNet(nn.Module):
    """(B, 1, 14, 14), steps (B,) -> predicted noise (B, 1, 14, 14): fully connected, two residual blocks that the step
    scales and shifts. It guesses the clean image, and returns the noise that fits. It knows nothing of neighbouring
    pixels; 397,764 parameters for width 256."""

    def __init__(self, schedule: NoiseSchedule, width: int = 256, blocks: int = 2):
        super().__init__()
        check_counts("TinyNet", width=width, blocks=blocks)
        self.schedule = schedule
        self.first, self.last = nn.Linear(196, width), nn.Linear(width, 196)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(blocks))
        self.film = nn.ModuleList(nn.Linear(32, 2 * width) for _ in range(blocks))
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        check_image_batch(x, channels=1, multiple=14, net="TinyNet", weight=self.last.weight)
        check_step_batch(t, x, T=self.schedule.T, net="TinyNet")
        h, time = self.first(x.flatten(1)), sinusoidal_embedding(t, 32)
        for norm, film, inner, outer in zip(self.norms, self.film, self.inner, self.outer, strict=True):
            scale, shift = film(time).chunk(2, 1)
            h = h + outer(F.silu(inner(norm(h) * (1 + scale) + shift)))
        return predict_eps(self.schedule, x, t, self.last(F.silu(h)).reshape(x.shape))


@torch.no_grad()
def loss_on(net: nn.Module, schedule: NoiseSchedule, images: Tensor, count: int = 2000) -> float:
    """`min_snr_loss` on `count` images, some of them several times, with the same steps and noise for each net."""
    generator = torch.Generator().manual_seed(0)
    t = stratified_steps(torch.rand(count, generator=generator), schedule.T)
    t = t[torch.randperm(count, generator=generator)]
    noise = torch.randn((count, *images.shape[1:]), generator=generator)
    return min_snr_loss(net, schedule, images[torch.arange(count) % len(images)], t, noise).item()


def weights_of(images: Tensor, x_t: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """(B, N), float64: how likely each of N images is the one in x_t (B, C, H, W): the softmax of equation 13.1, with
    signal and sigma (B,). The ideal denoiser is the mean of the images with these weights."""
    flat, x = images.flatten(1).double(), x_t.flatten(1).double()
    signal, sigma = signal.double()[:, None], sigma.double()[:, None]
    closeness = signal * (x @ flat.T) - signal**2 * flat.square().sum(1) / 2
    return (closeness / sigma**2).softmax(1)


def images_in_play(images: Tensor, x_t: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """(B,): of how many images the ideal denoiser's answer is a mixture, 1 / sum of w^2; 1 is a copy, N their mean."""
    return 1 / weights_of(images, x_t, signal, sigma).square().sum(1)


def patch_x0(images: Tensor, x_t: Tensor, signal: float, sigma: float, side: int) -> Tensor:
    """The clean guess of a denoiser that sees only a square of `side` pixels (odd) around each pixel of x_t (B, 1, H,
    W), and answers with the mean of that pixel over the images that fit there. A square as large as all is the ideal
    denoiser, which copies; a small one mixes parts of different images (Kamb & Ganguli 2025)."""
    if side < 1 or side % 2 == 0:
        raise ValueError(f"patch_x0: side must be odd and at least 1, got {side}")
    away = (x_t - signal * images[:, 0]).square()  # (B, N, H, W)
    near = F.avg_pool2d(away, side, stride=1, padding=side // 2) * side**2  # zeros around the image add nothing
    weight = (-near / (2 * sigma**2)).softmax(1)
    return (weight * images[:, 0]).sum(1, keepdim=True)


def information(ratio: Tensor | float, variances: Tensor) -> Tensor:
    """Nats that x_t tells of a Gaussian clean image with these variances (D,) along its axes, at a signal-to-noise
    ratio: 1/2 sum log(1 + ratio variance)."""
    return torch.log1p(ratio * variances).sum() / 2


def collapse_step(schedule: NoiseSchedule, n: int, variances: Tensor) -> int:
    """The last step t at which x_t tells more of the clean image than the log n nats that single out one of n: from
    there down to 0 the ideal denoiser of n images copies (Biroli et al. 2024). Variances (D,) as in `information`."""
    told = torch.stack([information(ratio, variances) for ratio in snr(schedule)[1:].double()])
    return int((told >= math.log(n)).sum())


def nearest_share(samples: Tensor, train: Tensor, held: Tensor) -> float:
    """Share of the samples whose nearest image is one of `train` and not one of as many of `held`; 1/2 is expected of
    a model that has not seen either, and 1 of one that copies. A tie counts one half."""
    held = held[: len(train)]
    if len(held) < len(train):
        raise ValueError(f"nearest_share: {len(train)} training images need as many held-out ones, got {len(held)}")
    a, b = (torch.cdist(samples.flatten(1).double(), x.flatten(1).double()).amin(1) for x in (train, held))
    return ((a < b).double() + (a == b).double() / 2).mean().item()


def null_error(counts: Tensor) -> float:
    """Standard deviation of `nearest_share` if nothing was copied: counts (2 N,), how many samples are nearest to each
    of all the images, N of which, at random, were for training."""
    counts, all_images = counts.double(), len(counts)
    spread = counts.square().sum() - counts.sum() ** 2 / all_images
    return (spread * all_images / (all_images - 1)).sqrt().item() / (2 * counts.sum().item())


def load_memory() -> dict:
    """What `tests/benchmarks/memory.py` measured: the parts "memory", "scaling", "families", each
    with "about" and "rows"."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def drawn(row: dict) -> Tensor:
    """The first ten samples of a row of results: (10, 1, 14, 14) uint8."""
    return torch.frombuffer(bytearray.fromhex(row["samples"]), dtype=torch.uint8).reshape(10, 1, 14, 14)
