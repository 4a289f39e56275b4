"""Two outside judges: small classifiers that chose nothing in this course, and how far samples are from real images.

    python tests/benchmarks/judges.py mnist mnist_labels          shipped networks, or files of weights
    python tests/benchmarks/judges.py mnist --steps 20 --options '{"method": "dpm_solver"}' --samples 2000

A judge has convolutions of 32, 32, 64, 64 channels, batch norm and 128 features; the two differ in their seeds, and are
trained once on the training images (kept in the cache folder). Printed for each network: the Frechet distance of its
samples to as many test images, by each judge, with the spread over 20 bootstrap samples; the floor, which is that of
training images to the same test images; the share of labels that the judge reads as asked for.
"""

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from record import fast_model
from torch import Tensor, nn
from tqdm import tqdm
from train_feature_net import moved

from ddpm_helpers import ImageData, default_device, load_images, load_pretrained, sample, to_float
from ddpm_helpers.data import shuffled_indices
from ddpm_helpers.files import read, write
from ddpm_helpers.metrics import frechet_distance
from ddpm_helpers.pictures import cache_folder

SEEDS, STEPS, BATCH = (101, 202), 800, 64


class Judge(nn.Module):
    """(B, C, H, W) in [-1, 1] -> logits (B, classes)."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        widths = (channels, 32, 32, 64, 64)
        layers = []
        for i, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if i % 2 else []
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU())
        self.head = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def judge(name: str, data: ImageData, seed: int) -> Judge:
    """The judge of a data set with this seed, trained or from the cache."""
    kept = cache_folder() / f"judge-{name}-{seed}.safetensors"
    torch.manual_seed(seed)
    net = Judge(data.images.shape[1], len(data.classes)).to(default_device(), memory_format=torch.channels_last)
    if kept.exists():
        net.load_state_dict(read(kept, "feature network")["weights"])
        return net.eval()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=STEPS)
    for step in tqdm(range(STEPS), desc=kept.stem, ncols=88, file=sys.stdout, mininterval=20):
        index = shuffled_indices(len(data.images), BATCH, step, seed)
        x = to_float(data.images[index])
        x = moved(x, generator) if len(x[0]) == 1 else x
        loss = F.cross_entropy(net(x.to(default_device())), data.labels[index].to(default_device()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
    write(kept, "feature network", {"classes": len(data.classes), "weights": net.state_dict()})
    return net.eval()


@torch.no_grad()
def seen(net: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, 128) and answers (N,) of images in [-1, 1]."""
    features = torch.cat([net.body(part.to(default_device())).cpu() for part in images.split(500)])
    return features, net.head.cpu()(features).argmax(1)


def spread(features: Tensor, real: Tensor, times: int = 20) -> float:
    """Standard deviation of the distance over bootstrap samples of both sets."""
    generator = torch.Generator().manual_seed(0)
    again = lambda x: x[torch.randint(len(x), (len(x),), generator=generator)]  # noqa: E731
    return torch.tensor([frechet_distance(again(features), again(real)) for _ in range(times)]).std().item()


def drawn(name: str, count: int, seed: int, options: dict) -> tuple[Tensor, Tensor | None]:
    """Samples of a network, each label equally often, clipped; and the labels."""
    model, schedule, _ = load_pretrained(name, default_device())
    labels = torch.arange(count) % model.classes if getattr(model, "classes", None) else None
    fast = fast_model(model, default_device())
    for attribute in ("classes", "own_signal", "sampler"):
        setattr(fast, attribute, getattr(model, attribute, None))
    shape = tuple(options.pop("shape"))
    asked = None if labels is None else labels.to(default_device())
    images = sample(fast, schedule, count, shape, seed=seed, batch_size=100, labels=asked, progress=True, **options)
    return images.clamp(-1, 1).cpu(), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="names of shipped networks, or files of weights")
    parser.add_argument("--data", default="mnist", help="mnist, fashion, cifar10 (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of the sampler (default: the network's own sampler)")
    parser.add_argument("--options", type=json.loads, default={}, help="of `sample`, as JSON")
    options = parser.parse_args()
    data, test = (load_images(options.data, train=part, strict=True) for part in (True, False))
    real = to_float(test.images[: options.samples])
    judges = [judge(options.data, data, seed) for seed in SEEDS]
    like = to_float(data.images[torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0))])
    truth = [seen(net, real)[0] for net in judges]
    for net, features in zip(judges, truth, strict=True):
        right = (seen(net, to_float(test.images))[1] == test.labels).float().mean()
        floor = frechet_distance(seen(net, like[: len(real)])[0], features)
        print(f"judge: reads {right:.2%} of the test images; floor {floor:.3f} for {len(real):,}", flush=True)
    for name in options.networks:
        told = {"shape": data.images.shape[1:], **options.options}
        if options.steps:
            told["steps"] = options.steps
        images, labels = drawn(name, options.samples, options.seed, told)
        for net, features in zip(judges, truth, strict=True):
            found, answers = seen(net, images)
            text = f"{frechet_distance(found, features):.3f} +- {spread(found, features):.3f}"
            read_as = "" if labels is None else f"   read as asked for: {(answers == labels).float().mean():.1%}"
            print(f"{Path(name).stem}: distance {text}{read_as}", flush=True)


if __name__ == "__main__":
    main()
