"""Networks that are told what to draw: labels in training, guidance in sampling, and labels that do not fit."""

import pytest
import torch
from killed_run import flat

from ddpm_helpers import (
    CheckpointError,
    TrainConfig,
    Trainer,
    UNet,
    VelocityNet,
    cosine_schedule,
    guide,
    load_pretrained,
    sample,
)
from ddpm_helpers.data import to_float

T = 20
IMAGES = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 3


def net(classes: int | None = 3) -> UNet:
    torch.manual_seed(0)
    return UNet(base=8, multipliers=(1,), attention=0, classes=classes)


def make(labels=LABELS, classes=3, **config) -> Trainer:
    config = TrainConfig(**{"steps": 6, "batch_size": 5, "warmup": 2, **config})
    return Trainer(net(classes), cosine_schedule(T), IMAGES, config, "cpu", labels=labels)


def run(trainer: Trainer, count: int) -> Trainer:
    for _, _loss in zip(range(count), trainer.run(), strict=False):
        pass
    return trainer


class Spy(torch.nn.Module):
    """Answers with a multiple of x that depends on the label, and notes what it was asked."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.classes, self.asked, self.factor = classes, [], torch.nn.Parameter(torch.arange(classes + 1.0) / 10)

    def forward(self, x, t, label):
        self.asked.append((x, t, label))
        return self.factor[label, None, None, None] * x


def test_each_image_keeps_its_label_and_some_labels_are_hidden():
    spy = Spy()
    config = TrainConfig(steps=300, batch_size=10, label_dropout=0.2)
    trainer = Trainer(spy, cosine_schedule(T), IMAGES, config, "cpu", labels=LABELS)
    hidden = 0
    for _ in trainer.run():
        pass
    for step, (_, _, label) in enumerate(spy.asked):
        trainer.step = step
        x0, _, _, (again,) = trainer._batch()
        assert torch.equal(label, again)
        place = (to_float(IMAGES)[None] == x0[:, None]).flatten(2).all(2).long().argmax(1)  # which image it is
        assert ((label == LABELS[place]) | (label == 3)).all()
        hidden += int((label == 3).sum())
    assert 0.17 < hidden / 3000 < 0.23  # four standard deviations of a share of 3,000


def test_labels_change_nothing_else_in_the_batch():
    for a, b in zip(make()._batch()[:3], make(None, None)._batch()[:3], strict=True):
        assert torch.equal(a, b)


def test_resumed_with_labels_is_the_same_to_the_bit(tmp_path):
    whole = flat(run(make(), 6)._state())
    run(make(), 3).save(tmp_path / "a.safetensors")
    again = make()
    again.resume(tmp_path / "a.safetensors")
    assert flat(run(again, 3)._state()) == whole


def test_file_of_a_run_with_other_labels(tmp_path):
    run(make(), 1).save(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="its labels are"):
        make(LABELS.flip(0)).resume(tmp_path / "a.safetensors")


def test_file_of_a_run_with_another_objective(tmp_path):
    def squared(model, schedule, x0, t, noise):
        return model(x0, t).square().mean()

    config = TrainConfig(steps=2, batch_size=5)
    run(Trainer(net(None), cosine_schedule(T), IMAGES, config, "cpu"), 1).save(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="objective is ddpm_loss, and squared here"):
        Trainer(net(None), cosine_schedule(T), IMAGES, config, "cpu", squared).resume(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("labels", "classes", "says"),
    [
        (None, 3, "pass labels=data.labels"),
        (LABELS, None, "UNet\\(classes="),
        (LABELS.tolist(), 3, "got list; torch.tensor"),
        (LABELS[:7], 3, "one int64 label for each of 30"),
        (LABELS.float(), 3, "int64"),
        (LABELS + 1, 3, "found 1 to 3"),
        (LABELS - 1, 3, "found -1 to 1"),
    ],
)
def test_labels_that_do_not_fit(labels, classes, says):
    with pytest.raises(ValueError, match=says):
        make(labels, classes)


@pytest.mark.parametrize("scale", [0, 1, 2.5])
def test_guidance_goes_from_no_label_past_the_label(scale):
    x, t, label = torch.randn(2, 1, 4, 4), torch.tensor([3, 3]), torch.tensor([0, 2])
    expected = torch.stack([(0.3 + scale * (0.1 * k - 0.3)) * image for k, image in zip((0, 2), x, strict=True)])
    torch.testing.assert_close(guide(Spy(), scale)(x, t, label), expected)


def test_guided_gaussian_moves_its_mean():
    """Data N(label, 1): the ideal noise of both is known, and guidance with scale w lands w times as far."""
    schedule = cosine_schedule(200)

    def ideal(x, t, label):
        sigma, signal = (table[t][:, None, None, None] for table in (schedule.sigma, schedule.sqrt_alpha_bar))
        mean = torch.where(label == 1, 0.0, 0.25)[:, None, None, None]  # class 1 means "no label": data N(0, 1)
        return sigma * (x - signal * mean)

    ideal.classes = 1
    labels = torch.zeros(400, dtype=torch.int64)
    for scale in (0, 1, 3):
        x = sample(guide(ideal, scale), schedule, 400, (1, 2, 2), steps=50, labels=labels, clip=False)
        assert abs(x.mean().item() - 0.25 * scale) < 0.1  # four standard errors of the mean of 1,600 numbers


@pytest.mark.parametrize("scale", [-1, -1e-9, 101, 1e9, float("nan"), float("inf")])
def test_scale_out_of_range(scale):
    with pytest.raises(ValueError, match="0, 100"):
        guide(Spy(), scale)


def test_labelled_samples_do_not_depend_on_the_batch_size():
    labels = torch.arange(7) % 4
    first, second = (
        sample(Spy().eval(), cosine_schedule(T), 7, (1, 4, 4), labels=labels, batch_size=size) for size in (7, 3)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("labels", "error", "says"),
    [
        (LABELS, ValueError, "labels must have shape \\(7,\\), one per image, got \\(30,\\)"),
        (torch.tensor(3), ValueError, "got \\(\\)"),
        (LABELS[:7].float(), TypeError, "integer tensor, one per image, got torch.float32"),
        (LABELS[:7] == 1, TypeError, "got torch.bool"),
        ([0, 1, 2, 0, 1, 2, 0], TypeError, "got list"),
        (LABELS[:7] + 2, ValueError, "0 ... 2, or be 3 for no label, got 2 to 4"),
        (LABELS[:7] - 1, ValueError, "got -1 to 1"),
    ],
)
@pytest.mark.parametrize("make_model", [Spy, lambda: guide(Spy(), 2)], ids=["told", "guided"])
def test_labels_that_do_not_fit_samples(make_model, labels, error, says):
    with pytest.raises(error, match=says):
        sample(make_model(), cosine_schedule(T), 7, (1, 4, 4), steps=2, labels=labels)


def test_labels_are_asked_for():
    for model, says in ((net(), "needs a label per image"), (guide(net(), 2), "towards which label")):
        with pytest.raises(ValueError, match=says):
            sample(model, cosine_schedule(T), 2, (1, 8, 8), steps=2)


@pytest.mark.parametrize("dress", [lambda net: net, lambda net: VelocityNet(net, cosine_schedule(T))])
def test_labels_for_a_network_without_classes(dress):
    with pytest.raises(ValueError, match="made without labels"):
        sample(dress(net(None)), cosine_schedule(T), 2, (1, 8, 8), steps=2, labels=LABELS[:2])
    with pytest.raises(ValueError, match="knows no labels"):
        guide(dress(net(None)), 2)


def test_shipped_weights_listen():
    """At scale 0 the label changes nothing, at 2 it changes the image; the net knows ten digits."""
    model, schedule, recipe = load_pretrained("mnist_labels")
    assert (model.classes, recipe["label_dropout"]) == (10, 0.1)
    for scale, same in ((0, True), (2, False)):
        one, two = (sample(guide(model, scale), schedule, 1, steps=2, labels=torch.tensor([k])) for k in (1, 8))
        assert torch.allclose(one, two, atol=1e-5) == same
