"""A pickle that runs code is planted wherever a reader could be handed it: it is refused, and nothing runs."""

import gzip
import io
import json
import os
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import make, steps

from ddpm_helpers import CheckpointError, DataError, load_feature_net, load_images, load_pretrained, metrics
from ddpm_helpers import pictures as pictures_module
from ddpm_helpers.files import read
from ddpm_helpers.lessons import ladder


class Evil:
    """Unpickled without care, this makes the folder `path`."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def plants(path: Path) -> dict[str, bytes]:
    """Files that make the folder `path` where they are read without care."""
    state, result = {"format": 1, "evil": Evil(path)}, {}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        result[f"protocol {protocol}"] = pickle.dumps(state, protocol)
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=new)
        result["PyTorch's" if new else "PyTorch's old"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil(path)], dtype=object), allow_pickle=True)
    result["NumPy's"] = buffer.getvalue()
    return result | {f"{name}, gzipped": gzip.compress(content) for name, content in result.items()}


@pytest.fixture
def planted(tmp_path):
    """The folder that must not come to be."""
    folder = tmp_path / "planted"
    yield folder
    assert not folder.exists()
    pickle.loads(pickle.dumps(Evil(folder)))
    assert folder.exists(), "what was planted does go off where it is read without care"


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A data folder, a cache and shipped files of our own; no network."""
    monkeypatch.setenv("DDPM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("ddpm_helpers.datasets.find_a_host", Mock(side_effect=OSError("no network")))
    monkeypatch.setattr("ddpm_helpers.pretrained.WEIGHTS", tmp_path / "shipped")
    monkeypatch.setattr(metrics, "WEIGHTS", tmp_path / "shipped")
    monkeypatch.setattr(ladder, "RESULTS", tmp_path / "shipped")
    (tmp_path / "data").mkdir()
    return tmp_path


def refused(path: Path, contents: dict[str, bytes], read: Callable, error: type[Exception]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for content in contents.values():
        path.write_bytes(content)
        with pytest.raises(error):
            read()
        assert path.read_bytes() == content, "what was refused is not written over"


def test_in_files(planted, places):
    contents, trainer, path = plants(planted), steps(make(), 1), places / "a.safetensors"
    for reader in (read, trainer.fit, load_pretrained):
        refused(path, contents, partial(reader, path), CheckpointError)
    refused(places / "shipped" / "mnist_features.safetensors", contents, load_feature_net, CheckpointError)


def test_in_cifar10(planted, places):
    """These files are pickles; their checksums are verified before they are read."""
    folder = places / "data" / "cifar-10-batches-py"
    for content in plants(planted).values():
        for file in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
            refused(folder / file, {"": content}, partial(load_images, "cifar10", strict=True), DataError)


def test_among_pictures_and_in_their_cache(planted, places, monkeypatch):
    monkeypatch.setattr(pictures_module, "KEEP_AFTER", 0)
    folder = places / "pictures"
    folder.mkdir()
    Image.new("L", (8, 8), 120).save(folder / "good.png")
    for name, content in plants(planted).items():
        for file in ("evil.png", "evil.tif", "evil.npy", "evil.pt", "evil.pkl"):
            (folder / file).write_bytes(content)
        with pytest.warns(UserWarning, match=r"skipped 2 files .*evil\.png"):
            data = load_images(folder)
        assert not planted.exists(), name
    [kept] = [path for path in (places / "cache").rglob("*") if path.is_file()]
    for name, content in plants(planted).items():
        kept.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.equal(load_images(folder).images, data.images)
        assert not planted.exists(), name


def test_in_a_ladder(planted, places):
    contents = plants(planted)
    refused(places / "shipped" / "a.json", contents, lambda: ladder.load_ladder("a"), ValueError)
    (places / "shipped" / "a.json").write_text(json.dumps({"systems": [{"name": "a"}], "faults": []}))
    refused(places / "shipped" / "a.png", contents, lambda: ladder.ladder_samples("a"), ValueError)
