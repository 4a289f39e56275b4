"""Exercises of notebook 08: the distance of two sets of features, the nearest training image, the prior's bits."""

import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..lessons.toy import double
from ..metrics import frechet_distance, nearest_images, prior_bits
from ..schedule import cosine_schedule, linear_schedule
from .core import Exercise

BIT = math.log(2)  # in nats


def _features(seed: int, rows: int, columns: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator)
    return torch.randn(rows, columns, generator=generator) @ mix * scale + 2 * torch.rand(columns, generator=generator)


def _similar() -> tuple:
    """Two sets that hardly differ: the distance is a small difference of large numbers, and in 32 bits it is 0.

    It is 0 in whatever order one computes, so that the mistake can be told: the variances are 64^2 and (64 + 1/128)^2,
    and 1/128^2 is all that rounding takes away.
    """
    a = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    return 64 * a, (64 + 1 / 128) * a


def _alike(seed: int, rows: int, columns: int) -> torch.Tensor:
    """Features that rise and fall together: all covariances are positive, so that each number has a root."""
    shared, own = torch.randn(rows, columns + 1, generator=torch.Generator().manual_seed(seed)).split([1, columns], 1)
    return 2 * shared + own


def _flat(seed: int, rows: int) -> torch.Tensor:
    """Features that fill 3 of 20 dimensions, as few images would: 17 eigenvalues are 0, and by rounding below it.

    There are more rows than columns, so that the reference need not warn. In 64 bits: what float() or double() returns
    is the argument itself where it has that dtype already, and may not be changed.
    """
    generator = torch.Generator().manual_seed(seed)
    return (_features(seed, rows, 3) @ torch.randn(3, 20, generator=generator)).double()


def _moments(x):
    return x.mean(0), x.T.cov()


def _root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def _of_entries(cov_a, cov_b):
    return (cov_a.sqrt() @ cov_b @ cov_a.sqrt()).sqrt().trace()


def _of_positive_entries(cov_a, cov_b):
    root = cov_a.clamp(min=0).sqrt()
    return (root @ cov_b @ root).clamp(min=0).sqrt().trace()


def _overlap(cov_a, cov_b):
    root = _root(cov_a)
    return torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()


def _distance(mean=lambda d: d.square().sum(), overlap=_overlap, moments=_moments, weight=2.0, dtype=torch.float64):
    """A `frechet_distance` with one part replaced."""

    def wrong(a, b):
        (mean_a, cov_a), (mean_b, cov_b) = (moments(x.to(dtype or x.dtype)) for x in (a, b))
        spread = cov_a.trace() + cov_b.trace() - weight * overlap(cov_a, cov_b)
        return (mean(mean_a - mean_b) + spread).item()

    return wrong


def _biased(x):
    return x.mean(0), x.T.cov(correction=0)


def _rounded(x):
    return x.mean(0).double(), x.T.cov().double()


def _scatter(x):
    return x.mean(0), (x - x.mean(0)).T @ (x - x.mean(0))


def _variances(x):
    return x.mean(0), x.var(0).diag()


def _second_moments(x):
    return x.mean(0), x.T @ x / (len(x) - 1)


def _correlations(x):
    return x.mean(0), x.T.corrcoef()


def _of_the_wrong_axis(x):
    return x.mean(0), x.cov()


def _between(left, right=None):
    """An overlap with other roots of A at the sides of B, functions of (roots of the eigenvalues, eigenvectors)."""

    def overlap(cov_a, cov_b):
        values, vectors = torch.linalg.eigh(cov_a)
        sides = [side(values.clamp(min=0).sqrt(), vectors) for side in (left, right or left)]
        return torch.linalg.eigvalsh(sides[0] @ cov_b @ sides[1]).clamp(min=0).sqrt().sum()

    return overlap


def _sum_of_entries(a, b):
    (mean_a, cov_a), (mean_b, cov_b) = (_moments(x.double()) for x in (a, b))
    root = _root(_root(cov_a) @ cov_b @ _root(cov_a))
    return ((mean_a - mean_b).square().sum() + (cov_a + cov_b - 2 * root).sum()).item()


def _added_covariances_of_the_wrong_axis(a, b):
    """The same with the matrices added before the trace: sets of two sizes stop it elsewhere."""
    cov_a, cov_b = a.double().cov(), b.double().cov()
    spread = (cov_a + cov_b - 2 * _root(_root(cov_a) @ cov_b @ _root(cov_a))).trace()
    return ((a.double().mean(0) - b.double().mean(0)).square().sum() + spread).item()


