"""Train the feature network of notebook 09 on MNIST and write its weights.

    python tests/benchmarks/train_feature_net.py NAME.safetensors

Digits are moved by up to two pixels while training. The test images are looked at once, at the end.
"""

import argparse
import sys

import torch
import torch.nn.functional as F
from record import machine
from torch import Tensor
from tqdm import tqdm

from ddpm_helpers import CheckpointError, DataError, ImageData, default_device, load_images, to_float
from ddpm_helpers.data import shuffled_indices
from ddpm_helpers.files import write
from ddpm_helpers.metrics import FeatureNet

BATCH = 128


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """The images (B, 1, H, W), each moved by up to two pixels in both directions, on black ground."""
    down, right = torch.randint(-2, 3, (2, len(x), 1), generator=generator)
    height, width = x.shape[2:]
    rows = (torch.arange(height) + 2 + down)[:, None, :, None]  # (B, 1, H, 1), places in the padded image
    columns = (torch.arange(width) + 2 + right)[:, None, None, :]
    padded = F.pad(x, (2, 2, 2, 2), value=-1)
    return padded[torch.arange(len(x))[:, None, None, None], 0, rows, columns]


def train(data: ImageData, steps: int, seed: int = 0) -> FeatureNet:
    torch.manual_seed(seed)
    generator, device = torch.Generator().manual_seed(seed), default_device()
    net = FeatureNet(len(data.classes)).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in tqdm(range(steps), desc="feature network", ncols=88, file=sys.stdout, mininterval=5):
        index = shuffled_indices(len(data.images), BATCH, step, seed)
        x = moved(to_float(data.images[index]), generator).to(device)
        loss = F.cross_entropy(net(x), data.labels[index].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: FeatureNet, data: ImageData) -> float:
    device = next(net.parameters()).device
    answers = [net(to_float(batch).to(device)).argmax(1).cpu() for batch in data.images.split(500)]
    return (torch.cat(answers) == data.labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="to write, NAME.safetensors")
    parser.add_argument("--steps", type=int, default=5000, help="of batches of 128 images (default: %(default)s)")
    options = parser.parse_args()
    try:
        data, test = (load_images("mnist", train=part, strict=True) for part in (True, False))
        net = train(data, options.steps)
        right = accuracy(net, test)
        print(f"reads {100 * right:.2f} % of the {len(test.images):,} test images")
        recipe = {
            "command": f"python tests/benchmarks/train_feature_net.py {' '.join(sys.argv[1:])}",
            "data": data.source,
            "steps": options.steps,
            "batch_size": BATCH,
            "test accuracy": round(right, 4),
            **machine(),
        }
        weights = {name: value.half() for name, value in net.state_dict().items()}
        write(options.file, "feature network", {"classes": len(data.classes), "recipe": recipe, "weights": weights})
    except (CheckpointError, DataError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
