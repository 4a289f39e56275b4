"""A trainer that loses nothing: where a run stands after a step is a function of its arguments alone."""

import copy
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .data import shuffled_indices, to_float
from .files import CheckpointError, difference, place, read, write
from .losses import ddpm_loss, draw_steps, drop_labels, ema_update, random_flip, share_of_batch
from .machine import default_device, fast_autocast, fast_layout, out_of_memory
from .schedule import NoiseSchedule
from .watch import deferred_interrupt, only_user, say, watching

MAY_CHANGE = ("steps", "batch_size", "learning_rate", "warmup", "clip_norm")  # of a run that goes on from a file


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
    weighted: float = 0.0  # share of the steps t that is drawn by weight (weighted timestep sampling), not uniformly

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
        if not 0 <= self.weighted <= 1:
            raise ValueError(f"TrainConfig: weighted must lie in [0, 1], got {self.weighted!r}")

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
        images: (N, C, H, W) uint8, all of them; moved to `device` once.
        device: where; the fastest device here if None.
        objective: what is minimised, called as `ddpm_loss` is; a file of the run remembers its name.
        labels: (N,) int64 in 0 ... model.classes - 1; some are replaced by model.classes, "no label" (Ho & Salimans
            2022, algorithm 1).

    Attributes: `step`, completed steps; `losses` (step,); `ema`, a copy of the model with the moving average of its
    weights, in eval mode: sample with this one.
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
        if (size := config.batch_size) % self.world:
            raise ValueError(f"Trainer: batch_size {size} cannot be shared out evenly among {self.world} processes")
        self.config, self.objective = config, objective
        self.device = torch.device(device or default_device())
        self.schedule, self.images = schedule.to(self.device), images.to(self.device)
        self.labels = None if labels is None else labels.to(self.device)
        self.model = model.to(self.device, memory_format=fast_layout(model, self.device)).train()
        # This gives every process the first one's weights, so the average is copied after it.
        self.parallel = nn.parallel.DistributedDataParallel(self.model) if self.world > 1 else self.model
        if "own_signal" not in dict(self.model.named_buffers()):  # a `VelocityNet` has it
            self.model.own_signal = self.schedule.sqrt_alpha_bar  # so that `sample` sees if it gets another schedule
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate)
        for p in self.model.parameters():
            if p.requires_grad:  # as AdamW does in its first step: so a file of any step holds the same names
                zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[p] = {"step": torch.tensor(0.0), **zeros}
        self.step = 0
        # One tensor: thousands of small ones, kept among large short-lived ones, would keep their memory from reuse.
        self._losses = torch.zeros(config.steps, device=self.device)
        self._complete = True  # False while a step is being made: such a state must not be saved

    @property
    def losses(self) -> Tensor:
        return self._losses[: self.step]

    def run(self) -> Iterator[Tensor]:
        """Train; yields the loss (a scalar tensor on the device) after each complete step, until config.steps."""
        self._check()
        while self.step < self.config.steps:
            self._complete = False
            try:
                loss = self._train_step()
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                raise TrainingError(
                    f"step {self.step + 1:,} does not fit into the memory of {self.device}: try smaller batches than "
                    f"of {self.config.batch_size}: a file saved before accepts it; or a narrower network, in a new file"
                ) from error
            self._losses[self.step] = loss
            self.step += 1
            self._complete = True
            last = self.step == self.config.steps
            if self.device.type == "cpu" or self.step % 50 == 0 or last:  # for a number a GPU must be waited for
                self._check(weights=last)
            yield loss

    def fit(
        self, path: str | Path | None = None, *, seconds_between_saves: float = 60.0, other_images: bool = False
    ) -> nn.Module:
        """Train to the end, in sight: a live picture in a notebook, plain lines elsewhere. Returns `ema`.

        With a path, NAME.safetensors, the run is saved there now and then, at the end, and when it is stopped (the stop
        button, Ctrl-C; not under torchrun, which stops its processes itself), and goes on from a file that is there
        already: after any interruption, run the same again. The file of another run is refused; `other_images` allows
        images that differ from its own.
        """
        path = None if path is None else place(path)
        with only_user(path if self.rank == 0 else None), deferred_interrupt(self.world == 1) as stop:
            held = self._go_on_from(path, other_images)
            saved = time.monotonic()
            with watching(self) as watch:
                for loss in self.run():
                    watch(loss)
                    if stop:
                        break
                    if path and time.monotonic() - saved >= seconds_between_saves:
                        self.save(path)
                        held, saved = self.step, time.monotonic()
            if path and held != self.step:
                self.save(path)
            if stop:
                where = f"{self._place()}; {path} holds all of it" if path else self._place()
                self._say(f"Stopped after {where}. Run the same again to go on.")
        return self.ema

    def save(self, path: str | Path) -> None:
        """Write everything that `resume` needs; of several processes only the first writes."""
        self._check(weights=True)
        if self.rank == 0:
            write(path, "training state", self._state())

    def resume(self, path: str | Path, *, other_images: bool = False) -> None:
        """Go back to the very state that was saved. If the file is of another run, this one stays as it was."""
        self._restore(self._read(path, other_images))

    @cached_property
    def _run(self) -> dict:
        """What makes this run the one that it is, beside the network, in plain values."""
        return {
            **asdict(self.config),
            "objective": self.objective.__name__,
            "schedule": _checksum(self.schedule.beta[1:]),
            "images": _checksum(self.images),
            "labels": self.labels if self.labels is None else _checksum(self.labels),
        }

    def _state(self) -> dict:
        return {**self._run, "step": self.step, "losses": self.losses, **self._tensors()}

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
        self._complete = True

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
        for name in may_change:
            if name != "steps" and (before := state.get(name)) != self._run[name]:
                self._say(f"After step {state['step']:,} with {name} {self._run[name]}; before, it was {before}.")
        return state

    def _mismatch(self, state: dict, may_change: tuple[str, ...]) -> str | None:
        """The first way in which `state` is of another run, in words; None if in none."""
        for name, here in self._run.items():
            if state[name] != here and name not in may_change:
                hint = " (if they differ but by a JPEG decoder's rounding, fit(path, other_images=True) goes on)"
                is_or_are = "are" if name.endswith("s") else "is"
                return f"its {name} {is_or_are} {state[name]}, and {here} here{hint if name == 'images' else ''}"
        for group, tensors in self._tensors().items():
            if problem := difference(tensors, state[group]):
                return f"it has another network: {problem}"
        if type(state["step"]) is not int or state["losses"].shape != (state["step"],):
            raise ValueError("it counts other steps than losses")
        if state["step"] > self.config.steps:
            return f"it has {state['step']:,} steps behind it, more than the {self.config.steps:,} asked for"
        return None

    def _go_on_from(self, path: Path | None, other_images: bool) -> int | None:
        """Go back to the file, unless this Trainer stands further; the step that the file holds, None without one."""
        if not path:
            return None
        state = self._read(path, other_images) if path.exists() else None  # also where it will only be written over
        if state and (not self.step or not self._complete or state["step"] > self.step):
            self._restore(state)
            where = f"{path} holds"
        elif self.step and self._complete:
            where = "This Trainer stands at"
        else:
            return None
        rest = ", going on from there." if self.step < self.config.steps else ": nothing is left to do."
        self._say(f"{where} {self._place()}{rest}")
        return state and state["step"]

    def _place(self) -> str:
        return f"step {self.step:,} of {self.config.steps:,}"

    def _train_step(self) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step)
        x0, t, noise, label = self._batch()
        torch.manual_seed(self._seed(f"dropout of process {self.rank}", self.step))  # PyTorch's global generator
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

    def _seed(self, purpose: str, step: int) -> int:
        """Each purpose has its own stretch of seeds, one a step; `image_noise` in `sampling` draws from other ones."""
        return (zlib.crc32(f"{purpose}, seed {self.config.seed}".encode()) + step) % 2**32

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """This process's share of the batch of this step: clean images, steps, noise; and labels, if there are any."""
        size = self.config.batch_size
        stream = lambda purpose: torch.Generator(self.device).manual_seed(self._seed(purpose, self.step))  # noqa: E731
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
        if self.rank == 0:
            say(text)

    def _check(self, weights: bool = False) -> None:
        """Stop at half a step, at a new loss that is no number, or at such a weight, which the next loss would show."""
        if not self._complete:
            raise TrainingError(
                f"after step {self.step:,} the next one stopped half-way, or the loss was no number: these weights are "
                "of no use; resume the last good file, or make the network and the Trainer anew"
            )
        first = max(self.step - 50, 0)  # those before have been looked at
        bad = (~self.losses[first:].isfinite()).nonzero()
        if len(bad):
            step = first + 1 + int(bad[0])
            found = f"the loss of step {step:,} is {self.losses[step - 1].item()}"
        elif weights and not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            found = f"a weight of step {self.step:,} is not finite"
        else:
            return
        self._complete = False
        raise TrainingError(
            f"{found}: training stops, and a file saved before stays as it is. Try a smaller learning_rate than "
            f"{self.config.learning_rate:g}, or a longer warmup: that file accepts both; and look for a division by 0, "
            "a root or a logarithm in the network's own code"
        )