Exercise(
    tag="8.1",
    reference=frechet_distance,
    cases=lambda: [
        (_features(0, 40, 6), _features(1, 50, 6)),
        (_features(2, 30, 3), _features(3, 20, 3)),
        (_alike(4, 25, 4), 1.5 * _alike(9, 35, 4)),
        _similar(),
        (_flat(7, 30), _flat(8, 40)),
    ],
    mistakes={
        "It looks as if the root of the distance of the means is missing its square: the formula has the sum of the "
        "squared differences.": _distance(mean=lambda d: d.square().sum().sqrt()),
        "It looks as if the squared differences of the means are averaged: add them up.": (
            _distance(mean=lambda d: d.square().mean())
        ),
        "It looks as if the means are left out: two sets that lie far apart are not alike.": (
            _distance(mean=lambda d: 0.0 * d.sum())
        ),
        "It looks as if the means run along the features of a row: run over the rows, .mean(0).": (
            lambda a, b: (
                (a.double().mean(1) - b.double().mean(1)).square().sum() + _distance(mean=lambda d: 0.0 * d.sum())(a, b)
            ).item()
        ),
        "It looks as if only the means are compared: (8.4) has the covariances, too.": (
            lambda a, b: (a.double().mean(0) - b.double().mean(0)).square().sum().item()
        ),
        "It looks as if the factor 2 in front of the root is missing: then the distance of a set to itself is not 0.": (
            _distance(weight=1.0)
        ),
        "It looks as if the root is missing: the eigenvalues of A B are squares, take the root of each before you add "
        "them.": _distance(overlap=lambda a, b: (a @ b).trace()),
        "Nearly. An eigenvalue that should be 0 comes out a little below it, and its root is NaN. Take the symmetric "
        "form of (8.4), whose eigenvalues are real, and .clamp(min=0) before the root.": (
            _distance(overlap=lambda a, b: torch.linalg.eigvals(a @ b).real.sqrt().sum())
        ),
        "It looks as if eigh was given A B, which is not symmetric: it reads one triangle only. Take the root of "
        "A^(1/2) B A^(1/2).": _distance(overlap=lambda a, b: _root(a @ b).trace()),
        "It looks as if the roots were taken number by number: the root of a matrix takes those of its eigenvalues.": (
            _distance(overlap=_of_entries)
        ),
        "It looks as if the numbers were clamped, and the roots taken number by number: the root of a matrix takes "
        "those of its eigenvalues.": _distance(overlap=_of_positive_entries),
        "It looks as if you took the root of every entry of A B. A root of a matrix is another thing: multiplied by "
        "itself it gives the matrix.": _distance(overlap=lambda a, b: (a @ b).sqrt().trace()),
        "It looks as if you clamped A B, and took the root of every entry. A root of a matrix is another thing: "
        "multiplied by itself it gives the matrix.": (
            _distance(overlap=lambda a, b: (a @ b).clamp(min=0).sqrt().trace())
        ),
        "It looks as if the eigenvectors stand on both sides as they are: a root is V sqrt(values) V.T, so transpose "
        "the second one.": _distance(overlap=_between(lambda values, vectors: vectors * values @ vectors)),
        "It looks as if the root ends too early: it is V sqrt(values) V.T, with `@ vectors.T` at its end.": (
            _distance(overlap=_between(lambda values, vectors: vectors * values))
        ),
        "It looks as if the root is V sqrt(values), without V.T at its end: then its transpose stands on the left, "
        "h.T @ B @ h.": _distance(
            overlap=_between(lambda values, vectors: vectors * values, lambda values, vectors: (vectors * values).T)
        ),
        "It looks as if all entries of the matrix are added up: a trace adds those on the diagonal.": _sum_of_entries,
        "It looks as if you multiplied the roots of A and of B. That is right only where A B = B A.": (
            _distance(overlap=lambda a, b: (_root(a) @ _root(b)).trace())
        ),
        "It looks as if the root is taken of the sum of the eigenvalues: take the root of each, then add.": (
            _distance(overlap=lambda a, b: (a @ b).trace().sqrt())
        ),
        "It looks as if only the variances are used: the covariances off the diagonal belong to A and B.": (
            _distance(moments=_variances)
        ),
        "It looks as if the covariances divide by N: divide by N - 1, as .cov() does.": _distance(moments=_biased),
        "It looks as if the covariances are not divided: they are sums over N rows, divided by N - 1.": (
            _distance(moments=_scatter)
        ),
        "It looks as if the means are not subtracted before the covariances are computed.": (
            _distance(moments=_second_moments)
        ),
        "It looks as if correlations stand where covariances belong: how much the features vary counts, too.": (
            _distance(moments=_correlations)
        ),
        "It looks as if .cov() was given rows where it wants columns: for torch each row is one variable, so "
        "transpose the features first.": _distance(moments=_of_the_wrong_axis),
        "It looks as if .cov() was given rows, so that A and B have sizes that do not fit: for torch each row is one "
        "variable, so transpose the features first.": _added_covariances_of_the_wrong_axis,
        "It looks as if you compute in float32. Between similar sets the distance is a small difference of large "
        "numbers: start with .double().": _distance(dtype=None),
        "It looks as if .double() comes after the covariance, which has lost its last digits by then: start with it.": (
            _distance(moments=_rounded, dtype=None)
        ),
        "It looks as if .float() takes you to 32 bits. Between similar sets the distance is a small difference of "
        "large numbers: start with .double().": _distance(dtype=torch.float32),
        "It looks as if the result is the root of the distance: the formula ends with the squared length.": (
            lambda a, b: math.sqrt(_distance()(a, b))
        ),
    },
)


