"""Images: where they come from, and their two forms (uint8 outside the models, floats inside)."""

import difflib
import gzip
import http.client
import math
import os
import queue
import socket
import struct
import tempfile
import threading
import time
import urllib.request
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from .digits import synthetic_digits
from .pictures import DataError, ImageData, cache_folder, load_folder

NETWORK_SECONDS = 5  # how long a host may stay silent before we go on without it
DATASETS = {"mnist": "MNIST", "fashion": "FashionMNIST", "cifar10": "CIFAR10"}  # torchvision's classes
MEGABYTES = {"mnist": 12, "fashion": 31, "cifar10": 170}  # to download
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
BOMB = 1 << 26  # bytes to which a gzip file may unpack however small it is
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def load_images(
    name: str | Path = "mnist", *, train: bool = True, size: int | None = None, strict: bool = False
) -> ImageData:
    """Load a data set, from the nearest place that has it.

    "mnist", "fashion" and "cifar10" are looked for in the data folder (the environment variable DDPM_DATA, else
    `data` in the working directory; torchvision's layout, IDX files packed or not; for "cifar10" also pictures in
    cifar10/train/CLASS and cifar10/test/CLASS), then in the cache of an earlier download, then downloaded by
    torchvision, which verifies checksums. Where the network does not answer within 5 seconds or the download fails,
    drawn digits stand in, with one warning. "digits" asks for the drawn digits. Anything else is a folder of
    pictures, one sub-folder a class, or all in one: see `load_folder` in pictures.py for what it does with them.

    Args:
        name: "mnist", "fashion", "cifar10", "digits", or the path of a folder of pictures.
        train: the training half or the test half; a folder of pictures has one part only and ignores this.
        size: for a folder of pictures of your own: crop and resize each to size x size pixels.
        strict: raise instead of standing in drawn digits.

    Returns:
        `ImageData` with images (N, C, H, W) uint8 in 0 ... 255.

    Raises:
        DataError: for an unknown name, a `size` for a named data set, a damaged file, a folder without usable
            pictures, or under `strict` where the data cannot be had.
    """
    name = str(name) if str(name) in ("digits", *DATASETS) else name  # a Path of that name, too
    if not isinstance(train, bool):
        raise DataError(f"load_images: train is True (training images) or False (test images), got {train!r}")
    if size is not None and (name == "digits" or name in DATASETS):
        raise DataError(
            f"load_images: size is for a folder of pictures, and {name} comes in one size; see F.interpolate"
        )
    if name == "digits":
        return _drawn_digits(train, "Drawn digits made by ddpm_helpers.synthetic_digits; no download.")
    if name not in DATASETS:
        return load_folder(_existing_folder(name), size=size)
    folder = data_folder()
    for root, place in ((folder, "your data folder"), (cache_folder() / name, "an earlier download")):
        found = _load_torchvision(name, root, train)
        if found:
            return ImageData(*found, f"{DATASETS[name]}, {_half(train)} images, from {place}.")
        pictures = root / name / ("train" if train else "test")
        if name == "cifar10" and pictures.is_dir():
            return replace(load_folder(pictures), source=f"{DATASETS[name]}, {_half(train)} images, from {place}.")
    problem = _download(name)
    if not problem and (found := _load_torchvision(name, cache_folder() / name, train)):
        return ImageData(*found, f"{DATASETS[name]}, {_half(train)} images, downloaded by torchvision.")
    problem = problem or f"files are missing in {cache_folder() / name}: delete that folder, then run this again"
    advice = f"To use the real images, put torchvision's {DATASETS[name]} files into {folder} or set DDPM_DATA."
    if name == "cifar10":
        advice += (
            f" A download by hand can go on where it broke: `curl -L -C - -O {CIFAR10_URL}`, again until it is "
            f"complete, then `tar -xzf {CIFAR10_URL.rpartition('/')[2]}` in that folder."
        )
    if strict:
        raise DataError(f'{DATASETS[name]} cannot be had: {problem}. {advice} "digits" needs no files.')
    warnings.warn(f"Drawn digits stand in for {DATASETS[name]}: {problem}. {advice}", stacklevel=2)
    source = f"Drawn digits, standing in for {DATASETS[name]} ({problem})."
    return _drawn_digits(train, source, colour=name == "cifar10")


def data_folder() -> Path:
    """The user's data folder: the environment variable DDPM_DATA, else `data` in the working directory.

    Raises:
        DataError: if DDPM_DATA names a folder that does not exist.
    """
    chosen = os.path.expanduser(os.environ.get("DDPM_DATA") or "data")
    if os.environ.get("DDPM_DATA") and not os.path.isdir(chosen):
        raise DataError(f"DDPM_DATA is set to {chosen!r}, which is not a folder: correct it, or unset it")
    return Path(chosen).absolute()


