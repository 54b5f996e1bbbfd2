"""Bootstrap, Wald, back-test and the comparison of methods, on planted laws."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import CHINCHILLA, COVERAGE, TARGET, TRUNKS, Branches, Scenario, draw, gauss

from flops_fit.fitting import backtest
from flops_fit.fitting.backtest import back_test, levels_of, loss_error, reach
from flops_fit.fitting.details import Loss
from flops_fit.fitting.disagreement import disagreements, wasted_share
from flops_fit.fitting.fit import fit, fit_all
from flops_fit.fitting.intervals import bootstrap, clusters_of, preview, t_interval, wald_errors
from flops_fit.fitting.law import FlopsPerToken, GeneralSurface, Surface
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Observation, Optimum
from flops_fit.fitting.robust import find_outliers, mad_sigma, resample_weights
from flops_fit.fitting.surface import solve_surface

RUNS, _ = draw(Scenario(num_budgets=9, num_sizes=9), 4)
SOLVED = solve_surface(RUNS)


def test_resamples_are_those_of_the_legacy_generator() -> None:
    weights = resample_weights(3, 20, stream=np.random.RandomState(42))
    stream = np.random.RandomState(42)
    for row in weights:
        drawn = stream.choice(20, 20, replace=True)
        assert row.tolist() == np.bincount(drawn, minlength=20).tolist()


def test_whole_clusters_are_drawn_together() -> None:
    labels = ["a", "b", "a", "c", "b", "d"]
    weights = resample_weights(50, 6, stream=np.random.RandomState(0), clusters=labels)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3, 5]].sum(axis=1) == 4).all()


def test_sizes_that_recur_are_clusters_and_sizes_that_do_not_are_not() -> None:
    shared, _ = draw(Scenario(num_budgets=9, shares_sizes=True), 0)
    assert clusters_of(solve_surface(shared)) is not None
    assert clusters_of(SOLVED) is None


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    one, two = (fit(RUNS, FitOptions(bootstrap=60, seed=7)) for _ in range(2))
    assert one.intervals == two.intervals
    assert fit(RUNS, FitOptions(bootstrap=60, seed=8)).intervals != one.intervals


def test_the_bootstrap_is_the_spread_of_fits_to_resampled_tables() -> None:
    draws = bootstrap(SOLVED, 3, seed=5)
    seen = SOLVED.observations
    order = np.lexsort(([o.loss for o in seen], [o.params for o in seen], [o.tokens for o in seen]))
    drawn = np.random.RandomState(5).randint(0, len(seen), size=(3, len(seen)))
    for law, row in zip(draws.laws, drawn, strict=True):
        table = [seen[order[k]] for k in row]
        alone = solve_surface(table, FitOptions(loss=Loss.HUBER, huber_delta=SOLVED.problem.delta))
        assert law[3:] == pytest.approx([alone.law.alpha, alone.law.beta], rel=1e-3)


def test_walds_preview_is_of_the_size_of_the_bootstrap() -> None:
    count, target = FlopsPerToken(), np.array([TARGET])
    share, params, loss = wald_errors(SOLVED, target, count)
    laws = bootstrap(SOLVED, 400, seed=0).laws
    assert share == pytest.approx((laws[:, 4] / (laws[:, 3] + laws[:, 4])).std(), rel=0.35)
    assert params[0] > 0
    assert loss[0] > 0
    assert preview(SOLVED).laws[:, 3].std() == pytest.approx(laws[:, 3].std(), rel=0.35)


def test_a_t_interval_is_wider_with_fewer_degrees_of_freedom() -> None:
    low, high = t_interval(1.0, 0.1, 10**6)
    assert (low, high) == pytest.approx((1 - 0.196, 1 + 0.196), abs=1e-3)
    assert t_interval(1.0, 0.1, 3)[1] > high + 0.1


def test_only_runs_far_above_the_others_are_outliers() -> None:
    residuals = 0.002 * np.random.default_rng(0).standard_normal(60)
    assert not find_outliers(residuals).any()
    residuals[[3, 40]] = 0.03, -0.03
    assert np.flatnonzero(find_outliers(residuals)).tolist() == [3]
    tiny = residuals / 100
    assert not find_outliers(tiny).any()


def test_the_mads_sigma_is_that_of_normal_noise() -> None:
    noise = 0.3 * np.random.default_rng(0).standard_normal(100_000)
    assert mad_sigma(noise) == pytest.approx(0.3, rel=0.02)


def test_levels_are_the_budgets_where_there_are_some_and_bins_elsewhere() -> None:
    assert [len(level) for level in levels_of(RUNS)] == [9] * 9
    scatter = np.exp(np.random.default_rng(0).uniform(-3, 3, len(RUNS)))
    loose = [
        replace(o, flops=o.flops * f, budget_flops=None)
        for o, f in zip(RUNS, scatter.tolist(), strict=True)
    ]
    levels = levels_of(loose)
    assert 4 <= len(levels) <= 8
    tops = [max(loose[k].flops for k in level) for level in levels]
    assert tops == sorted(tops)


def test_compute_that_varies_freely_has_bins_however_many_runs_fill_it() -> None:
    law, draw = Surface(1.8, 400.0, 2000.0, 0.35, 0.37), np.random.default_rng(0)
    flops = 10 ** draw.uniform(18, 20, 3000)
    params = np.sqrt(flops / 120) * 10 ** draw.uniform(-0.5, 0.5, 3000)
    loose = [
        Observation(n, c / 6 / n, c, law.loss(n, c / 6 / n) * math.exp(0.01 * noise))
        for n, c, noise in zip(
            params.tolist(), flops.tolist(), draw.standard_normal(3000).tolist(), strict=True
        )
    ]
    assert len(levels_of(loose)) == 8
    test = back_test(solve_surface(loose))
    # Noise of 1 %, one decade on: a step of a few percent would be grown to hundreds of percent.
    assert test is not None
    assert loss_error(test.folds[0], math.log(10)) < 0.12


def test_very_many_runs_are_tested_by_a_part_of_them_and_weighted_by_all(monkeypatch) -> None:
    whole = back_test(SOLVED)
    monkeypatch.setattr(backtest, "LARGE", 60)
    monkeypatch.setattr(backtest, "_MOST_TESTED", 41)
    part = back_test(SOLVED)
    assert len(part.weighted.weights) == len(whole.weighted.weights) == len(RUNS)
    assert sum(f.num_test for f in part.folds[0] if f.is_next) < 41
    monkeypatch.setattr(backtest, "POWERS", (part.power,))
    assert back_test(SOLVED).weighted.law.alpha == pytest.approx(part.weighted.law.alpha, rel=1e-6)


def test_each_fold_sees_nothing_of_the_level_it_predicts() -> None:
    """A last budget that is 20 % off moves the last fold's error, not its law."""
    test = back_test(SOLVED)
    assert test is not None
    top = max(o.flops for o in RUNS)
    observed = SOLVED.coordinates.log_loss.copy()
    last = np.array([o.flops == top for o in SOLVED.observations])
    observed[last] += 0.2
    where = replace(SOLVED.coordinates, log_loss=observed)
    bent = back_test(
        replace(SOLVED, coordinates=where, problem=replace(SOLVED.problem, log_loss=observed))
    )
    assert bent is not None
    before, after = test.folds[0][-1], bent.folds[0][-1]
    assert before.is_next
    assert after.test_flops == before.test_flops
    assert after.bias == pytest.approx(before.bias + 0.2, abs=2e-3)


