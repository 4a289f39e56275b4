"""Words (notebook 19): digits measured and described, a text encoder, a transformer in latents that reads, LoRA."""

import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files import WEIGHTS, CheckpointError, read, write
from ..nets import VelocityNet
from ..schedule import NoiseSchedule, cosine_schedule
from .patches import Autoencoder, DiT, cross_attention

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LEVELS = {  # property -> the ends of the middle third of the resized MNIST digits, and the words for each third
    "thickness": ((1.9, 2.3), ("thin", "", "thick")),
    "slant": ((0.01, 0.27), ("slanted left", "", "slanted right")),
    "size": ((5.1, 5.9), ("small", "", "large")),
}
VOCABULARY = ["", "<begin>", "small", "large", "thin", "thick", *DIGITS, "slanted", "left", "right"]  # "" fills up
LONGEST = 7  # tokens of a caption, the beginning included


def measure(images: Tensor) -> dict[str, Tensor]:
    """Thickness, slant and size (N,) of the ink in images (N, 1, H, W) in [-1, 1], by pixels: twice the area over the
    length of the outline; how far it leans to the right for each pixel of height; root mean square distance from its
    centre. The outline is the sum of the lengths of the gradients."""
    ink = ((images[:, 0] + 1) / 2).clamp(0, 1)  # (N, H, W)
    framed, area = F.pad(ink, (1, 1, 1, 1)), ink.sum((1, 2)).clamp(min=1e-6)
    across, down = framed[:, :-1, 1:] - framed[:, :-1, :-1], framed[:, 1:, :-1] - framed[:, :-1, :-1]
    outline = (across**2 + down**2).sqrt().sum((1, 2)).clamp(min=1e-6)
    columns, rows = (ink.sum(axis) / area[:, None] for axis in (1, 2))  # (N, W) and (N, H), they sum to 1
    x, y = (torch.arange(p.shape[1]) - (p * torch.arange(p.shape[1])).sum(1, keepdim=True) for p in (columns, rows))
    wide, high = (columns * x**2).sum(1), (rows * y**2).sum(1)
    mixed = torch.einsum("nhw,nh,nw->n", ink, y, x) / area
    return {"thickness": 2 * area / outline, "slant": -mixed / high.clamp(min=1e-6), "size": (wide + high).sqrt()}


def levels(images: Tensor) -> dict[str, Tensor]:
    """Property -> 0, 1 or 2 (N,): below, within, above the middle third."""
    return {name: torch.bucketize(value, torch.tensor(LEVELS[name][0])) for name, value in measure(images).items()}


def caption(digit: int, thickness: int = 1, slant: int = 1, size: int = 1) -> str:
    """A digit and its levels in words, "a small thick seven, slanted left"; of the middle nothing is said."""
    thick, lean, big = (LEVELS[name][1][i] for name, i in zip(LEVELS, (thickness, slant, size), strict=True))
    text = " ".join(filter(None, [big, thick, DIGITS[digit]]))
    return ("an " if text == "eight" else "a ") + text + (f", {lean}" if lean else "")


def tokens(captions: list[str]) -> Tensor:
    """Captions as numbers of `VOCABULARY`, (B, LONGEST) int64, each after a "<begin>", without articles and commas."""
    rows = []
    for text in captions:
        words = [word for word in text.lower().replace(",", " ").split() if word not in ("a", "an")]
        if unknown := next((word for word in words if word not in VOCABULARY[2:]), None):
            raise ValueError(f"tokens: {unknown!r} in {text!r} is not among the words: {', '.join(VOCABULARY[2:])}")
        if len(words) >= LONGEST:
            raise ValueError(f"tokens: {text!r} has {len(words)} words; at most {LONGEST - 1}")
        row = [1, *map(VOCABULARY.index, words)]
        rows.append(row + [0] * (LONGEST - len(row)))
    return torch.tensor(rows)


def resized(images: Tensor, factor: Tensor) -> Tensor:
    """Images (N, 1, H, W) in [-1, 1], made smaller by a `factor` (N,) up to 1, on black ground."""
    shrink = torch.diag_embed(torch.stack([1 / factor, 1 / factor], 1))  # (N, 2, 2)
    places = F.affine_grid(F.pad(shrink, (0, 1)), images.shape, align_corners=False)
    return 2 * F.grid_sample((images + 1) / 2, places, align_corners=False) - 1


def described(images: Tensor, labels: Tensor, seed: int = 0) -> tuple[Tensor, list[str]]:
    """Images (N, 1, 28, 28) at random sizes from 0.65 to 1, and a caption for each, from what is measured on it."""
    chance = torch.rand(len(images), generator=torch.Generator().manual_seed(seed))
    images = resized(images, 0.65 + 0.35 * chance)
    rows = zip(labels.tolist(), *(level.tolist() for level in levels(images).values()), strict=True)
    return images, [caption(*row) for row in rows]


def bag_of_words(words: Tensor, real: Tensor) -> Tensor:
    """The mean of the real ones among words (B, L, e), real (B, L) bool -> (B, e)."""
    return (words * real[..., None]).sum(1) / real.sum(1, keepdim=True)


