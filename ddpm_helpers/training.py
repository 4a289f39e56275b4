"""Training: how long, on what, and what is minimised."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import version

import torch
import torch.nn.functional as F
from torch import Tensor

from .schedule import corrupt


def default_device() -> torch.device:
    """The fastest device here: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def environment_report() -> str:
    """What to paste into a question: versions, device, precision and the variables that change a run."""
    device = default_device()
    names = {"cuda": lambda: torch.cuda.get_device_name(), "mps": lambda: "Apple GPU"}
    packages = ("torch", "torchvision", "numpy", "matplotlib", "einops", "ipywidgets")
    settings = {name: os.environ.get(name, "not set") for name in ("DDPM_DATA", "DDPM_BUDGET", "DDPM_STRICT")}
    lines = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "ddpm_helpers": version("ddpm-helpers"),
        **{package: version(package) for package in packages},
        "device": f"{device.type}, {names.get(device.type, lambda: f'{torch.get_num_threads()} threads')()}",
        **settings,
    }
    return "\n".join(f"{name:<14}{value}" for name, value in lines.items())


def budget(*, gpu: int, cpu: int, quick: int) -> int:
    """How much to train: `gpu` on CUDA, `cpu` elsewhere, `quick` where DDPM_BUDGET=quick asks for it (CI does).

    Prints its choice, so that a picture says how much work stands behind it.

    Raises:
        ValueError: if DDPM_BUDGET is set to something else than gpu, cpu or quick.
    """
    choices = {"gpu": gpu, "cpu": cpu, "quick": quick}
    choice = os.environ.get("DDPM_BUDGET") or ("gpu" if torch.cuda.is_available() else "cpu")
    if choice not in choices:
        raise ValueError(f"DDPM_BUDGET must be one of {', '.join(choices)}, or unset; got {choice!r}")
    print(f"Budget: {choices[choice]:,} steps ({choice}), on {default_device().type}")
    return choices[choice]


def naive_loss(model: Callable[[Tensor], Tensor], x: Tensor, amount: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error between the clean images and the model's repair of the corrupted ones.

    Args:
        model: callable, corrupted images (B, C, H, W) -> predicted clean images.
        x: clean images (B, C, H, W) in [0, 1].
        amount: (B,) in [0, 1], how much noise each image gets.
        noise: same shape as `x`, uniform in [0, 1].

    Returns:
        a scalar tensor.
    """
    return F.mse_loss(model(corrupt(x, amount, noise)), x)
