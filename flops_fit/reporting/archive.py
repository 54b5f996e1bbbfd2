"""Fits as plain data and back, so that a result can be kept without keeping code.

A law that this package knows is written by its parameters. Any other frontier is written as
points, 40 to the decade from a thousandth of the least to a million times the largest observed
compute, and read back as straight lines between them in log-log; outside them the end lines go on.
Numbers that are not finite are absent.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flops_fit.errors import FitError, Note, RunDirError
from flops_fit.fitting.details import FitStatus, Waste
from flops_fit.fitting.law import (
    Fit,
    FlopsPerToken,
    Frontier,
    GeneralSurface,
    PowerLaw,
    PowerLawFrontier,
    Surface,
    SurfaceFrontier,
)
from flops_fit.fitting.points import Excluded, Observation, Optimum, ReadRow
from flops_fit.manifest.files import (
    Positive,
    Text,
    from_plain,
    read_json,
    what_is_wrong,
    write_atomic,
)
from flops_fit.manifest.mistakes import shown
from flops_fit.reporting.details import details_from_dict, details_to_dict, gain_from_dict

_FILE = "result.json"
_FORMAT = 1
_PER_DECADE = 40
_AS_IS = frozenset({int, str, bool, type(None)})


@dataclass(frozen=True)
class SampledFrontier:
    """A frontier known by points: straight lines between them in log-log coordinates.

    Attributes:
        points: at least two, by rising `flops`.
    """

    points: tuple[Optimum, ...]

    @classmethod
    def of(cls, frontier: Frontier, low: float, high: float) -> SampledFrontier:
        """Ask a frontier from a thousandth of `low` to a million times `high` FLOPs."""
        start, end = math.log10(low) - 3, math.log10(high) + 6
        count = math.ceil((end - start) * _PER_DECADE)
        flops = (10 ** (start + (end - start) * i / count) for i in range(count + 1))
        points = []
        for budget in flops:
            # A frontier may have no possible answer so far from the runs.
            with suppress(FitError):
                points.append(frontier.optimum(budget))
        return cls(tuple(points))

    def optimum(self, flops: float) -> Optimum:
        """Return the allocation at `flops`, between or beyond the points."""
        knots = [point.flops for point in self.points]
        right = min(max(bisect_right(knots, flops), 1), len(knots) - 1)
        below, above = self.points[right - 1], self.points[right]
        share = math.log(flops / below.flops) / math.log(above.flops / below.flops)

        def between(low: float | None, high: float | None) -> float | None:
            if low is None or high is None:
                return None
            return math.exp(math.log(low) * (1 - share) + math.log(high) * share)

        def interval(name: str) -> tuple[float, float] | None:
            low, high = getattr(below, name), getattr(above, name)
            if low is None or high is None:
                return None
            first, last = between(low[0], high[0]), between(low[1], high[1])
            return None if first is None or last is None else (first, last)

        params, tokens = between(below.params, above.params), between(below.tokens, above.tokens)
        # Counts are always known; only losses and intervals may be absent.
        assert params is not None
        assert tokens is not None
        return Optimum(
            flops, params, tokens, between(below.loss, above.loss),
            interval("params_interval"), interval("tokens_interval"), interval("loss_interval"),
        )  # fmt: skip


def plain(value: Any) -> Any:
    """Return the value as JSON-ready data: tuples become lists, non-finite numbers become None."""
    kind = type(value)
    if kind is float:
        return value if math.isfinite(value) else None
    if kind in _AS_IS:
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        # Columns of 100,000 numbers are common, so they are not taken one call each.
        return list(value) if set(map(type, value)) <= _AS_IS else [plain(v) for v in value]
    return plain(float(value))


def write_fields(directory: Path, held: Mapping[str, Any]) -> Path:
    """Write the fields of a Result into a directory; return the file's path."""
    path = directory / _FILE
    data = {"format": _FORMAT, **fields_to_dict(held)}
    # Without indents json's fast encoder serves: a tenth of the time for many observations.
    write_atomic(path, json.dumps(data, allow_nan=False) + "\n")
    return path


def read_fields(directory: Path) -> dict[str, Any]:
    """Return the fields of the Result that was kept in a directory.

    Raises:
        RunDirError: there is none, or it was written in another format.
    """
    path = directory / _FILE
    data = read_json(path)
    if data.get("format") != _FORMAT:
        raise RunDirError(
            f"`{path}` has format {data.get('format')!r}; this version reads {_FORMAT}",
            hint="make the report again from the run directory or the table",
        )
    return fields_from_dict(data, path=path)


