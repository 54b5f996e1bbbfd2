"""The law that the finished runs imply: its most likely parameters and their covariance.

The surface L(N, D) = E + A/N^alpha + B/D^beta in logs, x and y measured from the guessed optimum of
the top budget, and beside it a slow drift that stands for what the surface misses:

    ln L = ln(exp(e) + exp(a - alpha x) + exp(b - beta y)) + g1 u^2 + g2 v^2 + g3 u v

with u, v = x, y in decades. Weak normal priors make it solvable from the first three runs on. The
parameters are found by damped Gauss-Newton from several starts at once, Huber's weights against
outliers. Runs off one trunk have most of their noise in common, which the covariance knows (a
sandwich) and the estimate does not: weighting by a correlation that is not what it is taken for
loses more than it gains. Without drift (g = 0) it is the surface alone, whose estimate and noise
a planner goes by; the drift steers runs to where the surface would be wrong first, and gives the
answer its share of the law's own error (`answer`).

Source: the surface: Hoffmann et al. 2022 (arXiv:2203.15556), eq. 10. Priors and the drift's size
are judgements: published exponents lie around 0.35, and published sweeps depart from the surface by
about 1 % a decade.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.law import FlopsPerToken
from flops_fit.fitting.points import Observation
from flops_fit.fitting.shared_noise import correlation_of

Array = NDArray[np.float64]

DRIFT = 0.01  # standard deviation of g: log loss per square decade
NOISE = 0.003  # prior for the noise of log loss between seeds
_NOISE_RUNS = 2  # weight of that prior in runs: 95 % of it lies between 0.16 and 1.9 %
_EXPONENT = (0.35, 0.15)  # mean, standard deviation
_HUBER = 1.5  # in robust standard deviations
_HUBER_KEEPS = 0.8664  # share of normal noise's variance that Huber's weights keep at 1.5
_FEW = 8  # runs below which outliers cannot be told
_MIN_EXPONENT, _MAX_EXPONENT = 0.02, 1.5
_ITERATIONS = 60
_REACH = 9.0  # in ln N: how far from the guess an optimum is looked for
_POINTS = 361
_EDGE = _REACH * (1 - 4 / _POINTS)  # beyond it the least loss lies at the end of the search


@dataclass(frozen=True)
class Belief:
    """Parameters and covariance, and what follows from them.

    Attributes:
        theta: float64, shape (8,): e, a, b, alpha, beta, g1, g2, g3; the g are 0 without drift.
        covariance: float64, shape (8, 8).
        squares: float64, shape (8, 8): sum of w j j' over the runs, without noise or prior.
        scatter: float64, shape (8, 8): the covariance of the sum of w j times noise, over the
            noise's variance; `squares` where no runs share a trunk.
        precision: float64, shape (8,): of the prior; infinite where a parameter is held.
        sigma: noise of log loss.
        freedom: degrees of freedom that `sigma` rests on.
        log_evidence: ln probability of the losses under this prior, up to a constant (Laplace).
        x0, y0: ln N and ln D from which x and y are measured.
        flops_per_token: FLOPs of one token by params.
    """

    theta: Array
    covariance: Array
    squares: Array
    scatter: Array
    precision: Array
    sigma: float
    freedom: float
    log_evidence: float
    x0: float
    y0: float
    flops_per_token: FlopsPerToken

    @property
    def exponent(self) -> float:
        """The exponent of N_opt in C."""
        return float(self.theta[4] / (self.theta[3] + self.theta[4]))

    def log_params(self, flops: float) -> float:
        """Ln N_opt at a budget."""
        return float(self._optima(self.theta[None, :], flops)[0])

    def slope(self, flops: float) -> Array:
        """Return the gradient of ln N_opt at a budget by the parameters, shape (8,)."""
        step = 1e-4
        moved = self.theta + step * np.concatenate([np.eye(8), -np.eye(8)])
        found = self._optima(moved, flops)
        slope: Array = (found[:8] - found[8:]) / (2 * step)
        return slope

    def error(self, flops: float) -> float:
        """Return the standard error of ln N_opt at a budget; the searched range if it has none."""
        if abs(self.log_params(flops) - _guess(flops)) > _EDGE:
            return _REACH
        slope = self.slope(flops)
        return math.sqrt(max(float(slope @ self.covariance @ slope), 0.0))

    def row(self, log_params: Array, log_tokens: Array) -> Array:
        """Return the gradient of ln L by the parameters at some runs, shape (runs, 8)."""
        _, rows = _evaluate(self.theta[None, :], log_params - self.x0, log_tokens - self.y0)
        first: Array = rows[0]
        return first

    def log_loss(self, log_params: Array, log_tokens: Array) -> Array:
        """Ln L at some runs, shape (runs,)."""
        fitted, _ = _evaluate(self.theta[None, :], log_params - self.x0, log_tokens - self.y0)
        first: Array = fitted[0]
        return first

    def covariance_at(self, sigma: float) -> Array:
        """Return the covariance if the noise of log loss were `sigma`, shape (8, 8)."""
        return covariance_of(self.squares, self.scatter, self.precision, sigma)

    def _optima(self, theta: Array, flops: float) -> Array:
        """Ln N_opt of each row of parameters: the least of a grid, refined by a parabola."""
        guess = _guess(flops)
        lowest = guess - _REACH
        x = np.linspace(lowest, guess + _REACH, _POINTS)
        y = np.array([math.log(flops / self.flops_per_token(math.exp(n))) for n in x])
        spacing = float(x[1] - x[0])
        values, _ = _evaluate(theta, x - self.x0, y - self.y0)
        best = np.clip(np.argmin(values, axis=1), 1, _POINTS - 2)
        rows = np.arange(len(theta))
        left, middle, right = (values[rows, best + k] for k in (-1, 0, 1))
        bend = left - 2 * middle + right
        shift = np.where(bend > 0, 0.5 * (left - right) / np.maximum(bend, 1e-300), 0.0)
        found: Array = x[best] + spacing * np.clip(shift, -1, 1)
        return found


def believe(
    observations: Sequence[Observation],
    *,
    top_flops: float,
    tokens_per_param: float = 20.0,
    flops_per_token: FlopsPerToken | None = None,
    drift: float = DRIFT,
) -> Belief:
    """Return the most likely parameters after these runs.

    Args:
        observations: finished runs, at least three.
        top_flops: the budget at whose guessed optimum the parameters are centred.
        tokens_per_param: the guess of that optimum.
        flops_per_token: FLOPs of one token by params; through the runs if None.
        drift: standard deviation of the drift's coefficients; 0: the surface alone.
    """
    count = flops_per_token or FlopsPerToken.through(observations)
    n, d, y = (
        np.log([getattr(o, name) for o in observations]) for name in ("params", "tokens", "loss")
    )
    x0 = 0.5 * math.log(top_flops / 6.0 / tokens_per_param)
    y0 = x0 + math.log(tokens_per_param)
    mean, spread = _priors(float(y.min()), drift)
    x, v = n - x0, d - y0
    sigma, weights = 0.005, np.ones(len(y))
    theta = _starts(mean)
    free = 8 if drift > 0 else 5
    precision = np.where(np.arange(8) < free, spread**-2.0, np.inf)
    correlation = correlation_of([o.run for o in observations])
    kept, fitted_count = 1.0, 5.0
    for _ in range(4):
        theta = _minimise(theta, x, v, y, weights / sigma**2, mean, spread, free)
        fitted, rows = _evaluate(theta, x, v)
        residuals = y - fitted[0]
        if len(y) >= _FEW:
            robust = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))
            robust *= math.sqrt(len(y) / max(len(y) - fitted_count, 1.0))
            limit = _HUBER * max(robust, 0.3 * NOISE)
            weights = np.minimum(1.0, limit / np.maximum(np.abs(residuals), 1e-12))
            kept = _HUBER_KEEPS
        rest = float((weights * residuals**2).sum()) / kept
        before = sigma
        j = rows[0] * np.sqrt(weights)[:, None] * (np.arange(8) < free)
        squares, scatter = j.T @ j, j.T @ correlation @ j
        # A law takes up more of noise in common: less than n - 5 runs' worth of it is left.
        taken = np.trace(_bread(squares, precision, sigma) @ (scatter - squares)) / sigma**2
        bread = _bread(squares, precision, sigma)
        fitted_count = float(np.trace(bread @ squares)) / sigma**2
        freedom = max(len(y) - fitted_count - taken, 1) + _NOISE_RUNS
        sigma = math.sqrt((rest + _NOISE_RUNS * NOISE**2) / freedom)
        if abs(math.log(sigma / before)) < 0.01:
            break
    covariance = covariance_of(squares, scatter, precision, sigma)
    away = np.where(np.arange(8) < free, (theta[0] - mean) / spread, 0.0)
    log_evidence = (
        -(len(y) + _NOISE_RUNS) * math.log(sigma)
        - 0.5 * (rest + _NOISE_RUNS * NOISE**2) / sigma**2
        - 0.5 * float(away @ away)
        + 0.5 * float(np.log(precision[:free]).sum())
        + 0.5 * float(np.linalg.slogdet(_bread(squares, precision, sigma)[:free, :free])[1])
    )
    return Belief(
        theta[0], covariance, squares, scatter, precision, sigma, freedom, log_evidence,
        x0, y0, count,
    )  # fmt: skip


def covariance_of(squares: Array, scatter: Array, precision: Array, sigma: float) -> Array:
    """H^-1 (scatter / sigma^2 + prior) H^-1, and 0 for parameters that are held.

    H is squares / sigma^2 + prior. The first two have the shape (..., 8, 8), as has the result.
    """
    bread = _bread(squares, precision, sigma)
    prior = np.diag(np.where(np.isfinite(precision), precision, 0.0))
    covariance: Array = bread @ (scatter / sigma**2 + prior) @ bread
    return covariance


def _bread(squares: Array, precision: Array, sigma: float) -> Array:
    """Return the inverse of squares / sigma^2 + prior, and 0 for parameters that are held."""
    free = np.isfinite(precision)
    inverse = np.linalg.inv(squares / sigma**2 + np.diag(np.where(free, precision, 1.0)))
    held: Array = inverse * np.outer(free, free)
    return held


def _guess(flops: float) -> float:
    """Ln N_opt at 20 tokens per parameter and 6 N FLOPs a token."""
    return 0.5 * math.log(flops / 120.0)


def _priors(least: float, drift: float) -> tuple[Array, Array]:
    """Means and standard deviations of the parameters, given the least log loss seen."""
    exponent, its_spread = _EXPONENT
    mean = np.array(
        [least + math.log(0.6), least + math.log(0.2), least + math.log(0.2), exponent, exponent]
        + [0.0] * 3
    )
    spread = np.array([0.4, 3.0, 3.0, its_spread, its_spread, *[max(drift, 1e-6)] * 3])
    return mean, spread


def _starts(mean: Array) -> Array:
    """Starting points about the prior's mean, shape (9, 8)."""
    starts = np.repeat(mean[None, :], 9, axis=0)
    exponents = (0.2, 0.35, 0.6)
    starts[:, 3] = np.repeat(exponents, 3)
    starts[:, 4] = np.tile(exponents, 3)
    return starts


