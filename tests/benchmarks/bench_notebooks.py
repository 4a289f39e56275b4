"""Measure every notebook: seconds from a fresh kernel to its last cell, and the kernel's peak memory.

    python tests/benchmarks/bench_notebooks.py [01 ...]

DDPM_BUDGET and DDPM_DATA act as they do for a learner; one notebook runs at a time. docs/RESULTS.md has its table
from docs/results/notebooks.json, which this writes; what was not run keeps its numbers there.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from record import RESULTS, machine, record

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
    budget = os.environ.get("DDPM_BUDGET", "full")
    path = RESULTS / "notebooks.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["notebooks"] if path.exists() else {}
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        if notebook.name.startswith(tuple(sys.argv[1:]) or notebook.name):
            seconds, memory = measure(notebook)
            print(f"{notebook.stem:28} {seconds:6.0f} s   peak {memory:.2f} GB   {budget} budget", flush=True)
            about = {"seconds": round(seconds), "gigabytes": round(memory, 1), "date": machine()["date"]}
            rows.setdefault(notebook.stem[:2], {})[budget] = about
            record("notebooks", "python tests/benchmarks/bench_notebooks.py", {"notebooks": dict(sorted(rows.items()))})


if __name__ == "__main__":
    main()
