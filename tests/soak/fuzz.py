"""Mutated and made-up files for every reader of outside bytes: only the documented errors may come out.

    python tests/soak/fuzz.py COUNT [SEED]        COUNT inputs, shared out among the readers

Each input follows from (seed, reader, number); one that fails is kept in build/fuzz. It must be read, or refused,
within 1 second of computing and 200 MB of memory. A reader's inputs run in a fork that may not take 1 GB more than it
has at the start and is killed when one takes 10 seconds, so a reader that hangs, crashes or fills the memory is a
failure like any other (Linux; elsewhere errors and seconds are looked at).
"""

import contextlib
import gzip
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ddpm_helpers import load_pretrained, read_idx
from ddpm_helpers.files import SEAL, CheckpointError, read
from ddpm_helpers.nets import UNet
from ddpm_helpers.pictures import DataError, load_folder
from ddpm_helpers.pretrained import save_pretrained
from ddpm_helpers.schedule import cosine_schedule
from ddpm_helpers.train import TrainConfig, Trainer, TrainingError

SECONDS, MEGABYTES = 1.0, 200  # that one input may take
WALL, ROOM = 10, 1 << 30  # seconds and bytes after which a fork is stopped
NUMBERS = (0, 1, 2, 7, 28, 255, 256, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
KEEP = Path(__file__).resolve().parents[2] / "build" / "fuzz"
FORKS = sys.platform == "linux"
RANDOM = np.random.default_rng(0)
SMALL = {"base": 8, "multipliers": [1], "attention": 0, "patch": 2}


class Reader(NamedTuple):
    """One way in for outside bytes."""

    make: Callable[[random.Random], bytes]  # an input
    read: Callable[[Path], object]  # reads it from a file, or raises
    documented: tuple[type[Exception], ...]
    file: str  # what the input is called
    share: int  # of all inputs, in percent


# ---- inputs ---------------------------------------------------------------------------------------------------------


def mutated(chance: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """`content` after one to four changes: bits, bytes, pieces moved in, out or about, numbers, a cut."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(min(len(content), chance.choice([16, 200, 1 << 30])) or 1)
        end, kind = place + chance.randint(1, 1 << chance.randint(0, 10)), chance.randrange(6)
        start = chance.randrange(len(other) + 1)
        if kind == 0 and content:
            content[place % len(content)] ^= chance.choice([1 << chance.randrange(8), chance.randrange(256)])
        elif kind == 1:
            del content[place:end]
        elif kind == 2:
            content[place:place] = content[place:end]
        elif kind == 3:
            content[place : chance.choice([place, end])] = other[start : start + end - place]
        elif kind == 4:
            content[place : place + 4] = struct.pack(chance.choice("<>") + "I", chance.choice(NUMBERS))
        else:
            del content[chance.randrange(len(content) + 1) :]
    return bytes(content)


def altered(chance: random.Random, value: object) -> object:
    """A copy of a nested value in which one place is strange, missing, or twice there."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name, kind = chance.choice(list(value)), chance.randrange(8)
        if kind == 0:
            return {key: inner for key, inner in value.items() if key != name}
        return {**value, chance.choice(["x", "", 3]) if kind == 1 else name: altered(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        return chance.choice([value[:place], value * 2, [*value[:place], altered(chance, value[place])]])
    numbers = [-1, 0, 1, 2, 3, 10**5, 10**9, 2**63, 2**64, 10**40, 0.5, 1e308, float("nan"), float("inf")]
    texts = ["", "x", "x" * 5000, "\0", "UNet", "1", "\ud800"]
    return chance.choice([*numbers, *texts, None, True, [], {}, [[]], [1] * 3000, [0] * 40, [10**9], {"a": {"b": [1]}}])


def nested(chance: random.Random) -> str:
    """JSON that is deeper than a parser can go."""
    return chance.choice(['{"a":', "["]) * chance.choice([100, 2000, 100_000])


def idx_bytes(array: np.ndarray, code: int = 8) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


IDX = [
    idx_bytes(RANDOM.integers(0, 256, (7, 28, 28), dtype=np.uint8)),
    idx_bytes(np.arange(60, dtype=np.uint8)),
    idx_bytes(np.arange(24).reshape(2, 3, 4).astype(">f8"), 14),
]


def make_idx(chance: random.Random) -> bytes:
    if chance.random() < 0.7:
        return mutated(chance, chance.choice(IDX), chance.choice(IDX))
    axes = chance.choice([0, 1, 2, 3, 4, 31, 32, 33, 64, 65, 255])  # a header of the right form that says anything
    sizes = [chance.choice(NUMBERS if chance.random() < 0.5 else (0, 1)) for _ in range(axes)]
    head = struct.pack(f">4B{axes}I", 0, 0, chance.choice([8, 9, 11, 12, 13, 14, chance.randrange(256)]), axes, *sizes)
    return head + chance.choice([b"", b"\0", IDX[0][:100], bytes(8), bytes(5000)])


def make_gzip(chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return mutated(chance, gzip.compress(chance.choice(IDX)), gzip.compress(IDX[1]))
    return gzip.compress(make_idx(chance), chance.choice([0, 1, 9])) * chance.choice([1, 1, 1, 2, 50])


def make_file(save: Callable[[Path], None]) -> Callable[[random.Random], bytes]:
    """A way to make inputs from one good file of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        save(path)
        whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    good, body = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    notes = good["__metadata__"] = {**good["__metadata__"], "checksum": SEAL}

    def make(chance: random.Random) -> bytes:
        kind, head, numbers, tensor = chance.random(), dict(good), body, chance.choice([*good])
        if kind < 0.4:
            return mutated(chance, whole, whole)
        if kind < 0.45:
            text = nested(chance).encode()
            return struct.pack("<Q", chance.choice([len(text)] * 5 + [2**40, 2**64 - 1])) + text + body
        if kind < 0.7:  # another description
            about = json.dumps(altered(chance, altered(chance, json.loads(notes["ddpm_helpers"]))))
            about = chance.choice([*[about] * 18, nested(chance), mutated(chance, about.encode()).decode("latin-1")])
            head["__metadata__"] = {**notes, "ddpm_helpers": about}
        elif kind < 0.8:  # other numbers
            place = chance.randrange(len(body))
            numbers = body[:place] + chance.choice([bytes(4), b"\xff" * 4, b""]) + body[place + 4 :]
        elif kind < 0.9 and tensor != "__metadata__":
            kinds = ["F32", "F64", "BF16", "I8", "U8", "BOOL", "I64", "C64", "F8_E4M3", "F8_E5M2", "F4", "U16", "X"]
            shape = good[tensor]["shape"] or [1]
            small = {"shape": [*shape[:-1], shape[-1] // 2 or 1]}
            head[tensor] = {**head[tensor], "dtype": chance.choice(kinds), **chance.choice([small, {}, {"shape": [0]}])}
        else:
            head = altered(chance, head)
        text = json.dumps(head).encode("utf-8", "surrogatepass")
        content = struct.pack("<Q", len(text)) + text + numbers  # sealed anew, so that a reader looks further
        return content.replace(SEAL.encode(), f"crc32 {zlib.crc32(content):08x}".encode(), 1)

    return make


def tiny_trainer() -> Trainer:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    return Trainer(UNet(**SMALL), cosine_schedule(20), images, TrainConfig(4, batch_size=2, warmup=1), "cpu")


def good_state(path: Path) -> None:
    trainer = tiny_trainer()
    for _ in zip(range(2), trainer.run(), strict=False):
        pass
    trainer.save(path)


def good_weights(path: Path) -> None:
    save_pretrained(path, UNet(**SMALL), SMALL, "cosine", 20, {"steps": 5, "data": "none"})


def good_pictures() -> list[bytes]:
    result = []
    for mode, size in (("RGB", (17, 13)), ("L", (8, 9)), ("RGBA", (9, 9)), ("P", (16, 16)), ("I;16", (9, 9))):
        picture = Image.fromarray(RANDOM.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
        for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "MPO"):
            buffer = io.BytesIO()
            with contextlib.suppress(OSError, KeyError, ValueError):  # not every kind knows every mode
                picture.convert("L" if mode == "I;16" else mode).convert(mode).save(buffer, kind)
                result.append(buffer.getvalue())
    return result


# ---- readers --------------------------------------------------------------------------------------------------------


def resume(path: Path) -> None:
    """Whatever the file holds: a trainer that goes on from it trains, or says that the loss is no number."""
    trainer = tiny_trainer()
    trainer.resume(path)
    assert 0 <= trainer.step <= 4
    assert trainer.losses.shape == (trainer.step,)
    with contextlib.suppress(TrainingError):
        list(trainer.run())


def read_picture(path: Path) -> None:
    """A good picture beside it: what cannot be read must be named, and the rest must come."""
    path.with_name("good.png").write_bytes(PICTURES[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = load_folder(path.parent, size=8).images
    assert len(images) == 2 or any(path.name in str(warning.message) for warning in caught), "left out without a word"
    assert any(images[-1].flatten()), "the good one is there"


PICTURES = good_pictures()


def readers() -> dict[str, Reader]:
    """All ways in. A picture may take 20 bytes for each of 90 million pixels, as Pillow allows; here 5 million."""
    Image.MAX_IMAGE_PIXELS = 5_000_000
    state, weights = make_file(good_state), make_file(good_weights)
    make_picture = lambda chance: mutated(chance, chance.choice(PICTURES), chance.choice(PICTURES))  # noqa: E731
    return {
        "idx": Reader(make_idx, read_idx, (DataError,), "images", 34),
        "gzip": Reader(make_gzip, read_idx, (DataError,), "images.gz", 15),
        "state": Reader(state, read, (CheckpointError,), "a.safetensors", 19),
        "resume": Reader(state, resume, (CheckpointError,), "a.safetensors", 4),
        "weights": Reader(weights, lambda path: read(path, "weights"), (CheckpointError,), "a.safetensors", 10),
        "pretrained": Reader(weights, load_pretrained, (CheckpointError,), "a.safetensors", 10),
        "pictures": Reader(make_picture, read_picture, (DataError,), "a.png", 8),
    }


# ---- running them ---------------------------------------------------------------------------------------------------


def status(field: str) -> float:
    """A line of /proc/self/status in MB; 0 where there is no such file."""
    with contextlib.suppress(OSError):
        return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    return 0


def one(reader: Reader, content: bytes, folder: Path) -> dict:
    """Read one input; what came out, and what it took."""
    folder.mkdir()
    path, problem, outcome = folder / reader.file, None, "read"
    path.write_bytes(content)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, began = status("VmRSS"), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except Exception as error:
        outcome, told = "refused", "".join(traceback.format_exception(error))
        if not isinstance(error, reader.documented) or "MemoryError" in told or "allocate memory" in told:
            problem = told
    seconds, megabytes = time.process_time() - began, status("VmHWM") - before
    if seconds > SECONDS or megabytes > MEGABYTES:
        problem = problem or f"{outcome} after {seconds:.1f} s and {megabytes:.0f} MB"
    shutil.rmtree(folder, ignore_errors=True)
    return {"outcome": outcome, "seconds": seconds, "megabytes": megabytes, "problem": problem}


def worker(name: str, reader: Reader, numbers: range, seed: int, folder: Path) -> None:
    """Inputs one after another, a line of JSON for each."""
    if FORKS:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, 2 * (int(status("VmSize") * 2**20) + ROOM,))
        for stream in (1, 2):  # what readers, and libraries in C, have to say
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    with (folder / "results").open("w", buffering=1) as lines:
        for number in numbers:
            signal.alarm(WALL) if FORKS else None
            print(json.dumps(one(reader, content_of(name, reader, number, seed), folder / str(number))), file=lines)


def results_of(*arguments) -> list[dict]:
    """What `worker` notes, in a fork; if that dies, the input that it died of is a failure, and the last one."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if FORKS:
            child = multiprocessing.get_context("fork").Process(target=worker, args=(*arguments, Path(folder)))
            child.start()
            child.join()
        else:
            worker(*arguments, Path(folder))
        results = [json.loads(line) for line in (Path(folder) / "results").read_text().splitlines()]
    if FORKS and child.exitcode:
        problem = f"the process ended with {child.exitcode} ({-signal.SIGALRM:d}: after {WALL} s)"
        results.append({"outcome": "died", "seconds": 0.0, "megabytes": 0.0, "problem": problem})
    return results


def content_of(name: str, reader: Reader, number: int, seed: int) -> bytes:
    return reader.make(random.Random(f"{seed} {name} {number}"))


def fuzz(count: int, seed: int = 0) -> dict:
    """Run about `count` inputs; a summary, printed line by line."""
    torch.set_num_threads(1)
    summary, failures = {}, []
    for name, reader in readers().items():
        began, numbers = time.monotonic(), range(max(20, count * reader.share // 100))
        results = results_of(name, reader, numbers, seed)
        bad = [(number, result["problem"]) for number, result in enumerate(results) if result["problem"]]
        for number, problem in bad:
            KEEP.mkdir(parents=True, exist_ok=True)
            (KEEP / f"{name} {number} {reader.file}").write_bytes(content_of(name, reader, number, seed))
            failures.append({"input": f"{name}:{number}", "seed": seed, "problem": problem})
        for number, problem in bad[:3]:
            print(f"  FAILURE {name} {number} seed {seed} (kept in {KEEP}): {problem[-1500:]}", flush=True)
        summary[name] = {
            "inputs": len(results),
            **Counter(result["outcome"] for result in results),
            "failures": len(bad),
            "slowest, s": round(max(result["seconds"] for result in results), 3),
            "largest, MB": round(max(result["megabytes"] for result in results)),
            "wall, s": round(time.monotonic() - began),
        }
        print(f"  {name:<15}{summary[name]}", flush=True)
    total = sum(part["inputs"] for part in summary.values())
    print(f"  {total:,} inputs, {len(failures)} failures", flush=True)
    slowest, largest = (max(part[column] for part in summary.values()) for column in ("slowest, s", "largest, MB"))
    result = f"{len(failures)} failures; at most {slowest} s and {largest} MB"
    parts = {"inputs": total, "seed": seed, "readers": summary, "failures": failures[:100]}
    return {"ok": not failures, "result": result, **parts}


if __name__ == "__main__":
    sys.exit(not fuzz(*map(int, sys.argv[1:]))["ok"])
