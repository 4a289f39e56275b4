"""Where images come from, and everything that can be wrong with them."""

import contextlib
import gzip
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
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_helpers import DataError, batches, load_images, read_idx, synthetic_digits, to_float, to_uint8
from ddpm_helpers import data as data_module
from ddpm_helpers import datasets as download_module
from ddpm_helpers.data import shuffled_indices

REAL = Path(os.environ.get("DDPM_DATA", "/nowhere"))
needs_mnist = pytest.mark.skipif(
    not (REAL / "MNIST" / "raw").is_dir(), reason="no real MNIST here: set DDPM_DATA to a torchvision root"
)


def idx_bytes(array: np.ndarray, code: int = 8) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def unreachable(urls):
    raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data folder, an empty cache, and no network."""
    monkeypatch.setenv("DDPM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(download_module, "find_a_host", unreachable)
    return tmp_path


def put_mnist(root: Path, images: np.ndarray, labels: np.ndarray, pack=lambda content: content, suffix="") -> None:
    raw = root / "MNIST" / "raw"
    write(raw / f"train-images-idx3-ubyte{suffix}", pack(idx_bytes(images)))
    write(raw / f"train-labels-idx1-ubyte{suffix}", pack(idx_bytes(labels)))


IMAGES = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
LABELS = np.arange(7, dtype=np.uint8)


# ---- IDX -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", download_module.IDX_TYPES)
def test_idx_reads_every_type(tmp_path, code):
    array = np.arange(24).reshape(2, 3, 4).astype(download_module.IDX_TYPES[code])
    for content in (idx_bytes(array, code), gzip.compress(idx_bytes(array, code))):
        result = read_idx(write(tmp_path / "x", content))
        np.testing.assert_array_equal(result, array)
        assert result.dtype.isnative


GOOD = idx_bytes(IMAGES)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x89PNG" + GOOD, "must start with two zero bytes"),
        (b"", "not an IDX file"),
        (GOOD[:2] + b"\x07" + GOOD[3:], "unknown IDX type code 0x07"),
        (GOOD[:9], "ends before their lengths"),
        (GOOD[:-1], "truncated"),
        (GOOD + b"\0", "too long"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 10**9, 10**9, 10**3), "announces 1000000000 x 1000000000 x 1000"),
        (gzip.compress(GOOD)[:-20], "damaged gzip"),
        (gzip.compress(GOOD)[:100] + b"\xff" * 40 + gzip.compress(GOOD)[140:], "damaged gzip"),
        (gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 4000, 4000, 4), mtime=0), "the file holds 0"),
        (gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 10**9, 10**9, 10**3), mtime=0), "it might be a gzip bomb"),
        (gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 10**8) + bytes(10**8)), "it might be a gzip bomb"),
        (struct.pack(">4B65I", 0, 0, 8, 65, *[1] * 65) + b"\0", "an array that cannot be made"),
        (struct.pack(">4B4I", 0, 0, 8, 4, *[2**32 - 1] * 3, 0), "an array that cannot be made"),
    ],
)
def test_idx_errors_name_file_and_fault(tmp_path, content, says):
    path = write(tmp_path / "train-images", content)
    tracemalloc.start()
    with pytest.raises(DataError, match=says) as caught:
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 50e6, "a lying header must not make us allocate"


def test_idx_named_gz_but_not_gzip(tmp_path):
    with pytest.raises(DataError, match="the name says gzip, the content is not"):
        read_idx(write(tmp_path / "images.gz", b"<html>403 Forbidden"))


@pytest.mark.parametrize("name", ["nothing", "x" * 300, "a\0b"])
def test_idx_missing_file(tmp_path, name):
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / name)


def test_idx_of_one_value_only_is_no_bomb(tmp_path):
    labels = np.zeros(60_000, np.uint8)
    assert not read_idx(write(tmp_path / "labels.gz", gzip.compress(idx_bytes(labels)))).any()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_idx_mutations_raise_only_data_error(tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from([GOOD, gzip.compress(GOOD)])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(60, len(content) - 1)))] = data.draw(st.integers(0, 255))
    path = write(tmp_path_factory.getbasetemp() / "mutated", bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(DataError):  # anything else fails the test
        read_idx(path)


# ---- the user's folder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pack", "suffix"), [(lambda content: content, ""), (gzip.compress, ".gz")])
def test_data_folder_plain_and_packed(nowhere, pack, suffix):
    put_mnist(nowhere / "data", IMAGES, LABELS, pack, suffix)
    data = load_images("mnist", strict=True)
    assert data.images.shape == (7, 1, 28, 28)
    assert data.images.dtype == torch.uint8
    assert torch.equal(data.images[:, 0], torch.from_numpy(IMAGES))
    assert data.labels.tolist() == LABELS.tolist()
    assert data.classes == tuple("0123456789")
    assert "your data folder" in data.source


def test_labels_and_images_of_different_length(nowhere):
    put_mnist(nowhere / "data", IMAGES, LABELS[:5])
    with pytest.raises(DataError, match="do not fit together") as caught:
        load_images("mnist")
    assert "train-labels" in str(caught.value)


@pytest.mark.parametrize("wrong", ["floats", "label 10", "signed labels"])
def test_files_that_hold_no_bytes_or_other_labels(nowhere, wrong):
    images, labels, codes = IMAGES, LABELS.copy(), [8, 8]
    if wrong == "floats":
        images, codes[0] = IMAGES.astype(">f4"), 13
    elif wrong == "label 10":
        labels[3] = 10
    else:
        labels, codes[1] = LABELS.astype(">i1") - 1, 9
    raw = nowhere / "data" / "MNIST" / "raw"
    write(raw / "train-images-idx3-ubyte", idx_bytes(images, codes[0]))
    write(raw / "train-labels-idx1-ubyte", idx_bytes(labels, codes[1]))
    with pytest.raises(DataError, match="expected bytes, and labels 0 to 9"):
        load_images("mnist")


def test_damaged_file_in_the_data_folder_is_not_passed_over(nowhere):
    put_mnist(nowhere / "data", IMAGES, LABELS, pack=lambda content: content[:-3])
    with pytest.raises(DataError, match="truncated"):
        load_images("mnist")


def test_data_folder_that_does_not_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("DDPM_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataError, match="DDPM_DATA is set to"):
        load_images("mnist")


def test_data_folder_of_an_unknown_user(monkeypatch):
    monkeypatch.setenv("DDPM_DATA", "~nobody-of-this-name/data")
    with pytest.raises(DataError, match="DDPM_DATA is set to"):
        load_images("mnist")


@pytest.mark.parametrize("name", ["~nobody-of-this-name", "x" * 300, "a\0b"])
def test_names_that_no_folder_can_have(name):
    with pytest.raises(DataError, match="neither a folder nor one of"):
        load_images(name)


@needs_mnist
@pytest.mark.parametrize(
    ("name", "train", "n"), [("mnist", True, 60_000), ("mnist", False, 10_000), ("fashion", True, 60_000)]
)
def test_real_data(name, train, n):
    data = load_images(name, train=train, strict=True)
    assert data.images.shape == (n, 1, 28, 28)
    assert data.labels.bincount().min() > 0.05 * n
    assert len(data.classes) == 10


# ---- stand-ins and downloads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist", (1, 28, 28)), ("fashion", (1, 28, 28)), ("cifar10", (3, 32, 32))]
)
def test_drawn_digits_stand_in_with_one_warning(nowhere, name, shape):
    with pytest.warns(UserWarning, match="Drawn digits stand in") as caught:
        data = load_images(name)
    assert len(caught) == 1
    assert data.images.shape == (10_000, *shape)
    assert "standing in" in data.source


def test_strict_raises_and_says_what_to_do(nowhere):
    with pytest.raises(DataError, match="set DDPM_DATA"):
        load_images("mnist", strict=True)
    with pytest.raises(DataError, match=r"go on where it broke: `curl -L -C - -O https:.*`tar -xzf cifar-10-python"):
        load_images("cifar10", strict=True)


def test_digits_by_name_need_no_warning(nowhere, recwarn):
    assert not torch.equal(load_images("digits").images, load_images("digits", train=False).images)
    assert not recwarn.list


@pytest.mark.parametrize(("wrong", "near"), [("mnits", "mnist"), ("Fashon", "fashion"), ("cifar-10", "cifar10")])
def test_unknown_name_suggests_the_nearest(wrong, near):
    with pytest.raises(DataError, match=f"did you mean '{near}'"):
        load_images(wrong)


class Mirror(http.server.BaseHTTPRequestHandler):
    """A download host on this machine: serves real gz files, or misbehaves as `behaviour` says."""

    behaviour = "good"
    requests = 0
    over = threading.Event()  # until then a silent host keeps silent

    def do_HEAD(self):
        self.send_response(405)
        self.end_headers()

    def do_GET(self):
        Mirror.requests += 1
        if self.behaviour == "silent" or (self.behaviour == "silent later" and Mirror.requests > 1):
            self.over.wait(60)
        if self.behaviour.isdigit():
            self.send_response(int(self.behaviour))
            return self.end_headers()
        content = self.files[self.path.rsplit("/")[-1]]
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
    import hashlib

    from torchvision.datasets import MNIST

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
    second = load_images("mnist", strict=True)
    assert "earlier download" in second.source
    assert Mirror.requests == 0
    assert torch.equal(first.images, second.images)


def test_an_earlier_download_that_lost_its_files(mirror):
    load_images("mnist", strict=True)
    for file in (mirror / "cache" / "ddpm_helpers" / "mnist" / "MNIST" / "raw").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"files are missing in .*mnist: delete that folder"):
        load_images("mnist", strict=True)


@pytest.mark.parametrize("behaviour", ["403", "half", "wrong"])
def test_bad_download_is_never_taken_for_data(mirror, behaviour):
    Mirror.behaviour = behaviour
    with pytest.warns(UserWarning, match="Drawn digits stand in"):
        assert "standing in" in load_images("mnist").source
    assert not list((mirror / "cache").rglob("*ubyte")), "nothing half done may stay"
    Mirror.behaviour = "good"
    assert "downloaded" in load_images("mnist").source


@pytest.mark.parametrize("behaviour", ["silent", "silent later", "stalls"])
def test_a_host_that_falls_silent_is_not_waited_for(mirror, monkeypatch, behaviour):
    """A silence of 5 seconds is borne; here of 1, unless `make soak` wants it all. The host's own lasts 60."""
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", MNIST.mirrors * 2)
    silence = float(os.environ.get("DDPM_TEST_SILENCE", "1"))
    monkeypatch.setattr(download_module, "NETWORK_SECONDS", silence)
    Mirror.behaviour = behaviour
    began = time.monotonic()
    with pytest.warns(UserWarning, match="Drawn digits stand in"):
        assert "standing in" in load_images("mnist").source
    assert time.monotonic() - began < silence + 20  # most of it for a machine that is busy otherwise
    assert not list((mirror / "cache").rglob("*ubyte*")), "nothing half done may stay"


