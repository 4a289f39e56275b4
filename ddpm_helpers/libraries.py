"""Networks of other libraries behind this course's signature: forward(x (B, C, H, W), t (B,) in 1 ... T).

Both libraries count steps from 0, so the adapters hand them t - 1. The libraries are imported when a network is made,
for they are optional (and take seconds): `pip install diffusers deepinv`.
"""

import importlib

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
        return self.net(x, t - 1).sample


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
        net = _library("deepinv.models").DiffUNet(in_channels=channels, out_channels=channels, pretrained=None)
        self.net = net

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, H, W), steps (B,) in 1 ... T -> (B, C, H, W)."""
        return self.net(x, t - 1, type_t="timestep")


def _library(name: str):
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:  # the library is there, and misses something itself
            raise
        raise MissingLibrary(f"{package} is not installed: pip install {package}, then run this again") from error
