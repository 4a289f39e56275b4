"""A network that predicts the velocity: the same thing in another coordinate, in training, sampling and on disk."""

import pytest
import torch
from torch import nn

from ddpm_helpers import (
    CheckpointError,
    TrainConfig,
    Trainer,
    UNet,
    VelocityNet,
    cosine_schedule,
    ddpm_loss,
    guide,
    linear_schedule,
    load_pretrained,
    predict_x0,
    q_sample,
    sample,
    velocity_loss,
)
from ddpm_helpers.pretrained import save_pretrained

T = 1000
X0 = torch.rand(5, 2, 4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
NOISE = torch.randn(X0.shape, generator=torch.Generator().manual_seed(1))


class Answer(nn.Module):
    """A network that gives a fixed answer."""

    def __init__(self, answer: torch.Tensor):
        super().__init__()
        self.answer = answer

    def forward(self, x, t):
        return self.answer


def velocity(schedule, t):
    signal, sigma = schedule.sqrt_alpha_bar[t].reshape(-1, 1, 1, 1), schedule.sigma[t].reshape(-1, 1, 1, 1)
    return signal * NOISE - sigma * X0


@pytest.mark.parametrize("schedule", [linear_schedule(T), cosine_schedule(T)], ids=["linear", "cosine"])
@pytest.mark.parametrize("t", [[1, 2, 300, 700, 900], [1000, 999, 990, 950, 500]])
def test_the_true_velocity_gives_the_true_noise_and_image(schedule, t):
    t = torch.tensor(t)
    x_t = q_sample(schedule, X0, t, NOISE)
    eps = VelocityNet(Answer(velocity(schedule, t)), schedule)(x_t, t)
    torch.testing.assert_close(eps, NOISE, rtol=0, atol=1e-6)
    # At t = T of the cosine schedule sqrt(alpha_bar) is 5e-5: rounding in eps is divided by it, and stays small.
    torch.testing.assert_close(predict_x0(schedule, x_t, t, eps), X0, rtol=0, atol=1e-2)


@pytest.mark.parametrize("schedule", [linear_schedule(T), cosine_schedule(T)], ids=["linear", "cosine"])
def test_the_loss_is_the_squared_error_of_the_velocity(schedule):
    t, guess = torch.tensor([1, 10, 500, 999, 1000]), torch.full_like(X0, 0.3)
    loss = velocity_loss(VelocityNet(Answer(guess), schedule), schedule, X0, t, NOISE)
    torch.testing.assert_close(loss, (guess - velocity(schedule, t)).square().mean(), rtol=1e-3, atol=0)


def test_it_has_the_labels_of_its_network():
    assert VelocityNet(UNet(base=8, classes=7), cosine_schedule(T)).classes == 7
    assert VelocityNet(UNet(base=8), cosine_schedule(T)).classes is None
    assert VelocityNet(Answer(X0), cosine_schedule(T)).classes is None


def test_another_schedule_than_its_own_is_refused():
    own = cosine_schedule(20)
    model = VelocityNet(UNet(base=8, multipliers=(1,), classes=3), own)
    for asked in (model, guide(model, 2)):
        for other in (linear_schedule(20, rescale=False), cosine_schedule(30)):
            with pytest.raises(ValueError, match="sample: this network was trained on another schedule than Noise"):
                sample(asked, other, 2, (1, 8, 8), 2, labels=torch.tensor([0, 1]))
        assert sample(asked, own, 2, (1, 8, 8), 2, labels=torch.tensor([0, 1])).shape == (2, 1, 8, 8)


def make(schedule, labels=None, objective=velocity_loss, **config):
    torch.manual_seed(0)
    net = UNet(base=8, multipliers=(1,), attention=0, classes=None if labels is None else 3)
    images = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = TrainConfig(**{"steps": 6, "batch_size": 5, "warmup": 2, **config})
    return Trainer(VelocityNet(net, schedule), schedule, images, config, "cpu", objective, labels)


def test_trains_goes_on_from_a_file_and_samples_with_labels(tmp_path):
    schedule, labels = cosine_schedule(20), torch.arange(30) % 3
    whole, half = make(schedule, labels), make(schedule, labels)
    for _ in whole.run():
        pass
    for _, _loss in zip(range(3), half.run(), strict=False):
        pass
    half.save(tmp_path / "run.safetensors")
    rest = make(schedule, labels)
    rest.fit(tmp_path / "run.safetensors")
    for name, value in whole.ema.state_dict().items():
        assert torch.equal(value, rest.ema.state_dict()[name]), name
    asked = torch.tensor([0, 1, 2, 0])
    x = sample(guide(whole.ema, 2.0), schedule, 4, (1, 8, 8), 5, labels=asked, progress=False)
    assert x.shape == (4, 1, 8, 8)
    assert x.isfinite().all()
    file = tmp_path / "net.safetensors"
    arguments = {"base": 8, "multipliers": [1], "attention": 0, "classes": 3}
    save_pretrained(file, whole.ema, arguments, "cosine", 20, {"loss": 1.0})
    loaded, schedule, _ = load_pretrained(file)
    assert isinstance(loaded, VelocityNet)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([1, 10, 20])
    torch.testing.assert_close(
        loaded(x, t, labels[:3]), whole.ema(x, t, labels[:3]), rtol=0, atol=2e-3
    )  # half precision
    assert torch.equal(loaded.sigma, schedule.sigma)


def test_a_run_with_another_target_is_another_run(tmp_path):
    make(cosine_schedule(20)).fit(tmp_path / "run.safetensors")
    with pytest.raises(CheckpointError, match="its objective is velocity_loss, and ddpm_loss here"):
        make(cosine_schedule(20), objective=ddpm_loss).fit(tmp_path / "run.safetensors")
