"""Real runs with confirmed optima and published fits: the surface, its errors, the envelope."""

from __future__ import annotations

import pytest
from reference_runs import need_runs, reference, runs_of

from flops_fit.fitting.details import Loss
from flops_fit.fitting.fit import fit
from flops_fit.fitting.options import FitOptions

# What the authors of the replication printed for 4,000 resamples (Besiroglu et al. 2024,
# arXiv:2404.10102, and the notebook beside it).
PUBLISHED_ERRORS = {"E": 0.02566, "A": 124.49, "B": 1293.17, "alpha": 0.01540, "beta": 0.02059}


@pytest.mark.parametrize("name", sorted(reference()) or ["absent"])
def test_the_surface_reaches_the_confirmed_optimum(name: str) -> None:
    need_runs()
    expected = reference()[name]
    found = fit(runs_of(name), FitOptions(loss=Loss.HUBER, huber_delta=1e-3))
    assert len(found.used) == expected["n"]
    assert found.objective is not None
    assert found.objective <= expected["objective"] * (1 + 1e-6)
    assert found.exponents["params"] == pytest.approx(expected["a"], abs=1e-4)
    for key in ("E", "alpha", "beta"):
        assert found.parameters[key] == pytest.approx(expected[key], rel=1e-3)


def test_standard_errors_are_those_published() -> None:
    need_runs()
    found = fit(
        runs_of("epoch_chinchilla_240"), FitOptions(loss=Loss.HUBER, bootstrap=4000, seed=42)
    )
    for name, error in PUBLISHED_ERRORS.items():
        assert found.standard_errors[name] == pytest.approx(error, rel=0.02)


def test_percentiles_are_those_published() -> None:
    need_runs()
    found = fit(
        runs_of("epoch_chinchilla_240"), FitOptions(loss=Loss.HUBER, bootstrap=4000, seed=42)
    )
    published = {"E": (1.769, 1.871), "alpha": (0.317, 0.373), "beta": (0.331, 0.415)}
    for name, (low, high) in published.items():
        assert found.intervals[name][0] == pytest.approx(low, rel=0.01)
        assert found.intervals[name][1] == pytest.approx(high, rel=0.01)


def test_the_five_runs_dropped_by_hand_are_found() -> None:
    need_runs()
    runs = runs_of("epoch_chinchilla_245")
    worst = {o.name for o in sorted(runs, key=lambda o: o.loss)[-5:]}
    flagged = {e.name for e in fit(runs).excluded}
    assert worst <= flagged
    assert len(flagged) <= 8


def test_the_hull_of_the_curves_gives_the_published_exponents() -> None:
    need_runs()
    found = fit(runs_of("curves_gemstones_hot_477"), method="envelope")
    # McLeish et al. 2025 (arXiv:2502.06857), constant learning rate.
    assert found.exponents["params"] == pytest.approx(0.499380, abs=1e-3)
    assert found.exponents["tokens"] == pytest.approx(0.480989, abs=1e-3)
