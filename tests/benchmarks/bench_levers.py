"""What each part of the recipe is worth: the recipe, and the recipe with one part changed, all for the same time.

    python tests/benchmarks/bench_levers.py figures/levers_cpu.json [--seconds 180 --samples 500]

First the speed of all variants is measured in turns, and from it follows how many steps fit into the time; so the
steps, which decide the result, can be repeated anywhere. Stopped and typed again, it goes on with the next variant.
One seed: differences of a few per cent are chance. Needs MNIST; with the defaults it takes about 45 minutes.
"""

import argparse
import datetime
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ddpm_helpers import (
    TrainConfig,
    Trainer,
    UNet,
    VelocityNet,
    cosine_schedule,
    count_parameters,
    ddpm_loss,
    frechet_distance,
    frechet_floor,
    judge,
    linear_schedule,
    load_feature_net,
    load_images,
    sample,
    to_float,
    velocity_loss,
)
from ddpm_helpers.schedule import NoiseSchedule
from ddpm_helpers.training import default_device, device_name, fast_autocast, fast_dtype

ROUNDS, SECONDS = 3, 3.0  # of the measurement of speed
COSINE, LINEAR = cosine_schedule(1000), linear_schedule(1000)
SMALL = partial(UNet, base=32, multipliers=(1, 2), patch=2)


@dataclass(frozen=True)
class Variant:
    """The recipe, or one change to it."""

    name: str
    net: Callable[[], nn.Module] = SMALL
    schedule: NoiseSchedule = COSINE
    velocity: bool = True
    averaged: bool = True  # sample with the average of the weights
    config: dict = field(default_factory=dict)  # of TrainConfig, beside steps
    instead: dict = field(default_factory=dict)  # what stands for a name in ddpm_helpers.training


def independent_steps(schedule: NoiseSchedule, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(1, schedule.T + 1, (count,), generator=generator, device=generator.device)


def constant_rate(config: TrainConfig, step: int) -> float:
    return config.learning_rate * min(1.0, (step + 1) / config.warmup)


VARIANTS = (
    Variant("the recipe"),
    Variant("predict the noise", velocity=False),
    Variant("linear schedule", schedule=LINEAR),
    Variant("predict the noise, linear schedule", velocity=False, schedule=LINEAR),
    Variant("last weights, no average", averaged=False),
    Variant("learning rate stays up", instead={"TrainConfig.learning_rate_at": constant_rate}),
    Variant("learning rate 1e-3", config={"learning_rate": 1e-3}),
    Variant("learning rate 4e-3", config={"learning_rate": 4e-3}),
    Variant("steps drawn independently", instead={"draw_steps": independent_steps}),
    Variant("batches of 128", config={"batch_size": 128}),
    Variant("batches of 32", config={"batch_size": 32}),
    Variant("no folding: widths 16, 32, 64", net=partial(UNet, base=16, multipliers=(1, 2, 4))),
    Variant("attention in the middle only", net=partial(SMALL, attention=0)),
    Variant("base 24", net=partial(SMALL, base=24)),
    Variant("base 48", net=partial(SMALL, base=48)),
    Variant("float32", instead={"fast_dtype": lambda device: torch.float32}),
    Variant("channels_last", instead={"fast_layout": lambda model, device: torch.channels_last}),
)


def make(variant: Variant, images: Tensor, steps: int) -> Trainer:
    torch.manual_seed(0)
    net, objective = variant.net(), ddpm_loss
    if variant.velocity:
        net, objective = VelocityNet(net, variant.schedule), velocity_loss
    config = TrainConfig(steps, warmup=min(100, max(steps // 10, 1)), **variant.config)
    return Trainer(net, variant.schedule, images, config, objective=objective)


def changed(variant: Variant) -> ExitStack:
    stack = ExitStack()
    for name, value in variant.instead.items():
        stack.enter_context(patch(f"ddpm_helpers.training.{name}", value))
    return stack


def measure_speed(images: Tensor) -> dict[str, float]:
    """Images trained on per second, the median of several turns."""
    loops, rates = {}, {variant.name: [] for variant in VARIANTS}
    for variant in VARIANTS:
        with changed(variant):
            loops[variant.name] = make(variant, images, steps=10**6).run()
            next(loops[variant.name]), next(loops[variant.name])  # the first steps are slow
    for _ in range(ROUNDS):
        for variant in VARIANTS:
            with changed(variant):
                start, done = time.perf_counter(), 0
                while time.perf_counter() - start < SECONDS:
                    next(loops[variant.name]).item()  # .item() waits for a GPU
                    done += variant.config.get("batch_size", 64)
                rates[variant.name].append(done / (time.perf_counter() - start))
    return {name: statistics.median(rate) for name, rate in rates.items()}


def train_and_judge(variant: Variant, images: Tensor, steps: int, count: int) -> dict:
    with changed(variant):
        trainer = make(variant, images, steps)
        for _ in trainer.run():
            pass
    net = (trainer.ema if variant.averaged else trainer.model).eval()

    def model(x: Tensor, t: Tensor) -> Tensor:
        with fast_autocast(trainer.device):
            return net(x, t).float()

    with torch.no_grad():
        samples = sample(model, trainer.schedule, count, (1, 28, 28), 50, progress=False).clamp(-1, 1).cpu()
    feature_net = load_feature_net()
    seen, real = judge(feature_net, samples), judge(feature_net, to_float(images[: 2 * count]))
    return {
        "name": variant.name,
        "parameters": count_parameters(trainer.model),
        "train_steps": steps,
        "frechet": frechet_distance(seen.features, real.features[:count]),
        "floor": frechet_floor(real.features, count),
        "recognisable": seen.recognisable,
        "entropy": seen.entropy,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="results to write, NAME.json")
    parser.add_argument("--seconds", type=int, default=180, help="of training for each variant")
    parser.add_argument("--samples", type=int, default=500, help="to judge of each variant")
    options = parser.parse_args()
    data = load_images("mnist", strict=True)
    if options.file.exists():
        results = json.loads(options.file.read_text(encoding="utf-8"))
    else:
        results = {
            "seconds": options.seconds,
            "samples": options.samples,
            "data": data.source,
            "device": device_name(default_device()),
            "precision": str(fast_dtype(default_device())).removeprefix("torch."),
            "torch": torch.__version__,
            "date": datetime.date.today().isoformat(),
            "speed": measure_speed(data.images),
            "variants": [],
        }
    for variant in VARIANTS[len(results["variants"]) :]:
        speed = results["speed"][variant.name]
        steps = max(1, round(results["seconds"] * speed / variant.config.get("batch_size", 64)))
        row = train_and_judge(variant, data.images, steps, results["samples"]) | {"images_per_second": speed}
        results["variants"].append(row)
        temporary = options.file.with_suffix(".tmp")
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, options.file)
        print(f"{row['name']:<36}{speed:8,.0f} images/s {steps:7,} steps   distance {row['frechet']:7.0f}", flush=True)


if __name__ == "__main__":
    main()
