"""Trained networks: a file of weights holds all that is needed to use them, and how they were made."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from .files import WEIGHTS, CheckpointError, difference, holds, place, read, write
from .nets import NETS, VelocityNet
from .sampling import chosen_sampler
from .schedule import NoiseSchedule, cosine_schedule, linear_schedule

SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}
SAMPLER = {"method": "ddim", "steps": 50, "eta": 1.0, "spacing": "sqrt"}  # of the recipe in notebook 10's ladder


class Pretrained(NamedTuple):
    """A trained network and what belongs to it."""

    model: nn.Module  # in eval mode; predicts noise; `sample` draws as its `sampler` says, unless told otherwise
    schedule: NoiseSchedule  # the one it was trained on
    recipe: dict  # how it was made: data, steps, device, loss, date ...


def save_pretrained(
    path: str | Path,
    model: nn.Module,
    arguments: dict,
    schedule: str,
    T: int,
    recipe: dict,
    sampler: dict | None = None,
) -> None:
    """Write the weights, in half precision, of one of `nets.NETS` made with `arguments`, or of a `VelocityNet` of one,
    trained on the "linear" or "cosine" schedule of T steps. The recipe says in plain values how; the sampler holds the
    arguments of `sample` that are to draw from it (None: see `load_pretrained`)."""
    velocity = isinstance(model, VelocityNet)
    net, target = (model.net, "velocity") if velocity else (model, "noise")
    about = {"net": type(net).__name__, "target": target, "arguments": arguments}
    about |= {"schedule": schedule, "T": T, "recipe": recipe}
    about |= {"sampler": sampler} if sampler else {}
    weights = {name: value.detach().cpu().half() for name, value in net.state_dict().items()}
    if wrong := next((name for name, value in weights.items() if not value.isfinite().all()), None):
        raise ValueError(f"save_pretrained: {wrong} holds NaN, or numbers too large for half precision (65,504)")
    try:
        again = _made_from({**json.loads(json.dumps(about)), "weights": weights})
    except Exception as error:  # whatever it is, loading would meet it, too
        raise ValueError(f"save_pretrained: nobody could load this again: {error}") from error
    if velocity and not torch.equal(model.own_signal.cpu(), again.schedule.sqrt_alpha_bar):
        raise ValueError(f"save_pretrained: the VelocityNet was made with another schedule than {schedule!r}, T = {T}")
    write(path, "weights", {**about, "weights": weights})


def load_pretrained(name: str | Path = "mnist", device: str | torch.device = "cpu") -> Pretrained:
    """Trained weights: shipped ones by name, such as "mnist" or "fashion", or a file of `save_pretrained`. A file that
    names no sampler of its own gets `SAMPLER`, or for T below 100 all steps; `sample` says which."""
    path = place(name if Path(name).suffix else WEIGHTS / f"{name}.safetensors")
    if not os.path.isfile(path):  # False also for a name that no file can have
        shipped = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors") if holds(p, "weights")))
        raise CheckpointError(f"{path}: there is no such file; the shipped weights are {shipped}")
    state = read(path, "weights")
    try:
        model, schedule, recipe = _made_from(state)
    except Exception as error:  # what a file says can make a network fail in any way
        raise CheckpointError(f"{path}: its description does not fit its weights ({error!r})") from error
    return Pretrained(model.eval().to(device), schedule.to(device), recipe)


def _made_from(state: dict) -> Pretrained:
    """What a file of weights describes; an error of any kind if the weights do not fit. Draws no random numbers."""
    arguments, T = state["arguments"], state["T"]
    if T > 100_000 or len(json.dumps(arguments)) > 300:
        raise ValueError("more steps, or more arguments, than anything of this course has")
    for key, known in {"net": NETS, "schedule": SCHEDULES, "target": ("noise", "velocity")}.items():
        if state[key] not in known:
            raise ValueError(f"its {key} is one of {', '.join(known)}; got {state[key]!r}")
    with torch.device("meta"):  # no memory: a description can ask for any width
        net = NETS[state["net"]](**arguments)
    weights = {key: value.float() for key, value in state["weights"].items()}
    if problem := difference(net.state_dict(), weights):
        raise ValueError(f"{arguments} do not make this {state['net']}: {problem}")
    net.load_state_dict(weights, assign=True)
    schedule = SCHEDULES[state["schedule"]](T)
    model = VelocityNet(net, schedule) if state["target"] == "velocity" else net
    model.own_signal = schedule.sqrt_alpha_bar  # so that `sample` sees if it gets another schedule
    model.sampler = state.get("sampler") or (SAMPLER if T >= 100 else {"method": "ddpm"})
    chosen_sampler(schedule, **model.sampler)  # an error if it is none
    return Pretrained(model, schedule, dict(state["recipe"]))
