"""What notebook 20 reads: when small networks copy, how their loss falls with size, and two other families beside them.

    OMP_NUM_THREADS=1 python tests/benchmarks/memory.py memory 0      # 64 to 10,000 images, 2,000 steps
    OMP_NUM_THREADS=1 python tests/benchmarks/memory.py scaling 0 1   # four widths, three budgets
    OMP_NUM_THREADS=1 python tests/benchmarks/memory.py families 0 1  # VAE, autoregression, diffusion: equal CPU time

The numbers are seeds. A minute or two each of one thread; ddpm_helpers/results/memory.json has a part for each, where
other seeds stay. Digits are 14x14.
"""

import copy
import sys
import time
from itertools import count, product

import torch
import torch.nn.functional as F
from record import machine, write
from torch import Tensor, nn

from ddpm_helpers import (
    TrainConfig,
    Trainer,
    cosine_schedule,
    count_parameters,
    ema_update,
    evaluate,
    frechet_distance,
    load_feature_net,
    load_images,
    min_snr_loss,
    nearest_images,
    sample,
    to_float,
    to_uint8,
)
from ddpm_helpers.lessons.memory import (
    RESULTS,
    TinyNet,
    load_memory,
    loss_on,
    nearest_share,
    null_error,
    small_digits,
    split,
)
from ddpm_helpers.losses import stratified_steps

SCHEDULE, CALLS = cosine_schedule(1000), 30
SIZES, CHECKPOINTS, DRAWN = (64, 10_000, 1000, 250), (60, 125, 250, 500, 1000, 2000), 200
WIDTHS, BUDGETS = (16, 32, 64, 128), (100, 300, 900)
SECONDS, JUDGED, LEVELS = 12, 500, 4  # of CPU time for each family; images for the feature network; grey levels


def trained(width: int, images: Tensor, seed: int, stops: tuple[int, ...]):
    """Yields (steps, averaged net) at each of the stops; the learning rate stays at its plateau until the last."""
    torch.manual_seed(seed)
    config = TrainConfig(2 * stops[-1], seed=seed)
    trainer = Trainer(TinyNet(SCHEDULE, width), SCHEDULE, images, config, objective=min_snr_loss)
    for _ in trainer.run():
        if trainer.step in stops:
            yield trainer.step, trainer.ema
        if trainer.step == stops[-1]:
            return


def draw(net: nn.Module, n: int) -> Tensor:
    return sample(net, SCHEDULE, n, (1, 14, 14), steps=CALLS, seed=1, batch_size=500).clamp(-1, 1)


def copying(samples: Tensor, train: Tensor, held: Tensor) -> dict:
    """How near samples are to the images trained on, and to as many others; all floats in [-1, 1]."""
    index, _ = nearest_images(samples, torch.cat([train, held]))
    near, away = nearest_images(samples, train)[1], nearest_images(samples, held)[1]
    return {
        "share": nearest_share(samples, train, held),
        "null_error": null_error(torch.bincount(index, minlength=2 * len(train))),
        "copies": (near < away / 2).float().mean().item(),
        "ratio": (near / away).median().item(),
    }


def memory(images: Tensor, seeds: list[int]):
    other = to_float(split(images, 2000)[1])
    for seed, n in product(seeds, SIZES):
        train, held = split(images, n)
        seen, unseen = to_float(train), to_float(held)
        for steps, net in trained(256, train, seed, CHECKPOINTS):
            samples = draw(net, DRAWN)
            losses = {"seen": loss_on(net, SCHEDULE, seen), "unseen": loss_on(net, SCHEDULE, other)}
            row = {"n": n, "steps": steps, "seed": seed, **losses, **copying(samples, seen, unseen)}
            yield row | ({"samples": shown(samples)} if steps == CHECKPOINTS[-1] else {})


