"""A folder of pictures, of any kind and size, as one tensor of images."""

import hashlib
import json
import os
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from .files import CheckpointError, write_bytes

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes without colour
MANY = 3000  # pictures that make the reader wait long enough for a progress bar
KEEP_AFTER = 1.0  # seconds of reading that are worth a file in the cache
NAMED = 5  # files that a warning names before it counts the rest


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


def load_folder(folder: str | Path, size: int | None = None) -> ImageData:
    """Load a folder of pictures: one sub-folder a class (as torchvision's ImageFolder), or all in one (one class).

    Pictures become RGB unless all of them are grey. Transparent ones are put on white, 16 bits are scaled to 8, a photo
    is turned as its camera says, and of several frames the first is taken. Hidden files and folders, and files that
    do not end like a picture, are passed over. A file that cannot be read is skipped; so is one of more pixels than
    Pillow's `Image.MAX_IMAGE_PIXELS`, which might be made to fill the memory. Warnings name what was skipped.

    What took longer than a second to read is kept in the cache folder and is read from there until a name, a size in
    bytes or a time of change in the folder differs. It is one file for each folder and `size`.

    Args:
        folder: of the pictures; sub-folders of the classes are read, too.
        size: cut the largest square out of the middle of each picture, and resize it to size x size pixels.

    Returns:
        `ImageData` with images (N, C, H, W) uint8, C = 1 or 3, in the order of the sorted names.

    Raises:
        DataError: if no picture is there, none can be read, sizes differ and `size` is not given, `size` is no whole
            number above 0, or the images would not fit into memory.
    """
    if size is not None and (not isinstance(size, int) or size < 1):
        raise DataError(f"size must be a whole number of pixels, at least 1, got {size!r}")
    folder = Path(folder).expanduser().absolute()
    files, key = _find(folder)
    kept = cache_folder() / "pictures" / f"{_digest([str(folder), str(size)])[:16]}.safetensors"
    found = _from_cache(kept, key)
    if found is None:
        began = time.monotonic()
        found = _read_all(folder, files, size)
        if time.monotonic() - began > KEEP_AFTER:
            _into_cache(kept, key, found)
    for note in found.notes:
        warnings.warn(f"{folder.name}: {note}", stacklevel=3)
    classes = tuple(sorted(set(found.owners)))
    place = {owner: i for i, owner in enumerate(classes)}
    labels = torch.tensor([place[owner] for owner in found.owners])
    return ImageData(found.images, labels, classes, f"{len(labels):,} pictures from the folder {folder}.")


def cache_folder() -> Path:
    """Where downloads and what was read are kept: `ddpm_helpers` in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddpm_helpers"


@dataclass
class _Found:
    images: Tensor  # (N, C, H, W) uint8
    owners: list[str]  # the class of each
    notes: list[str]  # what the reader should know, in sentences


@dataclass
class _Look:
    """What a file says about its picture before the pixels are read."""

    size: tuple[int, int] = (0, 0)  # width, height
    grey: bool = True
    frames: bool = False  # several
    problem: str = ""  # why it cannot be read


def _find(folder: Path) -> tuple[list[str], str]:
    """Names of the pictures, sorted, and a key that changes if one comes, goes, or is altered."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        inner = (f for f in folders if not f.startswith("."))
        folders[:] = [f for f in inner if os.path.realpath(os.path.join(place, f)) not in seen]  # a link may go round
        for name in names:
            path = os.path.join(place, name)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES and os.path.isfile(path):
                status = os.stat(path)
                found.append((os.path.relpath(path, folder), status.st_size, status.st_mtime_ns))
    if not found:
        raise DataError(f"{folder}: no pictures here; looked for {', '.join(sorted(SUFFIXES))}")
    found.sort()
    return [name for name, *_ in found], _digest(map(repr, found))


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogateescape")).hexdigest()


def _read_all(folder: Path, names: list[str], size: int | None) -> _Found:
    """Two passes: sizes and kinds first, so that one tensor can be made, and then the pixels into it."""
    with warnings.catch_warnings(), _Pool(len(names)) as pool:
        _strict_pillow()
        looks = pool.map("looking", lambda i: _look(folder / names[i], turned=size is None), range(len(names)))
        good = [i for i, look in enumerate(looks) if not look.problem]
        channels = 1 if all(looks[i].grey for i in good) else 3
        images = _room(len(good), channels, _common_size(names, looks, good) if size is None else (size, size))
        room = images.numpy()  # the same memory; a small copy is faster in NumPy

        def read(place: int) -> None:
            look = looks[good[place]]
            try:
                pixels = _pixels(folder / names[good[place]], look, grey=channels == 1, size=size)
                room[place] = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
            except Exception as error:  # what is in a file can make a reader fail in any way
                look.problem = _in_short(error)

        pool.map("reading", read, range(len(good)))
    readable = [place for place, i in enumerate(good) if not looks[i].problem]
    for new, old in enumerate(readable):  # close the gaps without a second tensor
        if new != old:
            images[new] = images[old]
    good = [good[place] for place in readable]
    notes = _notes(names, looks, good, size)
    if not good:
        raise DataError(f"{folder}: none of the {len(names):,} pictures can be read; {notes[0]}")
    owners = [Path(names[i]).parts[0] if len(Path(names[i]).parts) > 1 else folder.name for i in good]
    return _Found(images[: len(good)], owners, notes)


