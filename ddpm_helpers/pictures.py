"""A folder of pictures, of any kind and size, as one tensor of images."""

import builtins
import hashlib
import math
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from .files import CheckpointError, read, write

MANY = 3000  # pictures that make the reader wait long enough for a progress bar
KEEP_AFTER = 1.0  # seconds of reading that are worth a file in the cache
NAMED = 5  # files that a warning names before it counts the rest
BAD = "skipped {} file{} that cannot be read: {}"
FRAMES = "of {} animated picture{} only the first frame is taken: {}"
SMALL = "{} picture{} smaller than {size}x{size} enlarged, and blurred: {}"
DARK = "{} picture{} nearly black; masks, class numbers and depths must be scaled to 0 ... 255 first: {}"


class DataError(ValueError):
    """Data that cannot be read or had: the message names the file or argument, and says what to do."""


@dataclass(frozen=True)
class ImageData:
    """A data set in memory."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64, an index into `classes`
    classes: tuple[str, ...]
    source: str  # one sentence: what these images are and where they came from

    def __repr__(self) -> str:
        return f"ImageData({tuple(self.images.shape)} {self.images.dtype}, {len(self.classes)} classes: {self.source})"


def cache_folder() -> Path:
    """Where downloads and what was read are kept: `ddpm_helpers` in $XDG_CACHE_HOME, or in ~/.cache."""
    home = os.path.expanduser("~")  # stays "~" for a user without a home
    kept = os.environ.get("XDG_CACHE_HOME") or (tempfile.gettempdir() if home == "~" else f"{home}/.cache")
    return Path(os.path.expanduser(kept)) / "ddpm_helpers"


def load_folder(folder: str | Path, size: int | None = None) -> ImageData:
    """A folder of pictures, one sub-folder a class (as torchvision's ImageFolder), or all in one; sorted by name.

    The images have three channels unless all are grey. Transparent pictures are put on white, 16 bits are scaled to 8,
    photos turned as their camera says. `size` cuts the largest square out of the middle of each, and resizes it to
    size x size. What took longer than a second is kept in the cache until a name, size or time in the folder changes.
    A line says what was read and left out; warnings name what cannot be read or looks wrong.
    """
    if size is not None and (not isinstance(size, int) or size < 1):
        raise DataError(f"size must be a whole number of pixels, at least 1, got {size!r}")
    folder = Path(os.path.expanduser(folder)).absolute()
    names, left_out, key = _find(folder)
    kept, found = cache_folder() / "pictures" / f"{_digest((str(folder), size))[:16]}.safetensors", {}
    speaks = os.environ.get("RANK", "0") == "0"  # of several processes under torchrun the first
    with suppress(CheckpointError):  # not there, or damaged
        found = read(kept, "pictures")
    if found.get("key") != key:
        began = time.monotonic()
        found = _read_all(folder, names, size, speaks) | {"key": key}
        if time.monotonic() - began > KEEP_AFTER:
            with suppress(CheckpointError, MemoryError):  # where it cannot be kept, the next load reads again
                write(kept, "pictures", found)
    classes, labels, counts = np.unique(found["owners"], return_inverse=True, return_counts=True)
    for note in found["notes"]:
        warnings.warn(f"{folder.name}: {note}", stacklevel=3)
    if speaks:
        left_out += Counter({"that cannot be read": len(names) - len(labels)})
        shown = _some([f"{name} ({count:,})" for name, count in zip(classes, counts, strict=True)])
        line = f"{folder.name}: {tuple(found['images'].shape)}, classes {shown}; left out: {_counted(left_out)}"
        coding = sys.stdout.encoding or "utf-8"
        print(line.encode(coding, "backslashreplace").decode(coding))  # names need not be text that can be shown
    source = f"{len(labels):,} pictures from the folder {folder}."
    return ImageData(found["images"], torch.from_numpy(labels), tuple(map(str, classes)), source)


def _find(folder: Path) -> tuple[list[str], Counter, str]:
    """Names of the pictures, sorted; what else lies there; a key that changes if a picture comes, goes or changes."""
    readable = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN or kind == "MPO"}
    left_out, found, refused, seen = Counter(), [], [], set()
    for place, folders, names in os.walk(folder, onerror=refused.append, followlinks=True):
        seen.add(os.path.realpath(place))  # a link may go round
        folders[:] = [f for f in folders if f[0] != "." and os.path.realpath(os.path.join(place, f)) not in seen]
        for path in (os.path.join(place, name) for name in names if name[0] != "."):
            end = os.path.splitext(path)[1].lower()
            if end in readable and os.path.isfile(path):
                status = os.stat(path)
                found.append((os.path.relpath(path, folder), status.st_size, status.st_mtime_ns))
            else:
                why = "no file behind the name" if end in readable else "no kind that Pillow reads"
                left_out[f"{end or 'without ending'} ({why})"] += 1
    left_out.update(f"folder {os.path.relpath(error.filename, folder)} ({error.strerror})" for error in refused)
    if not found:
        raise DataError(f"{folder}: no pictures here that Pillow reads; found: {_counted(left_out)}")
    return [name for name, *_ in sorted(found)], left_out, _digest(sorted(found))


def _digest(value) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _counted(counts: Counter) -> str:
    return _some([f"{count:,} {what}" for what, count in counts.most_common()]) or "nothing"


def _some(items: list[str]) -> str:
    return ", ".join(items[:NAMED]) + (f" and {len(items) - NAMED:,} more" if len(items) > NAMED else "")


def _read_all(folder: Path, names: list[str], size: int | None, speaks: bool) -> dict:
    """The images, the class of each, and notes on what the reader should know, in sentences."""

    def look(name: str) -> tuple[np.ndarray | None, dict[str, str]]:
        try:
            return _read(folder / name, size)
        except Exception as error:  # what is in a file can make a reader fail in any way
            why = next(iter(str(error).splitlines()), "") or type(error).__name__
            why = "too many pixels: it might be a decompression bomb" if "decompression bomb" in why else why
            return None, {BAD: "not a picture" if why.startswith("cannot identify") else why}

    remarks: dict[str, list[str]] = {BAD: [], FRAMES: [], SMALL: [], DARK: []}
    images, good, grey = _room(len(names), 3, size, size) if size else None, [], True
    seen = speaks and len(names) >= MANY and (sys.stdout.isatty() or hasattr(builtins, "__IPYTHON__"))
    with warnings.catch_warnings(), ThreadPoolExecutor() as threads:
        warnings.filterwarnings("ignore", module="PIL")
        warnings.filterwarnings("error", ".*decompression bomb")  # Pillow warns before it refuses: refuse at once
        with closing(threads.map(look, names)) as looks:  # the stop button closes it, too
            bar = tqdm(looks, "reading", len(names), unit="picture", ncols=88, file=sys.stdout, disable=not seen)
            for name, (pixels, said) in zip(names, bar, strict=True):
                for remark, detail in said.items():
                    remarks[remark].append(f"{name} ({detail})" if detail else name)
                if pixels is None:
                    continue
                images = _room(len(names), 3, *pixels.shape[:2]) if images is None else images
                if pixels.shape[:2] != images.shape[2:]:
                    one, other = (f"{width}x{height}" for height, width in (images.shape[2:], pixels.shape[:2]))
                    raise DataError(
                        f"pictures differ in size: {good[0]} is {one}, {name} is {other}; "
                        "load_images(folder, size=32), or --size 32 in a terminal, crops and resizes them all"
                    )
                images[len(good)] = torch.from_numpy(pixels).permute(2, 0, 1)
                grey = grey and pixels.shape[2] == 1
                good.append(name)
    told = ((remark, len(about), _some(about)) for remark, about in remarks.items() if about)
    notes = [remark.format(f"{n:,}", "s" * (n > 1), some, size=size) for remark, n, some in told]
    if not good:
        raise DataError(f"{folder}: none of the {len(names):,} pictures can be read; {notes[0]}")
    owners = [name.partition(os.sep)[0] if os.sep in name else folder.name for name in good]
    classes = sorted(set(owners))
    if len(owners) == len(classes) > 1:
        notes.append("each class holds a single picture; a sub-folder is meant to hold all pictures of one class")
    if len(classes) > 1 and {"train", "test", "val", "valid"}.issuperset(classes):
        notes.append(f"{' and '.join(classes)} became classes: load such a folder by itself")
    images = images[: len(good), :1].clone() if grey else images[: len(good)]
    return {"images": images, "owners": owners, "notes": notes}


def _room(*shape: int) -> Tensor:
    try:
        return torch.empty(shape, dtype=torch.uint8)
    except RuntimeError as error:
        raise DataError(
            f"the images need {math.prod(shape) / 1e9:,.1f} GB of memory ({' x '.join(map(str, shape))} bytes), more "
            "than this machine can give: choose a smaller size, or a part of the folder"
        ) from error


def _read(file: Path, size: int | None) -> tuple[np.ndarray, dict[str, str]]:
    """A picture as uint8 (H, W, 3), or (H, W, 1) if it is grey, and what is remarkable about it."""
    with Image.open(file) as picture:
        several = picture.format != "MPO" and getattr(picture, "is_animated", False)  # MPO: a photo and its preview
        picture = ImageOps.exif_transpose(picture)  # upright; from here on it has the size that it shows
    said, grey = {FRAMES: ""} if several else {}, picture.getbands()[0] in ("1", "L", "I")
    if picture.mode == "F":
        raise ValueError("its values are floats of unknown range")
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values have more than 16 bits")
        if values.max() < 16384:
            said[DARK] = f"no value above {values.max():,} of 65,535"
        picture = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode[-1] in "Aa" or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("L" if grey else "RGB")
    if np.asarray(picture).max() < 2:
        said.setdefault(DARK, "no value above 1 of 255")
    if size:
        side = min(picture.size)
        if side < size:
            said[SMALL] = ""
        left, top = (round((length - side) / 2) for length in picture.size)
        picture = picture.crop((left, top, left + side, top + side))
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)  # Pillow smooths as it shrinks
    return np.array(picture).reshape(*picture.size[::-1], -1), said
