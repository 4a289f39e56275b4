"""Measure what a learner waits for at the start: importing the helper, and real MNIST from disk to a tensor.

python tests/benchmarks/bench_start.py
"""

import statistics
import subprocess
import sys
import time

from ddpm_helpers import DataError, load_images

REPEATS = 7


def import_seconds(statement: str) -> float:
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    torch_first = [import_seconds("import torch") for _ in range(2)]  # warms the disk cache
    pairs = [(import_seconds("import torch"), import_seconds("import torch, ddpm_helpers")) for _ in range(REPEATS)]
    added = statistics.median(both - alone for alone, both in pairs)
    print(f"import torch: {statistics.median(a for a, _ in pairs):.2f} s (first time {torch_first[0]:.2f} s)")
    print(f"import ddpm_helpers adds: {added:.2f} s (median of {REPEATS})")
    try:
        load_images("mnist", strict=True)
    except DataError as error:
        return print(f"MNIST not measured: {error}")
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        load_images("mnist", strict=True)
        seconds.append(time.perf_counter() - start)
    print(f"MNIST, 60,000 images from disk to tensor: {statistics.median(seconds):.2f} s (median of {REPEATS})")


if __name__ == "__main__":
    main()
