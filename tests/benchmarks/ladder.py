"""The ladder: well-known designs on the same data, for the same wall time, compared by the same feature network.

    python tests/benchmarks/ladder.py NAME.json [--seconds 180 --samples 500]

Trains each system and writes NAME.json, and samples to NAME.png; what notebook 10 shows is in ddpm_helpers/results.

First the speed of all systems is measured in turns, and from it follows how many steps fit into the time. So a noisy
minute slows everyone alike, and the steps, which decide the result, can be repeated anywhere. Every system is trained
by the course's `Trainer` (AdamW, warm-up, clipped gradients, averaged weights, bfloat16 where it is fast), so what is
compared is the designs: network, noise process, target, sampler. Stopped and typed again, the command goes on with the
next system.
"""

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from PIL import Image
from record import fast_model, in_turns, machine, seconds_of, write
from torch import Tensor, nn

from ddpm_helpers import (
    BasicUNet,
    CheckpointError,
    DataError,
    ImageData,
    LayerNormUNet,
    NoiseSchedule,
    SimpleUNet,
    TrainConfig,
    Trainer,
    UNet,
    VelocityNet,
    cosine_schedule,
    count_parameters,
    ddim_steps,
    ddpm_loss,
    evaluate,
    frechet_distance,
    frechet_floor,
    image_noise,
    linear_schedule,
    load_feature_net,
    load_images,
    naive_trajectory,
    sample,
    to_float,
    to_uint8,
    velocity_loss,
)
from ddpm_helpers.files import write_bytes
from ddpm_helpers.lessons.ladder import naive_objective, parse
from ddpm_helpers.lessons.libraries import DeepinvUNet, MissingLibrary, grey_unet2d
from ddpm_helpers.sampling import spaced_steps


