"""Training: every step by hand or twice, every way to stop it, and every file that it must not go on from."""

import copy
import math
import os
import re
import signal
import subprocess
import sys
import threading
import types
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from killed_run import flat

from ddpm_helpers import (
    CheckpointError,
    SimpleUNet,
    TrainConfig,
    Trainer,
    TrainingError,
    UNet,
    cosine_schedule,
    ddpm_loss,
    ema_update,
    guide,
    linear_schedule,
    load_pretrained,
    middle_weight,
    min_snr_loss,
    sample,
    stratified_steps,
    velocity_loss,
    viz,
    weighted_steps,
)
from ddpm_helpers import cli as command
from ddpm_helpers import files, machine, train
from ddpm_helpers.files import read
from ddpm_helpers.losses import draw_steps
from ddpm_helpers.machine import fast_dtype, fast_layout

T = 20
ROOT = Path(__file__).parents[1]
IMAGES = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def make(steps=10, *, start=0, dropout=0.0, images=IMAGES, schedule=None, net=None, device="cpu", **config) -> Trainer:
    """A Trainer whose network starts from seed `start`; `net` is one, or makes one."""
    torch.manual_seed(start)
    if not isinstance(net, torch.nn.Module):
        net = net() if net else UNet(base=8, multipliers=(1,), attention=0, dropout=dropout)
    config = TrainConfig(**{"steps": steps, "batch_size": 4, "warmup": 3, **config})
    return Trainer(net, schedule or cosine_schedule(T), images, config, device)


def steps(trainer: Trainer, count: int) -> Trainer:
    for _, _loss in zip(range(count), trainer.run(), strict=False):
        pass
    return trainer


def everything(trainer: Trainer) -> dict[str, bytes]:
    """All of its state, to the bit."""
    return flat(trainer._state())


def differing(a: dict, b: dict) -> list[str]:
    return [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]


def without_steps(state: dict) -> dict:
    return {name: value for name, value in state.items() if name != "state.config.steps"}


@pytest.fixture(scope="module")
def ten():
    """What ten steps in one go end with."""
    return everything(steps(make(), 10))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "a.safetensors"


@pytest.fixture
def five(path):
    """A file with five of ten steps."""
    steps(make(), 5).save(path)
    return path


# ---- one step -------------------------------------------------------------------------------------------------------


def test_ddpm_loss_by_hand():
    schedule, x0, noise = linear_schedule(100), torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    t = torch.tensor([1, 50, 100])
    seen = []

    def model(x, t):
        seen.append((x, t))
        return 0.3 * x

    loss = ddpm_loss(model, schedule, x0, t, noise)
    total = 0.0
    for i in range(3):
        alpha_bar = schedule.alpha_bar[t[i]].item()
        x_t = math.sqrt(alpha_bar) * x0[i] + math.sqrt(1 - alpha_bar) * noise[i]
        torch.testing.assert_close(seen[0][0][i], x_t)
        total += ((0.3 * x_t - noise[i]) ** 2).sum().item()
    assert loss.shape == ()
    assert loss.item() == pytest.approx(total / 12, rel=1e-5)
    assert seen[0][1] is t
    assert ddpm_loss(lambda x, t: noise, schedule, x0, t, noise) == 0


def test_ema_update_by_hand():
    average, value = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    torch.testing.assert_close(ema_update(average, value, 0.75), torch.tensor([1.5, 1.0]))
    assert torch.equal(ema_update(average, value, 1.0), average)
    assert torch.equal(ema_update(average, value, 0.0), value)
    assert average.tolist() == [1, 2], "the old average is left alone"


@pytest.mark.parametrize(("length", "count"), [(1000, 64), (20, 4), (7, 3), (3, 10), (1, 5), (10, 10)])
def test_draw_steps_one_from_each_stretch(length, count):
    schedule, generator = cosine_schedule(length), torch.Generator().manual_seed(0)
    for _ in range(50):
        t = draw_steps(schedule, count, generator)
        assert t.dtype == torch.int64
        assert t.shape == (count,)
        assert t.min() >= 1
        assert t.max() <= length
        for i, step in enumerate(t.tolist()):  # the stretch from i T / count to (i + 1) T / count touches step - 1
            assert i * length / count - 1 < step - 1 <= (i + 1) * length / count


@pytest.mark.parametrize(("length", "count"), [(20, 4), (7, 3), (3, 10)])
def test_draw_steps_are_uniform(length, count):
    schedule, generator = cosine_schedule(length), torch.Generator().manual_seed(0)
    drawn = torch.cat([draw_steps(schedule, count, generator) for _ in range(3000)])
    found, expected = drawn.bincount(minlength=length + 1)[1:].float(), len(drawn) / length
    chi_square = ((found - expected) ** 2 / expected).sum().item()
    assert chi_square < length + 5 * math.sqrt(2 * length), found
    assert drawn.float().mean().item() == pytest.approx((length + 1) / 2, rel=0.01)


@pytest.mark.parametrize("count", [4, 7])
def test_weighted_steps_come_as_often_as_they_weigh(count):
    weight, generator = torch.tensor([1.0, 3.0, 0.5, 2.0, 4.0, 0.25]), torch.Generator().manual_seed(0)
    drawn = torch.stack([weighted_steps(torch.rand(count, generator=generator), weight) for _ in range(3000)])
    assert drawn.dtype == torch.int64
    assert (drawn.diff(dim=1) >= 0).all()
    expected = drawn.numel() * weight / weight.sum()
    chi_square = ((drawn.flatten().bincount(minlength=7)[1:] - expected) ** 2 / expected).sum().item()
    assert chi_square < 6 + 5 * math.sqrt(2 * 6), drawn.flatten().bincount()
    ends = weight.cumsum(0) / weight.sum()
    for i in range(count):  # the stretch of image i touches that of its step
        begin, end = torch.cat([torch.zeros(1), ends])[drawn[:, i] - 1], ends[drawn[:, i] - 1]
        assert (begin < (i + 1) / count + 1e-6).all()
        assert (end > i / count - 1e-6).all()


