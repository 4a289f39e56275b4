"""Exercises of notebook 03: the weight of a path."""

import torch

from ..lessons.toy import ReverseModel, double, log_weight
from ..marking import Exercise
from ..schedule import cosine_schedule


def _walk(T: int, paths: int) -> tuple:
    """A model that is neither ideal nor trivial, and paths that no process drew: every term of the sum differs."""
    schedule = double(cosine_schedule(T, max_beta=0.9))
    path = torch.randn(T + 1, paths, generator=torch.Generator().manual_seed(T), dtype=torch.float64)
    return ReverseModel(schedule, 0.5 * schedule.beta, lambda x, t: 0.7 * x + 0.05 * t), path


Exercise(
    tag="3.1",
    reference=log_weight,
    cases=lambda: [_walk(4, 3), _walk(2, 7), _walk(5, 5)],
    table="""
T = model.schedule.T
total = model.log_prior(path[T])
for t in range(1, T + 1):
    a, b = path[t - 1], path[t]
    ratio = model.log_step(a, b, t) - log_forward(model.schedule, a, b, t)
    total = total + ratio
return total

model.log_prior(path[T]) -> 0
  the prior log p(x_T) is missing: the model's path starts there.
path[T] -> path[0]
  the prior is taken at path[0], the clean image: it belongs to path[T], the noise.
- log_forward -> + log_forward
  the two log densities are added: the logarithm of a ratio is a difference.
-total
total + ratio -> total - ratio
  a ratio is upside down: it is the model's log density minus q's, log_step minus log_forward.
log_forward(model.schedule, a, b, t) -> log_closed_form(model.schedule, path[0], b, t)
  q(x_t | x_0), the closed form, stands where q(x_t | x_{t-1}), one step, belongs.
- log_forward(model.schedule, a, b, t) ->
  q is missing: what remains is the log density of the model's path alone.
range(1, T + 1) -> range(2, T + 1)
  the first step, t = 1, is left out: t runs from 1 to T, both included.
range(1, T + 1) -> range(1, T)
  the last step, t = T, is left out: range(1, T) stops at T - 1.
- log_forward -> / log_forward
  logarithms were divided: log_step and log_forward are logarithms already, so subtract them.
ratio = torch.log(model.log_step(a, b, t) / log_forward(model.schedule, a, b, t))
  torch.log was taken once more: log_step - log_forward is the logarithm that is wanted.
ratio
  only the last ratio is returned: add each one to total.
total = total + ratio -> return total + ratio
  the return stands inside the loop: only the step t = 1 was added.
log_forward(model.schedule, a, b, t) -> log_forward(model.schedule, b, a, t)
  x_{t-1} and x_t are swapped in q's step: log_forward(schedule, x_prev, x_t, t), where x_prev is path[t - 1].
log_step(a, b, t) -> log_step(b, a, t)
  x_{t-1} and x_t are swapped in the model's step: log_step(x_prev, x_t, t), where x_prev is path[t - 1].
a, b = path[t], path[t - 1]
  x_{t-1} and x_t are swapped in both steps: path[t - 1] comes first, then path[t].
""",
)
