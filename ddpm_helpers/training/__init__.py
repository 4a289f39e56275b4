"""Training: how long, on what, what is minimised, and a trainer that loses nothing."""

import copy
import glob
import os
import platform
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from torch import Tensor, nn

from ..checkpoint import CheckpointError, difference, load_checkpoint, save_checkpoint
from ..data import shuffled_indices, to_float
from ..losses import ddpm_loss, draw_steps, drop_labels, ema_update, random_flip, share_of_batch
from ..sampling import sample
from ..schedule import NoiseSchedule


def default_device() -> torch.device:
    """The fastest device here: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The device in words, for reports and recipes: "cuda, NVIDIA T4", or "cpu, 2 threads"."""
    threads = torch.get_num_threads()
    names = {"cuda": lambda: torch.cuda.get_device_name(device), "mps": lambda: "Apple GPU"}
    return f"{device.type}, {names.get(device.type, lambda: f'{threads} thread' + 's' * (threads != 1))()}"


def environment_report() -> str:
    """What to paste into a question: versions, device, precision and the variables that change a run."""
    packages = ("torch", "torchvision", "numpy", "matplotlib", "einops", "ipywidgets")
    settings = {name: os.environ.get(name, "not set") for name in ("DDPM_DATA", "DDPM_BUDGET", "DDPM_STRICT")}
    lines = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "ddpm_helpers": version("ddpm-helpers"),
        **{package: version(package) for package in packages},
        "device": device_name(default_device()),
        **settings,
    }
    return "\n".join(f"{name:<14}{value}" for name, value in lines.items())


def budget(*, gpu: int, cpu: int, quick: int, unit: str = "steps") -> int:
    """How much to train: `gpu` on CUDA, `cpu` elsewhere, `quick` where DDPM_BUDGET=quick asks for it (CI does).

    The number counts steps, or what `unit` says. Prints its choice, so that a picture says how much work stands
    behind it.

    Raises:
        ValueError: if DDPM_BUDGET is set to something else than gpu, cpu or quick.
    """
    choices = {"gpu": gpu, "cpu": cpu, "quick": quick}
    choice = os.environ.get("DDPM_BUDGET") or ("gpu" if torch.cuda.is_available() else "cpu")
    if choice not in choices:
        raise ValueError(f"DDPM_BUDGET must be one of {', '.join(choices)}, or unset; got {choice!r}")
    print(f"Budget: {choices[choice]:,} {unit} ({choice}), on {default_device().type}")
    return choices[choice]


