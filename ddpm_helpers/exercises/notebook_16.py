"""Exercises of notebook 16: weights of steps, in the loss and in the draw; a share of uniform draws; EDM's numbers."""

import torch

from ..lessons.targets import preconditioning, uniform_share
from ..losses import min_snr_loss, step_weight, weighted_steps
from ..marking import Exercise
from ..schedule import cosine_schedule, linear_schedule
from .notebook_07 import training_batch, uniforms

Exercise(
    tag="16.1",
    reference=min_snr_loss,
    cases=lambda: [
        training_batch(linear_schedule(50), [1, 50, 17, 3, 30], 5, 3, 4, 2),
        training_batch(cosine_schedule(40), [20, 39, 8], 3, 1, 2, 5),
        training_batch(cosine_schedule(40), [2, 12], 2, 1, 3, 2),
        training_batch(linear_schedule(30), [4, 25], 2, 1, 4, 3, learns=False),
    ],
    table="""
x_t = q_sample(schedule, x0, t, noise)
error = (model(x_t, t) - noise).square()
ratio = snr(schedule)[t]
weight = (1 / ratio).clamp(max=1)
loss = (error * per_image(weight, error)).mean()
return loss

loss = error.mean()
  there is no weight, or one that is always 1: this is the error of the noise alone.
.clamp(max=1) ->
  this is the error of the clean image alone: where snr is below 1, take that of the noise.
max=1 -> min=1
  the larger of the two errors was taken: the weight is at most 1.
1 / ratio -> ratio
  the weight is min(1, snr), which belongs to the error of the clean image. For the error of the noise it is min(1, 1 /
  snr).
weight = ratio
  the weight is snr: where the noise is weak, that is large. It is min(1, 1 / snr).
1 / ratio -> 5 / ratio
  gamma is 5, min(1, 5 / snr): here it is 1.
1 / ratio -> 1 / ratio.sqrt()
  the ratio of the amplitudes was taken, sqrt(alpha_bar) / sigma: snr is its square.
weight = 1 / schedule.alpha_bar[t]
  this is the error of the velocity, the sum of the two: take the smaller one.
.clamp(max=1) -> .clamp(max=1) ** 2
  the weight was multiplied before the square: it is a weight of the squared error.
[t] -> [t - 1]
  the weight is that of step t - 1: the table has a place for step 0.
per_image(weight, error) -> weight.mean()
loss = error.mean() * weight
loss = error.mean() * per_image(weight, x0)
  a mean over the batch was taken before the weights came in: keep the squared errors of each image, multiply image by
  image, then take the mean.
.square() ->
  the errors are not squared.
.square() -> .abs()
  the errors are taken without their sign, and not squared.
weight = schedule.sigma[t] ** 2
  the weight is the variance of the noise, 1 - alpha_bar: it is min(1, 1 / snr).
.clamp(max=1) -> .clamp(max=1) / ratio
  the weight of the noise's error was put on the error of the clean image, which is that of the noise divided by snr:
  multiply the error of the noise.
loss = (error / per_image(ratio, error)).clamp(max=1).mean()
  the errors are clamped: the 1 is a limit of the weight, before it multiplies the errors.
model(x_t, t) -> model(x0, t)
  the network is shown the clean images: it must see x_t.
.mean() -> .mean() / weight.mean()
  the sum was divided by the sum of the weights: take the plain mean.
loss = torch.minimum(error.mean(), (error / per_image(ratio, error)).mean())
  the mean errors of the whole batch were compared: each image has its own smaller one.
- noise -> - x0
  the prediction is compared with the clean images: this network predicts the noise.
.mean() -> .mean((1, 2, 3))
.mean() ->
  there is more than one loss: return the mean over all images and pixels, a scalar.
return loss -> loss.backward(); return loss
  .backward() is called inside: return the loss, and the training loop follows it back.
""",
)

