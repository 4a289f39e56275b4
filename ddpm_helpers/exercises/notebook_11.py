"""Exercises of notebook 11: labels left out by coins, and the step past the label."""

import torch

from ..losses import drop_labels
from ..sampling import guided_eps
from .core import Exercise


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


def _replaced(hidden=lambda chance, share: chance < share, entry=lambda none: none):
    """A `drop_labels` with other coins, or another entry in place of "no label"."""
    return lambda labels, chance, share, none: labels.masked_fill(hidden(chance, share), entry(none))


def _first(chance, share):
    return torch.arange(len(chance)) < round(share * len(chance))


Exercise(
    tag="11.1",
    reference=drop_labels,
    cases=lambda: [
        _coins(4, 13, 0.3, 10),
        _coins(1, 7, 0.0, 3),
        _coins(2, 40, 0.1, 4),
        _coins(3, 9, 0.75, 6),
        _coins(6, 11, 0.6, 5),
    ],
    mistakes={
        "It looks as if the comparison is turned around: a share of 0.1 hides one label in ten, not nine.": (
            _replaced(lambda chance, share: chance >= share)
        ),
        "It looks as if the coins above the share hide their labels: those below it do.": (
            _replaced(lambda chance, share: chance > share)
        ),
        "It looks as if one coin decides for the whole batch: compare all of `chance`, each label has its own.": (
            _replaced(lambda chance, share: (chance[0] < share).expand(len(chance)))
        ),
        "It looks as if the last coin decides for the whole batch, as when a loop writes over its result: each label "
        "has its own coin.": _replaced(lambda chance, share: (chance[-1] < share).expand(len(chance))),
        "It looks as if the mean of the coins decides for the whole batch: each label has its own coin.": (
            _replaced(lambda chance, share: (chance.mean() < share).expand(len(chance)))
        ),
        "It looks as if the median of the coins decides for the whole batch: each label has its own coin.": (
            _replaced(lambda chance, share: (chance.median() < share).expand(len(chance)))
        ),
        "It looks as if no label is hidden: compare `chance` (not the labels) with `share`; return the new tensor.": (
            lambda labels, chance, share, none: labels.clone()
        ),
        "It looks as if every label is hidden: compare `chance` (not the labels) with `share`.": (
            lambda labels, chance, share, none: torch.full_like(labels, none)
        ),
        "It looks as if the labels are compared with the share: compare `chance`, the coins.": (
            lambda labels, chance, share, none: labels.masked_fill(labels < share, none)
        ),
        "It looks as if the share is fixed at 0.1: compare with `share`.": (
            _replaced(lambda chance, share: chance < 0.1)
        ),
        "It looks as if the hidden labels become 10, whatever `none` is: put `none`.": _replaced(entry=lambda none: 10),
        "It looks as if the hidden labels become 0. That is a class like any other, and the network would learn that "
        "some zeros look like any digit: put `none`.": _replaced(entry=lambda none: 0),
        "It looks as if the hidden labels become -1: no row of the table has that number; put `none`.": (
            _replaced(entry=lambda none: -1)
        ),
        "It looks as if the hidden labels become none - 1, the last class; put `none`.": (
            _replaced(entry=lambda none: none - 1)
        ),
        "It looks as if the hidden labels are removed: the batch has as many labels as images, so replace them.": (
            lambda labels, chance, share, none: labels[chance >= share]
        ),
        "It looks as if a coin that equals the share hides its label: with share 0 some labels would be lost; use <.": (
            _replaced(lambda chance, share: chance <= share)
        ),
        "It looks as if the first labels of the batch are hidden, in a fixed number: let the coins decide.": (
            _replaced(_first)
        ),
        "It looks as if the first labels of the batch are hidden, int(share * B) of them: let the coins decide.": (
            _replaced(lambda chance, share: torch.arange(len(chance)) < int(share * len(chance)))
        ),
        "It looks as if a fixed number of labels is hidden, those with the smallest coins: compare each coin with the "
        "share, and leave the number to chance.": (
            _replaced(lambda chance, share: chance.argsort().argsort() < round(share * len(chance)))
        ),
        "0 is a class: it looks as if every label 0 is hidden too.": (
            lambda labels, chance, share, none: labels.masked_fill((chance < share) | (labels == 0), none)
        ),
        "It looks as if the result is a float tensor: a row of a table has a whole number.": (
            lambda labels, chance, share, none: torch.where(chance < share, float(none), labels.float())
        ),
        "It looks as if new coins are tossed: use those in `chance`, so that a run can be repeated.": (
            _replaced(lambda chance, share: torch.rand(len(chance), generator=torch.Generator().manual_seed(9)) < share)
        ),
        "It looks as if 'no label' is added to the label: replace it.": (
            lambda labels, chance, share, none: labels + none * (chance < share)
        ),
    },
)