def test_the_error_bar_grows_with_the_distance_and_the_reach_is_what_was_tested() -> None:
    test = back_test(SOLVED)
    assert test is not None
    near, far = (loss_error(test.folds[0], math.log(f)) for f in (2.0, 100.0))
    assert near is not None
    assert far is not None
    assert far > near > 0
    assert reach(test.folds[test.power]) <= math.log(10) + 0.01


def test_a_bad_law_at_small_compute_makes_the_weights_lean_to_the_large() -> None:
    """Small runs are 5 % worse than the law, ever less so with compute."""
    bent = []
    for o in RUNS:
        depth = math.log10(1e20 / o.flops) / 2
        bent.append(replace(o, loss=o.loss * (1 + 0.06 * depth**3)))
    test = back_test(solve_surface(bent))
    assert test is not None
    assert test.power > 0
    truth = CHINCHILLA.optimum(1e21).loss
    plain = solve_surface(bent).law.optimum(1e21).loss
    weighted = test.weighted.law.optimum(1e21).loss
    assert truth is not None
    assert plain is not None
    assert weighted is not None
    assert abs(math.log(weighted / truth)) < abs(math.log(plain / truth))


def test_the_right_choice_wastes_nothing_and_a_wrong_one_what_brute_force_says() -> None:
    right = CHINCHILLA.optimum(1e21)
    assert wasted_share(right, CHINCHILLA) == pytest.approx(0, abs=1e-6)
    wrong = Optimum(1e21, right.params * 3, right.tokens / 3, None)
    share = wasted_share(wrong, CHINCHILLA)
    assert share is not None
    reached = CHINCHILLA.loss(wrong.params, wrong.tokens)
    enough = CHINCHILLA.optimum(1e21 * (1 - share)).loss
    assert enough == pytest.approx(reached, rel=1e-9)
    general = GeneralSurface(1.8, 500.0, 900.0, 0.3, 0.3, 0.9)
    assert wasted_share(wrong, general) is not None


