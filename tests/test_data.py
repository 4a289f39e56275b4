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

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from ddpm_helpers import DataError, batches, datasets, load_images, read_idx, synthetic_digits, to_float, to_uint8
from ddpm_helpers.data import data_folder, shuffled_indices
from ddpm_helpers.pictures import cache_folder

REAL = Path(os.environ.get("DDPM_DATA", "/nowhere"))
needs_mnist = pytest.mark.skipif(
    not (REAL / "MNIST" / "raw").is_dir(), reason="no real MNIST here: set DDPM_DATA to a torchvision root"
)
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
LABELS = np.arange(7, dtype=np.uint8)


def idx_bytes(array: np.ndarray, code: int = 8) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_mnist(place: Path, images=IMAGES, labels=LABELS, codes=(8, 8), joint="-", pack=lambda x: x, end="") -> None:
    write(place / f"train-images{joint}idx3-ubyte{end}", pack(idx_bytes(images, codes[0])))
    write(place / f"train-labels{joint}idx1-ubyte{end}", pack(idx_bytes(labels, codes[1])))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty data folder, an empty cache, and no network."""

    def unreachable(urls):
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setenv("DDPM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(datasets, "find_a_host", unreachable)
    return tmp_path


# ---- IDX -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", datasets.IDX_TYPES)
def test_idx_reads_every_type(tmp_path, code):
    array = np.arange(24).reshape(2, 3, 4).astype(datasets.IDX_TYPES[code])
    for content in (idx_bytes(array, code), gzip.compress(idx_bytes(array, code))):
        result = read_idx(write(tmp_path / "x", content))
        np.testing.assert_array_equal(result, array)
        assert result.dtype.isnative
    zeros = gzip.compress(idx_bytes(np.zeros(60_000, np.uint8)))
    assert not read_idx(write(tmp_path / "x", zeros)).any(), "one value only, and no bomb"


GOOD = idx_bytes(IMAGES)


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
        (gzip.compress(GOOD)[:-20], "damaged gzip"),
        (gzip.compress(GOOD)[:100] + b"\xff" * 40 + gzip.compress(GOOD)[140:], "damaged gzip"),
        (gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 4000, 4000, 4), mtime=0), "the file holds 0"),
        (gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 10**8) + bytes(10**8)), "it might be a gzip bomb"),
        (struct.pack(">4B65I", 0, 0, 8, 65, *[1] * 65) + b"\0", "an array that cannot be made"),
    ],
)
def test_idx_errors_name_file_and_fault(tmp_path, content, says):
    path = write(tmp_path / "images.gz", content)
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
@pytest.mark.parametrize("chosen", ["", "MNIST", "MNIST/raw"])
def test_mnist_is_found_where_people_put_it(nowhere, monkeypatch, pack, chosen):
    """As torchvision has it or as Kaggle does; DDPM_DATA may name a folder too deep, and so may a path."""
    put_mnist(nowhere / "data" / "MNIST" / "raw", **pack)
    monkeypatch.setenv("DDPM_DATA", str(nowhere / "data" / chosen))
    data = load_images("mnist", strict=True)
    assert torch.equal(data.images[:, 0], torch.from_numpy(IMAGES))
    assert data.labels.tolist() == LABELS.tolist()
    assert data.classes == tuple("0123456789")
    assert "your data folder" in data.source
    assert torch.equal(load_images(nowhere / "data" / chosen).images, data.images)
    with pytest.raises(DataError, match=r"FashionMNIST cannot be had: .*Looked for them in .*FashionMNIST.raw"):
        load_images("fashion", strict=True)


@pytest.mark.parametrize(("folder", "name"), [("all here", "mnist"), ("fashion-kaggle", "fashion")])
def test_files_right_in_the_folder(nowhere, monkeypatch, folder, name):
    """Both sets have files of the same names: those of clothes must not be taken for digits."""
    put_mnist(nowhere / folder, joint=".")
    monkeypatch.setenv("DDPM_DATA", str(nowhere / folder))
    assert (
        load_images(name, strict=True).source == f"{datasets.DATASETS[name]}, training images, from your data folder."
    )
    with pytest.raises(DataError, match="cannot be had"):
        load_images({"mnist": "fashion", "fashion": "mnist"}[name], strict=True)


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
def test_wrong_files_in_the_data_folder_are_not_passed_over(nowhere, wrong, says):
    put_mnist(nowhere / "data" / "MNIST" / "raw", **wrong)
    with pytest.raises(DataError, match=says):
        load_images("mnist")


@pytest.mark.parametrize(
    ("here", "data"), [(".", "data"), ("notebooks", "data"), ("my_notebooks", "data"), ("notebooks", "notebooks/data")]
)
def test_data_at_the_top_of_the_checkout_or_beside_the_notebook(nowhere, monkeypatch, here, data):
    monkeypatch.delenv("DDPM_DATA")
    (nowhere / here).mkdir(exist_ok=True)
    (nowhere / data).mkdir(exist_ok=True)
    monkeypatch.chdir(nowhere / here)
    assert data_folder() == nowhere / data


def test_home_may_be_unknown_and_is_expanded(tmp_path, monkeypatch):
    put_mnist(tmp_path / "mine")
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert len(load_images("~/mine").images) == 7
    monkeypatch.setenv("DDPM_DATA", "~/mine")
    assert len(load_images("mnist", strict=True).images) == 7
    pwd = pytest.importorskip("pwd")  # not on Windows
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a KeyError for any user
    assert cache_folder().is_absolute()
    assert len(load_images(tmp_path / "mine").images) == 7


@needs_mnist
@pytest.mark.parametrize(("name", "train", "n"), [("mnist", False, 10_000), ("fashion", True, 60_000)])
def test_real_data(name, train, n):
    data = load_images(name, train=train, strict=True)
    assert data.images.shape == (n, 1, 28, 28)
    assert data.labels.bincount().min() > 0.05 * n
    assert len(data.classes) == 10


# ---- stand-ins and downloads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape"), [("fashion", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_drawn_digits_stand_in_with_one_warning(nowhere, name, shape):
    with pytest.warns(UserWarning, match="Drawn digits stand in .*: no download host can be reached") as caught:
        data = load_images(name)
    assert len(caught) == 1
    assert data.images.shape == (10_000, *shape)
    assert (
        data.source
        == f"Drawn digits, standing in for {datasets.DATASETS[name]} (no download host can be reached), training seed."
    )
    with pytest.raises(DataError, match="set DDPM_DATA"):
        load_images(name, strict=True)
    if name == "cifar10":
        with pytest.raises(
            DataError, match=r"go on where it broke: `curl -L -C - -O https:.*`tar -xzf cifar-10-python"
        ):
            load_images(name, strict=True)


def test_digits_by_name_or_path_need_no_warning(nowhere, recwarn):
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

    behaviour = "good"
    requests = 0
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
        if self.behaviour == "wrong":
            content = b"<html>Please log in</html>"
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
def mirror(tmp_path, monkeypatch):
    """torchvision's MNIST pointed at a host on this machine, with small files under their own checksums."""
    monkeypatch.setenv("DDPM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    Mirror.files = {
        f"{half}-{part}-ubyte.gz": gzip.compress(idx_bytes(array))
        for half in ("train", "t10k")
        for part, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS))
    }
    Mirror.behaviour, Mirror.requests, Mirror.over = "good", 0, threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in Mirror.files.items()]
    monkeypatch.setattr(MNIST, "resources", sums)
    yield tmp_path
    Mirror.over.set()
    server.shutdown()


