"""Files of weights and of training states: safetensors (numbers and text, nothing that could run) with a checksum."""

import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from .schedule import NoiseSchedule, cosine_schedule, linear_schedule

FORMAT = 3
WEIGHTS = Path(__file__).parent / "weights"
SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}
SEAL = "crc32 00000000"  # here goes the checksum of all other bytes, the header's too; safetensors has none
OLD = "docs/CHANGELOG.md has the few lines that turn an old file into a new one"
KINDS = {  # and what is said of a file where another kind is wanted
    "weights": "weights, and no training state: load_pretrained reads them",
    "feature network": "the weights of a feature network: load_feature_net reads them",
    "training state": "a training state, and not a network's weights. To get at those, make the network as it was, "
    "then net.load_state_dict(files.read(path)['ema']); save_pretrained writes a file of weights",
}


class CheckpointError(RuntimeError):
    """A file that cannot be written, read, or does not fit: the message names it and says what to do."""


class Pretrained(NamedTuple):
    """A trained network and what belongs to it."""

    model: nn.Module  # in eval mode; predicts noise
    schedule: NoiseSchedule  # the one it was trained on
    recipe: dict  # how it was made: data, steps, device, loss, date ...


def place(path: str | Path) -> Path:
    """The path with ~ expanded; its name must end in .safetensors."""
    path = Path(os.path.expanduser(path))
    if path.suffix == ".safetensors":
        return path
    raise CheckpointError(
        f"{path}: the name must end in .safetensors. (An old .pt file holds a training state, and not a network's "
        f"weights: {OLD})"
    )


def write(path: str | Path, kind: str, state: dict) -> None:
    """Write tensors, dictionaries of tensors, and plain values that JSON knows, as one of `KINDS`."""
    tensors, plain = {}, {"format": FORMAT, "kind": kind}
    for key, value in state.items():
        if isinstance(value, Tensor):
            tensors[key] = value
        elif isinstance(value, dict) and value and all(isinstance(part, Tensor) for part in value.values()):
            tensors |= {f"{key}/{name}": part for name, part in value.items()}
        else:
            plain[key] = value
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    content = safetensors.torch.save(tensors, {"ddpm_helpers": json.dumps(plain), "checksum": SEAL})
    write_bytes(place(path), content.replace(SEAL.encode(), f"crc32 {zlib.crc32(content):08x}".encode(), 1))


def read(path: str | Path, kind: str = "training state") -> dict:
    """What `write` wrote, on the CPU; a CheckpointError if it is anything else, or altered in a single bit."""
    path, state = place(path), {}
    try:
        with open(path, "rb"), safetensors.safe_open(path, framework="pt") as file:  # reads the header alone
            notes = file.metadata()
        plain = json.loads(notes["ddpm_helpers"])
        if plain["format"] == FORMAT:
            content, seal = path.read_bytes(), notes["checksum"].encode()
            if seal != f"crc32 {zlib.crc32(content.replace(seal, SEAL.encode(), 1)):08x}".encode():
                raise ValueError("its checksum is wrong")
            state = dict(plain)
            for name, value in safetensors.torch.load(content).items():
                key, group, part = name.partition("/")
                state |= {} if group else {key: value}
                if group:
                    state.setdefault(key, {})[part] = value
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except Exception as error:  # what is in a file can make the readers fail in any way
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path}: damaged, truncated, or not a file of this course ({why}); delete or move it to start anew"
        ) from error
    if not state:
        advice = OLD if plain["format"] in (1, 2) else "update ddpm_helpers"
        raise CheckpointError(f"{path}: format {plain['format']!r}, and this version reads {FORMAT}; {advice}")
    if state["kind"] != kind:
        raise CheckpointError(f"{path} holds {KINDS.get(str(state['kind']), 'something else')}")
    return state


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


def save_pretrained(path: str | Path, model: nn.Module, arguments: dict, schedule: str, T: int, recipe: dict) -> None:
    """Write a network's weights in half precision, and all that is needed to use them.

    The model is one of `nets.NETS`, made with `arguments`, or a `VelocityNet` of one; it was trained on the "linear" or
    "cosine" `schedule` of T steps. The recipe says in plain values how.
    """
    velocity = hasattr(model, "signal")
    net = model.net if velocity else model
    about = {"net": type(net).__name__, "target": "velocity" if velocity else "noise", "arguments": arguments}
    about |= {"schedule": schedule, "T": T, "recipe": recipe}
    weights = {name: value.detach().cpu().half() for name, value in net.state_dict().items()}
    if wrong := next((name for name, value in weights.items() if not value.isfinite().all()), None):
        raise ValueError(f"save_pretrained: {wrong} holds NaN, or numbers too large for half precision (65,504)")
    try:
        again = _made_from({**json.loads(json.dumps(about)), "weights": weights})
    except Exception as error:  # whatever it is, loading would meet it, too
        raise ValueError(f"save_pretrained: nobody could load this again: {error}") from error
    if velocity and not torch.equal(model.signal.cpu(), again.schedule.sqrt_alpha_bar):
        raise ValueError(f"save_pretrained: the VelocityNet was made with another schedule than {schedule!r}, T = {T}")
    write(path, "weights", {**about, "weights": weights})


def load_pretrained(name: str | Path = "mnist", device: str | torch.device = "cpu") -> Pretrained:
    """Trained weights: shipped ones by name, such as "mnist" or "fashion", or a file of `save_pretrained`."""
    path = place(name if Path(name).suffix else WEIGHTS / f"{name}.safetensors")
    if not os.path.isfile(path):  # False also for a name that no file can have
        shipped = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors") if not p.stem.endswith("_features")))
        raise CheckpointError(f"{path}: there is no such file; the shipped weights are {shipped}")
    state = read(path, "weights")
    try:
        model, schedule, recipe = _made_from(state)
    except Exception as error:  # what a file says can make a network fail in any way
        raise CheckpointError(f"{path}: its description does not fit its weights ({error})") from error
    return Pretrained(model.eval().to(device), schedule.to(device), recipe)


def _made_from(state: dict) -> Pretrained:
    """What a file of weights describes; an error of any kind if the weights do not fit. Draws no random numbers."""
    from .nets import NETS, VelocityNet

    name, arguments, T = state["net"], state["arguments"], state["T"]
    if name not in NETS or state["schedule"] not in SCHEDULES:
        raise ValueError(
            f"a net is one of {', '.join(NETS)}, a schedule one of {', '.join(SCHEDULES)}; "
            f"got {name} and {state['schedule']!r}"
        )
    if T > 100_000 or len(json.dumps(arguments)) > 300:
        raise ValueError("more steps, or more arguments, than anything of this course has")
    with torch.device("meta"):  # no memory: a description can ask for any width
        net = NETS[name](**arguments)
    weights = {key: value.float() for key, value in state["weights"].items()}
    if problem := difference(net.state_dict(), weights):
        raise ValueError(f"{arguments} do not make this {name}: {problem}")
    net.load_state_dict(weights, assign=True)
    schedule = SCHEDULES[state["schedule"]](T)
    model = {"noise": lambda: net, "velocity": lambda: VelocityNet(net, schedule)}[state["target"]]()
    return Pretrained(model, schedule, dict(state["recipe"]))
