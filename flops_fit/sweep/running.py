"""Carries out an open sweep, and says how it ended.

    estimate_first   what it will cost, before the first trial of a new sweep
    carry_out        train what the ledger lacks, as far as the caps allow
    error_of         why it did not come to its end

Reading the finished trials and fitting them is a later stage (`reporting.reading`), which needs
only the run directory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from flops_fit.errors import CapReachedError, ManifestError, TrialsFailedError
from flops_fit.experiment.loading import fingerprint
from flops_fit.experiment.plugins import load_plugin, require_trackers
from flops_fit.manifest.files import write_json
from flops_fit.manifest.manifest import ExecutionSection
from flops_fit.planning.costing import make_estimate
from flops_fit.planning.estimate import Estimate
from flops_fit.planning.from_manifest import ground_of, make_plan
from flops_fit.planning.plan import Plan
from flops_fit.sweep.caps import CapReached, Caps
from flops_fit.sweep.conductor import SweepSummary, Watcher, conduct
from flops_fit.sweep.entries import SweepResumed, SweepStarted
from flops_fit.sweep.executors.contract import Executor, Resources, has_queue
from flops_fit.sweep.executors.inline import InlineExecutor
from flops_fit.sweep.interrupts import interrupting
from flops_fit.sweep.jobs import forecasts_of
from flops_fit.sweep.ledger import FORMAT, Ledger, read_ledger, replay
from flops_fit.sweep.opening import OpenSweep
from flops_fit.sweep.provenance import versions
from flops_fit.sweep.tasks import Forecast
from flops_fit.sweep.worker import Bench
from flops_fit.units import format_flops

_WORTH_TIMING = (1e12, 30_000)  # FLOPs and steps of a sweep: minutes on one core of a CPU


@dataclass(frozen=True)
class Execution:
    """The options of one execution of a sweep.

    Attributes:
        workers: trials side by side; as many as fit if None.
        caps: what the sweep may spend in all.
        is_adaptive: whether to add the runs that narrow the answer most. A sweep that was started
            as an adaptive one always continues as one.
        submits_only: whether to leave once the jobs are in a scheduler's queue.
    """

    workers: int | None = None
    caps: Caps = field(default_factory=Caps)
    is_adaptive: bool = False
    submits_only: bool = False


def estimate_first(sweep: OpenSweep, *, workers: int | None = None) -> Estimate | None:
    """Estimate a sweep's cost before its first trial, and keep the estimate beside its plan.

    An adaptive sweep has no trials yet. The static plan with its top and its total stands for
    them, so the estimate is an upper bound.

    None for a rehearsal, for a sweep that has begun, for one whose trials run on other machines,
    and for one so small that timing a few sizes would cost as much as the sweep. For Slurm the rate
    in [execution.slurm] is taken; without one nothing is known of the cluster.
    """
    prepared, run = sweep.prepared, sweep.run
    execution = prepared.manifest.execution
    stated = execution.slurm.flops_per_second if execution.slurm else None
    is_elsewhere = execution.executor != "local"
    if sweep.is_simulated or run.ledger.exists():
        return None
    if is_elsewhere and (execution.executor != "slurm" or stated is None):
        return None
    plan, is_adaptive = sweep.plan, sweep.was_adaptive
    if is_adaptive:
        from flops_fit.planning.adaptive.decide import BATCH

        plan = make_plan(prepared, is_adaptive=True)
        workers = min(workers or prepared.num_workers, BATCH)
    if is_elsewhere:
        estimate = make_estimate(prepared, plan, flops_per_second=stated, workers=workers)
        write_json(run.estimate, estimate.to_dict())
        return estimate
    steps = sum(trial.cost_tokens / trial.batch_tokens for trial in plan.trials)
    if plan.total_flops < _WORTH_TIMING[0] and steps < _WORTH_TIMING[1]:
        return None
    estimate = make_estimate(prepared, plan, workers=workers)
    if is_adaptive:
        all_of_it = f"for all of the {format_flops(plan.total_flops)} FLOPs that it may cost"
        estimate = replace(estimate, is_most=True, basis=f"{all_of_it}; {estimate.basis}")
    write_json(run.estimate, estimate.to_dict())
    return estimate


def carry_out(
    sweep: OpenSweep, execution: Execution | None = None, *, watcher: Watcher | None = None
) -> SweepSummary:
    """Train the trials that the ledger lacks, within the caps.

    Ctrl-C, SIGTERM and SIGUSR1 stop the sweep; each running trial keeps a checkpoint.

    Args:
        sweep: open, so this process holds its lock.
        execution: how to carry it out.
        watcher: told of the ledger's entries and of progress.

    Raises:
        ManifestError: only to submit was asked of an executor that has no queue.
        PluginError: the executor, or a tracker, is missing.
        LedgerError: the ledger cannot be read.
    """
    execution, watcher = execution or Execution(), watcher or Watcher()
    prepared = sweep.prepared
    with interrupting():
        if not sweep.is_simulated:
            require_trackers(prepared.manifest.training.log_with)
        plan, workers = sweep.plan, execution.workers or prepared.num_workers
        ledger = Ledger.open(sweep.run.ledger)
        executor = _LateExecutor(sweep, execution)
        carry = partial(
            conduct,
            run=sweep.run,
            ledger=ledger,
            make_executor=executor.get,
            max_running=workers,
            resources=Resources(num_devices=prepared.manifest.execution.devices_per_trial),
            watcher=watcher,
            caps=execution.caps,
            forecasts=_forecasts(sweep, plan),
            submits_only=execution.submits_only,
        )
        try:
            _record_start(sweep, ledger, plan)
            if not (execution.is_adaptive or sweep.was_adaptive or ledger.state.decisions):
                return carry(plan)
            return _carry_out_adaptively(
                sweep, ledger, partial(carry, is_last=False), execution, watcher
            )
        finally:
            executor.shutdown()
            ledger.close()


def _carry_out_adaptively(
    sweep: OpenSweep,
    ledger: Ledger,
    carry: Callable[[Plan], SweepSummary],
    execution: Execution,
    watcher: Watcher,
) -> SweepSummary:
    """Decide on runs and carry them out, in turn.

    A sweep that was started as an adaptive one has levels of compute of its own; any other
    continues on the levels of its plan.
    """
    from flops_fit.sweep.rounds import conduct_adaptively, given_part, make_terms, stated_total

    prepared, is_new = sweep.prepared, sweep.was_adaptive
    terms = make_terms(
        prepared.manifest,
        ground_of(prepared),
        make_plan(prepared, is_adaptive=True) if is_new else given_part(sweep.plan, ledger.state),
        total_flops=execution.caps.total_flops or stated_total(ledger.state),
        is_new=is_new,
    )
    return conduct_adaptively(sweep.run, ledger, carry, terms, watcher)


class _LateExecutor:
    """An executor that is made with the first plan, and kept for all plans of a sweep.

    A sweep that has nothing to train needs no executor, and one executor lets the workers of an
    adaptive sweep import torch and load their data once.
    """

    def __init__(self, sweep: OpenSweep, execution: Execution) -> None:
        self._sweep, self._execution = sweep, execution
        self._made: Executor | None = None

    def get(self) -> Executor:
        """Return the executor."""
        if self._made is None:
            self._made = _make_executor(self._sweep, self._execution)
        return self._made

    def shutdown(self) -> None:
        """End the executor, if there is one; jobs in a queue stay there."""
        made, self._made = self._made, None
        if made is not None and has_queue(made):
            made.detach()
        elif made is not None:
            made.shutdown()


def _make_executor(sweep: OpenSweep, execution: Execution) -> Executor:
    """Return the executor: this process for simulations and live objects, else the manifest's.

    Raises:
        PluginError: there is no such executor, or it cannot work here.
        ManifestError: it has no queue, and only to submit was asked.
    """
    prepared, run = sweep.prepared, sweep.run
    if sweep.is_simulated or prepared.experiment is not None:
        bench = Bench(run, prepared.experiment)
        return InlineExecutor(bench.run_task, bench.stop.set)
    stated = prepared.manifest.execution
    plugin = load_plugin("executor", stated.executor)
    is_here = not has_queue(plugin)
    if is_here and execution.submits_only:
        raise ManifestError(
            f"`--submit` leaves trials in a queue, and the executor `{stated.executor}` has none",
            hint='write `executor = "slurm"` into [execution], or give --executor slurm',
        )
    options: dict[str, Any] = {}
    if stated.executor == "slurm":
        options["options"] = _slurm_options(stated)
    made: Executor = plugin(
        run.path,
        workers=execution.workers or (prepared.num_workers if is_here else stated.workers),
        threads=stated.threads_per_worker,
        num_devices=prepared.description.num_devices,
        devices_per_trial=stated.devices_per_trial,
        **options,
    )
    return made


def _slurm_options(stated: ExecutionSection) -> dict[str, Any]:
    """Return [execution.slurm], with the GPUs that `device = "cuda"` needs."""
    options = {} if stated.slurm is None else stated.slurm.options
    if stated.device == "cuda" and not {"gpus", "gres", "gpus_per_node"} & set(options):
        options["gpus"] = stated.devices_per_trial
    return options


def _forecasts(sweep: OpenSweep, plan: Plan) -> dict[str, Forecast]:
    """Return what each trial is forecast to take: by a stated rate, or by the kept estimate."""
    slurm = sweep.prepared.manifest.execution.slurm
    if slurm is not None and slurm.flops_per_second is not None:
        rate = slurm.flops_per_second
        return {t.trial_id: Forecast(t.cost_flops / rate) for t in plan.trials}
    return forecasts_of(sweep.run)


def _record_start(sweep: OpenSweep, ledger: Ledger, plan: Plan) -> None:
    """Record in the ledger that the sweep starts, or resumes."""
    if ledger.state.fingerprint is None:
        ledger.append(
            SweepStarted(
                format=FORMAT,
                fingerprint=fingerprint(sweep.prepared.manifest),
                trials=len(plan.trials),
                simulated=sweep.is_simulated,
                versions=versions(),
            )
        )
    elif pending := sum(ledger.state.is_pending(trial) for trial in plan.trials):
        ledger.append(SweepResumed(pending=pending, cut_bytes=ledger.cut_bytes))


MAX_NAMED = 12  # trials named one by one in an error


def error_of(sweep: OpenSweep, summary: SweepSummary) -> TrialsFailedError | CapReachedError | None:
    """Return the error that says why a sweep did not come to its end; None if it did."""
    if summary.failed:
        return _failure_of(sweep, summary)
    return None if summary.cap is None else _stopped_at(sweep, summary.cap)


def _failure_of(sweep: OpenSweep, summary: SweepSummary) -> TrialsFailedError:
    """Return the error that names the failed trials and the first one's log."""
    failed = replay(read_ledger(sweep.run.ledger)).failed
    first, entry = next(iter(failed.items()))
    return TrialsFailedError(
        f"{summary.failed} of {summary.failed + summary.finished + summary.diverged} trials "
        f"failed: {', '.join(failed)}. The first: {entry.error}",
        hint=f"see `{sweep.run.log(first)}`; `{sweep.command}` tries the failed ones again",
    )


def _stopped_at(sweep: OpenSweep, cap: CapReached) -> CapReachedError:
    """Return the error that names the cap and the missing trials."""
    shown = ", ".join(cap.missing[:MAX_NAMED])
    if len(cap.missing) > MAX_NAMED:
        shown += f" and {len(cap.missing) - MAX_NAMED} more"
    return CapReachedError(
        f"stopped at `{cap.cap}`: the next trial would bring the sweep to {cap.would_be:.4g} "
        f"{cap.unit}, and {cap.limit:.4g} are allowed; {len(cap.missing)} trials are missing: "
        f"{shown}",
        hint=f"raise the cap to continue: {sweep.command}",
    )
