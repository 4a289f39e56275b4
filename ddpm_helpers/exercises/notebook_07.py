"""Exercises of notebook 07: the loss of Algorithm 1, steps for a batch, the moving average."""

import torch

from ..checks import check_step_batch
from ..losses import ddpm_loss, ema_update, stratified_steps
from ..marking import Exercise
from ..schedule import NoiseSchedule, cosine_schedule, linear_schedule, per_image


def training_batch(schedule: NoiseSchedule, steps: list[int], *shape: int, learns: bool = True) -> tuple:
    """With a stand-in for a network: cheap, with one parameter, and its answer depends on the image and on the step.

    Where it does not learn, its loss has no gradient, as in the notebook.
    """
    x0, noise = torch.randn((2, *shape), generator=torch.Generator().manual_seed(shape[0]))
    weight = torch.tensor(0.5, requires_grad=learns)

    def network(x, t):
        check_step_batch(t, x, T=None, net="the network")  # the real ones do so, too
        return weight * x + per_image(0.01 * t, x)

    return network, schedule, x0, torch.tensor(steps), noise


def uniforms(count: int, first: float, last: float) -> torch.Tensor:
    u = torch.rand(count, generator=torch.Generator().manual_seed(count))
    u[0], u[-1] = first, last
    return u


def _pair(decay: float, *shape: int) -> tuple:
    return *torch.randn((2, *shape), generator=torch.Generator().manual_seed(0)), decay


Exercise(
    tag="7.1",
    reference=ddpm_loss,
    cases=lambda: [
        training_batch(linear_schedule(50), [1, 50, 17, 3, 30], 5, 3, 4, 2),
        training_batch(cosine_schedule(40), [20, 39, 8], 3, 1, 2, 5),
        training_batch(linear_schedule(30), [4, 25], 2, 1, 4, 3, learns=False),
    ],
    table="""
x_t = q_sample(schedule, x0, t, noise)
error = model(x_t, t) - noise
loss = error.square().mean()
return loss

- noise -> - x0
  the prediction is compared with the clean images: this network predicts the noise.
- noise -> - x_t
  the prediction is compared with x_t: the target is the noise that was added.
- noise -> - per_image(schedule.sigma[t], x0) * noise
  the noise of the target is scaled by sigma: the network predicts it with variance 1.
model(x_t, t) -> model(x0, t)
  the network is shown the clean images: it must see x_t.
model(x_t, t) -> model(noise, t)
  the network is shown the bare noise, which is the answer: it must see x_t.
model(x_t, t) -> model(x_t, t - 1)
  the network is told t - 1: it sees x_t, and in this course steps count from 1.
model(x_t, t) -> model(x_t, t / schedule.T)
model(x_t, t) -> model(t, x_t)
  the network does not get integers as its second argument: it is model(x_t, t), images first, then t as it is, and not
  t / T or t.float().
x_t = torch.lerp(x0, noise, per_image(t / schedule.T, x0))
  x_t is a straight blend of image and noise, as in notebook 01. Here it is q_sample's.
x_t = x0 + noise
  the noise is added at full strength: q_sample weighs image and noise by the step.
.square().mean() -> .norm()
  the length of the error was taken, .norm(): the loss is the mean of the squares.
.mean() -> .flatten(1).sum(1).mean()
  the squared errors are summed over pixels, and only averaged over images. The paper writes it so; here the mean over
  pixels is taken, too, and 1 is what predicting 0 scores for any image size.
.mean() -> .sum() / 784
.mean() -> .flatten(1).sum(1).mean() / 784
  the squared errors are summed and divided by 784: .mean() divides by the number of pixels that these images have.
.mean() -> .mean() / 2
  there is a factor 1/2: the plain mean is wanted.
.square() -> .abs()
  absolute errors were averaged: square them.
.square() ->
  the errors were averaged without a square, so that positive and negative ones cancel.
x0, t, noise -> noise, t, x0
  x0 and noise changed places in q_sample: it takes schedule, x0, t, noise.
model(x_t, t) -> x_t
  the network was left out, and x_t itself compared with the noise.
error = model(x_t, t) - per_image(schedule.sqrt_alpha_bar[t], x0) * noise + per_image(schedule.sigma[t], x0) * x0
- noise -> - (noise - x0)
  the target is a velocity, made of noise and image: this network predicts the noise alone.
- noise -> - (x_t - x0)
  the target is x_t - x0: q_sample shrinks the image, too, so this is not the noise.
.mean() -> .flatten(1).mean(1)
.mean() ->
  there is more than one loss: return the mean over all images and pixels, a scalar.
return loss -> loss.backward(); return loss
  .backward() is called inside: return the loss, and the training loop follows it back.
""",
)

