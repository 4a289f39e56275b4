"""Files of checkpoints and weights: what is written comes back, what else lies there is named, nothing is lost."""

import errno
import io
import json
import os
import random
import re
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from read_only import ROOT, run_read_only

from ddpm_helpers import (
    CheckpointError,
    LayerNormUNet,
    SimpleUNet,
    UNet,
    VelocityNet,
    cosine_schedule,
    linear_schedule,
    load_feature_net,
    load_pretrained,
)
from ddpm_helpers import checkpoint as checkpoint_module
from ddpm_helpers.checkpoint import (
    FORMAT,
    WEIGHTS,
    difference,
    load_checkpoint,
    read_weights,
    save_checkpoint,
    save_pretrained,
)

T = 20
STATE = {"step": 3, "weights": {"a": torch.arange(5000.0), "b": torch.tensor([1, 2])}, "name": "x", "list": [1, 2.5]}
DAMAGED = "damaged, truncated, or not a checkpoint; delete or move it to start anew"


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture
def path(tmp_path):
    """A good checkpoint."""
    save_checkpoint(tmp_path / "a.pt", STATE)
    return tmp_path / "a.pt"


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "new" / "folder" / "a.pt"
    save_checkpoint(path, STATE)
    assert equal(load_checkpoint(str(path)), {"format": FORMAT, **STATE})
    save_checkpoint(path, {"step": 4})
    assert load_checkpoint(path) == {"format": FORMAT, "step": 4}
    assert os.listdir(path.parent) == ["a.pt"], "nothing else is left"


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.pt: there is no such file$"):
        load_checkpoint(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_truncated_anywhere(path):
    whole = path.read_bytes()
    chance = random.Random(0)
    places = [*range(70), *range(len(whole) - 70, len(whole)), *(chance.randrange(len(whole)) for _ in range(60))]
    for place in places:
        path.write_bytes(whole[:place])
        with pytest.raises(CheckpointError, match=DAMAGED):
            load_checkpoint(path)


def test_altered_anywhere(path):
    """A flipped bit is found, or was in a byte that means nothing: no wrong number is ever loaded."""
    whole = path.read_bytes()
    chance = random.Random(0)
    found = 0
    for place in [chance.randrange(len(whole)) for _ in range(300)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = load_checkpoint(path)
        except CheckpointError:
            found += 1
        else:
            assert equal(state, {"format": FORMAT, **STATE}), f"byte {place}"
    assert found > 200


def records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_records(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    """With right checksums."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.mark.skipif(torch.__version__.startswith("2.4."), reason="PyTorch 2.4 believes such a file")
def test_a_tensor_longer_than_its_bytes(path):
    save_checkpoint(path, {"w": torch.zeros(77)})
    files = records(path)
    assert files["archive/data.pkl"].count(b"K\x4d") == 2, "77: the numbers there are, and the tensor's size"
    files["archive/data.pkl"] = files["archive/data.pkl"].replace(b"K\x4d", b"K\xff")
    write_records(path, files)
    with pytest.raises(CheckpointError, match=DAMAGED):
        load_checkpoint(path)


def test_a_tensor_that_begins_before_its_bytes(path):
    files = records(path)
    files["archive/data.pkl"] = files["archive/data.pkl"].replace(b"QK\x00", b"QK\x01")
    write_records(path, files)
    with pytest.raises(CheckpointError, match=DAMAGED):
        load_checkpoint(path)


def pickled(body: bytes) -> bytes:
    """{"format": 1, "x": what `body` makes}"""
    return b"\x80\x02}(X\x06\x00\x00\x00formatK\x01X\x01\x00\x00\x00x" + body + b"u."


@pytest.mark.parametrize(
    ("body", "good"),
    [
        (b"]K\x05a", True),
        (b"c__builtin__\nbytearray\nJ\x00\x00\x00\x70\x85R", False),  # 1.9 GB
        (b"ctorch\nhub\n", False),
        (b"Kr\xff\xff\xff\x7f", False),  # a place in the memo that is far out
        (b"]q\x00" + b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(100)), False),  # 2**100 lists
        (b"(" * 10**5 + b"t", False),
    ],
    ids=["good", "memory", "module", "memo", "doubled", "marks"],
)
def test_pickles_that_ask_for_more_than_a_checkpoint_needs(path, body, good):
    write_records(path, {**records(path), "archive/data.pkl": pickled(body)})
    if good:
        assert load_checkpoint(path) == {"format": 1, "x": [5]}
        return
    with pytest.raises(CheckpointError, match=DAMAGED):
        load_checkpoint(path)


def test_a_file_that_unpacks_to_more_than_it_is(path):
    write_records(path, {**records(path), "archive/data/9": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=DAMAGED):
        load_checkpoint(path)


def test_every_kind_of_value_and_tensor(path):
    kinds = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    tensors = {kind: (torch.arange(6) % 2).to(getattr(torch, kind)).reshape(2, 3) for kind in kinds}
    base = torch.arange(24.0).reshape(2, 3, 4)
    views = {
        "turned": base.permute(2, 0, 1),
        "part": base[1, :, 2],
        "one": base[0, 0, 0],
        "no rows": base[:0],
        "empty": torch.empty(0, 3),
    }
    net = torch.nn.Conv2d(2, 3, 1).to(memory_format=torch.channels_last)
    plain = {
        "whole": [0, -1, 255, 65536, 2**40, -(2**70), 10**300],
        "float": 0.1,
        "text": "é",
        "none": None,
        3: (True, ()),
    }
    pair = (1, 2)
    save_checkpoint(path, {**tensors, **views, **plain, "net": net.state_dict(), "twice": [pair, pair, base, base]})
    state = load_checkpoint(path)
    for name, value in {**tensors, **views}.items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value), name
    assert {name: state[name] for name in plain} == plain
    assert equal(dict(state["net"]), dict(net.state_dict()))
    assert state["net"]["weight"].stride() == net.weight.stride()
    assert state["twice"][:2] == [pair, pair]
    assert state["twice"][2].data_ptr() == state["twice"][3].data_ptr()


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_that_no_file_can_have(tmp_path, name):
    for read in (load_checkpoint, read_weights, load_pretrained):
        with pytest.raises(CheckpointError, match=r"cannot be read|no such file|damaged"):
            read(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", DAMAGED),
        (b"PK\x03\x04", DAMAGED),
        (b"a text\n" * 100, DAMAGED),
        (b"PK\x03\x04" + 99 * b"garbage", DAMAGED),
        ([1, 2], "a file of PyTorch's, but not a checkpoint of this course"),
        ({"weights": torch.zeros(3)}, "a file of PyTorch's, but not a checkpoint of this course"),
        (torch.zeros(3), "a file of PyTorch's, but not a checkpoint of this course"),
        (torch.nn.Linear(2, 2), DAMAGED),
        ({"format": 3}, "format 3, and this version of ddpm_helpers knows up to 2; update it"),
        ({"format": "new"}, "format 'new', and this"),
        ({"format": 0}, "format 0, and this"),
        ({"format": None}, "format None, and this"),
    ],
    ids=repr,
)
def test_other_files(tmp_path, content, says):
    path = tmp_path / "a.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: {says}")):
        load_checkpoint(path)


class FullDisk(io.FileIO):
    """A file on a disk that is full after `left` bytes."""

    def __init__(self, path, mode: str, left: int):
        super().__init__(path, mode)
        self.left = left

    def write(self, content) -> int:
        self.left -= len(content)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


@pytest.mark.parametrize("left", [0, 1, 100, 1000, 10_000, 20_000])
def test_disk_full(path, monkeypatch, left):
    before = path.read_bytes()
    assert left < len(before)
    monkeypatch.setattr(checkpoint_module, "open", lambda name, mode: FullDisk(name, mode, left), raising=False)
    with pytest.raises(CheckpointError, match=r"a\.pt: cannot be written \(.+\); an older file there is as it was"):
        save_checkpoint(path, STATE)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.pt"]


def test_a_real_limit_on_the_size_of_files(path):
    resource = pytest.importorskip("resource", reason="this system has no limits on processes")
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_checkpoint(path, STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.pt"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError(), KeyboardInterrupt()])
def test_an_error_at_the_end_of_saving(path, monkeypatch, broken, error):
    def fail(*_):
        raise error

    before = path.read_bytes()
    monkeypatch.setattr(os, broken, fail)
    expected = CheckpointError if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(expected):
        save_checkpoint(path, STATE)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.pt"]


def test_places_that_cannot_be_written_to(path):
    with pytest.raises(CheckpointError, match=r"cannot be written .* name another place"):
        save_checkpoint(path / "b.pt", STATE)  # a.pt is no folder
    (path.parent / "folder.pt").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(path.parent / "folder.pt", STATE)
    assert sorted(os.listdir(path.parent)) == ["a.pt", "folder.pt"]


def test_read_only_folder(path):
    code = f"from ddpm_helpers.checkpoint import save_checkpoint; save_checkpoint({str(path)!r}, {{}})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", code]
    done = run_read_only(path.parent, line, path.parent, env=environment, capture_output=True, text=True)
    assert re.search(r"CheckpointError: .*cannot be written .*(Permission denied|Read-only)", done.stderr), done.stderr
    assert equal(load_checkpoint(path), {"format": FORMAT, **STATE})
    assert os.listdir(path.parent) == ["a.pt"]


def test_difference():
    a, b = {"x": torch.zeros(2, 3), "y": torch.zeros(1)}, {"x": torch.zeros(2, 3), "y": torch.zeros(1)}
    assert difference(a, b) is None
    assert difference(a, {**b, "z": torch.zeros(())}) == "'z' is nothing here and [] in the file"
    assert difference(a, {"x": b["x"]}) == "'y' is [1] here and nothing in the file"
    assert difference(a, {**b, "x": torch.zeros(3, 2)}) == "'x' is [2, 3] here and [3, 2] in the file"


# ---- weights to ship ------------------------------------------------------------------------------------------------

NETS = {
    "SimpleUNet": (SimpleUNet, {"T": T, "base": 8}),
    "LayerNormUNet": (LayerNormUNet, {"T": T, "size": 8, "input_norm": True}),
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
    before = torch.get_rng_state()
    save_pretrained(path, net.train(), NETS[name][1], "linear" if name == "UNet" else "cosine", 30, RECIPE)
    assert torch.equal(torch.get_rng_state(), before), "saving draws no random numbers"
    back, schedule, recipe = load_pretrained(path)
    assert type(back) is type(net)
    assert not back.training
    assert recipe == RECIPE
    assert schedule.name == ("linear, T = 30" if name == "UNet" else "cosine, T = 30")
    for key, value in net.state_dict().items():
        assert torch.equal(back.state_dict()[key], value.half().float()), key
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, T])
    label = {"label": torch.tensor([0, 3])} if name == "UNet" else {}
    torch.testing.assert_close(back(x, t, **label), net.eval()(x, t, **label), rtol=0.01, atol=0.01)
    assert path.stat().st_size < 2 * sum(p.numel() for p in net.parameters()) + 30_000, "half precision"


def test_save_pretrained_refuses_what_cannot_be_loaded(tmp_path):
    path, net, arguments = tmp_path / "a.safetensors", make("UNet"), NETS["UNet"][1]
    with pytest.raises(ValueError, match=r"must end in .safetensors, got runs/mine"):
        save_pretrained("runs/mine", net, arguments, "cosine", T, {})
    with pytest.raises(ValueError, match=r"a net is one of SimpleUNet.*got Linear"):
        save_pretrained(path, torch.nn.Linear(2, 2), {}, "cosine", T, {})
    with pytest.raises(ValueError, match=r"a schedule one of linear, cosine; got UNet and 'cubic'"):
        save_pretrained(path, net, arguments, "cubic", T, {})
    with pytest.raises(ValueError, match=r"do not make this UNet: 'label.weight' is \[4, 32\] here and \[11, 32\]"):
        save_pretrained(path, net, {**arguments, "classes": 10}, "cosine", T, {})
    for steps, recipe in ((0, {}), (2.0, {}), (200_000, {}), (T, None), (T, {"loss": torch.tensor(1.0)})):
        with pytest.raises(ValueError, match=f"T = {steps}, arguments or recipe do not suit a file"):
            save_pretrained(path, net, arguments, "cosine", steps, recipe)
    with pytest.raises(ValueError, match="made with another schedule than 'cosine', T = 20"):
        save_pretrained(path, VelocityNet(net, linear_schedule(T, rescale=False)), arguments, "cosine", T, {})
    with torch.no_grad():
        net.stem[1].bias[0] = 1e6
    with pytest.raises(ValueError, match=r"stem\.1\.bias holds NaN, or numbers too large for half precision"):
        save_pretrained(path, net, arguments, "cosine", T, {})
    assert not path.exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"rate": np.float64(0.1)}, r"state\['rate'\] is a float64"),
        ({"all": [1, (2, {"x": Path("a")})]}, r"state\['all'\]\[1\]\[1\]\['x'\] is a \w*Path"),
        ({"weight": torch.nn.Parameter(torch.ones(2))}, r"state\['weight'\] is a Parameter"),
        ({(1, b"a"): 1}, r"a key of state\[1\] is a bytes"),
    ],
    ids=str,
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, value, says):
    with pytest.raises(TypeError, match=f"save_checkpoint: {says}; a checkpoint holds"):
        save_checkpoint(tmp_path / "a.pt", value)
    assert list(tmp_path.iterdir()) == []


def test_save_pretrained_disk_full(weights, monkeypatch):
    before = weights.read_bytes()
    monkeypatch.setattr(checkpoint_module, "open", lambda name, mode: FullDisk(name, mode, 100), raising=False)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_pretrained(weights, make("UNet"), NETS["UNet"][1], "cosine", T, RECIPE)
    assert weights.read_bytes() == before
    assert os.listdir(weights.parent) == [weights.name]


def test_no_such_weights(tmp_path):
    for name in ("mnits", tmp_path / "a.safetensors"):
        with pytest.raises(CheckpointError, match=r"\.safetensors: there is no such file; the shipped weights are"):
            load_pretrained(name)


def test_damaged_weights(weights):
    whole = weights.read_bytes()
    for content in (b"", b"a text", whole[:4], whole[:100], whole[:-1], whole[:-1000], whole + b"x", b"\xff" * 100):
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged, or not a safetensors file"):
            load_pretrained(weights)
    torch.save({"format": 1}, weights)
    with pytest.raises(CheckpointError, match="damaged, or not a safetensors file"):
        load_pretrained(weights)


@pytest.mark.parametrize("metadata", [None, {}, {"made by": "another"}, {"ddpm_helpers": "[]"}, {"ddpm_helpers": "{}"}])
def test_foreign_weights(tmp_path, metadata):
    safetensors.torch.save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(CheckpointError, match="holds weights, but not of this course"):
        load_pretrained(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 3}, "format 3, and this version"),
        ({"format": "1"}, "format '1', and this version"),
        ({"net": "BigNet"}, "does not fit its weights .*BigNet"),
        ({"net": ["UNet"]}, "does not fit its weights"),
        ({"net": "SimpleUNet", "arguments": {"T": T}}, "does not fit its weights"),
        ({"arguments": {"colours": 3}}, "does not fit its weights .*colours"),
        ({"arguments": [1]}, "does not fit its weights"),
        ({"arguments": {"base": 16}}, "does not fit its weights"),
        ({"arguments": {"base": "wide"}}, "does not fit its weights"),
        ({"arguments": {"base": 8, "patch": 0}}, "does not fit its weights"),
        ({"schedule": "cubic"}, "does not fit its weights"),
        ({"T": 0}, "does not fit its weights"),
        ({"T": 10**12}, "does not fit its weights .*more steps"),
        ({"arguments": {"base": 10**6, "patch": 8}}, "does not fit its weights"),  # 100 TB
        ({"arguments": {"base": 8, "multipliers": [1] * 5000}}, "does not fit its weights .*more arguments"),
        ({"T": None}, "does not fit its weights"),
        ({"recipe": 5}, "does not fit its weights"),
    ],
    ids=repr,
)
def test_wrong_descriptions(weights, change, says):
    content = weights.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"]["ddpm_helpers"])
    header["__metadata__"]["ddpm_helpers"] = json.dumps({**about, **change})
    header = json.dumps(header).encode()
    weights.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])
    with pytest.raises(CheckpointError, match=says):
        load_pretrained(weights)


def test_a_description_deeper_than_a_parser_goes(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path, {"ddpm_helpers": '{"a":' * 100_000})
    with pytest.raises(CheckpointError, match="damaged"):
        load_pretrained(path)


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_shipped_weights(name):
    model, schedule, recipe = load_pretrained(name)
    assert {"data", "steps", "device", "loss", "date", "command"} <= recipe.keys()
    assert all(p.isfinite().all() for p in model.parameters())
    x_t, t = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.full((4,), schedule.T)
    with torch.no_grad():
        eps = model(x_t, t)
    assert (eps - x_t).square().mean() < 0.1, "at step T nearly all is noise, and the net says so"


def test_shipped_weights_are_small():
    files = list(WEIGHTS.glob("*"))
    assert {file.suffix for file in files} == {".safetensors"}
    assert sum(file.stat().st_size for file in files) < 12e6
    for name in {file.stem for file in files} - {"mnist_features"}:
        assert load_pretrained(name).recipe["command"]
    assert load_feature_net().head


def test_a_judge_is_no_diffusion_model():
    with pytest.raises(CheckpointError, match="load_feature_net"):
        load_pretrained("mnist_features")


def test_default_schedule_is_the_one_described(weights):
    assert torch.equal(load_pretrained(weights).schedule.beta, cosine_schedule(T).beta)
