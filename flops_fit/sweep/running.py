"""The stages in their order, for both doors: composes, does not compute.

prepare (a manifest, or live objects) -> plan -> estimate -> run -> report. The command line and
`find_optimal` call these same functions; no stage below knows another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from flops_fit.errors import CapReachedError, TrialsFailedError
from flops_fit.experiment.loading import fingerprint
from flops_fit.experiment.plugins import load_plugin, require_trackers
from flops_fit.experiment.prepared import Prepared
from flops_fit.manifest.files import read_json, write_json
from flops_fit.planning.costing import make_estimate
from flops_fit.planning.estimate import Estimate
from flops_fit.planning.from_manifest import ground_of, make_plan
from flops_fit.planning.plan import Plan
from flops_fit.sweep.caps import Caps
from flops_fit.sweep.conductor import SweepSummary, Watcher, conduct
from flops_fit.sweep.executors.contract import Executor, Resources
from flops_fit.sweep.executors.inline import InlineExecutor
from flops_fit.sweep.executors.lasting import LastingExecutor
from flops_fit.sweep.interrupts import interrupting
from flops_fit.sweep.ledger import FORMAT, Ledger, read_ledger, replay
from flops_fit.sweep.provenance import versions
from flops_fit.sweep.rundir import RunDir
from flops_fit.sweep.worker import Bench
from flops_fit.units import format_flops

_WORTH_TIMING = (1e12, 30_000)  # FLOPs and steps of a sweep: minutes on one core of a CPU


def estimate_first(prepared: Prepared, run: RunDir, *, workers: int | None) -> Estimate | None:
    """Cost a sweep before its first trial, and keep the estimate beside its plan.

    An adaptive sweep has no trials yet: those of the static plan with its top and its total stand
    for them, side by side as far as a decision asks for several, so the estimate is of the most
    that it takes.

    None for a rehearsal, for a sweep that has begun, for one whose trials run on other machines
    than this, and for one so small that timing a few sizes would cost as much as the sweep.
    """
    provenance = read_json(run.provenance)
    is_simulated = provenance["planted"] is not None
    is_elsewhere = prepared.manifest.execution.executor != "local"
    if is_simulated or is_elsewhere or run.ledger.exists():
        return None
    is_adaptive = bool(provenance.get("adaptive"))
    plan = Plan.from_dict(read_json(run.plan))
    if is_adaptive:
        from flops_fit.planning.adaptive.decide import BATCH

        plan = make_plan(prepared, is_adaptive=True)
        workers = min(workers or prepared.num_workers, BATCH)
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
    prepared: Prepared,
    run: RunDir,
    *,
    workers: int | None = None,
    watcher: Watcher | None = None,
    caps: Caps | None = None,
    is_adaptive: bool = False,
) -> SweepSummary:
    """Train what the ledger says is still to be trained, as far as the caps allow.

    Ctrl-C, SIGTERM and SIGUSR1 stop it with a checkpoint of each running trial.

    Args:
        prepared: the experiment.
        run: its run directory.
        workers: trials side by side; as many as fit if None.
        watcher: told of the ledger's entries and of progress.
        caps: what the sweep may spend in all.
        is_adaptive: go on with the runs that narrow the answer most; a sweep that was started so
            goes on so in any case.

    Raises:
        RunDirError: another process conducts this sweep, or the ledger cannot be read.
    """
    with interrupting(), run.lock():
        plan = Plan.from_dict(read_json(run.plan))
        provenance = read_json(run.provenance)
        is_simulated = provenance["planted"] is not None
        was_adaptive = bool(provenance.get("adaptive"))
        if not is_simulated:
            require_trackers(prepared.manifest.training.log_with)
        workers = workers or prepared.num_workers
        ledger = Ledger.open(run.ledger)
        executor = LastingExecutor(
            partial(_make_executor, prepared, run, workers, is_simulated=is_simulated)
        )

        carry = partial(
            conduct,
            run=run,
            ledger=ledger,
            make_executor=lambda: executor,
            max_running=workers,
            resources=Resources(num_devices=prepared.manifest.execution.devices_per_trial),
            watcher=watcher,
            caps=caps,
        )
        try:
            _open_sweep(prepared, ledger, plan, is_simulated=is_simulated)
            if not (is_adaptive or was_adaptive or ledger.state.decisions):
                return carry(plan)
            each = partial(carry, is_last=False)
            return _go_on_adaptively(
                prepared, run, ledger, plan, each, is_new=was_adaptive, watcher=watcher, caps=caps
            )
        finally:
            executor.shutdown()
            ledger.close()


def _go_on_adaptively(
    prepared: Prepared,
    run: RunDir,
    ledger: Ledger,
    plan: Plan,
    carry: Callable[[Plan], SweepSummary],
    *,
    is_new: bool,
    watcher: Watcher | None,
    caps: Caps | None,
) -> SweepSummary:
    """Carry out the runs that narrow the answer most, one batch after another.

    `is_new`: the sweep was started so, and its plan is empty; else it goes on from a plan.
    """
    from flops_fit.sweep.rounds import conduct_adaptively, given_part, make_terms, stated_total

    stated = None if caps is None else caps.total_flops
    terms = make_terms(
        prepared.manifest,
        ground_of(prepared),
        make_plan(prepared, is_adaptive=True) if is_new else given_part(plan, ledger.state),
        total_flops=stated or stated_total(ledger.state),
        is_new=is_new,
    )
    return conduct_adaptively(run, ledger, carry, terms, watcher or Watcher())


def _make_executor(
    prepared: Prepared, run: RunDir, workers: int, *, is_simulated: bool
) -> Executor:
    """What runs tasks: this process for simulations and live objects, else the manifest's."""
    if is_simulated or prepared.experiment is not None:
        bench = Bench(run, prepared.experiment)
        return InlineExecutor(bench.run_task, bench.stop.set)
    execution = prepared.manifest.execution
    made: Executor = load_plugin("executor", execution.executor)(
        run.path,
        workers=workers,
        threads=execution.threads_per_worker,
        num_devices=prepared.description.num_devices,
        devices_per_trial=execution.devices_per_trial,
    )
    return made