def fields_to_dict(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a Result as plain data; `fields_from_dict` makes them whole again."""
    seen = held["observations"]
    positions = {observation: place for place, observation in enumerate(seen)}
    data = {
        "name": held["name"],
        "unit": held["unit"],
        "loss_unit": held["loss_unit"],
        "fits": {method: fit_to_dict(fit, positions) for method, fit in held["fits"].items()},
        "failures": {
            method: {"message": error.message, "code": error.code, "hint": error.hint}
            for method, error in held["failures"].items()
        },
        "observations": observations_to_dict(seen),
        "excluded": [asdict(excluded) for excluded in held["excluded"]],
        "targets": held["targets"],
        "notes": [note.to_dict() for note in held["notes"]],
        "plan_warnings": [note.to_dict() for note in held["plan_warnings"]],
        "run_dir": None if held["run_dir"] is None else str(held["run_dir"]),
        "predictions": [asdict(optimum) for optimum in held["predictions"]],
        "wastes": [asdict(waste) for waste in held["wastes"]],
        "gains": [asdict(gain) for gain in held["gains"]],
        "rows_read": [asdict(row) for row in held["rows_read"]],
    }
    return {key: plain(value) for key, value in data.items()}


def fields_from_dict(data: Mapping[str, Any], *, path: Path) -> dict[str, Any]:
    """Return the inverse of `fields_to_dict`; `path` names the file in an error.

    Raises:
        RunDirError: a field is missing or broken.
    """
    held: dict[str, Any] = {}
    for name, read in _readers(held).items():
        try:
            held[name] = read(data.get(name, []) if name in LATER_FIELDS else data[name])
        except KeyError as error:
            raise _broken(path, name, f"has no `{error.args[0]}`") from None
        except ValidationError as error:
            raise _broken(path, name, what_is_wrong(error)) from None
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            found = f"begins with {shown(data[name])}, expected what `report` writes ({error})"
            raise _broken(path, name, found) from None
    return held


LATER_FIELDS = ("wastes", "gains", "rows_read")
"""Fields that files of the first versions lack."""


def _readers(held: Mapping[str, Any]) -> dict[str, Callable[[Any], Any]]:
    """Return how each field is read; `held` has the fields that were read before it."""
    notes = partial(from_plain, tuple[Note, ...])
    return {
        "name": partial(from_plain, Text),
        "unit": partial(from_plain, Text),
        "loss_unit": partial(from_plain, Text),
        "observations": observations_from_dict,
        "fits": lambda fits: {
            m: fit_from_dict(fit, held["observations"]) for m, fit in fits.items()
        },
        "failures": lambda failures: {
            method: FitError(error["message"], code=error["code"], hint=error["hint"])
            for method, error in failures.items()
        },
        "excluded": partial(from_plain, tuple[Excluded, ...]),
        "targets": lambda targets: tuple(from_plain(Positive, each) for each in targets),
        "notes": notes,
        "plan_warnings": notes,
        "run_dir": lambda run_dir: None if run_dir is None else Path(run_dir),
        "predictions": lambda optima: tuple(optimum_from_dict(optimum) for optimum in optima),
        "wastes": partial(from_plain, tuple[Waste, ...]),
        "gains": lambda gains: tuple(gain_from_dict(gain) for gain in gains),
        "rows_read": partial(from_plain, tuple[ReadRow, ...]),
    }


def _broken(path: Path, name: str, found: str) -> RunDirError:
    return RunDirError(
        f"`{path}` is not usable: `{name}` {found}",
        hint="make the report again from the run directory or the table",
    )


def fit_to_dict(fit: Fit, positions: Mapping[Observation, int]) -> dict[str, Any]:
    """Return a fit as plain data; `fit_from_dict` makes it whole again.

    Args:
        fit: any fit.
        positions: of observations that are kept elsewhere; `used` holds only these positions.
    """
    others = [o for o in fit.used if o not in positions]
    places = {o: len(positions) + k for k, o in enumerate(others)}
    return {
        "method": fit.method,
        "status": str(fit.status),
        "parameters": finite(fit.parameters),
        "exponents": finite(fit.exponents),
        "frontier": _frontier_to_dict(fit),
        "objective": fit.objective,
        "r_squared": finite(fit.r_squared),
        "residuals": list(fit.residuals),
        "used": [positions[o] if o in positions else places[o] for o in fit.used],
        "others": observations_to_dict(others),
        "excluded": [asdict(e) for e in fit.excluded],
        "standard_errors": finite(fit.standard_errors),
        "intervals": dict(fit.intervals),
        "notes": [note.to_dict() for note in fit.notes],
        "details": details_to_dict(fit),
        "draws": _columns(fit.draws),
    }


def fit_from_dict(data: Mapping[str, Any], observations: Sequence[Observation]) -> Fit:
    """Return the inverse of `fit_to_dict`, given the observations at those positions."""
    known = [*observations, *observations_from_dict(data["others"])]
    details, folds, spread = details_from_dict(data["method"], data["details"])
    return Fit(
        method=data["method"],
        status=FitStatus(data["status"]),
        parameters=data["parameters"],
        exponents=data["exponents"],
        frontier=_frontier_from_dict(data["frontier"]),
        objective=data["objective"],
        r_squared=data["r_squared"],
        residuals=tuple(data["residuals"]),
        used=tuple(known[place] for place in data["used"]),
        excluded=tuple(Excluded(**e) for e in data["excluded"]),
        standard_errors=data["standard_errors"],
        intervals={k: (low, high) for k, (low, high) in data["intervals"].items()},
        notes=tuple(Note(**note) for note in data["notes"]),
        details=details,
        folds=folds,
        draws=_rows(data["draws"]),
        spread=spread,
    )


def observations_to_dict(observations: Sequence[Observation]) -> dict[str, list[Any]]:
    """Observations by column, without the columns that none of them knows."""
    names = [each.name for each in fields(Observation)]
    columns = {name: [getattr(o, name) for o in observations] for name in names}
    return {name: values for name, values in columns.items() if any(v is not None for v in values)}


def observations_from_dict(columns: Mapping[str, Sequence[Any]]) -> tuple[Observation, ...]:
    """Return the inverse of `observations_to_dict`.

    Raises:
        ValueError: a column holds what is no number, or no text.
    """
    for name, values in columns.items():
        usual = {str} if name in ("name", "run") else {int, float}
        if not {type(value) for value in values} <= {*usual, type(None)}:
            raise ValueError(f"`{name}` is no list of {'texts' if str in usual else 'numbers'}")
    rows = zip(*columns.values(), strict=True)
    return tuple(Observation(**dict(zip(columns, row, strict=True))) for row in rows)


def _columns(draws: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Draws by parameter: the names once instead of in every draw."""
    names = list(draws[0]) if draws else []
    return {name: [float(draw[name]) for draw in draws] for name in names}


def _rows(columns: Mapping[str, Sequence[float]]) -> tuple[Mapping[str, float], ...]:
    """Return the inverse of `_columns`."""
    values = zip(*columns.values(), strict=True)
    return tuple(dict(zip(columns, row, strict=True)) for row in values)


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Return the finite numbers."""
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}


def _frontier_to_dict(fit: Fit) -> dict[str, Any]:
    frontier = fit.frontier
    if isinstance(frontier, PowerLawFrontier):
        loss = None if frontier.loss is None else asdict(frontier.loss)
        return {
            "kind": "power_law", "params": asdict(frontier.params), "loss": loss,
            "flops_per_token": asdict(frontier.flops_per_token),
        }  # fmt: skip
    surface: object = frontier
    count = FlopsPerToken()
    if isinstance(frontier, SurfaceFrontier):
        surface = getattr(frontier.loss, "__self__", None)
        count = frontier.flops_per_token
    if isinstance(surface, Surface | GeneralSurface):
        kind = "surface" if isinstance(surface, Surface) else "general"
        return {"kind": kind, "surface": asdict(surface), "flops_per_token": asdict(count)}
    spent = [o.flops for o in fit.used] or [1.0]
    sampled = (
        frontier
        if isinstance(frontier, SampledFrontier)
        else SampledFrontier.of(frontier, min(spent), max(spent))
    )
    return {"kind": "sampled", "points": [asdict(point) for point in sampled.points]}


def _frontier_from_dict(data: Mapping[str, Any]) -> Frontier:
    if data["kind"] == "sampled":
        return SampledFrontier(tuple(optimum_from_dict(point) for point in data["points"]))
    count = FlopsPerToken(**{key: tuple(value) for key, value in data["flops_per_token"].items()})
    if data["kind"] == "power_law":
        loss = None if data["loss"] is None else PowerLaw(**data["loss"])
        return PowerLawFrontier(PowerLaw(**data["params"]), count, loss)
    make = Surface if data["kind"] == "surface" else GeneralSurface
    surface = make(**data["surface"])
    if not count.params:
        return surface
    return SurfaceFrontier(surface.loss, count, surface.log_params)


def optimum_from_dict(data: Mapping[str, Any]) -> Optimum:
    """Return the inverse of `dataclasses.asdict`: intervals are pairs again."""
    intervals: Sequence[str] = ("params_interval", "tokens_interval", "loss_interval")
    pairs = {key: None if data[key] is None else tuple(data[key]) for key in intervals}
    return Optimum(**{**data, **pairs})


def describe_fit(fit: Fit) -> dict[str, Any]:
    """Return a fit's numbers, without the observations behind them."""
    return {
        "status": str(fit.status),
        "parameters": finite(fit.parameters),
        "intervals": plain(fit.intervals),
        "standard_errors": finite(fit.standard_errors),
        "objective": plain(fit.objective),
        "exponents": {name: plain(fit.exponents.get(name)) for name in ("params", "tokens")},
        "r_squared": finite(fit.r_squared),
        "notes": [note.to_dict() for note in fit.notes],
        "details": plain(details_to_dict(fit)),
    }


def describe_failure(error: FitError) -> dict[str, Any]:
    """Return a method that gave no fit, in the shape of one that did."""
    return {
        "status": error.code, "parameters": {}, "intervals": {}, "standard_errors": {},
        "objective": None, "exponents": {"params": None, "tokens": None}, "r_squared": {},
        "notes": [{"code": error.code, "message": error.message}], "details": {},
    }  # fmt: skip


def describe_excluded(excluded: Excluded) -> dict[str, Any]:
    """`{"row": 12, "reason": ...}` for a line of a table, `{"trial_id": ...}` for a trial."""
    kind, _, number = excluded.name.partition(" ")
    if kind == "row" and number.isdigit():
        return {"row": int(number), "reason": excluded.reason}
    return {"trial_id": excluded.name, "reason": excluded.reason}
