"""The networks. One signature for all: forward(x (B, C, H, W) float, t (B,) int in 1 ... T) -> (B, C, H, W)."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .checks import _check_images, check_counts, check_image_batch, check_step_batch
from .schedule import NoiseSchedule, per_image


def sinusoidal_embedding(t: Tensor, dim: int, max_period: float = 10_000) -> Tensor:
    """Steps (B,) as waves (B, dim), from fast to slow, first the sines, then the cosines (Vaswani et al. 2017, section
    3.5, in the order of Ho et al. 2020). The first turns by one radian a step, the last hardly moves."""
    if dim < 2 or dim % 2:
        raise ValueError(f"sinusoidal_embedding: dim must be even and at least 2 (sines and cosines), got {dim}")
    i = torch.arange(dim // 2, device=t.device)
    frequency = torch.exp(-math.log(max_period) * i / (dim // 2))  # (dim/2,)
    angle = t.float()[:, None] * frequency  # (B, dim/2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def append_time(x: Tensor, t: Tensor, T: int) -> Tensor:
    """(B, C, H, W) with one channel more, the last: t / T, the same number at every pixel of an image."""
    time = (t / T).to(x.dtype).reshape(-1, 1, 1, 1).expand_as(x[:, :1])  # (B, 1, H, W)
    return torch.cat([x, time], dim=1)


def film(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """h (B, C, H, W), scale and shift (B, C): h (1 + scale) + shift for each channel (Perez et al. 2018)."""
    return h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


def group_norm(x: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """(B, C, H, W) with mean 0, variance 1 in each group of neighbouring channels of each image (Wu & He 2018). Nets
    use PyTorch's `nn.GroupNorm`, which does the same several times faster, then scales and shifts."""
    if x.shape[1] % groups:
        raise ValueError(f"group_norm: {groups} groups do not divide {x.shape[1]} channels")
    grouped = x.reshape(len(x), groups, -1)  # (B, groups, C / groups * H * W)
    mean = grouped.mean(dim=2, keepdim=True)
    variance = grouped.var(dim=2, keepdim=True, correction=0)
    return ((grouped - mean) / (variance + eps).sqrt()).reshape(x.shape)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """qkv (B, 3 C, H, W), the queries of all heads, then their keys, then their values -> (B, C, H, W): scaled
    dot-product attention among the pixels of each image (Vaswani et al. 2017, eq. 1)."""
    q, k, v = rearrange(qkv, "b (three heads c) h w -> three b heads (h w) c", three=3, heads=heads).contiguous()
    h = F.scaled_dot_product_attention(q, k, v)  # (B, heads, H W, C / heads); fast where q, k, v are contiguous
    return rearrange(h, "b heads (h w) c -> b (heads c) h w", h=qkv.shape[2])


def residual_block(block: "ResidualBlock", x: Tensor, known: Tensor) -> Tensor:
    """What a `ResidualBlock` computes from its five parts: a shortcut, and a branch that `film` changes half-way."""
    scale, shift = block.film(known).chunk(2, dim=1)  # (B, c_out) each
    h = film(block.norm(block.first(x)), scale, shift)  # (B, c_out, H, W)
    return block.shortcut(x) + block.last(h)


def down_and_up(net: "UNet", h: Tensor, known: Tensor) -> Tensor:
    """The body of `UNet`: h (B, base, H, W), known (B, 4 base) -> (B, base, H, W), with a stack of skips. `net.up` and
    `net.grow` begin with the lowest level."""
    skips = []
    for level, shrink in zip(net.down, net.shrink, strict=True):
        skips.append(level(h, known))  # (B, 32, 28, 28), (B, 64, 14, 14), (B, 128, 7, 7)
        h = shrink(skips[-1])
    h = net.middle(h, known)  # (B, 128, 7, 7)
    for level, grow in zip(net.up, net.grow, strict=True):
        h = level(torch.cat([h, skips.pop()], dim=1), known)  # (B, 128, 7, 7), (B, 64, 14, 14), (B, 32, 28, 28)
        h = grow(h)
    return h


