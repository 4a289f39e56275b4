"""The slider of notebook 02, moved without a browser."""

import torch

from ddpm_helpers import cosine_schedule, linear_schedule, viz


def explorer(**arguments):
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.rand(3, 1, 4, 6, generator=generator) * 2 - 1, torch.randn(3, 1, 4, 6, generator=generator)
    return viz.explore_forward([linear_schedule(300), cosine_schedule(50)], x0, noise, **arguments)


def test_every_position_has_its_own_picture():
    box = explorer(positions=5)
    (names, slider), (label, image) = box.children[0].children, box.children[1:]
    seen, labels = set(), []
    for name in names.options:
        names.value = name
        for slider.value in range(5):
            seen.add(bytes(image.value))
            labels.append(label.value)
    assert len(seen) == 10
    assert all(picture.startswith(b"\x89PNG") for picture in seen)
    assert labels[0].startswith("t = 1 of 300")
    assert labels[4].startswith("t = 300 of 300")
    assert labels[9].startswith("t = 50 of 50: 0.001 x image + 1.000 x noise")


def test_pictures_are_not_drawn_while_moving(monkeypatch):
    box = explorer(positions=3)
    monkeypatch.setattr(viz, "q_sample", None)  # would raise if it were called now
    slider = box.children[0].children[1]
    before = box.children[2].value
    slider.value = 2
    assert box.children[2].value != before
