"""Carries out a plan: submits pending trials, records their outcomes, stops at caps and signals.

The conductor is the only writer of the ledger. Workers write outcome files. At the start the
conductor records outcomes that the ledger lacks, so if it died before, nothing is lost and no
finished trial runs again. Failed trials are tried again once each time the sweep is started. A
sweep stops before the trial that would pass one of its caps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, fields, replace
from typing import Any

from flops_fit.errors import FlopsFitError, PluginError
from flops_fit.manifest.trials import Details, Outcome, Status, Trial, shortened
from flops_fit.planning.plan import Plan
from flops_fit.sweep.caps import Allowance, CapReached, Caps
from flops_fit.sweep.entries import (
    Entry,
    JobLost,
    JobSubmitted,
    SweepFinished,
    SweepInterrupted,
    TrialDiverged,
    TrialEnded,
    TrialFailed,
    TrialFinished,
    TrialStarted,
    TrialStopped,
)
from flops_fit.sweep.executors.contract import (
    Executor,
    Job,
    JobLostError,
    QueueExecutor,
    Resources,
    has_queue,
)
from flops_fit.sweep.ledger import Ledger
from flops_fit.sweep.rundir import RunDir, clear_failed_outcome, read_outcome, read_progress
from flops_fit.sweep.tasks import Forecast, resources_of, tasks_of

_POLL_SECONDS = 0.5
_LOOK_SECONDS = 2.0  # between two looks at which queued trials have begun
_MAX_LOSSES = 3  # jobs of one trial that are lost in a session before it counts as failed
_MAX_DEATHS = 3  # workers that died in a row; after that their trials are not tried again


@dataclass(frozen=True)
class Progress:
    """The progress of a running trial, by the last report of its worker."""

    trial: Trial
    step: int
    loss: float | None


@dataclass(frozen=True)
class SweepSummary:
    """The end of a sweep: its trials by state, and why it stopped.

    Attributes:
        finished, diverged, failed, pending: trials in each state.
        is_interrupted: whether a signal stopped it.
        cap: the cap that stopped it; None if none did.
        spent_flops: FLOPs of all trials so far, earlier sessions included.
        job_ids: jobs that are left in a scheduler's queue.
    """

    finished: int
    diverged: int
    failed: int
    pending: int
    is_interrupted: bool
    cap: CapReached | None = None
    spent_flops: float = 0.0
    job_ids: tuple[str, ...] = ()

    @property
    def entry(self) -> SweepFinished:
        """The ledger's last entry of a sweep that has ended."""
        return SweepFinished(finished=self.finished, diverged=self.diverged, failed=self.failed)


@dataclass(frozen=True)
class Watcher:
    """Callbacks while a sweep runs: for each ledger entry, and for the running trials."""

    on_entry: Callable[[Entry, Trial | None], None] = lambda entry, trial: None
    on_progress: Callable[[Sequence[Progress]], None] = lambda running: None


def conduct(
    plan: Plan,
    run: RunDir,
    ledger: Ledger,
    make_executor: Callable[[], Executor],
    *,
    max_running: int,
    resources: Resources | None = None,
    watcher: Watcher | None = None,
    caps: Caps | None = None,
    is_last: bool = True,
    forecasts: Mapping[str, Forecast] | None = None,
    submits_only: bool = False,
) -> SweepSummary:
    """Train the trials of a plan that the ledger lacks.

    Args:
        plan: the trials, in starting order.
        run: the run directory, where workers write outcomes.
        ledger: open for writing; this process holds the run directory's lock.
        make_executor: called only if there is something to run.
        max_running: trials to run at a time.
        resources: what each task asks for.
        watcher: receives entries and progress.
        caps: what the sweep may spend in all.
        is_last: whether the sweep ends with this plan. An adaptive sweep adds more trials later,
            so the executor stays open unless the sweep was stopped.
        forecasts: of trials, by id; a scheduler's queue is asked for what they say.
        submits_only: whether to leave once the jobs are in a scheduler's queue.

    Returns:
        How it ended. Ctrl-C stops the workers and is recorded; it is not raised.
    """
    sweep = _Sweep(plan, run, ledger, watcher or Watcher(), caps or Caps())
    sweep.harvest()
    pending = [trial for trial in plan.trials if ledger.state.is_pending(trial)]
    is_interrupted = False
    sweep.cap = sweep.allowance.passed_by(pending)
    if pending and sweep.cap is None:
        for trial in pending:
            clear_failed_outcome(run, trial)
        executor, goes_on = make_executor(), False
        resources = resources or Resources()
        try:
            if has_queue(executor):
                queued = _Queued(sweep, executor, forecasts or {}, resources.num_devices)
                is_interrupted = not queued.carry_out(pending, submits_only=submits_only)
            else:
                sweep.carry_out(pending, executor, max_running, resources)
            goes_on = not is_last and sweep.cap is None and not is_interrupted
        except KeyboardInterrupt:
            is_interrupted = True
        finally:
            if is_interrupted and has_queue(executor):
                executor.detach()
            elif not goes_on:
                executor.shutdown()
        sweep.harvest()
        sweep.record_stopped()
        if is_interrupted:
            sweep.append(SweepInterrupted(pending=sweep.summary(True).pending))
    if sweep.cap is not None and not is_interrupted:
        sweep.append(sweep.cap.entry)
    summary = sweep.summary(is_interrupted)
    if is_last and not is_interrupted and sweep.cap is None:
        sweep.finish(summary)
    return summary


