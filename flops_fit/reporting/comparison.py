"""Two results side by side: laws, exponents, and the compute that one needs for the other's loss.

The multiplier at a budget C is C' / C: C' is what the second needs to reach the loss that the first
reaches with C, both allocated optimally. Below 1 the second is the better one. Losses must be in
one unit and measured on one held-out set. The unit is checked; the reader must check the set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from flops_fit.errors import FitError
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Interval, Observation
from flops_fit.reporting.answers import NAMES, LossLaw, loss_law_draws, loss_law_of, percentiles
from flops_fit.reporting.sentences import compared_sentence
from flops_fit.reporting.tables.cells import Column
from flops_fit.reporting.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flops_fit.reporting.figures.style import Columns

_NORMAL = 1.959964  # two-sided 95 % of the normal distribution
_SAME = 0.01  # relative difference below which FLOPs are 6 N D
_OF_BITS = 0.03  # in log loss, from ln 2, within which two laws are one law in two units
_MIN_SHARED = 6  # runs that both sides cover
_Draw = TypeVar("_Draw")


@dataclass(frozen=True)
class Side:
    """A side of a comparison: its name, fit and trials."""

    name: str
    fit: Fit
    observations: Sequence[Observation]


@dataclass(frozen=True)
class Comparison:
    """Two fits of the same kind, and their differences.

    Attributes:
        first, second: the two sides.
        unit, loss_unit: of both.
        budgets: FLOPs at which the first is asked for its loss.
    """

    first: Side
    second: Side
    unit: str
    loss_unit: str
    budgets: Sequence[float]

    def parameters(self) -> list[dict[str, Any]]:
        """Return each parameter of both laws, with the difference and its 95 % interval."""
        rows = []
        for name in (*NAMES, "a", "b"):
            one, other = _value(self.first.fit, name), _value(self.second.fit, name)
            if one is None or other is None:
                continue
            rows.append(
                {
                    "parameter": name,
                    "first": one,
                    "first_interval": self.first.fit.intervals.get(name),
                    "second": other,
                    "second_interval": self.second.fit.intervals.get(name),
                    "difference": other - one,
                    "difference_interval": self._difference(name, other - one),
                }
            )
        return rows

    def multipliers(self) -> list[dict[str, Any]]:
        """At each budget: the first's loss, and the compute that the second needs for it.

        Where the second cannot reach the loss at all, its numbers are None.
        """
        one, other = loss_law_of(self.first.fit), loss_law_of(self.second.fit)
        pairs = _paired(loss_law_draws(self.first.fit), loss_law_draws(self.second.fit))
        rows = []
        for budget in self.budgets:
            drawn = [_needed(a, b, budget) for a, b in pairs]
            known = [needed / budget for needed in drawn if needed is not None]
            needed = _needed(one, other, budget)
            enough = len(known) >= max(20, 0.9 * len(pairs)) and needed is not None
            rows.append(
                {
                    "budget_flops": budget,
                    "loss": one.frontier.optimum(budget).loss,
                    "needed_flops": needed,
                    "multiplier": None if needed is None else needed / budget,
                    "multiplier_interval": percentiles(known) if enough else None,
                }
            )
        return rows

    def tables(self) -> dict[str, Table]:
        """Both as tables: `parameters` and `multipliers`."""
        first, second = self.first.name, self.second.name
        laws = (
            Column("parameter", "parameter"),
            Column("first", first, "parameter", has_interval=True),
            Column("second", second, "parameter", has_interval=True),
            Column("difference", "difference", "parameter", has_interval=True),
        )
        ratios = (
            Column("budget_flops", f"{first} (FLOPs)", "flops"),
            Column("loss", f"its loss ({self.loss_unit})", "loss"),
            Column("needed_flops", f"{second} needs (FLOPs)", "flops"),
            Column("multiplier", "times the compute", "number", has_interval=True),
        )
        title = f"{first} and {second}"
        return {
            "parameters": Table(f"Laws of {title}", laws, tuple(self.parameters())),
            "multipliers": Table(f"Equal loss: {title}", ratios, tuple(self.multipliers())),
        }

    def sentence(self) -> str:
        """Return the multiplier at the largest budget as one sentence."""
        return compared_sentence(self.multipliers(), self.first.name, self.second.name)

    def plot(self, columns: Columns = None) -> dict[str, Figure]:
        """Draw `frontier`: N, D and loss against compute, both results in one figure."""
        from flops_fit.reporting.figures.frontier import frontier_figure
        from flops_fit.reporting.figures.style import figure_text

        fits = {figure_text(side.name): side.fit for side in (self.first, self.second)}
        seen = [*self.first.observations, *self.second.observations]
        whole = frontier_figure(fits, seen, self.unit, self.loss_unit, columns=columns)
        return {"frontier": whole}

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data."""
        return {
            "first": self.first.name,
            "second": self.second.name,
            "loss_unit": self.loss_unit,
            "parameters": [dict(row) for row in self.parameters()],
            "multipliers": [dict(row) for row in self.multipliers()],
        }

    def _difference(self, name: str, difference: float) -> Interval | None:
        """95 % for the difference of two independent estimates.

        Percentiles of the draws' differences, since those of A and B are skewed by orders of
        magnitude; from the standard errors where there are no draws of it.
        """
        pairs = _paired(self.first.fit.draws, self.second.fit.draws)
        if pairs and all(name in draw for draw in pairs[0]):
            return percentiles([other[name] - one[name] for one, other in pairs])
        errors = [side.fit.standard_errors.get(name) for side in (self.first, self.second)]
        if errors[0] is None or errors[1] is None:
            return None
        reach = _NORMAL * math.hypot(errors[0], errors[1])
        return difference - reach, difference + reach


