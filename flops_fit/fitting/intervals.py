"""Standard errors and intervals of a surface, by the bootstrap or quickly by Wald's method.

Intervals of a, ln N_opt and ln L_opt are t intervals. E, A, B, alpha and beta have percentile
intervals, because their draws are skewed by orders of magnitude. If at least 10 model sizes recur,
the bootstrap resamples whole sizes, because runs of one size share deviations. Otherwise, if runs
share trunks, it draws correlated noise (`shared_noise.py`). Otherwise it resamples single runs.

Source: percentile and t intervals: Efron & Tibshirani 1993, chapters 12 and 13; the sandwich:
Huber 1981, section 6.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from flops_fit.fitting.details import Resampled, Spread
from flops_fit.fitting.law import Fit, FlopsPerToken
from flops_fit.fitting.points import Interval
from flops_fit.fitting.robust import mad_sigma, resample_weights
from flops_fit.fitting.shared_noise import TrunkNoise, simulated, trunk_noise
from flops_fit.fitting.solver.newton import minimise
from flops_fit.fitting.solver.objective import Array
from flops_fit.fitting.surface import NAMES, SolvedSurface
from flops_fit.fitting.targets import optima

LEVEL = 0.95
MIN_CLUSTERS = 10  # least number of recurring sizes for resampling whole sizes
_FEW_FOR_PAIRS = 25  # with fewer observations, resampling overstates the errors
_FEW = 50  # with fewer observations, resamples may have local optima: search twice
_CONTINUED = (1e-2, 3e-3)
_PREVIEW_DRAWS = 1000
_WEIGHTS = 8_000_000  # largest number of weights in memory: 64 MB


@dataclass(frozen=True)
class Draws:
    """Draws of laws that represent the uncertainty of a fit.

    Attributes:
        laws: E, A, B, alpha and beta of each draw, float64, shape (draws, 5).
        estimate: the fitted law, float64, shape (1, 5).
        degrees_of_freedom: degrees of freedom for t intervals.
        resampled: the resampled unit, `runs` or `sizes`; `noise` for draws of the noise of shared
            trunks; `none` for normal draws with Wald's covariance.
        shrinkage: factor from the standard deviation of the draws to a standard error.
    """

    laws: Array
    estimate: Array
    degrees_of_freedom: float
    resampled: Resampled
    shrinkage: float = 1.0


def t_interval(estimate: float, error: float, degrees_of_freedom: float) -> Interval:
    """Return the 95 % interval: estimate +- t quantile * error."""
    half = float(stdtrit(max(degrees_of_freedom, 1), 0.5 + LEVEL / 2)) * error
    return estimate - half, estimate + half


def clusters_of(solved: SolvedSurface) -> list[float] | None:
    """Return the model size of each run if whole sizes are to be resampled, else None.

    This needs at least 10 sizes, with at least two runs each on average. Losses other than
    `adaptive` always resample single runs, as in the literature.
    """
    if not solved.is_adaptive:
        return None
    sizes = [o.params for o in solved.observations]
    different = len(set(sizes))
    return sizes if different >= MIN_CLUSTERS and 2 * different <= len(sizes) else None


def noise_of(solved: SolvedSurface) -> TrunkNoise | None:
    """Return the correlated noise of runs on shared trunks; None if it is not used."""
    return trunk_noise(solved) if solved.is_adaptive and clusters_of(solved) is None else None


def degrees_of_freedom(solved: SolvedSurface) -> float:
    """Return the degrees of freedom of the t distribution for intervals.

    This is the effective number of runs, (sum w)^2 / sum w^2, less 5, or the number of clusters
    less 1 if that is smaller. It is at least 3, or at least 1 for fewer than 8 runs. For runs on
    shared trunks it is the degrees of freedom of their noise.
    """
    noise = noise_of(solved)
    if noise is not None:
        return noise.degrees_of_freedom
    weights = solved.weights
    effective = round(float(weights.sum() ** 2 / (weights**2).sum())) - 5
    sizes = clusters_of(solved)
    if sizes is not None:
        effective = min(effective, len(set(sizes)) - 1)
    return max(effective, 1 if len(weights) < 8 else 3)


def bootstrap(solved: SolvedSurface, rows: int, *, seed: int) -> Draws:
    """Refit `rows` resamples of the runs as one batched problem, starting from the optimum.

    Args:
        solved: the fit.
        rows: number of resamples.
        seed: random seed; the draws do not depend on the order of the observations.
    """
    noise = noise_of(solved)
    if noise is not None:
        theta = simulated(solved, noise, rows, seed=seed)
        laws, estimate = map(solved.coordinates.to_law, (theta, solved.theta))
        return Draws(laws, estimate, noise.degrees_of_freedom, Resampled.NOISE)
    seen, order = solved.observations, solved.order
    sizes = clusters_of(solved)
    labels = None if sizes is None else [sizes[k] for k in order]
    theta = np.empty((rows, 5))
    stream = np.random.RandomState(seed)
    per_part = max(1, _WEIGHTS // len(seen))
    for first in range(0, rows, per_part):
        part = slice(first, min(first + per_part, rows))
        weights = np.empty((part.stop - first, len(seen)))
        weights[:, order] = resample_weights(*weights.shape, stream=stream, clusters=labels)
        weights *= solved.weights
        theta[part] = _refit(solved, weights)
    freedom = degrees_of_freedom(solved)
    laws = solved.coordinates.to_law(theta)
    estimate = solved.coordinates.to_law(solved.theta)
    shrinkage = 1.0
    if sizes is None and len(seen) < _FEW_FOR_PAIRS:
        shrinkage = _shrinkage(solved, laws)
    resampled = Resampled.RUNS if sizes is None else Resampled.SIZES
    return Draws(laws, estimate, freedom, resampled, shrinkage)


def _shrinkage(solved: SolvedSurface, laws: Array) -> float:
    """Return the ratio of Wald's to the bootstrap's standard error of a, at most 1.

    A resample of 20 runs has about 13 distinct runs for 5 parameters, which overstates the errors:
    for planted laws with 20 runs, bootstrap intervals of a covered 99.7 % instead of 95 %, and
    Wald's intervals 97 %.
    """
    spread = _spread(laws[:, 4] / (laws[:, 3] + laws[:, 4]))
    wald, _, _ = wald_errors(solved, np.array([1e20]), FlopsPerToken())
    return min(1.0, wald / spread) if spread > 0 else 1.0


def _refit(solved: SolvedSurface, weights: Array) -> Array:
    """Return the optimum of every resample, shape (rows, 5), searched from that of the fit.

    With few runs and a Huber threshold far below the noise, a resample may have several optima. A
    second search then passes through larger thresholds, and the better result is kept.
    """
    start = np.repeat(solved.theta, len(weights), axis=0)
    found = minimise(solved.problem, start, weights, tolerance=1e-8)
    is_rough = solved.problem.delta < 0.5 * mad_sigma(solved.residuals)
    if len(solved.observations) >= _FEW or solved.problem.is_linear or not is_rough:
        return found.theta
    for delta in _CONTINUED:
        if delta > 2 * solved.problem.delta:
            smooth = replace(solved.problem, delta=delta)
            start = minimise(smooth, start, weights, max_iterations=10, tolerance=1e-5).theta
    again = minimise(solved.problem, start, weights, max_iterations=60, tolerance=1e-8)
    theta: Array = np.where((again.objective < found.objective)[:, None], again.theta, found.theta)
    return theta


def wald_covariance(solved: SolvedSurface) -> Array:
    """Return the sandwich covariance of theta, shape (5, 5), with HC3's correction for leverage.

    The score of each observation is divided by 1 - leverage, because residuals at points of high
    leverage are too small. If whole sizes are resampled, the scores of a size are summed first. If
    runs share trunks, the covariance follows from their correlated noise.
    Source: Huber 1981, section 7.6; MacKinnon & White 1985 (HC3).
    """
    noise = noise_of(solved)
    if noise is not None:
        return noise.covariance
    problem, w = solved.problem, solved.weights
    j, r = solved.gradient, solved.residuals
    if problem.is_linear:
        f = problem.log_loss - r
        j, r = j * np.exp(f)[:, None], np.exp(problem.log_loss) - np.exp(f)
    psi = np.clip(r, -problem.delta, problem.delta)
    inverse = np.linalg.pinv((j * w[:, None]).T @ j, rcond=1e-15)
    leverage = np.minimum(np.einsum("ni,ij,nj->n", j, inverse, j) * w, 0.95)
    bread = inverse / max(float(np.average(psi == r, weights=w)), 1e-3)
    scores = j * (w * psi / (1 - leverage))[:, None]
    sizes = clusters_of(solved)
    if sizes is not None:
        labels = np.unique(sizes, return_inverse=True)[1]
        count = int(labels.max()) + 1
        summed = np.zeros((count, 5))
        np.add.at(summed, labels, scores)
        scores = summed * math.sqrt(count / (count - 1))
    covariance: Array = bread @ (scores.T @ scores) @ bread
    return covariance


def preview(solved: SolvedSurface) -> Draws:
    """Return normal draws with Wald's covariance, a fast approximation of the bootstrap.

    Draws outside the bounds of the search are moved to the bounds.
    """
    noise = noise_of(solved)
    covariance = wald_covariance(solved) if noise is None else noise.covariance
    normal = np.random.RandomState(0).standard_normal((_PREVIEW_DRAWS // 2, 5))
    values, vectors = np.linalg.eigh(covariance)
    step = (normal * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    theta = solved.theta + np.concatenate([step, -step])
    theta = np.clip(theta, solved.problem.lower, solved.problem.upper)
    laws = solved.coordinates.to_law(theta)
    freedom = len(solved.observations) - 5 if noise is None else noise.degrees_of_freedom
    return Draws(laws, solved.coordinates.to_law(solved.theta), freedom, Resampled.NONE)


def wald_errors(
    solved: SolvedSurface, flops: Array, flops_per_token: FlopsPerToken
) -> tuple[float, Array, Array]:
    """Return standard errors of a, and of ln N_opt and ln L_opt at each budget (delta method).

    Wald's intervals have correct coverage for these quantities, but not for the parameters.
    """
    covariance = wald_covariance(solved)
    # At most half of an exponent, which must stay positive.
    step = np.minimum(1e-5, [np.inf, np.inf, np.inf, *solved.theta[0, 3:] / 2])
    theta = solved.theta + np.concatenate([np.diag(step), -np.diag(step)])
    laws = solved.coordinates.to_law(theta)
    log_params, log_loss = optima(laws, flops, flops_per_token)
    share = laws[:, 4] / (laws[:, 3] + laws[:, 4])

    def error(values: Array) -> Array:
        slope = ((values[:5] - values[5:]).T / (2 * step)).T
        spread: Array = np.sqrt(
            np.maximum(np.einsum("i...,ij,j...->...", slope, covariance, slope), 0)
        )
        return spread

    return float(error(share)), error(log_params), error(log_loss)


def with_intervals(fit: Fit, draws: Draws) -> Fit:
    """Return the fit with standard errors, intervals and draws; exponents are `a` and `b`."""
    laws = draws.laws
    errors = {name: _spread(laws[:, k]) * draws.shrinkage for k, name in enumerate(NAMES)}
    tail = 50 * (1 - LEVEL)
    intervals: dict[str, Interval] = {}
    for k, name in enumerate(NAMES):
        low, high = np.percentile(laws[:, k], [tail, 100 - tail])
        intervals[name] = (float(low), float(high))
    share = laws[:, 4] / (laws[:, 3] + laws[:, 4])
    errors["a"] = errors["b"] = _spread(share) * draws.shrinkage
    for name, key in (("a", "params"), ("b", "tokens")):
        intervals[name] = t_interval(fit.exponents[key], errors[name], draws.degrees_of_freedom)
    spread = Spread(draws.resampled, len(laws), draws.degrees_of_freedom, draws.shrinkage)
    rows = tuple(dict(zip(NAMES, row, strict=True)) for row in laws.tolist())
    return replace(fit, standard_errors=errors, intervals=intervals, draws=rows, spread=spread)


def draws_of(fit: Fit) -> Draws | None:
    """Return the draws of a fit; None if it has none."""
    if not fit.draws or fit.spread is None:
        return None
    laws = np.array([[draw[name] for name in NAMES] for draw in fit.draws])
    estimate = np.array([[fit.parameters[name] for name in NAMES]])
    known = fit.spread
    return Draws(laws, estimate, known.degrees_of_freedom, known.resampled, known.shrinkage)


def target_errors(
    draws: Draws, flops: Array, flops_per_token: FlopsPerToken
) -> tuple[Array, Array]:
    """Return standard errors of ln N_opt and ln L_opt at each budget, from the draws."""
    log_params, log_loss = optima(draws.laws, flops, flops_per_token)
    return (
        np.array([_spread(column) for column in log_params.T]) * draws.shrinkage,
        np.array([_spread(column) for column in log_loss.T]) * draws.shrinkage,
    )


def _spread(values: Array) -> float:
    """Return the standard deviation of the finite values; NaN for fewer than 2."""
    finite = values[np.isfinite(values)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else math.nan
