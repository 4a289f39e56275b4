"""Folders of pictures: every kind of picture, every way in which one can be bad, and the cache."""

import os
import re
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, features

from ddpm_helpers import DataError, load_images
from ddpm_helpers import pictures as pictures_module
from ddpm_helpers.files import read


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


def picture(path: Path, size=(8, 6), mode="RGB", colour=120) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def half(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# ---- layouts, and what is left out ---------------------------------------------------------------------------------


def test_folder_with_classes_and_the_line_about_it(tmp_path, capsys, recwarn, own_cache):
    for name, mode in {"dog/b.jpg": "RGB", "dog/deeper/c.png": "L", "cat/a.PNG": "RGB"}.items():
        picture(tmp_path / name, mode=mode)
    for hidden in ("._a.png", ".ipynb_checkpoints/a.png"):
        picture(tmp_path / hidden, size=(99, 99))
    for other in ("notes.txt", "dog/a.heic", "dog/b.HEIC"):
        (tmp_path / other).write_text("not for Pillow")
    (tmp_path / "folder.png").mkdir()
    data = load_images(tmp_path)
    assert (data.images.shape, data.images.dtype) == ((3, 3, 6, 8), torch.uint8)
    assert (data.labels.tolist(), data.labels.dtype, data.classes) == ([0, 1, 1], torch.int64, ("cat", "dog"))
    [line] = capsys.readouterr().out.splitlines()
    assert line == (
        f"{tmp_path.name}: (3, 3, 6, 8), classes cat (1), dog (2); left out: 2 .heic (no kind that Pillow reads), "
        "1 .txt (no kind that Pillow reads)"
    )
    assert not recwarn.list
    assert not any(own_cache.iterdir()), "what is read in no time is not kept"


def test_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch, capsys):
    for name in ("cat/a.png", "dog/b.png", "dog/c.png"):
        picture(tmp_path / name)
    scandir = os.scandir

    def forbidding(path):  # root, who runs some of the tests, may read everything
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    assert load_images(tmp_path).classes == ("dog",)
    assert "left out: 1 folder cat (Permission denied)" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_but_not_round_and_not_into_nothing(tmp_path, capsys):
    picture(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "data").mkdir()
    for link, target in {"data/cat": "elsewhere", "elsewhere/round": "data", "elsewhere/lost.png": "nothing"}.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    data = load_images(tmp_path / "data")
    assert (len(data.images), data.classes) == (1, ("cat",))
    assert "1 .png (no file behind the name)" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_names_that_cannot_be_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pictures_module, "KEEP_AFTER", 0)
    name = os.fsdecode(b"caf\xe9")
    for i in range(2):
        picture(tmp_path / name / f"{i}.png")
    assert load_images(tmp_path).classes == load_images(tmp_path).classes == (name,)
    assert r"caf\udce9 (2)" in capsys.readouterr().out


def test_layouts_that_look_wrong(tmp_path):
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / "test" / "b.png")
    with pytest.warns(UserWarning, match="single picture|became classes") as caught:
        load_images(tmp_path)
    assert "each class holds a single picture" in str(caught[0].message)
    assert "test and train became classes: load such a folder by itself" in str(caught[1].message)


@pytest.mark.parametrize(
    ("file", "size", "says"),
    [
        ("a.heic", None, "no pictures here that Pillow reads; found: 1 .heic"),
        (".hidden.png", None, "no pictures here that Pillow reads; found: nothing"),
        ("a.jpg", None, r"none of the 1 pictures can be read; .*a\.jpg \(not a picture\)"),
        ("", None, r"b.png is 8x6, c.png is 9x9; load_images\(folder, size=32\), or --size 32 in a terminal"),
        *[("", size, "at least 1, got") for size in (0, 2.5, "32")],
        ("", 10**7, r"need 600,000\.0 GB of memory"),
    ],
)
def test_folders_and_sizes_that_cannot_be(tmp_path, file, size, says):
    if file:
        (tmp_path / file).write_text("no picture")
    else:
        picture(tmp_path / "b.png")
        picture(tmp_path / "c.png", size=(9, 9))
        assert load_images(tmp_path, size=4).images.shape == (2, 3, 4, 4), "mixed sizes need a size"
    with pytest.raises(DataError, match=says):
        load_images(tmp_path, size=size)


def test_middle_is_kept_and_resized_smoothly(tmp_path):
    """A wide picture: red at both ends, in the middle columns of black and white, one pixel each."""
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, :32, 0] = wide[:, 64:, 0] = 255
    wide[:, 32:64:2] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    image = load_images(tmp_path, size=8).images[0].float()
    assert (image[0] - image[1]).abs().max() == 0, "the ends are cut off"
    assert image[:, 2:-2, 2:-2].sub(127.5).abs().max() < 20, "columns become grey, not black or white"


# ---- kinds of pictures ---------------------------------------------------------------------------------------------

