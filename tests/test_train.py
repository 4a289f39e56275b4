"""Training: every step by hand or twice, every way to stop it, and every file that it must not go on from."""

import copy
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_run import flat

from ddpm_helpers import files, train, viz, watch
from ddpm_helpers.files import CheckpointError, read, write
from ddpm_helpers.losses import ddpm_loss, step_weight
from ddpm_helpers.machine import fast_dtype
from ddpm_helpers.nets import SimpleUNet, UNet
from ddpm_helpers.sampling import image_noise
from ddpm_helpers.schedule import cosine_schedule, linear_schedule
from ddpm_helpers.train import TrainConfig, Trainer, TrainingError

T = 20
ROOT = Path(__file__).parents[1]
IMAGES = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SMALL = {"base": 8, "multipliers": (1,), "attention": 0}


def make(steps=10, *, start=0, net=None, schedule=None, images=IMAGES, **options) -> Trainer:
    """A Trainer whose network starts from seed `start`; `net` is one, or makes one; options of either kind."""
    torch.manual_seed(start)
    if not isinstance(net, torch.nn.Module):
        net = net() if net else UNet(**SMALL)
    own = {name: options.pop(name) for name in ("device", "objective", "labels") if name in options}
    config = TrainConfig(**{"steps": steps, "batch_size": 4, "warmup": 3, **options})
    return Trainer(net, schedule or cosine_schedule(T), images, config, **{"device": "cpu", **own})


def steps(trainer: Trainer, count: int) -> Trainer:
    for _, _loss in zip(range(count), trainer.run(), strict=False):
        pass
    return trainer


def everything(trainer: Trainer) -> dict[str, bytes]:
    """All of its state, to the bit."""
    return flat(trainer._state())


def differing(a: dict, b: dict) -> list[str]:
    return [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]


def at_step(trainer: Trainer, step: int, work) -> Trainer:
    """Do `work(output)` in the middle of this step; what it returns, if anything, is the network's answer."""
    trainer.model.register_forward_hook(lambda _m, _a, out: work(out) if trainer.step == step - 1 else None)
    return trainer


def ctrl_c(*_) -> None:
    signal.raise_signal(signal.SIGINT)


def nan(out):
    return out * float("nan")


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


@pytest.mark.parametrize("share", [0.0, 0.5, True])
def test_weighted_timestep_sampling(share):
    trainer, weight, drawn = make(batch_size=10, weighted=share), step_weight(cosine_schedule(T)), []
    for trainer.step in range(100):
        drawn.append(trainer._batch()[1])
    expected = (1 - share) / T + share * weight / weight.sum()
    counts = torch.cat(drawn).bincount(minlength=T + 1)[1:]
    torch.testing.assert_close(counts / 1000, expected, rtol=0, atol=0.02)


def test_learning_rate():
    config = TrainConfig(steps=1000, learning_rate=0.5, warmup=100)
    expected = np.interp(range(1000), [-1, 99, 750, 1000], [0, 0.5, 0.5, 0])  # step 99 ends the warm-up
    assert [config.learning_rate_at(step) for step in range(1000)] == pytest.approx(expected)
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
    assert torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.01) > 0.01, "there is something to clip"
    before = [p.detach().clone() for p in by_hand.parameters()]
    optimizer.step()
    assert next(trainer.run()).item() == pytest.approx(loss.item())
    for ours, theirs, average, old in zip(
        trainer.model.parameters(), by_hand.parameters(), trainer.ema.parameters(), before, strict=True
    ):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(ours.grad, theirs.grad, msg="AdamW hides the length of a single gradient")
        torch.testing.assert_close(average, 0.1 * old + 0.9 * theirs, msg="the first average keeps a tenth")
        assert not average.requires_grad
    assert (trainer.model.training, trainer.ema.training) == (True, False)


def test_the_average_of_later_steps_has_the_decay_of_the_configuration():
    trainer = make(ema_decay=0.2)  # from step 2 on the smaller one
    before = copy.deepcopy(steps(trainer, 3).ema)
    next(trainer.run())
    for old, value, average in zip(*(net.parameters() for net in (before, trainer.model, trainer.ema)), strict=True):
        torch.testing.assert_close(average, 0.2 * old + 0.8 * value)


