"""The chooser: planted laws come back, hopeless observations give a typed reason."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from planted import CHINCHILLA as TRUTH
from planted import grid

from flops_fit.errors import FitError
from flops_fit.fitting.details import Loss
from flops_fit.fitting.fit import METHODS, fit, fit_all
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Observation


@pytest.mark.parametrize("loss", ["adaptive", "huber", "log-ls", "ls"])
def test_a_planted_surface_is_recovered_by_every_loss(loss: str) -> None:
    found = fit(grid(), FitOptions(loss=Loss(loss)))
    assert found.status == "ok"
    for name in ("E", "A", "B", "alpha", "beta"):
        assert found.parameters[name] == pytest.approx(getattr(TRUTH, name), rel=1e-4)
    a = TRUTH.beta / (TRUTH.alpha + TRUTH.beta)
    assert found.exponents["params"] == pytest.approx(a, abs=1e-5)
    assert found.exponents["params"] + found.exponents["tokens"] == pytest.approx(1, abs=1e-12)
    assert found.predict(1e22).params == pytest.approx(TRUTH.optimum(1e22).params, rel=1e-3)


def test_isoflop_recovers_the_exponents_of_a_planted_law() -> None:
    found = fit(grid(), method="isoflop")
    a = TRUTH.beta / (TRUTH.alpha + TRUTH.beta)
    assert found.exponents["params"] == pytest.approx(a, abs=0.005)
    assert found.exponents["params"] + found.exponents["tokens"] == pytest.approx(1, abs=1e-9)
    assert [m.status for m in found.minima] == ["ok"] * 5
    at_end = found.predict(1e20)
    assert at_end.loss == pytest.approx(TRUTH.optimum(1e20).loss, rel=2e-3)
    assert 6 * at_end.params * at_end.tokens == pytest.approx(1e20)


def test_a_diverged_run_is_named_left_out_and_does_not_move_the_law() -> None:
    runs = grid(sd=0.002)
    bad = replace(runs[10], loss=runs[10].loss * 1.1)
    found = fit([*runs[:10], bad, *runs[11:]])
    assert [e.name for e in found.excluded] == ["run 10"]
    assert "outlier" in found.excluded[0].reason
    clean = fit([*runs[:10], *runs[11:]])
    assert found.exponents["params"] == pytest.approx(clean.exponents["params"], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda o: replace(o, params=1e8), "one_size"),
        (lambda o: replace(o, params=1e8 if o.params < 1e8 else 4e8), "two_sizes"),
        (lambda o: replace(o, tokens=1e9), "one_horizon"),
        (lambda o: replace(o, tokens=1e9 if o.tokens < 1e9 else 4e9), "two_horizons"),
        (lambda o: replace(o, loss=3.0), "constant_loss"),
        (lambda o: replace(o, loss=float("nan")), "too_few_observations"),
        (lambda o: replace(o, flops=1e18, budget_flops=None), "too_few_budgets"),
    ],
)
@pytest.mark.parametrize("method", ["surface", "isoflop"])
def test_a_hopeless_table_gives_a_reason_and_no_number(change, code, method) -> None:
    with pytest.raises(FitError) as caught:
        fit([change(o) for o in grid()], method=method)
    assert caught.value.code == code
    assert caught.value.exit_code == 6


def test_two_budgets_are_too_few() -> None:
    with pytest.raises(FitError) as caught:
        fit(grid(num_budgets=2))
    assert caught.value.code == "too_few_budgets"


def test_six_rows_are_enough_for_a_surface() -> None:
    found = fit(grid(num_budgets=3, num_sizes=2))
    assert all(math.isfinite(v) for v in found.parameters.values())


def test_what_one_method_cannot_do_leaves_the_others_standing() -> None:
    both = fit_all(grid(num_budgets=3, num_sizes=2), targets=[1e21])
    assert both.failures["isoflop"].code == "too_few_budgets"
    assert {p.method for p in both.predictions} == {"surface", "kaplan"}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown method"):
        fit(grid(), method="magic")
    with pytest.raises(ValueError, match="unknown loss"):
        fit(grid(), FitOptions(loss=Loss("l7")))


@pytest.mark.parametrize("kind", range(6))
def test_junk_gives_laws_that_can_be_asked_or_reasons_and_nothing_else(kind: int) -> None:
    draw = np.random.default_rng(kind)
    n, d = np.exp(draw.uniform(12, 16, 24)), np.exp(draw.uniform(14, 20, 24))
    loss = (
        np.exp(draw.uniform(-3, 3, 24)),  # no law at all
        3 + 0.1 * np.log(n) + 0.1 * np.log(d),  # grows with size and data
        1e3 / n**0.5,  # tokens do nothing
        3 + draw.normal(0, 1e-3, 24),  # nothing does anything
        (2 + 1e3 / n**0.5 + 1e3 / d**0.4) * np.exp(draw.normal(0, 0.1, 24)),  # much noise
        1e-6 * (2 + 1e3 / n**0.5 + 1e3 / d**0.4),  # a tiny unit
    )[kind]
    flops = 6 * n * d * np.exp(draw.normal(0, 0.3, 24) * (kind % 2))
    runs = [
        Observation(*map(float, row)) for row in zip(n, d, flops, loss, strict=True)
    ]  # fmt: skip
    found = fit_all(runs, methods=METHODS, targets=[float(flops.max()) * 10])
    assert (set(found.fits) | set(found.failures)) - {"combination"} == set(METHODS)
    assert all(error.code for error in found.failures.values())
    assert all(0 < p.params < math.inf and 0 < p.tokens < math.inf for p in found.predictions)
