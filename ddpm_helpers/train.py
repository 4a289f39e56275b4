"""A trainer that loses nothing: where a run stands after a step is a function of its arguments alone."""

import copy
import glob
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from torch import Tensor, nn

from .data import shuffled_indices, to_float
from .files import CheckpointError, difference, place, read, write
from .losses import ddpm_loss, draw_steps, drop_labels, ema_update, random_flip, share_of_batch
from .machine import default_device, fast_autocast, fast_layout
from .sampling import sample
from .schedule import NoiseSchedule

MAY_CHANGE = ("steps", "batch_size", "learning_rate", "warmup", "clip_norm")  # of a run that goes on from a file
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")  # GPUs, Linux, Windows


@dataclass(frozen=True)
class TrainConfig:
    """How to train. A run is a function of this, the network, the schedule and the images."""

    steps: int  # optimizer steps
    batch_size: int = 64  # images per step, over all processes
    learning_rate: float = 2e-3  # of AdamW, at its highest
    warmup: int = 100  # steps over which the learning rate rises from 0; it falls to 0 over the last quarter
    clip_norm: float = 1.0  # largest norm of the gradient
    ema_decay: float = 0.999  # of the moving average of the weights; smaller in the first steps
    seed: int = 0  # of the order of the images, the steps, the noise and what else is drawn
    label_dropout: float = 0.1  # share of labels, where there are any, that are replaced by "no label"
    flip: bool = False  # mirror half of the images, left to right: not for digits
    weighted: bool = False  # weighted timestep sampling: draw a step as often as its weight says, not all equally often

    def __post_init__(self):
        for field in fields(self):  # a NumPy number becomes a plain one, which is what a file holds
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, value.item() if hasattr(value, "item") else value)
        for name, least in {"steps": 1, "batch_size": 1, "warmup": 0, "seed": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"TrainConfig: {name} must be a whole number, at least {least}, got {value!r}")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"TrainConfig: {name} must be above 0, got {getattr(self, name)!r}")
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
    """All the state of one training run.

    The order of the images follows from the seed and the pass, all else that is drawn from (purpose, seed, step). So
    going on from a file needs no state of a loader, and several processes (torchrun) each take their share of the same
    batch. On hardware with bfloat16 the network computes in it (autocast); weights, optimizer and average stay float32.

    Args:
        model: (x, t) -> predicted noise, or (x, t, label); moved to `device` and trained in place.
        schedule: what to train on.
        images: (N, C, H, W) uint8, all of them; moved to `device` once.
        config: how to train.
        device: where; the fastest device here if None.
        objective: what is minimised, called as `ddpm_loss` is; a function with a name, which the file remembers.
        labels: (N,) int64 in 0 ... model.classes - 1, for a network with labels; some are replaced by model.classes,
            "no label" (classifier-free guidance: Ho & Salimans 2022, algorithm 1).

    Attributes:
        step: completed steps.
        losses: (step,) float32, the loss of each completed step.
        ema: a copy of the model with the moving average of its weights, in eval mode: sample with this one.
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
        _check_arguments(model, images, objective, labels)
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
        for p in self.model.parameters():
            if p.requires_grad:  # as AdamW does in its first step: so a file of any step holds the same names
                moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[p] = {"step": torch.tensor(0.0), **moments}
        self.step = 0
        # One tensor: thousands of small ones, kept among large short-lived ones, would keep their memory from reuse.
        self._losses = torch.zeros(config.steps, device=self.device)
        self._complete = True  # False while a step is being made: such a state must not be saved
        self._finite = 0  # losses before this one are known to be finite

    @property
    def losses(self) -> Tensor:
        return self._losses[: self.step]

    def run(self) -> Iterator[Tensor]:
        """Train; yields the loss (a scalar tensor on the device) after each complete step, until config.steps."""
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

    def fit(
        self, path: str | Path | None = None, *, seconds_between_saves: float = 60.0, other_images: bool = False
    ) -> nn.Module:
        """Train to the end, in sight: a live picture in a notebook, plain lines elsewhere. Returns `ema`.

        With a path, NAME.safetensors, the run is saved there now and then, at the end, and when it is stopped (the stop
        button, Ctrl-C; not under torchrun, which stops its processes itself); where the file exists already, the run
        goes on from it. So the answer to any interruption is to run the same cell or command again. The file of
        another run is refused; `other_images` allows images that differ from its own.
        """
        with ExitStack() as stack:
            held = None  # the step that the file holds
            if path is not None:
                path = place(path)
                if self.rank == 0:
                    stack.enter_context(_only_user(path))
                held = self._go_on_from(path, other_images)
            stop = stack.enter_context(_deferred_interrupt(self.world == 1))
            saved = time.monotonic()
            with closing(_Watch(self)) as watch:
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
        """Write everything that `resume` needs; of several processes only the first writes."""
        self._check_complete()
        self._check_finite(weights=True)
        if self.rank == 0:
            write(path, "training state", self._state())

    def resume(self, path: str | Path, *, other_images: bool = False) -> None:
        """Go back to the very state that was saved. If the file is of another run, this one stays as it was."""
        self._restore(self._read(path, other_images))

    def _state(self) -> dict:
        return {**self._run, "step": self.step, "losses": self.losses, **self._tensors()}

    @cached_property
    def _run(self) -> dict:
        """What makes this run the one that it is, beside the network, in plain values."""
        return {
            **asdict(self.config),
            "objective": self.objective.__name__,
            "schedule": f"{self.schedule.name} ({_checksum(self.schedule.beta)})",
            "images": _checksum(self.images),
            "labels": self.labels if self.labels is None else _checksum(self.labels),
        }

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """The very tensors that training changes."""
        moments = {
            f"{name}.{key}": value
            for name, p in self.model.named_parameters()
            for key, value in self.optimizer.state.get(p, {}).items()
        }
        return {"model": self.model.state_dict(), "ema": self.ema.state_dict(), "optimizer": moments}

    @torch.no_grad()
    def _restore(self, state: dict) -> None:
        self._complete, self.step = False, state["step"]
        self.losses.copy_(state["losses"])
        for group, tensors in self._tensors().items():
            for name, value in tensors.items():
                value.copy_(state[group][name])
        self._complete, self._finite = True, self.step

    def _read(self, path: str | Path, other_images: bool) -> dict:
        """The state in a file of this run; all that can go wrong does so here, before anything is changed."""
        state, may_change = read(path), (*MAY_CHANGE, *["images"] * other_images)
        try:
            problem = self._mismatch(state, may_change)
        except Exception as error:  # what is in a file can fail in any way
            raise CheckpointError(f"{path}: damaged, or not a file of a Trainer ({error!r})") from error
        if problem:
            raise CheckpointError(
                f"{path} belongs to another run: {problem}. Make the Trainer as it was, or name another file to start "
                f"anew; from the weights in this one by net.load_state_dict(files.read({str(path)!r})['ema']) before "
                "the Trainer is made, in a terminal by --start-from"
            )
        changed = [name for name in may_change if name != "steps" and state[name] != self._run[name]]
        for name in changed:
            self._say(f"From here on {name} is {self._run[name]}; up to step {state['step']:,} it was {state[name]}.")
        return state

    def _mismatch(self, state: dict, may_change: tuple[str, ...]) -> str | None:
        """The first way in which `state` is of another run, in words; None if in none."""
        for name, here in self._run.items():
            if state[name] != here and name not in may_change:
                hint = " (where only the decoder of JPEGs differs, say: fit(path, other_images=True))"
                verb = "are" if name.endswith("s") else "is"
                return f"its {name} {verb} {state[name]}, and {here} here{hint if name == 'images' else ''}"
        for group, tensors in self._tensors().items():
            if problem := difference(tensors, state[group]):
                return f"it has another network: {problem}"
            if not all(bool(value.isfinite().all()) for value in state[group].values()):
                raise ValueError("it holds what is no number")
        if type(state["step"]) is not int or state["losses"].shape != (state["step"],):
            raise ValueError("it counts other steps than losses")
        if state["step"] > self.config.steps:
            return f"it has {state['step']:,} steps behind it, more than the {self.config.steps:,} asked for"
        return None

    def _go_on_from(self, path: Path, other_images: bool) -> int | None:
        """Go back to the file, unless this Trainer stands further; the step that the file holds, None without one."""
        state = self._read(path, other_images) if path.exists() else None  # also where it will only be written over
        if state and (not self.step or not self._complete or state["step"] > self.step):
            self._restore(state)
            where = f"{path} holds step {self.step:,} of {self.config.steps:,}"
        elif self.step and self._complete:
            where = f"This Trainer stands at step {self.step:,} of {self.config.steps:,}"
        else:
            return None
        self._say(where + (", going on from there." if self.step < self.config.steps else ": nothing is left to do."))
        return state and state["step"]

    def _train_step(self) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step)
        x0, t, noise, label = self._batch()
        torch.manual_seed(self._seed(f"dropout of process {self.rank}"))  # it draws from PyTorch's global generator
        with fast_autocast(self.device):
            loss = self.objective(lambda x, t: self.parallel(x, t, *label).float(), self.schedule, x0, t, noise)
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

    def _seed(self, purpose: str, step: int | None = None) -> int:
        """Each purpose has its own stretch of seeds, one a step; `image_noise` in `sampling` draws from other ones."""
        return (
            zlib.crc32(f"{purpose}, seed {self.config.seed}".encode()) + (self.step if step is None else step)
        ) % 2**32

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """This process's share of the batch of this step: clean images, steps, noise; and labels, if there are any."""
        size = self.config.batch_size

        def stream(purpose: str) -> torch.Generator:
            return torch.Generator(self.device).manual_seed(self._seed(purpose))

        whole = (  # drawn by every process, so that the batch does not depend on how many share it
            shuffled_indices(len(self.images), size, self.step, self._seed("order", step=0)).to(self.device),
            draw_steps(self.schedule, size, stream("steps"), self.config.weighted),
            torch.randn((size, *self.images.shape[1:]), generator=stream("noise"), device=self.device),
            torch.rand((size, 2), generator=stream("coins"), device=self.device),
        )
        index, t, noise, coins = (share_of_batch(part, self.rank, self.world) for part in whole)
        x0 = to_float(self.images[index])
        if self.config.flip:
            x0 = random_flip(x0, coins[:, 0])
        if self.labels is None:
            return x0, t, noise, ()
        label = drop_labels(self.labels[index], coins[:, 1], self.config.label_dropout, self.model.classes)
        return x0, t, noise, (label,)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))  # a young average forgets faster
        for average, value in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            average.copy_(ema_update(average, value, decay))
        for average, value in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            average.copy_(value)

    def _say(self, text: str) -> None:
        """Print, in the first process; a console that is gone, or lacks a letter, must not end a run."""
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        with suppress(OSError, ValueError):
            if self.rank == 0:
                print(text.encode(encoding, "replace").decode(encoding), flush=True)

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
                f"{what} of step {bad:,} is {found}: training stops, and a file saved before stays as it is. Try a "
                f"smaller learning_rate than {self.config.learning_rate:g}, or a longer warmup: that file accepts both; "
                "and look for a division by 0, a root or a logarithm in the network's own code"
            )
        self._finite = self.step

    def _explain_out_of_memory(self, error: Exception) -> None:
        kinds = (MemoryError, torch.cuda.OutOfMemoryError)
        if not isinstance(error, kinds) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
            return
        size = self.config.batch_size
        smaller = f"batch_size {size // 2}, which a file saved before accepts, or " if size > 1 else ""
        raise TrainingError(
            f"step {self.step + 1:,} does not fit into the memory of {self.device} with batch_size {size}: "
            f"try {smaller}a narrower network, in another file. A file saved before stays as it is"
        ) from error