WHITE, GREY, RED = [255] * 3, [120] * 3, [255, 0, 0]
PALETTE = Image.new("RGB", (8, 6), (255, 0, 0)).convert("P", palette=Image.Palette.ADAPTIVE)
COLOUR = Image.new("RGB", (8, 6), (120, 120, 120))


def two_values(*values: int, dtype=np.uint16) -> Image.Image:
    return Image.fromarray(np.tile(np.array(values, dtype), (6, 4)))


KINDS = {
    "one_bit.png": (Image.new("1", (8, 6), 1), {}, [255]),
    "grey.pgm": (Image.new("L", (8, 6), 120), {}, [120]),
    "sixteen.png": (two_values(32896, 60000), {}, [128]),
    "sixteen.tif": (two_values(65535, 65535), {}, [255]),
    "grey_alpha.png": (Image.new("LA", (8, 6), (0, 0)), {}, [255]),
    "half_alpha.png": (Image.new("RGBA", (8, 6), (0, 0, 0, 128)), {}, [127] * 3),
    "alpha.png": (Image.new("RGBA", (8, 6), (9, 9, 9, 0)), {}, WHITE),
    "palette.png": (PALETTE, {}, RED),
    "palette.gif": (PALETTE, {}, RED),
    "see_through.gif": (Image.new("P", (8, 6), 3), {"transparency": 3}, WHITE),
    "see_through.png": (COLOUR, {"transparency": (120, 120, 120)}, WHITE),
    "cmyk.jpg": (Image.new("CMYK", (8, 6), (0, 255, 255, 0)), {"quality": 100}, [254, 0, 0]),
    "colour.bmp": (COLOUR, {}, GREY),
    "colour.jfif": (COLOUR, {"format": "JPEG"}, GREY),
    "colour.webp": (COLOUR, {"lossless": True}, GREY),
    "colour.avif": (COLOUR, {}, GREY),
}


@pytest.mark.parametrize("name", KINDS)
def test_kind_alone_in_a_folder(tmp_path, name, recwarn, capsys):
    if name.endswith("avif") and "avif" not in features.get_supported_modules():
        pytest.skip("this Pillow cannot write AVIF")
    made, options, expected = KINDS[name]
    made.save(tmp_path / name, **options)
    data = load_images(tmp_path)
    assert (data.images.shape, data.classes) == ((1, len(expected), 6, 8), (tmp_path.name,))
    assert (data.images[0, :, 2, 2] - torch.tensor(expected)).abs().max() <= 1
    assert "left out: nothing" in capsys.readouterr().out
    assert not recwarn.list


@pytest.mark.parametrize("end", ["jpg", "tif", "png", "webp"])
def test_photo_is_turned_as_its_camera_says(tmp_path, end):
    made, exif = Image.new("RGB", (8, 6), "white"), Image.Exif()
    made.paste("black", (0, 0, 8, 3))
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    made.save(tmp_path / f"a.{end}", exif=exif, quality=100)
    picture(tmp_path / f"b.{end}", size=(6, 8), colour="white")
    for options in ({}, {"size": 6}):
        images = load_images(tmp_path, **options).images
        assert images.shape == (2, 3, 6 if options else 8, 6)
        assert images[0, 0, 4, 0] > 200 > 50 > images[0, 0, 4, 5], "the black half went to the right"


def test_each_kind_of_trouble_has_one_warning_that_names_its_files(tmp_path, monkeypatch, capsys):
    """Depths in millimetres and masks, also as a palette, are dark; Pillow itself refuses at twice its limit only."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    monkeypatch.setattr(pictures_module, "NAMED", 7)
    for name, colour in {"cat/a.png": 10, "dog/f.png": 20, "bird/a.jpg": 30}.items():
        picture(tmp_path / name, mode="L", colour=colour)
    (tmp_path / "bird" / "a.jpg").write_bytes(b"")
    (tmp_path / "bird" / "b.jpg").write_text("no picture")
    half(tmp_path / "cat" / "b.png")
    frames = [Image.new("P", (8, 6), i) for i in range(3)]
    frames[0].putpalette([*RED] + [0] * 765)
    frames[0].save(tmp_path / "cat" / "c.gif", save_all=True, append_images=frames[1:])
    picture(tmp_path / "cat" / "d.png", size=(200, 200))
    picture(tmp_path / "cat" / "e.png", size=(300, 300))
    two_values(300, 4000).save(tmp_path / "dog" / "a.png")
    picture(tmp_path / "dog" / "b.tif", mode="F", colour=0.5)
    picture(tmp_path / "dog" / "c.tif", mode="I", colour=70_000)
    two_values(0, 1, dtype=np.uint8).save(tmp_path / "dog" / "d.png")
    two_values(0, 1, dtype=np.uint8).convert("P").save(tmp_path / "dog" / "e.png")
    for i in range(9):
        picture(tmp_path / "strip" / f"{i}.png", size=(1, 20_000))
    with pytest.warns(UserWarning, match=tmp_path.name) as caught:
        data = load_images(tmp_path, size=4)
    expected = (
        r"skipped 7 files that cannot be read: bird/a\.jpg \(not a picture\), bird/b\.jpg \(not a picture\), "
        r"cat/b\.png \(.*\), cat/d\.png \(too many pixels.*\), cat/e\.png \(too many pixels.*\), "
        r"dog/b\.tif \(.*unknown range\), dog/c\.tif \(.*more than 16 bits\)",
        r"of 1 animated picture only the first frame is taken: cat/c\.gif",
        r"9 pictures smaller than 4x4 enlarged, and blurred: .*, strip/6\.png and 2 more",
        r"3 pictures nearly black; masks, .*: dog/a\.png \(no value above 4,000 of 65,535\), "
        r"dog/d\.png \(no value above 1 of 255\), dog/e\.png \(no value above 1 of 255\)",
    )
    for warning, says in zip(caught, expected, strict=True):
        assert re.fullmatch(f"{tmp_path.name}: {says}", str(warning.message).replace("\\", "/"))
    assert "left out: 7 that cannot be read" in capsys.readouterr().out
    assert data.classes == ("cat", "dog", "strip"), "a class without a picture is none"
    assert data.labels.bincount().tolist() == [2, 4, 9]
    assert data.images[[0, 1, 5], :, 0, 0].tolist() == [[10] * 3, RED, [20] * 3]


# ---- the cache -----------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A folder whose pictures are kept in the cache, a broken one among them; loads it, and returns it."""
    monkeypatch.setattr(pictures_module, "KEEP_AFTER", 0)
    for name in ("cat/a.png", "cat/b.png", "dog/b.png"):
        picture(tmp_path / name, mode="L")
    half(tmp_path / "dog" / "c.png")
    with pytest.warns(UserWarning, match="skipped 1 file"):
        load_images(tmp_path)
    return tmp_path