Exercise(
    tag="16.2",
    reference=weighted_steps,
    cases=lambda: [
        (uniforms(5, 0.4, 0.7), torch.tensor([1.0, 3.0, 0.5, 2.0, 4.0, 0.25, 1.5])),
        (uniforms(9, 0.2, 0.6), step_weight(cosine_schedule(40))),
        (uniforms(7, 0.0, 1 - 2**-24), torch.tensor([0.01, 0.02, 0.005, 0.04])),
        (uniforms(3, 0.3, 0.6), torch.tensor([5.0, 0.5, 0.5, 0.5, 6.0])),
        (uniforms(8, 0.7, 0.9), step_weight(cosine_schedule(30))),
    ],
    table="""
B, T = len(u), len(weight)
ends = weight.cumsum(0)
places = (torch.arange(B, device=u.device) + u) / B * weight.sum()
owners = torch.searchsorted(ends, places)
return owners.clamp(max=T - 1) + 1

weight.sum() -> T ; places.long().clamp(max=T - 1) + 1
weight.sum() -> T ; places.long() + 1
  the weights are not used: (i + u) / B times T gives every step a stretch of the same length.
* weight.sum() -> ; owners + 1
* weight.sum() ->
  the line has the length 1: it is as long as the sum of the weights. Multiply the places by it, or divide the ends.
owners.clamp(max=T - 1)
  the steps are counted from 0: weight[0] belongs to step 1, so add 1.
places = u * weight.sum() ; owners + 1
places = u.sort().values * weight.sum() ; owners + 1
  u is spread over the whole line: that is independent drawing, sorted or not. Image i lands at (i + u) / B of its
  length.
+ u -> + 0.5
  u is not used, and every batch has the same steps.
places = (torch.arange(B, device=u.device) / B + u) * weight.sum() ; owners + 1
places = (torch.arange(B, device=u.device) / B + u) * weight.sum()
  u is not divided by B: image i lands at (i + u) / B of the length of the line.
owners + 1
  ! Nearly. Where u is close to 1, rounding takes the last place to the last end, or beyond it, and its step to T + 1:
  clamp, as in Exercise 7.2, to len(weight) - 1.
weight.sum() -> T
weight.sum() -> T ; owners + 1
  the places are multiplied by T: the line is as long as the sum of the weights.
weight.sum() -> weight.max() ; owners + 1
  the line is as long as the largest weight: it is as long as their sum.
ends = weight ; owners + 1
  you search among the weights themselves: their running sum says where the stretches end.
ends = weight.cumsum(0) - weight ; owners + 1
  you search among the beginnings of the stretches and then add 1: a place lies behind the beginning of its own stretch,
  so it counts already.
ends = weight.cumsum(0) - weight ; owners
  ! Nearly. You search among the beginnings of the stretches: a place at 0 lies behind none, and gets step 0. Search
  among the ends and add 1.
ends = (1 / weight).cumsum(0) ; weight.sum() -> ends[-1] ; owners + 1
  a step with a large weight comes rarely: its stretch is the weight long, not 1 / weight.
ends, places -> places, ends ; owners + 1
  the two arguments of searchsorted changed places: first the ends, then the places.
places
  the places themselves were returned: return the steps that own them.
""",
)

