"""The command: from a line in a terminal to weights and samples, and what a wrong line is told."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddpm_helpers import Trainer, cli, files, guide, load_images, load_pretrained, machine, sample

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
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
    monkeypatch.setattr(cli, "load_images", lambda *_, **__: few)
    return command


def test_help():
    line = [sys.executable, "-m", "ddpm_helpers.cli", "--help"]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, ""), "no warning"
    assert done.stdout.startswith("usage: python -m ddpm_helpers.cli")
    assert "torchrun --nproc-per-node 2" in done.stdout
    assert "optimizer steps (default: 3000)" in done.stdout


def test_from_end_to_end(tmp_path, monkeypatch, run, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    outputs = {"--checkpoint": "runs/a.safetensors", "--export": "out/a b.safetensors", "--samples": "pictures/a.png"}
    line = [part for name, file in outputs.items() for part in (name, f"~/{file}")]
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
    from PIL import Image

    with Image.open(tmp_path / "pictures" / "a.png") as picture:
        assert picture.size == (8 * 30 + 2, 8 * 30 + 2)
    run(*line)
    assert "holds step 10 of 10: nothing is left to do" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"its seed is 0, and 1 here.*--start-from"):
        run(*line, "--seed", 1)
    run("--seed", 1, "--start-from", tmp_path / "runs" / "a.safetensors", "--checkpoint", tmp_path / "b.safetensors")
    assert files.read(tmp_path / "b.safetensors")["seed"] == 1


def test_labels_make_what_can_be_asked(tmp_path, run):
    out = tmp_path / "a.safetensors"
    run("--labels", "--flip", "--weighted", "--export", out, "--samples", tmp_path / "a.png")
    model, schedule, recipe = load_pretrained(out)
    assert (model.classes, recipe["flip"], recipe["weighted"]) == (10, True, True)
    assert sample(guide(model, 3), schedule, 5, steps=2, labels=torch.arange(5)).shape == (5, 1, 28, 28)
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("name", ["file/x", "folder"])
@pytest.mark.parametrize(("option", "ending"), [("--export", ".safetensors"), ("--samples", ".png")])
def test_a_place_that_cannot_be_written_to_is_told_before_training(tmp_path, monkeypatch, run, option, ending, name):
    (tmp_path / "file").touch()
    (tmp_path / f"folder{ending}").mkdir()
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(SystemExit, match=rf"^Error: .*{name}{ending}: cannot be written"):
        run(option, tmp_path / f"{name}{ending}")


def test_samples_that_fail_cost_nothing_else(tmp_path, monkeypatch, run):
    """Save first, show second; and an export that fails does not take the samples with it."""
    monkeypatch.setattr(cli, "sample", lambda *_, **__: 1 / 0)
    with pytest.raises(SystemExit, match=r"^Error: .*a\.png: division by zero"):
        run("--export", tmp_path / "a.safetensors", "--samples", tmp_path / "a.png")
    assert load_pretrained(tmp_path / "a.safetensors").recipe["steps"] == 10
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--steps 0", "TrainConfig: steps must be a whole number, at least 1, got 0"),
        ("--learning-rate nan", "TrainConfig: learning_rate must be above 0"),
        ("--base 12", "UNet: base must be divisible by 8"),
        ("--T 0", "cosine_schedule: T must be a whole number, at least 1"),
        ("--T 10 --schedule linear", "linear_beta: beta would go"),
        ("--patch 3", "UNet: height and width must be divisible by 6, got 28x28"),
        ("--checkpoint {folder}", ".*the name must end in .safetensors"),
        ("--checkpoint {folder}/a.pt", ".*the name must end in .safetensors.*docs/CHANGELOG.md"),
        ("--patch 0", "UNet: patch must be a whole number, at least 1, got 0"),
        ("--multipliers 1 -1", r"UNet: multipliers\[1\] must be a whole number, at least 1, got -1"),
        ("--export a.pt", r"a\.pt: cannot be written \(the name must end in \.safetensors\)"),
        ("--samples a.xyz", r"a\.xyz: cannot be written \(the name must end in \.png\)"),
        ("--checkpoint {folder}/text.safetensors", r".*text\.safetensors: damaged, truncated, or not a file of this"),
        ("--steps 1 --samples {folder}/text.safetensors/a.png", ".*text.safetensors"),
    ],
)
def test_bad_arguments(tmp_path, run, line, says):
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(SystemExit, match=f"^Error: {says}") as stopped:
        run(*line.format(folder=tmp_path).split())
    assert "\n" not in stopped.value.code


def test_no_such_data(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--data", "nowhere"])
    with pytest.raises(SystemExit, match=r"^Error: load_images: 'nowhere' is neither a folder nor one of"):
        cli.main()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--steps many", "argument --steps: invalid int value: 'many'"),
        ("--schedule cubic", "argument --schedule: invalid choice: 'cubic'"),
    ],
)
def test_bad_arguments_of_the_parser(capsys, line, says):
    with pytest.raises(SystemExit, match="2"):
        cli.arguments(line.split())
    assert re.search(f"error: {says}", capsys.readouterr().err)


@pytest.mark.skipif(not DISTRIBUTED, reason="this PyTorch has no torch.distributed with gloo")
def test_two_processes_are_one(tmp_path, monkeypatch):
    # In bfloat16 the sums over half batches would round differently. With 8 features a GroupNorm would take each by
    # itself, and the bias in front of it away: Adam makes full steps of the rounding that is its gradient.
    wide = ["--base", "16"]
    script = tmp_path / "both.py"
    script.write_text(
        "import torch\n"
        "from ddpm_helpers import cli, machine\n"
        "machine.fast_dtype = lambda device: torch.float32\n"
        "cli.main()\n"
    )
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    line += ["--nproc-per-node", "2", str(script), *LINE, *wide, "--checkpoint", str(tmp_path / "two.safetensors")]
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("step 10 of 10") == 1, "one of them speaks"
    monkeypatch.setattr(cli, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(machine, "fast_dtype", lambda device: torch.float32)
    monkeypatch.setattr(sys, "argv", ["x", *LINE, *wide, "--checkpoint", str(tmp_path / "one.safetensors")])
    cli.main()
    one, two = (files.read(tmp_path / name) for name in ("one.safetensors", "two.safetensors"))
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-5, atol=0)
    for part in ("model", "ema"):
        for name, value in one[part].items():
            # A bias whose effect the next GroupNorm takes away has a gradient of rounding alone, which AdamW makes
            # as large as any other: 2e-5 apart after these ten steps.
            torch.testing.assert_close(two[part][name], value, rtol=1e-5, atol=1e-4, msg=f"{part} {name}")
    assert all(one[name] == two[name] for name in one if name not in ("model", "ema", "optimizer", "losses"))
