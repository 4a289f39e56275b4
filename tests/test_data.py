"""Where images come from, and everything that can be wrong with them."""

import gzip
import hashlib
import http.server
import os
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from ddpm_helpers import DataError, batches, datasets, load_images, read_idx, synthetic_digits, to_float, to_uint8
from ddpm_helpers.data import data_folder, shuffled_indices
from ddpm_helpers.pictures import cache_folder

REAL = Path(os.environ.get("DDPM_DATA", "/nowhere"))
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
LABELS = np.arange(7, dtype=np.uint8)
DIGITS = tuple("0123456789")


def idx_bytes(array: np.ndarray, code: int = 8) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def put_mnist(place: Path, images=IMAGES, labels=LABELS, codes=(8, 8), joint="-", pack=lambda x: x, end="") -> None:
    place.mkdir(parents=True)
    (place / f"train-images{joint}idx3-ubyte{end}").write_bytes(pack(idx_bytes(images, codes[0])))
    (place / f"train-labels{joint}idx1-ubyte{end}").write_bytes(pack(idx_bytes(labels, codes[1])))


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder with an empty data folder and a cache; no network: the proxy is not there."""
    variables = {"DDPM_DATA": tmp_path / "data", "XDG_CACHE_HOME": tmp_path / "cache", "no_proxy": ""}
    for name, value in (variables | dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("urllib.request._opener", None)  # urlopen keeps the proxies of its first call
    (tmp_path / "data").mkdir()
    return tmp_path


# ---- IDX -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", datasets.IDX_TYPES)
def test_idx_reads_every_type(tmp_path, code):
    file, array = tmp_path / "x", np.arange(24).reshape(2, 3, 4).astype(datasets.IDX_TYPES[code])
    for content in (idx_bytes(array, code), gzip.compress(idx_bytes(array, code))):
        file.write_bytes(content)
        result = read_idx(file)
        np.testing.assert_array_equal(result, array)
        assert result.dtype.isnative
    file.write_bytes(gzip.compress(idx_bytes(np.zeros(60_000, np.uint8))))
    assert not read_idx(file).any(), "one value only, and no bomb"


GOOD = idx_bytes(IMAGES)
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x89PNG" + GOOD, "must start with two zero bytes"),
        (b"", "not an IDX file"),
        (b"<html>403 Forbidden", "the name says gzip, the content is not"),
        (GOOD[:2] + b"\x07" + GOOD[3:], "unknown IDX type code 0x07"),
        (GOOD[:9], "ends before their lengths"),
        (GOOD[:-1], "truncated"),
        (GOOD + b"\0", "too long"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 10**9, 10**9, 10**3), "announces 1000000000 x 1000000000 x 1000"),
        (PACKED[:-20], "damaged gzip"),
        (PACKED * 2, "damaged gzip"),
        (PACKED[:100] + b"\xff" * 40 + PACKED[140:], "damaged gzip"),
        (gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 4000, 4000, 4), mtime=0), "the file holds 0"),
        (gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 10**8) + bytes(10**8), mtime=0), "it might be a gzip bomb"),
        (struct.pack(">4B65I", 0, 0, 8, 65, *[1] * 65) + b"\0", "an array that cannot be made"),
    ],
)
def test_idx_errors_name_file_and_fault(tmp_path, content, says):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(DataError, match=says) as caught:
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 50e6, "a lying header must not make us allocate"


@pytest.mark.parametrize("name", ["nothing", "x" * 300, "a\0b", "~nobody-of-this-name"])
def test_names_that_no_file_or_folder_has(tmp_path, name, monkeypatch):
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / name)
    with pytest.raises(DataError, match="neither a folder nor one of"):
        load_images(name)
    if "\0" not in name:
        monkeypatch.setenv("DDPM_DATA", name)
        with pytest.raises(DataError, match="DDPM_DATA is set to"):
            load_images("mnist")


# ---- the user's folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [{}, {"pack": gzip.compress, "end": ".gz"}, {"joint": "."}])
@pytest.mark.parametrize(
    ("place", "chosen", "name"),
    [
        *[("data/MNIST/raw", chosen, "mnist") for chosen in ("data", "data/MNIST", "data/MNIST/raw")],
        ("all here", "all here", "mnist"),
        ("fashion-kaggle", "fashion-kaggle", "fashion"),
    ],
)
def test_files_are_found_where_people_put_them(places, monkeypatch, pack, place, chosen, name):
    """As torchvision has them or as Kaggle does; DDPM_DATA may name a folder too deep, and so may a path.

    Both sets have files of the same names: those of clothes must not be taken for digits.
    """
    put_mnist(places / place, **pack)
    monkeypatch.setenv("DDPM_DATA", str(places / chosen))
    data, other = load_images(name, strict=True), {"mnist": "fashion", "fashion": "mnist"}[name]
    assert torch.equal(data.images[:, 0], torch.from_numpy(IMAGES))
    assert data.labels.tolist() == LABELS.tolist()
    assert data.classes == {"mnist": DIGITS, "fashion": datasets.FASHION}[name]
    assert data.source == f"{datasets.DATASETS[name]}, training images, from your data folder."
    assert torch.equal(load_images(places / chosen).images, data.images)
    title = datasets.DATASETS[other]
    with pytest.raises(DataError, match=rf"{title} cannot be had: .*Looked for them in .*{chosen}.{title}.raw"):
        load_images(other, strict=True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"labels": LABELS[:5]}, r"train-images.*train-labels.*do not fit"),
        ({"images": IMAGES.astype(">f4"), "codes": (13, 8)}, "expected bytes, and labels 0 to 9"),
        ({"labels": LABELS + 4}, "expected bytes, and labels 0 to 9"),
        ({"labels": LABELS.astype(">i1") - 1, "codes": (8, 9)}, "expected bytes, and labels 0 to 9"),
        ({"pack": lambda content: content[:-3]}, "truncated"),
    ],
)
def test_wrong_files_in_the_data_folder_are_not_passed_over(places, wrong, says):
    put_mnist(places / "data" / "MNIST" / "raw", **wrong)
    with pytest.raises(DataError, match=says):
        load_images("mnist")


@pytest.mark.parametrize(
    ("here", "data"), [(".", "data"), ("notebooks", "data"), ("my_notebooks", "data"), ("notebooks", "notebooks/data")]
)
def test_data_at_the_top_of_the_checkout_or_beside_the_notebook(places, monkeypatch, here, data):
    monkeypatch.delenv("DDPM_DATA")
    for folder in (here, data):
        (places / folder).mkdir(exist_ok=True)
    monkeypatch.chdir(places / here)
    assert data_folder() == places / data


def test_home_may_be_unknown_and_is_expanded(tmp_path, monkeypatch):
    put_mnist(tmp_path / "mine")
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("DDPM_DATA", "~/mine")
    assert len(load_images("~/mine").images) == len(load_images("mnist", strict=True).images) == 7
    pwd = pytest.importorskip("pwd")  # not on Windows
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a KeyError for any user
    assert cache_folder().is_absolute()
    assert len(load_images(tmp_path / "mine").images) == 7


@pytest.mark.skipif(not (REAL / "MNIST" / "raw").is_dir(), reason="no real MNIST: set DDPM_DATA to a torchvision root")
@pytest.mark.parametrize(("name", "train", "n"), [("mnist", False, 10_000), ("fashion", True, 60_000)])
def test_real_data(name, train, n):
    data = load_images(name, train=train, strict=True)
    assert data.images.shape == (n, 1, 28, 28)
    assert data.labels.bincount(minlength=len(data.classes)).min() > 0.05 * n


# ---- stand-ins and downloads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "by_hand"),
    [
        ("fashion", (1, 28, 28), "Looked for"),
        ("cifar10", (3, 32, 32), r"go on where it broke: `curl -L -C - -O https:.*`tar -xzf cifar-10-python"),
    ],
)
def test_drawn_digits_stand_in_with_one_warning(places, name, shape, by_hand):
    with pytest.warns(UserWarning, match="Drawn digits stand in .*: no download host can be reached") as caught:
        data = load_images(name)
    assert len(caught) == 1
    assert data.images.shape == (10_000, *shape)
    title, why = datasets.DATASETS[name], "no download host can be reached"
    assert data.source == f"Drawn digits, standing in for {title} ({why}), training seed."
    with pytest.raises(DataError, match=f"set DDPM_DATA.* {by_hand}"):
        load_images(name, strict=True)


def test_digits_by_name_or_path_need_no_warning(places, recwarn):
    assert not torch.equal(load_images("digits").images, load_images(Path("digits"), train=False).images)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "mnits"}, "did you mean 'mnist'"),
        ({"name": "cifar-10"}, "did you mean 'cifar10'"),
        ({"train": "test"}, "train is True .* got 'test'"),
        ({"name": "digits", "size": 32}, "size is for a folder of pictures, and digits comes in one size"),
    ],
)
def test_wrong_arguments(arguments, says):
    with pytest.raises(DataError, match=says):
        load_images(**arguments)


class Mirror(http.server.BaseHTTPRequestHandler):
    """A download host on this machine: serves real gz files to GET alone, or misbehaves as `behaviour` says."""

    behaviour, requests, files = "good", 0, {}
    over = threading.Event()  # until then a silent host keeps silent

    def do_HEAD(self):
        self.send_error(405)

    def do_GET(self):
        Mirror.requests += 1
        content = self.files[self.path.rsplit("/")[-1]]
        if self.behaviour == "silent" or (self.behaviour == "silent later" and Mirror.requests > 2):
            self.over.wait(60)
        if self.behaviour.isdigit():
            return self.send_error(int(self.behaviour))
        content = b"<html>Please log in</html>" if self.behaviour == "wrong" else content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.behaviour in ("half", "stalls") else content)
        if self.behaviour == "stalls":
            self.wfile.flush()
            self.over.wait(60)

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(places, monkeypatch):
    """torchvision's MNIST pointed at a host on this machine, twice, with small files under their own checksums."""
    Mirror.files = {
        f"{half}-{part}-ubyte.gz": gzip.compress(idx_bytes(array))
        for half in ("train", "t10k")
        for part, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS))
    }
    Mirror.behaviour, Mirror.requests, Mirror.over = "good", 0, threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"] * 2)
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in Mirror.files.items()]
    monkeypatch.setattr(MNIST, "resources", sums)
    yield places
    Mirror.over.set()
    server.shutdown()


