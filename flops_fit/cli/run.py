"""`flops-fit run`: train a sweep, or go on with it, and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flops_fit.cli.options import (
    AdaptiveOption,
    ManifestArgument,
    MaxCostOption,
    MaxFlopsOption,
    MaxHoursOption,
    NewTotalOption,
    PriceOption,
    RunDirOption,
    SimulateOption,
    WorkersOption,
)
from flops_fit.cli.output import leave_interrupted, number_of, say
from flops_fit.cli.report import refuse_without_law, show, write
from flops_fit.errors import ManifestError

if TYPE_CHECKING:
    from flops_fit.experiment.prepared import Prepared
    from flops_fit.planning.estimate import Estimate
    from flops_fit.sweep.conductor import SweepSummary
    from flops_fit.sweep.rundir import RunDir


def run(
    manifest: ManifestArgument,
    run_dir: RunDirOption = None,
    workers: WorkersOption = None,
    simulate: SimulateOption = False,
    adaptive: AdaptiveOption = False,
    total_flops: NewTotalOption = None,
    max_flops: MaxFlopsOption = None,
    max_hours: MaxHoursOption = None,
    max_cost: MaxCostOption = None,
    price_per_hour: PriceOption = None,
) -> None:
    """Train the sweep, or go on with it; then report."""
    from flops_fit.cli.progress import watching
    from flops_fit.planning.notes import share_of_target
    from flops_fit.sweep.caps import make_caps
    from flops_fit.sweep.running import carry_out, estimate_first

    flops_cap = number_of(max_flops, "--max-flops")
    new_total = number_of(total_flops, "--total-flops")
    if new_total is not None and not adaptive:
        raise ManifestError(
            "`run --total-flops` is what an adaptive sweep may now cost: it goes with `--adaptive`",
            hint="size a new sweep by `total_flops` in [sweep]",
        )
    prepared, started = _opened(manifest, run_dir, simulated=simulate, is_adaptive=adaptive)
    caps = make_caps(
        prepared.manifest,
        max_flops=flops_cap,
        max_hours=max_hours,
        max_cost=max_cost,
        price_per_hour=price_per_hour,
        total_flops=new_total,
    )
    expected = estimate_first(prepared, started, workers=workers)
    if expected is not None:
        _announce(expected)
    with watching(started) as watcher:
        summary = carry_out(
            prepared,
            started,
            workers=workers,
            watcher=watcher,
            caps=caps,
            is_adaptive=adaptive,
        )
    say(share_of_target(prepared.manifest, summary.spent_flops))
    _conclude(started, summary)


def _conclude(run: RunDir, summary: SweepSummary) -> None:
    """Report what a sweep came to, and leave with the exit code that says how it ended."""
    from flops_fit.reporting.reading import read_run
    from flops_fit.sweep.publishing import publish_report
    from flops_fit.sweep.running import failure_of, stopped_at

    if summary.is_interrupted:
        leave_interrupted(run, summary)
    if summary.failed:
        failure = failure_of(run, summary)
        if summary.finished:
            partial = read_run(run.path)
            show(partial, "terminal")
            write(partial, run.report)
        raise failure
    result = read_run(run.path)
    show(result, "terminal")
    write(result, run.report)
    for name, reason in publish_report(run).items():
        say(f"the report is not in {name}: {reason}")
    if summary.cap is not None:
        raise stopped_at(run, summary)
    refuse_without_law(result)


def _opened(
    source: Path, run_dir: Path | None, *, simulated: bool, is_adaptive: bool
) -> tuple[Prepared, RunDir]:
    """What to train, and its run directory: the one that is there, or one laid down now."""
    from flops_fit.experiment.prepared import prepare
    from flops_fit.manifest.manifest import read_manifest
    from flops_fit.planning.from_manifest import make_plan
    from flops_fit.sweep.provenance import adopt, check_same, resume, start_run
    from flops_fit.sweep.rundir import RunDir

    if source.is_dir():
        return resume(source), RunDir(source)
    read = read_manifest(source)
    run = RunDir(run_dir or Path("runs") / read.name)
    if run.is_run():
        check_same(run, read, simulated=simulated)
        adopt(run, source.read_text(encoding="utf-8"))
        return resume(run.path), run
    prepared = prepare(source)
    plan = make_plan(prepared)
    return prepared, start_run(
        prepared, plan, run.path, simulated=simulated, is_adaptive=is_adaptive
    )


def _announce(expected: Estimate) -> None:
    """Say how long a sweep will take, and whether its trials fit into memory."""
    from flops_fit.planning.notes import estimate_notes, expected_time

    say(f"expected: {expected_time(expected)}")
    for note in estimate_notes(expected):
        say(f"warning: {note.message}")
