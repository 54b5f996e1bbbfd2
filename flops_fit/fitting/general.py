"""Robust fit of E + (A/N^alpha + B/D^beta)^gamma, to check the additive form and for Kaplan's.

In centred logarithms, log L = log(exp(e) + exp(gamma q)) with
q = log(exp(a - alpha x) + exp(b - beta y)). A trust-region method first minimises least squares,
from the fitted surface and from other powers gamma. From the best result it then minimises the
Huber loss of log loss.

Source: gamma = 1 is the additive form of Hoffmann et al. 2022 (arXiv:2203.15556), eq. 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from flops_fit.errors import FitError, Note
from flops_fit.fitting.details import FitStatus, GeneralDetails
from flops_fit.fitting.law import (
    Fit,
    FlopsPerToken,
    Frontier,
    GeneralSurface,
    Surface,
    SurfaceFrontier,
)
from flops_fit.fitting.robust import mad_sigma
from flops_fit.fitting.solver.objective import Array
from flops_fit.fitting.solver.search import LARGE, Coordinates, sample_of
from flops_fit.fitting.surface import ADAPTIVE, MIN_DELTA, SolvedSurface, refuse_absent_optimum

Part = slice | NDArray[np.int64]
MIN_RUNS = 8
_GAMMAS = (1.0, 0.5, 2.0)
_MIN_GAMMA, _MAX_GAMMA = 0.02, 8.0
_NO_E = -40.0  # ln(E / lowest loss) that stands for E = 0


@dataclass(frozen=True)
class SolvedGeneral:
    """Numerical result of a general fit.

    Attributes:
        law: the law in the papers' parameters.
        objective: summed Huber loss on log loss.
        residuals: log L - log fit, shape (n,).
        has_converged: whether the trust-region method converged.
        delta: Huber's threshold in log loss.
    """

    law: GeneralSurface
    objective: float
    residuals: Array
    has_converged: bool
    delta: float


def solve_general(
    solved: SolvedSurface, *, has_offset: bool, beta: float | None, delta: float | None = None
) -> SolvedGeneral:
    """Fit the general form to the runs of a solved surface.

    Args:
        solved: the additive fit of the same runs.
        has_offset: whether E is fitted; otherwise it is 0.
        beta: fixed value of beta; None: beta is fitted.
        delta: Huber's threshold in log loss; None: 1.345 robust standard deviations about the
            least-squares fit of this form.
    """
    where = solved.coordinates
    all_x, all_y = where.x * where.x_scale, where.y * where.y_scale
    free = np.array([has_offset, True, True, True, beta is None, True])
    least = float(where.log_loss.min())
    base = np.array([least + _NO_E, 0.0, 0.0, 0.3, 1.0 if beta is None else beta, 0.0])

    def full(free_part: Array) -> Array:
        theta = base.copy()
        theta[free] = free_part
        return theta

    def residuals(free_part: Array, part: Part = slice(None)) -> Array:
        e, a, b, alpha, beta_, log_gamma = full(free_part)
        q = np.logaddexp(a - alpha * all_x[part], b - beta_ * all_y[part])
        result: Array = where.log_loss[part] - np.logaddexp(e, math.exp(log_gamma) * q)
        return result

    def jacobian(free_part: Array, part: Part = slice(None)) -> Array:
        e, a, b, alpha, beta_, log_gamma = full(free_part)
        gamma = math.exp(log_gamma)
        x, y = all_x[part], all_y[part]
        q = np.logaddexp(a - alpha * x, b - beta_ * y)
        share = np.exp(gamma * q - np.logaddexp(e, gamma * q))
        pa = np.exp(a - alpha * x - q)
        g = share * gamma
        columns = [1 - share, g * pa, g * (1 - pa), -g * pa * x, -g * (1 - pa) * y, g * q]
        result: Array = -np.stack(columns, axis=1)[:, free]
        return result

    low = np.array([least + _NO_E, -60, -60, 1e-3, 1e-3, math.log(_MIN_GAMMA)])[free]
    high = np.array([least, 90, 90, 9.0, 9.0, math.log(_MAX_GAMMA)])[free]

    def solve(start: Array, part: Part = slice(None), **loss: Any) -> Any:
        inside = np.clip(start, low + 1e-9, high - 1e-9)
        return least_squares(
            residuals, inside, jac=jacobian, bounds=(low, high), x_scale="jac", max_nfev=100,
            args=(part,), **loss,
        )  # fmt: skip

    starts = [start[free] for start in _starts(solved, has_offset=has_offset, beta=beta)]
    # A sample is enough for starts; the final fit uses every run.
    part: Part = sample_of(len(all_x)) if len(all_x) > LARGE else slice(None)
    first = min((solve(start, part) for start in starts), key=lambda found: float(found.cost))
    if delta is None:
        delta = max(ADAPTIVE * mad_sigma(residuals(first.x)), MIN_DELTA)
    best = solve(first.x, loss="huber", f_scale=delta)
    law = _law_of(where, full(best.x), has_offset=has_offset)
    has_converged = bool(best.status > 0)
    return SolvedGeneral(law, float(best.cost), residuals(best.x), has_converged, delta)


def _law_of(where: Coordinates, theta: Array, *, has_offset: bool) -> GeneralSurface:
    """Return the law in the papers' parameters; theta is float64, shape (6,)."""
    e, a, b, alpha, beta, log_gamma = (float(v) for v in theta)
    return GeneralSurface(
        math.exp(e) if has_offset else 0.0,
        math.exp(min(a + alpha * where.x_centre, 700.0)),
        math.exp(min(b + beta * where.y_centre, 700.0)),
        alpha, beta, math.exp(log_gamma),
    )  # fmt: skip


