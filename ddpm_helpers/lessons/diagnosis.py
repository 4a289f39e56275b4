"""What is wrong with this model? Measurements that tell apart the usual faults of a diffusion model, in plain words."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checks import _check_images, check_step_batch
from ..losses import Model, ddpm_loss
from ..schedule import NoiseSchedule, per_image, q_sample


class Finding(NamedTuple):
    check: str  # which measurement found it
    measured: str  # the numbers
    advice: str  # what to look at


def ideal_x0(images: Tensor, x_t: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """The mean of the clean image given x_t (B, C, H, W), where the data are `images` (N, C, H, W), all equally likely:
    their mean, weighted by the softmax of -|x_t - signal * image|^2 / (2 sigma^2), with signal and sigma (B,)."""
    place = torch.device("cpu") if x_t.device.type == "mps" else x_t.device  # MPS has no float64
    signal, sigma = signal.to(place).double()[:, None], sigma.to(place).double()[:, None]  # (B, 1)
    flat, x = images.to(place).flatten(1).double(), x_t.to(place).flatten(1).double()  # (N, D), (B, D)
    # Of the squared distance to each image the part that all share is left out: the softmax does not see it.
    closeness = signal * (x @ flat.T) - signal**2 * flat.square().sum(1) / 2  # (B, N)
    return ((closeness / sigma**2).softmax(1) @ flat).reshape(x_t.shape).to(x_t.device, x_t.dtype)


class IdealDenoiser(nn.Module):
    """What a perfect network would answer, if the data were a few images (N, C, H, W), each as likely as the others (De
    Bortoli 2022, section 3.3): what goes wrong in a sampler is the sampler's fault. In place of a schedule it takes two
    tables (T+1,), shares of signal and noise."""

    def __init__(self, images: Tensor, schedule: NoiseSchedule | tuple[Tensor, Tensor]):
        super().__init__()
        _check_images(images=images)
        if isinstance(schedule, NoiseSchedule):
            schedule = schedule.sqrt_alpha_bar, schedule.sigma
        self.register_buffer("images", images)
        self.register_buffer("signal", schedule[0])
        self.register_buffer("sigma", schedule[1])
        self.eval()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        check_step_batch(t, x, T=len(self.signal) - 1, net="IdealDenoiser")
        x0_hat = ideal_x0(self.images, x, self.signal[t], self.sigma[t])
        return (x - per_image(self.signal[t], x) * x0_hat) / per_image(self.sigma[t], x)


def straight_line_loss(schedule: NoiseSchedule, images: Tensor, t: Tensor) -> Tensor:
    """The loss of the best straight line at steps t (K,), eps guessed from each pixel of x_t alone, as a * x + b: the
    mean over pixels of alpha_bar v / (alpha_bar v + sigma^2), with v the pixel's variance over images (N, C, H, W)."""
    signal = schedule.alpha_bar[t, None] * images.var(0).flatten()  # (K, D)
    return (signal / (signal + schedule.sigma[t, None] ** 2)).mean(1)


@torch.no_grad()
def loss_by_t(model: Model, schedule: NoiseSchedule, images: Tensor, t: Tensor, asked: int = 0) -> Tensor:
    """Mean squared error of the predicted noise at each of the steps t (K,), over all images (N, C, H, W): (K,). The
    model is asked about t + asked, kept in 1 ... T."""
    noise, every = normal(images), torch.ones(len(images), dtype=torch.int64, device=images.device)
    asking = lambda x, t: model(x, (t + asked).clamp(1, schedule.T))  # noqa: E731
    return torch.stack([ddpm_loss(asking, schedule, images, step * every, noise) for step in t.tolist()])


