"""What is wrong with this model? Measurements that tell apart the usual faults of a diffusion model, in plain words."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .nets import check_step_batch
from .schedule import NoiseSchedule, _check_images, per_image, q_sample


class Finding(NamedTuple):
    """One thing that is wrong."""

    check: str  # which measurement found it
    measured: str  # the numbers
    advice: str  # what to look at


def ideal_x0(images: Tensor, x_t: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """The mean of the clean image given x_t, where the data are a few images, each as likely as the others.

    A weighted mean of the images: the weights are the softmax of -|x_t - signal * image|^2 / (2 sigma^2).

    Args:
        images: (N, C, H, W) float, the data.
        x_t: (B, C, H, W).
        signal: (B,) the share of the image in each x_t.
        sigma: (B,) the standard deviation of the noise in each x_t.

    Returns:
        (B, C, H, W).
    """
    place = torch.device("cpu") if x_t.device.type == "mps" else x_t.device  # MPS has no float64
    signal, sigma = signal.to(place).double()[:, None], sigma.to(place).double()[:, None]  # (B, 1)
    flat, x = images.to(place).flatten(1).double(), x_t.to(place).flatten(1).double()  # (N, D), (B, D)
    # Of the squared distance to each image the part that all share is left out: the softmax does not see it.
    closeness = signal * (x @ flat.T) - signal**2 * flat.square().sum(1) / 2  # (B, N)
    return ((closeness / sigma**2).softmax(1) @ flat).reshape(x_t.shape).to(x_t.device, x_t.dtype)


class IdealDenoiser(nn.Module):
    """What a perfect network would answer, if the data were a few images, each as likely as the others.

    The mean of the noise given x_t is known then: a weighted mean over the images (De Bortoli 2022, section 3.3). No
    training, no parameters: what goes wrong with this model in a sampler is the sampler's fault.

    Args:
        images: (N, C, H, W) float, the data.
        schedule: the process that made x_t; or its two tables (T+1,), shares of signal and noise, for another one.
    """

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
        """(B, C, H, W), steps (B,) in 1 ... T -> predicted noise (B, C, H, W). Errors as a `UNet` has for t."""
        check_step_batch(t, x, T=len(self.signal) - 1, net="IdealDenoiser")
        x0_hat = ideal_x0(self.images, x, self.signal[t], self.sigma[t])
        return (x - per_image(self.signal[t], x) * x0_hat) / per_image(self.sigma[t], x)


def straight_line_loss(schedule: NoiseSchedule, images: Tensor, t: Tensor) -> Tensor:
    """The loss of the best straight line: eps guessed from each pixel of x_t alone, as a * x + b.

    Any network that has learned something does better. With v the variance of a pixel over the images, it is
    alpha_bar v / (alpha_bar v + sigma^2), averaged over the pixels.

    Args:
        schedule: on the device of the images.
        images: (N, C, H, W) in [-1, 1].
        t: (K,) steps.

    Returns:
        (K,).
    """
    variance = images.var(0).flatten()  # (D,)
    signal = schedule.alpha_bar[t, None] * variance
    return (signal / (signal + schedule.sigma[t, None] ** 2)).mean(1)


@torch.no_grad()
def loss_by_t(
    model: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, images: Tensor, t: Tensor, asked: int = 0
) -> Tensor:
    """Mean squared error of the predicted noise at each of the steps t (K,), over all images: (K,).

    Args:
        model: callable (x, t) -> predicted noise.
        schedule: on the device of the images.
        images: (N, C, H, W) in [-1, 1].
        t: (K,) steps.
        asked: the model is told t + asked, kept in 1 ... T.
    """
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images.device)
    losses = []
    for step in t.tolist():
        steps = torch.full((len(images),), step, device=images.device)
        x_t = q_sample(schedule, images, steps, noise)
        told = (steps + asked).clamp(1, schedule.T)
        prediction = model(x_t, told)
        _check_images(noise=noise, prediction=prediction)
        losses.append((prediction - noise).square().mean())
    return torch.stack(losses)


def diagnose(
    model: nn.Module,
    schedule: NoiseSchedule,
    images: Tensor,
    samples: Tensor | None = None,
    average: nn.Module | None = None,
) -> list[Finding]:
    """Look for the usual faults; prints what was found, in plain words.

    Args:
        model: callable (x, t) -> predicted noise, a module, as it stands when you sample.
        schedule: with which the model was trained.
        images: (N, C, H, W) float, N at least 16, as the training loop hands them to `q_sample`. A few hundred do.
        samples: (M, C, H, W), M at least 16, what your sampler returns, before it is shown.
        average: the moving average of the weights, if you sample from it.

    Returns:
        the findings, none for a healthy system. No list is complete: an empty one is no proof.

    Raises:
        ValueError: if images or samples are fewer than 16, or not of the same shape.
    """
    for name, x in (("images", images), ("samples", samples)):
        if x is not None and (x.ndim != 4 or len(x) < 16 or x.shape[1:] != images.shape[1:]):
            raise ValueError(
                f"diagnose: {name} must be (N, C, H, W) with N at least 16 and one shape, got {tuple(x.shape)}"
            )
    findings = _look_at_images(images) + _look_at_schedule(schedule)
    if images.is_floating_point():
        findings += _look_at_model(model, schedule, images[:256])
        if average is not None:
            findings += _look_at_average(model, average, schedule, images[:256])
        if samples is not None:
            findings += _look_at_samples(samples, images)
    for finding in findings:
        print(f"{finding.check}: {finding.measured}. {finding.advice}{'' if finding.advice.endswith('?') else '.'}")
    if not findings:
        print("Nothing found.")
    return findings


def _look_at_images(images: Tensor) -> list[Finding]:
    if not images.is_floating_point():
        return [Finding("data", f"the images are {images.dtype}", "The process wants floats in [-1, 1]: use to_float")]
    low, high = images.min().item(), images.max().item()
    if not (-1.05 <= low < -0.5 and 0.5 < high <= 1.05):
        return [
            Finding(
                "data range",
                f"the images reach from {low:.2f} to {high:.2f}",
                "Schedule, clipping and display are made for [-1, 1]: scale the images to that, in one place",
            )
        ]
    return []


def _look_at_schedule(schedule: NoiseSchedule) -> list[Finding]:
    left = schedule.alpha_bar[-1].item()
    if left <= 0.01:
        return []
    return [
        Finding(
            "end of the process",
            f"alpha_bar[T] is {left:.2f}, so x_T still holds {100 * left**0.5:.0f} % of the image",
            "Sampling starts from pure noise, which the model has never seen: more steps, or larger betas "
            "(linear_schedule rescales them to T)",
        )
    ]


@torch.no_grad()
def _look_at_model(model: nn.Module, schedule: NoiseSchedule, images: Tensor) -> list[Finding]:
    findings, T = [], schedule.T
    if getattr(model, "training", False):
        findings.append(
            Finding("mode", "the model is in train mode", "Call model.eval() before sampling: dropout is at work")
        )
    t = torch.linspace(1, T, 9, device=images.device).long().unique()
    ours, line = loss_by_t(model, schedule, images, t), straight_line_loss(schedule, images, t)
    if not bool(ours.isfinite().all()):
        return [*findings, Finding("loss by t", "not finite", "Look for a division by sigma[0] or a log of 0")]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).to(images.device)
    middle = torch.full((len(images),), max(T // 2, 1), device=images.device)
    x = q_sample(schedule, images, middle, noise)
    answer = model(x, middle)
    size = answer.square().mean().sqrt()

    changed = (model(x, torch.ones_like(middle)) - answer).square().mean().sqrt() / size
    if middle[0] > 1 and changed < 1e-4:
        findings.append(
            Finding(
                "time",
                "the same image at t = 1 and at t = T/2 gets the same answer",
                "Is t passed on to the network, and used there?",
            )
        )
    brighter = (model(x + 1.0, middle) - answer).square().mean().sqrt() / size
    if brighter < 1e-4:
        findings.append(
            Finding(
                "brightness",
                "adding 1 to every pixel does not change the answer",
                "A norm over the whole input removes the brightness, so that of the samples will drift: leave it out",
            )
        )
    alone = torch.cat([model(x[i : i + 1], middle[i : i + 1]) for i in range(4)])
    if not getattr(model, "training", False) and (alone - answer[:4]).abs().max() > 0.01 * size:
        findings.append(
            Finding(
                "batch",
                "an image alone gets another answer than in its batch",
                "Images of a batch must not see each other: look for BatchNorm, and for a (B,) that meets (B, C, H, W)",
            )
        )
    worse = ours > 1.1 * line + 0.01
    if bool(worse.any()):
        k = int((ours - line).argmax())
        where = f"{int(worse.sum())} of {len(t)} steps, most at t = {int(t[k])}: {ours[k]:.3f} against {line[k]:.3f}"
        findings.append(
            Finding(
                "loss by t",
                f"worse than a straight line through each pixel at {where}",
                "Either it is not trained yet, or it was trained on another process than this schedule's: compare the "
                "training loop's x_t with q_sample, its target with the noise, and their shapes",
            )
        )
    else:
        findings += _look_at_offset(model, schedule, images)
    return findings


def _look_at_offset(model: nn.Module, schedule: NoiseSchedule, images: Tensor) -> list[Finding]:
    """Is the model better if it is told another step than the right one?"""
    t = torch.tensor(range(3, min(8, schedule.T)), device=images.device)  # where a step changes the noise most
    if not len(t):
        return []
    losses = {asked: loss_by_t(model, schedule, images, t, asked).mean().item() for asked in (-1, 0, 1)}
    best = min(losses, key=losses.get)
    if best == 0 or losses[best] > 0.95 * losses[0]:
        return []
    return [
        Finding(
            "time",
            f"told t{best:+d} instead of t, the model does better: loss {losses[best]:.3f} instead of {losses[0]:.3f}",
            "Training and sampling count steps differently: from 0 the one, from 1 the other",
        )
    ]


def _look_at_average(model: nn.Module, average: nn.Module, schedule: NoiseSchedule, images: Tensor) -> list[Finding]:
    t = torch.linspace(1, schedule.T, 9, device=images.device).long().unique()
    ours, theirs = (loss_by_t(net, schedule, images, t).mean().item() for net in (model, average))
    if theirs <= 1.5 * ours + 0.01:
        return []
    return [
        Finding(
            "average",
            f"the averaged weights have a loss of {theirs:.3f}, the last ones {ours:.3f}",
            "The average lags: it still holds the start. Use a smaller decay, or a warm-up of it, or train longer",
        )
    ]


def _grain(x: Tensor) -> float:
    """Median over the pixels of the difference to the mean of the four neighbours: 0 on smooth ground."""
    around = (x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]) / 4
    return (x[..., 1:-1, 1:-1] - around).abs().median().item()


def _look_at_samples(samples: Tensor, images: Tensor) -> list[Finding]:
    if not samples.is_floating_point() or not bool(samples.isfinite().all()):
        return [Finding("samples", f"{samples.dtype}, or not finite", "Look at them before they are turned into bytes")]
    findings = []
    low, high = samples.min().item(), samples.max().item()
    if low < -1.5 or high > 1.5:
        findings.append(
            Finding(
                "samples' range",
                f"they reach from {low:.1f} to {high:.1f}",
                "Show them clipped to [-1, 1], never rescaled one by one: that hides a drift",
            )
        )
    elif samples.min() > -0.5 > images.min():
        findings.append(
            Finding(
                "samples' range", f"the darkest pixel is {low:.2f}", "Black is -1: are they shown in another range?"
            )
        )
    ours, theirs = (x.mean((1, 2, 3)) for x in (samples, images))
    error = (ours.mean() - theirs.mean()).abs() / (theirs.var() / len(samples) + theirs.var() / len(theirs)).sqrt()
    wide = ours.std() / theirs.std()
    if error > 5 or wide > 2:
        findings.append(
            Finding(
                "samples' brightness",
                f"{ours.mean():.2f} with a spread of {ours.std():.2f}; the images': {theirs.mean():.2f}, "
                f"{theirs.std():.2f}",
                "Look at the noise that the sampler draws (normal?), at its start, at what the model is blind to",
            )
        )
    ours, theirs = _grain(samples.clamp(-1, 1)), _grain(images)
    if ours > 1.5 * theirs + 0.01:
        findings.append(
            Finding(
                "samples' grain",
                f"neighbouring pixels differ by {ours:.3f}, in the images by {theirs:.3f}",
                "Noise is left: is some added at the last step, are values turned into bytes without clipping, is the "
                "model trained?",
            )
        )
    apart = torch.pdist(samples.flatten(1).cpu().double())  # MPS has neither pdist nor float64
    usual = torch.pdist(images[: len(samples)].flatten(1).cpu().double())
    if apart.median() < 0.5 * usual.median():
        findings.append(
            Finding(
                "samples' variety",
                f"two samples differ by {apart.median():.2f}, two images by {usual.median():.2f} (medians)",
                "Does the sampler start from pure noise of variance 1, and the forward process end there?",
            )
        )
    return findings