@pytest.mark.parametrize("last", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("length", [1, 3, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weighted_steps_stay_in_range(last, length, dtype):
    for weight in (torch.ones(length), middle_weight(cosine_schedule(length))):
        t = weighted_steps(torch.full((64,), last), weight.to(dtype))
        assert t.min() >= 1
        assert t.max() <= length


def test_equal_weights_are_stratified_steps():
    u = torch.rand(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weighted_steps(u, torch.full((1000,), 0.25)), stratified_steps(u, 1000))


@pytest.mark.parametrize("schedule", [linear_schedule(100), cosine_schedule(T)], ids=["linear", "cosine"])
def test_the_velocity_drawn_by_weight_is_the_smaller_error_on_average(schedule):
    x0, noise = torch.randn((2, 5, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight, losses = middle_weight(schedule).double(), {velocity_loss: [], min_snr_loss: []}
    for t in range(1, schedule.T + 1):
        for loss, values in losses.items():
            values.append(loss(lambda x, t: 0.3 * x, schedule, x0, torch.full((5,), t), noise).item())
    drawn = (weight / weight.sum() * torch.tensor(losses[velocity_loss])).sum()
    assert weight.mean() * drawn == pytest.approx(sum(losses[min_snr_loss]) / schedule.T, rel=1e-5)


def test_a_trainer_can_draw_its_steps_in_the_middle():
    drawn = {middle: [] for middle in (False, True)}
    for middle, seen in drawn.items():
        for step in range(100):
            trainer = make(batch_size=10, weighted=middle)
            trainer.step = step
            seen.append(trainer._batch()[1])
    share = {middle: torch.cat(seen).bincount(minlength=T + 1)[1:] / 1000 for middle, seen in drawn.items()}
    weight = middle_weight(cosine_schedule(T))
    torch.testing.assert_close(share[False], torch.full((T,), 1 / T), rtol=0, atol=0.02)
    torch.testing.assert_close(share[True], weight / weight.sum(), rtol=0, atol=0.02)


def test_learning_rate():
    config = TrainConfig(steps=1000, learning_rate=0.5, warmup=100)
    rates = [config.learning_rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.5 / 100)
    assert rates[99] == 0.5, "warm at the end of the warm-up"
    assert set(rates[99:751]) == {0.5}
    assert rates[875] == pytest.approx(0.25)
    assert rates[999] == pytest.approx(0.5 / 250)
    assert all(a < b for a, b in pairwise(rates[:100]))
    assert all(a > b for a, b in pairwise(rates[750:]))
    for length in range(1, 9):
        assert all(0 < TrainConfig(length, warmup=0).learning_rate_at(step) <= 2e-3 for step in range(length))


def test_a_step_by_hand():
    """Loss, clipped gradient, AdamW at the warm-up's rate and the average, made again from the parts."""
    trainer = make(clip_norm=0.01, learning_rate=0.1)
    by_hand = copy.deepcopy(trainer.model)
    x0, t, noise, _ = trainer._batch()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.1 / 3)
    dtype = fast_dtype(torch.device("cpu"))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = (by_hand(q := trainer_q(trainer, x0, t, noise), t).float() - noise).square().mean()
    assert q.shape == x0.shape
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.01)
    assert norm > 0.01, "there is something to clip"
    before = [p.detach().clone() for p in by_hand.parameters()]
    optimizer.step()
    assert next(trainer.run()).item() == pytest.approx(loss.item())
    for ours, theirs, average, old in zip(
        trainer.model.parameters(), by_hand.parameters(), trainer.ema.parameters(), before, strict=True
    ):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(ours.grad, theirs.grad, msg="AdamW hides the length of a single gradient")
        torch.testing.assert_close(average, 0.1 * old + 0.9 * theirs, msg="the first average keeps a tenth")


def trainer_q(trainer, x0, t, noise):
    a = trainer.schedule.alpha_bar[t][:, None, None, None]
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def test_every_step_draws_anew_and_each_seed_its_own():
    trainer, other = make(), make(seed=1)
    drawn = [trainer._batch()[:3], other._batch()[:3]]
    for trainer.step in range(1, 4):
        drawn.append(trainer._batch()[:3])
    for images, t, noise in drawn:
        assert images.min() >= -1
        assert images.max() <= 1
        assert t.shape == (4,)
        assert noise.std().item() == pytest.approx(1, abs=0.15)
    for one, another in combinations(drawn, 2):
        assert all(not torch.equal(a, b) for a, b in zip(one, another, strict=True))
    trainer.step = 0
    assert all(torch.equal(a, b) for a, b in zip(trainer._batch()[:3], drawn[0], strict=True))


def test_batches_are_shared_out_without_gap_or_overlap():
    trainer = steps(make(batch_size=6), 2)
    *whole, _ = trainer._batch()
    assert [part.shape for part in whole] == [(6, 1, 8, 8), (6,), (6, 1, 8, 8)]
    parts = []
    trainer.world = 3
    for trainer.rank in range(3):
        parts.append(trainer._batch()[:3])
    for together, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), together)


def test_the_average_stays_out_of_training():
    trainer = steps(make(ema_decay=0.5), 3)
    assert trainer.model.training
    assert not trainer.ema.training
    assert not any(p.requires_grad for p in trainer.ema.parameters())
    assert any(differing(flat(trainer.ema.state_dict()), flat(trainer.model.state_dict())))


def test_it_learns():
    images = torch.full((8, 1, 8, 8), 200, dtype=torch.uint8)
    trainer = make(60, images=images, learning_rate=1e-2)
    losses = [loss.item() for loss in trainer.run()]
    assert sum(losses[-10:]) / 10 < 0.5 * losses[0]
    assert trainer.losses.tolist() == losses


# ---- the same again -------------------------------------------------------------------------------------------------


def test_run_yields_after_complete_steps_and_goes_on(ten):
    trainer = make()
    for count, loss in enumerate(trainer.run(), 1):
        assert trainer.step == len(trainer.losses) == count
        assert loss.shape == ()
        assert not loss.requires_grad
        if count == 3:
            break
    assert trainer.step == 3
    assert len(list(trainer.run())) == 7
    assert differing(everything(trainer), ten) == []
    assert list(trainer.run()) == [], "nothing is left to do"


def test_two_runs_are_equal_and_other_seeds_are_not(ten):
    assert differing(everything(steps(make(), 10)), ten) == []
    other = everything(steps(make(seed=1), 10))
    assert len([name for name in differing(other, ten) if ".model." in name]) > 10


@pytest.mark.parametrize(("kind", "dropout"), [("UNet", 0.0), ("UNet", 0.3), ("SimpleUNet", 0.0)])
def test_five_and_resume_and_five_are_ten(path, kind, dropout):
    net = None if kind == "UNet" else lambda: SimpleUNet(T, base=8)
    whole = everything(steps(make(dropout=dropout, net=net), 10))
    steps(make(dropout=dropout, net=net), 5).save(path)
    trainer = make(start=77, dropout=dropout, net=net)  # as in a new process: other weights, other random numbers
    torch.rand(5)
    trainer.resume(path)
    assert trainer.step == 5
    assert differing(everything(steps(trainer, 5)), whole) == []


def test_resume_goes_back_as_well(five, ten):
    trainer = steps(make(), 8)
    trainer.resume(five)
    assert trainer.step == len(trainer.losses) == 5
    assert differing(everything(steps(trainer, 5)), ten) == []


def test_what_a_checkpoint_holds_is_fixed(path):
    """Long runs go on from files of older versions: a change here needs a new format."""
    steps(make(), 2).save(path)
    state = read(path)
    names = ["format", "config", "objective", "beta", "images", "labels", "model", "ema", "optimizer", "step", "losses"]
    assert list(state) == names
    assert state["format"] == 2
    names = ["steps", "batch_size", "learning_rate", "warmup", "clip_norm", "ema_decay", "seed", "label_dropout"]
    assert list(state["config"]) == [*names, "flip", "weighted"]
    assert state["images"].startswith("10 x 1 x 8 x 8, checksum ")


def test_a_file_of_an_older_version_is_refused(five):
    write(five, read(five) | {"format": 1})  # its images had another checksum
    with pytest.raises(CheckpointError, match="an older version of ddpm_helpers wrote it"):
        make().resume(five)


def test_dropout_depends_on_the_arguments_alone(path):
    torch.manual_seed(1)
    whole = everything(steps(make(dropout=0.3), 10))
    torch.manual_seed(2)
    trainer = steps(make(dropout=0.3), 5)
    torch.rand(3)  # what another cell of a notebook may do between two calls of fit
    assert differing(everything(steps(trainer, 5)), whole) == []


def test_images_of_another_orientation_are_other_images(five):
    with pytest.raises(CheckpointError, match="it was trained on other images"):
        make(images=IMAGES.mT.contiguous()).resume(five)


def test_an_objective_that_a_checkpoint_cannot_name_is_refused_at_once():
    config = TrainConfig(steps=1)
    with pytest.raises(TypeError, match="a function made with def, got partial"):
        Trainer(UNet(base=8, multipliers=(1,)), cosine_schedule(T), IMAGES, config, "cpu", partial(ddpm_loss))
    with pytest.raises(TypeError, match="a function made with def, got <lambda>"):
        Trainer(UNet(base=8, multipliers=(1,)), cosine_schedule(T), IMAGES, config, "cpu", lambda *all: ddpm_loss(*all))
    with pytest.raises(TypeError, match=r"got list: torch.tensor\(labels\)"):
        Trainer(UNet(base=8, multipliers=(1,), classes=10), cosine_schedule(T), IMAGES, config, "cpu", labels=[0] * 10)


# ---- fit ------------------------------------------------------------------------------------------------------------


def test_fit_in_a_terminal(path, ten, capsys):
    trainer = make()
    assert trainer.fit(path) is trainer.ema
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"step 10 of 10   loss \d\.\d{4}   [\d,]+ images/s   0\.0 min left", lines[-1])
    assert not any("\r" in line or "\x1b" in line for line in lines)
    assert differing(everything(trainer), ten) == []
    assert differing(flat({k: v for k, v in read(path).items() if k != "format"}), ten) == []


