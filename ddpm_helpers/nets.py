"""The networks. One signature for all: forward(x (B, C, H, W) float, t (B,)) -> (B, C, H, W)."""

import torch.nn.functional as F
from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars in `model`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


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
        check_image_batch(x, channels=self.down[0].in_channels, multiple=4, net="BasicUNet")
        full = F.silu(self.down[0](x))  # (B, 32, H, W)
        half = F.silu(self.down[1](F.max_pool2d(full, 2)))  # (B, 64, H/2, W/2)
        h = F.silu(self.down[2](F.max_pool2d(half, 2)))  # (B, 64, H/4, W/4)
        h = F.silu(self.up[0](h))
        h = F.silu(self.up[1](F.interpolate(h, scale_factor=2) + half))  # (B, 32, H/2, W/2)
        return F.silu(self.up[2](F.interpolate(h, scale_factor=2) + full))  # (B, C, H, W)


def check_image_batch(x: Tensor, *, channels: int, multiple: int, net: str) -> None:
    """Raise a ValueError that says what to change if `x` does not suit a net.

    It must be a float tensor (B, channels, H, W) whose H and W are divisible by `multiple`.
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
    if height % multiple or width % multiple:
        to = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
        raise ValueError(
            f"{net}: height and width must be divisible by {multiple}, got {height}x{width}; "
            f"resize or pad to {to[0]}x{to[1]}"
        )
    if not x.is_floating_point():
        raise ValueError(f"{net}: expected float images, got {x.dtype}; convert them first, e.g. x.float() / 255")
