"""What surrounds a training run: a stop that loses nothing, one user of its file, and a view that can never end it."""

import glob
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from .files import CheckpointError
from .sampling import sample


@contextmanager
def only_user(path: Path) -> Iterator[None]:
    """Hold the lock beside a file, so that no second run writes to it; tidy up behind runs that were killed."""
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
        for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # half a file, of a run that was killed
            left_over.unlink()
        yield
    finally:
        lock.release()


@contextmanager
def deferred_interrupt(defer: bool) -> Iterator[list]:
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


def say(text: str) -> None:
    """Print, with ? for what the console has no letter for; one that is gone must not end a run."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with suppress(OSError, ValueError):
        print(text.encode(encoding, "replace").decode(encoding), flush=True)


class Watch:
    """Shows the run of a `Trainer`: a live picture in a notebook, a line every ten seconds elsewhere."""

    def __init__(self, run):
        self.run, self.live = run, None
        self.began, self.first, self.spoken = time.monotonic(), run.step, 0.0
        ipython = sys.modules.get("IPython")
        if ipython and hasattr(ipython.get_ipython(), "kernel"):
            self._draw(self._open)

    def __call__(self, loss: Tensor) -> None:
        """After each step."""
        if self.live:
            self._draw(self.live, loss)
        if not self.live and not self.run.rank:
            self._line()

    def close(self) -> None:
        if self.live:
            self._draw(self.live.close)

    def _open(self) -> None:
        from . import viz

        run = self.run
        labels = None if run.labels is None else torch.arange(16, device=run.device) % run.model.classes
        shape, steps = tuple(run.images.shape[1:]), min(20, run.schedule.T)
        draw = lambda: sample(run.ema, run.schedule, 16, shape, steps, labels=labels)  # noqa: E731
        self.live = viz.LiveLoss(run.config.steps, losses=run.losses, samples=draw)

    def _draw(self, draw: Callable, *arguments) -> None:
        try:
            draw(*arguments)
        except Exception as error:  # whatever it is: the run is worth more than its picture
            self.live = None
            say(f"The live picture failed ({type(error).__name__}: {error}); the run goes on without it.")

    def _line(self) -> None:
        step, steps, now = self.run.step, self.run.config.steps, time.monotonic()
        if step < steps and now - self.spoken < 10:
            return
        self.spoken = now
        seconds = max(now - self.began, 1e-3) / (step - self.first)  # a coarse clock may not have moved yet
        say(
            f"step {step:,} of {steps:,}   loss {self.run.losses[-100:].mean():.4f}   "
            f"{self.run.config.batch_size / seconds:,.0f} images/s   {(steps - step) * seconds / 60:.1f} min left"
        )
