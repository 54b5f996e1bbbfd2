"""Amends a sweep: drops trials from the fits, takes them back, and has them trained again.

Each is an entry of the ledger, so nothing is lost and every change can be read there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from flops_fit.errors import RunDirError
from flops_fit.manifest.trials import Trial
from flops_fit.sweep.entries import TrialDropped, TrialRestored, TrialRetried
from flops_fit.sweep.ledger import Ledger
from flops_fit.sweep.rundir import RunDir
from flops_fit.sweep.status import find_trials


def drop_trials(directory: Path, asked: Sequence[str], *, why: str) -> list[Trial]:
    """Leave trials out of all fits, and do not train them.

    Args:
        directory: the run directory.
        asked: trial ids, or their first digits.
        why: the reason; the report states it.

    Returns:
        The trials that were not dropped before.

    Raises:
        RunDirError: there is no such trial, or another process conducts the sweep.
    """
    with _amending(directory, asked) as (ledger, trials):
        new = [trial for trial in trials if trial.trial_id not in ledger.state.dropped]
        for trial in new:
            ledger.append(TrialDropped(trial_id=trial.trial_id, why=why))
    return new


def restore_trials(directory: Path, asked: Sequence[str]) -> list[Trial]:
    """Use dropped trials again; return them.

    Raises:
        RunDirError: a trial was not dropped, or as `drop_trials`.
    """
    with _amending(directory, asked) as (ledger, trials):
        for trial in trials:
            if trial.trial_id not in ledger.state.dropped:
                raise RunDirError(f"trial `{trial.trial_id}` was not dropped")
        for trial in trials:
            ledger.append(TrialRestored(trial_id=trial.trial_id))
    return trials


def retry_trials(directory: Path, asked: Sequence[str]) -> list[Trial]:
    """Have trials trained again from their start, whatever their outcome; return them.

    What they left (outcome, checkpoints, curve) is removed before the entry is written: a crash in
    between leaves a trial that is as it was in the ledger.

    Raises:
        RunDirError: a trial was never started or is dropped, or as `drop_trials`.
    """
    run = RunDir(directory)
    with _amending(directory, asked) as (ledger, trials):
        state = ledger.state
        for trial in trials:
            if trial.trial_id in state.dropped:
                raise RunDirError(
                    f"trial `{trial.trial_id}` is dropped",
                    hint=f"flops-fit drop {directory} {trial.trial_id} --take-back",
                )
            ended = (state.finished, state.diverged, state.failed)
            if not any(trial.trial_id in each for each in ended):
                raise RunDirError(
                    f"trial `{trial.trial_id}` has not ended yet: there is nothing to repeat",
                    hint=f"`flops-fit run {directory}` trains it",
                )
        for trial in trials:
            run.outcome(trial.trial_id).unlink(missing_ok=True)
            shutil.rmtree(run.trial(trial.trial_id) / "checkpoint", ignore_errors=True)
            run.progress(trial.trial_id).unlink(missing_ok=True)
            ledger.append(TrialRetried(trial_id=trial.trial_id))
    return trials


@contextmanager
def _amending(directory: Path, asked: Sequence[str]) -> Iterator[tuple[Ledger, list[Trial]]]:
    """The ledger, open for writing, and the trials asked for."""
    run = RunDir(directory)
    trials = find_trials(run, asked)
    with run.lock(), closing(Ledger.open(run.ledger)) as ledger:
        yield ledger, trials
