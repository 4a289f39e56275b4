"""Exercises of notebook 08: one step of Algorithm 2, one step of DDIM, which steps, and the arc between two starts."""

import numpy as np
import torch

from ..lessons.toy import double
from ..marking import Exercise
from ..sampling import ddim_step, ddim_steps, ddpm_step, slerp
from ..schedule import cosine_schedule, linear_schedule


def _images(*shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    return tuple(torch.randn((3, *shape), generator=generator))


def _ddpm(schedule, t: int, *shape: int) -> tuple:
    x_t, eps, noise = (image.to(schedule.beta.dtype) for image in _images(*shape))
    return schedule, x_t, t, eps, noise


def _ddim(schedule, t: int, s: int, *shape: int) -> tuple:
    _, x_t, _, eps, _ = _ddpm(schedule, t, *shape)
    return schedule, x_t, t, s, eps


def _pair(*shape: int) -> tuple:
    """Images, and amounts from 0 to 1 in no order, unevenly spaced: an answer must read them."""
    return *_images(*shape)[:2], (torch.linspace(0, 1, shape[0]) ** 2).roll(2)


Exercise(
    tag="8.1",
    reference=ddpm_step,
    tolerance=1e-4,  # in 32 bits 1 - alpha_bar is not sigma^2 to the last digits, and right on paper
    tolerance_64=1e-9,
    cases=lambda: [
        _ddpm(linear_schedule(50), 30, 5, 3, 4, 2),
        _ddpm(cosine_schedule(40), 2, 3, 1, 2, 5),
        _ddpm(linear_schedule(50), 1, 2, 3, 5, 4),
        _ddpm(linear_schedule(1000), 1000, 4, 1, 3, 2),
        _ddpm(double(linear_schedule(50)), 5, 6, 1, 1, 1),  # in 64 bits, as the notebook's checks of equations
    ],
    table="""
s = schedule
x0_hat = ((x_t - s.sigma[t] * eps) / s.sqrt_alpha_bar[t]).clamp(-1, 1)
of_x0 = s.sqrt_alpha_bar[t - 1] * s.beta[t] / s.sigma[t] ** 2
of_x_t = s.alpha[t].sqrt() * s.sigma[t - 1] ** 2 / s.sigma[t] ** 2
mean = of_x0 * x0_hat + of_x_t * x_t
return mean if t == 1 else mean + s.beta[t].sqrt() * noise

mean if t == 1 else ->
  noise is added at the last step, too: at t = 1 return the mean.
mean
  no noise is added at all: only the last step, t = 1, goes without.
t == 1 -> t == s.T
t == 1 -> t in (1, s.T)
  no noise is added at t = T: sampling ends at t = 1, and that step alone goes without.
s.beta[t].sqrt() -> s.beta[t - 1].sqrt()
  the noise has the variance beta_{t-1}: the step from t has beta_t.
s.beta[t].sqrt() * noise -> noise
  the noise is added at full strength: one step adds sqrt(beta_t) of it.
s.beta[t].sqrt() -> s.beta[t]
  the noise has weight beta: beta is a variance, take its square root.
s.beta[t].sqrt() -> s.sigma[t]
s.beta[t].sqrt() -> s.sigma[t - 1]
  the noise has the weight sigma, that of the closed form: one step adds sqrt(beta_t).
s.beta[t].sqrt() -> s.posterior_variance[t].sqrt()
  the noise has the posterior's variance: a good choice, and the next one in the text. Here it is beta_t.
.clamp(-1, 1) ->
  the mean does not use a clipped guess. Keep what .clamp(-1, 1) returns, and take (8.2) for the mean: in (8.3) there is
  no guess to clip.
x0_hat = (x_t - s.sigma[t] * eps.clamp(-1, 1)) / s.sqrt_alpha_bar[t]
  eps is clipped instead of the guess: noise has no range, only the clean image has [-1, 1].
.clamp(-1, 1) -> ; mean = (of_x0 * x0_hat + of_x_t * x_t).clamp(-1, 1)
  the mean is clipped instead of the guess at the clean image: x_{t-1} may lie outside of [-1, 1].
right(schedule, x_t, t, eps, noise).clamp(-1, 1)
  x_{t-1} is clipped: it holds noise and may lie outside of [-1, 1]. Clip the guess alone.
mean = of_x0 * x_t + of_x_t * x0_hat
  the two weights of the mean are swapped: the small one belongs to the guess.
s.sigma[t] ** 2 -> s.sigma[t]
** 2 ->
s.sigma[t - 1] ** 2 -> s.sigma[t - 1]
  a sigma in the mean is not squared: its square is 1 - alpha_bar.
s.sqrt_alpha_bar[t - 1] -> s.sqrt_alpha_bar[t]
[t - 1] -> [t]
  a weight of the mean is read at t: (8.2) has t - 1 in sqrt_alpha_bar and in sigma above the line.
* eps -> * noise
  the guess takes off the fresh noise: (8.1) has eps, what the network answered.
* eps -> ** 2 * eps
s.sigma[t] * eps -> eps
  the guess takes off eps itself, or sigma_t squared times eps: the image holds sigma_t times eps.
/ s.sqrt_alpha_bar[t] -> / s.alpha_bar[t]
  the guess is divided by alpha_bar_t: divide by its root, sqrt_alpha_bar_t.
sqrt_alpha_bar -> alpha_bar
  alpha_bar stands in both lines where its root belongs: the table is schedule.sqrt_alpha_bar.
sqrt_alpha_bar[t - 1] -> alpha_bar[t - 1]
  alpha_bar stands in front of the guess where its root belongs, schedule.sqrt_alpha_bar.
(-1, 1) -> (0, 1)
(-1, 1) -> (max=1)
  the guess is not clipped to [-1, 1], where our images lie: .clamp(-1, 1) has two ends.
((x_t - s.sigma[t] * eps) / -> (x_t - s.sigma[t] * eps /
  only the noise is divided by sqrt_alpha_bar_t: (8.1) divides x_t, too, so set brackets.
/ s.sqrt_alpha_bar[t] ->
  the guess is not divided: the closed form shrank the image by sqrt_alpha_bar_t, so divide by that.
* noise -> * eps
  eps is added at the end: that is the network's answer. The fresh noise is the argument noise.
x0_hat
  the guess is returned: that is a jump to the end. (8.2) moves a little towards it.
s.alpha[t].sqrt() -> s.alpha[t]
  alpha_t has no square root in the mean.
s.alpha[t].sqrt() -> s.sqrt_alpha_bar[t]
  the weight of x_t has the root of alpha_bar_t: take that of alpha_t, of this step alone.
x0_hat = ((x_t - s.beta[t].sqrt() * eps) / s.alpha[t].sqrt()).clamp(-1, 1)
  beta_t stands where alpha_bar_t belongs: the guess undoes the whole closed form, with sigma_t and sqrt_alpha_bar_t.
x0_hat = ((x_t - s.sigma[t - 1] * eps) / s.sqrt_alpha_bar[t - 1]).clamp(-1, 1)
[t - 1] -> [t - 2] ; [t] -> [t - 1]
  the tables were read as if they began with step 1: index 0 is the clean image, and step t stands at index t.
s.sqrt_alpha_bar[t - 1] * x0_hat + s.sigma[t - 1] * eps
s.sqrt_alpha_bar[t - 1] * x0_hat + s.sigma[t - 1] / s.sigma[t] * (x_t - s.sqrt_alpha_bar[t] * x0_hat)
  this is a step of DDIM, which comes later: here the guess is mixed with x_t by (8.2), and fresh noise is added.
s.sqrt_alpha_bar[t - 1] * x0_hat + s.sigma[t - 1] * noise
  the guess is shrunk and given new noise of step t - 1: that jumps, and forgets where x_t was. Mix the guess with x_t
  by (8.2).
""",
)

Exercise(
    tag="8.2",
    reference=ddim_step,
    tolerance_64=1e-9,
    cases=lambda: [
        _ddim(linear_schedule(50), 30, 10, 5, 3, 4, 2),
        _ddim(cosine_schedule(40), 39, 38, 3, 1, 2, 5),
        _ddim(linear_schedule(50), 4, 0, 2, 3, 5, 4),
        _ddim(double(linear_schedule(50)), 35, 10, 4, 1, 3, 2),
    ],
    table="""
signal, sigma = schedule.sqrt_alpha_bar, schedule.sigma
x0_hat = ((x_t - sigma[t] * eps) / signal[t]).clamp(-1, 1)
eps = (x_t - signal[t] * x0_hat) / sigma[t]
return signal[s] * x0_hat + sigma[s] * eps

eps = eps
  the noise still is the network's after the guess was clipped: compute the noise that fits the clipped guess, from x_t.
.clamp(-1, 1) ->
  the guess is not clipped: .clamp(-1, 1).
[s] -> [t]
signal[s] -> signal[t]
sigma[s] -> sigma[t]
  a table is read at t in the last line: the new mix is that of step s.
schedule.sigma -> schedule.sigma\\nt, s = s, t
  s and t are swapped everywhere: the guess undoes step t, the new mix is that of step s.
eps = (x_t - signal[s] * x0_hat) / sigma[s]
  the noise is computed with the tables at s: x_t is the image of step t, so read them at t.
x0_hat = ((x_t - sigma[s] * eps) / signal[s]).clamp(-1, 1)
  the guess is computed with the tables at s: x_t is the image of step t, so read them at t.
x0_hat = (x_t - sigma[t] * eps / signal[t]).clamp(-1, 1)
  only the noise is divided by sqrt_alpha_bar_t: (8.1) divides x_t, too, so set brackets.
/ signal[t] -> / schedule.alpha_bar[t]
  the guess is divided by alpha_bar_t: divide by its root, sqrt_alpha_bar_t.
/ signal[t] ->
  the guess is not divided: the closed form shrank the image by sqrt_alpha_bar_t, so divide by that.
(-1, 1) -> (0, 1)
(-1, 1) -> (max=1)
  the guess is not clipped to [-1, 1], where our images lie: .clamp(-1, 1) has two ends.
eps = x_t - signal[t] * x0_hat / sigma[t]
  only the guess is divided by sigma_t in the second line: x_t is, too, so set brackets.
signal[t] * -> schedule.alpha_bar[t] *
  the noise is computed with alpha_bar_t: x_t holds its root, sqrt_alpha_bar_t, times x0_hat.
signal[t] * ->
  the noise is computed from x_t - x0_hat: x_t holds sqrt_alpha_bar_t times x0_hat.
/ sigma[t] -> / sigma[s]
  the noise is divided by sigma_s: x_t holds sigma_t of it.
signal[s] * x0_hat + sigma[s] * eps.clamp(-1, 1)
eps = eps.clamp(-1, 1)
  the noise is clipped: noise has no range, only the clean image has [-1, 1]. Compute the noise that fits the clipped
  guess, from x_t.
sigma[s] * x0_hat + signal[s] * eps
signal, sigma = schedule.sigma, schedule.sqrt_alpha_bar
  the two weights are swapped: sqrt_alpha_bar belongs to the image, sigma to the noise.
signal, sigma = schedule.alpha_bar, schedule.sigma
  alpha_bar stands where its square root belongs: the table is schedule.sqrt_alpha_bar.
sigma[s] -> (1 - signal[s])
  the noise has the weight 1 - sqrt_alpha_bar: the squares of the two weights add up to 1, take schedule.sigma.
sigma[s] -> (1 - schedule.alpha_bar[s])
signal[s] -> schedule.alpha_bar[s] ; sigma[s] -> sigma[s] ** 2
signal[s] -> schedule.alpha_bar[s]
  a square root is missing in the last line: weights are sqrt_alpha_bar and sigma.
/ sigma[t] ->
  the noise is not divided by sigma_t.
right(schedule, x_t, t, s, eps).clamp(-1, 1)
  x_s is clipped: it holds noise and may lie outside of [-1, 1]. Clip the guess alone.
schedule.alpha[s].sqrt() * x0_hat + schedule.beta[s].sqrt() * eps
signal, sigma = schedule.alpha.sqrt(), schedule.beta.sqrt()
signal, sigma = schedule.alpha.sqrt(), schedule.sigma
signal[s] -> schedule.alpha[s].sqrt()
/ signal[t] -> / schedule.alpha[t].sqrt()
  alpha or beta of one step stands where alpha_bar or sigma of the closed form belongs.
x0_hat
  the clean guess is returned: mix it with noise again, as much as step s has.
x0_hat + sigma[s] * eps
  the guess is not shrunk in the last line: its weight is sqrt_alpha_bar_s.
signal[s] * x0_hat + eps
  the noise has its full strength in the last line: its weight is sigma_s.
signal[s] * x0_hat
  the noise is left out of the last line: sigma_s of it belongs back.
[s] -> [t - 1]
  the step always goes to t - 1: it goes to s, however far that is.
""",
)

Exercise(
    tag="8.3",
    reference=ddim_steps,
    # In the last four, floats fall below the integer that is meant, and are cut off to 1 less: those of arange, of
    # linspace, of T / steps * i, and of i / steps * T.
    cases=lambda: [(1000, 4), (50, 7), (100, 30), (10, 1), (1000, 30), (1000, 60), (30, 22), (100, 100)],
    names={"np": np},
    table="""
return [T * i // steps for i in range(steps, 0, -1)]

range(steps, 0, -1) -> range(steps - 1, -1, -1)
  the first step is below T: the start is pure noise, and that is step T.
range(steps, 0, -1) -> range(steps, -1, -1)
  0 is in the list: the network is not asked there.
list(range(T, 0, -(T // steps)))
list(range(T, 0, -(T // steps)))[:steps]
list(range(T, 0, -T // steps))
range(T, 0, -T // steps)
  one rounded stride is used throughout: where T / steps is no integer, that gives too many steps, or ends far above 0.
  Round each step by itself, and return a list.
torch.linspace(T, 0, steps).long().tolist()
  0 is one of the n steps: take n + 1 points from T to 0 and leave out the last.
torch.linspace(T, 0, steps + 1).long().tolist()[:-1]
torch.linspace(T, 0, steps + 1).long()[:-1]
np.linspace(T, 0, steps + 1).astype(int).tolist()[:-1]
np.arange(T, 0, -T / steps).astype(int).tolist()
torch.arange(T, 0, -T / steps).long().tolist()
T * i // steps -> int(T / steps * i)
  ! Nearly. A float (of linspace, of arange, of T / steps * i) can come out a little below the integer that is meant:
  cut off, 499.99997 is 499. Integers keep their value: T * i // steps, in a list.
T * i // steps -> T // steps * i
  the stride is rounded before it is multiplied: the first step is below T then. Multiply first, then divide.
T * i // steps -> round(T * i / steps)
  the steps are rounded to the nearest integer: round down, // does.
[T - T * i // steps for i in range(steps)]
  the steps are rounded up, by ceil, or because a number that is rounded down is taken off T: count i down, and round T
  * i / n down.
torch.linspace(T, 1, steps).long().tolist()
  the list ends at 1: all stretches should be equally long, the last one, down to 0, included.
// -> /
  these are floats: use // for division, a step is an index of tables.
// steps -> // steps - 1
  T itself is missing and the count starts from T - 1, as in libraries that count from 0.
""",
)

Exercise(
    tag="8.4",
    reference=slerp,
    tolerance_64=1e-9,
    cases=lambda: [
        _pair(5, 3, 4, 2),
        _pair(3, 1, 2, 5),
        _pair(4, 1, 2, 3),
        (*(image.double() for image in _images(1, 1, 3, 2)[:2]), torch.full((1,), 0.3, dtype=torch.float64)),
    ],
    table="""
X, Y = x.flatten(1), y.flatten(1)
cosine = (X * Y).sum(1) / (X.norm(dim=1) * Y.norm(dim=1))
angle = torch.acos(cosine)
of_x = ((1 - amount) * angle).sin() / angle.sin()
of_y = (amount * angle).sin() / angle.sin()
return of_x.reshape(-1, 1, 1, 1) * x + of_y.reshape(-1, 1, 1, 1) * y

of_x = 1 - amount ; of_y = amount
  this is the straight line: it loses length in the middle.
right(y, x, amount)
  the two weights are swapped: amount 0 must return x.
right(x, y, torch.linspace(0, 1, len(x)))
  amount is not used, and the way cut into equal parts: amount says how far each image goes.
right(x / per_image(X.norm(dim=1), x), y / per_image(Y.norm(dim=1), y), amount)
  x and y are divided by their lengths and then mixed: only the angle wants that. Mix x and y.
of_y = torch.lerp(x, y, per_image(amount, x)) ; of_y * per_image(X.norm(dim=1) / of_y.flatten(1).norm(dim=1), x)
  the straight line is stretched to the length of x: it keeps another pace than the arc. Use the sines of (8.11).
acos -> asin
  asin undoes the cosine: acos does.
/ angle.sin() ->
  the division by sin(angle) is missing.
cosine = torch.cosine_similarity(x.flatten(), y.flatten(), 0)
.norm(dim=1) -> .norm()
  one angle or length is taken of the whole batch: every image has its own, .flatten(1).norm(dim=1).
Y.norm -> X.norm
  the product was divided by the square of one length: x and y have a length each.
of_x = (1 - amount).sqrt() ; of_y = amount.sqrt()
  the weights are square roots: the variance is right then, for independent noise, but the way is not the arc. Use the
  sines of (8.11).
of_x = (1 - amount).sin() * angle / angle.sin() ; of_y = amount.sin() * angle / angle.sin()
  the angle stands outside of the sine: it is the sine of (1 - amount) * angle.
angle = torch.tensor(torch.pi / 2)
  the angle is always a right one: nearly true for two noise images of 784 pixels, but measure it.
angle = torch.rad2deg(torch.acos(cosine))
  the angle was turned into degrees: sin and acos both speak of radians.
angle = cosine
  the cosine was not undone: torch.acos makes an angle of it.
cosine = (X * Y).sum(1)
  the product was not divided by the two lengths: its arc cosine is NaN then.
cosine = torch.cosine_similarity(x, y)[:, None] ; amount -> per_image(amount, x) ; of_x * x + of_y * y
cosine = torch.cosine_similarity(x, y) ; per_image(of_x, x) * x + per_image(of_y, y) * y
  cosine_similarity compared the channels, its axis 1: .flatten(1) makes one long vector of each image.
(X * Y).sum(1) -> X @ Y.T
(X * Y).sum(1) -> X @ Y.T ; .reshape(-1, 1, 1, 1) -> [:, None, None, None]
  X @ Y.T, shape (B, B), stands where X * Y belongs: it pairs every image with every other, (X * Y).sum(1) each with its
  own.
.reshape(-1, 1, 1, 1) ->
  the weights, shape (B,), met the last axis of the images. Give them three more axes: weight.reshape(-1, 1, 1, 1).
""",
)