def read_idx(path: str | Path) -> np.ndarray:
    """Read an IDX file, the format of MNIST, plain or gzipped (told by its first bytes, not by its name).

    The header is two zero bytes, a type code, the number of axes, then the length of each axis as a big-endian
    32-bit integer; the values follow, last axis fastest.

    Returns:
        array in the machine's byte order with the shape that the header announces.

    Raises:
        DataError: if the file is not IDX, is shorter or longer than its header says, or is gzipped to less than a
            hundredth of more than 64 MB; nothing is allocated for values that are not there.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
    except (OSError, ValueError) as error:  # a name with a zero in it is a ValueError
        raise DataError(f"{path}: cannot be read ({error})") from error
    try:
        most = max(BOMB, 100 * path.stat().st_size) if packed else None
        with gzip.open(path) if packed else open(path, "rb") as stream:
            return _parse_idx(stream, path, most)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _parse_idx(stream, path: Path, most: int | None) -> np.ndarray:
    """The array in `stream`; of at most so many bytes."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0":
        hint = "; the name says gzip, the content is not" if path.suffix == ".gz" and head and most is None else ""
        raise DataError(f"{path}: not an IDX file: it must start with two zero bytes, found {head[:2]!r}{hint}")
    code, axes = head[2], head[3]
    if code not in IDX_TYPES:
        known = ", ".join(f"0x{c:02x}" for c in IDX_TYPES)
        raise DataError(f"{path}: unknown IDX type code 0x{code:02x}; the format knows {known}")
    sizes = stream.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise DataError(f"{path}: truncated: the header announces {axes} axes, the file ends before their lengths")
    shape = struct.unpack(f">{axes}I", sizes)
    dtype = np.dtype(IDX_TYPES[code])
    expected = dtype.itemsize * int(np.prod(shape, dtype=object))
    if most and expected > most:
        raise DataError(f"{path}: unpacks to {expected:,} bytes, a hundred times its own size: it might be a gzip bomb")
    body = _read_at_most(stream, expected + 1)
    if len(body) != expected:
        found = "more" if len(body) > expected else f"{len(body):,}"
        raise DataError(
            f"{path}: the header announces {' x '.join(map(str, shape))} values, {expected:,} bytes; "
            f"the file holds {found}: {'truncated' if len(body) < expected else 'too long'}, fetch it again"
        )
    try:
        array = np.frombuffer(body, dtype).reshape(shape)
    except ValueError as error:  # more axes than NumPy knows, or one of length 0 beside others without bounds
        raise DataError(
            f"{path}: the header announces an array that cannot be made ({error}); fetch it again"
        ) from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_at_most(stream, limit: int) -> bytearray:
    """Up to `limit` bytes, in pieces: a lying header must not make us allocate what is not there."""
    body = bytearray()
    while len(body) < limit and (piece := stream.read(min(1 << 20, limit - len(body)))):
        body += piece
    return body


