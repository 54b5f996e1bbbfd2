"""Tasks -> outcome files, trained or simulated from a planted law.

    python -m flops_fit worker RUN_DIR TRIAL_ID...   train these
    python -m flops_fit worker RUN_DIR               claim what is pending until nothing is left
    python -m flops_fit worker RUN_DIR --serve       take tasks from standard input (local executor)

Any engine that starts the second form on machines that see the run directory carries a sweep. The
outcome file is what counts, and the first complete one wins. Under torchrun the processes of the
first two forms share each trial.

With --serve each line of standard input is a JSON list of trial ids. The answer is a line `done`,
or `done, and ends` where a trial failed: the next one gets a new process. When standard input
closes, the conductor is gone: the worker saves a checkpoint and ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import FlopsFitError, PluginError, RunDirError
from flops_fit.experiment.loading import Experiment, load_experiment
from flops_fit.manifest.files import write_json
from flops_fit.manifest.manifest import read_manifest
from flops_fit.manifest.trials import Outcome, Status, Trial
from flops_fit.sweep.claims import LeaseLostError, Leases, claimed
from flops_fit.sweep.drift import match_identity
from flops_fit.sweep.interrupts import handling
from flops_fit.sweep.isolation import isolated
from flops_fit.sweep.ledger import read_ledger, replay
from flops_fit.sweep.provenance import read_plan, read_provenance, refuse_edited_manifest
from flops_fit.sweep.pulse import Listener
from flops_fit.sweep.ranks import Ranks, end_with_launcher, record_failure, this_rank
from flops_fit.sweep.rehearsal import simulate
from flops_fit.sweep.rundir import RunDir, read_outcome, write_outcome
from flops_fit.sweep.stalls import StallWatch

if TYPE_CHECKING:
    from flops_fit.manifest.manifest import ExecutionSection
    from flops_fit.training.orders import Controls, Trainer
    from flops_fit.training.trackers import Trackers

_STOP_SECONDS = 60.0  # without a conductor, to end the step at work and keep a checkpoint


class Bench:
    """Trains the trials of one process; the experiment is loaded once, with the first trial."""

    def __init__(self, run: RunDir, experiment: Experiment | None = None) -> None:
        """Keep the run directory, and the experiment if it is made of live objects."""
        # Absolute: a plugin may change the working folder.
        self.run = run = RunDir(run.path.absolute())
        run.refuse_links()
        self.stop = threading.Event()
        self.ranks = Ranks()
        self._experiment = experiment
        self._is_loaded = experiment is not None
        self._is_matched = False  # with what the sweep began with
        self._manifest = experiment.manifest if experiment else read_manifest(run.manifest)
        if experiment is None:
            refuse_edited_manifest(run, self._manifest)
        self.leases = Leases(run, seconds=self._manifest.execution.lease_seconds)
        self._provenance = read_provenance(run)
        self._trackers: Trackers | None = None
        self._unusable: set[str] = set()
        self._params: dict[int | float, int] = {}
        self.stalls: StallWatch | None = None  # where this process may be ended
        self._law = self._provenance.planted
        self._trials = _read_trials(run)

    def run_task(self, task: tuple[str, ...]) -> bool:
        """Train the trials of one task, and leave an outcome for each.

        An error in a trial becomes its outcome, with the traceback in the trial's log. An
        interruption and a lost lease leave no outcome. A trial that another process trains is
        waited for.

        Returns:
            Whether this process is as good as new: no trial has failed in it.
        """
        is_sound = True
        for trial_id in task:
            trial = self._trial(trial_id)
            with self._leased(trial) as is_ours:
                if is_ours:
                    is_sound &= self._run(trial)
        return is_sound

    def _run(self, trial: Trial) -> bool:
        """Train one trial whose lease this process holds; whether it did not fail."""
        with contextlib.ExitStack() as stack:
            if self.stalls is not None and self._trains_here:
                stack.enter_context(self.stalls.watching(lambda: self._end_stalled(trial)))
            outcome = self._outcome_of(trial)
        if outcome is not None and not this_rank():
            write_outcome(self.run, outcome)
            self._drop_trunk(trial)
        # Closing a tracker may wait for its server: the outcome must not.
        if self._trackers is not None:
            self._trackers.finish("interrupted" if outcome is None else outcome.status)
            # One that does not start may take minutes to say so: once is enough.
            self._unusable |= self._trackers.unusable
            self._trackers = None
        return outcome is None or outcome.status is not Status.FAILED

    @contextlib.contextmanager
    def _leased(self, trial: Trial) -> Iterator[bool]:
        """Hold the lease of a trial; False if the trial has ended, or this process is to stop."""
        trial_id = trial.trial_id
        if this_rank() is not None or self._law is not None or self.leases.holds(trial_id):
            yield True
            return

        def is_over() -> bool:
            outcome = read_outcome(self.run, trial)
            has_ended = outcome is not None and outcome.status is not Status.FAILED
            return has_ended or self.stop.is_set()

        is_ours = self.leases.wait(trial_id, is_over=is_over)
        try:
            yield is_ours and not is_over()
        finally:
            if is_ours:
                self.leases.release(trial_id)

    def _should_stop(self, trial: Trial) -> bool:
        """Return whether to stop before the next step; asking is a sign of life.

        Raises:
            LeaseLostError: another process has taken the trial over.
        """
        if self.stalls is not None:
            self.stalls.alive()
        if this_rank() is None:
            self.leases.require(trial.trial_id)
        # A first rank that claimed the trial stops with all the others at the same step.
        return self.stop.is_set() or self.leases.has_lost(trial.trial_id)

    def _end_stalled(self, trial: Trial) -> None:
        """Fail a trial that shows no sign of life, and end this process and its children."""
        assert self.stalls is not None
        minutes = self.stalls.seconds / 60
        doing = "step ended" if self._is_loaded else "plugin or data set was loaded"
        reason = (
            f"no {doing} within {minutes:g} minutes (`stall_minutes` in [execution]), so the "
            "trial was ended; its log shows the last output"
        )
        directory = self.run.trial(trial.trial_id)
        directory.mkdir(parents=True, exist_ok=True)
        with self.run.log(trial.trial_id).open("a", encoding="utf-8") as log:
            log.write(f"{reason}\n")
            log.flush()
            faulthandler.dump_traceback(log)
        rank = this_rank()
        if rank is not None:
            record_failure(directory, rank, reason)
        elif self.leases.holds(trial.trial_id):
            seconds = self.stalls.seconds
            write_outcome(self.run, Outcome.of_failure(trial.trial_id, reason, seconds=seconds))
        self.ranks.kill()
        end_process()

    def _trial(self, trial_id: str) -> Trial:
        """Return a trial of the plan, which an adaptive sweep rewrites with each decision.

        Raises:
            RunDirError: the plan does not have it.
        """
        if trial_id not in self._trials:
            self._trials = _read_trials(self.run)
        if trial_id not in self._trials:
            raise RunDirError(f"`{self.run.plan}` has no trial `{trial_id}`")
        return self._trials[trial_id]

    def _drop_trunk(self, ended: Trial) -> None:
        """Remove a trunk's checkpoints once no trial can continue from them.

        That is so when every trial of the trunk has ended, for good, and each state was gone on
        from. An adaptive sweep keeps more of them, for trials that are not decided on yet.
        """
        if ended.trunk_id is None:
            return
        mates = [t for t in self._trials.values() if t.trunk_id == ended.trunk_id]
        trunks = [mate.trunk for mate in mates if mate.trunk is not None]
        waiting = {n for t in trunks for n in t.kept_tokens} - {t.shared_tokens for t in trunks}
        if waiting:
            return
        outcomes = [read_outcome(self.run, mate) for mate in mates]
        if all(outcome is not None and outcome.status is not Status.FAILED for outcome in outcomes):
            shutil.rmtree(self.run.trunk(ended.trunk_id), ignore_errors=True)

    @property
    def pending(self) -> list[str]:
        """Ids of the trials without an outcome that are not dropped, in the plan's order.

        The plan is read again: the decisions of an adaptive sweep add trials to it.
        """
        self._trials = _read_trials(self.run)
        ledger = self.run.ledger
        dropped = replay(read_ledger(ledger)).dropped if ledger.exists() else {}
        return [i for i in self._trials if i not in dropped and not self.run.outcome(i).exists()]

    @property
    def stall_minutes(self) -> float:
        """Minutes without a sign of life after which a trial is ended."""
        return self._manifest.execution.stall_minutes

    def claimed(self) -> Generator[str]:
        """Yield pending trials that no other process holds."""
        return claimed(
            self.run,
            self.leases,
            lambda: self.pending,
            is_stopped=self.stop.is_set,
            is_awaited=Listener(self.run).hears,
            is_rank=this_rank() is not None,
            device=self._manifest.execution.device,
        )

    @property
    def _trains_here(self) -> bool:
        """Whether this process trains; else it starts the ranks that do."""
        return self._manifest.execution.devices_per_trial == 1 or this_rank() is not None

    def _outcome_of(self, trial: Trial) -> Outcome | None:
        """Simulate, train here, or train in several processes; None if asked to stop."""
        if self._law is not None:
            return simulate(trial, self._law)
        execution = self._manifest.execution
        if self._trains_here:
            return self._train(trial)
        started = time.monotonic()
        reason = self.ranks.train(
            self.run,
            trial.trial_id,
            processes=execution.devices_per_trial,
            threads=execution.threads_per_worker,
        )
        if reason is None or self.stop.is_set():
            return None
        seconds = time.monotonic() - started
        return Outcome.of_failure(trial.trial_id, reason, seconds=seconds)

    def _train(self, trial: Trial) -> Outcome | None:
        """Train one trial; None if it was asked to stop."""
        from flops_fit.training.orders import Interrupted, TrialFiles

        directory = self.run.trial(trial.trial_id)
        directory.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        try:
            experiment = self._load()
            self._is_loaded = True
            if self.stalls is not None:
                self.stalls.alive()
            self._require_planned_size(experiment, trial)
            self._trackers = self.make_trackers()
            with isolated():
                return self._trainer(
                    trial,
                    experiment.ingredients,
                    TrialFiles(
                        directory,
                        None if trial.trunk_id is None else self.run.trunk(trial.trunk_id),
                    ),
                    self._controls(trial, experiment.manifest.execution),
                )
        except Interrupted:
            return None
        except LeaseLostError as error:
            with self.run.log(trial.trial_id).open("a", encoding="utf-8") as log:
                log.write(f"stopped: {error.message}\n")
            return None
        except Exception as error:
            with self.run.log(trial.trial_id).open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            reason = error.message if isinstance(error, FlopsFitError) else _in_a_line(error)
            rank = this_rank()
            if rank is not None:
                record_failure(directory, rank, reason)
                sys.exit(1)  # The launcher ends the other ranks.
            seconds = time.monotonic() - started
            return Outcome.of_failure(trial.trial_id, reason, seconds=seconds)

    @property
    def _trainer(self) -> Trainer:
        """The trainer of every trial."""
        from flops_fit.training.loop import train

        return train

    def _controls(self, trial: Trial, execution: ExecutionSection) -> Controls:
        """Return how a trial is run in this process."""
        from flops_fit.training.orders import Controls

        return Controls(
            device=None if execution.device == "auto" else execution.device,
            threads=execution.threads_per_worker,
            should_stop=lambda: self._should_stop(trial),
            progress=lambda said: write_json(
                self.run.progress(trial.trial_id), said, durable=False
            ),
            checkpoint_seconds=60 * execution.checkpoint_minutes,
            keep_checkpoints=execution.keep_checkpoints,
            trackers=self._trackers,
        )

    def _require_planned_size(self, experiment: Experiment, trial: Trial) -> None:
        """Refuse to train a model that has other params than the plan says.

        Stated sizes are the user's own counts, so nothing is compared there.

        Raises:
            PluginError: the model's code, or its count, changed since the sweep began.
        """
        if experiment.manifest.model.stated is not None:
            return
        from flops_fit.training.counting.sizes import count_params

        value, planned = trial.size.size_value, trial.size.params
        if value not in self._params:
            self._params[value] = count_params(experiment.build, value)
        if self._params[value] != planned:
            raise PluginError(
                f"the model of size {value:g} has {self._params[value]:,} params, and the plan "
                f"says {planned:,}: its code changed since the sweep began",
                hint="undo the change, or start a new run directory with --run-dir",
            )

    def make_trackers(self) -> Trackers | None:
        """Return the manifest's trackers for one trial; None if none is named or usable."""
        from flops_fit.training.trackers import Trackers

        manifest = self._manifest
        names = tuple(n for n in manifest.training.log_with if n not in self._unusable)
        if not names:
            return None
        return Trackers(
            names,
            self.run.trackers,
            manifest.name,
            self._provenance.fingerprint,
        )

    def _load(self) -> Experiment:
        """Load the experiment from the run directory's manifest; refuse changed data."""
        if self._experiment is None:
            folders = [Path(folder) for folder in self._provenance.search_path]
            self._experiment = load_experiment(self._manifest, search_path=folders)
        began, now = self._provenance.data, self._experiment.data.facts.provenance
        if began is not None and now is not None and began != json.loads(json.dumps(dict(now))):
            raise RunDirError(
                f"the data changed since the sweep began: was {began}, is {dict(now)}",
                hint="losses on different data are not one law: start a new run directory",
            )
        if not self._is_matched:
            folders = [Path(folder) for folder in self._provenance.search_path]
            match_identity(self.run, self._experiment, search_path=folders)
            self._is_matched = True
        return self._experiment


