"""Training: every step by hand or twice, every way to stop it, and every file that it must not go on from."""

import copy
import io
import os
import re
import shutil
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
    files,
    image_noise,
    linear_schedule,
    step_weight,
    train,
    viz,
    watch,
)
from ddpm_helpers.files import read, write
from ddpm_helpers.machine import fast_dtype

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


# ---- one step --------------------------------------------------------------------------------------------------------


def test_weighted_timestep_sampling():
    plain, weighted = make(batch_size=10), make(batch_size=10, weighted=True)
    weight = step_weight(cosine_schedule(T))
    for trainer, share in ((plain, torch.full((T,), 1 / T)), (weighted, weight / weight.sum())):
        drawn = []
        for trainer.step in range(100):
            drawn.append(trainer._batch()[1])
        counts = torch.cat(drawn).bincount(minlength=T + 1)[1:]
        torch.testing.assert_close(counts / 1000, share, rtol=0, atol=0.02)


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
        a = trainer.schedule.alpha_bar[t][:, None, None, None]
        loss = (by_hand(a.sqrt() * x0 + (1 - a).sqrt() * noise, t).float() - noise).square().mean()
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
    assert trainer.model.training
    assert not trainer.ema.training
    assert not any(p.requires_grad for p in trainer.ema.parameters())


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


def test_training_and_sampling_draw_from_streams_of_their_own():
    """On a CPU a generator has 2**32 seeds; each stream has a stretch of them that no other one reaches into."""
    purposes = ("order", "steps", "noise", "coins", "dropout of process 0", "dropout of process 1")
    trainer, shape = make(batch_size=10), IMAGES.shape[1:]
    for seed in range(20):
        trainer.config = TrainConfig(10, 10, seed=seed)
        begins = {purpose: trainer._seed(purpose, 0) for purpose in purposes}
        begins["sampling"] = seed * 1_000_003
        for one, other in pairwise(sorted(begins.values())):
            assert other - one > 200_000, begins
    starts = image_noise(0, range(50), shape)().flatten(1)
    trainer.config = TrainConfig(10, 10)
    for trainer.step in range(50):
        noise = trainer._batch()[2].flatten()
        assert not any(torch.isin(start[:4], noise).any() for start in starts), "not even shifted"


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


def test_it_learns():
    images = torch.full((8, 1, 8, 8), 200, dtype=torch.uint8)
    trainer = make(60, images=images, learning_rate=1e-2)
    losses = [loss.item() for loss in trainer.run()]
    assert sum(losses[-10:]) / 10 < 0.5 * losses[0]
    assert trainer.losses.tolist() == losses


# ---- the same again --------------------------------------------------------------------------------------------------


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
    other = everything(steps(make(seed=1), 10))
    assert len([name for name in differing(other, ten) if ".model." in name]) > 10, "another seed is another run"


@pytest.mark.parametrize(("kind", "dropout"), [("UNet", 0.0), ("UNet", 0.3), ("SimpleUNet", 0.0)])
def test_five_and_resume_and_five_are_ten(path, kind, dropout):
    net = None if kind == "UNet" else lambda: SimpleUNet(T, base=8)
    whole = everything(steps(make(dropout=dropout, net=net), 10))
    steps(make(dropout=dropout, net=net), 5).save(path)
    trainer = make(start=77, dropout=dropout, net=net)  # as in a new process: other weights, other random numbers
    torch.rand(5)
    for step in (5, 8):  # the second time it goes back
        trainer.resume(path)
        assert trainer.step == len(trainer.losses) == 5
        steps(trainer, step - 5)
    torch.rand(3)  # what another cell of a notebook may do in between
    assert differing(everything(steps(trainer, 2)), whole) == []


def test_what_a_file_holds_is_fixed(path):
    """Long runs go on from files of older versions: a change here needs a new format."""
    trainer = steps(make(), 2)
    trainer.save(path)
    state = read(path)
    config = ["steps", "batch_size", "learning_rate", "warmup", "clip_norm", "ema_decay", "seed", "label_dropout"]
    run = ["flip", "weighted", "objective", "schedule", "images", "labels", "step"]
    assert sorted(state) == sorted([*config, *run, "losses", "model", "ema", "optimizer"])
    assert state["images"].startswith("10 x 1 x 8 x 8, checksum ")
    assert differing(flat(state), everything(trainer)) == []
    moments = {f"{name}.{key}" for name in state["model"] for key in ("step", "exp_avg", "exp_avg_sq")}
    assert state["optimizer"].keys() == moments


# ---- fit -------------------------------------------------------------------------------------------------------------


def test_fit_in_a_terminal(path, ten, capsys):
    trainer = make()
    assert trainer.fit(path) is trainer.ema
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"step 10 of 10   loss \d\.\d{4}   [\d,]+ images/s   0\.0 min left", lines[-1])
    assert not any("\r" in line or "\x1b" in line for line in lines)
    assert differing(everything(trainer), ten) == []
    assert differing(flat(read(path)), ten) == []


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


