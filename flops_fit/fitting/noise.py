"""The noise of each budget's losses, which a handful of sizes cannot tell by themselves.

Budgets differ in their noise (a small run varies more, a wide curve is no parabola), so one pooled
value would call clear curves flat. The variances are taken to be drawn from one scaled inverse
chi-squared distribution, whose two numbers are estimated from all budgets; each variance is then
the average of its own and the common one, weighted by their degrees of freedom.

Source: Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3(1), section 6.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

MIN_SIGMA = 1e-7  # noise of the loss below which vertices are equally certain
_MOST_FREEDOM = 1e6  # of the common variance: the budgets' noise does not differ
_MIN_BUDGETS = 3


@dataclass(frozen=True)
class Noise:
    """The noise of one budget.

    Attributes:
        sigma: standard deviation of its losses, in the losses' unit.
        freedom: degrees of freedom that sigma rests on, for t intervals.
    """

    sigma: float
    freedom: float


def moderate(residual_sums: Sequence[float], freedoms: Sequence[int]) -> list[Noise | None]:
    """The noise of every budget; None for all where no budget has a degree of freedom.

    Args:
        residual_sums: sum of squared residuals of each budget, in the losses' unit squared.
        freedoms: degrees of freedom of each, 0 where it has none.
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
    """The variance that the budgets share and its degrees of freedom (Smyth 2004, section 6.2).

    Args:
        own: each budget's variance, float64, shape (budgets,).
        freedom: the degrees of freedom of each, float64, shape (budgets,).
        pooled: what is returned where the budgets are too few to tell, or do not differ.
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
