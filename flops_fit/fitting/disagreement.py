"""Comparison of methods: disagreement beyond intervals, and compute wasted by a wrong choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from flops_fit.errors import Note
from flops_fit.fitting.details import Waste
from flops_fit.fitting.law import Fit, Frontier, GeneralSurface, Surface, SurfaceFrontier
from flops_fit.fitting.points import Interval, Optimum
from flops_fit.fitting.robust import mad
from flops_fit.fitting.thresholds import MAX_RATIO

RIVALS = ("isoflop", "surface", "envelope")


def wasted_share(chosen: Optimum, truth: Frontier) -> float | None:
    """Return the share of compute that an allocation wastes if `truth` holds; None without a law.

    An optimal allocation of the remaining compute would reach the same loss as the chosen N and D
    under the true law.
    """
    law = truth.loss if isinstance(truth, SurfaceFrontier) else None
    if isinstance(truth, Surface | GeneralSurface):
        law = truth.loss
    if law is None:
        return None
    reached = law(chosen.params, chosen.tokens)
    high, low = math.log(chosen.flops), math.log(chosen.flops) - 20.0
    for _ in range(60):
        middle = (low + high) / 2
        loss = truth.optimum(math.exp(middle)).loss
        assert loss is not None
        low, high = (middle, high) if loss > reached else (low, middle)
    return max(0.0, 1 - math.exp(high) / chosen.flops)


def wastes(fits: Mapping[str, Fit], predictions: Sequence[Optimum]) -> list[Waste]:
    """Return the compute wasted by each method's allocation if another method's law is true."""
    found = []
    for optimum in predictions:
        for name, fit in fits.items():
            if name == optimum.method:
                continue
            share = wasted_share(optimum, fit.frontier)
            if share is not None:
                found.append(Waste(optimum.flops, optimum.method, name, share))
    return found


def disagreements(predictions: Sequence[Optimum]) -> list[Note]:
    """Return notes on targets at which the optimal params of two methods differ significantly."""
    notes = []
    for flops in dict.fromkeys(p.flops for p in predictions):
        at = [p for p in predictions if p.flops == flops and _is_rival(p)]
        for one, other in combinations(at, 2):
            ratio = one.params / other.params
            if one.params_interval is not None and other.params_interval is not None:
                differ = not _meet(one.params_interval, other.params_interval)
            else:
                differ = max(ratio, 1 / ratio) > MAX_RATIO
            if differ:
                notes.append(
                    Note(
                        "methods_disagree",
                        f"at {flops:.3g} FLOPs the optimum is {one.params:.3g} params by"
                        f" {one.method} and {other.params:.3g} by {other.method}, which differ by"
                        " more than their intervals",
                    )
                )
    return notes


def _is_rival(optimum: Optimum) -> bool:
    """Return whether a prediction is compared; `extrapolation` only beyond the runs."""
    if optimum.method == "extrapolation":
        return bool(optimum.extrapolation_decades)
    return optimum.method in RIVALS


def better_general(surface: Fit, general: Fit) -> Note | None:
    """Return a note if the general form fits clearly better than the additive form, else None.

    It fits clearly better if the objective is at least 20 % lower and the median residual at least
    10 % lower.
    """
    if not surface.objective or general.objective is None or surface.objective <= 0:
        return None
    ratio = general.objective / surface.objective
    spread = mad_ratio(general, surface)
    if ratio > 0.8 or spread > 0.9:
        return None
    return Note(
        "additive_form_in_doubt",
        f"E + (A/N^alpha + B/D^beta)^{general.parameters['gamma']:.2f} fits clearly better than the"
        f" additive form (objective {ratio:.2f} times and typical residual {spread:.2f} times that"
        " of the additive form)",
    )


def mad_ratio(one: Fit, other: Fit) -> float:
    """Return the ratio of the residuals' median absolute deviations; 1 if the second is 0."""
    below = mad(np.array(other.residuals))
    return mad(np.array(one.residuals)) / below if below > 0 else 1.0


def _meet(one: Interval, other: Interval) -> bool:
    """Return whether two intervals overlap."""
    return one[0] <= other[1] and other[0] <= one[1]
