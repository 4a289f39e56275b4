"""Exercises of notebook 17: replacement, the gradient of the data term, a test of coverage, SDEdit's start."""

import torch

from ..lessons.prior import calibrated, data_gradient, edit_start, replaced
from ..marking import Exercise
from ..schedule import cosine_schedule, linear_schedule, q_sample


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + shape[0]))


def _half_known(schedule, t: int, *shape: int) -> tuple:
    return schedule, _normal(*shape), t, _normal(*shape, seed=5), _normal(*shape, seed=6) > 0, _normal(*shape, seed=7)


def _denoise(x):
    return torch.tanh(x) + 0.3 * x.flip(-1) ** 2


def _log_p(images):
    return -((images[..., :1] - 0.4) ** 2).flatten(1).sum(1) / 0.18


def _asked(N: int, width: float, shift: float = 0.0, seed: int = 0) -> tuple:
    """Truths from N(0, 1), and 19 answers each, from N(shift, width^2)."""
    return width * _normal(19, N, seed=seed).double() + shift, _normal(N, seed=seed + 3).double()


def _edit(schedule, strength: float, steps: list[int], *shape: int) -> tuple:
    return schedule, _normal(*shape), strength, steps, _normal(*shape, seed=4)


Exercise(
    tag="17.1",
    reference=replaced,
    names={"q_sample": q_sample},
    cases=lambda: [_half_known(cosine_schedule(), 400, 4, 1, 3, 2), _half_known(linear_schedule(50), 30, 3, 2, 2, 5)],
    table="""
steps = torch.full((len(y),), t, device=y.device)
known = q_sample(schedule, y, steps, noise)
return torch.where(mask, known, x_t)

torch.where(mask, x_t, known)
  the known pixels were left, and the missing ones replaced: torch.where takes its second argument
  where the mask is True.
torch.where(mask, y, x_t)
  the clean values were put in. A network at step t has only seen pixels with the noise of step t.
known = schedule.sqrt_alpha_bar[t] * y
  the known pixels are shrunk, but have no noise.
known = y + schedule.sigma[t] * noise
  the known pixels have noise, but are not shrunk by the root of alpha_bar.
known = schedule.alpha_bar[t] * y + schedule.sigma[t] * noise
  y was multiplied by alpha_bar. Its root is the weight of the clean image.
known = schedule.sqrt_alpha_bar[t] * y + schedule.sigma[t] ** 2 * noise
  the noise was multiplied by its variance. Its standard deviation, sigma, belongs there.
steps = torch.full((len(y),), t - 1, device=y.device)
  the known pixels were noised to step t - 1.
known
  all pixels were replaced. Where the mask is False, x_t stays.
known * mask + x_t
  x_t was not set to 0 where pixels are known: there you have the sum of both.
""",
)

Exercise(
    tag="17.2",
    reference=data_gradient,
    names={"denoise": _denoise},
    cases=lambda: [(_denoise, _normal(4, 1, 3, 2).double(), _log_p), (_denoise, _normal(3, 2).double(), _log_p)],
    table="""
with torch.enable_grad():
    x_t = x_t.detach().requires_grad_()
    guess = denoise(x_t)
    gradient = torch.autograd.grad(log_p(guess).sum(), x_t)[0]
return gradient, guess.detach()

gradient = torch.autograd.grad(log_p(guess).sum(), guess)[0]
  the gradient is the one in the clean guess. Ask for the one in x_t: autograd goes back through `denoise`.
gradient = -torch.autograd.grad(log_p(guess).sum(), x_t)[0]
  there is a minus too many: log_p is to grow.
gradient = torch.autograd.grad(log_p(guess).mean(), x_t)[0]
  the mean over the batch is taken: an image's gradient must not depend on how many others there are. Take the sum.
gradient = torch.autograd.grad(log_p(x_t).sum(), x_t)[0]
  log_p was asked about x_t. It knows clean images only, so give it the guess.
gradient = torch.autograd.grad(log_p(guess).exp().sum(), x_t)[0]
  the exponential was taken: the gradient is to be that of the logarithm.
gradient = torch.autograd.grad(log_p(guess).sum() + guess.sum(), x_t)[0]
  the guess itself was added to what is differentiated.
gradient, x_t.detach()
  x_t is returned in place of the guess.
guess.detach(), gradient
  the two results have changed places: the gradient comes first.
gradient + x_t.detach(), guess.detach()
  a step was taken already: only the gradient is wanted.
""",
)

