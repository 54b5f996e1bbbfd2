"""The files of a run: their names, atomic writes, the lock.

    manifest.toml      the experiment as written
    provenance.json    what it was made of: fingerprint, versions, data, where plugins were found
    estimate.json      what the sweep was expected to cost, as `estimate --json` prints it
    plan.json          the trials, as `plan --json` prints them
    ledger.jsonl       what happened (see `ledger`)
    lock               held by the one process that conducts the sweep
    trials/<id>/       outcome.json, curve.jsonl, progress.json, checkpoint/, log.txt, and
                       training.jsonl where it diverged
    report/            tables and figures
    trackers/          what trackers without a server keep

A file is written under a temporary name, flushed to the disk, and renamed; a reader finds the old
content or the new, and a crash leaves at most a file that begins with `.tmp-`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flops_fit.errors import RunDirError
from flops_fit.manifest.files import read_json, write_json
from flops_fit.manifest.trials import Outcome


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
        """What the experiment was made of."""
        return self.path / "provenance.json"

    @property
    def plan(self) -> Path:
        """The planned trials."""
        return self.path / "plan.json"

    @property
    def estimate(self) -> Path:
        """What the sweep was expected to cost before it began."""
        return self.path / "estimate.json"

    @property
    def ledger(self) -> Path:
        """The record of what happened."""
        return self.path / "ledger.jsonl"

    @property
    def report(self) -> Path:
        """Tables and figures."""
        return self.path / "report"

    @property
    def trackers(self) -> Path:
        """Files of trackers that keep them here."""
        return self.path / "trackers"

    def trial(self, trial_id: str) -> Path:
        """The directory of one trial."""
        return self.path / "trials" / trial_id

    def trunk(self, trunk_id: str) -> Path:
        """Where the trials that share a trunk leave it for one another."""
        return self.path / "trunks" / trunk_id

    def drop_trunks(self) -> None:
        """Remove what trunks left, once no trial is to come that would go on from it."""
        shutil.rmtree(self.path / "trunks", ignore_errors=True)

    def outcome(self, trial_id: str) -> Path:
        """What one trial left."""
        return self.trial(trial_id) / "outcome.json"

    def log(self, trial_id: str) -> Path:
        """What one trial printed."""
        return self.trial(trial_id) / "log.txt"

    def progress(self, trial_id: str) -> Path:
        """How far one running trial has come."""
        return self.trial(trial_id) / "progress.json"

    def is_run(self) -> bool:
        """Whether a sweep was ever started here."""
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


def default_run_dir(manifest: Path, name: str) -> Path:
    """Return where a manifest's sweep lies: `runs/NAME`, the same from every working directory.

    A sweep that was started from this manifest is found in the current folder, beside the manifest
    or in a folder above it. A new one lies in the current folder if the manifest is inside it, else
    beside the manifest.
    """
    folder = manifest.resolve().parent
    here = Path("runs") / name
    if RunDir(here).is_run():
        return here
    for above in (folder, *folder.parents):
        found = RunDir(above / "runs" / name)
        if found.is_run() and str(folder) in read_json(found.provenance).get("search_path", ()):
            return found.path
    return here if folder.is_relative_to(Path.cwd().resolve()) else folder / "runs" / name


def write_outcome(run: RunDir, outcome: Outcome) -> None:
    """Leave a trial's outcome for the conductor; the first complete one wins."""
    if run.outcome(outcome.trial_id).exists():
        return
    write_json(run.outcome(outcome.trial_id), asdict(outcome))


def read_outcome(run: RunDir, trial_id: str) -> Outcome | None:
    """The outcome that a trial left, or None where it left none."""
    path = run.outcome(trial_id)
    return Outcome(**read_json(path)) if path.exists() else None


def clear_outcome(run: RunDir, trial_id: str) -> None:
    """Forget a failed outcome, so that the trial can be tried again."""
    run.outcome(trial_id).unlink(missing_ok=True)
