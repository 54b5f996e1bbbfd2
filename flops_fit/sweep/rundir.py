"""The files of a run: their names, atomic writes, the lock.

    manifest.toml      the experiment as written
    provenance.json    what it was made of: fingerprint, versions, data, where plugins were found
    estimate.json      what the sweep was expected to cost, as `estimate --json` prints it
    plan.json          the trials, as `plan --json` prints them
    ledger.jsonl       what happened (see `ledger`)
    lock               held by the one process that conducts the sweep
    lock-owner.json    which one that is: host, process, since when
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

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

from flops_fit.errors import RunDirError
from flops_fit.manifest.files import (
    SMALL_FILE,
    STORED,
    Count,
    Finite,
    Text,
    read_as,
    to_plain,
    write_as,
    write_json,
)
from flops_fit.manifest.trials import Outcome, Status, Trial

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@dataclass(frozen=True)
class LockOwner:
    """The process that conducts a sweep.

    Attributes:
        host: its machine's name.
        pid: its number there.
        since: UTC, ISO 8601.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    host: Text
    pid: Count
    since: Text

    @classmethod
    def this_process(cls) -> LockOwner:
        """Return this process, from now on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), now)


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
        early = {self.provenance.name, self.plan.name, "lock", self._lock_owner.name}
        return name in early or name.startswith(".tmp-")

    def is_run(self) -> bool:
        """Return whether a sweep was ever started here."""
        return self.manifest.is_file() and self.plan.is_file()

    def refuse_links(self) -> None:
        """Refuse links inside the run directory: what is written must not go elsewhere.

        The run directory itself may be reached by a link. What trackers and the report keep is
        written by others, or replaced whole.

        Raises:
            RunDirError: names the first link, and where it leads.
        """
        waiting = [self.path]
        while waiting:
            try:
                entries = list(os.scandir(waiting.pop()))
            except FileNotFoundError:  # A trial may end meanwhile.
                continue
            for entry in entries:
                if entry.is_symlink():
                    if self._stays_among_jobs(Path(entry.path)):
                        continue
                    raise RunDirError(
                        f"`{entry.path}` is a link to `{Path(entry.path).readlink()}`: a run "
                        "directory holds its own files",
                        hint="put the file or folder itself in its place; the run directory as a "
                        "whole may be a link",
                    )
                if entry.is_dir() and entry.name not in (self.report.name, self.trackers.name):
                    waiting.append(Path(entry.path))

    def _stays_among_jobs(self, link: Path) -> bool:
        """Return whether a link leads from `slurm/` into it, as those of submitit do."""
        jobs = (self.path / "slurm").resolve()
        return link.parent.resolve().is_relative_to(jobs) and link.resolve().is_relative_to(jobs)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run directory for this process; freed by the system if the process dies.

        `lock-owner.json` says who holds it.

        Raises:
            RunDirError: another process conducts this sweep, a file in it is a link, or the file
                system has no locks.
        """
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        self.refuse_links()
        lock = FileLock(self.path / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunDirError(
                f"`{self.path}` is in use: another `flops-fit` process conducts this sweep"
                f"{self._owner()}",
                hint="wait for it, or stop it (Ctrl-C) and run again: finished trials are kept. If "
                "that machine is gone, remove the file `lock`",
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            raise RunDirError(
                f"`{self.path / 'lock'}` cannot be locked: {error}",
                hint="the file system has no locks, or its lock service is down: name a directory "
                "on another one with --run-dir",
            ) from None
        try:
            write_as(self._lock_owner, LockOwner.this_process(), durable=False)
            yield
        finally:
            with suppress(OSError):
                self._lock_owner.unlink(missing_ok=True)
            lock.release()

    @property
    def _lock_owner(self) -> Path:
        return self.path / "lock-owner.json"

    def _owner(self) -> str:
        """Return who holds the lock, in brackets; empty if nobody says so."""
        try:
            owner = read_as(LockOwner, self._lock_owner, most_bytes=SMALL_FILE)
        except RunDirError:
            return ""
        return f" (process {owner.pid} on `{owner.host}`, since {owner.since})"


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