@dataclass(frozen=True)
class TrainConfig:
    """How to train. A run is a function of this, the network, the schedule and the images.

    Raises:
        ValueError: if a value is out of its range; the message names it.
    """

    steps: int  # optimizer steps
    batch_size: int = 64  # images per step, over all processes
    learning_rate: float = 2e-3  # of AdamW, at its highest
    warmup: int = 100  # steps over which the learning rate rises from 0; it falls to 0 over the last quarter
    clip_norm: float = 1.0  # largest norm of the gradient
    ema_decay: float = 0.999  # of the moving average of the weights; smaller in the first steps
    seed: int = 0  # of the order of the images, the steps, the noise and what else is drawn
    label_dropout: float = 0.1  # share of labels, where there are any, that the network is not told
    flip: bool = False  # mirror half of the images, left to right: not for digits
    middle: bool = False  # draw a step as often as `step_weight` says, instead of all equally often

    def __post_init__(self):
        for field in fields(self):  # a NumPy number is no plain value, which is all that a checkpoint holds
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, value.item() if hasattr(value, "item") else value)
        whole = {"steps": 1, "batch_size": 1, "warmup": 0, "seed": 0}
        for name, least in whole.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"TrainConfig: {name} must be a whole number, at least {least}, got {value!r}")
        if not self.learning_rate > 0 or not self.clip_norm > 0:
            raise ValueError(
                "TrainConfig: learning_rate and clip_norm must be above 0, "
                f"got {self.learning_rate!r} and {self.clip_norm!r}"
            )
        if self.seed > 10**12:  # it is multiplied, and a generator takes 64 bits
            raise ValueError(f"TrainConfig: seed must be at most 10**12, got {self.seed}")
        for name in ("ema_decay", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"TrainConfig: {name} must lie in [0, 1), got {getattr(self, name)!r}")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0 ... steps - 1: a ramp up, a plateau, a ramp down."""
        up = (step + 1) / max(self.warmup, 1)
        down = (self.steps - step) / max(self.steps / 4, 1)
        return self.learning_rate * min(up, 1.0, down)


class TrainingError(RuntimeError):
    """Training that cannot go on: the message says at which step, why, and what to try."""


class Trainer:
    """All the state of one training run. Where it stands after a step is a function of its arguments alone.

    The order of the images follows from the seed and the pass, the steps t and the noise from a generator seeded with
    (seed, step), so going on from a checkpoint needs no state of a loader, and several processes (torchrun) each take
    their share of the same batch. PyTorch's global generator, from which dropout draws, is seeded anew in each step for
    the same reason. On hardware with bfloat16 the network computes in it (autocast); weights, optimizer and average
    stay float32.

    Args:
        model: callable (x, t) -> predicted noise; it is moved to `device` and trained in place.
        schedule: what to train on.
        images: (N, C, H, W) uint8, all of them; they are moved to `device` once.
        config: how to train.
        device: where; the fastest device here if None.
        objective: what is minimised, called as `ddpm_loss` is.
        labels: (N,) int64 in 0 ... model.classes - 1, for a network that is told what it draws; some of them are
            replaced by model.classes, "no label" (classifier-free guidance: Ho & Salimans 2022, algorithm 1).

    Attributes:
        step: completed steps.
        losses: (step,) float32, the loss of each completed step.
        ema: a copy of the model with the moving average of its weights, in eval mode: sample with this one.

    Raises:
        TypeError: if the images are not uint8, the labels no tensor, or `objective` no function with a name, which a
            checkpoint remembers.
        ValueError: if there are none, `batch_size` cannot be shared out evenly among the processes, or the labels do
            not fit the images and the network.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: NoiseSchedule,
        images: Tensor,
        config: TrainConfig,
        device: str | torch.device | None = None,
        objective: Callable[..., Tensor] = ddpm_loss,
        labels: Tensor | None = None,
    ):
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
            found = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(
                f"Trainer: expected all images as uint8 (N, C, H, W), got {found}; see load_images, to_uint8"
            )
        if not len(images):
            raise ValueError("Trainer: there are no images to train on")
        name = getattr(objective, "__name__", type(objective).__name__)
        if not hasattr(objective, "__name__") or name == "<lambda>":
            raise TypeError(
                f"Trainer: objective must be a function made with def, got {name}: a checkpoint remembers its name"
            )
        _check_labels(model, labels, len(images))
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if config.batch_size % self.world:
            raise ValueError(
                f"Trainer: batch_size {config.batch_size} cannot be shared out evenly among {self.world} processes"
            )
        self.config, self.objective = config, objective
        self.device = torch.device(device or default_device())
        self.schedule, self.images = schedule.to(self.device), images.to(self.device)
        self.labels = None if labels is None else labels.to(self.device)
        self.model = model.to(self.device, memory_format=fast_layout(model, self.device)).train()
        # This gives every process the first one's weights, so the average is copied after it.
        self.parallel = nn.parallel.DistributedDataParallel(self.model) if self.world > 1 else self.model
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate)
        self.step = 0
        # One tensor: thousands of small ones, kept among large short-lived ones, would keep their memory from reuse.
        self._losses = torch.zeros(config.steps, device=self.device)
        self._complete = True  # False while a step is being made: such a state must not be saved
        self._finite = 0  # losses before this one are known to be finite

    @property
    def losses(self) -> Tensor:
        return self._losses[: self.step]

    def run(self) -> Iterator[Tensor]:
        """Train; yields the loss (a scalar tensor on the device) after each complete step, until config.steps.

        Raises:
            TrainingError: if the loss is no longer a number, or a batch does not fit into memory.
        """
        self._check_complete()
        while self.step < self.config.steps:
            self._complete = False
            try:
                loss = self._train_step()
            except (MemoryError, RuntimeError) as error:
                self._explain_out_of_memory(error)
                raise
            self._losses[self.step] = loss
            self.step += 1
            self._complete = True
            # To look at a number a GPU must be waited for, so not at every step.
            if self.device.type == "cpu" or self.step % 50 == 0 or self.step == self.config.steps:
                self._check_finite(weights=self.step == self.config.steps)
            yield loss

    def fit(self, path: str | Path | None = None, *, seconds_between_saves: float = 60.0) -> nn.Module:
        """Train to the end, in sight: a live picture in a notebook, plain lines elsewhere.

        With a path, the run is saved there now and then, at the end, and when it is stopped (Jupyter's stop button,
        Ctrl-C; not under torchrun, which stops its processes itself); and where the file exists already, the run goes
        on from it. So the answer to any interruption is to run the same cell or command again.

        Args:
            path: of the checkpoint, NAME.pt.
            seconds_between_saves: 0 saves after every step.

        Returns:
            `ema`, the averaged model.

        Raises:
            CheckpointError: if the file belongs to another run, is damaged, in use, or cannot be written.
            TrainingError: as `run`; the last good file stays.
        """
        with ExitStack() as stack:
            held = None  # the step that the file holds
            if path is not None:
                if self.rank == 0:
                    stack.enter_context(_only_user(Path(path)))
                held = self._go_on_from(Path(path))
            stop = stack.enter_context(_deferred_interrupt(self.world == 1))
            saved = time.monotonic()
            with _watch(self) as watch:
                for loss in self.run():
                    watch(loss)
                    if stop:
                        break
                    if path is not None and time.monotonic() - saved >= seconds_between_saves:
                        self.save(path)
                        held, saved = self.step, time.monotonic()
            if path is not None and held != self.step:
                self.save(path)
            if stop:
                where = f"; {path} holds all of it" if path is not None else ""
                self._say(
                    f"Stopped after step {self.step:,} of {self.config.steps:,}{where}. Run the same again to go on."
                )
        return self.ema

    def save(self, path: str | Path) -> None:
        """Write everything that `resume` needs; the older file stays until the new one is complete.

        Of several processes only the first writes.

        Raises:
            CheckpointError: if the file cannot be written.
            TrainingError: if the loss is no longer a number, or a step was interrupted half-way.
        """
        self._check_complete()
        self._check_finite(weights=True)
        if self.rank == 0:
            save_checkpoint(path, self._state())

    def resume(self, path: str | Path) -> None:
        """Go back to the very state that was saved: weights, average, optimizer, random numbers, place in the data.

        The run must be the same: network, schedule, images, objective, configuration; only `steps` may differ.

        Raises:
            CheckpointError: if the file cannot be read or belongs to another run; this run stays as it was.
        """
        state = load_checkpoint(path)
        self._check_fits(path, state)  # all that can go wrong does so here, before anything is changed
        self._restore(state)

    def _restore(self, state: dict) -> None:
        self._complete = False
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self._losses[: self.step] = state["losses"]
        self._complete, self._finite = True, self.step

    def _check_fits(self, path: str | Path, state: dict) -> None:
        """Raise a CheckpointError if `state` is damaged or of another run."""
        try:
            problem = self._mismatch(state)
            if not problem:
                self._check_values(state)
        except Exception as error:  # garbage can fail in any way
            raise CheckpointError(f"{path}: damaged, or not a checkpoint of a Trainer ({error!r})") from error
        if problem:
            raise CheckpointError(
                f"{path} belongs to another run: {problem}. Name another file to start anew, or make the Trainer as "
                "it was"
            )

    def _check_values(self, state: dict) -> None:
        """Raise an error of any kind if a value in `state`, whose names and shapes fit, cannot be loaded."""
        for name in ("model", "ema"):
            for key, value in self.model.state_dict().items():
                if state[name][key].dtype != value.dtype:
                    raise TypeError(f"{key} is {state[name][key].dtype}")
                if not bool(state[name][key].isfinite().all()):
                    raise ValueError(f"{key} holds what is no number")
        trial = torch.optim.AdamW(self.model.parameters())
        trial.load_state_dict(state["optimizer"])
        for weight, kept in trial.state.items():
            means = {name: kept[name] for name in ("exp_avg", "exp_avg_sq")}
            problem = difference(dict.fromkeys(means, weight), means)
            if problem or kept["step"].shape:
                raise ValueError(f"optimizer: {problem or 'step'}")
        for ours, theirs in zip(self.optimizer.param_groups, state["optimizer"]["param_groups"], strict=True):
            for name in (ours.keys() & theirs.keys()) - {"params", "lr"}:
                if ours[name] != theirs[name]:
                    raise ValueError(f"optimizer: {name} is {theirs[name]!r}")

    def _train_step(self) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step)
        x0, t, noise, known = self._batch()
        # Dropout draws from it, in each process for itself; another stream than the batch's.
        torch.manual_seed(-1 - (self._seed() * self.world + self.rank) % 2**63)
        with fast_autocast(self.device):
            loss = self.objective(lambda x, t: self.parallel(x, t, *known).float(), self.schedule, x0, t, noise)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self._average()
        # A copy: the loss lies among the activations of its step, and kept there it would fragment the memory.
        loss = loss.detach().clone()
        if self.world > 1:  # each process saw its share of the batch
            dist.all_reduce(loss)
            loss /= self.world
        return loss

    def _seed(self) -> int:
        return (self.config.seed * 1_000_003 + self.step) % 2**63

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """This process's share of the batch of this step: clean images, steps, noise; and labels, if there are any."""
        size, generator = self.config.batch_size, torch.Generator(self.device).manual_seed(self._seed())
        whole = (  # drawn by every process, so that the batch does not depend on how many share it
            shuffled_indices(len(self.images), size, self.step, self.config.seed).to(self.device),
            draw_steps(self.schedule, size, generator, self.config.middle),
            torch.randn((size, *self.images.shape[1:]), generator=generator, device=self.device),
            torch.rand((2, size), generator=generator, device=self.device).T,
        )
        index, t, noise, chance = (share_of_batch(part, self.rank, self.world) for part in whole)
        x0 = to_float(self.images[index])
        if self.config.flip:
            x0 = random_flip(x0, chance[:, 0])
        if self.labels is None:
            return x0, t, noise, ()
        told = drop_labels(self.labels[index], chance[:, 1], self.config.label_dropout, self.model.classes)
        return x0, t, noise, (told,)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))  # a young average forgets faster
        for average, value in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            average.copy_(ema_update(average, value, decay))
        for average, value in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            average.copy_(value)

    def _state(self) -> dict:
        return {
            "config": asdict(self.config),
            "objective": self.objective.__name__,
            "beta": self.schedule.beta.cpu(),
            "images": _fingerprint(self.images),
            "labels": None if self.labels is None else _fingerprint(self.labels[:, None]),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses.cpu(),
        }

    def _mismatch(self, state: dict) -> str | None:
        """Why `state` cannot be gone on from, in words; None if it can."""
        if state["format"] < 2:
            return "an older version of ddpm_helpers wrote it"
        for name in ("model", "ema"):
            problem = difference(self.model.state_dict(), state[name])
            if problem:
                return f"it has another network: {problem}"
        beta = self.schedule.beta.cpu()
        if len(beta) != len(state["beta"]):
            return f"its schedule has {len(state['beta']) - 1} steps, this one {len(beta) - 1}"
        if not torch.equal(beta, state["beta"]):
            t = int((beta != state["beta"]).nonzero()[0])
            return f"it has another schedule: beta[{t}] is {state['beta'][t]:.6g} there and {beta[t]:.6g} here"
        if state["images"] != _fingerprint(self.images):
            return f"it was trained on other images: {state['images']} there, {_fingerprint(self.images)} here"
        labels = None if self.labels is None else _fingerprint(self.labels[:, None])
        if state["labels"] != labels:
            return f"it was trained with other labels: {state['labels']} there, {labels} here"
        if state["objective"] != self.objective.__name__:
            return f"its objective is {state['objective']}, and {self.objective.__name__} here"
        for name, value in asdict(self.config).items():
            if name != "steps" and state["config"][name] != value:
                return f"its {name} is {state['config'][name]!r}, and {value!r} here"
        losses = state["losses"]
        if type(state["step"]) is not int or losses.shape != (state["step"],) or not losses.is_floating_point():
            raise ValueError("it counts other steps than losses")
        if state["step"] > self.config.steps:
            return f"it has {state['step']:,} steps behind it, more than the {self.config.steps:,} asked for"
        return None

    def _go_on_from(self, path: Path) -> int | None:
        """Go back to the file, unless this Trainer stands further; the step that the file holds, None without one."""
        state = load_checkpoint(path) if path.exists() else None
        if state:
            self._check_fits(path, state)  # also where it is not loaded: it will be written over
        if state and (not self.step or not self._complete or state["step"] > self.step):
            self._restore(state)
            where = f"{path} holds step {self.step:,} of {self.config.steps:,}"
        elif self.step and self._complete:
            where = f"This Trainer stands at step {self.step:,} of {self.config.steps:,}"
        else:
            return None
        self._say(where + (", going on from there." if self.step < self.config.steps else ": nothing is left to do."))
        return state and state["step"]

    def _samples(self) -> Tensor:
        labels = None if self.labels is None else torch.arange(16, device=self.device) % self.model.classes
        shape, steps = tuple(self.images.shape[1:]), min(20, self.schedule.T)
        return sample(self.ema, self.schedule, 16, shape, steps, labels=labels)

    def _say(self, text: str) -> None:
        if self.rank == 0:
            print(text, flush=True)

    def _check_complete(self) -> None:
        if not self._complete:
            raise TrainingError(
                f"after step {self.step:,} the next one stopped half-way, or the loss was no number: these weights are "
                "of no use; resume the last good file, or make the network and the Trainer anew"
            )

    def _check_finite(self, weights: bool) -> None:
        """Stop if a loss since the last look is no number; or a weight, which only the next loss would show."""
        finite = self.losses[self._finite :].isfinite()
        bad, what = None, "the loss"
        if not bool(finite.all()):
            bad = self._finite + 1 + int(finite.long().argmin())
            found = self.losses[bad - 1].item()
        elif weights and not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            bad, what, found = self.step, "a weight", "not finite"
        if bad is not None:
            self._complete = False
            raise TrainingError(
                f"{what} of step {bad:,} is {found}: training stops, and a file saved before "
                f"stays as it is. Try a smaller learning_rate than {self.config.learning_rate:g}, or a longer warmup; "
                "and look for a division by 0, a root or a logarithm in the network's own code"
            )
        self._finite = self.step

    def _explain_out_of_memory(self, error: Exception) -> None:
        kinds = (MemoryError, torch.cuda.OutOfMemoryError)
        signs = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")  # GPUs, Linux, Windows
        if not isinstance(error, kinds) and not any(sign in str(error) for sign in signs):
            return
        size = self.config.batch_size
        smaller = f"{size // 2}, or " if size > 1 else ""
        raise TrainingError(
            f"step {self.step + 1:,} does not fit into the memory of {self.device} with batch_size {size}: "
            f"try {smaller}a narrower network. A file saved before stays as it is"
        ) from error


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware computes in it faster than in float32, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and newer; older cards emulate it
    else:
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private, so a version may lack them
        fast = device.type == "cpu" and any(getattr(torch.cpu, test, lambda: False)() for test in tests)
    return torch.bfloat16 if fast else torch.float32