def test_more_steps_extend_a_run(five, capsys):
    longer = make(12, start=77)
    longer.fit(five)
    assert "holds step 5 of 12, going on from there" in capsys.readouterr().out
    assert longer.step == len(longer.losses) == read(five)["step"] == 12


def test_a_trainer_further_than_the_file_goes_on_from_memory(five, ten, capsys):
    trainer = steps(make(), 8)
    trainer.fit(five)
    assert "This Trainer stands at step 8 of 10, going on from there." in capsys.readouterr().out
    assert differing(everything(trainer), ten) == []
    assert read(five)["step"] == 10
    behind = steps(make(), 2)
    behind.fit(five)  # and one that stands before it, from the file
    assert differing(everything(behind), ten) == []


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
    says = r"a\.safetensors: another run is writing to this file; stop it, or name another file"
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


def in_a_notebook(monkeypatch) -> None:
    """What IPython looks like from within a notebook."""
    ipython = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=None))
    monkeypatch.setattr(watch, "sys", types.SimpleNamespace(modules={"IPython": ipython}, stdout=sys.stdout))


def test_fit_in_a_notebook(five, monkeypatch, capsys):
    shown, bars = [], []
    handle = types.SimpleNamespace(update=lambda picture: shown.append(picture))
    monkeypatch.setattr(viz, "display", lambda picture, **_: (shown.append(picture), handle)[1])
    in_a_notebook(monkeypatch)
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


@pytest.mark.parametrize("channels", [2, 4])
def test_a_picture_that_cannot_be_drawn_ends_no_run(path, monkeypatch, capsys, channels):
    in_a_notebook(monkeypatch)
    monkeypatch.setattr(viz, "display", lambda *_, **__: types.SimpleNamespace(update=lambda _: 1 / 0))
    net = lambda: UNet(channels=channels, base=8, multipliers=(1,), attention=0)  # noqa: E731
    images = IMAGES.expand(-1, channels, -1, -1).contiguous()
    make(images=images, net=net).fit(path)
    out = capsys.readouterr().out
    assert "not shown" in out
    assert read(path)["step"] == 10
    monkeypatch.setattr(viz, "display", lambda *_, **__: 1 / 0)
    make(images=images, net=net).fit(path.with_name("b.safetensors"))
    out = capsys.readouterr().out
    assert out.count("The live picture failed (ZeroDivisionError") == 1
    assert "step 10 of 10   loss" in out


def test_a_console_without_a_letter_and_one_that_is_gone(tmp_path, monkeypatch):
    path = tmp_path / "модель ü.safetensors"
    steps(make(), 5).save(path)
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    make().fit(path)
    assert "?????? ü.safetensors holds step 5 of 10".encode("cp1252") in console.buffer.getvalue()
    console.close()
    make().fit(tmp_path / "b.safetensors")


# ---- stopped ---------------------------------------------------------------------------------------------------------


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
    keep = train.write

    def interrupted(path, kind, state):
        if state["step"] == step:
            signal.raise_signal(signal.SIGINT)
        keep(path, kind, state)

    monkeypatch.setattr(train, "write", interrupted)
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


