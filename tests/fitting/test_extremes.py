"""No finite table ends in a traceback: it gives a result, or an error that says why."""

from __future__ import annotations

import json

import numpy as np
import pytest

import flops_fit
from flops_fit.errors import FlopsFitError

EXTREME = (5e-324, 2e-308, 1e-300, 1e-31, 1e-30, 1e30, 1.1e30, 1e61, 1e300, 1e308)


def column(rng: np.random.Generator, rows: int) -> list[float]:
    """Positive finite numbers of one random kind: usual, wide, extreme, tied, constant, close."""
    kind = rng.integers(6)
    centre = rng.uniform(-69, 69)
    if kind == 0:
        logs = rng.uniform(12, 27, rows)
    elif kind == 1:
        logs = rng.uniform(-69, 69, rows)
    elif kind == 2:
        logs = np.full(rows, centre)
    elif kind == 3:
        logs = rng.choice(rng.uniform(-69, 69, 4), rows)
    elif kind == 4:
        logs = np.minimum(rng.normal(centre, rng.choice([1e-15, 1e-9, 1e-3, 5.0]), rows), 700)
    else:
        return [float(value) for value in rng.choice(EXTREME, rows)]
    return [float(value) for value in np.exp(logs)]


def lawful(rng: np.random.Generator, rows: int) -> dict[str, list[float]]:
    """Runs of a law in odd units, with some noise, on a grid of sizes or on none."""
    sizes = rng.uniform(10, 22, int(rng.integers(3, 8)))
    params = np.exp(rng.choice(sizes, rows) if rng.random() < 0.6 else rng.uniform(10, 22, rows))
    tokens = params * np.exp(rng.uniform(0, rng.choice([1e-9, 1.0, 6.0]), rows))
    alpha, beta = rng.uniform(0.0, 1.5, 2)
    loss = 1.7 + 400 * params**-alpha + 2000 * tokens**-beta
    loss *= np.exp(rng.normal(0, rng.choice([0.0, 1e-3, 0.1, 3.0]), rows))
    units = np.exp(rng.uniform(-45, 45, 3)) if rng.random() < 0.5 else np.ones(3)
    columns = zip(("params", "tokens", "loss"), (params, tokens, loss), units, strict=True)
    return {name: (values * unit).tolist() for name, values, unit in columns}


def table(seed: int) -> dict[str, list[float]]:
    """A random finite table."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 45))
    made = lawful(rng, rows)
    for name in made:
        if rng.random() < 0.2:
            made[name] = column(rng, rows)
        if rng.random() < 0.2:
            made[name][rng.integers(rows)] = float(rng.choice(EXTREME))
    if rng.random() < 0.3:
        made["flops"] = column(rng, rows)
    if rng.random() < 0.2:
        made["budget_flops"] = column(rng, rows)
    return made


def check(seed: int) -> None:
    """A report of the table is a result with bounded intervals, or an error with a reason."""
    try:
        data = flops_fit.report(table(seed), bootstrap=20).to_dict()
    except FlopsFitError:
        return
    json.dumps(data, allow_nan=False)
    for row in data["predictions"]:
        if row["params_interval"] is not None:
            low, high = row["params_interval"]
            assert min(1.0, row["params"]) <= low <= row["params"] <= high, seed
            assert high <= max(row["budget_flops"], row["params"]), seed


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_no_finite_table_ends_in_a_traceback(first: int) -> None:
    for seed in range(first, first + 50):
        check(seed)


def test_a_table_whose_smaller_levels_share_one_compute_has_no_traceback() -> None:
    check(1772)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_none_of_two_thousand_finite_tables_ends_in_a_traceback(first: int) -> None:
    for seed in range(first, first + 100):
        check(seed)
