"""IsoFLOP fit: one parabola per budget, then power laws through the minima (Approach 2).

Near its minimum, the loss of one budget is a parabola in log N. Minima that are bracketed and
significantly convex enter the log-log regression N_opt = k C^a. D_opt follows from N_opt and the
FLOP count. The losses of the minima enter L = E + c C^-g, fitted by non-linear least squares of the
loss itself. N_opt and D_opt have no additive offset.

A parabola is biased if the loss is not symmetric in log N, and more so on a wide grid. Therefore
only sizes within a factor of 8 of the best one are used, if at least 5 remain.

Source: Hoffmann et al. 2022 (arXiv:2203.15556), section 3.2; the bias: Czech et al. 2026
(arXiv:2603.22339).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from flops_fit.errors import FitError, Note
from flops_fit.fitting.curves import Curve
from flops_fit.fitting.details import (
    FitStatus,
    Interpolation,
    IsoflopDetails,
    LineErrors,
    Minimum,
    MinimumStatus,
)
from flops_fit.fitting.law import Fit, FlopsPerToken, PowerLaw, PowerLawFrontier
from flops_fit.fitting.noise import Noise, moderate
from flops_fit.fitting.points import Interval, Observation
from flops_fit.fitting.powers import (
    LogLogLine,
    fit_line,
    fit_loss_law,
    loss_law_covariance,
    r_squared,
)

Array = NDArray[np.float64]
MIN_MINIMA = 3
WINDOW = 8.0
_MIN_IN_WINDOW = 5


@dataclass(frozen=True)
class _Parabola:
    """Least-squares parabola of one curve, with its error statistics."""

    centre: float
    coefficients: tuple[float, float, float]
    inverse_normal: Array
    residual_sum: float
    degrees_of_freedom: int
    low: float
    high: float


def fit_isoflop(
    curves: Sequence[Curve],
    observations: Sequence[Observation],
    *,
    flops_per_token: FlopsPerToken | None = None,
    interpolation: Interpolation = "parabola",
    window: float = WINDOW,
) -> Fit:
    """Fit power laws through the minima of isoFLOP curves.

    Args:
        curves: the observations of each budget.
        observations: the observations of all budgets.
        flops_per_token: FLOPs of one token by params; None: interpolated from the observations.
        interpolation: `parabola` in log N, or `akima`, a spline of log L in log N.
        window: largest ratio between the best size and other sizes in the parabola.

    Raises:
        FitError: fewer than 3 budgets have a usable minimum (`too_few_budgets`).
    """
    flops_per_token = flops_per_token or FlopsPerToken.through(observations)
    minima = find_minima(curves, flops_per_token, interpolation=interpolation, window=window)
    good = [m for m in minima if m.status is MinimumStatus.OK]
    if len(good) < MIN_MINIMA:
        raise _too_few(minima, len(good))
    budgets = np.array([m.budget_flops for m in good])
    params = np.array([m.params for m in good], dtype=float)
    tokens = np.array([m.tokens for m in good], dtype=float)
    losses = np.array([m.loss for m in good], dtype=float)
    weights = vertex_weights(good)
    n_line = fit_line(np.log(budgets), np.log(params), weights)
    d_line = fit_line(np.log(budgets), np.log(tokens), weights)
    loss_law = fit_loss_law(budgets, losses)
    covariance = loss_law_covariance(budgets, losses, loss_law)
    return Fit(
        method="isoflop",
        status=FitStatus.OK,
        parameters=_parameters(n_line, d_line, loss_law),
        exponents={"params": n_line.slope, "tokens": d_line.slope},
        frontier=PowerLawFrontier(
            PowerLaw(n_line.coefficient, n_line.slope), flops_per_token, loss_law
        ),
        r_squared={
            "params": n_line.r_squared,
            "tokens": d_line.r_squared,
            "loss": r_squared(losses, np.array([loss_law(c) for c in budgets])),
        },
        residuals=tuple((np.log(params) - n_line(np.log(budgets))).tolist()),
        used=tuple(observations),
        standard_errors=_finite({"a": n_line.slope_error, "b": d_line.slope_error}),
        intervals=_intervals(n_line, d_line),
        notes=_notes(len(minima) - len(good), len(minima), loss_law),
        details=IsoflopDetails(
            degrees_of_freedom=n_line.degrees_of_freedom,
            line_errors=LineErrors(n_line.centre, n_line.centre_error, n_line.slope_error),
            loss_covariance=covariance,
            interpolation=interpolation,
            window=window,
            minima=tuple(minima),
        ),
    )


def _too_few(minima: Sequence[Minimum], num_good: int) -> FitError:
    """Return the error that lists each unusable minimum with its reason."""
    left_out = "; ".join(f"{m.budget_flops:.3g}: {m.reason}" for m in minima if m.reason)
    return FitError(
        f"{num_good} of {len(minima)} budgets have a usable loss minimum; a power law"
        f" needs {MIN_MINIMA}" + (f" ({left_out})" if left_out else ""),
        code="too_few_budgets",
        hint="add budgets, or sizes on the side where the minimum is not bracketed",
    )


def _notes(num_dropped: int, num_minima: int, loss_law: PowerLaw) -> tuple[Note, ...]:
    """Return notes on omitted minima and on a missing irreducible loss."""
    notes = []
    if num_dropped:
        text = f"{num_dropped} of {num_minima} budgets are left out of the law"
        notes.append(Note("minima_left_out", text))
    if loss_law.offset == 0:
        text = "the losses at the minima show no irreducible term"
        notes.append(Note("no_irreducible_loss", text))
    return tuple(notes)


def _finite(values: dict[str, float]) -> dict[str, float]:
    """Return the finite entries."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _intervals(n_line: LogLogLine, d_line: LogLogLine) -> dict[str, Interval]:
    """Return 95 % t intervals of the exponents, from the deviations of minima from the lines."""
    if n_line.degrees_of_freedom < 1:
        return {}
    t = float(stdtrit(n_line.degrees_of_freedom, 0.975))
    return {
        name: (line.slope - t * line.slope_error, line.slope + t * line.slope_error)
        for name, line in (("a", n_line), ("b", d_line))
    }


