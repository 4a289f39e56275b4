"""The command: from a line in a terminal to weights and samples, and what a wrong line is told."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddpm_helpers import cli, files, guide, load_images, load_pretrained, machine, sample

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
LINE = ["--data", "digits", "--steps", "10", "--batch-size", "8", "--base", "8", "--multipliers", "1", "1", "--T", "20"]
DISTRIBUTED = torch.distributed.is_available() and torch.distributed.is_gloo_available()


@pytest.fixture(scope="module")
def few():
    """64 drawn digits."""
    data = load_images("digits")
    return dataclasses.replace(data, images=data.images[:64], labels=data.labels[:64])


@pytest.fixture
def run(monkeypatch, few):
    """The command in this process, on the CPU, with 64 digits: run("--steps", "5")."""

    def command(*line) -> None:
        monkeypatch.setattr(sys, "argv", ["x", *LINE, *map(str, line)])
        cli.main()

    monkeypatch.setattr(cli, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(cli, "load_images", lambda name, **more: few if name == "digits" else load_images(name, **more))
    return command


def test_help():
    line = [sys.executable, "-m", "ddpm_helpers.cli", "--help"]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, ""), "no warning"
    assert done.stdout.startswith("usage: python -m ddpm_helpers.cli")
    assert "torchrun --nproc-per-node 2" in done.stdout
    assert "optimizer steps (default: 3000)" in done.stdout


def test_from_end_to_end(tmp_path, monkeypatch, run, capsys):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    line = ["--checkpoint", "~/runs/a.safetensors", "--export", "~/out/a b.safetensors", "--samples", "~/a/a.png"]
    run(*line)
    assert "step 10 of 10" in capsys.readouterr().out
    model, schedule, recipe = load_pretrained("~/out/a b.safetensors")
    assert (model.channels, schedule.T, recipe["steps"]) == (1, 20, 10)
    assert {"data", "steps", "device", "loss", "date", "command", "weighted"} <= recipe.keys()
    assert recipe["data"].startswith("Drawn digits")
    assert recipe["command"].startswith("python -m ddpm_helpers.cli --data digits --steps 10")
    assert "a b.safetensors'" in recipe["command"], "a name with a space is quoted"
    ema = files.read(tmp_path / "runs" / "a.safetensors")["ema"]
    assert all(torch.equal(value, ema[name].half().float()) for name, value in model.state_dict().items())
    with Image.open(tmp_path / "a" / "a.png") as picture:
        assert picture.size == (8 * 30 + 2, 8 * 30 + 2)
    run(*line)
    assert "holds step 10 of 10: nothing is left to do" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"its seed is 0, and 1 here.*--start-from"):
        run(*line, "--seed", 1)
    run("--seed", 1, "--start-from", tmp_path / "runs" / "a.safetensors", "--checkpoint", tmp_path / "b.safetensors")
    assert files.read(tmp_path / "b.safetensors")["seed"] == 1


def test_trained_weights_can_be_a_start_for_the_other_target(tmp_path, run, monkeypatch):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    run("--export", first)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: None)
    run("--target", "velocity", "--start-from", first, "--export", second)
    old, new = load_pretrained(first), load_pretrained(second)
    assert all(torch.equal(value, new.model.net.state_dict()[name]) for name, value in old.model.state_dict().items())
    assert new.recipe["started from"] == old.recipe
    with pytest.raises(SystemExit, match=r"^Error: --start-from .*a.safetensors: that is another network: '.* is \["):
        run("--base", 16, "--start-from", first)


def test_labels_make_what_can_be_asked(tmp_path, run, few):
    out = tmp_path / "a.safetensors"
    run("--only", 3, 1, "--labels", "--flip", "--weighted", "--export", out, "--samples", tmp_path / "a.png")
    model, schedule, recipe = load_pretrained(out)
    assert (model.classes, recipe["flip"], recipe["weighted"]) == (2, True, 1.0)
    assert recipe["data"].endswith(", only 3, 1.")
    assert sample(guide(model, 3), schedule, 2, steps=2, labels=torch.arange(2)).shape == (2, 1, 28, 28)
    assert (tmp_path / "a.png").exists()
    data = cli.only(few, ["3", "1"])
    assert torch.equal(data.images, torch.cat([few.images[few.labels == 3], few.images[few.labels == 1]]))
    assert (data.labels.diff() >= 0).all()
    assert data.labels.bincount().tolist() == few.labels.bincount()[[3, 1]].tolist()


@pytest.mark.parametrize(("broken", "other"), [("sample", "a.safetensors"), ("save_pretrained", "a.png")])
def test_samples_or_an_export_that_fails_costs_nothing_else(tmp_path, monkeypatch, run, broken, other):
    monkeypatch.setattr(cli, broken, lambda *_, **__: 1 / 0)
    with pytest.raises(SystemExit, match=r"^Error: .*a\.\w+: division by zero$"):
        run("--export", tmp_path / "a.safetensors", "--samples", tmp_path / "a.png")
    assert os.listdir(tmp_path) == [other]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--data nowhere", "load_images: 'nowhere' is neither a folder nor one of"),
        ("--only 3 x", "--only: there is no class x; there are 0, 1, 2"),
        ("--steps 0", "TrainConfig: steps must be a whole number, at least 1, got 0"),
        ("--learning-rate nan", "TrainConfig: learning_rate must be above 0"),
        ("--base 12", "UNet: base must be divisible by 8"),
        ("--T 0", "cosine_schedule: T must be a whole number, at least 1"),
        ("--T 10 --schedule linear", "linear_beta: beta would go"),
        ("--patch 3", "UNet: height and width must be divisible by 6, got 28x28"),
        ("--patch 0", "UNet: patch must be a whole number, at least 1, got 0"),
        ("--multipliers 1 -1", r"UNet: multipliers\[1\] must be a whole number, at least 1, got -1"),
        ("--checkpoint {folder}", ".*the name must end in .safetensors"),
        ("--checkpoint {folder}/a.pt", ".*the name must end in .safetensors.*docs/CHANGELOG.md"),
        ("--checkpoint {text}", r".*text\.safetensors: damaged, truncated, or not a file of this"),
        ("--export a.pt", r"a\.pt: cannot be written \(the name must end in \.safetensors\)"),
        ("--samples a.xyz", r"a\.xyz: cannot be written \(the name must end in \.png\)"),
        ("--export {text}/x.safetensors", ".*x.safetensors: cannot be written"),
        ("--samples {text}/a.png", ".*a.png: cannot be written"),
        ("--export {folder}/folder.safetensors", ".*cannot be written .it is a folder"),
        ("--samples {folder}/folder.png", ".*cannot be written .it is a folder"),
    ],
)
def test_bad_arguments_are_told_before_training(tmp_path, monkeypatch, run, line, says):
    (tmp_path / "text.safetensors").write_text("text")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.safetensors").mkdir()
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("it trained"))
    with pytest.raises(SystemExit, match=f"^Error: {says}") as stopped:
        run(*line.format(folder=tmp_path, text=tmp_path / "text.safetensors").split())
    assert "\n" not in stopped.value.code


@pytest.mark.parametrize("line", ["--steps many", "--schedule cubic"])
def test_bad_arguments_of_the_parser(capsys, line):
    with pytest.raises(SystemExit, match="2"):
        cli.arguments(line.split())
    option, value = line.split()
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: invalid" in error
    assert repr(value) in error


@pytest.mark.skipif(not DISTRIBUTED, reason="this PyTorch has no torch.distributed with gloo")
def test_two_processes_are_one(tmp_path, monkeypatch):
    # In bfloat16 the sums over half batches would round differently. With 8 features a GroupNorm would take each by
    # itself, and the bias in front of it away: Adam makes full steps of the rounding that is its gradient.
    own = [*LINE, "--base", "16", "--checkpoint"]
    script = tmp_path / "both.py"
    script.write_text(
        "import torch\n"
        "from ddpm_helpers import cli, machine\n"
        "machine.fast_dtype = lambda device: torch.float32\n"
        "cli.main()\n"
    )
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    line += ["--nproc-per-node", "2", str(script), *own, str(tmp_path / "two.safetensors")]
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("step 10 of 10") == 1, "one of them speaks"
    monkeypatch.setattr(cli, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(machine, "fast_dtype", lambda device: torch.float32)
    monkeypatch.setattr(sys, "argv", ["x", *own, str(tmp_path / "one.safetensors")])
    cli.main()
    one, two = (files.read(tmp_path / name) for name in ("one.safetensors", "two.safetensors"))
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-5, atol=0)
    # A bias whose effect the next GroupNorm takes away has a gradient of rounding alone, which AdamW makes as large as
    # any other: 2e-5 apart after these ten steps.
    for part in ("model", "ema"):
        torch.testing.assert_close(two[part], one[part], rtol=1e-5, atol=1e-4)
    assert all(one[name] == two[name] for name in one if name not in ("model", "ema", "optimizer", "losses"))