def test_cache_that_cannot_be_written(mirror):
    (mirror / "cache").write_text("a file where the cache folder should be")
    with pytest.warns(UserWarning, match=r"the download .*failed"):
        load_images("mnist")
    with pytest.raises(DataError, match="failed"):
        load_images("mnist", strict=True)


def test_full_disk_while_downloading(mirror, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        load_images("mnist")


def test_a_download_that_fails_without_a_word(mirror, monkeypatch):
    def silent(*_, **__):
        raise TimeoutError

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", silent)
    with pytest.warns(UserWarning, match="TimeoutError"):
        load_images("mnist")


def test_a_path_is_a_name_too_and_train_is_no_word():
    assert load_images(Path("digits"), train=False).source == load_images("digits", train=False).source
    with pytest.raises(DataError, match=r"train is True .* got 'test'"):
        load_images("mnist", train="test")


def test_two_processes_at_once(mirror):
    """Both get the images; one downloads, the other waits for it."""
    from torchvision.datasets import MNIST

    code = (
        "import torchvision.datasets as d\n"
        f"d.MNIST.mirrors, d.MNIST.resources = {MNIST.mirrors!r}, {MNIST.resources!r}\n"
        "from ddpm_helpers import load_images\n"
        "print(load_images('mnist', strict=True).images.sum().item())"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [int(job.communicate(timeout=120)[0].split()[-1]) for job in jobs] == [int(IMAGES.sum(dtype=int))] * 2
    assert Mirror.requests <= 10  # each of the 4 files once, for which torchvision asks twice; is there a host at all?


# ---- the two forms, and batches -------------------------------------------------------------------------------------


def test_float_and_back_is_exact():
    greys = torch.arange(256, dtype=torch.uint8)
    assert to_float(greys).min() == -1
    assert to_float(greys).max() == 1
    assert torch.equal(to_uint8(to_float(greys)), greys)
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
    for bad, found in ((greys.float(), "torch.float32"), (greys.numpy(), "ndarray: torch.as_tensor makes one")):
        with pytest.raises(TypeError, match=f"expected a uint8 tensor .*, got {found}"):
            to_float(bad)
    for bad, found in ((greys, "torch.uint8"), (greys.numpy() / 255, "ndarray: torch.as_tensor makes one")):
        with pytest.raises(TypeError, match=f"expected a float tensor .*, got {found}"):
            to_uint8(bad)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_size_is_for_folders(name):
    with pytest.raises(DataError, match=f"size is for a folder of pictures, and {name} comes in one size"):
        load_images(name, size=32)


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


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (10, 10), (10, 5), (3, 7), (1, 3), (5, 1), (7, 14)])
def test_shuffled_indices_are_epochs_laid_end_to_end(n, batch_size):
    steps = 3 * n  # a whole number of epochs, batch_size times three
    cut = [shuffled_indices(n, batch_size, step, seed=4) for step in range(steps)]
    assert all(index.shape == (batch_size,) and index.dtype == torch.int64 for index in cut)
    epochs = torch.cat(cut).reshape(-1, n)
    assert len(epochs) == 3 * batch_size
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(n).expand_as(epochs)), "every image once an epoch"
    if n >= 7:  # of fewer, two epochs may be alike by chance
        assert len({tuple(epoch.tolist()) for epoch in epochs}) == len(epochs), "each epoch is shuffled anew"