class _Sweep:
    """A session that carries out a plan."""

    def __init__(
        self, plan: Plan, run: RunDir, ledger: Ledger, watcher: Watcher, caps: Caps
    ) -> None:
        self.plan = plan
        self.run = run
        self.ledger = ledger
        self.watcher = watcher
        self.allowance = Allowance(plan, ledger, caps, lambda trial: self.progress(trial).step)
        self.cap: CapReached | None = None
        self.revived: set[str] = set()  # trials whose worker died and that were tried again
        self.deaths = 0  # of workers since one last left an outcome

    def append(self, entry: Entry, trial: Trial | None = None) -> None:
        """Record an event, and tell the watcher."""
        self.watcher.on_entry(self.ledger.append(entry), trial)

    def summary(self, is_interrupted: bool) -> SweepSummary:
        """Count the plan's trials by state."""
        state = self.ledger.state
        ids = [t.trial_id for t in self.plan.trials if t.trial_id not in state.dropped]
        finished = sum(i in state.finished for i in ids)
        diverged = sum(i in state.diverged for i in ids)
        failed = sum(i in state.failed for i in ids)
        pending = len(ids) - finished - diverged - failed
        open_jobs = {state.job_of[i]: None for i in ids if i in state.job_of}
        return SweepSummary(
            finished, diverged, failed, pending, is_interrupted, self.cap, state.spent_flops,
            tuple(open_jobs),
        )  # fmt: skip

    def finish(self, summary: SweepSummary) -> None:
        """Record the end of the sweep once, and remove trunks that no trial needs."""
        if not self.ledger.state.is_complete:
            self.append(summary.entry)
        if not summary.failed:
            self.run.drop_trunks()

    def _next(self, waiting: Sequence[Trial], running: Iterable[Trial]) -> Trial | None:
        """Return the first waiting trial whose trunk is there; None if all wait for a trunk."""
        if waiting and waiting[0].trunk is None:
            return waiting[0]
        open_ids = {trial.trial_id for trial in (*waiting, *running)}
        for trial in waiting:
            if not any(mate.trial_id in open_ids for mate in self.plan.before(trial)):
                return trial
        return None

    def record_stopped(self) -> None:
        """Record how long each stopped trial ran, so that its time counts."""
        for trial in self.plan.trials:
            if (seconds := self.allowance.end(trial.trial_id)) is not None:
                stopped = TrialStopped(trial_id=trial.trial_id, wall_seconds=round(seconds, 3))
                self.append(stopped, trial)

    def harvest(self) -> None:
        """Record the outcomes that the ledger lacks."""
        for trial in self.plan.trials:
            if not self.ledger.state.is_pending(trial):
                continue
            outcome = read_outcome(self.run, trial)
            if outcome is not None and outcome.status is not Status.FAILED:
                self._record(trial, outcome, self.allowance.end(trial.trial_id))

    def carry_out(
        self, pending: Sequence[Trial], executor: Executor, max_running: int, resources: Resources
    ) -> None:
        """Keep `max_running` trials running until all have ended, or a cap is reached."""
        for each in self.plan.trials:
            if (earlier := read_outcome(self.run, each)) is not None:
                _refuse_negative(each, earlier.loss)
        waiting = list(pending)
        running: dict[Future[None], Trial] = {}
        while waiting or running:
            while waiting and len(running) < max_running and self.cap is None:
                trial = self._next(waiting, running.values())
                if trial is None:
                    break
                others = [each for each in waiting if each is not trial]
                self.cap = self.allowance.passed_by([trial, *others])
                if self.cap is not None:
                    break
                waiting.remove(trial)
                attempt = self.ledger.state.attempts.get(trial.trial_id, 0) + 1
                self.append(TrialStarted(trial_id=trial.trial_id, attempt=attempt), trial)
                self.allowance.start(trial)
                running[executor.submit((trial.trial_id,), resources)] = trial
            if not running:
                return
            left = self.allowance.seconds_left()
            # Half of what is left: by then a trial that was forecast to end may be late.
            poll = _POLL_SECONDS if left is None else min(_POLL_SECONDS, max(left / 2, 0.01))
            ended, _ = wait(running, timeout=poll, return_when=FIRST_COMPLETED)
            for future in ended:
                trial = running.pop(future)
                if self._end(trial, future):
                    waiting.append(trial)
            if running and left is not None and left <= _POLL_SECONDS / 10:
                self.cap = self.allowance.out_of_time([*running.values(), *waiting])
                return
            self.watcher.on_progress([self.progress(trial) for trial in running.values()])

    def take(self, trial: Trial) -> bool:
        """Record the outcome of an open trial, if it has one; return whether it has."""
        outcome = read_outcome(self.run, trial)
        if outcome is None:
            return False
        self._record(trial, outcome, self.allowance.end(trial.trial_id))
        _refuse_negative(trial, outcome.loss)
        return True

    def give_up(self, trial: Trial, reason: str) -> None:
        """Record that a trial without an outcome failed."""
        seconds = self.allowance.end(trial.trial_id)
        dead = Outcome.of_failure(trial.trial_id, reason, seconds=seconds or 0.0)
        self._record(trial, dead, seconds)

    def _end(self, trial: Trial, future: Future[None]) -> bool:
        """Record the outcome of a trial whose future ended; return whether to try it again.

        It is, once, where its worker died, unless several have died on end: it goes on from its
        checkpoint, and what ended the worker may have come from outside.
        """
        seconds = self.allowance.end(trial.trial_id)
        outcome = read_outcome(self.run, trial)
        if outcome is not None:
            self.deaths = 0
            self._record(trial, outcome, seconds)
            _refuse_negative(trial, outcome.loss)
            return False
        error = future.exception()
        if error is not None and not isinstance(error, FlopsFitError | OSError):
            raise error
        reason = str(error) if error else "the worker ended without leaving an outcome"
        self.deaths += 1
        is_revived = self.deaths < _MAX_DEATHS and trial.trial_id not in self.revived
        self.revived.add(trial.trial_id)
        dead = Outcome.of_failure(trial.trial_id, reason, seconds=seconds or 0.0)
        if is_revived:
            dead = replace(dead, details=Details(tried_again=True))
        self._record(trial, dead, seconds)
        return is_revived

    def _record(self, trial: Trial, outcome: Outcome, seconds: float | None) -> None:
        """Append a trial's outcome to the ledger; `seconds`: of this attempt, start and all."""
        flops = outcome.flops
        if outcome.status is Status.FAILED:
            # A trial that died told nobody what it had spent, but for its last sign of life.
            seen = self.progress(trial).step * trial.batch_tokens - trial.tokens
            flops = max(flops, trial.cost_flops + seen * trial.size.flops_per_token)
        self.append(_ended(trial, outcome, flops=flops, attempt_seconds=seconds), trial)

    def progress(self, trial: Trial) -> Progress:
        """Return a running trial's progress, as its worker last reported it."""
        said = read_progress(self.run, trial.trial_id)
        return Progress(trial, 0, None) if said is None else Progress(trial, said.step, said.loss)