def scaling(images: Tensor, seeds: list[int]):
    train, held = split(images, len(images) // 2)
    for seed, width in product(seeds, WIDTHS):
        for steps, net in trained(width, train, seed, BUDGETS):
            parameters, unseen = count_parameters(TinyNet(SCHEDULE, width)), loss_on(net, SCHEDULE, to_float(held))
            yield {"width": width, "parameters": parameters, "steps": steps, "seed": seed, "unseen": unseen}


class Judge:
    """What the feature network says of digits (N, 1, 14, 14), at twice their size, beside held-out ones."""

    def __init__(self, held: Tensor):
        self.net, self.held = load_feature_net(), held
        self.real = self.seen(to_float(held[:JUDGED])).features

    def seen(self, x: Tensor):
        return evaluate(self.net, F.interpolate(x, scale_factor=2.0, mode="bilinear").clamp(-1, 1))

    def __call__(self, samples: Tensor) -> dict:
        found = self.seen(samples)
        distance = frechet_distance(found.features, self.real)
        return {"distance": distance, "recognisable": found.recognisable, "entropy": found.entropy}


class VAE(nn.Module):
    """Kingma & Welling 2014: 16 Gaussian hidden numbers, fully connected, one learned variance for all pixels."""

    def __init__(self, width: int = 320, hidden: int = 16):
        super().__init__()
        layers = lambda a, b: (nn.Linear(a, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, b))  # noqa: E731
        self.hidden, self.encode, self.decode = hidden, nn.Sequential(*layers(196, 2 * hidden)), nn.Sequential()
        self.decode.extend(layers(hidden, 196))
        self.log_std = nn.Parameter(torch.tensor(-1.0))

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the bound, in nats per image."""
        mean, log_std = self.encode(x.flatten(1)).chunk(2, 1)
        code = mean + log_std.exp() * torch.randn(mean.shape, generator=generator)
        kl = (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1) / 2
        error = (self.decode(code) - x.flatten(1)).square().sum(1) / (2 * (2 * self.log_std).exp())
        return (kl + error + 196 * self.log_std).mean()

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Means of the decoder, without its noise."""
        return self.decode(torch.randn(n, self.hidden, generator=generator)).reshape(n, 1, 14, 14).clamp(-1, 1)


class Autoregressive(nn.Module):
    """Germain et al. 2015 (MADE): each pixel's grey level, one of a few, from all the pixels before it, row by row."""

    def __init__(self, width: int = 400):
        super().__init__()
        self.first, self.last = nn.Linear(196, width), nn.Linear(width, 196 * LEVELS)
        self.short = nn.Linear(196, 196 * LEVELS, bias=False)
        pixel, unit = torch.arange(196), torch.arange(width) % 195  # a hidden unit sees the pixels 0 ... unit
        self.register_buffer("sees", (pixel <= unit[:, None]).float())
        self.register_buffer("tells", (unit < pixel[:, None]).float().repeat_interleave(LEVELS, 0))
        self.register_buffer("before", (pixel < pixel[:, None]).float().repeat_interleave(LEVELS, 0))

    def logits(self, x: Tensor, pixels: slice = slice(0, 196)) -> Tensor:
        """Grey levels as floats (B, 196) -> (B, P, LEVELS) for P pixels."""
        h = F.silu(F.linear(x, self.first.weight * self.sees, self.first.bias))
        rows = slice(pixels.start * LEVELS, pixels.stop * LEVELS)
        told = F.linear(h, self.last.weight[rows] * self.tells[rows], self.last.bias[rows])
        return (told + F.linear(x, self.short.weight[rows] * self.before[rows])).reshape(len(x), -1, LEVELS)

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the log-likelihood of the grey levels, in nats per pixel."""
        level = levels_of(x).flatten(1)
        return F.cross_entropy(self.logits(grey(level)).transpose(1, 2), level)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        level = torch.zeros(n, 196, dtype=torch.int64)
        for pixel in range(196):
            chance = self.logits(grey(level), slice(pixel, pixel + 1))[:, 0].softmax(1)
            level[:, pixel] = torch.multinomial(chance, 1, generator=generator)[:, 0]
        return grey(level).reshape(n, 1, 14, 14)


def levels_of(x: Tensor) -> Tensor:
    return ((x + 1) / 2 * (LEVELS - 1)).round().long()


def grey(level: Tensor) -> Tensor:
    return level / (LEVELS - 1) * 2 - 1


class Diffusion(nn.Module):
    """The course's loss and sampler around the small network."""

    def __init__(self):
        super().__init__()
        self.net = TinyNet(SCHEDULE)

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        t = stratified_steps(torch.rand(len(x), generator=generator), SCHEDULE.T)
        return min_snr_loss(self.net, SCHEDULE, x, t, torch.randn(x.shape, generator=generator))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return draw(self.net, n)


FAMILIES = {"VAE": (VAE, 1), "autoregressive": (Autoregressive, 196), "diffusion": (Diffusion, CALLS)}


def fitted(model: nn.Module, images: Tensor, seed: int) -> tuple[nn.Module, int]:
    """The average of the weights after SECONDS of CPU time, and the steps made; over the last quarter of the time the
    learning rate falls to 0."""
    average, generator = copy.deepcopy(model).requires_grad_(False), torch.Generator().manual_seed(seed)
    optimizer, start = torch.optim.AdamW(model.parameters(), lr=2e-3), time.process_time()
    for step in count():
        left = 1 - (time.process_time() - start) / SECONDS
        if left <= 0:
            return average, step
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, 4 * left, (step + 1) / 100)
        batch = images[torch.randint(len(images), (64,), generator=generator)]
        optimizer.zero_grad()
        model.loss(batch, generator).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.copy_(ema_update(a, p, min(0.999, (1 + step) / (10 + step))))


