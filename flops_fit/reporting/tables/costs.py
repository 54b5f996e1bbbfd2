"""Tables of a sweep's cost, its gain, and the cost of building near the optimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flops_fit.fitting.details import Gain, Waste
from flops_fit.reporting.tables.cells import Column
from flops_fit.reporting.tables.table import Table
from flops_fit.units import plural


def buildable_table(
    rows: Sequence[Mapping[str, Any]],
    unit: str = "token",
    loss_unit: str = "nats",
    *,
    notes: Sequence[str] = (),
) -> Table:
    """Return the sizes on either side of each optimum, and what each costs against it.

    Args:
        rows: of `setting.buildable_rows`.
        unit: what one unit of data is called.
        loss_unit: what the loss is measured in.
        notes: sentences below.
    """
    columns = (
        Column("budget_flops", "budget (FLOPs)", "flops", is_key=True),
        Column("size_value", "size", "plain", is_key=True),
        Column("params", "N (params)", "count"),
        Column("tokens", f"D ({plural(unit)})", "count"),
        Column("loss", f"loss ({loss_unit})", "loss"),
        Column("loss_above_optimum", f"above the optimum ({loss_unit})", "loss"),
        Column("wasted_percent", "wasted (% of compute)", "number"),
        Column("wall_seconds", "time", "duration", is_optional=True),
        Column("cost", "cost", "money", is_optional=True),
        Column("counted", "params and FLOPs"),
    )
    words = {True: "counted", False: "by the trend of the largest counted sizes"}
    told = tuple({**row, "counted": words[row["is_counted"]]} for row in rows)
    return Table("Nearest sizes that can be built", columns, told, tuple(notes))


def gains_table(gains: Sequence[Gain], loss_unit: str = "nats") -> Table:
    """Return the optimum at the target from the runs up to each level of compute."""
    columns = (
        Column("up_to_flops", "runs up to (FLOPs)", "flops"),
        Column("num_runs", "runs", "integer"),
        Column("spent_flops", "these runs (FLOPs)", "flops"),
        Column("target_flops", "target (FLOPs)", "flops"),
        Column("params", "N (params)", "count", has_interval=True),
        Column("loss", f"loss ({loss_unit})", "loss", has_interval=True),
    )
    notes = (
        "intervals hold the noise of the runs alone, not the error of a wrong law",
        "FLOPs of the runs that are fitted, each as if trained alone: not those of failed ones",
    )
    rows = tuple(asdict(gain) for gain in gains)
    return Table("What each level of compute bought", columns, rows, notes)


def costs_table(rows: Sequence[Mapping[str, Any]], basis: str = "") -> Table:
    """Expected against real cost, by budget and in all.

    Args:
        rows: of `costs.cost_rows`.
        basis: where the expected times come from; empty where none were worked out.
    """
    columns = (
        Column("budget_flops", "budget (FLOPs)", "flops"),
        Column("trials", "trials", "integer"),
        Column("expected_flops", "planned (FLOPs)", "flops"),
        Column("real_flops", "spent (FLOPs)", "flops"),
        Column("expected_seconds", "expected time", "duration", is_optional=True),
        Column("real_seconds", "real time", "duration"),
        Column("real_over_expected", "real / expected", "number", is_optional=True),
        Column("expected_cost", "expected cost", "money", is_optional=True),
        Column("real_cost", "real cost", "money", is_optional=True),
        Column("energy_kilowatt_hours", "energy (kWh)", "number", is_optional=True),
        Column("unended_trials", "failed or unfinished trials", "integer", is_optional=True),
        Column("unended_flops", "spent on them (FLOPs)", "flops", is_optional=True),
        Column("unended_seconds", "their time", "duration", is_optional=True),
    )
    note = (
        "of the trials that ended, times one after another, discarded attempts too; a trunk that "
        "trials share is counted once; the last row is all of them"
    )
    told = f"expected: {basis}" if basis else "the sweep began without an estimate of its times"
    notes = [note, told]
    counted = [row["energy_trials"] for row in rows if row["energy_kilowatt_hours"] is not None]
    if counted:
        # The last row is all of them.
        some = "" if counted[-1] == rows[-1]["trials"] else f" in {counted[-1]} of the trials"
        notes.append(f"energy: of the processor or GPU{some}, as it counts; no other part")
    return Table("Expected and real cost", columns, tuple(rows), tuple(notes))


def conventions_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the exponents of the optimum under each convention of N and C.

    Args:
        rows: of `fitting.conventions.by_convention`.
    """
    columns = (
        Column("params_convention", "N counts"),
        Column("flops_convention", "C is"),
        Column("method", "method"),
        Column("params", "a (N ~ C^a)", "number"),
        Column("tokens", "b (D ~ C^b)", "number"),
    )
    note = "the same runs under each convention; compare exponents only within one"
    return Table("Exponents by convention", columns, tuple(rows), (note,))


def wastes_table(wastes: Sequence[Waste]) -> Table:
    """Return the compute that one method's allocation wastes if another method's law is true."""
    columns = (
        Column("budget_flops", "budget (FLOPs)", "flops"),
        Column("chosen", "chosen by"),
        Column("true", "if this is true"),
        Column("wasted_percent", "wasted (% of compute)", "number"),
    )
    told = tuple({**asdict(waste), "wasted_percent": 100 * waste.wasted_share} for waste in wastes)
    return Table("Waste of a wrong choice", columns, told)
