"""The named data sets: where their files may lie, how they are read, and torchvision's download of them."""

import http.client
import math
import os
import queue
import re
import socket
import struct
import tempfile
import threading
import time
import zlib
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from .pictures import DataError

DATASETS = {"mnist": "MNIST", "fashion": "FashionMNIST", "cifar10": "CIFAR10"}  # torchvision's classes
SIZES = {"mnist": "12 MB, about 1 min", "fashion": "31 MB, about 1 min", "cifar10": "170 MB, about 3 min"}
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
BOMB = 1 << 24  # bytes to which a gzip file may unpack however small it is
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
NETWORK_SECONDS = 5  # how long a host may stay silent before we go on without it
CAUSES = {  # what an error says: what that means, and what one can do
    r"CERTIFICATE_VERIFY_FAILED": "the host's certificate is not trusted here, as behind a proxy that reads along: "
    "let SSL_CERT_FILE name a file of certificates to trust",
    r"\b407\b": "the proxy wants a name and a password: set HTTP_PROXY and HTTPS_PROXY=http://name:password@host:port",
    r"(Error|failed:) (429|5\d\d)": "the host is busy or out of order: try again later",
    r"(Error|failed:) 4\d\d": "the host, or a filter before it, refuses",
    r"timed out|TimeoutError|no answer": "the host is silent",
    r"urlopen error": "no download host can be reached",
}


def read_idx(path: str | Path) -> np.ndarray:
    """An IDX file, the format of MNIST, plain or gzipped (told by its first bytes), in the machine's byte order.

    Two zero bytes, a type code, the number of axes, the length of each as a big-endian 32-bit integer, then the values,
    last axis fastest. A DataError if that is not all the file holds, or if it might be a gzip bomb.
    """
    path = Path(path)
    if not os.path.isfile(path):  # False also for a name that no file can have
        raise DataError(f"{path}: cannot be read (there is no such file)")
    try:
        return _parse_idx(path.read_bytes(), path.suffix == ".gz")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except zlib.error as error:
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _parse_idx(content: bytes, named_gz: bool) -> np.ndarray:
    hint = "; the name says gzip, the content is not" if named_gz and content else ""
    if content[:2] == b"\x1f\x8b":
        most, unpacker, hint = max(BOMB, 20 * len(content)), zlib.decompressobj(wbits=31), ""
        content = unpacker.decompress(content, most + 1)
        if len(content) > most:
            raise ValueError(f"unpacks to more than {most:,} bytes: it might be a gzip bomb")
        if not unpacker.eof or unpacker.unused_data:
            raise zlib.error("it ends too early, or goes on behind its end")
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"not an IDX file: it must start with two zero bytes, found {content[:2]!r}{hint}")
    code, axes = content[2:4]
    if code not in IDX_TYPES:
        known = ", ".join(f"0x{c:02x}" for c in IDX_TYPES)
        raise ValueError(f"unknown IDX type code 0x{code:02x}; the format knows {known}")
    if len(content) < (start := 4 + 4 * axes):
        raise ValueError(f"truncated: the header announces {axes} axes, the file ends before their lengths")
    shape, dtype = struct.unpack(f">{axes}I", content[4:start]), np.dtype(IDX_TYPES[code])
    expected, found = dtype.itemsize * math.prod(shape), len(content) - start
    if found != expected:
        told = (
            f"the header announces {' x '.join(map(str, shape))} values, {expected:,} bytes; the file holds {found:,}"
        )
        raise ValueError(f"{told}: {'truncated' if found < expected else 'too long'}, fetch it again")
    try:
        return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as error:  # more axes than NumPy knows, or one of length 0 beside others without bounds
        raise ValueError(f"the header announces an array that cannot be made ({error})") from error


def says_fashion(folder: Path) -> bool:
    """The files of MNIST and Fashion-MNIST have the same names: the folder's tells them apart."""
    return "fashion" in "/".join(folder.absolute().parts[-2:]).lower()


def places(name: str, root: Path) -> list[Path]:
    """Where the files of a data set may lie, seen from a data folder: torchvision's place, a level up, right there."""
    if name == "cifar10":
        return [root / "cifar-10-batches-py", root / name]
    right_there = [root / "raw", root] if says_fashion(root) == (name == "fashion") else []
    return [root / DATASETS[name] / "raw", root / DATASETS[name], *right_there]


