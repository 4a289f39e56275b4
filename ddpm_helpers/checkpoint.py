"""Files that hold what training made: checkpoints to go on from, and small weights to ship.

A file is written beside its target and renamed over it when complete, so that a kill at any moment, or a full disk,
leaves the older file as it was. Nothing is ever unpickled but tensors and plain values.
"""

import json
import os
import pickletools
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from .nets import NETS, VelocityNet
from .schedule import NoiseSchedule, cosine_schedule, linear_schedule

FORMAT = 2  # of both kinds of file; a newer one is refused
WEIGHTS = Path(__file__).parent / "weights"
MADE_BY_US = re.compile(r"torch\._utils _rebuild_tensor_v2|collections OrderedDict|torch \w+Storage")
SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}


class CheckpointError(RuntimeError):
    """A file that cannot be written, read, or does not fit: the message names it and says what to do."""


class Pretrained(NamedTuple):
    """A trained network and what belongs to it."""

    model: nn.Module  # in eval mode; predicts noise
    schedule: NoiseSchedule  # the one it was trained on
    recipe: dict  # how it was made: data, steps, device, loss, date ...


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Write `state`, a dictionary of tensors and plain values (numbers, text, lists, tuples, dictionaries), atomically.

    Raises:
        TypeError: if it holds something else, which `load_checkpoint` would not read.
        CheckpointError: if it cannot be written; an older file at `path` stays as it was.
    """
    _check_plain(state, "state")
    _replace(Path(path), lambda file: torch.save({"format": FORMAT, **state}, file))


def _check_plain(value: Any, name: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_plain(key, f"a key of {name}")
            _check_plain(inner, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for i, inner in enumerate(value):
            _check_plain(inner, f"{name}[{i}]")
    elif type(value) not in (Tensor, str, int, float, bool, type(None)):
        raise TypeError(
            f"save_checkpoint: {name} is a {type(value).__name__}; a checkpoint holds tensors and plain values"
        )


def load_checkpoint(path: str | Path) -> dict:
    """Read what `save_checkpoint` wrote, onto the CPU.

    Raises:
        CheckpointError: if there is no such file, it is truncated or damaged, no checkpoint, or of a newer format.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:  # a name with a zero in it is a ValueError
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    try:
        if start != b"PK\x03\x04":  # every file of ours is a zip; PyTorch reads its older formats with less care
            raise ValueError("not a zip file")
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path.stat().st_size)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # garbage can make the readers fail in any way
        raise CheckpointError(
            f"{path}: damaged, truncated, or not a checkpoint; delete or move it to start anew"
        ) from error
    if not isinstance(state, dict) or "format" not in state:
        raise CheckpointError(f"{path}: a file of PyTorch's, but not a checkpoint of this course")
    _check_format(path, state["format"])
    return state


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Raise an error of any kind if a zip file of `size` bytes is not what `torch.save` makes of tensors and values.

    PyTorch looks at no checksum, and takes a file at its word when it asks for memory.
    """
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise ValueError("it unpacks to more than it is")
    if wrong := archive.testzip():
        raise ValueError(f"the checksum of {wrong} is wrong")
    content = archive.read(next(entry for entry in entries if entry.filename.endswith("/data.pkl")))
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not MADE_BY_US.fullmatch(str(argument)):
            raise ValueError(f"it asks for {argument}")
        if opcode.name.endswith("BINPUT") and argument > len(content):
            raise ValueError("it asks for a list longer than itself")


def save_pretrained(path: str | Path, model: nn.Module, arguments: dict, schedule: str, T: int, recipe: dict) -> None:
    """Write a network's weights in half precision, as safetensors, with all that is needed to use them inside.

    Args:
        path: of the file, NAME.safetensors.
        model: a `SimpleUNet`, `LayerNormUNet` or `UNet`, or a `VelocityNet` of one.
        arguments: what its class was called with.
        schedule: "linear" or "cosine".
        T: the schedule's number of steps.
        recipe: plain values that say how the weights were made.

    Raises:
        ValueError: if the net or the schedule is another, `arguments` do not make this net, a weight is not finite, the
            recipe is not plain, or the name does not end in .safetensors: nobody could load it.
        CheckpointError: if it cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"save_pretrained: the name must end in .safetensors, got {path}")
    target, signal = ("velocity", model.signal.cpu()) if isinstance(model, VelocityNet) else ("noise", None)
    model = model.net if target == "velocity" else model
    net = type(model).__name__
    if net not in NETS or schedule not in SCHEDULES:
        raise ValueError(
            f"save_pretrained: a net is one of {', '.join(NETS)}, a schedule one of {', '.join(SCHEDULES)}; "
            f"got {net} and {schedule!r}"
        )
    with torch.device("meta"):  # no memory, and no random numbers drawn
        problem = difference(model.state_dict(), NETS[net](**arguments).state_dict())
    if problem:
        raise ValueError(f"save_pretrained: {arguments} do not make this {net}: {problem.replace('the file', 'that')}")
    about = {"net": net, "target": target, "arguments": arguments, "schedule": schedule, "T": T, "recipe": recipe}
    try:
        again, _ = _schedule_and_recipe(json.loads(json.dumps(about)))
    except Exception as error:  # whatever it is, loading would meet it, too
        raise ValueError(f"save_pretrained: T = {T!r}, arguments or recipe do not suit a file: {error}") from error
    if signal is not None and not torch.equal(signal, again.sqrt_alpha_bar):
        raise ValueError(f"save_pretrained: the VelocityNet was made with another schedule than {schedule!r}, T = {T}")
    write_weights(path, model, about)


