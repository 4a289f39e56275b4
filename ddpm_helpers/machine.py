"""The machine: which device there is, in which numbers it computes fast, and how much to train on it."""

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn


def default_device() -> torch.device:
    """The fastest device here: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The device in words, for reports and recipes: "cuda, NVIDIA T4", or "cpu, 2 threads"."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return "mps, Apple GPU" if device.type == "mps" else f"cpu, {threads} thread{'s' * (threads != 1)}"


def environment_report() -> str:
    """What to paste into a question: versions, device and the variables that change a run."""
    lines = {"system": platform.platform(), "python": platform.python_version()}
    for package in ("ddpm_helpers", "torch", "torchvision", "numpy", "matplotlib", "einops", "ipywidgets"):
        try:
            lines[package] = version(package)
        except PackageNotFoundError:  # such as a folder that was copied to where it runs
            lines[package] = "not installed as a package"
    lines["device"] = device_name(default_device())
    lines |= {name: os.environ.get(name, "not set") for name in ("DDPM_DATA", "DDPM_BUDGET", "DDPM_STRICT")}
    return "\n".join(f"{name:<14}{value}" for name, value in lines.items())


def budget(*, gpu: int, cpu: int, quick: int, unit: str = "steps") -> int:
    """How much to train: `gpu` on CUDA, `cpu` elsewhere, `quick` where DDPM_BUDGET=quick asks for it. Says which."""
    choices = {"gpu": gpu, "cpu": cpu, "quick": quick}
    asked = os.environ.get("DDPM_BUDGET", "").strip("\"' ")  # a prompt of Windows keeps quotes, and blanks at the end
    choice = asked or ("gpu" if torch.cuda.is_available() else "cpu")
    if choice not in choices:
        raise ValueError(f"DDPM_BUDGET must be one of {', '.join(choices)}, or unset; got {choice!r}")
    print(f"Budget: {choices[choice]:,} {unit} ({choice}), on {default_device().type}")
    return choices[choice]


def out_of_memory(error: Exception) -> bool:
    """Whether it says, in the words of a GPU, Linux or Windows, that there is not enough memory."""
    signs = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or any(sign in str(error) for sign in signs)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware computes in it faster than in float32, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and newer; older cards emulate it
    else:
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private, so a version may lack them
        fast = device.type == "cpu" and any(getattr(torch.cpu, test, lambda: False)() for test in tests)
    return torch.bfloat16 if fast else torch.float32


def fast_autocast(device: torch.device) -> AbstractContextManager:
    """`torch.autocast` to `fast_dtype`; nothing where that is float32: PyTorch 2.4 has no autocast for MPS at all."""
    dtype = fast_dtype(device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def fast_layout(model: nn.Module, device: torch.device) -> torch.memory_format:
    """channels_last where convolutions are faster in it: on CUDA, and on CPUs for networks without GroupNorm."""
    grouped = any(isinstance(module, nn.GroupNorm) for module in model.modules())
    fast = device.type == "cuda" or (device.type == "cpu" and not grouped)
    return torch.channels_last if fast else torch.contiguous_format
