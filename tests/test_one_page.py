"""The diffusion model on one page in notebook 00: complete, short, and equal to the helper's."""

import re
from itertools import pairwise
from pathlib import Path

import jupytext
import pytest
import torch

import ddpm_helpers
from ddpm_helpers import cosine_schedule, ddpm_loss, ddpm_step, synthetic_digits, to_float
from ddpm_helpers.pictures import ImageData

NOTEBOOK = jupytext.read(Path(__file__).parent.parent / "notebooks" / "src" / "00_start_here.py")
HEADING = "## A whole diffusion model on one page"
FIRST = next(place for place, cell in enumerate(NOTEBOOK.cells) if HEADING in cell.source)
PAGE = NOTEBOOK.cells[FIRST:]
CODE = [cell.source for cell in PAGE if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def page():
    """The page alone, as a file would run it, with few steps: its names."""
    images, labels = synthetic_digits(64, seed=0)
    world: dict = {}
    text = "\n".join(CODE).replace("T = 250", "T = 20").replace("quick=20", "quick=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ddpm_helpers, "load_images", lambda _: ImageData(images, labels, tuple("0123456789"), "drawn"))
        patch.setenv("DDPM_BUDGET", "quick")
        exec(text, world)
    assert (world["T"], world["steps"]) == (20, 2)
    return world


def test_it_runs_alone_and_draws(page):
    assert page["digits"].shape == (32, 1, 28, 28)
    assert page["digits"].abs().max() <= 1  # the last step ends on the clipped guess
    assert len(page["losses"]) == 2


def test_its_pictures_are_the_helpers(page):
    """Each clean image of a batch is a training image in [-1, 1]: 2 * u in uint8 would wrap."""
    apart = page["x0"][:, None] - to_float(page["images"])  # (64, N, 1, 28, 28)
    assert apart.abs().amax((2, 3, 4)).amin(1).max() < 1e-6


def test_its_loss_is_the_helpers(page):
    torch.manual_seed(1)
    x0, noise, t = torch.rand(20, 1, 28, 28) * 2 - 1, torch.randn(20, 1, 28, 28), torch.arange(1, 21)
    with torch.no_grad():
        theirs = ddpm_loss(page["net"], cosine_schedule(20), x0, t, noise)
        torch.testing.assert_close(page["loss_of"](page["net"], x0, t, noise), theirs)


@pytest.mark.parametrize("t", range(1, 21))
def test_its_step_is_the_helpers(page, t):
    x, eps, noise = torch.randn(3, 8, 1, 28, 28, generator=torch.Generator().manual_seed(t))
    torch.testing.assert_close(page["step"](x, t, eps, noise), ddpm_step(cosine_schedule(20), x, t, eps, noise))


def test_it_fits_on_a_page():
    """Two calls of the helper module, and short cells, each under a text that leads to the notebook behind it."""
    sizes = [len(re.findall(r"^\s*\S", code, flags=re.M)) for code in CODE]
    assert max(sizes) <= 15
    assert sum(sizes) <= 90
    assert max(len(line) for code in CODE for line in code.splitlines()) <= 96
    assert re.findall(r"from ddpm_helpers.*", "\n".join(CODE)) == ["from ddpm_helpers import budget, load_images"]
    for before, cell in pairwise(PAGE[2:]):  # after the imports
        if (before.cell_type, cell.cell_type) == ("markdown", "code"):
            assert re.search(r"\]\(\d\d_\w+\.ipynb\)", before.source), cell.source
