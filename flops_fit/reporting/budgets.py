"""Selects the budgets of a report: each once, in rounded form.

FLOPs counted as 6 N D come to 9.99999999999944e19 where 1e20 is meant, so budgets that differ by
less than a millionth are one, and it goes by the round number if there is one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from flops_fit.fitting.points import Observation

SAME = 1e-6  # relative difference up to which two budgets are one
_MEANT = 0.01  # relative difference up to which the largest compute goes by a budget's name
_ROUND_DIGITS = 3  # of the numbers that people state; one lies this near by chance once in 1,000


def distinct_budgets(budgets: Iterable[float]) -> list[float]:
    """Return the budgets in FLOPs, ascending, those that are one up to rounding once."""
    groups: list[list[float]] = []
    for budget in sorted(map(float, budgets)):
        if groups and budget <= groups[-1][0] * (1 + SAME):
            groups[-1].append(budget)
        else:
            groups.append([budget])
    return [_rounded(group) for group in groups]


def own_budgets(observations: Sequence[Observation]) -> list[float]:
    """Return the isoFLOP budgets of the observations, or round ones inside their compute.

    Where more than every other run has a budget of its own, they are no isoFLOP curves.
    """
    own = {o.budget_flops for o in observations if o.budget_flops is not None}
    spent = [o.flops for o in observations]
    if spent and not 0 < 2 * len(own) <= len(spent):
        low = math.ceil(math.log10(min(spent)) - SAME)
        high = math.floor(math.log10(max(spent)) + SAME)
        own = {10.0**power for power in range(low, high + 1)} or {max(spent)}
    return distinct_budgets(own)


def default_targets(observations: Sequence[Observation]) -> tuple[float, float]:
    """Return the largest compute of the runs and ten times as much, in FLOPs.

    Sizes and tokens are often stated in a few digits, so their 6 N D misses the budget that was
    meant: a budget of the runs or a number of one digit within 1 % stands for the largest compute.
    """
    largest = max(seen.flops for seen in observations)
    named = [*own_budgets(observations), float(f"{largest:.0e}")]
    near = min(named, key=lambda budget: abs(math.log(budget / largest)))
    meant = near if math.isclose(near, largest, rel_tol=_MEANT) else largest
    return meant, 10 * meant


def asked_budgets(
    rows: Iterable[float], targets: Collection[float], observations: Sequence[Observation]
) -> tuple[float, ...]:
    """Return the budgets of a table that are targets, not budgets of the runs."""
    own = {o.budget_flops for o in observations if o.budget_flops is not None}
    return tuple(row for row in rows if _is_among(row, targets) and not _is_among(row, own))


def _is_among(budget: float, others: Iterable[float]) -> bool:
    return any(math.isclose(budget, other, rel_tol=SAME) for other in others)


def _rounded(group: Sequence[float]) -> float:
    """Return the round number near one of these, or else the shortest of them."""
    for budget in group:
        round_one = float(f"{budget:.{_ROUND_DIGITS - 1}e}")
        if math.isclose(budget, round_one, rel_tol=SAME):
            return round_one
    return min(group, key=lambda budget: len(repr(budget)))
