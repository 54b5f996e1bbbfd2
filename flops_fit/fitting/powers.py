"""Fits of lines in log-log space, and of a power law with an irreducible loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from flops_fit.fitting.law import PowerLaw

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LogLogLine:
    """Line ln y = intercept + slope ln x, fitted by weighted least squares.

    Attributes:
        intercept, slope: coefficients of the line.
        r_squared: weighted coefficient of determination of ln y.
        centre: weighted mean of ln x, where the error of ln y is least.
        centre_error, slope_error: standard errors of ln y at the centre and of the slope, from the
            residuals; NaN for two points.
        degrees_of_freedom: number of points less 2.
    """

    intercept: float
    slope: float
    r_squared: float
    centre: float
    centre_error: float
    slope_error: float
    degrees_of_freedom: int

    def error(self, log_x: float) -> float:
        """Return the standard error of the fitted ln y at ln x."""
        return math.hypot(self.centre_error, self.slope_error * (log_x - self.centre))

    @property
    def coefficient(self) -> float:
        """Coefficient of the power law, exp(intercept)."""
        return math.exp(self.intercept)

    def __call__(self, log_x: Array) -> Array:
        """Return the fitted ln y, in the shape of `log_x`."""
        return self.intercept + self.slope * log_x


def fit_line(log_x: Array, log_y: Array, weights: Array | None = None) -> LogLogLine:
    """Fit a line to (log_x, log_y), float64, shape (n,), by weighted least squares."""
    w = np.ones_like(log_x) if weights is None else weights
    centre, mean = float(np.average(log_x, weights=w)), float(np.average(log_y, weights=w))
    x, y = log_x - centre, log_y - mean
    spread = float((w * x * x).sum())
    slope = float((w * x * y).sum()) / spread
    freedom = len(x) - 2
    rest = float((w * (y - slope * x) ** 2).sum())
    sigma = math.sqrt(rest / freedom) if freedom > 0 else math.nan
    fitted = mean + slope * x
    return LogLogLine(
        mean - slope * centre, slope, r_squared(log_y, fitted, w), centre,
        sigma / math.sqrt(float(w.sum())), sigma / math.sqrt(spread), freedom,
    )  # fmt: skip


def r_squared(observed: Array, fitted: Array, weights: Array | None = None) -> float:
    """Return 1 - (residual sum of squares) / (sum of squares about the mean); 1 if both are 0."""
    w = np.ones_like(observed) if weights is None else weights
    rest = float((w * (observed - fitted) ** 2).sum())
    total = float((w * (observed - np.average(observed, weights=w)) ** 2).sum())
    if total == 0:
        return 1.0 if rest == 0 else 0.0
    return 1 - rest / total


def fit_loss_law(flops: Array, losses: Array) -> PowerLaw:
    """Fit L = E + c C^-g with E >= 0 by least squares of the loss itself.

    For a fixed g, E and c are linear, so the search has one dimension: a grid over g in [0.001, 2],
    then Brent's method around the best grid point.

    Args:
        flops: float64, shape (n,); at least 3.
        losses: float64, shape (n,); nats.
    """
    log_c = np.log(flops)
    centre = float(log_c.mean())

    def solve(g: float) -> tuple[float, float, float]:
        u = np.exp(-g * (log_c - centre))
        du, dl = u - u.mean(), losses - losses.mean()
        spread = float(du @ du)
        c = float(du @ dl) / spread if spread > 0 else 0.0
        e = float(losses.mean() - c * u.mean())
        if e < 0 or c < 0:
            e, c = 0.0, float(u @ losses) / float(u @ u)
        rest = losses - e - c * u
        return float(rest @ rest), e, c

    grid = np.geomspace(1e-3, 2.0, 121)
    values = [solve(float(g))[0] for g in grid]
    k = int(np.argmin(values))
    low, high = np.log(grid[max(k - 1, 0)]), np.log(grid[min(k + 1, len(grid) - 1)])
    found = minimize_scalar(
        lambda t: solve(math.exp(t))[0], bounds=(low, high), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    g = math.exp(float(found.x))
    _, e, c = solve(g)
    return PowerLaw(c * math.exp(g * centre), -g, e)


def loss_law_covariance(
    flops: Array, losses: Array, law: PowerLaw
) -> tuple[tuple[float, ...], ...] | None:
    """Return the covariance of E, ln c and g, shape (3, 3); None without degrees of freedom.

    If E is 0, it counts as fixed, and its row is 0.
    """
    term = law.coefficient * flops**law.exponent
    held = law.offset == 0
    slopes = np.stack([np.full_like(term, not held), term, -term * np.log(flops)], axis=1)
    freedom = len(flops) - (2 if held else 3)
    if freedom < 1:
        return None
    rest = losses - law.offset - term
    covariance = np.linalg.pinv(slopes.T @ slopes, rcond=1e-15) * float(rest @ rest) / freedom
    return tuple(tuple(row) for row in covariance.tolist())
