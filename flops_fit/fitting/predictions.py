"""Optima at target budgets, with intervals from three sources of error.

- noise: standard error of the law from the noise of the runs (bootstrap or Wald);
- model: error of the rolling back-test beyond the residuals, scaled with the log-distance to the
  target;
- residual: standard deviation of a single run about the law.

Each is a standard error of ln params or ln loss. They add in quadrature; Student's t distribution
gives 95 % intervals.
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
    """Return the largest observed compute: the largest budget or FLOPs of a run."""
    planned = max((o.budget_flops for o in observations if o.budget_flops), default=0.0)
    return max(planned, max(o.flops for o in observations))


def predict(fit: Fit, targets: Sequence[float], *, has_model: bool = True) -> list[Optimum]:
    """Predict the optimum at each target, with intervals where the errors are known.

    Args:
        fit: the fit of any method; its draws give the noise, its folds the model error.
        targets: budgets in FLOPs.
        has_model: whether intervals beyond the runs include the model error.
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
    """Return the standard error of E + c C^-g from the covariance of E, ln c and g."""
    term = parameters["c"] * flops ** -parameters["g"]
    slope = np.array([1.0, term, -term * math.log(flops)])
    variance = slope @ np.array(covariance) @ slope
    return math.sqrt(max(float(variance), 0.0))


def _model_parts(fit: Fit, folds: Sequence[Fold], distance: float) -> dict[str, float]:
    """Return model and residual errors at a log-distance beyond the runs (0: within them)."""
    if fit.method not in ("surface", "extrapolation", "isoflop"):
        return {}
    has_loss_residuals = fit.method != "isoflop" and len(fit.residuals) > 0
    residual = mad_sigma(np.array(fit.residuals)) if has_loss_residuals else 0.0
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
    """Return the optimum with its intervals; without known noise they are None."""
    params_interval = tokens_interval = loss_interval = None
    if freedom is not None:
        error = math.hypot(parts["params_noise"], parts.get("params_model", 0.0))
        low, high = _exp(t_interval(math.log(optimum.params), error, freedom))
        # Bounds for very wide intervals: at least one param, and at least one FLOP per param.
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
    """Exponentiate an interval of a logarithm, limited to e^-700 and e^700."""
    low, high = (max(min(value, 700.0), -700.0) for value in interval)
    return math.exp(low), math.exp(high)
