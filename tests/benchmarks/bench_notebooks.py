"""Measure every notebook: seconds from a fresh kernel to its last cell, and the kernel's peak memory.

    python tests/benchmarks/bench_notebooks.py [01 ...]

DDPM_BUDGET and DDPM_DATA act as they do for a learner; one notebook runs at a time.
"""

import os
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def measure(path: Path) -> tuple[float, float]:
    """Seconds, and peak resident memory in GB, of one notebook."""
    client = NotebookClient(
        nbformat.read(path, as_version=4),
        timeout=7200,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            for child in psutil.Process().children(recursive=True):
                try:
                    peak = max(peak, child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.monotonic()
    try:
        client.execute()
    finally:
        done.set()
        watcher.join()
    return time.monotonic() - start, peak / 1e9


def main() -> None:
    budget, cores = os.environ.get("DDPM_BUDGET", "by device"), os.cpu_count()
    data = f"DDPM_DATA {'set' if 'DDPM_DATA' in os.environ else 'not set'}"
    print(f"notebooks, budget {budget}, {cores} cores, {data}", flush=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if path.name.startswith(tuple(sys.argv[1:]) or path.name):
            seconds, memory = measure(path)
            print(f"{path.stem:28} {seconds:6.0f} s   peak {memory:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
