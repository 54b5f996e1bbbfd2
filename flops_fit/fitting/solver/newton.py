"""Damped Newton method with the exact Hessian, for many surface fits at once.

Each row of parameters is one fit: a start, a resample of a bootstrap, or a simulated data set (see
`objective`). The step is -(H + damping M)^-1 g, where M is the matrix of the iteratively reweighted
least-squares step. The damping depends on the ratio of actual to predicted decrease. A row leaves
the problem when it has converged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.solver.objective import (
    Array,
    Problem,
    Workspace,
    evaluate,
    evaluate_resamples,
    reweighted,
)

_DAMPING = 0.3  # start value; it needed the fewest iterations on real and planted resamples
_MAX_DAMPING = 1e12
_REFRESH = 8  # iterations between updates of the damping metric M
_BLOCK_ELEMENTS = 30_000  # working arrays of this size stay in the processor's cache
_FEW_ROWS = 24  # for fewer rows, LAPACK's eigenvalues are faster than our elimination
_TINY = 1e-28  # a smaller predicted decrease is rounding, for any objective


@dataclass(frozen=True)
class Minima:
    """The minimum found for each row.

    Attributes:
        theta: float64, shape (rows, 5).
        objective: float64, shape (rows,).
        has_converged: bool, shape (rows,).
    """

    theta: Array
    objective: Array
    has_converged: NDArray[np.bool_]


def minimise(
    problem: Problem,
    start: Array,
    weights: Array,
    *,
    max_iterations: int = 200,
    tolerance: float = 1e-14,
    is_race: bool = False,
) -> Minima:
    """Minimise the objective of every row from its start.

    Args:
        problem: data and bounds.
        start: float64, shape (rows, 5).
        weights: float64, shape (rows, n), or (n,) if all rows share them.
        max_iterations: limit of iterations per row.
        tolerance: a row stops when its predicted decrease is below this share of its objective.
        is_race: whether the rows are starts of one fit; a row then also stops if ten times its
            predicted decrease would not bring it below a converged row.
    """
    low, high = problem.lower, problem.upper
    best, active = np.clip(start, low, high), np.arange(len(start))
    sums = _Blocks(problem, weights, len(start))
    value, gradient, hessian, metric = sums.start(best, active)
    ended = Minima(best.copy(), value.copy(), np.zeros(len(best), dtype=bool))
    damping, growth = np.full(len(best), _DAMPING), np.full(len(best), 2.0)
    for iteration in range(max_iterations):
        if iteration and iteration % _REFRESH == 0:
            metric = sums.reweighted(best, active)
        free = ~(((best <= low) & (gradient > 0)) | ((best >= high) & (gradient < 0)))
        trial = best + damped_step(gradient, hessian, metric, damping, free)
        np.minimum(np.maximum(trial, low, out=trial), high, out=trial)
        step = trial - best
        slope = np.add.reduce(gradient * step, axis=1)
        bent = np.matmul(hessian, step[:, :, None])[:, :, 0]
        promised = -slope - 0.5 * np.add.reduce(bent * step, axis=1)
        finished = (np.abs(slope) <= tolerance * np.abs(value) + _TINY) | (damping > _MAX_DAMPING)
        if is_race and ended.has_converged.any():
            finished |= value + 10 * slope > ended.objective[ended.has_converged].min()
        if finished.any():
            gone, keep = active[finished], ~finished
            ended.theta[gone], ended.objective[gone] = best[finished], value[finished]
            ended.has_converged[gone] = True
            if not keep.any():
                return ended
            active, best, value, trial = active[keep], best[keep], value[keep], trial[keep]
            gradient, hessian, metric = gradient[keep], hessian[keep], metric[keep]
            damping, growth, promised = damping[keep], growth[keep], promised[keep]
        new_value, new_gradient, new_hessian = sums.evaluate(trial, active)
        gain = (value - new_value) / np.maximum(np.abs(promised), 1e-300)
        better = new_value < value
        if better.all():
            best, value, gradient, hessian = trial, new_value, new_gradient, new_hessian
        else:
            best[better], value[better] = trial[better], new_value[better]
            gradient[better], hessian[better] = new_gradient[better], new_hessian[better]
        damping, growth = _adapt(damping, growth, gain, better)
    ended.theta[active], ended.objective[active] = best, value
    return ended


def _adapt(
    damping: Array, growth: Array, gain: Array, better: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Return smaller damping after steps near their prediction, ever larger after failed steps."""
    shrink = np.where(gain > 0.5, 0.1, np.where(gain > 0.1, 0.7, 2.0))
    damping = np.where(better, np.maximum(damping * shrink, 1e-12), damping * growth)
    return damping, np.where(better, 2.0, growth * 2)


