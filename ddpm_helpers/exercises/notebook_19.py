"""Exercises of notebook 19: patches, adaLN-Zero, words that are not there, the smallest scale that is good enough."""

import torch
import torch.nn.functional as F
from einops import rearrange

from ..lessons.patches import adaln_zero, cross_attention, patchify
from ..lessons.words import smallest_scale
from ..marking import Exercise


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + shape[0]), dtype=torch.float64)


def _bent(h):
    return torch.sin(2 * h) + h.flip(1) ** 2 + 0.3


def _modulated(batch: int, count: int, width: int) -> tuple:
    parts = (_normal(batch, width, seed=seed) for seed in (1, 2, 3))
    return _normal(batch, count, width) + 0.7, _bent, *parts


def _words(batch: int, count: int, length: int, width: int, wide: int) -> tuple:
    real = torch.arange(length) < 2 + torch.arange(batch)[:, None] % (length - 2)
    k, v = _normal(batch, length, width, seed=1), _normal(batch, length, wide, seed=2)
    return _normal(batch, count, width), k, v, real


Exercise(
    tag="19.1",
    reference=patchify,
    cases=lambda: [(_normal(2, 3, 4, 6), 2), (_normal(3, 2, 6, 9), 3), (_normal(4, 1, 4, 8), 4)],
    names={"rearrange": rearrange},
    table="""
return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=side, q=side)

(h w) -> (w h)
  the patches are taken column by column. As text is read, w runs fastest: (h w).
(c p q) -> (p q c)
  the channels stand last in a token. They come first: (c p q).
(c p q) -> (c q p)
  the pixels of a patch stand column by column. Row by row is (c p q).
(h p) (w q) -> (p h) (q w)
  each token holds pixels from all over the image: with (p h) neighbours fall into different patches. The last name in a
  bracket runs fastest, so (h p).
b (h w) (c p q) -> b (c p q) (h w)
  tokens and their numbers have changed places: (B, tokens, numbers) is wanted.
b (h w) (c p q) -> b (c h w) (p q)
  each channel makes tokens of its own. A token holds all channels of its patch.
p=side, q=side -> h=side, w=side
  side is taken as the number of patches along a side. It is the number of pixels along a patch.
x.flatten(2).mT
  each pixel became a token: this is right for patches of 1.
""",
)

Exercise(
    tag="19.2",
    reference=adaln_zero,
    cases=lambda: [_modulated(2, 5, 4), _modulated(3, 4, 6)],
    names={"F": F},
    table="""
h = F.layer_norm(x, x.shape[-1:])
h = h * (1 + scale[:, None]) + shift[:, None]
return x + gate[:, None] * branch(h)

(1 + scale[:, None]) -> scale[:, None]
  h is multiplied by the scale alone. At the start the scale is 0, and the branch would see nothing: 1 + scale.
(1 + scale[:, None]) + shift -> (1 + shift[:, None]) + scale
  shift and scale have changed places.
h * (1 + scale[:, None]) + shift[:, None] -> (h + shift[:, None]) * (1 + scale[:, None])
  the shift is added before the scaling. It comes after.
x + branch(h)
  the gate is missing: at the start, where it is 0, the block has to do nothing.
x + (1 + gate[:, None]) * branch(h)
  the gate is counted from 1. At the start, where it is 0, the block has to do nothing.
gate[:, None] * branch(h)
  x itself is missing: the branch is added to it.
h + gate[:, None] * branch(h)
  the branch is added to the normalised tokens. It is added to x as it came.
x + branch(gate[:, None] * h)
  the gate stands at the branch's input. It stands at its output.
x.shape[-1:] -> x.shape[1:]
  the norm is taken over all tokens of an image at once. Each token has its own: over the last axis alone.
F.layer_norm(x, x.shape[-1:]) -> x
  the norm is missing.
""",
)

Exercise(
    tag="19.3",
    reference=cross_attention,
    cases=lambda: [_words(3, 5, 6, 4, 2), _words(2, 3, 4, 6, 5)],
    table="""
fit = q @ k.mT / q.shape[-1] ** 0.5
weights = fit.masked_fill(~real[:, None], -torch.inf).softmax(-1)
return weights @ v, weights

weights = fit.softmax(-1)
  words that are not there get weights, too: put minus infinity in their places before the softmax.
weights = fit.masked_fill(~real[:, None], 0).softmax(-1)
  the words that are not there get a fit of 0, and exp(0) is 1. Minus infinity makes their weight 0.
weights = fit.softmax(-1).masked_fill(~real[:, None], 0)
  the weights of missing words are removed after the softmax, so those that are left no longer add up to 1.
weights = fit.masked_fill(real[:, None], -torch.inf).softmax(-1)
  the mask is turned around: the words that are there are hidden.
weights = fit.masked_fill(~real[:, None], -torch.inf).softmax(1)
  the weights add up to 1 over the places in the image. Each place shares 1 among the words: the last axis.
fit = q @ k.mT
  the fit is not divided by the root of the width.
fit = q @ k.mT / q.shape[-1]
  the fit is divided by the width. Its root belongs there, for the spread of a sum of d products is sqrt(d).
fit = q @ k.mT / k.shape[1] ** 0.5
  the fit is divided by the root of the number of words. It is the width of q that counts.
""",
)

Exercise(
    tag="19.4",
    reference=smallest_scale,
    cases=lambda: [
        (torch.tensor([1.0, 2, 3, 5, 8]), torch.tensor([0.50, 0.72, 0.78, 0.80, 0.76]), 200),
        (torch.tensor([8.0, 4, 2, 1]), torch.tensor([0.70, 0.90, 0.87, 0.60]), 400),
        (torch.tensor([0.0, 1, 2, 4]), torch.tensor([0.10, 0.55, 0.58, 0.60]), 1000),
        (torch.tensor([1.0, 2, 4]), torch.tensor([0.745, 0.7477, 0.75]), 100),
        (torch.tensor([1.0, 3, 9]), torch.tensor([0.66, 0.74, 0.75]), 150),
        (torch.tensor([1.0, 2, 4]), torch.tensor([0.855, 0.88, 0.90]), 500),
    ],
    table="""
best = shares.max()
error = ((shares * (1 - shares) + best * (1 - best)) / count).sqrt()
good = shares >= best - 2 * error
return scales[good].min()

good = shares >= best
  the best share decides alone. Which of two scales within chance of each other is ahead is no reason to take it.
good = shares >= best - error
  one standard error is allowed. Two are asked for.
error = (best * (1 - best) / count).sqrt()
  only the error of the best share counts. Both shares are measured, and variances add up.
error = (shares * (1 - shares) + best * (1 - best)) / count
  this is the variance of the difference. Its root is the standard error.
error = (shares * (1 - shares) / count).sqrt() + (best * (1 - best) / count).sqrt()
  the two standard errors are added. Their squares are, and the root comes last.
error = shares * (1 - shares) + best * (1 - best) ; error = error.sqrt()
  the number of images is missing.
scales[good].max()
  this is the largest scale that is good enough. Guidance costs variety, so take the smallest.
scales[good][0]
  this is the first that is good enough. The scales need not come in order.
shares[good].min()
  this is a share. The scale is wanted.
""",
)
