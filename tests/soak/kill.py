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
from contextlib import suppress
from pathlib import Path

import jupytext
from jupyter_client import BlockingKernelClient, KernelManager
from outcome import of_pytest

from ddpm_helpers.files import read

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools")]
import killed_run  # noqa: E402

import course  # noqa: E402

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS), str(TESTS / "soak")]),
}
LONG = 300  # steps of a run that is killed from outside


def training(kills: int) -> dict:
    """One process, killed at random times and at aimed moments of a step and of a save."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, str(TESTS / "killed_run.py"), folder, str(kills)]
        done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    said = done.stderr if done.returncode else done.stdout
    return {"ok": done.returncode == 0, "kills": kills, "result": said.strip().splitlines()[-1]}


def two_processes(kills: int) -> dict:
    """torchrun with two processes, one of which is killed."""
    chance, killed, messages = random.Random(0), [0, 0], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "run.safetensors"
        start_torchrun(folder / "expected").wait(timeout=600)
        expected = lines(folder / "expected")
        for _ in range(4 * kills):
            if sum(killed) == kills:
                break
            for left_over in folder.glob("*.pid"):
                left_over.unlink()
            job, rank = start_torchrun(file), sum(killed) % 2
            wait_for(lambda: len(list(folder.glob("*.pid"))) == 2, job)
            time.sleep(chance.uniform(0, 2))
            with suppress(ProcessLookupError):
                os.kill(int((folder / f"{rank}.pid").read_text()), signal.SIGKILL)
            killed[rank] += job.wait(timeout=300) != 0  # else the run was faster than the kill
            messages += compare(file, expected)
            start_anew(file)
        start_torchrun(file).wait(timeout=600)
        messages += compare(file, expected, step=LONG)
    ok = not messages and sum(killed) == kills
    return {"ok": ok, "kills of the first and the second process": killed, "result": messages or "equal to the bit"}


def start_torchrun(path: Path) -> subprocess.Popen:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    line += ["--nproc-per-node", "2", str(TESTS / "soak" / "two_processes.py"), str(path)]
    return subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kernel(kills: int) -> dict:
    """A notebook's kernel that trains in a cell, killed; the restarted kernel runs the cell again."""
    chance, killed, messages = random.Random(0), 0, []
    with tempfile.TemporaryDirectory() as name:
        path, expected = Path(name) / "run.safetensors", Path(name) / "expected"
        code = f"import torch, killed_run as k; from pathlib import Path; torch.set_num_threads(1); k.STEPS = {LONG}\n"
        end = f"k.uninterrupted(Path({str(expected)!r}))"
        subprocess.run([sys.executable, "-c", code + end], env=ENVIRONMENT, check=True)
        cell = code + f"k.new_trainer().fit({str(path)!r}, seconds_between_saves=0)\n'finished'"
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(env=ENVIRONMENT)
        try:
            for _ in range(kills):
                client = manager.blocking_client()
                client.start_channels()
                client.wait_for_ready(timeout=120)
                client.execute(cell)
                before = path.stat().st_mtime_ns if path.exists() else 0
                wait_for(lambda before=before: path.exists() and path.stat().st_mtime_ns > before)
                time.sleep(chance.uniform(0, 0.5))
                manager.signal_kernel(signal.SIGKILL)
                killed += 1
                client.stop_channels()
                manager.restart_kernel(now=True)
                messages += compare(path, lines(expected))
                start_anew(path)
            client = manager.blocking_client()
            client.start_channels()
            client.wait_for_ready(timeout=120)
            reply = client.execute_interactive(cell, output_hook=lambda _: None, timeout=600)["content"]
            messages += [] if reply["status"] == "ok" else [str(reply)]
            messages += compare(path, lines(expected), step=LONG)
            client.stop_channels()
        finally:
            manager.shutdown_kernel(now=True)
    return {"ok": not messages, "kills": killed, "result": messages or "equal to the bit"}


