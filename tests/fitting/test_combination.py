"""The headline answer: members weighted by the table's own back-test."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from planted import CHINCHILLA, TARGET, grid
from reference_runs import need_runs, runs_of

from flops_fit.errors import FitError
from flops_fit.fitting.combination import Combination, Miss
from flops_fit.fitting.fit import fit_all
from flops_fit.fitting.law import FlopsPerToken
from flops_fit.fitting.points import Optimum

RUNS = grid(num_budgets=7, num_sizes=7, sd=2e-3)


def combined(runs=RUNS, **options) -> Combination:
    frontier = fit_all(runs, shows_gains=False, **options).fits["combination"].frontier
    assert isinstance(frontier, Combination)
    return frontier


def test_the_combination_is_near_the_truth_and_its_intervals_hold_it() -> None:
    found, truth = combined().optimum(TARGET), CHINCHILLA.optimum(TARGET)
    assert abs(math.log(found.params / truth.params)) < 0.15
    assert found.params_interval is not None
    assert found.params_interval[0] < truth.params < found.params_interval[1]
    assert found.loss_interval is not None
    assert truth.loss is not None
    assert found.loss_interval[0] < truth.loss < found.loss_interval[1]


def test_params_and_tokens_satisfy_the_flop_count_at_every_budget() -> None:
    ratios = [5.0 + 1e3 / math.sqrt(o.params) for o in RUNS]
    runs = [replace(o, flops=r * o.params * o.tokens) for o, r in zip(RUNS, ratios, strict=True)]
    found, count = combined(runs), FlopsPerToken.through(tuple(runs))
    for flops in np.geomspace(1e18, 1e24, 7):
        optimum = found.optimum(float(flops))
        assert count(optimum.params) * optimum.tokens == pytest.approx(flops)


def test_answers_are_smooth_and_rise_with_the_budget() -> None:
    found = combined()
    params = [found.optimum(float(c)).params for c in np.geomspace(1e18, 1e24, 121)]
    steps = np.diff(np.log(params))
    assert steps.min() > 0
    assert np.abs(np.diff(steps)).max() < 0.05


def test_weights_add_up_to_one_and_follow_the_errors_of_the_folds() -> None:
    class At:
        def __init__(self, params: float, loss: float) -> None:
            self.params, self.loss = params, loss

        def optimum(self, flops: float) -> Optimum:
            return Optimum(flops, self.params, flops / 6 / self.params, self.loss)

    def miss(level: int, isoflop: float, surface: float) -> Miss:
        errors = {"isoflop": isoflop, "surface": surface}
        return Miss(level, level, 10.0 ** (18 + level), 0.5, errors, errors)

    members = {"isoflop": At(1e8, 2.0), "surface": At(1.1e8, 2.01)}
    good = tuple(miss(level, 0.2, 0.001) for level in range(3, 7))
    shares = Combination(members, 1e24, 7, FlopsPerToken(), good).loss_weights(1e25)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["surface"] > 0.9
    without = Combination(members, 1e24, 7, FlopsPerToken()).loss_weights(1e25)
    assert without["isoflop"] > 0.9  # the prior alone


def test_a_member_that_leaves_the_possible_takes_no_part() -> None:
    class Wild:
        def optimum(self, flops: float) -> Optimum:
            return Optimum(flops, 1e300, 1.0, 2.0)

    frontiers = {**combined().frontiers, "surface": Wild()}
    found = Combination(frontiers, 1e21, 7, FlopsPerToken())
    assert "surface" not in found.params_weights(1e22)
    with pytest.raises(FitError, match="no method gives a possible optimum"):
        Combination({"surface": Wild()}, 1e21, 7, FlopsPerToken()).optimum(1e22)


def test_intervals_widen_with_the_distance_and_with_few_levels() -> None:
    def width(found: Combination, flops: float) -> float:
        low, high = found.optimum(flops).params_interval or (1.0, math.inf)
        return math.log(high / low)

    seven, four = combined(), combined(RUNS[: 4 * 7])
    assert width(seven, 10 * seven.top_flops) < width(seven, 100 * seven.top_flops)
    assert width(seven, 10 * seven.top_flops) < width(four, 10 * four.top_flops)


def test_one_lucky_run_excludes_no_member_and_two_do() -> None:
    class At:
        def __init__(self, loss: float) -> None:
            self.loss = loss

        def optimum(self, flops: float) -> Optimum:
            return Optimum(flops, 1e8, flops / 6e8, self.loss)

    members = {"isoflop": At(2.0), "surface": At(1.9)}
    one = Combination(members, 1e21, 7, FlopsPerToken(), lowest=((1e21, 1.9), (1e21, 2.0)))
    assert one.loss_weights(1e22)["isoflop"] > 0.9
    two = replace(one, lowest=((1e21, 1.9), (1e21, 1.9)))
    assert two.loss_weights(1e22) == {"surface": 1.0}


def test_no_single_method_speaks_for_chinchillas_runs() -> None:
    """Their best sizes by budget disagree by more than noise, and one run lies 2 % low."""
    need_runs()
    fits = fit_all(runs_of("epoch_chinchilla_240"), shows_gains=False)
    found = fits.fits["combination"].frontier
    assert isinstance(found, Combination)
    target = 10 * found.top_flops
    assert max(found.params_weights(target).values()) < 0.6
    assert len(found.loss_weights(target)) == 4
    sizes = [o.params for m, o in found.optima(target).items() if m != "extrapolation"]
    middle, answer = float(np.exp(np.mean(np.log(sizes)))), found.optimum(target)
    assert answer.params_interval is not None
    assert answer.params_interval[0] < middle < answer.params_interval[1]
