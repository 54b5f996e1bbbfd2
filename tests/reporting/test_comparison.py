"""Two results side by side: what the second needs, by planted laws whose ratio is known."""

import json
import math
import random
from dataclasses import replace

import pytest
from planted_results import PLANTED, isoflop_fit, observe, planted_result, surface_fit

from flops_fit.errors import FitError
from flops_fit.fitting.law import Surface
from flops_fit.reporting.sentences import compared_sentence

# N and D are each worth half as much: four times the compute for every loss, exactly.
HALVED = Surface(
    PLANTED.E,
    PLANTED.A * 2**PLANTED.alpha,
    PLANTED.B * 2**PLANTED.beta,
    PLANTED.alpha,
    PLANTED.beta,
)
BUDGETS = (1e17, 1e18, 1e19)


def result_of(law, name, **given):
    fit = surface_fit(law, **given)
    return planted_result(
        observations=observe(BUDGETS, law=law), fits={"surface": fit}, name=name, targets=()
    )


def test_the_multiplier_is_the_planted_one_at_every_budget():
    compared = result_of(PLANTED, "whole").compare(result_of(HALVED, "halved"))
    rows = compared.multipliers()
    assert [row["budget_flops"] for row in rows] == list(BUDGETS)
    for row in rows:
        assert row["multiplier"] == pytest.approx(4, rel=1e-9)
        assert row["loss"] == PLANTED.optimum(row["budget_flops"]).loss
    back = result_of(HALVED, "halved").compare(result_of(PLANTED, "whole")).multipliers()
    assert back[0]["multiplier"] == pytest.approx(0.25, rel=1e-9)


def test_a_loss_that_the_second_never_reaches_has_no_multiplier():
    worse = replace(PLANTED, E=3.5)
    rows = result_of(PLANTED, "a").compare(result_of(worse, "b")).multipliers()
    assert [row["multiplier"] is None for row in rows] == [False, True, True]


def test_a_sentence_states_the_multiplier_at_the_largest_budget():
    whole, halved = result_of(PLANTED, "whole"), result_of(HALVED, "halved")
    said = whole.compare(halved).sentence()
    assert said.startswith("halved needs 4.00 times the compute for the loss that whole reaches")
    assert "with 1e19 FLOPs" in said
    assert "the 95 % interval is not known" in said
    worse = result_of(replace(PLANTED, E=3.5), "worse")
    assert whole.compare(worse).sentence().startswith("worse cannot reach the loss that whole")


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        ((0.8, 1.3), "no significant difference"),
        ((1.2, 1.9), "first is the better one"),
        ((0.2, 0.7), "second is the better one"),
    ],
)
def test_the_sentence_calls_a_result_better_only_beyond_the_interval(interval, says):
    row = {"budget_flops": 1e19, "loss": 2.5, "multiplier": 1.0, "multiplier_interval": interval}
    assert compared_sentence([row], "first", "second").endswith(f"{says}.")


def test_differences_of_parameters_have_the_interval_of_independent_errors():
    first = result_of(PLANTED, "a", standard_errors={"alpha": 0.003, "E": 0.01})
    second = result_of(
        replace(PLANTED, alpha=0.40), "b", standard_errors={"alpha": 0.004, "E": 0.01}
    )
    rows = {row["parameter"]: row for row in first.compare(second).parameters()}
    assert rows["alpha"]["difference"] == pytest.approx(0.05)
    low, high = rows["alpha"]["difference_interval"]
    assert (high - low) / 2 == pytest.approx(1.96 * 0.005, rel=1e-4)
    assert rows["beta"]["difference_interval"] is None
    assert set(rows) == {"E", "A", "B", "alpha", "beta", "a", "b"}


