"""Exercises of notebook 14: straight path, flow matching loss, both ends from the velocity, Heun's step."""

import torch
import torch.nn.functional as F

from ..lessons.flow import flow_matching_loss, from_velocity, heun_step, interpolate
from ..marking import Exercise
from ..schedule import cosine_schedule, per_image


def _batch(*shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    x0, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    return x0, noise, torch.rand(shape[:1], generator=generator)


def _model(x, t):
    return 0.3 * x + per_image(t / 100, x)


def _loss(T: int, *shape: int) -> tuple:
    x0, noise, u = _batch(*shape)
    return _model, cosine_schedule(T), x0, (u * T).long() + 1, noise


def _field(x, a):
    return torch.sin(3 * x) + a * x


Exercise(
    tag="14.1",
    reference=interpolate,
    cases=lambda: [_batch(5, 3, 4, 2), _batch(3, 1, 2, 6), _batch(6, 2, 3, 4)],
    table="""
share = per_image(a, x0)
x_a = (1 - share) * x0 + share * noise
velocity = noise - x0
return x_a, velocity

velocity = x0 - noise
  ! The position is right. The velocity points towards the image: as a grows, x_a moves towards the noise.
x_a = share * x0 + (1 - share) * noise
  image and noise have changed places: at a = 0 there is no noise yet.
x_a = share * x0 + (1 - share) * noise ; velocity = x0 - noise
  time runs the other way: here a = 0 is the image and a = 1 the noise. Many papers count like you.
x_a = (1 - share).sqrt() * x0 + share.sqrt() * noise
  you keep the variance, as the DDPM does. The straight path has no roots.
velocity = x_a - x0
velocity = share * (noise - x0)
  you return the way from the image to x_a, which is a times the velocity. The derivative of (14.1) has no a left.
velocity, x_a
  both are right, and in the wrong order: first x_a, then the velocity.
""",
)

Exercise(
    tag="14.2",
    reference=flow_matching_loss,
    names={"F": F, "interpolate": interpolate},
    cases=lambda: [_loss(100, 5, 3, 4, 2), _loss(40, 3, 1, 2, 6), _loss(7, 6, 2, 4, 2)],
    table="""
x_a, velocity = interpolate(x0, noise, t / schedule.T)
return F.mse_loss(model(x_a, t), velocity)

F.mse_loss(model(x_a, t), noise)
  the prediction is compared with the noise, the target of notebook 07. Here it is the velocity.
F.mse_loss(model(x_a, t), x0)
  the prediction is compared with the clean image. Here the target is the velocity.
F.mse_loss(model(x_a, t), -velocity)
  the target is x_0 - noise, minus the velocity of (14.2).
F.mse_loss(model(x_a, t / schedule.T), velocity)
  the network is asked about t / T. It takes whole steps t, as all networks of this course do.
x_a, velocity = per_image(schedule.sqrt_alpha_bar[t], x0) * x0 + per_image(schedule.sigma[t], x0) * noise, noise - x0
  x_a is made by q_sample's closed form, on the curved path. Here it lies on the straight line, at a = t / T.
x_a, velocity = interpolate(x0, noise, (t - 1) / schedule.T)
  a is (t - 1) / T. Step T is pure noise, a = 1, so a = t / T.
x_a, velocity = interpolate(x0, noise, 1 - t / schedule.T)
  a is 1 - t / T, so step T would be the clean image. Step T is pure noise, a = 1.
(model(x_a, t) - velocity).square().sum()
  the errors are added up. The loss is their mean.
(model(x_a, t) - velocity).abs().mean()
  the errors are not squared.
""",
)

Exercise(
    tag="14.3",
    reference=from_velocity,
    cases=lambda: [(*_batch(5, 3, 4, 2)[:1], 0.3, _batch(5, 3, 4, 2)[1]), (*_batch(3, 2)[:1], 0.8, _batch(3, 2)[1])],
    table="""
x0 = x_a - a * velocity
noise = x_a + (1 - a) * velocity
return x0, noise

x0 = x_a + a * velocity ; noise = x_a - (1 - a) * velocity
  both signs are turned: the velocity leads to the noise, so the image lies backwards.
x0 = x_a + a * velocity
  you walk from x_a towards the noise to find the image: it lies backwards, at minus a times the velocity.
noise = x_a + velocity
  you walk a whole unit from x_a. The noise is only 1 - a away.
noise = x_a + a * velocity
  you walk a towards the noise. It is 1 - a away: x_a has gone the part a already.
x0 = x_a - (1 - a) * velocity ; noise = x_a + a * velocity
  a and 1 - a have changed places: the image is a away, the noise 1 - a.
noise, x0
  both are right, and in the wrong order: first the clean image, then the noise.
""",
)

Exercise(
    tag="14.4",
    reference=heun_step,
    cases=lambda: [(_field, _batch(5, 3)[0].double(), 0.9, 0.6), (_field, _batch(4, 2, 3)[0].double(), 0.5, 0.1)],
    table="""
first = velocity(x, a)
second = velocity(x + (b - a) * first, b)
return x + (b - a) / 2 * (first + second)

x + (b - a) * first
  this is Euler's step: the velocity at the far end is not used.
x + (b - a) * second
  only the velocity at the far end is used. Heun's step takes the mean of both.
x + (b - a) * (first + second)
  the two velocities are added. Their mean counts: divide by 2.
second = velocity(x, b)
  the second velocity is asked for at x itself. It belongs where Euler's step would land.
second = velocity(x + (b - a) * first, a)
  the second velocity is asked for at amount a. Euler's step lands at amount b.
second = velocity(x + (b - a) / 2 * first, (a + b) / 2)
  the second velocity is taken half-way. That is for the midpoint method, which then uses it alone.
first = -velocity(x, a) ; second = -velocity(x + (b - a) * first, b)
b - a -> a - b
  you walk against the velocity: the step is b - a, which is negative already on the way to the image.
""",
)
