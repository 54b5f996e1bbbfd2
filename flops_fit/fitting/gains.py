"""What each level of a sweep's compute bought: the answer at a target from the levels up to it.

The intervals are those of the runs' scatter alone: how far the law itself may be wrong is not known
before a level above holds it to account, so it would be missing where it matters most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flops_fit.errors import FitError
from flops_fit.fitting.backtest import levels_of
from flops_fit.fitting.curves import check_enough
from flops_fit.fitting.intervals import bootstrap, preview
from flops_fit.fitting.predictions import predict
from flops_fit.fitting.search import LARGE
from flops_fit.fitting.surface import describe, solve_surface
from flops_fit.points import Observation

_MAX_RESAMPLES = 400  # enough for a width, which is all that is read off
_MIN_LEVELS = 3


def gains(
    observations: Sequence[Observation], *, target: float, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """The optimum at `target` by surfaces fitted to the levels of compute up to each.

    Args:
        observations: finished runs that are no outliers; none are answered for above 20,000.
        target: a budget in FLOPs.
        resamples: behind the intervals, at most 400 of them; 0: Wald's.
        seed: of the resamples.

    Returns:
        A row a level that allows a fit: `up_to_flops` (the largest run's), `num_runs`,
        `spent_flops` (of these runs together), `target_flops`, `params`, `loss` and their
        intervals.
    """
    if len(observations) > LARGE:
        return []
    levels = levels_of(observations)
    rows = []
    for count in range(_MIN_LEVELS, len(levels) + 1):
        seen = [observations[k] for k in np.sort(np.concatenate(levels[:count]))]
        try:
            check_enough(seen)
            solved = solve_surface(seen)
            draws = (
                bootstrap(solved, min(resamples, _MAX_RESAMPLES), seed=seed)
                if resamples
                else preview(solved)
            )
            (optimum,) = predict(describe(solved, loss="adaptive"), [target], draws=draws)
        except FitError:
            continue
        rows.append(
            {
                "up_to_flops": max(o.flops for o in seen),
                "num_runs": len(seen),
                "spent_flops": math.fsum(o.flops for o in seen),
                "target_flops": target,
                "params": optimum.params,
                "params_interval": optimum.params_interval,
                "loss": optimum.loss,
                "loss_interval": optimum.loss_interval,
            }
        )
    return rows