def test_disagreement_beyond_the_intervals_is_noted() -> None:
    one = Optimum(1e21, 1e9, 1e11, 2.5, (0.9e9, 1.1e9), method="surface")
    near = Optimum(1e21, 1.2e9, 1e11, 2.5, (1.05e9, 1.4e9), method="isoflop")
    away = replace(near, params=2e9, params_interval=(1.8e9, 2.2e9))
    assert disagreements([one, near]) == []
    assert [n.code for n in disagreements([one, away])] == ["methods_disagree"]


def test_a_law_that_does_not_hold_is_said_with_where() -> None:
    runs, _ = draw(Scenario(num_budgets=9, num_sizes=9, noise=gauss(0.04)), 1)
    notes = {n.code: n.message for n in fit_all(runs).notes}
    assert "the law does not hold" in notes["law_does_not_hold"]
    assert "third of compute" in notes["law_does_not_hold"]


def test_all_methods_stand_side_by_side_at_each_target() -> None:
    found = fit_all(RUNS, FitOptions(bootstrap=50), targets=[1e20, 1e21])
    methods = {"isoflop", "surface", "extrapolation", "kaplan", "general", "combination"}
    assert set(found.fits) == methods
    assert [p.flops for p in found.predictions] == [1e20] * 6 + [1e21] * 6
    assert {w.chosen for w in found.wastes} == set(found.fits)
    assert {w.budget_flops for w in found.wastes} == {1e21}
    assert all(0 <= w.wasted_share <= 1 for w in found.wastes)


def test_a_fit_with_outliers_is_shown_beside_the_one_without() -> None:
    runs = [*RUNS[:20], replace(RUNS[20], loss=RUNS[20].loss * 1.2), *RUNS[21:]]
    found = fit(runs)
    beside = found.details.with_outliers
    assert [e.name for e in found.excluded] == [RUNS[20].name]
    assert beside.parameters["E"] != pytest.approx(found.parameters["E"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COVERAGE))
def test_intervals_cover_as_often_as_they_say(name: str) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from fitting_coverage import covered

    shares = np.mean([covered(COVERAGE[name], seed, 400) for seed in range(300)], axis=0)[:3]
    assert shares.min() >= 0.92
    assert shares.max() <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TRUNKS))
def test_intervals_of_shared_trunks_cover_as_often_as_they_say(name: str) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from fitting_coverage import covered

    shares = np.mean([covered(TRUNKS[name], seed, 400) for seed in range(300)], axis=0)
    assert shares.min() >= 0.92


@pytest.mark.parametrize(("sizes", "widest"), [(4, 2.6), (6, 1.6)])
def test_runs_that_share_a_trunk_do_not_count_as_independent(sizes: int, widest: float) -> None:
    """Their intervals cover, and are not far wider than the estimates' own spread."""
    hits, found = {True: 0, False: 0}, []
    truth = CHINCHILLA.beta / (CHINCHILLA.alpha + CHINCHILLA.beta)
    for seed in range(60):
        told = Branches(sizes, 5).draw(seed)
        for is_told in hits:
            runs = told if is_told else [replace(o, run=None) for o in told]
            low, high = (fitted := fit(runs, FitOptions(bootstrap=200, seed=seed))).intervals["a"]
            hits[is_told] += low <= truth <= high
            if is_told:
                found.append((fitted.exponents["params"], (high - low) / 2))
    assert hits[True] >= 55
    assert hits[False] <= 50
    estimates, half_widths = np.array(found).T
    assert np.median(half_widths) < widest * 1.96 * estimates.std()


@pytest.mark.parametrize("bootstrap", [0, 200])
def test_what_is_held_stays_where_it_is_on_shared_trunks_too(bootstrap: int) -> None:
    found = fit(
        Branches(6, 5).draw(0), FitOptions(bootstrap=bootstrap, irreducible_loss=CHINCHILLA.E)
    )
    assert found.intervals["E"] == (CHINCHILLA.E, CHINCHILLA.E)
    free = fit(Branches(6, 5).draw(0), FitOptions(bootstrap=bootstrap))
    assert found.standard_errors["a"] < free.standard_errors["a"]


def test_intervals_of_shared_trunks_do_not_hang_on_the_order_of_runs() -> None:
    runs = Branches(6, 5).draw(0)
    one, other = (fit(seen, FitOptions(bootstrap=200, seed=3)) for seen in (runs, runs[::-1]))
    assert one.intervals["a"] == pytest.approx(other.intervals["a"], rel=1e-6)
    assert one.spread.resampled == "noise"