def test_every_step_draws_anew_and_each_seed_its_own():
    trainer = make()
    drawn = [make(seed=1)._batch()[:3]]
    for trainer.step in range(4):
        drawn.append(trainer._batch()[:3])
    for images, t, noise in drawn:
        assert -1 <= images.min() < images.max() <= 1
        assert t.shape == (4,)
        assert noise.std().item() == pytest.approx(1, abs=0.15)
    for one, another in combinations(drawn, 2):
        assert not any(torch.equal(a, b) for a, b in zip(one, another, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(trainer._batch()[:3], drawn[-1], strict=True))


def test_training_and_sampling_draw_from_streams_of_their_own():
    """On a CPU a generator has 2**32 seeds; each stream has a stretch of them that no other one reaches into."""
    purposes = ("order", "steps", "noise", "coins", "dropout of process 0", "dropout of process 1")
    for seed in range(20):
        trainer = types.SimpleNamespace(config=TrainConfig(10, seed=seed))
        begins = [Trainer._seed(trainer, purpose, 0) for purpose in purposes]
        for one, other in pairwise(sorted([*begins, seed * 1_000_003])):  # the last is where sampling begins
            assert other - one > 200_000
    starts, trainer = image_noise(0, range(50), IMAGES.shape[1:])().flatten(1), make(batch_size=10)
    for trainer.step in range(50):
        noise = trainer._batch()[2].flatten()
        assert not any(torch.isin(start[:4], noise).any() for start in starts), "not even shifted"


def test_flips_mirror_half_of_the_images_and_nothing_else():
    trainers, thrown = [make(batch_size=200, flip=flip) for flip in (False, True)], []
    for step in range(2):
        for trainer in trainers:
            trainer.step = step
        plain, flipped = (trainer._batch() for trainer in trainers)
        mirrored = (flipped[0] == plain[0].flip(-1)).all((1, 2, 3))
        assert torch.equal(torch.where(mirrored[:, None, None, None], plain[0].flip(-1), plain[0]), flipped[0])
        assert 60 < mirrored.sum() < 140
        assert all(torch.equal(a, b) for a, b in zip(plain[1:3], flipped[1:3], strict=True))
        thrown.append(mirrored)
    assert not torch.equal(*thrown), "each step throws its own coins"


def test_shares_make_up_the_batch(monkeypatch):
    whole, shares = make(batch_size=12, flip=True)._batch()[:3], []
    for rank in range(3):
        trainer = make(batch_size=12, flip=True)
        trainer.rank, trainer.world = rank, 3
        shares.append(trainer._batch()[:3])
    for part, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert torch.equal(torch.stack(parts, 1).flatten(0, 1), part)
    for name, value in {"is_initialized": True, "get_rank": 1, "get_world_size": 3}.items():
        monkeypatch.setattr(train.dist, name, lambda value=value: value)
    with pytest.raises(ValueError, match="batch_size 4 cannot be shared out evenly among 3 processes"):
        make()


# ---- the same again --------------------------------------------------------------------------------------------------


def test_run_yields_after_complete_steps_learns_and_goes_on():
    images = torch.full((8, 1, 8, 8), 200, dtype=torch.uint8)
    trainer, losses = make(60, images=images, learning_rate=1e-2), []
    for part in (3, 60):
        for loss in trainer.run():
            losses.append(loss.item())
            assert trainer.step == len(losses)
            assert trainer.losses.tolist() == losses
            assert (loss.shape, loss.requires_grad) == ((), False)
            if len(losses) == part:
                break
    assert list(trainer.run()) == [], "nothing is left to do"
    assert sum(losses[-10:]) / 10 < 0.5 * losses[0]


LABELLED = {"net": lambda: UNet(**SMALL, classes=3), "labels": torch.arange(10) % 3}


@pytest.mark.parametrize(
    "options",
    [
        {"net": lambda: UNet(**SMALL, dropout=0.3)},
        {"net": lambda: SimpleUNet(T, base=8)},
        {**LABELLED, "flip": True, "weighted": 0.5},
    ],
    ids=["dropout", "SimpleUNet", "labels"],
)
def test_five_and_resume_and_five_are_ten(path, options):
    whole = everything(steps(make(**options), 10))
    steps(make(**options), 5).save(path)
    trainer = make(start=77, **options)  # as in a new process: other weights, other random numbers
    torch.rand(5)
    for step in (5, 8):  # the second time it goes back
        trainer.resume(path)
        assert trainer.step == len(trainer.losses) == 5
        steps(trainer, step - 5)
    torch.rand(3)  # what another cell of a notebook may do in between
    assert differing(everything(steps(trainer, 2)), whole) == []
    other = everything(steps(make(**options, seed=1), 10))
    assert len([name for name in differing(other, whole) if ".model." in name]) > 10, "another seed is another run"


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


@pytest.mark.parametrize(
    ("stands_at", "holds", "total", "says"),
    [
        (0, 0, 10, None),
        (0, 5, 10, "{path} holds step 5 of 10, going on from there."),
        (0, 10, 10, "{path} holds step 10 of 10: nothing is left to do."),
        (0, 5, 12, "{path} holds step 5 of 12, going on from there."),
        (2, 5, 10, "{path} holds step 5 of 10, going on from there."),
        (8, 5, 10, "This Trainer stands at step 8 of 10, going on from there."),
        (10, 5, 10, "This Trainer stands at step 10 of 10: nothing is left to do."),
        (10, 0, 10, "This Trainer stands at step 10 of 10: nothing is left to do."),
    ],
)
def test_fit_goes_on_from_what_stands_further(path, ten, capsys, stands_at, holds, total, says):
    if holds:
        steps(make(), holds).save(path)
    trainer = steps(make(total, start=0 if stands_at or not holds else 77), stands_at)
    before = path.stat() if holds else None
    assert trainer.fit(path) is trainer.ema
    first, *lines = capsys.readouterr().out.splitlines()
    if says:
        assert first == says.format(path=path)
    if max(stands_at, holds) < total:
        ends = rf"step {total} of {total}   loss \d\.\d{{4}}   [\d,]+ images/s   0\.0 min left"
        assert re.fullmatch(ends, lines[-1])
    if holds == total:
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "not written again"
    assert trainer.step == len(trainer.losses) == total
    assert differing(flat(read(path)), everything(trainer)) == []
    if total == 10:
        assert differing(everything(trainer), ten) == []


@pytest.mark.parametrize(("cut", "seed", "says"), [(0, 5, "another run: its seed is 0, and 5 here"), (9, 0, "damaged")])
@pytest.mark.parametrize("done", [0, 2, 9])
def test_fit_never_writes_over_another_run_or_a_damaged_file(five, cut, seed, says, done):
    five.write_bytes(before := five.read_bytes()[: -cut or None])
    with pytest.raises(CheckpointError, match=says):
        steps(make(seed=seed), done).fit(five)
    assert five.read_bytes() == before


@pytest.mark.parametrize(("seconds", "expected"), [(4, [4, 8, 10]), (0, [*range(1, 11)])])
def test_saves_now_and_then(path, monkeypatch, seconds, expected):
    trainer, saved, clock = make(), [], [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: clock[0])
    trainer.model.register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 1))  # a step takes a second
    monkeypatch.setattr(train, "write", lambda path, kind, state: saved.append(state["step"]))
    trainer.fit(path, seconds_between_saves=seconds)
    assert saved == expected


