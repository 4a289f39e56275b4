"""Exercises of notebook 04: the posterior, Gaussian KL, x_0 from the noise, the loss weight."""

import torch

from ..lessons.toy import double, gaussian_kl, loss_weight
from ..marking import Exercise
from ..schedule import cosine_schedule, linear_schedule, posterior, predict_x0


def _images(schedule, *shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    x0, x_t = (torch.randn(shape, generator=generator).to(schedule.beta.dtype) for _ in range(2))
    return schedule, x0, x_t, torch.randint(2, schedule.T + 1, shape[:1], generator=generator)


def _noisy(schedule, *shape: int) -> tuple:
    _, x_t, eps, t = _images(schedule, *shape)
    return schedule, x_t, t, eps


def _gaussians(*shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    means = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    variances = 0.2 + torch.rand((2, *shape), generator=generator, dtype=torch.float64)
    return means[0], variances[0], means[1], variances[1]


def _gaussians_that_broadcast() -> tuple:
    shapes = (3, 1), (), (4,), ()
    return tuple(_gaussians(*shape or (1,))[i].reshape(shape) for i, shape in enumerate(shapes))


def _weights(schedule, variance=lambda s: s.beta) -> tuple:
    return double(schedule), variance(double(schedule))


Exercise(
    tag="4.1",
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
    table="""
s = schedule
beta = s.beta[t]
before, now = s.sigma[t - 1] ** 2, s.sigma[t] ** 2
variance = beta * before / now
of_x0 = s.sqrt_alpha_bar[t - 1] * beta / now
of_x_t = s.alpha[t].sqrt() * before / now
mean = per_image(of_x0, x0) * x0 + per_image(of_x_t, x_t) * x_t
return mean, per_image(variance, x0)

of_x0 * x0 + of_x_t * x_t, variance
  the weights, shape (B,), met the last axis of the images: per_image(weight, x0) gives them the axes that they lack.
s = schedule -> s, per_image = schedule, lambda values, images: values.reshape(-1, 1, 1, 1)
  the weights have four axes whatever the images have: per_image(weight, x0) gives them as many as x0.
before, now = 1 - s.alpha_bar[t - 1], 1 - s.alpha_bar[t] ; variance = s.posterior_variance[t]
before, now = 1 - s.alpha_bar[t - 1], 1 - s.alpha_bar[t]
beta = 1 - s.alpha[t]
beta = 1 - s.alpha[t] ; before, now = 1 - s.alpha_bar[t - 1], 1 - s.alpha_bar[t]
  ! Right on paper. But near t = 1, 1 - alpha and 1 - alpha_bar in 32-bit floats lose digits: schedule.beta and
  schedule.sigma ** 2 are the same, and were computed in 64 bits.
of_x0 = s.sqrt_alpha_bar[t - 1] / before * variance ; of_x_t = s.alpha[t].sqrt() / beta * variance
  ! Right for t of 2 and above. At t = 1, sigma_{t-1} is 0, and B holds a division by it. In (4.3) that division is
  cancelled: use that form.
of_x_t = s.alpha[t].sqrt()
  sigma_t stands in front of x_t, where that of the step before, sigma_{t-1}, belongs.
sqrt_alpha_bar -> alpha_bar ; .sqrt() ->
sqrt_alpha_bar -> alpha_bar
.sqrt() ->
  a square root is missing: sqrt(alpha_bar_{t-1}) in front of x_0, sqrt(alpha_t) in front of x_t.
** 2 -> ; variance = s.posterior_variance[t]
** 2 ->
  sigma was not squared: 1 - alpha_bar is sigma^2.
mean = per_image(of_x_t, x0) * x0 + per_image(of_x0, x_t) * x_t
  the weights of x_0 and x_t are swapped: near t = 1 the mean must be close to x_0.
sqrt_alpha_bar[t - 1] -> sqrt_alpha_bar[t]
  alpha_bar_t stands in front of x_0, where the step before, alpha_bar_{t-1}, belongs.
variance = beta * now / before
  the fraction of the variance is upside down: it must become 0 at t = 1, where sigma_0 = 0.
mean, variance
  ! The mean is right. The variance has shape (B,): per_image(variance, x0) gives it (B, 1, ..., 1).
s.alpha[t].sqrt() -> s.sqrt_alpha_bar[t]
  sqrt(alpha_bar_t) stands in front of x_t: one step shrinks by sqrt(alpha_t) alone.
s.beta[t] -> s.beta[t - 1]
s.alpha[t] -> s.alpha[t - 1]
  alpha or beta is read at t - 1: the step that leads from x_{t-1} to x_t is step t.
[t - 1] -> [t]
s.sigma[t - 1] -> s.sigma[t]
  a table is read at t where (4.2) and (4.3) have t - 1: alpha_bar in front of x_0, and sigma in front of x_t and in the
  variance.
variance = beta
  the variance is beta_t: knowing x_0 makes it smaller, beta_t sigma_{t-1}^2 / sigma_t^2.
variance = s.sigma[t] ** 2
variance = s.sigma[t - 1] ** 2
  the variance is that of the closed form: (4.2) has beta_t sigma_{t-1}^2 / sigma_t^2.
variance = beta * before
  the variance is not divided by sigma_t^2.
of_x_t = before / now
  sqrt(alpha_t) is missing in front of x_t.
mean, per_image(variance, x0).sqrt()
  the second value is the standard deviation: return the variance.
""",
)

Exercise(
    tag="4.2",
    reference=gaussian_kl,
    tolerance_64=1e-11,  # the notebook verifies to 1e-9
    cases=lambda: [
        _gaussians(5),
        _gaussians(3, 2),
        _gaussians(4, 1, 2),
        tuple(number[0] for number in _gaussians(1)),
        _gaussians_that_broadcast(),
    ],
    table="""
ratio = variance_1 / variance_2
return 0.5 * (ratio - 1 - ratio.log() + (mean_1 - mean_2) ** 2 / variance_2)

right(mean_2, variance_2, mean_1, variance_1)
  the two Gaussians are swapped: KL(q || p) weighs with q, the first one.
** 2 / variance_2 -> ** 2 / variance_1
  the squared distance of the means is divided by the first variance: p, the second one, says how surprising a distance
  is.
ratio = variance_2 / variance_1
  the ratio of the variances is upside down: v_1 / v_2, both times.
** 2 / variance_2 -> ** 2
  the squared distance of the means is not divided: it counts in units of v_2.
0.5 * (ratio - 1 - ratio.log()) + (mean_1 - mean_2) ** 2 / variance_2
0.5 * ratio - 1 - ratio.log() + (mean_1 - mean_2) ** 2 / variance_2
  the factor 1/2 meets only a part of the sum: put the whole sum in parentheses.
0.5 * (ratio - 1 - ratio.log()) + (mean_1 - mean_2) ** 2 / 2 * variance_2
-0.5 * ratio.log() - 0.5 + (variance_1 + (mean_1 - mean_2) ** 2) / 2 * variance_2
  parentheses are missing: the last fraction is divided by 2 v_2, which is / (2 * variance_2).
- ratio.log() -> + ratio.log()
  the logarithm has the wrong sign: where the means agree and the variances differ, a KL is above 0.
ratio - 1 -> ratio
  the - 1 is missing: two equal Gaussians have KL 0.
(mean_1 - mean_2) ** 2 -> (mean_1 - mean_2).abs()
(mean_1 - mean_2) ** 2 -> (mean_1 - mean_2)
  the distance of the means is not squared.
0.5 * (ratio - 1 - ratio.log())
  the distance of the means is left out.
right(mean_1, variance_1**2, mean_2, variance_2**2)
  the arguments were taken for standard deviations: they are variances already.
""",
)

Exercise(
    tag="4.3",
    reference=predict_x0,
    tolerance_64=1e-11,
    cases=lambda: [
        _noisy(linear_schedule(50), 5, 3, 4, 2),
        _noisy(cosine_schedule(9, max_beta=0.9), 3, 1, 2, 6),
        _noisy(linear_schedule(50), 4, 1, 4, 4),
        _noisy(linear_schedule(50), 4, 7),
        _noisy(double(linear_schedule(50)), 2, 3, 5, 4),
    ],
    table="""
signal, sigma = schedule.sqrt_alpha_bar[t], schedule.sigma[t]
return (x_t - per_image(sigma, x_t) * eps) / per_image(signal, x_t)

.sqrt_alpha_bar -> .alpha_bar
  you divide by alpha_bar: its square root is what multiplied the image.
.sigma[t] -> .sigma[t] ** 2
  the noise was weighted by 1 - alpha_bar, its variance: sigma is the square root.
x_t - per_image(sigma, x_t) * eps
  the division is missing: what remains after taking the noise away is still shrunk.
/ per_image(signal, x_t) -> * per_image(signal, x_t)
  you multiply by sqrt(alpha_bar_t): to undo the shrinking, divide.
x_t - per_image(sigma, x_t) * eps / per_image(signal, x_t)
x_t / per_image(signal, x_t) - per_image(sigma, x_t) * eps
  only a part is divided by sqrt(alpha_bar_t): put the difference in parentheses.
.sqrt_alpha_bar[t] -> .alpha[t].sqrt()
.sqrt_alpha_bar[t] -> .alpha[t].sqrt() ; .sigma[t] -> .beta[t].sqrt()
.sigma[t] -> .beta[t].sqrt()
  alpha_t or beta_t, of one step, stands where alpha_bar_t belongs: take sqrt_alpha_bar and sigma, of all t steps.
(x_t - per_image(signal, x_t) * eps) / per_image(sigma, x_t)
  the two weights are swapped: in x_t the noise has sigma, the image sqrt_alpha_bar.
(x_t - sigma * eps) / signal
(x_t - sigma * eps) / per_image(signal, x_t)
(x_t - per_image(sigma, x_t) * eps) / signal
  a table at t, shape (B,), met the last axis of the images: per_image(sigma[t], x_t) gives it three more axes, and so
  for sqrt_alpha_bar[t].
[t] -> [t].reshape(-1, 1, 1, 1) ; (x_t - sigma * eps) / signal
  the tables have four axes whatever the images have: per_image(sigma[t], x_t) gives them as many as x_t.
per_image(sigma, x_t) * eps -> eps
  the noise is taken away at full size: in x_t it has the weight sigma_t.
""",
)

Exercise(
    tag="4.4",
    reference=loss_weight,
    tolerance_64=1e-11,
    cases=lambda: [
        _weights(linear_schedule(50)),
        _weights(cosine_schedule(9), lambda s: s.beta * (1 + s.sigma)),
        _weights(linear_schedule(30), lambda s: 0.3 * s.beta),
        _weights(linear_schedule(1000)),
    ],
    table="""
beta, alpha, sigma = schedule.beta[1:], schedule.alpha[1:], schedule.sigma[1:]
weight = torch.zeros_like(schedule.beta)
weight[1:] = beta**2 / (2 * variance[1:] * alpha * sigma**2)
return weight

(2 * variance -> (variance
  the factor 1/2 is missing; it comes from the Gaussian's exponent.
beta**2 -> beta
  beta is not squared: the distance of the means is squared, and so is its factor.
sigma**2 -> sigma
  you divide by sigma instead of sigma^2 = 1 - alpha_bar.
* alpha ->
  alpha_t is missing: the mean is divided by its square root.
schedule.alpha -> schedule.alpha_bar
  alpha_bar_t, of all t steps, stands where alpha_t, of one step, belongs.
(2 * variance[1:] * alpha * sigma**2) -> 2 * variance[1:] * alpha * sigma**2
  parentheses are missing: everything after the / belongs under the line.
beta**2 / (2 * variance[1:] -> beta / (2
  one beta was cancelled against the variance: they are equal only for one choice of s_t^2.
[1:] ->
weight[1:]
  entry 0 holds 0 / 0, or the table starts at t = 1: return (T+1,) with 0 in front.
[1:] -> ; weight = beta -> weight[1:] = beta
  ! weight[1:] has T entries, and the tables have T + 1: take the slices [1:] of beta, alpha, sigma and variance.
""",
)
