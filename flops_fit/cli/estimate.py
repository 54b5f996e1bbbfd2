"""`flops-fit estimate`: show what a plan costs in time, memory and money."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flops_fit.cli.options import (
    FormatOption,
    JsonOption,
    ManifestArgument,
    PriceOption,
    RateOption,
    TotalOption,
    WorkersOption,
)
from flops_fit.cli.output import count_of, number_of, print_json, print_tables
from flops_fit.units import format_bytes, format_duration, format_flops

if TYPE_CHECKING:
    from flops_fit.experiment.prepared import Prepared
    from flops_fit.planning.estimate import Estimate
    from flops_fit.planning.plan import Plan
    from flops_fit.reporting.tables.table import Table


def estimate(
    manifest: ManifestArgument,
    flops_per_second: RateOption = None,
    price_per_hour: PriceOption = None,
    workers: WorkersOption = None,
    total_flops: TotalOption = None,
    as_json: JsonOption = False,
    layout: FormatOption = "terminal",
) -> None:
    """Estimate time, memory and cost of a plan, by timing three sizes here or from a rate."""
    from flops_fit.planning.costing import make_estimate
    from flops_fit.sweep.opening import planned

    rate = number_of(flops_per_second, "--flops-per-second")
    prepared, made = planned(manifest, total_flops=number_of(total_flops, "--total-flops"))
    costed = make_estimate(
        prepared, made, flops_per_second=rate, price_per_hour=price_per_hour, workers=workers
    )
    if as_json:
        print_json(costed.to_dict())
        return
    table = _estimate_table(costed, made, prepared)
    if layout == "terminal":
        _print_estimate(costed, made, prepared, table)
    else:
        print_tables([table], layout)


def _print_estimate(costed: Estimate, made: Plan, prepared: Prepared, table: Table) -> None:
    """Print the totals, the warnings, and the table of trials."""
    from flops_fit.cli.summary import print_summary
    from flops_fit.planning.notes import estimate_notes, share_note, speed_notes

    most = "at most" if costed.is_most else "about"
    title = (
        f"Estimate of {prepared.manifest.name}: {count_of(len(costed.trials), 'trial')}, "
        f"{format_flops(costed.total_flops)} FLOPs; {most} {format_duration(costed.wall_seconds)}"
    )
    if costed.cost is not None:
        title += f", {costed.cost:.2f} in money"
    facts = [("Time", f"{costed.workers} trials side by side; from {costed.basis}")]
    if costed.memory_bytes is not None:
        told = f"{format_bytes(costed.memory_bytes)} for the largest trial"
        if costed.available_bytes is not None:
            told += f", of {format_bytes(costed.available_bytes)}"
        facts.append(("Memory", told))
    facts += [("Speed", note.message) for note in speed_notes(costed)]
    facts.append(("Share", share_note(prepared.manifest, costed.total_flops).message))
    facts += [("Trunks", n.message) for n in made.warnings if n.code == "shared_trunks"]
    notes = [*estimate_notes(costed), *made.warnings]
    print_summary(title, facts, notes, [replace(table, notes=())])


def _estimate_table(costed: Estimate, made: Plan, prepared: Prepared) -> Table:
    """Return the estimate with its totals."""
    from flops_fit.errors import Note
    from flops_fit.planning.notes import estimate_notes, share_note, speed_notes
    from flops_fit.reporting.tables.table import estimate_table

    totals = {
        "flops": costed.total_flops,
        "wall_seconds": costed.wall_seconds,
        "memory_bytes": costed.memory_bytes,
        "cost": costed.cost,
    }
    basis = Note("basis", f"{costed.workers} trials side by side; times from {costed.basis}")
    return estimate_table(
        [row.to_dict() for row in costed.trials],
        unit=prepared.description.facts.unit,
        totals=totals,
        warnings=[
            basis,
            *speed_notes(costed),
            *estimate_notes(costed),
            share_note(prepared.manifest, costed.total_flops),
            *made.warnings,
        ],
    )
