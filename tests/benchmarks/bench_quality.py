"""Time to quality: how far samples are from real digits after equal wall times of training, design by design.

    python tests/benchmarks/bench_quality.py [--minutes 3 6 12] [--samples 1000]

The unit is the naive model of notebook 01 after its published 3 epochs, sampled in 40 moves. Then come the shipped
weights, always with 10,000 samples (the unit, too), and every system after each time. The trainer,
the samplers and the feature network are those of `ladder.py`. The speeds are measured in turns, first of all, each with
all threads; from them follow the steps of each row. The rows are then trained side by side. Writes
docs/results/quality.json and its chart, a row when it is done; stopped and typed again, it goes on. With the defaults
it takes about two hours on 2 cores; `--minutes` without a number stops after the shipped weights.
"""

import argparse
import json
from dataclasses import dataclass, replace

import torch
from ladder import FRESH, NEAR_T, SYSTEMS, climb, measure_speed, score, steps_in
from record import RESULTS, fast_model, record, side_by_side
from torch import Tensor

from ddpm_helpers import default_device, load_images, load_pretrained
from ddpm_helpers.viz import subplots

LADDER = {system.name: system for system in SYSTEMS}
NAIVE = LADDER["naive BasicUNet"]
DIFFUSERS = replace(LADDER["UNet2DModel DDPM"], sampler=FRESH)  # with fresh noise, as its scheduler
COMPARED = (LADDER["the course's recipe"], NAIVE, LADDER["LayerNormUNet, repaired"], DIFFUSERS)
UNIT = f"{NAIVE.name}, 3 epochs"
SHIPPED, SHIPPED_SAMPLES = ("mnist", "mnist_labels"), 10_000
PATH = RESULTS / "quality.json"


@dataclass(frozen=True)
class Job:
    """One row: a system and its steps of training, or shipped weights."""

    name: str
    minutes: float | None
    samples: int
    steps: int | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="*", default=[3, 6, 12], help="(default: 3 6 12)")
    parser.add_argument("--samples", type=int, default=1000, help="to draw of each system (default: 1000)")
    options = parser.parse_args()
    images = load_images("mnist", strict=True).images
    results = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}
    if results.get("samples", options.samples) != options.samples:
        parser.error(f"{PATH} holds results of {results['samples']} samples; move it away to start anew")
    command = f"python tests/benchmarks/bench_quality.py --samples {options.samples}"
    if not results:
        results = {"samples": options.samples, "unit": UNIT, "speed": measure_speed(COMPARED, images), "rows": []}
        record("quality", command, results)
    wanted = jobs(results["speed"], options.minutes, options.samples, len(images))
    done = [(row["name"], row["minutes"], row["samples"]) for row in results["rows"]]
    for row in side_by_side(trained, [job for job in wanted if (job.name, job.minutes, job.samples) not in done]):
        results["rows"].append(row)
        record("quality", command, results)
        print(f"{row['name']:<28}{row['minutes'] or '':>5}   distance {row['frechet']:7.1f}", flush=True)
    if options.minutes:
        draw(results)


def jobs(speed: dict, minutes: list[float], samples: int, images: int) -> list[Job]:
    """All rows: the unit, and then the longest come first, so that no core waits for one at the end."""
    wanted = [Job(UNIT, None, n, 3 * images // NAIVE.batch_size) for n in sorted({samples, SHIPPED_SAMPLES})]
    wanted += [
        Job(system.name, m, samples, steps_in(60 * m, system, speed[system.name]))
        for m in sorted(minutes, reverse=True)
        for system in COMPARED
    ]
    return wanted + [Job(name, None, SHIPPED_SAMPLES) for name in SHIPPED]


def trained(job: Job) -> dict:
    """A row: what the feature network says, beside what `ladder.climb` tells."""
    images = load_images("mnist", strict=True).images
    if job.name in SHIPPED:
        row = score(shipped_samples(job.name), images)
    else:
        system = next((system for system in COMPARED if system.name == job.name), NAIVE)
        row, _ = climb(system, images, job.steps, job.samples)
    return {**row, "name": job.name, "minutes": job.minutes, "samples": job.samples}


def shipped_samples(name: str) -> Tensor:
    """(10000, 1, 28, 28) in [-1, 1], in 50 steps; a network with labels is asked for each digit equally often."""
    device = default_device()
    net, schedule, _ = load_pretrained(name, device)
    count, model = SHIPPED_SAMPLES, fast_model(net, device)
    labels = None if net.classes is None else torch.arange(count, device=device) % net.classes
    x = FRESH(model, schedule, count, (1, 28, 28), NEAR_T, labels=labels)
    return x.clamp(-1, 1).cpu()


def draw(results: dict) -> None:
    """The chart: minutes of training against the distance, in units of the naive model's."""
    unit = next(row for row in results["rows"] if row["name"] == UNIT and row["samples"] == results["samples"])
    timed = [row for row in results["rows"] if row["minutes"]]
    figure, axis = subplots(size=(7, 3.6))
    for system in COMPARED:
        rows = sorted((row["minutes"], row["frechet"]) for row in timed if row["name"] == system.name)
        if not rows:
            continue  # not measured yet
        minutes, distances = zip(*rows, strict=True)
        axis.loglog(minutes, [d / unit["frechet"] for d in distances], marker="o", label=system.name)
    axis.axhline(unit["floor"] / unit["frechet"], color="black", linestyle="--", linewidth=0.8, label="real digits")
    ticks = sorted({row["minutes"] for row in timed})
    axis.set_xticks(ticks, [f"{m:g}" for m in ticks])
    shares = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]
    axis.set_yticks(shares, [f"{share:g}" for share in shares])
    axis.minorticks_off()
    axis.set(xlabel="minutes of training", ylabel="distance, in units of\nthe naive model's after 3 epochs")
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(RESULTS / "quality.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
