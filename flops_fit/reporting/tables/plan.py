"""Tables of a plan's expected precision, of a sweep's weaknesses, and of its next runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flops_fit.reporting.tables.cells import Column, format_value
from flops_fit.reporting.tables.table import COST, Table, with_costs
from flops_fit.units import plural


def power_table(power: Mapping[str, Any]) -> Table:
    """Return the expected uncertainty of the exponent and of N: `power` of `plan --json`."""
    columns = (
        Column("quantity", "quantity"),
        Column("expected", "by the prior law"),
        Column("interval", "95 % interval, noise alone"),
        Column("with_model", "with the law's own error"),
    )
    factor, wide = power["params_factor"], power["params_factor_with_model"]
    rows = (
        {
            "quantity": "exponent a of N ~ C^a",
            "expected": f"{power['exponent']:.3f}",
            "interval": f"+- {power['exponent_half_width']:.4f}",
            "with_model": "-",
        },
        {
            "quantity": f"N at {format_value(power['target_flops'], 'flops')} FLOPs",
            "expected": format_value(power["params"], "count"),
            "interval": f"/ or x {factor:.2f}",
            "with_model": f"/ or x {wide:.2f}",
        },
    )
    law = power["law"]
    notes = [
        f"{power['simulations']} simulated sweeps with a noise of {power['noise']:.2%} of the "
        f"loss; law E {law['E']:.4g}, alpha {law['alpha']:.4g}, beta {law['beta']:.4g}",
        "that law is of language models; what the sweep will find of yours replaces it, and where "
        "seeds differ by more, `--noise` says so",
        f"the target is {10 ** power['decades']:.3g} times the largest run; the law's own error of "
        "N is taken as 0.25 in ln N for each tenfold, as published sweeps show it",
    ]
    if power["failures"]:
        failures = power["failures"]
        notes.append(f"{failures} of {power['simulations']} simulated sweeps showed no law")
    return Table("What the plan buys", columns, rows, tuple(notes))


def weaknesses_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the weaknesses of a sweep: `budget_flops`, `kind`, `message`."""
    columns = (
        Column("budget_flops", "budget (FLOPs)", "flops"),
        Column("kind", "weakness"),
        Column("message", "what"),
    )
    return Table("What is weak", columns, tuple(rows))


def next_runs_table(
    decision: Mapping[str, Any], notes: Sequence[str], unit: str = "token"
) -> Table:
    """Return the next runs, each with its reason; `decision` is as the ledger holds it."""
    columns = (
        Column("trial_id", "trial"),
        Column("budget_flops", "budget (FLOPs)", "flops"),
        Column("params", "N (params)", "count"),
        Column("tokens", f"D ({plural(unit)})", "count"),
        Column("flops", "FLOPs", "flops"),
        COST,
        Column("seed", "seed", "integer"),
        Column("why", "why"),
    )
    rows = tuple(
        {**trial, "why": decision["reasons"].get(trial["trial_id"], decision["action"])}
        for trial in with_costs(decision["trials"])
    )
    return Table("Next runs", columns, rows, (decision["reason"], *notes))