def _parameters(n_line: LogLogLine, d_line: LogLogLine, loss: PowerLaw) -> dict[str, float]:
    """Return the fitted parameters by name; the law of loss is E + c C^-g."""
    return {
        "N_coefficient": n_line.coefficient,
        "a": n_line.slope,
        "D_coefficient": d_line.coefficient,
        "b": d_line.slope,
        "E": loss.offset,
        "c": loss.coefficient,
        "g": -loss.exponent,
    }


def find_minima(
    curves: Sequence[Curve],
    flops_per_token: FlopsPerToken,
    *,
    interpolation: Interpolation = "parabola",
    window: float = WINDOW,
) -> list[Minimum]:
    """Find the minimum of every budget; `noise.moderate` estimates the noise for the checks."""
    parabolas = [_fit_parabola(curve, window) for curve in curves]
    noises = moderate(
        [0.0 if p is None else p.residual_sum for p in parabolas],
        [0 if p is None else p.degrees_of_freedom for p in parabolas],
    )
    minima = []
    for curve, parabola, noise in zip(curves, parabolas, noises, strict=True):
        found = _judge(curve, parabola, noise, flops_per_token)
        if interpolation == "akima" and found.status is not MinimumStatus.TOO_FEW:
            found = _akima(curve, found, flops_per_token)
        minima.append(found)
    return minima


def vertex_weights(minima: Sequence[Minimum]) -> Array:
    """Return the weights of the minima in the power laws, shape (minima,), mean 1.

    They are inverse variances of ln N_opt. The median variance is added to each variance, so that
    no single minimum decides the law.
    """
    errors = [m.log_params_error for m in minima]
    known = [e for e in errors if e is not None]
    if len(known) < len(errors) or not known or max(known) == 0:
        return np.ones(len(minima))
    variances = np.array(known) ** 2
    weights = 1.0 / (variances + np.median(variances))
    scaled: Array = weights / weights.mean()
    return scaled