class _Blocks:
    """Objective and derivatives of many rows, computed in blocks that fit the cache."""

    def __init__(self, problem: Problem, weights: Array, rows: int) -> None:
        """Allocate room for at most `rows` rows; `weights` as for `minimise`."""
        n = len(problem.x)
        self.problem, self.weights = problem, weights
        self.size = min(rows, max(1, _BLOCK_ELEMENTS // n))
        self.work = Workspace(self.size, n)

    def _block(self, rows: NDArray[np.intp]) -> tuple[Array, Array]:
        """Return weights and log losses of these rows."""
        w, y = self.weights, self.problem.log_loss
        return w if w.ndim == 1 else w[rows], y if y.ndim == 1 else y[rows]

    def start(self, theta: Array, rows: NDArray[np.intp]) -> tuple[Array, Array, Array, Array]:
        """Return `evaluate` and `reweighted` of all rows; faster if resamples share their start."""
        are_resamples = self.weights.ndim == 2 and self.problem.log_loss.ndim == 1
        if are_resamples and (theta == theta[0]).all():
            return evaluate_resamples(self.problem, theta[0], self.weights)
        return *self.evaluate(theta, rows), self.reweighted(theta, rows)

    def evaluate(self, theta: Array, rows: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        """Return `objective.evaluate` for the rows with these indices."""
        if len(rows) <= self.size:
            return evaluate(self.problem, theta, *self._block(rows), self.work)
        value, gradient = np.empty(len(rows)), np.empty((len(rows), 5))
        hessian = np.empty((len(rows), 5, 5))
        for first in range(0, len(rows), self.size):
            part = slice(first, first + self.size)
            value[part], gradient[part], hessian[part] = evaluate(
                self.problem, theta[part], *self._block(rows[part]), self.work
            )
        return value, gradient, hessian

    def reweighted(self, theta: Array, rows: NDArray[np.intp]) -> Array:
        """Return `objective.reweighted` for the rows with these indices."""
        metric = np.empty((len(rows), 5, 5))
        for first in range(0, len(rows), self.size):
            part = slice(first, first + self.size)
            metric[part] = reweighted(
                self.problem, theta[part], *self._block(rows[part]), self.work
            )
        return metric


def damped_step(
    gradient: Array, hessian: Array, metric: Array, damping: Array, free: NDArray[np.bool_]
) -> Array:
    """Return the descent step -(H + damping M)^-1 g over the free parameters of each row.

    If the matrix is indefinite, its eigenvalues (its pivots, for 24 or more rows) are replaced by
    their magnitudes. Parameters held at a bound do not move.
    """
    m = hessian + damping[:, None, None] * metric
    held = ~free
    if held.any():
        m = np.where(held[:, :, None] | held[:, None, :], 0.0, m)
        m[:, range(5), range(5)] += held
        gradient = np.where(held, 0.0, gradient)
    if len(m) < _FEW_ROWS:
        curvature, directions = np.linalg.eigh(m)
        size = np.abs(curvature)
        size = np.maximum(size, 1e-14 * size.max(axis=1, keepdims=True) + 1e-300)
        along = np.matmul(gradient[:, None, :], directions)[:, 0] / size
        stepped: Array = -np.matmul(directions, along[:, :, None])[:, :, 0]
        return stepped
    return -_solve_many(m, gradient)


def _solve_many(m: Array, right: Array) -> Array:
    """Return m^-1 right by LDL' factorisation, vectorised over rows.

    Args:
        m: float64, shape (rows, 5, 5), symmetric; negative pivots are replaced by their magnitudes.
        right: float64, shape (rows, 5).
    """
    floor = 1e-13 * np.abs(m[:, range(5), range(5)]).max(axis=1) + 1e-300
    rest = {(i, j): m[:, i, j].copy() for i in range(5) for j in range(i + 1)}
    lower: dict[tuple[int, int], Array] = {}
    pivots: list[Array] = []
    for j in range(5):
        pivot = np.maximum(np.abs(rest[j, j]), floor)
        pivots.append(pivot)
        for i in range(j + 1, 5):
            lower[i, j] = rest[i, j] / pivot
        for i in range(j + 1, 5):
            for k in range(j + 1, i + 1):
                rest[i, k] -= lower[i, j] * rest[k, j]
    x = [right[:, i].copy() for i in range(5)]
    for i in range(1, 5):
        for j in range(i):
            x[i] -= lower[i, j] * x[j]
    x = [part / pivot for part, pivot in zip(x, pivots, strict=True)]
    for i in range(3, -1, -1):
        for j in range(i + 1, 5):
            x[i] -= lower[j, i] * x[j]
    return np.stack(x, axis=1)
