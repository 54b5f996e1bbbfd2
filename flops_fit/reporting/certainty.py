"""Whether a law tells anything: the scatter against its slope, the answers against the grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from flops_fit.law import Fit
from flops_fit.points import Note, Observation, Optimum
from flops_fit.reporting.cells import format_value

MAX_MISFIT = 0.1  # median deviation of the log losses from the surface
_SAME = 1e-6  # relative difference up to which two budgets are one


def misfit(fits: Mapping[str, Fit]) -> float:
    """The median deviation of the log losses from the surface; 0 where it is not known."""
    return float(fits["surface"].details.get("residual_mad") or 0.0) if "surface" in fits else 0.0


def hidden_law(surface: Fit, observations: Sequence[Observation], *, factor: float) -> Note | None:
    """That the runs scatter by more than the law lets the loss fall over the last compute.

    Args:
        surface: the fit.
        observations: that it rests on.
        factor: how many times less compute to compare the largest budget with.
    """
    top = max(o.budget_flops or o.flops for o in observations)
    here, below = surface.predict(top).loss, surface.predict(top / factor).loss
    if here is None or below is None:
        return None
    scatter, fall = misfit({"surface": surface}), math.log(below / here)
    if scatter <= fall:
        return None
    return Note(
        "law_hidden_by_scatter",
        f"the runs scatter about the surface by {scatter:.1%} (median deviation), more than the "
        f"{fall:.1%} by which it lets the loss fall over the last {factor:.0f}-fold of compute",
    )


def unknown_optimum(
    predictions: Sequence[Optimum],
    method: str | None,
    observations: Sequence[Observation],
    targets: Sequence[float],
) -> Note | None:
    """The largest target at which N is known less well than the range of sizes that were trained.

    None where there is no such target.
    """
    sizes = [o.params for o in observations]
    wide = [
        (optimum.flops, interval)
        for optimum in predictions
        if optimum.method == method
        and (interval := optimum.params_interval) is not None
        and interval[1] * min(sizes) > interval[0] * max(sizes)
        and any(math.isclose(optimum.flops, target, rel_tol=_SAME) for target in targets)
    ]
    if not wide:
        return None
    flops, interval = max(wide)
    counts = (*interval, min(sizes), max(sizes))
    low, high, least, most = (format_value(count, "count") for count in counts)
    return Note(
        "optimum_unknown",
        f"{method}: N at {format_value(flops, 'flops')} FLOPs lies anywhere from {low} to {high} "
        "params (95 %), a wider range than that of the sizes that were trained, "
        f"{least} to {most}",
    )
