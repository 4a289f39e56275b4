"""A run that is killed with SIGKILL again and again and must end as if nothing had happened; test_train starts it.

Each life of the run is a fork of this process, which spares it the seconds that importing PyTorch takes. A kill comes
after a random time, or is aimed at one moment of a step or of a save. After each the file must hold, to the bit, what
an uninterrupted run held at that step.

    python tests/killed_run.py FOLDER KILLS
"""

import hashlib
import io
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from ddpm_helpers import TrainConfig, Trainer, UNet, cosine_schedule, files

STEPS, BATCH = 30, 3
AIMS = ("write", "before fsync", "before rename", "after rename", "forward", "optimizer", "average")


def flat(value, name: str = "state") -> dict[str, bytes]:
    """All that is in nested dictionaries and lists: name -> bytes, which differ where a single bit does."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{name}.{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, part in enumerate(value) for k, v in flat(part, f"{name}[{i}]").items()}
    if isinstance(value, torch.Tensor):
        return {name: f"{value.dtype} {tuple(value.shape)} ".encode() + value.cpu().contiguous().numpy().tobytes()}
    return {name: repr(value).encode()}


def digest(state: dict) -> str:
    return hashlib.sha256(repr(sorted(flat(state).items())).encode()).hexdigest()


def new_trainer() -> Trainer:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8)
    net = UNet(base=8, multipliers=(1,), attention=0, dropout=0.1)
    return Trainer(net, cosine_schedule(20), images, TrainConfig(STEPS, batch_size=BATCH, warmup=5), "cpu")


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(count: int, function, before: bool):
    """`function`, but its call number `count` kills this process, before or after doing its work."""
    calls = 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if before and calls == count:
            die()
        result = function(*args, **kwargs)
        if calls == count:
            die()
        return result

    return counted


class Deadly(io.FileIO):
    """A file that kills this process in the middle of a write, after `allowed` bytes."""

    def __init__(self, path, mode: str, allowed: int):
        super().__init__(path, mode)
        self.allowed = allowed

    def write(self, content) -> int:
        content = bytes(content)
        if len(content) > self.allowed:
            super().write(content[: self.allowed])
            die()
        self.allowed -= len(content)
        return super().write(content)


def take_aim(trainer: Trainer, aim: str, count: int, byte: int) -> None:
    """Make the process die at moment `aim` of step or save number `count`, or at a byte of the first save."""
    if aim == "forward":
        trainer.model.middle.forward = at_call(count, trainer.model.middle.forward, before=False)
    elif aim == "optimizer":
        trainer.optimizer.step = at_call(count, trainer.optimizer.step, before=False)
    elif aim == "average":
        trainer._average = at_call(count, trainer._average, before=True)
    elif aim == "write":
        files.open = lambda path, mode: Deadly(path, mode, byte)  # reading is as ever
    elif aim == "before fsync":
        os.fsync = at_call(count, os.fsync, before=True)
    else:
        os.replace = at_call(count, os.replace, before=aim == "before rename")


def fork(work) -> int:
    """Do `work` in a child; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def uninterrupted(path: Path) -> None:
    trainer = new_trainer()
    path.write_text("\n".join([digest(trainer._state()), *(digest(trainer._state()) for _ in trainer.run())]))


def life(path: Path, aim: str | None, count: int = 0, byte: int = 0) -> None:
    trainer = new_trainer()
    if aim:
        take_aim(trainer, aim, count, byte)
    trainer.fit(path, seconds_between_saves=0)


def main(folder: Path, kills: int) -> None:
    chance = random.Random(0)
    new_trainer()  # the first one imports much of PyTorch; the forks inherit that
    os.waitpid(fork(lambda: uninterrupted(folder / "expected")), 0)
    expected = (folder / "expected").read_text().split()
    assert len(set(expected)) == STEPS + 1, "every step changes the state"
    path = folder / "run" / "killed.safetensors"
    killed, left_over, ended = 0, 0, 0
    while killed < kills:
        aim = AIMS[killed // 2 % len(AIMS)] if killed % 2 else None
        count, byte = chance.randint(1, 3), int(10 ** chance.uniform(0, 5.2))
        child = fork(lambda aim=aim, count=count, byte=byte: life(path, aim, count, byte))
        if not aim:
            time.sleep(chance.uniform(0.01, 0.3))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, f"the life with aim {aim} failed"
        killed += os.WIFSIGNALED(status)
        left_over += any(path.parent.glob(".*.tmp"))
        if path.exists():
            state = files.read(path)
            assert digest(state) == expected[state["step"]], f"after a kill at {aim}, at step {state['step']}"
            if state["step"] == STEPS:  # the same again from the start
                path.unlink()
                ended += 1
    child = fork(lambda: life(path, None))
    assert os.waitpid(child, 0)[1] == 0
    assert digest(files.read(path)) == expected[STEPS]
    assert left_over >= kills // 4, f"only {left_over} kills fell into a save"
    assert not list(path.parent.glob(".*.tmp")), "temporary files of killed runs are removed"
    print(f"{killed} kills, {left_over} of them within a save; {ended + 1} runs ended as the uninterrupted one")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