def _fit_parabola(curve: Curve, window: float) -> _Parabola | None:
    """Fit a parabola to the losses near the best size; return None for fewer than 3 sizes.

    Exact duplicates of a run are dropped, because they would understate the noise.
    """
    if curve.num_sizes < 3:
        return None
    log_params, losses = np.unique(np.stack([np.log(curve.params), curve.losses]), axis=1)
    near = np.abs(log_params - log_params[np.argmin(losses)]) <= math.log(window)
    if len(np.unique(log_params[near])) >= _MIN_IN_WINDOW:
        log_params, losses = log_params[near], losses[near]
    centre = float(log_params.mean())
    x = log_params - centre
    design = np.stack([np.ones_like(x), x, x * x], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, losses, rcond=None)
    rest = losses - design @ coefficients
    c0, c1, c2 = (float(c) for c in coefficients)
    return _Parabola(
        centre, (c0, c1, c2), np.asarray(np.linalg.pinv(design.T @ design), dtype=float),
        float(rest @ rest), len(x) - 3, float(log_params.min()), float(log_params.max()),
    )  # fmt: skip


def _judge(
    curve: Curve,
    parabola: _Parabola | None,
    noise: Noise | None,
    flops_per_token: FlopsPerToken,
) -> Minimum:
    """Return the vertex of a parabola, and whether the power laws can use it."""
    if parabola is None:
        return Minimum(
            curve.budget_flops, None, None, None, MinimumStatus.TOO_FEW,
            f"{curve.num_sizes} different sizes; a parabola needs 3", curve.num_sizes,
            float(np.log(curve.params).mean()), (float(curve.losses.mean()), 0.0, 0.0),
        )  # fmt: skip
    c0, c1, c2 = parabola.coefficients
    status, reason, error = MinimumStatus.OK, "", None
    params = tokens = loss = None
    level = float(np.abs(curve.losses).max())
    if c2 <= 1e-12 * level:
        status = MinimumStatus.CONCAVE
        reason = "the loss is concave in log N and has no minimum"
    else:
        vertex = -c1 / (2 * c2)
        log_params = parabola.centre + vertex
        if noise is not None:
            slope = np.array([0.0, -1 / (2 * c2), c1 / (2 * c2 * c2)])
            error = noise.sigma * math.sqrt(float(slope @ parabola.inverse_normal @ slope))
            spread = noise.sigma * math.sqrt(parabola.inverse_normal[2, 2])
        if noise is not None and c2 < float(stdtrit(noise.freedom, 0.975)) * spread:
            status = MinimumStatus.FLAT
            reason = "the curvature is not larger than its noise"
        elif not parabola.low < log_params < parabola.high:
            side = "smaller" if log_params <= parabola.low else "larger"
            status = MinimumStatus.UNBRACKETED
            reason = f"the minimum is at a {side} size than all trained sizes"
        if abs(log_params) < 300:
            params, loss = math.exp(log_params), c0 - c1 * c1 / (4 * c2)
            tokens = curve.budget_flops / flops_per_token(params)
            if loss <= 0 and status is MinimumStatus.OK:
                status, reason = MinimumStatus.FLAT, "the minimum of the parabola is not positive"
    return Minimum(
        curve.budget_flops, params, tokens, loss, status, reason, curve.num_sizes,
        parabola.centre, parabola.coefficients, error,
    )  # fmt: skip


def _akima(curve: Curve, judged: Minimum, flops_per_token: FlopsPerToken) -> Minimum:
    """Return the minimum of an Akima spline of log L in log N (Porian et al. 2024).

    The status from the parabola's curvature is kept. A minimum at the smallest or the largest size
    counts as unbracketed.
    """
    from scipy.interpolate import Akima1DInterpolator  # slow import (0.5 s), rarely needed

    sizes = np.unique(curve.params)
    log_losses = np.array([np.log(curve.losses[curve.params == n]).mean() for n in sizes])
    fine = np.linspace(np.log(sizes[0]), np.log(sizes[-1]), 4001)
    spline = Akima1DInterpolator(np.log(sizes), log_losses)(fine)
    k = int(np.argmin(spline))
    params, loss = float(np.exp(fine[k])), float(np.exp(spline[k]))
    status, reason = judged.status, judged.reason
    if k in (0, len(fine) - 1):
        status = MinimumStatus.UNBRACKETED
        reason = "the lowest loss is at the smallest or the largest size"
    elif status is MinimumStatus.UNBRACKETED:
        status, reason = MinimumStatus.OK, ""
    return Minimum(
        judged.budget_flops, params, judged.budget_flops / flops_per_token(params), loss, status,
        reason, judged.num_sizes, judged.centre, judged.coefficients, judged.log_params_error,
    )  # fmt: skip
