"""Exercises of notebook 06: the loss of Algorithm 1, steps for a batch, the moving average, weights of steps."""

import torch
import torch.nn.functional as F

from ..losses import ddpm_loss, ema_update, middle_weight, min_snr_loss, stratified_steps, weighted_steps
from ..nets import check_step_batch
from ..schedule import cosine_schedule, linear_schedule, per_image, q_sample, snr
from .core import Exercise

HALF = torch.tensor(0.5, requires_grad=True)


def half_and_a_bit(x, t):
    """Stands in for a network: cheap, with one parameter, and its answer depends on the image and on the step."""
    check_step_batch(t, x, T=None, net="the network")  # the real ones do so, too
    return HALF * x + per_image(0.01 * t, x)


def seven_tenths(x, t):
    """Another one, without a parameter, as in the notebook: its loss has no gradient."""
    check_step_batch(t, x, T=None, net="the network")
    return 0.7 * x


def _training_batch(schedule, steps: list[int], *shape: int, model=half_and_a_bit) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    x0, noise = torch.randn((2, *shape), generator=generator)
    return model, schedule, x0, torch.tensor(steps), noise


def _predicted(model, schedule, x0, t, noise):
    return model(q_sample(schedule, x0, t, noise), t)


def _followed_back(loss):
    loss.backward()
    return loss


def _straight_blend(model, schedule, x0, t, noise):
    share = per_image(t / schedule.T, x0)
    return F.mse_loss(model((1 - share) * x0 + share * noise, t), noise)


def _weighted(weight):
    """The mean squared error of the noise with `weight(schedule, t)`, (B,), for each image."""

    def loss(model, schedule, x0, t, noise):
        error = (_predicted(model, schedule, x0, t, noise) - noise).square()
        return (error * per_image(weight(schedule, t), error)).mean()

    return loss


def _right_weight(schedule, t):
    """Of the noise's error at each step, (B,): min(1, 1 / snr)."""
    return (1 / snr(schedule)[t]).clamp(max=1)


def _smaller(model, schedule, x0, t, noise):
    """For each pixel, the smaller of the two errors: (B, C, H, W)."""
    error = (_predicted(model, schedule, x0, t, noise) - noise).square()
    return torch.minimum(error, error / per_image(snr(schedule)[t], error))


def _uniforms(count: int, T: int, last: float) -> tuple:
    u = torch.rand(count, generator=torch.Generator().manual_seed(count))
    u[-1] = last
    return u, T


def _line(count: int, weight: list[float] | torch.Tensor, first: float, last: float) -> tuple:
    u, _ = _uniforms(count, 0, last)
    u[0] = first
    return u, torch.as_tensor(weight)


def _owner(place, weight):
    """The step that owns each place in [0, 1] of the line, (B,)."""
    return torch.searchsorted(weight.cumsum(0), place * weight.sum()) + 1


def _clamped(step, weight):
    return step.clamp(1, len(weight))


def _places(u):
    return (torch.arange(len(u)) + u) / len(u)


def _steps(place, T):
    return (place * T).long().clamp(max=T - 1) + 1


def _pair(decay: float, *shape: int) -> tuple:
    average, value = torch.randn((2, *shape), generator=torch.Generator().manual_seed(len(shape)))
    return average, value, decay