def compare(
    first: Side, second: Side, *, units: Mapping[str, tuple[str, str]], budgets: Sequence[float]
) -> Comparison:
    """Set two fits side by side.

    Args:
        first: the one that multipliers are relative to.
        second: the other one.
        units: `unit` and `loss_unit`, each of the first and of the second.
        budgets: FLOPs to compare at.

    Raises:
        FitError: the losses are in different units (`different_units`), the FLOPs are counted by
            different conventions (`different_flops`), or a fit has no surface.
    """
    for name, (one, other) in units.items():
        if one != other:
            raise FitError(
                f"`{first.name}` and `{second.name}` differ in their {name.replace('_', ' ')}: "
                f"`{one}`, `{other}`",
                code="different_units",
                hint="compare losses of one unit: nats per byte times the tokenizer's bytes per "
                "token are nats per token",
            )
    laws = loss_law_of(first.fit), loss_law_of(second.fit)
    _refuse_conventions(first, second)
    _refuse_bits(first, second, laws)
    if first.name == second.name:
        first = Side(f"{first.name} (1)", first.fit, first.observations)
        second = Side(f"{second.name} (2)", second.fit, second.observations)
    return Comparison(first, second, units["unit"][0], units["loss_unit"][0], tuple(budgets))


def _refuse_conventions(first: Side, second: Side) -> None:
    """Refuse FLOPs that are counted on one side, and 6 N D on the other."""
    counted = [has_counted_flops(side.observations) for side in (first, second)]
    if counted[0] != counted[1]:
        one, other = (first, second) if counted[0] else (second, first)
        raise FitError(
            f"the FLOPs of `{one.name}` are counted, and those of `{other.name}` are 6 N D: their "
            "compute cannot be compared",
            code="different_flops",
            hint="take both as 6 N D: --columns flops=none; or give the counted FLOPs of both",
        )


def has_counted_flops(observations: Sequence[Observation]) -> bool:
    """Return whether some FLOPs are counted, and not 6 N D."""
    return any(
        abs(seen.flops / (6 * seen.params * seen.tokens) - 1) >= _SAME for seen in observations
    )


def _refuse_bits(first: Side, second: Side, laws: tuple[LossLaw, LossLaw]) -> None:
    """Refuse two laws that differ by ln 2 all over the runs that both cover: bits and nats."""
    ratios = []
    for seen in first.observations:
        losses = [law.surface.loss(seen.params, seen.tokens) for law in laws]
        if _covers(second, seen) and all(math.isfinite(x) and x > 0 for x in losses):
            ratios.append(abs(math.log(losses[0] / losses[1])))
    apart = -math.log(math.log(2))  # of the logarithms, where one side is in bits
    if len(ratios) >= _MIN_SHARED and max(abs(each - apart) for each in ratios) < _OF_BITS:
        raise FitError(
            f"the losses of `{first.name}` and `{second.name}` differ by 1.44 = 1 / ln 2 at every "
            "run: one is in bits, the other in nats",
            code="different_units",
            hint="say which: --loss-unit bits,nats, in the order of the tables",
        )


def _covers(side: Side, seen: Observation) -> bool:
    """Return whether a run lies in the range of sizes and of data that a side has."""
    params = [each.params for each in side.observations]
    tokens = [each.tokens for each in side.observations]
    return min(params) <= seen.params <= max(params) and min(tokens) <= seen.tokens <= max(tokens)


def _paired(first: Sequence[_Draw], second: Sequence[_Draw]) -> list[tuple[_Draw, _Draw]]:
    """Draws of both, as many as the shorter has, each with one of another resample.

    Two fits that were resampled with one seed would else have drawn the same runs.
    """
    half = len(second) // 2
    return list(zip(first, [*second[half:], *second[:half]], strict=False))


def _needed(one: LossLaw, other: LossLaw, budget: float) -> float | None:
    """Return the FLOPs that `other` needs for the loss that `one` reaches with `budget`."""
    loss = one.frontier.optimum(budget).loss
    try:
        return None if loss is None else other.compute_for(loss)
    except (FitError, OverflowError):
        return None


def _value(fit: Fit, name: str) -> float | None:
    """Return a parameter or, as `a` and `b`, an exponent."""
    exponents = {"a": "params", "b": "tokens"}
    if name in exponents:
        return fit.exponents.get(exponents[name])
    return fit.parameters.get(name)
