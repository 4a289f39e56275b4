"""Networks of other libraries behind this course's signature: forward(x (B, C, H, W), t (B,) in 1 ... T).

Both libraries count steps from 0, so the adapters hand them t - 1. The libraries are imported when a network is made,
for they are optional (and take seconds): `pip install diffusers deepinv`.
"""

import importlib
from collections.abc import Callable
from types import ModuleType

from torch import Tensor, nn


class MissingLibrary(ImportError):
    """An optional library that is not installed; the message says how to get it."""


class DiffusersUNet(nn.Module):
    """`diffusers.UNet2DModel`; the attribute `net` is the library's own object.

    Args:
        settings: of UNet2DModel.

    Raises:
        MissingLibrary: if diffusers is not installed.
    """

    def __init__(self, **settings):
        super().__init__()
        self.net = _library("diffusers").UNet2DModel(**settings)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, H, W), steps (B,) in 1 ... T -> (B, C, H, W)."""
        return ask_diffusers(self.net, x, t)


def ask_diffusers(net: Callable, x: Tensor, t: Tensor) -> Tensor:
    """Ask a network of diffusers, which counts its timesteps from 0 and answers with an object.

    Args:
        net: callable (x, timesteps) -> an object whose attribute `sample` has the shape of x.
        x: (B, C, H, W).
        t: (B,) steps in 1 ... T.

    Returns:
        (B, C, H, W).
    """
    return net(x, t - 1).sample


def leading_steps(T: int, steps: int) -> list[int]:
    """The steps of diffusers' DDPM and DDIM unless told otherwise, `timestep_spacing="leading"`, in our counting.

    They end at t = 1, and the first of them lies below T; compare `ddim_steps`, their "trailing" if `steps` divides T.

    Raises:
        ValueError: if `steps` is not in 1 ... T.

    >>> leading_steps(1000, 5)
    [801, 601, 401, 201, 1]
    """
    if not 1 <= steps <= T:
        raise ValueError(f"leading_steps: from 1 to T = {T} steps, got {steps}")
    return [T // steps * i + 1 for i in range(steps - 1, -1, -1)]


def grey_unet2d() -> DiffusersUNet:
    """The classic settings for 28x28 digits: 1,707,009 parameters."""
    return DiffusersUNet(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def colour_unet2d() -> DiffusersUNet:
    """The classic settings for 32x32 colour images: 4,654,723 parameters."""
    return DiffusersUNet(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(64, 64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )


class DeepinvUNet(nn.Module):
    """`deepinv.models.DiffUNet`, 93,555,841 parameters for one channel; `net` is the library's own object.

    It can also be told a noise level and answer with a clean image; asked for a timestep, as here, it predicts noise.

    Args:
        channels: colour channels C of the images, in and out.

    Raises:
        MissingLibrary: if deepinv is not installed.
    """

    def __init__(self, channels: int = 1):
        super().__init__()
        library = _library("deepinv.models")
        self.net = library.DiffUNet(in_channels=channels, out_channels=channels, pretrained=None)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, H, W), steps (B,) in 1 ... T -> (B, C, H, W)."""
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