def test_one_run_at_a_time(five):
    before, refused = five.read_bytes(), []

    def second(*_):
        with pytest.raises(CheckpointError, match=r"a\.safetensors: another run is writing to this file; stop it, or"):
            other.fit(five)
        refused.append((other.step, five.read_bytes() == before))

    trainer, other = make(start=77), make()
    trainer.model.register_forward_hook(second)
    trainer.fit(five)
    assert refused == 5 * [(0, True)]
    other.fit(five)  # the lock is free again


def test_left_overs_of_killed_runs_are_removed(tmp_path):
    path = tmp_path / "a[1].safetensors"
    for name in (".a[1].safetensors.123.tmp", ".a1.safetensors.123.tmp", ".b.safetensors.123.tmp"):
        (tmp_path / name).write_bytes(b"half a file")
    make(1).fit(path)
    assert sorted(p.name for p in tmp_path.glob("*.tmp")) == [".a1.safetensors.123.tmp", ".b.safetensors.123.tmp"]


def test_fit_in_a_thread(path):
    with ThreadPoolExecutor() as pool:
        pool.submit(make().fit, path).result()
    assert read(path)["step"] == 10


@pytest.fixture
def notebook(monkeypatch):
    """What IPython looks like from within a notebook; the pictures shown."""
    ipython = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=None))
    monkeypatch.setattr(watch, "sys", types.SimpleNamespace(modules={"IPython": ipython}, stdout=sys.stdout))
    shown = []
    handle = types.SimpleNamespace(update=shown.append)
    monkeypatch.setattr(viz, "display", lambda picture, **_: shown.append(picture) or handle)
    return shown


