"""Sixteen broken systems, for notebook 13: images (N, C, H, W) in [-1, 1], N at most a few hundred, to a system with
one usual fault, which shows its symptom in seconds. Training is left out: `IdealDenoiser` answers what a perfect
network would, or one trained with the fault, where it lies there; so a symptom has no other cause."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..sampling import ddpm_trajectory, image_noise, sample
from ..schedule import NoiseSchedule, linear_schedule, per_image, predict_eps, predict_x0, q_sample
from .diagnosis import IdealDenoiser, loss_by_t, normal

T, COUNT = 100, 32
SCHEDULE = linear_schedule(T)


@dataclass(frozen=True)
class System:
    """A model, what it was trained with, and what its sampler returns: what `diagnose` looks at."""

    model: nn.Module
    schedule: NoiseSchedule
    images: Tensor  # (N, C, H, W) as the training loop has them
    samples: Tensor  # (32, C, H, W) as the sampler returns them
    average: nn.Module | None = None  # of the weights, where the sampler uses it
    own_loss: Callable[[Tensor], Tensor] | None = None  # steps (K,) -> (K,), where its author measures otherwise

    def measured_loss(self, t: Tensor) -> Tensor:
        """The loss (K,) at steps t (K,), as the author of the broken code would measure it."""
        return self.own_loss(t) if self.own_loss else loss_by_t(self.model, self.schedule, self.images, t)


class Model(nn.Module):
    """A function (x, t) as a module, in eval mode."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.answer = answer
        self.eval()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.answer(x, t)


def _system(model: nn.Module, schedule: NoiseSchedule, images: Tensor, own_loss=None, **options) -> System:
    samples = sample(model, schedule, COUNT, tuple(images.shape[1:]), **options)
    return System(model, schedule, images, samples, own_loss=own_loss)


def _with(images: Tensor, answer: Callable[[nn.Module, Tensor, Tensor], Tensor], **options) -> System:
    """The healthy system, but for its answer: answer(ideal, x, t)."""
    ideal = IdealDenoiser(images, SCHEDULE)
    return _system(Model(lambda x, t: answer(ideal, x, t)), SCHEDULE, images, **options)


def _trained_on(images: Tensor, signal: Tensor, sigma: Tensor) -> System:
    """The ideal network of a training loop with x_t = signal[t] x_0 + sigma[t] eps; sampled with the schedule."""
    model = IdealDenoiser(images, (signal, sigma))

    def own_loss(t: Tensor) -> Tensor:
        noise = normal(images)
        errors = [model(signal[k] * images + sigma[k] * noise, k.expand(len(images))) - noise for k in t]
        return torch.stack(errors).square().mean((1, 2, 3, 4))

    return _system(model, SCHEDULE, images, own_loss)


def healthy(images: Tensor) -> System:
    """A system without a fault."""
    return _with(images, lambda ideal, x, t: ideal(x, t))


def unit_range(images: Tensor) -> System:
    """The training images were left in [0, 1], and everything else expects [-1, 1]."""
    return healthy((images + 1) / 2)


def never_noise(images: Tensor) -> System:
    """50 steps with the betas of 1000: the forward process does not end in noise, but sampling starts there."""
    schedule = linear_schedule(50, rescale=False)
    return _system(IdealDenoiser(images, schedule), schedule, images)


def noisy_last_step(images: Tensor) -> System:
    """The sampler adds noise at the last step, too."""
    system = healthy(images)
    return replace(system, samples=system.samples + SCHEDULE.beta[1].sqrt() * normal(system.samples))


def off_by_one(images: Tensor) -> System:
    """Training counted the steps from 1, sampling counts from 0: the network is told one step too few."""
    return _with(images, lambda ideal, x, t: ideal(x, (t - 1).clamp(min=1)))


def no_square_root(images: Tensor) -> System:
    """Training mixed alpha_bar x_0 + (1 - alpha_bar) eps: the square roots are missing."""
    return _trained_on(images, SCHEDULE.alpha_bar, 1 - SCHEDULE.alpha_bar)


def alpha_for_alpha_bar(images: Tensor) -> System:
    """The training loop's x_t has alpha_t where alpha_bar_t belongs: it saw hardly any noise."""
    return _trained_on(images, SCHEDULE.alpha.sqrt(), SCHEDULE.beta.sqrt())


