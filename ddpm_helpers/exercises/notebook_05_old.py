"""Exercises of notebook 05: group norm, a residual block that is told the time, attention, and the way down and up."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from einops import rearrange

from ..nets import ResidualBlock, UNet, attention, down_and_up, group_norm, residual_block
from .core import Exercise


def _features(groups: int, scale: float, *shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    return scale * (torch.randn(shape, generator=generator) + 0.7), groups


def _double(first, rest) -> tuple:
    return first.double(), rest


def _learning(first, rest) -> tuple:
    return first.requires_grad_(), rest


def _normalise(grouped, shape, correction=0, eps=1e-5):
    """Mean 0 and variance 1 over the last axis, then back to `shape`."""
    mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, correction=correction)
    return ((grouped - mean) / (variance + eps).sqrt()).reshape(shape)


def _grouped(x, groups):
    return x.reshape(len(x), groups, -1)


def _batch_norm(x, groups):
    over_images = rearrange(x, "b (g c) h w -> g (b c h w)", g=groups)
    return rearrange(
        _normalise(over_images, over_images.shape),
        "g (b c h w) -> b (g c) h w",
        b=x.shape[0],
        h=x.shape[2],
        w=x.shape[3],
    )


def _interleaved(x, groups):
    h = rearrange(x, "b (c g) h w -> b g (c h w)", g=groups)
    return rearrange(_normalise(h, h.shape), "b g (c h w) -> b (c g) h w", h=x.shape[2], w=x.shape[3])


def _over_channels(x, groups):
    h = x.reshape(len(x), groups, -1, *x.shape[2:])  # (B, groups, C / groups, H, W)
    mean, variance = h.mean(2, keepdim=True), h.var(2, keepdim=True, correction=0)
    return ((h - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)


def _across_groups(x, groups):
    h = _grouped(x, groups)
    mean, variance = h.mean(1, keepdim=True), h.var(1, keepdim=True, correction=0)
    return ((h - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)


def _divided_by(divisor):
    def wrong(x, groups):
        h = _grouped(x, groups)
        centred, variance = h - h.mean(-1, keepdim=True), h.var(-1, keepdim=True, correction=0)
        return (centred / divisor(variance, h)).reshape(x.shape)

    return wrong


Exercise(
    tag="5.1",
    reference=group_norm,
    cases=lambda: [
        _features(3, 1.0, 5, 12, 4, 2),
        _features(2, 0.01, 3, 8, 2, 5),
        _features(4, 20.0, 2, 4, 3, 5),
        _double(*_features(2, 1.0, 3, 8, 2, 5)),
        _learning(*_features(2, 1.0, 3, 8, 2, 5)),
    ],
    mistakes={
        "It looks as if the variance divides by n - 1, as torch.var does: say correction=0.": (
            lambda x, groups: _normalise(_grouped(x, groups), x.shape, correction=1)
        ),
        "It looks as if one mean is taken over all images of the batch: each image has its own.": _batch_norm,
        "It looks as if each channel is normalised over the whole batch: that is a batch norm. Here each image has "
        "groups of its own.": lambda x, groups: _batch_norm(x, x.shape[1]),
        "It looks as if each channel is normalised by itself: a group has C / groups channels.": (
            lambda x, groups: _normalise(x.flatten(2), x.shape)
        ),
        "It looks as if all channels are one group: that is a layer norm. Make `groups` of them.": (
            lambda x, groups: _normalise(x.flatten(1), x.shape)
        ),
        "It looks as if mean and variance are taken over the groups: take them within each group, over all of its "
        "channels and pixels.": _across_groups,
        "It looks as if each pixel is normalised by itself: a group spans all pixels of its channels.": _over_channels,
        "It looks as if `groups` was taken for the channels in a group: it is the number of groups.": (
            lambda x, groups: _normalise(x.reshape(len(x), x.shape[1] // groups, -1), x.shape)
        ),
        "It looks as if neighbouring channels went to different groups: channels that follow each other belong "
        "together.": _interleaved,
        "It looks as if you divide by the variance: its square root is what makes the variance 1.": (
            _divided_by(lambda variance, grouped: variance + 1e-5)
        ),
        "It looks as if eps is missing, or far smaller than 1e-5: a group that is all one value would be divided by "
        "0.": (_divided_by(lambda variance, grouped: variance.sqrt())),
        "It looks as if eps is added to the standard deviation: it belongs under the root, beside the variance.": (
            _divided_by(lambda variance, grouped: variance.sqrt() + 1e-5)
        ),
        "It looks as if you divide by torch.std as it comes, plus eps: it divides by n - 1, and eps belongs under the "
        "root, (variance + 1e-5).sqrt() with correction=0.": _divided_by(
            lambda variance, grouped: grouped.std(-1, keepdim=True) + 1e-5
        ),
        "It looks as if you divide by torch.std as it comes: it divides by n - 1 and knows no eps. Take "
        "(variance + 1e-5).sqrt() with correction=0.": _divided_by(
            lambda variance, grouped: grouped.std(-1, keepdim=True)
        ),
        "It looks as if one mean and one variance are taken of the whole batch: each group of each image has its own, "
        "so name the axis, .mean(-1, keepdim=True).": (
            lambda x, groups: (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
        ),
        "It looks as if only the mean is taken away: divide by the root of variance + 1e-5, too.": (
            _divided_by(lambda variance, grouped: 1.0)
        ),
        "Mean and variance have lost the axis that they were taken over: say keepdim=True, and they line up with the "
        "groups again.": lambda x, groups: _grouped(x, groups) - _grouped(x, groups).mean(-1),
        "It looks as if the mean is not taken away.": (
            lambda x, groups: (
                _grouped(x, groups) / (_grouped(x, groups).var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
            ).reshape(x.shape)
        ),
    },
)


def _block(c_in: int, c_out: int, *shape: int) -> tuple:
    """A block whose last convolution is no longer zero, features and a vector for each image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(c_in)
        block = ResidualBlock(c_in, c_out, known=6)
        block.last[-1].reset_parameters()
        batch, height, width = shape
        return block, torch.randn(batch, c_in, height, width), torch.randn(batch, 6)