def test_download_once_then_cache(mirror, capsys):
    first = load_images("mnist", strict=True)
    assert "Downloading MNIST, once: 12 MB, about 1 min" in capsys.readouterr().out
    assert "downloaded" in first.source
    assert torch.equal(first.images[:, 0], torch.from_numpy(IMAGES))
    Mirror.requests = 0
    assert "earlier download" in load_images("mnist", strict=True).source
    assert Mirror.requests == 0
    for file in (mirror / "cache" / "ddpm_helpers" / "mnist" / "MNIST" / "raw").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"files are missing in .*mnist: delete that folder"):
        load_images("mnist", strict=True)


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("403", "a filter before it, refuses .*403"),
        ("407", "the proxy wants a name and a password"),
        ("503", "busy or out of order: try again later"),
        ("half", "download failed"),
        ("wrong", "download failed .*corrupted"),
    ],
)
def test_bad_download_is_never_taken_for_data_and_its_cause_is_named(mirror, behaviour, says):
    Mirror.behaviour = behaviour
    with pytest.warns(UserWarning, match=f"Drawn digits stand in for MNIST: .*{says}.*set DDPM_DATA"):
        assert "standing in" in load_images("mnist").source
    assert not list((mirror / "cache").rglob("*ubyte")), "nothing half done may stay"
    Mirror.behaviour = "good"
    assert "downloaded" in load_images("mnist").source