def _root_of_size(images):
    return math.sqrt(images[0].numel())


def _nearest(pairs=torch.cdist, scale=_root_of_size, axis=1):
    """A `nearest_images` with another distance (N, M) of the flat images, another divisor, or another axis."""

    def wrong(samples, images):
        found = pairs(samples.flatten(1), images.flatten(1)).min(axis)
        return found.indices, found.values / scale(images)

    return wrong


def _squares(a, b):
    return torch.cdist(a, b).square()


def _without_copies(a, b):
    pairs = torch.cdist(a, b)
    return pairs.masked_fill(pairs == 0, torch.inf)


def _farthest(samples, images):
    found = torch.cdist(samples.flatten(1), images.flatten(1)).max(1)
    return found.indices, found.values / _root_of_size(images)


def _swapped(samples, images):
    index, distance = nearest_images(samples, images)
    return distance, index


def _images(seed: int, *shape: int) -> torch.Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


def _copies() -> tuple:
    """Three samples, two of them copies, of values with few digits: their distance is 0 by (8.7), too."""
    images = (2 * _images(4, 6, 1, 2, 4)).round() / 2
    return torch.cat([images[[4, 1]], _images(5, 1, 1, 2, 4)]), images


def _many_copies() -> tuple:
    """Thirty copies: by (8.7) in 32 bits some squared distances come out below 0. And one sample far from all images.

    The far one makes the tolerance wide enough for copies whose distance comes out above 0. There are 32 pixels, a
    power of two, so that means and sums are rounded alike.
    """
    images = _images(8, 36, 1, 4, 8)
    return torch.cat([images[3:33], 1000 * _images(9, 1, 1, 4, 8)]), images


def _unclamped(samples, images):
    """(8.7) as it is written."""
    x, y = samples.flatten(1), images.flatten(1)
    squares = x.square().mean(1)[:, None] + y.square().mean(1) - 2 * (x @ y.T / y.shape[1])
    found = squares.sqrt().min(1)
    return found.indices, found.values


def _undivided(samples, images):
    """(8.7) with a sum where its last term has a mean."""
    x, y = samples.flatten(1), images.flatten(1)
    squares = x.square().mean(1)[:, None] + y.square().mean(1) - 2 * x @ y.T
    found = squares.clamp(min=0).sqrt().min(1)
    return found.indices, found.values