def fast_autocast(device: torch.device) -> AbstractContextManager:
    """`torch.autocast` to `fast_dtype`; nothing where that is float32: PyTorch 2.4 has no autocast for MPS at all."""
    dtype = fast_dtype(device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def fast_model(model: nn.Module, device: torch.device) -> Callable[..., Tensor]:
    """The model for sampling: it computes in `fast_dtype` on its device, and answers in float32, without gradients."""

    @torch.no_grad()
    def answer(*inputs: Tensor) -> Tensor:
        with fast_autocast(device):
            return model(*inputs).float()

    return answer


def fast_layout(model: nn.Module, device: torch.device) -> torch.memory_format:
    """channels_last where convolutions are faster in it: on CUDA, and on CPUs for networks without GroupNorm."""
    grouped = any(isinstance(module, nn.GroupNorm) for module in model.modules())
    fast = device.type == "cuda" or (device.type == "cpu" and not grouped)
    return torch.channels_last if fast else torch.contiguous_format


def _check_labels(model: nn.Module, labels: Tensor | None, count: int) -> None:
    classes = getattr(model, "classes", None)
    if (labels is None) != (classes is None):
        raise ValueError(
            "Trainer: this network was made for labels: pass labels=data.labels"
            if labels is None
            else "Trainer: labels need a network that is told them: UNet(classes=len(data.classes))"
        )
    if labels is None:
        return
    if not isinstance(labels, Tensor):
        raise TypeError(f"Trainer: expected the labels as a tensor, got {type(labels).__name__}: torch.tensor(labels)")
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise ValueError(
            f"Trainer: expected one int64 label for each of {count} images, got {labels.dtype} {tuple(labels.shape)}"
        )
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"Trainer: labels must lie in 0 ... {classes - 1}, found {int(labels.min())} to {int(labels.max())}"
        )


