"""Folders of pictures: every kind of picture, every way in which one can be bad, and the cache."""

import os
import sys
from pathlib import Path

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


def picture(path: Path, size=(8, 6), mode="RGB", colour=120, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def noisy(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def half(path: Path, size=(64, 64)) -> None:
    noisy(*size).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# ---- layouts, and what is left out ---------------------------------------------------------------------------------


def test_folder_with_classes_and_the_line_about_it(tmp_path, capsys, recwarn):
    picture(tmp_path / "dog" / "b.jpg")
    picture(tmp_path / "dog" / "deeper" / "c.png", mode="L")
    picture(tmp_path / "cat" / "a.PNG")
    for hidden in (tmp_path / "._a.png", tmp_path / ".ipynb_checkpoints" / "a.png"):
        picture(hidden, size=(99, 99))
    for other in ("notes.txt", "dog/a.heic", "dog/b.HEIC"):
        (tmp_path / other).write_text("not for Pillow")
    (tmp_path / "folder.png").mkdir()
    data = load_images(tmp_path)
    assert data.images.shape == (3, 3, 6, 8)
    assert data.images.dtype == torch.uint8
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 1, 1]
    assert data.labels.dtype == torch.int64
    [line] = capsys.readouterr().out.splitlines()
    assert line == (
        f"{tmp_path.name}: (3, 3, 6, 8), classes cat (1), dog (2); left out: 2 .heic (no kind that Pillow reads), "
        "1 .txt (no kind that Pillow reads)"
    )
    assert not recwarn.list


def test_flat_grey_folder_with_one_picture(tmp_path, capsys, own_cache):
    picture(tmp_path / "a.png", mode="L")
    data = load_images(tmp_path)
    assert data.images.shape == (1, 1, 6, 8)
    assert data.images.unique().tolist() == [120]
    assert data.classes == (tmp_path.name,)
    assert "left out: nothing" in capsys.readouterr().out
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
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere" / "lost.png").symlink_to(tmp_path / "nothing")
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
    ("name", "says"),
    [
        ("a.heic", "no pictures here that Pillow reads; found: 1 .heic"),
        (".hidden.png", "no pictures here that Pillow reads; found: nothing"),
        ("a.jpg", r"none of the 1 pictures can be read; .*a\.jpg \(not a picture\)"),
    ],
)
def test_folder_without_pictures(tmp_path, name, says):
    (tmp_path / name).write_text("no picture")
    with pytest.raises(DataError, match=says):
        load_images(tmp_path)


def test_mixed_sizes_need_a_size(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", size=(9, 9))
    with pytest.raises(DataError, match=r"a.png is 8x6, b.png is 9x9; load_images\(folder, size=32\)"):
        load_images(tmp_path)
    assert load_images(tmp_path, size=4).images.shape == (2, 3, 4, 4)
    for size in (0, 2.5, "32"):
        with pytest.raises(DataError, match="at least 1, got"):
            load_images(tmp_path, size=size)
    with pytest.raises(DataError, match=r"need 600,000\.0 GB of memory"):
        load_images(tmp_path, size=10**7)


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


def palette() -> Image.Image:
    return Image.new("RGB", (8, 6), (255, 0, 0)).convert("P", palette=Image.Palette.ADAPTIVE)


def sixteen(values: list[int]) -> Image.Image:
    return Image.fromarray(np.tile(np.array(values, np.uint16), (6, 4)))


KINDS = {
    "one_bit.png": (Image.new("1", (8, 6), 1), {}, [255]),
    "grey.pgm": (Image.new("L", (8, 6), 120), {}, [120]),
    "sixteen.png": (sixteen([32896, 60000]), {}, [128]),
    "sixteen.tif": (sixteen([65535, 65535]), {}, [255]),
    "grey_alpha.png": (Image.new("LA", (8, 6), (0, 0)), {}, [255]),
    "half_alpha.png": (Image.new("RGBA", (8, 6), (0, 0, 0, 128)), {}, [127] * 3),
    "alpha.png": (Image.new("RGBA", (8, 6), (9, 9, 9, 0)), {}, WHITE),
    "palette.png": (palette(), {}, RED),
    "palette.gif": (palette(), {}, RED),
    "see_through.gif": (Image.new("P", (8, 6), 3), {"transparency": 3}, WHITE),
    "see_through.png": (Image.new("RGB", (8, 6), (120, 120, 120)), {"transparency": (120, 120, 120)}, WHITE),
    "cmyk.jpg": (Image.new("CMYK", (8, 6), (0, 255, 255, 0)), {"quality": 100}, [254, 0, 0]),
    "colour.bmp": (Image.new("RGB", (8, 6), (120, 120, 120)), {}, GREY),
    "colour.jfif": (Image.new("RGB", (8, 6), (120, 120, 120)), {"format": "JPEG"}, GREY),
    "colour.webp": (Image.new("RGB", (8, 6), (120, 120, 120)), {"lossless": True}, GREY),
    "colour.avif": (Image.new("RGB", (8, 6), (120, 120, 120)), {}, GREY),
}


@pytest.mark.parametrize("name", KINDS)
def test_kind(tmp_path, name, recwarn):
    if name.endswith("avif") and "avif" not in features.get_supported_modules():
        pytest.skip("this Pillow cannot write AVIF")
    made, options, expected = KINDS[name]
    made.save(tmp_path / name, **options)
    image = load_images(tmp_path).images[0]
    assert image.shape == (len(expected), 6, 8)
    assert (image[:, 2, 2] - torch.tensor(expected)).abs().max() <= 1
    assert not recwarn.list


def test_values_that_make_no_sense_for_a_picture(tmp_path):
    """Depths in millimetres, a mask of 0 and 1, and the same as a palette whose colours are as dark."""
    mask = Image.fromarray(np.tile(np.array([0, 1], np.uint8), (6, 4)))
    sixteen([300, 4000]).save(tmp_path / "depth.png")
    mask.save(tmp_path / "mask.png")
    mask.convert("P").save(tmp_path / "palette.png")
    picture(tmp_path / "photo.png")
    says = (
        r"3 pictures nearly black; masks, .*depth\.png \(no value above 4,000 of 65,535\), mask\.png \(no value above 1"
    )
    with pytest.warns(UserWarning, match=says + r" of 255\), palette\.png"):
        assert len(load_images(tmp_path).images) == 4


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


def test_animation_gives_its_first_frame_and_a_warning(tmp_path):
    frames = [Image.new("P", (8, 6), i) for i in range(3)]
    frames[0].putpalette([255, 0, 0] + [0] * 765)
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"of 1 animated picture only the first frame is taken: a\.gif"):
        assert load_images(tmp_path).images[0, :, 0, 0].tolist() == RED


