"""The lower envelope of the training curves (Approach 1).

The envelope is computed in the plane of log compute and log loss, from the points of all curves.
There are two ways: the lower-left convex hull (the default), or the lowest point of each of many
equal bins of log compute. Log-log lines N = k C^a and D = k' C^b are fitted to the envelope.

The method assumes runs with a constant learning rate. Under a cosine schedule, points before the
end of training overstate the loss, because the learning rate has not decayed yet.

Source: Hoffmann et al. 2022 (arXiv:2203.15556), section 3.1 (bins); the convex hull: McLeish et al.
2025 (arXiv:2502.06857), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flops_fit.errors import FitError, Note
from flops_fit.fitting.curves import MIN_OBSERVATIONS, Array
from flops_fit.fitting.details import EnvelopeDetails, FitStatus, Reading
from flops_fit.fitting.law import Fit, FlopsPerToken, PowerLaw, PowerLawFrontier
from flops_fit.fitting.points import Observation
from flops_fit.fitting.powers import fit_line, fit_loss_law, r_squared

MIN_CURVES = 3
MIN_POINTS = 3
_CURVES_COUNT = Note(
    "curve_points",
    "the envelope treats points of training curves as finished runs; this is correct only for a"
    " constant learning rate",
)
NUM_BINS = 1500  # bins over the range of compute, as in Hoffmann et al. 2022


def fit_envelope(observations: Sequence[Observation], *, reading: Reading = "hull") -> Fit:
    """Fit power laws through the lower envelope of training curves.

    Args:
        observations: points of training curves of at least 3 sizes.
        reading: `hull` or `bins`.

    Raises:
        FitError: too few points, too few sizes, or too few points on the envelope.
    """
    params = np.array([o.params for o in observations], dtype=float)
    _check_points(params)
    flops = np.array([o.flops for o in observations], dtype=float)
    losses = np.array([o.loss for o in observations], dtype=float)
    x, y = np.log(flops), np.log(losses)
    on_it = lower_hull(x, y) if reading == "hull" else lowest_in_bins(x, y)
    chosen = params[on_it]
    if len(on_it) < MIN_POINTS or len(np.unique(chosen)) < 2:
        raise FitError(
            f"the envelope has {len(on_it)} points from {len(np.unique(chosen))} sizes;"
            f" a law needs {MIN_POINTS} points from 2 sizes",
            code="too_few_points",
            hint="add training curves of other sizes, or evaluate them more often",
        )
    tokens = np.array([observations[k].tokens for k in on_it])
    n_line = fit_line(x[on_it], np.log(chosen))
    d_line = fit_line(x[on_it], np.log(tokens))
    law = fit_loss_law(flops[on_it], losses[on_it])
    fitted = np.array([law(c) for c in flops[on_it]])
    return Fit(
        method="envelope",
        status=FitStatus.OK,
        parameters={
            "N_coefficient": n_line.coefficient, "a": n_line.slope,
            "D_coefficient": d_line.coefficient, "b": d_line.slope,
            "E": law.offset, "c": law.coefficient, "g": -law.exponent,
        },
        exponents={"params": n_line.slope, "tokens": d_line.slope},
        frontier=PowerLawFrontier(
            PowerLaw(n_line.coefficient, n_line.slope),
            FlopsPerToken.through(observations),
            law,
        ),
        r_squared={
            "params": n_line.r_squared,
            "tokens": d_line.r_squared,
            "loss": r_squared(losses[on_it], fitted),
        },
        residuals=tuple((np.log(losses[on_it]) - np.log(fitted)).tolist()),
        used=tuple(observations[k] for k in on_it),
        notes=(_CURVES_COUNT,),
        details=EnvelopeDetails(reading, len(observations), len(on_it)),
    )  # fmt: skip


def _check_points(params: Array) -> None:
    """Refuse too few points or sizes; params is float64, shape (points,)."""
    if len(params) < MIN_OBSERVATIONS:
        raise FitError(
            f"{len(params)} usable points; an envelope needs {MIN_OBSERVATIONS}",
            code="too_few_observations",
            hint="give whole training curves, with one row for each evaluation",
        )
    if len(np.unique(params)) < MIN_CURVES:
        raise FitError(
            f"the points have {len(np.unique(params))} model sizes; an envelope needs {MIN_CURVES}",
            code="too_few_sizes",
            hint="add training curves of other sizes",
        )


def lower_hull(x: Array, y: Array) -> list[int]:
    """Return positions of the lower convex hull by increasing x, up to the point of lowest y.

    x and y are float64, shape (n,). The algorithm is Andrew's monotone chain.
    """
    order = np.lexsort((y, x))
    hull: list[int] = []
    for k in order:
        while len(hull) > 1 and _turns_right(x, y, hull[-2], hull[-1], int(k)):
            hull.pop()
        if not (hull and x[hull[-1]] == x[k]):
            hull.append(int(k))
    lowest = int(np.argmin(y[hull]))
    return hull[: lowest + 1]


def _turns_right(x: Array, y: Array, i: int, j: int, k: int) -> bool:
    """Return whether the middle point j lies on or above the line from i to k."""
    return bool((x[j] - x[i]) * (y[k] - y[i]) - (y[j] - y[i]) * (x[k] - x[i]) <= 0)


def lowest_in_bins(x: Array, y: Array) -> list[int]:
    """Return the lowest point of each bin of x, if it is below those of all smaller bins."""
    bins = np.minimum((x - x.min()) / np.ptp(x) * NUM_BINS, NUM_BINS - 1).astype(int)
    order = np.lexsort((y, bins))
    first = np.unique(bins[order], return_index=True)[1]
    lowest = order[first]
    best = np.minimum.accumulate(y[lowest])
    return [int(k) for k, b in zip(lowest, best, strict=True) if y[k] <= b]
