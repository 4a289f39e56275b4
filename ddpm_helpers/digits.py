"""Drawn digits: images like MNIST, made offline from hand-designed pen strokes."""

import numpy as np
import torch

# The ways to write each digit from 0 on, one a line. A token "xy" is a node of a 10 x 10 grid (x to the right, y down),
# and a stroke is a smooth curve pulled towards its nodes in turn. A node named twice in a row makes a sharp corner; "|"
# lifts the pen.
SKELETONS = """
50 10 03 06 19 79 96 93 80 40
60 30 13 16 29 69 87 83 70 30
70 20 03 06 29 69 97 92 60 31 22
30 02 07 29 79 98 92 70 30 22

50 54 59
50 64 49
50 44 59
60 55 49
22 50 50 59
13 50 50 59 | 09 99

12 30 70 83 65 19 19 99
12 30 80 74 48 19 08 07 27 58 98
13 20 80 94 57 08 19 48 69 98
11 30 90 83 55 09 09 98
12 30 80 75 49 19 07 06 36 68 98
22 50 70 63 47 28 29 28 57 97

11 40 90 83 44 44 96 89 39 08
00 80 80 44 44 96 89 39 08
11 40 90 84 35 34 44 96 99 39 08
12 30 80 82 64 34 64 86 88 59 29 08
12 40 80 82 54 54 75 78 49 29 18

20 15 15 95 | 80 79
20 04 06 35 94 | 80 75 69
60 60 06 06 96 | 60 69
10 14 26 65 80 80 75 69
30 05 06 46 95 | 70 69

80 20 20 14 14 53 95 88 39 08
20 14 14 53 95 88 39 08 | 20 90
90 30 22 24 65 87 69 39 18
90 40 40 24 24 64 87 69 29 08
90 30 30 25 25 43 85 89 39 08

70 31 05 18 49 89 96 64 25 17
60 22 06 19 59 97 75 44 06
80 34 16 19 59 97 75 45 17
50 23 07 19 59 87 65 36 17

10 90 90 55 49
13 11 11 90 90 49
10 90 90 49 | 25 85
12 30 91 75 59
14 21 50 90 82 55 49
13 11 11 90 90 73 69

80 40 11 23 54 87 79 29 17 35 63 82 80
54 21 40 70 82 45 17 29 79 87 54
81 50 20 12 34 65 87 69 39 17 26 53 72 80
81 50 11 13 45 87 79 29 17 45 90
80 40 02 14 54 87 79 29 17 45 72 70

82 50 11 14 45 74 81 81 79
83 60 20 03 25 64 81 86 69 29
81 50 12 15 55 82 81 75 59
71 40 12 14 35 63 80 80 49
90 40 12 15 45 81 81 76 59
71 30 02 14 45 72 72 75 79
80 50 22 24 44 72 71 55 49
"""
POINTS = 96  # along one digit; with half as many, thin lines become uneven


def synthetic_digits(n: int = 10_000, size: int = 28, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Handwritten-looking digits, framed as in MNIST: (n, 1, size, size) uint8, white on black, and labels (n,) int64.

    Labels come in random order, as many of each. Equal arguments give equal images; no global random state is used.
    """
    for name, value, least in (("n", n, 1), ("size", size, 8), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 10)
    style = rng.integers(1_000_000, size=n)
    pen = rng.uniform(0.75, 1.65, size=n)
    grids = _deformed_grids(rng, n)
    images = np.empty((n, 1, size, size), dtype=np.uint8)
    for digit, ways in enumerate(SKELETONS.strip().split("\n\n")):
        skeletons = ways.split("\n")
        for k, skeleton in enumerate(skeletons):
            chosen = (labels == digit) & (style % len(skeletons) == k)
            points, lengths = _trace(skeleton, grids[chosen])
            images[chosen, 0] = _render(points, lengths, pen[chosen], size)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def _deformed_grids(rng: np.random.Generator, n: int) -> np.ndarray:
    """One bent 10 x 10 grid of nodes for each image, (n, 100, 2): strokes drawn on it bend along."""
    nodes = np.stack([np.tile(np.arange(10), 10), np.repeat(np.arange(10), 10)], axis=-1) / 9 - 0.5
    jitter = rng.normal(0, 0.045, size=(n, 100, 2))
    wave = np.sin(nodes @ rng.normal(0, 3, size=(n, 2, 2)) + rng.uniform(0, 2 * np.pi, size=(n, 1, 2)))
    affine = np.ones((n, 2, 2))
    affine[:, 0, 0] = rng.uniform(0.55, 1.2, size=n)  # width for a height of 1
    affine[:, 1, 0] = rng.normal(-0.15, 0.22, size=n)  # slant, mostly to the right
    affine[:, 0, 1] = rng.normal(0, 0.12, size=n)  # rising or falling baseline
    return (nodes + jitter + 0.1 * wave) @ affine


def _trace(skeleton: str, grids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, p, 2) along the strokes of a skeleton, and the length (n, p) of line each stands for."""
    strokes = [[int(token[::-1]) for token in stroke.split()] for stroke in skeleton.split("|")]
    total = sum(len(nodes) for nodes in strokes)
    points, lengths = [], []
    for nodes in strokes:
        curve = _spline(len(nodes), POINTS * len(nodes) // total) @ grids[:, nodes]
        points.append((curve[:, 1:] + curve[:, :-1]) / 2)
        lengths.append(np.linalg.norm(np.diff(curve, axis=1), axis=-1))
    return np.concatenate(points, axis=1), np.concatenate(lengths, axis=1)


def _spline(n_nodes: int, n_points: int) -> np.ndarray:
    """Weights (n_points, n_nodes) of a quadratic B-spline from the first node to the last."""
    t = np.linspace(0, n_nodes - 1e-6, n_points)
    first, u, row = t.astype(int), t % 1, np.arange(n_points)
    weights = np.zeros((n_points, n_nodes + 2))
    weights[row, first] = (1 - u) ** 2 / 2
    weights[row, first + 1] = 0.5 + u * (1 - u)
    weights[row, first + 2] = u**2 / 2
    weights[:, 1] += weights[:, 0]  # the end nodes count twice, which pulls the curve onto them
    weights[:, -2] += weights[:, -1]
    return weights[:, 1:-1]


def _render(points: np.ndarray, lengths: np.ndarray, pen: np.ndarray, size: int) -> np.ndarray:
    """Ink of n digits as a uint8 array (n, size, size). Lengths inside are in pixels of a 28 x 28 image."""
    extent = np.ptp(points, axis=1).max(axis=1)
    total = lengths.sum(axis=1)
    sigma = pen * (total / extent) ** -0.25  # thinner where much is written, so that loops stay open
    scale = (20 - 2.4 * sigma) / extent  # a line is about 2.4 sigma wide
    centre = (points * lengths[..., None]).sum(axis=1) / total[:, None]
    points = (points - centre[:, None]) * scale[:, None, None]

    # Each point is a Gaussian drop of ink, a column profile times a row profile, so one matrix product sums
    # all drops. The weights make the ink on the middle of a straight line 1, however its points are spaced.
    pixels = (np.arange(size) + 0.5) * 28 / size - 14
    drops = np.exp(-0.5 * ((points[..., None] - pixels) / sigma[:, None, None, None]) ** 2)
    weights = lengths * (scale / sigma / np.sqrt(2 * np.pi))[:, None]
    ink = np.swapaxes(drops[:, :, 1] * weights[..., None], 1, 2) @ drops[:, :, 0]
    return np.rint(255 * np.clip(2 * ink - 0.5, 0, 1)).astype(np.uint8)  # flat inside, soft at the edge
