"""`flops-fit run`: train a sweep or continue it, then report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flops_fit.cli.options import (
    AcceptDriftOption,
    AdaptiveOption,
    AddBudgetsOption,
    ExecutorOption,
    ManifestArgument,
    MaxCostOption,
    MaxFlopsOption,
    MaxHoursOption,
    NewTotalOption,
    PriceOption,
    RunDirOption,
    SimulateOption,
    SubmitOption,
    WorkersOption,
)
from flops_fit.cli.output import leave_interrupted, number_of, numbers_of, say
from flops_fit.cli.report import Printed, refuse_without_law, show, write
from flops_fit.errors import ManifestError

if TYPE_CHECKING:
    from flops_fit.planning.estimate import Estimate
    from flops_fit.sweep.conductor import SweepSummary
    from flops_fit.sweep.opening import OpenSweep


def run(
    manifest: ManifestArgument,
    run_dir: RunDirOption = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = None,
    submit: SubmitOption = False,
    simulate: SimulateOption = False,
    adaptive: AdaptiveOption = False,
    add_budgets: AddBudgetsOption = None,
    total_flops: NewTotalOption = None,
    max_flops: MaxFlopsOption = None,
    max_hours: MaxHoursOption = None,
    max_cost: MaxCostOption = None,
    price_per_hour: PriceOption = None,
    accept_drift: AcceptDriftOption = None,
) -> None:
    """Train a sweep or continue it, then report. A changed sweep trains only new trials."""
    from flops_fit.cli.progress import Rates, watching
    from flops_fit.planning.notes import share_of_target
    from flops_fit.sweep.caps import Limits, make_caps
    from flops_fit.sweep.opening import open_sweep
    from flops_fit.sweep.running import Execution, carry_out, estimate_first

    limits = Limits(
        max_flops=number_of(max_flops, "--max-flops"),
        max_hours=max_hours,
        max_cost=max_cost,
        price_per_hour=price_per_hour,
        total_flops=number_of(total_flops, "--total-flops"),
    )
    if limits.total_flops is not None and not adaptive:
        raise ManifestError(
            "`run --total-flops` needs `--adaptive`: it sets what an adaptive sweep may cost",
            hint="to size a new sweep, write `total_flops` into [sweep]",
        )
    more = numbers_of(add_budgets, "--add-budgets") or ()
    with open_sweep(
        manifest,
        run_dir,
        simulated=simulate,
        is_adaptive=adaptive,
        add_budgets=more,
        accept_drift=accept_drift,
        executor=executor,
    ) as sweep:
        for note in sweep.notes:
            say(note.message)
        caps = make_caps(sweep.prepared.manifest, limits)
        execution = Execution(workers, caps, adaptive, submit)
        expected = estimate_first(sweep, workers=workers)
        if expected is not None:
            _announce(expected)
        rates = Rates.of(sweep.prepared.manifest, price_per_hour, expected)
        with watching(sweep.run, rates) as watcher:
            summary = carry_out(sweep, execution, watcher=watcher)
    if submit and summary.job_ids:
        _leave_submitted(sweep, summary)
        return
    say(share_of_target(sweep.prepared.manifest, summary.spent_flops))
    _conclude(sweep, summary)


def _conclude(sweep: OpenSweep, summary: SweepSummary) -> None:
    """Report what the trials show, and leave with the exit code that says how the sweep ended."""
    from flops_fit.reporting.reading import read_run
    from flops_fit.sweep.publishing import publish_report
    from flops_fit.sweep.running import error_of

    if summary.is_interrupted:
        if summary.job_ids:
            say(f"{_jobs(summary)} left in the queue; `scancel` ends them: {_scancel(summary)}")
        leave_interrupted(sweep, summary)
    error = error_of(sweep, summary)
    if summary.failed and not summary.finished and error is not None:
        raise error
    result = read_run(sweep.run.path)
    show(result, Printed(sweep.run.path, page=sweep.run.report / "report.html"))
    write(result, sweep.run.report)
    if not summary.failed:
        for name, reason in publish_report(sweep.run).items():
            say(f"the report is not in {name}: {reason}")
    if error is not None:
        raise error
    refuse_without_law(result)


def _leave_submitted(sweep: OpenSweep, summary: SweepSummary) -> None:
    """Say which jobs are in the queue, and how to go on."""
    say(f"{_jobs(summary)} in the queue for {summary.pending} trials")
    say(f"look at them with: flops-fit status {sweep.run.path}")
    say(f"take up what they leave, and report, with: {sweep.command}")


def _jobs(summary: SweepSummary) -> str:
    """`1 job is`, `2 jobs are`."""
    count = len(summary.job_ids)
    return "1 job is" if count == 1 else f"{count} jobs are"


def _scancel(summary: SweepSummary) -> str:
    """Return the command that ends the jobs of a sweep: arrays as a whole."""
    arrays = dict.fromkeys(job_id.partition("_")[0] for job_id in summary.job_ids)
    return f"scancel {' '.join(arrays)}"


def _announce(expected: Estimate) -> None:
    """Print how long a sweep will take, and whether its trials fit into memory."""
    from flops_fit.planning.notes import estimate_notes, expected_time

    say(f"expected: {expected_time(expected)}")
    for note in estimate_notes(expected):
        say(f"warning: {note.message}")