def _bare_block(learns: str, *shape: int) -> tuple:
    """Five parts and no block that could be called; a gradient is asked for `x` or for `known`."""
    generator = torch.Generator().manual_seed(shape[0])
    first, last, wire = torch.randn(3, 2, 2, 1, 1, generator=generator)
    weight = torch.randn(4, 6, generator=generator)
    block = SimpleNamespace(
        first=lambda x: F.conv2d(torch.tanh(F.group_norm(x, 1)), first),
        norm=lambda h: F.group_norm(h, 1),
        film=lambda known: F.linear(torch.tanh(known), weight),
        last=lambda h: F.conv2d(torch.tanh(h), last),
        wire=lambda x: F.conv2d(x, wire),
    )
    batch, height, width = shape
    x, known = torch.randn(batch, 2, height, width, generator=generator), torch.randn(batch, 6, generator=generator)
    return block, x.requires_grad_(learns == "x"), known.requires_grad_(learns == "known")


def _parts(block, x, known):
    """Wire, normalised features, scale and shift."""
    scale, shift = block.film(known)[:, :, None, None].chunk(2, dim=1)
    return block.wire(x), block.norm(block.first(x)), scale, shift


def _combined(formula):
    def wrong(block, x, known):
        wire, h, scale, shift = _parts(block, x, known)
        return formula(block, wire, h, scale, shift)

    return wrong


def _alternating(block, x, known):
    wire, h, _, _ = _parts(block, x, known)
    film = block.film(known)[:, :, None, None]
    return wire + block.last(h * (1 + film[:, ::2]) + film[:, 1::2])


def _no_axes(block, x, known):
    scale, shift = block.film(known).chunk(2, dim=1)
    h = block.norm(block.first(x)) * (1 + scale) + shift
    return block.wire(x) + block.last(h)


def _uncut(block, x, known):
    scale, shift = block.film(known)
    h = block.norm(block.first(x)) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return block.wire(x) + block.last(h)


def _silu_twice(block, x, known):
    wire, h, scale, shift = _parts(block, x, known)
    return wire + block.last(F.silu(h * (1 + scale) + shift))