def test_fit_in_a_notebook(five, notebook, capsys):
    with pytest.raises(KeyboardInterrupt):
        at_step(make(), 8, ctrl_c).fit(five)
    out = capsys.readouterr().out
    assert "8/10" in out
    assert f"\nStopped after step 8 of 10; {five} holds all of it." in out, "not behind the bar, which is closed"
    make().fit(five)
    assert re.search(r"8/10.*10/10", capsys.readouterr().out, flags=re.S), "the bar goes on where the run does"
    assert notebook[-1].metadata["alt"].startswith("Curve of loss over 10 steps")
    assert notebook[-1].metadata["alt"].endswith("samples of the model")


@pytest.mark.parametrize(
    ("channels", "display", "says"),
    [
        (2, lambda *_, **__: types.SimpleNamespace(update=lambda _: 1 / 0), "not shown"),
        (4, lambda *_, **__: types.SimpleNamespace(update=lambda _: 1 / 0), "not shown"),
        (4, lambda *_, **__: 1 / 0, "The live picture failed (ZeroDivisionError"),
    ],
)
def test_a_picture_that_cannot_be_drawn_ends_no_run(path, notebook, monkeypatch, capsys, channels, display, says):
    monkeypatch.setattr(viz, "display", display)
    images = IMAGES.expand(-1, channels, -1, -1).contiguous()
    make(images=images, net=lambda: UNet(**SMALL, channels=channels)).fit(path)
    out = capsys.readouterr().out
    assert out.count(says) == 1
    assert ("step 10 of 10   loss" in out) == ("failed" in says), "lines stand in for it"
    assert read(path)["step"] == 10


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


