"""Exercises of notebook 09: the distance of two sets of features, the nearest training image, the prior's bits."""

from contextlib import suppress

import torch
from torch.overrides import TorchFunctionMode

from ..lessons.toy import double
from ..marking import Exercise
from ..metrics import frechet_distance, nearest_images, prior_bits
from ..schedule import cosine_schedule, linear_schedule


def _features(seed: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator)
    return torch.randn(rows, columns, generator=generator) @ mix + 2 * torch.rand(columns, generator=generator)


def _similar() -> tuple:
    """Two sets that hardly differ. In 32 bits their distance is 0, in whatever order one computes: the variances are
    64^2 and (64 + 1/128)^2, and 1/128^2 is all that rounding takes away."""
    a = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    return 64 * a, (64 + 1 / 128) * a


def _alike(seed: int, rows: int, columns: int) -> torch.Tensor:
    """Features that rise and fall together: all covariances are positive, so that each number has a root."""
    shared, own = torch.randn(rows, columns + 1, generator=torch.Generator().manual_seed(seed)).split([1, columns], 1)
    return 2 * shared + own


def _flat(seed: int, rows: int) -> torch.Tensor:
    """Features that fill 3 of 20 dimensions, as few images would: 17 eigenvalues are 0, and by rounding below it.
    In 64 bits: there double() returns the argument itself, which may not be changed."""
    generator = torch.Generator().manual_seed(seed)
    return (_features(seed, rows, 3) @ torch.randn(3, 20, generator=generator)).double()


def _root(matrix):
    """As in the notebook."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


Exercise(
    tag="9.1",
    reference=frechet_distance,
    tolerance_64=1e-5,  # the root of an eigenvalue close to 0 keeps half of its digits
    cases=lambda: [
        (_features(0, 40, 6), _features(1, 50, 6)),
        (_features(2, 30, 3), _features(3, 20, 3)),
        (_alike(4, 25, 4), 1.5 * _alike(9, 35, 4)),
        _similar(),
        (_flat(7, 30), _flat(8, 40)),
    ],
    names={"root": _root},
    table="""
a, b = a.double(), b.double()
apart = a.mean(0) - b.mean(0)
A, B = a.T.cov(), b.T.cov()
values, V = torch.linalg.eigh(A)
half = V * values.clamp(min=0).sqrt() @ V.T
overlap = torch.linalg.eigvalsh(half @ B @ half).clamp(min=0).sqrt().sum()
return (apart.square().sum() + A.trace() + B.trace() - 2 * overlap).item()

apart.square().sum() -> apart.norm()
  the root of the distance of the means is missing its square: the formula has the sum of the squared differences.
.square().sum() -> .square().mean()
  the squared differences of the means are averaged: add them up.
apart.square().sum() -> 0
  the means are left out: two sets that lie far apart are not alike.
.mean(0) -> .mean(1)
  the means run along the features of a row: run over the rows, .mean(0).
apart.square().sum().item()
  only the means are compared: (9.4) has the covariances, too.
2 * overlap -> overlap
  the factor 2 in front of the root is missing: then the distance of a set to itself is not 0.
overlap = (A @ B).trace()
  the root is missing: the eigenvalues of A B are squares, take the root of each before you add them.
overlap = torch.linalg.eigvals(A @ B).real.sqrt().sum()
  ! Nearly. An eigenvalue that should be 0 comes out a little below it, and its root is NaN. Take the symmetric form of
  (9.4), whose eigenvalues are real, and .clamp(min=0) before the root.
half @ B @ half -> A @ B
  eigh was given A B, which is not symmetric: it reads one triangle only. Take the root of A^(1/2) B A^(1/2).
half = torch.linalg.cholesky(A)
half = torch.linalg.cholesky(A) ; half @ B @ half -> half @ B @ half.T
half = torch.linalg.cholesky(A) ; half @ B @ half -> half.T @ B @ half
  a Cholesky factor is taken for the root: it is another matrix, and there is none where an eigenvalue is 0, as with
  fewer images than features. Take the root of (9.4), by eigenvalues.
overlap = (A.sqrt() @ B @ A.sqrt()).sqrt().trace()
half = A.clamp(min=0).sqrt() ; overlap = (half @ B @ half).clamp(min=0).sqrt().trace()
overlap = (A @ B).sqrt().trace()
overlap = (A @ B).clamp(min=0).sqrt().trace()
  the roots were taken number by number: the root of a matrix takes those of its eigenvalues, so that multiplied by
  itself it gives the matrix.
