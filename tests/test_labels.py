"""Networks that are told what to draw, and networks that predict the velocity, in the hands of a `Trainer`."""

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
    ddpm_loss,
    guide,
    load_pretrained,
    sample,
    velocity_loss,
)
from ddpm_helpers.data import to_float
from ddpm_helpers.pretrained import save_pretrained

SCHEDULE = cosine_schedule(20)
IMAGES = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 3


def make(labels=LABELS, classes=3, objective=ddpm_loss, **config) -> Trainer:
    torch.manual_seed(0)
    net = UNet(base=8, multipliers=(1,), attention=0, classes=classes)
    config = TrainConfig(**{"steps": 6, "batch_size": 5, "warmup": 2, **config})
    net = VelocityNet(net, SCHEDULE) if objective is velocity_loss else net
    return Trainer(net, SCHEDULE, IMAGES, config, "cpu", objective, labels)


def run(trainer: Trainer, count: int) -> Trainer:
    for _, _loss in zip(range(count), trainer.run(), strict=False):
        pass
    return trainer


def test_each_image_keeps_its_label_and_some_labels_are_hidden():
    trainer, asked, hidden = make(steps=300, batch_size=10, label_dropout=0.2), [], 0
    trainer.model.forward = lambda x, t, label: asked.append(label) or x * next(trainer.model.parameters()).sum()
    for step, _ in enumerate(trainer.run(), 1):
        trainer.step = step - 1
        x0, _, _, (label,) = trainer._batch()
        trainer.step = step
        assert torch.equal(label, asked[-1])
        place = (to_float(IMAGES)[None] == x0[:, None]).flatten(2).all(2).long().argmax(1)  # which image it is
        assert ((label == LABELS[place]) | (label == 3)).all()
        hidden += int((label == 3).sum())
    assert 0.17 < hidden / 3000 < 0.23  # four standard deviations of a share of 3,000
    for a, b in zip(make()._batch()[:3], make(None, None)._batch()[:3], strict=True):
        assert torch.equal(a, b), "labels change nothing else in the batch"


@pytest.mark.parametrize("objective", [ddpm_loss, velocity_loss])
def test_resumed_is_the_same_to_the_bit_and_the_weights_draw(tmp_path, objective):
    whole = run(make(objective=objective), 6)
    run(make(objective=objective), 3).save(tmp_path / "run.safetensors")
    again = make(objective=objective)
    again.fit(tmp_path / "run.safetensors")
    assert flat(again._state()) == flat(whole._state())
    asked = torch.tensor([0, 1, 2, 0])
    x = sample(guide(whole.ema, 2.0), SCHEDULE, 4, (1, 8, 8), 5, labels=asked)
    arguments = {"base": 8, "multipliers": [1], "attention": 0, "classes": 3}
    save_pretrained(tmp_path / "net.safetensors", whole.ema, arguments, "cosine", 20, {"loss": 1.0})
    loaded, schedule, _ = load_pretrained(tmp_path / "net.safetensors")
    assert isinstance(loaded, type(whole.model))
    drawn = sample(guide(loaded, 2.0), schedule, 4, (1, 8, 8), 5, labels=asked)
    torch.testing.assert_close(drawn, x, rtol=0, atol=5e-3)  # half precision


def squared(model, schedule, x0, t, noise):
    return model(x0, t).square().mean()


@pytest.mark.parametrize(
    ("labels", "objective", "says"),
    [
        (LABELS.flip(0), ddpm_loss, "its labels are"),
        (LABELS, velocity_loss, "its objective is ddpm_loss, and velocity_loss here"),
        (LABELS, squared, "its objective is ddpm_loss, and squared here"),
    ],
)
def test_file_of_another_run(tmp_path, labels, objective, says):
    run(make(), 1).save(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=says):
        make(labels, objective=objective).resume(tmp_path / "a.safetensors")


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
