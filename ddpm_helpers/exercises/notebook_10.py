"""Exercises of notebook 10: the steps of diffusers' samplers in our counting, and its networks behind our signature."""

from numbers import Number

import torch
from torch import Tensor

from ..lessons.libraries import ask_diffusers, leading_steps
from ..marking import Exercise

HALF = torch.tensor(0.5, requires_grad=True)


class Answer(dict):
    """What a network of diffusers answers with: its prediction is `.sample`, `[0]`, `["sample"]`, `.to_tuple()[0]`."""

    @property
    def sample(self) -> Tensor:
        return self["sample"]

    def __getitem__(self, key: int | str) -> Tensor:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple:
        return tuple(self.values())


def answering_net(sample: Tensor, timestep: Tensor | int, class_labels: None = None, return_dict: bool = True) -> tuple:
    """Stands in for a network of diffusers, with the arguments of theirs: a timestep each, or one for all."""
    if not isinstance(timestep, Tensor | Number) or torch.as_tensor(timestep).ndim > 1:  # theirs stops further inside
        found = f"of shape {tuple(timestep.shape)}" if isinstance(timestep, Tensor) else type(timestep).__name__
        raise TypeError(f"timestep must be a tensor (B,), or one number, got {found}")
    timesteps = torch.as_tensor(timestep, dtype=torch.float32).expand(len(sample))  # theirs does so, too
    answer = HALF * sample + (timesteps / 3).cos().reshape(-1, 1, 1, 1)
    return Answer(sample=answer) if return_dict else (answer,)


answering_net.forward = answering_net  # theirs are modules, and can be asked so as well


def _case(*shape: int, t: list[int]) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    return answering_net, torch.randn((len(t), *shape), generator=generator), torch.tensor(t)


Exercise(
    tag="10.1",
    reference=leading_steps,
    cases=lambda: [(1000, 5), (1000, 50), (100, 7), (10, 10), (300, 1), (1000, 60), (1000, 7)],
    table="""
return [T // steps * i + 1 for i in range(steps - 1, -1, -1)]

i + 1 -> i
  ! These are their timesteps, counted from 0: our steps are larger by one.
[T * i // steps for i in range(steps, 0, -1)]
  ! These are the steps of ddim_steps, which diffusers calls trailing: leading starts to count at timestep 0.
range(steps - 1, -1, -1) -> range(steps, 0, -1)
  ! One stride too high: i runs from steps - 1 down to 0, so that the last step is t = 1.
i + 1 -> i ; range(steps - 1, -1, -1) -> range(steps, 0, -1)
  the multiples of k are counted from k on: leading counts from timestep 0, so that the last step is t = 1.
// -> /
  / stands where // belongs: the stride is a whole number, k = T // steps.
T // steps -> round(T / steps)
  the stride is rounded to the nearest integer: where T / steps is no integer, // rounds down.
torch.linspace(T, 1, steps).long().tolist()
  the steps go from T to 1: leading makes strides of k = T // steps, and its first step lies below T.
(torch.linspace(0, T - 1, steps).round().long().flip(0) + 1).tolist()
  the timesteps go from T - 1 to 0, which diffusers calls linspace: leading makes strides of k = T // steps, and its
  first timestep lies below T - 1.
list(range(1, T + 1, T // steps))[::-1]
  ! Nearly. Where T / steps is no integer, counting by k up to T may give one step too many: stop after `steps` of them.
T // steps * i -> T * i // steps
  each step is rounded by itself: leading rounds the stride, k = T // steps, then multiplies.
[T - T // steps * i for i in range(steps)]
  ! These steps start at T and go down by k: leading counts up from timestep 0, so its first step lies below T.
[T - T // steps * i + 1 for i in range(1, steps + 1)]
  k is subtracted from T again and again: where T / steps is no integer, that does not end at t = 1. Leading counts up
  from timestep 0.
""",
    names={"torch": torch},
)

Exercise(
    tag="10.2",
    reference=ask_diffusers,
    cases=lambda: [_case(3, 4, 2, t=[1, 2, 7, 300, 1000]), _case(1, 2, 5, t=[1000, 3, 1])],
    table="""
return net(x, t - 1).sample

t - 1 -> t
  the network is told t: it counts from 0, so our step t is its timestep t - 1.
t - 1 -> t + 1
  the network is told t + 1: its first timestep is 0, so subtract one.
.sample ->
  ! The network answers with an object: its prediction is the attribute sample.
net(x, t - 1, return_dict=False)
  ! With return_dict=False the network answers with a tuple of one: its prediction is the entry [0].
x, t - 1 -> t - 1, x
  the arguments are swapped: the network takes the images first, then the timesteps.
t - 1 -> (t - 1) / 1000
  the step is divided by 1000: this network wants whole timesteps, SimpleUNet a share.
""",
)