Exercise(
    tag="7.2",
    reference=stratified_steps,
    cases=lambda: [
        (uniforms(5, 0.8, 0.503), 1000),
        (uniforms(7, 0.5, 1 - 2**-24), 50),
        (uniforms(9, 0.3, 0.0), 300),
        (uniforms(3, 0.9, 0.3), 10),
        (torch.zeros(4), 20),  # every image at the beginning of its stretch
        (uniforms(49, 0.1, 0.4), 1000),  # torch.arange(0, 1, 1 / 49) has 50 entries
    ],
    table="""
B = len(u)
place = (torch.arange(B, device=u.device) + u) / B
chosen = (place * T).long().clamp(max=T - 1) + 1
return chosen

place = u
place = u.sort().values
  u is spread over all of 1 ... T: that is independent drawing, sorted or not. Image i has its own stretch, which begins
  at i / B.
chosen - 1
  the steps run from 0 to T - 1: step 0 is the clean image, and step T would never be trained.
chosen = (place * T).long() + 1
  ! Nearly. Where u is close to 1, rounding takes (i + u) / B of the last image to 1, and its step to T + 1, which no
  table holds: clamp it.
chosen = (place * T).round().long().clamp(1, T)
chosen = (place * T).round().long() + 1
chosen = (place * T).round().long()
  you round to the nearest step: then the first and the last step get half of their share. Cut off the fraction (.long()
  does), then add 1.
chosen = (place * T).ceil().long()
chosen = (place * T).ceil().long().clamp(1, T)
  ! Nearly. You round up. Where u is 0, that gives step 0 to the first image (or 1, by a clamp), and to each other one
  the last step of the stretch before its own. Cut off the fraction (.long() does), then add 1.
+ u -> + 0.5
  u is not used, and every batch has the same steps: most steps would never be trained.
place = torch.linspace(0, 1, B) + u / B
  the B stretches begin at linspace(0, 1, B): then the last one begins where all ends. They begin at 0 / B, 1 / B, ...
  (B - 1) / B.
place = torch.arange(B, device=u.device) / B + u
place = torch.arange(B, device=u.device) / B + u ; .clamp(max=T - 1) ->
  u is not divided by B: a stretch is 1 / B long, so image i lands at (i + u) / B.
/ B -> ; .clamp(max=T - 1) ->
/ B ->
  nothing is divided by B: the places (i + u) / B lie in [0, 1].
chosen = ((place * T).long() + 1).clamp(max=T - 1)
  1 is added before the clamp to T - 1: then step T is never trained. Clamp first, then add 1.
place = torch.arange(B, device=u.device) + u / B
place * T -> torch.arange(B, device=u.device) + u / B * T
  only u is divided by B: (i + u) / B needs its brackets.
/ B -> / (B - 1)
  you divided by B - 1: there are B stretches, each of them 1 / B long.
chosen = (place * T).long()
  nothing was added to the fraction cut off: steps run from 1 to T, so add 1 (after a clamp to T - 1).
chosen = (place * T).long().clamp(1, T)
  step 0 was clamped to 1, and no 1 added: then step 1 comes twice as often, and T hardly ever. Clamp to T - 1, then add
  1.
chosen = (place * (T - 1)).long() + 1
  place is multiplied by T - 1: then step T would hardly ever be trained.
+ u -> + 1 + u
  the stretches are counted from 1: image 0 has the stretch from 0 to 1 / B.
chosen = torch.arange(B, device=u.device) * (T // B) + (u * (T // B)).long() + 1
chosen = ((torch.arange(B, device=u.device) + u) * (T // B)).long() + 1
  the length of a stretch is rounded, T // B. Where B does not divide T, the last steps would never be trained: multiply
  (i + u) / B by T, then cut off.
place
  place itself was returned: a step is the place times T, cut off, plus 1.
.long() ->
  the steps are still floats with a fraction: cut it off (.long() does).
""",
)

Exercise(
    tag="7.3",
    reference=ema_update,
    cases=lambda: [_pair(0.9, 5, 3, 4, 2), _pair(0.999, 4, 3), _pair(0.75, 6), _pair(0.0, 2, 3, 5)],
    table="""
return decay * average + (1 - decay) * value

(1 - decay) * average + decay * value
  the two weights are swapped: with decay 0.999 the average should hardly move.
decay * average + value
  the new value has weight 1: the two weights must add up to 1, or the average grows.
average + (1 - decay) * value
  the old average keeps weight 1: the two weights must add up to 1, or the average grows.
(average + value) / 2
  both have weight 1/2: decay says how much of the old average stays.
average + (1 - decay) * (average - value)
  the average moves away from the value: the step is (1 - decay) (value - average).
decay * (average + value)
  both are multiplied by decay: the new value has the weight 1 - decay.
decay * average + 1 - decay * value
decay * average + value - decay
  1 - decay has lost its brackets: Python multiplies before it subtracts.
value
  the new value is returned as it is, and nothing averaged.
average
  the old average is returned as it is: the new value is missing.
""",
)
