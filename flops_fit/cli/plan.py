"""`flops-fit plan`: show the trials, their statistical power, or the next runs of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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
from flops_fit.cli.output import count_of, number_of, print_json, print_tables, say
from flops_fit.errors import ManifestError
from flops_fit.units import format_count, format_flops, plural

if TYPE_CHECKING:
    from flops_fit.errors import Note
    from flops_fit.experiment.prepared import Prepared
    from flops_fit.planning.plan import Plan
    from flops_fit.reporting.tables.table import Table


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
    share = share_note(prepared.manifest, made.total_flops)
    tables = [] if bought is None else [power_table(bought.to_dict())]
    if layout == "terminal":
        _print_plan(made, prepared, share, tables)
    else:
        notes = [share, *made.warnings]
        print_tables(
            [plan_table(made.trials, notes, prepared.description.facts.unit), *tables], layout
        )
    if total_flops is not None:
        say(f"to run this plan, write `total_flops = {total_flops}` into [sweep]")


def _print_plan(made: Plan, prepared: Prepared, share: Note, more: Sequence[Table]) -> None:
    """Print the totals, the warnings, a line for each budget, and the trials."""
    from flops_fit.cli.summary import print_summary
    from flops_fit.reporting.tables.table import short_plan_table

    title = (
        f"Plan of {prepared.manifest.name}: {count_of(len(made.trials), 'trial')}, "
        f"{format_flops(made.total_flops)} FLOPs"
    )
    trunks = [note.message for note in made.warnings if note.code == "shared_trunks"]
    sizes = [trial.size for trial in made.trials]
    facts = [
        ("Share", share.message),
        *(("Trunks", told) for told in trunks),
        ("Sizes", _range_of([s.params for s in sizes], format_count, "params")),
        ("Data", _range_of([t.tokens for t in made.trials], format_count,
                           plural(prepared.description.facts.unit))),
        ("Budgets", _range_of([t.budget_flops for t in made.trials], format_flops, "FLOPs")),
    ]  # fmt: skip
    table = short_plan_table(made.trials, prepared.description.facts.unit)
    print_summary(title, facts, made.warnings, [table, *more])


def _range_of(values: Sequence[float], write: Callable[[float], str], name: str) -> str:
    """`15 from 6.59k to 246k params`."""
    distinct = sorted(set(values))
    if len(distinct) == 1:
        return f"{write(distinct[0])} {name}"
    return f"{len(distinct)} from {write(distinct[0])} to {write(distinct[-1])} {name}"


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
    tables = []
    if found.weaknesses:
        tables.append(weaknesses_table([each.to_dict() for each in found.weaknesses]))
    else:
        say("no single run is missing: every minimum is bracketed, and every trial has a loss")
    decision = found.decision.to_dict()
    next_runs = next_runs_table(decision, found.notes, found.unit)
    if layout == "terminal":
        from flops_fit.cli.summary import print_summary

        trials = found.decision.trials
        title = f"Next runs of {source}: {count_of(len(trials), 'trial')}, " + format_flops(
            sum(trial.cost_flops for trial in trials)
        )
        facts = [("Why" if k == 0 else "", note) for k, note in enumerate(next_runs.notes)]
        shown = tuple(each for each in next_runs.columns if each.key != "flops")
        next_runs = replace(next_runs, columns=shown, notes=())
        print_summary(f"{title} FLOPs", facts, (), [*tables, next_runs])
    else:
        print_tables([*tables, next_runs], layout)
    if decision["trials"]:
        say(f"to run them: {found.how}")