def disconnect(kills: int) -> dict:
    """Notebook 07's own run in a kernel like Colab's, which dies: a new one goes on from the folder that was named."""
    with tempfile.TemporaryDirectory() as name:
        python, drive, steps = course.colab_python(Path(name), sys.executable), Path(name) / "drive", 20 * (kills + 1)
        set_up, data, run = cells_of_own_run(drive, steps)
        environment = {**ENVIRONMENT, "PYTHONPATH": str(TESTS / "offline"), "DDPM_DATA": name, "XDG_CACHE_HOME": name}
        saved, went_on = [], []
        for life in range(kills + 1):
            manager = KernelManager(kernel_name="python3")
            manager.kernel_spec.argv[0] = python
            manager.start_kernel(env=environment, cwd=name)
            client = manager.blocking_client()
            try:
                client.start_channels()
                client.wait_for_ready(timeout=120)
                for cell in (set_up, data):
                    assert client.execute_interactive(cell, output_hook=lambda _: None)["content"]["status"] == "ok"
                saved.append(step_in(drive / "mnist.safetensors"))
                client.execute(run)
                went_on.append(start_of_bar(client, steps))
                if life < kills:
                    wait_for(lambda: step_in(drive / "mnist.safetensors") >= saved[-1] + 5)
                    manager.signal_kernel(signal.SIGKILL)
                else:
                    ended = client.get_shell_msg(timeout=1200)["content"]["status"]
            finally:
                client.stop_channels()
                manager.shutdown_kernel(now=True)
        ok = ended == "ok" and went_on == saved and step_in(drive / "mnist.safetensors") == steps
    return {
        "ok": ok,
        "result": f"went on from steps {', '.join(map(str, went_on[1:]))}",
        "kernels found a file of step": saved,
        "and went on from step": went_on,
        "the last ended": ended,
    }


def cells_of_own_run(folder: Path, steps: int) -> tuple[str, str, str]:
    """Of notebook 07, what its text says to run after a disconnect; with a folder, fewer steps, a save after each."""
    source = TESTS.parent / "notebooks" / "src" / "07_train_ddpm.py"
    cells = [cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    (run,) = (cell for cell in cells if cell.startswith("KEEP = None"))
    save = '.safetensors", seconds_between_saves=0)'
    for old, new in (
        ("None", repr(str(folder))),
        ("20_000", str(steps)),
        ('.safetensors")', save),
    ):
        assert old in run, f"{old} is not in the cell any more"
        run = run.replace(old, new, 1)
    return cells[0], cells[1], run


def start_of_bar(client: BlockingKernelClient, steps: int) -> int:
    """The step that the progress bar of a cell shows first."""
    while True:
        shown = client.get_iopub_msg(timeout=300)["content"].get("text", "")
        if found := re.search(rf"(\d+)/{steps} ", shown):
            return int(found[1])


def step_in(path: Path) -> int:
    return read(path)["step"] if path.exists() else 0


def files(_: int) -> dict:
    """Full disk, place that cannot be written to, two runs at one file: the unit tests have them; here they count."""
    words = "disk_full or read_only or one_run_at_a_time or cannot_be_written or end_of_saving"
    line = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-k", words]
    line += [str(TESTS / "test_files.py"), str(TESTS / "test_train.py")]
    done = subprocess.run(line, env=ENVIRONMENT, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    return of_pytest(done)


def lines(path: Path) -> list[str]:
    return path.read_text().split()


def start_anew(path: Path) -> None:
    """Remove a checkpoint of a run that has ended."""
    if path.exists() and read(path)["step"] == LONG:
        path.unlink()


def compare(path: Path, expected: list[str], step: int | None = None) -> list[str]:
    """What is wrong with the checkpoint, in a list; nothing, or no file yet, is right."""
    if not path.exists() and step is None:
        return []
    state = read(path)
    if step not in (None, state["step"]):
        return [f"it ended at step {state['step']}"]
    return [] if killed_run.digest(state) == expected[state["step"]] else [f"step {state['step']} differs"]


def wait_for(condition, job: subprocess.Popen | None = None, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or (job and job.poll() is not None and not condition()):
            raise TimeoutError("the run that was to be killed did not come so far")
        time.sleep(0.01)