def _evaluate(theta: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Ln L, shape (rows, n), and its gradient by the parameters, shape (rows, n, 8)."""
    e, a, b, alpha, beta = (theta[:, k : k + 1] for k in range(5))
    terms = np.stack([np.broadcast_to(e, (len(theta), len(x))), a - alpha * x, b - beta * y])
    top = terms.max(axis=0)
    shares = np.exp(terms - top)
    total = shares.sum(axis=0)
    p_e, p_a, p_b = shares / total
    u, v = x / math.log(10), y / math.log(10)
    squares = np.stack([u * u, v * v, u * v], axis=1)
    value = top + np.log(total) + theta[:, 5:] @ squares.T
    rows = np.stack([p_e, p_a, p_b, -p_a * x, -p_b * y], axis=2)
    drift = np.broadcast_to(squares, (len(theta), *squares.shape))
    return value, np.concatenate([rows, drift], axis=2)


def _minimise(
    theta: Array, x: Array, y: Array, log_loss: Array, weights: Array, mean: Array, spread: Array,
    free: int,
) -> Array:  # fmt: skip
    """Return the best of damped Gauss-Newton descents from every row of `theta`, shape (1, 8)."""
    precision = spread**-2.0
    hold = np.arange(8) < free

    def cost(at: Array) -> tuple[Array, Array, Array]:
        fitted, rows = _evaluate(at, x, y)
        residuals = log_loss - fitted
        away = at - mean
        value = (weights * residuals**2).sum(axis=1) + (precision * away**2).sum(axis=1)
        gradient = np.einsum("rn,rnk->rk", weights * residuals, rows) - precision * away
        normal = np.einsum("n,rnj,rnk->rjk", weights, rows, rows) + np.diag(precision)
        return value, gradient * hold, normal

    at = theta.copy()
    damping = np.full(len(at), 1e-3)
    value, gradient, normal = cost(at)
    for _ in range(_ITERATIONS):
        scaled = normal + damping[:, None, None] * normal * np.eye(8)
        step = np.linalg.solve(scaled, gradient[:, :, None])[:, :, 0]
        tried = at + step
        tried[:, 3:5] = np.clip(tried[:, 3:5], _MIN_EXPONENT, _MAX_EXPONENT)
        new_value, new_gradient, new_normal = cost(tried)
        better = new_value < value
        gain = np.where(better, value - new_value, 0.0)
        at[better], value[better] = tried[better], new_value[better]
        gradient[better], normal[better] = new_gradient[better], new_normal[better]
        damping = np.where(better, damping * 0.2, np.minimum(damping * 5, 1e9))
        if (gain[better] < 1e-10 * (1 + value[better])).all() and (
            better.any() or damping.min() > 1
        ):
            break
    best = int(np.argmin(value))
    chosen: Array = at[best : best + 1]
    return chosen