def unit_range_objective(model, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """`ddpm_loss` of images in [0, 1]."""
    return ddpm_loss(model, schedule, (x0 + 1) / 2, t, noise)


def scaled_gradient_objective(model, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """`ddpm_loss` with the gradient that `loss.backward(loss)` leaves: the right one, times the loss."""
    loss = ddpm_loss(model, schedule, x0, t, noise)
    return loss.detach() + loss.detach() * (loss - loss.detach())


def naive_samples(model, schedule: NoiseSchedule, count: int, shape: tuple[int, ...], steps: int) -> Tensor:
    """(count, *shape) in [-1, 1]: notebook 01's sampler, 40 moves."""
    batches, told_nothing = [], lambda x, amount: model(x, torch.ones(len(x), dtype=torch.int64, device=x.device))
    for first in range(0, count, 64):
        normal = image_noise(0, range(first, min(first + 64, count)), shape, schedule.beta.device)()
        for step in naive_trajectory(told_nothing, torch.special.ndtr(normal), steps):
            x = step.x
        batches.append(x)
    return torch.cat(batches).clamp(0, 1) * 2 - 1


def unit_range_samples(model, schedule: NoiseSchedule, count: int, shape: tuple[int, ...], steps: None) -> Tensor:
    """(count, *shape) in [-1, 1]: Algorithm 2 as it is published with [0, 1] data: nothing is clipped on the way."""
    return sample(model, schedule, count, shape, steps, clip=False).clamp(0, 1) * 2 - 1


@dataclass(frozen=True)
class System:
    """One row of the ladder: what is trained and how it is sampled."""

    name: str
    net: Callable[[], nn.Module]
    schedule: NoiseSchedule
    objective: Callable[..., Tensor] = ddpm_loss
    sampler: Callable[..., Tensor] = sample
    steps: int | list[int] | None = None  # of the sampler, how many or which; None: all T of Algorithm 2
    batch_size: int = 128
    config: dict = field(default_factory=lambda: {"learning_rate": 1e-3})  # of TrainConfig, beside steps
    border: int = 0  # black pixels added on each side of the images, and cut off the samples
    averaged: bool = True  # sample with the average of the weights
    seed: int = 0  # of the first weights, and of what is drawn in training
    like: str | None = None  # another system whose step is the same work, so its speed is taken; None: timed itself
    instead: dict = field(default_factory=dict)  # what stands for a name in ddpm_helpers


# Fifty steps, half of them above 700: `bench_levers` found that the noisy end deserves more of them than the clean one.
NEAR_T = spaced_steps(cosine_schedule(), 50, "sqrt")
FRESH = partial(sample, eta=1.0)  # DDIM with as much fresh noise as Algorithm 2
COSINE, LINEAR, SHORT = cosine_schedule(1000), linear_schedule(1000), linear_schedule(300, rescale=False)
SIMPLE = partial(System, net=lambda: SimpleUNet(300), schedule=linear_schedule(300))
SYSTEMS = (
    System("naive BasicUNet", BasicUNet, LINEAR, naive_objective, naive_samples, 40),
    System("naive UNet2DModel", grey_unet2d, LINEAR, naive_objective, naive_samples, 40),
    SIMPLE("SimpleUNet, published", schedule=SHORT, objective=unit_range_objective, sampler=unit_range_samples),
    SIMPLE("SimpleUNet, repaired"),
    System("LayerNormUNet, published", lambda: LayerNormUNet(1000, input_norm=True), LINEAR),
    System("LayerNormUNet, repaired", lambda: LayerNormUNet(1000), LINEAR),
    System("UNet2DModel DDPM", grey_unet2d, LINEAR, steps=50),
    System("DiffUNet", DeepinvUNet, LINEAR, steps=20, batch_size=16, config={"learning_rate": 1e-4}, border=2),
    System(  # what `bench_levers` found to be the best
        "the course's recipe",
        lambda: VelocityNet(UNet(base=32, multipliers=(1, 2), patch=2, attention=0), COSINE),
        COSINE,
        velocity_loss,
        FRESH,
        NEAR_T,
        batch_size=64,
        config={"learning_rate": 2e-3, "weighted": 1.0},
    ),
)
# What each published fault costs: the repaired SimpleUNet with one of them, for as many steps.
FAULTY = partial(SIMPLE, like="SimpleUNet, repaired")
FAULTS = (
    FAULTY("gradient times the loss", objective=scaled_gradient_objective),
    FAULTY("images in [0, 1]", objective=unit_range_objective, sampler=unit_range_samples),
    FAULTY("T too short for its betas", schedule=SHORT),
)


def changed(system: System) -> ExitStack:
    """While it is open, ddpm_helpers has what the system wants instead."""
    stack = ExitStack()
    for name, value in system.instead.items():
        stack.enter_context(patch(f"ddpm_helpers.{name}", value))
    return stack


def make_trainer(system: System, images: Tensor, steps: int) -> Trainer:
    """A trainer of a system on images (N, 1, 28, 28) uint8."""
    torch.manual_seed(system.seed)
    warmup = min(100, max(steps // 10, 1))
    config = TrainConfig(steps, system.batch_size, warmup=warmup, seed=system.seed, **system.config)
    images = nn.functional.pad(images, [system.border] * 4)
    return Trainer(system.net(), system.schedule, images, config, objective=system.objective)


def draw(system: System, trainer: Trainer, count: int) -> Tensor:
    """(count, 1, 28, 28) in [-1, 1], samples in bfloat16 where that is fast."""
    side = 28 + 2 * system.border
    model = fast_model(trainer.ema if system.averaged else trainer.model.eval(), trainer.device)
    x = system.sampler(model, trainer.schedule, count, (1, side, side), steps=system.steps)
    return x[..., system.border : side - system.border, system.border : side - system.border].cpu()


def measure_speed(systems: tuple[System, ...], images: Tensor, rounds: int = 8, seconds: float = 3.0) -> dict:
    """Of each system that is like no other: seconds of its first two steps, and images trained on per second.

    Training is timed in turns, `rounds` times `seconds` each; the median round counts.
    """
    timed = {system.name: system for system in systems if not system.like}
    loops, first = {}, {}
    for name, system in timed.items():
        # A learner's first run finds nothing compiled.
        with changed(system), TemporaryDirectory() as folder, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder):
            loops[name] = make_trainer(system, images, steps=10**6).run()
            first[name] = seconds_of(lambda loop=loops[name]: next(loop) + next(loop))

    def rate(name: str) -> float:
        start, done = time.perf_counter(), 0
        with changed(timed[name]):
            while time.perf_counter() - start < seconds:
                next(loops[name]).item()  # .item() waits for a GPU
                done += timed[name].batch_size
        return done / (time.perf_counter() - start)

    rates = in_turns({name: partial(rate, name) for name in timed}, rounds)
    return {name: {"seconds_of_first_steps": first[name], "images_per_second": rates[name]} for name in timed}


def steps_in(seconds: float, system: System, speed: dict) -> int:
    """How many steps of training fit into the time, with what `measure_speed` found for the system."""
    left = seconds - speed.get("seconds_of_first_steps", 0)
    return max(1, round(left * speed["images_per_second"] / system.batch_size))


def climb(system: System, images: Tensor, steps: int, count: int) -> tuple[dict, Tensor]:
    """Train one system for so many steps and draw `count` samples: a row of the ladder, and the samples."""
    with changed(system):
        trainer = make_trainer(system, images, steps)
        for _ in trainer.run():
            pass
        samples = draw(system, trainer, count)
        seconds_for_64 = seconds_of(lambda: draw(system, trainer, 64))
    row = {
        "name": system.name,
        "parameters": count_parameters(trainer.model),
        "batch_size": system.batch_size,
        "learning_rate": trainer.config.learning_rate,
        "train_steps": steps,
        "loss": trainer.losses[-max(steps // 10, 1) :].mean().item(),
        "sampler_steps": len(ddim_steps(system.schedule.T, system.steps or system.schedule.T)),
        "seconds_for_64": seconds_for_64,
        **score(samples, images),
    }
    if system.sampler is sample:
        noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(1))
        noisy = (samples + system.schedule.beta[1].sqrt() * noise).clamp(-1, 1)
        row["frechet_with_noise_at_the_last_step"] = score(noisy, images)["frechet"]
    return row, samples


def score(samples: Tensor, images: Tensor) -> dict[str, float]:
    """What the shipped feature network says of samples (N, 1, 28, 28) in [-1, 1], against 2 N or more real images.

    The floor is the mean of ten random splits: at 500 images a single one may be half of it, or almost twice.
    """
    net, count = load_feature_net(), len(samples)
    seen, real = evaluate(net, samples), evaluate(net, to_float(images[: 2 * count]))
    return {
        "frechet": frechet_distance(seen.features, real.features[:count]),
        "floor": statistics.mean(frechet_floor(real.features, count, seed) for seed in range(10)),
        "recognisable": seen.recognisable,
        "entropy": seen.entropy,
    }


def climb_all(file: Path, command: str, about: dict, systems: dict[str, tuple], data: ImageData) -> Iterator:
    """Climb with all `systems`, kind -> of that kind, that the results in `file` lack: yields the number of rows, and
    the samples, and writes the row when it is asked for the next. What `about` says must be in the file, too."""
    if file.exists():
        results = read(file, sum(systems.values(), ()))
        for name, value in about.items():
            if results.get(name) != value:
                found = f"{file} holds a ladder with another {name}: {results.get(name)!r}"
                sys.exit(f"Error: {found}. Name another file, or move it away")
    else:
        speed = measure_speed(systems["systems"], data.images)
        results = {**about, "data": data.source, "command": command, **machine(), "speed": speed}
        results |= {"systems": [], "faults": []}
        write(file, results)
    for kind, of_a_kind in systems.items():
        for system in of_a_kind[len(results[kind]) :]:
            speed = results["speed"][system.like or system.name]
            row, samples = climb(system, data.images, steps_in(about["seconds"], system, speed), about["samples"])
            results[kind].append(row | speed)
            yield len(results["systems"]) + len(results["faults"]), samples
            write(file, results)
            print(row, flush=True)
    print(f"{file} has every row")


def read(file: Path, systems: tuple[System, ...]) -> dict:
    try:
        results = parse(file)
        [results["speed"][system.like or system.name]["images_per_second"] for system in systems]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not the results of a ladder ({error!r}). Name another file") from error
    return results


def options(doc: str, samples: int, file: Path | None = None) -> argparse.Namespace:
    """What is typed: --seconds, --samples, and the file, if it is not given."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if file is None:
        parser.add_argument("file", type=Path, help="results to write, NAME.json; samples go to NAME.png")
    parser.add_argument("--seconds", type=int, default=180, help="of training for each system (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=samples, help="to draw of each (default: %(default)s)")
    chosen = parser.parse_args()
    if chosen.seconds < 1 or not 2 <= chosen.samples <= 30_000:
        parser.error(
            "--seconds must be 1 or more, and --samples from 2 to 30,000: twice as many real images are needed"
        )
    return chosen


def main() -> None:
    chosen = options(__doc__, samples=500)
    line = f"{chosen.file.name} --seconds {chosen.seconds} --samples {chosen.samples}"
    try:
        data = load_images("mnist", strict=True)
        about = {
            "seconds": chosen.seconds,
            "samples": chosen.samples,
            "data": data.source,
            "device": machine()["device"],
        }
        systems = {"systems": SYSTEMS, "faults": FAULTS}
        for row, samples in climb_all(chosen.file, f"python tests/benchmarks/ladder.py {line}", about, systems, data):
            _add_picture(chosen.file.with_suffix(".png"), samples[:20], row)
    except (CheckpointError, DataError, MissingLibrary) as error:
        sys.exit(f"Error: {error}")


def _add_picture(file: Path, samples: Tensor, row: int) -> None:
    """Put samples (N, 1, 28, 28) below the `row - 1` rows of samples that the picture has."""
    new = to_uint8(samples)[:, 0].permute(1, 0, 2).reshape(28, -1)  # (28, 28 N)
    picture = Image.new("L", (new.shape[1], 28 * row))
    if row > 1:
        picture.paste(Image.open(file))
    picture.paste(Image.fromarray(new.numpy()), (0, 28 * (row - 1)))
    content = io.BytesIO()
    picture.save(content, "png")
    write_bytes(file, content.getvalue())


if __name__ == "__main__":
    main()
