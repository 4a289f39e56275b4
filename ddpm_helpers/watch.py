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
def only_user(path: Path | None) -> Iterator[None]:
    """Hold the lock beside a file, so that no second run writes to it; tidy up behind runs that were killed."""
    if not path:
        yield
        return
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise CheckpointError(f"{path}: another run is writing to this file; stop it, or name another file") from None
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


@contextmanager
def watching(run) -> Iterator[Callable[[Tensor], None]]:
    """What to call with the loss after each step of a `Trainer`: a live picture in a notebook, lines elsewhere."""
    live = None
    try:
        live = live_picture(run)
    except Exception as error:  # whatever it is: the run is worth more than its picture
        say(f"The live picture failed ({type(error).__name__}: {error}); the run goes on without it.")
    try:
        yield live or lines(run)
    finally:
        if live:
            live.close()


def live_picture(run):
    """A `LiveLoss`, which lets nothing that goes wrong with its drawing out; None outside of a notebook."""
    ipython = sys.modules.get("IPython")
    if not ipython or not hasattr(ipython.get_ipython(), "kernel"):
        return None
    from . import viz  # and matplotlib with it

    labels = None if run.labels is None else torch.arange(16, device=run.device) % run.model.classes
    shape, steps = tuple(run.images.shape[1:]), min(20, run.schedule.T)
    draw = lambda: sample(run.ema, run.schedule, 16, shape, steps, labels=labels)  # noqa: E731
    return viz.LiveLoss(run.config.steps, losses=run.losses, samples=draw)


def lines(run) -> Callable[[Tensor], None]:
    """A line every ten seconds, from the first process alone."""
    began, first, steps, spoken = time.monotonic(), run.step, run.config.steps, 0.0

    def line(loss: Tensor) -> None:
        nonlocal spoken
        now = time.monotonic()
        if run.rank or (run.step < steps and now - spoken < 10):
            return
        spoken = now
        seconds = max(now - began, 1e-3) / (run.step - first)  # a coarse clock may not have moved yet
        say(
            f"step {run.step:,} of {steps:,}   loss {run.losses[-100:].mean():.4f}   "
            f"{run.config.batch_size / seconds:,.0f} images/s   {(steps - run.step) * seconds / 60:.1f} min left"
        )

    return line
