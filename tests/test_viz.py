"""Pictures: every pixel as wide as every other, nothing rescaled, every picture with its text and its width."""

import io
import itertools
from types import SimpleNamespace

import matplotlib
import matplotlib.style
import numpy as np
import pytest
import torch
from IPython.display import Image
from matplotlib.text import Text
from PIL import Image as Picture

from ddpm_helpers import viz


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order."""
    pictures: list[Image] = []
    monkeypatch.setattr(viz, "display", lambda picture, **_: pictures.append(picture))
    return pictures


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn, in order."""
    drawn, draw = [], viz.chart
    monkeypatch.setattr(viz, "chart", lambda figure: (drawn.append(figure), draw(figure))[1])
    monkeypatch.setattr(viz, "display", lambda *_, **__: None)
    return drawn


def pixels(image) -> np.ndarray:
    """The greys of a picture or an image widget."""
    data = image.data if isinstance(image, Image) else image.value
    return np.asarray(Picture.open(io.BytesIO(data)).convert("L"))


def colours(image: Image) -> set[str]:
    found = Picture.open(io.BytesIO(image.data)).convert("RGB").getcolors(2**20)
    return {f"#{bytes(colour).hex().upper()}" for _, colour in found}


# ---- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [torch.tensor([-3, -0.1, 0, 0.1, 3]), torch.tensor([0, 115, 128, 140, 255]).byte()])
def test_images_are_clipped_not_rescaled(values):
    levels = np.unique(np.asarray(viz.mosaic({"": values.reshape(1, 1, 1, 5).expand(1, 1, 9, 5)})))
    np.testing.assert_allclose(levels, [0, 115, 128, 140, 255], atol=1)


@pytest.mark.parametrize(("side", "columns"), [(5, 3), (28, 7), (28, 16), (32, 12), (64, 9), (200, 2)])
@pytest.mark.parametrize("name", ["", "a row with a long name"])
def test_every_pixel_is_as_wide_as_every_other(side, columns, name):
    stripes = torch.arange(side).remainder(2).expand(columns, 1, side, side) * 1.0 - 0.6  # two greys, in turns
    picture = viz.mosaic({name: stripes, name + " ": stripes}, titles=["title"] * columns)
    line = np.asarray(picture)[picture.height - 12, :, 0]
    runs = [len(list(run)) for level, run in itertools.groupby(line) if level not in (0, 255)]
    assert len(runs) == side * columns
    assert len(set(runs)) == 1
    assert picture.width <= 1600 or runs[0] * side < 110, "as wide as a page, unless images would be tiny"


def test_mosaic_keeps_order_and_colour_frames_white_and_leaves_nan_empty():
    red = torch.tensor([1.0, -1, -1]).reshape(1, 3, 1, 1).expand(1, 3, 4, 3)
    rows = {"": torch.tensor([-1.0, torch.nan]).reshape(2, 1, 1, 1).expand(2, 1, 4, 3), " ": torch.cat([red, abs(red)])}
    canvas, gap = np.asarray(viz.mosaic(rows, width=0, high=8)), viz.GAP
    assert canvas.shape == (2 * 8 + 3 * gap, 2 * 6 + 3 * gap, 3)
    assert canvas[gap, gap].tolist() == [0, 0, 0]
    assert canvas[-gap - 1, gap].tolist() == [255, 0, 0]
    assert (canvas[: gap + 8, gap + 6 :] == 255).all(), "nothing in place of NaN"
    assert canvas[-gap - 1, -gap - 1].tolist() == [255] * 3
    assert canvas[-gap, -gap].tolist() == [160] * 3


def test_every_picture_has_its_text_and_half_its_width_and_grey_one_channel(shown):
    viz.image_grid(torch.zeros(10, 1, 8, 8), columns=4, alt="ten grey squares")
    noise = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    viz.image_rows({"a": noise}, titles=["x", "y", "z"], alt="three")
    viz.plot_curves({name: torch.arange(9) * i for i, name in enumerate("abcdef")}, alt="six lines")
    assert [picture.metadata["alt"] for picture in shown] == ["ten grey squares", "three", "six lines"]
    for picture in shown:
        told = picture._repr_mimebundle_()[1]["image/png"]
        assert told == {"alt": picture.metadata["alt"], "width": pixels(picture).shape[1] / 2}
    assert [Picture.open(io.BytesIO(picture.data)).mode for picture in shown] == ["L", "RGB", "P"]
    assert (pixels(shown[0]) == 128).mean() > 0.3
    assert len(colours(shown[1])) > 900, "images keep theirs"
    assert len(colours(shown[2])) <= 64
    assert set(viz.COLOURS) <= colours(shown[2]), "and lines their own"