def test_fit_without_a_file(tmp_path, ten):
    trainer = make()
    trainer.fit()
    assert differing(everything(trainer), ten) == []
    assert not list(tmp_path.iterdir())


def test_fit_resumes_by_itself_and_says_so(five, ten, capsys):
    trainer = make(start=77)
    trainer.fit(five)
    assert f"{five} holds step 5 of 10, going on from there." in capsys.readouterr().out
    assert differing(everything(trainer), ten) == []
    before = five.stat()
    again = make(start=78)
    again.fit(five)
    assert capsys.readouterr().out == f"{five} holds step 10 of 10: nothing is left to do.\n"
    assert differing(everything(again), ten) == []
    assert (five.stat().st_ino, five.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "not written again"


def test_more_steps_in_the_configuration_extend_a_run(path, capsys):
    make(6).fit(path)
    longer = make(9, start=77)
    longer.fit(path)
    assert "holds step 6 of 9, going on from there" in capsys.readouterr().out
    assert longer.step == len(longer.losses) == 9
    assert read(path)["step"] == 9


def test_a_trainer_further_than_the_file_goes_on_from_memory(five, ten, capsys):
    trainer = steps(make(), 8)
    trainer.fit(five)
    assert "This Trainer stands at step 8 of 10, going on from there." in capsys.readouterr().out
    assert differing(everything(trainer), ten) == []
    assert read(five)["step"] == 10


def test_a_file_further_than_the_trainer_is_gone_on_from(path, ten):
    steps(make(), 7).save(path)
    trainer = steps(make(), 2)
    trainer.fit(path)
    assert differing(everything(trainer), ten) == []


def test_a_trainer_that_is_done_is_saved(five, capsys):
    trainer = steps(make(), 10)
    trainer.fit(five)
    assert "stands at step 10 of 10: nothing is left to do" in capsys.readouterr().out
    assert read(five)["step"] == 10
    five.unlink()
    trainer.fit(five)
    assert read(five)["step"] == 10


def test_fit_never_writes_over_another_run(five):
    before = five.read_bytes()
    for done in (0, 2, 9):
        with pytest.raises(CheckpointError, match="belongs to another run: its seed is 0, and 5 here"):
            steps(make(seed=5), done).fit(five)
    five.write_bytes(before[:-100])
    for done in (0, 9):
        with pytest.raises(CheckpointError, match="damaged"):
            steps(make(), done).fit(five)
    assert five.read_bytes() == before[:-100]


def test_saves_now_and_then(path, monkeypatch):
    saved, clock = [], [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: clock[0])
    trainer = make()
    trainer.model.register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 1))  # a step takes a second
    keep = trainer.save
    trainer.save = lambda path: (saved.append(trainer.step), keep(path))
    trainer.fit(path, seconds_between_saves=4)
    assert saved == [4, 8, 10]
    saved.clear()
    other = make()
    keep, other.save = other.save, lambda path: (saved.append(other.step), keep(path))
    other.fit(path.with_name("b.safetensors"), seconds_between_saves=0)
    assert saved == list(range(1, 11))


