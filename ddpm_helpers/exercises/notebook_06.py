"""Exercises of notebook 06: group norm, a residual block with time conditioning, attention, the way down and up."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

from ..marking import Exercise
from ..nets import ResidualBlock, UNet, attention, down_and_up, group_norm, residual_block


def _features(number: int, *shape: int, scale: float = 2.0) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    return scale * (torch.randn(shape, generator=generator) + 0.7), number


def _three_kinds(x: torch.Tensor, number: int) -> list[tuple]:
    """In 32 bits, in 64, and with a gradient asked for."""
    return [(x, number), (x.double(), number), (x.clone().requires_grad_(), number)]


Exercise(
    tag="6.1",
    reference=group_norm,
    cases=lambda: [
        _features(3, 5, 12, 4, 2),
        _features(2, 3, 8, 2, 5, scale=0.01),
        _features(4, 2, 4, 3, 5, scale=20.0),
        *_three_kinds(*_features(2, 3, 8, 2, 5)),
    ],
    table="""
grouped = x.reshape(len(x), groups, -1)
mean = grouped.mean(-1, keepdim=True)
variance = grouped.var(-1, keepdim=True, correction=0)
normed = (grouped - mean) / (variance + 1e-5).sqrt()
return normed.reshape(x.shape)

, correction=0 ->
  the variance divides by n - 1, as torch.var does: say correction=0.
-1, keepdim -> (0, -1), keepdim
  one mean is taken over all images of the batch: each image has its own.
groups, -1 -> x.shape[1], -1 ; -1, keepdim -> (0, -1), keepdim
  each channel is normalised over the whole batch: that is a batch norm. Here each image has groups of its own.
grouped = x.flatten(2)
  each channel is normalised by itself: a group has C / groups channels.
grouped = x.flatten(1)
  all channels are one group: that is a layer norm. Make `groups` of them.
-1, keepdim -> 1, keepdim
  mean and variance are taken over the groups: take them within each group, over all of its channels and pixels.
grouped = x.reshape(len(x), groups, -1, *x.shape[2:]) ; -1, keepdim -> 2, keepdim
  each pixel is normalised by itself: a group spans all pixels of its channels.
groups, -1 -> x.shape[1] // groups, -1
  `groups` was taken for the channels in a group: it is the number of groups.
grouped = x.unflatten(1, (-1, groups)) ; -1, keepdim -> (1, 3, 4), keepdim
  neighbouring channels went to different groups: channels that follow each other belong together.
.sqrt() ->
  you divide by the variance: its square root is what makes the variance 1.
+ 1e-5 ->
  eps is missing, or far smaller than 1e-5: a group that is all one value would be divided by 0.
(variance + 1e-5).sqrt() -> (variance.sqrt() + 1e-5)
  eps is added to the standard deviation: it belongs under the root, beside the variance.
(variance + 1e-5).sqrt() -> (grouped.std(-1, keepdim=True) + 1e-5)
(variance + 1e-5).sqrt() -> grouped.std(-1, keepdim=True)
  you divide by torch.std as it comes: it divides by n - 1, and eps belongs under the root. Take (variance +
  1e-5).sqrt() with correction=0.
