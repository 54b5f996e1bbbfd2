"""Grouping of observations into isoFLOP curves, and the input checks of all methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import FitError, Note
from flops_fit.fitting.points import Excluded, Observation, is_in_range

Array = NDArray[np.float64]
BUDGET_WIDTH = 1.1  # largest ratio of FLOPs within one isoFLOP curve
MIN_OBSERVATIONS = 6
_NUMBERS = {float, int}
_PLAIN = 1e-30, 1e30  # range that is valid for all four numbers


@dataclass(frozen=True)
class Curve:
    """Runs of one budget.

    Attributes:
        budget_flops: the planned budget, or the geometric mean of the runs' FLOPs.
        params, losses: float64, shape (runs,).
        members: positions of the runs among the observations.
    """

    budget_flops: float
    params: Array
    losses: Array
    members: tuple[int, ...]

    @property
    def num_sizes(self) -> int:
        """Number of different sizes on the curve."""
        return len(np.unique(self.params))


def group_curves(observations: Sequence[Observation]) -> list[Curve]:
    """Group observations into isoFLOP curves of at least 2 sizes, in order of budget.

    Runs with equal `budget_flops` form one curve. Runs without it form curves whose FLOPs lie
    within 10 %; the largest group is taken first, then the largest among the remaining runs.
    """
    planned: dict[float, list[int]] = {}
    loose: list[int] = []
    for k, seen in enumerate(observations):
        if seen.budget_flops is None:
            loose.append(k)
        else:
            planned.setdefault(seen.budget_flops, []).append(k)
    groups = [(budget, members) for budget, members in _merge(planned)]
    for members in _windows(observations, loose):
        mean = sum(math.log(observations[k].flops) for k in members) / len(members)
        groups.append((math.exp(mean), members))
    curves = []
    for budget, members in sorted(groups):
        params = np.array([observations[k].params for k in members])
        losses = np.array([observations[k].loss for k in members])
        if len(np.unique(params)) > 1:
            curves.append(Curve(budget, params, losses, tuple(members)))
    return curves


def _merge(planned: dict[float, list[int]]) -> list[tuple[float, list[int]]]:
    """Merge planned budgets within 10 % of each other under the budget with the most runs."""
    merged: list[list[float]] = []
    for budget in sorted(planned):
        if merged and budget <= merged[-1][0] * BUDGET_WIDTH:
            merged[-1].append(budget)
        else:
            merged.append([budget])
    return [
        (max(group, key=lambda b: len(planned[b])), [k for b in group for k in planned[b]])
        for group in merged
    ]


def _windows(observations: Sequence[Observation], loose: list[int]) -> list[list[int]]:
    """Return disjoint groups of positions with FLOPs within 10 %, largest group first."""
    flops = np.array([observations[k].flops for k in loose])
    order = np.argsort(flops, kind="stable")
    left, logs = np.array(loose, dtype=int)[order], np.log(flops[order])
    width = math.log(BUDGET_WIDTH) * (1 + 1e-9)
    found: list[list[int]] = []
    while len(left) > 1:
        ends = np.searchsorted(logs, logs + width, side="right")
        counts = ends - np.arange(len(left))
        first = int(np.argmax(counts))
        if counts[first] < 2:
            break
        window = slice(first, int(ends[first]))
        found.append(left[window].tolist())
        left, logs = np.delete(left, window), np.delete(logs, window)
    return found


def usable(observations: Sequence[Observation]) -> tuple[list[Observation], list[Excluded]]:
    """Split observations into usable ones and excluded ones with reasons.

    Usable ones have positive, finite numbers in range.
    """
    good, bad = [], []
    for k, seen in enumerate(observations):
        numbers = (seen.params, seen.tokens, seen.flops, seen.loss)
        # Checking all four at once takes a third of the time. Unusable values fail it.
        if (
            _NUMBERS.issuperset(map(type, numbers))
            and min(numbers) > _PLAIN[0]
            and max(numbers) < _PLAIN[1]
            and math.isfinite(sum(numbers))
        ):
            good.append(seen)
            continue
        for name in ("params", "tokens", "flops", "loss"):
            value = getattr(seen, name)
            label = seen.name or f"observation {k}"
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                bad.append(Excluded(label, f"{name} is not positive and finite: {value}"))
                break
            if not is_in_range(name, value):
                bad.append(Excluded(label, f"{name} is out of range: {value:g}"))
                break
        else:
            good.append(seen)
    return good, bad


def finished(observations: Sequence[Observation]) -> tuple[list[Observation], list[Note]]:
    """Keep finished runs: only the last point of each training curve with `step` and `run`."""
    last: dict[str, Observation] = {}
    for seen in observations:
        if seen.step is not None and seen.run is not None:
            before = last.get(seen.run)
            if before is None or seen.step > (before.step or 0.0):
                last[seen.run] = seen
    if not last:
        return list(observations), []
    ends = {id(seen) for seen in last.values()}
    kept = [o for o in observations if o.step is None or o.run is None or id(o) in ends]
    passed = len(observations) - len(kept)
    if not passed:
        return kept, []
    text = f"{passed} points before the end of training are used by the envelope only"
    return kept, [Note("curve_points", text)]


def check_enough(observations: Sequence[Observation]) -> None:
    """Refuse observations that cannot determine a law with two exponents.

    Two sizes give one difference in loss. Any exponent fits this difference with some irreducible
    loss, so three sizes are needed. The same holds for numbers of tokens.

    Raises:
        FitError: `too_few_observations`, `one_size`, `two_sizes`, `one_horizon`, `two_horizons`,
            `constant_loss` or `too_few_budgets`.
    """
    n = len(observations)
    if n < MIN_OBSERVATIONS:
        raise FitError(
            f"{n} usable observations; a fit needs {MIN_OBSERVATIONS}",
            code="too_few_observations",
            hint="finish more trials, or add rows to the table",
        )
    for codes, what, values in (
        (("one_size", "two_sizes"), "model size", {o.params for o in observations}),
        (("one_horizon", "two_horizons"), "number of tokens", {o.tokens for o in observations}),
        (("constant_loss",), "loss", {o.loss for o in observations}),
    ):
        if len(values) == 1:
            raise FitError(
                f"all {n} observations have the same {what}, {values.pop():g}",
                code=codes[0],
                hint="add runs that differ in params, tokens and loss",
            )
        if len(values) == 2 and len(codes) == 2:
            low, high = sorted(values)
            raise FitError(
                f"the {n} observations have only two values of the {what}, {low:g} and {high:g}; "
                "any exponent fits two values with some irreducible loss",
                code=codes[1],
                hint=f"add runs with a third {what}",
            )
    logs = np.sort(np.log([o.budget_flops or o.flops for o in observations]))
    levels, start = 1, logs[0]
    for value in logs:
        if value > start + math.log(BUDGET_WIDTH):
            levels, start = levels + 1, value
    if levels < 3:
        raise FitError(
            f"the observations have {levels} compute budgets; a law in compute needs 3",
            code="too_few_budgets",
            hint="add runs at other budgets",
        )