def _starts(solved: SolvedSurface, *, has_offset: bool, beta: float | None) -> Sequence[Array]:
    """Return starts theta, shape (6,) each: the additive optimum adapted to several gamma."""
    e, a, b = (float(v) for v in solved.theta[0, :3])
    alpha = float(solved.theta[0, 3]) / solved.coordinates.x_scale
    beta_ = float(solved.theta[0, 4]) / solved.coordinates.y_scale
    if not has_offset:
        # Without E, the slopes of log loss are smaller, which needs small gamma.
        level = float(solved.coordinates.log_loss.mean())
        return [
            np.array([_NO_E, level / g - 0.7, level / g - 0.7, s, beta or s, math.log(g)])
            for g in (0.05, 0.1, 0.3)
            for s in (0.5, 1.0)
        ]
    return [np.array([e, a / g, b / g, alpha / g, beta_ / g, math.log(g)]) for g in _GAMMAS]


def general_frontier(law: GeneralSurface, flops_per_token: FlopsPerToken) -> Frontier:
    """Return the frontier for this FLOP count: in closed form for 6 N, else by search."""
    if not flops_per_token.params:
        return law
    return SurfaceFrontier(law.loss, flops_per_token, law.log_params)


def describe_general(solved: SolvedSurface, found: SolvedGeneral, method: str) -> Fit:
    """Return the Fit of a solved general form, with the additive objective for comparison.

    Raises:
        FitError: one of the two terms is negligible (`no_law`).
    """
    law = found.law
    inside = Surface(0.0, law.A, law.B, law.alpha, law.beta)
    refuse_absent_optimum(inside, solved.observations)
    total = law.alpha + law.beta
    observed = solved.coordinates.log_loss
    spread = float(((observed - observed.mean()) ** 2).sum())
    rest = float((found.residuals**2).sum())
    at_bound = not _MIN_GAMMA * 1.01 < law.gamma < _MAX_GAMMA * 0.99
    status = FitStatus.OK if found.has_converged else FitStatus.NOT_CONVERGED
    notes = [Note("bound", "gamma ended at a bound of the search")] if at_bound else []
    return Fit(
        method=method,
        status=FitStatus.BOUND if at_bound else status,
        parameters={
            "E": law.E, "A": law.A, "B": law.B, "alpha": law.alpha, "beta": law.beta,
            "gamma": law.gamma,
        },
        exponents={"params": law.beta / total, "tokens": law.alpha / total},
        frontier=general_frontier(law, solved.flops_per_token),
        objective=found.objective,
        r_squared={"loss": 1 - rest / spread if spread > 0 else 0.0},
        residuals=tuple(found.residuals.tolist()),
        used=solved.observations,
        excluded=solved.outliers,
        notes=tuple(notes),
        details=GeneralDetails(found.delta, solved.objective),
    )  # fmt: skip


def fit_general(solved: SolvedSurface) -> Fit:
    """Fit E + (A/N^alpha + B/D^beta)^gamma with the runs and threshold of a solved surface.

    Raises:
        FitError: fewer than 8 runs for 6 parameters (`too_few_observations`).
    """
    count = len(solved.observations)
    if count < MIN_RUNS:
        raise FitError(
            f"{count} runs; the general form needs {MIN_RUNS}",
            code="too_few_observations",
            hint="finish more trials, or add rows to the table",
        )
    delta = solved.problem.delta if math.isfinite(solved.problem.delta) else 1.0
    found = solve_general(solved, has_offset=True, beta=None, delta=delta)
    return describe_general(solved, found, "general")