def families(images: Tensor, seeds: list[int]):
    train, held = split(images, 10_000)
    judge, seen, unseen = Judge(split(images, 30_000)[1][-JUDGED:]), to_float(train), to_float(held)
    others = to_float(split(images, 20_000)[1][10_000:])  # where the held-out digits themselves are judged
    unmade = {
        "real, held out": (unseen, others),
        f"real, in {LEVELS} greys": (grey(levels_of(unseen)), others),
        "64 training images, repeated": (seen[torch.arange(JUDGED) % 64], unseen),
    }
    for name, (samples, yardstick) in unmade.items() if 0 in seeds else ():
        yield {"name": name, "seed": 0, **judge(samples[:JUDGED]), **copying(samples[:JUDGED], seen, yardstick)}
    for seed, (name, (family, calls)) in product(seeds, FAMILIES.items()):
        torch.manual_seed(seed)
        model, steps = fitted(family(), seen, seed)
        with torch.no_grad():
            samples = model.draw(JUDGED, torch.Generator().manual_seed(seed))
        row = {"name": name, "seed": seed, "parameters": count_parameters(family()), "steps": steps, "calls": calls}
        yield row | judge(samples) | copying(samples, seen, unseen) | {"samples": shown(samples)}


def shown(samples: Tensor) -> str:
    """The first ten as bytes in hexadecimal digits, 196 a sample."""
    return to_uint8(samples[:10]).numpy().tobytes().hex()


PARTS = {"memory": memory, "scaling": scaling, "families": families}


def main() -> None:
    part, *seeds = sys.argv[1:] or [""]
    if part not in PARTS or not seeds or not all(seed.isdecimal() for seed in seeds):
        sys.exit(f"name one of {', '.join(PARTS)}, then seeds: memory 0")
    torch.set_num_threads(1)
    seeds, start, own = [int(seed) for seed in seeds], time.process_time(), []
    data = load_images("mnist", strict=True)
    about = {"command": f"python tests/benchmarks/memory.py {part} SEED", "data": data.source, **machine()}
    about |= {"samples": DRAWN if part == "memory" else JUDGED, "calls": CALLS, "seconds": SECONDS}
    for row in PARTS[part](small_digits(data.images), seeds):
        own.append(row)
        print({key: value for key, value in row.items() if key != "samples"}, flush=True)
        results = load_memory() if RESULTS.exists() else {}  # anew: another process may have written meanwhile
        others = [row for row in results.get(part, {"rows": []})["rows"] if row["seed"] not in seeds]
        write(RESULTS, {**results, part: {"about": about, "rows": others + own}})
    print(f"{time.process_time() - start:.0f} seconds of CPU time")


if __name__ == "__main__":
    main()
