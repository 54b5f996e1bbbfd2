"""Budgets that are one up to rounding are one row, by their round number."""

import pytest

from flops_fit.fitting.points import Observation
from flops_fit.reporting.budgets import asked_budgets, distinct_budgets, own_budgets
from flops_fit.reporting.reading import read_table_of_runs


def seen(flops: float, budget: float | None = None) -> Observation:
    return Observation(params=1e6, tokens=flops / 6e6, loss=3.0, flops=flops, budget_flops=budget)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1e20, 1.0000000000773267e20], [1e20]),
        ([9.99999999999944e19], [1e20]),
        ([1.0000000000773267e21, 1e20], [1e20, 1e21]),
        ([1e20, 1.00001e20], [1e20, 1.00001e20]),
        ([3.1622776601683794e18], [3.1622776601683794e18]),
        ([123456789.0], [123456789.0]),
        ([], []),
    ],
)
def test_budgets_that_are_one_up_to_rounding_are_one(given, expected):
    assert distinct_budgets(given) == expected
    assert distinct_budgets(distinct_budgets(given)) == expected


def test_the_round_budgets_of_a_table_hold_its_ends_in_spite_of_rounding():
    runs = [seen(1.00000000000009e18), seen(2e19), seen(9.99999999999944e19)]
    assert own_budgets(runs) == [1e18, 1e19, 1e20]


def test_a_target_that_is_a_budget_of_the_runs_up_to_rounding_is_not_asked_for_twice():
    runs = [seen(1e20, budget=1e20), seen(1e19, budget=9.9999999999e18)]
    assert asked_budgets([1e19, 1e20, 1e21], [1e19, 1.00000000001e20, 1e21], runs) == (1e21,)


def test_a_table_whose_flops_are_rounded_has_one_row_a_budget():
    rows = {"params": [], "tokens": [], "loss": []}
    for budget in (1e18, 3e18, 1e19, 3e19, 1e20):
        for factor in (0.4, 0.6, 1.0, 1.6, 2.5):
            n = round(0.6 * factor * (budget / 6) ** 0.45)
            d = round(budget / 6 / n)  # so that 6 N D misses the budget a little, up or down
            rows["params"].append(n)
            rows["tokens"].append(d)
            rows["loss"].append(1.7 + 400 * n**-0.34 + 410 * d**-0.28)
    result = read_table_of_runs(rows, methods=["surface"], bootstrap=0)
    budgets = [row["budget_flops"] for row in result.chinchilla_table()]
    assert budgets == [1e18, 1e19, 1e20, 1e21]
    assert [answer.split(":")[0] for answer in result.answers()] == [
        f"For {text} FLOPs" for text in ("1e20", "1e21")
    ]  # fmt: skip
    stored = {optimum.flops for optimum in result.predictions}
    assert stored <= set(budgets)
