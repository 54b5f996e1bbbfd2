"""The files of a run: their names, atomic writes, the lock.

    manifest.toml      the experiment as written
    provenance.json    what it was made of: fingerprint, versions, data, where plugins were found
    estimate.json      what the sweep was expected to cost, as `estimate --json` prints it
    plan.json          the trials, as `plan --json` prints them
    ledger.jsonl       what happened (see `ledger`)
    lock               held by the one process that conducts the sweep
    conductor.json     sign of life of the conductor of a pool (see `pulse`)
    slurm/             jobs that were submitted to Slurm
    trials/<id>/       outcome.json, curve.jsonl, progress.json, checkpoint/, log.txt, and
                       training.jsonl where it diverged
    report/            tables and figures
    trackers/          what trackers without a server keep

A file is written under a temporary name, flushed to the disk, and renamed; a reader finds the old
content or the new, and a crash leaves at most a file that begins with `.tmp-`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

from flops_fit.errors import RunDirError
from flops_fit.manifest.files import (
    SMALL_FILE,
    STORED,
    Count,
    Finite,
    read_as,
    to_plain,
    write_json,
)
from flops_fit.manifest.trials import Outcome, Status, Trial


@dataclass(frozen=True)
class RunDir:
    """The paths inside one run directory."""

    path: Path

    @property
    def manifest(self) -> Path:
        """The experiment as written."""
        return self.path / "manifest.toml"

    @property
    def provenance(self) -> Path:
        """The file that records what the experiment was made of."""
        return self.path / "provenance.json"

    @property
    def plan(self) -> Path:
        """The planned trials."""
        return self.path / "plan.json"

    @property
    def estimate(self) -> Path:
        """The file with the forecast cost of the sweep."""
        return self.path / "estimate.json"

    @property
    def ledger(self) -> Path:
        """The record of what happened."""
        return self.path / "ledger.jsonl"

    @property
    def pulse(self) -> Path:
        """The sign of life of a conductor that workers of a pool wait for."""
        return self.path / "conductor.json"

    @property
    def report(self) -> Path:
        """Tables and figures."""
        return self.path / "report"

    @property
    def trackers(self) -> Path:
        """Files of trackers that keep them here."""
        return self.path / "trackers"

    def trial(self, trial_id: str) -> Path:
        """Return the directory of one trial."""
        return self.path / "trials" / trial_id

    def trunk(self, trunk_id: str) -> Path:
        """Return the folder in which trials share a trunk."""
        return self.path / "trunks" / trunk_id

    def drop_trunks(self) -> None:
        """Remove the files of trunks that no remaining trial continues."""
        shutil.rmtree(self.path / "trunks", ignore_errors=True)

    def outcome(self, trial_id: str) -> Path:
        """Return the file with a trial's outcome."""
        return self.trial(trial_id) / "outcome.json"

    def log(self, trial_id: str) -> Path:
        """Return the file with a trial's printed output."""
        return self.trial(trial_id) / "log.txt"

    def progress(self, trial_id: str) -> Path:
        """Return the file with a running trial's progress."""
        return self.trial(trial_id) / "progress.json"

    def is_of_start(self, name: str) -> bool:
        """Return whether a file of this name may be left of a start that was stopped half-way."""
        early = {self.provenance.name, self.plan.name, "lock"}
        return name in early or name.startswith(".tmp-")

    def is_run(self) -> bool:
        """Return whether a sweep was ever started here."""
        return self.manifest.is_file() and self.plan.is_file()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run directory for this process; freed by the system if the process dies.

        Raises:
            RunDirError: another process conducts this sweep.
        """
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunDirError(
                f"`{self.path}` is in use: another `flops-fit run` conducts this sweep",
                hint="wait for it, or stop it (Ctrl-C) and run again: finished trials are kept",
            ) from None
        try:
            yield
        finally:
            lock.release()


def write_outcome(run: RunDir, outcome: Outcome) -> None:
    """Leave a trial's outcome for the conductor.

    The first complete outcome counts, except that a finished or diverged one replaces a failed one:
    another process may have failed at the same trial.
    """
    path = run.outcome(outcome.trial_id)
    if path.exists():
        try:
            held = _read_outcome(path)
        except RunDirError:
            held = None
        is_better = outcome.status is not Status.FAILED
        if held is not None and not (held.status is Status.FAILED and is_better):
            return
    data = to_plain(outcome)
    details = {name: value for name, value in data["details"].items() if value is not None}
    write_json(path, {**data, "details": details})


def read_outcome(run: RunDir, trial: Trial) -> Outcome | None:
    """Return the outcome of a trial; None if it has none.

    A broken outcome is kept as `outcome.broken.json` and fails its trial: an outcome of another
    trial, of other tokens than planned, or finished without a loss, is broken too.
    """
    path = run.outcome(trial.trial_id)
    if not os.path.lexists(path):
        return None
    try:
        outcome = _read_outcome(path)
        if (wrong := _mismatch(outcome, trial)) is not None:
            raise RunDirError(f"`{path}` is not usable: {wrong}")
    except RunDirError as error:
        path.replace(path.with_name("outcome.broken.json"))
        kept = "it is kept beside its place as `outcome.broken.json`"
        return Outcome.of_failure(trial.trial_id, f"{error.message}; {kept}", seconds=0.0)
    return outcome


@dataclass(frozen=True)
class StepProgress:
    """The progress of a running trial: steps done, steps in all, and the last training loss."""

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    step: Count
    steps: Count = 0
    loss: Finite | None = None


def read_progress(run: RunDir, trial_id: str) -> StepProgress | None:
    """Return a trial's last reported progress; None if there is none, or it is broken."""
    path = run.progress(trial_id)
    if not path.exists():
        return None
    try:
        return read_as(StepProgress, path, most_bytes=SMALL_FILE)
    except RunDirError:
        return None  # It is only for the eye and for the account of failed trials.


def _read_outcome(path: Path) -> Outcome:
    return read_as(Outcome, path, most_bytes=SMALL_FILE)


def _mismatch(outcome: Outcome, trial: Trial) -> str | None:
    """Return which value of an outcome contradicts its trial; None if none does."""
    if outcome.trial_id != trial.trial_id:
        return f"`trial_id` is {outcome.trial_id}, expected {trial.trial_id}"
    if outcome.status is not Status.FINISHED:
        return None
    if outcome.loss is None:
        return "`loss` of a finished trial is null, expected a number"
    if outcome.tokens != trial.tokens:
        return f"`tokens` is {outcome.tokens}, expected the plan's {trial.tokens}"
    if abs(outcome.flops / trial.flops - 1) > 1e-9:
        return f"`flops` is {outcome.flops:g}, expected the plan's {trial.flops:g}"
    return None


def clear_failed_outcome(run: RunDir, trial: Trial) -> None:
    """Remove a failed outcome, so that the trial can be tried again."""
    outcome = read_outcome(run, trial)
    if outcome is not None and outcome.status is Status.FAILED:
        run.outcome(trial.trial_id).unlink(missing_ok=True)
