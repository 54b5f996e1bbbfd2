"""Robust statistics, outliers and bootstrap weights, for any fitting method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

OUTLIER_SIGMAS = 4.0
OUTLIER_RATIO = 0.01  # a log residual of 1 %
NORMAL_MAD = 0.6744897501960817  # MAD of a standard normal variable


def mad(residuals: Array) -> float:
    """Return the median absolute deviation from the median, in the unit of the residuals."""
    return float(np.median(np.abs(residuals - np.median(residuals))))


def mad_sigma(residuals: Array) -> float:
    """Estimate the standard deviation of normal noise from the MAD."""
    return mad(residuals) / NORMAL_MAD


def find_outliers(residuals: Array) -> NDArray[np.bool_]:
    """Return which runs are outliers: over 4 robust sigmas and over 1 % above the fit, shape (n,).

    Runs below the fit are never outliers: a failed run has a higher loss, not a lower one.

    Args:
        residuals: float64, shape (n,); log(loss) - log(fit) of the Huber(1e-3) surface.
    """
    above = residuals - np.median(residuals)
    return above > max(OUTLIER_SIGMAS * mad_sigma(residuals), OUTLIER_RATIO)


def resample_weights(
    rows: int,
    n: int,
    *,
    stream: np.random.RandomState,
    clusters: Sequence[object] | None = None,
) -> Array:
    """Return how often each resample draws each observation, float64, shape (rows, n).

    Args:
        rows: the number of resamples.
        n: the number of observations.
        stream: NumPy's legacy generator; its stream is frozen (NEP 19), so that a seed gives the
            same draws on every machine and NumPy version.
        clusters: one label per observation, to draw whole clusters; None: draw observations.
    """
    if clusters is None:
        membership, units = None, n
    else:
        labels = {label: k for k, label in enumerate(dict.fromkeys(clusters))}
        membership = np.array([labels[c] for c in clusters])
        units = len(labels)
    drawn = stream.randint(0, units, size=(rows, units))
    drawn += np.arange(rows)[:, None] * units
    counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
    weights = counts.astype(float)
    return weights if membership is None else weights[:, membership]
