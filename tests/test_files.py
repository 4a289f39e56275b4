"""Files of training states and weights: what is written comes back, all else is refused by name, nothing is lost."""

import errno
import json
import os
import random
import re
import struct
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from killed_run import Full, flat
from read_only import ROOT, run_read_only

from ddpm_helpers import (
    CheckpointError,
    SimpleUNet,
    TrainConfig,
    Trainer,
    UNet,
    VelocityNet,
    cosine_schedule,
    files,
    linear_schedule,
    load_feature_net,
    load_pretrained,
)
from ddpm_helpers.files import WEIGHTS, difference, read, write
from ddpm_helpers.pretrained import save_pretrained

T = 20
STATE = {"step": 3, "weights": {"a": torch.arange(5000.0), "b/c": torch.tensor([1, 2])}, "name": "é", "list": [1, 2.5]}
DAMAGED = "damaged, truncated, or not a file of this course .*; delete or move it to start anew"


def save(path: Path, state: dict = STATE) -> None:
    write(path, "training state", state)


@pytest.fixture
def path(tmp_path):
    """A good file."""
    save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


# ---- any file -------------------------------------------------------------------------------------------------------


def test_what_is_written_comes_back(tmp_path, monkeypatch):
    path = tmp_path / "new" / "folder" / "a.safetensors"
    save(path)
    assert flat(read(str(path))) == flat(STATE)
    for state in ({"step": 4, "nothing": {}, "plain": {"x": [None, True, "a\nb", 2**70, 0.1]}}, every_tensor()):
        save(path, state)
        assert flat(read(path)) == flat(state)
    assert os.listdir(path.parent) == ["a.safetensors"], "nothing else is left"
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    save("~/модель.safetensors")
    assert flat(read(tmp_path / "модель.safetensors")) == flat(STATE)


def every_tensor() -> dict:
    """Each type of number, views, one tensor twice, and another memory layout."""
    kinds = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    tensors = {kind: (torch.arange(6) % 2).to(getattr(torch, kind)).reshape(2, 3) for kind in kinds}
    base = torch.arange(24.0).reshape(2, 3, 4)
    views = {"turned": base.permute(2, 0, 1), "part": base[1, :, 2], "one": base[0, 0, 0], "none": base[:0]}
    net = torch.nn.Conv2d(2, 3, 1).to(memory_format=torch.channels_last)
    return {**tensors, **views, "twice": {"a": base, "b": base}, "net": net.state_dict()}


@pytest.mark.parametrize("value", [Path("a"), [1, (2, {"x": torch.zeros(2)})], {(1, 2): 1}], ids=repr)
def test_what_could_not_be_read_again_is_not_written(tmp_path, value):
    with pytest.raises(TypeError):
        save(tmp_path / "a.safetensors", {"x": value})
    assert list(tmp_path.iterdir()) == []


def test_every_damaged_file_is_refused(path):
    """Cut anywhere, or a bit turned anywhere; `soak/fuzz.py` has more ways."""
    whole, chance = path.read_bytes(), random.Random(0)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    contents = [whole[:place] for place in (*range(70), *(chance.randrange(len(whole)) for _ in range(60)))]
    for place in [*range(header), *(chance.randrange(len(whole)) for _ in range(300))]:
        turned = bytes([whole[place] ^ 1 << chance.randrange(8)])
        contents.append(whole[:place] + turned + whole[place + 1 :])
    for notes in (None, {"made by": "another"}, {"ddpm_helpers": "[]"}, {"ddpm_helpers": '{"a":' * 100_000}):
        contents.append(safetensors.torch.save({"a": torch.zeros(3)}, notes))
    for content in [*contents, whole + b"x", b"a text\n" * 100, b"\xff" * 100, b"PK\x03\x04" + 99 * b"garbage"]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: ({DAMAGED}|format .*)"):
            read(path)


@pytest.mark.parametrize(
    ("format", "says"),
    [(4, "format 4, and this version .* reads 3; update ddpm_helpers"), (2, "docs/CHANGELOG.md"), ("x", "update")],
)
def test_files_of_other_versions(path, monkeypatch, format, says):
    with monkeypatch.context() as patch:
        patch.setattr(files, "FORMAT", format)
        save(path)
    with pytest.raises(CheckpointError, match=says):
        read(path)


@pytest.mark.parametrize("reader", [read, load_pretrained, save])
def test_names(tmp_path, reader):
    with pytest.raises(CheckpointError, match=r"mnist\.pt: .*end in .safetensors.*training state.*CHANGELOG"):
        reader("runs/mnist.pt")
    for name in ("a", "x" * 300, "a\0b") if reader != save else ():
        with pytest.raises(CheckpointError, match=r"no such file|damaged"):
            reader(tmp_path / f"{name}.safetensors")


