"""What each part of the recipe is worth: the recipe, and the recipe with one part changed, all for the same time.

    python tests/benchmarks/bench_levers.py [--seconds 180 --samples 1000]

One more ladder: `ladder.py` measures the speeds, trains, and goes on with the next variant where it was stopped. What
a variant needs for its first steps (`torch.compile` writes and compiles C++) counts as time. The recipe is trained from
three seeds, to see how large a difference chance makes. Writes ddpm_helpers/results/levers_cpu.json, which notebook 10
shows. Needs MNIST; about three hours on 2 cores.
"""

from functools import partial

import torch
from ladder import COSINE, FRESH, LINEAR, NEAR_T, System, climb_all, options
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image

from ddpm_helpers import (
    TrainConfig,
    UNet,
    VelocityNet,
    ddpm_loss,
    load_images,
    min_snr_loss,
    sample,
    step_weight,
    velocity_loss,
)
from ddpm_helpers.lessons.ladder import RESULTS
from ddpm_helpers.schedule import NoiseSchedule, per_image, q_sample, snr

PATH = RESULTS / "levers_cpu.json"
ONE_BY_ONE = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])])


def independent_steps(schedule: NoiseSchedule, count: int, generator: torch.Generator, weighted: float) -> Tensor:
    return torch.randint(1, schedule.T + 1, (count,), generator=generator, device=generator.device)


def constant_rate(config: TrainConfig, step: int) -> float:
    return config.learning_rate * min(1.0, (step + 1) / config.warmup)


def picture_by_picture(images: Tensor) -> Tensor:
    """Each image of a batch as a Pillow picture through a chain of transforms, as a `Dataset` would do it."""
    return torch.stack([ONE_BY_ONE(to_pil_image(image)) for image in images])


def min_snr_5_loss(model, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """The error of the clean image, weighted by the signal-to-noise ratio, at most 5 (Hang et al. 2023)."""
    error = (model(q_sample(schedule, x0, t, noise), t) - noise).square()
    return (error * per_image((5 / snr(schedule)[t]).clamp(max=1), error)).mean()


def small_velocity_loss(model, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """`velocity_loss` times the mean weight: with weighted timestep sampling, on average `min_snr_loss` itself."""
    return step_weight(schedule).mean() * velocity_loss(model, schedule, x0, t, noise)


SMALL = {"base": 32, "multipliers": (1, 2), "patch": 2, "attention": 0}  # attention in the middle alone


def noise(**changed) -> nn.Module:
    """The recipe's network, with the noise as its output."""
    return UNet(**SMALL | changed)


def velocity(schedule: NoiseSchedule = COSINE, **changed) -> nn.Module:
    return VelocityNet(noise(**changed), schedule)


def compiled() -> nn.Module:
    net = noise()
    net.compile()
    return VelocityNet(net, COSINE)


OTHER = partial(
    System, schedule=COSINE, net=velocity, objective=min_snr_loss, sampler=FRESH, steps=50, batch_size=64, config={}
)
SAME = partial(OTHER, like="the recipe")
WEIGHTED = partial(SAME, objective=velocity_loss, config={"weighted": 1.0})  # the same loss on average
UNPATCHED = partial(OTHER, net=partial(velocity, base=16, multipliers=(1, 2, 4), patch=1))
VARIANTS = (
    OTHER("the recipe"),
    SAME("the recipe, seed 1", seed=1),
    SAME("the recipe, seed 2", seed=2),
    SAME("noise as target", net=noise),
    SAME("linear schedule", schedule=LINEAR, net=partial(velocity, LINEAR)),
    SAME("noise, linear schedule", net=noise, schedule=LINEAR),
    SAME("weights of the noise", objective=ddpm_loss),
    SAME("weights of the velocity", objective=velocity_loss),
    SAME("min-SNR, gamma 5", objective=min_snr_5_loss),
    SAME("last weights, no average", averaged=False),
    SAME("average over 100 steps", config={"ema_decay": 0.99}),
    SAME("no fresh noise", sampler=partial(sample, eta=0.0)),
    SAME("sampled in 200 steps", steps=200),
    SAME("sampled in all 1000 steps", steps=1000),
    SAME("learning rate stays up", instead={"train.TrainConfig.learning_rate_at": constant_rate}),
    SAME("learning rate 1e-3", config={"learning_rate": 1e-3}),
    SAME("learning rate 4e-3", config={"learning_rate": 4e-3}),
    SAME("independent steps", instead={"train.draw_steps": independent_steps}),
    OTHER("batches of 128", batch_size=128),
    OTHER("batches of 32", batch_size=32),
    UNPATCHED("no patches; 16, 32, 64"),
    OTHER("attention at 7 x 7 too", net=partial(velocity, attention=1)),
    OTHER("base 24", net=partial(velocity, base=24)),
    OTHER("base 48", net=partial(velocity, base=48)),
    OTHER("float32", instead={"machine.fast_dtype": lambda device: torch.float32}),
    OTHER("channels_last", instead={"train.fast_layout": lambda model, device: torch.channels_last}),
    OTHER("one picture at a time", instead={"train.to_float": picture_by_picture}),
    OTHER("torch.compile", net=compiled),
    UNPATCHED("no patches, seed 1", like="no patches; 16, 32, 64", seed=1),
    UNPATCHED("no patches, seed 2", like="no patches; 16, 32, 64", seed=2),
    SAME("noise and its weights", net=noise, objective=ddpm_loss),
    SAME("noise, its weights, linear schedule", net=noise, objective=ddpm_loss, schedule=LINEAR),
    WEIGHTED("weighted timestep sampling"),
    WEIGHTED("weighted timestep sampling, small gradient", objective=small_velocity_loss),
    WEIGHTED("weighted timestep sampling, seed 1", seed=1),
    WEIGHTED("weighted timestep sampling, seed 2", seed=2),
    SAME("more steps near T", steps=NEAR_T),
    WEIGHTED("weighted timestep sampling, near T", steps=NEAR_T),
    WEIGHTED("weighted timestep sampling, near T, seed 1", steps=NEAR_T, seed=1),
    WEIGHTED("weighted timestep sampling, near T, seed 2", steps=NEAR_T, seed=2),
)


def main() -> None:
    chosen = options(__doc__, samples=1000, file=PATH)
    about = {"seconds": chosen.seconds, "samples": chosen.samples}
    command = f"python tests/benchmarks/bench_levers.py --seconds {chosen.seconds} --samples {chosen.samples}"
    for _ in climb_all(PATH, command, about, {"systems": VARIANTS}, load_images("mnist", strict=True)):
        pass


if __name__ == "__main__":
    main()
