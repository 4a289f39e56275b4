"""Everything here that a GPU is worth, in one command of ten minutes: check, time, train, draw, evaluate.

    python tests/benchmarks/gpu.py OUT [--minutes 9] [--only mnist fashion]

Writes to the folder OUT: weights (NAME.safetensors), samples (NAME.png), and gpu.json with speeds, the two floors of a
training step, losses and distances. Each data set that cannot be had is left out, and said so. On a CPU it runs, too,
with little training: to test the script.

The floors: a step cannot be faster than its multiplications at the device's peak, nor than its tensors take to cross
the memory bus. Both are counted here, from the network; the peaks are the vendor's (`PEAKS`).
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from ladder import NEAR_T, score
from record import fast_model, machine, seconds_of, write
from torch import Tensor
from torchvision.utils import save_image

from ddpm_helpers import (
    DataError,
    TrainConfig,
    Trainer,
    UNet,
    VelocityNet,
    cosine_schedule,
    count_parameters,
    load_images,
    multiply_adds,
    sample,
    velocity_loss,
)
from ddpm_helpers.machine import default_device, fast_autocast
from ddpm_helpers.pretrained import save_pretrained

PEAKS = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.0e12), "T4": (65e12, 0.32e12)}


@dataclass(frozen=True)
class Run:
    """One network to train: what on, how wide, and its share of the time."""

    name: str
    data: str
    share: float
    net: dict
    labels: bool = False
    config: dict = field(default_factory=dict)


SMALL = {"base": 64, "multipliers": [1, 2], "patch": 2}
MANY = {"batch_size": 256}
GREY = MANY | {"weighted": 1.0}  # in colour, weighted timestep sampling has not been tried
RUNS = (
    Run("mnist", "mnist", 0.2, SMALL, config=GREY),
    Run("mnist_labels", "mnist", 0.15, SMALL, labels=True, config=GREY),
    Run("fashion", "fashion", 0.15, SMALL, config=GREY),
    Run("cifar10", "cifar10", 0.5, {"base": 96, "multipliers": [1, 2, 2]}, config=MANY | {"flip": True}),
)


def make(run: Run, data, steps: int, device: torch.device) -> tuple[Trainer, dict]:
    """A trainer, and the arguments of its network."""
    net = {"channels": data.images.shape[1], **run.net, "classes": len(data.classes) if run.labels else None}
    torch.manual_seed(0)
    schedule = cosine_schedule(1000)
    config = TrainConfig(steps, warmup=min(500, max(steps // 10, 1)), **run.config)
    labels = data.labels if run.labels else None
    model = VelocityNet(UNet(**net), schedule)
    return Trainer(model, schedule, data.images, config, device, velocity_loss, labels), net


def seconds_of_a_step(run: Run, data, device: torch.device, count: int) -> float:
    loop = make(run, data, 10**6, device)[0].run()
    several = lambda n: [next(loop) for _ in range(n)][-1]  # noqa: E731
    several(3).item()
    return seconds_of(lambda: several(count)) / count


def floors(run: Run, data, device: torch.device) -> dict[str, float]:
    """Multiplications and bytes of one training step, and the seconds that they take at the device's peak.

    Backward multiplies twice as much as forward. Bytes: every tensor kept for backward is written and read once, and
    each weight, its gradient, its two optimizer averages and its moving average are read and written, in float32.
    """
    trainer, _ = make(run, data, 1, device)
    x0, t, _, known = trainer._batch()
    kept, storages = 0, set()

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        if tensor.untyped_storage().data_ptr() not in storages:  # kept by two operations, it still is one tensor
            storages.add(tensor.untyped_storage().data_ptr())
            kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), fast_autocast(device):
        trainer.model(x0, t, *known)
    operations = 3 * 2 * multiply_adds(trainer.model.net, x0, t, *known)[""]
    traffic = 2 * kept + 2 * 5 * 4 * count_parameters(trainer.model)
    result = {"operations": operations, "bytes": traffic}
    if device.type == "cuda":
        known_peaks = [peak for name, peak in PEAKS.items() if name in torch.cuda.get_device_name(device)]
        for flops, bandwidth in known_peaks[:1]:
            result |= {"seconds_by_arithmetic": operations / flops, "seconds_by_memory": traffic / bandwidth}
    return result


def train(run: Run, data, seconds: float, device: torch.device, out: Path, count: int) -> dict:
    step = seconds_of_a_step(run, data, device, 50 if device.type == "cuda" else 2)
    steps = max(1, int(seconds / step))
    trainer, net = make(run, data, steps, device)
    start = time.perf_counter()
    for _ in trainer.run():
        pass
    trained = time.perf_counter() - start
    row = {
        "name": run.name,
        "data": data.source,
        "parameters": count_parameters(trainer.model),
        "batch_size": trainer.config.batch_size,
        "train_steps": steps,
        "train_seconds": trained,
        "seconds_of_a_step": step,
        "loss": trainer.losses[-1000:].mean().item(),
        **floors(run, data, device),
    }
    save_pretrained(out / f"{run.name}.safetensors", trainer.ema, net, "cosine", 1000, row)
    shape = tuple(data.images.shape[1:])
    labels = torch.arange(count, device=device) % len(data.classes) if run.labels else None
    model = fast_model(trainer.ema, device)
    # Which is best depends on how well the network was trained.
    for name, which, eta in (("", 50, 0.0), ("_eta_1", 50, 1.0), ("_near_T", NEAR_T, 1.0)):
        start = time.perf_counter()
        samples = sample(model, trainer.schedule, count, shape, which, labels=labels, eta=eta).clamp(-1, 1).cpu()
        row |= {"samples": count, f"sample_seconds{name}": time.perf_counter() - start}
        save_image(samples[:64] / 2 + 0.5, out / f"{run.name}{name}.png")
        if run.data == "mnist" and 2 * count <= len(data.images):
            row |= {f"{key}{name}": value for key, value in score(samples, data.images).items()}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--minutes", type=float, default=9.0, help="of training, all together (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=10_000, help="of each network (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=[run.name for run in RUNS], help="train these and no others")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = default_device()
    results = {
        "command": f"python tests/benchmarks/gpu.py OUT --minutes {options.minutes:g} --samples {options.samples}",
        **machine(),
        "runs": [],
    }
    runs = [run for run in RUNS if not options.only or run.name in options.only]
    for run in runs:
        try:
            data = load_images(run.data, strict=True)
        except DataError as error:
            print(f"{run.name} is left out: {error}", flush=True)
            continue
        seconds = 60 * options.minutes * run.share / sum(run.share for run in runs)
        results["runs"].append(train(run, data, seconds, device, options.out, options.samples))
        print(json.dumps(results["runs"][-1], indent=1), flush=True)
        write(options.out / "gpu.json", results)


if __name__ == "__main__":
    main()
