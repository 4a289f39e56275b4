"""Other libraries: their tables, steps and networks against ours; and what happens where they are not installed."""

import sys
from itertools import pairwise
from pathlib import Path
from unittest.mock import MagicMock

import jupytext
import pytest
import torch

import ddpm_helpers
from ddpm_helpers import (
    TrainConfig,
    Trainer,
    cosine_schedule,
    count_parameters,
    ddim_step,
    ddim_steps,
    ddpm_step,
    lessons,
    linear_schedule,
    q_sample,
    sample,
)
from ddpm_helpers.lessons.libraries import (
    DeepinvUNet,
    DiffusersUNet,
    MissingLibrary,
    colour_unet2d,
    find_library,
    grey_unet2d,
    leading_steps,
)

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "src" / "10_libraries.py"
SHAPE = (5, 3, 2, 4)


def library(scheduler, digits, **settings):
    """A scheduler of diffusers, as it ships or with its table in float64.

    Its product of alphas is taken in float32, which at small t costs its steps three digits; ours keep them. Its
    betas stay float32, which shows where 1 - beta is small: at the last step of the cosine schedule.
    """
    theirs = getattr(pytest.importorskip("diffusers"), scheduler)(**settings)
    if digits == "float64":
        theirs.alphas_cumprod = (1 - theirs.betas.double()).cumprod(0)
    return theirs


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images_at(schedule, t, shape):
    """x_t of clean images in [-1, 1], and a noise prediction that is a little wrong, as a net's is."""
    eps = normal(*shape, seed=1)
    x_t = q_sample(schedule, normal(*shape).clamp(-1, 1), torch.full((shape[0],), t), eps)
    return x_t, eps + 0.1 * normal(*shape, seed=2)


