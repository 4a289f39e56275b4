"""Pictures: pixel values are kept or clipped, never rescaled; every picture has its text."""

import io

import numpy as np
import pytest
import torch
from IPython.display import Image
from PIL import Image as Picture

from ddpm_helpers import Step, viz


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order."""
    pictures: list[Image] = []
    monkeypatch.setattr(viz, "display", lambda picture, **_: pictures.append(picture))
    return pictures


def pixels(image: Image) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(image.data)).convert("L"))


def test_floats_are_clipped_not_rescaled():
    faint = torch.tensor([-0.1, 0.0, 0.1]).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(viz._pixels(faint, (-1, 1))[0, 0], [0.45, 0.5, 0.55], atol=1e-6)
    np.testing.assert_allclose(viz._pixels(30 * faint, (-1, 1))[0, 0], [0, 0.5, 1])
    np.testing.assert_allclose(
        viz._pixels(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), (-1, 1))[0, 0], [0, 0.2, 1]
    )


def test_mosaic_keeps_order_and_colour():
    grey, colour = np.zeros((2, 4, 3)), np.ones((1, 4, 3, 3)) * [1, 0, 0]
    canvas, size = viz._mosaic([grey, colour])
    assert size == (4, 3)
    assert canvas.shape == (2 * 4 + viz.GAP, 2 * 3 + viz.GAP, 3)
    assert canvas[0, 0].tolist() == [0, 0, 0]
    assert canvas[-1, 0].tolist() == [1, 0, 0]
    assert canvas[-1, -1].tolist() == [1, 1, 1], "the missing fourth picture is white"


def test_every_picture_has_its_text(shown):
    viz.image_grid(-torch.ones(10, 1, 8, 8), columns=4, alt="ten black squares")
    viz.image_rows({"a": torch.zeros(3, 3, 8, 8)}, titles=["x", "y", "z"], alt="three")
    assert [picture.metadata["alt"] for picture in shown] == ["ten black squares", "three"]
    assert (pixels(shown[0]) < 5).mean() > 0.3


def test_grey_pictures_have_one_channel_and_others_keep_their_colours(shown):
    red = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1).expand(2, 3, 8, 8)
    viz.image_grid(torch.zeros(2, 1, 8, 8), alt="two grey squares")
    viz.image_grid(red, alt="two red squares")
    grey, colour = (Picture.open(io.BytesIO(picture.data)) for picture in shown)
    assert grey.mode == "L"
    assert 128 in np.asarray(grey)
    assert (np.asarray(colour.convert("RGB")) == (255, 0, 0)).all(-1).any()


def test_images_of_a_wrong_shape():
    with pytest.raises(ValueError, match="expected images"):
        viz.image_rows({"a": torch.zeros(28, 28)[None]}, alt="")


def test_live_loss(shown, capsys):
    live = viz.LiveLoss(6, label="error", seconds=1e9)
    for step in range(6):
        live(torch.tensor(float(step + 1), requires_grad=True))
    assert live.means(2) == [1.5, 3.5, 5.5]
    assert live.means(4) == [2.5], "an incomplete stretch is left out"
    assert "6/6" in capsys.readouterr().out
    assert not live.losses.requires_grad


def test_live_loss_takes_numbers_and_no_step_too_many(shown):
    live = viz.LiveLoss(1, seconds=1e9)
    live(0.5)
    with pytest.raises(ValueError, match="made for 1 steps, and this is one more"):
        live(0.5)


def test_curves_that_need_a_gradient(shown):
    y = torch.rand(3, requires_grad=True)
    viz.plot_curves({"a": y, "b": ([1, 2, 3], y)}, alt="")
    viz.plot_panels({"a": {"b": ([1, 2, 3], y)}}, alt="")


def test_live_loss_goes_on_where_a_run_stood(shown, capsys):
    before = torch.tensor([4.0, 2.0])
    live = viz.LiveLoss(4, losses=before, seconds=1e9)
    for value in (3.0, 1.0):
        live(torch.tensor(value))
    assert live.means(2) == [3.0, 2.0]
    assert before.tolist() == [4.0, 2.0], "the tensor that was given is left alone"
    assert shown[0].metadata["alt"] == "Curve of loss over 2 steps: it falls from 4.0000 to 2.0000"
    out = capsys.readouterr().out
    assert "2/4" in out
    assert "4/4" in out


def test_live_loss_shows_samples(monkeypatch):
    shown, made, clock = [], [], [0.0]

    class Handle:
        def update(self, picture):
            shown.append(picture)

    def samples():
        made.append(clock[0])
        clock[0] += 1.0  # sampling takes a second
        return torch.zeros(3, 1, 8, 8)

    monkeypatch.setattr(viz, "display", lambda picture, **_: (shown.append(picture), Handle())[1])
    monkeypatch.setattr(viz.time, "monotonic", lambda: clock[0])
    live = viz.LiveLoss(100, seconds=6, samples=samples)
    for _ in range(100):
        clock[0] += 0.5
        live(torch.tensor(1.0))
    assert 3 <= len(made) <= 6, "about a tenth of the 50 seconds"
    assert made[-1] == 50 + len(made) - 1, "the last one after the last step"
    assert "samples" not in shown[0].metadata["alt"]
    assert (
        shown[-1].metadata["alt"]
        == "Curve of loss over 100 steps: it falls from 1.0000 to 1.0000; below it, samples of the model"
    )
    assert pixels(shown[-1]).shape[0] > pixels(shown[0]).shape[0]
    assert not any(loss.requires_grad for loss in live.losses)


def test_curves_on_logarithmic_axes(shown, monkeypatch):
    figures = []
    monkeypatch.setattr(viz, "show", lambda figure, alt: figures.append(figure))
    viz.plot_curves({"a": torch.arange(1, 9)}, alt="a line", log="x")
    viz.plot_curves({"a": torch.arange(1, 9)}, alt="a line", log="xy")
    scales = [(figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) for figure in figures]
    assert scales == [("log", "linear"), ("log", "log")]


def test_panels_share_their_axis(monkeypatch):
    figures = []
    monkeypatch.setattr(viz, "show", lambda figure, alt: figures.append(figure))
    viz.plot_panels({"a": {"one": ([0, 1], torch.tensor([0, 9]))}, "b": {"one": ([0, 1], [0, 1])}}, alt="two panels")
    left, right = figures[0].axes
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[1] >= 9


def test_growth_begins_at_one_beside_the_expected_slope(monkeypatch):
    figures = []
    monkeypatch.setattr(viz, "show", lambda figure, alt: figures.append(figure))
    viz.plot_growth({"pixels": ([1, 4], {"time": [3.0, 12.0]}, 1), "base": ([8, 16], {"time": [1, 5]}, 2)}, alt="two")
    lines = [[line.get_ydata().tolist() for line in axis.lines] for axis in figures[0].axes]
    assert lines == [[[1, 4], [1, 4]], [[1, 5], [1, 4]]]


def test_heat_maps(shown):
    table = torch.linspace(-1, 1, 40).reshape(10, 4)
    viz.heat_maps({"one": table, "two": table[:5]}, alt="two tables")
    viz.heat_maps({"one": table}, alt="one table")
    assert [picture.metadata["alt"] for picture in shown] == ["two tables", "one table"]


def test_animation_holds_every_frame_and_pauses_at_the_end(shown):
    frames = [torch.full((6, 1, 4, 5), level) for level in (-3.0, 0.0, 0.5)]
    viz.animate(frames, columns=3, seconds=0.1, pause=2.0, alt="three greys")
    (shown,) = shown
    assert shown._repr_mimebundle_()[1]["image/gif"]["alt"] == "three greys"
    film = Picture.open(io.BytesIO(shown.data))
    assert film.n_frames == 3
    assert film.info["loop"] == 0
    levels, durations = [], []
    for i in range(3):
        film.seek(i)
        durations.append(film.info["duration"])
        picture = np.asarray(film.convert("L"))
        levels.append(picture[0, 0].item())
        assert picture.shape == (2 * (2 * 4 + viz.GAP), 2 * (3 * 5 + 2 * viz.GAP))
        assert picture[2 * 4, 0] == 255, "a white gap between the rows"
    assert durations == [100, 100, 2000]
    assert levels[0] == 0, "clipped"
    assert abs(levels[1] - 127.5) < 20, "rounded to a few greys, not rescaled"
    assert levels[2] == 191, "the last frame is not rounded"


def test_animation_in_colour(shown):
    red = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1).expand(2, 3, 4, 4)
    viz.animate([red, -red], alt="red, then the opposite")
    film = Picture.open(io.BytesIO(shown[0].data))
    assert film.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_trajectory_explorer():
    images = torch.linspace(-1, 1, 10).reshape(10, 1, 1, 1, 1).expand(10, 3, 1, 4, 6)
    path = [Step(9 - i, images[i], -images[i]) for i in range(10)]
    slider, label, image = viz.explore_trajectory(path, positions=4).children
    seen, labels = set(), []
    for slider.value in range(4):
        seen.add(bytes(image.value))
        labels.append(label.value.split(":")[0])
    assert labels == ["t = 9", "t = 6", "t = 3", "t = 0"]
    assert len(seen) == 4
    shown = np.asarray(Picture.open(io.BytesIO(image.value)))
    assert (shown[0, 0], shown[-1, 0]) == (255, 0), "above the images, below the guesses"
    assert slider.max == 3
    assert viz.explore_trajectory(path[:2]).children[0].max == 1


def test_points_of_all_panels_share_axes(shown):
    near, labels = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0]]), torch.tensor([3, 7, 7])
    viz.plot_points({"a": (near, labels), "b": (100 * near, labels)}, alt="Points of two classes, twice")
    picture = pixels(shown[0])
    left, right = picture[:, : picture.shape[1] // 2], picture[:, picture.shape[1] // 2 :]
    assert left.shape[0] > 300
    assert (left < 128).any()
    assert (right < 128).any()


def test_ladder_chart_names_every_system_from_the_best(shown):
    rows = [
        {"name": name, "frechet": distance, "floor": 5.0, "parameters": 1000, "images_per_second": 10.0}
        for name, distance in (("naive net", 300.0), ("net, published", 90.0), ("net, repaired", 20.0))
    ]
    viz.plot_ladder({"systems": rows})
    assert "net, repaired 20, net, published 90, naive net 300; real images 5" in shown[0].metadata["alt"]
    drawn = {tuple(colour) for colour in np.asarray(Picture.open(io.BytesIO(shown[0].data))).reshape(-1, 3).tolist()}
    for colour in viz.COLOURS[:3]:  # one for each kind
        assert tuple(bytes.fromhex(colour[1:])) in drawn


def test_levers_chart_names_every_variant_from_the_best(shown):
    rows = [
        {"name": name, "frechet": distance, "train_steps": steps}
        for name, distance, steps in (("net", 20.0, 9), ("net, seed 1", 22.0, 9), ("slow", 90.0, 5), ("other", 15.0, 9))
    ]
    viz.plot_levers({"systems": rows})
    assert "other 15, net 20, net, seed 1 22, slow 90" in shown[0].metadata["alt"]
    drawn = {tuple(colour) for colour in np.asarray(Picture.open(io.BytesIO(shown[0].data))).reshape(-1, 3).tolist()}
    for colour in viz.COLOURS[:2]:  # as many steps, and another number
        assert tuple(bytes.fromhex(colour[1:])) in drawn