def _read_trials(run: RunDir) -> dict[str, Trial]:
    """Return the trials of the plan as it is now, by id."""
    return {trial.trial_id: trial for trial in read_plan(run).trials}


def end_process() -> None:
    """End this process at once, with its children if it leads a session."""
    if os.getsid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _own_bench(run: RunDir) -> Bench:
    """Return this process's bench; the process ends itself if a trial stalls."""
    bench = Bench(run)
    bench.stalls = StallWatch(60 * bench.stall_minutes)
    return bench


@dataclass(frozen=True)
class Ended:
    """The end of a worker.

    Attributes:
        trained: how many trials it trained; None where another rank says it.
        is_stopped: whether a signal stopped it, with trials left.
    """

    trained: int | None
    is_stopped: bool


def train_listed(run: RunDir, trial_ids: list[str]) -> Ended:
    """Train these trials, in this order."""
    bench = _own_bench(run)
    if this_rank() is not None:
        end_with_launcher()
    with _stopping(bench):
        bench.run_task(tuple(trial_ids))
    return Ended(None, bench.stop.is_set())


def train_claimed(run: RunDir) -> Ended:
    """Claim and train pending trials until none is left."""
    bench = _own_bench(run)
    if this_rank() is not None:
        end_with_launcher()
    trained = 0
    with _stopping(bench), contextlib.closing(bench.claimed()) as trial_ids:
        for trial_id in trial_ids:
            bench.run_task((trial_id,))
            trained += 1
    return Ended(None if this_rank() else trained, bench.stop.is_set())


