"""Time to quality: how far samples are from real digits after equal wall times of training, design by design.

    python tests/benchmarks/bench_quality.py [--minutes 3 6 12] [--samples 1000]

The unit is the naive model of notebook 01 after its published 3 epochs, sampled in 40 moves. Then come the shipped
weights, always with 10,000 samples, and every system after each time. The trainer, the samplers and the judge are those
of `ddpm_helpers.ladder`; the speeds are measured in turns, first of all. Writes figures/bench_quality.json and its
chart, one row after the other; stopped and typed again, it goes on. With the defaults it takes about three hours on 2
cores; `--minutes` without a number stops after the shipped weights.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")
import torch
from record import FIGURES, record
from torch import Tensor

from ddpm_helpers import UNet, VelocityNet, default_device, load_images, load_pretrained, sample
from ddpm_helpers.ladder import COSINE, SYSTEMS, climb, fresh_noise_samples, measure_speed, score
from ddpm_helpers.training import fast_model
from ddpm_helpers.viz import subplots

LADDER = {system.name: system for system in SYSTEMS}
NAIVE = LADDER["naive BasicUNet"]
RECIPE = replace(  # what `bench_levers` found to be the best
    LADDER["the course's UNet"],
    name="the course's recipe",
    net=lambda: VelocityNet(UNet(base=32, multipliers=(1, 2), patch=2, attention=0), COSINE),
    sampler=fresh_noise_samples,
    middle=True,
)
COMPARED = (RECIPE, LADDER["LayerNormUNet, repaired"], NAIVE, LADDER["UNet2DModel DDPM"])
SHIPPED, SHIPPED_SAMPLES = ("mnist", "mnist_labels"), 10_000
PATH = FIGURES / "bench_quality.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="*", default=[3, 6, 12], help="(default: 3 6 12)")
    parser.add_argument("--samples", type=int, default=1000, help="to judge of each system (default: 1000)")
    options = parser.parse_args()
    images = load_images("mnist", strict=True).images
    results = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}
    if results.get("samples", options.samples) != options.samples:
        parser.error(f"{PATH} holds results of {results['samples']} samples; move it away to start anew")
    if not results:
        results = {"samples": options.samples, "speed": measure_speed(COMPARED, images), "rows": []}

    def add(name: str, minutes: float | None, make: Callable[[], dict]) -> None:
        if any((row["name"], row["minutes"]) == (name, minutes) for row in results["rows"]):
            return
        results["rows"].append({**make(), "name": name, "minutes": minutes})
        record("quality", f"python tests/benchmarks/bench_quality.py --samples {options.samples}", results)
        print(f"{name:<28}{minutes or '':>5}   distance {results['rows'][-1]['frechet']:7.1f}", flush=True)

    def trained(system, steps: int) -> Callable[[], dict]:
        return lambda: climb(system, images, steps, options.samples)[0]

    add(f"{NAIVE.name}, 3 epochs", None, trained(NAIVE, 3 * len(images) // NAIVE.batch_size))
    for name in SHIPPED:
        add(f"shipped weights {name}", None, lambda name=name: score(shipped_samples(name), images))
    for system in COMPARED:
        for minutes in options.minutes:
            speed = results["speed"][system.name]["images_per_second"]
            add(system.name, minutes, trained(system, round(60 * minutes * speed / system.batch_size)))
    if options.minutes:
        draw(results)


def shipped_samples(name: str) -> Tensor:
    """(10000, 1, 28, 28) in [-1, 1]: 50 steps; a network with labels is asked for each digit equally often."""
    device = default_device()
    net, schedule, _ = load_pretrained(name, device)
    count, model = SHIPPED_SAMPLES, fast_model(net, device)
    labels = None if net.classes is None else torch.arange(count, device=device) % net.classes
    x = sample(model, schedule, count, (1, 28, 28), 50, labels=labels, eta=1.0)
    return x.clamp(-1, 1).cpu()


def draw(results: dict) -> None:
    """The chart: minutes of training against the distance, in units of the naive model's."""
    unit = results["rows"][0]["frechet"]
    figure, axis = subplots(size=(7, 3.6))
    for system in COMPARED:
        rows = sorted(
            (row["minutes"], row["frechet"]) for row in results["rows"] if row["name"] == system.name and row["minutes"]
        )
        axis.loglog([m for m, _ in rows], [distance / unit for _, distance in rows], marker="o", label=system.name)
    axis.axhline(results["rows"][0]["floor"] / unit, color="black", linestyle="--", linewidth=0.8, label="real digits")
    minutes = sorted({row["minutes"] for row in results["rows"] if row["minutes"]})
    axis.set_xticks(minutes, [f"{m:g}" for m in minutes])
    axis.minorticks_off()
    axis.set(xlabel="minutes of training", ylabel="distance, in units of\nthe naive model's after 3 epochs")
    axis.legend(frameon=False, fontsize=9)
    figure.savefig(FIGURES / "bench_quality.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
