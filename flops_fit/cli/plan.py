"""`flops-fit plan`: show the trials, their statistical power, or the next runs of a sweep."""

from __future__ import annotations

from pathlib import Path

from flops_fit.cli.options import (
    ForDeviceOption,
    FormatOption,
    JsonOption,
    ManifestArgument,
    NoiseOption,
    PowerOption,
    PriorOption,
    RefineOption,
    TotalOption,
)
from flops_fit.cli.output import number_of, print_json, print_tables, say
from flops_fit.errors import ManifestError


def plan(
    manifest: ManifestArgument,
    total_flops: TotalOption = None,
    for_device: ForDeviceOption = None,
    power: PowerOption = False,
    noise: NoiseOption = 0.003,
    prior: PriorOption = "",
    refine: RefineOption = False,
    as_json: JsonOption = False,
    layout: FormatOption = "terminal",
) -> None:
    """Lay out the trials of a sweep, with the params and FLOPs of each size. Trains nothing."""
    from flops_fit.planning.from_manifest import plan_power
    from flops_fit.planning.notes import share_note
    from flops_fit.reporting.tables.plan import power_table
    from flops_fit.reporting.tables.table import plan_table
    from flops_fit.sweep.opening import on_this_machine, planned

    if refine:
        _refine(manifest, as_json=as_json, layout=layout)
        return
    total = number_of(total_flops, "--total-flops")
    prepared, made = planned(manifest, total_flops=total, device=for_device)
    if for_device is None and not manifest.is_dir():
        on_this_machine(prepared)
    bought = plan_power(prepared, made, noise=noise, prior=prior) if power or prior else None
    if as_json:
        more = {} if bought is None else {"power": bought.to_dict()}
        print_json(made.to_dict() | more)
        return
    notes = [share_note(prepared.manifest, made.total_flops), *made.warnings]
    tables = [plan_table(made.trials, notes, prepared.description.facts.unit)]
    if bought is not None:
        tables.append(power_table(bought.to_dict()))
    print_tables(tables, layout)
    if total_flops is not None:
        say(f"to run this plan, write `total_flops = {total_flops}` into [sweep]")


def _refine(source: Path, *, as_json: bool, layout: FormatOption) -> None:
    """Print the weaknesses of a sweep that was run, and its next runs."""
    from flops_fit.reporting.tables.plan import next_runs_table, weaknesses_table
    from flops_fit.sweep.refinement import refine_run

    if not source.is_dir():
        raise ManifestError(
            f"`--refine` needs a run directory, and `{source}` is no run directory",
            hint="give the run directory: `flops-fit plan --refine runs/NAME`",
        )
    found = refine_run(source)
    if as_json:
        print_json(found.to_dict())
        return
    if found.weaknesses:
        print_tables([weaknesses_table([each.to_dict() for each in found.weaknesses])], layout)
    else:
        say("no single run is missing: every minimum is bracketed, and every trial has a loss")
    decision = found.decision.to_dict()
    print_tables([next_runs_table(decision, found.notes, found.unit)], layout)
    if decision["trials"]:
        say(f"to run them: {found.how}")
