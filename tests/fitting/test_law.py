"""Laws, frontiers and FLOP counts against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.errors import FitError
from flops_fit.fitting.law import (
    Fit,
    FlopsPerToken,
    GeneralSurface,
    PowerLaw,
    PowerLawFrontier,
    Surface,
    SurfaceFrontier,
)
from flops_fit.fitting.points import Observation
from flops_fit.fitting.targets import optima

LAW = Surface(1.8, 480.0, 2100.0, 0.35, 0.37)


def brute_force(loss, flops: float, count=lambda n: 6 * n) -> float:
    """The params of least loss on a fine grid."""
    grid = np.exp(np.linspace(math.log(1e5), math.log(1e13), 40001))
    return float(grid[int(np.argmin([loss(n, flops / count(n)) for n in grid]))])


@pytest.mark.parametrize("flops", [1e17, 1e20, 1e24])
def test_the_closed_form_optimum_is_that_of_brute_force(flops: float) -> None:
    found = LAW.optimum(flops)
    assert found.params == pytest.approx(brute_force(LAW.loss, flops), rel=1e-3)
    assert 6 * found.params * found.tokens == pytest.approx(flops, rel=1e-12)


@given(
    st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.floats(0.3, 3.0), st.floats(16, 26)
)  # fmt: skip
def test_a_power_over_the_bracket_leaves_the_allocation(alpha, beta, gamma, exponent) -> None:
    general = GeneralSurface(1.8, 500.0, 900.0, alpha, beta, gamma)
    plain = Surface(0.0, 500.0, 900.0, alpha, beta)
    flops = 10.0**exponent
    assert general.optimum(flops).params == pytest.approx(plain.optimum(flops).params)
    near = general.optimum(flops)
    for factor in (0.9, 1.1):
        other = near.params * factor
        assert general.loss(other, flops / 6 / other) >= near.loss * (1 - 1e-12)


def test_the_searched_frontier_agrees_with_the_closed_form_under_six_n() -> None:
    searched = SurfaceFrontier(LAW.loss, FlopsPerToken(), lambda c: math.log(3) + LAW.log_params(c))
    assert searched.optimum(1e21).params == pytest.approx(LAW.optimum(1e21).params, rel=1e-4)


def test_kaplans_form_is_the_general_one_without_irreducible_loss() -> None:
    n_c, d_c, alpha_n, alpha_d = 8.8e13, 5.4e13, 0.076, 0.095
    ratio = alpha_n / alpha_d
    law = GeneralSurface(0.0, n_c**ratio, d_c, ratio, 1.0, alpha_d)
    n, d = 1e9, 3e10
    assert law.loss(n, d) == pytest.approx(((n_c / n) ** ratio + d_c / d) ** alpha_d)


def observe(params: float, flops_per_token: float) -> Observation:
    return Observation(params, 1e9, flops_per_token * 1e9, 3.0)


def test_a_counted_function_passes_through_its_knots_and_goes_on_smoothly_beyond() -> None:
    def true(params: float) -> float:
        return 6 * params * (1 + (1e6 / params) ** 0.5)

    knots = [float(n) for n in np.geomspace(1e7, 1e9, 7)]
    count = FlopsPerToken.through([observe(n, true(n)) for n in knots])
    for params in knots:
        assert count(params) == pytest.approx(true(params))
    for params in (1e10, 1e11, 1e13):  # to hold the last ratio would be 3 % off
        assert count(params) == pytest.approx(true(params), rel=0.01)
    assert count(7e6) == pytest.approx(true(7e6), rel=0.02)  # held: 4.5 % off
    for end in (1e7, 1e9):  # An optimum would stick to a kink.
        below = math.log(count(end) / count(end * 0.999))
        above = math.log(count(end * 1.001) / count(end))
        assert above == pytest.approx(below, rel=2e-3)


def test_six_n_is_recognised_and_kept_in_closed_form() -> None:
    assert FlopsPerToken.through([observe(n, 6 * n) for n in (1e6, 3e7, 1e9)]) == FlopsPerToken()


def test_flops_that_zigzag_are_smoothed_to_one_ratio() -> None:
    """Nominal budgets over rounded counts: FLOPs per param scatter by a tenth between sizes."""
    sizes = np.geomspace(1e7, 1e9, 20)
    ratios = 6 * np.where(np.arange(20) % 2, 1.08, 0.92)
    count = FlopsPerToken.through(
        [observe(float(n), float(r * n)) for n, r in zip(sizes, ratios, strict=True)]
    )
    assert count(1e8) / 1e8 == pytest.approx(count(1.3e8) / 1.3e8)
    assert count(1e8) / 1e8 == pytest.approx(6, rel=0.09)


def test_a_power_law_frontier_derives_tokens_from_the_count() -> None:
    count = FlopsPerToken((1e6, 1e9), (1e7, 6e9))
    frontier = PowerLawFrontier(PowerLaw(0.1, 0.5), count, PowerLaw(50.0, -0.1, 1.7))
    found = frontier.optimum(1e18)
    assert found.params == pytest.approx(1e8)
    assert found.tokens * count(found.params) == pytest.approx(1e18)
    assert found.loss == pytest.approx(1.7 + 50 * 1e18**-0.1)


def test_samples_come_from_the_draws_and_without_them_it_says_why() -> None:
    draws = tuple({"E": float(k)} for k in range(5))
    fit = Fit("surface", "ok", {}, {}, LAW, draws=draws)
    assert fit.sample(5) == list(draws)
    assert len(fit.sample(12, seed=3)) == 12
    assert fit.sample(12, seed=3) == fit.sample(12, seed=3)
    with pytest.raises(FitError) as caught:
        Fit("isoflop", "ok", {}, {}, LAW).sample(3)
    assert caught.value.code == "no_uncertainty"


def test_counted_flops_between_sizes_are_close_to_the_true_count() -> None:
    """Embeddings and attention make FLOPs per param fall smoothly as a model grows."""

    def true(params: float) -> float:
        return 6 * params * (1 + (1e8 / params) ** 0.5)

    sizes = np.geomspace(1e7, 1e10, 8)
    count = FlopsPerToken.through([observe(float(n), true(float(n))) for n in sizes])
    between = np.geomspace(1.1e7, 9e9, 50)
    assert max(abs(count(n) / true(n) - 1) for n in between) < 0.01


def test_the_arrays_of_a_frontier_agree_with_the_frontier() -> None:
    count = FlopsPerToken((1e6, 1e7, 1e9), (3e7, 1.1e8, 6.5e9))
    flops = np.array([1e17, 1e20])
    laws = np.array([[LAW.E, LAW.A, LAW.B, LAW.alpha, LAW.beta]])
    log_params, log_loss = optima(laws, flops, count)
    searched = SurfaceFrontier(LAW.loss, count, LAW.log_params)
    for k, c in enumerate(flops):
        one = searched.optimum(float(c))
        assert log_params[0, k] == pytest.approx(math.log(one.params), abs=1e-5)
        assert one.loss is not None
        assert log_loss[0, k] == pytest.approx(math.log(one.loss), abs=1e-9)


def test_sizes_read_twice_from_a_figure_do_not_bend_the_count_between_them() -> None:
    sizes = [1e8, 1.000001e8, 1.5e8, 2e8, 3e8, 3.000001e8, 4e8]
    ratios = [6.2, 5.6, 6.1, 6.3, 5.7, 6.4, 6.2]
    count = FlopsPerToken(tuple(sizes), tuple(n * r for n, r in zip(sizes, ratios, strict=True)))
    between = np.geomspace(1e8, 4e8, 200)
    assert all(5.5 < count(float(n)) / n < 6.5 for n in between)


def test_an_optimum_beyond_all_numbers_is_a_number_still() -> None:
    steep = Surface(E=1.0, A=1e300, B=1.0, alpha=1e-3, beta=1.0)
    found = SurfaceFrontier(steep.loss, FlopsPerToken(), steep.log_params).optimum(1e21)
    assert math.isfinite(found.params)
    assert math.isfinite(found.tokens)
