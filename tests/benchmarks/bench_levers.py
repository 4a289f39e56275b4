"""What each part of the recipe is worth: the recipe, and the recipe with one part changed, all for the same time.

    python tests/benchmarks/bench_levers.py [--seconds 180 --samples 1000]

First the speed of all variants that do other work than the recipe is measured in turns, and from it follows how many
steps fit into the time; so the steps, which decide the result, can be repeated anywhere. What a variant needs for its
first steps (`torch.compile` writes and compiles C++) counts as time. Writes ddpm_helpers/results/levers_cpu.json, which
notebook 10 shows: one more ladder. Stopped and typed again, it goes on with the next variant. The recipe is trained
from three seeds, to see how large a difference chance makes. Needs MNIST; about three hours on 2 cores.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from ladder import NEAR_T, score, write
from record import fast_model, machine
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image

from ddpm_helpers import (
    TrainConfig,
    Trainer,
    UNet,
    VelocityNet,
    cosine_schedule,
    count_parameters,
    ddpm_loss,
    linear_schedule,
    load_images,
    min_snr_loss,
    sample,
    step_weight,
    velocity_loss,
)
from ddpm_helpers.lessons.ladder import RESULTS
from ddpm_helpers.sampling import ddim_steps
from ddpm_helpers.schedule import NoiseSchedule, per_image, q_sample, snr

PATH = RESULTS / "levers_cpu.json"
ROUNDS, SECONDS = 8, 3.0  # of the measurement of speed
COSINE, LINEAR = cosine_schedule(1000), linear_schedule(1000)
SMALL = partial(UNet, base=32, multipliers=(1, 2), patch=2, attention=0)  # attention in the middle alone
ONE_BY_ONE = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])])


@dataclass(frozen=True)
class Variant:
    """The recipe, or one change to it."""

    name: str
    net: Callable[[], nn.Module] = SMALL
    schedule: NoiseSchedule = COSINE
    velocity: bool = True  # whether the network's output is the velocity, or the noise
    objective: Callable[..., Tensor] = min_snr_loss
    averaged: bool = True  # sample with the average of the weights
    eta: float = 1.0  # share of fresh noise in the DDIM steps
    sampler_steps: int | list[int] = 50
    compiled: bool = False
    like: str | None = None  # another variant whose step is the same work, so its speed is taken; None: timed itself
    seed: int = 0  # of the first weights, and of what is drawn in training
    config: dict = field(default_factory=dict)  # of TrainConfig, beside steps
    instead: dict = field(default_factory=dict)  # what stands for a name in ddpm_helpers


def independent_steps(schedule: NoiseSchedule, count: int, generator: torch.Generator, weighted: float) -> Tensor:
    return torch.randint(1, schedule.T + 1, (count,), generator=generator, device=generator.device)


def constant_rate(config: TrainConfig, step: int) -> float:
    return config.learning_rate * min(1.0, (step + 1) / config.warmup)


def picture_by_picture(images: Tensor) -> Tensor:
    """Each image of a batch as a Pillow picture through a chain of transforms, as a `Dataset` would do it."""
    return torch.stack([ONE_BY_ONE(to_pil_image(image)) for image in images])


def min_snr_5_loss(model, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """The error of the clean image, weighted by the signal-to-noise ratio, at most 5 (Hang et al. 2023)."""
    error = (model(q_sample(schedule, x0, t, noise), t) - noise).square()
    return (error * per_image((5 / snr(schedule)[t]).clamp(max=1), error)).mean()


def small_velocity_loss(model, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """`velocity_loss` times the mean weight: with weighted timestep sampling, on average `min_snr_loss` itself."""
    return step_weight(schedule).mean() * velocity_loss(model, schedule, x0, t, noise)


SAME = partial(Variant, like="the recipe")
WEIGHTED = partial(SAME, objective=velocity_loss, config={"weighted": True})  # the same loss on average
UNPATCHED = partial(Variant, net=partial(UNet, base=16, multipliers=(1, 2, 4), attention=0))
VARIANTS = (
    Variant("the recipe"),
    SAME("the recipe, seed 1", seed=1),
    SAME("the recipe, seed 2", seed=2),
    SAME("noise as target", velocity=False),
    SAME("linear schedule", schedule=LINEAR),
    SAME("noise, linear schedule", velocity=False, schedule=LINEAR),
    SAME("weights of the noise", objective=ddpm_loss),
    SAME("weights of the velocity", objective=velocity_loss),
    SAME("min-SNR, gamma 5", objective=min_snr_5_loss),
    SAME("last weights, no average", averaged=False),
    SAME("average over 100 steps", config={"ema_decay": 0.99}),
    SAME("no fresh noise", eta=0.0),
    SAME("sampled in 200 steps", sampler_steps=200),
    SAME("sampled in all 1000 steps", sampler_steps=1000),
    SAME("learning rate stays up", instead={"train.TrainConfig.learning_rate_at": constant_rate}),
    SAME("learning rate 1e-3", config={"learning_rate": 1e-3}),
    SAME("learning rate 4e-3", config={"learning_rate": 4e-3}),
    SAME("independent steps", instead={"train.draw_steps": independent_steps}),
    Variant("batches of 128", config={"batch_size": 128}),
    Variant("batches of 32", config={"batch_size": 32}),
    UNPATCHED("no patches; 16, 32, 64"),
    Variant("attention at 7 x 7 too", net=partial(SMALL, attention=1)),
    Variant("base 24", net=partial(SMALL, base=24)),
    Variant("base 48", net=partial(SMALL, base=48)),
    Variant("float32", instead={"machine.fast_dtype": lambda device: torch.float32}),
    Variant("channels_last", instead={"train.fast_layout": lambda model, device: torch.channels_last}),
    Variant("one picture at a time", instead={"train.to_float": picture_by_picture}),
    Variant("torch.compile", compiled=True),
    UNPATCHED("no patches, seed 1", like="no patches; 16, 32, 64", seed=1),
    UNPATCHED("no patches, seed 2", like="no patches; 16, 32, 64", seed=2),
    SAME("noise and its weights", velocity=False, objective=ddpm_loss),
    SAME("noise, its weights, linear schedule", velocity=False, objective=ddpm_loss, schedule=LINEAR),
    WEIGHTED("weighted timestep sampling"),
    WEIGHTED("weighted timestep sampling, small gradient", objective=small_velocity_loss),
    WEIGHTED("weighted timestep sampling, seed 1", seed=1),
    WEIGHTED("weighted timestep sampling, seed 2", seed=2),
    SAME("more steps near T", sampler_steps=NEAR_T),
    WEIGHTED("weighted timestep sampling, near T", sampler_steps=NEAR_T),
    WEIGHTED("weighted timestep sampling, near T, seed 1", sampler_steps=NEAR_T, seed=1),
    WEIGHTED("weighted timestep sampling, near T, seed 2", sampler_steps=NEAR_T, seed=2),
)


def make(variant: Variant, images: Tensor, steps: int) -> Trainer:
    torch.manual_seed(variant.seed)
    net = variant.net()
    if variant.velocity:
        net = VelocityNet(net, variant.schedule)
    config = TrainConfig(steps, warmup=min(100, max(steps // 10, 1)), seed=variant.seed, **variant.config)
    trainer = Trainer(net, variant.schedule, images, config, objective=variant.objective)
    if variant.compiled:
        trainer.model.compile()
    return trainer


def changed(variant: Variant) -> ExitStack:
    stack = ExitStack()
    for name, value in variant.instead.items():
        stack.enter_context(patch(f"ddpm_helpers.{name}", value))
    return stack


def batch_size(variant: Variant) -> int:
    return variant.config.get("batch_size", 64)


def measure_speed(images: Tensor) -> dict[str, dict[str, float]]:
    """Seconds of the first two steps, and then images trained on per second, the median of several turns."""
    timed = [variant for variant in VARIANTS if not variant.like]
    loops, first, rates = {}, {}, {variant.name: [] for variant in timed}
    for variant in timed:
        # A learner's first run finds nothing compiled.
        with changed(variant), TemporaryDirectory() as folder, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder):
            loops[variant.name], start = make(variant, images, steps=10**6).run(), time.perf_counter()
            next(loops[variant.name]), next(loops[variant.name]).item()
            first[variant.name] = time.perf_counter() - start
    for _ in range(ROUNDS):
        for variant in timed:
            with changed(variant):
                start, done = time.perf_counter(), 0
                while time.perf_counter() - start < SECONDS:
                    next(loops[variant.name]).item()  # .item() waits for a GPU
                    done += batch_size(variant)
                rates[variant.name].append(done / (time.perf_counter() - start))
    return {
        name: {"seconds_of_first_steps": first[name], "images_per_second": statistics.median(rate)}
        for name, rate in rates.items()
    }


def speed_of(variant: Variant, speeds: dict[str, dict[str, float]]) -> dict[str, float]:
    return speeds[variant.like or variant.name]


def steps_in(seconds: float, variant: Variant, speeds: dict[str, dict[str, float]]) -> int:
    speed = speed_of(variant, speeds)
    left = seconds - speed["seconds_of_first_steps"]
    return max(1, round(left * speed["images_per_second"] / batch_size(variant)))


def train_and_evaluate(variant: Variant, images: Tensor, steps: int, count: int) -> dict:
    with changed(variant):
        trainer = make(variant, images, steps)
        for _ in trainer.run():
            pass
    net = trainer.ema if variant.averaged else trainer.model.eval()
    with changed(variant):
        model = fast_model(net, trainer.device)
        x = sample(model, trainer.schedule, count, (1, 28, 28), variant.sampler_steps, eta=variant.eta)
    return {
        "name": variant.name,
        "parameters": count_parameters(trainer.model),
        "train_steps": steps,
        "sampler_steps": len(ddim_steps(trainer.schedule.T, variant.sampler_steps)),
        **score(x.clamp(-1, 1).cpu(), images),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=180, help="of training for each variant (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=1000, help="to draw of each (default: %(default)s)")
    options = parser.parse_args()
    data = load_images("mnist", strict=True)
    about = {"seconds": options.seconds, "samples": options.samples}
    if PATH.exists():
        results = json.loads(PATH.read_text(encoding="utf-8"))
        if any(results[name] != value for name, value in about.items()):
            parser.error(f"{PATH} holds results of another run; move it away to start anew")
    else:
        command = f"python tests/benchmarks/bench_levers.py --seconds {options.seconds} --samples {options.samples}"
        speed = measure_speed(data.images)
        results = {
            **about,
            "data": data.source,
            "command": command,
            **machine(),
            "speed": speed,
            "systems": [],
            "faults": [],
        }
        write(PATH, results)
    if len(results["systems"]) == len(VARIANTS):
        print(f"{PATH} has every variant: nothing is left to do. Move it away to start anew.")
    for variant in VARIANTS[len(results["systems"]) :]:
        steps = steps_in(options.seconds, variant, results["speed"])
        row = train_and_evaluate(variant, data.images, steps, options.samples)
        results["systems"].append(row | speed_of(variant, results["speed"]))
        write(PATH, results)
        print(f"{row['name']:<28}{steps:7,} steps   distance {row['frechet']:7.0f}", flush=True)


if __name__ == "__main__":
    main()
