"""Moderated estimates of the noise of each budget's losses.

The few sizes of one budget give a poor estimate of its noise. One pooled estimate is no better:
budgets differ in noise (small runs vary more, and a wide curve is not a parabola), and clear curves
would count as flat. The variances are therefore modelled as draws from one scaled inverse
chi-squared distribution, estimated from all budgets. Each estimate is the average of the budget's
own variance and the common one, weighted by their degrees of freedom.

Source: Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3(1), section 6.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

MIN_SIGMA = 1e-7  # least standard deviation of the loss
_MOST_FREEDOM = 1e6  # stands for infinity: all budgets have the same noise
_MIN_BUDGETS = 3


@dataclass(frozen=True)
class Noise:
    """Noise of the losses of one budget.

    Attributes:
        sigma: standard deviation in the unit of the loss.
        freedom: degrees of freedom of sigma, for t intervals.
    """

    sigma: float
    freedom: float


def moderate(residual_sums: Sequence[float], freedoms: Sequence[int]) -> list[Noise | None]:
    """Return the noise of every budget; None for all if no budget has a degree of freedom.

    Args:
        residual_sums: sum of squared residuals of each budget, in squared units of the loss.
        freedoms: degrees of freedom of each budget, 0 or more.
    """
    total = sum(freedoms)
    if not total:
        return [None] * len(freedoms)
    least = MIN_SIGMA**2
    pooled = max(sum(residual_sums) / total, least)
    own = [max(s / f, least) for s, f in zip(residual_sums, freedoms, strict=True) if f]
    known = np.array([f for f in freedoms if f], dtype=float)
    common, strength = _common_variance(np.array(own), known, pooled)
    found: list[Noise | None] = []
    for residual_sum, freedom in zip(residual_sums, freedoms, strict=True):
        variance = (strength * common + residual_sum) / (strength + freedom)
        reached = min(strength + freedom, float(total))
        found.append(Noise(math.sqrt(max(variance, least)), reached))
    return found


def _common_variance(own: np.ndarray, freedom: np.ndarray, pooled: float) -> tuple[float, float]:
    """Common variance of the budgets and its degrees of freedom (Smyth 2004, section 6.2).

    Args:
        own: variance of each budget, float64, shape (budgets,).
        freedom: degrees of freedom of each budget, float64, shape (budgets,).
        pooled: the variance to return for fewer than 3 budgets or equal noise.
    """
    if len(own) < _MIN_BUDGETS:
        return pooled, _MOST_FREEDOM
    centred = np.log(own) - digamma(freedom / 2) + np.log(freedom / 2)
    mean = float(centred.mean())
    excess = float(((centred - mean) ** 2).sum()) / (len(own) - 1)
    excess -= float(polygamma(1, freedom / 2).mean())
    if excess <= polygamma(1, _MOST_FREEDOM / 2):
        return pooled, _MOST_FREEDOM
    strength = float(
        brentq(lambda d: float(polygamma(1, d / 2)) - excess, 1e-3, _MOST_FREEDOM)
        if excess < polygamma(1, 5e-4)
        else 1e-3
    )
    return math.exp(mean + float(digamma(strength / 2)) - math.log(strength / 2)), strength
