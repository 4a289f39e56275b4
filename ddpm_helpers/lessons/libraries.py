"""Networks of diffusers and deepinv behind this course's signature: forward(x (B, C, H, W), t (B,) in 1 ... T).

Both libraries count steps from 0: the adapters hand them t - 1. They are optional and slow to import, so each is
imported when a network is made.
"""

import importlib
from collections.abc import Callable
from types import ModuleType

from torch import Tensor, nn


class MissingLibrary(ImportError):
    """An optional library that is not installed; the message says how to get it."""


class DiffusersUNet(nn.Module):
    """`diffusers.UNet2DModel(**settings)`; the attribute `net` is the library's own object."""

    def __init__(self, **settings):
        super().__init__()
        self.net = _library("diffusers").UNet2DModel(**settings)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return ask_diffusers(self.net, x, t)


def ask_diffusers(net: Callable, x: Tensor, t: Tensor) -> Tensor:
    """Ask a network of diffusers, which counts its timesteps from 0 and answers with an object, for steps t (B,)."""
    return net(x, t - 1).sample


def leading_steps(T: int, steps: int) -> list[int]:
    """The steps of diffusers' DDPM and DDIM by default, `timestep_spacing="leading"`, in our counting: they end at
    t = 1, and the first of them lies below T. (`ddim_steps` is their "trailing" if `steps` divides T.)

    >>> leading_steps(1000, 5)
    [801, 601, 401, 201, 1]
    """
    if not 1 <= steps <= T:
        raise ValueError(f"leading_steps: from 1 to T = {T} steps, got {steps}")
    return [T // steps * i + 1 for i in range(steps - 1, -1, -1)]


def grey_unet2d() -> DiffusersUNet:
    """The classic settings for 28x28 digits: 1,707,009 parameters."""
    return _unet2d(28, 1, (32, 64, 64), ("", "Attn", "Attn"))


def colour_unet2d() -> DiffusersUNet:
    """The classic settings for 32x32 colour images: 4,654,723 parameters."""
    return _unet2d(32, 3, (64, 64, 128), ("", "", "Attn"))


def _unet2d(side: int, channels: int, widths: tuple[int, ...], kinds: tuple[str, ...]) -> DiffusersUNet:
    down, up = [f"{kind}DownBlock2D" for kind in kinds], [f"{kind}UpBlock2D" for kind in reversed(kinds)]
    size = {"sample_size": side, "in_channels": channels, "out_channels": channels, "block_out_channels": widths}
    return DiffusersUNet(**size, down_block_types=down, up_block_types=up, layers_per_block=2)


class DeepinvUNet(nn.Module):
    """`deepinv.models.DiffUNet`, 93,555,841 parameters for one channel; `net` is the library's own object. It can also
    be given a noise level and answer with a clean image; asked for a timestep, as here, it predicts noise."""

    def __init__(self, channels: int = 1):
        super().__init__()
        make = _library("deepinv.models").DiffUNet
        self.net = make(in_channels=channels, out_channels=channels, pretrained=None)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t - 1, type_t="timestep")[:, : x.shape[1]]  # asked for colour, it adds variances


def find_library(name: str) -> ModuleType | None:
    """An optional library, such as "diffusers"; None, and a line that says how to get it, if it is not installed."""
    try:
        return _library(name)
    except MissingLibrary as error:
        print(f"{error}. Until then this notebook leaves out what needs it.")
        return None


def _library(name: str) -> ModuleType:
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:  # the library is there, and misses something itself
            raise
        raise MissingLibrary(f"{package} is not installed: pip install {package}, then run this again") from error