def serve(run: RunDir) -> None:
    """Train the tasks that arrive on standard input until it closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What a plugin prints must not look like an answer.
    # Not `sys.stdin`: who waits for a line of it holds its lock, and each process that is forked to
    # load data closes it first of all, so it would wait for ever.
    incoming = os.fdopen(os.dup(0), encoding="utf-8")
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 0)
    tasks: queue.SimpleQueue[tuple[str, ...] | None] = queue.SimpleQueue()
    bench = _own_bench(run)

    def listen() -> None:
        for line in incoming:
            tasks.put(tuple(json.loads(line)))
        # The conductor is gone; what is unfinished is taken up by the next.
        bench.stop.set()
        bench.ranks.ask_to_stop()
        tasks.put(None)
        time.sleep(_STOP_SECONDS)
        bench.ranks.kill()
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    is_idle = threading.Event()
    with _stopping(bench, is_idle):
        while not bench.stop.is_set():
            is_idle.set()
            task = tasks.get()
            is_idle.clear()
            if task is None:
                break
            with _logging_to(bench.run.log(task[0])):
                is_sound = bench.run_task(task)
            if not bench.stop.is_set():
                answers.write("done\n" if is_sound else "done, and ends\n")
                answers.flush()
            if not is_sound:
                break  # What a failed trial left in this process must not reach the next.


@contextlib.contextmanager
def _stopping(bench: Bench, is_idle: threading.Event | None = None) -> Iterator[None]:
    """Turn SIGTERM and SIGUSR1 into a request to stop at the next step (at once when idle)."""

    def ask(number: int, frame: Any) -> None:
        bench.stop.set()
        bench.ranks.ask_to_stop()
        if is_idle is not None and is_idle.is_set():
            os._exit(0)

    with handling(ask):
        yield


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Redirect standard output and error of this process and its children to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(1), os.dup(2)
    with path.open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, number in zip(kept, (1, 2), strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _in_a_line(error: BaseException) -> str:
    """Return an exception's class and the first line of its text; of a syntax error the last."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return lines[-1 if isinstance(error, SyntaxError) else 0]
