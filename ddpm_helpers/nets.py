"""The networks. One signature for all: forward(x (B, C, H, W) float, t (B,)) -> (B, C, H, W).

Steps `t` are integers counted from 1, as in `schedule`. Errors are raised by the two checks at the end of this file.
"""

import math
from itertools import pairwise
from numbers import Integral

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .schedule import NoiseSchedule, _check_images, per_image


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars in `model`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def multiply_adds(net: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """Multiplications with an addition that one forward pass takes, by module; "" is the whole net.

    Counted by PyTorch's `FlopCounterMode` in convolutions, linear layers and attention; norms, activations and sums
    are left out, as is usual: they are many times fewer.

    Returns:
        module name, as in `net.named_modules()` -> count; modules without any are left out.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode  # here, because it takes long to import

    # Attention done by plain matrix products is counted in every version of PyTorch.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(*inputs)
    root = type(net).__name__
    counts = {name: sum(by_kind.values()) // 2 for name, by_kind in counter.get_flop_counts().items()}
    return {name.removeprefix(root).removeprefix("."): n for name, n in counts.items() if name.startswith(root)}


class BasicUNet(nn.Module):
    """The smallest U-Net that learns something: six 5x5 convolutions and no idea of time.

    Three convolutions on the way down (32, 64, 64 channels, max-pool between them), three on the way up (nearest
    upsampling between them), and two skips that are added, not concatenated: 309,057 parameters for one channel.
    The last SiLU cannot go below -0.2785, so this net can output images in [0, 1] but never Gaussian noise.

    Args:
        channels: colour channels C of the images, in and out.
    """

    def __init__(self, channels: int = 1):
        super().__init__()
        conv = lambda c_in, c_out: nn.Conv2d(c_in, c_out, kernel_size=5, padding=2)  # noqa: E731
        self.down = nn.ModuleList([conv(channels, 32), conv(32, 64), conv(64, 64)])
        self.up = nn.ModuleList([conv(64, 64), conv(64, 32), conv(32, channels)])

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); `t` is accepted and ignored, this net never learns how noisy `x` is.

        Raises:
            ValueError: if `x` is not (B, C, H, W) with this net's C and with H and W divisible by 4.
        """
        check_image_batch(x, channels=self.down[0].in_channels, multiple=4, net="BasicUNet", weight=self.down[0].weight)
        full = F.silu(self.down[0](x))  # (B, 32, H, W)
        half = F.silu(self.down[1](F.max_pool2d(full, 2)))  # (B, 64, H/2, W/2)
        h = F.silu(self.down[2](F.max_pool2d(half, 2)))  # (B, 64, H/4, W/4)
        h = F.silu(self.up[0](h))
        h = F.silu(self.up[1](F.interpolate(h, scale_factor=2) + half))  # (B, 32, H/2, W/2)
        return F.silu(self.up[2](F.interpolate(h, scale_factor=2) + full))  # (B, C, H, W)


def sinusoidal_embedding(t: Tensor, dim: int, max_period: float = 10_000) -> Tensor:
    """Each step as `dim` numbers: waves from fast to slow, all sines first, then all cosines.

    Wave i of dim/2 has frequency max_period ** (-i / (dim/2)) (Vaswani et al. 2017, section 3.5; in the order of Ho et
    al. 2020, whose code divides by dim/2 - 1), so every frequency is used once: the first turns by one radian a step,
    the last hardly moves.

    Args:
        t: (B,) integer steps.
        dim: length of the embedding, even.
        max_period: one over the frequency that the slowest waves approach.

    Returns:
        (B, dim) float32.

    Raises:
        ValueError: if `dim` is odd or not positive.

    >>> sinusoidal_embedding(torch.tensor([0, 1]), 4)
    tensor([[0.0000, 0.0000, 1.0000, 1.0000],
            [0.8415, 0.0100, 0.5403, 0.9999]])
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"sinusoidal_embedding: dim must be even and at least 2 (sines and cosines), got {dim}")
    i = torch.arange(dim // 2, device=t.device)
    frequency = torch.exp(-math.log(max_period) * i / (dim // 2))  # (dim/2,)
    angle = t.float()[:, None] * frequency  # (B, dim/2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)  # (B, dim)


def append_time(x: Tensor, t: Tensor, T: int) -> Tensor:
    """The images with one channel more, the last: t / T, the same number at every pixel of an image.

    Args:
        x: (B, C, H, W).
        t: (B,) steps in 1 ... T.
        T: number of steps.

    Returns:
        (B, C + 1, H, W), of the dtype of `x`.
    """
    time = (t / T).to(x.dtype).reshape(-1, 1, 1, 1).expand_as(x[:, :1])  # (B, 1, H, W)
    return torch.cat([x, time], dim=1)


def film(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Features scaled and shifted, each channel of each image by its own two numbers: h * (1 + scale) + shift.

    Feature-wise linear modulation (Perez et al. 2018), written so that scale 0 and shift 0 change nothing.

    Args:
        h: (B, C, H, W).
        scale: (B, C).
        shift: (B, C).

    Returns:
        same shape as `h`.
    """
    return h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


class SimpleUNet(nn.Module):
    """A two-level U-Net that is told the time as a picture: t/T is one more input channel, the same at every pixel.

    Five 3x3 convolutions, a max-pool, a 4x4 transposed convolution and one skip, which is added. With base = 64 and
    one channel that is 391,297 parameters, the published number; the layers were worked out from it.

    Args:
        T: number of steps; `t` runs from 1 to T.
        channels: colour channels C of the images, in and out.
        base: width at full resolution; half resolution has twice as many channels.
    """

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
        """(B, C, H, W), steps (B,) in 1 ... T -> (B, C, H, W).

        Raises:
            TypeError: if `t` is not an integer tensor.
            ValueError: if `x` is not (B, C, H, W) with this net's C and even H and W, or `t` does not suit it.
        """
        check_image_batch(x, channels=self.channels, multiple=2, net="SimpleUNet", weight=self.out.weight)
        check_step_batch(t, x, T=self.T, net="SimpleUNet")
        full = F.silu(self.down(append_time(x, t, self.T)))  # (B, base, H, W)
        h = self.middle(F.max_pool2d(full, 2))  # (B, 2 base, H/2, W/2)
        h = F.silu(self.grow(h)) + full  # (B, base, H, W)
        return self.out(F.silu(self.up(h)))  # (B, C, H, W)


class LayerNormUNet(nn.Module):
    """A narrow U-Net with layer norms: channels 10, 20, 40, three levels down, a middle, three up, skips concatenated.

    Time comes from a frozen table of sinusoids; each level has a two-layer MLP that adds it to the level's input.
    At T = 1000 and one channel, with `input_norm`, there are 606,852 numbers as published: 506,852 are trained and
    100,000 are the table. (The published code declares the norm of the very last double convolution and skips it.
    Here it is used, so that no parameter lies idle.)

    Args:
        T: number of steps; `t` runs from 1 to T.
        channels: colour channels C of the images, in and out.
        size: height and width of the images, divisible by 4: a layer norm over (C, H, W) is made for one size.
        input_norm: normalise the input image first, as published. With one channel that removes the image's
            brightness, and the time just added to it, before the net has seen either. False leaves that norm out.

    Raises:
        ValueError: if `size` is not divisible by 4, or is below 8.
    """

    def __init__(self, T: int, channels: int = 1, size: int = 28, input_norm: bool = False):
        super().__init__()
        check_counts("LayerNormUNet", T=T, channels=channels, size=size)
        if size % 4 or size < 8:
            raise ValueError(f"LayerNormUNet: size must be divisible by 4 and at least 8, got {size}")
        half, quarter = size // 2, size // 4
        low = quarter // 2  # 28 -> 14 -> 7 -> 3
        self.T, self.channels, self.size = T, channels, size
        self.table = nn.Embedding.from_pretrained(sinusoidal_embedding(torch.arange(1, T + 1), 100), freeze=True)
        self.down = nn.ModuleList(
            [
                LayerNormLevel((channels, 10, 10, 10), size, input_norm),
                LayerNormLevel((10, 20, 20, 20), half),
                LayerNormLevel((20, 40, 40, 40), quarter),
            ]
        )
        self.middle = LayerNormLevel((40, 20, 20, 40), low)
        self.up = nn.ModuleList(
            [
                LayerNormLevel((80, 40, 20, 20), quarter),
                LayerNormLevel((40, 20, 10, 10), half),
                LayerNormLevel((20, 10, 10, 10), size),
            ]
        )
        shrink = lambda c: nn.Conv2d(c, c, kernel_size=4, stride=2, padding=1)  # noqa: E731
        grow = lambda c: nn.ConvTranspose2d(c, c, kernel_size=4, stride=2, padding=1)  # noqa: E731
        self.shrink = nn.ModuleList([shrink(10), shrink(20), shrink(40)])
        self.grow = nn.ModuleList([grow(40), grow(20), grow(10)])
        if quarter % 2:  # an odd side is first made even: 7 -> 6 -> 3, and back 3 -> 6 -> 7
            self.shrink[2] = nn.Sequential(nn.Conv2d(40, 40, kernel_size=2), nn.SiLU(), shrink(40))
            self.grow[0] = nn.Sequential(grow(40), nn.SiLU(), nn.ConvTranspose2d(40, 40, kernel_size=2))
        self.out = conv3x3(10, channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, size, size), steps (B,) in 1 ... T -> (B, C, size, size).

        Raises:
            TypeError: if `t` is not an integer tensor.
            ValueError: if `x` has not this net's C and size, or `t` does not suit it.
        """
        check_image_batch(
            x, channels=self.channels, multiple=1, net="LayerNormUNet", weight=self.out.weight, size=self.size
        )
        check_step_batch(t, x, T=self.T, net="LayerNormUNet")
        time = self.table(t - 1)  # (B, 100)
        h, skips = x, []
        for level, shrink in zip(self.down, self.shrink, strict=True):
            skips.append(level(h, time))  # (B, 10, 28, 28), (B, 20, 14, 14), (B, 40, 7, 7)
            h = shrink(skips[-1])
        h = self.middle(h, time)  # (B, 40, 3, 3)
        for grow, level in zip(self.grow, self.up, strict=True):
            h = torch.cat([skips.pop(), grow(h)], dim=1)  # (B, 80, 7, 7), (B, 40, 14, 14), (B, 20, 28, 28)
            h = level(h, time)
        return self.out(h)  # (B, C, 28, 28)


class LayerNormLevel(nn.Module):
    """One level of `LayerNormUNet`: add the time to every pixel, then three layer-normed double convolutions.

    Args:
        widths: four channel counts, from input to output.
        size: height and width at this level.
        first_norm: False leaves out the norm over the level's input.
    """

    def __init__(self, widths: tuple[int, int, int, int], size: int, first_norm: bool = True):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(100, widths[0]), nn.SiLU(), nn.Linear(widths[0], widths[0]))
        layers = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.LayerNorm((c_in, size, size)), conv3x3(c_in, c_out), nn.SiLU()]
            layers += [conv3x3(c_out, c_out), nn.SiLU()]
        self.layers = nn.Sequential(*(layers if first_norm else layers[1:]))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, widths[0], size, size), (B, 100) -> (B, widths[-1], size, size)."""
        return self.layers(x + self.time(time)[:, :, None, None])


class UNet(nn.Module):
    """The course's own: the U-Net of Ho et al. 2020, appendix B, small, with FiLM as in Dhariwal & Nichol 2021.

    A level is one residual block and one skip; between levels the sides halve. The output convolution and the last
    convolution of every residual branch start at zero: a new net predicts 0, and each block starts as a straight wire.

    Args:
        channels: colour channels C of the images, in and out.
        base: width of the first level, divisible by 8.
        multipliers: width of each level, in units of `base`. H and W must be divisible by 2 ** (levels - 1).
        classes: number of labels, or None for a net without. One index more, `classes`, says "no label".
        attention: how many of the lowest levels have self-attention; the middle always has it.
        dropout: share of features dropped in each residual block while training.
        patch: the first thing the net does is to fold each patch x patch square of pixels into channels, the last to
            unfold them. With 2, everything in between is on a quarter of the pixels, and about four times as fast.
            H and W must then be divisible by patch * 2 ** (levels - 1).

    Raises:
        ValueError: if `base` is not divisible by 8, the number of norm groups.

    >>> UNet(channels=3)(torch.randn(5, 3, 32, 32), torch.full((5,), 500)).shape
    torch.Size([5, 3, 32, 32])
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
        if not isinstance(base, Integral) or base < 8 or base % 8:
            raise ValueError(f"UNet: base must be divisible by 8, the number of norm groups, got {base}")
        self.channels, self.base, self.classes, self.patch = channels, base, classes, patch
        widths = [base * m for m in multipliers]
        attend = [i >= len(widths) - attention for i in range(len(widths))]
        known = 4 * base  # length of the vector that says what the net is told: time, and label if there is one
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
        """(B, C, H, W), steps (B,), labels (B,) in 0 ... classes or None -> (B, C, H, W).

        Raises:
            TypeError: if `t` or `label` is not an integer tensor.
            ValueError: if `x` has not this net's C or a size that its down-sampling divides; if `t` or `label` does
                not suit `x`; if a label is missing, out of range, or given to a net without labels.
        """
        multiple = self.patch * 2 ** (len(self.down) - 1)
        check_image_batch(x, channels=self.channels, multiple=multiple, net="UNet", weight=self.time[0].weight)
        known = self.embed(x, t, label)  # (B, 4 base)
        h = self.stem(x)  # (B, base, H, W), with H and W divided by patch
        return self.out(down_and_up(self, h, known))  # (B, C, H, W), at full size

    def embed(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """What the net is told beside the image, as one vector per image: (B, 4 base)."""
        check_step_batch(t, x, T=None, net="UNet")
        known = self.time(sinusoidal_embedding(t, self.base).to(x.dtype))
        if self.label is None:
            if label is not None:
                raise ValueError("UNet: this net was made without labels: make it with UNet(classes=...)")
            return known
        if label is None:
            raise ValueError(
                f"UNet: this net needs a label per image, 0 to {self.classes - 1}, or {self.classes} for no label: "
                f"torch.full((B,), {self.classes})"
            )
        check_index_batch(label, x, low=0, high=self.classes, name="label", net="UNet")
        return known + self.label(label)


def down_and_up(net: UNet, h: Tensor, known: Tensor) -> Tensor:
    """The body of `UNet`, from its stem to its output layers: down, middle, up, and the stack of skips.

    Args:
        net: has `down` and `shrink` (one of each a level), `middle`, `up` and `grow` (from the lowest level upwards).
        h: features (B, base, H, W).
        known: what the net is told, (B, 4 base), one vector per image.

    Returns:
        (B, base, H, W).
    """
    skips = []
    for level, shrink in zip(net.down, net.shrink, strict=True):
        skips.append(level(h, known))  # (B, 32, 28, 28), (B, 64, 14, 14), (B, 128, 7, 7)
        h = shrink(skips[-1])
    h = net.middle(h, known)  # (B, 128, 7, 7)
    for level, grow in zip(net.up, net.grow, strict=True):
        h = level(torch.cat([h, skips.pop()], dim=1), known)  # (B, 128, 7, 7), (B, 64, 14, 14), (B, 32, 28, 28)
        h = grow(h)
    return h


class VelocityNet(nn.Module):
    """A network that predicts the velocity, dressed as one that predicts the noise (Salimans & Ho 2022, appendix D).

    eps = sqrt(alpha_bar) v + sigma x_t (notebook 03, equation 3.32). Near t = T almost all of x_t is noise: to find it
    is easy, and a small error in it is a large one in the clean image; the velocity is minus the clean image there.

    Args:
        net: callable (x, t, and a label where it has labels) -> (B, C, H, W), taken for v.
        schedule: the one it is trained on.
    """

    def __init__(self, net: nn.Module, schedule: NoiseSchedule):
        super().__init__()
        self.net = net
        self.register_buffer("signal", schedule.sqrt_alpha_bar, persistent=False)  # (T+1,)
        self.register_buffer("sigma", schedule.sigma, persistent=False)  # (T+1,)

    @property
    def classes(self) -> int | None:
        """Number of labels of `net`, None if it has none."""
        return getattr(self.net, "classes", None)

    def forward(self, x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        """(B, C, H, W), steps (B,), labels (B,) if the net has labels -> noise (B, C, H, W). Errors as `net`."""
        check_step_batch(t, x, T=len(self.signal) - 1, net="VelocityNet")
        v = self.net(x, t, *label)  # (B, C, H, W)
        _check_images(x=x, velocity=v)
        return per_image(self.signal[t], x) * v.float() + per_image(self.sigma[t], x) * x


class Level(nn.Module):
    """One level of `UNet`: a residual block, then self-attention where wanted."""

    def __init__(self, c_in: int, c_out: int, known: int, attends: bool, dropout: float):
        super().__init__()
        self.block = ResidualBlock(c_in, c_out, known, dropout)
        self.attention = SelfAttention(c_out) if attends else nn.Identity()

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """(B, c_in, H, W), (B, known) -> (B, c_out, H, W)."""
        return self.attention(self.block(x, known))


class ResidualBlock(nn.Module):
    """Two convolutions, each after GroupNorm and SiLU, beside a straight wire (He et al. 2016; Ho et al. 2020).

    What the net is told scales and shifts the features after the second norm: FiLM (Perez et al. 2018).

    Args:
        c_in: channels in.
        c_out: channels out; where they differ, the wire is a 1x1 convolution.
        known: length of the vector that says what the net is told.
        dropout: share of features dropped before the last convolution, while training.
    """

    def __init__(self, c_in: int, c_out: int, known: int, dropout: float = 0.0):
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, c_in), nn.SiLU(), conv3x3(c_in, c_out))
        self.norm = nn.GroupNorm(8, c_out, affine=False)  # its scale and shift come from `film`
        self.film = nn.Sequential(nn.SiLU(), nn.Linear(known, 2 * c_out))
        self.last = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), start_at_zero(conv3x3(c_out, c_out)))
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, kernel_size=1)

    @property
    def wire(self) -> nn.Module:
        """The shortcut, under the name that it had."""
        return self.shortcut

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """(B, c_in, H, W), (B, known) -> (B, c_out, H, W)."""
        return residual_block(self, x, known)


def residual_block(block: ResidualBlock, x: Tensor, known: Tensor) -> Tensor:
    """What a `ResidualBlock` computes from its parts: a wire, and a branch that is scaled and shifted half-way.

    Args:
        block: has `first` (B, c_in, H, W) -> (B, c_out, H, W), `norm`, `film` (B, known) -> (B, 2 c_out), scales
            before shifts, `last`, and `wire` (B, c_in, H, W) -> (B, c_out, H, W).
        x: features (B, c_in, H, W).
        known: what the net is told, (B, known), one vector per image.

    Returns:
        (B, c_out, H, W).
    """
    scale, shift = block.film(known).chunk(2, dim=1)  # (B, c_out) each
    h = film(block.norm(block.first(x)), scale, shift)  # (B, c_out, H, W)
    return block.wire(x) + block.last(h)


class SelfAttention(nn.Module):
    """Every pixel looks at every pixel (Vaswani et al. 2017), beside a straight wire: cost grows as (H W)^2.

    Args:
        channels: channels in and out, divisible by 8.
        heads: how many looks at once, each on its share of the channels.
    """

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1, bias=False)
        self.out = start_at_zero(nn.Conv2d(channels, channels, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.out(attention(self.qkv(self.norm(x)), self.heads))


def attention(qkv: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention among the pixels of each image (Vaswani et al. 2017, eq. 1).

    Args:
        qkv: (B, 3 C, H, W): the queries of all heads, then their keys, then their values.
        heads: how many; each has its own C / heads channels.

    Returns:
        (B, C, H, W), the heads one after the other.
    """
    height = qkv.shape[2]
    # PyTorch's fast kernels want each look-up vector in one piece, and on a CPU float32: two to three times as fast.
    qkv = qkv.float() if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu" else qkv
    q, k, v = rearrange(qkv, "b (three heads c) h w -> three b heads (h w) c", three=3, heads=heads).contiguous()
    with torch.autocast("cpu", enabled=False):
        h = F.scaled_dot_product_attention(q, k, v)  # (B, heads, H W, C / heads)
    return rearrange(h, "b heads (h w) c -> b (heads c) h w", h=height)


def group_norm(x: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """Mean 0 and variance 1 for each group of channels of each image (Wu & He 2018).

    The nets use PyTorch's `nn.GroupNorm`, which does the same several times faster, then scales and shifts.

    Args:
        x: features (B, C, H, W), C divisible by `groups`.
        groups: how many; channels that follow each other belong together.
        eps: added to the variance.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: if `groups` does not divide C.
    """
    if x.shape[1] % groups:
        raise ValueError(f"group_norm: {groups} groups do not divide {x.shape[1]} channels")
    grouped = x.reshape(len(x), groups, -1)  # (B, groups, C / groups * H * W)
    mean = grouped.mean(dim=2, keepdim=True)
    variance = grouped.var(dim=2, keepdim=True, correction=0)
    return ((grouped - mean) / (variance + eps).sqrt()).reshape(x.shape)


def conv3x3(c_in: int, c_out: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps H and W."""
    return nn.Conv2d(c_in, c_out, kernel_size=3, padding=1)


def start_at_zero(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with weight and bias 0: what it feeds starts unchanged (Ho et al. 2020, their code)."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def check_image_batch(
    x: Tensor, *, channels: int, multiple: int, net: str, weight: Tensor, size: int | None = None
) -> None:
    """Raise a ValueError that says what to change if `x` does not suit a net.

    It must be a float tensor (B, channels, H, W) whose H and W are divisible by `multiple`, or equal to `size`; on the
    device of `weight`, one of the net's, and of its dtype (under autocast: not in float64 unless that is).
    """
    if not isinstance(x, Tensor) or x.ndim != 4:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{net}: expected images (B, {channels}, H, W), got {shape}; one image needs x[None]")
    if x.shape[1] != channels:
        raise ValueError(
            f"{net}: this net was made for {channels} channel(s), the images have {x.shape[1]}: "
            f"make it with {net}(channels={x.shape[1]})"
        )
    height, width = x.shape[-2:]
    if size is not None and (height, width) != (size, size):
        raise ValueError(
            f"{net}: this net was made for {size}x{size} images, got {height}x{width}; "
            f"resize them, or make it with {net}(size=...)"
        )
    if height % multiple or width % multiple:
        to = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
        raise ValueError(
            f"{net}: height and width must be divisible by {multiple}, got {height}x{width}; "
            f"resize or pad to {to[0]}x{to[1]}"
        )
    if not x.is_floating_point():
        raise ValueError(f"{net}: expected float images, got {x.dtype}; convert them first, e.g. x.float() / 255")
    double = torch.float64 in (x.dtype, weight.dtype)  # which autocast does not change
    if x.device != weight.device or (
        x.dtype != weight.dtype and (double or not torch.is_autocast_enabled(x.device.type))
    ):
        raise ValueError(
            f"{net}: the images are {x.dtype} on {x.device}, the net is {weight.dtype} on {weight.device}; "
            f"x.to({str(weight.device)!r}, {weight.dtype})"
        )


def check_counts(net: str, **counts: int) -> None:
    """Raise a ValueError that names what of the arguments of a net is no whole number, 1 or more."""
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{net}: {name} must be a whole number, at least 1, got {count!r}")


def check_step_batch(t: Tensor, x: Tensor, *, T: int | None, net: str) -> None:
    """Raise an error that says what to change if the steps `t` do not suit the images `x` (B, C, H, W).

    They must be integers (B,) on the device of `x`, in 1 ... T where the net knows T.
    """
    check_index_batch(t, x, low=1, high=T, name="t", net=net)


def check_index_batch(index: Tensor, x: Tensor, *, low: int, high: int | None, name: str, net: str) -> None:
    """`index` is one integer in low ... high per image of `x`: a tensor (B,) on the device of `x`.

    Where `high` is None there is no upper limit. Values on a GPU are not read, for the CPU would have to wait for them.
    """
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
        found = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"{net}: {name} must be an integer tensor, one per image, got {found}; torch.full((B,), {low})")
    if index.shape != x.shape[:1]:
        raise ValueError(
            f"{net}: {name} must have shape ({len(x)},), one per image, got {tuple(index.shape)}; "
            f"the same for all: torch.full(({len(x)},), {low})"
        )
    if index.device != x.device:
        raise ValueError(f"{net}: {name} is on {index.device}, the images on {x.device}: {name}.to(x.device)")
    if index.device.type != "cpu" or not len(index) or torch.compiler.is_compiling():
        return
    least, most = index.min().item(), index.max().item()
    if least < low or (high is not None and most > high):
        limits = f"lie in {low} ... {high}" if high is not None else f"be {low} or more"
        raise ValueError(f"{net}: {name} must {limits}, got {least} to {most}")


NETS = {"SimpleUNet": SimpleUNet, "LayerNormUNet": LayerNormUNet, "UNet": UNet}  # what a file of weights can hold