(x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
  one mean and one variance are taken of the whole batch: each group of each image has its own, so name the axis,
  .mean(-1, keepdim=True).
normed = grouped - mean
  only the mean is taken away: divide by the root of variance + 1e-5, too.
, keepdim=True ->
  ! Mean and variance have lost the axis that they were taken over: say keepdim=True, and they line up with the groups
  again.
(grouped - mean) -> grouped
  the mean is not taken away.
""",
)


def _block(c_in: int, c_out: int, *shape: int) -> tuple:
    """A block whose last convolution is no longer zero, features and a vector for each image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(c_in)
        block = ResidualBlock(c_in, c_out, known=6)
        block.last[-1].reset_parameters()
        batch, height, width = shape
        return block, torch.randn(batch, c_in, height, width), torch.randn(batch, 6)


def _parts(block: ResidualBlock, x: torch.Tensor, known: torch.Tensor, *, learns: str) -> tuple:
    """Parts of no block that could be called, with both names of the shortcut, which changes values but not channels.

    A gradient is asked for `x` or for `known` alone.
    """
    parts = dict(block.requires_grad_(False).named_children()) | {"shortcut": torch.tanh, "wire": torch.tanh}
    return SimpleNamespace(**parts), x.requires_grad_(learns == "x"), known.requires_grad_(learns == "known")


Exercise(
    tag="6.2",
    reference=residual_block,
    cases=lambda: [
        _block(8, 16, 5, 4, 2),
        _block(16, 16, 3, 2, 5),
        _block(24, 8, 4, 3, 2),
        tuple(part.double() for part in _block(16, 8, 3, 2, 5)),
        _parts(*_block(8, 8, 5, 4, 3), learns="x"),
        _parts(*_block(16, 16, 3, 5, 4), learns="known"),
    ],
    table="""
scale, shift = block.film(known)[:, :, None, None].chunk(2, dim=1)
h = block.norm(block.first(x))
h = h * (1 + scale) + shift
return block.shortcut(x) + block.last(h)

1 + scale -> scale
  the features are multiplied by scale instead of 1 + scale: scale 0 would erase them.
scale, shift = -> shift, scale =
  scale and shift are swapped: the first half of block.film(known) is the scale.
scale, shift = block.film(known)[:, ::2, None, None], block.film(known)[:, 1::2, None, None]
  scales and shifts alternate: the first half are scales, the second half shifts.
block.last(h)
  the shortcut is missing: add block.shortcut(x) to the branch.
x + block.last(h)
  x itself is added: where the number of channels changes, block.shortcut changes it, too.
block.last(block.shortcut(x) + h)
  the shortcut ends before block.last: it must run past the whole branch.
block.shortcut(x + block.last(h))
  the branch is added before block.shortcut: (6.4) adds it to block.shortcut(x).
block.norm(block.first(x)) -> block.first(x) ; block.last(h) -> block.last(block.norm(h))
  block.norm comes after scale and shift: it would take most of them away again.
block.norm(block.first(x)) -> block.first(x)
  block.norm is missing, or stands before block.first (which has a norm of its own): the features are normalised after
  block.first, then scaled and shifted.
h * (1 + scale) -> block.last(h) * (1 + scale) ; block.shortcut(x) + h
  scale and shift come after block.last: they belong right after block.norm.
h * (1 + scale) + shift -> h
  the time is missing: scale and shift come from block.film(known).
h * (1 + scale) + shift -> (h + shift) * (1 + scale)
  the scale multiplies the shift, too: first multiply by 1 + scale, then add the shift.
block(x, known)
  the whole block is called: write (6.4) with its five parts.
block.shortcut(x) + h
  block.last is missing: the branch ends with it.
block.norm(block.first(x)) + block.last(h)
  the shortcut starts behind block.norm: it carries x past the whole branch, block.shortcut(x).
block.film(known) -> block.film(F.silu(known))
  `known` goes through a SiLU before block.film, which has its own.
block.last(h) -> block.last(F.silu(h))
  there is a SiLU before block.last, which begins with its own.
block.last(h) -> block.last(F.silu(h)) ; block.film(known) -> block.film(F.silu(known))
  there is a SiLU before block.last, and one before block.film: both have their own.
block.first(x) -> block.first(F.silu(x))
  x goes through a SiLU before block.first, which has a norm and a SiLU of its own.
.chunk(2, dim=1) ->
chunk(2, dim=1) -> chunk(2)
  ! block.film(known) is one tensor: .chunk(2, dim=1) makes scale and shift of it, along the channels. Without dim=1 it
  cuts the batch in two.
+ shift ->
  the shift is missing.
[:, :, None, None] ->
  ! scale and shift have shape (B, C'), the features (B, C', H, W): give them two more axes, [:, :, None, None].
""",
)

Exercise(
    tag="6.3",
    reference=attention,
    cases=lambda: [
        _features(2, 5, 18, 4, 3),
        _features(3, 3, 27, 2, 5),
        _features(1, 2, 12, 3, 4),
        _features(4, 4, 24, 3, 2),
        *_three_kinds(*_features(2, 3, 12, 2, 5)),
    ],
    table="""
q, k, v = rearrange(qkv, "b (three heads c) h w -> three b heads (h w) c", three=3, heads=heads)
d = q.shape[-1]
weights = (q @ k.mT / d**0.5).softmax(-1)
return rearrange(weights @ v, "b heads (h w) c -> b (heads c) h w", h=qkv.shape[2])

/ d**0.5 ->
  the scores are not divided by the root of d.
d**0.5 -> d
  you divide by d instead of its root.
d = qkv.shape[1] // 3
  you divide by the root of C: each head has only d = C / heads channels.
d = 3 * q.shape[-1]
d = qkv.shape[1]
  d is taken from qkv, which holds 3 C channels: d is C / heads, the length of a query.
d = qkv.shape[2] * qkv.shape[3]
  you divide by the root of the number of pixels: d is C / heads, the length of a query.
/ d -> * d
  you multiply by the root of d: divide by it.
(q @ k.mT / d**0.5).softmax(-1) -> (q @ k.mT).softmax(-1) / d**0.5
  you divide by the root of d after the softmax: divide the scores, before it.
q, k, v = -> q, v, k =
  keys and values are swapped: the order is queries, keys, values.
k.mT -> k.permute(3, 2, 1, 0)
  ! k.T turns all four axes round. k.mT, or k.transpose(-1, -2), swaps the last two and leaves the others.
, h=qkv.shape[2] ->
  ! rearrange cannot know where to cut (h w): tell it the height, h=qkv.shape[2].
weights @ v
  ! The heads are not joined: rearrange the answer, "b heads (h w) c -> b (heads c) h w", with h=qkv.shape[2].
(weights @ v).reshape(len(qkv), -1, *qkv.shape[2:])
  a plain reshape joins the heads: pixels come before channels there, so swap these axes first, or let rearrange do
  both.
(weights @ v).transpose(1, 2).reshape(len(qkv), -1, *qkv.shape[2:])
  .transpose(1, 2) puts the pixels in front of the heads: that order is for (B, H W, C). Here channels come before
  pixels, so .transpose(2, 3), then reshape.
softmax(-1) -> softmax(-2)
  the softmax runs over the pixels that look: it runs over those that are looked at, the last axis.
softmax(-1) -> softmax(1)
  the softmax runs over the heads: it runs over the pixels that are looked at, the last axis.
.softmax(-1) ->
  the softmax is missing: the weights must be positive and add up to 1.
q, k, v = -> k, q, v =
  queries and keys are swapped: the softmax runs over keys.
q, k, v = qkv.reshape(len(qkv), 3, heads, qkv[0, 0].numel(), -1).unbind(1)
q, k, v = qkv.reshape(len(qkv), 3, heads, qkv[0, 0].numel(), -1).unbind(1) ; (weights @ v).reshape(qkv[:, ::3].shape)
  a plain reshape splits the heads, and mixes channels with pixels: the d channels of a head come before its pixels.
  Reshape to (B, heads, d, H W), then .transpose(2, 3), or let rearrange do both.
weights @ v -> weights @ k
weights @ v -> weights @ q
  keys or queries are mixed: the weights say how much of each pixel's value is taken, weights @ v.
weights @ v -> weights.mT @ v
  the weights are transposed: a row of them belongs to the pixel that looks, and adds up to 1.
(three heads c) -> (heads three c)
  the channels are split into heads first: first come the queries of all heads, then all keys, then all values.
(three heads c) -> (three c heads) ; (heads c) -> (c heads)
(three heads c) -> (three c heads)
(heads c) -> (c heads)
  the channels of a head are scattered, or put back in another order than they were split: (heads c), both times.
heads (h w) c -> heads c (h w)
  channels look at channels: the pixels (h w) look at each other.
""",
)


def _net(multipliers: tuple[int, ...], *shape: int) -> tuple:
    """A small U-Net whose blocks are no longer shortcuts alone, features and a vector for each image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape[0])
        net = UNet(base=8, multipliers=multipliers, attention=0)
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
                module.reset_parameters()
        batch, height, width = shape
        return net, torch.randn(batch, 8, height, width), torch.randn(batch, 32)


def _flat_net(learns: bool = False) -> tuple:
    """Stands in for a net: nothing changes size in it, so only the values tell which skip went where.

    Where it learns, the middle lets no gradient through: it must come by the skips.
    """
    generator = torch.Generator().manual_seed(0)

    def level(width: int, cut: bool = False):
        weight = torch.randn(2, width, 1, 1, generator=generator)
        return lambda h, known: torch.tanh(F.conv2d(h.detach() if cut else h, weight) + known[:, :2, None, None])

    def rolls(axis: int):
        return [lambda h: h.roll(1, axis), lambda h: h.roll(2, axis), lambda h: h.roll(3, axis)]

    net = SimpleNamespace(middle=level(2, cut=learns), shrink=rolls(2), grow=rolls(3))
    net.down, net.up = ([level(width) for _ in range(3)] for width in (2, 4))
    h, known = torch.randn(3, 2, 5, 7, generator=generator), torch.randn(3, 8, generator=generator)
    return net, h.requires_grad_(learns), known


Exercise(
    tag="6.4",
    reference=down_and_up,
    cases=lambda: [_flat_net(), _net((1, 2), 3, 8, 4), _net((1,), 4, 3, 5), _flat_net(learns=True)],
    table=r"""
skips = []
for level, shrink in zip(net.down, net.shrink):
    h = level(h, known)
    skips.append(h)
    h = shrink(h)
h = net.middle(h, known)
for level, grow in zip(net.up, net.grow):
    h = torch.cat([h, skips.pop()], dim=1)
    h = level(h, known)
    h = grow(h)
return h

skips.pop() -> skips.pop(0)
  the first skip is taken first: the last one down is the first one needed, skips.pop().
skips.pop() -> skips[-1]
  the skip is read but never taken off the stack: skips.pop() does both.
skips.append(h) -> skips.append(shrink(h))
  the skip is what came out of shrink: it must still have the level's full size.
h = level(h, known)\n    skips.append(h) -> skips.append(h)\n    h = level(h, known)
  the skip is what went into the level: keep what came out of it.
[h, skips.pop()] -> [skips.pop(), h]
  the skip stands in front: first what came up, then the skip.
torch.cat([h, skips.pop()], dim=1) -> h + skips.pop()
  a level going up gets h alone, or h plus the skip: it needs the skip beside h, as more channels, torch.cat([h, skip],
  dim=1).
, dim=1 ->
  skips are joined along the batch: dim=1 is the axis of the channels.
h = level(h, known)\n    skips.append(h) -> skips.append(level(h, known))
  what shrinks is not the level's output: h = level(h, known), keep it, then h = shrink(h).
h = shrink(h) ->
  nothing shrinks on the way down: h = shrink(h) after each level.
h = shrink(h) -> ; h = grow(h) ->
  nothing shrinks and nothing grows: h = shrink(h) after each level down, h = grow(h) after each level up.
h = grow(h) ->
  nothing grows on the way up: h = grow(h) after each level.
skips.append(h) ->
  ! A skip is missing: on the way down skips.append(h) after each level, and on the way up one skips.pop() for each.
h = torch.cat([h, skips.pop()], dim=1)\n    h = level(h, known) -> h = level(h, skips.pop(), known)
  ! level(h, known) has two arguments, also on the way up: the skip goes into the first, torch.cat([h, skip], dim=1).
h = torch.cat([h, skips.pop()], dim=1)\n    h = level(h, known) -> h = level(h, skips.pop())
  the skip stands where `known` belongs: level(torch.cat([h, skip], dim=1), known).
h = shrink(h) -> return shrink(h)
  a return stands inside the first loop: only the finest level of net.down was asked.
h = grow(h) -> return grow(h)
  the return stands inside the second loop: only the lowest level of net.up was asked.
shrink(h) -> shrink(h) if shrink is not net.shrink[-1] else h
grow(h) -> grow(h) if grow is not net.grow[-1] else h
  the last shrink or the last grow is left out: whatever it is, it belongs to its level like the others.
h = grow(h) -> ; grow(h)
  grow stands behind the loop, where it is called once: h = grow(h) after each level.
skips.append(h) -> skips.append(shrink(h)) ; [h, skips.pop()] -> [grow(h), skips.pop()] ; h = grow(h) ->
  the skip is kept after shrink and taken after grow: keep it before shrink, and put it beside h before the level, with
  grow last.
zip(net.up, net.grow) -> zip(list(net.up)[::-1], list(net.grow)[::-1])
  the levels are taken backwards on the way up: net.up and net.grow begin with the lowest.
net.middle(h, known) -> net.middle(h)
  ! Levels and middle are called with two things: level(h, known), net.middle(h, known).
shrink(h) -> shrink(h, known)
grow(h) -> grow(h, known)
  ! shrink and grow are called with the features alone: shrink(h), grow(h).
skips.pop() -> grow(skips.pop()) ; h = grow(h) ->
  the skip grows instead of the features: h = grow(h) after each level.
h = net.middle(h, known) ->
  net.middle is missing.
[h, skips.pop()] -> [grow(h), skips.pop()] ; h = grow(h) ->
  you grow before the level: the level first, with its skip, then grow.
""",
)
