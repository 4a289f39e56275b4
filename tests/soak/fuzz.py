"""Mutated and made-up files for every reader of outside bytes: only the documented errors may come out.

    python tests/soak/fuzz.py COUNT [SEED]        COUNT inputs, shared out among the readers
    python tests/soak/fuzz.py READER:NUMBER SEED  one input again, its bytes kept in build/fuzz

Each input follows from (seed, reader, number). It must be read, or refused, within 1 second of computing and 200 MB of
memory. Inputs run in forked workers that may not take 1 GB more than they have at the start and are killed after 10
seconds, so a reader that hangs, crashes or fills the memory is a failure like any other (Linux; elsewhere errors and
seconds are looked at).
"""

import contextlib
import gzip
import io
import json
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ddpm_helpers import (
    CheckpointError,
    DataError,
    TrainConfig,
    Trainer,
    TrainingError,
    UNet,
    cosine_schedule,
    load_images,
    load_pretrained,
    read_idx,
)
from ddpm_helpers.files import SEAL, read, write
from ddpm_helpers.lessons import ladder
from ddpm_helpers.pictures import load_folder
from ddpm_helpers.pretrained import save_pretrained

SECONDS, MEGABYTES = 1.0, 200  # that one input may take
WALL, ROOM = 10, 1 << 30  # seconds and bytes after which a worker is stopped
NUMBERS = (0, 1, 2, 7, 28, 255, 256, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
KEEP = Path(__file__).resolve().parents[2] / "build" / "fuzz"


@dataclass(frozen=True)
class Reader:
    """One way in for outside bytes."""

    make: Callable[[random.Random], bytes]  # an input
    read: Callable[[Path], object]  # reads it from a file, or raises
    documented: tuple[type[Exception], ...]
    file: str  # what the input is called
    share: int  # of all inputs, in percent


# ---- mutations ------------------------------------------------------------------------------------------------------


def mutated(chance: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """`content` after one to four changes: bits, bytes, pieces moved in, out or about, numbers, a cut."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(min(len(content), chance.choice([16, 200, 1 << 30])) or 1)
        end = place + chance.randint(1, 1 << chance.randint(0, 10))
        kind = chance.randrange(7)
        if kind == 0 and content:
            content[place % len(content)] ^= 1 << chance.randrange(8)
        elif kind == 1 and content:
            content[place % len(content)] = chance.randrange(256)
        elif kind == 2:
            del content[place:end]
        elif kind == 3:
            content[place:place] = content[place:end]
        elif kind == 4 and other:
            start = chance.randrange(len(other))
            content[place : end if chance.random() < 0.5 else place] = other[start : start + end - place]
        elif kind == 5:
            number = chance.choice(NUMBERS)
            content[place : place + 4] = struct.pack(chance.choice("<>") + "I", number)
        else:
            del content[chance.randrange(len(content) + 1) :]
    return bytes(content)


def strange(chance: random.Random) -> object:
    """A plain value that a reader may not expect."""
    numbers = [-1, 0, 1, 2, 3, 10**5, 10**9, 2**63, 2**64, 10**40, 0.5, 1e308, float("nan"), float("inf")]
    texts = ["", "x", "x" * 5000, "\0", "UNet", "1", "\ud800"]
    others = [None, True, [], {}, [[]], [1] * 3000, [0] * 40, [10**9], {"a": {"b": [1]}}]
    return chance.choice([*numbers, *texts, *others])


def altered(chance: random.Random, value: object) -> object:
    """A copy of a nested value in which one place is strange, missing, or twice there."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name, kind = chance.choice(list(value)), chance.randrange(8)
        if kind == 0:
            return {key: inner for key, inner in value.items() if key != name}
        if kind == 1:
            return {**value, chance.choice(["x", "", 3, name]): strange(chance)}
        return {**value, name: altered(chance, value[name])}
    if isinstance(value, list | tuple) and value and chance.random() < 0.7:
        place, kind = chance.randrange(len(value)), chance.randrange(6)
        if kind == 0:
            return [*value[:place], *value[place + 1 :]]
        if kind == 1:
            return [*value, *value]
        return [*value[:place], altered(chance, value[place]), *value[place + 1 :]]
    if isinstance(value, torch.Tensor) and chance.random() < 0.7:
        other = [value.double(), value.long(), value[None], value.flatten()[:1], value * float("nan"), value.bool()]
        return chance.choice([*other, value.new_zeros(0)])
    return strange(chance)


def nested(chance: random.Random) -> str:
    """JSON that is deeper than a parser can go."""
    depth = chance.choice([100, 2000, 100_000])
    return chance.choice(['{"a":', "["]) * depth


def bomb(megabytes: int) -> bytes:
    """Raw deflate data of so many MB of zeros, a thousandth as long."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # such pieces may follow each other
    return piece * megabytes + packer.flush()


def gzip_bomb(head: bytes, megabytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + start + bomb(megabytes) + bytes(8)


# ---- inputs ---------------------------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(0)


def idx_bytes(array: np.ndarray, code: int = 8) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


IDX = [
    idx_bytes(RANDOM.integers(0, 256, (7, 28, 28), dtype=np.uint8)),
    idx_bytes(np.arange(60, dtype=np.uint8)),
    idx_bytes(np.arange(24).reshape(2, 3, 4).astype(">f8"), 14),
]


def lying_idx(chance: random.Random) -> bytes:
    """A header of the right form that says anything, and some values."""
    axes = chance.choice([0, 1, 2, 3, 4, 31, 32, 33, 64, 65, 255])
    sizes = [chance.choice(NUMBERS if chance.random() < 0.5 else (0, 1)) for _ in range(axes)]
    code = chance.choice([8, 9, 11, 12, 13, 14, chance.randrange(256)])
    body = chance.choice([b"", b"\0", IDX[0][:100], bytes(8), bytes(5000)])
    return struct.pack(f">4B{axes}I", 0, 0, code, axes, *sizes) + body


def make_idx(chance: random.Random) -> bytes:
    return lying_idx(chance) if chance.random() < 0.3 else mutated(chance, chance.choice(IDX), chance.choice(IDX))


def make_gzip(chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.5:
        return mutated(chance, gzip.compress(chance.choice(IDX)), gzip.compress(IDX[1]))
    if kind < 0.995:
        packed = gzip.compress(make_idx(chance), chance.choice([0, 1, 9]))
        return packed * chance.choice([1, 1, 1, 2, 50])
    megabytes = chance.choice([10, 100, 1000, 4000])
    shape = chance.choice([(megabytes, 1024, 1024), (megabytes - 1, 1024, 1024), (28, 28, 28), (2**31, 2**31)])
    return gzip_bomb(struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape), megabytes)


def tiny_trainer() -> Trainer:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    net = UNet(base=8, multipliers=(1,), attention=0)
    return Trainer(net, cosine_schedule(20), images, TrainConfig(4, batch_size=2, warmup=1), "cpu")


def sealed(head: dict, body: bytes) -> bytes:
    """A file of ours with any header and a right checksum, so that a reader looks further."""
    text = json.dumps(head).encode("utf-8", "surrogatepass")
    content = struct.pack("<Q", len(text)) + text + body
    return content.replace(SEAL.encode(), f"crc32 {zlib.crc32(content):08x}".encode(), 1)


class File:
    """A way to make inputs from one good file."""

    def __init__(self, save: Callable[[Path], None]):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.safetensors"
            save(path)
            self.whole = path.read_bytes()
        size = struct.unpack("<Q", self.whole[:8])[0]
        self.head, self.body = json.loads(self.whole[8 : 8 + size]), self.whole[8 + size :]
        self.about = json.loads(self.head["__metadata__"]["ddpm_helpers"])

    def make(self, chance: random.Random) -> bytes:
        kind, head = chance.random(), dict(self.head)
        if kind < 0.4:
            return mutated(chance, self.whole, self.whole)
        if kind < 0.7:  # another description
            about = json.dumps(altered(chance, altered(chance, self.about)))
            about = nested(chance) if chance.random() < 0.05 else about
            about = mutated(chance, about.encode()).decode(errors="replace") if chance.random() < 0.1 else about
            head["__metadata__"] = {"ddpm_helpers": about, "checksum": SEAL}
        elif kind < 0.95:  # other tensors
            head["__metadata__"] = {**head["__metadata__"], "checksum": SEAL}
            name = chance.choice(list(head))
            if name != "__metadata__" and chance.random() < 0.5:
                kinds = ["F32", "F64", "BF16", "I8", "U8", "BOOL", "I64", "C64", "F8_E4M3", "F8_E5M2", "F4", "U16", "X"]
                shape = head[name]["shape"] or [1]
                small = {"shape": [*shape[:-1], shape[-1] // 2 or 1]}
                head[name] = {**head[name], "dtype": chance.choice(kinds), **chance.choice([small, {}, {"shape": [0]}])}
            else:
                head = altered(chance, head)
        else:
            text = nested(chance).encode()
            return struct.pack("<Q", chance.choice([len(text)] * 5 + [2**40, 2**64 - 1])) + text + self.body
        return sealed(head, self.body)


def good_weights(path: Path) -> None:
    arguments = {"base": 8, "multipliers": [1], "attention": 0, "patch": 2}
    save_pretrained(path, UNet(**arguments), arguments, "cosine", 20, {"steps": 5, "data": "none"})


def good_state(path: Path) -> None:
    trainer = tiny_trainer()
    for _ in zip(range(2), trainer.run(), strict=False):
        pass
    trainer.save(path)


class States(File):
    """Training states that are well-formed and say something else."""

    def make(self, chance: random.Random) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.safetensors"
            path.write_bytes(self.whole)
            good = read(path)
            while True:
                state = good
                for _ in range(chance.randint(1, 3)):
                    state = altered(chance, state)
                with contextlib.suppress(Exception):  # what JSON does not know is not written
                    write(path, "training state", state)
                    return path.read_bytes()


def resume(path: Path) -> None:
    """Whatever the file holds: a trainer that goes on from it trains, or says that the loss is no number."""
    torch.manual_seed(0)
    trainer = tiny_trainer()
    trainer.resume(path)
    assert 0 <= trainer.step <= 4
    assert trainer.losses.shape == (trainer.step,)
    with contextlib.suppress(TrainingError):
        list(trainer.run())


def good_pictures() -> list[bytes]:
    result = []
    for mode, size in (("RGB", (17, 13)), ("L", (8, 9)), ("RGBA", (9, 9)), ("P", (16, 16)), ("I;16", (9, 9))):
        pixels = RANDOM.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "MPO"):
            buffer = io.BytesIO()
            with contextlib.suppress(OSError, KeyError, ValueError):  # not every kind knows every mode
                Image.fromarray(pixels).convert("L" if mode == "I;16" else mode).convert(mode).save(buffer, kind)
                result.append(buffer.getvalue())
    return result


PICTURES = good_pictures()


def png(width: int, height: int, depth: int, colour: int, packed: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def make_picture(chance: random.Random) -> bytes:
    if chance.random() < 0.95:
        return mutated(chance, chance.choice(PICTURES), chance.choice(PICTURES))
    sides = [chance.choice([1, 8, 1000, 3000, 5000, 20_000, 2**31 - 1]) for _ in range(2)]
    packed = b"\x78\x9c" + bomb(chance.choice([1, 20, 100])) if chance.random() < 0.2 else zlib.compress(bytes(100))
    return png(*sides, chance.choice([1, 8, 16]), chance.choice([0, 2, 4, 6]), packed)


def read_picture(path: Path) -> None:
    """A good picture beside it: what cannot be read must be named, and the rest must come."""
    good = path.with_name("good.png")
    if not good.exists():
        good.write_bytes(PICTURES[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = len(load_folder(path.parent, size=8).images)
    assert found == 2 or any(path.name in str(warning.message) for warning in caught), "left out without a word"
    assert any(load_folder(path.parent, size=8).images[-1].flatten()), "the good one is there"


def ladder_json() -> bytes:
    return (ladder.RESULTS / "ladder_cpu.json").read_bytes()


def make_ladder(chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.3:
        return mutated(chance, ladder_json())
    if kind < 0.4:
        return nested(chance).encode()
    return json.dumps(altered(chance, altered(chance, json.loads(ladder_json())))).encode()


def read_ladder(path: Path) -> None:
    if not path.with_suffix(".png").exists():
        shutil.copy(ladder.RESULTS / "ladder_cpu.png", path.with_suffix(".png"))
    ladder.ladder_samples(str(path.with_suffix("")))


def read_ladder_picture(path: Path) -> None:
    shutil.copy(ladder.RESULTS / "ladder_cpu.json", path.with_suffix(".json"))
    ladder.ladder_samples(str(path.with_suffix("")))


def make_name(chance: random.Random) -> bytes:
    names = ["mnist", "..", "/", "~", "~nobody-here", "x" * 300, "x/" * 3000, "\0", "a\0b", "*", "é" * 200]
    text = chance.choice(names) + chance.choice(["", ".safetensors", "/x", "\0.safetensors", "x" * 250])
    return text.encode() if chance.random() < 0.3 else mutated(chance, text.encode())


def read_name(path: Path) -> None:
    """The names that a user may type; none of them exists in the empty folder."""
    name = path.read_bytes().decode(errors="surrogateescape")
    for reader in (load_pretrained, read, read_idx, lambda name: load_images(f"x{name}")):
        with contextlib.suppress(CheckpointError, DataError):
            reader(name)
    with contextlib.suppress(FileNotFoundError):
        ladder.load_ladder(name)


def readers() -> dict[str, Reader]:
    """All ways in. A picture may take 20 bytes for each of 90 million pixels, as Pillow allows; here 5 million."""
    Image.MAX_IMAGE_PIXELS = 5_000_000
    state, weights = File(good_state), File(good_weights)
    shipped = (ladder.RESULTS / "ladder_cpu.png").read_bytes()
    return {
        "idx": Reader(make_idx, read_idx, (DataError,), "images", 30),
        "gzip": Reader(make_gzip, read_idx, (DataError,), "images.gz", 15),
        "state": Reader(state.make, read, (CheckpointError,), "a.safetensors", 20),
        "resume": Reader(States(good_state).make, resume, (CheckpointError,), "a.safetensors", 3),
        "weights": Reader(weights.make, lambda path: read(path, "weights"), (CheckpointError,), "a.safetensors", 12),
        "pretrained": Reader(weights.make, load_pretrained, (CheckpointError,), "a.safetensors", 8),
        "pictures": Reader(make_picture, read_picture, (DataError,), "a.png", 8),
        "ladder": Reader(make_ladder, read_ladder, (ValueError,), "a.json", 1),
        "ladder picture": Reader(lambda c: mutated(c, shipped), read_ladder_picture, (ValueError,), "a.png", 1),
        "names": Reader(make_name, read_name, (), "name", 2),
    }


# ---- running them ---------------------------------------------------------------------------------------------------


def status(field: str) -> float:
    """A line of /proc/self/status in MB; 0 where there is no such file."""
    with contextlib.suppress(OSError):
        found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) / 1024 if found else 0
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
        outcome = "refused"
        if not isinstance(error, reader.documented):
            problem = "".join(traceback.format_exception(error))
        elif out_of_memory(error):
            problem = f"wants more than {ROOM >> 20} MB: {error}"
    seconds, megabytes = time.process_time() - began, status("VmHWM") - before
    if not problem and (seconds > SECONDS or megabytes > MEGABYTES):
        problem = f"{outcome} after {seconds:.1f} s and {megabytes:.0f} MB"
    shutil.rmtree(folder, ignore_errors=True)
    return {"outcome": outcome, "seconds": seconds, "megabytes": megabytes, "problem": problem}


def out_of_memory(error: BaseException | None) -> bool:
    """Is this, or what it came from, an error of memory?"""
    while error and not isinstance(error, MemoryError) and "memory" not in str(error):
        error = error.__cause__ or error.__context__
    return bool(error)


def content_of(name: str, reader: Reader, number: int, seed: int) -> bytes:
    return reader.make(random.Random(f"{seed} {name} {number}"))


def worker(name: str, reader: Reader, numbers: range, seed: int, lines) -> None:
    """Inputs one after another, a line of JSON for each."""
    if size := status("VmSize"):
        import resource

        most = int(size * 2**20) + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for number in numbers:
            content = content_of(name, reader, number, seed)
            if hasattr(signal, "alarm"):
                signal.alarm(WALL)
            print(json.dumps(one(reader, content, Path(folder) / str(number))), file=lines, flush=True)
    if hasattr(signal, "alarm"):
        signal.alarm(0)


def forked(name: str, reader: Reader, numbers: range, seed: int) -> list[dict]:
    """`worker` in a child; if it dies, the input that it died of is a failure and another child goes on."""
    results: list[dict] = []
    while len(results) < len(numbers):
        out, into = os.pipe()
        child = os.fork()
        if not child:
            os.close(out)
            ours = os.fdopen(os.dup(2), "w")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries in C have to say
            try:
                with open(into, "w") as lines:
                    worker(name, reader, numbers[len(results) :], seed, lines)
            except BaseException:
                traceback.print_exc(file=ours)
                ours.flush()
                os._exit(1)
            os._exit(0)
        os.close(into)
        with open(out) as lines:
            results += [json.loads(line) for line in lines]
        end = os.waitpid(child, 0)[1]
        if os.WIFEXITED(end) and os.WEXITSTATUS(end):
            raise RuntimeError(f"{name}: input {len(results)} could not be made, see above")
        if len(results) < len(numbers):
            problem = f"the process ended with {signal.strsignal(os.WTERMSIG(end))} (after {WALL} s it is killed)"
            results.append({"outcome": "died", "seconds": 0.0, "megabytes": 0.0, "problem": problem})
    return results


def in_process(name: str, reader: Reader, numbers: range, seed: int) -> list[dict]:
    """Where forks and limits are not what they are in Linux."""
    lines = io.StringIO()
    worker(name, reader, numbers, seed, lines)
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def fuzz(count: int, seed: int = 0) -> dict:
    """Run about `count` inputs; a summary, printed line by line."""
    torch.set_num_threads(1)
    run, summary, failures = forked if sys.platform == "linux" else in_process, {}, []
    print(f"fuzz: seed {seed}", flush=True)
    for name, reader in readers().items():
        numbers = range(max(20, count * reader.share // 100))
        began = time.monotonic()
        results = run(name, reader, numbers, seed)
        outcomes = Counter(result["outcome"] for result in results)
        bad = [number for number, result in zip(numbers, results, strict=True) if result["problem"]]
        for number in bad:
            KEEP.mkdir(parents=True, exist_ok=True)
            (KEEP / f"{name} {number} {reader.file}").write_bytes(content_of(name, reader, number, seed))
            failures.append({"input": f"{name}:{number}", "seed": seed, "problem": results[number]["problem"]})
        summary[name] = {
            "inputs": len(results),
            **outcomes,
            "failures": len(bad),
            "slowest, s": round(max(result["seconds"] for result in results), 3),
            "largest, MB": round(max(result["megabytes"] for result in results)),
            "wall, s": round(time.monotonic() - began),
        }
        print(f"  {name:<15}{summary[name]}", flush=True)
    total = sum(part["inputs"] for part in summary.values())
    print(f"  {total:,} inputs, {len(failures)} failures", flush=True)
    seen: Counter = Counter()
    for failure in failures:
        key = (failure["input"].split(":")[0], failure["problem"].strip().splitlines()[-1])
        seen[key] += 1
        if seen[key] == 1:
            print(
                f"  FAILURE {failure['input']} seed {seed} (kept in {KEEP}): {failure['problem'][-1500:]}", flush=True
            )
    slowest, largest = (max(reader[column] for reader in summary.values()) for column in ("slowest, s", "largest, MB"))
    return {
        "ok": not failures,
        "result": f"{len(failures)} failures; at most {slowest} s and {largest} MB",
        "inputs": total,
        "seed": seed,
        "readers": summary,
        "failures": failures[:100],
    }


def again(which: str, seed: int) -> int:
    """One input, in this process, with its traceback."""
    name, number = which.split(":")
    reader = readers()[name]
    with tempfile.TemporaryDirectory() as folder:
        result = one(reader, content_of(name, reader, int(number), seed), Path(folder) / "input")
    print(json.dumps(result, indent=1).replace("\\n", "\n"))
    return bool(result["problem"])


if __name__ == "__main__":
    what, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    sys.exit(again(what, seed) if ":" in what else not fuzz(int(what), seed)["ok"])