@pytest.mark.parametrize("behaviour", ["silent", "silent later", "stalls"])
def test_a_host_that_falls_silent_is_not_waited_for(mirror, monkeypatch, behaviour):
    """A silence of 5 seconds is borne; here of 1, unless `make soak` wants it all. The host's own lasts 60."""
    monkeypatch.setattr(MNIST, "mirrors", MNIST.mirrors * 2)
    silence = float(os.environ.get("DDPM_TEST_SILENCE", "1"))
    monkeypatch.setattr(datasets, "NETWORK_SECONDS", silence)
    Mirror.behaviour = behaviour
    began = time.monotonic()
    with pytest.warns(UserWarning, match="Drawn digits stand in for MNIST: the host is silent"):
        assert "standing in" in load_images("mnist").source
    assert time.monotonic() - began < silence + 20  # most of it for a machine that is busy otherwise
    assert not list((mirror / "cache").rglob("*ubyte*")), "nothing half done may stay"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device"), "the download failed .*No space left on device"),
        (TimeoutError(), "the host is silent .TimeoutError"),
        (OSError("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] self-signed>"), "certificate is not trusted here"),
        (OSError("<urlopen error Tunnel connection failed: 407 Proxy Authentication>"), "HTTPS_PROXY=http://name"),
    ],
)
def test_each_cause_has_its_sentence(mirror, monkeypatch, error, says):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fails)
    with pytest.warns(UserWarning, match=says):
        load_images("mnist")


def test_two_processes_at_once(mirror):
    """Both get the images; one downloads, the other waits for it."""
    code = (
        "import torchvision.datasets as d\n"
        f"d.MNIST.mirrors, d.MNIST.resources = {MNIST.mirrors!r}, {MNIST.resources!r}\n"
        "from ddpm_helpers import load_images\n"
        "print(load_images('mnist', strict=True).images.sum().item())"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [int(job.communicate(timeout=120)[0].split()[-1]) for job in jobs] == [int(IMAGES.sum(dtype=int))] * 2
    assert (
        Mirror.requests <= 10
    )  # torchvision asks twice for each of the 4 files, and each process whether one is there


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
    for epoch in range(3):
        assert sorted(torch.cat(whole[3 * epoch : 3 * epoch + 3]).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(whole[:3]), torch.cat(whole[3:6]))
    for start in range(9):
        rest = list(batches(numbers, 4, 9, seed=3, start=start))
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
    with pytest.raises(ValueError, match="batch_size"):
        next(batches(numbers, 0, 1))


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (10, 5), (3, 7), (1, 3), (7, 14)])
def test_shuffled_indices_are_epochs_laid_end_to_end(n, batch_size):
    cut = [shuffled_indices(n, batch_size, step, seed=4) for step in range(3 * n)]
    assert all(index.shape == (batch_size,) and index.dtype == torch.int64 for index in cut)
    epochs = torch.cat(cut).reshape(-1, n)
    assert len(epochs) == 3 * batch_size
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(n).expand_as(epochs)), "every image once an epoch"
    if n >= 7:  # of fewer, two epochs may be alike by chance
        assert len({tuple(epoch.tolist()) for epoch in epochs}) == len(epochs), "each epoch is shuffled anew"


def test_shuffled_indices_depend_on_seed_and_step_alone():
    first = {step: shuffled_indices(10, 4, step, seed=1).clone() for step in range(20)}
    for step in reversed(range(20)):  # in any order, with other questions between, and whatever is done to the answers
        index = shuffled_indices(10, 4, step, seed=1)
        assert torch.equal(index, first[step])
        index.zero_()
        shuffled_indices(11, 4, step, seed=step)
    assert not torch.equal(first[0], shuffled_indices(10, 4, 0, seed=2))


# ---- drawn digits --------------------------------------------------------------------------------------------------


def test_drawn_digits_are_what_they_say():
    images, labels = synthetic_digits(100, size=20, seed=5)
    assert images.shape == (100, 1, 20, 20)
    assert images.dtype == torch.uint8
    assert labels.bincount().tolist() == [10] * 10
    assert torch.equal(images, synthetic_digits(100, size=20, seed=5)[0])
    assert not torch.equal(images, synthetic_digits(100, size=20, seed=6)[0])
    assert (images.flatten(1).max(1).values > 150).all(), "every image shows ink"
    for name, wrong in {"n": 0, "size": 7, "seed": -1}.items():
        with pytest.raises(ValueError, match=f"{name} must"):
            synthetic_digits(**{"n": 10, name: wrong})
