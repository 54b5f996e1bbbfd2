"""What a plan is said to buy is what fits to such runs really give."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from flops_fit.errors import FitError, ManifestError
from flops_fit.fitting.points import Observation
from flops_fit.fitting.surface import solve_surface
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.sweep_section import SweepSection
from flops_fit.manifest.trials import Size
from flops_fit.planning.designs import Ground, lay_out
from flops_fit.planning.power import power_of, prior_law, read_prior
from flops_fit.planning.trunks import share_trunks

SIZES = [Size(k, n, None, 6.0 * n) for k, n in enumerate(round(1000 * 1.1**k) for k in range(150))]
TARGET = 1e18


def trials_of(**keys):
    ground = Ground(SIZES, batch_tokens=lambda size, tokens: 64)
    return lay_out(SweepSection(**keys), ground).trials


LADDER = trials_of(design="ladder", total_flops=1e17)


@pytest.mark.parametrize("trials", [LADDER, trials_of(budgets=[1e14, 1e15, 3e15, 1e16])])
def test_the_half_widths_are_those_of_full_fits(trials):
    power = power_of(trials, target_flops=TARGET)
    rng = np.random.default_rng(1)
    exponents, params = [], []
    for _ in range(120):
        seen = [
            Observation(
                t.size.params, t.tokens, t.flops,
                power.law.loss(t.size.params, t.tokens)
                * math.exp(power.noise * rng.standard_normal()),
            )
            for t in trials
        ]  # fmt: skip
        law = solve_surface(seen).law
        exponents.append(law.beta / (law.alpha + law.beta))
        params.append(law.log_params(TARGET))
    assert power.exponent_half_width == pytest.approx(1.96 * np.std(exponents), rel=0.25)
    assert math.log(power.params_factor) == pytest.approx(1.96 * np.std(params), rel=0.25)
    assert power.exponent == pytest.approx(np.mean(exponents), abs=0.01)


def test_trials_that_share_a_trunk_tell_what_their_common_noise_lets_them_tell():
    spread = {"design": "grid", "tokens_per_param": [5, 10, 20, 40, 80], "num_sizes": 6}
    alone = trials_of(**spread, largest_params=1e8)
    recipe = Recipe(schedule="wsd")
    shared = share_trunks(alone, recipe, units_per_example=64, multiple_of_examples=1)
    assert len({trial.trunk_id for trial in shared}) == 6
    power = power_of(shared, target_flops=TARGET)
    rng = np.random.default_rng(1)
    params = []
    for _ in range(120):
        common = {trial.trunk_id: rng.standard_normal() for trial in shared}
        seen = [
            Observation(
                t.size.params, t.tokens, t.flops,
                power.law.loss(t.size.params, t.tokens)
                * math.exp(
                    power.noise
                    * (0.9**0.5 * common[t.trunk_id] + 0.1**0.5 * rng.standard_normal())
                ),
            )
            for t in shared
        ]  # fmt: skip
        params.append(solve_surface(seen).law.log_params(TARGET))
    assert math.log(power.params_factor) == pytest.approx(1.96 * np.std(params), rel=0.25)
    apart = power_of([replace(trial, trunk=None) for trial in shared], target_flops=TARGET)
    assert power.exponent_half_width > 1.3 * apart.exponent_half_width


def test_half_widths_follow_the_noise_and_the_size_of_the_sweep():
    narrow = power_of(LADDER, target_flops=TARGET, noise=0.001)
    wide = power_of(LADDER, target_flops=TARGET, noise=0.004)
    assert wide.exponent_half_width == pytest.approx(4 * narrow.exponent_half_width, rel=0.2)
    short = power_of(trials_of(design="ladder", total_flops=1e17, levels=4), target_flops=TARGET)
    assert short.exponent_half_width > power_of(LADDER, target_flops=TARGET).exponent_half_width
    assert short.params_factor_with_model > short.params_factor


@pytest.mark.parametrize(
    "stated", [{}, {"alpha": 0.34, "beta": 0.28}, {"alpha": 0.47, "beta": 0.2}]
)
@pytest.mark.parametrize("ratio", [5.0, 20.0, 80.0])
def test_a_ladder_needs_half_the_flops_of_the_classical_sweep_at_most(stated, ratio):
    """For equal error of N at 30 times the top, wherever the optimum is (both expect 20)."""
    top = 1e16
    classical = trials_of(budgets=[top / 3**k for k in range(5)], sizes_per_budget=7)
    needed = []
    for trials in (classical, trials_of(design="ladder", top_flops=top)):
        power = power_of(
            trials, target_flops=30 * top, tokens_per_param=ratio, stated=stated, simulations=1000
        )
        needed.append(math.log(power.params_factor) ** 2 * sum(t.flops for t in trials))
    assert needed[1] <= 0.5 * needed[0]


def test_the_prior_stands_where_the_plan_expects_its_optimum():
    for ratio in (5.0, 20.0, 100.0):
        law = prior_law(1e18, ratio, {"alpha": 0.4, "beta": 0.3, "E": 1.2})
        found = law.optimum(1e18)
        assert found.tokens_per_param == pytest.approx(ratio)
        assert (law.E, law.alpha, law.beta) == (1.2, 0.4, 0.3)
        assert 1.2 < found.loss < 3


def test_runs_that_show_no_optimum_are_refused():
    with pytest.raises(FitError) as caught:
        power_of(trials_of(design="fixed-tokens", tokens=[1e6]), target_flops=TARGET)
    assert caught.value.code == "one_horizon"


@pytest.mark.parametrize("text", ["gamma=1", "alpha", "alpha=x", "0.3"])
def test_a_prior_that_cannot_be_read_is_one_error(text):
    with pytest.raises(ManifestError, match="--prior"):
        read_prior(text)


def test_the_command_prints_it_in_seconds(tmp_path, write_manifest):
    manifest = write_manifest(report="budgets = [1e14]")
    arguments = ["plan", str(manifest), "--power", "--noise", "0.002", "--prior", "beta=0.3"]
    ended = subprocess.run(
        [sys.executable, "-m", "flops_fit", *arguments, "--json"],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=20,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    power = json.loads(ended.stdout)["power"]
    assert (power["noise"], power["law"]["beta"], power["target_flops"]) == (0.002, 0.3, 1e14)
    assert 0 < power["exponent_half_width"] < 0.1
