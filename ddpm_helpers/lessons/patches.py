"""Patches and latents (notebook 19): a diffusion transformer (Peebles & Xie 2023), an autoencoder, a loop."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..checks import check_counts, check_step_batch
from ..losses import stratified_steps, velocity_loss
from ..nets import attention, conv3x3, sinusoidal_embedding, start_at_zero
from ..schedule import NoiseSchedule


def patchify(x: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) as tokens (B, H W / side^2, C side^2), row by row; in each channel, row, column."""
    if x.shape[2] % side or x.shape[3] % side:
        raise ValueError(f"patchify: patches of {side} x {side} do not divide images of {x.shape[2]} x {x.shape[3]}")
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=side, q=side)


def unpatchify(tokens: Tensor, side: int, height: int) -> Tensor:
    """What `patchify` did, undone: tokens (B, N, C side^2) -> images (B, C, height, W)."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=height // side, p=side, q=side)


def positions(rows: int, columns: int, width: int) -> Tensor:
    """Where each token stands, (rows * columns, width): waves for its row, then for its column; 4 divides width."""
    row, column = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    return torch.cat([sinusoidal_embedding(place, width // 2, max_period=100) for place in (row, column)], dim=1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens x (B, N, d), normalised over d, then scaled by 1 + scale and shifted, both (B, d)."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale[:, None]) + shift[:, None]


def adaln_zero(x: Tensor, branch: Callable, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
    """x (B, N, d) and what a branch adds to it: its input is modulated, its output multiplied by `gate`; shift, scale
    and gate are (B, d), from the conditioning (Peebles & Xie 2023, section 3.2)."""
    return x + gate[:, None] * branch(modulate(x, shift, scale))


def cross_attention(q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """For each of q (B, N, d) a weighted mean of v (B, L, e), with weights (B, N, L) by how well k (B, L, d) fits; what
    is not `real` (B, L), bool, has weight 0. Returns means (B, N, e) and weights (Vaswani et al. 2017, eq. 1)."""
    fit = q @ k.mT / q.shape[-1] ** 0.5
    weights = fit.masked_fill(~real[:, None], -torch.inf).softmax(-1)
    return weights @ v, weights


class DiTBlock(nn.Module):
    """Self-attention, if `words` is a number cross-attention to words of that width, and two layers for each token."""

    def __init__(self, width: int, heads: int, words: int | None = None):
        super().__init__()
        self.heads, self.weights = heads, None  # where each token looked last, (B, N, L)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.adaln = nn.Sequential(nn.SiLU(), start_at_zero(nn.Linear(width, 6 * width)))
        if words is not None:
            self.query, self.key_value = nn.Linear(width, width), nn.Linear(words, 2 * width)
            self.read = start_at_zero(nn.Linear(width, width))

    def forward(self, x: Tensor, known: Tensor, words: Tensor | None = None, real: Tensor | None = None) -> Tensor:
        """Tokens (B, N, width), conditioning (B, width), words (B, L, e), which are real (B, L) -> (B, N, width)."""
        shift, scale, gate, *second = self.adaln(known).chunk(6, dim=1)
        x = adaln_zero(x, self.look, shift, scale, gate)
        if words is not None:
            k, v = self.key_value(words).chunk(2, dim=-1)
            means, self.weights = cross_attention(self.query(F.layer_norm(x, x.shape[-1:])), k, v, real)
            x = x + self.read(means)
        return adaln_zero(x, self.mlp, *second)

    def look(self, h: Tensor) -> Tensor:
        """Self-attention, (B, N, width) -> (B, N, width)."""
        qkv = rearrange(self.qkv(h), "b n c -> b c n 1")
        return self.out(rearrange(attention(qkv, self.heads), "b c n 1 -> b n c"))


class DiT(nn.Module):
    """A diffusion transformer for images (B, channels, side, side), which are cut into patches; `words` as above."""

    def __init__(self, side=28, channels=1, patch=4, width=64, depth=4, heads=4, words=None):
        super().__init__()
        check_counts("DiT", side=side, channels=channels, patch=patch, depth=depth)
        if side % patch or width % 4 or width % heads:
            raise ValueError(f"DiT: {patch} must divide {side}, and 4 and {heads}, the heads, must divide {width}")
        self.patch, self.width, self.classes = patch, width, None
        self.stem = nn.Linear(channels * patch**2, width)
        self.last = start_at_zero(nn.Linear(width, channels * patch**2))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(DiTBlock(width, heads, words) for _ in range(depth))
        self.adaln = nn.Sequential(nn.SiLU(), start_at_zero(nn.Linear(width, 2 * width)))
        self.register_buffer("positions", positions(side // patch, side // patch, width), persistent=False)

    def forward(self, x: Tensor, t: Tensor, words=None, real=None, hint: Tensor | float = 0.0) -> Tensor:
        """(B, C, H, W), steps (B,) -> (B, C, H, W); a `hint` (B, width) is added to the embedding of the time."""
        check_step_batch(t, x, T=None, net="DiT")
        known = self.time(sinusoidal_embedding(t, self.width).to(x.dtype)) + hint
        tokens = self.stem(patchify(x, self.patch)) + self.positions
        for block in self.blocks:
            tokens = block(tokens, known, words, real)
        shift, scale = self.adaln(known).chunk(2, dim=1)
        return unpatchify(self.last(modulate(tokens, shift, scale)), self.patch, x.shape[2])


class Autoencoder(nn.Module):
    """Images (B, 1, 28, 28) in [-1, 1] to latents (B, channels, 7, 7) and back. `scale` makes their variance 1."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.channels = channels
        narrow, wide = nn.Conv2d(1, 16, 4, 2, 1), nn.Conv2d(16, 32, 4, 2, 1)
        self.encoder = nn.Sequential(narrow, nn.SiLU(), wide, nn.SiLU(), conv3x3(32, channels))
        grow = nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.SiLU()
        self.decoder = nn.Sequential(conv3x3(channels, 64), nn.SiLU(), *grow, conv3x3(16, 1))
        self.register_buffer("scale", torch.ones(()))

    def encode(self, x: Tensor) -> Tensor:
        """(B, 1, 28, 28) -> (B, channels, 7, 7), times `scale`."""
        return self.scale * self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """(B, channels, 7, 7), as `encode` makes them -> (B, 1, 28, 28) in [-1, 1]."""
        return self.decoder(z / self.scale).clamp(-1, 1)