class SimpleUNet(nn.Module):
    """A two-level U-Net that gets the time as a picture, t/T as one more input channel; one skip, which is added. With
    base = 64 it has 391,297 parameters, the published number; the layers were worked out from it."""

    def __init__(self, T: int, channels: int = 1, base: int = 64):
        super().__init__()
        check_counts("SimpleUNet", T=T, channels=channels, base=base)
        self.T, self.channels = T, channels
        self.down = conv3x3(channels + 1, base)
        self.middle = nn.Sequential(conv3x3(base, 2 * base), nn.SiLU(), conv3x3(2 * base, 2 * base), nn.SiLU())
        self.grow = nn.ConvTranspose2d(2 * base, base, kernel_size=4, stride=2, padding=1)
        self.up = conv3x3(base, base)
        self.out = conv3x3(base, channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, H, W) with even H and W, steps (B,) in 1 ... T -> (B, C, H, W)."""
        check_image_batch(x, channels=self.channels, multiple=2, net="SimpleUNet", weight=self.out.weight)
        check_step_batch(t, x, T=self.T, net="SimpleUNet")
        full = F.silu(self.down(append_time(x, t, self.T)))  # (B, base, H, W)
        h = self.middle(F.max_pool2d(full, 2))  # (B, 2 base, H/2, W/2)
        h = F.silu(self.grow(h)) + full  # (B, base, H, W)
        return self.out(F.silu(self.up(h)))  # (B, C, H, W)


class UNet(nn.Module):
    """The course's own: the U-Net of Ho et al. 2020, appendix B, small, with FiLM as in Dhariwal & Nichol 2021. A level
    is one residual block and one skip, and sides halve in between: H and W are divisible by patch * 2 ** (levels - 1).

    Args:
        base: width of the first level, divisible by 8; `multipliers` are the levels' widths in units of it.
        classes: number of labels, or None for a net without. One index more, `classes`, says "no label".
        attention: how many of the lowest levels have self-attention; the middle always has it.
        patch: side of the squares of pixels that are made channels first (space-to-depth), and pixels again last: with
            2 it is about four times as fast.
    """

    def __init__(
        self,
        channels: int = 1,
        base: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        classes: int | None = None,
        attention: int = 1,
        dropout: float = 0.0,
        patch: int = 1,
    ):
        super().__init__()
        check_counts("UNet", channels=channels, patch=patch, levels=len(multipliers))
        check_counts("UNet", **{f"multipliers[{i}]": multiple for i, multiple in enumerate(multipliers)})
        if not isinstance(base, int) or base < 8 or base % 8:
            raise ValueError(f"UNet: base must be divisible by 8, the number of norm groups, got {base}")
        self.channels, self.base, self.classes, self.patch = channels, base, classes, patch
        widths = [base * m for m in multipliers]
        attend = [i >= len(widths) - attention for i in range(len(widths))]
        known = 4 * base  # length of the embedding: of the time, and of the label if there is one
        self.time = nn.Sequential(nn.Linear(base, known), nn.SiLU(), nn.Linear(known, known))
        self.label = None if classes is None else nn.Embedding(classes + 1, known)
        self.stem = nn.Sequential(nn.PixelUnshuffle(patch), conv3x3(channels * patch**2, base))

        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for before, width, attends in zip([base, *widths[:-1]], widths, attend, strict=True):
            self.down.append(Level(before, width, known, attends, dropout))
            self.shrink.append(nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1))
        self.shrink[-1] = nn.Identity()  # the lowest level does not shrink further

        self.middle = Level(widths[-1], widths[-1], known, True, dropout)

        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for after, width, attends in reversed(list(zip([base, *widths[:-1]], widths, attend, strict=True))):
            self.up.append(Level(2 * width, width, known, attends, dropout))
            self.grow.append(nn.Sequential(nn.Upsample(scale_factor=2), conv3x3(width, after)))
        self.grow[-1] = nn.Identity()  # the first level has the full size again

        to_pixels = start_at_zero(conv3x3(widths[0], channels * patch**2))
        self.out = nn.Sequential(nn.GroupNorm(8, widths[0]), nn.SiLU(), to_pixels, nn.PixelShuffle(patch))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, C, H, W), steps (B,), labels (B,) in 0 ... classes or None -> (B, C, H, W)."""
        multiple = self.patch * 2 ** (len(self.down) - 1)
        check_image_batch(x, channels=self.channels, multiple=multiple, net="UNet", weight=self.time[0].weight)
        known = self.embed(x, t, label)  # (B, 4 base)
        h = self.stem(x)  # (B, base, H, W), with H and W divided by patch
        return self.out(down_and_up(self, h, known))  # (B, C, H, W), at full size

    def embed(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """The conditioning, time and label, as one vector per image: (B, 4 base)."""
        check_step_batch(t, x, T=None, net="UNet")
        known = self.time(sinusoidal_embedding(t, self.base).to(x.dtype))
        if self.label is None:
            if label is not None:
                raise ValueError("UNet: this net was made without labels: make it with UNet(classes=...)")
            return known
        if label is None:
            none = f"{self.classes} for no label: torch.full((B,), {self.classes})"
            raise ValueError(f"UNet: this net needs a label per image, 0 to {self.classes - 1}, or {none}")
        check_step_batch(label, x, T=self.classes, net="UNet", name="label", first=0)
        return known + self.label(label)


class Level(nn.Module):
    """One level of `UNet`: (B, c_in, H, W), (B, known) -> (B, c_out, H, W), by a residual block and self-attention."""

    def __init__(self, c_in: int, c_out: int, known: int, attends: bool, dropout: float):
        super().__init__()
        self.block = ResidualBlock(c_in, c_out, known, dropout)
        self.attention = SelfAttention(c_out) if attends else nn.Identity()

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        return self.attention(self.block(x, known))


class ResidualBlock(nn.Module):
    """Two convolutions, each after GroupNorm and SiLU, beside a shortcut (He et al. 2016; Ho et al. 2020). The
    embedding, a vector of length `known` per image, scales and shifts the features after the second norm: FiLM."""

    def __init__(self, c_in: int, c_out: int, known: int, dropout: float = 0.0):
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, c_in), nn.SiLU(), conv3x3(c_in, c_out))
        self.norm = nn.GroupNorm(8, c_out, affine=False)  # its scale and shift come from `film`
        self.film = nn.Sequential(nn.SiLU(), nn.Linear(known, 2 * c_out))  # scales, then shifts
        self.last = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), start_at_zero(conv3x3(c_out, c_out)))
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, kernel_size=1)

    wire = property(lambda self: self.shortcut)  # its older name, which answers to exercises use

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        return residual_block(self, x, known)