V.T -> V
  the eigenvectors stand on both sides as they are: the root is V sqrt(values) V.T, so transpose the second one.
@ V.T ->
@ V.T -> ; B @ half -> B @ half.T
  the root ends too early: it is V sqrt(values) V.T, with the eigenvectors transposed on its right.
(apart.square().sum() + (A + B - 2 * root(half @ B @ half)).sum()).item()
  all entries of the matrix are added up: a trace adds those on the diagonal.
overlap = (root(A) @ root(B)).trace()
  you multiplied the roots of A and of B. That is right only where A B = B A.
overlap = (A @ B).trace().sqrt()
  the root is taken of the sum of the eigenvalues: take the root of each, then add.
A, B = a.var(0).diag(), b.var(0).diag()
  only the variances are used: the covariances off the diagonal belong to A and B.
.cov() -> .cov(correction=0)
  the covariances divide by N: divide by N - 1, as .cov() does.
A, B = (a - a.mean(0)).T @ (a - a.mean(0)), (b - b.mean(0)).T @ (b - b.mean(0))
  the covariances are not divided: they are sums over N rows, divided by N - 1.
A, B = a.T @ a / (len(a) - 1), b.T @ b / (len(b) - 1)
  the means are not subtracted before the covariances are computed.
.cov() -> .corrcoef()
  correlations stand where covariances belong: how much the features vary counts, too.
.T.cov() -> .cov()
.T. -> . ; overlap = A + B ; (apart.square().sum() + (overlap - 2 * root(half @ B @ half)).trace()).item()
  .cov() was given rows where it wants columns: for torch each row is one variable, so transpose the features first.
a, b = a, b
a, b = a, b ; .mean(0) -> .mean(0).double() ; .cov() -> .cov().double()
.double() -> .float()
  you compute in float32, at least until the covariances. Between similar sets the distance is a small difference of
  large numbers: start with .double().
""",
)


def _images(seed: int, *shape: int) -> torch.Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


def _copies() -> tuple:
    """Three samples, two of them copies, of values with few digits: their distance is 0 by (9.7), too."""
    images = (2 * _images(4, 6, 1, 2, 4)).round() / 2
    return torch.cat([images[[4, 1]], _images(5, 1, 1, 2, 4)]), images


def _many_copies() -> tuple:
    """Thirty copies: by (9.7) in 32 bits some squared distances come out below 0. And one sample far from all images:
    it makes the tolerance wide enough for copies whose distance comes out above 0. There are 32 pixels, a power of two,
    so that means and sums are rounded alike."""
    images = _images(8, 36, 1, 4, 8)
    return torch.cat([images[3:33], 1000 * _images(9, 1, 1, 4, 8)]), images


class _Largest(TorchFunctionMode):
    """Sees how many numbers the largest tensor holds that is made, or to which arguments are broadcast inside."""

    numbers = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        shapes = [value.shape for value in args if isinstance(value, torch.Tensor)]
        with suppress(RuntimeError):  # they do not broadcast, as in x @ y.T
            self.numbers = max(self.numbers, torch.broadcast_shapes(*shapes).numel())
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
        "samples and 60,000 images that takes 38 GB. Take torch.cdist, or (9.7), or a few samples at a time."
    )


Exercise(
    tag="9.2",
    reference=nearest_images,
    cases=lambda: [
        (_images(0, 5, 3, 4, 2), _images(1, 11, 3, 4, 2)),
        (_images(2, 7, 1, 3, 5), _images(3, 6, 1, 3, 5)),
        _copies(),
        (_images(6, 1, 1, 3, 4), _images(7, 9, 1, 3, 4)),  # one sample
        _many_copies(),
    ],
    table="""
x, y = samples.flatten(1), images.flatten(1)
pairs = torch.cdist(x, y) / y.shape[1] ** 0.5
distances, indices = pairs.min(1)
return indices, distances

pairs = 1 - torch.cosine_similarity(x[:, None], y, dim=2)
distances, indices = torch.cosine_similarity(x[:, None], y, dim=2).max(1)
distances, indices = pairs[range(len(x)), (i := torch.cosine_similarity(x[:, None], y, dim=2).argmax(1))], i
  the nearest image is found by cosine: that compares directions, and a darker copy would be as near as the image
  itself. Take the root of the mean squared difference.
/ y.shape[1] ** 0.5 ->
  the distance is not divided: torch.cdist adds up the squared differences of all pixels; divide its result by the root
  of their number.
** 0.5 ->
  you divided by the number of pixels: the distance is a root, so divide by the root of their number.