def _cut_in_two_batches(block, x, known):
    scale, shift = block.film(known).chunk(2)
    h = block.norm(block.first(x)) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return block.wire(x) + block.last(h)


def _film_first(block, x, known):
    wire, _, scale, shift = _parts(block, x, known)
    return wire + block.last(block.norm(block.first(x) * (1 + scale) + shift))


Exercise(
    tag="5.2",
    reference=residual_block,
    cases=lambda: [
        _block(8, 16, 5, 4, 2),
        _block(16, 16, 3, 2, 5),
        _block(24, 8, 4, 3, 2),
        tuple(part.double() for part in _block(16, 8, 3, 2, 5)),
        _bare_block("x", 5, 4, 3),
        _bare_block("known", 3, 5, 4),
    ],
    mistakes={
        "It looks as if the features are multiplied by scale instead of 1 + scale: scale 0 would erase them.": (
            _combined(lambda block, wire, h, scale, shift: wire + block.last(h * scale + shift))
        ),
        "It looks as if scale and shift are swapped: the first half of block.film(known) is the scale.": (
            _combined(lambda block, wire, h, scale, shift: wire + block.last(h * (1 + shift) + scale))
        ),
        "It looks as if scales and shifts alternate: the first half are scales, the second half shifts.": _alternating,
        "It looks as if the wire is missing: add block.wire(x) to the branch.": (
            _combined(lambda block, wire, h, scale, shift: block.last(h * (1 + scale) + shift))
        ),
        "It looks as if x itself is added: where the number of channels changes, block.wire changes it, too.": (
            lambda block, x, known: x + residual_block(block, x, known) - block.wire(x)
        ),
        "It looks as if the wire ends before block.last: it must run past the whole branch.": (
            _combined(lambda block, wire, h, scale, shift: block.last(wire + h * (1 + scale) + shift))
        ),
        "It looks as if the branch is added before block.wire: (5.4) adds it to block.wire(x).": (
            lambda block, x, known: block.wire(x + residual_block(block, x, known) - block.wire(x))
        ),
        "It looks as if block.norm comes after scale and shift: it would take most of them away again.": _film_first,
        "It looks as if block.norm is missing, or stands before block.first (which has a norm of its own): the "
        "features are normalised after block.first, then scaled and shifted.": (
            lambda block, x, known: (
                _parts(block, x, known)[0]
                + block.last(block.first(x) * (1 + _parts(block, x, known)[2]) + _parts(block, x, known)[3])
            )
        ),
        "It looks as if scale and shift come after block.last: they belong right after block.norm.": (
            _combined(lambda block, wire, h, scale, shift: wire + block.last(h) * (1 + scale) + shift)
        ),
        "It looks as if the time is missing: scale and shift come from block.film(known).": (
            _combined(lambda block, wire, h, scale, shift: wire + block.last(h))
        ),
        "It looks as if the scale multiplies the shift, too: first multiply by 1 + scale, then add the shift.": (
            _combined(lambda block, wire, h, scale, shift: wire + block.last((h + shift) * (1 + scale)))
        ),
        "It looks as if the whole block is called: write (5.4) with its five parts.": (
            lambda block, x, known: block(x, known)
        ),
        "It looks as if block.last is missing: the branch ends with it.": (
            _combined(lambda block, wire, h, scale, shift: wire + h * (1 + scale) + shift)
        ),
        "It looks as if the wire starts behind block.norm: it carries x past the whole branch, block.wire(x).": (
            _combined(lambda block, wire, h, scale, shift: h + block.last(h * (1 + scale) + shift))
        ),
        "It looks as if `known` goes through a SiLU before block.film: block.film has its own.": (
            lambda block, x, known: residual_block(block, x, F.silu(known))
        ),
        "It looks as if there is a SiLU before block.last: block.last begins with its own.": _silu_twice,
        "It looks as if there is a SiLU before block.last, and one before block.film: both begin with their own.": (
            lambda block, x, known: _silu_twice(block, x, F.silu(known))
        ),
        "It looks as if x goes through a SiLU before block.first: block.first has a norm and a SiLU of its own.": (
            lambda block, x, known: residual_block(block, F.silu(x), known) - block.wire(F.silu(x)) + block.wire(x)
        ),
        "block.film(known) is one tensor: .chunk(2, dim=1) makes scale and shift of it.": _uncut,
        "chunk(2) without dim=1 cuts the batch in two. Scales and shifts lie along the channels: .chunk(2, dim=1).": (
            _cut_in_two_batches
        ),
        "It looks as if the shift is missing.": (
            _combined(lambda block, wire, h, scale, shift: wire + block.last(h * (1 + scale)))
        ),
        "scale and shift have shape (B, C'), the features (B, C', H, W): give them two more axes, "
        "[:, :, None, None].": _no_axes,
    },
)


