"""Where the benchmarks leave their results: docs/results/NAME.json, from which docs/RESULTS.md has its tables."""

import datetime
import json
import multiprocessing
import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from torch import Tensor, nn

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


def record(name: str, command: str, results: dict) -> None:
    """Write the results of `command` to docs/results/NAME.json, and say so."""
    path = RESULTS / f"{name}.json"
    text = json.dumps({"command": command, **machine(), **results}, indent=1)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    print(f"written to {path}", flush=True)


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
