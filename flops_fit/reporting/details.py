"""A fit's details as plain data, as `report --json` and `result.json` hold them, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from flops_fit.fitting.details import (
    CombinationDetails,
    Details,
    EnvelopeDetails,
    ExtrapolationDetails,
    FixedTokensLaw,
    Fold,
    Gain,
    GeneralDetails,
    IsoflopDetails,
    LawNumbers,
    LineErrors,
    Loss,
    Minimum,
    MinimumStatus,
    OwnError,
    Resampled,
    Spread,
    SurfaceDetails,
)
from flops_fit.fitting.law import Fit


def details_to_dict(fit: Fit) -> dict[str, Any]:
    """Details, folds and spread of a fit in one mapping; `details_from_dict` restores them."""
    folds = {"folds": [asdict(fold) for fold in fit.folds]} if fit.folds else {}
    spread = {} if fit.spread is None else _spread(fit.spread)
    if isinstance(fit.details, ExtrapolationDetails):
        return {**_extrapolation(fit.details), **folds, **spread}
    if isinstance(fit.details, SurfaceDetails):
        return {**_surface(fit.details), **spread, **folds}
    if isinstance(fit.details, IsoflopDetails):
        return {**_isoflop(fit.details), **folds}
    if isinstance(fit.details, CombinationDetails):
        return asdict(fit.details)
    if isinstance(fit.details, GeneralDetails):
        return {**_general(fit.details), **folds}
    return {**({} if fit.details is None else vars(fit.details)), **spread, **folds}


def details_from_dict(
    method: str, data: Mapping[str, Any]
) -> tuple[Details | None, tuple[Fold, ...], Spread | None]:
    """Return the inverse of `details_to_dict`; what an older file lacks gets its default."""
    folds = tuple(Fold(**fold) for fold in data.get("folds", ()))
    spread = None
    if "shrinkage" in data:
        spread = Spread(
            Resampled(data["resampled"]), data["num_draws"], data["degrees_of_freedom"],
            data["shrinkage"],
        )  # fmt: skip
    read = _READERS.get(method)
    return None if read is None or not data else read(data), folds, spread


def minimum_to_dict(minimum: Minimum) -> dict[str, Any]:
    """Return a minimum as plain data."""
    return {
        "budget_flops": minimum.budget_flops,
        "params": minimum.params,
        "tokens": minimum.tokens,
        "loss": minimum.loss,
        "status": str(minimum.status),
        "reason": minimum.reason,
        "num_sizes": minimum.num_sizes,
        "log_params_error": minimum.log_params_error,
        "parabola": {
            "log_params_center": minimum.centre,
            "coefficients": list(minimum.coefficients),
        },
    }


def gain_from_dict(data: Mapping[str, Any]) -> Gain:
    """Return the inverse of `dataclasses.asdict`: intervals are pairs again."""
    pairs = {
        key: None if data[key] is None else tuple(data[key])
        for key in ("params_interval", "loss_interval")
    }
    return Gain(**{**data, **pairs})


def _spread(spread: Spread) -> dict[str, Any]:
    return {**asdict(spread), "resampled": str(spread.resampled)}


def _surface(details: SurfaceDetails) -> dict[str, Any]:
    beside = details.with_outliers
    return {
        "loss": str(details.loss),
        "huber_delta": details.huber_delta,
        "residual_mad": details.residual_mad,
        "bounds_hit": list(details.bounds_hit),
        "irreducible_loss": details.irreducible_loss,
        **({} if beside is None else {"with_outliers": asdict(beside)}),
    }


def _surface_numbers(data: Mapping[str, Any]) -> dict[str, Any]:
    beside = data.get("with_outliers")
    return {
        "loss": Loss(data.get("loss", Loss.ADAPTIVE)),
        "huber_delta": data.get("huber_delta"),
        "residual_mad": data.get("residual_mad"),
        "bounds_hit": tuple(data.get("bounds_hit", ())),
        "irreducible_loss": data.get("irreducible_loss"),
        "with_outliers": None if beside is None else LawNumbers(**beside),
    }


def _read_surface(data: Mapping[str, Any]) -> SurfaceDetails:
    return SurfaceDetails(**_surface_numbers(data))


def _extrapolation(details: ExtrapolationDetails) -> dict[str, Any]:
    errors = details.back_test_error or {}
    return {
        **_surface(details),
        "power": details.power,
        "back_test_error": {str(power): error for power, error in errors.items()},
        "back_test_reach_decades": details.back_test_reach_decades,
    }


def _read_extrapolation(data: Mapping[str, Any]) -> ExtrapolationDetails:
    errors = data.get("back_test_error", {})
    return ExtrapolationDetails(
        **_surface_numbers(data),
        power=data.get("power", 0),
        back_test_error={int(power): error for power, error in errors.items()},
        back_test_reach_decades=data.get("back_test_reach_decades", 0.0),
    )


def _isoflop(details: IsoflopDetails) -> dict[str, Any]:
    covariance = details.loss_covariance
    rows = {} if covariance is None else {"loss_covariance": [list(row) for row in covariance]}
    line = details.line_errors
    return {
        "degrees_of_freedom": details.degrees_of_freedom,
        **rows,
        "line_errors": None if line is None else asdict(line),
        "interpolation": details.interpolation,
        "window": details.window,
        "minima": [minimum_to_dict(minimum) for minimum in details.minima],
    }


def _read_isoflop(data: Mapping[str, Any]) -> IsoflopDetails:
    line, covariance = data.get("line_errors"), data.get("loss_covariance")
    return IsoflopDetails(
        degrees_of_freedom=data.get("degrees_of_freedom", 0),
        line_errors=None if line is None else LineErrors(**line),
        loss_covariance=None if covariance is None else tuple(tuple(row) for row in covariance),
        interpolation=data.get("interpolation", "parabola"),
        window=data.get("window"),
        minima=tuple(_read_minimum(minimum) for minimum in data.get("minima", ())),
    )


def _read_minimum(data: Mapping[str, Any]) -> Minimum:
    c0, c1, c2 = data["parabola"]["coefficients"]
    return Minimum(
        data["budget_flops"], data["params"], data["tokens"], data["loss"],
        MinimumStatus(data["status"]), data["reason"], data["num_sizes"],
        data["parabola"]["log_params_center"], (c0, c1, c2), data.get("log_params_error"),
    )  # fmt: skip


def _general(details: GeneralDetails) -> dict[str, Any]:
    fixed = details.fixed_tokens
    return {
        "role": "comparison",
        "huber_delta": details.huber_delta,
        "objective_of_surface": details.objective_of_surface,
        **({} if fixed is None else {"fixed_tokens": [asdict(law) for law in fixed]}),
    }


def _read_general(data: Mapping[str, Any]) -> GeneralDetails:
    fixed = data.get("fixed_tokens")
    return GeneralDetails(
        data["huber_delta"],
        data["objective_of_surface"],
        None if fixed is None else tuple(FixedTokensLaw(**law) for law in fixed),
    )


def _read_envelope(data: Mapping[str, Any]) -> EnvelopeDetails:
    return EnvelopeDetails(data["reading"], data["num_points"], data["num_on_envelope"])


def _read_combination(data: Mapping[str, Any]) -> CombinationDetails:
    errors = tuple(OwnError(**error) for error in data.get("own_errors", ()))
    return CombinationDetails(**{**data, "own_errors": errors})


_READERS: dict[str, Callable[[Mapping[str, Any]], Details]] = {
    "surface": _read_surface,
    "extrapolation": _read_extrapolation,
    "isoflop": _read_isoflop,
    "general": _read_general,
    "kaplan": _read_general,
    "envelope": _read_envelope,
    "combination": _read_combination,
}
