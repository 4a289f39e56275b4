"""Files of weights and of training states: safetensors (numbers and text, nothing that could run) with a checksum."""

import json
import os
import zlib
from contextlib import suppress
from pathlib import Path

import safetensors.torch
from torch import Tensor

FORMAT = 3
WEIGHTS = Path(__file__).parent / "weights"
SEAL = "crc32 00000000"  # here goes the checksum of all other bytes, the header's too; safetensors has none
OLD = "docs/CHANGELOG.md has the few lines that turn an old file into a new one"
KINDS = {  # and what is said of a file where another kind is wanted
    "weights": "weights, and no training state: load_pretrained reads them",
    "feature network": "the weights of a feature network: load_feature_net reads them",
    "lesson": "a network of one lesson: its own loader reads it",
    "training state": "a training state, and not a network's weights. To get at those, make the network as it was, "
    "then net.load_state_dict(files.read(path)['ema']); save_pretrained writes a file of weights",
}


class CheckpointError(RuntimeError):
    """A file that cannot be written, read, or does not fit: the message names it and says what to do."""


def place(path: str | Path) -> Path:
    """The path with ~ expanded; its name must end in .safetensors."""
    path = Path(path if "\0" in str(path) else os.path.expanduser(path))  # a name with a zero is refused later
    if path.suffix == ".safetensors":
        return path
    raise CheckpointError(
        f"{path}: the name must end in .safetensors. (An old .pt file holds a training state, and not a network's "
        f"weights: {OLD})"
    )


def write(path: str | Path, kind: str, state: dict) -> None:
    """Write tensors, dictionaries of tensors, and plain values that JSON knows, as one of `KINDS`."""
    tensors, plain = {}, {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            tensors[key] = value
        elif isinstance(value, dict) and value and all(isinstance(part, Tensor) for part in value.values()):
            tensors |= {f"{key}/{name}": part for name, part in value.items()}
        else:
            plain[key] = value
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    about = json.dumps({**plain, "format": FORMAT, "kind": kind})
    content = safetensors.torch.save(tensors, {"ddpm_helpers": about, "checksum": SEAL})
    write_bytes(place(path), content.replace(SEAL.encode(), f"crc32 {zlib.crc32(content):08x}".encode(), 1))


def read(path: str | Path, *kinds: str) -> dict:
    """What `write` wrote, on the CPU; a CheckpointError if it is anything else, or altered in a single bit. It may be
    of any of these kinds; if none is named, a training state."""
    path = place(path)
    try:
        with open(path, "rb"), safetensors.safe_open(path, framework="pt") as file:  # reads the header alone
            notes = file.metadata()
        state = json.loads(notes["ddpm_helpers"])
        version, found = state.pop("format"), state.pop("kind", None)
        if version == FORMAT:
            content, seal = path.read_bytes(), notes["checksum"].encode()
            if seal != f"crc32 {zlib.crc32(content.replace(seal, SEAL.encode(), 1)):08x}".encode():
                raise ValueError("its checksum is wrong")
            for name, value in safetensors.torch.load(content).items():
                *group, part = name.split("/", 1)
                (state.setdefault(*group, {}) if group else state)[part] = value
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except Exception as error:  # what is in a file can make the readers fail in any way
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path}: damaged, truncated, or not a file of this course ({why}); delete or move it to start anew"
        ) from error
    if version != FORMAT:
        advice = OLD if version in (1, 2) else "update ddpm_helpers"
        raise CheckpointError(f"{path}: format {version!r}, and this version of ddpm_helpers reads {FORMAT}; {advice}")
    if found not in (kinds or ("training state",)):
        raise CheckpointError(f"{path} holds {KINDS.get(str(found), 'something else')}")
    return state


def holds(path: Path, kind: str) -> bool:
    """Whether a file can be read as one of this kind."""
    with suppress(CheckpointError):
        return bool(read(path, kind))
    return False


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside `path`, then renamed over it, so that a kill leaves the older one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # without this a power cut could leave an empty file under the good name
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error}); an older file there is as it was. "
            "Free some space, or name another place, and save again"
        ) from error
    finally:  # also when Ctrl-C stops the writing; a complete file has lost this name
        with suppress(OSError):
            temporary.unlink()


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str | None:
    """The first way in which two sets of named tensors differ in names, shapes or types, in words; None if in none."""
    for name in [*ours, *theirs]:
        left, right = (f"{s[name].dtype} {list(s[name].shape)}" if name in s else "nothing" for s in (ours, theirs))
        if left != right:
            return f"{name!r} is {left} here and {right} in the file".replace("torch.float32 ", "")
    return None
