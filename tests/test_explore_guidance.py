"""The explorer of notebook 11, moved without a browser."""

import pytest
import torch

from ddpm_helpers import viz

IMAGES = torch.rand((3, 4, 2, 1, 5, 6), generator=torch.Generator().manual_seed(0)) * 2 - 1  # (S, K, N, C, H, W)


def test_every_scale_and_digit_has_its_own_picture():
    box = viz.explore_guidance([0, 1.5, 8], IMAGES)
    (asked, slider), (label, image) = box.children[0].children, box.children[1:]
    seen, labels = set(), []
    for asked.value in range(4):
        for slider.value in range(3):
            seen.add(bytes(image.value))
            labels.append(label.value)
    assert len(seen) == 12
    assert all(picture.startswith(b"\x89PNG") for picture in seen)
    assert (labels[0], labels[4], labels[11]) == (
        "scale 0, asked for 0",
        "scale 1.5, asked for 1",
        "scale 8, asked for 3",
    )


def test_the_picture_is_that_of_the_scale_and_the_class():
    box = viz.explore_guidance([0, 1, 2], IMAGES, names=["a", "b", "c", "d"])
    asked, slider = box.children[0].children
    asked.value, slider.value = 2, 1
    assert box.children[2].value == viz._enlarged(IMAGES[1, 2])
    assert box.children[1].value == "scale 1, asked for c"


def test_pictures_are_not_drawn_while_moving(monkeypatch):
    box = viz.explore_guidance([0, 1, 2], IMAGES)
    monkeypatch.setattr(viz, "_enlarged", None)  # would raise if it were called now
    before = box.children[2].value
    box.children[0].children[1].value = 2
    assert box.children[2].value != before
    assert "run this notebook" in repr(box)


@pytest.mark.parametrize(
    ("scales", "images", "names"),
    [([0, 1], IMAGES, None), ([0, 1, 2], IMAGES[0], None), ([0, 1, 2], IMAGES, ["a"])],
)
def test_images_that_do_not_fit(scales, images, names):
    with pytest.raises(ValueError, match=r"expected images \(S, K, N, C, H, W\)"):
        viz.explore_guidance(scales, images, names)