Exercise(
    tag="6.1",
    reference=ddpm_loss,
    cases=lambda: [
        _training_batch(linear_schedule(50), [1, 50, 17, 3, 30], 5, 3, 4, 2),
        _training_batch(cosine_schedule(40), [20, 39, 8], 3, 1, 2, 5),
        _training_batch(linear_schedule(30), [4, 25], 2, 1, 4, 3, model=seven_tenths),
    ],
    mistakes={
        "It looks as if the prediction is compared with the clean images: this network predicts the noise.": (
            lambda m, s, x0, t, noise: F.mse_loss(_predicted(m, s, x0, t, noise), x0)
        ),
        "It looks as if the prediction is compared with x_t: the target is the noise that was added.": (
            lambda m, s, x0, t, noise: F.mse_loss(_predicted(m, s, x0, t, noise), q_sample(s, x0, t, noise))
        ),
        "It looks as if the noise of the target is scaled by sigma: the network predicts it with variance 1.": (
            lambda m, s, x0, t, noise: F.mse_loss(_predicted(m, s, x0, t, noise), per_image(s.sigma[t], x0) * noise)
        ),
        "It looks as if the network is shown the clean images: it must see x_t.": (
            lambda m, s, x0, t, noise: F.mse_loss(m(x0, t), noise)
        ),
        "It looks as if the network is told t - 1: it sees x_t, and in this course steps count from 1.": (
            lambda m, s, x0, t, noise: F.mse_loss(m(q_sample(s, x0, t, noise), t - 1), noise)
        ),
        "It looks as if the network is told floats, t.float() or t / T: the networks of this course take the step "
        "itself, an integer.": (lambda m, s, x0, t, noise: F.mse_loss(m(q_sample(s, x0, t, noise), t / s.T), noise)),
        "It looks as if all images are at the step of the first one: each has its own.": (
            lambda m, s, x0, t, noise: F.mse_loss(_predicted(m, s, x0, t[:1].expand(len(t)), noise), noise)
        ),
        "It looks as if x_t is a straight blend of image and noise, as in notebook 01. Here it is q_sample's.": (
            _straight_blend
        ),
        "It looks as if the noise is added at full strength: q_sample weighs image and noise by the step.": (
            lambda m, s, x0, t, noise: F.mse_loss(m(x0 + noise, t), noise)
        ),
        "It looks as if the squared errors are summed, not averaged: then the loss grows with the batch.": (
            lambda m, s, x0, t, noise: F.mse_loss(_predicted(m, s, x0, t, noise), noise, reduction="sum")
        ),
        "It looks as if the length of the error was taken, .norm(): the loss is the mean of the squares.": (
            lambda m, s, x0, t, noise: (_predicted(m, s, x0, t, noise) - noise).norm()
        ),
        "It looks as if the squared errors are summed over pixels, and only averaged over images. The paper writes it "
        "so; here the mean over pixels is taken, too, and 1 is what predicting 0 scores for any image size.": (
            lambda m, s, x0, t, noise: (_predicted(m, s, x0, t, noise) - noise).flatten(1).square().sum(1).mean()
        ),
        "It looks as if the root of the mean squared error was taken: leave it squared.": (
            lambda m, s, x0, t, noise: F.mse_loss(_predicted(m, s, x0, t, noise), noise).sqrt()
        ),
        "It looks as if absolute errors were averaged: square them.": (
            lambda m, s, x0, t, noise: F.l1_loss(_predicted(m, s, x0, t, noise), noise)
        ),
        "It looks as if the errors were averaged without a square: positive and negative ones cancel.": (
            lambda m, s, x0, t, noise: (_predicted(m, s, x0, t, noise) - noise).mean()
        ),
        "It looks as if x0 and noise changed places in q_sample: it takes schedule, x0, t, noise.": (
            lambda m, s, x0, t, noise: F.mse_loss(m(q_sample(s, noise, t, x0), t), noise)
        ),
        "It looks as if the network is shown the bare noise: it must see x_t.": (
            lambda m, s, x0, t, noise: F.mse_loss(m(noise, t), noise)
        ),
        "It looks as if the network was left out, and x_t itself compared with the noise.": (
            lambda m, s, x0, t, noise: F.mse_loss(q_sample(s, x0, t, noise), noise)
        ),
        "It looks as if the target is x_t - x0: q_sample shrinks the image, too, so this is not the noise.": (
            lambda m, s, x0, t, noise: F.mse_loss(_predicted(m, s, x0, t, noise), q_sample(s, x0, t, noise) - x0)
        ),
        "It looks as if the squared errors are averaged over pixels, but summed over images: average over both.": (
            lambda m, s, x0, t, noise: (_predicted(m, s, x0, t, noise) - noise).square().flatten(1).mean(1).sum()
        ),
        "It looks as if there is one loss for each image: return their mean, a scalar.": (
            lambda m, s, x0, t, noise: (_predicted(m, s, x0, t, noise) - noise).square().flatten(1).mean(1)
        ),
        "It looks as if the squared errors are returned as they are: return their mean, a scalar.": (
            lambda m, s, x0, t, noise: (_predicted(m, s, x0, t, noise) - noise).square()
        ),
        "It looks as if .item() made a plain number of the loss: return the tensor, or no gradient can flow.": (
            lambda m, s, x0, t, noise: F.mse_loss(_predicted(m, s, x0, t, noise), noise).item()
        ),
        "It looks as if .backward() is called inside: return the loss, and the training loop follows it back.": (
            lambda *batch: _followed_back(ddpm_loss(*batch))
        ),
    },
)

