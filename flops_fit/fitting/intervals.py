"""Standard errors and intervals of a surface: bootstrap, and Wald's as the instant preview.

Intervals of a, ln N_opt and ln L_opt are the estimate and t quantile times the standard error;
E, A, B, alpha and beta, whose draws are skewed by orders of magnitude, get percentiles. Where model
sizes recur, whole sizes are drawn, since runs of one size share what is special about it; where
runs share trunks and there are fewer sizes, their noise is (`trunks.py`); else single runs.

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
MIN_CLUSTERS = 10  # recurring model sizes from which they are resampled whole
_FEW_FOR_PAIRS = 25  # observations below which resampled pairs spread too widely
_FEW = 50  # observations below which resamples have local optima worth a second search
_CONTINUED = (1e-2, 3e-3)
_PREVIEW_DRAWS = 1000
_WEIGHTS = 8_000_000  # most weights held at once: 64 MB


@dataclass(frozen=True)
class Draws:
    """Laws that stand for the uncertainty of a fit.

    Attributes:
        laws: float64, shape (draws, 5): E, A, B, alpha, beta.
        estimate: float64, shape (1, 5): the fitted law.
        degrees_of_freedom: of the t distribution that goes with their spread.
        resampled: `runs` or `sizes`; `noise` where that of shared trunks was drawn; `none` for
            normal draws from Wald's covariance.
        shrinkage: what the spread of the draws is multiplied with for a standard error.
    """

    laws: Array
    estimate: Array
    degrees_of_freedom: float
    resampled: Resampled
    shrinkage: float = 1.0


def t_interval(estimate: float, error: float, degrees_of_freedom: float) -> Interval:
    """The 95 % interval estimate +- t error."""
    half = float(stdtrit(max(degrees_of_freedom, 1), 0.5 + LEVEL / 2)) * error
    return estimate - half, estimate + half


def clusters_of(solved: SolvedSurface) -> list[float] | None:
    """The model size of each run, where at least 10 sizes recur at least twice; else None.

    A surface with a stated loss resamples single runs, as the literature does.
    """
    if not solved.is_adaptive:
        return None
    sizes = [o.params for o in solved.observations]
    different = len(set(sizes))
    return sizes if different >= MIN_CLUSTERS and 2 * different <= len(sizes) else None


def noise_of(solved: SolvedSurface) -> TrunkNoise | None:
    """What the runs' noise has in common; None where it is theirs alone, or sizes are resampled."""
    return trunk_noise(solved) if solved.is_adaptive and clusters_of(solved) is None else None


def degrees_of_freedom(solved: SolvedSurface) -> float:
    """Of the t distribution: effective runs, (sum w)^2 / sum w^2, less 5; clusters less 1.

    At least 3, or 1 where there are fewer than 8 runs. Of runs on shared trunks: their noise's.
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
    """Refit `rows` resamples of the runs, all as one batched problem from the fitted optimum.

    Args:
        solved: the fit.
        rows: how many resamples.
        seed: of the draws, which do not depend on the order of the observations.
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
    """Wald's standard error of a over the bootstrap's, at most 1.

    A resample of 20 runs holds about 13 different ones for 5 parameters, so its spread is too wide:
    on planted laws of 20 runs such intervals of a covered 99.7 % instead of 95 %, Wald's 97 %.
    """
    spread = _spread(laws[:, 4] / (laws[:, 3] + laws[:, 4]))
    wald, _, _ = wald_errors(solved, np.array([1e20]), FlopsPerToken())
    return min(1.0, wald / spread) if spread > 0 else 1.0


def _refit(solved: SolvedSurface, weights: Array) -> Array:
    """The optimum of every resample, shape (rows, 5), from that of the fit.

    With few runs and a threshold far below their noise a resample may have several optima, so the
    better of two searches is kept: the second passes through larger thresholds.
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
    """The sandwich covariance of theta, shape (5, 5), with HC3's correction for leverage.

    An observation's score is divided by 1 - its leverage, since a fit is drawn to its own runs.
    Where model sizes recur, the scores of a size are added up first; where runs share trunks, the
    covariance is that of their noise.
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
    """Normal draws from Wald's covariance: what a bootstrap would roughly give, in milliseconds.

    Draws outside the bounds of the search are brought back to them.
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
    """Standard errors of a, of ln N_opt and of ln L_opt at each budget, by the delta method.

    In these coordinates Wald's intervals hold their level (the parameters' own do not).
    """
    covariance = wald_covariance(solved)
    # Half of a small exponent at most: it must stay positive.
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
    """The fit with standard errors, intervals and draws; exponents as `a` and `b`."""
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
    """The draws that a fit with intervals carries; None where it has none."""
    if not fit.draws or fit.spread is None:
        return None
    laws = np.array([[draw[name] for name in NAMES] for draw in fit.draws])
    estimate = np.array([[fit.parameters[name] for name in NAMES]])
    known = fit.spread
    return Draws(laws, estimate, known.degrees_of_freedom, known.resampled, known.shrinkage)


def target_errors(
    draws: Draws, flops: Array, flops_per_token: FlopsPerToken
) -> tuple[Array, Array]:
    """Standard errors of ln N_opt and ln L_opt at each budget, from the draws."""
    log_params, log_loss = optima(draws.laws, flops, flops_per_token)
    return (
        np.array([_spread(column) for column in log_params.T]) * draws.shrinkage,
        np.array([_spread(column) for column in log_loss.T]) * draws.shrinkage,
    )


def _spread(values: Array) -> float:
    """Standard deviation of the finite draws."""
    finite = values[np.isfinite(values)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else math.nan