def _fingerprint(images: Tensor) -> str:
    """Tells data sets apart: shape, and a checksum of every byte."""
    return f"{' x '.join(map(str, images.shape))}, checksum {zlib.crc32(images.cpu().contiguous().numpy()):08x}"


@contextmanager
def _only_user(path: Path) -> Iterator[None]:
    """Hold the lock beside a checkpoint, so that no second run writes to it."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise CheckpointError(
            f"{path}: another run is writing to this file; stop that one, or name another file"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error}); name another place") from error
    try:
        for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # by a run that was killed while saving
            left_over.unlink()
        yield
    finally:
        lock.release()


@contextmanager
def _deferred_interrupt(defer: bool) -> Iterator[list]:
    """Ctrl-C, or the stop button of Jupyter, fills the list and lets the step end; a second one stops at once."""
    asked: list = []

    def wait(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.getsignal(signal.SIGINT)
    # Only the main thread may do this; and where Ctrl-C is ignored (a job in the background), it stays so.
    defer = defer and threading.current_thread() is threading.main_thread() and callable(before)
    if defer:
        signal.signal(signal.SIGINT, wait)
    try:
        yield asked
    finally:
        if defer:
            signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


@contextmanager
def _watch(trainer: Trainer) -> Iterator[Callable[[Tensor], None]]:
    """What shows a run: a live picture in a notebook, a line every ten seconds elsewhere."""
    ipython = sys.modules.get("IPython")
    if ipython and hasattr(ipython.get_ipython(), "kernel"):
        from .. import viz

        live = viz.LiveLoss(trainer.config.steps, losses=trainer.losses, samples=trainer._samples)
        try:
            yield live
        finally:
            live.close()
        return
    started, first, spoken = time.monotonic(), trainer.step, 0.0

    def line(loss: Tensor) -> None:
        nonlocal spoken
        now, last = time.monotonic(), trainer.step == trainer.config.steps
        if trainer.rank or (not last and now - spoken < 10):
            return
        spoken = now
        seconds = max(now - started, 1e-3) / (trainer.step - first)  # a coarse clock may not have moved yet
        mean = trainer.losses[-100:].mean().item()
        print(
            f"step {trainer.step:,} of {trainer.config.steps:,}   loss {mean:.4f}   "
            f"{trainer.config.batch_size / seconds:,.0f} images/s   "
            f"{(trainer.config.steps - trainer.step) * seconds / 60:.1f} min left",
            flush=True,
        )

    yield line
