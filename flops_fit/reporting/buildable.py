"""Reads the sizes that can be built, and the cost of compute, from a run directory.

From it an optimum gets what a reader needs to act on it: the nearest sizes of their own model, the
time that training would take at the rate of the sweep's trials, and its price.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import median
from typing import Any

from flops_fit.experiment.timing import Timing
from flops_fit.fitting.law import FlopsPerToken
from flops_fit.fitting.points import Observation
from flops_fit.planning.estimate import training_seconds
from flops_fit.reporting.answers import LossLaw, waste_of
from flops_fit.reporting.record import Record

_SAME = 1.05  # rates are taken as measured up to this factor beyond the measured sizes
_MAX_STEPS = 1e6  # of the size parameter beyond the last counted size: more is no answer


@dataclass(frozen=True)
class Buildable:
    """A size that the model can be built at.

    Attributes:
        size_value: of the model's size parameter.
        params, flops_per_token: counted; or, beyond the counted sizes, their trend.
        is_counted: which of the two.
    """

    size_value: float
    params: float
    flops_per_token: float
    is_counted: bool = True


@dataclass(frozen=True)
class Setting:
    """Sizes, rates and prices.

    Attributes:
        sizes: that can be built, by rising params; empty where they are not known.
        timings: measured in finished trials, one a size; empty where nothing was timed.
        devices: what a trial ran on, for the reader.
        devices_per_trial: that were paid for while it ran.
        price_per_hour: of one device; None without a price.
    """

    sizes: tuple[Buildable, ...] = ()
    timings: tuple[Timing, ...] = ()
    devices: str = ""
    devices_per_trial: int = 1
    price_per_hour: float | None = None

    @classmethod
    def of(cls, record: Record | None, observations: Sequence[Observation]) -> Setting:
        """From a run directory; without one, the sizes that a table names."""
        if record is None:
            named = {
                o.params: Buildable(o.size_value, o.params, o.flops / o.tokens)
                for o in observations
                if o.size_value is not None
            }
            return cls(tuple(named[params] for params in sorted(named)))
        execution = record.manifest.execution
        described = () if record.provenance is None else record.provenance.description.sizes
        sizes = [Buildable(s.size_value, s.params, s.flops_per_token) for s in described]
        ended = record.ledger.finished.values()
        devices = sorted({entry.device for entry in ended if entry.device})
        count = execution.devices_per_trial
        return cls(
            tuple(sorted(sizes, key=lambda size: size.params)),
            tuple(_timings(record)),
            f"{f'{count} x ' if count > 1 else ''}{' or '.join(devices)}",
            count,
            execution.price_per_hour,
        )

    def seconds(self, flops_per_token: float, tokens: float) -> float | None:
        """Return the seconds of training at the rates of the sweep's trials; None if not known."""
        if not self.timings:
            return None
        return training_seconds(flops_per_token, tokens, self.timings)

    def cost(self, seconds: float | None) -> float | None:
        """Price of one trial's devices for that long; None without a price."""
        if seconds is None or self.price_per_hour is None:
            return None
        return seconds / 3600 * self.devices_per_trial * self.price_per_hour

    def is_beyond(self, flops_per_token: float) -> bool:
        """Return whether no trial of such a size was timed: its rate is extrapolated."""
        known = [timing.flops_per_token for timing in self.timings]
        return not known or not min(known) / _SAME <= flops_per_token <= max(known) * _SAME

    def around(self, params: float, count: FlopsPerToken) -> list[Buildable]:
        """Return the nearest sizes below and above; beyond the counted ones, by their trend."""
        below = [size for size in self.sizes if size.params <= params]
        above = [size for size in self.sizes if size.params > params]
        found = [*below[-1:], *above[:1]]
        if below and not above:
            found += _beyond(self.sizes, params, count)
        return found

    def notes(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the notes below a table of times."""
        if not any(row.get("wall_seconds") is not None for row in rows):
            return []
        text = f"time, cost: of one training at the rate of this sweep's trials ({self.devices})"
        if any(row.get("is_rate_extrapolated") for row in rows):
            text += (
                "; beyond the sizes that were timed the FLOP/s of the largest of them are taken, "
                "which other batches, memory or devices would change"
            )
        return [text]


def with_setting(row: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """Return a row of the Chinchilla table with its nearest size, its time and its price."""
    per_token = row["budget_flops"] / row["tokens"]
    seconds = setting.seconds(per_token, row["tokens"])
    near = setting.around(row["params"], FlopsPerToken())
    nearest = min(near, key=lambda size: abs(math.log(size.params / row["params"])), default=None)
    return {
        **row,
        "nearest_size": None if nearest is None else nearest.size_value,
        "wall_seconds": seconds,
        "cost": setting.cost(seconds),
        "is_rate_extrapolated": None if seconds is None else setting.is_beyond(per_token),
    }


def buildable_rows(
    laws: Mapping[float, LossLaw | None], setting: Setting, optima: Mapping[float, float]
) -> list[dict[str, Any]]:
    """Return the sizes on both sides of each optimum, with loss and cost relative to it.

    Args:
        laws: a law of loss near the optimum of each budget, in FLOPs; None where there is none.
        setting: its sizes.
        optima: optimal params by budget.
    """
    rows = []
    for budget, law in laws.items():
        count = FlopsPerToken() if law is None else law.flops_per_token
        for size in setting.around(optima[budget], count):
            tokens = budget / size.flops_per_token
            seconds = setting.seconds(size.flops_per_token, tokens)
            row: dict[str, Any] = {
                "budget_flops": budget,
                "size_value": size.size_value,
                "is_counted": size.is_counted,
                "params": size.params,
                "tokens": tokens,
                "loss": None,
                "loss_above_optimum": None,
                "wasted_percent": None,
                "wall_seconds": seconds,
                "cost": setting.cost(seconds),
                "is_rate_extrapolated": setting.is_beyond(size.flops_per_token),
            }
            if law is not None:
                loss = law.surface.loss(size.params, tokens)
                best = law.frontier.optimum(budget).loss or loss
                row |= {
                    "loss": loss,
                    "loss_above_optimum": max(0.0, loss - best),
                    "wasted_percent": 100 * waste_of(law, size.params, tokens),
                }
            rows.append(row)
    return rows


def _timings(record: Record) -> list[Timing]:
    """Return the median seconds per token of each size that finished."""
    by_size: dict[float, list[float]] = {}
    for trial in record.plan.trials:
        entry = record.ledger.finished.get(trial.trial_id)
        rate = None if entry is None else entry.tokens_per_second
        if rate is not None and rate > 0:
            by_size.setdefault(trial.size.flops_per_token, []).append(1 / rate)
    return [Timing(flops, median(seconds)) for flops, seconds in sorted(by_size.items())]


def _beyond(sizes: Sequence[Buildable], params: float, count: FlopsPerToken) -> list[Buildable]:
    """Return the size that the trend of the last two counted ones puts nearest to `params`.

    Params grow as a power of the size value between the two; the value keeps to the step that all
    counted values keep to, where they are whole numbers.
    """
    if len(sizes) < 2:
        return []
    low, high = sizes[-2:]
    if not 0 < low.size_value < high.size_value:
        return []
    rise = math.log(high.params / low.params) / math.log(high.size_value / low.size_value)
    if rise <= 0:
        return []
    value = high.size_value * (params / high.params) ** (1 / rise)
    if all(float(size.size_value).is_integer() for size in sizes):
        step = reduce(math.gcd, (int(size.size_value) for size in sizes))
        value = float(max(round(value / step), int(high.size_value) // step + 1) * step)
        if value / step > _MAX_STEPS:
            return []
    there = high.params * (value / high.size_value) ** rise
    ratio = high.flops_per_token / high.params
    per_token = count(there) if count.params else ratio * there
    return [Buildable(value, there, per_token, is_counted=False)]