def test_the_changelog_turns_old_files_into_new_ones(tmp_path, monkeypatch):
    """Its code, run on a file as older versions wrote them: a run goes on, and weights can be loaded."""
    monkeypatch.chdir(tmp_path)
    images = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8)
    net = lambda: UNet(base=8, multipliers=(1, 2), attention=0)  # noqa: E731
    make = lambda steps=4: Trainer(net(), cosine_schedule(T), images, TrainConfig(steps, 4), "cpu")  # noqa: E731
    run = make(2)
    list(run.run())
    old = {name: {key.replace("shortcut", "wire"): value for key, value in part.state_dict().items()}
           for name, part in (("model", run.model), ("ema", run.ema))}  # fmt: skip
    Path("runs").mkdir()
    torch.save({**old, "optimizer": run.optimizer.state_dict(), "step": 2, "losses": run.losses}, "runs/mine.pt")
    text = (ROOT / "docs" / "CHANGELOG.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", text[text.index("## Files") :], flags=re.S)[:2]
    trainer = make()
    exec(first, {"trainer": trainer})
    again = make()
    again.resume("runs/mine.safetensors")
    assert again.step == 2
    assert flat(again._tensors()) == flat(run._tensors())
    again.fit("runs/mine.safetensors")
    arguments = {"base": 8, "multipliers": [1, 2], "attention": 0}
    about = {"net": "UNet", "arguments": arguments, "schedule": "cosine", "T": T}
    halves = {name: value.half() for name, value in old["ema"].items()}
    notes = {"ddpm_helpers": json.dumps({"format": 2, **about, "recipe": {"steps": 2}})}
    safetensors.torch.save_file(halves, "weights.safetensors", notes)
    with pytest.raises(CheckpointError, match=r"format 2, .*docs/CHANGELOG.md"):
        load_pretrained("weights.safetensors")
    exec(second, {})
    assert load_pretrained("weights.safetensors").recipe == {"steps": 2}


# ---- writing --------------------------------------------------------------------------------------------------------


NO_SPACE, STOPPED = OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()


@pytest.mark.parametrize("error", [NO_SPACE, STOPPED], ids=repr)
@pytest.mark.parametrize("moment", [0, 1, 10_000, "fsync", "replace"])
def test_disk_full_or_stopped_while_saving(path, monkeypatch, moment, error):
    def fail(*_):
        raise error

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        if isinstance(moment, int):  # after so many bytes
            patch.setattr(files, "open", lambda path, mode: Full(path, mode, moment, fail), raising=False)
        else:
            patch.setattr(os, moment, fail)
        with pytest.raises(KeyboardInterrupt if error is STOPPED else CheckpointError) as caught:
            save(path)
    says = r"cannot be written \(.+space.+\); an older file there is as it was"
    assert error is STOPPED or re.search(says, str(caught.value))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.safetensors"]


def test_places_that_cannot_be_written_to(path):
    (path.parent / "folder.safetensors").mkdir()
    for place in (path / "b.safetensors", path.parent / "folder.safetensors"):  # a.safetensors is no folder
        with pytest.raises(CheckpointError, match=r"cannot be written .* name another place"):
            save(place)
    assert sorted(os.listdir(path.parent)) == ["a.safetensors", "folder.safetensors"]


def test_read_only_folder(path):
    code = f"from ddpm_helpers.files import write; write({str(path)!r}, 'training state', {{}})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", code]
    done = run_read_only(path.parent, line, path.parent, env=environment, capture_output=True, text=True)
    assert re.search(r"CheckpointError: .*cannot be written .*(Permission denied|Read-only)", done.stderr), done.stderr
    assert flat(read(path)) == flat(STATE)
    assert os.listdir(path.parent) == ["a.safetensors"]


def test_difference():
    """`test_train` has the other words."""
    tensors = {"x": torch.zeros(2, 3), "y": torch.zeros(())}
    assert difference(tensors, tensors) is None
    assert difference({"x": tensors["x"]}, tensors) == "'y' is nothing here and [] in the file"


# ---- weights --------------------------------------------------------------------------------------------------------

ARGUMENTS = {"base": 8, "multipliers": [1, 2], "classes": 3, "patch": 2}
RECIPE = {"data": "MNIST, training images", "steps": 5, "loss": 0.1, "date": "2025-01-31"}


def unet() -> UNet:
    """One that has no zeros."""
    torch.manual_seed(0)
    net = UNet(**ARGUMENTS)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.01 * torch.randn_like(p))
    return net


