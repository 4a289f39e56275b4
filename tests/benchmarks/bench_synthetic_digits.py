"""Measure `synthetic_digits`: its speed on one core, and how well a network trained on it alone reads MNIST.

    python tests/benchmarks/bench_synthetic_digits.py

takes about a minute and needs MNIST (DDPM_DATA, or a network). The skeletons were tuned on training images only.
"""

import time

import torch
from torch import nn
from torch.nn import functional as F

from ddpm_helpers import DataError, count_parameters, load_images, synthetic_digits

EPOCHS = 6
BATCH = 100


def make_cnn() -> nn.Module:
    layers = []
    for c_in, c_out in [(1, 16), (16, 32), (32, 64)]:
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 3 * 3, 10))


def train(seed: int) -> nn.Module:
    images, labels = synthetic_digits(10_000, seed=seed)
    images = images.float() / 255
    torch.manual_seed(seed)
    model = make_cnn()
    optimizer = torch.optim.Adam(model.parameters())
    steps = EPOCHS * len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    predicted = torch.cat([model(batch).argmax(dim=1) for batch in images.split(1000)])
    return (predicted == labels).float().mean().item()


def main() -> None:
    start = time.process_time()  # CPU time of all threads together: the seconds that one core would need
    synthetic_digits(10_000)
    print(f"10,000 images of 28 x 28: {time.process_time() - start:.2f} s on one core")

    try:
        mnist = load_images("mnist", train=False, strict=True)
    except DataError as error:
        return print(f"accuracy on MNIST not measured: {error}")
    images = mnist.images.float() / 255
    print(f"CNN with {count_parameters(make_cnn()):,} parameters, {EPOCHS} epochs of 10,000 drawn digits")
    for seed in range(3):
        print(f"seed {seed}: accuracy on MNIST's test images {accuracy(train(seed), images, mnist.labels):.2%}")


if __name__ == "__main__":
    main()