def load_pretrained(name: str | Path = "mnist", device: str | torch.device = "cpu") -> Pretrained:
    """Load trained weights: shipped ones by name, such as "mnist" or "fashion", or a file of `save_pretrained`.

    Returns:
        the model in eval mode and in float32, its schedule, both on `device`, and the recipe behind them.

    Raises:
        CheckpointError: if there are no such weights, or the file is damaged, foreign or of a newer format.
    """
    path = Path(name) if Path(name).suffix == ".safetensors" else WEIGHTS / f"{name}.safetensors"
    if not os.path.isfile(path):  # False also for a name that no file can have
        shipped = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors") if not p.stem.endswith("_features")))
        raise CheckpointError(f"{path}: there is no such file; the shipped weights are {shipped}")
    about, weights = read_weights(path)
    if about.get("net") == "FeatureNet":
        raise CheckpointError(f"{path}: these are the weights of a judge, not of a diffusion model: load_feature_net")
    try:
        model = _make_net(about, weights)
        schedule, recipe = _schedule_and_recipe(about)
        model.load_state_dict(weights)
        if {"noise": False, "velocity": True}[about.get("target", "noise")]:
            model = VelocityNet(model, schedule)
    except Exception as error:  # what a file says can make a network fail in any way
        raise CheckpointError(f"{path}: its description does not fit its weights ({error})") from error
    return Pretrained(model.eval().to(device), schedule.to(device), recipe)


def _make_net(about: dict, weights: dict[str, Tensor]) -> nn.Module:
    """The network that a file describes; an error of any kind if the weights are not its own.

    Made without memory first: a description can ask for any width.
    """
    if len(json.dumps(about["arguments"])) > 300:
        raise ValueError("a network with more arguments than any of this course")
    make = partial(NETS[about["net"]], **about["arguments"])
    with torch.device("meta"):
        problem = difference(make().state_dict(), weights)
    if problem:
        raise ValueError(problem)
    return make()


def _schedule_and_recipe(about: dict) -> tuple[NoiseSchedule, dict]:
    """What a file says of its schedule, and the recipe; an error of any kind if it is none."""
    if about["T"] > 100_000:
        raise ValueError("a schedule with more steps than any of this course")
    return SCHEDULES[about["schedule"]](about["T"]), dict(about["recipe"])


def write_weights(path: str | Path, model: nn.Module, about: dict) -> None:
    """Write a network's weights in half precision, as safetensors, with `about` inside, atomically.

    Raises:
        ValueError: if a weight is not finite, or too large for half precision.
        CheckpointError: if the file cannot be written.
    """
    weights = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    if wrong := next((name for name, value in weights.items() if not value.isfinite().all()), None):
        raise ValueError(f"{path}: {wrong} holds NaN, or numbers too large for half precision (65,504)")
    about = {"format": FORMAT, **about}
    content = safetensors.torch.save(weights, metadata={"ddpm_helpers": json.dumps(about)})
    _replace(Path(path), lambda file: file.write(content))


def read_weights(path: str | Path) -> tuple[dict, dict[str, Tensor]]:
    """What `write_weights` wrote: `about`, and the weights by name, in float32.

    Raises:
        CheckpointError: if there is no such file, or it is damaged, foreign or of a newer format.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("ddpm_helpers", "null"))
            weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - no dictionary
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except Exception as error:  # what is in a file can make the readers fail in any way
        raise CheckpointError(f"{path}: damaged, or not a safetensors file ({error})") from error
    if not isinstance(about, dict) or "format" not in about:
        raise CheckpointError(f"{path}: holds weights, but not of this course: nothing says which net")
    _check_format(path, about["format"])
    return about, weights


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str | None:
    """The first way in which two sets of named tensors differ in names or shapes, in words; None if in none."""
    for name in [*ours, *theirs]:
        left, right = (list(side[name].shape) if name in side else "nothing" for side in (ours, theirs))
        if left != right:
            return f"{name!r} is {left} here and {right} in the file"
    return None


def _check_format(path: Path, number) -> None:
    if type(number) is not int or not 1 <= number <= FORMAT:
        raise CheckpointError(
            f"{path}: format {number!r}, and this version of ddpm_helpers knows up to {FORMAT}; update it"
        )


def _replace(path: Path, write: Callable) -> None:
    """Call `write` with a new open file, then rename that file to `path`; on any error `path` stays as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # without this a power cut could leave an empty file under the good name
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path}: cannot be written ({why}); an older file there is as it was. "
            "Free some space, or name another place, and save again"
        ) from error
    finally:  # also when Ctrl-C stops the writing; a complete file has lost this name
        with suppress(OSError):
            temporary.unlink()
