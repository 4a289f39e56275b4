"""Time to quality: how far samples are from real digits after equal wall times of training, design by design.

    python tests/benchmarks/bench_quality.py [--minutes 3 6 12] [--samples 2000]

The unit is the naive model of notebook 01 after its published 3 epochs, sampled in 40 moves. The systems, their speeds
in turns and the trainer are those of `ddpm_helpers.ladder`. Writes figures/bench_quality.json and its chart, one row
after the other; stopped and typed again, it goes on. With the defaults it takes about three hours on 2 cores.
"""

import argparse
import json

import matplotlib

matplotlib.use("Agg")
from record import FIGURES, record

from ddpm_helpers import load_images
from ddpm_helpers.ladder import SYSTEMS, climb, measure_speed
from ddpm_helpers.viz import subplots

NAMES = ("naive BasicUNet", "LayerNormUNet, repaired", "UNet2DModel DDPM", "the course's UNet")
PATH = FIGURES / "bench_quality.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[3, 6, 12], help="(default: 3 6 12)")
    parser.add_argument("--samples", type=int, default=2000, help="to judge of each network (default: 2000)")
    options = parser.parse_args()
    images = load_images("mnist", strict=True).images
    systems = {system.name: system for system in SYSTEMS if system.name in NAMES}
    results = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}
    if results.get("samples", options.samples) != options.samples:
        parser.error(f"{PATH} holds results of {results['samples']} samples; move it away to start anew")
    if not results:
        results = {"samples": options.samples, "speed": measure_speed(tuple(systems.values()), images), "rows": []}

    def add(name: str, minutes: float | None, steps: int) -> None:
        if any((row["name"], row["minutes"]) == (name, minutes) for row in results["rows"]):
            return
        row, _ = climb(systems[name], images, steps, options.samples)
        results["rows"].append(row | {"minutes": minutes})
        command = f"python tests/benchmarks/bench_quality.py --samples {options.samples}"
        record("quality", command, results)
        print(f"{name:<28}{minutes or '3 epochs':>9} {steps:7,} steps   distance {row['frechet']:7.1f}", flush=True)

    naive = systems["naive BasicUNet"]
    add(naive.name, None, 3 * len(images) // naive.batch_size)
    for minutes in options.minutes:
        for name, system in systems.items():
            add(name, minutes, round(60 * minutes * results["speed"][name]["images_per_second"] / system.batch_size))
    draw(results)


def draw(results: dict) -> None:
    """The chart: minutes of training against the distance, in units of the naive model's."""
    unit = next(row["frechet"] for row in results["rows"] if row["minutes"] is None)
    figure, axis = subplots(size=(7, 3.6))
    for name in NAMES:
        rows = sorted(
            (row["minutes"], row["frechet"]) for row in results["rows"] if row["name"] == name and row["minutes"]
        )
        axis.loglog([m for m, _ in rows], [distance / unit for _, distance in rows], marker="o", label=name)
    axis.axhline(results["rows"][0]["floor"] / unit, color="black", linestyle="--", linewidth=0.8, label="real digits")
    minutes = sorted({row["minutes"] for row in results["rows"] if row["minutes"]})
    axis.set_xticks(minutes, [f"{m:g}" for m in minutes])
    axis.minorticks_off()
    axis.set(xlabel="minutes of training", ylabel="distance, in units of\nthe naive model's after 3 epochs")
    axis.legend(frameon=False, fontsize=9)
    figure.savefig(FIGURES / "bench_quality.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
