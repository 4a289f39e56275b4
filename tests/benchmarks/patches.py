"""Four small networks on MNIST for the same time of one core: a U-Net, transformers with patches of 4 and of 7 pixels,
and one in the latents of the shipped autoencoder (whose own training, once, is not counted).

    python tests/benchmarks/patches.py SEED [SEED ...]      40 seconds each

adds to ddpm_helpers/results/patches.json, for each network and seed: steps, last loss, and of 300 samples by
DPM-Solver++ with 15 calls the Frechet distance to the first 300 test images, and the share that is recognised.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from record import machine, write

from ddpm_helpers import (
    UNet,
    VelocityNet,
    cosine_schedule,
    count_parameters,
    load_images,
    multiply_adds,
    sample,
    to_float,
)
from ddpm_helpers.lessons.patches import DiT, diffusion_loss, fit
from ddpm_helpers.lessons.words import load_autoencoder
from ddpm_helpers.metrics import evaluate, frechet_distance, load_feature_net

FILE = Path(__file__).resolve().parents[2] / "ddpm_helpers" / "results" / "patches.json"
SECONDS, CALLS, SAMPLES, IMAGES = 40, 15, 300, 20_000
NETS = {
    "U-Net": lambda: UNet(base=24, multipliers=(1, 2), patch=2),
    "patches of 4": lambda: DiT(patch=4),
    "patches of 7": lambda: DiT(patch=7),
    "latents": lambda: DiT(side=7, channels=4, patch=1),
}


def measured(name: str, seed: int, x: torch.Tensor, real: torch.Tensor) -> dict:
    torch.manual_seed(seed)
    autoencoder, feature_net, schedule = load_autoencoder(), load_feature_net(), cosine_schedule()
    if latent := name == "latents":
        with torch.no_grad():
            x = torch.cat([autoencoder.encode(batch) for batch in x.split(500)])
    model = VelocityNet(NETS[name](), schedule)
    losses = fit(model, lambda i, g: diffusion_loss(model, schedule, x[i], g), len(x), seconds=SECONDS)
    began, shape = time.process_time(), tuple(x.shape[1:])
    options = {"steps": CALLS, "method": "dpm_solver", "spacing": "log-snr", "clip": not latent, "seed": seed}
    with torch.no_grad():
        drawn = sample(model, schedule, SAMPLES, shape, **options)
        drawn = autoencoder.decode(drawn) if latent else drawn.clamp(-1, 1)
        spent = time.process_time() - began
        mine, theirs = evaluate(feature_net, drawn), evaluate(feature_net, real)
        cost = multiply_adds(model.net, x[:1], torch.tensor([1]))[""]
    return {
        "net": name,
        "seed": seed,
        "parameters": count_parameters(model),
        "multiplications": cost,
        "steps": len(losses),
        "loss": round(sum(losses[-50:]) / len(losses[-50:]), 4),
        "distance": round(frechet_distance(mine.features, theirs.features), 1),
        "recognised": round(mine.recognisable, 3),
        "sampling_seconds": round(spent, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="+", type=int)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    x = to_float(load_images("mnist", strict=True).images[:IMAGES])
    real = to_float(load_images("mnist", train=False, strict=True).images[:SAMPLES])
    for seed in seeds:
        for name in NETS:
            row = measured(name, seed, x, real)
            rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
            rows = [old for old in rows if (old["net"], old["seed"]) != (name, seed)] + [row]
            about = {"command": "python tests/benchmarks/patches.py SEED ...", **machine(), "seconds": SECONDS}
            about |= {"batch_size": 32, "samples": SAMPLES, "calls": CALLS}
            about |= {"data": f"the first {IMAGES:,} training images of MNIST, the first {SAMPLES} test images"}
            write(FILE, {**about, "rows": rows})
            print(row, flush=True)


if __name__ == "__main__":
    main()
