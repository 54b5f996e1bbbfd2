"""The exponents of one sweep under each convention of what N and C are.

The same runs give other exponents when N leaves the embedding tables out, or counts only the
experts that a token visits, and others again when C is taken as 6 N D instead of being counted:
that is how Kaplan et al. and Hoffmann et al. came to different laws (Pearce and Song 2024,
arXiv:2406.12907; Porian et al. 2024, arXiv:2406.19146). So each is fitted and shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from flops_fit.errors import FitError
from flops_fit.fitting.fit import fit
from flops_fit.law import Fit
from flops_fit.points import Observation

MOST_OBSERVATIONS = 2000
"""Beyond it the fits would take longer than the rest of a report."""

_FIELDS = {"all": "params", "non-embedding": "params_non_embedding", "active": "params_active"}


def by_convention(observations: Sequence[Observation]) -> list[dict[str, Any]]:
    """How the optimum grows with compute, refitted under each convention that the runs know.

    Args:
        observations: finished trials, none that is left out of the fits.

    Returns:
        Rows of `params_convention` (`all`, `non-embedding`, `active`), `flops_convention`
        (`counted`: as in the runs; `6ND`: with that N), `method`, and the exponents `params` and
        `tokens` of N and D against C. Of a surface with counted FLOPs, which grow as no power of N,
        they are the mean slopes over the range of the runs. Empty where every convention counts
        the same, and for more than 2,000 observations.
    """
    if not 0 < len(observations) <= MOST_OBSERVATIONS:
        return []
    rows: list[dict[str, Any]] = []
    for name, seen in _variants(observations):
        for method in ("isoflop", "surface"):
            try:
                found = fit(seen, method=method)
            except FitError:
                continue  # The report says elsewhere why a method gives no law.
            rows += _rows(name, found, seen)
    return rows if len({row["params_convention"] for row in rows}) > 1 else []


def _rows(name: str, found: Fit, seen: Sequence[Observation]) -> Iterator[dict[str, Any]]:
    """What one fit says: with C as counted and, for a surface, as 6 N D."""
    row = {"params_convention": name, "method": found.method}
    exponents = {key: found.exponents.get(key) for key in ("params", "tokens")}
    if found.method == "isoflop":
        # An isoFLOP curve is a set of runs of one counted compute: 6 N D would break it up.
        yield {**row, "flops_convention": "counted", **exponents}
        return
    low, high = min(o.flops for o in seen), max(o.flops for o in seen)
    first, last = found.predict(low), found.predict(high)
    rise = math.log(high / low)
    yield {
        **row,
        "flops_convention": "counted",
        "params": math.log(last.params / first.params) / rise,
        "tokens": math.log(last.tokens / first.tokens) / rise,
    }
    yield {**row, "flops_convention": "6ND", **exponents}


def _variants(observations: Sequence[Observation]) -> Iterator[tuple[str, list[Observation]]]:
    """The observations with N by each convention, those that differ."""
    known: list[list[float]] = []
    for name, attribute in _FIELDS.items():
        counts = [getattr(seen, attribute) for seen in observations]
        if any(count is None or count <= 0 for count in counts) or counts in known:
            continue
        known.append(counts)
        yield (
            name,
            [
                replace(seen, params=float(count))
                for seen, count in zip(observations, counts, strict=True)
            ],
        )
