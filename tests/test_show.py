"""Pictures of single notebooks: what they show and say."""

import html
import io

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image as Picture

from ddpm_helpers import Step, cosine_schedule, linear_schedule, synthetic_digits, to_float, viz
from ddpm_helpers.lessons import quiz, show

IMAGES = to_float(synthetic_digits(24, seed=1)[0])
SETS = torch.rand((3, 4, 2, 1, 5, 6), generator=torch.Generator().manual_seed(0)) * 2 - 1  # (S, K, N, C, H, W)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, the rows of the mosaics, what is shown, and what is said about each picture."""
    found, draw, tile = {"figures": [], "rows": [], "shown": []}, viz.chart, viz.mosaic
    monkeypatch.setattr(viz, "chart", lambda figure: (found["figures"].append(figure), draw(figure))[1])
    monkeypatch.setattr(viz, "mosaic", lambda rows, *a, **k: (found["rows"].append(rows), tile(rows, *a, **k))[1])
    monkeypatch.setattr(viz, "display", found["shown"].append)
    return found


def alts(drawn) -> list[str]:
    return [picture.metadata["alt"] for picture in drawn["shown"]]


def test_forward_frames_reach_from_the_first_step_to_the_last():
    x0, noise = SETS[0, :3, 0], SETS[1, :3, 0]
    frames = show.forward_frames([linear_schedule(300), cosine_schedule(50)], x0, noise, positions=5)
    first, second = frames.values()
    assert (len(first), len(second), first[0][0][:14]) == (5, 5, "t = 1 of 300: ")
    text, (row,) = frames["cosine, T = 50"][4]
    assert text == "t = 50 of 50: 0.001 x image + 1.000 x noise"
    assert (row - noise).abs().max() < 0.01


def test_trajectory_frames_show_the_guess_below():
    path = [Step(9 - i, torch.full((3, 1, 4, 6), i / 9), torch.full((3, 1, 4, 6), -i / 9)) for i in range(10)]
    (frames,) = show.trajectory_frames(path, positions=4).values()
    assert [text.split(":")[0] for text, _ in frames] == ["t = 9", "t = 6", "t = 3", "t = 0"]
    assert [rows[0].mean() + rows[1].mean() for _, rows in frames] == [0, 0, 0, 0]
    assert len(show.trajectory_frames(path[:2])[""]) == 2


def test_guidance_frames_have_a_series_for_each_class():
    frames = show.guidance_frames([0, 1.5, 8], SETS)
    text, (row,) = frames["2"][1]
    assert (list(frames), text) == (["0", "1", "2", "3"], "scale 1.5, asked for 2")
    assert row.equal(SETS[1, 2])
    with pytest.raises(ValueError, match="argument 2"):
        show.guidance_frames([0, 1], SETS)


@pytest.mark.parametrize("hue", [torch.ones(3), torch.tensor([1.0, -1.0, -1.0])])
def test_animation_holds_every_frame_and_pauses_at_the_end(drawn, hue):
    frames = [(hue * level).reshape(1, 3, 1, 1).expand(6, 3, 28, 30) for level in (-3.0, 0.0, 0.5)]
    show.animate(frames, columns=3, seconds=0.1, pause=2.0, alt="three squares")
    assert drawn["shown"][0]._repr_mimebundle_()[1]["image/gif"]["alt"] == "three squares"
    assert "pages: three squares" in repr(drawn["shown"][0])
    film, first, durations = Picture.open(io.BytesIO(drawn["shown"][0].data)), [], []
    for i in range(film.n_frames):
        film.seek(i)
        durations.append(film.info["duration"])
        first.append(film.convert("RGB").getpixel((viz.GAP, viz.GAP))[0])
    assert film.size == (3 * 60 + 4 * viz.GAP, 2 * 56 + 3 * viz.GAP)
    assert (film.info["loop"], durations) == (0, [100, 100, 2000])
    assert first[0] == 0, "clipped"
    assert abs(first[1] - 127.5) < 20, "rounded to a few greys, not rescaled"
    assert first[2] == 191, "the last frame is not rounded"


def test_histograms_lie_over_their_gaussian(drawn):
    x = torch.randn(500, generator=torch.Generator().manual_seed(0))
    panels = {"one": {"x": x}, "two": {"x": x, "noise": -x}}
    show.plot_histograms(panels, normal={"two": (1, 0.5)}, columns=2, alt="two")
    peaks = [axis.lines[0].get_xdata()[axis.lines[0].get_ydata().argmax()] for axis in drawn["figures"][0].axes]
    np.testing.assert_allclose(peaks, [0, 1], atol=0.02)
    assert [text.get_text() for text in drawn["figures"][0].legends[0].get_texts()] == ["x", "noise"]
    show.plot_histograms({name: {"x": x} for name in "abcde"}, columns=3, alt="five")
    assert [axis.get_visible() for axis in drawn["figures"][1].axes] == [True] * 5 + [False]