def test_small_pictures_are_counted_and_a_long_strip_is_cheap(tmp_path):
    for i in range(8):
        picture(tmp_path / f"{i}.png", size=(1, 20_000) if i < 7 else (40, 40))
    with pytest.warns(UserWarning, match="7 pictures smaller than 16x16 enlarged.*4.png and 2 more") as caught:
        load_images(tmp_path, size=16)
    assert len(caught) == 1


# ---- bad files -----------------------------------------------------------------------------------------------------


def test_unreadable_files_are_named_once_and_skipped(tmp_path, capsys):
    for name, colour in {"cat/a.png": 10, "cat/f.png": 20, "dog/z.png": 30}.items():
        picture(tmp_path / name, mode="L", colour=colour, size=(64, 64))
    half(tmp_path / "cat" / "b.png")
    (tmp_path / "cat" / "c.jpg").write_text("no picture")
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "d.jpg").write_bytes(b"")
    with pytest.warns(UserWarning, match="skipped 3 files that cannot be read") as caught:
        data = load_images(tmp_path)
    assert len(caught) == 1
    said = str(caught[0].message)
    assert all(Path(name).as_posix() in said.replace("\\", "/") for name in ("bird/d.jpg", "cat/b.png", "cat/c.jpg"))
    assert str(tmp_path) not in said
    assert "left out: 3 that cannot be read" in capsys.readouterr().out
    assert data.images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert data.labels.tolist() == [0, 0, 1]
    assert data.classes == ("cat", "dog"), "a class without a picture is none"


@pytest.mark.parametrize("pixels", [40, 20])  # Pillow refuses above twice the limit, and warns above the limit
def test_decompression_bomb_is_skipped(tmp_path, monkeypatch, pixels):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * pixels // 10)
    picture(tmp_path / "a.png", size=(4, 4))
    picture(tmp_path / "bomb.png", size=(8, 16))
    with pytest.warns(UserWarning, match=r"skipped 1 file .*bomb\.png \(too many pixels") as caught:
        assert len(load_images(tmp_path, size=2).images) == 1
    assert len(caught) == 1


def test_floats_and_32_bits_have_no_known_range(tmp_path):
    picture(tmp_path / "a.png", mode="L")
    Image.new("F", (8, 6), 0.5).save(tmp_path / "b.tif")
    Image.new("I", (8, 6), 70_000).save(tmp_path / "c.tif")
    with pytest.warns(UserWarning, match=r"skipped 2 files .*b\.tif .*unknown range.*c\.tif .*more than 16 bits"):
        assert len(load_images(tmp_path).images) == 1


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


def no_reading(*_, **__):
    raise AssertionError("the pictures are read again")


def test_second_load_reads_no_picture_and_says_the_same(kept, monkeypatch, own_cache, capsys):
    with pytest.warns(UserWarning, match="skipped 1 file") as first:
        again = load_images(kept)
    monkeypatch.setattr(pictures_module, "_read_all", no_reading)
    with pytest.warns(UserWarning, match="skipped 1 file") as second:
        data = load_images(kept)
    assert str(first[0].message) == str(second[0].message)
    assert len(set(capsys.readouterr().out.splitlines())) == 1
    assert torch.equal(data.images, again.images)
    assert (data.labels.tolist(), data.classes) == ([0, 0, 1], ("cat", "dog"))
    [file] = cache_files(own_cache)
    assert torch.equal(read(file, "pictures")["images"], data.images)


@pytest.mark.filterwarnings("ignore:.*skipped 1")
@pytest.mark.parametrize("change", ["content", "name", "more", "size"])
def test_any_change_is_read_anew(kept, monkeypatch, change):
    if change == "content":
        picture(kept / "cat" / "a.png", colour="red")
    elif change == "name":
        (kept / "cat" / "a.png").rename(kept / "cat" / "e.png")
    elif change == "more":
        picture(kept / "cat" / "d.png")
    monkeypatch.setattr(pictures_module, "_read_all", no_reading)
    with pytest.raises(AssertionError, match="read again"):
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
    assert data.images.shape == (3, 3, 32, 32)
    assert data.classes == ("cat", "ship")
    assert data.source == "CIFAR10, training images, from your data folder."
    assert len(load_images("cifar10", train=False, strict=True).images) == 1