def test_shuffled_indices_depend_on_seed_and_step_alone():
    steps = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    first = {step: shuffled_indices(10, 4, step, seed=1).clone() for step in range(20)}
    for step in steps:  # in any order, with other questions between, and whatever is done to the answers
        index = shuffled_indices(10, 4, step, seed=1)
        assert torch.equal(index, first[step])
        index.zero_()
        torch.rand(3)
        shuffled_indices(11, 4, step, seed=step)
    assert not torch.equal(first[0], shuffled_indices(10, 4, 0, seed=2))


# ---- drawn digits ---------------------------------------------------------------------------------------------------


def test_drawn_digits_are_what_they_say():
    images, labels = synthetic_digits(100, size=20, seed=5)
    assert images.shape == (100, 1, 20, 20)
    assert images.dtype == torch.uint8
    assert labels.bincount().tolist() == [10] * 10
    again, _ = synthetic_digits(100, size=20, seed=5)
    other, _ = synthetic_digits(100, size=20, seed=6)
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    assert (images.flatten(1).max(1).values > 150).all(), "every image shows ink"


@pytest.mark.parametrize("wrong", [{"n": 0}, {"size": 7}, {"seed": -1}])
def test_drawn_digits_bad_arguments(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        synthetic_digits(**{"n": 10, **wrong})
