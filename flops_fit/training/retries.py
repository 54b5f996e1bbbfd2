"""Trains a diverged trial again with another seed, if the recipe asks for it.

What was discarded stays on record: `discarded.json` beside the trial, which the outcome repeats,
and its curves as `curve-discarded-<attempt>.jsonl` and `training-discarded-<attempt>.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flops_fit.manifest.files import SMALL_FILE, read_as, to_plain, write_atomic
from flops_fit.manifest.trials import Discarded, Outcome
from flops_fit.training.checkpoint import drop_checkpoints
from flops_fit.training.data.streams import derive_seed

_FILE = "discarded.json"


def read_discarded(directory: Path) -> tuple[Discarded, ...]:
    """Return the attempts of a trial that diverged and were given up, in their order.

    Raises:
        RunDirError: the file is broken.
    """
    path = directory / _FILE
    return read_as(tuple[Discarded, ...], path, most_bytes=SMALL_FILE) if path.exists() else ()


def seed_of_attempt(seed: int, attempt: int) -> int:
    """Return the trial's own seed at first, and one that follows from it for each retry."""
    return seed if attempt == 0 else derive_seed(seed, "retry", attempt) % 2**31


def discard(directory: Path, outcome: Outcome, *, seed: int) -> None:
    """Put an attempt on record, and leave the trial's directory as for a new one."""
    earlier = read_discarded(directory)
    details = outcome.details
    attempt = Discarded(
        seed=seed,
        error=outcome.error,
        flops=_spent(outcome),
        wall_seconds=outcome.wall_seconds,
        step=details.stopped_at_step,
        last_good=details.last_good,
        energy_joules=details.energy_joules,
    )
    # A crash from here to the last line leaves an attempt that starts, and diverges, once more.
    drop_checkpoints(directory)
    for name in ("curve", "training"):
        curve = directory / f"{name}.jsonl"
        if curve.exists():
            curve.replace(directory / f"{name}-discarded-{len(earlier)}.jsonl")
    written = [to_plain(each) for each in (*earlier, attempt)]
    write_atomic(directory / _FILE, json.dumps(written, allow_nan=False))


def with_discarded(outcome: Outcome, discarded: Sequence[Discarded], *, seed: int) -> Outcome:
    """Return the outcome of the last attempt, with the earlier ones and what they spent."""
    if not discarded:
        return outcome
    joules = [outcome.details.energy_joules, *(each.energy_joules for each in discarded)]
    known = [each for each in joules if each is not None]
    # A part of the energy would be taken for all of it.
    is_known = len(known) == len(joules)
    details = replace(
        outcome.details,
        seed=seed,
        discarded=tuple(discarded),
        spent_flops=_spent(outcome) + sum(attempt.flops for attempt in discarded),
        energy_joules=sum(known) if is_known else None,
        energy_source=outcome.details.energy_source if is_known else None,
    )
    seconds = outcome.wall_seconds + sum(each.wall_seconds for each in discarded)
    return replace(outcome, wall_seconds=seconds, details=details)


def _spent(outcome: Outcome) -> float:
    spent = outcome.details.spent_flops
    return outcome.flops if spent is None else spent
