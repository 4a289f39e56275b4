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
import datetime
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from record import fast_model
from torch import Tensor, nn

from ddpm_helpers import (
    BasicUNet,
    CheckpointError,
    DataError,
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
    default_device,
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
from ddpm_helpers.machine import device_name, fast_dtype


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
    learning_rate: float = 1e-3
    weighted: bool = False  # as in `TrainConfig`
    border: int = 0  # black pixels added on each side of the images, and cut off the samples


# Fifty steps, half of them above 700: `bench_levers` found that the noisy end deserves more of them than the clean one.
NEAR_T = [round(1000 * (i / 50) ** 0.5) for i in range(50, 0, -1)]
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
    System("DiffUNet", DeepinvUNet, LINEAR, steps=20, batch_size=16, learning_rate=1e-4, border=2),
    System(  # what `bench_levers` found to be the best
        "the course's recipe",
        lambda: VelocityNet(UNet(base=32, multipliers=(1, 2), patch=2, attention=0), COSINE),
        COSINE,
        velocity_loss,
        FRESH,
        NEAR_T,
        batch_size=64,
        learning_rate=2e-3,
        weighted=True,
    ),
)
# What each published fault costs: the repaired SimpleUNet with one of them.
FAULTS = (
    SIMPLE("gradient times the loss", objective=scaled_gradient_objective),
    SIMPLE("images in [0, 1]", objective=unit_range_objective, sampler=unit_range_samples),
    SIMPLE("T too short for its betas", schedule=SHORT),
)


def make_trainer(system: System, images: Tensor, steps: int) -> Trainer:
    """A trainer of a system on images (N, 1, 28, 28) uint8; the weights start from seed 0."""
    torch.manual_seed(0)
    warmup = min(100, steps // 10)
    config = TrainConfig(steps, system.batch_size, system.learning_rate, warmup, weighted=system.weighted)
    images = nn.functional.pad(images, [system.border] * 4)
    return Trainer(system.net(), system.schedule, images, config, objective=system.objective)


def draw(system: System, trainer: Trainer, count: int) -> Tensor:
    """(count, 1, 28, 28) in [-1, 1], samples of the averaged model, in bfloat16 where that is fast."""
    side = 28 + 2 * system.border
    model = fast_model(trainer.ema, trainer.device)
    x = system.sampler(model, trainer.schedule, count, (1, side, side), steps=system.steps)
    return x[..., system.border : side - system.border, system.border : side - system.border].cpu()


def measure_speed(systems: tuple[System, ...], images: Tensor, rounds: int = 4, seconds: float = 3.0) -> dict:
    """Images trained on per second, and seconds for 64 samples, of each system: name -> the two numbers.

    Training is timed in turns, `rounds` times `seconds` each; the median round counts.
    """
    rates = {system.name: [] for system in systems}
    trainers = {system.name: make_trainer(system, images, steps=10**6) for system in systems}
    loops = {name: trainer.run() for name, trainer in trainers.items()}
    for loop in loops.values():  # the first steps are slow
        next(loop), next(loop)
    for _ in range(rounds):
        for system in systems:
            start, done = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                next(loops[system.name]).item()  # .item() waits for a GPU
                done += system.batch_size
            rates[system.name].append(done / (time.perf_counter() - start))
    speed = {}
    for system in systems:
        start = time.perf_counter()
        draw(system, trainers[system.name], 64)
        speed[system.name] = {
            "images_per_second": statistics.median(rates[system.name]),
            "seconds_for_64": time.perf_counter() - start,
        }
        print(f"{system.name:<28}{speed[system.name]}", flush=True)
    return speed


def climb(system: System, images: Tensor, steps: int, count: int) -> tuple[dict, Tensor]:
    """Train one system for so many steps and draw `count` samples: a row of the ladder, and the samples."""
    trainer = make_trainer(system, images, steps)
    for _ in trainer.run():
        pass
    samples = draw(system, trainer, count)
    row = {
        "name": system.name,
        "parameters": count_parameters(trainer.model),
        "batch_size": system.batch_size,
        "learning_rate": system.learning_rate,
        "train_steps": steps,
        "loss": trainer.losses[-max(steps // 10, 1) :].mean().item(),
        "sampler_steps": len(ddim_steps(system.schedule.T, system.steps or system.schedule.T)),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="results to write, NAME.json; samples go to NAME.png")
    parser.add_argument("--seconds", type=int, default=180, help="of training for each system (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=500, help="to draw of each system (default: %(default)s)")
    options = parser.parse_args()
    if options.seconds < 1 or not 2 <= options.samples <= 30_000:
        parser.error(
            "--seconds must be at least 1, and --samples from 2 to 30,000: twice as many real images are needed"
        )
    try:
        _run(options.file, options.seconds, options.samples)
    except (CheckpointError, DataError, MissingLibrary) as error:
        sys.exit(f"Error: {error}")


def _run(file: Path, seconds: int, count: int) -> None:
    data = load_images("mnist", strict=True)
    about = {"seconds": seconds, "samples": count, "data": data.source, "device": device_name(default_device())}
    if file.exists():
        results = read(file)
        other = [name for name, value in about.items() if results.get(name) != value]
        if other:
            found = results.get(other[0])
            sys.exit(f"Error: {file} holds a ladder with another {other[0]}: {found!r}. Name another file")
    else:
        speed = measure_speed(SYSTEMS, data.images)
        results = {
            **about,
            "command": f"python tests/benchmarks/ladder.py {file.name} --seconds {seconds} --samples {count}",
            "precision": str(fast_dtype(default_device())).removeprefix("torch."),
            "torch": torch.__version__,
            "date": datetime.date.today().isoformat(),
            "speed": speed,
            "systems": [],
            "faults": [],
        }
        write(file, results)
    for kind, systems in (("systems", SYSTEMS), ("faults", FAULTS)):
        for system in systems[len(results[kind]) :]:
            # A system with a fault takes as many steps as the one without.
            speed = results["speed"][system.name if kind == "systems" else "SimpleUNet, repaired"]
            steps = max(1, round(seconds * speed["images_per_second"] / system.batch_size))
            row, samples = climb(system, data.images, steps, count)
            results[kind].append(row | speed)
            _add_picture(file.with_suffix(".png"), samples[:20], row=len(results["systems"]) + len(results["faults"]))
            write(file, results)
            print(row, flush=True)


def read(file: Path) -> dict:
    try:
        results = parse(file)
        [results["speed"][system.name]["images_per_second"] for system in SYSTEMS]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not the results of a ladder ({error!r}). Name another file") from error
    return results


def write(file: Path, results: dict) -> None:
    text = json.dumps(results, indent=1) + "\n"
    write_bytes(file, text.encode())  # hours of work: never half a file


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