def cache_files(own_cache) -> list[Path]:
    return list((own_cache / "ddpm_helpers").rglob("*.*"))


def test_second_load_reads_no_picture_and_says_the_same(kept, monkeypatch, own_cache, capsys):
    monkeypatch.setattr(pictures_module, "_read_all", Mock(side_effect=AssertionError))
    with pytest.warns(UserWarning, match=r"skipped 1 file that cannot be read: dog.c\.png \("):
        data = load_images(kept)
    told = f"{kept.name}: (3, 1, 6, 8), classes cat (2), dog (1); left out: 1 that cannot be read"
    assert capsys.readouterr().out == f"{told}\n"
    assert (data.images.unique().tolist(), data.labels.tolist(), data.classes) == ([120], [0, 0, 1], ("cat", "dog"))
    [file] = cache_files(own_cache)
    assert torch.equal(read(file, "pictures")["images"], data.images)


@pytest.mark.filterwarnings("ignore:.*skipped 1")
@pytest.mark.parametrize("change", ["time", "content", "name", "more", "size"])
def test_any_change_is_read_anew(kept, monkeypatch, change):
    if change == "time":
        os.utime(kept / "cat" / "a.png", (0, 0))
    elif change == "content":
        picture(kept / "cat" / "a.png", colour="red")
    elif change == "name":
        (kept / "cat" / "a.png").rename(kept / "cat" / "e.png")
    elif change == "more":
        picture(kept / "cat" / "d.png")
    monkeypatch.setattr(pictures_module, "_read_all", Mock(side_effect=AssertionError))
    with pytest.raises(AssertionError):
        load_images(kept, size=4 if change == "size" else None)


@pytest.mark.filterwarnings("ignore:.*skipped 1")
@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"\xff" * 200])
def test_damaged_cache_is_made_anew_and_one_that_cannot_be_written_done_without(kept, own_cache, monkeypatch, damage):
    [file] = cache_files(own_cache)
    file.write_bytes(damage(file.read_bytes()))
    assert load_images(kept).images.unique().tolist() == [120]
    assert len(read(file, "pictures")["images"]) == 3
    (own_cache / "file").write_text("a file where the cache folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache / "file"))
    assert len(load_images(kept).images) == 3


def test_progress_bar_only_where_a_reader_sees_it(tmp_path, monkeypatch, capsys):
    for i in range(4):
        picture(tmp_path / f"{i}.png")
    monkeypatch.setattr(pictures_module, "MANY", 3)
    load_images(tmp_path)
    assert "reading" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    load_images(tmp_path)
    assert "reading: 100%" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    load_images(tmp_path)
    assert capsys.readouterr().out == "", "of several processes the first speaks"


def test_cifar10_as_folders_of_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_DATA", str(tmp_path))
    for name in ("train/cat/1.jpg", "train/ship/1.jpg", "train/ship/2.jpg", "test/cat/1.jpg"):
        picture(tmp_path / "cifar10" / name, size=(32, 32))
    data = load_images("cifar10", strict=True)
    assert (data.images.shape, data.classes) == ((3, 3, 32, 32), ("cat", "ship"))
    assert data.source == "CIFAR10, training images, from your data folder."
    assert len(load_images("cifar10", train=False, strict=True).images) == 1
