"""The ladder: its losses and samplers by hand, its files, its command on toy systems, and what it shows."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from ddpm_helpers import ImageData, ddpm_loss, linear_schedule, naive_loss, synthetic_digits
from ddpm_helpers.lessons import ladder
from ddpm_helpers.lessons.ladder import ladder_samples, ladder_table, load_ladder

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import ladder as runner

SCHEDULE, SHORT = linear_schedule(100), linear_schedule(25)
IMAGES, LABELS = synthetic_digits(300)
DATA = ImageData(IMAGES, LABELS, tuple("0123456789"), "toy")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Tiny(nn.Module):
    """One convolution; the step counts, so that it is told one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, t):
        return self.conv(x) * (1 + t.reshape(-1, 1, 1, 1) / 1000)


# the runner: what is minimised, how it samples


def test_objectives():
    net, x0, t, noise = Tiny(), normal(4, 1, 6, 5).clamp(-1, 1), torch.tensor([1, 30, 70, 100]), normal(4, 1, 6, 5)
    batch = net, SCHEDULE, x0, t, noise
    loss, scaled = ddpm_loss(*batch), runner.scaled_gradient_objective(*batch)
    gradients = [torch.autograd.grad(value, net.conv.weight)[0] for value in (loss, scaled)]
    assert scaled.item() == pytest.approx(loss.item())
    torch.testing.assert_close(gradients[1], loss.item() * gradients[0])
    torch.testing.assert_close(runner.unit_range_objective(*batch), ddpm_loss(net, SCHEDULE, (x0 + 1) / 2, t, noise))
    uniform = 0.5 * (1 + torch.erf(noise / 2**0.5))
    expected = naive_loss(lambda x: net(x, torch.ones(4)), (x0 + 1) / 2, t / 100, uniform)
    torch.testing.assert_close(ladder.naive_objective(*batch), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sampler", [runner.naive_samples, runner.sample, runner.unit_range_samples])
@torch.no_grad()
def test_samples_lie_in_range_and_do_not_depend_on_the_count(sampler):
    torch.manual_seed(0)
    net, steps = Tiny(), 3 if sampler is runner.naive_samples else None
    many, few = (sampler(net, SCHEDULE, count, (1, 6, 5), steps=steps) for count in (66, 2))
    assert many.shape == (66, 1, 6, 5)
    assert many.abs().max() < 1.001
    torch.testing.assert_close(many[:2], few, rtol=1e-4, atol=1e-5)
    assert not torch.equal(many[0], many[1])


def test_a_border_is_added_for_training_and_cut_off_the_samples():
    system = runner.System("bordered", Tiny, SHORT, steps=2, batch_size=4, border=2)
    trainer = runner.make_trainer(system, IMAGES[:8], steps=1)
    assert torch.equal(trainer.images, nn.functional.pad(IMAGES[:8], [2] * 4))
    assert runner.draw(system, trainer, 3).shape == (3, 1, 28, 28)


# the command


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Two systems and a fault of one convolution each, and a place for their results."""
    naive = runner.System("naive", Tiny, SCHEDULE, ladder.naive_objective, runner.naive_samples, 2, 4)
    repaired = runner.System("SimpleUNet, repaired", Tiny, SHORT, batch_size=4)
    fault = runner.System("fault", Tiny, SHORT, batch_size=4, like="SimpleUNet, repaired")
    measured = runner.measure_speed
    monkeypatch.setattr(ladder, "RESULTS", tmp_path)
    monkeypatch.setattr(runner, "SYSTEMS", (naive, repaired))
    monkeypatch.setattr(runner, "FAULTS", (fault,))
    monkeypatch.setattr(runner, "load_images", lambda *_, **__: DATA)
    monkeypatch.setattr(runner, "measure_speed", lambda systems, x: measured(systems, x, rounds=2, seconds=0.02))
    return tmp_path / "toy.json"


def run(monkeypatch, *line):
    monkeypatch.setattr("sys.argv", ["ladder", *map(str, line)])
    runner.main()


@pytest.mark.filterwarnings("ignore:frechet_distance")  # few samples
def test_command_writes_results_and_goes_on_where_it_stopped(toy, monkeypatch):
    climb, line, stops = runner.climb, (toy, "--seconds", 1, "--samples", 100), ["fault"]

    def short(system, images, steps, count):
        if system.name in stops:
            raise KeyboardInterrupt
        return climb(system, images, 20, count)

    monkeypatch.setattr(runner, "climb", short)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *line)
    before = json.loads(toy.read_text())
    assert [row["name"] for row in before["systems"]] == ["naive", "SimpleUNet, repaired"]
    stops.clear()
    run(monkeypatch, *line)
    after = load_ladder("toy")
    assert after["systems"] == before["systems"], "what was done is not done again"
    assert [row["name"] for row in after["faults"]] == ["fault"]
    row = after["systems"][1]
    assert (row["parameters"], row["sampler_steps"]) == (10, 25)
    assert row["floor"] > 0
    assert 0 <= row["recognisable"] <= 1
    added = "frechet_with_noise_at_the_last_step"
    assert [added in each for each in after["systems"]] == [False, True], "the naive sampler has no beta"
    samples = ladder_samples("toy")
    assert list(samples) == ["naive", "SimpleUNet, repaired", "fault"]
    assert {tuple(images.shape) for images in samples.values()} == {(20, 1, 28, 28)}
    for wrong in ("--seconds 0", "--samples 1", "--samples 30001"):  # would fail after hours
        with pytest.raises(SystemExit):
            run(monkeypatch, toy.with_name("new.json"), *wrong.split())
    with pytest.raises(SystemExit, match=r"holds a ladder with another seconds: 1\. Name another file"):
        run(monkeypatch, toy, "--seconds", 2, "--samples", 100)
    toy.write_text('{"systems": [], "faults": []}')  # no speeds
    with pytest.raises(SystemExit, match="not the results of a ladder"):
        run(monkeypatch, *line)


# what is shown


def test_table_lines_up_and_leaves_out_what_is_not_known():
    row = {"name": "a", "parameters": 1234567, "images_per_second": 1547.7, "train_steps": 2176, "loss": 0.01674}
    row |= {"frechet": 682.25, "recognisable": 0.496, "entropy": 2.228, "seconds_for_64": 0.556}
    title, full, part = ladder_table([row, {"name": "b", "frechet": 7.0}]).splitlines()
    for value in ("1,234,567", "1,548", "2,176", "0.0167", "682", "50%", "2.23", "0.6"):
        assert f" {value}" in full
    assert part.split() == ["b", "7"]
    assert title.index("distance") + len("distance") == full.index("682") + 3 == part.index("7") + 1
    title, long = ladder_table([{"name": 40 * "a", "frechet": 7.0}]).splitlines()
    assert len(title) == len(long), "a long name moves its whole column"


def test_the_shipped_ladder_is_there():
    found = load_ladder()
    assert list(ladder_samples()) == [row["name"] for row in found["systems"] + found["faults"]]
    assert {"device", "date", "seconds", "samples", "command", "data"} <= found.keys()
    assert load_ladder("levers_cpu")["systems"]


def test_files_that_are_no_ladder_say_so(toy, monkeypatch):
    folder = toy.parent
    for read in (load_ladder, ladder_samples):
        for name in ("nowhere", "x" * 300, "a\0b"):
            with pytest.raises(FileNotFoundError, match=r"no such ladder; python tests/benchmarks/ladder\.py .*\.json"):
                read(name)
    says = r"toy\.json: not the results of a ladder"
    for content in (b"", b"[]", b"\xff", b'{"a":' * 100_000, b'{"systems": []}', b'{"systems": [], "faults": [3]}'):
        toy.write_bytes(content)
        for read in (load_ladder, ladder_samples):
            with pytest.raises(ValueError, match=says):
                read("toy")
        with pytest.raises(SystemExit, match=says + " .* Name another file"):
            run(monkeypatch, toy)
        assert toy.read_bytes() == content
    toy.write_text('{"systems": [{"name": "a"}, {"name": "b"}], "faults": []}')
    picture = folder / "toy.png"
    picture.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        ladder_samples("toy")
    for wrong in (Image.new("RGB", (28, 56)), Image.new("L", (560, 28)), Image.new("L", (30, 56))):
        wrong.save(picture)
        with pytest.raises(ValueError, match="and 2 rows of results"):
            ladder_samples("toy")
    rows = torch.randint(0, 256, (2, 20, 1, 28, 28), dtype=torch.uint8)
    picture.unlink()
    for number, row in enumerate(rows, start=1):
        runner._add_picture(picture, row.float() / 127.5 - 1, number)
    assert torch.equal(torch.stack([*ladder_samples("toy").values()]), rows), "each in its place"