def to_float(images: Tensor) -> Tensor:
    """uint8 images 0 ... 255 -> float32 in [-1, 1], the range inside every diffusion model here.

    Raises:
        TypeError: if `images` is not a uint8 tensor.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"to_float: expected a uint8 tensor of images in 0 ... 255, got {_kind(images)}")
    return 2 * images.float() / 255 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Float images in [-1, 1] -> uint8 in 0 ... 255, rounded; values outside are clipped, never wrapped.

    Raises:
        TypeError: if `x` is not a float tensor.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"to_uint8: expected a float tensor of images in [-1, 1], got {_kind(x)}")
    return (255 / 2 * (x.float() + 1)).round().clamp(0, 255).to(torch.uint8)


def _kind(value) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else f"{type(value).__name__}: torch.as_tensor makes one"


def batches(images: Tensor, batch_size: int, steps: int, *, seed: int = 0, start: int = 0) -> Iterator[Tensor]:
    """Yield `steps - start` batches of `images` (N, ...), reshuffled each epoch, every image once an epoch.

    The order depends on (seed, step) alone, so a run that stops at a step goes on there with `start=step`. The
    last batch of an epoch is smaller where batch_size does not divide N.

    Raises:
        ValueError: if there are no images or batch_size is below 1.
    """
    if not len(images) or batch_size < 1:
        raise ValueError(f"batches: need images and a batch_size >= 1, got {len(images)} and {batch_size}")
    per_epoch = -(-len(images) // batch_size)
    epoch = None
    for step in range(start, steps):
        if epoch != step // per_epoch:
            epoch = step // per_epoch
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(len(images), generator=generator).to(images.device)
        first = step % per_epoch * batch_size
        yield images[order[first : first + batch_size]]


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


def _half(train: bool) -> str:
    return "training" if train else "test"


def _existing_folder(name: str | Path) -> Path:
    folder = os.path.expanduser(name)  # unlike Path's, it leaves the name of an unknown user as it is
    if os.path.isdir(folder):  # False also for a name that no folder can have
        return Path(folder)
    near = difflib.get_close_matches(str(name).lower(), [*DATASETS, "digits"], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(
        f"load_images: {str(name)!r} is neither a folder nor one of {', '.join([*DATASETS, 'digits'])}{hint}"
    )


def _drawn_digits(train: bool, source: str, colour: bool = False) -> ImageData:
    images, labels = synthetic_digits(10_000, size=32 if colour else 28, seed=0 if train else 1)
    if colour:  # a random ink on a random paper for each image
        generator = torch.Generator().manual_seed(int(train))
        ink, paper = torch.rand((2, len(images), 3, 1, 1), generator=generator)
        images = (paper * 255 + (ink - paper) * images).to(torch.uint8)
    return ImageData(images, labels, tuple("0123456789"), f"{source[:-1]}, {_half(train)} seed.")


def _load_torchvision(name: str, root: Path, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]] | None:
    """Images, labels and class names from a folder in torchvision's layout; None if they are not there."""
    if name == "cifar10":
        if not (root / "cifar-10-batches-py").is_dir():
            return None
        from torchvision.datasets import CIFAR10

        try:
            dataset = CIFAR10(root, train=train, download=False)  # verifies checksums before it reads
        except RuntimeError as error:
            raise DataError(f"{root / 'cifar-10-batches-py'}: incomplete or altered; fetch it again") from error
        images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor(dataset.targets), tuple(dataset.classes)
    half = "train" if train else "t10k"
    raw = root / DATASETS[name] / "raw"
    files = [_plain_or_packed(raw / f"{half}-{part}-ubyte") for part in ("images-idx3", "labels-idx1")]
    if None in files:
        return None
    images, labels = (torch.from_numpy(read_idx(file)) for file in files)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{files[0]} and {files[1]} do not fit together: shapes {tuple(images.shape)} and "
            f"{tuple(labels.shape)}, expected (N, H, W) and (N,)"
        )
    classes = FASHION if name == "fashion" else "0123456789"
    if images.dtype != torch.uint8 or labels.dtype != torch.uint8 or bool((labels >= len(classes)).any()):
        raise DataError(f"{files[0]} and {files[1]}: expected bytes, and labels 0 to 9; fetch them again")
    return images[:, None], labels.long(), tuple(classes)


def _plain_or_packed(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


def _download(name: str) -> str | None:
    """Download into the cache; None if that went well, else what went wrong, as half a sentence.

    Processes wait for each other at a lock, and a download becomes visible only when it is complete.
    """
    from torchvision import datasets

    dataset = getattr(datasets, DATASETS[name])
    urls = [CIFAR10_URL] if name == "cifar10" else [m + dataset.resources[0][0] for m in dataset.mirrors]
    if not _any_answers(urls):
        return "no download host can be reached"
    target, timeout = cache_folder() / name, socket.getdefaulttimeout()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            if target.exists():  # another process was faster
                return None
            size = MEGABYTES[name]
            print(
                f"Downloading {DATASETS[name]}, once: {size} MB, about {math.ceil(size / 60)} min at 1 MB/s. "
                "The bar says what is left; if it breaks, a message says how to go on.",
                flush=True,
            )
            socket.setdefaulttimeout(NETWORK_SECONDS)  # a silent host must not hang the notebook
            root = Path(temporary) / name
            dataset(root, train=True, download=True)
            for archive in root.rglob("*.gz"):  # unpacked by now
                archive.unlink()
            root.rename(target)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        where = f" into {target.parent}" if isinstance(error, PermissionError) else ""
        return f"the download{where} failed ({next(iter(str(error).splitlines()), type(error).__name__)})"
    finally:
        socket.setdefaulttimeout(timeout)
    return None


def _any_answers(urls: list[str]) -> bool:
    """True as soon as one of the hosts answers; all are asked at once, for 5 seconds at most."""
    answers: queue.Queue[bool] = queue.Queue()

    def ask(url: str) -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "ddpm_helpers"})
            urllib.request.urlopen(request, timeout=NETWORK_SECONDS).close()
            answers.put(True)
        except (OSError, ValueError):
            answers.put(False)

    for url in urls:  # daemon threads: looking up a host's name can hang, and must not hold up the exit
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    deadline = time.monotonic() + NETWORK_SECONDS
    for _ in urls:
        try:
            if answers.get(timeout=max(deadline - time.monotonic(), 0)):
                return True
        except queue.Empty:
            return False
    return False