Exercise(
    tag="6.2",
    reference=stratified_steps,
    cases=lambda: [
        _uniforms(5, 1000, 0.503),
        _uniforms(7, 50, 1 - 2**-24),
        _uniforms(9, 300, 0.0),
        _uniforms(3, 10, 0.3),
        (torch.zeros(4), 20),  # every image at the beginning of its stretch
        _uniforms(49, 1000, 0.4),  # torch.arange(0, 1, 1 / 49) has 50 entries
    ],
    mistakes={
        "It looks as if u is spread over all of 1 ... T: that is independent drawing. Image i has its own stretch, "
        "which begins at i / B.": lambda u, T: _steps(u, T),
        "It looks as if the steps run from 0 to T - 1: step 0 is the clean image, and step T would never be trained.": (
            lambda u, T: _steps(_places(u), T) - 1
        ),
        "Nearly. Where u is close to 1, rounding takes (i + u) / B of the last image to 1, and its step to T + 1, "
        "which no table holds: clamp it.": lambda u, T: (_places(u) * T).long() + 1,
        "It looks as if you round to the nearest step: then the first and the last step get half of their share. "
        "Cut off the fraction (.long() does).": lambda u, T: (_places(u) * T).round().long().clamp(1, T),
        "Nearly. You round up. Where u is 0, that gives step 0 to the first image, and to each other one the last step "
        "of the stretch before its own. Cut off the fraction (.long() does), then add 1.": (
            lambda u, T: (_places(u) * T).ceil().long()
        ),
        "Nearly. You round up, and clamp step 0 to 1. Where u is 0, each image but the first gets the last step of the "
        "stretch before its own. Cut off the fraction (.long() does), then add 1.": (
            lambda u, T: (_places(u) * T).ceil().long().clamp(1, T)
        ),
        "It looks as if u is not used, and every batch has the same steps: most steps would never be trained.": (
            lambda u, T: _steps(_places(torch.full_like(u, 0.5)), T)
        ),
        "It looks as if all images land at the same place of their stretches, u[0]: image i has its own, u[i].": (
            lambda u, T: _steps(_places(u[:1].expand(len(u))), T)
        ),
        "It looks as if every image takes the first step of its stretch: u says where in it.": (
            lambda u, T: _steps(_places(torch.zeros_like(u)), T)
        ),
        "It looks as if the B stretches begin at linspace(0, 1, B): then the last one begins where all ends. "
        "They begin at 0 / B, 1 / B, ... (B - 1) / B.": (
            lambda u, T: _steps(torch.linspace(0, 1, len(u)) + u / len(u), T)
        ),
        "It looks as if u is added to i / B as it is: a stretch is only 1 / B long.": (
            lambda u, T: _steps(torch.arange(len(u)) / len(u) + u, T)
        ),
        "It looks as if u is not divided by B: a stretch is 1 / B long, so image i lands at (i + u) / B.": (
            lambda u, T: ((torch.arange(len(u)) / len(u) + u) * T).long() + 1
        ),
        "It looks as if nothing is divided by B: the places (i + u) / B lie in [0, 1].": (
            lambda u, T: ((torch.arange(len(u)) + u) * T).long() + 1
        ),
        "It looks as if nothing is divided by B, and clamped instead: the places (i + u) / B lie in [0, 1].": (
            lambda u, T: _steps(torch.arange(len(u)) + u, T)
        ),
        "It looks as if u is sorted: draws in order are still independent. Image i lands at (i + u) / B.": (
            lambda u, T: _steps(u.sort().values, T)
        ),
        "It looks as if 1 is added before the clamp to T - 1: then step T is never trained. Clamp first, then add 1.": (
            lambda u, T: ((_places(u) * T).long() + 1).clamp(max=T - 1)
        ),
        "It looks as if only u is divided by B: (i + u) / B needs its brackets.": (
            lambda u, T: _steps(torch.arange(len(u)) + u / len(u), T)
        ),
        "It looks as if only u is divided by B and multiplied by T: (i + u) / B * T needs its brackets.": (
            lambda u, T: (torch.arange(len(u)) + u / len(u) * T).long().clamp(max=T - 1) + 1
        ),
        "It looks as if you divided by B - 1: there are B stretches, each of them 1 / B long.": (
            lambda u, T: _steps((torch.arange(len(u)) + u) / (len(u) - 1), T)
        ),
        "It looks as if nothing was added to the fraction cut off: steps run from 1 to T, so add 1 (after a clamp to "
        "T - 1).": lambda u, T: (_places(u) * T).long(),
        "It looks as if step 0 was clamped to 1, and no 1 added: then step 1 comes twice as often, and T hardly ever. "
        "Clamp to T - 1, then add 1.": lambda u, T: (_places(u) * T).long().clamp(1, T),
        "It looks as if place is multiplied by T - 1: then step T would hardly ever be trained.": (
            lambda u, T: (_places(u) * (T - 1)).long() + 1
        ),
        "It looks as if you round to the nearest step and then add 1: cut off the fraction instead (.long() does).": (
            lambda u, T: (_places(u) * T).round().long() + 1
        ),
        "It looks as if you round to the nearest step: then step 0 may come out, and T gets half of its share. "
        "Cut off the fraction (.long() does), and add 1.": lambda u, T: (_places(u) * T).round().long(),
        "It looks as if the stretches are counted from 1: image 0 has the stretch from 0 to 1 / B.": (
            lambda u, T: _steps((torch.arange(len(u)) + 1 + u) / len(u), T)
        ),
        "It looks as if every stretch is T // B steps long: T need not be a multiple of B, and the last steps would "
        "never be trained.": (lambda u, T: torch.arange(len(u)) * (T // len(u)) + (u * (T // len(u))).long() + 1),
        "It looks as if the length of a stretch is rounded, T // B. Where B does not divide T, the last steps would "
        "never be trained: multiply (i + u) / B by T, then cut off.": (
            lambda u, T: ((torch.arange(len(u)) + u) * (T // len(u))).long() + 1
        ),
        "It looks as if place itself was returned: a step is the place times T, cut off, plus 1.": (
            lambda u, T: _places(u)
        ),
        "It looks as if the steps are still floats with a fraction: cut it off (.long() does).": (
            lambda u, T: (_places(u) * T).clamp(max=T - 1) + 1
        ),
        "The numbers are right, but they are floats, and steps are indices: .long() makes integers.": (
            lambda u, T: _steps(_places(u), T).float()
        ),
        "The numbers are right, but they are int32: .long() makes int64.": lambda u, T: _steps(_places(u), T).int(),
    },
)

Exercise(
    tag="6.3",
    reference=ema_update,
    cases=lambda: [_pair(0.9, 5, 3, 4, 2), _pair(0.999, 4, 3), _pair(0.75, 6), _pair(0.0, 2, 3, 5)],
    mistakes={
        "It looks as if the two weights are swapped: with decay 0.999 the average should hardly move.": (
            lambda average, value, decay: (1 - decay) * average + decay * value
        ),
        "It looks as if the new value has weight 1: the two weights must add up to 1, or the average grows.": (
            lambda average, value, decay: decay * average + value
        ),
        "It looks as if the old average keeps weight 1: the two weights must add up to 1, or the average grows.": (
            lambda average, value, decay: average + (1 - decay) * value
        ),
        "It looks as if the old average is left out: it has weight decay.": (
            lambda average, value, decay: (1 - decay) * value
        ),
        "It looks as if both have weight 1/2: decay says how much of the old average stays.": (
            lambda average, value, decay: (average + value) / 2
        ),
        "It looks as if the average moves away from the value: the step is (1 - decay) (value - average).": (
            lambda average, value, decay: average + (1 - decay) * (average - value)
        ),
        "It looks as if the two terms are subtracted: (6.4) adds them.": (
            lambda average, value, decay: decay * average - (1 - decay) * value
        ),
        "It looks as if both are multiplied by decay: the new value has the weight 1 - decay.": (
            lambda average, value, decay: decay * (average + value)
        ),
        "It looks as if 1 - decay has lost its brackets: Python reads decay * average + 1 - (decay * value).": (
            lambda average, value, decay: decay * average + 1 - decay * value
        ),
        "It looks as if 1 - decay has lost its brackets: Python reads decay * average + (value * 1) - decay.": (
            lambda average, value, decay: decay * average + value - decay
        ),
        "It looks as if decay is fixed at 0.999: use the argument.": (
            lambda average, value, decay: 0.999 * average + (1 - 0.999) * value
        ),
        "It looks as if the new value is returned as it is, and nothing averaged.": lambda average, value, decay: value,
        "It looks as if the old average is returned as it is: the new value is missing.": (
            lambda average, value, decay: average
        ),
    },
)

Exercise(
    tag="6.4",
    reference=min_snr_loss,
    cases=lambda: [
        _training_batch(linear_schedule(50), [1, 50, 17, 3, 30], 5, 3, 4, 2),
        _training_batch(cosine_schedule(40), [20, 39, 8], 3, 1, 2, 5),
        _training_batch(cosine_schedule(40), [2, 12], 2, 1, 3, 2),
        _training_batch(linear_schedule(30), [4, 25], 2, 1, 4, 3, model=seven_tenths),
    ],
    mistakes={
        "It looks as if there is no weight, or one that is always 1: this is the error of the noise alone.": _weighted(
            lambda s, t: torch.ones_like(s.beta[t])
        ),
        "It looks as if this is the error of the clean image alone: where snr is below 1, take that of the noise.": (
            _weighted(lambda s, t: 1 / snr(s)[t])
        ),
        "It looks as if the larger of the two errors was taken: the weight is at most 1.": _weighted(
            lambda s, t: (1 / snr(s)[t]).clamp(min=1)
        ),
        "It looks as if the weight is min(1, snr), which belongs to the error of the clean image. For the error of the "
        "noise it is min(1, 1 / snr).": _weighted(lambda s, t: snr(s)[t].clamp(max=1)),
        "It looks as if gamma is 5, min(1, 5 / snr): here it is 1.": _weighted(
            lambda s, t: (5 / snr(s)[t]).clamp(max=1)
        ),
        "It looks as if the ratio of the amplitudes was taken, sqrt(alpha_bar) / sigma: snr is its square.": _weighted(
            lambda s, t: snr(s)[t].rsqrt().clamp(max=1)
        ),
        "It looks as if this is the error of the velocity, the sum of the two: take the smaller one.": _weighted(
            lambda s, t: 1 / s.alpha_bar[t]
        ),
        "It looks as if the weight was multiplied before the square: it is a weight of the squared error.": _weighted(
            lambda s, t: _right_weight(s, t).square()
        ),
        "It looks as if the weight is that of step t - 1: the table has a place for step 0.": _weighted(
            lambda s, t: (1 / snr(s)[t - 1]).clamp(max=1)
        ),
        "It looks as if the errors, or the weights, are averaged over the batch first: multiply image by image, then "
        "take the mean.": _weighted(lambda s, t: _right_weight(s, t).mean().expand(len(t))),
        "It looks as if the mean error of the batch was multiplied by the weights: multiply the squared errors of each "
        "image by its weight, then take the mean.": (
            lambda m, s, x0, t, noise: ddpm_loss(m, s, x0, t, noise) * _right_weight(s, t)
        ),
        "It looks as if F.mse_loss took the mean over the batch before the weights came in: keep the squared errors of "
        "each image, multiply, then take the mean.": (
            lambda m, s, x0, t, noise: ddpm_loss(m, s, x0, t, noise) * per_image(_right_weight(s, t), x0)
        ),
        "It looks as if the errors are not squared.": (
            lambda m, s, x0, t, noise: (
                (_predicted(m, s, x0, t, noise) - noise) * per_image(_right_weight(s, t), x0)
            ).mean()
        ),
        "It looks as if the errors are taken without their sign, and not squared.": (
            lambda m, s, x0, t, noise: (
                (_predicted(m, s, x0, t, noise) - noise).abs() * per_image(_right_weight(s, t), x0)
            ).mean()
        ),
        "It looks as if the root of the loss was taken: leave it squared.": (
            lambda *batch: _smaller(*batch).mean().sqrt()
        ),
        "It looks as if the weight is snr: where the noise is weak, that is large. It is min(1, 1 / snr).": _weighted(
            lambda s, t: snr(s)[t]
        ),
        "It looks as if the weight is the variance of the noise, 1 - alpha_bar: it is min(1, 1 / snr).": _weighted(
            lambda s, t: s.sigma[t].square()
        ),
        "It looks as if the weight of the noise's error was put on the error of the clean image, which is that "
        "of the noise divided by snr: multiply the error of the noise.": (
            _weighted(lambda s, t: _right_weight(s, t) / snr(s)[t])
        ),
        "It looks as if the errors are clamped: the 1 is a limit of the weight, before it multiplies the errors.": (
            lambda m, s, x0, t, noise: (
                ((_predicted(m, s, x0, t, noise) - noise).square() / per_image(snr(s)[t], x0)).clamp(max=1)
            ).mean()
        ),
        "It looks as if the network is shown the clean images: it must see x_t.": (
            lambda m, s, x0, t, noise: ((m(x0, t) - noise).square() * per_image(_right_weight(s, t), x0)).mean()
        ),
        "It looks as if the sum was divided by the sum of the weights: take the plain mean.": (
            lambda m, s, x0, t, noise: _smaller(m, s, x0, t, noise).mean() / _right_weight(s, t).mean()
        ),
        "It looks as if the mean errors of the whole batch were compared: each image has its own smaller one.": (
            lambda m, s, x0, t, noise: torch.minimum(
                _weighted(lambda s, t: torch.ones_like(s.beta[t]))(m, s, x0, t, noise),
                _weighted(lambda s, t: 1 / snr(s)[t])(m, s, x0, t, noise),
            )
        ),
        "It looks as if the prediction is compared with the clean images: this network predicts the noise.": (
            lambda m, s, x0, t, noise: (
                (_predicted(m, s, x0, t, noise) - x0).square() * per_image(_right_weight(s, t), x0)
            ).mean()
        ),
        "It looks as if the squared errors are summed, not averaged: then the loss grows with the batch.": (
            lambda *batch: _smaller(*batch).sum()
        ),
        "It looks as if the squared errors are summed over pixels, and only averaged over images: average over both.": (
            lambda *batch: _smaller(*batch).sum((1, 2, 3)).mean()
        ),
        "It looks as if there is one loss for each image: return their mean, a scalar.": (
            lambda *batch: _smaller(*batch).flatten(1).mean(1)
        ),
        "It looks as if the squared errors are returned as they are: return their mean, a scalar.": _smaller,
        "It looks as if .item() made a plain number of the loss: return the tensor, or no gradient can flow.": (
            lambda *batch: _smaller(*batch).mean().item()
        ),
        "It looks as if .backward() is called inside: return the loss, and the training loop follows it back.": (
            lambda *batch: _followed_back(min_snr_loss(*batch))
        ),
    },
)

Exercise(
    tag="6.5",
    reference=weighted_steps,
    cases=lambda: [
        _line(5, [1.0, 3.0, 0.5, 2.0, 4.0, 0.25, 1.5], 0.4, 0.7),
        _line(9, middle_weight(cosine_schedule(40)), 0.2, 0.6),
        _line(7, [0.01, 0.02, 0.005, 0.04], 0.0, 1 - 2**-24),
        _line(3, [5.0, 0.5, 0.5, 0.5, 6.0], 0.3, 0.6),
        _line(8, middle_weight(cosine_schedule(30)), 0.7, 0.9),
    ],
    mistakes={
        "It looks as if the weights are not used: every step owns a stretch of the same length.": (
            lambda u, weight: stratified_steps(u, len(weight))
        ),
        "It looks as if the weights are not used: (i + u) / B times T gives every step a stretch of the same length.": (
            lambda u, weight: (_places(u) * len(weight)).long() + 1
        ),
        "It looks as if the line has the length 1: it is as long as the sum of the weights. Multiply the places by it, "
        "or divide the ends.": lambda u, weight: torch.searchsorted(weight.cumsum(0), _places(u)) + 1,
        "It looks as if the steps are counted from 0: weight[0] belongs to step 1, so add 1.": (
            lambda u, weight: weighted_steps(u, weight) - 1
        ),
        "It looks as if u is spread over the whole line: that is independent drawing. Image i lands at (i + u) / B of "
        "its length.": lambda u, weight: _owner(u, weight),
        "It looks as if u is sorted: draws in order are still independent. Image i lands at (i + u) / B of the length "
        "of the line.": lambda u, weight: _owner(u.sort().values, weight),
        "It looks as if u is not used, and every batch has the same steps.": (
            lambda u, weight: _owner(_places(torch.full_like(u, 0.5)), weight)
        ),
        "It looks as if all images land at the same place of their shares of the line, u[0]: image i has its own, "
        "u[i].": lambda u, weight: _owner(_places(u[:1].expand(len(u))), weight),
        "It looks as if every image lands at the beginning of its share of the line: u says where in it.": (
            lambda u, weight: _owner(_places(torch.zeros_like(u)), weight)
        ),
        "It looks as if u is not divided by B: image i lands at (i + u) / B of the length of the line.": (
            lambda u, weight: _owner(torch.arange(len(u)) / len(u) + u, weight)
        ),
        "Nearly. Where u is close to 1, rounding takes the last place to the last end, or beyond it, and its step to "
        "T + 1: clamp, as in Exercise 6.2, to len(weight) - 1.": lambda u, weight: _owner(_places(u), weight),
        "It looks as if the line has the length 1, and steps are clamped: it is as long as the sum of the weights.": (
            lambda u, weight: _clamped(torch.searchsorted(weight.cumsum(0), _places(u)) + 1, weight)
        ),
        "It looks as if the places are multiplied by T, and the steps clamped: the line is as long as the sum of the "
        "weights.": (
            lambda u, weight: _clamped(torch.searchsorted(weight.cumsum(0), _places(u) * len(weight)) + 1, weight)
        ),
        "It looks as if u is not divided by B, and the steps are clamped: image i lands at (i + u) / B of the length "
        "of the line.": lambda u, weight: _clamped(_owner(torch.arange(len(u)) / len(u) + u, weight), weight),
        "It looks as if the images are counted from 1: image 0 has the first share of the line.": (
            lambda u, weight: _clamped(_owner((torch.arange(len(u)) + 1 + u) / len(u), weight), weight)
        ),
        "It looks as if the line is as long as the largest weight: it is as long as their sum.": (
            lambda u, weight: torch.searchsorted(weight.cumsum(0), _places(u) * weight.max()) + 1
        ),
        "It looks as if you search among the weights themselves: their running sum says where the stretches end.": (
            lambda u, weight: torch.searchsorted(weight, _places(u) * weight.sum()) + 1
        ),
        "It looks as if you search among the beginnings of the stretches and then add 1: a place lies behind the "
        "beginning of its own stretch, so it counts already.": (
            lambda u, weight: torch.searchsorted(weight.cumsum(0) - weight, _places(u) * weight.sum()) + 1
        ),
        "Nearly. You search among the beginnings of the stretches: a place at 0 lies behind none, and gets step 0. "
        "Search among the ends and add 1.": (
            lambda u, weight: torch.searchsorted(weight.cumsum(0) - weight, _places(u) * weight.sum())
        ),
        "It looks as if the places are multiplied by T: the line is as long as the sum of the weights.": (
            lambda u, weight: torch.searchsorted(weight.cumsum(0), _places(u) * len(weight)) + 1
        ),
        "It looks as if a step with a large weight comes rarely: its stretch is the weight long, not 1 / weight.": (
            lambda u, weight: _owner(_places(u), 1 / weight)
        ),
        "It looks as if the two arguments of searchsorted changed places: first the ends, then the places.": (
            lambda u, weight: torch.searchsorted(_places(u) * weight.sum(), weight.cumsum(0)) + 1
        ),
        "It looks as if the places themselves were returned: return the steps that own them.": (
            lambda u, weight: _places(u) * weight.sum()
        ),
        "The numbers are right, but they are floats, and steps are indices: .long() makes integers.": (
            lambda u, weight: weighted_steps(u, weight).float()
        ),
        "The numbers are right, but they are int32: .long() makes int64.": (
            lambda u, weight: weighted_steps(u, weight).int()
        ),
    },
)
