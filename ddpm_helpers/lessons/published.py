"""Two published networks, rebuilt: the smallest U-Net of notebook 01, and a narrow one with layer norms (05, 10)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_counts, check_image_batch, check_step_batch
from ..nets import NETS, conv3x3, sinusoidal_embedding


class BasicUNet(nn.Module):
    """The smallest U-Net that learns something: six 5x5 convolutions, two skips that are added, 309,057 parameters, and
    no idea of time. The last SiLU cannot go below -0.2785: images in [0, 1] can come out, Gaussian noise never."""

    def __init__(self, channels: int = 1):
        super().__init__()
        conv = lambda c_in, c_out: nn.Conv2d(c_in, c_out, kernel_size=5, padding=2)  # noqa: E731
        self.down = nn.ModuleList([conv(channels, 32), conv(32, 64), conv(64, 64)])
        self.up = nn.ModuleList([conv(64, 64), conv(64, 32), conv(32, channels)])

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """(B, C, H, W), H and W divisible by 4 -> (B, C, H, W); `t` is accepted and ignored."""
        check_image_batch(x, channels=self.down[0].in_channels, multiple=4, net="BasicUNet", weight=self.down[0].weight)
        full = F.silu(self.down[0](x))  # (B, 32, H, W)
        half = F.silu(self.down[1](F.max_pool2d(full, 2)))  # (B, 64, H/2, W/2)
        h = F.silu(self.down[2](F.max_pool2d(half, 2)))  # (B, 64, H/4, W/4)
        h = F.silu(self.up[0](h))
        h = F.silu(self.up[1](F.interpolate(h, scale_factor=2) + half))  # (B, 32, H/2, W/2)
        return F.silu(self.up[2](F.interpolate(h, scale_factor=2) + full))  # (B, C, H, W)


class LayerNormUNet(nn.Module):
    """A narrow U-Net with layer norms: channels 10, 20, 40, skips concatenated; each level's MLP adds the time, from a
    frozen table of sinusoids, to its input. With T = 1000, one channel and `input_norm` it has 606,852 numbers as
    published, 100,000 of them the table. (Their code skips the very last norm; here it is used.)

    Args:
        size: height and width of the images, divisible by 4: a layer norm over (C, H, W) is made for one size.
        input_norm: normalise the input image first, as published. With one channel that removes the image's
            brightness, and the time just added to it, before the net has seen either.
    """

    def __init__(self, T: int, channels: int = 1, size: int = 28, input_norm: bool = False):
        super().__init__()
        check_counts("LayerNormUNet", T=T, channels=channels, size=size)
        if size % 4 or size < 8:
            raise ValueError(f"LayerNormUNet: size must be divisible by 4 and at least 8, got {size}")
        sizes = size, size // 2, size // 4  # 28, 14, 7; the middle has 3
        self.T, self.channels, self.size = T, channels, size
        self.table = nn.Embedding.from_pretrained(sinusoidal_embedding(torch.arange(1, T + 1), 100), freeze=True)
        down = [(channels, 10, 10, 10), (10, 20, 20, 20), (20, 40, 40, 40)]
        up = [(80, 40, 20, 20), (40, 20, 10, 10), (20, 10, 10, 10)]
        norms = [input_norm, True, True]
        self.down = nn.ModuleList(LayerNormLevel(*each) for each in zip(down, sizes, norms, strict=True))
        self.middle = LayerNormLevel((40, 20, 20, 40), sizes[2] // 2)
        self.up = nn.ModuleList(LayerNormLevel(*each) for each in zip(up, reversed(sizes), strict=True))
        shrink = lambda c: nn.Conv2d(c, c, kernel_size=4, stride=2, padding=1)  # noqa: E731
        grow = lambda c: nn.ConvTranspose2d(c, c, kernel_size=4, stride=2, padding=1)  # noqa: E731
        self.shrink = nn.ModuleList([shrink(10), shrink(20), shrink(40)])
        self.grow = nn.ModuleList([grow(40), grow(20), grow(10)])
        if sizes[2] % 2:  # an odd side is first made even: 7 -> 6 -> 3, and back 3 -> 6 -> 7
            self.shrink[2] = nn.Sequential(nn.Conv2d(40, 40, kernel_size=2), nn.SiLU(), shrink(40))
            self.grow[0] = nn.Sequential(grow(40), nn.SiLU(), nn.ConvTranspose2d(40, 40, kernel_size=2))
        self.out = conv3x3(10, channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, size, size), steps (B,) in 1 ... T -> (B, C, size, size)."""
        check_image_batch(x, channels=self.channels, multiple=1, net="LayerNormUNet", weight=self.out.weight)
        if x.shape[2:] != (self.size, self.size):
            found = f"{self.size}x{self.size} images, got {x.shape[2]}x{x.shape[3]}"
            raise ValueError(f"LayerNormUNet: made for {found}; resize them, or make it with LayerNormUNet(size=...)")
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
        return self.out(h)


class LayerNormLevel(nn.Module):
    """(B, widths[0], size, size), time (B, 100) -> (B, widths[-1], size, size): adds the time to every pixel, then come
    three layer-normed double convolutions, the first norm only with `first_norm`."""

    def __init__(self, widths: tuple[int, int, int, int], size: int, first_norm: bool = True):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(100, widths[0]), nn.SiLU(), nn.Linear(widths[0], widths[0]))
        layers = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.LayerNorm((c_in, size, size)), conv3x3(c_in, c_out), nn.SiLU()]
            layers += [conv3x3(c_out, c_out), nn.SiLU()]
        self.layers = nn.Sequential(*(layers if first_norm else layers[1:]))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.layers(x + self.time(time)[:, :, None, None])


NETS["LayerNormUNet"] = LayerNormUNet  # so that its weights can be loaded, too