def autoencoder_loss(net: Autoencoder, x: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of what is decoded, from latents with a little noise, and a price for large ones (else they
    would outgrow the noise)."""
    z = net.encoder(x)
    return F.mse_loss(net.decoder(z + 0.2 * noise), x) + 1e-3 * z.square().mean()


def diffusion_loss(model: Callable, schedule: NoiseSchedule, x: Tensor, generator: torch.Generator, *label) -> Tensor:
    """`velocity_loss` of images or latents at random steps; `model` is a `VelocityNet`."""
    t = stratified_steps(torch.rand(len(x), generator=generator), schedule.T)
    noise = torch.randn(x.shape, generator=generator)
    return velocity_loss(lambda x, t: model(x, t, *label), schedule, x, t, noise)


def fit(net: nn.Module, loss: Callable, count: int, steps: int | None = None, seconds: float = 0, lr=2e-3, batch=32):
    """Adam on `loss(index, generator)` for random indices (batch,) below `count`, for a number of `steps` or `seconds`
    of this process's processor; the rate rises, then falls to 0. Returns the losses; the net is left in eval mode."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer, generator = torch.optim.Adam(parameters, betas=(0.9, 0.99)), torch.Generator().manual_seed(0)
    losses, began, done = [], time.process_time(), 0.0
    net.train()
    while done < 1:
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (done + 1e-3) / 0.05, 1.0001 - done)
        value = loss(torch.randint(count, (batch,), generator=generator), generator)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(value.item())
        done = len(losses) / steps if steps else (time.process_time() - began) / seconds
    net.eval()
    return losses
