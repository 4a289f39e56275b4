"""Measure training and sampling: images/s of each network by precision and layout, peak memory, seconds for a grid.

    python tests/benchmarks/bench_training.py

The settings of one network are timed in turns, so that a noisy machine slows all of them alike: trust the ratios.
"""

import statistics
import subprocess
import sys
import time

import torch

from ddpm_helpers import (
    LayerNormUNet,
    SimpleUNet,
    UNet,
    cosine_schedule,
    count_parameters,
    ddpm_loss,
    default_device,
    load_pretrained,
    sample,
)
from ddpm_helpers.training import device_name

ROUNDS, STEPS, BATCH = 3, 4, 64
NETS = {
    "SimpleUNet": lambda: SimpleUNet(1000),
    "LayerNormUNet": lambda: LayerNormUNet(1000),
    "UNet": UNet,
    "UNet, patch 2, base 32": lambda: UNet(base=32, multipliers=(1, 2), patch=2),
    "UNet, patch 2, base 48": lambda: UNet(base=48, multipliers=(1, 2), patch=2),
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
trainer = Trainer(UNet({arguments}), cosine_schedule(), data.images, TrainConfig(steps=20), "cpu")
trainer.fit()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(f"peak {{peak / 1e9:.2f}} GB, {{data.source}}")
"""


def images_per_second(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> float:
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


def main() -> None:
    device = default_device()
    print(f"training, batch {BATCH}, {device_name(device)}, torch {torch.__version__}; median of {ROUNDS}")
    for name, make in NETS.items():
        speeds = {setting: [] for setting in SETTINGS}
        for _ in range(ROUNDS):
            for setting, (dtype, layout) in SETTINGS.items():
                model = make().to(device, memory_format=layout)
                speeds[setting].append(images_per_second(model, dtype, device))
        medians = "   ".join(f"{setting} {statistics.median(speed):,.0f}" for setting, speed in speeds.items())
        print(f"{name:24}{count_parameters(model):>10,} parameters   images/s: {medians}", flush=True)

    for arguments in ("", "base=32, multipliers=(1, 2), patch=2"):
        code = MEMORY.format(arguments=arguments)
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        print(f"20 steps of a Trainer with UNet({arguments}): {result.stdout.splitlines()[-1]}", flush=True)

    model, schedule, _ = load_pretrained("mnist", device)
    seconds = []
    for seed in range(ROUNDS):
        start = time.perf_counter()
        sample(model, schedule, 16, steps=50, seed=seed).cpu()
        seconds.append(time.perf_counter() - start)
    print(f"16 samples, 50 DDIM steps, shipped weights: {statistics.median(seconds):.2f} s (median of {ROUNDS})")


if __name__ == "__main__":
    main()
