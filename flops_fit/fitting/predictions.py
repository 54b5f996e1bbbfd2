"""Optima at target budgets with intervals in three parts: noise, model, residual.

noise: the standard error that the runs' scatter gives the law (bootstrap, or Wald's); model: the
error of the rolling back-test beyond the residuals, grown with the log-distance to the target;
residual: the scatter of a single run about the law. Parts are standard errors of ln params and
ln loss; they add in squares, and the t distribution makes 95 % intervals of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from flops_fit.fitting.backtest import loss_error, params_error, reach
from flops_fit.fitting.combination import Combination
from flops_fit.fitting.details import Fold, IsoflopDetails
from flops_fit.fitting.intervals import draws_of, t_interval, target_errors
from flops_fit.fitting.law import Fit, FlopsPerToken
from flops_fit.fitting.points import Interval, Observation, Optimum
from flops_fit.fitting.robust import mad_sigma


def largest_flops(observations: Sequence[Observation]) -> float:
    """The compute that counts as observed: the largest budget or FLOPs of a run."""
    planned = max((o.budget_flops for o in observations if o.budget_flops), default=0.0)
    return max(planned, max(o.flops for o in observations))


def predict(fit: Fit, targets: Sequence[float], *, has_model: bool = True) -> list[Optimum]:
    """The fit's optimum at each target, with what is known of its uncertainty.

    Args:
        fit: any method's; its draws give the noise, its folds the model's part.
        targets: budgets in FLOPs.
        has_model: whether the model's part is counted; without it beyond the runs noise is all.
    """
    if not fit.used or isinstance(fit.frontier, Combination):
        return [fit.predict(target) for target in targets]
    top = largest_flops(fit.used)
    folds = fit.folds if has_model else ()
    draws = draws_of(fit)
    isoflop = fit.details if isinstance(fit.details, IsoflopDetails) else None
    count = fit.flops_per_token
    if draws is not None and len(targets):
        params_noise, loss_noise = target_errors(draws, np.array(targets, dtype=float), count)
    found = []
    for k, target in enumerate(targets):
        optimum = fit.predict(target)
        distance = max(0.0, math.log(target / top))
        parts = _model_parts(fit, folds, distance)
        freedom: float | None = None
        if draws is not None:
            parts |= {"params_noise": float(params_noise[k]), "loss_noise": float(loss_noise[k])}
            freedom = draws.degrees_of_freedom
        elif isoflop is not None and isoflop.line_errors and isoflop.degrees_of_freedom > 0:
            parts["params_noise"] = isoflop.line_errors.at(target)
            freedom = isoflop.degrees_of_freedom
            if isoflop.loss_covariance is not None and optimum.loss is not None:
                error = loss_law_error(fit.parameters, isoflop.loss_covariance, target)
                parts["loss_noise"] = error / optimum.loss
        found.append(_assemble(fit, optimum, parts, freedom, count, distance, folds))
    return found


def loss_law_error(
    parameters: Mapping[str, float], covariance: Sequence[Sequence[float]], flops: float
) -> float:
    """Standard error of E + c C^-g at a budget, from the covariance of E, ln c and g."""
    term = parameters["c"] * flops ** -parameters["g"]
    slope = np.array([1.0, term, -term * math.log(flops)])
    variance = slope @ np.array(covariance) @ slope
    return math.sqrt(max(float(variance), 0.0))


def _model_parts(fit: Fit, folds: Sequence[Fold], distance: float) -> dict[str, float]:
    """Model and residual parts at a log-distance beyond the runs; no model part within them."""
    if fit.method not in ("surface", "extrapolation", "isoflop"):
        return {}
    has_scatter = fit.method != "isoflop" and len(fit.residuals) > 0
    residual = mad_sigma(np.array(fit.residuals)) if has_scatter else 0.0
    parts = {"loss_residual": residual}
    if distance == 0:
        return parts | {"params_model": 0.0, "loss_model": 0.0}
    loss, params = loss_error(folds, distance), params_error(folds, distance)
    if loss is not None and params is not None:
        parts["loss_model"] = math.sqrt(max(loss**2 - residual**2, 0.0))
        parts["params_model"] = params
    return parts


def _assemble(
    fit: Fit,
    optimum: Optimum,
    parts: dict[str, float],
    freedom: float | None,
    count: FlopsPerToken,
    distance: float,
    folds: Sequence[Fold],
) -> Optimum:
    """The optimum with its intervals, where noise is known."""
    params_interval = tokens_interval = loss_interval = None
    if freedom is not None:
        error = math.hypot(parts["params_noise"], parts.get("params_model", 0.0))
        low, high = _exp(t_interval(math.log(optimum.params), error, freedom))
        # Where next to nothing is known: at least one param, and no more than one FLOP for each.
        low, high = max(low, 1.0), min(high, optimum.flops)
        params_interval = min(low, optimum.params), max(high, optimum.params)
        few, many = (optimum.flops / count(params) for params in reversed(params_interval))
        tokens_interval = max(few, min(1.0, optimum.tokens)), many
        if optimum.loss is not None and "loss_noise" in parts:
            error = math.hypot(
                parts["loss_noise"], parts.get("loss_model", 0.0), parts["loss_residual"]
            )
            loss_interval = _exp(t_interval(math.log(optimum.loss), error, freedom))
    return replace(
        optimum,
        params_interval=params_interval,
        tokens_interval=tokens_interval,
        loss_interval=loss_interval,
        method=fit.method,
        extrapolation_decades=distance / math.log(10),
        parts=parts,
        is_supported=distance == 0 or distance <= reach(folds) * 1.05,
    )


def _exp(interval: Interval) -> Interval:
    """An interval of a logarithm as one of the number, kept within what a float holds."""
    low, high = (max(min(value, 700.0), -700.0) for value in interval)
    return math.exp(low), math.exp(high)