def load_files(name: str, root: Path, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]] | None:
    """Images, labels and class names from torchvision's files; None if they are not there."""
    if name == "cifar10":
        root = root.parent if root.name == "cifar-10-batches-py" else root
        return _cifar10(root, train) if os.path.isdir(root / "cifar-10-batches-py") else None
    half = "train" if train else "t10k"
    for place in places(name, root):
        files = [_named(place, f"{half}-{part}-ubyte") for part in ("images-idx3", "labels-idx1")]
        if None in files:
            continue
        images, labels = (torch.from_numpy(read_idx(file)) for file in files)
        found = [(array.dtype, array.ndim) for array in (images, labels)]
        if found != [(torch.uint8, 3), (torch.uint8, 1)] or len(images) != len(labels) or bool((labels > 9).any()):
            raise DataError(
                f"{files[0]} and {files[1]} do not fit together: {images.dtype} {tuple(images.shape)} and "
                f"{labels.dtype} {tuple(labels.shape)}; expected bytes, and labels 0 to 9, one an image; "
                "fetch them again"
            )
        return images[:, None], labels.long(), FASHION if name == "fashion" else tuple("0123456789")
    return None


def _cifar10(root: Path, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    from torchvision.datasets import CIFAR10

    try:
        dataset = CIFAR10(root, train=train)  # verifies checksums before it reads
    except RuntimeError as error:
        raise DataError(f"{root / 'cifar-10-batches-py'}: incomplete or altered; fetch it again") from error
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(dataset.targets), tuple(dataset.classes)


def _named(place: Path, name: str) -> Path | None:
    """The file of that name, or as Kaggle writes it, with a dot; plain or packed."""
    names = (each + end for end in ("", ".gz") for each in (name, name.replace("-idx", ".idx")))
    return next((place / each for each in names if os.path.isfile(place / each)), None)


def download(name: str, target: Path) -> str | None:
    """Let torchvision put a data set into the folder `target`; None if that went well, else why not.

    Processes wait for each other at a lock, and a download becomes visible only when it is complete.
    """
    from torchvision import datasets

    dataset, timeout = getattr(datasets, DATASETS[name]), socket.getdefaulttimeout()
    urls = [dataset.url] if name == "cifar10" else [mirror + dataset.resources[0][0] for mirror in dataset.mirrors]
    try:
        find_a_host(urls)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"), tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            if target.exists():  # another process was faster
                return None
            about = "The bar says what is left; if it breaks, a message says how to go on."
            print(f"Downloading {DATASETS[name]}, once: {SIZES[name]} at 1 MB/s. {about}", flush=True)
            socket.setdefaulttimeout(NETWORK_SECONDS)
            root = Path(temporary) / name
            dataset(root, download=True)
            for archive in root.rglob("*.gz"):  # unpacked by now
                archive.unlink()
            root.rename(target)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        cause = next((cause for text, cause in CAUSES.items() if re.search(text, said)), "the download failed")
        return f"{cause} ({said})"
    finally:
        socket.setdefaulttimeout(timeout)
    return None


def find_a_host(urls: list[str]) -> None:
    """Return as soon as a host begins to send; all are asked at once, for 5 seconds. An OSError says why none does."""
    answers: queue.Queue[str] = queue.Queue()

    def ask(url: str) -> None:
        try:
            urlopen(Request(url, headers={"User-Agent": "pytorch/vision"}), timeout=NETWORK_SECONDS).close()
            answers.put("")
        except (OSError, ValueError, http.client.HTTPException) as error:
            answers.put(str(error) or type(error).__name__)

    for url in urls:  # daemon threads: looking up a host's name can hang, and must not hold up the exit
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    deadline, said = time.monotonic() + NETWORK_SECONDS, []
    try:
        while len(said) < len(urls):
            said.append(answers.get(timeout=max(deadline - time.monotonic(), 0)))
            if not said[-1]:
                return
    except queue.Empty:
        said.append(f"no answer within {NETWORK_SECONDS} seconds")
    raise OSError("; ".join(dict.fromkeys(said)))