class TextEncoder(nn.Module):
    """Tokens (B, L) -> words (B, L, width), which are real (B, L): a table, places, one attention among the words."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.table, self.places = nn.Embedding(len(VOCABULARY), width), nn.Embedding(LONGEST, width)
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        real, words = tokens > 0, self.table(tokens) + self.places.weight
        return words + cross_attention(*self.qkv(words).chunk(3, dim=-1), real)[0], real


class WordNet(nn.Module):
    """Latents (B, 4, 7, 7), steps (B,), tokens (B, L) -> velocity (B, 4, 7, 7): a `DiT` with cross-attention to the
    words, or with `bag` one that gets their mean, added to the embedding of the time."""

    def __init__(self, bag: bool = False, width: int = 64, depth: int = 4):
        super().__init__()
        self.text, self.classes = TextEncoder(), None
        self.net = DiT(7, 4, 1, width, depth, words=None if bag else 32)
        self.hint = nn.Linear(32, width) if bag else None

    def forward(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        if self.hint is None:
            return self.net(z, t, *self.text(tokens))
        return self.net(z, t, hint=self.hint(bag_of_words(self.text.table(tokens), tokens > 0)))


def prompted(model: nn.Module, wanted: list[str], avoided: list[str] | str = "", scale: float = 1.0):
    """A function (x, t) -> noise (B, ...) for `sample`, whose batch has as many images as there are captions: from the
    prediction for what is `avoided` (one caption, or one each) `scale` times the way to that for what is `wanted`."""
    avoided = [avoided] * len(wanted) if isinstance(avoided, str) else avoided
    both = tokens([*avoided, *wanted])

    def eps(x: Tensor, t: Tensor) -> Tensor:
        if len(both) != 2 * len(x):
            raise ValueError(
                f"prompted: {len(both) // 2} captions for {len(x)} images; pass sample a batch_size of as many"
            )
        if scale == 1:
            return model(x, t, both[len(x) :])
        away, to = model(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return away + scale * (to - away)

    return eps


@torch.no_grad()
def obedience(images: Tensor, asked: dict[str, Tensor], feature_net: nn.Module) -> dict[str, Tensor]:
    """Whether images (N, 1, 28, 28) have the digit (as the feature network reads it) and the levels of thickness, slant
    and size that were asked for, each int64 (N,), and "all" of them: bool (N,)."""
    found = {"digit": feature_net(images).argmax(1), **levels(images)}
    got = {name: found[name] == wanted for name, wanted in asked.items()}
    return {**got, "all": torch.stack(list(got.values())).all(0)}


def smallest_scale(scales: Tensor, shares: Tensor, count: int) -> Tensor:
    """The smallest of `scales` (S,) whose share of `count` images, (S,), lies at most two standard errors of their
    difference below the best share."""
    best = shares.max()
    error = ((shares * (1 - shares) + best * (1 - best)) / count).sqrt()
    return scales[shares >= best - 2 * error].min()


class LoRA(nn.Module):
    """A linear layer that is kept, and beside it a product of two thin matrices that is learned: W + B A, with A (rank,
    in) random and B (out, rank) zero at the start (Hu et al. 2022)."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ self.A.T @ self.B.T


def add_lora(net: nn.Module, rank: int) -> nn.Module:
    """The same net, changed: all is kept as it is but what `LoRA` adds to each linear layer of its blocks."""
    net.requires_grad_(False)
    for module in list(net.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(module, name, LoRA(layer, rank))
    return net


def fingerprint(net: nn.Module) -> str:
    """A checksum of a network's weights, in half precision as they are shipped."""
    total = 0
    for value in net.state_dict().values():
        total = zlib.crc32(value.half().cpu().numpy().tobytes(), total)
    return f"{total:08x}"


def save(path: str | Path, net: Autoencoder | WordNet, arguments: dict, recipe: dict, belongs: str = "") -> None:
    """Write an autoencoder, or a `WordNet` that belongs to the autoencoder with that fingerprint."""
    weights = {name: value.half() for name, value in net.state_dict().items()}
    about = {"arguments": arguments, "belongs": belongs, "recipe": recipe, "weights": weights}
    write(path, "lesson", about)


def load_autoencoder(path: str | Path = WEIGHTS / "words_autoencoder.safetensors") -> Autoencoder:
    """The shipped autoencoder, or another that `save` wrote."""
    return _filled(Autoencoder, path)[0]


def load_words(
    autoencoder: Autoencoder, path: str | Path = WEIGHTS / "words.safetensors"
) -> tuple[VelocityNet, NoiseSchedule]:
    """The shipped `WordNet`, as one that predicts the noise in the latents of `autoencoder`, and its schedule."""
    net, belongs = _filled(WordNet, path)
    if belongs != fingerprint(autoencoder):
        raise CheckpointError(f"{path}: this network was trained in the latents of another autoencoder, {belongs}")
    schedule = cosine_schedule()
    return VelocityNet(net, schedule).eval(), schedule


def _filled(kind: type, path: str | Path) -> tuple[nn.Module, str]:
    state = read(path, "lesson")
    try:
        net = kind(**state["arguments"])
        net.load_state_dict({name: value.float() for name, value in state["weights"].items()})
    except Exception as error:  # what a file says can make a network fail in any way
        raise CheckpointError(f"{path}: it holds no {kind.__name__} of this version ({error})") from error
    return net.eval(), state["belongs"]
