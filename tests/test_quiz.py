"""The cases of notebook 13: one right choice each, a reason for every wrong one."""

import pytest
import torch

from ddpm_helpers import synthetic_digits, to_float
from ddpm_helpers.lessons import clinic, quiz
from ddpm_helpers.lessons.diagnosis import loss_by_t

IMAGES = to_float(synthetic_digits(24, seed=1)[0])
each_case = pytest.mark.parametrize("case", quiz.CASES, ids=lambda case: case.fault.__name__)


def test_every_fault_is_a_case():
    systems = {f for f in vars(clinic).values() if getattr(f, "__annotations__", {}).get("return") is clinic.System}
    twins = {clinic.healthy, clinic.trained_lines}
    assert {f for f in systems if not f.__name__.startswith("_")} - twins == {case.fault for case in quiz.CASES}
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


def test_losses_as_their_authors_measure_them():
    """Where training is consistent with itself its loss is low; measured with the sampler's process it is not."""
    t = torch.tensor([10, 50, 90])
    for fault in (clinic.no_square_root, clinic.alpha_for_alpha_bar):
        system = fault(IMAGES)
        assert system.measured_loss(t).max() < 0.05
        assert loss_by_t(system.model, system.schedule, IMAGES, t).max() > 0.5
    assert (clinic.broadcast_loss(IMAGES).measured_loss(t) - 1).abs().max() < 0.03