def uniform_noise(images: Tensor) -> System:
    """The sampler draws torch.rand instead of torch.randn."""
    model, noise = IdealDenoiser(images, SCHEDULE), image_noise(0, range(COUNT), tuple(images.shape[1:]))
    rand = lambda: torch.special.ndtr(noise())  # noqa: E731
    *_, last = ddpm_trajectory(model, SCHEDULE, rand(), rand)
    return System(model, SCHEDULE, images, last.x)


def no_time(images: Tensor) -> System:
    """The time is not passed on: the network always hears T / 2."""
    return _with(images, lambda ideal, x, t: ideal(x, torch.full_like(t, T // 2)))


def young_average(images: Tensor) -> System:
    """Sampled from an average of the weights that still holds nine tenths of the start, where the output is zero."""
    young = _with(images, lambda ideal, x, t: 0.1 * ideal(x, t))
    return replace(young, model=IdealDenoiser(images, SCHEDULE), average=young.model)


def wrapped_bytes(images: Tensor) -> System:
    """Samples went through uint8 without clipping: a little above white is black."""
    system = healthy(images)
    values = ((system.samples + 0.01 * normal(system.samples) + 1) * 127.5).long() % 256
    return replace(system, samples=values / 127.5 - 1)


def blind_to_brightness(images: Tensor) -> System:
    """A norm over the whole input: the network cannot see how bright it is, so the brightness walks."""

    def answer(ideal, x, t):
        expected = per_image(ideal.signal[t], x) * images.mean()
        return ideal(x - x.mean((1, 2, 3), keepdim=True) + expected, t)

    return _with(images, answer, clip=False)


def rescaled_pictures(images: Tensor) -> System:
    """As `blind_to_brightness`; but each picture is stretched to its own darkest and brightest pixel when shown."""
    return blind_to_brightness(images)


def gradient_times_loss(images: Tensor) -> System:
    """`loss.backward(loss)`: the smaller the loss, the smaller the steps."""
    return trained_lines(images, faulty=True)


def trained_lines(images: Tensor, faulty: bool = False) -> System:
    """The healthy twin of `gradient_times_loss`: a straight line for each step and pixel, a (x - its mean), that goes
    60 times a tenth of the way to the best one. With the right gradient it arrives."""
    signal, sigma = SCHEDULE.sqrt_alpha_bar[:, None], SCHEDULE.sigma[:, None]  # (T+1, 1)
    mean, variance = images.mean(0).flatten(), images.var(0).flatten()  # (D,)
    square = (signal**2 * variance + sigma**2)[1:]  # (T, D) mean square of x_t - its mean; the curvature is twice that
    best, a = sigma[1:] / square, torch.zeros_like(square)
    for _ in range(60):
        loss = (1 - 2 * a * sigma[1:] + a**2 * square).mean()
        a = a - 0.1 * (a - best) * (loss if faulty else 1)
    model = Model(lambda x, t: (a[t - 1] * (x.flatten(1) - signal[t] * mean)).reshape(x.shape))
    return _system(model, SCHEDULE, images)


def train_mode(images: Tensor) -> System:
    """The network is left in train mode: dropout is on while sampling."""
    ideal = IdealDenoiser(images, SCHEDULE)
    model = Model(lambda x, t: F.dropout(ideal(x, t), 0.1, training=model.training)).train()
    torch.manual_seed(0)
    return _system(model, SCHEDULE, images)


def broadcast_loss(images: Tensor) -> System:
    """(B, 1, H, W) minus (B, H, W) is (B, B, H, W): every prediction met every noise of its batch of 16, and the best
    answer is the mean of all that it met, one sixteenth of the right one."""
    system = _with(images, lambda ideal, x, t: ideal(x, t) / 16)

    def own_loss(t: Tensor) -> Tensor:
        few, noise = images[:16], normal(images[:16])
        predictions = (system.model(q_sample(SCHEDULE, few, k, noise), k) for k in t[:, None].expand(-1, len(few)))
        return torch.stack([(answer[None] - noise[:, None]).square().mean() for answer in predictions])

    return replace(system, own_loss=own_loss)


def no_fine_skip(images: Tensor) -> System:
    """The finest skip is never used: what is smaller than 2x2 pixels does not get through."""

    def answer(ideal, x, t):
        x0_hat = predict_x0(SCHEDULE, x, t, ideal(x, t))
        return predict_eps(SCHEDULE, x, t, F.interpolate(F.avg_pool2d(x0_hat, 2), scale_factor=2))

    return _with(images, answer)