def test_download_once_then_cache(mirror, capsys):
    first, asked = load_images("mnist", strict=True), Mirror.requests
    assert "Downloading MNIST, once: 12 MB, about 1 min" in capsys.readouterr().out
    assert "downloaded" in first.source
    assert torch.equal(first.images[:, 0], torch.from_numpy(IMAGES))
    assert "earlier download" in load_images("mnist", strict=True).source
    assert Mirror.requests == asked
    for file in (mirror / "cache" / "ddpm_helpers" / "mnist" / "MNIST" / "raw").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"files are missing in .*mnist: delete that folder"):
        load_images("mnist", strict=True)


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ("403", "a filter before it, refuses .*403"),
        ("407", "the proxy wants a name and a password"),
        ("503", "busy or out of order: try again later"),
        ("half", "download failed"),
        ("wrong", "download failed .*corrupted"),
        ("silent", "the host is silent"),
        ("silent later", "the host is silent"),
        ("stalls", "the host is silent"),
        (OSError(28, "No space left on device"), "the download failed .*No space left on device"),
        (TimeoutError(), "the host is silent .TimeoutError"),
        (OSError("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] self-signed>"), "certificate is not trusted here"),
        (OSError("<urlopen error Tunnel connection failed: 407 Proxy Authentication>"), "HTTPS_PROXY=http://name"),
    ],
)
def test_each_cause_has_its_sentence_and_nothing_half_done_stays(mirror, monkeypatch, trouble, says):
    """A silence of 5 seconds is borne; here of 1, unless `make soak` wants it all. The host's own lasts 60."""
    silence = float(os.environ.get("DDPM_TEST_SILENCE", "1"))
    began = time.monotonic()
    with monkeypatch.context() as patch:
        if isinstance(trouble, OSError):
            patch.setattr("torchvision.datasets.mnist.download_and_extract_archive", Mock(side_effect=trouble))
        elif trouble.startswith("s"):  # silent, or stalls
            patch.setattr(datasets, "NETWORK_SECONDS", silence)
        Mirror.behaviour = str(trouble)
        with pytest.warns(UserWarning, match=f"Drawn digits stand in for MNIST: .*{says}.*set DDPM_DATA"):
            assert "standing in" in load_images("mnist").source
    assert time.monotonic() - began < silence + 20  # most of it for a machine that is busy otherwise
    assert not list((mirror / "cache").rglob("*ubyte*"))
    Mirror.behaviour = "good"
    assert "downloaded" in load_images("mnist").source


