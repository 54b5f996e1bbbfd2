"""Compute-optimal points of many surfaces at many budgets at once, for draws and derivatives."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.law import FADE, FlopsPerToken

Array = NDArray[np.float64]
_GOLDEN = (math.sqrt(5) - 1) / 2
_STEPS = 60  # golden-section steps; they shrink an interval of 14 in ln N to 4e-12


def optima(laws: Array, flops: Array, flops_per_token: FlopsPerToken) -> tuple[Array, Array]:
    """Return ln N_opt and ln L_opt of every law at every budget, each shape (rows, budgets).

    For 6 N the closed form is used (Hoffmann et al. 2022, eq. 4), else golden section in ln N.

    Args:
        laws: float64, shape (rows, 5): E, A, B, alpha, beta.
        flops: float64, shape (budgets,).
        flops_per_token: FLOPs of one token by params.
    """
    e, a, b, alpha, beta = (laws[:, k : k + 1] for k in range(5))
    log_a, log_b = np.log(a), np.log(b)
    log_g = (np.log(alpha) + log_a - np.log(beta) - log_b) / (alpha + beta)
    log_c = np.log(flops)[None, :]
    x = log_g + beta / (alpha + beta) * (log_c - math.log(6))
    knots = _Knots(flops_per_token)

    def loss(x: Array) -> Array:
        log_d = log_c - knots(x)
        with np.errstate(over="ignore"):  # a loss that overflows is infinite
            value: Array = np.log(e + np.exp(log_a - alpha * x) + np.exp(log_b - beta * log_d))
        return value

    if not flops_per_token.params:
        return x, loss(x)
    low, high = x - 7.0, x + 7.0
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(_STEPS):
        go_left = at_left <= at_right
        high, low = np.where(go_left, right, high), np.where(go_left, low, left)
        inner = np.where(go_left, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        at_inner = loss(inner)
        left, right = np.where(go_left, inner, right), np.where(go_left, left, inner)
        at_left, at_right = (
            np.where(go_left, at_inner, at_right),
            np.where(go_left, at_left, at_inner),
        )
    x = (low + high) / 2
    return x, loss(x)


class _Knots:
    """Vectorised ln k(N) as a function of ln N."""

    def __init__(self, flops_per_token: FlopsPerToken) -> None:
        x, ratio, slopes = flops_per_token.log_knots
        self.slopes = np.array(slopes or (0.0,))
        self.x, self.ratio = np.array(x or (0.0,)), np.array(ratio or (math.log(6),))
        self.spline = None
        if len(x) > 1:
            # Import here: scipy.interpolate takes 0.5 s to load.
            from scipy.interpolate import CubicHermiteSpline

            self.spline = CubicHermiteSpline(x, ratio, slopes)

    def __call__(self, x: Array) -> Array:
        """Return ln k in the shape of x; beyond the end knots as in `FlopsPerToken`."""
        if self.spline is None:
            held: Array = x + self.ratio[0]
            return held
        inside = np.clip(x, self.x[0], self.x[-1])
        beyond = x - inside
        faded = FADE * np.copysign(-np.expm1(-np.abs(beyond) / FADE), beyond)
        slope = np.where(beyond < 0, self.slopes[0], self.slopes[-1])
        value: Array = x + self.spline(inside) + slope * faded
        return value
