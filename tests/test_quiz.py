"""The cases of notebook 12: one right choice each, a reason for every wrong one, with widgets and without."""

from types import SimpleNamespace

import ipywidgets
import pytest
import torch

from ddpm_helpers import to_float, viz
from ddpm_helpers.digits import synthetic_digits
from ddpm_helpers.lessons import clinic, quiz

IMAGES = to_float(synthetic_digits(24, seed=1)[0])
each_case = pytest.mark.parametrize("case", quiz.CASES, ids=lambda case: case.fault.__name__)


def test_every_fault_is_a_case():
    assert len({case.fault for case in quiz.CASES}) == 16
    assert [case.number for case in quiz.CASES] == list(range(1, 17))


def test_the_right_letter_varies():
    letters = [case.letter for case in quiz.CASES]
    assert all(letters.count(letter) >= 3 for letter in quiz.LETTERS)
    assert all(len(set(letters[i : i + 3])) > 1 for i in range(len(letters) - 2))


@each_case
def test_one_choice_is_right_and_each_other_has_its_reason(case, capsys):
    assert list(case.choices) == list("abcd")
    assert len(set(case.choices.values())) == 4
    replies = {letter: case.reply(letter) for letter in "abcd"}
    assert [letter for letter, text in replies.items() if text.startswith("Yes")] == [case.letter]
    assert case.choices[case.letter] == case.choices[case.letter]
    assert len(set(replies.values())) == 4
    assert all(len(text) > 40 for text in replies.values())
    for letter, text in replies.items():
        for typed in (letter, letter.upper()):
            quiz.answer(case.number, typed)
            assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize("letter", ["e", "E", "", "ab", None, 1, ["a"]])
def test_no_such_choice(letter):
    with pytest.raises(ValueError, match="has the choices a, b, c and d; got"):
        quiz.answer(3, letter)


@pytest.mark.parametrize("number", [0, 17, -1, "1", None, 1.5])
def test_no_such_case(number):
    with pytest.raises(ValueError, match="there are cases 1 to 16"):
        quiz.case(number)


def test_stretched_pictures_all_reach_from_black_to_white():
    x = quiz.stretched(torch.randn(3, 1, 4, 5) * 7 + 30)
    assert torch.allclose(x.amin((1, 2, 3)), -torch.ones(3), atol=1e-5)
    assert torch.allclose(x.amax((1, 2, 3)), torch.ones(3), atol=1e-5)


def test_buttons_answer():
    case = quiz.case(5)
    _, buttons, line = viz.ask(case).children
    assert (buttons.value, line.value) == (None, "")
    seen = set()
    for letter in "abcd":
        buttons.value = letter
        assert line.value.startswith("Yes") == (letter == case.letter)
        seen.add(line.value)
    assert len(seen) == 4


@pytest.mark.skipif(ipywidgets.__version__[0] == "7", reason="ipywidgets 7, which Colab has, cuts the text")
def test_a_page_without_widgets_shows_the_choices():
    text = viz.ask(quiz.case(2))._repr_mimebundle_()["text/plain"]
    assert all(choice in text for choice in quiz.case(2).choices.values())
    assert 'quiz.answer(2, "a")' in text


@pytest.fixture
def shown(monkeypatch):
    pictures = []
    monkeypatch.setattr(viz, "show", lambda figure, alt: pictures.append(SimpleNamespace(figure=figure, alt=alt)))
    return pictures


@pytest.mark.parametrize("number", [1, 8, 11, 13])
def test_picture_of_a_case(number, shown):
    case = quiz.case(number)
    viz.show_case(case, IMAGES)
    viz.show_case(case, IMAGES, answered=True)
    (_, before), (_, after) = (picture.figure.axes for picture in shown)
    assert [line.get_label() for line in before.lines] == ["straight line", "measured"]
    assert [line.get_label() for line in after.lines] == ["straight line", "before", "after"]
    assert f"Case {number}" in shown[0].alt
    assert not any(word in shown[0].alt for word in (case.fault.__name__, case.choices[case.letter]))


def test_losses_as_their_authors_measure_them():
    """Where training is consistent with itself its loss is low; measured with the sampler's process it is not."""
    t = torch.tensor([10, 50, 90])
    for fault in (clinic.no_square_root, clinic.alpha_for_alpha_bar):
        system = fault(IMAGES)
        assert system.measured_loss(t).max() < 0.05
        assert clinic.loss_by_t(system.model, system.schedule, IMAGES, t).max() > 0.5
    assert (clinic.broadcast_loss(IMAGES).measured_loss(t) - 1).abs().max() < 0.03


def test_mark_table(shown):
    viz.mark_table({"one": ["a"], "two": [], "three": ["b", "a"]}, alt="Three rows of marks")
    axis = shown[0].figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "b"]
    assert axis.images[0].get_array().tolist() == [[1, 0], [0, 0], [1, 1]]


def test_sheet_of_all_cases(shown):
    viz.show_cases(quiz.CASES[:4], IMAGES, count=3)
    labels = [label.get_text() for label in shown[0].figure.axes[0].get_yticklabels()]
    assert labels == ["1 and 3", "2 and 4"]
