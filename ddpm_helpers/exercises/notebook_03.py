"""Exercises of notebook 03: the weight of a path, Gaussian KL, the posterior, x_0 from the noise, the loss weight."""

import torch

from ..lessons.toy import ReverseModel, double, gaussian_kl, log_closed_form, log_forward, log_weight, loss_weight
from ..schedule import cosine_schedule, linear_schedule, per_image, posterior, predict_x0
from .core import Exercise


def _walk(T: int, paths: int) -> tuple:
    """A model that is neither ideal nor trivial, and paths that no process drew: every term of the sum differs."""
    schedule = double(cosine_schedule(T, max_beta=0.9))
    generator = torch.Generator().manual_seed(T)
    path = torch.randn(T + 1, paths, generator=generator, dtype=torch.float64)
    return ReverseModel(schedule, 0.5 * schedule.beta, lambda x, t: 0.7 * x + 0.05 * t), path


def _sum(path, first, steps, last=None):
    for t in range(1, last or len(path)):
        first = first + steps(t, path[t - 1], path[t])
    return first


Exercise(
    tag="3.1",
    reference=log_weight,
    cases=lambda: [_walk(4, 3), _walk(2, 7), _walk(5, 5)],
    mistakes={
        "It looks as if the prior log p(x_T) is missing: the model's path starts there.": (
            lambda model, path: log_weight(model, path) - model.log_prior(path[-1])
        ),
        "It looks as if the prior is taken at path[0], the clean image: it belongs to path[T], the noise.": (
            lambda model, path: log_weight(model, path) - model.log_prior(path[-1]) + model.log_prior(path[0])
        ),
        "It looks as if the two log densities are added: the logarithm of a ratio is a difference.": (
            lambda model, path: _sum(
                path,
                model.log_prior(path[-1]),
                lambda t, a, b: model.log_step(a, b, t) + log_forward(model.schedule, a, b, t),
            )
        ),
        "It looks as if W itself is returned: leave out the last exp().": (
            lambda model, path: log_weight(model, path).exp()
        ),
        "It looks as if the ratio is upside down: the model's log density minus q's.": (
            lambda model, path: -log_weight(model, path)
        ),
        "It looks as if q(x_t | x_0), the jump, stands where q(x_t | x_{t-1}), one step, belongs.": (
            lambda model, path: _sum(
                path,
                model.log_prior(path[-1]),
                lambda t, a, b: model.log_step(a, b, t) - log_closed_form(model.schedule, path[0], b, t),
            )
        ),
        "It looks as if q is missing: what remains is the log density of the model's path alone.": (
            lambda model, path: _sum(path, model.log_prior(path[-1]), lambda t, a, b: model.log_step(a, b, t))
        ),
        "It looks as if the first step, t = 1, is left out: t runs from 1 to T, both included.": (
            lambda model, path: (
                log_weight(model, path)
                - model.log_step(path[0], path[1], 1)
                + log_forward(model.schedule, path[0], path[1], 1)
            )
        ),
        "It looks as if the last step, t = T, is left out: range(1, T) stops at T - 1.": (
            lambda model, path: (
                log_weight(model, path)
                - model.log_step(path[-2], path[-1], len(path) - 1)
                + log_forward(model.schedule, path[-2], path[-1], len(path) - 1)
            )
        ),
        "It looks as if logarithms were divided: log_step and log_forward are logarithms already, so subtract them.": (
            lambda model, path: _sum(
                path,
                model.log_prior(path[-1]),
                lambda t, a, b: model.log_step(a, b, t) / log_forward(model.schedule, a, b, t),
            )
        ),
        "It looks as if torch.log was taken once more: log_step - log_forward is the logarithm that is wanted.": (
            lambda model, path: _sum(
                path,
                model.log_prior(path[-1]),
                lambda t, a, b: torch.log(model.log_step(a, b, t) / log_forward(model.schedule, a, b, t)),
            )
        ),
        "It looks as if only the last ratio is returned: add each one to total.": (
            lambda model, path: (
                model.log_step(path[-2], path[-1], len(path) - 1)
                - log_forward(model.schedule, path[-2], path[-1], len(path) - 1)
            )
        ),
        "It looks as if the ratios are upside down, though the prior is right: log_step minus log_forward.": (
            lambda model, path: _sum(
                path,
                model.log_prior(path[-1]),
                lambda t, a, b: log_forward(model.schedule, a, b, t) - model.log_step(a, b, t),
            )
        ),
        "It looks as if the return stands inside the loop: only the step t = 1 was added.": (
            lambda model, path: _sum(
                path,
                model.log_prior(path[-1]),
                lambda t, a, b: model.log_step(a, b, t) - log_forward(model.schedule, a, b, t),
                last=2,
            )
        ),
        "It looks as if x_{t-1} and x_t are swapped in q's step: log_forward(schedule, x_prev, x_t, t).": (
            lambda model, path: _sum(
                path,
                model.log_prior(path[-1]),
                lambda t, a, b: model.log_step(a, b, t) - log_forward(model.schedule, b, a, t),
            )
        ),
        "It looks as if the paths were averaged: return one number per path, shape (N,).": (
            lambda model, path: log_weight(model, path).mean()
        ),
        "It looks as if x_{t-1} and x_t are swapped in the model's step: log_step(x_prev, x_t, t).": (
            lambda model, path: _sum(
                path,
                model.log_prior(path[-1]),
                lambda t, a, b: model.log_step(b, a, t) - log_forward(model.schedule, a, b, t),
            )
        ),
        "It looks as if x_{t-1} and x_t are swapped in both steps: path[t - 1] comes first, then path[t].": (
            lambda model, path: _sum(
                path,
                model.log_prior(path[-1]),
                lambda t, a, b: model.log_step(b, a, t) - log_forward(model.schedule, b, a, t),
            )
        ),
    },
)


