"""IsoFLOP on planted grids without noise: its bias is the known one, and no larger."""

from __future__ import annotations

import math

import pytest
from planted import GRIDS, LAWS, LOPSIDED, TARGET, Scenario, bias, draw, gauss

from flops_fit.fitting.curves import group_curves
from flops_fit.fitting.isoflop import fit_isoflop


@pytest.mark.parametrize("law", list(LAWS))
@pytest.mark.parametrize("interpolation", ["parabola", "akima"])
def test_a_centred_narrow_grid_gives_the_exponent_without_bias(law, interpolation) -> None:
    scenario = Scenario(law=LAWS[law], num_sizes=9, noise=gauss(0.0))
    exponent, _ = bias(scenario, interpolation)
    assert abs(exponent) < 0.003


@pytest.mark.parametrize(
    ("law", "grid", "most"),
    [
        ("chinchilla", "centred", 0.03),
        ("chinchilla", "offset 3x", 0.08),
        ("chinchilla", "drift to 3x", 0.13),
        ("lopsided", "centred", 0.10),
        ("lopsided", "offset 3x", 0.12),
        ("lopsided", "drift to 3x", 0.25),
    ],
)
def test_the_parabolas_bias_at_a_hundredfold_budget_stays_below(law, grid, most) -> None:
    """The bounds are the published size of the bias (a x4 grid), rounded up."""
    scenario = Scenario(law=LAWS[law], noise=gauss(0.0), **GRIDS[grid])
    _, away = bias(scenario, "parabola")
    assert abs(away) < most


def test_a_narrow_window_keeps_a_wide_grid_from_biasing_the_optimum() -> None:
    wide = Scenario(law=LOPSIDED, num_sizes=13, width=16.0, noise=gauss(0.0))
    runs, _ = draw(wide, 0)
    curves, truth = group_curves(runs), math.log(LOPSIDED.optimum(TARGET).params)
    near = math.log(fit_isoflop(curves, runs, window=4.0).predict(TARGET).params) - truth
    every = math.log(fit_isoflop(curves, runs, window=1e6).predict(TARGET).params) - truth
    assert abs(near) < abs(every) / 2