def _check_arguments(model: nn.Module, images: Tensor, objective: Callable, labels: Tensor | None) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
        found = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"Trainer: expected all images as uint8 (N, C, H, W), got {found}; see load_images, to_uint8")
    if not len(images):
        raise ValueError("Trainer: there are no images to train on")
    name = getattr(objective, "__name__", "<lambda>")
    if name == "<lambda>":
        raise TypeError("Trainer: objective must be a function made with def: a file of the run remembers its name")
    classes = getattr(model, "classes", None)
    if labels is None and classes is None:
        return
    if labels is None:
        raise ValueError("Trainer: this network was made for labels: pass labels=data.labels")
    if classes is None:
        raise ValueError("Trainer: labels need a network that takes them: UNet(classes=len(data.classes))")
    if not isinstance(labels, Tensor):
        raise TypeError(f"Trainer: expected the labels as a tensor, got {type(labels).__name__}: torch.tensor(labels)")
    if labels.shape != (len(images),) or labels.dtype != torch.int64:
        raise ValueError(
            f"Trainer: expected one int64 label for each of {len(images)} images, "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"Trainer: labels must lie in 0 ... {classes - 1}, found {int(labels.min())} to {int(labels.max())}"
        )


def _checksum(x: Tensor) -> str:
    """Tells data apart: shape, and a checksum of every byte."""
    return f"{' x '.join(map(str, x.shape))}, checksum {zlib.crc32(x.cpu().contiguous().numpy()):08x}"


