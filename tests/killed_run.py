"""A run that is killed with SIGKILL again and again and must end as if nothing had happened; test_train starts it.

Each life of the run is a fork of this process, which spares it the seconds that importing PyTorch takes. A kill comes
after a random time, or is aimed at one moment of a step or of a save. After each the file must hold, to the bit, what
an uninterrupted run held at that step.

    python tests/killed_run.py FOLDER KILLS
"""

import hashlib
import io
import itertools
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from ddpm_helpers import TrainConfig, Trainer, UNet, cosine_schedule, files

STEPS, BATCH = 30, 3


def flat(value, name: str = "state") -> dict[str, bytes]:
    """All that is in nested dictionaries: name -> bytes, which differ where a single bit does."""
    if isinstance(value, dict) and value:
        return {k: v for key in value for k, v in flat(value[key], f"{name}.{key}").items()}
    if isinstance(value, torch.Tensor):
        content = value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()  # NumPy has no bfloat16
        return {name: f"{value.dtype} {tuple(value.shape)} ".encode() + content}
    return {name: repr(value).encode()}


def digest(state: dict) -> str:
    return hashlib.sha256(repr(sorted(flat(state).items())).encode()).hexdigest()


def new_trainer() -> Trainer:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8)
    net = UNet(base=8, multipliers=(1,), attention=0, dropout=0.1)
    return Trainer(net, cosine_schedule(20), images, TrainConfig(STEPS, batch_size=BATCH, warmup=5), "cpu")


class Full(io.FileIO):
    """A file that takes `left` bytes, then calls `end`."""

    def __init__(self, path, mode: str, left: int, end):
        super().__init__(path, mode)
        self.left, self.end = left, end

    def write(self, content) -> int:
        if len(content) > self.left:
            super().write(content[: self.left])
            self.end()
        return super().write(content)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


AIMS = ("write", "before fsync", "before replace", "after replace")


def take_aim(aim: str, count: int, byte: int) -> None:
    """Make this process die at a byte of its first save, or before or after a call in its save number `count`."""
    if aim == "write":
        files.open = lambda path, mode: Full(path, mode, byte, die)  # reading is as ever
        return
    when, name = aim.split()
    function, calls = getattr(os, name), itertools.count(1)

    def deadly(*args):
        last = next(calls) == count
        if when == "after" or not last:
            function(*args)
        if last:
            die()

    setattr(os, name, deadly)


def uninterrupted(path: Path) -> None:
    trainer = new_trainer()
    path.write_text("\n".join([digest(trainer._state()), *(digest(trainer._state()) for _ in trainer.run())]))


def life(path: Path, aim: str | None = None, count: int = 0, byte: int = 0) -> None:
    if aim:
        take_aim(aim, count, byte)
    new_trainer().fit(path, seconds_between_saves=0)


def forked(work, *args) -> multiprocessing.Process:
    child = multiprocessing.get_context("fork").Process(target=work, args=args)
    child.start()
    return child


def main(folder: Path, kills: int) -> None:
    chance, path, killed, left_over, ended = random.Random(0), folder / "run" / "killed.safetensors", 0, 0, 0
    new_trainer()  # the first one imports much of PyTorch; the forks inherit that
    forked(uninterrupted, folder / "expected").join()
    expected = (folder / "expected").read_text().split()
    assert len(set(expected)) == STEPS + 1, "every step changes the state"
    while killed < kills:
        aim = AIMS[killed // 2 % len(AIMS)] if killed % 2 else None
        child = forked(life, path, aim, chance.randint(1, 3), int(10 ** chance.uniform(0, 5.2)))
        if not aim:
            time.sleep(chance.uniform(0.01, 0.3))
            child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), f"the life with aim {aim} failed"
        killed += child.exitcode != 0
        left_over += any(path.parent.glob(".*.tmp"))
        if path.exists():
            state = files.read(path)
            assert digest(state) == expected[state["step"]], f"after a kill at {aim}, at step {state['step']}"
            if state["step"] == STEPS:  # the same again from the start
                path.unlink()
                ended += 1
    forked(life, path).join()
    assert digest(files.read(path)) == expected[STEPS]
    assert left_over >= kills // 4, f"only {left_over} kills fell into a save"
    assert not list(path.parent.glob(".*.tmp")), "temporary files of killed runs are removed"
    print(f"{killed} kills, {left_over} of them within a save; {ended + 1} runs ended as the uninterrupted one")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