def test_differences_of_skewed_draws_have_percentiles_and_not_a_normal_error():
    drawn = random.Random(0)
    values = {"E": PLANTED.E, "B": PLANTED.B, "alpha": PLANTED.alpha, "beta": PLANTED.beta}
    heavy = tuple({**values, "A": PLANTED.A * 10 ** drawn.gauss(0, 0.5)} for _ in range(1000))
    given = {"draws": heavy, "standard_errors": {"A": 1e10}}
    compared = result_of(PLANTED, "a", **given).compare(result_of(PLANTED, "b", **given))
    (row,) = [row for row in compared.parameters() if row["parameter"] == "A"]
    low, high = row["difference_interval"]
    # The same draws on either side, as one seed gives them to two sweeps of one plan, are no pairs.
    assert -1e5 < low < -10 * PLANTED.A / 2
    assert 10 * PLANTED.A / 2 < high < 1e5


def test_multipliers_have_intervals_where_both_fits_have_draws():
    def draws(law, spread):
        values = {"E": law.E, "A": law.A, "B": law.B, "alpha": law.alpha, "beta": law.beta}
        return tuple({**values, "A": law.A * (1 + spread * (k - 50) / 50)} for k in range(101))

    first = result_of(PLANTED, "a", draws=draws(PLANTED, 0.0))
    second = result_of(HALVED, "b", draws=draws(HALVED, 0.02))
    low, high = first.compare(second).multipliers()[0]["multiplier_interval"]
    assert 3.5 < low < 4 < high < 4.5


def test_runs_in_different_units_are_not_compared():
    other = replace(result_of(PLANTED, "b"), loss_unit="nats per byte")
    with pytest.raises(FitError, match="differ in their loss unit"):
        result_of(PLANTED, "a").compare(other)


def test_a_result_without_a_surface_is_not_compared():
    seen = observe(BUDGETS)
    bare = planted_result(observations=seen, fits={"isoflop": isoflop_fit(seen)})
    with pytest.raises(FitError, match="no method `surface`"):
        result_of(PLANTED, "a").compare(bare)


def test_both_are_named_in_tables_figures_and_data():
    compared = result_of(PLANTED, "same").compare(result_of(HALVED, "same"))
    text = compared.tables()["multipliers"].to_markdown()
    assert "same (2) needs (FLOPs)" in text
    figure = compared.plot()["frontier"]
    shown = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert shown[:2] == ["same (1)", "same (2)"]
    assert json.loads(json.dumps(compared.to_dict()))["multipliers"][0]["multiplier"]


def both(tmp_path, first, second):
    """Results of two tables of the same 35 planted runs, each changed by its function."""
    from flops_fit.reporting.reading import read_table_of_runs

    results = []
    for change in (first, second):
        runs = {"params": [], "tokens": [], "flops": [], "loss": []}
        for budget in (1e18, 3e18, 1e19, 3e19, 1e20):
            for k in range(7):
                n = 1e8 * (budget / 1e18) ** 0.5 * 1.5 ** (k - 3)
                d = budget / n / (6 + 3e7 / n)
                row = {"params": n, "tokens": d, "flops": budget, "loss": 1.7 + 420 / n**0.34}
                row["loss"] += 1500 / d**0.36
                for name, value in change(row).items():
                    runs[name].append(value)
        results.append(read_table_of_runs({k: v for k, v in runs.items() if v}, bootstrap=0))
    return results


def test_tables_in_bits_and_in_nats_are_not_compared(tmp_path):
    nats, bits = both(tmp_path, dict, lambda row: {**row, "loss": row["loss"] / math.log(2)})
    with pytest.raises(FitError, match="one is in bits") as caught:
        nats.compare(bits)
    assert caught.value.code == "different_units"


def test_counted_flops_and_six_n_d_are_not_compared(tmp_path):
    def without_flops(row):
        return {name: value for name, value in row.items() if name != "flops"}

    counted, assumed = both(tmp_path, dict, without_flops)
    with pytest.raises(FitError, match="counted") as caught:
        counted.compare(assumed)
    assert caught.value.code == "different_flops"
    assert "--columns flops=none" in (caught.value.hint or "")