class SelfAttention(nn.Module):
    """(B, C, H, W) -> (B, C, H, W), C divisible by 8: every pixel looks at every pixel, beside a shortcut."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1, bias=False)
        self.out = start_at_zero(nn.Conv2d(channels, channels, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x))
        if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu":
            qkv = qkv.float()  # there attention is two to three times as fast
        with torch.autocast("cpu", enabled=False):
            h = attention(qkv, self.heads)
        return x + self.out(h)


class VelocityNet(nn.Module):
    """A network that predicts the velocity v, dressed as one that predicts the noise (Salimans & Ho 2022, appendix D).
    Near t = T, where a small error in the noise is a large one in the clean image, v is minus that image."""

    def __init__(self, net: nn.Module, schedule: NoiseSchedule):
        super().__init__()
        self.net, self.classes = net, getattr(net, "classes", None)
        self.register_buffer("own_signal", schedule.sqrt_alpha_bar, persistent=False)  # (T+1,)
        self.register_buffer("sigma", schedule.sigma, persistent=False)  # (T+1,)

    def forward(self, x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        """(B, C, H, W), steps (B,), labels (B,) if the net has labels -> noise (B, C, H, W)."""
        check_step_batch(t, x, T=len(self.own_signal) - 1, net="VelocityNet")
        v = self.net(x, t, *label)  # (B, C, H, W)
        _check_images(x=x, velocity=v)
        return per_image(self.own_signal[t], x) * v.float() + per_image(self.sigma[t], x) * x  # equation 4.19


NETS = {"SimpleUNet": SimpleUNet, "UNet": UNet}  # what a file of weights may name; `lessons.published` adds its own


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars in `model`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def multiply_adds(net: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """Multiplications with an addition in one forward pass, of convolutions, linear layers and attention: module name
    -> count, "" is the whole net."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode  # here, because it takes long to import

    # Attention done by plain matrix products is counted in every version of PyTorch.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(*inputs)
    root, counts = type(net).__name__, counter.get_flop_counts()
    return {name[len(root) + 1 :]: sum(n.values()) // 2 for name, n in counts.items() if name.startswith(root)}


def conv3x3(c_in: int, c_out: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps H and W."""
    return nn.Conv2d(c_in, c_out, kernel_size=3, padding=1)


def start_at_zero(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The same layer with weight and bias 0: what it feeds starts unchanged (Ho et al. 2020, their code)."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