def test_images_of_a_wrong_shape_or_kind():
    with pytest.raises(ValueError, match="expected images"):
        viz.image_rows({"a": torch.zeros(28, 28)[None]}, alt="")
    with pytest.raises(ValueError, match=r"as floats or uint8, got \(1, 1, 2, 2\) of torch\.int64"):
        viz.image_grid(torch.zeros(1, 1, 2, 2).long(), alt="")


# ---- charts ---------------------------------------------------------------------------------------------------------


def test_what_a_reader_set_changes_no_chart_and_no_text_is_small():
    def picture():
        figure, axis = viz.subplots()
        axis.plot([1, 2], label="a_b $x$")
        axis.set(title="100 %", xlabel="step", yscale="log")
        axis.legend(title="two", fontsize=6)
        drawn = np.asarray(viz.chart(figure).convert("RGB"))
        assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 9
        return drawn

    expected, own = picture(), {"text.usetex": True, "savefig.bbox": "tight", "legend.frameon": True}
    with matplotlib.style.context(["dark_background", own]):
        assert (picture() == expected).all()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1, 1000, "1 2 5 10 20 50 100 200 500 1000"),
        (0.02, 0.6, "0.02 0.05 0.1 0.2 0.5"),
        (0.55, 0.95, "0.6 0.7 0.8 0.9"),
        (1e-8, 20_000, "1e-8 1e-6 0.0001 0.01 1 100 10,000"),
    ],
)
def test_numbers_on_logarithmic_axes_are_plain(figures, low, high, expected):
    viz.plot_curves({"a": ([low, high], [low, high])}, log="xy", alt="a line")
    axis = figures[0].axes[0]
    axis.set_xlim(low, high)
    marks = [label.get_text() for label in axis.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert " ".join(marks) == expected
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert not any(label.get_text() for label in axis.get_xticklabels(minor=True))


def test_lines_are_named_at_their_ends_where_these_are_apart_and_panels_share_their_axis(figures):
    y = torch.rand(3, requires_grad=True)
    viz.plot_curves({"up": ([1, 2], [0, 1]), "down": ([1, 2], [1, 0])}, alt="")
    viz.plot_curves({"a": y, "b": y + 0.001}, level=1, alt="")
    viz.plot_curves({"short": ([1, 2], [0, 1]), "long": ([1, 3], [1, 0])}, alt="")
    viz.plot_curves({"a": {"one": ([0, 1], torch.tensor([0, 9]))}, "b": {"one": ([0, 1], [0, 1])}}, alt="two panels")
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["up", "down"]
    assert [figure.axes[0].get_legend() is None for figure in figures] == [True, False, False, False]
    left, right = figures[3].axes
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[1] >= 9
    assert (left.get_title(), right.get_title()) == ("a", "b")


# ---- a run ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def updated(monkeypatch):
    """What was displayed in a notebook, in order, updates too."""
    pictures: list[Image] = []
    handle = SimpleNamespace(update=pictures.append)
    monkeypatch.setattr(viz, "display", lambda picture, **_: (pictures.append(picture), handle)[1])
    return pictures


def test_live_loss(shown, capsys):
    live = viz.LiveLoss(6, label="error", seconds=1e9)
    for step in range(6):
        live(torch.tensor(float(step + 1), requires_grad=True) if step else 1.0)
    assert live.means(2) == [1.5, 3.5, 5.5]
    assert live.means(4) == [2.5], "an incomplete stretch is left out"
    assert "6/6" in capsys.readouterr().out
    assert not live.losses.requires_grad
    with pytest.raises(ValueError, match="made for 6 steps, and this is one more"):
        live(0.5)


def test_live_loss_goes_on_where_a_run_stood_and_may_stop_early(shown, capsys):
    before = torch.tensor([4.0, 2.0])
    live = viz.LiveLoss(5, losses=before, seconds=1e9)
    for value in (3.0, 1.0):
        live(torch.tensor(value))
    live.close()
    live.close()
    assert live.means(2) == [3.0, 2.0]
    assert before.tolist() == [4.0, 2.0], "the tensor that was given is left alone"
    assert shown[0].metadata["alt"] == "Curve of loss over 2 steps: from 4.0000 to 2.0000"
    out = capsys.readouterr().out
    assert all(mark in out for mark in ("2/5", "4/5"))


def test_live_loss_shows_samples(monkeypatch, updated):
    made, clock = [], [0.0]

    def samples():
        made.append(clock[0])
        clock[0] += 1.0  # sampling takes a second
        return torch.zeros(3, 1, 28, 28)

    monkeypatch.setattr(viz.time, "monotonic", lambda: clock[0])
    live = viz.LiveLoss(100, seconds=6, samples=samples)
    for _ in range(100):
        clock[0] += 0.5
        live(torch.tensor(1.0))
    assert 3 <= len(made) <= 6, "about a tenth of the 50 seconds"
    assert made[-1] == 50 + len(made) - 1, "the last one after the last step"
    said = "Curve of loss over 100 steps: from 1.0000 to 1.0000; below it, samples of the model"
    assert ("samples" not in updated[0].metadata["alt"], updated[-1].metadata["alt"]) == (True, said)
    assert pixels(updated[-1]).shape[0] > pixels(updated[0]).shape[0] + 160, "not tiny"


@pytest.mark.parametrize("bad", [lambda: torch.zeros(3, 2, 8, 8), lambda: 1 / 0])
def test_pictures_that_fail_do_not_end_a_run(monkeypatch, updated, capsys, bad):
    live = viz.LiveLoss(6, seconds=-1, samples=bad)
    live.sampled = -1e9
    for _ in range(3):
        live(1.0)
    assert len(live.losses) == 3
    assert len(updated) == 1 + 3, "the curve is drawn all the same"
    monkeypatch.setattr(viz.LiveLoss, "_picture", lambda self: 1 / 0)
    for _ in range(3):
        live(1.0)
    said = capsys.readouterr().out
    assert said.count("Samples are not shown: ") == said.count("The curve is no longer shown: division by zero") == 1


# ---- controls -------------------------------------------------------------------------------------------------------


def test_explorer_has_its_pictures_before_it_moves(monkeypatch):
    def series(name, level):
        return [(f"{name}{i}", [torch.full((2, 1, 4, 6), level + i / 4)]) for i in range(3)]

    box = viz.explore({"a": series("a", -0.5), "b": series("b", 0.1)}, slider="scale", menu="letter")
    monkeypatch.setattr(viz, "mosaic", None)  # would raise if it were called now
    (names, play, slider), (label, image) = box.children[0].children, box.children[1:]
    seen = {}
    for names.value in "ab":
        for slider.value in range(3):
            seen[label.value] = pixels(image)[viz.GAP, viz.GAP]
    assert list(seen) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    np.testing.assert_allclose(list(seen.values()), [64, 96, 128, 140, 172, 204], atol=1)
    assert (slider.max, play.max, slider.description, names.description) == (2, 2, "scale", "letter")
    assert "run this notebook" in repr(box)
    data, metadata = box._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= data.keys()
    about = metadata["image/png"]["frames"]
    assert about["series"] == [["a", ["a0", "a1", "a2"]], ["b", ["b0", "b1", "b2"]]], "in order, also once in a file"
    sheet = pixels(box.sheet)
    assert (about["width"], about["height"], about["slider"], about["menu"]) == (12, 4, "scale", "letter")
    assert sheet.shape == (4, 6 * 12), "the place of a frame follows from these"
    np.testing.assert_allclose(sheet[0, 6::12], [64, 96, 128, 140, 172, 204], atol=9)  # in 16 levels
    monkeypatch.undo()
    box = viz.explore({"": [("t = 1", [torch.ones(2, 1, 4, 6), -torch.ones(2, 1, 4, 6)])] * 2})
    assert len(box.children[0].children) == 2, "one series needs no menu"
    picture = pixels(box.children[2])
    assert (picture[viz.GAP, viz.GAP], picture[-viz.GAP - 1, viz.GAP]) == (255, 0), "the second row is below"
