"""Reads the state of a sweep from its run directory, also while a conductor runs.

A trial runs if it was started and has not ended, or if a worker holds its lease and reported
progress. Nobody is asked: a conductor or a worker that died is seen by how long ago its files
changed (`seconds_silent`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from flops_fit.errors import RunDirError
from flops_fit.manifest.trials import Trial
from flops_fit.sweep.entries import (
    Entry,
    SweepCapped,
    SweepFinished,
    SweepInterrupted,
    TrialEnded,
    TrialStarted,
    TrialStopped,
)
from flops_fit.sweep.ledger import LedgerState, read_ledger, replay
from flops_fit.sweep.provenance import read_plan, resume, study_of
from flops_fit.sweep.rundir import RunDir, read_progress

_FRESH_SECONDS = 60.0  # a lease and a progress file that are younger belong to a live worker


class SweepPhase(StrEnum):
    """The phase of a sweep."""

    PLANNED = "planned"
    RUNNING = "running"
    STOPPED = "stopped"
    FINISHED = "finished"


@dataclass(frozen=True)
class RunningTrial:
    """A trial that is being trained.

    Attributes:
        trial: the trial.
        step: optimiser steps so far; 0 before the first report.
        loss: recent training loss, nats per unit of data.
        tokens_per_second: units of data trained per second in this attempt.
        seconds_left: forecast until its end.
        seconds_silent: since its worker last reported.
    """

    trial: Trial
    step: int
    loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    seconds_silent: float

    def to_dict(self) -> dict[str, Any]:
        """Return the running trial as plain data."""
        data = asdict(self)
        data.pop("trial")
        return {**_named(self.trial), "steps": self.trial.steps, **data}


@dataclass(frozen=True)
class EndedTrial:
    """A trial that failed, diverged or was dropped, and why."""

    trial: Trial
    state: str
    reason: str
    log: Path

    def to_dict(self) -> dict[str, Any]:
        """Return the ended trial as plain data."""
        return {
            **_named(self.trial), "state": self.state, "reason": self.reason, "log": str(self.log)
        }  # fmt: skip


@dataclass(frozen=True)
class Status:
    """The state of a sweep and its trials.

    Attributes:
        name: of the manifest.
        run_dir: its run directory.
        phase: where the sweep is.
        is_simulated: whether it is a rehearsal.
        trials: planned trials; the next six count those in each state.
        spent_flops: FLOPs of all trials so far, running ones too.
        planned_flops: FLOPs of all planned trials that were not dropped.
        seconds_left: forecast until the last planned trial ends; None if no trial has finished.
        seconds_silent: since a file of the sweep last changed.
        running: the trials at work.
        ended: the trials without a usable loss.
    """

    name: str
    run_dir: Path
    phase: SweepPhase
    is_simulated: bool
    trials: int
    finished: int
    num_running: int
    queued: int
    failed: int
    diverged: int
    dropped: int
    spent_flops: float
    planned_flops: float
    seconds_left: float | None
    seconds_silent: float
    running: tuple[RunningTrial, ...]
    ended: tuple[EndedTrial, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the status as plain data: what `status --json` prints."""
        data = {key: value for key, value in vars(self).items() if key not in ("running", "ended")}
        data |= {"run_dir": str(self.run_dir), "phase": str(self.phase)}
        data["running_trials"] = [each.to_dict() for each in self.running]
        data["ended_trials"] = [each.to_dict() for each in self.ended]
        return data


def read_status(directory: Path) -> Status:
    """Return how far the sweep of a run directory is.

    Raises:
        RunDirError: it is not a run directory.
        LedgerError: the ledger has a line that cannot be read.
    """
    run = RunDir(directory)
    prepared = resume(directory, study=study_of(run))
    plan = read_plan(run)
    entries = read_ledger(run.ledger) if run.ledger.exists() else []
    state = replay(entries)
    began = _began(entries)
    now = time.time()
    running = _running(run, plan.trials, state, began, now)
    at_work = {each.trial.trial_id for each in running}
    counted = [trial for trial in plan.trials if trial.trial_id not in state.dropped]
    failed = [t for t in counted if t.trial_id in state.failed and t.trial_id not in at_work]
    pending = [t for t in counted if state.is_pending(t) and t.trial_id not in at_work]
    queued = [trial for trial in pending if trial.trial_id not in state.failed]
    partial = math.fsum(_spent(each) for each in running)
    silent = now - max((path.stat().st_mtime for path in _signs(run, at_work)), default=now)
    phase = SweepPhase.STOPPED
    if not entries:
        phase = SweepPhase.PLANNED
    elif running:
        phase = SweepPhase.RUNNING
    elif state.is_complete and not queued:
        phase = SweepPhase.FINISHED
    return Status(
        name=prepared.manifest.name,
        run_dir=directory,
        phase=phase,
        is_simulated=state.is_simulated,
        trials=len(plan.trials),
        finished=sum(trial.trial_id in state.finished for trial in counted),
        num_running=len(running),
        queued=len(queued),
        failed=len(failed),
        diverged=sum(trial.trial_id in state.diverged for trial in counted),
        dropped=len(plan.trials) - len(counted),
        spent_flops=state.spent_flops + partial,
        planned_flops=math.fsum(trial.cost_flops for trial in counted),
        seconds_left=_seconds_left(state, queued, running),
        seconds_silent=silent,
        running=running,
        ended=_ended(run, plan.trials, state, at_work),
    )


