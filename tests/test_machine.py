"""The machine: precision, memory layout, and a report that never fails."""

from importlib import metadata

import pytest
import torch
from test_train import make, steps

from ddpm_helpers import SimpleUNet, UNet, budget, environment_report, machine
from ddpm_helpers.machine import fast_dtype, fast_layout

T = 20


def test_fast_dtype_and_layout():
    cpu = torch.device("cpu")
    assert fast_dtype(cpu) in (torch.float32, torch.bfloat16)
    assert fast_dtype(torch.device("mps")) is torch.float32
    assert fast_layout(UNet(base=8), cpu) is torch.contiguous_format
    assert fast_layout(SimpleUNet(T), cpu) is torch.channels_last
    assert fast_layout(UNet(base=8), torch.device("cuda")) is torch.channels_last
    assert fast_layout(SimpleUNet(T), torch.device("mps")) is torch.contiguous_format
    weight = make(net=SimpleUNet(T, base=8)).model.middle[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision_of_a_cpu(monkeypatch, supported, dtype):
    """bfloat16 where the CPU has it; weights, average and loss stay float32, and both precisions learn alike."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: supported, raising=False)
    assert fast_dtype(torch.device("cpu")) is dtype
    seen = []
    trainer = make()
    trainer.model.stem[1].register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    steps(trainer, 10)
    assert set(seen) == {dtype}
    assert {p.dtype for net in (trainer.model, trainer.ema) for p in net.parameters()} == {torch.float32}
    assert trainer.losses.dtype == torch.float32
    assert trainer.losses[0].item() == pytest.approx(1, abs=0.25), "a new UNet predicts 0"


def test_budget(monkeypatch, capsys):
    # a prompt of Windows keeps quotes, and blanks at the end
    for text, expected in (("cpu", 1000), ("gpu", 3000), *((quick, 10) for quick in ("quick", '"quick"', " 'quick' "))):
        monkeypatch.setenv("DDPM_BUDGET", text)
        assert budget(gpu=3000, cpu=1000, quick=10, unit="images") == expected
        assert f"Budget: {expected:,} images ({text.strip(' ' + chr(34) + chr(39))})" in capsys.readouterr().out
    for text in ("", '""', " "):
        monkeypatch.setenv("DDPM_BUDGET", text)
        assert budget(gpu=3, cpu=3, quick=1) == 3
        assert "Budget: 3 steps (" in capsys.readouterr().out
    monkeypatch.setenv("DDPM_BUDGET", "fast")
    with pytest.raises(ValueError, match="must be one of gpu, cpu, quick"):
        budget(gpu=1, cpu=1, quick=1)


def test_a_report_where_nothing_is_installed_as_a_package(monkeypatch):
    """As where the folder was copied to a machine of Kaggle's."""

    def missing(name: str) -> str:
        if name in ("ddpm_helpers", "einops"):
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    report = environment_report()
    for name in ("python", "torch", "device", "DDPM_DATA", "ddpm_helpers"):
        assert f"{name}  " in report
    monkeypatch.setattr(machine, "version", missing)
    assert "ddpm_helpers  not installed as a package" in environment_report()
    assert "numpy         1.0" in environment_report()
