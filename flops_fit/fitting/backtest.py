"""Rolling back-test (fit smaller budgets, predict larger ones) and the weighted fit.

For extrapolation, runs have the weight min(1, (C / C_top)^p) with p in {0, 1, 2}, and weak priors
on the exponents. The chosen p predicts the next budget best from fits to the smaller budgets. The
errors of these predictions, scaled with the log-distance to the target, are the model error in the
intervals: a bootstrap does not include the error of an imperfect law.

The powers and priors were tuned on published sweeps of ten model families. There, the weighted fit
had about half the error of the plain Huber fit at the next budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.curves import BUDGET_WIDTH, group_curves
from flops_fit.fitting.details import Fold
from flops_fit.fitting.points import Observation
from flops_fit.fitting.robust import mad_sigma
from flops_fit.fitting.solver.newton import minimise
from flops_fit.fitting.solver.objective import Array, ExponentPrior
from flops_fit.fitting.solver.search import LARGE, log_residuals
from flops_fit.fitting.surface import SolvedSurface, summed_loss
from flops_fit.fitting.targets import optima

Places = NDArray[np.int64]
POWERS = (0, 1, 2)
_MOST_TESTED = 10_000  # runs in the folds of a table of more than 20,000
PRIOR_MEAN = math.log(0.35)  # centre of the log exponents of published laws
PRIOR_SD = 0.5
_MIN_TRAIN = 8
_MIN_LEVELS = 3
_MIN_TOP = 5
_MAX_BINS = 8
_PER_BIN = 5
_NEAR = math.log(10.0)  # how far beyond the training runs a fold is tested


@dataclass(frozen=True)
class BackTest:
    """Folds of the back-test for each power, and the weighted fit with the best power.

    Attributes:
        folds: the folds by power of the weights.
        power: the power with the least mean error at the next level.
        weighted: the fit to all runs with this power and the priors.
        levels: positions of the tested runs in each level of compute, in ascending order.
        cuts: number of levels in the fit of each fold.
        fitted: the surface fitted to all tested runs.
        theta: parameters by power and fold, shape (powers, folds, 5).
    """

    folds: dict[int, tuple[Fold, ...]]
    power: int
    weighted: SolvedSurface
    levels: tuple[Places, ...]
    cuts: tuple[int, ...]
    fitted: SolvedSurface
    theta: Array

    def surface_below(self, cut: int, power: int) -> SolvedSurface:
        """Return the surface fitted to the lowest `cut` levels with this power of the weights."""
        members = np.sort(np.concatenate(self.levels[:cut]))
        where = self.fitted.coordinates.rows(members)
        row = self.theta[POWERS.index(power), self.cuts.index(cut)]
        return replace(
            self.fitted,
            observations=tuple(self.fitted.observations[k] for k in members),
            coordinates=where,
            problem=replace(self.fitted.problem, x=where.x, y=where.y, log_loss=where.log_loss),
            theta=row[None, :],
            weights=self.fitted.weights[members],
        )

    def power_below(self, cut: int) -> int:
        """Return the best power by the folds of the lowest `cut` levels; 0 without folds."""
        scores = {}
        for power in POWERS:
            errors = [
                fold.absolute
                for fold, below in zip(self._next(power), self.cuts, strict=True)
                if below < cut
            ]
            scores[power] = float(np.mean(errors)) if errors else 0.0
        return min(POWERS, key=lambda power: scores[power])

    def _next(self, power: int) -> list[Fold]:
        return [fold for fold in self.folds[power] if fold.is_next]

    def error(self, power: int) -> float | None:
        """Return the mean absolute log error at the next level; None without folds."""
        errors = [fold.absolute for fold in self.folds[power] if fold.is_next]
        return float(np.mean(errors)) if errors else None

    def one_sided(self) -> float | None:
        """Return the mean bias of the plain fit if all folds agree in sign and it exceeds 1 %."""
        biases = [fold.bias for fold in self.folds[0] if fold.is_next]
        if len(biases) < 3 or len({bias > 0 for bias in biases}) > 1:
            return None
        mean = float(np.mean(biases))
        return mean if abs(mean) > 0.01 else None


def reach(folds: Sequence[Fold]) -> float:
    """Return the largest tested log-distance; 0 without folds."""
    return max((fold.distance for fold in folds), default=0.0)


def loss_error(folds: Sequence[Fold], distance: float) -> float | None:
    """Return the standard error of ln loss at a log-distance beyond the data; None without folds.

    It is the largest root mean square of a fold, scaled up by the ratio of the two distances. It is
    never scaled down.
    """
    return max((f.rms * max(1.0, distance / f.distance) for f in folds), default=None)


def params_error(folds: Sequence[Fold], distance: float) -> float | None:
    """Return the standard error of ln N_opt at a log-distance beyond the data; None without folds.

    It is the root mean square of the folds' shifts. Each is scaled up with the distance over the
    fitted range of compute, because the error of a slope is inversely proportional to that range.
    """
    arm = max((f.train_range for f in folds), default=0.0)
    grown = [
        f.log_params_shift * max(1.0, distance * f.train_range / (f.distance * arm)) for f in folds
    ]
    return math.sqrt(float(np.mean(np.square(grown)))) if grown else None


def levels_of(observations: Sequence[Observation]) -> list[Places]:
    """Group runs into levels of compute, in ascending order; return their positions.

    Levels are isoFLOP curves if these hold 90 % of the runs and are clearly apart, else bins with
    equal numbers of runs. Curves only a few percent apart do not count, because the error over
    such a step does not show the error over decades. Each level is int64, shape (its runs,).
    """
    flops = np.array([o.flops for o in observations])
    curves = [c for c in group_curves(observations) if len(c.members) >= 3]
    steps = [high.budget_flops / low.budget_flops for low, high in pairwise(curves)]
    are_apart = len(curves) > _MIN_LEVELS and min(steps) > BUDGET_WIDTH**2
    if are_apart and sum(len(c.members) for c in curves) >= 0.9 * len(flops):
        edges = [float(flops[list(c.members)].min()) for c in curves[1:]]
        places = np.searchsorted(edges, flops, side="right")
    else:
        bins = min(_MAX_BINS, len(flops) // _PER_BIN)
        places = np.argsort(np.argsort(flops, kind="stable"), kind="stable") * bins // len(flops)
    return [np.flatnonzero(places == k) for k in np.unique(places)]


def back_test(solved: SolvedSurface) -> BackTest | None:
    """Run the rolling back-test of a solved surface; return None for too few levels.

    Each pair of fold and power is one row of a single problem, in which runs outside the fold have
    weight 0. For more than 20,000 runs, the folds use at most 10,000; the weighted fit uses all.
    """
    part = _thinned(solved)
    seen = part.observations
    levels = levels_of(seen)
    flops = np.array([o.flops for o in seen])
    cuts = [k for k in range(_MIN_LEVELS, len(levels)) if _is_enough(part, levels[:k])]
    if not cuts:
        return None
    train = np.zeros((len(cuts) + 1, len(seen)))
    for row, cut in enumerate(cuts):
        train[row, np.concatenate(levels[:cut])] = 1.0
    train[-1] = 1.0
    relative = np.stack([_relative(flops, row > 0) for row in train])
    weights = np.concatenate([train * relative**p for p in POWERS])
    prior = ExponentPrior(PRIOR_MEAN, PRIOR_SD, mad_sigma(solved.residuals) ** 2)
    problem = replace(part.problem, prior=prior)
    found = minimise(problem, np.repeat(solved.theta, len(weights), axis=0), weights)
    theta = found.theta.reshape(len(POWERS), len(train), 5)
    folds = {
        p: tuple(_folds_of(part, theta[place], cuts, levels, flops))
        for place, p in enumerate(POWERS)
    }
    scores = {p: np.mean([f.absolute for f in folds[p] if f.is_next]) for p in POWERS}
    power = min(POWERS, key=lambda p: scores[p])
    row = len(train) * (POWERS.index(power) + 1) - 1
    last = weights[row]
    if part is not solved:
        problem = replace(solved.problem, prior=prior)
        everything = np.array([o.flops for o in solved.observations])
        last = _relative(everything, np.ones(len(everything), dtype=bool)) ** power
        found, row = minimise(problem, found.theta[row : row + 1], last[None, :]), 0
    weighted = replace(
        solved,
        problem=problem,
        theta=found.theta[row : row + 1],
        weights=last,
        objective=summed_loss(replace(problem, prior=None), found.theta[row : row + 1]),
        has_converged=bool(found.has_converged[row]),
    )
    return BackTest(folds, power, weighted, tuple(levels), tuple(cuts), part, theta[:, : len(cuts)])


def _thinned(solved: SolvedSurface) -> SolvedSurface:
    """Return the surface with at most 10,000 runs, evenly spaced by compute, if over 20,000."""
    n = len(solved.observations)
    if n <= LARGE:
        return solved
    flops = np.array([o.flops for o in solved.observations])
    chosen = np.sort(np.argsort(flops, kind="stable")[:: -(-n // _MOST_TESTED)])
    where = solved.coordinates.rows(chosen)
    return replace(
        solved,
        observations=tuple(solved.observations[k] for k in chosen),
        coordinates=where,
        problem=replace(solved.problem, x=where.x, y=where.y, log_loss=where.log_loss),
        weights=solved.weights[chosen],
    )


def _relative(flops: Array, is_used: NDArray[np.bool_]) -> Array:
    """Return min(1, C / C_top) of each run."""
    relative: Array = np.minimum(flops / _top_flops(flops[is_used]), 1.0)
    return relative


def _top_flops(flops: Array) -> float:
    """Return C_top, the compute of the fifth largest run.

    Runs above it share the full weight, so that one or two large runs never decide the fit.
    """
    return float(np.sort(flops)[-min(_MIN_TOP, len(flops))])


def _is_enough(solved: SolvedSurface, levels: Sequence[Places]) -> bool:
    """Return whether these levels have at least 8 runs, and vary in params, tokens and FLOPs.

    Bins may split runs of equal compute. A fit to one compute does not test an extrapolation.
    """
    members = np.concatenate(levels)
    if len(members) < _MIN_TRAIN:
        return False
    where, flops = solved.coordinates, [solved.observations[k].flops for k in members]
    return max(flops) / min(flops) > 1 and all(
        np.ptp(values[members]) > 0 for values in (where.x, where.y)
    )


def _folds_of(
    solved: SolvedSurface,
    theta: Array,
    cuts: Sequence[int],
    levels: Sequence[Places],
    flops: Array,
) -> list[Fold]:
    """Return the folds of one power; the last row of theta is the fit to all runs."""
    where = solved.coordinates
    tests = np.array([math.exp(np.log(flops[level]).mean()) for level in levels])
    log_params, _ = optima(where.to_law(theta), tests, solved.flops_per_token)
    folds = []
    for row, cut in enumerate(cuts):
        members = np.concatenate(levels[:cut])
        errors = log_residuals(where, theta[row : row + 1])
        top = float(flops[members].max())
        for k in range(cut, len(levels)):
            if k > cut and tests[k] > top * math.exp(_NEAR):
                break
            e = errors[levels[k]]
            folds.append(
                Fold(
                    top, math.log(top / float(flops[members].min())),
                    max(float(tests[k]), top * 1.01), len(members), len(e), float(e.mean()),
                    float(np.sqrt((e * e).mean())), float(np.abs(e).mean()),
                    float(log_params[row, k] - log_params[-1, k]), k == cut,
                )
            )  # fmt: skip
    return folds
