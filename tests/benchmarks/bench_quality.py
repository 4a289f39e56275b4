"""Time to quality: how far samples are from real digits after equal wall times of training, design by design.

    python tests/benchmarks/bench_quality.py [--minutes 3 6 12] [--samples 2000]

The unit is the naive model of notebook 01 after its published 3 epochs, sampled in 40 moves. Then come the shipped
weights, then every system after each time. The systems, their speeds in turns and the trainer are those of
`ddpm_helpers.ladder`. Writes figures/bench_quality.json and its chart, one row after the other; stopped and typed
again, it goes on. With the defaults it takes about three hours on 2 cores; `--minutes` without a number stops after the
shipped weights.
"""

import argparse
import json
from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")
import torch
from record import FIGURES, record
from torch import Tensor

from ddpm_helpers import default_device, load_images, load_pretrained, sample
from ddpm_helpers.ladder import SYSTEMS, climb, measure_speed, score
from ddpm_helpers.training import fast_model
from ddpm_helpers.viz import subplots

NAMES = ("naive BasicUNet", "LayerNormUNet, repaired", "UNet2DModel DDPM", "the course's UNet")
PATH = FIGURES / "bench_quality.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="*", default=[3, 6, 12], help="(default: 3 6 12)")
    parser.add_argument("--samples", type=int, default=2000, help="to judge of each network (default: 2000)")
    options = parser.parse_args()
    images = load_images("mnist", strict=True).images
    systems = {system.name: system for system in SYSTEMS if system.name in NAMES}
    results = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}
    if results.get("samples", options.samples) != options.samples:
        parser.error(f"{PATH} holds results of {results['samples']} samples; move it away to start anew")
    if not results:
        results = {"samples": options.samples, "speed": measure_speed(tuple(systems.values()), images), "rows": []}

    def add(name: str, minutes: float | None, make: Callable[[], dict]) -> None:
        if any((row["name"], row["minutes"]) == (name, minutes) for row in results["rows"]):
            return
        results["rows"].append({"name": name, "minutes": minutes, **make()})
        record("quality", f"python tests/benchmarks/bench_quality.py --samples {options.samples}", results)
        print(f"{name:<28}{minutes or '':>5}   distance {results['rows'][-1]['frechet']:7.1f}", flush=True)

    def trained(name: str, steps: int) -> Callable[[], dict]:
        return lambda: climb(systems[name], images, steps, options.samples)[0]

    naive = systems["naive BasicUNet"]
    add(f"{naive.name}, 3 epochs", None, trained(naive.name, 3 * len(images) // naive.batch_size))
    for name in ("mnist", "mnist_labels"):
        add(f"shipped weights {name}", None, lambda name=name: score(shipped_samples(name, options.samples), images))
    for minutes in options.minutes:
        for name, system in systems.items():
            speed = results["speed"][name]["images_per_second"]
            add(name, minutes, trained(name, round(60 * minutes * speed / system.batch_size)))
    if options.minutes:
        draw(results)


def shipped_samples(name: str, count: int) -> Tensor:
    """(count, 1, 28, 28) in [-1, 1]: 50 DDIM steps; a network with labels is asked for each digit equally often."""
    device = default_device()
    net, schedule, _ = load_pretrained(name, device)
    labels = None if net.classes is None else torch.arange(count, device=device) % net.classes
    return sample(fast_model(net, device), schedule, count, (1, 28, 28), 50, labels=labels).clamp(-1, 1).cpu()


def draw(results: dict) -> None:
    """The chart: minutes of training against the distance, in units of the naive model's."""
    unit = results["rows"][0]["frechet"]
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
