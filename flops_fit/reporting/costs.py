"""Expected against real cost: the estimate made before a sweep, held against its ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flops_fit.reporting.record import Record

_KILOWATT_HOUR = 3.6e6  # joules


@dataclass(frozen=True)
class TrialCost:
    """What one trial was expected to take, and took.

    Attributes:
        budget_flops: of its curve.
        expected_flops, real_flops: planned, and spent.
        expected_seconds: of wall-clock by the estimate; None where none was made.
        real_seconds: as the ledger has it.
        energy_joules: that its devices took; None where nothing counted it.
    """

    budget_flops: float
    expected_flops: float
    real_flops: float
    expected_seconds: float | None
    real_seconds: float
    energy_joules: float | None = None


def trial_costs(record: Record) -> list[TrialCost]:
    """Every trial that ended with a time, in the plan's order; none of a rehearsal."""
    if record.ledger.is_simulated:
        return []
    estimated = {
        row["trial_id"]: row.get("wall_seconds") for row in record.estimate.get("trials", ())
    }
    found = []
    for trial in record.plan.trials:
        ended = record.ledger.finished.get(trial.trial_id) or record.ledger.diverged.get(
            trial.trial_id
        )
        seconds = None if ended is None else ended.fields.get("wall_seconds")
        if ended is None or not seconds:
            continue
        found.append(
            TrialCost(
                trial.budget_flops, trial.flops, float(ended.fields.get("flops") or 0.0),
                estimated.get(trial.trial_id), float(seconds), ended.fields.get("energy_joules"),
            )
        )  # fmt: skip
    return found


def cost_rows(
    costs: Sequence[TrialCost], *, price_per_device_second: float | None
) -> list[dict[str, Any]]:
    """A row a budget and one for the whole sweep (`budget_flops` None); times are device times.

    Args:
        costs: of the trials that ended.
        price_per_device_second: of all the devices of one trial; None without a price.
    """
    budgets = sorted({cost.budget_flops for cost in costs})
    groups: list[tuple[float | None, list[TrialCost]]] = [
        (budget, [cost for cost in costs if cost.budget_flops == budget]) for budget in budgets
    ]
    if costs:
        groups.append((None, list(costs)))
    return [{"budget_flops": b, **_summed(group, price_per_device_second)} for b, group in groups]


def _summed(costs: Sequence[TrialCost], price: float | None) -> Mapping[str, Any]:
    known = [cost.expected_seconds for cost in costs if cost.expected_seconds is not None]
    expected = math.fsum(known) if len(known) == len(costs) else None
    real = math.fsum(cost.real_seconds for cost in costs)
    joules = [cost.energy_joules for cost in costs if cost.energy_joules is not None]
    return {
        "trials": len(costs),
        "expected_flops": math.fsum(cost.expected_flops for cost in costs),
        "real_flops": math.fsum(cost.real_flops for cost in costs),
        "expected_seconds": expected,
        "real_seconds": real,
        "real_over_expected": None if not expected else real / expected,
        "expected_cost": None if expected is None or price is None else expected * price,
        "real_cost": None if price is None else real * price,
        "energy_kilowatt_hours": math.fsum(joules) / _KILOWATT_HOUR if joules else None,
        "energy_trials": len(joules),
    }
