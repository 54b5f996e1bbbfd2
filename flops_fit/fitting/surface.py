"""Fit of the surface E + A/N^alpha + B/D^beta with Huber loss (Approach 3).

The fit minimises one of four losses:
- `adaptive`: Huber loss of log loss with a threshold of 1.345 robust standard deviations, without
  outliers of the Huber(1e-3) fit;
- `huber`: Huber loss of log loss with a stated threshold, as in the literature;
- `log-ls` and `ls`: least squares of log loss and of loss.
All but `adaptive` use every run. `objective` is the unweighted sum of this loss over the runs.

Source: Hoffmann et al. 2022 (arXiv:2203.15556), section 3.3. With the constant 1.345 Huber's
estimator is 95 % efficient for normal noise (Huber 1981).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import FitError, Note
from flops_fit.fitting.curves import group_curves
from flops_fit.fitting.details import FitStatus, Loss, SurfaceDetails
from flops_fit.fitting.law import Fit, FlopsPerToken, Frontier, Surface, SurfaceFrontier
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Excluded, Observation
from flops_fit.fitting.robust import find_outliers, mad, mad_sigma
from flops_fit.fitting.solver.newton import minimise
from flops_fit.fitting.solver.objective import Array, Problem, Workspace, components
from flops_fit.fitting.solver.search import Coordinates, log_residuals, search
from flops_fit.fitting.thresholds import MAX_MAD

ADAPTIVE = 1.345
MIN_DELTA = 1e-5  # adaptive threshold for observations without noise
LITERATURE_DELTA = 1e-3
_FAR = math.log(1e6)
NAMES = ("E", "A", "B", "alpha", "beta")


@dataclass(frozen=True)
class SolvedSurface:
    """Numerical result of a surface fit, for intervals, back-tests and other methods.

    Attributes:
        observations: the fitted observations.
        outliers: the omitted observations, with reasons.
        coordinates: coordinates of the fitted observations.
        problem: the minimised problem, with loss, threshold and bounds.
        theta: the fitted parameters, float64, shape (1, 5).
        objective: summed loss of the runs, without weights or prior.
        weights: weights of the runs, float64, shape (n,).
        has_converged: whether Newton's method converged.
        loss: the minimised loss.
        flops_per_token: FLOPs of one token by params, interpolated from the observations.
    """

    observations: tuple[Observation, ...]
    outliers: tuple[Excluded, ...]
    coordinates: Coordinates
    problem: Problem
    theta: Array
    objective: float
    weights: Array
    has_converged: bool
    loss: Loss
    flops_per_token: FlopsPerToken

    @property
    def is_adaptive(self) -> bool:
        """Whether the default loss was minimised."""
        return self.loss == Loss.ADAPTIVE

    @property
    def law(self) -> Surface:
        """The law in the papers' parameters."""
        return Surface(*(float(v) for v in self.coordinates.to_law(self.theta)[0]))

    @property
    def residuals(self) -> Array:
        """Residuals log L - log fit, shape (n,)."""
        return log_residuals(self.coordinates, self.theta)

    @property
    def order(self) -> NDArray[np.intp]:
        """Positions sorted by tokens, params and loss, independent of the order of rows."""
        seen = self.observations
        keys = ([getattr(o, name) for o in seen] for name in ("loss", "params", "tokens"))
        return np.lexsort(tuple(keys))

    @property
    def gradient(self) -> Array:
        """Derivative of the fitted ln L with respect to theta, shape (n, 5)."""
        problem = self.problem
        _, pa, pb = (
            part[0] for part in components(problem, self.theta, Workspace(1, len(problem.x)))
        )
        return np.stack([1 - pa - pb, pa, pb, -problem.x * pa, -problem.y * pb], axis=1)

    def bounds_hit(self) -> list[str]:
        """Return the parameters that ended at a bound of the search."""
        lower, upper = self.problem.lower, self.problem.upper
        at = ((self.theta <= lower) | (self.theta >= upper)) & (lower < upper)
        return [name for name, is_at in zip(NAMES, at[0], strict=True) if is_at]


def coordinates_of(observations: Sequence[Observation]) -> Coordinates:
    """Return centred and scaled logarithms of the observations."""
    return Coordinates.of(
        np.array([o.params for o in observations], dtype=float),
        np.array([o.tokens for o in observations], dtype=float),
        np.array([o.loss for o in observations], dtype=float),
    )