def _pair(seed: int, scale: float, *shape: int) -> tuple:
    return (*torch.randn((2, *shape), generator=torch.Generator().manual_seed(seed)), scale)


def _exact(case: tuple) -> tuple:
    eps, eps_label, scale = case
    return eps.double(), eps_label.double(), scale


def _clipped(eps, eps_label, scale):
    return eps + min(scale, 1.0) * (eps_label - eps)


def _same_length(eps, eps_label, scale):
    guided = guided_eps(eps, eps_label, scale)
    return guided * eps_label.norm() / guided.norm()


Exercise(
    tag="11.2",
    reference=guided_eps,
    cases=lambda: [
        _pair(0, 3.0, 5, 3, 4, 2),
        _pair(1, 0.5, 2, 1, 3, 5),
        _pair(2, 0.0, 3, 1, 2, 4),
        _exact(_pair(3, 8.0, 13)),  # as the notebook calls it
        _pair(4, -1.0, 4, 3),
    ],
    mistakes={
        "It looks as if you start at the prediction with the label: then scale 0 is not the network without a label. "
        "That is the convention of the paper, w = scale - 1.": (
            lambda eps, eps_label, scale: eps_label + scale * (eps_label - eps)
        ),
        "It looks as if the two predictions are swapped: scale 0 must give the one without the label.": (
            lambda eps, eps_label, scale: eps_label + scale * (eps - eps_label)
        ),
        "It looks as if the difference has the wrong sign: it points from the prediction without the label to the one "
        "with it.": lambda eps, eps_label, scale: eps - scale * (eps_label - eps),
        "It looks as if only the difference is returned: it is added to the prediction without the label.": (
            lambda eps, eps_label, scale: scale * (eps_label - eps)
        ),
        "It looks as if the prediction with the label is added, not the difference: at scale 1 two predictions of "
        "noise would be added up.": lambda eps, eps_label, scale: eps + scale * eps_label,
        "It looks as if the prediction with the label is multiplied by the scale: then the noise is too large, and "
        "what is exaggerated is not the label. (Are brackets missing around the difference?)": (
            lambda eps, eps_label, scale: scale * eps_label
        ),
        "It looks as if the scale stops at 1: guidance goes past the label.": _clipped,
        "It looks as if the scale is not used: the result is the prediction with the label, at every scale.": (
            lambda eps, eps_label, scale: eps_label.clone()
        ),
        "It looks as if scale - 1 multiplies the difference: at scale 1 the network is taken at its word, so the "
        "factor is the scale itself.": lambda eps, eps_label, scale: eps + (scale - 1) * (eps_label - eps),
        "It looks as if the scale is fixed at 3: use the argument.": (
            lambda eps, eps_label, scale: eps + 3 * (eps_label - eps)
        ),
        "It looks as if the scale is squared: it multiplies the difference once.": (
            lambda eps, eps_label, scale: eps + scale**2 * (eps_label - eps)
        ),
        "It looks as if the result is clipped to [-1, 1]: that is for images; noise goes beyond.": (
            lambda eps, eps_label, scale: guided_eps(eps, eps_label, scale).clamp(-1, 1)
        ),
        "It looks as if the two predictions are added inside the brackets: take their difference.": (
            lambda eps, eps_label, scale: eps + scale * (eps_label + eps)
        ),
        "It looks as if you took a weighted mean: a mean lies between the two predictions, guidance goes past.": (
            lambda eps, eps_label, scale: (eps + scale * eps_label) / (1 + scale)
        ),
        "It looks as if the result is scaled back to the length of a prediction: return the sum as it is.": (
            _same_length
        ),
    },
    tolerance_64=1e-9,
)