def test_two_processes_at_once(mirror):
    """Both get the images; one downloads, the other waits for it."""
    code = (
        "import torchvision.datasets as d\n"
        f"d.MNIST.mirrors, d.MNIST.resources = {MNIST.mirrors!r}, {MNIST.resources!r}\n"
        "from ddpm_helpers import load_images\n"
        "print('ready', flush=True); input()\n"
        "print(load_images('mnist', strict=True).images.sum().item())"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    assert [job.stdout.readline() for job in jobs] == ["ready\n"] * 2
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    assert [int(job.communicate(timeout=120)[0].split()[-1]) for job in jobs] == [int(IMAGES.sum(dtype=int))] * 2
    assert Mirror.requests <= 12, "torchvision asks twice for each of the 4 files, and each process both hosts once"


# ---- the two forms, and batches ------------------------------------------------------------------------------------


def test_float_and_back_is_exact():
    greys = torch.arange(256, dtype=torch.uint8)
    assert to_float(greys).aminmax() == (-1, 1)
    assert torch.equal(to_uint8(to_float(greys)), greys)
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
    for bad, found in ((greys.float(), "torch.float32"), (greys.numpy(), "ndarray: torch.as_tensor makes one")):
        with pytest.raises(TypeError, match=f"expected a uint8 tensor .*, got {found}"):
            to_float(bad)
    with pytest.raises(TypeError, match=r"expected a float tensor .*, got torch.uint8"):
        to_uint8(greys)


def test_batches_cover_each_epoch_and_resume_anywhere():
    numbers = torch.arange(10)
    whole = list(batches(numbers, 4, 9, seed=3))
    assert [len(b) for b in whole] == [4, 4, 2] * 3
    epochs = torch.cat(whole).reshape(3, 10)
    assert torch.equal(epochs.sort(dim=1).values, numbers.expand(3, 10))
    assert not torch.equal(epochs[0], epochs[1])
    for start in range(9):
        rest = list(batches(numbers, 4, 9, seed=3, start=start))
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
    with pytest.raises(ValueError, match="batch_size"):
        next(batches(numbers, 0, 1))


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (10, 5), (3, 7), (1, 3), (7, 14)])
def test_shuffled_indices_are_epochs_laid_end_to_end_from_seed_and_step_alone(n, batch_size):
    cut = [shuffled_indices(n, batch_size, step, seed=4) for step in range(3 * n)]
    assert all(index.shape == (batch_size,) and index.dtype == torch.int64 for index in cut)
    epochs = torch.cat(cut).reshape(3 * batch_size, n)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(n).expand_as(epochs)), "every image once an epoch"
    if n >= 7:  # of fewer, two epochs may be alike by chance
        assert len({tuple(epoch.tolist()) for epoch in epochs}) == len(epochs), "each epoch is shuffled anew"
        assert not torch.equal(cut[0], shuffled_indices(n, batch_size, 0, seed=2))
    for step in reversed(range(3 * n)):  # in any order, with other questions between, whatever is done to the answers
        index = shuffled_indices(n, batch_size, step, seed=4)
        assert torch.equal(index, cut[step])
        index.zero_()
        shuffled_indices(n + 1, batch_size, step, seed=step)


def test_drawn_digits_are_what_they_say():
    images, labels = synthetic_digits(100, size=20, seed=5)
    assert (images.shape, images.dtype) == ((100, 1, 20, 20), torch.uint8)
    assert labels.bincount().tolist() == [10] * 10
    assert torch.equal(images, synthetic_digits(100, size=20, seed=5)[0])
    assert not torch.equal(images, synthetic_digits(100, size=20, seed=6)[0])
    assert (images.flatten(1).max(1).values > 150).all(), "every image shows ink"
    for name, wrong in {"n": 0, "size": 7, "seed": -1}.items():
        with pytest.raises(ValueError, match=f"{name} must"):
            synthetic_digits(**{"n": 10, name: wrong})