def test_one_run_at_a_time(five):
    trainer, before = make(start=77), five.read_bytes()
    says = r"a\.safetensors: another run is writing to this file; stop that one, or name another file"
    with FileLock(five.with_name(".a.safetensors.lock")), pytest.raises(CheckpointError, match=says):
        trainer.fit(five)
    assert (trainer.step, five.read_bytes()) == (0, before)
    seen = []

    def second(*_):
        try:
            make().fit(five)
        except CheckpointError as error:
            seen.append(str(error))

    trainer.model.register_forward_hook(second)
    trainer.fit(five)
    assert len(seen) == 5
    assert all("another run is writing" in text for text in seen)
    trainer.fit(five)  # the lock is free again


def test_left_overs_of_killed_runs_are_removed(tmp_path):
    path = tmp_path / "a[1].safetensors"
    for name in (".a[1].safetensors.123.tmp", ".a1.safetensors.123.tmp", ".b.safetensors.123.tmp"):
        (tmp_path / name).write_bytes(b"half a file")
    make(1).fit(path)
    assert sorted(p.name for p in tmp_path.glob("*.tmp")) == [".a1.safetensors.123.tmp", ".b.safetensors.123.tmp"]


def test_fit_in_a_thread(path, ten):
    trainer, problems = make(), []

    def work():
        try:
            trainer.fit(path)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert problems == []
    assert differing(everything(trainer), ten) == []


class Notebook:
    """What IPython looks like from within a notebook."""

    kernel = object()


def test_fit_in_a_notebook(five, monkeypatch, capsys):
    shown, bars = [], []
    handle = types.SimpleNamespace(update=lambda picture: shown.append(picture))
    monkeypatch.setattr(viz, "display", lambda picture, **_: (shown.append(picture), handle)[1])
    ipython = types.SimpleNamespace(get_ipython=Notebook)
    monkeypatch.setattr(train, "sys", types.SimpleNamespace(modules={"IPython": ipython}))
    real = viz.LiveLoss
    monkeypatch.setattr(viz, "LiveLoss", lambda *args, **kwargs: (bars.append(real(*args, **kwargs)), bars[-1])[1])
    with pytest.raises(KeyboardInterrupt):
        stop_at(make(), 8).fit(five)
    out = capsys.readouterr().out
    assert "8/10" in out
    assert f"\nStopped after step 8 of 10; {five} holds all of it." in out, "not behind the bar"
    make().fit(five)
    assert len(bars) == 2
    assert all(live.bar.disable for live in bars), "closed"
    assert [len(live.losses) for live in bars] == [8, 10]
    assert shown[-1].metadata["alt"].startswith("Curve of loss over 10 steps")
    assert shown[-1].metadata["alt"].endswith("samples of the model")


# ---- stopped --------------------------------------------------------------------------------------------------------


def stop_at(trainer: Trainer, step: int, times: int = 1) -> Trainer:
    """Ctrl-C, `times` times, in the middle of a step."""

    def hook(*_):
        if trainer.step == step - 1:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    trainer.model.register_forward_hook(hook)
    return trainer


@pytest.mark.parametrize("step", [1, 4, 10])
def test_ctrl_c_ends_the_step_and_saves(path, ten, capsys, step):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop_at(make(), step).fit(path)
    assert signal.getsignal(signal.SIGINT) is before
    told = f"Stopped after step {step} of 10; {path} holds all of it. Run the same again to go on."
    assert told in capsys.readouterr().out.splitlines()
    assert read(path)["step"] == step
    trainer = make(start=77)
    trainer.fit(path)
    assert differing(everything(trainer), ten) == []


def test_ctrl_c_without_a_file_goes_on_in_memory(ten, capsys):
    trainer = stop_at(make(), 4)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert "Stopped after step 4 of 10. Run the same again to go on." in capsys.readouterr().out
    trainer.fit()
    assert differing(everything(trainer), ten) == []


