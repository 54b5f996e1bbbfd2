"""Global search for the surface fit: starts by variable projection, then Newton's method.

For fixed exponents, E, A and B are linear parameters, so a grid over (alpha, beta) gives good
starts. `newton.minimise` refines the best ones in centred and scaled logarithms: first with least
squares, then with Huber's threshold lowered in steps.

Source: Hoffmann et al. 2022 (arXiv:2203.15556), section 3.3 and eq. 3; variable projection:
Czech et al. 2026 (arXiv:2603.22339).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.law import Surface
from flops_fit.fitting.solver.newton import Minima, minimise
from flops_fit.fitting.solver.objective import Array, ExponentPrior, Problem

MIN_EXPONENT, MAX_EXPONENT = 1e-3, 3.0
_GRID = np.geomspace(0.04, 1.4, 12)
_NUM_STARTS = 16
LARGE = 20_000  # above this number of observations, starts and folds use a subset
_DELTAS = (5e-3,)  # intermediate Huber thresholds before a small one


@dataclass(frozen=True)
class Coordinates:
    """Centred and scaled logarithms of N and D with log L, and conversion to papers' parameters.

    Attributes:
        x, y, log_loss: float64, shape (n,).
        x_centre, x_scale, y_centre, y_scale: x = (log N - x_centre) / x_scale, and y from log D
            likewise.
    """

    x: Array
    y: Array
    log_loss: Array
    x_centre: float
    x_scale: float
    y_centre: float
    y_scale: float

    @classmethod
    def of(cls, params: Array, tokens: Array, loss: Array) -> Coordinates:
        """Build coordinates from positive N, D and L, float64, shape (n,)."""
        x, y = np.log(params), np.log(tokens)
        x_centre, y_centre = float(x.mean()), float(y.mean())
        x_scale = float(x.std()) or 1.0
        y_scale = float(y.std()) or 1.0
        return cls(
            (x - x_centre) / x_scale, (y - y_centre) / y_scale, np.log(loss),
            x_centre, x_scale, y_centre, y_scale,
        )  # fmt: skip

    def to_law(self, theta: Array) -> Array:
        """Convert theta to E, A, B, alpha, beta, shape (rows, 5)."""
        alpha, beta = theta[:, 3] / self.x_scale, theta[:, 4] / self.y_scale
        with np.errstate(over="ignore"):
            e, a, b = (
                np.exp(theta[:, 0]),
                np.exp(theta[:, 1] + alpha * self.x_centre),
                np.exp(theta[:, 2] + beta * self.y_centre),
            )
        return np.stack([e, a, b, alpha, beta], axis=1)

    def from_law(self, law: Surface) -> Array:
        """Convert a law with positive E, A and B to theta, shape (1, 5)."""
        return np.array(
            [[
                np.log(law.E),
                np.log(law.A) - law.alpha * self.x_centre,
                np.log(law.B) - law.beta * self.y_centre,
                law.alpha * self.x_scale,
                law.beta * self.y_scale,
            ]]
        )  # fmt: skip

    def problem(
        self, delta: float, *, is_linear: bool = False, prior: ExponentPrior | None = None
    ) -> Problem:
        """Build the problem for `newton.minimise`, with the bounds of theta."""
        least, most = float(self.log_loss.min()), float(self.log_loss.max())
        lower = [least - 14, least - 23, least - 23]
        upper = [least + 1e-9, most + 7, most + 7]
        return Problem(
            self.x, self.y, self.log_loss, delta,
            np.array([*lower, MIN_EXPONENT * self.x_scale, MIN_EXPONENT * self.y_scale]),
            np.array([*upper, MAX_EXPONENT * self.x_scale, MAX_EXPONENT * self.y_scale]),
            self.x_scale, self.y_scale, is_linear, prior,
        )  # fmt: skip

    def rows(self, chosen: NDArray[np.int64]) -> Coordinates:
        """Return the same coordinates for a subset of the observations."""
        return replace(self, x=self.x[chosen], y=self.y[chosen], log_loss=self.log_loss[chosen])


def search(problem: Problem, weights: Array) -> Minima:
    """Return the minima found from the grid starts, best first.

    Huber's threshold is lowered in steps to `problem.delta`.

    Args:
        problem: with `log_loss` of shape (n,).
        weights: float64, shape (n,).
    """
    n = len(problem.x)
    if n > LARGE:
        chosen = sample_of(n)
        sample = replace(
            problem, x=problem.x[chosen], y=problem.y[chosen], log_loss=problem.log_loss[chosen]
        )
        return minimise(problem, search(sample, weights[chosen]).theta, weights)
    theta = grid_starts(problem, weights)
    passed = [] if problem.is_linear else [d for d in _DELTAS if d > 2 * problem.delta]
    for delta in (np.inf, *passed, problem.delta):
        step = replace(problem, delta=delta)
        found = minimise(step, theta, weights, max_iterations=7, tolerance=1e-5)
        theta = _distinct(found, within=0.1 if delta == problem.delta else 0.4)
    theta = np.vstack([theta, _without_irreducible(theta[0], problem)])
    found = minimise(problem, theta, weights, is_race=True)
    order = np.argsort(found.objective)
    return replace(
        found,
        theta=found.theta[order],
        objective=found.objective[order],
        has_converged=found.has_converged[order],
    )


def sample_of(n: int) -> NDArray[np.int64]:
    """Return 20,000 of `n` positions in ascending order, the same ones in every call."""
    return np.sort(np.random.default_rng(0).choice(n, LARGE, replace=False))


def _without_irreducible(theta: Array, problem: Problem) -> Array:
    """Return theta, shape (5,), with E at its lower bound, as an additional start.

    If the runs do not determine E, a valley along the kinks of Huber's loss leads to this bound.
    Newton's method would follow it in tiny steps.
    """
    start = theta.copy()
    start[0] = problem.lower[0]
    return start


def _distinct(found: Minima, *, within: float) -> Array:
    """Return theta of at most 6 rows to continue with, shape (<= 6, 5).

    Their objectives exceed the best one by at most the share `within`. Rows whose objectives agree
    to 0.1 % count as one basin, of which only the best row is kept.
    """
    order = np.argsort(found.objective)
    values = found.objective[order]
    chosen, last = [order[0]], values[0]
    for row, value in zip(order, values, strict=True):
        if value > (1 + within) * values[0] + 1e-25:
            break
        if value > last + 1e-3 * abs(last):
            chosen.append(row)
            last = value
    kept: Array = found.theta[chosen[:6]]
    return kept


def grid_starts(problem: Problem, weights: Array) -> Array:
    """Return theta at the best points of an (alpha, beta) grid, shape (16, 5).

    At fixed exponents, E, A and B minimise the squared relative residual, which equals the squared
    log residual to first order. Negative coefficients are raised to 0.1 % of the mean loss.
    Neighbours of a better grid point are skipped, so that the starts cover different basins.
    """
    loss = np.exp(problem.log_loss)
    w = weights / loss**2
    u = np.exp(-np.outer(_GRID, problem.x * problem.x_scale))
    v = np.exp(-np.outer(_GRID, problem.y * problem.y_scale))
    k = len(_GRID)
    normal, right = np.empty((k, k, 3, 3)), np.empty((k, k, 3))
    normal[..., 0, 0], right[..., 0] = w.sum(), (w * loss).sum()
    normal[..., 0, 1], normal[..., 0, 2] = (u @ w)[:, None], (v @ w)[None, :]
    normal[..., 1, 1] = ((u * u) @ w)[:, None]
    normal[..., 2, 2] = ((v * v) @ w)[None, :]
    normal[..., 1, 2] = (u * w) @ v.T
    right[..., 1], right[..., 2] = (u @ (w * loss))[:, None], (v @ (w * loss))[None, :]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        normal[..., j, i] = normal[..., i, j]
    diagonal = np.einsum("...ii->...i", normal)
    diagonal *= 1 + 1e-10
    scale = np.sqrt(diagonal)
    scaled = normal / scale[..., :, None] / scale[..., None, :]
    solved = np.linalg.solve(scaled, (right / scale)[..., None])[..., 0] / scale
    at_centre = np.maximum(solved, 1e-3 * loss.mean())
    misfit = (
        (w * loss**2).sum()
        - 2 * np.einsum("abi,abi->ab", at_centre, right)
        + np.einsum("abi,abij,abj->ab", at_centre, normal, at_centre)
    )
    starts: list[list[float]] = []
    taken: list[tuple[int, int]] = []
    for flat in np.argsort(misfit, axis=None):
        i, j = divmod(int(flat), k)
        if all(max(abs(i - p), abs(j - q)) > 1 for p, q in taken):
            taken.append((i, j))
            exponents = [_GRID[i] * problem.x_scale, _GRID[j] * problem.y_scale]
            starts.append([*np.log(at_centre[i, j]), *exponents])
        if len(starts) == _NUM_STARTS:
            break
    return np.array(starts)


def log_residuals(coordinates: Coordinates, theta: Array) -> Array:
    """Return the residuals log L - f at one theta, shape (n,)."""
    e, a, b, alpha, beta = theta.reshape(5)
    f = np.log(np.exp(e) + np.exp(a - alpha * coordinates.x) + np.exp(b - beta * coordinates.y))
    residuals: Array = coordinates.log_loss - f
    return residuals
