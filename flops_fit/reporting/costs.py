"""Expected against real cost: the estimate made before a sweep, held against its ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flops_fit.planning.estimate import estimate_plan
from flops_fit.planning.plan import Plan
from flops_fit.reporting.record import Record

_KILOWATT_HOUR = 3.6e6  # joules


@dataclass(frozen=True)
class TrialCost:
    """Expected and real cost of one trial.

    Attributes:
        budget_flops: of its curve.
        expected_flops, real_flops: planned, without what it shares with the trials before it on
            its trunk, and spent on it in all, discarded attempts too.
        expected_seconds: of wall-clock by the estimate; None where none was made.
        real_seconds: of wall-clock, discarded attempts too.
        energy_joules: that its devices took; None where nothing counted it.
        has_ended: False where it failed, was stopped or still trains: then what it took so far is
            no measure of what was expected.
    """

    budget_flops: float
    expected_flops: float
    real_flops: float
    expected_seconds: float | None
    real_seconds: float
    energy_joules: float | None = None
    has_ended: bool = True


def trial_costs(record: Record) -> list[TrialCost]:
    """Return every trial that took a time so far, in the plan's order; none of a rehearsal."""
    ledger = record.ledger
    if ledger.is_simulated:
        return []
    estimated = _expected(record)
    ended = {**ledger.diverged, **ledger.finished}
    return [
        TrialCost(
            trial.budget_flops,
            trial.cost_flops,
            ledger.flops[trial.trial_id],
            estimated.get(trial.trial_id),
            ledger.wall_seconds[trial.trial_id],
            ended[trial.trial_id].energy_joules if trial.trial_id in ended else None,
            has_ended=trial.trial_id in ended,
        )
        for trial in record.plan.trials
        if ledger.wall_seconds.get(trial.trial_id)
    ]


def _expected(record: Record) -> dict[str, float | None]:
    """Seconds that each trial was expected to take, by id; none without an estimate.

    An adaptive sweep's trials were not known to its estimate: theirs are by the sizes that were
    timed for it.
    """
    known = {row.trial_id: row.wall_seconds for row in record.estimate.trials}
    timings = record.estimate.timings
    chosen = tuple(trial for trial in record.plan.trials if trial.trial_id not in known)
    if not timings or not chosen:
        return known
    recipe = record.manifest.training
    costed = estimate_plan(
        Plan(chosen),
        timings=timings,
        curve_points=recipe.curve_points,
        curve_share=recipe.curve_share,
        basis="",
    )
    return known | {row.trial.trial_id: row.wall_seconds for row in costed.trials}


def cost_rows(
    costs: Sequence[TrialCost], *, price_per_device_second: float | None
) -> list[dict[str, Any]]:
    """Return a row for each budget and one for all (`budget_flops` None), with device times.

    All but `unended_*` is of the trials that ended, so that expected and real stand for the same
    trials; `unended_*` (None where there are none) is what the others took so far.

    Args:
        costs: of the trials.
        price_per_device_second: of all the devices of one trial; None without a price.
    """
    budgets = sorted({cost.budget_flops for cost in costs})
    groups: list[tuple[float | None, list[TrialCost]]] = [
        (budget, [cost for cost in costs if cost.budget_flops == budget]) for budget in budgets
    ]
    if costs:
        groups.append((None, list(costs)))
    return [
        {
            "budget_flops": budget,
            **_summed([cost for cost in group if cost.has_ended], price_per_device_second),
            **_unended([cost for cost in group if not cost.has_ended]),
        }
        for budget, group in groups
    ]


def _unended(costs: Sequence[TrialCost]) -> dict[str, Any]:
    """Return the cost of trials that failed, were stopped or still train."""
    seconds, flops = (
        math.fsum(getattr(cost, name) for cost in costs) if costs else None
        for name in ("real_seconds", "real_flops")
    )
    return {
        "unended_trials": len(costs) or None,
        "unended_flops": flops,
        "unended_seconds": seconds,
    }


def _summed(costs: Sequence[TrialCost], price: float | None) -> Mapping[str, Any]:
    known = [cost.expected_seconds for cost in costs if cost.expected_seconds is not None]
    expected = math.fsum(known) if known and len(known) == len(costs) else None
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
