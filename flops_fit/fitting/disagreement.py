"""Methods side by side: what a wrong choice wastes, and disagreement beyond the intervals."""

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
    """The share of compute that an allocation wastes if `truth` is the law; None without a law.

    The loss that the true law gives the chosen N and D could have been had, optimally allocated,
    with the rest of the compute.
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
    """What each method's allocation wastes if another method's law is true."""
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
    """A note for each target at which two methods' optimal params differ beyond their intervals."""
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
                        f"at {flops:.3g} FLOPs {one.method} puts the optimum at {one.params:.3g}"
                        f" params and {other.method} at {other.params:.3g}, beyond their intervals",
                    )
                )
    return notes


def _is_rival(optimum: Optimum) -> bool:
    """Whether a prediction is held against others: the weighted law only beyond the runs."""
    if optimum.method == "extrapolation":
        return bool(optimum.extrapolation_decades)
    return optimum.method in RIVALS


def better_general(surface: Fit, general: Fit) -> Note | None:
    """A note where the richer form fits so much better that the additive form is in doubt.

    The threshold is an objective lower by a fifth and a median residual lower by a tenth.
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
        f" sum (objective {ratio:.2f} times, typical residual {spread:.2f} times the sum's)",
    )


def mad_ratio(one: Fit, other: Fit) -> float:
    """Median absolute deviation of one fit's residuals over the other's; 1 where that has none."""
    below = mad(np.array(other.residuals))
    return mad(np.array(one.residuals)) / below if below > 0 else 1.0


def _meet(one: Interval, other: Interval) -> bool:
    """Whether two intervals have a point in common."""
    return one[0] <= other[1] and other[0] <= one[1]
