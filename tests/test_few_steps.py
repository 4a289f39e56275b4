"""Notebook 18 where its equations do not reach: bad input, limits, the challenge's counting, the shipped student."""

import pytest
import torch

from ddpm_helpers import ImageData, UNet, VelocityNet, cosine_schedule, load_pretrained
from ddpm_helpers.files import WEIGHTS
from ddpm_helpers.lessons import few_steps
from ddpm_helpers.lessons.few_steps import Refused, score
from ddpm_helpers.lessons.toy import Mixture

SCHEDULE = cosine_schedule()
PIXELS = Mixture(*torch.tensor([[0.5, 0.5], [-1.0, 1.0], [0.2, 0.3]]).double())


@pytest.fixture
def small_world(monkeypatch):
    """A small network in place of the shipped student, and few images to compare with."""
    torch.manual_seed(0)
    net = VelocityNet(UNet(base=8, multipliers=(1,), patch=4, classes=3), SCHEDULE).eval()
    torch.nn.init.normal_(net.net.out[2].weight)
    images = torch.randint(256, (80, 1, 28, 28), dtype=torch.uint8)
    data = ImageData(images, torch.zeros(80, dtype=torch.int64), ("0",), "made up.")
    monkeypatch.setattr(few_steps, "load_pretrained", lambda *_: (net, SCHEDULE, {}))
    monkeypatch.setattr(few_steps, "load_images", lambda *_, **__: data)
    return net


def sampler(calls, size=None, seen=None):
    """DDIM with so many calls; `size` is that of a call's batch, `seen` takes down the batches."""

    def run(ask, schedule, x_T):
        if seen is not None:
            seen.append(len(x_T))
        n = size or len(x_T)
        steps = [schedule.T * i // calls for i in range(calls, -1, -1)]
        return few_steps.walk(ask, schedule, x_T[:1].expand(n, -1, -1, -1), steps, torch.zeros(n).long())

    return run


def test_the_score_counts_each_batch_and_prints_a_record(small_world, capsys):
    seen = []
    line = score(sampler(2, seen=seen), 2, count=130, name="mine")
    assert seen == [100, 30]
    assert capsys.readouterr().out.strip() == line
    assert [cell.strip() for cell in line.split("|")][1:3] == ["mine", "2"]
    assert line.endswith(" | 130 |")


def test_calls_are_counted_whatever_becomes_of_their_errors(small_world):
    def stubborn(ask, schedule, x_T):
        label = torch.zeros(len(x_T)).long()
        ask(x_T, label + 1, label)
        with pytest.raises(Refused):
            ask(x_T, label + 1, label)
        return ask(x_T, label + 1, label)

    with pytest.raises(Refused, match="call 2 for one batch, and 1 are allowed"):
        score(stubborn, 1, count=70)


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (sampler(3), "call 3 for one batch, and 2 are allowed"),
        (sampler(2, size=140), r"images \(140, 1, 28, 28\): the batch was \(70, 1, 28, 28\)"),
        (sampler(2, size=10), r"images \(10, 1, 28, 28\): the batch was"),
        (lambda ask, schedule, x_T: x_T[:3], r"must return images \(70, 1, 28, 28\), all finite"),
        (lambda ask, schedule, x_T: x_T / 0, "all finite"),
        (lambda ask, schedule, x_T: None, "must return images"),
    ],
)
def test_what_the_challenge_refuses(run, says, small_world):
    with pytest.raises(Refused, match=says):
        score(run, 2, count=70)


def test_a_sampler_that_peeks_is_refused(small_world):
    steps = torch.full((70,), 500)
    for peek in (
        lambda ask, schedule, x: small_world(x, steps, steps * 0),
        lambda ask, schedule, x: small_world.net(x, steps, steps * 0),
        lambda ask, schedule, x: torch.nn.Conv2d(1, 1, 1)(x),
    ):
        with pytest.raises(Refused, match="ran outside of `ask`, where no call is counted"):
            score(peek, 2, count=70)
    torch.nn.Conv2d(1, 1, 1)(torch.zeros(1, 1, 2, 2))  # afterwards modules run as before


def test_bad_input():
    with pytest.raises(ValueError, match=r"shares must lie in \(0, 1\), got 0 to 0.5"):
        few_steps.quantile(PIXELS, torch.tensor([0.0, 0.5]).double(), 0.5)
    with pytest.raises(ValueError, match="recall: as many samples as real images, got 5 and 6"):
        few_steps.recall(torch.zeros(5, 2), torch.zeros(6, 2))
    with pytest.raises(ValueError, match="calls"):
        score(sampler(1), 0)


def test_limits():
    x = torch.linspace(-2, 2, 9).double()
    torch.testing.assert_close(few_steps.flow_map(PIXELS, x, 0.3, 0.3), x, rtol=0, atol=1e-9)
    there = few_steps.flow_map(PIXELS, x, 0.2, 0.7)
    torch.testing.assert_close(few_steps.flow_map(PIXELS, there, 0.7, 0.2), x, rtol=0, atol=1e-9)
    answer, one, none = torch.randn(9).double(), torch.ones(()).double(), torch.zeros(()).double()
    torch.testing.assert_close(few_steps.with_skip(x, answer, one, none, 0.5), x)
    torch.testing.assert_close(few_steps.with_skip(x, answer, none, one, 0.5), 0.5 * answer)
    torch.testing.assert_close(few_steps.distilled_target(SCHEDULE, x + 1, 500, x, 0), x)
    student = few_steps.TinyStudent(8)
    torch.testing.assert_close(student(x, 0.0), x)
    assert few_steps.step(x, student(x, 0.4), 0.4, 0.0).equal(student(x, 0.4))


def test_distance_and_recall():
    generator = torch.Generator().manual_seed(0)
    real, alike, other = torch.randn(3, 400, 8, generator=generator)
    near, error = few_steps.distance(alike, real)
    far, _ = few_steps.distance(alike + 1, real)
    assert near < 3 * error + 1 < far
    assert few_steps.recall(alike, real) > 0.8 > 0.3 > few_steps.recall(other * 0.1, real)


def test_the_shipped_student():
    model, _, recipe = load_pretrained("mnist_few")
    assert (WEIGHTS / "mnist_few.safetensors").stat().st_size < 3_000_000
    assert model.classes == len(few_steps.CALLS)
    assert recipe["command"]
    rows = few_steps.load_results()["rows"]
    by_calls = {(row["name"], row["calls"]): row["distance"] for row in rows}
    assert all(by_calls["student", calls] < by_calls["DDIM", calls] for calls in (1, 2))
    assert min(by_calls.values()) == by_calls["real digits", 0]
    assert all(row["samples"] == rows[0]["samples"] for row in rows)
