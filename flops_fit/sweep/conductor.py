"""Carries out a plan: submits pending trials, records their outcomes, stops at caps and signals.

The conductor is the only writer of the ledger. Workers write outcome files. At the start the
conductor records outcomes that the ledger lacks, so if it died before, nothing is lost and no
finished trial runs again. Failed trials are tried again once each time the sweep is started. A
sweep stops before the trial that would pass one of its caps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, fields, replace
from typing import Any

from flops_fit.errors import FlopsFitError, PluginError
from flops_fit.manifest.trials import Details, Outcome, Status, Trial, shortened
from flops_fit.planning.plan import Plan
from flops_fit.sweep.caps import Allowance, CapReached, Caps
from flops_fit.sweep.entries import (
    Entry,
    SweepFinished,
    SweepInterrupted,
    TrialDiverged,
    TrialEnded,
    TrialFailed,
    TrialFinished,
    TrialStarted,
    TrialStopped,
)
from flops_fit.sweep.executors.contract import Executor, Resources
from flops_fit.sweep.ledger import Ledger
from flops_fit.sweep.rundir import RunDir, clear_failed_outcome, read_outcome, read_progress

_POLL_SECONDS = 0.5
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
    """

    finished: int
    diverged: int
    failed: int
    pending: int
    is_interrupted: bool
    cap: CapReached | None = None
    spent_flops: float = 0.0

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
        try:
            sweep.carry_out(pending, executor, max_running, resources or Resources())
            goes_on = not is_last and sweep.cap is None
        except KeyboardInterrupt:
            is_interrupted = True
        finally:
            if not goes_on:
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
        self.allowance = Allowance(plan, ledger, caps, lambda trial: self._progress(trial).step)
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
        return SweepSummary(
            finished, diverged, failed, pending, is_interrupted, self.cap, state.spent_flops
        )

    def finish(self, summary: SweepSummary) -> None:
        """Record the end of the sweep once, and remove trunks that no trial needs."""
        if not self.ledger.state.is_complete:
            self.append(summary.entry)
        if not summary.failed:
            self.run.drop_trunks()

    def _next(self, waiting: Sequence[Trial], running: Iterable[Trial]) -> Trial | None:
        """Return the first waiting trial whose trunk is there; None if all wait for a trunk."""
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
            self.watcher.on_progress([self._progress(trial) for trial in running.values()])

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
            seen = self._progress(trial).step * trial.batch_tokens - trial.tokens
            flops = max(flops, trial.cost_flops + seen * trial.size.flops_per_token)
        self.append(_ended(trial, outcome, flops=flops, attempt_seconds=seconds), trial)

    def _progress(self, trial: Trial) -> Progress:
        """Return a running trial's progress, as its worker last reported it."""
        said = read_progress(self.run, trial.trial_id)
        return Progress(trial, 0, None) if said is None else Progress(trial, said.step, said.loss)


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