def find_trials(run: RunDir, asked: Sequence[str]) -> list[Trial]:
    """Return the planned trials with these ids, or ids that begin so, in the order asked.

    Raises:
        RunDirError: no trial, or more than one, begins so.
    """
    if not run.is_run():
        raise RunDirError(
            f"`{run.path}` is not a run directory", hint="`flops-fit run MANIFEST` makes one"
        )
    trials = read_plan(run).trials
    found: list[Trial] = []
    for text in asked:
        matching = [trial for trial in trials if trial.trial_id.startswith(text)]
        if not text or len(matching) != 1:
            ids = ", ".join(trial.trial_id for trial in matching[:5])
            said = f"{len(matching)} trials that begin with `{text}`: {ids}"
            raise RunDirError(
                f"`{run.path}` has {said}" if matching else f"`{run.path}` has no trial `{text}`",
                hint=f"`flops-fit plan {run.path}` lists the trials",
            )
        if matching[0] not in found:
            found.append(matching[0])
    return found


def _named(trial: Trial) -> dict[str, Any]:
    """Return the fields that identify a trial."""
    return {
        "trial_id": trial.trial_id,
        "size_value": trial.size.size_value,
        "params": trial.size.params,
        "budget_flops": trial.budget_flops,
    }


def _began(entries: Sequence[Entry]) -> dict[str, float]:
    """Return when each unfinished trial last started: Unix time in seconds, by id."""
    began: dict[str, float] = {}
    for entry in entries:
        match entry:
            case SweepInterrupted() | SweepCapped() | SweepFinished():
                began.clear()
            case TrialStarted():
                began[entry.trial_id] = datetime.fromisoformat(entry.at).timestamp()
            case TrialEnded() | TrialStopped():
                began.pop(entry.trial_id, None)
    return began


def _running(
    run: RunDir,
    trials: Sequence[Trial],
    state: LedgerState,
    began: dict[str, float],
    now: float,
) -> tuple[RunningTrial, ...]:
    """Return the trials at work, with what their workers last reported."""
    found = []
    for trial in trials:
        report = run.progress(trial.trial_id)
        reported_at = report.stat().st_mtime if report.exists() else None
        is_leased = _is_leased(run, trial, reported_at, now) and state.is_pending(trial)
        if trial.trial_id not in began and not is_leased:
            continue
        start = began.get(trial.trial_id)
        is_new = reported_at is not None and (start is None or reported_at >= start)
        said = read_progress(run, trial.trial_id) if is_new else None
        step, rate = 0 if said is None else said.step, None
        if start is not None and is_new and reported_at is not None and reported_at > start:
            rate = _steps_before(trial, step) * trial.batch_tokens / (reported_at - start)
        left = (trial.steps - step) * trial.batch_tokens / rate if rate else None
        last = max(filter(None, (start, reported_at)), default=now)
        found.append(
            RunningTrial(trial, step, None if said is None else said.loss, rate, left, now - last)
        )
    return tuple(found)


def _steps_before(trial: Trial, step: int) -> int:
    """Steps that the trial itself has made, without those of the trunk it continues from."""
    return max(0, step - (trial.tokens - trial.cost_tokens) // trial.batch_tokens)


def _is_leased(run: RunDir, trial: Trial, reported_at: float | None, now: float) -> bool:
    """Return whether a worker of a pool trains the trial now."""
    lease = run.trial(trial.trial_id) / "claim.lock"
    if reported_at is None or not lease.exists() or run.outcome(trial.trial_id).exists():
        return False
    return now - reported_at < _FRESH_SECONDS


def _spent(running: RunningTrial) -> float:
    """FLOPs that a running trial has spent so far."""
    trial = running.trial
    steps = _steps_before(trial, running.step)
    return steps * trial.batch_tokens * trial.size.flops_per_token


def _seconds_left(
    state: LedgerState, queued: Sequence[Trial], running: Sequence[RunningTrial]
) -> float | None:
    """Forecast until the last trial ends, at the mean rate of finished trials."""
    flops = math.fsum(state.flops[trial_id] for trial_id in state.finished)
    seconds = math.fsum(state.wall_seconds[trial_id] for trial_id in state.finished)
    if not flops or not seconds:
        return None
    waiting = math.fsum(trial.cost_flops for trial in queued) * seconds / flops
    at_work = [
        each.seconds_left
        if each.seconds_left is not None
        else max(0.0, each.trial.cost_flops - _spent(each)) * seconds / flops
        for each in running
    ]
    together = (waiting + math.fsum(at_work)) / max(1, len(running))
    return max([together, *at_work])


def _signs(run: RunDir, at_work: set[str]) -> list[Path]:
    """Return the files that change while the sweep runs."""
    files = [run.manifest, run.ledger, *(run.progress(trial_id) for trial_id in at_work)]
    return [path for path in files if path.exists()]


def _ended(
    run: RunDir, trials: Sequence[Trial], state: LedgerState, at_work: set[str]
) -> tuple[EndedTrial, ...]:
    """Return the trials without a usable loss, each with its reason."""
    found = []
    for trial in trials:
        key = trial.trial_id
        if key in state.dropped:
            found.append(EndedTrial(trial, "dropped", state.dropped[key], run.log(key)))
            continue
        ended = state.failed.get(key) or state.diverged.get(key)
        if ended is not None and key not in at_work:
            kind = "failed" if key in state.failed else "diverged"
            found.append(EndedTrial(trial, kind, ended.error or "no reason given", run.log(key)))
    return tuple(found)
