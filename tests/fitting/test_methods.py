"""Each approach against planted laws: isoFLOP, envelope, Kaplan's form, the richer form."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from planted import CHINCHILLA as LAW
from planted import grid
from scipy.spatial import ConvexHull
from scipy.stats import linregress

from flops_fit.errors import FitError
from flops_fit.fitting.curves import finished, group_curves
from flops_fit.fitting.details import Minimum
from flops_fit.fitting.envelope import fit_envelope, lower_hull, lowest_in_bins
from flops_fit.fitting.fit import fit
from flops_fit.fitting.isoflop import find_minima, fit_isoflop
from flops_fit.fitting.law import FlopsPerToken, GeneralSurface, Surface
from flops_fit.fitting.noise import moderate
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Observation
from flops_fit.fitting.powers import fit_line, fit_loss_law

A = LAW.beta / (LAW.alpha + LAW.beta)


def minima_of(losses: list[float], budget: float = 1e18) -> list[Minimum]:
    sizes = np.geomspace(1e7, 1e9, len(losses))
    runs = [
        Observation(n, budget / 6 / n, budget, loss, budget)
        for n, loss in zip(sizes, losses, strict=True)
    ]
    return find_minima(group_curves(runs), FlopsPerToken())


@pytest.mark.parametrize(
    ("losses", "status"),
    [
        ([3.2, 3.05, 3.0, 3.05, 3.2], "ok"),
        ([3.0, 3.1, 3.18, 3.2, 3.18], "concave"),
        ([3.5, 3.2, 2.97, 2.82, 2.74], "unbracketed"),
        ([2.74, 2.82, 2.97, 3.2, 3.5], "unbracketed"),
        ([3.01, 3.0, 3.02, 2.99, 3.01], "flat"),
        ([3.1, 3.0], "too_few"),
    ],
)
def test_a_minimum_is_judged_by_its_shape(losses: list[float], status: str) -> None:
    (minimum,) = minima_of(losses)
    assert minimum.status == status
    assert bool(minimum.reason) == (status != "ok")


def test_a_noisy_budget_does_not_hide_the_minima_of_quiet_ones() -> None:
    rng = np.random.default_rng(3)
    runs = [
        replace(o, loss=o.loss + rng.normal(0, 0.05 if o.budget_flops < 2e18 else 0.0005))
        for o in grid(num_budgets=6, num_sizes=7)
    ]
    minima = fit(runs, method="isoflop").minima
    assert [m.status for m in minima][1:] == ["ok"] * 5
    errors = [m.log_params_error for m in minima]
    assert errors[0] > 5 * max(errors[1:])


def test_budgets_of_one_noise_share_it_and_others_keep_their_own() -> None:
    rng = np.random.default_rng(0)
    draws = rng.chisquare(4, 200)
    alike = moderate(list(draws), [4] * 200)
    spread = [n.sigma for n in alike if n is not None]
    assert max(spread) / min(spread) < 1.3
    assert np.mean(spread) == pytest.approx(1.0, abs=0.1)
    scales = np.repeat([1.0, 100.0], 100)
    apart = moderate(list(draws * scales**2), [4] * 200)
    own = [n.sigma for n in apart if n is not None]
    assert np.mean(own[100:]) / np.mean(own[:100]) > 50
    assert all(n is None for n in moderate([0.0, 0.0], [0, 0]))


def test_a_parabola_gives_back_its_vertex() -> None:
    sizes = np.geomspace(1e7, 1e9, 7)
    vertex = math.log(1.3e8)
    losses = [3.0 + 0.02 * (math.log(n) - vertex) ** 2 for n in sizes]
    (minimum,) = minima_of(losses)
    assert minimum.params == pytest.approx(1.3e8, rel=1e-6)
    assert minimum.loss == pytest.approx(3.0, rel=1e-9)
    c0, c1, c2 = minimum.coefficients
    x = math.log(sizes[1]) - minimum.centre
    assert c0 + c1 * x + c2 * x * x == pytest.approx(losses[1])


def test_minima_left_out_do_not_move_the_power_law() -> None:
    runs = grid(LAW)
    low = 3e16
    falling = [
        Observation(n, low / 6 / n, low, loss, low)
        for n, loss in zip(np.geomspace(1e9, 1e10, 5), [9.0, 8.0, 7.2, 6.6, 6.2], strict=True)
    ]
    clean = fit_isoflop(group_curves(runs), runs)
    both = fit_isoflop(group_curves([*runs, *falling]), [*runs, *falling])
    assert [m.status for m in both.minima].count("ok") == 5
    assert both.exponents["params"] == pytest.approx(clean.exponents["params"], rel=1e-9)


def test_runs_without_planned_budgets_are_grouped_within_ten_percent() -> None:
    planned = group_curves(grid(LAW))
    loose = group_curves([replace(o, budget_flops=None) for o in grid(LAW)])
    assert [len(c.members) for c in loose] == [len(c.members) for c in planned]
    near = [Observation(n, 1e18 * f / 6 / n, 1e18 * f, 3.0) for n, f in ((1e8, 1.0), (2e8, 1.09))]
    apart = [Observation(n, 1e18 * f / 6 / n, 1e18 * f, 3.0) for n, f in ((1e8, 1.0), (2e8, 1.12))]
    assert len(group_curves(near)) == 1
    assert group_curves(apart) == []


@pytest.mark.parametrize("interpolation", ["parabola", "akima"])
def test_isoflop_exponent_and_loss_law_of_a_planted_surface(interpolation: str) -> None:
    runs = grid(LAW, num_budgets=7, num_sizes=9)
    found = fit_isoflop(group_curves(runs), runs, interpolation=interpolation)
    assert found.exponents["params"] == pytest.approx(A, abs=0.003)
    assert found.parameters["E"] == pytest.approx(LAW.E, abs=0.02)
    g = LAW.alpha * LAW.beta / (LAW.alpha + LAW.beta)
    assert found.parameters["g"] == pytest.approx(g, abs=0.01)
    assert min(found.r_squared.values()) > 0.999


def test_the_loss_law_is_fitted_in_linear_space() -> None:
    flops = np.geomspace(1e18, 1e22, 9)
    law = fit_loss_law(flops, 1.69 + 1070 * flops**-0.16)
    assert law.offset == pytest.approx(1.69, rel=1e-4)
    assert law.exponent == pytest.approx(-0.16, rel=1e-3)
    assert fit_loss_law(flops, 300 * flops**-0.1).offset == pytest.approx(0, abs=0.02)


def test_a_line_and_its_errors_are_those_of_textbook_regression() -> None:
    x = np.array([1.0, 2.0, 4.0, 7.0, 11.0])
    y = np.array([2.1, 2.9, 5.2, 7.8, 12.4])
    ours, theirs = fit_line(x, y), linregress(x, y)
    assert ours.slope == pytest.approx(theirs.slope)
    assert ours.slope_error == pytest.approx(theirs.stderr)
    assert ours.error(0.0) == pytest.approx(theirs.intercept_stderr)
    assert ours.r_squared == pytest.approx(theirs.rvalue**2)


def test_the_lower_hull_is_that_of_scipy() -> None:
    points = np.random.default_rng(1).standard_normal((300, 2))
    hull = ConvexHull(points)
    below = set()
    for simplex, equation in zip(hull.simplices, hull.equations, strict=True):
        if equation[1] < 0:
            below |= set(simplex.tolist())
    lowest = int(np.argmin(points[:, 1]))
    falling = {k for k in below if points[k, 0] <= points[lowest, 0]}
    assert set(lower_hull(points[:, 0], points[:, 1])) == falling


def curves_of(law: Surface) -> list[Observation]:
    """Constant-rate training curves, dense enough that their envelope is the frontier."""
    return [
        Observation(n, d, 6 * n * d, law.loss(n, d), step=d / 1e6, run=f"{n:.0f}")
        for n in np.geomspace(1e7, 1e10, 60)
        for d in np.geomspace(1e8, 1e12, 100)
        if 1e17 < 6 * n * d < 1e21
    ]


@pytest.mark.parametrize("reading", ["hull", "bins"])
def test_the_envelope_of_curves_gives_the_planted_exponent(reading: str) -> None:
    found = fit_envelope(curves_of(LAW), reading=reading)
    assert found.exponents["params"] == pytest.approx(A, abs=0.03)
    assert found.exponents["params"] + found.exponents["tokens"] == pytest.approx(1, abs=1e-6)


def test_points_of_curves_serve_the_envelope_and_ends_the_surface() -> None:
    curves = curves_of(LAW)
    ends, notes = finished(curves)
    assert len(ends) == 60
    assert [n.code for n in notes] == ["curve_points"]
    assert len(fit(curves).used) == 60
    assert fit(curves, method="envelope").details.num_points == len(curves)


def test_lowest_in_bins_is_a_falling_staircase() -> None:
    curves = curves_of(LAW)
    x, y = np.log([o.flops for o in curves]), np.log([o.loss for o in curves])
    chosen = lowest_in_bins(x, y)
    assert np.all(np.diff(x[chosen]) > 0)
    assert np.all(np.diff(y[chosen]) <= 0)


def test_an_envelope_needs_three_sizes() -> None:
    curves = [o for o in curves_of(LAW) if o.params < 1.2e7]
    with pytest.raises(FitError) as caught:
        fit_envelope(curves)
    assert caught.value.code == "too_few_sizes"


def test_kaplans_parameters_come_back() -> None:
    n_c, d_c, alpha_n, alpha_d = 8.8e13, 5.4e13, 0.076, 0.103
    ratio = alpha_n / alpha_d
    truth = GeneralSurface(0.0, n_c**ratio, d_c, ratio, 1.0, alpha_d)
    found = fit(grid(truth, width=16.0, sd=1e-5), method="kaplan")
    assert found.parameters["alpha_N"] == pytest.approx(alpha_n, rel=0.01)
    assert found.parameters["alpha_D"] == pytest.approx(alpha_d, rel=0.01)
    assert found.exponents["params"] == pytest.approx(1 / (1 + ratio), abs=0.003)


def test_fixed_tokens_give_a_power_law_in_params() -> None:
    runs = [
        Observation(n, d, 6 * n * d, (9e13 / n) ** 0.08 * (1 + 1e8 / d))
        for n in np.geomspace(1e7, 1e9, 5)
        for d in (1e9, 4e9, 1.6e10)
    ]
    laws = fit(runs, method="kaplan").details.fixed_tokens
    assert [law.tokens for law in laws] == pytest.approx([1e9, 4e9, 1.6e10])
    assert [law.alpha_N for law in laws] == pytest.approx([0.08] * 3)


def test_the_richer_form_finds_its_power_and_doubts_the_sum() -> None:
    truth = GeneralSurface(1.7, 4000.0, 60000.0, 0.5, 0.55, 0.6)
    runs = grid(truth, num_budgets=9, num_sizes=11, width=16.0, sd=2e-4)
    found = fit(runs, method="general")
    assert found.parameters["gamma"] == pytest.approx(0.6, abs=0.05)
    assert found.exponents["params"] == pytest.approx(0.55 / 1.05, abs=0.01)
    assert found.objective is not None
    assert found.objective < found.details.objective_of_surface


def test_e_can_be_pinned_and_is_refused_above_the_losses() -> None:
    runs = grid(LAW, sd=0.002)
    found = fit(runs, FitOptions(irreducible_loss=1.7))
    assert found.parameters["E"] == pytest.approx(1.7)
    assert found.status == "ok"
    free = fit(runs)
    assert found.objective >= free.objective * (1 - 1e-9)
    with pytest.raises(FitError, match="irreducible loss"):
        fit(runs, FitOptions(irreducible_loss=9.0))
