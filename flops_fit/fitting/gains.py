"""The optimum at a target from the runs up to each level of compute.

The last entry is the report's own surface. The intervals cover the noise of the runs alone: the
error of the law shows only at a higher level, so the top level has no estimate of it.
"""

from __future__ import annotations

import math

import numpy as np

from flops_fit.errors import FitError
from flops_fit.fitting.backtest import levels_of
from flops_fit.fitting.curves import check_enough
from flops_fit.fitting.details import Gain
from flops_fit.fitting.intervals import bootstrap, preview, with_intervals
from flops_fit.fitting.law import Fit
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.predictions import predict
from flops_fit.fitting.solver.search import LARGE
from flops_fit.fitting.surface import describe, solve_surface

_MAX_RESAMPLES = 400  # enough for a width, which is all that is read off
_MIN_LEVELS = 3


def gains(surface: Fit, options: FitOptions, *, target: float) -> list[Gain]:
    """The optimum at `target` by surfaces fitted to the levels of compute up to each.

    Args:
        surface: the fit to all levels, with intervals; of more than 20,000 runs nothing is
            answered.
        options: those of `surface`; at most 400 resamples are drawn below the last level.
        target: a budget in FLOPs.

    Returns:
        One entry for each level that allows a fit.
    """
    runs = surface.used
    levels = levels_of(runs) if len(runs) <= LARGE else []
    rows = []
    for count in range(_MIN_LEVELS, len(levels)):
        seen = [runs[k] for k in np.sort(np.concatenate(levels[:count]))]
        try:
            check_enough(seen)
            solved = solve_surface(seen, options, drop_outliers=False)
            found = describe(solved)
        except FitError:
            continue
        spread = (
            bootstrap(solved, min(options.bootstrap, _MAX_RESAMPLES), seed=options.seed)
            if options.bootstrap
            else preview(solved)
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