def error(ours, theirs):
    """The largest difference, as a share of the largest value (unclipped steps from T reach thousands)."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture(params=["linear", "squaredcos_cap_v2"])
def pair(request):
    """Our schedule, and the name that it has in diffusers."""
    return {"linear": linear_schedule, "squaredcos_cap_v2": cosine_schedule}[request.param](), request.param


# tables and steps


def test_tables_and_closed_form_at_every_step(pair):
    ours, name = pair
    theirs = library("DDPMScheduler", "float32", beta_schedule=name)
    assert error(ours.alpha_bar[1:], theirs.alphas_cumprod) < 1e-6
    assert error(ours.beta[1:], theirs.betas) < 1e-6
    t, x0, noise = torch.arange(1, 1001), normal(1000, 1, 2, 3).clamp(-1, 1), normal(1000, 1, 2, 3, seed=1)
    assert error(q_sample(ours, x0, t, noise), theirs.add_noise(x0, noise, t - 1)) < 1e-5
    for config in (theirs.config, library("DDIMScheduler", "float32").config):  # the defaults that the notebook names
        assert (config.num_train_timesteps, config.beta_start, config.beta_end) == (1000, 1e-4, 0.02)
        assert (config.clip_sample, config.timestep_spacing) == (True, "leading")
    assert theirs.config.variance_type == "fixed_small"


@pytest.mark.parametrize(("digits", "tolerance"), [("float32", 1e-4), ("float64", 1e-5)])
@pytest.mark.parametrize(("variance", "their_name"), [("beta", "fixed_large"), ("posterior", "fixed_small")])
@pytest.mark.parametrize("clip", [True, False])
def test_ddpm_step_at_every_step(pair, clip, variance, their_name, digits, tolerance):
    ours, name = pair
    theirs = library("DDPMScheduler", digits, beta_schedule=name, variance_type=their_name, clip_sample=clip)
    worst = []
    for t in range(1, 1001):
        x_t, eps = images_at(ours, t, SHAPE)
        expected = theirs.step(eps, t - 1, x_t, generator=torch.Generator().manual_seed(t)).prev_sample
        worst.append(error(ddpm_step(ours, x_t, t, eps, normal(*SHAPE, seed=t), variance, clip), expected))
    assert max(worst) < tolerance
    if digits == "float32":  # where the digits are lost: only there
        assert max(worst[100:-1]) < 1e-5


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize(("count", "eta"), [(1, 0.5), (5, 0), (5, 1), (50, 0), (50, 0.5), (1000, 0)])
def test_ddim_step_with_a_stride(pair, count, eta, spacing, clip):
    ours, name = pair
    digits = "float64" if count == 1000 else "float32"
    theirs = library("DDIMScheduler", digits, beta_schedule=name, timestep_spacing=spacing, clip_sample=clip)
    theirs.set_timesteps(count)
    steps = {"trailing": ddim_steps, "leading": leading_steps}[spacing](1000, count)
    assert [t - 1 for t in steps] == theirs.timesteps.tolist()
    for t, s in pairwise([*steps, 0]):
        x_t, eps = images_at(ours, t, SHAPE)
        noise = normal(*SHAPE, seed=7) if eta else None
        how = {"eta": eta, "use_clipped_model_output": clip, "variance_noise": noise}
        expected = theirs.step(eps, t - 1, x_t, **how).prev_sample
        found = ddim_step(ours, x_t, t, s, eps, noise, eta, clip)
        # eq. 12 subtracts two numbers that are nearly equal for a long stride with eta = 1, they in float32: at t =
        # 1000 of the cosine schedule their difference may come out below 0, and its root is no number.
        if t == 1000 and eta == 1 and not expected.isfinite().all():
            assert found.isfinite().all()
        else:
            assert error(found, expected) < (2e-4 if eta else 1e-5), t


@pytest.mark.parametrize(("T", "steps"), [(1000, 50), (1000, 7), (100, 100), (300, 1)])
def test_leading_steps(T, steps):
    theirs = pytest.importorskip("diffusers").DDIMScheduler(num_train_timesteps=T)
    theirs.set_timesteps(steps)
    assert leading_steps(T, steps) == [t + 1 for t in theirs.timesteps.tolist()]
    for wrong in (0, T + 1):
        with pytest.raises(ValueError, match=f"from 1 to T = {T} steps"):
            leading_steps(T, wrong)


# networks


@pytest.mark.parametrize(("make", "parameters"), [(grey_unet2d, 1_707_009), (colour_unet2d, 4_654_723)])
def test_diffusers_networks_are_the_published_ones(make, parameters):
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = make()
    assert count_parameters(net) == parameters
    x = normal(2, net.net.config.in_channels, *[net.net.config.sample_size] * 2)
    with torch.no_grad():
        assert torch.equal(net(x, torch.tensor([1, 7])), net.net(x, torch.tensor([0, 6])).sample)


def test_a_network_of_diffusers_trains_is_saved_and_goes_on(tmp_path):
    pytest.importorskip("diffusers")
    settings = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    settings |= {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    images = (127 * normal(20, 1, 8, 8).clamp(-1, 1) + 128).to(torch.uint8)

    def trainer():
        torch.manual_seed(0)
        net = DiffusersUNet(sample_size=8, in_channels=1, out_channels=1, **settings)
        return Trainer(net, cosine_schedule(20), images, TrainConfig(4, 4, warmup=1), "cpu")

    whole, first, second = trainer(), trainer(), trainer()
    list(whole.run())
    for _, _ in zip(range(2), first.run(), strict=False):
        pass
    first.save(tmp_path / "run.safetensors")
    second.fit(tmp_path / "run.safetensors")
    ends = [sample(t.ema, t.schedule, 2, (1, 8, 8), steps=5) for t in (whole, second, first)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_the_network_of_deepinv(monkeypatch):
    pytest.importorskip("deepinv")
    torch.manual_seed(0)
    net = DeepinvUNet().eval()
    assert count_parameters(net) == 93_555_841
    torch.nn.init.normal_(net.net.out[-1].weight, std=0.1)  # it starts at zero
    x, t, told, forward = normal(2, 1, 32, 32), torch.tensor([1, 1000]), [], net.net.forward_diffusion
    # Untrained, it does not listen to the time yet: so look at what it is told.
    monkeypatch.setattr(net.net, "forward_diffusion", lambda x, t, y=None: told.append(t.tolist()) or forward(x, t, y))
    with torch.no_grad():
        assert DeepinvUNet(channels=3)(normal(1, 3, 32, 32), t[:1]).shape == (1, 3, 32, 32), "no variances"
        assert torch.equal(net(x, t), forward(x, t - 1))
        assert told == [[0, 999]]
        # what is no multiple of 32 is padded in a circle, to the left and above
        small = x[..., :28, :28]
        padded = torch.nn.functional.pad(small, (4, 0, 4, 0), mode="circular")
        assert torch.equal(net(small, t), net(padded, t)[..., 4:, 4:])


# not installed


@pytest.fixture
def nothing_installed(monkeypatch):
    names = ("diffusers", "deepinv")

    class Nowhere:
        def find_spec(self, name, path=None, target=None):
            if name in names:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Nowhere(), *sys.meta_path])


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(("make", "name"), [(grey_unet2d, "diffusers"), (DeepinvUNet, "deepinv")])
def test_missing_library_says_what_to_install(make, name, capsys):
    with pytest.raises(MissingLibrary, match=f"{name} is not installed: pip install {name}"):
        make()
    assert find_library(name) is None
    assert f"pip install {name}" in capsys.readouterr().out


def test_a_library_that_misses_something_itself_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "diffusers.py").write_text("import nothing_of_that_name")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "diffusers", raising=False)
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        grey_unet2d()


@pytest.mark.usefixtures("nothing_installed")
def test_notebook_runs_without_the_libraries(monkeypatch, capsys):
    drawn = ddpm_helpers.load_images("digits")
    monkeypatch.setattr(ddpm_helpers, "load_images", lambda *_, **__: drawn)
    monkeypatch.setattr(ddpm_helpers, "viz", MagicMock(), raising=False)
    monkeypatch.setattr(lessons, "show", MagicMock(), raising=False)
    monkeypatch.setenv("DDPM_BUDGET", "quick")
    world: dict = {"__name__": "notebook"}
    for cell in jupytext.read(NOTEBOOK).cells:
        if cell.cell_type == "code":
            exec(cell.source, world)
    printed = capsys.readouterr().out
    assert "pip install diffusers" in printed
    assert "pip install deepinv" in printed
    assert "(10.4) holds" in printed
    assert "parameters, loss" not in printed
