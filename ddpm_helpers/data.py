"""Images: where they come from, and their two forms (uint8 outside the models, floats inside)."""

import difflib
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from .datasets import DATASETS, download, load_files, places, read_idx, says_fashion  # noqa: F401
from .digits import synthetic_digits
from .pictures import DataError, ImageData, cache_folder, load_folder

CIFAR10_BY_HAND = (
    " A download by hand can go on where it broke: `curl -L -C - -O https://www.cs.toronto.edu/~kriz/"
    "cifar-10-python.tar.gz`, again until it is complete, then `tar -xzf cifar-10-python.tar.gz` in that folder."
)


def load_images(
    name: str | Path = "mnist", *, train: bool = True, size: int | None = None, strict: bool = False
) -> ImageData:
    """Images (N, C, H, W) uint8 and their labels, from the nearest place that has them.

    "mnist", "fashion" and "cifar10" are looked for in the data folder (torchvision's layout, IDX files packed or not;
    pictures in cifar10/train/CLASS), then in the cache of an earlier download, then downloaded by torchvision, which
    verifies checksums. Where that fails drawn digits stand in, with one warning; under `strict` a DataError says why.
    "digits" asks for the drawn digits. Anything else is a folder: of IDX files, or of pictures, which `size` crops and
    resizes (pictures.py). `train` picks the training or the test half; a folder of pictures has one part only.
    """
    if not isinstance(train, bool):
        raise DataError(f"load_images: train is True (training images) or False (test images), got {train!r}")
    name, half = str(name), "training" if train else "test"
    if name not in (*DATASETS, "digits"):
        folder = _existing_folder(name)
        kind = "fashion" if says_fashion(folder) else "mnist"
        if size is None and (found := load_files(kind, folder, train)):
            return ImageData(*found, f"{DATASETS[kind]}, {half} images, from the folder {folder}.")
        return load_folder(folder, size=size)
    if size is not None:
        raise DataError(
            f"load_images: size is for a folder of pictures, and {name} comes in one size; see F.interpolate"
        )
    if name == "digits":
        return _drawn_digits(train, "Drawn digits made by ddpm_helpers.synthetic_digits; no download.")
    title, folder, kept = DATASETS[name], data_folder(), cache_folder() / name
    for root, place in ((folder, "your data folder"), (kept, "an earlier download")):
        if found := load_files(name, root, train):
            return ImageData(*found, f"{title}, {half} images, from {place}.")
        pictures = root / name / ("train" if train else "test")
        if name == "cifar10" and os.path.isdir(pictures):
            return replace(load_folder(pictures), source=f"{title}, {half} images, from {place}.")
    problem = download(name, kept)
    if not problem and (found := load_files(name, kept, train)):
        return ImageData(*found, f"{title}, {half} images, downloaded by torchvision.")
    problem = problem or f"files are missing in {kept}: delete that folder, then run this again"
    advice = f"To use the real images, put torchvision's {title} files into {folder} or set DDPM_DATA."
    advice += CIFAR10_BY_HAND if name == "cifar10" else ""
    advice += f" Looked for them in {', '.join(map(str, places(name, folder)))}."
    if strict:
        raise DataError(f'{title} cannot be had: {problem}. {advice} "digits" needs no files.')
    warnings.warn(f"Drawn digits stand in for {title}: {problem}. {advice}", stacklevel=2)
    source = f"Drawn digits, standing in for {title} ({problem.partition(' (')[0]})."
    return _drawn_digits(train, source, colour=name == "cifar10")


def data_folder() -> Path:
    """The user's data folder: $DDPM_DATA, else `data` here, or at the top of the checkout that holds the notebooks."""
    chosen = os.path.expanduser(os.environ.get("DDPM_DATA", ""))
    if chosen and not os.path.isdir(chosen):
        raise DataError(f"DDPM_DATA is set to {chosen!r}, which is not a folder: correct it, or unset it")
    here = Path(chosen or "data").absolute()
    if not os.path.isdir(here) and here.parent.name in ("notebooks", "my_notebooks"):
        return top if os.path.isdir(top := here.parents[1] / "data") else here
    return here


def to_float(images: Tensor) -> Tensor:
    """uint8 images 0 ... 255 -> float32 in [-1, 1], the range inside every diffusion model here."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"to_float: expected a uint8 tensor of images in 0 ... 255, got {_kind(images)}")
    return 2 * images.float() / 255 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Float images in [-1, 1] -> uint8 in 0 ... 255, rounded; values outside are clipped, never wrapped."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"to_uint8: expected a float tensor of images in [-1, 1], got {_kind(x)}")
    return (255 / 2 * (x.float() + 1)).round().clamp(0, 255).to(torch.uint8)


def _kind(value) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else f"{type(value).__name__}: torch.as_tensor makes one"


def batches(images: Tensor, batch_size: int, steps: int, *, seed: int = 0, start: int = 0) -> Iterator[Tensor]:
    """Yield `steps - start` batches of `images` (N, ...), reshuffled each epoch, every image once an epoch.

    The order depends on (seed, step) alone, so a run that stops at a step goes on there with `start=step`. The last
    batch of an epoch is smaller where batch_size does not divide N.
    """
    if not len(images) or batch_size < 1:
        raise ValueError(f"batches: need images and a batch_size >= 1, got {len(images)} and {batch_size}")
    per_epoch = -(-len(images) // batch_size)
    for step in range(start, steps):
        order = _shuffled(len(images), seed * 1_000_003 + step // per_epoch)
        first = step % per_epoch * batch_size
        yield images[order[first : first + batch_size].to(images.device)]


def shuffled_indices(n: int, batch_size: int, step: int, seed: int = 0) -> Tensor:
    """The batch of one step, as indices (batch_size,) int64 into n images: always a full one.

    All epochs, each shuffled anew, are laid end to end and cut into batches, so a batch may reach into the next
    epoch. What comes depends on (seed, step) alone.
    """
    first = step * batch_size
    epochs = range(first // n, (first + batch_size - 1) // n + 1)
    order = torch.cat([_shuffled(n, seed * 1_000_003 + epoch) for epoch in epochs])
    return order[first - epochs[0] * n :][:batch_size]


@lru_cache(maxsize=2)
def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _existing_folder(name: str) -> Path:
    folder = os.path.expanduser(name)  # unlike Path's, it leaves the name of an unknown user as it is
    if os.path.isdir(folder):  # False also for a name that no folder can have
        return Path(folder).absolute()
    near = difflib.get_close_matches(name.lower(), [*DATASETS, "digits"], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(f"load_images: {name!r} is neither a folder nor one of {', '.join([*DATASETS, 'digits'])}{hint}")


def _drawn_digits(train: bool, source: str, colour: bool = False) -> ImageData:
    images, labels = synthetic_digits(10_000, size=32 if colour else 28, seed=0 if train else 1)
    if colour:  # a random ink on a random paper for each image
        generator = torch.Generator().manual_seed(int(train))
        ink, paper = torch.rand((2, len(images), 3, 1, 1), generator=generator)
        images = (paper * 255 + (ink - paper) * images).to(torch.uint8)
    half = "training" if train else "test"
    return ImageData(images, labels, tuple("0123456789"), f"{source[:-1]}, {half} seed.")