@pytest.mark.parametrize(("step", "saved"), [(1, True), (4, True), (10, True), (4, False)])
def test_ctrl_c_ends_the_step_and_saves(path, ten, capsys, step, saved):
    before, trainer = signal.getsignal(signal.SIGINT), at_step(make(), step, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(path if saved else None)
    assert signal.getsignal(signal.SIGINT) is before
    holds = f"; {path} holds all of it" if saved else ""
    told = f"Stopped after step {step} of 10{holds}. Run the same again to go on."
    assert told in capsys.readouterr().out.splitlines()
    assert not saved or read(path)["step"] == step
    again = make(start=77) if saved else trainer  # a new process, or the same cell again
    again.fit(path if saved else None)
    assert differing(everything(again), ten) == []


@pytest.mark.parametrize("step", [3, 10])
def test_ctrl_c_while_saving(path, ten, monkeypatch, step):
    """The save is finished; it is not forgotten, even where nothing is left to do."""

    def interrupted(path, kind, state):
        if state["step"] == step:
            ctrl_c()
        write(path, kind, state)

    monkeypatch.setattr(train, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make().fit(path, seconds_between_saves=0)
    assert read(path)["step"] == min(step + 1, 10)
    make(start=77).fit(path)
    assert differing(flat(read(path)), ten) == []


def test_a_second_ctrl_c_stops_at_once(five, ten):
    trainer = at_step(make(), 8, lambda _: ctrl_c() or ctrl_c())
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(five)
    assert trainer.step == 7
    for attempt in (lambda: trainer.save(five), lambda: next(trainer.run()), trainer.fit):
        with pytest.raises(TrainingError, match="after step 7 the next one stopped half-way"):
            attempt()
    trainer.model._forward_hooks.clear()
    trainer.fit(five)  # the same cell again goes back to the file
    assert differing(everything(trainer), ten) == []


def test_an_ignored_ctrl_c_stays_ignored(path):
    """As in a job that a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        at_step(make(), 4, ctrl_c).fit(path)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert read(path)["step"] == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_killed_at_twenty_moments(tmp_path):
    script = [sys.executable, str(ROOT / "tests" / "killed_run.py"), str(tmp_path), "20"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "20 kills" in done.stdout


# ---- files that do not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"net": lambda: UNet(**SMALL | {"base": 16})}, r"another network: 'time.0.weight' is \[64, 16\] here"),
        ({"net": lambda: SimpleUNet(T)}, "another network: 'down.weight' is .* here and nothing in the file"),
        ({"net": lambda: UNet(**SMALL).double()}, r"is torch.float64 \[32, 8\] here and \[32, 8\]"),
        ({"schedule": linear_schedule(T, rescale=False)}, "its schedule is 20, checksum .*, and 20, checksum .* here"),
        ({"images": IMAGES[:9]}, r"its images are 10 x 1 x 8 x 8, .*, and 9 x 1 x 8 x 8, .*JPEG.*other_images=True\)"),
        ({"images": IMAGES.mT.contiguous()}, "its images are 10 x 1 x 8 x 8, .*, and 10 x 1 x 8 x 8"),
        (LABELLED, "its labels are None, and 10, checksum"),
        ({"seed": 3}, "its seed is 0, and 3 here"),
        ({"seed": 1, "learning_rate": 1e-4}, "its seed is 0, and 1 here"),
        *(({name: 0.5}, f"its {name} is .*, and 0.5 here") for name in ("weighted", "ema_decay", "label_dropout")),
        ({"steps": 4}, "it has 5 steps behind it, more than the 4 asked for"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_files_of_other_runs(five, other, says):
    trainer = make(start=77, **other)
    before = everything(trainer)
    with pytest.raises(CheckpointError, match=rf"a\.safetensors belongs to another run: .*{says}.*another file"):
        trainer.resume(five)
    assert differing(everything(trainer), before) == []


def test_the_way_round_starts_a_new_file_from_the_old_weights(five):
    """As the message advises, by its very words."""
    with pytest.raises(CheckpointError) as caught:
        make(seed=3).fit(five)
    net = UNet(**SMALL)
    exec(re.search(r"by (net\.load.*?) before", str(caught.value))[1], {"net": net, "files": files})
    trainer = make(net=net, seed=3)
    assert differing(flat(trainer.ema.state_dict()), flat(read(five)["ema"])) == []
    trainer.fit(five.with_name("b.safetensors"))


A_LITTLE_OTHER = torch.cat([IMAGES[:1] ^ 1, IMAGES[1:]])


@pytest.mark.parametrize(
    ("other", "options", "says"),
    [
        ({"learning_rate": 1e-4, "batch_size": 2}, {}, ["learning_rate 0.0001; before, it was 0.002", "batch_size 2;"]),
        ({"warmup": 1, "clip_norm": 0.5}, {}, ["warmup 1; before, it was 3.", "clip_norm 0.5; before, it was 1.0."]),
        ({"images": A_LITTLE_OTHER}, {"other_images": True}, ["images 10 x 1 x 8 x 8, checksum"]),
    ],
    ids=["NaN, memory", "pace", "images"],
)
def test_what_may_change_is_said(five, capsys, other, options, says):
    """What the messages about NaN, memory and images advise, the next start accepts."""
    trainer = make(**other)
    trainer.fit(five, **options)
    said = capsys.readouterr().out
    assert all(f"After step 5 with {text}" in said for text in says)
    assert differing(flat(read(five)), everything(trainer)) == []


def garbled(good: dict):
    """Training states that no Trainer wrote."""
    for name in ("seed", "schedule", "images", "model", "ema", "optimizer", "step", "losses"):
        yield {key: value for key, value in good.items() if key != name}
    for name in ("model", "ema", "optimizer", "step", "losses"):
        yield from ({**good, name: value} for value in ("text", 7, None, {}))
    yield from ({**good, "step": value} for value in (5.0, torch.tensor(5), -5, 10**12, True))
    yield from ({**good, "losses": value} for value in (torch.zeros(5, 2), torch.zeros(4), {"a": torch.zeros(5)}))
    for group, name in (("model", ""), ("ema", ""), ("optimizer", ".step"), ("optimizer", ".exp_avg")):
        others = {key: value for key, value in good[group].items() if key != f"time.0.weight{name}"}
        yield {**good, group: others}
        for value in (torch.zeros(32, 8, dtype=torch.int64), torch.zeros(8, 32)):
            yield {**good, group: {**others, f"time.0.weight{name}": value}}
        yield {**good, group: {**good[group], "more": torch.zeros(3)}}


def test_garbled_files_change_nothing(five):
    """Under right checksums."""
    trainer, good = steps(make(start=77), 3), read(five)
    before = everything(trainer)
    for number, state in enumerate(garbled(good)):
        write(five, "training state", state)
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            (trainer.resume if number % 4 else trainer.fit)(five)
        assert differing(everything(trainer), before) == [], number


# ---- what goes wrong on the way --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 10])
def test_nan_loss(five, step):
    if step == 1:
        five.unlink()
    before, trainer = five.read_bytes() if step > 1 else None, at_step(make(), step, nan)
    says = rf"^the loss of step {step} is nan: training stops, and a file saved before stays as it is. Try a smaller"
    with pytest.raises(TrainingError, match=says):
        trainer.fit(five)
    for attempt in (lambda: trainer.save(five), lambda: next(trainer.run()), trainer.fit):
        with pytest.raises(TrainingError):
            attempt()
    assert (five.read_bytes() if five.exists() else None) == before
    mended = make(learning_rate=1e-3, warmup=5)  # as the message advises
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


MEMORY = "^step 7 does not fit into the memory of cpu: try smaller batches than of 4: a file saved before accepts it"
DISK = r"cannot be written .*No space left.* an older file there is as it"


@pytest.mark.parametrize(
    ("where", "error", "raised", "says"),
    [
        ("step", torch.cuda.OutOfMemoryError("CUDA: nothing left"), TrainingError, MEMORY),
        ("step", RuntimeError("[x.cpp:118] DefaultCPUAllocator: can't allocate memory: you"), TrainingError, MEMORY),
        ("step", RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), TrainingError, MEMORY),
        ("step", RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory"), TrainingError, MEMORY),
        ("step", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), TrainingError, MEMORY),
        ("step", MemoryError(), TrainingError, MEMORY),
        ("step", ZeroDivisionError("not renamed"), ZeroDivisionError, "^not renamed$"),
        ("step", RuntimeError("nor is this"), RuntimeError, "^nor is this$"),
        ("save", OSError(28, "No space left on device"), CheckpointError, DISK),
    ],
    ids=lambda value: str(value)[-20:],
)
def test_no_memory_no_disk_and_other_errors(five, ten, monkeypatch, where, error, raised, says):
    """Each is named, the file stays as it was, and when there is room again the same trainer ends as ever."""

    def fail(*_):
        raise error

    before, trainer = five.read_bytes(), make()
    with monkeypatch.context() as patch:
        if where == "save":
            patch.setattr(os, "fsync", fail)
        else:
            at_step(trainer, 7, fail)
        with pytest.raises(raised, match=says) as caught:
            trainer.fit(five, seconds_between_saves=0 if where == "save" else 60)
    assert error in (caught.value, caught.value.__cause__)
    assert five.read_bytes() == before
    assert not list(five.parent.glob("*.tmp"))
    trainer.model._forward_hooks.clear()
    trainer.fit(five)
    assert differing(everything(trainer), ten) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("file/a.safetensors", r"cannot be written .* name another place"),
        ("a.pt", r"a\.pt: the name must end in .safetensors.*docs/CHANGELOG.md"),
        ("mnist.safetensors", r"holds weights, and no training state: load_pretrained"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_told_before_training(tmp_path, name, says):
    (tmp_path / "file").touch()
    shutil.copy(files.WEIGHTS / "mnist.safetensors", tmp_path)
    trainer = make()
    with pytest.raises(CheckpointError, match=says):
        trainer.fit(tmp_path / name)
    with pytest.raises(CheckpointError, match="there is no such file"):
        trainer.resume(tmp_path / "b.safetensors")
    assert trainer.step == 0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        *(("steps", value, "be a whole number, at least 1") for value in (0, 2.5)),
        ("batch_size", 0, "be a whole number, at least 1"),
        *((name, -1, "be a whole number, at least 0") for name in ("warmup", "seed")),
        ("seed", 0.5, "be a whole number, at least 0"),
        *(("learning_rate", value, "be above 0") for value in (0, float("nan"))),
        ("clip_norm", -1, "be above 0"),
        *((name, 1, r"lie in \[0, 1\)") for name in ("ema_decay", "label_dropout")),
        *(("weighted", value, r"lie in \[0, 1\]") for value in (-0.1, 1.1)),
    ],
)
def test_bad_configuration(name, value, says):
    with pytest.raises(ValueError, match=f"^TrainConfig: {name} must {says}, got {value}$"):
        TrainConfig(**{"steps": 10, name: value})


def test_numbers_of_numpy_become_plain_ones(path):
    config = {"batch_size": 2, "learning_rate": np.float64(1e-3), "flip": np.bool_(False)}
    for _ in range(2):  # the second time goes on from the file
        trainer = make(np.int64(2), **config)
        trainer.fit(path)
    config = trainer.config
    assert [type(value) for value in (config.steps, config.learning_rate, config.flip)] == [int, float, bool]
    next(make(seed=10**30).run())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"images": IMAGES.float()}, r"Trainer: .*got torch.float32 \(10, 1, 8, 8\); see load_images"),
        ({"images": IMAGES[0]}, r"Trainer: .*got torch.uint8 \(1, 8, 8\); see load_images"),
        ({"images": IMAGES[:0]}, r"Trainer: .*got torch.uint8 \(0, 1, 8, 8\); see load_images"),
        ({"images": IMAGES.numpy()}, "Trainer: .*got ndarray; see load_images"),
        ({"objective": partial(ddpm_loss)}, "Trainer: objective must be a function made with def"),
        ({"objective": lambda *all: ddpm_loss(*all)}, "Trainer: objective must be a function made with def"),
    ],
)
def test_bad_arguments_of_a_trainer(wrong, says):
    with pytest.raises(TypeError, match=says):
        make(**wrong)


# ---- on an accelerator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_on_an_accelerator(path, device):
    if not getattr(torch, device).is_available() if device == "cuda" else not torch.backends.mps.is_available():
        pytest.skip(f"no {device} here")
    trainer = make(device=device, net=lambda: UNet(**SMALL, dropout=0.1))
    assert all(0 < loss.item() < 5 for loss in trainer.run())
    assert {p.device.type for p in trainer.ema.parameters()} == {device}
    steps(make(device=device), 5).save(path)
    other, on_cpu = make(device=device, start=77), make(start=77)
    for there in (other, on_cpu):  # a file of an accelerator can be gone on from without it
        there.resume(path)
        assert there.step == 5
    torch.testing.assert_close(steps(other, 5).losses, steps(make(device=device), 10).losses, rtol=1e-3, atol=1e-3)
    with pytest.raises(TrainingError, match="the loss of step 3 is nan"):
        at_step(make(3, device=device), 3, nan).fit()