@contextmanager
def _only_user(path: Path) -> Iterator[None]:
    """Hold the lock beside a file, so that no second run writes to it."""
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


class _Watch:
    """What shows a run: a live picture in a notebook, a line every ten seconds elsewhere. It never ends the run."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.live = trainer, None
        self.began, self.first, self.spoken = time.monotonic(), trainer.step, 0.0
        ipython = sys.modules.get("IPython")
        if ipython and hasattr(ipython.get_ipython(), "kernel"):
            self._draw(self._open)

    def __call__(self, loss: Tensor) -> None:
        if self.live:
            self._draw(self.live, loss)
        if not self.live:
            self._line()

    def close(self) -> None:
        if self.live:
            self._draw(self.live.close)

    def _open(self) -> None:
        from . import viz

        run = self.trainer
        labels = None if run.labels is None else torch.arange(16, device=run.device) % run.model.classes
        shape, steps = tuple(run.images.shape[1:]), min(20, run.schedule.T)
        draw = lambda: sample(run.ema, run.schedule, 16, shape, steps, labels=labels)  # noqa: E731
        self.live = viz.LiveLoss(run.config.steps, losses=run.losses, samples=draw)

    def _draw(self, draw: Callable, *arguments) -> None:
        try:
            draw(*arguments)
        except Exception as error:  # whatever it is, the run is worth more than its picture
            self.live = None
            self.trainer._say(
                f"The live picture failed ({type(error).__name__}: {error}); training goes on without it."
            )

    def _line(self) -> None:
        run, now = self.trainer, time.monotonic()
        if run.step < run.config.steps and now - self.spoken < 10:
            return
        self.spoken = now
        seconds = max(now - self.began, 1e-3) / (run.step - self.first)  # a coarse clock may not have moved yet
        run._say(
            f"step {run.step:,} of {run.config.steps:,}   loss {run.losses[-100:].mean():.4f}   "
            f"{run.config.batch_size / seconds:,.0f} images/s   "
            f"{(run.config.steps - run.step) * seconds / 60:.1f} min left"
        )