def solve_surface(
    observations: Sequence[Observation],
    options: FitOptions = FitOptions(),  # noqa: B008  it is frozen
    *,
    drop_outliers: bool | None = None,
) -> SolvedSurface:
    """Find the global optimum of the surface's objective.

    Args:
        observations: at least 6 observations with positive, finite numbers.
        options: the loss, its threshold, and a fixed irreducible loss.
        drop_outliers: whether to leave out outliers of the Huber(1e-3) fit; None: only for
            `adaptive`.
    """
    seen = tuple(observations)
    where = coordinates_of(seen)
    w = np.ones(len(seen))
    outliers: tuple[Excluded, ...] = ()
    is_adaptive = options.loss == Loss.ADAPTIVE
    drop = is_adaptive if drop_outliers is None else drop_outliers
    starts: Array | None = None
    if drop or is_adaptive:
        robust = search(where.problem(LITERATURE_DELTA), w)
        starts = robust.theta
        if drop:
            residuals = log_residuals(where, starts[0])
            is_out = find_outliers(residuals)
            is_out &= ~_whole_budgets(seen, is_out)
            if is_out.any() and (~is_out).sum() >= 6:
                outliers = tuple(
                    name_outlier(seen[k], int(k), float(residuals[k]))
                    for k in np.flatnonzero(is_out)
                )
                seen = tuple(o for o, out in zip(seen, is_out, strict=True) if not out)
                w, old = w[~is_out], where
                where = coordinates_of(seen)
                starts = move(starts, old, where)
                starts = minimise(where.problem(LITERATURE_DELTA), starts, w, is_race=True).theta
    delta = options.huber_delta if options.loss == Loss.HUBER else math.inf
    if is_adaptive:
        assert starts is not None
        delta = max(ADAPTIVE * mad_sigma(log_residuals(where, starts[0])), MIN_DELTA)
    problem = where.problem(delta, is_linear=options.loss == Loss.LS)
    if options.irreducible_loss is not None:
        problem = pin(problem, options.irreducible_loss)
        starts = None
    found = search(problem, w) if starts is None else minimise(problem, starts, w, is_race=True)
    best = int(np.argmin(found.objective))
    theta, objective = found.theta[best : best + 1], float(found.objective[best])
    return SolvedSurface(
        seen, outliers, where, problem, theta, objective, w, bool(found.has_converged[best]),
        options.loss, FlopsPerToken.through(seen),
    )  # fmt: skip


