"""A trial that diverged, trained again with another seed where the recipe says so.

What was discarded stays on record: `discarded.json` beside the trial, which the outcome repeats,
and its curves as `curve-discarded-<attempt>.jsonl` and `training-discarded-<attempt>.jsonl`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flops_fit.manifest.trials import Outcome
from flops_fit.training.checkpoint import drop_checkpoints
from flops_fit.training.data.streams import derive_seed

_FILE = "discarded.json"


def read_discarded(directory: Path) -> list[dict[str, Any]]:
    """The attempts of a trial that diverged and were given up, in their order."""
    path = directory / _FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def seed_of_attempt(seed: int, attempt: int) -> int:
    """The trial's own seed at first, and one that follows from it for each retry."""
    return seed if attempt == 0 else derive_seed(seed, "retry", attempt) % 2**31


def discard(directory: Path, outcome: Outcome, *, seed: int) -> None:
    """Put an attempt on record, and leave the trial's directory as for a new one."""
    earlier = read_discarded(directory)
    attempt = {
        "seed": seed,
        "error": outcome.error,
        "step": outcome.details.get("stopped_at_step"),
        "last_good": outcome.details.get("last_good"),
        "flops": outcome.details.get("spent_flops", outcome.flops),
        "wall_seconds": outcome.wall_seconds,
        "energy_joules": outcome.details.get("energy_joules"),
    }
    # A crash from here to the last line leaves an attempt that starts, and diverges, once more.
    drop_checkpoints(directory)
    for name in ("curve", "training"):
        curve = directory / f"{name}.jsonl"
        if curve.exists():
            curve.replace(directory / f"{name}-discarded-{len(earlier)}.jsonl")
    partial = directory / f"{_FILE}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump([*earlier, attempt], file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / _FILE)


def with_discarded(outcome: Outcome, discarded: Sequence[dict[str, Any]], *, seed: int) -> Outcome:
    """The outcome of the last attempt, which says what the earlier ones were and took."""
    if not discarded:
        return outcome
    own = outcome.details.get("spent_flops", outcome.flops)
    spent = own + sum(attempt["flops"] for attempt in discarded)
    told = {"seed": seed, "discarded": list(discarded), "spent_flops": spent}
    details = {**outcome.details, **told}
    joules = [each.get("energy_joules") for each in (details, *discarded)]
    known = [each for each in joules if each is not None]
    if len(known) == len(joules):
        details["energy_joules"] = sum(known)
    else:  # A part of the energy would be taken for all of it.
        details = {key: value for key, value in details.items() if not key.startswith("energy_")}
    return replace(
        outcome,
        wall_seconds=outcome.wall_seconds + sum(each["wall_seconds"] for each in discarded),
        details=details,
    )
