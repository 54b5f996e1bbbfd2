"""Fits stay right in other units, in other orders, with runs twice, with 6 rows and with 10^6."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import CHINCHILLA, TARGET, Scenario, draw, gauss

from flops_fit.fitting.details import Loss
from flops_fit.fitting.fit import fit, fit_all
from flops_fit.fitting.law import Surface
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Observation

RUNS, _ = draw(Scenario(), 3)
BITS = 1 / math.log(2)


def scaled(runs: list[Observation], params: float, loss: float) -> list[Observation]:
    """The same runs with params and losses in other units; FLOPs stay what they are."""
    return [replace(o, params=o.params * params, loss=o.loss * loss) for o in runs]


@pytest.mark.parametrize("loss", ["adaptive", "huber", "log-ls", "ls"])
def test_params_in_millions_and_losses_in_bits_change_units_only(loss: str) -> None:
    plain = fit(RUNS, FitOptions(loss=Loss(loss)))
    other = fit(scaled(RUNS, 1e-6, BITS), FitOptions(loss=Loss(loss)))
    assert other.exponents["params"] == pytest.approx(plain.exponents["params"], rel=1e-6)
    assert other.parameters["E"] == pytest.approx(plain.parameters["E"] * BITS, rel=1e-6)
    assert other.parameters["A"] == pytest.approx(
        plain.parameters["A"] * BITS * 1e-6 ** plain.parameters["alpha"], rel=1e-4
    )
    one, two = plain.predict(TARGET), other.predict(TARGET)
    assert two.params == pytest.approx(one.params * 1e-6, rel=1e-5)
    assert two.tokens == pytest.approx(one.tokens, rel=1e-5)


def test_the_order_of_the_rows_changes_nothing() -> None:
    order = np.random.default_rng(0).permutation(len(RUNS))
    plain = fit(RUNS, FitOptions(bootstrap=50, seed=1))
    other = fit([RUNS[k] for k in order], FitOptions(bootstrap=50, seed=1))
    for name, value in plain.parameters.items():
        assert other.parameters[name] == pytest.approx(value, rel=1e-6)
    for name, value in plain.standard_errors.items():
        assert other.standard_errors[name] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("method", ["surface", "isoflop"])
def test_every_run_twice_gives_the_same_law(method: str) -> None:
    plain, other = fit(RUNS, method=method), fit([*RUNS, *RUNS], method=method)
    assert other.exponents["params"] == pytest.approx(plain.exponents["params"], abs=2e-5)


def test_six_rows_without_noise_predict_within_their_range() -> None:
    runs, _ = draw(Scenario(num_budgets=3, num_sizes=3, noise=gauss(0.0)), 0)
    found = fit([runs[k] for k in (0, 1, 3, 5, 7, 8)])
    seen = runs[4]
    law = Surface(**found.parameters)
    assert law.loss(seen.params, seen.tokens) == pytest.approx(seen.loss, rel=5e-3)


def test_counted_flops_put_the_optimum_where_the_law_and_the_count_meet() -> None:
    """Small models spend more than 6 FLOPs a parameter; the frontier must know it."""

    def count(params: float) -> float:
        return 6 * params * (1 + (1e8 / params) ** 0.5)

    runs = []
    for flops in np.geomspace(1e18, 1e20, 5):
        for params in np.geomspace(3e7, 3e9, 9):
            tokens = flops / count(params)
            runs.append(Observation(params, tokens, flops, CHINCHILLA.loss(params, tokens), flops))
    grid = np.geomspace(1e7, 1e10, 20001)
    losses = [CHINCHILLA.loss(n, 1e19 / count(n)) for n in grid]
    best = grid[int(np.argmin(losses))]
    for method, tolerance in (("surface", 0.01), ("isoflop", 0.08)):
        found = fit(runs, method=method).predict(1e19)
        assert found.params == pytest.approx(best, rel=tolerance)
        assert found.tokens == pytest.approx(1e19 / count(found.params), rel=0.01)


def test_intervals_hold_the_truth_and_grow_beyond_the_runs() -> None:
    runs, _ = draw(Scenario(num_budgets=7), 1)
    both = fit_all(runs, FitOptions(bootstrap=200), targets=[1e20, 1e21, 1e22])
    by_method = {m: [p for p in both.predictions if p.method == m] for m in both.fits}
    widths = []
    for optimum in by_method["surface"]:
        truth = CHINCHILLA.optimum(optimum.flops)
        assert optimum.params_interval is not None
        assert optimum.loss_interval is not None
        assert optimum.tokens_interval is not None
        assert optimum.params_interval[0] < truth.params < optimum.params_interval[1]
        assert optimum.loss_interval[0] < truth.loss < optimum.loss_interval[1]
        assert optimum.tokens_interval[0] < truth.tokens < optimum.tokens_interval[1]
        widths.append(optimum.loss_interval[1] / optimum.loss_interval[0])
    assert widths == sorted(widths)
    decades = [p.extrapolation_decades for p in by_method["surface"]]
    assert decades == pytest.approx([0, 1, 2], abs=1e-9)
    assert by_method["surface"][0].is_supported
    assert not by_method["surface"][2].is_supported
    assert {"params_noise", "params_model", "loss_noise", "loss_model", "loss_residual"} <= set(
        by_method["surface"][1].parts
    )


@pytest.mark.slow
def test_a_million_rows_are_fitted_within_two_gigabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(16, 23, 10**6)), np.exp(rng.uniform(20, 26, 10**6))
    loss = (1.8 + 450 / n**0.34 + 2000 / d**0.37) * np.exp(0.005 * rng.standard_normal(10**6))
    table = tmp_path / "runs.csv"
    np.savetxt(
        table,
        np.stack([n, d, loss], axis=1),
        "%.10g",
        ",",
        header="params,tokens,loss",
        comments="",
    )
    code = (
        "import resource, sys\n"
        "from flops_fit.fitting.fit import fit\n"
        "from flops_fit.fitting.tables.table import read_table\n"
        "found = fit(read_table(sys.argv[1]).observations)\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(found.parameters['alpha'], found.parameters['beta'], len(found.used), peak)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(table)], capture_output=True, text=True, check=True
    )
    alpha, beta, used, peak = map(float, ended.stdout.split())
    assert alpha == pytest.approx(0.34, abs=0.002)
    assert beta == pytest.approx(0.37, abs=0.002)
    assert used > 0.999e6
    assert peak * 1024 < 2e9