def _images(schedule, *shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    x0, x_t = (torch.randn(shape, generator=generator).to(schedule.beta.dtype) for _ in range(2))
    return schedule, x0, x_t, torch.randint(2, schedule.T + 1, shape[:1], generator=generator)


def _posterior(of_x0, of_x_t, variance):
    """A `posterior` with other coefficients, each a function of (schedule, t)."""

    def wrong(schedule, x0, x_t, t):
        mean = per_image(of_x0(schedule, t), x0) * x0 + per_image(of_x_t(schedule, t), x_t) * x_t
        return mean, per_image(variance(schedule, t), x0)

    return wrong


def _of_x0(s, t):
    return s.sqrt_alpha_bar[t - 1] * s.beta[t] / s.sigma[t] ** 2


def _of_x_t(s, t):
    return s.alpha[t].sqrt() * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2


def _variance(s, t):
    return s.posterior_variance[t]


def _bare_posterior(s, x0, x_t, t):
    return _of_x0(s, t) * x0 + _of_x_t(s, t) * x_t, s.posterior_variance[t]


def _four_axes(values):
    return values.reshape(-1, 1, 1, 1)


def _posterior_with_four_axes(s, x0, x_t, t):
    mean = _four_axes(_of_x0(s, t)) * x0 + _four_axes(_of_x_t(s, t)) * x_t
    return mean, _four_axes(s.posterior_variance[t])


def _quotient(s, x0, x_t, t):
    """The mean as B / A, before the fractions in both are cleared."""
    a, of_x0, of_x_t = (
        per_image(value, x0)
        for value in (
            s.alpha[t] / s.beta[t] + 1 / s.sigma[t - 1] ** 2,
            s.sqrt_alpha_bar[t - 1] / s.sigma[t - 1] ** 2,
            s.alpha[t].sqrt() / s.beta[t],
        )
    )
    return (of_x_t * x_t + of_x0 * x0) / a, per_image(s.posterior_variance[t], x0)


Exercise(
    tag="3.2",
    reference=posterior,
    cases=lambda: [
        _images(linear_schedule(50), 5, 3, 4, 2),
        _images(cosine_schedule(9), 3, 1, 2, 6),
        _images(linear_schedule(50), 6),
        _images(linear_schedule(50), 4, 7),
        _images(double(linear_schedule(50)), 3, 2, 4, 5),
        (linear_schedule(1000), torch.ones(4, 2, 3, 5), torch.zeros(4, 2, 3, 5), torch.tensor([1, 600, 1, 3])),
        (*_images(linear_schedule(1000), 3, 2, 4, 5)[:3], torch.tensor([2, 1, 3])),  # no large variance beside theirs
    ],
    mistakes={
        "It looks as if the weights, shape (B,), met the last axis of the images: per_image(weight, x0) gives them the "
        "axes that they lack.": _bare_posterior,
        "It looks as if the weights have four axes whatever the images have: per_image(weight, x0) gives them as many "
        "as x0.": _posterior_with_four_axes,
        "Right on paper. But near t = 1, 1 - alpha_bar in 32-bit floats loses digits: schedule.sigma ** 2 is the same "
        "variance, and was computed in 64 bits.": _posterior(
            lambda s, t: s.sqrt_alpha_bar[t - 1] * s.beta[t] / (1 - s.alpha_bar[t]),
            lambda s, t: s.alpha[t].sqrt() * (1 - s.alpha_bar[t - 1]) / (1 - s.alpha_bar[t]),
            _variance,
        ),
        "Right on paper. But near t = 1, 1 - alpha_bar in 32-bit floats loses digits, in the mean and in the variance: "
        "schedule.sigma ** 2 is the same, and was computed in 64 bits.": _posterior(
            lambda s, t: s.sqrt_alpha_bar[t - 1] * s.beta[t] / (1 - s.alpha_bar[t]),
            lambda s, t: s.alpha[t].sqrt() * (1 - s.alpha_bar[t - 1]) / (1 - s.alpha_bar[t]),
            lambda s, t: s.beta[t] * (1 - s.alpha_bar[t - 1]) / (1 - s.alpha_bar[t]),
        ),
        "Right on paper. But 1 - alpha in 32-bit floats loses digits: schedule.beta is the same, and was computed in "
        "64 bits.": _posterior(
            lambda s, t: s.sqrt_alpha_bar[t - 1] * (1 - s.alpha[t]) / s.sigma[t] ** 2,
            _of_x_t,
            lambda s, t: (1 - s.alpha[t]) * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2,
        ),
        "Right on paper. But 1 - alpha and 1 - alpha_bar in 32-bit floats lose digits: schedule.beta and "
        "schedule.sigma ** 2 are the same, and were computed in 64 bits.": _posterior(
            lambda s, t: s.sqrt_alpha_bar[t - 1] * (1 - s.alpha[t]) / (1 - s.alpha_bar[t]),
            lambda s, t: s.alpha[t].sqrt() * (1 - s.alpha_bar[t - 1]) / (1 - s.alpha_bar[t]),
            lambda s, t: (1 - s.alpha[t]) * (1 - s.alpha_bar[t - 1]) / (1 - s.alpha_bar[t]),
        ),
        "Right for t of 2 and above. At t = 1, sigma_{t-1} is 0, and B holds a division by it. In (3.16) that division "
        "is cancelled: use that form.": _quotient,
        "It looks as if sigma_t stands in front of x_t, where that of the step before, sigma_{t-1}, belongs.": (
            _posterior(_of_x0, lambda s, t: s.alpha[t].sqrt(), _variance)
        ),
        "It looks as if two square roots are missing: sqrt(alpha_bar_{t-1}) in front of x_0, sqrt(alpha_t) in front "
        "of x_t.": _posterior(
            lambda s, t: s.alpha_bar[t - 1] * s.beta[t] / s.sigma[t] ** 2,
            lambda s, t: s.alpha[t] * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2,
            _variance,
        ),
        "It looks as if sigma was not squared in the mean: 1 - alpha_bar is sigma^2.": _posterior(
            lambda s, t: s.sqrt_alpha_bar[t - 1] * s.beta[t] / s.sigma[t],
            lambda s, t: s.alpha[t].sqrt() * s.sigma[t - 1] / s.sigma[t],
            _variance,
        ),
        "It looks as if the weights of x_0 and x_t are swapped: near t = 1 the mean must be close to x_0.": (
            _posterior(_of_x_t, _of_x0, _variance)
        ),
        "It looks as if alpha_bar_t stands in front of x_0, where the step before, alpha_bar_{t-1}, belongs.": (
            _posterior(lambda s, t: s.sqrt_alpha_bar[t] * s.beta[t] / s.sigma[t] ** 2, _of_x_t, _variance)
        ),
        "It looks as if a square root is missing in front of x_0: sqrt(alpha_bar_{t-1}), not alpha_bar_{t-1}.": (
            _posterior(lambda s, t: s.alpha_bar[t - 1] * s.beta[t] / s.sigma[t] ** 2, _of_x_t, _variance)
        ),
        "It looks as if the fraction of the variance is upside down: it must become 0 at t = 1, where sigma_0 = 0.": (
            _posterior(_of_x0, _of_x_t, lambda s, t: s.beta[t] * s.sigma[t] ** 2 / s.sigma[t - 1] ** 2)
        ),
        "The mean is right. The variance has shape (B,): per_image(variance, x0) gives it (B, 1, ..., 1).": (
            lambda s, x0, x_t, t: (posterior(s, x0, x_t, t)[0], s.posterior_variance[t])
        ),
        "It looks as if a square root is missing in front of x_t: sqrt(alpha_t), not alpha_t.": (
            _posterior(_of_x0, lambda s, t: s.alpha[t] * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2, _variance)
        ),
        "It looks as if sqrt(alpha_bar_t) stands in front of x_t: one step shrinks by sqrt(alpha_t) alone.": (
            _posterior(_of_x0, lambda s, t: s.sqrt_alpha_bar[t] * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2, _variance)
        ),
        "It looks as if the variance is beta_t: knowing x_0 makes it smaller, beta_t sigma_{t-1}^2 / sigma_t^2.": (
            _posterior(_of_x0, _of_x_t, lambda s, t: s.beta[t])
        ),
        "It looks as if the second value is the standard deviation: return the variance.": (
            _posterior(_of_x0, _of_x_t, lambda s, t: s.posterior_variance[t].sqrt())
        ),
        "It looks as if sigma was not squared: 1 - alpha_bar is sigma^2.": (
            _posterior(
                lambda s, t: s.sqrt_alpha_bar[t - 1] * s.beta[t] / s.sigma[t],
                lambda s, t: s.alpha[t].sqrt() * s.sigma[t - 1] / s.sigma[t],
                lambda s, t: s.beta[t] * s.sigma[t - 1] / s.sigma[t],
            )
        ),
    },
)


def _gaussians(*shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    means = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    variances = 0.2 + torch.rand((2, *shape), generator=generator, dtype=torch.float64)
    return means[0], variances[0], means[1], variances[1]


SHAPES = (3, 1), (), (4,), ()


def _of_several(*lengths: int) -> list:
    """Means and variances as `_gaussians` has them, each of another length."""
    return [_gaussians(length)[i] for i, length in enumerate(lengths)]


Exercise(
    tag="3.3",
    reference=gaussian_kl,
    tolerance_64=1e-11,  # the notebook verifies to 1e-9
    cases=lambda: [
        _gaussians(5),
        _gaussians(3, 2),
        _gaussians(4, 1, 2),
        tuple(number[0] for number in _gaussians(1)),
        tuple(numbers.reshape(shape) for numbers, shape in zip(_of_several(3, 1, 4, 1), SHAPES, strict=True)),
    ],
    mistakes={
        "It looks as if the two Gaussians are swapped: KL(q || p) weighs with q, the first one.": (
            lambda m1, v1, m2, v2: gaussian_kl(m2, v2, m1, v1)
        ),
        "It looks as if the squared distance of the means is divided by the first variance: p, the second one, "
        "says how surprising a distance is.": (
            lambda m1, v1, m2, v2: 0.5 * (v1 / v2 - 1 - torch.log(v1 / v2) + (m1 - m2) ** 2 / v1)
        ),
        "It looks as if the factor 1/2 is missing.": lambda m1, v1, m2, v2: 2 * gaussian_kl(m1, v1, m2, v2),
        "It looks as if the ratio of the variances is upside down: v_1 / v_2, both times.": (
            lambda m1, v1, m2, v2: 0.5 * (v2 / v1 - 1 - torch.log(v2 / v1) + (m1 - m2) ** 2 / v2)
        ),
        "It looks as if the squared distance of the means is not divided: it counts in units of v_2.": (
            lambda m1, v1, m2, v2: 0.5 * (v1 / v2 - 1 - torch.log(v1 / v2) + (m1 - m2) ** 2)
        ),
        "It looks as if the factor 1/2 misses the distance of the means: put the whole sum in parentheses.": (
            lambda m1, v1, m2, v2: 0.5 * (v1 / v2 - 1 - torch.log(v1 / v2)) + (m1 - m2) ** 2 / v2
        ),
        "It looks as if the factor 1/2 meets the first term alone: put the whole sum in parentheses.": (
            lambda m1, v1, m2, v2: 0.5 * v1 / v2 - 1 - torch.log(v1 / v2) + (m1 - m2) ** 2 / v2
        ),
        "It looks as if parentheses are missing: (m_1 - m_2)^2 is divided by 2 v_2, which is / (2 * variance_2).": (
            lambda m1, v1, m2, v2: 0.5 * (v1 / v2 - 1 - torch.log(v1 / v2)) + (m1 - m2) ** 2 / 2 * v2
        ),
        "It looks as if the logarithm has the wrong sign: where the means agree and the variances differ, "
        "a KL is above 0.": (lambda m1, v1, m2, v2: 0.5 * (v1 / v2 - 1 + torch.log(v1 / v2) + (m1 - m2) ** 2 / v2)),
        "It looks as if the - 1 is missing: two equal Gaussians have KL 0.": (
            lambda m1, v1, m2, v2: gaussian_kl(m1, v1, m2, v2) + 0.5
        ),
        "It looks as if the distance of the means is not squared.": (
            lambda m1, v1, m2, v2: 0.5 * (v1 / v2 - 1 - torch.log(v1 / v2) + (m1 - m2).abs() / v2)
        ),
        "It looks as if the distance of the means has lost its square.": (
            lambda m1, v1, m2, v2: 0.5 * (v1 / v2 - 1 - torch.log(v1 / v2) + (m1 - m2) / v2)
        ),
        "It looks as if parentheses are missing: the numerator of the last fraction is divided by 2 v_2, which is "
        "/ (2 * variance_2).": lambda m1, v1, m2, v2: 0.5 * torch.log(v2 / v1) - 0.5 + (v1 + (m1 - m2) ** 2) / 2 * v2,
        "It looks as if the arguments were taken for standard deviations: they are variances already.": (
            lambda m1, v1, m2, v2: gaussian_kl(m1, v1**2, m2, v2**2)
        ),
        "It looks as if the result is averaged: return one KL per element.": (
            lambda m1, v1, m2, v2: gaussian_kl(m1, v1, m2, v2).mean()
        ),
    },
)


def _noisy(schedule, *shape: int) -> tuple:
    _, x_t, eps, t = _images(schedule, *shape)
    return schedule, x_t, t, eps


Exercise(
    tag="3.4",
    reference=predict_x0,
    tolerance_64=1e-11,
    cases=lambda: [
        _noisy(linear_schedule(50), 5, 3, 4, 2),
        _noisy(cosine_schedule(9, max_beta=0.9), 3, 1, 2, 6),
        _noisy(linear_schedule(50), 4, 1, 4, 4),
        _noisy(linear_schedule(50), 4, 7),
        _noisy(double(linear_schedule(50)), 2, 3, 5, 4),
    ],
    mistakes={
        "It looks as if the noise is added: take it away.": (
            lambda s, x_t, t, eps: (x_t + per_image(s.sigma[t], x_t) * eps) / per_image(s.sqrt_alpha_bar[t], x_t)
        ),
        "It looks as if you divide by alpha_bar: its square root is what multiplied the image.": (
            lambda s, x_t, t, eps: (x_t - per_image(s.sigma[t], x_t) * eps) / per_image(s.alpha_bar[t], x_t)
        ),
        "It looks as if the noise was weighted by 1 - alpha_bar, its variance: sigma is the square root.": (
            lambda s, x_t, t, eps: (x_t - per_image(s.sigma[t] ** 2, x_t) * eps) / per_image(s.sqrt_alpha_bar[t], x_t)
        ),
        "It looks as if the division is missing: what remains after taking the noise away is still shrunk.": (
            lambda s, x_t, t, eps: x_t - per_image(s.sigma[t], x_t) * eps
        ),
        "It looks as if you multiply by sqrt(alpha_bar_t): to undo the shrinking, divide.": (
            lambda s, x_t, t, eps: (x_t - per_image(s.sigma[t], x_t) * eps) * per_image(s.sqrt_alpha_bar[t], x_t)
        ),
        "It looks as if only the noise is divided by sqrt(alpha_bar_t): put the difference in parentheses.": (
            lambda s, x_t, t, eps: x_t - per_image(s.sigma[t], x_t) * eps / per_image(s.sqrt_alpha_bar[t], x_t)
        ),
        "It looks as if only x_t is divided by sqrt(alpha_bar_t): divide the whole difference.": (
            lambda s, x_t, t, eps: x_t / per_image(s.sqrt_alpha_bar[t], x_t) - per_image(s.sigma[t], x_t) * eps
        ),
        "It looks as if alpha_t, of one step, stands where alpha_bar_t, of all t steps, belongs.": (
            lambda s, x_t, t, eps: (x_t - per_image(s.sigma[t], x_t) * eps) / per_image(s.alpha[t].sqrt(), x_t)
        ),
        "It looks as if alpha and beta, of one step, stand where alpha_bar belongs: take sqrt_alpha_bar and sigma, of "
        "all t steps.": lambda s, x_t, t, eps: (
            (x_t - per_image(s.beta[t].sqrt(), x_t) * eps) / per_image(s.alpha[t].sqrt(), x_t)
        ),
        "It looks as if the two weights are swapped: in x_t the noise has sigma, the image sqrt_alpha_bar.": (
            lambda s, x_t, t, eps: (x_t - per_image(s.sqrt_alpha_bar[t], x_t) * eps) / per_image(s.sigma[t], x_t)
        ),
        "It looks as if the tables, shape (B,), met the last axis of the images: per_image(sigma[t], x_t) gives "
        "them three more axes.": (lambda s, x_t, t, eps: (x_t - s.sigma[t] * eps) / s.sqrt_alpha_bar[t]),
        "It looks as if sigma[t], shape (B,), met the last axis of the images: per_image(sigma[t], x_t) gives it three "
        "more axes.": (lambda s, x_t, t, eps: (x_t - s.sigma[t] * eps) / per_image(s.sqrt_alpha_bar[t], x_t)),
        "It looks as if sqrt_alpha_bar[t], shape (B,), met the last axis of the images: per_image(sqrt_alpha_bar[t], "
        "x_t) gives it three more axes.": (
            lambda s, x_t, t, eps: (x_t - per_image(s.sigma[t], x_t) * eps) / s.sqrt_alpha_bar[t]
        ),
        "It looks as if the tables have four axes whatever the images have: per_image(sigma[t], x_t) gives them as "
        "many as x_t.": (lambda s, x_t, t, eps: (x_t - _four_axes(s.sigma[t]) * eps) / _four_axes(s.sqrt_alpha_bar[t])),
        "It looks as if the noise is taken away at full size: in x_t it has the weight sigma_t.": (
            lambda s, x_t, t, eps: (x_t - eps) / per_image(s.sqrt_alpha_bar[t], x_t)
        ),
        "It looks as if the noise has the weight of one step, the root of beta: after t steps it is sigma_t.": (
            lambda s, x_t, t, eps: (x_t - per_image(s.beta[t].sqrt(), x_t) * eps) / per_image(s.sqrt_alpha_bar[t], x_t)
        ),
        "It looks as if the result is clipped to [-1, 1]: (3.21) leaves it as it is.": (
            lambda s, x_t, t, eps: predict_x0(s, x_t, t, eps).clamp(-1, 1)
        ),
        "It looks as if t counts from 0 here: index 0 is the clean image, so use t as it is.": (
            lambda s, x_t, t, eps: (
                (x_t - per_image(s.sigma[t - 1], x_t) * eps) / per_image(s.sqrt_alpha_bar[t - 1], x_t)
            )
        ),
    },
)


def _weights(schedule, variance):
    return double(schedule), double(schedule).beta if variance is None else variance(double(schedule))


def _weight(formula):
    """A `loss_weight` with another formula of (schedule, variance); entry 0 stays 0."""

    def wrong(schedule, variance):
        weight = formula(schedule, variance)
        return torch.cat([torch.zeros_like(weight[:1]), weight[1:]])

    return wrong


def _weight_without_slices(s, variance):
    weight = torch.zeros_like(s.beta)
    weight[1:] = s.beta**2 / (2 * variance * s.alpha * s.sigma**2)
    return weight


Exercise(
    tag="3.5",
    reference=loss_weight,
    tolerance_64=1e-11,
    cases=lambda: [
        _weights(linear_schedule(50), None),
        _weights(cosine_schedule(9), lambda s: s.beta * (1 + s.sigma)),
        _weights(linear_schedule(30), lambda s: 0.3 * s.beta),
        _weights(linear_schedule(1000), None),
    ],
    mistakes={
        "It looks as if the factor 1/2 is missing; it comes from the Gaussian's exponent.": (
            lambda schedule, variance: 2 * loss_weight(schedule, variance)
        ),
        "It looks as if beta is not squared: the distance of the means is squared, and so is its factor.": (
            _weight(lambda s, v: s.beta / (2 * v * s.alpha * s.sigma**2))
        ),
        "It looks as if you divide by sigma instead of sigma^2 = 1 - alpha_bar.": (
            _weight(lambda s, v: s.beta**2 / (2 * v * s.alpha * s.sigma))
        ),
        "It looks as if alpha_t is missing: the mean is divided by its square root.": (
            _weight(lambda s, v: s.beta**2 / (2 * v * s.sigma**2))
        ),
        "It looks as if alpha_bar_t, of all t steps, stands where alpha_t, of one step, belongs.": (
            _weight(lambda s, v: s.beta**2 / (2 * v * s.alpha_bar * s.sigma**2))
        ),
        "It looks as if parentheses are missing: everything after the / belongs under the line.": (
            _weight(lambda s, v: s.beta**2 / 2 * v * s.alpha * s.sigma**2)
        ),
        "It looks as if one beta was cancelled against the variance: they are equal only for one choice of s_t^2.": (
            _weight(lambda s, v: s.beta / (2 * s.alpha * s.sigma**2))
        ),
        "It looks as if the variance was squared: it is a variance already.": (
            _weight(lambda s, v: s.beta**2 / (2 * v**2 * s.alpha * s.sigma**2))
        ),
        "It looks as if entry 0 holds 0 / 0, or the table starts at t = 1: return (T+1,) with 0 in front.": (
            lambda s, v: s.beta**2 / (2 * v * s.alpha * s.sigma**2)
        ),
        "weight[1:] has T entries, and the tables have T + 1: take the slices [1:] of beta, alpha, sigma and "
        "variance.": _weight_without_slices,
        "It looks as if the first entry, of step 0, is missing: return (T+1,) with 0 in front.": (
            lambda s, v: loss_weight(s, v)[1:]
        ),
    },
)
