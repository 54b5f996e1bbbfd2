"""The exponents of one sweep under each convention of what N and C are.

The same runs give other exponents when N leaves the embedding tables out, or counts only the
experts that a token visits, and others again when C is taken as 6 N D instead of being counted:
that is how Kaplan et al. and Hoffmann et al. came to different laws (Pearce and Song 2024,
arXiv:2406.12907; Porian et al. 2024, arXiv:2406.19146). So each is fitted and shown.
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
"""Beyond it the fits would take longer than the rest of a report."""

_FIELDS = {"all": "params", "non-embedding": "params_non_embedding", "active": "params_active"}


def by_convention(fits: Mapping[str, Fit]) -> list[dict[str, Any]]:
    """How the optimum grows with compute, refitted under each convention that the runs know.

    Args:
        fits: by method; the same runs are fitted again by the same choices (loss, irreducible loss,
            interpolation).

    Returns:
        Rows of `params_convention` (`all`, `non-embedding`, `active`), `flops_convention`
        (`counted`: as in the runs; `6ND`: with that N), `method`, and the exponents `params` and
        `tokens` of N and D against C. Of a surface with counted FLOPs, which grow as no power of N,
        they are the mean slopes over the range of the runs. Empty where every convention counts
        the same, and for more than 2,000 observations.
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
                continue  # The report says elsewhere why a method gives no law.
            rows += _rows(name, found, seen)
    return rows if len({row["params_convention"] for row in rows}) > 1 else []


def _refit_isoflop(seen: Sequence[Observation], known: Fit) -> Fit:
    details = known.details if isinstance(known.details, IsoflopDetails) else IsoflopDetails()
    return fit_isoflop(group_curves(seen), seen, interpolation=details.interpolation)


def _refit_surface(seen: Sequence[Observation], known: Fit) -> Fit:
    """The surface through these runs, which hold no outliers."""
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
    """What one fit says: with C as counted and, for a surface, as 6 N D."""
    row = {"params_convention": name, "method": found.method}
    exponents = {key: found.exponents.get(key) for key in ("params", "tokens")}
    if found.method == "isoflop":
        # An isoFLOP curve is a set of runs of one counted compute: 6 N D would break it up.
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
    """The observations with N by each convention, those that differ."""
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