def test_growth_begins_at_one_beside_the_expected_slope(drawn):
    show.plot_growth({"pixels": ([1, 4], {"time": [3.0, 12.0]}, 1), "base": ([8, 16], {"time": [1, 5]}, 2)}, alt="two")
    lines = [[line.get_ydata().tolist() for line in axis.lines] for axis in drawn["figures"][0].axes]
    assert lines == [[[1, 4], [1, 4]], [[1, 5], [1, 4]]]


def test_heat_maps_and_points(drawn):
    table, labels = torch.linspace(-1, 1, 40).reshape(10, 4), torch.tensor([3, 7, 7])
    show.heat_maps({"one": table, "two": table[:5]}, alt="two tables")
    points = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0]])
    show.plot_points({"a": (points, labels), "b": (100 * points, labels)}, alt="two classes")
    assert alts(drawn) == ["two tables", "two classes"]
    show.draw_preconditioning()
    assert r"$\times\, c_{skip}$" in [text.get_text() for text in drawn["figures"][2].axes[0].texts]
    left, right = drawn["figures"][1].axes
    assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())
    assert [(text.get_text(), text.get_position()) for text in right.texts] == [("3", (0, 0)), ("7", (1, 2))]


def test_rankings_name_every_system_from_the_best(drawn):
    names = {"naive net": 300.0, "net, published": 90.0, "net, repaired": 20.0, "net, repaired, seed 1": 22.0}
    row = {"floor": 5.0, "parameters": 1000, "images_per_second": 10.0}
    rows = [{"name": name, "frechet": distance, "train_steps": 9, **row} for name, distance in names.items()]
    rows[0]["train_steps"] = 5
    show.plot_ladder({"systems": rows})
    show.plot_levers({"systems": rows[2:] + rows[:2]})
    order = "net, repaired 20, net, repaired, seed 1 22, net, published 90, naive net 300"
    assert [order in alt for alt in alts(drawn)] == [True, True]
    assert "real images 5" in alts(drawn)[0]
    kinds = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in drawn["figures"]]
    assert (len(kinds[0]), kinds[1][-1]) == (4, "net, repaired, 2 seeds")


@pytest.mark.parametrize("number", [1, 8])
def test_picture_of_a_case(number, drawn):
    case = quiz.case(number)
    for answered in (False, True):
        show.show_case(case, IMAGES, answered=answered)
    lines = [[line.get_label() for line in figure.axes[0].lines] for figure in drawn["figures"]]
    assert lines == [["straight line", "measured"], ["straight line", "before", "after"]]
    assert [list(rows) for rows in drawn["rows"]] == [["healthy", "broken"], ["before", "after"]]
    assert f"Case {number}" in alts(drawn)[0]
    assert not any(word in alts(drawn)[0] for word in (case.fault.__name__, case.choices[case.letter]))


def test_sheet_of_all_cases(drawn):
    show.show_cases(quiz.CASES[:4], IMAGES, count=3)
    assert list(drawn["rows"][0]) == ["1 and 3", "2 and 4"]
    assert drawn["rows"][0]["1 and 3"][3].isnan().all(), "nothing between the columns"


def test_mark_table(drawn):
    show.mark_table({"one": ["a"], "two": [], "three": ["b", "a"]}, alt="Three rows of marks")
    axis = drawn["figures"][0].axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "b"]
    assert axis.collections[0].get_array().tolist() == [[1, 0], [0, 0], [1, 1]]


def test_buttons_answer():
    case = quiz.case(5)
    _, buttons, line = show.ask(case).children
    assert (buttons.value, line.value) == (None, "")
    for letter in "abcd":
        buttons.value = letter
        assert html.unescape(line.value) == case.reply(letter)


@pytest.mark.skipif(ipywidgets.__version__[0] == "7", reason="ipywidgets 7, which Colab has, cuts the text")
def test_a_page_without_widgets_shows_the_choices():
    text = show.ask(quiz.case(2))._repr_mimebundle_()["text/plain"]
    assert all(choice in text for choice in quiz.case(2).choices.values())
    assert 'quiz.answer(2, "a")' in text
