"""What each level of a sweep's compute bought: the answer at a target from the levels up to it.

The last row is the report's own surface. The intervals are those of the runs' scatter alone: how
far the law itself may be wrong is not known before a level above holds it to account, so it would
be missing where it matters most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from flops_fit.errors import FitError
from flops_fit.fitting.backtest import levels_of
from flops_fit.fitting.curves import check_enough
from flops_fit.fitting.details import Gain, SurfaceDetails
from flops_fit.fitting.intervals import bootstrap, preview, with_intervals
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Observation
from flops_fit.fitting.predictions import predict
from flops_fit.fitting.solver.search import LARGE
from flops_fit.fitting.surface import SolvedSurface, describe

_MAX_RESAMPLES = 400  # enough for a width, which is all that is read off
_MIN_LEVELS = 3

Solve = Callable[[Sequence[Observation]], SolvedSurface]


def gains(surface: Fit, *, target: float, solve: Solve, resamples: int, seed: int) -> list[Gain]:
    """The optimum at `target` by surfaces fitted to the levels of compute up to each.

    Args:
        surface: the fit to all levels, with intervals; of more than 20,000 runs nothing is
            answered.
        target: a budget in FLOPs.
        solve: fits a surface to some of those runs, all of them, by the choices of `surface`.
        resamples: behind the intervals, at most 400 of them below the last level; 0: Wald's.
        seed: of the resamples.

    Returns:
        One entry for each level that allows a fit.
    """
    runs = surface.used
    levels = levels_of(runs) if len(runs) <= LARGE else []
    loss = surface.details.loss if isinstance(surface.details, SurfaceDetails) else "adaptive"
    by_size = loss == "adaptive"
    rows = []
    for count in range(_MIN_LEVELS, len(levels)):
        seen = [runs[k] for k in np.sort(np.concatenate(levels[:count]))]
        try:
            check_enough(seen)
            solved = solve(seen)
            found = describe(solved, loss=loss)
        except FitError:
            continue
        spread = (
            bootstrap(solved, min(resamples, _MAX_RESAMPLES), seed=seed, by_size=by_size)
            if resamples
            else preview(solved, by_size=by_size)
        )
        rows.append(_row(with_intervals(found, spread), target))
    return [*rows, _row(surface, target)] if len(levels) >= _MIN_LEVELS else []


def _row(fit: Fit, target: float) -> Gain:
    """What one surface answers."""
    (optimum,) = predict(fit, [target], has_model=False)
    return Gain(
        up_to_flops=max(o.flops for o in fit.used),
        num_runs=len(fit.used),
        spent_flops=math.fsum(o.flops for o in fit.used),
        target_flops=target,
        params=optimum.params,
        params_interval=optimum.params_interval,
        loss=optimum.loss,
        loss_interval=optimum.loss_interval,
    )
