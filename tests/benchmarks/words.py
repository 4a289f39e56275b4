"""Train what notebook 19 ships: an autoencoder of digits, and two networks in its latents that read captions.

    python tests/benchmarks/words.py autoencoder      1,200 steps
    python tests/benchmarks/words.py attention        then: cross-attention, for 200 seconds of one core
    python tests/benchmarks/words.py bag              the mean of the words, for as long

writes ddpm_helpers/weights/words_autoencoder.safetensors, words.safetensors and words_bag.safetensors.
"""

import argparse
import sys

import torch
from record import machine

from ddpm_helpers import VelocityNet, cosine_schedule, load_images, to_float
from ddpm_helpers.files import WEIGHTS
from ddpm_helpers.lessons import words
from ddpm_helpers.lessons.patches import Autoencoder, autoencoder_loss, diffusion_loss, fit

IMAGES, DROPPED = 20_000, 0.1


def train_autoencoder(steps: int) -> tuple[Autoencoder, dict]:
    net, x = Autoencoder(), to_float(load_images("mnist", strict=True).images[:IMAGES])
    noise = lambda i, g: torch.randn(len(i), net.channels, 7, 7, generator=g)  # noqa: E731
    losses = fit(net, lambda i, g: autoencoder_loss(net, x[i], noise(i, g)), len(x), steps, batch=64)
    net.scale /= encoded(net, x).std()
    return net, {"steps": steps, "batch_size": 64, "loss": round(sum(losses[-50:]) / 50, 4)}


@torch.no_grad()
def encoded(net: Autoencoder, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([net.encode(batch) for batch in x.split(500)])


def train_words(autoencoder: Autoencoder, bag: bool, seconds: float) -> tuple[words.WordNet, dict]:
    data = load_images("mnist", strict=True)
    images, captions = words.described(to_float(data.images[:IMAGES]), data.labels[:IMAGES])
    z, told, empty = encoded(autoencoder, images), words.tokens(captions), words.tokens([""])
    schedule, net = cosine_schedule(), words.WordNet(bag)
    model = VelocityNet(net, schedule)

    def loss(index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        kept = torch.rand(len(index), 1, generator=generator) >= DROPPED
        return diffusion_loss(model, schedule, z[index], generator, torch.where(kept, told[index], empty))

    losses = fit(model, loss, len(z), seconds=seconds)
    return net, {"seconds": seconds, "batch_size": 32, "steps": len(losses), "loss": round(sum(losses[-50:]) / 50, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("autoencoder", "attention", "bag"))
    parser.add_argument("--seconds", type=float, default=200, help="of one core (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = {"command": f"python tests/benchmarks/words.py {' '.join(sys.argv[1:])}"}
    recipe |= {"data": f"the first {IMAGES:,} training images of MNIST", **machine()}
    if options.what == "autoencoder":
        net, about = train_autoencoder(1200)
        words.save(WEIGHTS / "words_autoencoder.safetensors", net, {}, {**recipe, **about})
    else:
        autoencoder, bag = words.load_autoencoder(), options.what == "bag"
        net, about = train_words(autoencoder, bag, options.seconds)
        path = WEIGHTS / ("words_bag.safetensors" if bag else "words.safetensors")
        words.save(path, net, {"bag": bag}, {**recipe, **about}, words.fingerprint(autoencoder))
    print(about)


if __name__ == "__main__":
    main()
