"""Patches, latents and words (notebook 19), where its equations do not reach: bad input, limits, shipped weights."""

import copy

import pytest
import torch

from ddpm_helpers import cosine_schedule, load_pretrained, sample, synthetic_digits, to_float
from ddpm_helpers.files import WEIGHTS, CheckpointError
from ddpm_helpers.lessons import patches, words
from ddpm_helpers.lessons.patches import Autoencoder, DiT
from ddpm_helpers.metrics import load_feature_net


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    return words.load_autoencoder()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: patches.patchify(torch.zeros(2, 1, 28, 28), 5), "patches of 5 x 5 do not divide images of 28 x 28"),
        (lambda: DiT(patch=3), "3 must divide 28"),
        (lambda: DiT(width=30), "4, the heads, must divide 30"),
        (lambda: words.tokens(["a fat seven"]), "'fat' in 'a fat seven' is not among the words: small, large, thin"),
        (lambda: words.tokens(["a " + "thin " * 7]), "has 7 words; at most 6"),
        (lambda: words.prompted(None, ["a one"] * 3)(torch.zeros(2, 1), None), "3 captions for 2 images"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_patches_and_back():
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(patches.unpatchify(patches.patchify(x, 4), 4, 8), x)


def test_a_new_transformer_answers_zero_whatever_it_is_told():
    net = DiT(side=8, patch=2, width=16, words=5)
    told, real = torch.randn(2, 3, 5), torch.ones(2, 3, dtype=torch.bool)
    assert not net(torch.randn(2, 1, 8, 8), torch.tensor([3, 9]), told, real).any()


def test_every_caption_can_be_read():
    texts = [words.caption(d, a, b, c) for d in range(10) for a in range(3) for b in range(3) for c in range(3)]
    assert len({tuple(row) for row in words.tokens(texts).tolist()}) == len(set(texts)) == 270
    assert texts[0] == "a small thin zero, slanted left"
    assert words.caption(8) == "an eight"
    assert words.tokens([""]).tolist() == [[1, 0, 0, 0, 0, 0, 0]]


def test_measures_follow_what_is_done_to_a_digit():
    x, labels = synthetic_digits(20, seed=1)
    x = to_float(x)
    before, small = words.measure(x), words.measure(words.resized(x, torch.full((20,), 0.7)))
    torch.testing.assert_close(small["size"] / before["size"], torch.full((20,), 0.7), rtol=0.05, atol=0)
    torch.testing.assert_close(small["slant"], before["slant"], rtol=0, atol=0.05)
    assert (small["thickness"] < before["thickness"]).all()
    turned = words.measure(x.flip(-1))
    torch.testing.assert_close(turned["slant"], -before["slant"], rtol=0, atol=1e-4)
    assert all(value.isfinite().all() for value in words.measure(torch.full((2, 1, 28, 28), -1.0)).values())
    images, captions = words.described(x, labels)
    asked = {"digit": labels, **words.levels(images)}
    assert captions == [words.caption(*row) for row in zip(*(v.tolist() for v in asked.values()), strict=True)]
    got = words.obedience(images, asked, load_feature_net())
    assert got["size"].all()
    assert not words.obedience(images, {**asked, "size": asked["size"] - 1}, load_feature_net())["all"].any()


def test_words_that_are_not_there_change_nothing():
    net = words.WordNet(width=16, depth=1)
    torch.nn.init.normal_(net.net.last.weight)
    torch.nn.init.normal_(net.net.blocks[0].read.weight)
    z, t = torch.randn(1, 4, 7, 7), torch.tensor([5])
    short, other = words.tokens(["a one"]), words.tokens(["a two"])
    shown = net(z, t, short)
    with torch.no_grad():
        net.text.table.weight[0] += 3  # the row that fills up
    torch.testing.assert_close(net(z, t, short), shown)
    assert not torch.allclose(net(z, t, other), shown)


def test_lora_changes_nothing_at_first_and_learns_alone():
    net = words.WordNet(width=16, depth=1)
    torch.nn.init.normal_(net.net.last.weight)
    more = words.add_lora(copy.deepcopy(net), rank=2)
    inputs = torch.randn(2, 4, 7, 7), torch.tensor([5, 900]), words.tokens(["a one", ""])
    assert torch.equal(more(*inputs), net(*inputs))
    before = {name: value.clone() for name, value in more.named_parameters()}
    patches.fit(more, lambda index, generator: more(*inputs).square().mean(), 2, steps=3)
    changed = {name for name, value in more.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.endswith((".A", ".B")) for name in changed)


def test_fit_ends_in_time_or_after_its_steps():
    layer = torch.nn.Linear(1, 1)
    assert len(patches.fit(layer, lambda index, generator: layer.weight.square().sum(), 5, steps=7)) == 7
    assert len(patches.fit(layer, lambda index, generator: layer.weight.square().sum(), 5, seconds=0.05)) >= 1
    assert not layer.training


def test_shipped_networks(autoencoder, tmp_path):
    z = autoencoder.encode(to_float(synthetic_digits(50)[0]))
    assert 0.5 < z.std() < 1.5
    for name in ("words", "words_bag"):
        model, schedule = words.load_words(autoencoder, WEIGHTS / f"{name}.safetensors")
        drawn = sample(words.prompted(model, ["a one"] * 2, scale=2.0), schedule, 2, (4, 7, 7), 4, clip=False)
        assert autoencoder.decode(drawn).isfinite().all()
    other = Autoencoder()
    with pytest.raises(CheckpointError, match="trained in the latents of another autoencoder"):
        words.load_words(other)
    words.save(tmp_path / "other.safetensors", other, {}, {})
    with pytest.raises(CheckpointError, match="it holds no WordNet"):
        words.load_words(autoencoder, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="a network of one lesson: its own loader reads it"):
        load_pretrained("words")
    assert torch.equal(schedule.beta, cosine_schedule().beta)