@pytest.mark.parametrize(
    ("net", "arguments", "schedule", "beta"),
    [
        (unet(), ARGUMENTS, "linear", linear_schedule(30).beta),
        (SimpleUNet(T, base=8), {"T": T, "base": 8}, "cosine", cosine_schedule(30).beta),
    ],
    ids=["UNet", "SimpleUNet"],
)
def test_pretrained_and_back(tmp_path, net, arguments, schedule, beta):
    path, before = tmp_path / "new" / "a.safetensors", torch.get_rng_state()
    save_pretrained(path, net.train(), arguments, schedule, 30, RECIPE)
    back = load_pretrained(path)
    assert torch.equal(torch.get_rng_state(), before), "no random numbers are drawn"
    assert (type(back.model), back.model.training, back.recipe) == (type(net), False, RECIPE)
    assert torch.equal(back.schedule.beta, beta)
    halves = {name: value.half().float() for name, value in net.state_dict().items()}
    assert flat(back.model.state_dict()) == flat(halves)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, T])
    label = {"label": torch.tensor([0, 3])} if "classes" in arguments else {}
    torch.testing.assert_close(back.model(x, t, **label), net.eval()(x, t, **label), rtol=0.01, atol=0.01)
    assert path.stat().st_size < 2 * sum(p.numel() for p in net.parameters()) + 30_000, "half precision"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"net": torch.nn.Linear(2, 2), "arguments": {}}, r"its net is one of SimpleUNet.*got 'Linear'"),
        ({"schedule": "cubic"}, r"its schedule is one of linear, cosine; got 'cubic'"),
        (
            {"arguments": {**ARGUMENTS, "classes": 10}},
            r"do not make this UNet: 'label.weight' is \[11, 32\] here and \[4",
        ),
        *(({"T": steps}, "nobody could load this again") for steps in (0, 2.0, 200_000)),
        *(({"recipe": recipe}, "nobody could load this again") for recipe in (None, {"loss": torch.tensor(1.0)})),
        ({"net": VelocityNet(unet(), linear_schedule(T, rescale=False))}, "another schedule than 'cosine', T = 20"),
        ({"large": 1e6}, r"stem\.1\.bias holds NaN, or numbers too large for half precision"),
    ],
    ids=lambda wrong: next(iter(wrong)) if isinstance(wrong, dict) else "",
)
def test_save_pretrained_refuses_what_cannot_be_loaded(tmp_path, wrong, says):
    good = {"net": unet(), "arguments": ARGUMENTS, "schedule": "cosine", "T": T, "recipe": {}, "large": 0}
    net, arguments, schedule, steps, recipe, large = {**good, **wrong}.values()
    if large:
        torch.nn.init.constant_(net.stem[1].bias, large)
    with pytest.raises(ValueError, match=says):
        save_pretrained(tmp_path / "a.safetensors", net, arguments, schedule, steps, recipe)
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_of_other_files(path):
    for name, says in {
        "mnits": r"there is no such file; the shipped weights are cifar10, fashion",
        path.with_name("b.safetensors"): r"there is no such file; the shipped weights are cifar10, fashion",
        path: r"holds a training state, and not a network's weights.*\['ema'\]",
        "mnist_features": "load_feature_net",
    }.items():
        with pytest.raises(CheckpointError, match=says):
            load_pretrained(name)


@pytest.mark.parametrize(
    "change",
    [
        *({"net": net} for net in ("BigNet", ["UNet"], None)),
        {"net": "SimpleUNet", "arguments": {"T": T}},
        *({"arguments": arguments} for arguments in ({"colours": 3}, [1], {"base": "wide"}, {"patch": 0})),
        {"arguments": {"base": 10**6, "patch": 8}},  # 100 TB
        {"arguments": {"base": 8, "multipliers": [1] * 5000}},
        *({"T": steps} for steps in (0, 10**12, None)),
        *({"schedule": "cubic"}, {"target": "score"}, {"recipe": 5}),
    ],
    ids=str,
)
def test_wrong_descriptions(path, change):
    """Under a right checksum: what an accident cannot do."""
    save_pretrained(path, unet(), ARGUMENTS, "cosine", T, RECIPE)
    write(path, "weights", {**read(path, "weights"), **change})
    with pytest.raises(CheckpointError, match="its description does not fit its weights"):
        load_pretrained(path)


def test_shipped_weights():
    shipped = list(WEIGHTS.glob("*"))
    assert {file.suffix for file in shipped} == {".safetensors"}
    assert sum(file.stat().st_size for file in shipped) < 30e6
    x_t, t = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0)), torch.full((4,), 1000)
    for name in {file.stem for file in shipped if files.holds(file, "weights")}:
        model, _, recipe = load_pretrained(name)
        trained = {"steps", "loss"} if name != "mnist_few" else {"teacher"}  # that is distilled
        assert {"data", "device", "date", "command"} | trained <= recipe.keys()
        if not model.classes and name != "cifar10":
            with torch.no_grad():
                eps = model(x_t[:, :1], t)
            assert (eps - x_t[:, :1]).square().mean() < 0.1, "at step T nearly all is noise, and the net says so"
    assert load_feature_net().head
