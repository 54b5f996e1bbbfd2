"""The batched objective against finite differences, SciPy and itself in other units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from flops_fit.fitting.solver.newton import minimise
from flops_fit.fitting.solver.objective import (
    ExponentPrior,
    Workspace,
    evaluate,
    evaluate_resamples,
    reweighted,
)
from flops_fit.fitting.solver.search import Coordinates, search

RNG = np.random.default_rng(5)
PARAMS = np.exp(RNG.uniform(16, 22, 40))
TOKENS = np.exp(RNG.uniform(20, 25, 40))
LOSS = (1.8 + 450 / PARAMS**0.34 + 2000 / TOKENS**0.37) * np.exp(0.01 * RNG.standard_normal(40))
WHERE = Coordinates.of(PARAMS, TOKENS, LOSS)
THETA = np.array([[0.5, -1.0, -1.2, 0.5, 0.4]])
WEIGHTS = RNG.random((1, 40))
PRIOR = ExponentPrior(np.log(0.35), 0.5, 1e-3)


def problem(delta: float, is_linear: bool = False, prior: ExponentPrior | None = PRIOR):
    return WHERE.problem(delta, is_linear=is_linear, prior=prior)


@pytest.mark.parametrize("is_linear", [False, True])
@pytest.mark.parametrize("delta", [1e-2, np.inf])
def test_gradient_and_hessian_are_the_differences_of_the_objective(delta, is_linear) -> None:
    posed = problem(delta, is_linear)
    room = Workspace(1, 40)

    def at(theta: np.ndarray):
        return evaluate(posed, theta, WEIGHTS, posed.log_loss, room)

    _, gradient, hessian = at(THETA)
    steps = np.eye(5) * 1e-6
    slope = [(at(THETA + d)[0][0] - at(THETA - d)[0][0]) / 2e-6 for d in steps]
    curve = [(at(THETA + d)[1][0] - at(THETA - d)[1][0]) / 2e-6 for d in steps]
    assert gradient[0] == pytest.approx(np.array(slope), rel=1e-6, abs=1e-7)
    assert hessian[0] == pytest.approx(np.array(curve), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("is_linear", [False, True])
@pytest.mark.parametrize("delta", [1e-2, np.inf])
def test_resamples_of_one_point_add_up_to_the_batched_sums(delta, is_linear) -> None:
    posed = problem(delta, is_linear)
    weights = RNG.random((3, 40))
    many = np.repeat(THETA, 3, axis=0)
    room = Workspace(3, 40)
    batched = [part.copy() for part in evaluate(posed, many, weights, posed.log_loss, room)]
    batched.append(reweighted(posed, many, weights, posed.log_loss, room))
    for one, other in zip(batched, evaluate_resamples(posed, THETA[0], weights), strict=True):
        assert one == pytest.approx(other, rel=1e-10, abs=1e-12)


def huber_objective(theta: np.ndarray, delta: float) -> float:
    """The same objective, written as the papers do."""
    e, a, b, alpha, beta = theta
    x, y = WHERE.x, WHERE.y
    r = WHERE.log_loss - np.logaddexp(np.logaddexp(e, a - alpha * x), b - beta * y)
    inside = np.abs(r) <= delta
    return float(np.where(inside, 0.5 * r * r, delta * (np.abs(r) - 0.5 * delta)).sum())


@pytest.mark.parametrize("delta", [1e-3, 1e-2])
def test_the_search_is_as_low_as_nelder_mead_from_its_own_optimum_and_elsewhere(delta) -> None:
    found = search(problem(delta, prior=None), np.ones(40))
    theta = found.theta[0]
    assert found.objective[0] == pytest.approx(huber_objective(theta, delta), rel=1e-10)
    for start in (theta, theta + 0.05, theta - 0.05):
        other = minimize(
            huber_objective, start, args=(delta,), method="Nelder-Mead",
            options={"maxiter": 6000, "maxfev": 6000, "xatol": 1e-10, "fatol": 1e-16},
        )  # fmt: skip
        assert found.objective[0] <= other.fun * (1 + 1e-9)


def test_runs_that_do_not_show_e_are_fitted_as_low_as_by_many_random_starts() -> None:
    missed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(8, 14))
        params, tokens = 10 ** rng.uniform(7, 9.5, n), 10 ** rng.uniform(8.5, 11, n)
        law = 0.02 + 11 * params**-0.08 + 4e3 * tokens**-0.39
        where = Coordinates.of(params, tokens, law * np.exp(0.004 * rng.standard_t(2, n)))
        posed, ones = where.problem(1e-3), np.ones(n)
        level = where.log_loss.min()
        starts = np.stack(
            [level - rng.exponential(2, 60), *(level - 1 + rng.normal(0, 1.5, (2, 60))),
             *(rng.uniform(0.03, 1.5, (2, 60)) * [[where.x_scale], [where.y_scale]])], axis=1
        )  # fmt: skip
        for delta in (np.inf, 5e-3, 1e-3):
            step = replace(posed, delta=delta)
            starts = minimise(step, starts, ones, max_iterations=100).theta
        known = minimise(posed, starts, ones, max_iterations=2000).objective.min()
        missed += search(posed, ones).objective[0] > known * (1 + 1e-6)
    assert missed <= 1


def test_a_resample_is_fitted_like_a_table_of_its_rows() -> None:
    posed = problem(1e-2, prior=None)
    start = search(posed, np.ones(40)).theta[:1]
    rows = RNG.integers(0, 40, (5, 40))
    weights = np.stack([np.bincount(row, minlength=40) for row in rows]).astype(float)
    batched = minimise(posed, np.repeat(start, 5, axis=0), weights)
    for k, row in enumerate(rows):
        alone = replace(posed, x=posed.x[row], y=posed.y[row], log_loss=posed.log_loss[row])
        one = minimise(alone, start, np.ones(40))
        assert batched.objective[k] == pytest.approx(one.objective[0], rel=1e-9)
        assert batched.theta[k] == pytest.approx(one.theta[0], rel=1e-4, abs=1e-5)


def test_rows_end_the_same_alone_and_in_company() -> None:
    posed = problem(1e-2, prior=None)
    starts = THETA + 0.1 * RNG.standard_normal((40, 5))
    together = minimise(posed, starts, np.ones(40))
    for k in (0, 17, 39):
        alone = minimise(posed, starts[k : k + 1], np.ones(40))
        assert together.objective[k] == pytest.approx(alone.objective[0], rel=1e-6)