def _qkv(heads: int, *shape: int) -> tuple:
    generator = torch.Generator().manual_seed(shape[0])
    return 2 * torch.randn(shape, generator=generator), heads


ORDER = "b (three heads c) h w -> three b heads (h w) c"


def _by_hand(split=ORDER, scale=lambda d, channels: d**-0.5, axis=-1, join="b heads (h w) c -> b (heads c) h w"):
    """`attention` with one thing done otherwise."""

    def wrong(qkv, heads):
        q, k, v = rearrange(qkv, split, three=3, heads=heads)
        scores = q @ k.transpose(-2, -1) * scale(q.shape[-1], qkv.shape[1] // 3)  # (B, heads, H W, H W)
        return rearrange(scores.softmax(axis) @ v, join, h=qkv.shape[2])

    return wrong


def _swapped(qkv, heads):
    q, k, v = qkv.chunk(3, dim=1)
    return attention(torch.cat([k, q, v], dim=1), heads)


def _keys_for_values(qkv, heads):
    q, k, v = qkv.chunk(3, dim=1)
    return attention(torch.cat([q, v, k], dim=1), heads)


def _plain_reshape(qkv, heads):
    q, k, v = rearrange(qkv, ORDER, three=3, heads=heads)
    answer = F.scaled_dot_product_attention(q, k, v)  # (B, heads, H W, d)
    return answer.reshape(len(qkv), -1, *qkv.shape[2:])


def _channels_last(qkv, heads):
    q, k, v = rearrange(qkv, ORDER, three=3, heads=heads)
    answer = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # (B, H W, heads, d)
    return answer.reshape(len(qkv), -1, *qkv.shape[2:])


def _divided_late(qkv, heads):
    q, k, v = rearrange(qkv, ORDER, three=3, heads=heads)
    weights = (q @ k.transpose(-2, -1)).softmax(-1) / q.shape[-1] ** 0.5
    return rearrange(weights @ v, "b n (h w) c -> b (n c) h w", h=qkv.shape[2])


def _all_axes_turned(qkv, heads):
    q, k, _ = rearrange(qkv, ORDER, three=3, heads=heads)
    return q @ k.permute(3, 2, 1, 0)


def _no_height(qkv, heads):
    return rearrange(_not_joined(qkv, heads), "b heads (h w) c -> b (heads c) h w")


def _by_pixels(qkv, heads):
    pixels = qkv.shape[2] * qkv.shape[3]
    return _by_hand(scale=lambda d, channels: pixels**-0.5)(qkv, heads)


def _not_joined(qkv, heads):
    q, k, v = rearrange(qkv, ORDER, three=3, heads=heads)
    return F.scaled_dot_product_attention(q, k, v)


def _among_channels(qkv, heads):
    q, k, v = rearrange(qkv, "b (three heads c) h w -> three b heads c (h w)", three=3, heads=heads)
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b heads c (h w) -> b (heads c) h w", h=qkv.shape[2])


def _scores_only(qkv, heads):
    q, k, v = rearrange(qkv, ORDER, three=3, heads=heads)
    return rearrange(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 @ v, "b n (h w) c -> b (n c) h w", h=qkv.shape[2])


Exercise(
    tag="5.3",
    reference=attention,
    cases=lambda: [
        _qkv(2, 5, 18, 4, 3),
        _qkv(3, 3, 27, 2, 5),
        _qkv(1, 2, 12, 3, 4),
        _qkv(4, 4, 24, 3, 2),
        _double(*_qkv(2, 3, 12, 2, 5)),
        _learning(*_qkv(2, 3, 12, 2, 5)),
    ],
    mistakes={
        "It looks as if the scores are not divided by the root of d.": _by_hand(scale=lambda d, channels: 1.0),
        "It looks as if you divide by d instead of its root.": _by_hand(scale=lambda d, channels: 1 / d),
        "It looks as if you divide by the root of C: each head has only d = C / heads channels.": (
            _by_hand(scale=lambda d, channels: channels**-0.5)
        ),
        "It looks as if you multiply by the root of d: divide by it.": _by_hand(scale=lambda d, channels: d**0.5),
        "It looks as if d is three times too large: qkv has 3 C channels, and d is C / heads.": (
            _by_hand(scale=lambda d, channels: (3 * d) ** -0.5)
        ),
        "It looks as if you divide by the root of 3 C, all channels of qkv: d is C / heads, the length of a query.": (
            _by_hand(scale=lambda d, channels: (3 * channels) ** -0.5)
        ),
        "It looks as if you divide by the root of the number of pixels: d is C / heads, the length of a query.": (
            _by_pixels
        ),
        "It looks as if you divide by the root of d after the softmax: divide the scores, before it.": _divided_late,
        "It looks as if keys and values are swapped: the order is queries, keys, values.": _keys_for_values,
        "k.T turns all four axes round. k.mT, or k.transpose(-1, -2), swaps the last two and leaves the others.": (
            _all_axes_turned
        ),
        "rearrange cannot know where to cut (h w): tell it the height, h=qkv.shape[2].": _no_height,
        'The heads are not joined: rearrange the answer, "b heads (h w) c -> b (heads c) h w", with h=qkv.shape[2].': (
            _not_joined
        ),
        "It looks as if a plain reshape joins the heads: pixels come before channels there, so swap these axes first, "
        "or let rearrange do both.": _plain_reshape,
        "It looks as if .transpose(1, 2) puts the pixels in front of the heads: that order is for (B, H W, C). Here "
        "channels come before pixels, so .transpose(2, 3), then reshape.": _channels_last,
        "It looks as if the softmax runs over the pixels that look: it runs over those that are looked at, the last "
        "axis.": _by_hand(axis=-2),
        "It looks as if the softmax runs over the heads: it runs over the pixels that are looked at, the last axis.": (
            _by_hand(axis=1)
        ),
        "It looks as if the softmax is missing: the weights must be positive and add up to 1.": _scores_only,
        "It looks as if queries and keys are swapped: the softmax runs over keys.": _swapped,
        "It looks as if the channels are split into heads first: first come the queries of all heads, then all keys, "
        "then all values.": _by_hand(split="b (heads three c) h w -> three b heads (h w) c"),
        "It looks as if the channels of a head are scattered: each head has channels that follow each other.": (
            _by_hand(split="b (three c heads) h w -> three b heads (h w) c", join="b heads (h w) c -> b (c heads) h w")
        ),
        "It looks as if the channels of a head are scattered when they are split: (heads c), both times.": (
            _by_hand(split="b (three c heads) h w -> three b heads (h w) c")
        ),
        "It looks as if the heads are put back in another order than they were split: (heads c), both times.": (
            _by_hand(join="b heads (h w) c -> b (c heads) h w")
        ),
        "It looks as if channels look at channels: the pixels (h w) look at each other.": _among_channels,
        "It looks as if there is one head whatever `heads` says.": lambda qkv, heads: attention(qkv, 1),
    },
)


def _net(multipliers: tuple[int, ...], *shape: int) -> tuple:
    """A small U-Net whose blocks are no longer straight wires, features and a vector for each image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape[0])
        net = UNet(base=8, multipliers=multipliers, attention=0)
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
                module.reset_parameters()
        batch, height, width = shape
        return net, torch.randn(batch, 8, height, width), torch.randn(batch, 32)


def _roll(steps: int, axis: int) -> Callable:
    return lambda h: h.roll(steps, dims=axis)


def _flat_net(learns: bool = False) -> tuple:
    """Stands in for a net: nothing changes size in it, so only the values tell which skip went where.

    Where it learns, the middle lets no gradient through: it must come by the skips.
    """
    generator = torch.Generator().manual_seed(0)
    weights = iter(torch.randn(7, 2, 4, 1, 1, generator=generator))

    def level(width: int, cut: bool = False):
        weight = next(weights)[:, :width]
        return lambda h, known: torch.tanh(F.conv2d(h.detach() if cut else h, weight) + known[:, :2, None, None])

    down, middle, up = [level(2) for _ in range(3)], level(2, cut=learns), [level(4) for _ in range(3)]
    net = SimpleNamespace(down=down, middle=middle, up=up)
    net.shrink = [_roll(i + 1, axis=2) for i in range(3)]
    net.grow = [_roll(i + 1, axis=3) for i in range(3)]
    h, known = torch.randn(3, 2, 5, 7, generator=generator), torch.randn(3, 8, generator=generator)
    return net, h.requires_grad_(learns), known


def _walk(
    keep=lambda before, after, shrunk: after,
    take=lambda skips: skips.pop(),
    join=lambda h, skip: torch.cat([h, skip], dim=1),
    middle=lambda net, h, known: net.middle(h, known),
    rise=lambda level, grow, join, h, skip, known: grow(level(join(h, skip), known)),
):
    """`down_and_up` with one thing done otherwise."""

    def wrong(net, h, known):
        skips = []
        for level, shrink in zip(net.down, net.shrink, strict=True):
            before, after = h, level(h, known)
            h = shrink(after)
            skips.append(keep(before, after, h))
        h = middle(net, h, known)
        for level, grow in zip(net.up, net.grow, strict=True):
            h = rise(level, grow, join, h, take(skips), known)
        return h

    return wrong


def _replaced(**parts) -> Callable:
    """`down_and_up` of a net whose lists are other ones."""

    def wrong(net, h, known):
        names = ("down", "shrink", "middle", "up", "grow")
        lists = {name: getattr(net, name) for name in names}
        return down_and_up(
            SimpleNamespace(**lists | {name: make(lists[name]) for name, make in parts.items()}), h, known
        )

    return wrong


_backwards = _replaced(up=lambda levels: list(levels)[::-1], grow=lambda layers: list(layers)[::-1])
_unshrunk = _replaced(shrink=lambda layers: [lambda h: h for _ in layers])
_unsized = _replaced(
    shrink=lambda layers: [lambda h: h for _ in layers], grow=lambda layers: [lambda h: h for _ in layers]
)
_last_not_shrunk = _replaced(shrink=lambda layers: [*list(layers)[:-1], lambda h: h])
_last_not_grown = _replaced(grow=lambda layers: [*list(layers)[:-1], lambda h: h])


def _skips_forgotten(net, h, known):
    return [].pop()


def _first_level_up(net, h, known):
    skips = []
    for level, shrink in zip(net.down, net.shrink, strict=True):
        skips.append(level(h, known))
        h = shrink(skips[-1])
    return net.grow[0](net.up[0](torch.cat([net.middle(h, known), skips[-1]], dim=1), known))


def _grown_once(net, h, known):
    return net.grow[-1](_replaced(grow=lambda layers: [lambda h: h for _ in layers])(net, h, known))


def _unlevelled(net, h, known):
    skips = []
    for level, shrink in zip(net.down, net.shrink, strict=True):
        skips.append(level(h, known))
        h = shrink(h)
    h = net.middle(h, known)
    for level, grow in zip(net.up, net.grow, strict=True):
        h = grow(level(torch.cat([h, skips.pop()], dim=1), known))
    return h


Exercise(
    tag="5.4",
    reference=down_and_up,
    cases=lambda: [_flat_net(), _net((1, 2, 3), 3, 8, 4), _net((1,), 4, 3, 5), _flat_net(learns=True)],
    mistakes={
        "It looks as if the first skip is taken first: the last one down is the first one needed, skips.pop().": (
            _walk(take=lambda skips: skips.pop(0))
        ),
        "It looks as if the skip is read but never taken off the stack: skips.pop() does both.": (
            _walk(take=lambda skips: skips[-1])
        ),
        "It looks as if the skip is what came out of shrink: it must still have the level's full size.": (
            _walk(keep=lambda before, after, shrunk: shrunk)
        ),
        "It looks as if the skip is what went into the level: keep what came out of it.": (
            _walk(keep=lambda before, after, shrunk: before)
        ),
        "It looks as if the skip stands in front: first what came up, then the skip.": (
            _walk(join=lambda h, skip: torch.cat([skip, h], dim=1))
        ),
        "It looks as if a level going up gets h alone, or h plus the skip: it needs the skip beside h, as more "
        "channels, torch.cat([h, skip], dim=1).": (_walk(join=lambda h, skip: h + skip)),
        "It looks as if skips are joined along the batch: dim=1 is the axis of the channels.": (
            _walk(join=lambda h, skip: torch.cat([h, skip]))
        ),
        "It looks as if what shrinks is not the level's output: h = level(h, known), keep it, then h = shrink(h).": (
            _unlevelled
        ),
        "It looks as if nothing shrinks on the way down: h = shrink(h) after each level.": _unshrunk,
        "It looks as if nothing shrinks and nothing grows: h = shrink(h) after each level on the way down, h = grow(h) "
        "after each on the way up.": _unsized,
        "A skip is missing: on the way down skips.append(h) after each level, and on the way up one skips.pop() for "
        "each.": _skips_forgotten,
        "level(h, known) has two arguments, also on the way up: the skip goes into the first, "
        "torch.cat([h, skip], dim=1).": _walk(
            rise=lambda level, grow, join, h, skip, known: grow(level(h, skip, known))
        ),
        "It looks as if the skip stands where `known` belongs: level(torch.cat([h, skip], dim=1), known).": (
            _walk(rise=lambda level, grow, join, h, skip, known: grow(level(h, skip)))
        ),
        "It looks as if a return stands inside the first loop: only the finest level of net.down was asked.": (
            lambda net, h, known: net.shrink[0](net.down[0](h, known))
        ),
        "It looks as if the return stands inside the loop: only the lowest level of net.up was asked.": _first_level_up,
        "It looks as if the last shrink is left out: whatever it is, it belongs to its level like the others.": (
            _last_not_shrunk
        ),
        "It looks as if the last grow is left out: whatever it is, it belongs to its level like the others.": (
            _last_not_grown
        ),
        "It looks as if grow stands behind the loop, where it is called once: h = grow(h) after each level.": (
            _grown_once
        ),
        "It looks as if the skip is kept after shrink and taken after grow: keep it before shrink, and put it beside h "
        "before the level, with grow last.": (
            _walk(
                keep=lambda before, after, shrunk: shrunk,
                rise=lambda level, grow, join, h, skip, known: level(join(grow(h), skip), known),
            )
        ),
        "It looks as if the levels are taken backwards on the way up: net.up and net.grow begin with the lowest.": (
            _backwards
        ),
        "Levels and middle are called with two things: level(h, known), net.middle(h, known).": (
            _walk(middle=lambda net, h, known: net.middle(h))
        ),
        "shrink is called with the features alone: shrink(h).": _replaced(
            shrink=lambda layers: [lambda h, layer=layer: layer(h, None) for layer in layers]
        ),
        "grow is called with the features alone: grow(h).": (
            _walk(rise=lambda level, grow, join, h, skip, known: grow(level(join(h, skip), known), known))
        ),
        "It looks as if the skip grows instead of the features: h = grow(h) after each level.": (
            _walk(rise=lambda level, grow, join, h, skip, known: level(join(h, grow(skip)), known))
        ),
        "It looks as if net.middle is missing.": _walk(middle=lambda net, h, known: h),
        "It looks as if you grow before the level: the level first, with its skip, then grow.": (
            _walk(rise=lambda level, grow, join, h, skip, known: level(join(grow(h), skip), known))
        ),
        "It looks as if nothing grows on the way up: h = grow(h) after each level.": (
            _walk(rise=lambda level, grow, join, h, skip, known: level(join(h, skip), known))
        ),
    },
)