Exercise(
    tag="17.3",
    reference=calibrated,
    cases=lambda: [
        _asked(1000, 1.0),
        _asked(1000, 0.7),
        _asked(1000, 1.4),
        _asked(1000, 1.0, shift=1.5),
        _asked(40, 0.9, seed=1),
        _asked(4000, 1.02, seed=2),
        _asked(1000, 1.0, seed=4),
    ],
    table="""
inside = (truth > answers.amin(0)) & (truth < answers.amax(0))
share = inside.double().mean().item()
return abs(share - 0.9) <= 3 * (0.9 * 0.1 / len(truth)) ** 0.5

share >= 0.9 - 3 * (0.9 * 0.1 / len(truth)) ** 0.5
  intervals that are too wide pass your test: it looks on one side only.
share <= 0.9 + 3 * (0.9 * 0.1 / len(truth)) ** 0.5
  intervals that are too narrow pass your test: it looks on one side only.
abs(share - 0.9) <= 3 * 0.9 * 0.1 / len(truth)
  the root is missing in the standard error: a right sampler fails.
True
abs(share - 0.9) <= 3 * (0.9 * 0.1) ** 0.5
  everything passes, and a test must be able to fail. Is the variance that of one question? That of a mean of N is N
  times smaller.
abs(share - 0.95) <= 3 * (0.9 * 0.1 / len(truth)) ** 0.5
  95 % were expected. Two of twenty places lie outside of the interval, one at each end.
abs(share - 0.9) > 3 * (0.9 * 0.1 / len(truth)) ** 0.5
  the answer is the wrong way round: True is for a sampler that passes.
share >= 0.9
  chance was not allowed for: a right sampler has more or less than 90 % from run to run.
False
  nothing passes.
""",
)

Exercise(
    tag="17.4",
    reference=edit_start,
    names={"q_sample": q_sample},
    cases=lambda: [
        _edit(cosine_schedule(), 0.5, list(range(950, 0, -50)), 4, 1, 3, 2),
        _edit(linear_schedule(100), 0.32, [100, 60, 32, 20, 5], 3, 2, 2, 5),
    ],
    table="""
left = [t for t in steps if t <= strength * schedule.T]
t = torch.full((len(guide),), left[0], device=guide.device)
return q_sample(schedule, guide, t, noise), left

left = [t for t in steps if t < strength * schedule.T]
  a step that is exactly strength T is left out. It belongs to those that are made.
left = [t for t in steps if t >= strength * schedule.T]
  the steps above strength T are kept. SDEdit makes those below.
left = [t for t in steps if t <= (1 - strength) * schedule.T]
  the strength is turned round: 1 forgets the guide, a small one hardly changes it.
left = steps[: round(strength * len(steps))]
  the first steps of the list were taken, which are the noisy ones. The last ones are to be made.
q_sample(schedule, guide, t, noise), steps
  the start is right, and all steps are returned: those above it must go.
schedule.sqrt_alpha_bar[left[0]] * guide, left
  the guide is shrunk, but has no noise: the network takes it for an image of another step.
guide + schedule.sigma[left[0]] * noise, left
  the guide is not shrunk by the root of alpha_bar.
guide, left
  the guide is not noised.
noise, left
  the guide is not in it: this is where a sample without a guide begins.
left, q_sample(schedule, guide, t, noise)
  the two results have changed places: x_t comes first.
""",
)
