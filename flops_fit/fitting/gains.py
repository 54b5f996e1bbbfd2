"""Optimum at a target, predicted from the runs up to each level of compute.

The last entry is the surface of the report. The intervals include only the noise of the runs. The
error of the law can only be measured at a higher level, so it is unknown for the top level.
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

_MAX_RESAMPLES = 400  # enough for the width of an interval
_MIN_LEVELS = 3


def gains(surface: Fit, options: FitOptions, *, target: float) -> list[Gain]:
    """Predict the optimum at `target` from the runs up to each level of compute.

    Args:
        surface: the fit to all levels, with intervals; for more than 20,000 runs the result is
            empty.
        options: options of `surface`; lower levels use at most 400 resamples.
        target: budget in FLOPs.

    Returns:
        One entry for each level with enough runs for a fit.
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
    """Return the prediction of one surface at the target."""
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