class _Queued:
    """A plan in the queue of a scheduler, or in the hands of a pool of workers.

    Everything is submitted at once. Jobs live on when this process ends: the ledger holds their
    ids, and the next conductor takes them up again.
    """

    def __init__(
        self,
        sweep: _Sweep,
        executor: QueueExecutor,
        forecasts: Mapping[str, Forecast],
        num_devices: int,
    ) -> None:
        self._sweep, self._executor = sweep, executor
        self._forecasts, self._num_devices = forecasts, num_devices
        self._running: dict[Future[None], tuple[Trial, ...]] = {}
        self._open: dict[str, Trial] = {}
        self._begun: set[str] = set()
        self._losses: dict[str, int] = {}
        self._looked = 0.0

    def carry_out(self, pending: Sequence[Trial], *, submits_only: bool) -> bool:
        """Submit the trials and wait until all have ended; whether they have."""
        self._open = {trial.trial_id: trial for trial in pending}
        known = self._take_up_known()
        self._submit([trial for trial in pending if trial.trial_id not in known])
        while self._running and not submits_only:
            ended, _ = wait(self._running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for task in self._running.values():
                if len(task) > 1:
                    self._take_outcomes(task)
            for future in ended:
                self._end(self._running.pop(future), future)
            self._record_jobs()
            self._look()
        return not self._running

    def _take_up_known(self) -> set[str]:
        """Watch the jobs that earlier conductors submitted; return the trials in their hands."""
        state = self._sweep.ledger.state
        tasks: dict[str, list[str]] = {}
        for trial_id, job_id in state.job_of.items():
            if trial_id in self._open:
                tasks.setdefault(job_id, []).append(trial_id)
        for job in self._executor.unrecorded(frozenset(state.job_ids)):
            left = [trial_id for trial_id in job.task if trial_id in self._open]
            if left:
                self._sweep.append(JobSubmitted(job_id=job.job_id, trial_ids=job.task))
                tasks[job.job_id] = left
        for job_id, trial_ids in tasks.items():
            future = self._executor.attach(Job(job_id, tuple(trial_ids)))
            self._running[future] = tuple(self._open[trial_id] for trial_id in trial_ids)
            for trial_id in trial_ids:
                self._sweep.allowance.queue(self._open[trial_id])
        return {trial_id for trial_ids in tasks.values() for trial_id in trial_ids}

    def _submit(self, trials: Sequence[Trial]) -> None:
        """Submit the tasks of these trials, as far as the caps allow."""
        tasks = tasks_of(trials, self._forecasts, least_seconds=self._executor.task_seconds)
        waiting = [trial for task in tasks for trial in task]
        for task in tasks:
            for trial in task:
                self._sweep.cap = self._sweep.cap or self._sweep.allowance.passed_by(waiting)
                if self._sweep.cap is not None:
                    break
                self._sweep.allowance.queue(trial)
                del waiting[0]
            if self._sweep.cap is not None:
                break
            needs = resources_of(task, self._forecasts, num_devices=self._num_devices)
            ids = tuple(trial.trial_id for trial in task)
            self._running[self._executor.submit(ids, needs)] = task
        self._record_jobs()

    def _record_jobs(self) -> None:
        """Submit what waits in the executor, and record the ids of its jobs."""
        for job in self._executor.flush():
            self._sweep.append(JobSubmitted(job_id=job.job_id, trial_ids=job.task))

    def _take_outcomes(self, task: Sequence[Trial]) -> None:
        """Record the outcomes of a task's open trials."""
        for trial in task:
            if trial.trial_id in self._open and self._sweep.take(trial):
                del self._open[trial.trial_id]

    def _end(self, task: Sequence[Trial], future: Future[None]) -> None:
        """Record the end of a task; submit it again where its job was lost."""
        self._take_outcomes(task)
        error = future.exception()
        left = [trial for trial in task if trial.trial_id in self._open]
        if error is not None and not isinstance(error, JobLostError):
            raise error
        if error is None or not left:
            return
        ids = tuple(trial.trial_id for trial in left)
        self._sweep.append(JobLost(job_id=error.job_id, trial_ids=ids, reason=error.reason))
        again = []
        for trial in left:
            losses = self._losses[trial.trial_id] = self._losses.get(trial.trial_id, 0) + 1
            if losses < _MAX_LOSSES:
                again.append(trial)
                continue
            self._sweep.give_up(trial, f"{losses} of its jobs were lost; the last: {error.reason}")
            del self._open[trial.trial_id]
        self._submit(again)

    def _look(self) -> None:
        """Record which trials have begun, and tell the watcher how far they are."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for trial in self._open.values():
            key = trial.trial_id
            if key not in self._begun and self._sweep.run.progress(key).exists():
                self._begun.add(key)
                attempt = self._sweep.ledger.state.attempts.get(key, 0) + 1
                self._sweep.append(TrialStarted(trial_id=key, attempt=attempt), trial)
        running = [self._sweep.progress(self._open[key]) for key in self._begun & set(self._open)]
        self._sweep.watcher.on_progress(running)


def _refuse_negative(trial: Trial, loss: float | None) -> None:
    """Stop a sweep at its first held-out loss of zero or less, which no law can be fitted to.

    Raises:
        PluginError: the loss is not positive.
    """
    if loss is not None and loss <= 0:
        raise PluginError(
            f"the held-out loss of trial {trial.trial_id} is {loss:.4g}: scaling laws are fitted "
            "to positive losses, so the sweep stops before more compute is spent",
            hint="add a constant that keeps the loss above zero, `offset = 10.0` in [loss], and "
            "start a new run directory; answers are then for the loss plus that constant",
        )


def _ended(
    trial: Trial, outcome: Outcome, *, flops: float, attempt_seconds: float | None
) -> TrialEnded:
    """Return the ledger's entry of an outcome."""
    known: dict[str, Any] = {
        **{name: getattr(outcome.details, name) for name in _DETAILS},
        "trial_id": trial.trial_id,
        "tokens": outcome.tokens,
        "flops": flops,
        "wall_seconds": round(outcome.wall_seconds, 3),
        "attempt_seconds": None if attempt_seconds is None else round(attempt_seconds, 3),
    }
    if outcome.status is Status.FINISHED:
        assert outcome.loss is not None, "checked when the outcome was read"
        return TrialFinished(loss=outcome.loss, params=trial.size.params, **known)
    kind = TrialDiverged if outcome.status is Status.DIVERGED else TrialFailed
    error = None if outcome.error is None else shortened(outcome.error)
    return kind(error=error, heldout_loss=outcome.loss, **known)


_DETAILS = tuple(each.name for each in fields(Details))