def _check_arguments(model: nn.Module, images: Tensor, objective: Callable, labels: Tensor | None) -> None:
    found = lambda x: f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__  # noqa: E731
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
        raise TypeError(
            f"Trainer: expected images as uint8 (N, C, H, W), 1 or more, got {found(images)}; see load_images, to_uint8"
        )
    if getattr(objective, "__name__", "<lambda>") == "<lambda>":
        raise TypeError("Trainer: objective must be a function made with def: a file of the run remembers its name")
    classes = getattr(model, "classes", None)
    if (labels is None) != (classes is None):
        missing = "labels=data.labels" if labels is None else "a network UNet(classes=len(data.classes))"
        raise ValueError(f"Trainer: labels and a network that takes them go together: pass {missing}, too")
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (len(images),):
        expected = f"one int64 label for each of {len(images)} images"
        raise ValueError(f"Trainer: expected {expected}, got {found(labels)}; torch.tensor(labels)")
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < classes:
        raise ValueError(f"Trainer: labels must lie in 0 ... {classes - 1}, found {low} to {high}")


def _checksum(x: Tensor) -> str:
    """Tells data apart: shape, and a checksum of every byte."""
    return f"{' x '.join(map(str, x.shape))}, checksum {zlib.crc32(x.cpu().contiguous().numpy()):08x}"
