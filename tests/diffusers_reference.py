"""diffusers' schedulers as a reference for ours: how one is made, what it is asked, how far apart answers are."""

import pytest
import torch

from ddpm_helpers import q_sample


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