class _Largest(TorchDispatchMode):
    """Sees how many numbers the largest tensor holds that is made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def _all_pairs(answer) -> str | None:
    samples, images = _images(10, 70, 1, 1, 2), _images(11, 1100, 1, 1, 2)  # more than a chunk of either
    with _Largest() as seen:
        answer(samples, images)
    if seen.numbers < len(samples) * images.numel():
        return None
    return (
        "The values are right. But a number for each pixel of all pairs, (N, M, C, H, W), is held at once: with 200 "
        "samples and 60,000 images that takes 38 GB. Take torch.cdist, or (8.7), or a few samples at a time."
    )


Exercise(
    tag="8.2",
    reference=nearest_images,
    cases=lambda: [
        (_images(0, 5, 3, 4, 2), _images(1, 11, 3, 4, 2)),
        (_images(2, 7, 1, 3, 5), _images(3, 6, 1, 3, 5)),
        _copies(),
        (_images(6, 1, 1, 3, 4), _images(7, 9, 1, 3, 4)),  # one sample
        _many_copies(),
    ],
    mistakes={
        "It looks as if the distance is not divided: torch.cdist adds up the squared differences of all pixels; divide "
        "its result by the root of their number.": _nearest(scale=lambda images: 1.0),
        "It looks as if you divided by the number of pixels: the distance is a root, so divide by the root of their "
        "number.": _nearest(scale=lambda images: images[0].numel()),
        "It looks as if the root is missing: return the root of the mean squared difference.": (
            _nearest(pairs=_squares, scale=lambda images: images[0].numel())
        ),
        "It looks as if the differences are taken without squares.": (
            _nearest(pairs=lambda a, b: torch.cdist(a, b, p=1), scale=lambda images: images[0].numel())
        ),
        "It looks as if the minimum runs over the samples: for each sample look at all images, the second axis.": (
            _nearest(axis=0)
        ),
        "It looks as if you took the farthest image: the nearest is the smallest distance.": _farthest,
        "It looks as if exact copies are left out: a copy is the nearest image there is, at the distance 0.": (
            _nearest(pairs=_without_copies)
        ),
        "Nearly. By (8.7) in 32 bits the squared distance of a copy can come out a little below 0, and its root is "
        "NaN: .clamp(min=0) before the root.": _unclamped,
        "It looks as if the two results are swapped: indices first, then distances.": _swapped,
        "It looks as if the result of .min(1) is returned as it is: it holds distances first, then indices. Take it "
        "apart, and return the indices first.": (
            lambda samples, images: torch.cdist(samples.flatten(1), images.flatten(1)).div(_root_of_size(images)).min(1)
        ),
        "It looks as if the result of .min(1) is returned as it is, distances first, and not divided: take it apart, "
        "divide, and return the indices first.": (
            lambda samples, images: torch.cdist(samples.flatten(1), images.flatten(1)).min(1)
        ),
        "It looks as if torch.cdist was given images: it wants (N, D) and (M, D), so .flatten(1) both.": torch.cdist,
        "It looks as if you divide by 28: other images have other sizes, so divide by the root of their C H W.": (
            _nearest(scale=lambda images: 28.0)
        ),
        "It looks as if the channels are left out of the number of pixels: count C H W.": (
            _nearest(scale=lambda images: math.sqrt(images[0, 0].numel()))
        ),
        "It looks as if the product of (8.7) is a sum over the pixels: divide it by their number, too.": _undivided,
    },
    also=_all_pairs,
)


def _prior(formula, unit=BIT):
    """A `prior_bits` with another divergence, a function of (schedule, images); its mean, divided by `unit`."""
    return lambda schedule, images: formula(schedule, images).mean().item() / unit


def _nearly_grey() -> tuple:
    """In 64 bits, as in the notebook's check: a small difference of numbers of which 32 bits keep too little."""
    return double(linear_schedule(1000)), 1e-3 * _images(7, 4, 1, 2, 3).double()


def _with_log(s, x, log):
    return 0.5 * (s.alpha_bar[-1] * x.square() - s.alpha_bar[-1] - log)


def _nats(s, x, a_bar=lambda s: s.alpha_bar[-1]):
    return 0.5 * (a_bar(s) * x.square() - a_bar(s) - torch.log1p(-a_bar(s)))


