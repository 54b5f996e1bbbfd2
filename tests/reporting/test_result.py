"""A result answers, keeps itself, and never says more than its observations do."""

import json
import math
import random
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
from planted_results import PLANTED, isoflop_fit, observe, planted_result, surface_fit, with_outlier

import flops_fit
from flops_fit.errors import FitError, Note, RunDirError
from flops_fit.fitting.details import Waste
from flops_fit.fitting.law import FlopsPerToken, SurfaceFrontier
from flops_fit.fitting.points import Excluded, Optimum
from flops_fit.reporting.reading import read_table_of_runs
from flops_fit.reporting.result import Result

BUDGETS = (1e17, 3e17, 1e18, 3e18, 1e19)


def test_predict_gives_the_planted_optimum_for_numbers_and_for_text():
    result = planted_result(BUDGETS)
    assert result.predict(1e20) == result.predict("1e20") == PLANTED.optimum(1e20)


def test_every_prediction_satisfies_the_flop_count():
    for row in planted_result(BUDGETS).chinchilla_table():
        assert 6 * row["params"] * row["tokens"] == pytest.approx(row["budget_flops"])
        assert row["tokens_per_param"] == row["tokens"] / row["params"]


def test_another_method_can_be_asked():
    result = planted_result(BUDGETS)
    asked = result.predict(1e20, method="isoflop")
    assert asked == result.fits["isoflop"].predict(1e20)


@pytest.mark.parametrize("budget", [0, -1e18, "many", float("nan"), True])
def test_a_budget_that_is_no_number_of_flops_is_refused(budget):
    with pytest.raises(ValueError, match="not a"):
        planted_result(BUDGETS).predict(budget)


def test_a_method_that_failed_raises_its_own_reason():
    failure = FitError("2 budgets, a fit needs 3", code="too_few_budgets")
    result = planted_result(fits={"surface": surface_fit()}, failures={"isoflop": failure})
    with pytest.raises(FitError, match="2 budgets") as caught:
        result.predict(1e20, method="isoflop")
    assert caught.value is failure
    with pytest.raises(FitError, match="no method `akima`"):
        result.predict(1e20, method="akima")


def test_a_refused_result_predicts_nothing_and_still_says_what_was_measured():
    failure = FitError("2 budgets, a fit needs 3", code="too_few_budgets")
    result = planted_result(fits={}, failures={"isoflop": failure})
    with pytest.raises(FitError, match="2 budgets"):
        result.predict(1e20)
    data = result.to_dict()
    assert data["verdict"] == "refuse"
    assert data["predictions"] == []
    assert data["observations"]["used"] == 35
    assert data["fits"]["isoflop"]["status"] == "too_few_budgets"


def test_the_table_has_a_row_per_budget_target_and_method():
    rows = planted_result(BUDGETS, targets=(5e19, 1e20)).chinchilla_table()
    assert len(rows) == (5 + 2) * 2
    assert [row["budget_flops"] for row in rows[::2]] == [*BUDGETS, 5e19, 1e20]
    assert [row["method"] for row in rows[:2]] == ["surface", "isoflop"]
    (row,) = [r for r in rows if r["budget_flops"] == 1e20 and r["method"] == "surface"]
    assert row["extrapolation_decades"] == pytest.approx(1.0)
    assert rows[0]["extrapolation_decades"] == 0.0


def test_runs_without_budgets_get_a_table_at_round_budgets_inside_the_data():
    seen = tuple(replace(o, budget_flops=None) for o in observe(BUDGETS))
    result = planted_result(observations=seen, fits={"surface": surface_fit()}, targets=())
    assert [row["budget_flops"] for row in result.chinchilla_table()] == [1e17, 1e18, 1e19]


def test_runs_of_a_budget_each_get_a_table_at_round_budgets(tmp_path):
    drawn = random.Random(0)
    rows = ["params,tokens,loss,budget_flops"]
    for _ in range(60):
        n, d = 10 ** drawn.uniform(7, 9), 10 ** drawn.uniform(9, 10.5)
        rows.append(f"{n:.6g},{d:.6g},{PLANTED.loss(n, d):.9g},{6 * n * d:.6g}")
    (tmp_path / "runs.csv").write_text("\n".join(rows))
    result = read_table_of_runs(tmp_path / "runs.csv", bootstrap=0)
    largest = max(o.flops for o in result.observations)
    least = min(o.flops for o in result.observations)
    budgets = {row["budget_flops"] for row in result.chinchilla_table()}
    powers = {10.0**k for k in range(14, 24) if least <= 10.0**k <= largest}
    assert budgets == {*powers, largest, 10 * largest}
    assert {waste.budget_flops for waste in result.wastes} == {10 * largest}
    kept = result.save(tmp_path)
    assert len(json.loads(kept.read_text())["predictions"]) == len(result.fits) * len(budgets)


