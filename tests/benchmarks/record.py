"""What the benchmarks share: where results go (docs/RESULTS.md has its tables from docs/results/NAME.json), taking
turns, the model for sampling, a process for each core."""

import datetime
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from torch import Tensor, nn

from ddpm_helpers.files import write_bytes
from ddpm_helpers.machine import default_device, device_name, fast_autocast, fast_dtype

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def machine() -> dict:
    """What a number depends on beside the code."""
    return {
        "device": device_name(default_device()),
        "cores": os.cpu_count(),
        "precision": str(fast_dtype(default_device())).removeprefix("torch."),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def write(path: Path, results: dict) -> None:
    write_bytes(path, (json.dumps(results, indent=1) + "\n").encode())  # hours of work: never half a file


def record(name: str, command: str, results: dict) -> None:
    """Write the results of `command` to docs/results/NAME.json, and say so."""
    write(RESULTS / f"{name}.json", {"command": command, **machine(), **results})
    print(f"written to {RESULTS / name}.json", flush=True)


def in_turns(actions: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each action's answers; they take turns, so that a noisy minute slows all alike."""
    turns = [{name: action() for name, action in actions.items()} for _ in range(rounds)]
    return {name: statistics.median(turn[name] for turn in turns) for name in actions}


def seconds_of(action: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    action().sum().item()  # waits for a GPU
    return time.perf_counter() - start


def fast_model(model: nn.Module, device: torch.device) -> Callable[..., Tensor]:
    """The model for sampling: it computes in `fast_dtype` on its device, and answers in float32, without gradients."""

    @torch.no_grad()
    def answer(*inputs: Tensor) -> Tensor:
        with fast_autocast(device):
            return model(*inputs).float()

    return answer


def side_by_side(function: Callable, jobs: list) -> Iterator:
    """Yields `function(job)` of each job as it is done: a process with one thread for each core; on a GPU one by one.

    Runs whose steps are fixed end where they would with all threads, but for rounding, and together sooner. `function`
    and jobs are pickled: no lambda.
    """
    if default_device().type != "cpu":
        yield from map(function, jobs)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit the threads of PyTorch, and hang
    with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done in as_completed([pool.submit(function, job) for job in jobs]):
            yield done.result()