Exercise(
    tag="8.3",
    reference=prior_bits,
    cases=lambda: [
        (linear_schedule(40, rescale=False), _images(4, 5, 3, 4, 2)),
        (cosine_schedule(30), _images(5, 2, 1, 3, 5)),
        (linear_schedule(300, rescale=False), _images(6, 3, 1, 5, 4)),
        _nearly_grey(),
    ],
    mistakes={
        "Right on paper. In 32 bits 1 - alpha_bar_T loses most digits of a small alpha_bar_T before the logarithm is "
        "taken: torch.log1p(-a_bar) keeps them.": _prior(lambda s, x: _with_log(s, x, torch.log(1 - s.alpha_bar[-1]))),
        "Right on paper. In 32 bits sigma_T has lost most digits of a small alpha_bar_T before the logarithm is taken: "
        "torch.log1p(-a_bar) keeps them.": _prior(lambda s, x: _with_log(s, x, 2 * torch.log(s.sigma[-1]))),
        "It looks as if you compute in float32, whatever the schedule has: where it has 64 bits, keep them.": (
            _prior(lambda s, x: _nats(s, x.float(), a_bar=lambda s: s.alpha_bar[-1].float()))
        ),
        "The value is right, but in a tensor: .item() makes a number of it.": lambda s, x: _nats(s, x).mean() / BIT,
        "Nearly. In 32 bits 1 - alpha_bar_T loses most digits of a small alpha_bar_T: torch.log1p(-a_bar) keeps them. "
        "And .item() makes a number of the tensor.": (
            lambda s, x: _with_log(s, x, torch.log(1 - s.alpha_bar[-1])).mean() / BIT
        ),
        "It looks as if the result is in nats: divide by log 2 to get bits.": _prior(_nats, unit=1.0),
        "It looks as if you multiplied by log 2: a bit is log 2 nats, so divide.": _prior(_nats, unit=1 / BIT),
        "It looks as if the factor 1/2 is missing.": _prior(lambda s, x: 2 * _nats(s, x)),
        "It looks as if you returned the bits of a whole image: take the mean over all pixels and channels.": (
            lambda s, x: _nats(s, x).sum((1, 2, 3)).mean().item() / BIT
        ),
        "It looks as if you added up the bits of all images: take the mean.": (
            lambda s, x: _nats(s, x).sum().item() / BIT
        ),
        "It looks as if the sign of the logarithm is wrong: 1 - alpha_bar_T is below 1, so its logarithm is negative, "
        "and minus it is positive.": (
            _prior(lambda s, x: 0.5 * (s.alpha_bar[-1] * x.square() - s.alpha_bar[-1] + torch.log1p(-s.alpha_bar[-1])))
        ),
        "It looks as if the minus inside of the logarithm is missing: log(1 - alpha_bar_T) is torch.log1p(-a_bar).": (
            _prior(lambda s, x: _with_log(s, x, torch.log1p(s.alpha_bar[-1])))
        ),
        "It looks as if log1p was given 1 - alpha_bar_T: it adds the 1 by itself, so write torch.log1p(-a_bar).": (
            _prior(lambda s, x: _with_log(s, x, torch.log1p(1 - s.alpha_bar[-1])))
        ),
        "It looks as if - alpha_bar_T is left out: (8.9) has three terms.": (
            _prior(lambda s, x: 0.5 * (s.alpha_bar[-1] * x.square() - torch.log1p(-s.alpha_bar[-1])))
        ),
        "It looks as if the 1/2 belongs to the first term alone: it multiplies all three.": (
            _prior(lambda s, x: 0.5 * s.alpha_bar[-1] * x.square() - s.alpha_bar[-1] - torch.log1p(-s.alpha_bar[-1]))
        ),
        "It looks as if the logarithm of the variance is left out.": (
            _prior(lambda s, x: 0.5 * (s.alpha_bar[-1] * x.square() - s.alpha_bar[-1]))
        ),
        "It looks as if the mean is squared: square the pixels first, then take the mean.": (
            lambda s, x: _nats(s, x.mean()).item() / BIT
        ),
        "It looks as if x_0 is not squared.": (
            _prior(lambda s, x: 0.5 * (s.alpha_bar[-1] * x - s.alpha_bar[-1] - torch.log1p(-s.alpha_bar[-1])))
        ),
        "It looks as if the mean of x_T is taken for x_0: it is x_0 shrunk by the root of alpha_bar_T.": (
            _prior(lambda s, x: 0.5 * (x.square() - s.alpha_bar[-1] - torch.log1p(-s.alpha_bar[-1])))
        ),
        "It looks as if the root of alpha_bar stands where alpha_bar belongs.": (
            _prior(lambda s, x: _nats(s, x, a_bar=lambda s: s.sqrt_alpha_bar[-1]))
        ),
        "It looks as if the table is read at t = 1: the prior is about the last step, T.": (
            _prior(lambda s, x: _nats(s, x, a_bar=lambda s: s.alpha_bar[1]))
        ),
        "It looks as if the table is read at T - 1: index T, the last one, is the end of the walk.": (
            _prior(lambda s, x: _nats(s, x, a_bar=lambda s: s.alpha_bar[-2]))
        ),
        "It looks as if alpha of the last step stands where alpha_bar of the whole walk belongs.": (
            _prior(lambda s, x: _nats(s, x, a_bar=lambda s: s.alpha[-1]))
        ),
    },
)