def test_a_run_left_out_changes_no_budget_of_the_table():
    seen = observe(BUDGETS, sizes=2)
    out = (Excluded(seen[0].name, "outlier"),)
    result = planted_result(
        observations=seen, excluded=out, fits={"surface": surface_fit()}, targets=()
    )
    rows = result.chinchilla_table()
    assert sorted({row["budget_flops"] for row in rows}) == list(BUDGETS)


def test_a_stored_prediction_brings_its_intervals():
    known = Optimum(5e19, 1e9, 8.4e9, 2.4, params_interval=(9e8, 1.1e9), method="surface")
    result = planted_result(BUDGETS, targets=(5e19,), predictions=(known,))
    (row,) = [r for r in result.chinchilla_table([5e19]) if r["method"] == "surface"]
    assert row["params_interval"] == (9e8, 1.1e9)
    assert result.predict(5e19) is known
    assert result.predict(6e19) == PLANTED.optimum(6e19)


def test_any_budget_has_the_intervals_of_one_that_was_asked_for(tmp_path):
    drawn = random.Random(4)
    seen = observe(BUDGETS)
    table = {
        "params": [o.params for o in seen],
        "tokens": [o.tokens for o in seen],
        "loss": [o.loss * math.exp(drawn.gauss(0, 0.003)) for o in seen],
        "budget_flops": [o.budget_flops for o in seen],
    }
    asked = flops_fit.report(table, budgets=["3e20"], bootstrap=100)
    result = flops_fit.report(table, bootstrap=100)
    result.save(tmp_path)
    for each in (result, flops_fit.Result.load(tmp_path)):
        for method in ("surface", "isoflop", "extrapolation", "kaplan", "general"):
            expected, found = (one.predict(3e20, method=method) for one in (asked, each))
            for name in ("params", "tokens", "loss", "params_interval", "loss_interval"):
                wanted = getattr(expected, name)
                got = getattr(found, name)
                assert got == (wanted if wanted is None else pytest.approx(wanted, rel=1e-9))
    low, high = result.predict(3e20).params_interval
    assert low < PLANTED.optimum(3e20).params < high
    assert low < result.predict(3e20).params < high


def test_runs_that_tell_next_to_nothing_still_have_a_report_to_look_at():
    drawn = random.Random(1)
    seen = observe((1e15, 1.2e15, 2e15, 3e15), sizes=5)
    table = {
        "params": [o.params for o in seen],
        "tokens": [o.tokens for o in seen],
        "loss": [o.loss * math.exp(drawn.gauss(0, 0.3)) for o in seen],
        "budget_flops": [o.budget_flops for o in seen],
    }
    result = flops_fit.report(table, budgets=[1e24], bootstrap=50)
    optimum = result.predict(1e24, method="surface")
    low, high = optimum.params_interval
    assert high / low > 1e6
    assert 1 <= low <= optimum.params <= high <= 1e24
    assert all(math.isfinite(bound) and bound > 0 for bound in optimum.tokens_interval)
    assert "agreement" in result.plot()
    assert "inf" not in " ".join(result.answers())


def test_the_report_as_data_has_the_published_shape():
    seen, excluded = with_outlier(observe(BUDGETS), 4)
    out = (*excluded, Excluded("row 12", "loss is not a number"))
    data = planted_result(observations=seen, excluded=out).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["observations"] == {
        "used": len(seen) - 1,
        "excluded": [
            {"trial_id": seen[4].name, "reason": excluded[0].reason},
            {"row": 12, "reason": "loss is not a number"},
        ],
    }
    assert set(data["fits"]) == {"surface", "isoflop"}
    assert data["fits"]["surface"]["parameters"]["alpha"] == PLANTED.alpha
    assert set(data["fits"]["isoflop"]["exponents"]) == {"params", "tokens"}
    assert {"budget_flops", "method", "params", "tokens", "loss"} <= set(data["predictions"][0])


def test_numbers_that_are_not_finite_are_absent_from_the_data():
    fit = surface_fit(r_squared={"loss": float("nan")}, objective=float("inf"))
    data = planted_result(fits={"surface": fit}).to_dict()["fits"]["surface"]
    assert data["r_squared"] == {}
    assert data["objective"] is None


