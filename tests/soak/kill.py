"""SIGKILL at any moment: of a training process, of one of two processes under torchrun, of a notebook's kernel.

Each part trains a small network, is killed again and again, and goes on each time. After every kill the file must hold,
to the bit, what a run without interruptions held at that step: weights, average, optimizer, losses, random numbers.
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import jupytext
from jupyter_client import KernelManager

from ddpm_helpers.files import read

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools")]
import killed_run  # noqa: E402

import course  # noqa: E402

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
}
LONG = 300  # steps of a run that is killed from outside


def training(kills: int) -> dict:
    """One process, killed at random times and at aimed moments of a save."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, str(TESTS / "killed_run.py"), folder, str(kills)]
        done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    said = done.stderr if done.returncode else done.stdout
    return {"ok": done.returncode == 0, "kills": kills, "result": said.strip().splitlines()[-1]}


def two_processes(kills: int) -> dict:
    """torchrun with two processes, one of which is killed."""
    chance, killed, messages = random.Random(0), [0, 0], []
    with tempfile.TemporaryDirectory() as name:
        file, expected = Path(name) / "run.safetensors", Path(name) / "expected"
        start_torchrun(expected).wait(timeout=600)
        for _ in range(4 * kills):
            if sum(killed) == kills:
                break
            job, rank = start_torchrun(file), sum(killed) % 2
            pid = Path(name) / f"{rank}.pid"
            wait_for(pid.exists, job)
            time.sleep(chance.uniform(0, 2))
            with suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), signal.SIGKILL)
            killed[rank] += job.wait(timeout=300) != 0  # else the run was faster than the kill
            for left_over in Path(name).glob("*.pid"):
                left_over.unlink()
            messages += compare(file, expected)
        start_torchrun(file).wait(timeout=600)
        messages += compare(file, expected, step=LONG)
    ok = not messages and sum(killed) == kills
    return {"ok": ok, "kills of the first and the second process": killed, "result": messages or "equal to the bit"}


def start_torchrun(path: Path) -> subprocess.Popen:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    line += ["--nproc-per-node", "2", str(TESTS / "soak" / "two_processes.py"), str(path), str(LONG)]
    return subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def started_kernel(python: str = sys.executable, **options):
    """A notebook's kernel: its manager and a client."""
    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = python
    manager.start_kernel(**options)
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def execute(client, cell: str) -> None:
    reply = client.execute_interactive(cell, output_hook=lambda _: None, timeout=1200)["content"]
    assert reply["status"] == "ok", reply


def kernel(kills: int) -> dict:
    """A notebook's kernel that trains in a cell, killed; the next kernel runs the cell again."""
    chance, messages = random.Random(0), []
    with tempfile.TemporaryDirectory() as name:
        path, expected = Path(name) / "run.safetensors", Path(name) / "expected"
        code = f"import torch, killed_run as k; from pathlib import Path; torch.set_num_threads(1); k.STEPS = {LONG}\n"
        cell = code + f"k.life(Path({str(path)!r}))"
        with started_kernel(env=ENVIRONMENT) as (_, client):
            execute(client, code + f"k.uninterrupted(Path({str(expected)!r}))")
        for _ in range(kills):
            before = path.stat().st_mtime_ns if path.exists() else 0
            with started_kernel(env=ENVIRONMENT) as (manager, client):
                client.execute(cell)
                wait_for(lambda before=before: path.exists() and path.stat().st_mtime_ns > before)
                time.sleep(chance.uniform(0, 0.5))
                manager.signal_kernel(signal.SIGKILL)
            messages += compare(path, expected)
        with started_kernel(env=ENVIRONMENT) as (_, client):
            execute(client, cell)
        messages += compare(path, expected, step=LONG)
    return {"ok": not messages, "kills": kills, "result": messages or "equal to the bit"}


def disconnect(kills: int) -> dict:
    """Notebook 07's own run in a kernel like Colab's, which dies: a new one goes on from the folder that was named."""
    saved, went_on, steps = [], [], 20 * (kills + 1)
    with tempfile.TemporaryDirectory() as name:
        python, file = course.colab_python(Path(name), sys.executable), Path(name) / "drive" / "mnist.safetensors"
        set_up, data, run = cells_of_own_run(file.parent, steps)
        environment = {**ENVIRONMENT, "PYTHONPATH": str(TESTS / "offline"), "DDPM_DATA": name, "XDG_CACHE_HOME": name}
        for life in range(kills + 1):
            with started_kernel(python, env=environment, cwd=name) as (manager, client):
                for cell in (set_up, data):
                    execute(client, cell)
                saved.append(step_in(file))
                client.execute(run)
                shown = None
                while not shown:  # what the progress bar shows first
                    text = client.get_iopub_msg(timeout=300)["content"].get("text", "")
                    shown = re.search(rf"(\d+)/{steps} ", text)
                went_on.append(int(shown[1]))
                if life < kills:
                    wait_for(lambda: step_in(file) >= saved[-1] + 5)
                    manager.signal_kernel(signal.SIGKILL)
                else:
                    ended = client.get_shell_msg(timeout=1200)["content"]["status"]
        ok = ended == "ok" and went_on == saved and step_in(file) == steps
    told = {"kernels found a file of step": saved, "and went on from step": went_on, "the last ended": ended}
    return {"ok": ok, "result": f"went on from steps {', '.join(map(str, went_on[1:]))}", **told}


def cells_of_own_run(folder: Path, steps: int) -> tuple[str, str, str]:
    """Of notebook 07, what its text says to run after a disconnect; with a folder, fewer steps, a save after each."""
    source = TESTS.parent / "notebooks" / "src" / "07_train_ddpm.py"
    cells = [cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    (run,) = (cell for cell in cells if cell.startswith("KEEP = None"))
    save = '.safetensors", seconds_between_saves=0)'
    for old, new in {"None": repr(str(folder)), "20_000": str(steps), '.safetensors")': save}.items():
        assert old in run, f"{old} is not in the cell any more"
        run = run.replace(old, new, 1)
    return cells[0], cells[1], run


def step_in(path: Path) -> int:
    return read(path)["step"] if path.exists() else 0


def compare(path: Path, expected: Path, step: int | None = None) -> list[str]:
    """What is wrong with the file, in a list; that of a run that has ended is removed, so that the next starts anew."""
    if not path.exists():
        return [] if step is None else ["it left no file"]
    state = read(path)
    if state["step"] == LONG:
        path.unlink()
    right = killed_run.digest(state) == expected.read_text().split()[state["step"]]
    return [] if right and step in (None, state["step"]) else [f"step {state['step']} differs, or came too early"]


def wait_for(condition, job: subprocess.Popen | None = None, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or (job and job.poll() is not None and not condition()):
            raise TimeoutError("the run that was to be killed did not come so far")
        time.sleep(0.01)
