"""The machinery of notebook 16, where its equations do not reach: limits, bad input, what counts as chance."""

import math
import statistics

import pytest
import torch

from ddpm_helpers import cosine_schedule, step_weight
from ddpm_helpers.lessons import targets
from ddpm_helpers.lessons.ladder import load_ladder
from ddpm_helpers.lessons.toy import ReverseModel, double


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: targets.preconditioning(torch.tensor([0.1, -0.2]), 0.5), r"rho at least 0, got s = 0\.5, rho \[0\.1"),
        (lambda: targets.preconditioning(torch.tensor([0.1]), 0.0), "s must be above 0"),
        (lambda: targets.uniform_share(torch.ones(10), 11, 0.1), r"first must lie in 1 \.\.\. 10"),
        (lambda: targets.uniform_share(torch.ones(10), 0, 0.1), r"first must lie in 1 \.\.\. 10"),
        (lambda: targets.uniform_share(torch.ones(10), 9, 0.3), r"wanted in 0 \.\.\. 0\.2, which uniform draws give"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_preconditioning_where_one_of_the_two_is_all():
    c_in, c_skip, c_out = targets.preconditioning(torch.tensor([0.0, 1e6]).double(), 0.5)
    assert (c_in[0], c_skip[0], c_out[0]) == (2, 1, 0)  # no noise: the input is the image
    assert c_in[1] * 1e6 == pytest.approx(1)
    assert c_skip[1] < 1e-12
    assert c_out[1] == pytest.approx(0.5)  # noise alone: F is the image, in units of its size


@pytest.mark.parametrize(("first", "wanted"), [(980, 0.005), (980, 0.021), (1000, 1e-4)])
def test_the_smallest_share_gives_what_was_wanted(first, wanted):
    weight = step_weight(cosine_schedule(1000)).double()
    u = targets.uniform_share(weight, first, wanted)
    assert 0 < u <= 1
    p = u / 1000 + (1 - u) * weight / weight.sum()
    assert p[first - 1 :].sum() == pytest.approx(wanted)


@pytest.mark.parametrize("weight", [step_weight(cosine_schedule(1000)), torch.ones(1000)], ids=["cosine", "even"])
def test_no_share_where_the_weight_is_enough(weight):
    assert targets.uniform_share(weight, 400, 0.1) == 0


def test_the_bound_of_pure_noise_is_that_of_the_prior():
    """At s = T no step is left: the mean of log N(x_T; 0, 1) over q(x_T | x_0) is known."""
    schedule = double(cosine_schedule(6, max_beta=0.9))
    model = ReverseModel(schedule, schedule.beta, lambda x, t: 0.3 * x)
    grid, x0 = torch.linspace(-8, 8, 801, dtype=torch.float64), torch.tensor(0.7).double()
    bounds = targets.noised_bounds(model, x0, grid)
    second = schedule.alpha_bar[-1] * x0**2 + schedule.sigma[-1] ** 2
    assert bounds.shape == (7,)
    assert bounds[-1].item() == pytest.approx((-0.5 * (math.log(2 * math.pi) + second)).item(), abs=1e-9)
    assert targets.entropy(torch.tensor(1.0)).item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e))


def results(**distances):
    names = {"recipe": "the recipe", "lever": "a lever", "two": "noise as target"}
    rows = []
    for name, values in distances.items():
        for seed, value in enumerate(values):
            rows.append({"name": names[name] + (f", seed {seed}" if seed else ""), "frechet": value})
    return {"systems": rows}


def test_chance_pools_the_spread_of_seeds_and_not_single_runs():
    found = results(recipe=[100.0, 110.0, 120.0], lever=[50.0, 50.0, 50.0], two=[500.0])
    middle, limit = targets.chance(found)
    assert targets.of_seeds(load_ladder("levers_cpu"), "no patches; 16, 32, 64")[1:] == pytest.approx(
        [195.8, 202.7], abs=0.1
    )
    assert middle == 110
    assert limit == pytest.approx(2.31 * math.sqrt(50 * 4 / 3))
    gain, half = targets.paired(found, "a lever")
    assert gain == 60
    assert half == pytest.approx(4.30 * statistics.stdev([50, 60, 70]) / math.sqrt(3))


def test_the_table_has_every_design_once_and_judges_against_chance():
    levers = load_ladder("levers_cpu")
    named = {name for rows in targets.LEVERS.values() for name in rows.values()}
    assert named <= {row["name"] for row in levers["systems"]}
    lines = targets.levers_table(levers).splitlines()
    assert len(lines) == 1 + len(targets.LEVERS) + len(named)
    for line in lines[1:]:
        if not line.startswith("--"):
            change, limit = float(line[52:61]), targets.chance(levers, 3 if "seeds" in line else 1)[1]
            verdict = "-" if abs(change) < limit - 0.5 else "better" if change < 0 else "worse"
            assert abs(abs(change) - limit) < 0.5 or line.endswith(verdict), line