pairs = torch.cdist(x, y) ** 2 / y.shape[1]
  the root is missing: return the root of the mean squared difference.
pairs = torch.cdist(x, y, p=1) / y.shape[1]
  the differences are taken without squares.
.min(1) -> .min(0)
  the minimum runs over the samples: for each sample look at all images, the second axis.
.min(1) -> .max(1)
  you took the farthest image: the nearest is the smallest distance.
.min(1) -> .where(pairs > 0, torch.inf).min(1)
  exact copies are left out: a copy is the nearest image there is, at the distance 0.
pairs = (x.square().mean(1)[:, None] + y.square().mean(1) - 2 * (x @ y.T / y.shape[1])).sqrt()
  ! Nearly. By (9.7) in 32 bits the squared distance of a copy can come out a little below 0, and its root is NaN:
  .clamp(min=0) before the root.
pairs.min(1)
torch.cdist(x, y).min(1)
  the result of .min(1) is returned as it is: it holds distances first, then indices. Take it apart, divide, and return
  the indices first.
torch.cdist(samples, images)
  torch.cdist was given images: it wants (N, D) and (M, D), so .flatten(1) both.
y.shape[1] ** 0.5 -> 28
  you divide by 28: other images have other sizes, so divide by the root of their C H W.
y.shape[1] -> images[0, 0].numel()
  the channels are left out of the number of pixels: count C H W.
pairs = (x.square().mean(1)[:, None] + y.square().mean(1) - 2 * x @ y.T).clamp(min=0).sqrt()
  the product of (9.7) is a sum over the pixels: divide it by their number, too.
""",
    also=_all_pairs,
)

Exercise(
    tag="9.3",
    reference=prior_bits,
    cases=lambda: [
        (linear_schedule(40, rescale=False), _images(4, 5, 3, 4, 2)),
        (cosine_schedule(30), _images(5, 2, 1, 3, 5)),
        (linear_schedule(300, rescale=False), _images(6, 3, 1, 5, 4)),
        # In 64 bits, as in the notebook's check: a small difference of numbers of which 32 bits keep too little.
        (double(linear_schedule(1000)), 1e-3 * _images(7, 4, 1, 2, 3).double()),
    ],
    table="""
a_bar = schedule.alpha_bar[-1]
nats = 0.5 * (a_bar * images.square() - a_bar - torch.log1p(-a_bar)).mean()
return nats.item() / math.log(2)

log1p(-a_bar) -> log(1 - a_bar)
torch.log1p(-a_bar) -> 2 * torch.log(schedule.sigma[-1])
log1p(-a_bar) -> log(1 - a_bar) ; .item() ->
  ! Right on paper. In 32 bits sigma_T and 1 - alpha_bar_T lose most digits of a small alpha_bar_T before the logarithm
  is taken: torch.log1p(-a_bar) keeps them.
[-1] -> [-1].float() ; images.square -> images.float().square
images.square -> images.float().square
  you compute in float32, whatever the schedule has: where it has 64 bits, keep them.
/ math.log(2) ->
  the result is in nats: divide by log 2 to get bits.
/ math.log(2) -> * math.log(2)
  you multiplied by log 2: a bit is log 2 nats, so divide.
- torch -> + torch
  the sign of the logarithm is wrong: 1 - alpha_bar_T is below 1, so its logarithm is negative, and minus it is
  positive.
(-a_bar) -> (a_bar)
  the minus inside of the logarithm is missing: log(1 - alpha_bar_T) is torch.log1p(-a_bar).
(-a_bar) -> (1 - a_bar)
  log1p was given 1 - alpha_bar_T: it adds the 1 by itself, so write torch.log1p(-a_bar).
- a_bar - -> -
  - alpha_bar_T is left out: (9.9) has three terms.
0.5 * (a_bar -> (0.5 * a_bar
  the 1/2 belongs to the first term alone: it multiplies all three.
- torch.log1p(-a_bar) ->
  the logarithm of the variance is left out.
.square() ->
  x_0 is not squared.
a_bar * images -> images
  the mean of x_T is taken for x_0: it is x_0 shrunk by the root of alpha_bar_T.
.alpha_bar -> .sqrt_alpha_bar
  the root of alpha_bar stands where alpha_bar belongs.
[-1] -> [1]
[-1] -> [-2]
  the table is read at t = 1 or T - 1: the prior is about the last step, T, at index -1.
.alpha_bar -> .alpha
  alpha of the last step stands where alpha_bar of the whole walk belongs.
""",
)
