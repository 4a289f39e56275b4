"""Measure loading, training and sampling, side by side: what the levers of notebook 07 are worth in time.

    python tests/benchmarks/bench_speed.py

Everything of one kind is timed in turns in one process, so that a noisy machine slows all alike: trust the ratios. The
table in docs/RESULTS.md is made from docs/results/speed.json, which this writes.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from record import fast_model, in_turns, record, seconds_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image

from ddpm_helpers import (
    BasicUNet,
    LayerNormUNet,
    SimpleUNet,
    UNet,
    cosine_schedule,
    count_parameters,
    ddpm_loss,
    default_device,
    linear_schedule,
    load_images,
    sample,
    to_float,
)
from ddpm_helpers.lessons.libraries import MissingLibrary, grey_unet2d

ROUNDS, STEPS, BATCH = 3, 4, 64
RECIPE = partial(UNet, base=32, multipliers=(1, 2), patch=2, attention=0)  # attention in the middle alone
NETS: dict[str, Callable[[], nn.Module]] = {
    "BasicUNet": BasicUNet,
    "SimpleUNet": partial(SimpleUNet, 1000),
    "LayerNormUNet": partial(LayerNormUNet, 1000),
    "UNet": UNet,
    "UNet of the course's recipe": RECIPE,
    "UNet of `load_pretrained`": partial(UNet, base=48, multipliers=(1, 2), patch=2),
    "diffusers UNet2DModel": grey_unet2d,
}
SETTINGS = {
    "float32": (torch.float32, torch.contiguous_format),
    "float32 channels_last": (torch.float32, torch.channels_last),
    "bfloat16": (torch.bfloat16, torch.contiguous_format),
    "bfloat16 channels_last": (torch.bfloat16, torch.channels_last),
}
MEMORY = """
import resource, sys, warnings
warnings.simplefilter("ignore")
from ddpm_helpers import TrainConfig, Trainer, UNet, cosine_schedule, load_images
data = load_images("mnist")
trainer = Trainer({net}, cosine_schedule(), data.images, TrainConfig(steps=20), "cpu")
trainer.fit()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


class OneByOne(Dataset):
    """Images as many tutorials load them: each a Pillow picture, through a chain of transforms."""

    def __init__(self, images: Tensor):
        self.pictures = [to_pil_image(image) for image in images]
        self.change = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> Tensor:
        return self.change(self.pictures[i])


def main() -> None:
    device = default_device()
    memory = measure_memory()  # first: on Linux a process inherits the peak of the one that started it
    results = {
        "rounds": ROUNDS,
        "batch_size": BATCH,
        "loading": measure_loading(device),
        "training": measure_training(device),
        "sampling": measure_sampling(device),
        "memory": memory,
    }
    record("speed", "python tests/benchmarks/bench_speed.py", results)


def measure_loading(device: torch.device) -> dict[str, float]:
    """Images per second to a float batch on the device."""
    images = load_images("mnist").images[:10_000]
    one_by_one, on_device = OneByOne(images), images.to(device)

    def loader() -> float:
        batches = DataLoader(one_by_one, batch_size=BATCH, shuffle=True)
        return len(images) / seconds_of(lambda: sum(batch.to(device).mean() for batch in batches))

    def indexed() -> float:
        order = torch.randperm(len(images)).to(device)
        return len(images) / seconds_of(lambda: sum(to_float(on_device[i]).mean() for i in order.split(BATCH)))

    rates = in_turns({"picture by picture": loader, "one tensor, by index": indexed}, ROUNDS)
    for name, rate in rates.items():
        print(f"loading, {name}: {rate:,.0f} images/s", flush=True)
    return rates


def measure_training(device: torch.device) -> list[dict]:
    rows = []
    for name, make in NETS.items():
        try:
            make()
        except MissingLibrary as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        actions = {s: partial(images_per_second, make, *setting, device) for s, setting in SETTINGS.items()}
        speeds = in_turns(actions, ROUNDS)
        rows.append({"name": name, "parameters": count_parameters(make()), "images_per_second": speeds})
        shown = "   ".join(f"{setting} {speed:,.0f}" for setting, speed in speeds.items())
        print(f"{name:28}{rows[-1]['parameters']:>10,} parameters   images/s: {shown}", flush=True)
    return rows


def images_per_second(
    make: Callable[[], nn.Module], dtype: torch.dtype, layout: torch.memory_format, device: torch.device
) -> float:
    """Training steps of random images: forward, backward, AdamW."""
    model = make().to(device, memory_format=layout)
    schedule, optimizer = cosine_schedule().to(device), torch.optim.AdamW(model.parameters())
    x0 = torch.rand(BATCH, 1, 28, 28, device=device) * 2 - 1
    t, noise = torch.randint(1, 1001, (BATCH,), device=device), torch.randn_like(x0)
    for step in range(STEPS + 1):
        if step == 1:  # the first one warms up
            start = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = ddpm_loss(lambda x, t: model(x, t).float(), schedule, x0, t, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for a GPU
    return BATCH * STEPS / (time.perf_counter() - start)


def measure_sampling(device: torch.device) -> dict[str, float]:
    """Seconds for 64 images; the weights do not matter, so they are random."""
    small, layer_norm, simple = (net.to(device).eval() for net in (RECIPE(), LayerNormUNet(1000), SimpleUNet(300)))
    cosine, linear, short = (s.to(device) for s in (cosine_schedule(1000), linear_schedule(1000), linear_schedule(300)))

    def draw(net: nn.Module, schedule, steps: int | None) -> float:
        return seconds_of(lambda: sample(fast_model(net, device), schedule, 64, (1, 28, 28), steps))

    times = {  # each is a mean over at least 50 calls already
        "UNet of the course's recipe: 50 DDIM steps": draw(small, cosine, 50),
        "UNet of the course's recipe: all 1000 steps": draw(small, cosine, None),
        "SimpleUNet: all 300 steps": draw(simple, short, None),
        "LayerNormUNet: all 1000 steps": draw(layer_norm, linear, None),
    }
    for name, value in times.items():
        print(f"64 samples, {name}: {value:.1f} s", flush=True)
    return times


def measure_memory() -> dict[str, int]:
    """Peak memory in bytes of a process that trains 20 steps on a CPU."""
    peaks = {}
    for net in ("UNet()", "UNet(base=32, multipliers=(1, 2), patch=2, attention=0)"):
        command = [sys.executable, "-c", MEMORY.format(net=net)]
        peaks[net] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        print(f"20 steps of a Trainer with {net}: peak {peaks[net] / 1e9:.2f} GB", flush=True)
    return peaks


if __name__ == "__main__":
    main()