# ---- files that do not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"net": UNet(base=16, multipliers=(1,), attention=0)}, r"another network: 'time.0.weight' is \[64, 16\] here"),
        ({"net": SimpleUNet(T)}, "another network: 'down.weight' is .* here and nothing in the file"),
        (
            {"net": UNet(base=8, multipliers=(1,), attention=0).double()},
            r"is torch.float64 \[32, 8\] here and \[32, 8\]",
        ),
        ({"schedule": linear_schedule(T, rescale=False)}, "its schedule is 20, checksum .*, and 20, checksum .* here"),
        (
            {"images": IMAGES[:9]},
            r"its images are 10 x 1 x 8 x 8, .*, and 9 x 1 x 8 x 8, .*other_images=True\)",
        ),
        ({"images": IMAGES.mT.contiguous()}, "its images are 10 x 1 x 8 x 8, .*, and 10 x 1 x 8 x 8"),
        ({"seed": 3}, "its seed is 0, and 3 here"),
        ({"weighted": True}, "its weighted is 0.0, and True here"),
        ({"steps": 4}, "it has 5 steps behind it, more than the 4 asked for"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_files_of_other_runs(five, other, says):
    trainer = make(start=77, **{key: copy.deepcopy(value) for key, value in other.items()})
    before = everything(trainer)
    with pytest.raises(CheckpointError, match=rf"a\.safetensors belongs to another run: .*{says}.*another file"):
        trainer.resume(five)
    assert differing(everything(trainer), before) == []


def test_the_way_round_starts_a_new_file_from_the_old_weights(five):
    net = UNet(base=8, multipliers=(1,), attention=0)
    net.load_state_dict(read(five)["ema"])
    trainer = make(net=net, seed=3)
    assert differing(flat(trainer.ema.state_dict()), flat(read(five)["ema"])) == []
    trainer.fit(five.with_name("b.safetensors"))


def test_how_fast_it_learns_may_change_and_is_said(five, capsys):
    """What the messages about NaN and memory advise, the next start accepts."""
    trainer = make(learning_rate=1e-4, batch_size=2, warmup=1, clip_norm=0.5)
    trainer.fit(five)
    said = capsys.readouterr().out
    assert "After step 5 with learning_rate 0.0001; before, it was 0.002." in said
    assert "After step 5 with batch_size 2; before, it was 4." in said
    assert read(five)["learning_rate"] == 1e-4
    with pytest.raises(CheckpointError, match="its seed is 0, and 1 here"):
        make(learning_rate=1e-4, seed=1).fit(five)


def test_images_that_differ_a_little_are_gone_on_from_where_asked(five, capsys):
    other = IMAGES.clone()
    other[0, 0, 0, 0] ^= 1
    with pytest.raises(CheckpointError, match="JPEG"):
        make(images=other).fit(five)
    make(images=other).fit(five, other_images=True)
    assert "After step 5 with images 10 x 1 x 8 x 8, checksum" in capsys.readouterr().out
    assert read(five)["step"] == 10


def put(state: dict, place: str, value) -> None:
    """Set, or with ... take away, the value at a place such as "model/time.0.weight"."""
    *above, last = place.split("/")
    state = state[above[0]] if above else state
    if value is ...:
        del state[last]
    else:
        state[last] = value


WEIGHT = "time.0.weight"
GARBLED = [
    *[(name, ...) for name in ("seed", "schedule", "images", "model", "ema", "optimizer", "step", "losses")],
    *[(name, value) for name in ("model", "ema", "optimizer", "step", "losses") for value in ("text", 7, None, {})],
    *[("step", value) for value in (5.0, torch.tensor(5), -5, 10**12, True)],
    *[("losses", value) for value in (torch.zeros(5, 2), torch.zeros(4), {"a": torch.zeros(5)})],
    *[(f"model/{WEIGHT}", value) for value in (..., torch.zeros(32, 8, dtype=torch.int64), torch.zeros(8, 32))],
    *[(f"optimizer/{WEIGHT}.step", value) for value in (..., torch.zeros(3))],
    *[(f"optimizer/{WEIGHT}.exp_avg", value) for value in (..., torch.zeros(3))],
    ("ema/more", torch.zeros(3)),
]


def test_garbled_files_change_nothing(five):
    """Files with right checksums, which no Trainer wrote."""
    trainer = steps(make(start=77, dropout=0.1), 3)
    before, good = everything(trainer), read(five)
    for i, (place, value) in enumerate(GARBLED):
        state = copy.deepcopy(good)
        put(state, place, value)
        write(five, "training state", state)
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            (trainer.resume if i % 4 else trainer.fit)(five)
        assert differing(everything(trainer), before) == [], place
    write(five, "training state", good)
    trainer.resume(five)
    assert trainer.step == 5


# ---- what goes wrong on the way --------------------------------------------------------------------------------------


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
        mended = make(learning_rate=1e-3)  # as the message advises
        mended.fit(five)
        assert mended.step == 10


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
    says = "^step 7 does not fit into the memory of cpu: try smaller batches than of 4: a file saved before accepts it"
    with pytest.raises(TrainingError, match=says) as caught:
        trainer.fit(five)
    assert caught.value.__cause__ is error
    assert five.read_bytes() == before
    trainer.model._forward_hooks.clear()
    trainer.fit(five)
    assert differing(everything(trainer), ten) == []


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
    with pytest.raises(CheckpointError, match=r"a\.pt: the name must end in .safetensors.*docs/CHANGELOG.md"):
        trainer.fit(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"holds weights, and no training state: load_pretrained"):
        trainer.fit(shutil.copy(files.WEIGHTS / "mnist.safetensors", tmp_path))
    with pytest.raises(CheckpointError, match="there is no such file"):
        trainer.resume(tmp_path / "b.safetensors")
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
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ({"clip_norm": -1}, "clip_norm must be above 0, got -1"),
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
    next(make(seed=10**30).run())


def test_bad_arguments_of_a_trainer():
    for images in (IMAGES.float(), IMAGES[0], IMAGES.numpy(), IMAGES[:0]):
        found = "ndarray" if isinstance(images, np.ndarray) else f"{images.dtype} {tuple(images.shape)}"
        with pytest.raises(TypeError, match=f"^Trainer: .*got {re.escape(found)}; see load_images"):
            make(images=images)
    config = TrainConfig(steps=1)
    with pytest.raises(TypeError, match="a function made with def"):
        Trainer(UNet(base=8, multipliers=(1,)), cosine_schedule(T), IMAGES, config, "cpu", partial(ddpm_loss))
    with pytest.raises(TypeError, match="a function made with def"):
        Trainer(UNet(base=8, multipliers=(1,)), cosine_schedule(T), IMAGES, config, "cpu", lambda *all: ddpm_loss(*all))
    with pytest.raises(ValueError, match=r"got list; torch.tensor\(labels\)"):
        Trainer(UNet(base=8, multipliers=(1,), classes=10), cosine_schedule(T), IMAGES, config, "cpu", labels=[0] * 10)


# ---- on an accelerator -----------------------------------------------------------------------------------------------


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