def _open_sweep(prepared: Prepared, ledger: Ledger, plan: Plan, *, is_simulated: bool) -> None:
    """Record that the sweep begins, or that it goes on."""
    if ledger.state.fingerprint is None:
        ledger.append(
            "sweep_started",
            format=FORMAT,
            fingerprint=fingerprint(prepared.manifest),
            trials=len(plan.trials),
            simulated=is_simulated,
            versions=versions(),
        )
    elif pending := sum(ledger.state.is_pending(trial) for trial in plan.trials):
        ledger.append("sweep_resumed", pending=pending, cut_bytes=ledger.cut_bytes)


def failure_of(
    run: RunDir, summary: SweepSummary, *, command: Literal["run", "transfer"] = "run"
) -> TrialsFailedError:
    """The error that names the failed trials and the first one's log; `command` goes on."""
    failed = replay(read_ledger(run.ledger)).failed
    first, entry = next(iter(failed.items()))
    return TrialsFailedError(
        f"{summary.failed} of {summary.failed + summary.finished + summary.diverged} trials "
        f"failed: {', '.join(failed)}. The first: {entry.fields.get('error')}",
        hint=f"see `{run.log(first)}`; `flops-fit {command} {run.path}` tries the failed ones "
        "again",
    )


MAX_NAMED = 12  # trials named one by one in an error


def stopped_at(run: RunDir, summary: SweepSummary) -> CapReachedError:
    """The error that names the cap and the trials that are missing."""
    cap = summary.cap
    assert cap is not None
    shown = ", ".join(cap.missing[:MAX_NAMED])
    if len(cap.missing) > MAX_NAMED:
        shown += f" and {len(cap.missing) - MAX_NAMED} more"
    why = (
        f"with the next trial the sweep would come to {cap.would_be:.4g} {cap.unit}, and "
        f"{cap.limit:.4g} are allowed; {len(cap.missing)} trials are missing: {shown}"
    )
    return CapReachedError(
        f"stopped at `{cap.cap}`: {why}",
        hint=f"raise the cap to go on: flops-fit run {run.path}",
    )
