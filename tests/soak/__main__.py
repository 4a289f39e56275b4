"""What takes too long for the tests: kills, damaged files, no network, flakes, a full laboratory.

    python tools/long_runs.py soak                     all parts
    python tools/long_runs.py soak kill=15 fuzz=20000  these, so many times
    python tools/long_runs.py soak --json docs/results/soak.json lab   also to where docs/RESULTS.md has its table from

Parts run one after another, each alone if asked for; a summary is printed, and written as JSON beside the parts that
the file holds of earlier runs on this machine. The exit status is 1 if a part failed.
"""

import argparse
import datetime
import json
import os
import platform
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import flake
import fuzz
import kill
import lab
import offline
import pytest
import read_only_checkout
import same
import torch
from outcome import unit_tests

NO_ROOM = "disk_full or no_disk or read_only or one_run_at_a_time or cannot_be_written"
PARTS = {  # name -> function of a count, and the count of a full run
    "kill": (kill.training, 100),
    "torchrun": (kill.two_processes, 5),
    "kernel": (kill.kernel, 3),
    "disconnect": (kill.disconnect, 3),
    "files": (partial(unit_tests, NO_ROOM, ["test_files.py", "test_train.py"]), 1),
    "fuzz": (fuzz.fuzz, 100_000),
    "hosts": (partial(unit_tests, "host or download", ["test_data.py"]), 1),
    "offline": (offline.whole_test_command, 1),
    "readonly": (read_only_checkout.notebooks, 99),
    **{f"flake-{number}": (partial(flake.flake, number), 20) for number in flake.NOTEBOOKS},
    "same": (same.pictures, 99),
    "lab": (lab.kernels, 30),
    "cache": (lab.cold_cache, 30),
}


def part(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if name not in PARTS or not (count.isdecimal() or not count):
        raise argparse.ArgumentTypeError(f"{text}: a part is one of {', '.join(PARTS)}, with =COUNT or without")
    return name, int(count or PARTS[name][1])


def report_in(path: Path) -> dict:
    """The report on this machine, with the parts that `path` has of earlier runs here; those of another are kept."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = {
        "machine": f"{platform.system()} {platform.machine()}, {cores} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if before and (other := {name: before.get(name) for name in about}) != about:
        sys.exit(f"{path} has the figures of {other}, and this is {about}. Move it away, or name another with --json.")
    return {**about, "parts": before.get("parts", {})}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", type=part, metavar="PART[=COUNT]", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"), help="(default: %(default)s)")
    options = parser.parse_args()
    report = report_in(options.json)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for name, count in options.parts or [part(name) for name in PARTS]:
        print(f"---- {name}, {count:,}", flush=True)
        began = time.monotonic()
        try:
            result = PARTS[name][0](count)
        except pytest.skip.Exception as reason:
            result = {"ok": None, "result": str(reason)}
        except Exception:
            result = {"ok": False, "error": traceback.format_exc()}
        minutes, today = round((time.monotonic() - began) / 60, 1), datetime.date.today().isoformat()
        report["parts"][name] = {"count": count, "minutes": minutes, "date": today, **result}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8", newline="\n")
        print(json.dumps({key: value for key, value in result.items() if key != "readers"}, indent=1), flush=True)
    failed = [name for name, result in report["parts"].items() if result["ok"] is False]
    print(f"\n{report['machine']}, Python {report['python']}, PyTorch {report['torch']}")
    for name, result in report["parts"].items():
        state = {True: "ok", False: "FAILED", None: f"skipped: {result.get('result')}"}[result["ok"]]
        print(f"{name:<10}{result['count']:>8,}  {result['minutes']:6.1f} min  {result['date']}  {state}")
    print(f"Figures: {options.json}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