def test_a_result_that_was_saved_and_loaded_says_the_same(tmp_path):
    seen, excluded = with_outlier(observe(BUDGETS), 4)
    counted = FlopsPerToken((1e6, 1e8, 1e10), (8e6, 6.5e8, 6.1e10))
    surface = surface_fit(
        frontier=SurfaceFrontier(PLANTED.loss, counted, PLANTED.log_params),
        used=seen,
        residuals=(0.001, -0.002),
        intervals={"alpha": (0.3, 0.4)},
        standard_errors={"alpha": 0.02},
        notes=(Note("outliers", "1 of 35"),),
        draws=({"E": 1.8, "alpha": 0.35}, {"E": 1.81, "alpha": 0.34}),
    )
    before = planted_result(
        observations=seen,
        excluded=excluded,
        fits={"surface": surface, "isoflop": isoflop_fit(seen, excluded=excluded)},
        failures={"envelope": FitError("no curves", code="no_curves", hint="log steps")},
        notes=(Note("flops_assumed", "6 N D"),),
        plan_warnings=(Note("repeated_data", "3 epochs"),),
        run_dir=tmp_path,
        predictions=(Optimum(5e19, 1e9, 8.4e9, 2.4, (9e8, 1.1e9), method="surface"),),
        wastes=(Waste(budget_flops=5e19, chosen="isoflop", true="surface", wasted_share=0.02),),
        name="sweep",
        unit="image",
        loss_unit="nats per image",
    )
    assert before.save(tmp_path).name == "result.json"
    after = Result.load(tmp_path)
    assert after.to_dict() == before.to_dict()
    assert after.observations == before.observations
    assert after.predictions == before.predictions
    assert after.wastes == before.wastes
    assert after.run_dir == tmp_path
    assert after.failures["envelope"].hint == "log steps"
    for name in ("used", "residuals", "intervals", "notes", "draws", "excluded"):
        assert getattr(after.fits["surface"], name) == getattr(surface, name)
    for method in before.fits:
        for budget in (1e16, 1e20, 1e23):
            assert after.predict(budget, method=method) == before.predict(budget, method=method)


@dataclass(frozen=True)
class OddFrontier:
    """A frontier that the package does not know."""

    def optimum(self, flops):
        params = 3.0 * flops**0.45 * (1 + 0.1 * (flops / 1e19) ** 0.01)
        return Optimum(flops, params, flops / 6 / params, 1.5 + 900 * flops**-0.15)


def test_a_frontier_of_unknown_make_is_kept_to_one_part_in_a_hundred_thousand(tmp_path):
    fit = surface_fit(frontier=OddFrontier(), used=observe(BUDGETS))
    before = planted_result(fits={"surface": fit})
    before.save(tmp_path)
    after = Result.load(tmp_path)
    for budget in (1e17, 2.7e18, 1e21, 1e24):
        for name in ("params", "tokens", "loss"):
            expected = getattr(before.predict(budget), name)
            assert getattr(after.predict(budget), name) == pytest.approx(expected, rel=1e-5)
    again = after.save(tmp_path).read_text()
    assert Result.load(tmp_path).save(tmp_path).read_text() == again


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "result.json").write_text('{"format": 99}')
    with pytest.raises(RunDirError, match="format 99"):
        Result.load(tmp_path)


def test_nothing_heavy_is_imported_before_a_figure_is_asked_for():
    code = (
        "import sys, flops_fit.reporting.result; "
        "heavy = {'numpy', 'scipy', 'matplotlib', 'torch', 'rich', 'jinja2'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_table_says_which_sizes_waste_at_most_one_percent():
    rows = planted_result(BUDGETS).chinchilla_table([1e20])
    low, high = rows[0]["near_optimal"]
    for params in (low, high):
        tokens = 1e20 / 6 / params
        assert PLANTED.loss(params, tokens) == pytest.approx(PLANTED.optimum(0.99e20).loss)
    assert rows[1]["near_optimal"] is None


def test_what_a_wrong_choice_wastes_is_shown_at_the_largest_budget():
    def waste(budget, share):
        return Waste(budget_flops=budget, chosen="isoflop", true="surface", wasted_share=share)

    result = planted_result(BUDGETS, wastes=(waste(1e19, 0.01), waste(5e19, 0.034)))
    (row,) = result.tables()["wastes"].to_json()
    assert row["budget_flops"] == 5e19
    assert row["wasted_percent"] == pytest.approx(3.4)
    assert "wastes" not in planted_result(BUDGETS).tables()