def normal(like: Tensor, seed: int = 0) -> Tensor:
    """Noise in the shape of these images, the same on every device."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.device)


@torch.no_grad()
def diagnose(
    model: Model, schedule: NoiseSchedule, images: Tensor, samples: Tensor | None = None, average: Model | None = None
) -> list[Finding]:
    """Look for the usual faults of a model as it stands when you sample, and print what was found, in plain words. An
    empty list is no proof.

    Args:
        images: (N, C, H, W) float, N at least 16, as the training loop hands them to `q_sample`. A few hundred do.
        samples: (M, C, H, W), M at least 16, what your sampler returns, before it is shown.
        average: the moving average of the weights, if you sample from it.
    """
    for name, x in (("images", images), ("samples", images if samples is None else samples)):
        if x.ndim != 4 or len(x) < 16 or x.shape[1:] != images.shape[1:]:
            raise ValueError(f"diagnose: {name} must be (N, C, H, W), N at least 16, one shape; got {tuple(x.shape)}")
    findings = [Finding(*found) for found in _look(model, schedule, images, samples, average)]
    for check, measured, advice in findings:
        print(f"{check}: {measured}. {advice}{'' if advice.endswith('?') else '.'}")
    if not findings:
        print("Nothing found.")
    return findings


def _look(model, schedule, images, samples, average) -> Iterator[tuple[str, str, str]]:
    if not images.is_floating_point():
        yield "data", f"the images are {images.dtype}", "The process wants floats in [-1, 1]: use to_float"
        return
    low, high = images.min().item(), images.max().item()
    if not (-1.05 <= low < -0.5 and 0.5 < high <= 1.05):
        advice = "Schedule, clipping and display are made for [-1, 1]: scale the images to that, in one place"
        yield "data range", f"the images reach from {low:.2f} to {high:.2f}", advice
    # The mean pixel of x_T (2.17), in standard deviations of that of noise; root mean square over the images.
    off = schedule.sqrt_alpha_bar[-1] * _rms(images.mean((1, 2, 3))) * images[0].numel() ** 0.5
    if off > 1:
        left = f"alpha_bar[T] is {schedule.alpha_bar[-1]:.2g}: its mean pixel is {off:.1f} standard deviations off"
        advice = "Sampling starts from pure noise, which the model has never seen: more steps, or larger betas"
        yield "end of the process", left, f"{advice} (linear_schedule rescales them to T)"
    yield from _look_at_model(model, average, schedule, images[:256])
    if samples is not None:
        yield from _look_at_samples(samples, images)


def _look_at_model(model, average, schedule: NoiseSchedule, images: Tensor) -> Iterator[tuple[str, str, str]]:
    T, training = schedule.T, getattr(model, "training", False)
    if training:
        yield "mode", "the model is in train mode", "Call model.eval() before sampling: dropout is at work"
    # Nine steps from 1 to T, and the last ones at which the image has 1 % and 0.2 % of the variance.
    late = [int((schedule.alpha_bar >= share).sum()) - 1 for share in (0.01, 0.002)]
    steps = torch.linspace(1, T, 9).long().tolist()
    t = torch.tensor([*steps, *late], device=images.device).clamp(min=1).unique()
    ours, line = loss_by_t(model, schedule, images, t), straight_line_loss(schedule, images, t)
    if not ours.isfinite().all():
        yield "loss by t", "not finite", "Look for a division by sigma[0] or a log of 0"
        return
    middle = torch.full((len(images),), max(T // 2, 1), device=images.device)
    x = q_sample(schedule, images, middle, normal(images, seed=1))
    answer = model(x, middle)
    size = _rms(answer)
    if T > 3 and _rms(model(x, torch.ones_like(middle)) - answer) < 1e-4 * size:
        same = "the same image at t = 1 and at t = T/2 gets the same answer"
        yield "time", same, "Is t passed on to the network, and used there?"
    if _rms(model(x + 1.0, middle) - answer) < 1e-4 * size:
        advice = "A norm over the whole input removes the brightness, so that of the samples will drift: leave it out"
        yield "brightness", "adding 1 to every pixel does not change the answer", advice
    alone = torch.cat([model(x[i : i + 1], middle[i : i + 1]) for i in range(4)])
    if not training and (alone - answer[:4]).abs().max() > 0.01 * size:
        advice = "Images of a batch must not see each other: look for BatchNorm, and for a (B,) that meets (B, C, H, W)"
        yield "batch", "an image alone gets another answer than in its batch", advice
    # Near T both losses are close to 0: a trained network's by about 0.0004, the line's by less and less.
    over = ours - 1.1 * line
    worse = over > 0.0005
    near_0 = torch.tensor(range(3, min(8, T)), device=images.device)  # where a step changes the noise most
    if worse.any():
        where, k = ", ".join(map(str, t[worse].tolist())), int(over.argmax())
        numbers = f"at t = {where}; at {t[k]} {ours[k]:.2g} against {line[k]:.2g}"
        advice = "It is not trained yet, or not at these steps, or on another process than this schedule's: compare "
        advice += "the training loop's x_t with q_sample, its target with the noise, and their shapes"
        yield "loss by t", f"worse than a straight line through each pixel {numbers}", advice
    elif len(near_0):
        losses = {asked: loss_by_t(model, schedule, images, near_0, asked).mean().item() for asked in (0, -1, 1)}
        best = min(losses, key=losses.get)
        if losses[best] < 0.95 * losses[0]:
            measured = f"loss {losses[best]:.3f} instead of {losses[0]:.3f}"
            advice = "Training and sampling count steps differently: from 0 the one, from 1 the other"
            yield "time", f"told t{best:+d} instead of t, the model does better: {measured}", advice
    if average is not None:
        ours, theirs = ours.mean(), loss_by_t(average, schedule, images, t).mean()
        if theirs > 1.5 * ours + 0.01:
            advice = "The average lags, and still holds the start: a smaller decay, a warm-up of it, or longer training"
            yield "average", f"the averaged weights have a loss of {theirs:.3f}, the last ones {ours:.3f}", advice


def _look_at_samples(samples: Tensor, images: Tensor) -> Iterator[tuple[str, str, str]]:
    if not samples.is_floating_point() or not samples.isfinite().all():
        yield "samples", f"{samples.dtype}, or not finite", "Look at them before they are turned into bytes"
        return
    low, high = samples.min().item(), samples.max().item()
    if low < -1.5 or high > 1.5:
        advice = "Show them clipped to [-1, 1], never rescaled one by one: that hides a drift"
        yield "samples' range", f"they reach from {low:.1f} to {high:.1f}", advice
    elif low > -0.5 > images.min():
        yield "samples' range", f"the darkest pixel is {low:.2f}", "Black is -1: are they shown in another range?"
    ours, theirs = (x.mean((1, 2, 3)) for x in (samples, images))
    error = (ours.mean() - theirs.mean()).abs() / (theirs.var() / len(samples) + theirs.var() / len(theirs)).sqrt()
    if error > 5 or ours.std() > 2 * theirs.std():
        spreads = f"spread of {ours.std():.2f}; the images': {theirs.mean():.2f}, {theirs.std():.2f}"
        advice = "Look at the noise that the sampler draws (normal?), at its start, at what the model is blind to"
        yield "samples' brightness", f"{ours.mean():.2f} with a {spreads}", advice
    ours, theirs = _grain(samples.clamp(-1, 1)), _grain(images)
    if ours > 1.5 * theirs + 0.01:
        advice = "Noise is left: is some added at the last step, are values turned into bytes without clipping, is the "
        numbers = f"neighbouring pixels differ by {ours:.3f}, in the images by {theirs:.3f}"
        yield "samples' grain", numbers, f"{advice}model trained?"
    apart = torch.pdist(samples.flatten(1).cpu().double()).median()  # MPS has neither pdist nor float64
    usual = torch.pdist(images[: len(samples)].flatten(1).cpu().double()).median()
    if apart < 0.5 * usual:
        advice = "Does the sampler start from pure noise of variance 1, and the forward process end there?"
        yield "samples' variety", f"two samples differ by {apart:.2f}, two images by {usual:.2f} (medians)", advice


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def _grain(x: Tensor) -> float:
    """Median over the pixels of the difference to the mean of the four neighbours: 0 on smooth ground."""
    around = (x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]) / 4
    return (x[..., 1:-1, 1:-1] - around).abs().median().item()