def _whole_budgets(
    observations: Sequence[Observation], is_out: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which runs belong to budgets with more than half outliers, shape (n,).

    These runs stay in the fit. Single runs may diverge, but a whole budget above the law was
    trained or measured differently, and the report must show that.
    """
    whole = np.zeros(len(observations), dtype=bool)
    for curve in group_curves(observations):
        members = list(curve.members)
        if len(members) >= 3 and is_out[members].mean() > 0.5:
            whole[members] = True
    return whole


def pin(problem: Problem, irreducible_loss: float) -> Problem:
    """Return the problem with E fixed at `irreducible_loss`.

    Raises:
        FitError: the value is not between 0 and the lowest observed loss (`irreducible_loss`).
    """
    least = math.exp(float(problem.log_loss.min()))
    if not 0 < irreducible_loss < least:
        raise FitError(
            f"the irreducible loss {irreducible_loss:g} is not between 0 and the lowest observed"
            f" loss, {least:g}",
            code="irreducible_loss",
            hint="give a smaller value, in the unit of the losses",
        )
    lower, upper = problem.lower.copy(), problem.upper.copy()
    lower[0] = upper[0] = math.log(irreducible_loss)
    return replace(problem, lower=lower, upper=upper)


def held_loss(problem: Problem) -> float | None:
    """Return the irreducible loss at which `pin` fixed E; None if E is free."""
    return float(np.exp(problem.lower[0])) if problem.lower[0] == problem.upper[0] else None


def summed_loss(problem: Problem, theta: Array) -> float:
    """Return the objective at one theta with weight 1 for every run."""
    ended = minimise(problem, theta, np.ones(len(problem.x)), max_iterations=0)
    return float(ended.objective[0])


def move(theta: Array, old: Coordinates, new: Coordinates) -> Array:
    """Convert theta, shape (rows, 5), from old to new coordinates."""
    alpha, beta = theta[:, 3] / old.x_scale, theta[:, 4] / old.y_scale
    return np.stack(
        [
            theta[:, 0],
            theta[:, 1] + alpha * (old.x_centre - new.x_centre),
            theta[:, 2] + beta * (old.y_centre - new.y_centre),
            alpha * new.x_scale,
            beta * new.y_scale,
        ],
        axis=1,
    )


def name_outlier(seen: Observation, position: int, residual: float) -> Excluded:
    """Return the outlier with its residual as the reason."""
    return Excluded(
        seen.name or f"observation {position}",
        f"outlier: its loss is {math.expm1(residual):.1%} above the robust surface,"
        " more than 4 robust standard deviations and more than 1 %",
    )


def surface_frontier(law: Surface, flops_per_token: FlopsPerToken) -> Frontier:
    """Return the frontier for this FLOP count: in closed form for 6 N, else by search."""
    if not flops_per_token.params:
        return law
    return SurfaceFrontier(law.loss, flops_per_token, law.log_params)


def describe(solved: SolvedSurface, *, method: str = "surface") -> Fit:
    """Return the Fit of a solved surface, without intervals.

    Raises:
        FitError: one of the two terms vanished, so the runs show no law (`no_law`).
    """
    law = solved.law
    hit = solved.bounds_hit()
    if {"A", "B"} & set(hit):
        raise _no_law("params" if "A" in hit else "tokens")
    refuse_absent_optimum(law, solved.observations)
    residuals = solved.residuals
    observed = solved.coordinates.log_loss
    total = float(((observed - observed.mean()) ** 2).sum())
    spread = mad(residuals)
    a = law.beta / (law.alpha + law.beta)
    status = FitStatus.OK if solved.has_converged else FitStatus.NOT_CONVERGED
    delta = solved.problem.delta
    return Fit(
        method=method,
        status=FitStatus.BOUND if hit else status,
        parameters=dict(zip(NAMES, (law.E, law.A, law.B, law.alpha, law.beta), strict=True)),
        exponents={"params": a, "tokens": 1 - a},
        frontier=surface_frontier(law, solved.flops_per_token),
        objective=solved.objective,
        r_squared={"loss": 1 - float((residuals**2).sum()) / total if total > 0 else 0.0},
        residuals=tuple(residuals.tolist()),
        used=solved.observations,
        excluded=solved.outliers,
        notes=tuple(_notes(solved, hit, spread)),
        details=SurfaceDetails(
            loss=solved.loss,
            huber_delta=None if np.isinf(delta) else delta,
            residual_mad=spread,
            bounds_hit=tuple(hit),
            irreducible_loss=held_loss(solved.problem),
        ),
    )


def _no_law(what: str) -> FitError:
    """Return the error for a law without one of its terms."""
    return FitError(
        f"the loss shows no dependence on {what}",
        code="no_law",
        hint="add runs over a wider range of params and tokens",
    )


def refuse_absent_optimum(law: Surface, observations: Sequence[Observation]) -> None:
    """Refuse a law whose optimum at the median compute is 1e6 times off the sizes of the runs.

    Raises:
        FitError: it is, because one of the two terms is negligible (`no_law`).
    """
    if not (0 < law.A < math.inf and 0 < law.B < math.inf):
        raise _no_law("params or tokens")
    flops = math.exp(float(np.median(np.log([o.flops for o in observations]))))
    sizes = [o.params for o in observations]
    at = law.log_params(flops)
    if at < math.log(min(sizes)) - _FAR:
        raise _no_law("params")
    if at > math.log(max(sizes)) + _FAR:
        raise _no_law("tokens")


def _notes(solved: SolvedSurface, hit: list[str], spread: float) -> list[Note]:
    """Return notes on bounds, outliers and misfit."""
    notes = [Note("bound", f"{name} ended at a bound of the search") for name in hit]
    if solved.outliers:
        count, total = len(solved.outliers), len(solved.outliers) + len(solved.observations)
        notes.append(Note("outliers", f"{count} of {total} runs are left out as outliers"))
    if spread > MAX_MAD:
        notes.append(
            Note("law_does_not_hold", f"the law does not hold here: {where_worst(solved)}")
        )
    return notes


def where_worst(solved: SolvedSurface) -> str:
    """Describe the typical residual of all runs, and of the third by compute that fits worst."""
    residuals = solved.residuals
    order = np.argsort([o.flops for o in solved.observations])
    thirds = dict(zip(("smallest", "middle", "largest"), np.array_split(order, 3), strict=True))
    worst = max(thirds, key=lambda name: float(np.median(np.abs(residuals[thirds[name]]))))
    typical = float(np.median(np.abs(residuals[thirds[worst]])))
    return (
        f"residuals have a median deviation of {mad(residuals):.1%} (usually at most 1.5 %),"
        f" and {typical:.1%} in the {worst} third of compute"
    )
