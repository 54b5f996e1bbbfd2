"""Exponents of one sweep under each convention for N and C.

The exponents depend on whether N includes embedding tables, whether N counts all experts or only
the active ones, and whether C is counted or taken as 6 N D. This explains much of the difference
between the laws of Kaplan et al. and of Hoffmann et al. (Pearce and Song 2024, arXiv:2406.12907;
Porian et al. 2024, arXiv:2406.19146). Therefore every convention is fitted and reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flops_fit.errors import FitError
from flops_fit.fitting.curves import group_curves
from flops_fit.fitting.details import IsoflopDetails, SurfaceDetails
from flops_fit.fitting.isoflop import fit_isoflop
from flops_fit.fitting.law import Fit
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Observation
from flops_fit.fitting.surface import LITERATURE_DELTA, describe, solve_surface

MOST_OBSERVATIONS = 2000
"""For more observations, these fits would take longer than the rest of a report."""

_FIELDS = {"all": "params", "non-embedding": "params_non_embedding", "active": "params_active"}


def by_convention(fits: Mapping[str, Fit]) -> list[dict[str, Any]]:
    """Return the exponents of the optimum, refitted under each convention that the runs support.

    Args:
        fits: fits by method; the refits use the same runs and options (loss, irreducible loss,
            interpolation).

    Returns:
        Rows of `params_convention` (`all`, `non-embedding`, `active`), `flops_convention`
        (`counted`: as in the runs; `6ND`: with that N), `method`, and the exponents `params` and
        `tokens` of N and D in C. Counted FLOPs are not a power of N, so for a surface the exponents
        are then mean slopes over the range of the runs. The list is empty if all conventions give
        the same N, or for more than 2,000 observations.
    """
    asked = [(fits[method], refit) for method, refit in _REFITS.items() if method in fits]
    rows: list[dict[str, Any]] = []
    for name in _FIELDS:
        for known, refit in asked:
            if not 0 < len(known.used) <= MOST_OBSERVATIONS:
                continue
            seen = _variants(known.used).get(name)
            if seen is None:
                continue
            try:
                found = known if name == "all" else refit(seen, known)
            except FitError:
                continue  # The report states elsewhere why a method has no law.
            rows += _rows(name, found, seen)
    return rows if len({row["params_convention"] for row in rows}) > 1 else []


def _refit_isoflop(seen: Sequence[Observation], known: Fit) -> Fit:
    details = known.details if isinstance(known.details, IsoflopDetails) else IsoflopDetails()
    return fit_isoflop(group_curves(seen), seen, interpolation=details.interpolation)


def _refit_surface(seen: Sequence[Observation], known: Fit) -> Fit:
    """Fit the surface to these runs, from which outliers are already removed."""
    details = known.details if isinstance(known.details, SurfaceDetails) else SurfaceDetails()
    options = FitOptions(
        loss=details.loss,
        huber_delta=details.huber_delta or LITERATURE_DELTA,
        irreducible_loss=details.irreducible_loss,
    )
    return describe(solve_surface(seen, options, drop_outliers=False))


_REFITS: dict[str, Callable[[Sequence[Observation], Fit], Fit]] = {
    "isoflop": _refit_isoflop,
    "surface": _refit_surface,
}


def _rows(name: str, found: Fit, seen: Sequence[Observation]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one fit: for counted C and, for a surface, for 6 N D."""
    row = {"params_convention": name, "method": found.method}
    exponents = {key: found.exponents.get(key) for key in ("params", "tokens")}
    if found.method == "isoflop":
        # An isoFLOP curve has one counted compute; 6 N D would split it.
        yield {**row, "flops_convention": "counted", **exponents}
        return
    low, high = min(o.flops for o in seen), max(o.flops for o in seen)
    if high > low:
        first, last = found.predict(low), found.predict(high)
        rise = math.log(high / low)
        yield {
            **row,
            "flops_convention": "counted",
            "params": math.log(last.params / first.params) / rise,
            "tokens": math.log(last.tokens / first.tokens) / rise,
        }
    yield {**row, "flops_convention": "6ND", **exponents}


def _variants(observations: Sequence[Observation]) -> dict[str, list[Observation]]:
    """Return the observations with N by each convention; equal ones are listed once."""
    known: list[list[float]] = []
    found: dict[str, list[Observation]] = {}
    for name, attribute in _FIELDS.items():
        counts = [getattr(seen, attribute) for seen in observations]
        if any(count is None or count <= 0 for count in counts) or counts in known:
            continue
        known.append(counts)
        pairs = zip(observations, counts, strict=True)
        found[name] = [replace(seen, params=float(count)) for seen, count in pairs]
    return found
