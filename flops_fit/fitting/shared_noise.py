"""Correlated noise of runs that branch off shared trunks, and its effect on a surface fit.

Runs on one trunk share most of their noise, and there are rarely enough trunks to resample. Let V
be the correlation matrix of the runs, W their weights, J the derivative of the fitted ln L with
respect to theta, and M = 1 - J (J'WJ)^-1 J'W. The residuals r = M (noise) have
E[r'Wr] = sigma^2 tr(A) with A = W M V M', which gives sigma. r'Wr has about tr(A)^2 / tr(A A)
degrees of freedom. The correlation is assumed, because the runs of one sweep determine it poorly.
If it is lower in truth, the intervals are too wide, never too narrow.

Source: degrees of freedom of a quadratic form: Satterthwaite 1946 (doi:10.2307/3002019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flops_fit.fitting.points import TRUNK_CORRELATION
from flops_fit.fitting.solver.newton import minimise
from flops_fit.fitting.solver.objective import Array
from flops_fit.fitting.surface import SolvedSurface

_MOST = 2_000  # runs with a correlation matrix of 32 MB; more runs count as independent
_ROOM = 4.0  # in sigma: draws of e, a and b may exceed their upper bounds by this much


@dataclass(frozen=True)
class TrunkNoise:
    """Noise of runs on shared trunks, estimated from the residuals.

    Attributes:
        sigma: standard deviation of the log loss of a run.
        degrees_of_freedom: degrees of freedom of sigma.
        correlation: correlation between runs, float64, shape (n, n).
        covariance: covariance of theta, float64, shape (5, 5).
    """

    sigma: float
    degrees_of_freedom: float
    correlation: Array
    covariance: Array


def correlation_of(runs: Sequence[str | None]) -> Array:
    """Return the noise correlation of runs by their trunk, shape (runs, runs); None: no trunk."""
    place = {run: k for k, run in enumerate(runs)}
    trunks = np.array([k if run is None else place[run] for k, run in enumerate(runs)])
    correlation: Array = np.where(trunks[:, None] == trunks[None, :], TRUNK_CORRELATION, 0.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def trunk_noise(solved: SolvedSurface) -> TrunkNoise | None:
    """Estimate the noise of runs on shared trunks; None if no two share one, or over 2,000 runs."""
    runs = [o.run if o.step is None else None for o in solved.observations]
    known = [run for run in runs if run is not None]
    if len(set(known)) == len(known) or len(runs) > _MOST:
        return None
    v = correlation_of(runs)
    w, problem = solved.weights, solved.problem
    j = solved.gradient * (problem.lower < problem.upper)  # fixed parameters absorb no noise
    solver = np.linalg.pinv((j * w[:, None]).T @ j, rcond=1e-15) @ (j * w[:, None]).T
    taken = j @ (solver @ v)
    spread = solver @ v @ solver.T
    left = v - taken - taken.T + j @ spread @ j.T  # M V M'
    trace = float(w @ np.diag(left))
    sigma = math.sqrt(float(w @ solved.residuals**2) / trace)
    freedom = trace**2 / float(w @ left**2 @ w)
    return TrunkNoise(sigma, freedom, v, sigma**2 * spread)


def simulated(solved: SolvedSurface, noise: TrunkNoise, rows: int, *, seed: int) -> Array:
    """Return the optima of `rows` tables simulated with this noise, shape (rows, 5).

    The draws do not depend on the order of the observations.
    """
    order = solved.order
    factor = np.linalg.cholesky(noise.correlation[np.ix_(order, order)])
    drawn = np.empty((rows, len(order)))
    drawn[:, order] = np.random.RandomState(seed).standard_normal(drawn.shape) @ factor.T
    problem = solved.problem
    upper = problem.upper.copy()
    upper[:3] += np.where(problem.lower < upper, _ROOM * noise.sigma, 0.0)[:3]
    fitted = problem.log_loss - solved.residuals
    noisy = replace(problem, log_loss=fitted + noise.sigma * drawn, upper=upper)
    start = np.repeat(solved.theta, rows, axis=0)
    found = minimise(noisy, start, solved.weights, tolerance=1e-8)
    theta: Array = found.theta
    return theta
