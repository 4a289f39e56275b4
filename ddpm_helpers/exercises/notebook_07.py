"""Exercises of notebook 07: one step of Algorithm 2, one step of DDIM, which steps, and the arc between two starts."""

import numpy as np
import torch

from ..lessons.toy import double
from ..sampling import ddim_step, ddim_steps, ddpm_step, slerp
from ..schedule import cosine_schedule, linear_schedule, per_image
from .core import Exercise


def _images(*shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    return tuple(torch.randn((3, *shape), generator=generator))


def _ddpm(schedule, t: int, *shape: int) -> tuple:
    x_t, eps, noise = _images(*shape)
    return schedule, x_t, t, eps, noise


def _ddim(schedule, t: int, s: int, *shape: int) -> tuple:
    x_t, eps, _ = _images(*shape)
    return schedule, x_t, t, s, eps


def _exact(case: tuple) -> tuple:
    """The same case in 64 bits, as the notebook's checks of equations have it."""
    schedule, *rest = case
    return double(schedule), *(a.double() if isinstance(a, torch.Tensor) else a for a in rest)


def _guess(s, x_t, t, eps, clip=True):
    x0_hat = (x_t - s.sigma[t] * eps) / s.sqrt_alpha_bar[t]
    return x0_hat.clamp(-1, 1) if clip else x0_hat


def _mean(s, x_t, t, x0_hat):
    of_x0 = s.sqrt_alpha_bar[t - 1] * s.beta[t] / s.sigma[t] ** 2
    of_x_t = s.alpha[t].sqrt() * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2
    return of_x0 * x0_hat + of_x_t * x_t


def _noisy(weight):
    """A `ddpm_step` whose noise has another weight, a function of (schedule, t)."""

    def wrong(s, x_t, t, eps, noise):
        mean = _mean(s, x_t, t, _guess(s, x_t, t, eps))
        return mean if t == 1 else mean + weight(s, t) * noise

    return wrong


def _with_mean(formula):
    """A `ddpm_step` with another mean, a function of (schedule, x_t, t, eps)."""

    def wrong(s, x_t, t, eps, noise):
        mean = formula(s, x_t, t, eps)
        return mean if t == 1 else mean + s.beta[t].sqrt() * noise

    return wrong


Exercise(
    tag="7.1",
    reference=ddpm_step,
    cases=lambda: [
        _ddpm(linear_schedule(50), 30, 5, 3, 4, 2),
        _ddpm(cosine_schedule(40), 2, 3, 1, 2, 5),
        _ddpm(linear_schedule(50), 1, 2, 3, 5, 4),
        _ddpm(linear_schedule(1000), 1000, 4, 1, 3, 2),
        _exact(_ddpm(linear_schedule(50), 5, 6, 1, 1, 1)),
    ],
    mistakes={
        "It looks as if noise is added at the last step, too: at t = 1 return the mean.": (
            lambda s, x_t, t, eps, noise: _mean(s, x_t, t, _guess(s, x_t, t, eps)) + s.beta[t].sqrt() * noise
        ),
        "It looks as if no noise is added at all: only the last step, t = 1, goes without.": _noisy(lambda s, t: 0.0),
        "It looks as if T is taken for the last step, and goes without noise: sampling ends at t = 1, return the mean "
        "there.": (
            lambda s, x_t, t, eps, noise: (
                _mean(s, x_t, t, _guess(s, x_t, t, eps)) + (0.0 if t == s.T else s.beta[t].sqrt() * noise)
            )
        ),
        "It looks as if no noise is added at t = T: only the last step, t = 1, goes without.": (
            _noisy(lambda s, t: 0.0 if t == s.T else s.beta[t].sqrt())
        ),
        "It looks as if the noise is subtracted: (7.4) adds it. (It would sample as well.)": (
            _noisy(lambda s, t: -s.beta[t].sqrt())
        ),
        "It looks as if the noise has the variance beta_{t-1}: the step from t has beta_t.": (
            _noisy(lambda s, t: s.beta[t - 1].sqrt())
        ),
        "It looks as if the noise has weight beta: beta is a variance, take its square root.": (
            _noisy(lambda s, t: s.beta[t])
        ),
        "It looks as if the noise has weight sigma_t, that of the whole jump: one step adds sqrt(beta_t).": (
            _noisy(lambda s, t: s.sigma[t])
        ),
        "It looks as if the noise has weight sigma_{t-1}, that of the whole jump: one step adds sqrt(beta_t).": (
            _noisy(lambda s, t: s.sigma[t - 1])
        ),
        "It looks as if the noise has the posterior's variance: a good choice, and the next one in the text. Here "
        "it is beta_t.": _noisy(lambda s, t: s.posterior_variance[t].sqrt()),
        "It looks as if the mean does not use a clipped guess. Keep what .clamp(-1, 1) returns, and take (7.2) for the "
        "mean: in (7.3) there is no guess to clip.": (
            _with_mean(lambda s, x_t, t, eps: _mean(s, x_t, t, _guess(s, x_t, t, eps, clip=False)))
        ),
        "It looks as if the mean is clipped: clip the guess at the clean image. x_{t-1} may lie outside of [-1, 1].": (
            _with_mean(lambda s, x_t, t, eps: _mean(s, x_t, t, _guess(s, x_t, t, eps, clip=False)).clamp(-1, 1))
        ),
        "It looks as if the two weights of the mean are swapped: the small one belongs to the guess.": (
            _with_mean(
                lambda s, x_t, t, eps: (
                    s.sqrt_alpha_bar[t - 1] * s.beta[t] / s.sigma[t] ** 2 * x_t
                    + s.alpha[t].sqrt() * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2 * _guess(s, x_t, t, eps)
                )
            )
        ),
        "It looks as if the mean divides by sigma_t instead of its square, 1 - alpha_bar_t.": (
            _with_mean(lambda s, x_t, t, eps: _mean(s, x_t, t, _guess(s, x_t, t, eps)) * s.sigma[t])
        ),
        "It looks as if the mean has sigma_t and sigma_{t-1} where their squares belong: they are 1 - alpha_bar.": (
            _with_mean(
                lambda s, x_t, t, eps: (
                    s.sqrt_alpha_bar[t - 1] * s.beta[t] / s.sigma[t] * _guess(s, x_t, t, eps)
                    + s.alpha[t].sqrt() * s.sigma[t - 1] / s.sigma[t] * x_t
                )
            )
        ),
        "It looks as if sigma_{t-1} is not squared in front of x_t.": (
            _with_mean(
                lambda s, x_t, t, eps: (
                    s.sqrt_alpha_bar[t - 1] * s.beta[t] / s.sigma[t] ** 2 * _guess(s, x_t, t, eps)
                    + s.alpha[t].sqrt() * s.sigma[t - 1] / s.sigma[t] ** 2 * x_t
                )
            )
        ),
        "It looks as if sqrt_alpha_bar is read at t in the mean: the weight of the guess has that of t - 1.": (
            _with_mean(
                lambda s, x_t, t, eps: (
                    s.sqrt_alpha_bar[t] * s.beta[t] / s.sigma[t] ** 2 * _guess(s, x_t, t, eps)
                    + s.alpha[t].sqrt() * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2 * x_t
                )
            )
        ),
        "It looks as if both weights of the mean are read at t: (7.2) has t - 1 in sqrt_alpha_bar and in sigma above "
        "the line.": (
            _with_mean(
                lambda s, x_t, t, eps: (
                    s.sqrt_alpha_bar[t] * s.beta[t] / s.sigma[t] ** 2 * _guess(s, x_t, t, eps) + s.alpha[t].sqrt() * x_t
                )
            )
        ),
        "It looks as if the guess adds the noise: the jump added it, (7.1) takes it off.": (
            _with_mean(lambda s, x_t, t, eps: _mean(s, x_t, t, _guess(s, x_t, t, -eps)))
        ),
        "It looks as if the guess takes off the fresh noise: (7.1) has eps, what the network answered.": (
            lambda s, x_t, t, eps, noise: (
                _mean(s, x_t, t, _guess(s, x_t, t, noise)) + (0.0 if t == 1 else s.beta[t].sqrt() * noise)
            )
        ),
        "It looks as if the guess takes off sigma_t squared times eps: the image holds sigma_t times eps.": (
            _with_mean(
                lambda s, x_t, t, eps: _mean(
                    s, x_t, t, ((x_t - s.sigma[t] ** 2 * eps) / s.sqrt_alpha_bar[t]).clamp(-1, 1)
                )
            )
        ),
        "It looks as if the guess takes off eps itself: the image holds sigma_t times eps.": (
            _with_mean(lambda s, x_t, t, eps: _mean(s, x_t, t, ((x_t - eps) / s.sqrt_alpha_bar[t]).clamp(-1, 1)))
        ),
        "It looks as if the guess is divided by alpha_bar_t: divide by its root, sqrt_alpha_bar_t.": (
            _with_mean(
                lambda s, x_t, t, eps: _mean(
                    s, x_t, t, ((x_t - s.sigma[t] * eps) / s.sqrt_alpha_bar[t] ** 2).clamp(-1, 1)
                )
            )
        ),
        "It looks as if the guess is clipped to [0, 1]: our images lie in [-1, 1].": (
            _with_mean(lambda s, x_t, t, eps: _mean(s, x_t, t, _guess(s, x_t, t, eps, clip=False).clamp(0, 1)))
        ),
        "It looks as if only the noise is divided by sqrt_alpha_bar_t: (7.1) divides x_t, too, so set brackets.": (
            _with_mean(
                lambda s, x_t, t, eps: _mean(s, x_t, t, (x_t - s.sigma[t] * eps / s.sqrt_alpha_bar[t]).clamp(-1, 1))
            )
        ),
        "It looks as if the guess is clipped at 1 alone: .clamp(-1, 1) has two ends.": (
            _with_mean(lambda s, x_t, t, eps: _mean(s, x_t, t, _guess(s, x_t, t, eps, clip=False).clamp(max=1)))
        ),
        "It looks as if the guess is not divided: the jump shrank the image by sqrt_alpha_bar_t, so divide by that.": (
            _with_mean(lambda s, x_t, t, eps: _mean(s, x_t, t, (x_t - s.sigma[t] * eps).clamp(-1, 1)))
        ),
        "It looks as if x_{t-1} is clipped: it holds noise and may lie outside of [-1, 1]. Clip the guess alone.": (
            lambda s, x_t, t, eps, noise: ddpm_step(s, x_t, t, eps, noise).clamp(-1, 1)
        ),
        "It looks as if eps is added at the end: that is the network's answer. The fresh noise is the argument "
        "noise.": lambda s, x_t, t, eps, noise: ddpm_step(s, x_t, t, eps, eps),
        "It looks as if the guess is returned: that is a jump to the end. (7.2) moves a little towards it.": (
            lambda s, x_t, t, eps, noise: _guess(s, x_t, t, eps)
        ),
        "It looks as if alpha_t has no square root in the mean.": (
            _with_mean(
                lambda s, x_t, t, eps: (
                    s.sqrt_alpha_bar[t - 1] * s.beta[t] / s.sigma[t] ** 2 * _guess(s, x_t, t, eps)
                    + s.alpha[t] * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2 * x_t
                )
            )
        ),
        "It looks as if the weight of x_t has the root of alpha_bar_t: take that of alpha_t, of this step alone.": (
            _with_mean(
                lambda s, x_t, t, eps: (
                    s.sqrt_alpha_bar[t - 1] * s.beta[t] / s.sigma[t] ** 2 * _guess(s, x_t, t, eps)
                    + s.sqrt_alpha_bar[t] * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2 * x_t
                )
            )
        ),
        "It looks as if alpha_bar stands in both lines where its root belongs: the table is schedule.sqrt_alpha_bar.": (
            _with_mean(
                lambda s, x_t, t, eps: (
                    s.alpha_bar[t - 1]
                    * s.beta[t]
                    / s.sigma[t] ** 2
                    * ((x_t - s.sigma[t] * eps) / s.alpha_bar[t]).clamp(-1, 1)
                    + s.alpha[t].sqrt() * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2 * x_t
                )
            )
        ),
        "It looks as if alpha_bar stands where its square root belongs, in front of the guess.": (
            _with_mean(
                lambda s, x_t, t, eps: (
                    s.alpha_bar[t - 1] * s.beta[t] / s.sigma[t] ** 2 * _guess(s, x_t, t, eps)
                    + s.alpha[t].sqrt() * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2 * x_t
                )
            )
        ),
        "It looks as if beta_t stands where alpha_bar_t belongs: the guess undoes the whole jump, with sigma_t and "
        "sqrt_alpha_bar_t.": (
            _with_mean(
                lambda s, x_t, t, eps: _mean(
                    s, x_t, t, ((x_t - s.beta[t].sqrt() * eps) / s.alpha[t].sqrt()).clamp(-1, 1)
                )
            )
        ),
        "It looks as if the guess is shrunk and given new noise of step t - 1: that jumps, and forgets where x_t was. "
        "Mix the guess with x_t by (7.2).": (
            lambda s, x_t, t, eps, noise: s.sqrt_alpha_bar[t - 1] * _guess(s, x_t, t, eps) + s.sigma[t - 1] * noise
        ),
    },
    tolerance=1e-4,  # in 32 bits 1 - alpha_bar is not sigma^2 to the last digits, and right on paper
    tolerance_64=1e-9,
)


def _remix(s, x_t, t, x0_hat):
    return (x_t - s.sqrt_alpha_bar[t] * x0_hat) / s.sigma[t]


def _ddim_with(formula):
    """A `ddim_step` that ends with another formula of (schedule, t, s, clipped guess, noise that fits it)."""

    def wrong(schedule, x_t, t, s, eps):
        x0_hat = _guess(schedule, x_t, t, eps)
        return formula(schedule, t, s, x0_hat, _remix(schedule, x_t, t, x0_hat))

    return wrong


def _ddim_from(schedule, s, x0_hat, eps):
    return schedule.sqrt_alpha_bar[s] * x0_hat + schedule.sigma[s] * eps


def _ddim_guessing(guess):
    """A `ddim_step` with another guess, a function of (schedule, x_t, t, s, eps), and the noise that fits it."""

    def wrong(schedule, x_t, t, s, eps):
        x0_hat = guess(schedule, x_t, t, s, eps)
        return _ddim_from(schedule, s, x0_hat, _remix(schedule, x_t, t, x0_hat))

    return wrong


def _ddim_remixing(remix):
    """A `ddim_step` with other noise for the guess, a function of (schedule, x_t, t, clipped guess)."""

    def wrong(schedule, x_t, t, s, eps):
        x0_hat = _guess(schedule, x_t, t, eps)
        return _ddim_from(schedule, s, x0_hat, remix(schedule, x_t, t, x0_hat))

    return wrong


def _ddim_unclipped(schedule, x_t, t, s, eps):
    return schedule.sqrt_alpha_bar[s] * _guess(schedule, x_t, t, eps, clip=False) + schedule.sigma[s] * eps


Exercise(
    tag="7.2",
    reference=ddim_step,
    cases=lambda: [
        _ddim(linear_schedule(50), 30, 10, 5, 3, 4, 2),
        _ddim(cosine_schedule(40), 39, 38, 3, 1, 2, 5),
        _ddim(linear_schedule(50), 4, 0, 2, 3, 5, 4),
        _exact(_ddim(linear_schedule(50), 35, 10, 4, 1, 3, 2)),
    ],
    mistakes={
        "It looks as if the noise still is the network's after the guess was clipped: compute the noise that fits the "
        "clipped guess, from x_t.": (
            lambda schedule, x_t, t, s, eps: (
                schedule.sqrt_alpha_bar[s] * _guess(schedule, x_t, t, eps) + schedule.sigma[s] * eps
            )
        ),
        "It looks as if the guess is not clipped: .clamp(-1, 1).": _ddim_unclipped,
        "It looks as if the tables are read at t in the last line: that gives x_t back. The new mix is that of step "
        "s.": (
            _ddim_with(
                lambda schedule, t, s, x0_hat, eps: schedule.sqrt_alpha_bar[t] * x0_hat + schedule.sigma[t] * eps
            )
        ),
        "It looks as if s and t are swapped everywhere: the guess undoes step t, the new mix is that of step s.": (
            lambda schedule, x_t, t, s, eps: _ddim_with(
                lambda schedule, t, s, x0_hat, eps: schedule.sqrt_alpha_bar[s] * x0_hat + schedule.sigma[s] * eps
            )(schedule, x_t, s, t, eps)
        ),
        "It looks as if the noise is computed with the tables at s: x_t is the image of step t, so read them at t.": (
            lambda schedule, x_t, t, s, eps: _ddim_from(
                schedule,
                s,
                _guess(schedule, x_t, t, eps),
                _remix(schedule, x_t, s, _guess(schedule, x_t, t, eps)),
            )
        ),
        "It looks as if the guess is computed with the tables at s: x_t is the image of step t, so read them at t.": (
            _ddim_guessing(lambda schedule, x_t, t, s, eps: _guess(schedule, x_t, s, eps))
        ),
        "It looks as if the guess adds the noise: the jump added it, (7.1) takes it off.": (
            _ddim_guessing(lambda schedule, x_t, t, s, eps: _guess(schedule, x_t, t, -eps))
        ),
        "It looks as if only the noise is divided by sqrt_alpha_bar_t: (7.1) divides x_t, too, so set brackets.": (
            _ddim_guessing(
                lambda schedule, x_t, t, s, eps: (x_t - schedule.sigma[t] * eps / schedule.sqrt_alpha_bar[t]).clamp(
                    -1, 1
                )
            )
        ),
        "It looks as if the guess is divided by alpha_bar_t: divide by its root, sqrt_alpha_bar_t.": (
            _ddim_guessing(
                lambda schedule, x_t, t, s, eps: ((x_t - schedule.sigma[t] * eps) / schedule.alpha_bar[t]).clamp(-1, 1)
            )
        ),
        "It looks as if the guess is not divided: the jump shrank the image by sqrt_alpha_bar_t, so divide by that.": (
            _ddim_guessing(lambda schedule, x_t, t, s, eps: (x_t - schedule.sigma[t] * eps).clamp(-1, 1))
        ),
        "It looks as if the guess is clipped to [0, 1]: our images lie in [-1, 1].": (
            _ddim_guessing(lambda schedule, x_t, t, s, eps: _guess(schedule, x_t, t, eps, clip=False).clamp(0, 1))
        ),
        "It looks as if the guess is clipped at 1 alone: .clamp(-1, 1) has two ends.": (
            _ddim_guessing(lambda schedule, x_t, t, s, eps: _guess(schedule, x_t, t, eps, clip=False).clamp(max=1))
        ),
        "It looks as if only the guess is divided by sigma_t in the second line: x_t is, too, so set brackets.": (
            _ddim_remixing(
                lambda schedule, x_t, t, x0_hat: x_t - schedule.sqrt_alpha_bar[t] * x0_hat / schedule.sigma[t]
            )
        ),
        "It looks as if the noise is computed with alpha_bar_t: x_t holds its root, sqrt_alpha_bar_t, times x0_hat.": (
            _ddim_remixing(lambda schedule, x_t, t, x0_hat: (x_t - schedule.alpha_bar[t] * x0_hat) / schedule.sigma[t])
        ),
        "It looks as if sqrt_alpha_bar is read at t in the last line: the new mix is that of step s.": (
            _ddim_with(
                lambda schedule, t, s, x0_hat, eps: schedule.sqrt_alpha_bar[t] * x0_hat + schedule.sigma[s] * eps
            )
        ),
        "It looks as if the noise is divided by sigma_s: x_t holds sigma_t of it.": (
            lambda schedule, x_t, t, s, eps: _ddim_from(
                schedule,
                s,
                _guess(schedule, x_t, t, eps),
                (x_t - schedule.sqrt_alpha_bar[t] * _guess(schedule, x_t, t, eps)) / schedule.sigma[s],
            )
        ),
        "It looks as if sigma is read at t in the last line: the new mix is that of step s.": (
            _ddim_with(
                lambda schedule, t, s, x0_hat, eps: schedule.sqrt_alpha_bar[s] * x0_hat + schedule.sigma[t] * eps
            )
        ),
        "It looks as if the noise is clipped: only the clean image has the range [-1, 1].": (
            _ddim_with(lambda schedule, t, s, x0_hat, eps: _ddim_from(schedule, s, x0_hat, eps.clamp(-1, 1)))
        ),
        "It looks as if the network's noise is clipped: noise has no range. Compute the noise that fits the clipped "
        "guess, from x_t.": (
            lambda schedule, x_t, t, s, eps: _ddim_from(schedule, s, _guess(schedule, x_t, t, eps), eps.clamp(-1, 1))
        ),
        "It looks as if the noise has the weight 1 - sqrt_alpha_bar: the squares of the two weights add up to 1, take "
        "schedule.sigma.": (
            _ddim_with(
                lambda schedule, t, s, x0_hat, eps: (
                    schedule.sqrt_alpha_bar[s] * x0_hat + (1 - schedule.sqrt_alpha_bar[s]) * eps
                )
            )
        ),
        "It looks as if the noise has the weight 1 - alpha_bar: that is a variance, its root is schedule.sigma.": (
            _ddim_with(
                lambda schedule, t, s, x0_hat, eps: (
                    schedule.sqrt_alpha_bar[s] * x0_hat + (1 - schedule.alpha_bar[s]) * eps
                )
            )
        ),
        "It looks as if the noise is not divided by sigma_t.": (
            _ddim_with(lambda schedule, t, s, x0_hat, eps: _ddim_from(schedule, s, x0_hat, schedule.sigma[t] * eps))
        ),
        "It looks as if the noise is computed from x_t - x0_hat: x_t holds sqrt_alpha_bar_t times x0_hat.": (
            lambda schedule, x_t, t, s, eps: _ddim_from(
                schedule, s, _guess(schedule, x_t, t, eps), (x_t - _guess(schedule, x_t, t, eps)) / schedule.sigma[t]
            )
        ),
        "It looks as if x_s is clipped: it holds noise and may lie outside of [-1, 1]. Clip the guess alone.": (
            lambda schedule, x_t, t, s, eps: ddim_step(schedule, x_t, t, s, eps).clamp(-1, 1)
        ),
        "It looks as if the square roots are missing in the last line: weights are sqrt_alpha_bar and sigma.": (
            _ddim_with(
                lambda schedule, t, s, x0_hat, eps: schedule.alpha_bar[s] * x0_hat + schedule.sigma[s] ** 2 * eps
            )
        ),
        "It looks as if the image has weight alpha_bar in the last line: take its root, sqrt_alpha_bar.": (
            _ddim_with(lambda schedule, t, s, x0_hat, eps: schedule.alpha_bar[s] * x0_hat + schedule.sigma[s] * eps)
        ),
        "It looks as if alpha and beta of one step stand where alpha_bar and sigma of the jump belong.": (
            _ddim_with(
                lambda schedule, t, s, x0_hat, eps: schedule.alpha[s].sqrt() * x0_hat + schedule.beta[s].sqrt() * eps
            )
        ),
        "It looks as if the clean guess is returned: mix it with noise again, as much as step s has.": (
            _ddim_with(lambda schedule, t, s, x0_hat, eps: x0_hat)
        ),
        "It looks as if the noise is left out of the last line: sigma_s of it belongs back.": (
            _ddim_with(lambda schedule, t, s, x0_hat, eps: schedule.sqrt_alpha_bar[s] * x0_hat)
        ),
        "It looks as if the step always goes to t - 1: it goes to s, however far that is.": (
            _ddim_with(
                lambda schedule, t, s, x0_hat, eps: (
                    schedule.sqrt_alpha_bar[t - 1] * x0_hat + schedule.sigma[t - 1] * eps
                )
            )
        ),
    },
    tolerance_64=1e-9,
)

Exercise(
    tag="7.3",
    reference=ddim_steps,
    # In the last four, floats fall below the integer that is meant, and are cut off to 1 less: those of arange, of
    # linspace, of T / steps * i, and of i / steps * T.
    cases=lambda: [(1000, 4), (50, 7), (100, 30), (10, 1), (1000, 30), (1000, 60), (30, 22), (100, 100)],
    mistakes={
        "It looks as if the first step is below T: the start is pure noise, and that is step T.": (
            lambda T, steps: [T * i // steps for i in range(steps - 1, -1, -1)]
        ),
        "It looks as if the steps count up: sampling goes down from T.": (
            lambda T, steps: [T * i // steps for i in range(1, steps + 1)]
        ),
        "It looks as if 0 is in the list: the network is not asked there.": (
            lambda T, steps: [T * i // steps for i in range(steps, -1, -1)]
        ),
        "It looks as if the stride is rounded: where T / steps is no integer, that gives too many steps. Round each "
        "step by itself.": lambda T, steps: list(range(T, 0, -(T // steps))),
        "It looks as if the stride is rounded, and the list cut off: the last steps then lie far above 0. Round each "
        "step by itself.": lambda T, steps: list(range(T, 0, -(T // steps)))[:steps],
        "It looks as if one stride, rounded up, is used throughout: where T / steps is no integer, round each step by "
        "itself.": lambda T, steps: list(range(T, 0, -T // steps)),
        "It looks as if you return a range, with one stride: return a list, and where T / steps is no integer, round "
        "each step by itself.": lambda T, steps: range(T, 0, -T // steps),
        "It looks as if 0 is one of the n steps: take n + 1 points from T to 0 and leave out the last.": (
            lambda T, steps: torch.linspace(T, 0, steps).long().tolist()
        ),
        "Nearly. linspace makes floats, and one that should be 500 can come out as 499.99997; cut off, that is 499. "
        "Integers keep their value: T * i // steps.": (
            lambda T, steps: torch.linspace(T, 0, steps + 1).long().tolist()[:-1]
        ),
        "Nearly. Return a list, with .tolist(). And linspace makes floats: one that should be 500 can come out as "
        "499.99997; cut off, that is 499. Integers keep their value: T * i // steps.": (
            lambda T, steps: torch.linspace(T, 0, steps + 1).long()[:-1]
        ),
        "Nearly. np.linspace makes floats, and one can come out a little below the integer that is meant; cut off, it "
        "is 1 less. Integers keep their value: T * i // steps.": (
            lambda T, steps: np.linspace(T, 0, steps + 1).astype(int).tolist()[:-1]
        ),
        "Nearly. np.arange with the stride T / steps makes floats, and one can come out a little below the integer "
        "that is meant; cut off, it is 1 less. Integers keep their value: T * i // steps.": (
            lambda T, steps: np.arange(T, 0, -T / steps).astype(int).tolist()
        ),
        "Nearly. torch.arange with the stride T / steps makes floats, and one can come out a little below the integer "
        "that is meant; cut off, it is 1 less. Integers keep their value: T * i // steps.": (
            lambda T, steps: torch.arange(T, 0, -T / steps).long().tolist()
        ),
        "Nearly. T / steps is a float, and times i it can lie below the integer that is meant. Multiply and divide "
        "integers: T * i // steps.": lambda T, steps: [int(T / steps * i) for i in range(steps, 0, -1)],
        "The steps are right, but in a tensor: .tolist() makes a list of it.": (
            lambda T, steps: torch.tensor([T * i // steps for i in range(steps, 0, -1)])
        ),
        "It looks as if the stride is rounded before it is multiplied: the first step is below T then. Multiply first, "
        "then divide.": lambda T, steps: [T // steps * i for i in range(steps, 0, -1)],
        "It looks as if the steps are rounded to the nearest integer: round down, // does.": (
            lambda T, steps: [round(T * i / steps) for i in range(steps, 0, -1)]
        ),
        "It looks as if the steps are rounded up, by ceil, or because a number that is rounded down is taken off T: "
        "count i down, and round T * i / n down.": lambda T, steps: [T - T * i // steps for i in range(steps)],
        "It looks as if the list ends at 1: all stretches should be equally long, the last one, down to 0, included.": (
            lambda T, steps: torch.linspace(T, 1, steps).long().tolist()
        ),
        "It looks as if these are floats: use // for division, a step is an index of tables.": (
            lambda T, steps: [T * i / steps for i in range(steps, 0, -1)]
        ),
        "It looks as if T itself is missing and the count starts from T - 1, as in libraries that count from 0.": (
            lambda T, steps: [T * i // steps - 1 for i in range(steps, 0, -1)]
        ),
    },
)


def _pair(*shape: int) -> tuple:
    """Images, and amounts from 0 to 1 in no order, unevenly spaced: an answer must read them."""
    x, y, _ = _images(*shape)
    return x, y, (torch.linspace(0, 1, shape[0]) ** 2).roll(2)


def _one_pair() -> tuple:
    """In 64 bits, as in the notebook's check."""
    x, y, _ = _images(1, 1, 3, 2)
    return x.double(), y.double(), torch.tensor([0.3], dtype=torch.float64)


def _arc(x, y, amount, angle):
    of_x, of_y = ((1 - amount) * angle).sin() / angle.sin(), (amount * angle).sin() / angle.sin()
    return per_image(of_x, x) * x + per_image(of_y, y) * y


def _angle(x, y):
    return torch.acos(torch.cosine_similarity(x.flatten(1), y.flatten(1)))


def _length(x):
    return x.flatten(1).norm(dim=1)


def _stretched_line(x, y, amount):
    line = torch.lerp(x, y, per_image(amount, x))
    return line * per_image(_length(x) / _length(line), x)


def _arc_on_last_axis(x, y, amount):
    angle = _angle(x, y)
    return ((1 - amount) * angle).sin() / angle.sin() * x + (amount * angle).sin() / angle.sin() * y


Exercise(
    tag="7.4",
    reference=slerp,
    cases=lambda: [_pair(5, 3, 4, 2), _pair(3, 1, 2, 5), _pair(4, 1, 2, 3), _one_pair()],
    mistakes={
        "It looks as if this is the straight line: it loses length in the middle.": (
            lambda x, y, amount: per_image(1 - amount, x) * x + per_image(amount, x) * y
        ),
        "It looks as if the two weights are swapped: amount 0 must return x.": (
            lambda x, y, amount: _arc(y, x, amount, _angle(x, y))
        ),
        "It looks as if amount is not used, and the way cut into equal parts: amount says how far each image goes.": (
            lambda x, y, amount: _arc(x, y, torch.linspace(0, 1, len(x)), _angle(x, y))
        ),
        "It looks as if all images go as far as the first: each has its own amount.": (
            lambda x, y, amount: _arc(x, y, amount[:1].expand(len(x)), _angle(x, y))
        ),
        "It looks as if x and y are divided by their lengths and then mixed: only the angle wants that. Mix x and y.": (
            lambda x, y, amount: _arc(x / per_image(_length(x), x), y / per_image(_length(y), y), amount, _angle(x, y))
        ),
        "It looks as if the straight line is stretched to the length of x: it keeps another pace than the arc. Use the "
        "sines of (7.11).": _stretched_line,
        "It looks as if asin undoes the cosine: acos does.": (
            lambda x, y, amount: _arc(x, y, amount, torch.asin(torch.cosine_similarity(x.flatten(1), y.flatten(1))))
        ),
        "It looks as if the division by sin(angle) is missing.": (
            lambda x, y, amount: (
                per_image(((1 - amount) * _angle(x, y)).sin(), x) * x + per_image((amount * _angle(x, y)).sin(), x) * y
            )
        ),
        "It looks as if one angle is used for the whole batch: flatten(1) keeps the images apart.": (
            lambda x, y, amount: _arc(
                x, y, amount, torch.acos(torch.cosine_similarity(x.flatten(), y.flatten(), 0)).expand(len(x))
            )
        ),
        "It looks as if the lengths are those of the whole batch: every image has its own, .flatten(1).norm(dim=1).": (
            lambda x, y, amount: _arc(x, y, amount, torch.acos((x * y).flatten(1).sum(1) / (x.norm() * y.norm())))
        ),
        "It looks as if the product was divided by the square of one length: x and y have a length each.": (
            lambda x, y, amount: _arc(
                x, y, amount, torch.acos((x * y).flatten(1).sum(1) / x.flatten(1).square().sum(1))
            )
        ),
        "It looks as if the weights are square roots: the variance is right then, for independent noise, but the way "
        "is not the arc. Use the sines of (7.11).": (
            lambda x, y, amount: per_image((1 - amount).sqrt(), x) * x + per_image(amount.sqrt(), x) * y
        ),
        "It looks as if the angle stands outside of the sine: it is the sine of (1 - amount) * angle.": (
            lambda x, y, amount: (
                per_image((1 - amount).sin() * _angle(x, y) / _angle(x, y).sin(), x) * x
                + per_image(amount.sin() * _angle(x, y) / _angle(x, y).sin(), x) * y
            )
        ),
        "It looks as if the angle is always a right one: nearly true for two noise images of 784 pixels, but measure "
        "it.": lambda x, y, amount: _arc(x, y, amount, torch.full((len(x),), torch.pi / 2)),
        "It looks as if the cosine was not undone: torch.acos makes an angle of it.": (
            lambda x, y, amount: _arc(x, y, amount, torch.cosine_similarity(x.flatten(1), y.flatten(1)))
        ),
        "It looks as if the product was not divided by the two lengths: its arc cosine is NaN then.": (
            lambda x, y, amount: _arc(x, y, amount, torch.acos((x * y).flatten(1).sum(1)))
        ),
        "It looks as if cosine_similarity compared the channels, its axis 1: flatten the images first.": (
            lambda x, y, amount: _channelwise(x, y, amount)
        ),
        "It looks as if the cosine was taken over the channels, axis 1, and amount then met its last axis: .flatten(1) "
        "first, one long vector for each image.": (
            lambda x, y, amount: _arc(x, y, amount, torch.acos(torch.cosine_similarity(x, y)))
        ),
        "It looks as if X @ Y.T stands where X * Y belongs: it pairs every image with every other, (X * Y).sum(1) each "
        "with its own.": lambda x, y, amount: _all_pairs(x, y, amount, (-1, 1, 1, 1)),
        "It looks as if X @ Y.T was taken, shape (B, B), every image with every other: take (X * Y).sum(1), shape "
        "(B,).": lambda x, y, amount: _all_pairs(x, y, amount, (len(x), 1, 1, 1, len(x))),
        "It looks as if the weights, shape (B,), met the last axis of the images. Give them three more axes: "
        "weight.reshape(-1, 1, 1, 1).": _arc_on_last_axis,
    },
    tolerance_64=1e-9,
)


def _channelwise(x, y, amount):
    angle, amount = torch.acos(torch.cosine_similarity(x, y))[:, None], amount.reshape(-1, 1, 1, 1)
    return ((1 - amount) * angle).sin() / angle.sin() * x + (amount * angle).sin() / angle.sin() * y


def _all_pairs(x, y, amount, shape):
    """The arc where `x.flatten(1) @ y.flatten(1).T` was taken, the weights reshaped as they were for (B,)."""
    norms = x.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1)
    angle = torch.acos(x.flatten(1) @ y.flatten(1).T / norms)  # (B, B)
    of_x, of_y = ((1 - amount) * angle).sin() / angle.sin(), (amount * angle).sin() / angle.sin()
    return of_x.reshape(shape) * x + of_y.reshape(shape) * y