Exercise(
    tag="16.3",
    reference=uniform_share,
    cases=lambda: [
        (torch.tensor([4.0, 3.0, 2.0, 0.5, 0.1, 0.2]), 5, 0.2),
        (step_weight(cosine_schedule(40)), 36, 0.1),
        (torch.tensor([1.0, 5.0, 2.0, 3.0]), 3, 0.3),
        (step_weight(linear_schedule(60)).double(), 59, 0.01),
        (torch.tensor([1.0, 1.0, 1.0, 5.0, 4.0]), 4, 0.3),
    ],
    table="""
even = (len(weight) - first + 1) / len(weight)
alone = weight[first - 1 :].sum() / weight.sum()
return torch.where(alone < wanted, (wanted - alone) / (even - alone), 0.0)

(wanted - alone) / (even - alone)
  ! Nearly. Where the weight alone is enough, the answer is 0, and yours is another number.
((wanted - alone) / (even - alone)).clamp(min=0)
  ! Nearly. A weight may favour the last steps, so that they come more often than with uniform draws. Then it is enough
  alone, and the answer is 0; yours is above 0, for both differences are negative.
even = (len(weight) - first) / len(weight)
  a step is missing: from `first` to T there are T - first + 1, the first one included.
alone = weight[first:].sum() / weight.sum()
  the weights of the steps after `first` are added up: weight[0] belongs to step 1, so begin at first - 1.
even = (len(weight) - first) / len(weight) ; alone = weight[first:].sum() / weight.sum()
  step `first` itself is left out, twice.
alone = weight[first - 1 :].sum()
  the weights need not add up to 1: divide by their sum.
torch.where(alone < wanted, (wanted - alone) / even, 0.0)
  uniform draws are added to the weighted ones. They take the place of a share of them: (1 - u) times `alone` is left.
torch.tensor(wanted / even).to(weight)
  the weighted draws are not counted, though some of them fall on the last steps, too.
1 - torch.where(alone < wanted, (wanted - alone) / (even - alone), 0.0)
  this is the share of weighted draws, as TrainConfig has it. The uniform share is wanted.
torch.where(alone < wanted, (even - wanted) / (even - alone), 0.0)
  even and alone have changed places: where `wanted` is `alone`, no uniform draws are needed.
alone = weight[: first - 1].sum() / weight.sum()
  the weights of the steps before `first` are added up.
""",
)

Exercise(
    tag="16.4",
    reference=preconditioning,
    cases=lambda: [
        (torch.tensor([0.02, 0.5, 3.0, 80.0]), 0.5),
        (torch.tensor([0.0, 0.3, 1.7]), 0.9),
        (torch.tensor([0.1, 2.0]).double(), 1.3),
    ],
    table="""
c_in = 1 / (s**2 + rho**2).sqrt()
c_skip = s**2 / (s**2 + rho**2)
c_out = rho * s / (s**2 + rho**2).sqrt()
return c_in, c_skip, c_out

c_in = 1 / (s**2 + rho**2)
  c_in is not the root: c_in squared is 1 / (s^2 + rho^2).
c_in = 1 / (s + rho)
  the standard deviations are added in c_in. Of independent parts the squares add up.
c_in = (s**2 + rho**2).sqrt()
  c_in makes the input larger: divide by its size.
c_skip = rho**2 / (s**2 + rho**2)
  c_skip is the noise's share. The signal's is wanted: with no noise x is the image, and c_skip is 1.
c_skip = s / (s + rho)
  c_skip is the share of the standard deviations. It is that of the squares.
c_skip = s / (s**2 + rho**2).sqrt()
  c_skip is the root of what makes (16.7) smallest.
c_out = rho * s / (s**2 + rho**2)
  c_out has no root below the line: (16.7) becomes rho^2 s^2 / (s^2 + rho^2), and c_out is the root of all of it.
c_out = rho**2 * s**2 / (s**2 + rho**2)
  c_out is not the root: this is its square.
c_out = rho / (s**2 + rho**2).sqrt()
  s is missing in c_out: with much noise it comes to s, the size of the image.
c_skip, c_in, c_out
  the numbers are right, and in another order: first c_in, then c_skip, then c_out.
c_skip = torch.ones_like(rho) ; c_out = rho + 0 * rho
  c_skip is 1: so F would be asked for the noise. Choose the one that makes c_out smallest.
c_skip = torch.zeros_like(rho) ; c_out = s + 0 * rho
  c_skip is 0: so F would be asked for the clean image. Choose the one that makes c_out smallest.
c_skip = 1 / (1 + rho**2) ; c_out = rho / (1 + rho**2).sqrt()
  c_skip and c_out are those of images with s = 1, of the velocity.
""",
)