@pytest.mark.parametrize("step", [3, 10])
def test_ctrl_c_while_saving(path, ten, monkeypatch, step):
    """The save is finished; it is not forgotten, even where nothing is left to do."""
    keep = train.save_checkpoint

    def interrupted(path, state):
        if state["step"] == step:
            signal.raise_signal(signal.SIGINT)
        keep(path, state)

    monkeypatch.setattr(training, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make().fit(path, seconds_between_saves=0)
    assert read(path)["step"] == min(step + 1, 10)
    trainer = make(start=77)
    trainer.fit(path)
    assert differing(everything(trainer), ten) == []


def test_a_second_ctrl_c_stops_at_once(five, ten):
    trainer = stop_at(make(), 8, times=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(five)
    assert trainer.step == 7
    with pytest.raises(TrainingError, match="after step 7 the next one stopped half-way"):
        trainer.save(five)
    with pytest.raises(TrainingError, match="half-way"):
        next(trainer.run())
    with pytest.raises(TrainingError, match="half-way"):
        trainer.fit()
    trainer.model._forward_hooks.clear()
    trainer.fit(five)  # the same cell again goes back to the file
    assert differing(everything(trainer), ten) == []


def test_an_ignored_ctrl_c_stays_ignored(path):
    """As in a job that a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stop_at(make(), 4).fit(path)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert read(path)["step"] == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_killed_at_twenty_moments(tmp_path):
    script = [sys.executable, str(ROOT / "tests" / "killed_run.py"), str(tmp_path), "20"]
    done = subprocess.run(script, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "20 kills" in done.stdout


# ---- files that do not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"net": UNet(base=16, multipliers=(1,), attention=0)}, r"another network: 'time.0.weight' is \[64, 16\] here"),
        ({"net": SimpleUNet(T)}, "another network: 'down.weight' is .* here and nothing in the file"),
        ({"schedule": linear_schedule(T + 1)}, "its schedule has 20 steps, this one 21"),
        ({"schedule": linear_schedule(T, rescale=False)}, r"another schedule: beta\[1\] is 0.00\d+ there and 0.0001 "),
        ({"images": IMAGES[:9]}, "trained on other images: 10 x 1 x 8 x 8, .* there, 9 x 1 x 8 x 8"),
        ({"images": IMAGES.flip(0)}, "trained on other images"),
        ({"images": 255 - IMAGES}, "trained on other images"),
        ({"learning_rate": 0.1}, "its learning_rate is 0.002, and 0.1 here"),
        ({"batch_size": 5}, "its batch_size is 4, and 5 here"),
        ({"seed": 3}, "its seed is 0, and 3 here"),
        ({"weighted": True}, "its middle is False, and True here"),
        ({"steps": 4}, "it has 5 steps behind it, more than the 4 asked for"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_files_of_other_runs(five, other, says):
    trainer = make(start=77, **{key: copy.deepcopy(value) for key, value in other.items()})
    before = everything(trainer)
    with pytest.raises(CheckpointError, match=rf"a\.safetensors belongs to another run: .*{says}.*Name another file to start"):
        trainer.resume(five)
    assert differing(everything(trainer), before) == []
    assert len(list(zip(range(2), trainer.run(), strict=False))) == 2, "it can be trained"


def put(state: dict, place: str, value) -> None:
    """Set, or with ... take away, the value at a place such as "optimizer/state/0/step"."""
    *above, last = [int(key) if key.isdigit() else key for key in place.split("/")]
    for key in above:
        state = state[key]
    if value is ...:
        del state[last]
    else:
        state[last] = value


GARBLED = [
    *[(name, ...) for name in ("config", "beta", "images", "model", "ema", "optimizer", "step", "losses")],
    *[(name, "text") for name in ("config", "beta", "model", "ema", "optimizer", "step", "losses")],
    *[(name, 7) for name in ("config", "beta", "model", "ema", "optimizer", "step", "losses")],
    *[(name, None) for name in ("config", "beta", "model", "ema", "optimizer", "step", "losses")],
    *[(name, {}) for name in ("config", "optimizer")],
    ("step", 5.0),
    ("step", torch.tensor(5)),
    ("step", -5),
    ("losses", torch.zeros(5, 2)),
    ("losses", torch.zeros(5, dtype=torch.int64)),
    ("losses", [1.0] * 5),
    ("config/seed", ...),
    ("model/time.0.weight", "text"),
    ("model/time.0.weight", torch.zeros(32, 8, dtype=torch.int64)),
    ("model/time.0.weight", torch.full((32, 8), torch.nan)),
    ("ema/time.0.weight", 5),
    ("ema/time.0.weight", torch.zeros(32, 8, dtype=torch.complex64)),
    ("optimizer/state", ...),
    ("optimizer/state", 5),
    ("optimizer/state/0", "text"),
    ("optimizer/state/0/step", "text"),
    ("optimizer/state/0/step", torch.zeros(3)),
    ("optimizer/state/0/exp_avg", ...),
    ("optimizer/state/0/exp_avg", "text"),
    ("optimizer/state/0/exp_avg_sq", torch.zeros(3)),
    ("optimizer/param_groups", []),
    ("optimizer/param_groups/0", {}),
    ("optimizer/param_groups/0/params", [0, 1]),
    ("optimizer/param_groups/0/betas", "text"),
    ("optimizer/param_groups/0/weight_decay", None),
]


def test_garbled_files_change_nothing(five):
    trainer = steps(make(start=77, dropout=0.1), 3)
    before, good = everything(trainer), five.read_bytes()
    for i, (place, value) in enumerate(GARBLED):
        state = read(five)
        del state["format"]
        put(state, place, value)
        write(five, state)
        attempt = trainer.resume if i % 4 else trainer.fit
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            attempt(five)
        assert differing(everything(trainer), before) == [], place
        five.write_bytes(good)
    trainer.resume(five)
    assert trainer.step == 5


def test_files_that_are_no_checkpoints(path):
    trainer = steps(make(), 2)
    before = everything(trainer)
    path.parent.mkdir()
    for content in (b"", b"a text", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged, truncated, or not a checkpoint"):
            trainer.fit(path)
    with pytest.raises(CheckpointError, match="there is no such file"):
        trainer.resume(path.with_name("b.safetensors"))
    torch.save({"format": 3, "step": 5}, path)
    with pytest.raises(CheckpointError, match="format 3, and this version"):
        trainer.fit(path)
    assert differing(everything(trainer), before) == []


# ---- what goes wrong on the way -------------------------------------------------------------------------------------


def nan_at(trainer: Trainer, step: int) -> Trainer:
    trainer.model.register_forward_hook(lambda m, a, out: out * float("nan") if trainer.step == step - 1 else None)
    return trainer


@pytest.mark.parametrize("step", [1, 7, 10])
def test_nan_loss(five, step):
    before = five.read_bytes()
    trainer = nan_at(make(), step)
    if step == 1:
        five.unlink()
    says = rf"^the loss of step {step} is nan: training stops, and a file saved before stays as it is. Try a smaller"
    with pytest.raises(TrainingError, match=says):
        trainer.fit(five)
    for attempt in (lambda: trainer.save(five), lambda: next(trainer.run()), trainer.fit):
        with pytest.raises(TrainingError):
            attempt()
    if step == 1:
        assert not five.exists()
    else:
        assert five.read_bytes() == before
        trainer.model._forward_hooks.clear()
        trainer.fit(five)  # mended, the same cell goes on from the file
        assert trainer.step == 10


@pytest.mark.parametrize("step", [7, 10])
def test_nan_in_a_gradient(path, step):
    """The loss of this step is good, the weights after it are not: they must not be saved."""
    trainer = make()
    weight = next(trainer.model.parameters())
    weight.register_hook(lambda g: g * float("inf") if trainer.step == step - 1 else g)
    with pytest.raises(TrainingError, match=f"^a weight of step {step} is not finite: training stops"):
        trainer.fit(path, seconds_between_saves=0)
    state = read(path)
    assert state["step"] == step - 1
    assert all(value.isfinite().all() for value in state["model"].values())


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA: nothing left"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
        RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[-20:],
)
def test_out_of_memory(five, ten, error):
    before = five.read_bytes()

    def fail(*_):
        if trainer.step == 6:
            raise error

    trainer = make()
    trainer.model.register_forward_hook(fail)
    says = r"^step 7 does not fit into the memory of cpu with batch_size 4: try 2, or a narrower network"
    with pytest.raises(TrainingError, match=says) as caught:
        trainer.fit(five)
    assert caught.value.__cause__ is error
    assert five.read_bytes() == before
    trainer.model._forward_hooks.clear()
    trainer.fit(five)
    assert differing(everything(trainer), ten) == []


def test_out_of_memory_with_one_image():
    trainer = make(batch_size=1)
    trainer.model.forward = lambda *_: (_ for _ in ()).throw(MemoryError())
    with pytest.raises(TrainingError, match="with batch_size 1: try a narrower network"):
        next(trainer.run())


def test_other_errors_are_not_renamed():
    trainer = make()
    trainer.model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(trainer.run())
    odd = make(images=torch.zeros(4, 1, 9, 9, dtype=torch.uint8), net=UNet(base=8, multipliers=(1, 1)))
    with pytest.raises(ValueError, match="height and width must be divisible by 2, got 9x9"):
        next(odd.run())


def test_disk_full_in_the_middle_of_a_run(five, ten, monkeypatch):
    before = five.read_bytes()
    trainer = make()
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"cannot be written .*No space left.* an older file there is as it"):
            trainer.fit(five, seconds_between_saves=0)
    assert five.read_bytes() == before
    assert not list(five.parent.glob("*.tmp"))
    trainer.fit(five)  # with space again it goes on from memory
    assert differing(everything(trainer), ten) == []


def test_a_place_that_cannot_be_written_to_is_told_before_training(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    trainer = make()
    with pytest.raises(CheckpointError, match=r"cannot be written .* name another place"):
        trainer.fit(tmp_path / "file" / "a.safetensors")
    assert trainer.step == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"steps": 2.5}, "steps must be a whole number, at least 1, got 2.5"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        ({"warmup": -1}, "warmup must be a whole number, at least 0, got -1"),
        ({"seed": -1}, "seed must be a whole number, at least 0, got -1"),
        ({"seed": 0.5}, "seed must be a whole number, at least 0, got 0.5"),
        ({"seed": 2**60}, "seed must be at most"),
        ({"learning_rate": 0}, "learning_rate and clip_norm must be above 0, got 0 and 1.0"),
        ({"learning_rate": float("nan")}, "learning_rate and clip_norm must be above 0, got nan"),
        ({"clip_norm": -1}, "learning_rate and clip_norm must be above 0, got 0.002 and -1"),
        ({"ema_decay": 1}, r"ema_decay must lie in \[0, 1\), got 1"),
    ],
    ids=str,
)
def test_bad_configuration(wrong, says):
    with pytest.raises(ValueError, match=f"^TrainConfig: {says}"):
        TrainConfig(**{"steps": 10, **wrong})


def test_numbers_of_numpy_become_plain_ones(path):
    config = TrainConfig(steps=np.int64(2), batch_size=2, learning_rate=np.float64(1e-3), flip=np.bool_(False))
    assert [type(value) for value in (config.steps, config.learning_rate, config.flip)] == [int, float, bool]
    for _ in range(2):  # the second time goes on from the file
        Trainer(UNet(base=8, multipliers=(1,)), cosine_schedule(T), IMAGES, config, "cpu").fit(path)


@pytest.mark.parametrize("loss", [ddpm_loss, velocity_loss, min_snr_loss])
def test_an_answer_of_another_shape_is_refused(loss):
    """Broadcasting would compare each image with all others."""
    x0 = torch.zeros(4, 1, 6, 6)
    with pytest.raises(ValueError, match=r"prediction has shape \(4, 6, 6\), noise has \(4, 1, 6, 6\)"):
        loss(lambda x, t: x[:, 0], cosine_schedule(T), x0, torch.full((4,), 3), torch.randn(x0.shape))


def test_the_largest_seed_works():
    next(make(seed=10**12).run())


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (IMAGES.float(), TypeError, r"as uint8 \(N, C, H, W\), got torch.float32 \(10, 1, 8, 8\); see load_images"),
        (IMAGES[0], TypeError, r"got torch.uint8 \(1, 8, 8\)"),
        (IMAGES.numpy(), TypeError, "got ndarray"),
        (IMAGES[:0], ValueError, "there are no images to train on"),
    ],
    ids=["float", "one", "numpy", "none"],
)
def test_bad_images(images, error, says):
    with pytest.raises(error, match=f"^Trainer: .*{says}"):
        make(images=images)


# ---- several processes ----------------------------------------------------------------------------------------------

DISTRIBUTED = torch.distributed.is_available() and torch.distributed.is_gloo_available()
LINE = ["--data", "digits", "--steps", "10", "--batch-size", "8", "--base", "8", "--multipliers", "1", "1", "--T", "20"]


def test_flips_mirror_half_of_the_images_and_nothing_else():
    plain, flipped = (make(batch_size=200, flip=flip)._batch() for flip in (False, True))
    mirrored = (flipped[0] == plain[0].flip(-1)).all((1, 2, 3))
    assert torch.equal(torch.where(mirrored[:, None, None, None], plain[0].flip(-1), plain[0]), flipped[0])
    assert 60 < mirrored.sum() < 140
    assert all(torch.equal(a, b) for a, b in zip(plain[1:3], flipped[1:3], strict=True))


def test_shares_make_up_the_batch():
    whole = make(batch_size=12, flip=True)._batch()[:3]
    shares = []
    for rank in range(3):
        trainer = make(batch_size=12, flip=True)
        trainer.rank, trainer.world = rank, 3
        shares.append(trainer._batch()[:3])
    for part, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert torch.equal(torch.stack(parts, 1).flatten(0, 1), part)


def test_a_batch_that_cannot_be_shared(monkeypatch):
    monkeypatch.setattr(train.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(train.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(train.dist, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="batch_size 4 cannot be shared out evenly among 3 processes"):
        make()


@pytest.mark.skipif(not DISTRIBUTED, reason="this PyTorch has no torch.distributed with gloo")
def test_two_processes_are_one(tmp_path, monkeypatch, capsys):
    # In bfloat16 the sums over half batches would round differently. With 8 features a GroupNorm would take each by
    # itself, and the bias in front of it away: Adam makes full steps of the rounding that is its gradient.
    wide = [*LINE, "--base", "16"]
    script = tmp_path / "both.py"
    script.write_text(
        "import torch, ddpm_helpers.machine as training\n"
        "from ddpm_helpers.cli import main\n"
        "training.fast_dtype = lambda device: torch.float32\n"
        "main()\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    line = [*launch, "--nproc-per-node", "2", str(script), *wide, "--checkpoint", str(tmp_path / "two.safetensors")]
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("step 10 of 10") == 1, "one of them speaks"
    monkeypatch.setattr(machine, "fast_dtype", lambda device: torch.float32)
    monkeypatch.setattr(command, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(sys, "argv", ["x", *wide, "--checkpoint", str(tmp_path / "one.safetensors")])
    command.main()
    one, two = (read(tmp_path / name) for name in ("one.safetensors", "two.safetensors"))
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-5, atol=0)
    for part in ("model", "ema"):
        for name, value in one[part].items():
            # A bias whose effect the next GroupNorm takes away has a gradient of rounding alone, which AdamW makes
            # as large as any other: 2e-5 apart after these ten steps.
            torch.testing.assert_close(two[part][name], value, rtol=1e-5, atol=1e-4, msg=f"{part} {name}")
    assert without_steps(one["config"]) == without_steps(two["config"])


# ---- the command ----------------------------------------------------------------------------------------------------


def run_command(*line: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "ddpm_helpers.cli", *line]
    return subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def test_help():
    done = run_command("--help")
    assert done.returncode == 0
    assert done.stderr == "", "no warning"
    assert done.stdout.startswith("usage: python -m ddpm_helpers.cli")
    assert "torchrun --nproc-per-node 2" in done.stdout
    assert "optimizer steps (default: 3000)" in done.stdout


def test_the_command_from_end_to_end(tmp_path, monkeypatch, capsys, few):
    outputs = {"--checkpoint": "runs/a.safetensors", "--export": "out/a b.safetensors", "--samples": "pictures/a.png"}
    line = [*LINE, *[part for name, file in outputs.items() for part in (name, str(tmp_path / file))]]
    monkeypatch.setattr(command, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(sys, "argv", ["x", *line])
    monkeypatch.setattr(command, "load_images", lambda *_, **__: few)
    command.main()
    assert "step 10 of 10" in capsys.readouterr().out
    model, schedule, recipe = load_pretrained(tmp_path / "out" / "a b.safetensors")
    assert (model.channels, schedule.name) == (1, "cosine, T = 20")
    assert {"data", "steps", "device", "loss", "date", "command"} <= recipe.keys()
    assert recipe["steps"] == 10
    assert recipe["data"].startswith("Drawn digits")
    assert recipe["command"].startswith("python -m ddpm_helpers.cli --data digits --steps 10")
    assert "a b.safetensors'" in recipe["command"], "a name with a space is quoted"
    ema = read(tmp_path / "runs" / "a.safetensors")["ema"]
    assert all(torch.equal(value, ema[name].half().float()) for name, value in model.state_dict().items())
    from PIL import Image

    with Image.open(tmp_path / "pictures" / "a.png") as picture:
        assert picture.size == (8 * 30 + 2, 8 * 30 + 2)
    command.main()
    assert "holds step 10 of 10: nothing is left to do" in capsys.readouterr().out


def test_a_place_that_cannot_be_made_is_told_before_training(tmp_path, monkeypatch, few):
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(command, "load_images", lambda *_, **__: few)
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("it trained"))
    for option, name in (("--export", "x.safetensors"), ("--samples", "x.png")):
        monkeypatch.setattr(sys, "argv", ["x", *LINE, option, str(tmp_path / "file" / name)])
        with pytest.raises(SystemExit, match=rf"Error: .*{name}: cannot be written"):
            command.main()


@pytest.fixture(scope="module")
def few():
    """64 drawn digits."""
    data = command.load_images("digits")
    return types.SimpleNamespace(
        images=data.images[:64], labels=data.labels[:64], classes=data.classes, source=data.source
    )


def test_the_command_with_labels_trains_what_can_be_asked(tmp_path, monkeypatch, few):
    out = tmp_path / "a.safetensors"
    line = [*LINE, "--labels", "--flip", "--export", str(out), "--samples", str(tmp_path / "a.png")]
    monkeypatch.setattr(command, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(sys, "argv", ["x", *line])
    monkeypatch.setattr(command, "load_images", lambda *_, **__: few)
    command.main()
    model, schedule, recipe = load_pretrained(out)
    assert model.classes == 10
    assert recipe["flip"]
    x = sample(guide(model, 3), schedule, 5, steps=2, labels=torch.arange(5))
    assert x.shape == (5, 1, 28, 28)
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--data nowhere", "Error: load_images: 'nowhere' is neither a folder nor one of"),
        ("--steps 0", "Error: TrainConfig: steps must be a whole number, at least 1, got 0"),
        ("--batch-size 0", "Error: TrainConfig: batch_size must be"),
        ("--learning-rate nan", "Error: TrainConfig: learning_rate and clip_norm must be above 0"),
        ("--ema-decay 1", "Error: TrainConfig: ema_decay"),
        ("--seed -1", "Error: TrainConfig: seed must be"),
        ("--base 12", "Error: UNet: base must be divisible by 8"),
        ("--T 0", "Error: T, the number of steps, must be an integer >= 1"),
        ("--T 10 --schedule linear", "Error: linear_beta: beta would go"),
        ("--patch 3", "Error: UNet: height and width must be divisible by 6, got 28x28"),
        ("--multipliers 1 1 1", "Error: UNet: height and width must be divisible by 8, got 28x28"),
        ("--checkpoint {folder}", "Error: .*cannot be"),
        ("--checkpoint {folder}/text.safetensors", r"Error: .*text\.safetensors: damaged, truncated, or not a checkpoint"),
        ("--steps 1 --samples {folder}/text.safetensors/a.png", "Error: .*text.safetensors"),
        ("--steps 1 --export {folder}/text.safetensors/a.safetensors", "Error: .*a.safetensors: cannot be written"),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, few, line, says):
    (tmp_path / "text.safetensors").write_text("text")
    if "--data" not in line:
        monkeypatch.setattr(command, "load_images", lambda *_, **__: few)
    monkeypatch.setattr(command, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(sys, "argv", ["x", *LINE, *line.format(folder=tmp_path).split()])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert re.match(says, stopped.value.code)
    assert "\n" not in stopped.value.code


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--steps many", "argument --steps: invalid int value: 'many'"),
        ("--patch 0", "argument --patch: must be at least 1, got 0"),
        ("--multipliers 1 -1", "argument --multipliers: must be at least 1, got -1"),
        ("--size 0", "argument --size: must be at least 1"),
        ("--schedule cubic", "argument --schedule: invalid choice: 'cubic'"),
        ("--export a.safetensors", r"--export: the name must end in \.safetensors, got a\.safetensors"),
        ("--samples a.xyz", r"--samples: the name must end in \.png, got a\.xyz"),
    ],
)
def test_bad_arguments_of_the_parser(capsys, line, says):
    with pytest.raises(SystemExit, match="2"):
        command.arguments(line.split())
    assert re.search(f"error: {says}", capsys.readouterr().err)


# ---- devices --------------------------------------------------------------------------------------------------------


def test_fast_dtype_and_layout():
    cpu = torch.device("cpu")
    assert fast_dtype(cpu) in (torch.float32, torch.bfloat16)
    assert fast_dtype(torch.device("mps")) is torch.float32
    assert fast_layout(UNet(base=8), cpu) is torch.contiguous_format
    assert fast_layout(SimpleUNet(T), cpu) is torch.channels_last
    assert fast_layout(UNet(base=8), torch.device("cuda")) is torch.channels_last
    assert fast_layout(SimpleUNet(T), torch.device("mps")) is torch.contiguous_format
    weight = make(net=SimpleUNet(T, base=8)).model.middle[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision_of_a_cpu(monkeypatch, supported, dtype):
    """bfloat16 where the CPU has it; weights, average and loss stay float32, and both precisions learn alike."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: supported, raising=False)
    assert fast_dtype(torch.device("cpu")) is dtype
    seen = []
    trainer = make()
    trainer.model.stem[1].register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    steps(trainer, 10)
    assert set(seen) == {dtype}
    assert {p.dtype for net in (trainer.model, trainer.ema) for p in net.parameters()} == {torch.float32}
    assert trainer.losses.dtype == torch.float32
    assert trainer.losses[0].item() == pytest.approx(1, abs=0.25), "a new UNet predicts 0"


def on_an_accelerator(device: str, path: Path) -> None:
    trainer = make(device=device, dropout=0.1)
    losses = [loss.item() for loss in trainer.run()]
    assert all(0 < loss < 5 for loss in losses)
    assert {p.device.type for p in trainer.ema.parameters()} == {device}
    steps(make(device=device), 5).save(path)
    other = make(device=device, start=77)
    other.resume(path)
    whole, parts = steps(make(device=device), 10), steps(other, 5)
    torch.testing.assert_close(parts.losses, whole.losses, rtol=1e-3, atol=1e-3)
    on_cpu = make(start=77)
    on_cpu.resume(path)
    assert on_cpu.step == 5, "a file of an accelerator can be gone on from without it"
    with pytest.raises(TrainingError, match="the loss of step 3 is nan"):
        nan_at(make(3, device=device), 3).fit()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_on_cuda(path):
    on_an_accelerator("cuda", path)


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Apple GPU here")
def test_on_mps(path):
    on_an_accelerator("mps", path)