class _Pool:
    """Threads on all cores, with a progress bar where a reader sees it: Pillow works outside of Python's lock."""

    def __init__(self, count: int):
        ipython = sys.modules.get("IPython")
        seen = sys.stdout.isatty() or (ipython and hasattr(ipython.get_ipython(), "kernel"))
        first = os.environ.get("RANK", "0") == "0"  # of several processes under torchrun
        self.silent = count < MANY or not seen or not first

    def __enter__(self) -> "_Pool":
        self.threads = ThreadPoolExecutor()
        return self

    def __exit__(self, *_) -> None:
        self.threads.shutdown(cancel_futures=True)  # the stop button must not wait for thousands of pictures

    def map(self, doing: str, work: Callable, items: range) -> list:
        look = {"desc": doing, "unit": "picture", "ncols": 88, "file": sys.stdout, "disable": self.silent}
        return list(tqdm(self.threads.map(work, items), total=len(items), **look))


def _strict_pillow() -> None:
    """Pillow warns of a decompression bomb before it refuses one: refuse at once. Leave out what else it warns of."""
    from PIL import Image

    warnings.filterwarnings("ignore", module="PIL")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def _look(file: Path, turned: bool) -> _Look:
    """Read the head of a file; `turned` says whether the size must be the one after turning."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            width, height = picture.size
            if turned and picture.getexif().get(0x0112, 1) >= 5:  # the tag Orientation: 5 to 8 lie on their side
                width, height = height, width
            if picture.mode == "F":
                raise ValueError("its values are floats of unknown range")
            several = picture.format != "MPO" and getattr(picture, "is_animated", False)  # MPO: a photo and its preview
            return _Look((width, height), picture.mode in GREY, several)
    except Exception as error:  # what is in a file can make a reader fail in any way
        return _Look(problem=_in_short(error))


def _pixels(file: Path, look: _Look, grey: bool, size: int | None) -> np.ndarray:
    """(H, W) if `grey`, else (H, W, 3), uint8."""
    from PIL import Image

    with Image.open(file) as picture:
        picture = _eight_bits(picture, grey)
    if size is None:
        if picture.size != look.size:
            raise ValueError("it has another size than it says")
        return np.array(picture)
    if picture.size != (size, size):
        from torchvision.transforms.v2 import functional as v2

        picture = v2.center_crop(picture, [min(picture.size)] * 2)  # first: a long strip would get too long below
        picture = v2.resize(picture, [size, size], antialias=True)
    return np.array(picture)


def _eight_bits(picture, grey: bool):
    """A picture of Pillow's in mode "L" if `grey`, else "RGB": upright, and on white where it is transparent."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values have more than 16 bits")
        picture = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode[-1] in "Aa" or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("L" if grey else "RGB")


def _common_size(names: list[str], looks: list[_Look], good: list[int]) -> tuple[int, int]:
    """Height and width of all pictures."""
    for i in good:
        if looks[i].size != looks[good[0]].size:
            first, other = ("x".join(map(str, looks[k].size)) for k in (good[0], i))
            raise DataError(
                f"pictures differ in size: {names[good[0]]} is {first}, {names[i]} is {other}; "
                "load_images(folder, size=32), or --size 32 in a terminal, crops and resizes them all"
            )
    return looks[good[0]].size[::-1] if good else (0, 0)


def _room(count: int, channels: int, size: tuple[int, int]) -> Tensor:
    try:
        return torch.empty(count, channels, *size, dtype=torch.uint8)
    except RuntimeError as error:
        need = f"{count:,} x {channels} x {size[0]} x {size[1]} bytes"
        raise DataError(
            f"the images need {count * channels * size[0] * size[1] / 1e9:,.1f} GB of memory ({need}), more than this "
            "machine can give: choose a smaller size, or a part of the folder"
        ) from error


def _notes(names: list[str], looks: list[_Look], good: list[int], size: int | None) -> list[str]:
    bad = [f"{name} ({look.problem})" for name, look in zip(names, looks, strict=True) if look.problem]
    several = [names[i] for i in good if looks[i].frames]
    small = [names[i] for i in good if size and min(looks[i].size) < size]
    notes = []
    if bad:
        notes.append(f"skipped {_number(bad, 'file')} that cannot be read: {_first(bad)}")
    if several:
        notes.append(f"of {_number(several, 'animated picture')} only the first frame is taken: {_first(several)}")
    if small:
        notes.append(f"{_number(small, 'picture')} smaller than {size}x{size} enlarged, and blurred: {_first(small)}")
    return notes


def _number(items: list, word: str) -> str:
    return f"{len(items):,} {word}{'s' * (len(items) > 1)}"


def _first(items: list[str]) -> str:
    more = f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more


def _in_short(error: Exception) -> str:
    """The first line of an error, without the path that Pillow puts there."""
    text = next(iter(str(error).splitlines()), "")
    if type(error).__name__ == "UnidentifiedImageError":
        return "not a picture"
    if "decompression bomb" in text:
        return "too many pixels: it might be a decompression bomb"
    return text or type(error).__name__


def _from_cache(file: Path, key: str) -> _Found | None:
    """What `_into_cache` wrote, if it is there, whole, and of these very pictures."""
    with suppress(Exception), safe_open(file, framework="pt") as cache:
        about = json.loads(cache.metadata()["ddpm_helpers"])
        if about["key"] == key:
            images = cache.get_tensor("images")
            if zlib.crc32(images.numpy()) == about["crc"] and len(images) == len(about["owners"]):
                return _Found(images, about["owners"], about["notes"])
    return None


def _into_cache(file: Path, key: str, found: _Found) -> None:
    """Best effort: where it cannot be written, the next load reads the pictures again."""
    about = {"key": key, "owners": found.owners, "notes": found.notes, "crc": zlib.crc32(found.images.numpy())}
    with suppress(CheckpointError, MemoryError):  # the file is made in memory, beside the images
        content = safetensors.torch.save({"images": found.images}, {"ddpm_helpers": json.dumps(about)})
        write_bytes(file, content)
