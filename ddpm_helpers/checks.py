"""What is said where an argument does not fit: what is wrong, and what to do."""

from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor


def _check_images(schedule_on: torch.device | None = None, **images: Tensor) -> None:
    """Float tensors of one shape on one device, the schedule's: broadcasting between images would pass silently."""
    (first, like), *_ = images.items()
    for name, image in images.items():
        if not isinstance(image, Tensor) or not image.is_floating_point():
            found = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise TypeError(f"{name} must be a float tensor, got {found}; uint8 images: to_float(images)")
        if image.shape != like.shape:
            raise ValueError(f"{name} has shape {tuple(image.shape)}, {first} has {tuple(like.shape)}")
        if image.device != like.device:
            raise ValueError(f"{name} is on {image.device}, {first} on {like.device}: {name}.to({str(like.device)!r})")
    if schedule_on is not None and like.device != schedule_on:
        raise ValueError(
            f"{first} is on {like.device}, the schedule on {schedule_on}: schedule.to({str(like.device)!r})"
        )


def check_step_batch(t: Tensor, x: Tensor, *, T: int | None, net: str = "", name: str = "t", first: int = 1) -> None:
    """`t` holds one integer in first ... T for each image of `x`, and is on its device; T = None: without upper limit.

    Values on a GPU are not read: the CPU would have to wait for them.
    """
    who, shape = f"{net}: {name}" if net else name, tuple(x.shape[:1])
    if not isinstance(t, Tensor) or t.dtype not in (torch.int64, torch.int32):
        found = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"{who} must be an integer tensor, one per image, got {found}; torch.full((B,), {first})")
    if t.ndim != 1 or t.shape != shape:
        raise ValueError(
            f"{who} must have shape {shape}, one per image, got {tuple(t.shape)}; "
            f"the same for all: torch.full({shape}, {first})"
        )
    if t.device != x.device:
        raise ValueError(f"{who} is on {t.device}, the images on {x.device}: {name}.to(x.device)")
    if torch.compiler.is_compiling() or t.device.type != "cpu" or not len(t):  # len would fix the batch of an export
        return
    least, most = t.min().item(), t.max().item()
    if least < first or (T is not None and most > T):
        limits = f"be {first} or more" if T is None else f"lie in {first} ... {T}"
        if first == 0:
            limits = f"lie in 0 ... {T - 1}, or be {T} for no label"
        clean = " (0 is the clean image)" if first == 1 and least == 0 else ""
        raise ValueError(f"{who} must {limits}, got {least} to {most}{clean}")


def _check_step(name: str, step: int, low: int, high: int) -> None:
    """`step` is one integer in low ... high, for the whole batch."""
    if not isinstance(step, Integral) or not low <= step <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, one for the whole batch, got {step!r}")


def check_counts(owner: str, **counts: int) -> None:
    """Each of these arguments of `owner` is a whole number, 1 or more."""
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{owner}: {name} must be a whole number, at least 1, got {count!r}")


def check_image_batch(x: Tensor, *, channels: int, multiple: int, net: str, weight: Tensor) -> None:
    """`x` is float (B, channels, H, W), H and W divisible by `multiple`, on the device and of the dtype of `weight`."""
    shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
    if not isinstance(x, Tensor) or x.ndim != 4:
        raise ValueError(f"{net}: expected images (B, {channels}, H, W), got {shape}; one image needs x[None]")
    if shape[1] != channels:
        raise ValueError(
            f"{net}: this net was made for {channels} channel(s), the images have {shape[1]}: "
            f"make it with {net}(channels={shape[1]})"
        )
    height, width = shape[2:]
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


def _check_beta_ends(first: float, last: float) -> None:
    if not (0 < first < 1 and 0 < last < 1):
        raise ValueError(
            f"linear_beta: beta would go from {first:g} to {last:g}, and must stay between 0 and 1; for small T: "
            "smaller ends, rescale=False, or cosine_schedule"
        )


def _check_eta(eta: float, noisy: bool) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1] (0: no fresh noise, 1: as much as DDPM), got {eta!r}")
    if eta > 0 and not noisy:
        raise ValueError(f"ddim_step: eta = {eta} adds noise at every step but the last: pass noise")


def _check_chosen(chosen: list[int] | None, steps: int, T: int) -> None:
    """DDIM's steps: a number of them in 1 ... T, or a decreasing list."""
    if chosen is None and (not isinstance(steps, Integral) or not 1 <= steps <= T):
        raise ValueError(f"DDIM takes from 1 to T = {T} steps, got {steps!r}")
    whole = chosen is None or (bool(chosen) and all(isinstance(t, Integral) for t in chosen))
    if not whole or not all(t > s for t, s in pairwise([T + 1, *(chosen or []), 0])):
        raise ValueError(f"DDIM's steps must hold integers in 1 ... T = {T}, each below the one before, got {chosen}")
