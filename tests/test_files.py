"""Files of training states and weights: what is written comes back, all else is refused by name, nothing is lost."""

import errno
import io
import json
import os
import random
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
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


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a.dtype == b.dtype and torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def save(path: Path, state: dict = STATE) -> None:
    write(path, "training state", state)


@pytest.fixture
def path(tmp_path):
    """A good file."""
    save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def resealed(path: Path, change: dict, drop: str = "") -> None:
    """Another description in a file, under a right checksum: what an accident cannot do."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    about = {**json.loads(header["__metadata__"]["ddpm_helpers"]), **change}
    about.pop(drop, None)
    header["__metadata__"] = {"ddpm_helpers": json.dumps(about), "checksum": files.SEAL}
    header = json.dumps(header).encode()
    content = struct.pack("<Q", len(header)) + header + content[8 + size :]
    path.write_bytes(content.replace(files.SEAL.encode(), f"crc32 {zlib.crc32(content):08x}".encode(), 1))


# ---- any file -------------------------------------------------------------------------------------------------------


def test_what_is_written_comes_back(tmp_path, monkeypatch):
    path = tmp_path / "new" / "folder" / "a.safetensors"
    save(path)
    assert equal(read(str(path)), STATE)
    save(path, {"step": 4, "nothing": {}, "plain": {"x": [None, True, "a\nb", 2**70, 0.1]}})
    assert read(path) == {"step": 4, "nothing": {}, "plain": {"x": [None, True, "a\nb", 2**70, 0.1]}}
    assert os.listdir(path.parent) == ["a.safetensors"], "nothing else is left"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save("~/модель.safetensors")
    assert equal(read(tmp_path / "модель.safetensors"), STATE)


def test_every_kind_of_tensor(path):
    kinds = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    tensors = {kind: (torch.arange(6) % 2).to(getattr(torch, kind)).reshape(2, 3) for kind in kinds}
    base = torch.arange(24.0).reshape(2, 3, 4)
    views = {"turned": base.permute(2, 0, 1), "part": base[1, :, 2], "one": base[0, 0, 0], "none": base[:0]}
    net = torch.nn.Conv2d(2, 3, 1).to(memory_format=torch.channels_last)
    state = {**tensors, **views, "twice": {"a": base, "b": base}, "net": net.state_dict()}
    save(path, state)
    assert equal(read(path), state)


@pytest.mark.parametrize("value", [np.zeros(2), Path("a"), [1, (2, {"x": torch.zeros(2)})], {(1, 2): 1}], ids=repr)
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
    for content in [*contents, whole + b"x", b"", b"a text\n" * 100, b"\xff" * 100, b"PK\x03\x04" + 99 * b"garbage"]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: ({DAMAGED}|format .*)"):
            read(path)


def test_files_of_others_and_of_other_versions(path):
    for format, says in (
        (4, "format 4, and this version .* reads 3; update ddpm_helpers"),
        (2, "CHANGELOG"),
        ("x", "up"),
    ):
        resealed(path, {"format": format})
        with pytest.raises(CheckpointError, match=says):
            read(path)
    resealed(path, {}, drop="format")
    with pytest.raises(CheckpointError, match=DAMAGED):
        read(path)
    for notes in (None, {"made by": "another"}, {"ddpm_helpers": "[]"}, {"ddpm_helpers": '{"a":' * 100_000}):
        safetensors.torch.save_file({"a": torch.zeros(3)}, path, notes)
        with pytest.raises(CheckpointError, match=DAMAGED):
            read(path)


def test_names(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.safetensors: there is no such file$"):
        read(tmp_path / "a.safetensors")
    for name in ("x" * 300, "a\0b"):
        for reader in (read, load_pretrained):
            with pytest.raises(CheckpointError, match=r"no such file|damaged"):
                reader(tmp_path / f"{name}.safetensors")
    for reader in (read, load_pretrained, lambda path: save(path)):
        with pytest.raises(CheckpointError, match=r"mnist\.pt: .*end in .safetensors.*training state.*CHANGELOG"):
            reader("runs/mnist.pt")


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
    assert equal(again._tensors(), run._tensors())
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


class FullDisk(io.FileIO):
    """A file on a disk that is full after `left` bytes."""

    def __init__(self, path, mode: str, left: int):
        super().__init__(path, mode)
        self.left = left

    def write(self, content) -> int:
        if len(content) > self.left:
            super().write(content[: self.left])
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


@pytest.mark.parametrize("left", [0, 1, 10_000])
def test_disk_full(path, monkeypatch, left):
    before = path.read_bytes()
    monkeypatch.setattr(files, "open", lambda name, mode: FullDisk(name, mode, left), raising=False)
    with pytest.raises(CheckpointError, match=r"cannot be written \(.+space.+\); an older file there is as it was"):
        save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.safetensors"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_an_error_at_the_end_of_saving(path, monkeypatch, broken, error):
    def fail(*_):
        raise error

    before = path.read_bytes()
    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(CheckpointError if isinstance(error, OSError) else KeyboardInterrupt):
        save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.safetensors"]


def test_places_that_cannot_be_written_to(path):
    with pytest.raises(CheckpointError, match=r"cannot be written .* name another place"):
        save(path / "b.safetensors")  # a.safetensors is no folder
    (path.parent / "folder.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(path.parent / "folder.safetensors")
    assert sorted(os.listdir(path.parent)) == ["a.safetensors", "folder.safetensors"]


def test_read_only_folder(path):
    code = f"from ddpm_helpers.files import write; write({str(path)!r}, 'training state', {{}})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", code]
    done = run_read_only(path.parent, line, path.parent, env=environment, capture_output=True, text=True)
    assert re.search(r"CheckpointError: .*cannot be written .*(Permission denied|Read-only)", done.stderr), done.stderr
    assert equal(read(path), STATE)
    assert os.listdir(path.parent) == ["a.safetensors"]


def test_difference():
    a, b = {"x": torch.zeros(2, 3), "y": torch.zeros(1)}, {"x": torch.zeros(2, 3), "y": torch.zeros(1)}
    assert difference(a, b) is None
    assert difference(a, {**b, "z": torch.zeros(())}) == "'z' is nothing here and [] in the file"
    assert difference(a, {"x": b["x"]}) == "'y' is [1] here and nothing in the file"
    assert difference(a, {**b, "x": torch.zeros(3, 2)}) == "'x' is [2, 3] here and [3, 2] in the file"
    assert difference(a, {**b, "x": b["x"].int()}) == "'x' is [2, 3] here and torch.int32 [2, 3] in the file"


# ---- weights --------------------------------------------------------------------------------------------------------

NETS = {
    "SimpleUNet": (SimpleUNet, {"T": T, "base": 8}),
    "UNet": (UNet, {"base": 8, "multipliers": (1, 2), "classes": 3, "patch": 2}),
}
RECIPE = {"data": "MNIST, training images", "steps": 5, "loss": 0.1, "date": "2025-01-31"}


def make(name: str):
    torch.manual_seed(0)
    kind, arguments = NETS[name]
    net = kind(**arguments)
    with torch.no_grad():
        for p in net.parameters():  # no zeros
            p.add_(0.01 * torch.randn_like(p))
    return net


@pytest.fixture
def weights(tmp_path):
    """A good file of weights."""
    path = tmp_path / "a.safetensors"
    save_pretrained(path, make("UNet"), NETS["UNet"][1], "cosine", T, RECIPE)
    return path


@pytest.mark.parametrize("name", NETS)
def test_pretrained_and_back(tmp_path, name):
    net, path = make(name), tmp_path / "new" / "a.safetensors"
    before, schedule = torch.get_rng_state(), "linear" if name == "UNet" else "cosine"
    save_pretrained(path, net.train(), NETS[name][1], schedule, 30, RECIPE)
    back = load_pretrained(path)
    assert torch.equal(torch.get_rng_state(), before), "no random numbers are drawn"
    assert (type(back.model), back.model.training, back.recipe) == (type(net), False, RECIPE)
    assert torch.equal(back.schedule.beta, (linear_schedule if schedule == "linear" else cosine_schedule)(30).beta)
    for key, value in net.state_dict().items():
        assert torch.equal(back.model.state_dict()[key], value.half().float()), key
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, T])
    label = {"label": torch.tensor([0, 3])} if name == "UNet" else {}
    torch.testing.assert_close(back.model(x, t, **label), net.eval()(x, t, **label), rtol=0.01, atol=0.01)
    assert path.stat().st_size < 2 * sum(p.numel() for p in net.parameters()) + 30_000, "half precision"


def test_save_pretrained_refuses_what_cannot_be_loaded(tmp_path):
    path, net, arguments = tmp_path / "a.safetensors", make("UNet"), NETS["UNet"][1]
    with pytest.raises(ValueError, match=r"its net is one of SimpleUNet.*got 'Linear'"):
        save_pretrained(path, torch.nn.Linear(2, 2), {}, "cosine", T, {})
    with pytest.raises(ValueError, match=r"its schedule is one of linear, cosine; got 'cubic'"):
        save_pretrained(path, net, arguments, "cubic", T, {})
    with pytest.raises(ValueError, match=r"do not make this UNet: 'label.weight' is \[11, 32\] here and \[4, 32\] in"):
        save_pretrained(path, net, {**arguments, "classes": 10}, "cosine", T, {})
    for steps, recipe in ((0, {}), (2.0, {}), (200_000, {}), (T, None), (T, {"loss": torch.tensor(1.0)})):
        with pytest.raises(ValueError, match="nobody could load this again"):
            save_pretrained(path, net, arguments, "cosine", steps, recipe)
    with pytest.raises(ValueError, match="made with another schedule than 'cosine', T = 20"):
        save_pretrained(path, VelocityNet(net, linear_schedule(T, rescale=False)), arguments, "cosine", T, {})
    with torch.no_grad():
        net.stem[1].bias[0] = 1e6
    with pytest.raises(ValueError, match=r"stem\.1\.bias holds NaN, or numbers too large for half precision"):
        save_pretrained(path, net, arguments, "cosine", T, {})
    assert not path.exists()


def test_what_is_said_of_other_files(path, weights, tmp_path):
    for name in ("mnits", tmp_path / "b.safetensors"):
        with pytest.raises(CheckpointError, match=r"there is no such file; the shipped weights are cifar10, fashion"):
            load_pretrained(name)
    save(path)
    with pytest.raises(CheckpointError, match=r"holds a training state, and not a network's weights.*\['ema'\]"):
        load_pretrained(path)
    with pytest.raises(CheckpointError, match="load_feature_net"):
        load_pretrained("mnist_features")


@pytest.mark.parametrize(
    "change",
    [
        *({"net": net} for net in ("BigNet", ["UNet"], None)),
        {"net": "SimpleUNet", "arguments": {"T": T}},
        *(
            {"arguments": arguments}
            for arguments in ({"colours": 3}, [1], {"base": 16}, {"base": "wide"}, {"patch": 0})
        ),
        {"arguments": {"base": 10**6, "patch": 8}},  # 100 TB
        {"arguments": {"base": 8, "multipliers": [1] * 5000}},
        {"schedule": "cubic"},
        *({"T": steps} for steps in (0, 10**12, None)),
        {"target": "score"},
        {"recipe": 5},
    ],
    ids=str,
)
def test_wrong_descriptions(weights, change):
    resealed(weights, change)
    with pytest.raises(CheckpointError, match="its description does not fit its weights"):
        load_pretrained(weights)


def test_shipped_weights():
    shipped = list(WEIGHTS.glob("*"))
    assert {file.suffix for file in shipped} == {".safetensors"}
    assert sum(file.stat().st_size for file in shipped) < 12e6
    x_t, t = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0)), torch.full((4,), 1000)
    for name in {file.stem for file in shipped} - {"mnist_features"}:
        model, _, recipe = load_pretrained(name)
        assert {"data", "steps", "device", "loss", "date", "command"} <= recipe.keys()
        if not model.classes and name != "cifar10":
            with torch.no_grad():
                eps = model(x_t[:, :1], t)
            assert (eps - x_t[:, :1]).square().mean() < 0.1, "at step T nearly all is noise, and the net says so"
    assert load_feature_net().head
