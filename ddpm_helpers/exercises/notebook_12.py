"""Exercises of notebook 12: labels left out by coins, and the step past the label."""

import torch

from ..losses import drop_labels
from ..marking import Exercise
from ..sampling import guided_eps


def _coins(seed: int, count: int, share: float, none: int) -> tuple:
    """Labels, coins, share, "no label"; one coin lies exactly at the share: it keeps its label.

    The first label is hidden or told in turn, the last one the other way round, and the coins are squared, so that
    their mean lies above their median: one coin for the whole batch is neither "all" nor "none", whichever it is.
    """
    generator = torch.Generator().manual_seed(seed)
    labels, chance = torch.randint(none, (count,), generator=generator), torch.rand(count, generator=generator) ** 2
    below, above = share / 2, 0.999
    chance[1], chance[0], chance[-1] = share, *((below, above) if seed % 2 == 0 else (above, below))
    return labels, chance, share, none


Exercise(
    tag="12.1",
    reference=drop_labels,
    cases=lambda: [
        _coins(4, 13, 0.3, 10),
        _coins(1, 7, 0.0, 3),
        _coins(2, 40, 0.1, 4),
        _coins(3, 9, 0.75, 6),
        _coins(6, 11, 0.6, 5),
    ],
    table="""
return labels.masked_fill(chance < share, none)

< share -> >= share
< share -> > share
  the comparison is turned around: the coins below the share hide their labels, so that a share of 0.1 hides one in ten.
chance < share -> chance.median() < share
  the median of the coins decides for the whole batch: each label has its own coin.
labels.clone()
  no label is hidden: compare `chance` (not the labels) with `share`; return the new tensor.
torch.full_like(labels, none)
  every label is hidden: compare `chance` (not the labels) with `share`.
chance -> labels
  the labels are compared with the share: compare `chance`, the coins.
< share -> < 0.1
  the share is fixed at 0.1: compare with `share`.
none -> 10
  the hidden labels become 10, whatever `none` is: put `none`.
none -> -1
  the hidden labels become -1: no row of the table has that number; put `none`.
none -> 0
  the hidden labels become 0. That is a class like any other, and the network would learn that some zeros look like any
  digit: put `none`.
labels[chance >= share]
  the hidden labels are removed: the batch has as many labels as images, so replace them.
< share -> <= share
  a coin that equals the share hides its label: with share 0 some labels would be lost; use <.
chance < share -> torch.arange(len(chance)) < round(share * len(chance))
chance < share -> torch.arange(len(chance)) < int(share * len(chance))
  the first labels of the batch are hidden, in a fixed number: let the coins decide.
chance < share -> chance.argsort().argsort() < round(share * len(chance))
  a fixed number of labels is hidden, those with the smallest coins: compare each coin with the share, and leave the
  number to chance.
chance < share -> (chance < share) | (labels == 0)
  ! 0 is a class: it looks as if every label 0 is hidden too.
chance < share -> torch.rand(len(chance), generator=torch.Generator().manual_seed(9)) < share
  new coins are tossed: use those in `chance`, so that a run can be repeated.
labels + none * (chance < share)
  'no label' is added to the label: replace it.
""",
)


def _pair(seed: int, scale: float, *shape: int) -> tuple:
    return (*torch.randn((2, *shape), generator=torch.Generator().manual_seed(seed)), scale)


def _exact(case: tuple) -> tuple:
    eps, eps_label, scale = case
    return eps.double(), eps_label.double(), scale


Exercise(
    tag="12.2",
    reference=guided_eps,
    cases=lambda: [
        _pair(0, 3.0, 5, 3, 4, 2),
        _pair(1, 0.5, 2, 1, 3, 5),
        _pair(2, 0.0, 3, 1, 2, 4),
        _exact(_pair(3, 8.0, 13)),  # as the notebook calls it
        _pair(4, -1.0, 4, 3),
    ],
    table="""
return eps + scale * (eps_label - eps)

return eps + -> return eps_label +
  you start at the prediction with the label: then scale 0 is not the network without a label. That is the convention of
  the paper, w = scale - 1.
scale * (eps_label - eps)
  only the difference is returned: it is added to the prediction without the label.
(eps_label - eps) -> eps_label
  the prediction with the label is added, not the difference: at scale 1 two predictions of noise would be added up.
scale * eps_label
  the prediction with the label is multiplied by the scale: then the noise is too large, and what is exaggerated is not
  the label. (Are brackets missing around the difference?)
scale -> min(scale, 1.0)
  the scale stops at 1: guidance goes past the label.
eps_label.clone()
  the scale is not used: the result is the prediction with the label, at every scale.
scale -> (scale - 1)
  scale - 1 multiplies the difference: at scale 1 the network is taken at its word, so the factor is the scale itself.
(eps + scale * (eps_label - eps)).clamp(-1, 1)
  the result is clipped to [-1, 1]: that is for images; noise goes beyond.
(eps_label - eps) -> (eps_label + eps)
  the two predictions are added inside the brackets: take their difference.
(eps + scale * eps_label) / (1 + scale)
  you took a weighted mean: a mean lies between the two predictions, guidance goes past.
right(eps, eps_label, scale) * eps_label.norm() / right(eps, eps_label, scale).norm()
  the result is scaled back to the length of a prediction: return the sum as it is.
""",
)
