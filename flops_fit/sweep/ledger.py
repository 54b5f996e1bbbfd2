"""Append-only JSONL: one writer, survives kill -9, replays to a state.

Format. UTF-8, one JSON object a line, each line ended by a newline. Every entry has `event` and
`at` (UTC, ISO 8601); entries about a trial have `trial_id`. Events:

    sweep_started      format, fingerprint, trials, simulated, versions of packages
    sweep_resumed      pending, cut_bytes (of a torn last line)
    trial_started      attempt
    trial_finished     loss, params, tokens, flops, wall_seconds, the outcome's details, and
                       attempt_seconds: of this attempt, by the conductor's clock
    trial_diverged     error, tokens, flops, wall_seconds, heldout_loss where it came to its end;
                       final: it is no observation
    trial_failed       error; tried again on resume
    trial_stopped      wall_seconds of this attempt; it goes on from its checkpoint on resume
    decision_made      number, action, reason, trials, reasons, figures, left_out,
                       left_out_because: what an adaptive sweep runs next, and why
    sweep_interrupted  pending
    sweep_capped       cap, unit, limit, would_be, missing (trial ids)
    sweep_finished     finished, diverged, failed
    prediction_sealed  prediction, observations_digest, sha256
    prediction_scored  budget_flops, sealed_at, predicted, loss, error, error_percent, is_inside

An entry is one write on a descriptor opened to append, then fsync: when `append` returns, the entry
survives. A crash may leave part of one last line. `Ledger.open` cuts the bytes after the last
newline and says how many; readers ignore them. A broken line anywhere else means that something
other than a crash changed the file, and is refused with its number.

Only the process that holds the run directory's lock appends. Limit: on network file systems an
append is atomic for one writer only, which is why there is one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flops_fit.errors import LedgerError
from flops_fit.fitting.points import Observation
from flops_fit.manifest.trials import Trial

FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    event: str
    at: str
    trial_id: str | None
    fields: Mapping[str, Any]


@dataclass
class LedgerState:
    """What the entries add up to.

    Attributes:
        fingerprint: of the experiment that the sweep was started with; None before it started.
        is_simulated: whether the losses were drawn from a planted law.
        finished, diverged, failed: the last entry of each trial in that state, by trial id.
        attempts: how often each trial was started.
        flops, wall_seconds: spent on each trial so far, by trial id, whatever came of it.
        trunk_tokens: units of data at which the state of a trunk was kept, by trunk id; none once
            the sweep has finished with nothing left to be tried again.
        decisions: of an adaptive sweep, in their order.
        is_complete: whether the last word was `sweep_finished`.
    """

    fingerprint: str | None = None
    is_simulated: bool = False
    finished: dict[str, Entry] = field(default_factory=dict)
    diverged: dict[str, Entry] = field(default_factory=dict)
    failed: dict[str, Entry] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    wall_seconds: dict[str, float] = field(default_factory=dict)
    trunk_tokens: dict[str, set[int]] = field(default_factory=dict)
    decisions: list[Entry] = field(default_factory=list)
    is_complete: bool = False

    @property
    def spent_flops(self) -> float:
        """FLOPs of all trials so far, failed and diverged ones too."""
        return math.fsum(self.flops.values())

    @property
    def spent_seconds(self) -> float:
        """Wall-clock of all trials so far, added up."""
        return math.fsum(self.wall_seconds.values())

    @property
    def left_out(self) -> dict[str, str]:
        """Why, by id, of the finished trials that a decision left out."""
        return {
            trial_id: entry.fields["left_out_because"]
            for entry in self.decisions
            for trial_id in entry.fields["left_out"]
        }

    def apply(self, entry: Entry) -> None:
        """Take one more entry into account."""
        if not entry.event.startswith("prediction_"):
            self.is_complete = entry.event == "sweep_finished"
        if entry.event == "sweep_started":
            self.fingerprint = entry.fields["fingerprint"]
            self.is_simulated = entry.fields.get("simulated", False)
        if entry.event == "decision_made":
            self.decisions.append(entry)
        if entry.event == "sweep_finished" and not entry.fields.get("failed"):
            self.trunk_tokens.clear()
        if entry.trial_id is None:
            return
        self._count(entry, entry.trial_id)
        if trunk := entry.fields.get("trunk"):
            kept = self.trunk_tokens.setdefault(trunk["trunk_id"], set())
            kept.update(trunk.get("kept_tokens", ()))
        if entry.event == "trial_started":
            self.attempts[entry.trial_id] = self.attempts.get(entry.trial_id, 0) + 1
            self.failed.pop(entry.trial_id, None)
        elif entry.event == "trial_finished":
            self.finished.setdefault(entry.trial_id, entry)
        elif entry.event == "trial_diverged":
            self.diverged.setdefault(entry.trial_id, entry)
        elif entry.event == "trial_failed":
            self.failed[entry.trial_id] = entry

    def _count(self, entry: Entry, trial_id: str) -> None:
        """Add what a trial spent. Later entries of one trial count what went before them.

        A trial that goes on from its checkpoint reports all of its FLOPs and time at its end; what
        it spent after its last checkpoint before it was stopped is the difference. The conductor's
        own `attempt_seconds` hold what the trial does not see: its worker's start, a lost attempt.
        """
        spent = entry.fields.get("spent_flops", entry.fields.get("flops", 0.0))
        self.flops[trial_id] = max(self.flops.get(trial_id, 0.0), spent)
        seconds, before = entry.fields.get("wall_seconds", 0.0), self.wall_seconds.get(trial_id, 0)
        is_part = entry.event == "trial_stopped"
        attempt = seconds if is_part else entry.fields.get("attempt_seconds", 0.0)
        self.wall_seconds[trial_id] = max(before + attempt, seconds)

    def is_pending(self, trial: Trial) -> bool:
        """Whether the trial has still to be trained (a failed one has)."""
        return trial.trial_id not in self.finished and trial.trial_id not in self.diverged


class Ledger:
    """The ledger of one run, open for its one writer."""

    def __init__(self, path: Path, descriptor: int, state: LedgerState, cut_bytes: int) -> None:
        """Use `Ledger.open`."""
        self.path = path
        self.state = state
        self.cut_bytes = cut_bytes
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Open or create the ledger, cut a torn last line, and replay the rest.

        Raises:
            LedgerError: a line before the last cannot be read.
        """
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if is_new:
                _sync_parent(path)
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.ftruncate(descriptor, whole)
                os.fsync(descriptor)
            state = replay(_parse(path, content[:whole]))
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, state, len(content) - whole)

    def append(self, event: str, trial_id: str | None = None, **fields: Any) -> Entry:
        """Add one entry; when this returns, the entry survives a crash.

        Raises:
            ValueError: a field is not JSON (NaN included): a bug of the caller.
        """
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        named = {"event": event, "at": at}
        if trial_id is not None:
            named["trial_id"] = trial_id
        line = json.dumps({**named, **fields}, allow_nan=False, ensure_ascii=False) + "\n"
        self._write(line.encode())
        entry = Entry(event, at, trial_id, fields)
        self.state.apply(entry)
        return entry

    def _write(self, data: bytes) -> None:
        """Write all of `data`, or raise with the file as it was before."""
        end = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, data) != len(data):
                raise OSError(28, "the disk took only part of the line")  # 28: ENOSPC
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            raise LedgerError(
                f"`{self.path}` cannot be written: {error.strerror}",
                hint="free some space and run again: what was recorded is safe",
            ) from error

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)


def read_ledger(path: Path) -> list[Entry]:
    """Every whole entry, for a reader beside the writer; changes nothing.

    Raises:
        LedgerError: the file is missing, or a line before the last cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LedgerError(
            f"`{path}` cannot be read: {error.strerror}",
            hint="has the sweep been started? `flops-fit run` writes the ledger",
        ) from None
    return _parse(path, content[: content.rfind(b"\n") + 1])


def replay(entries: Iterable[Entry]) -> LedgerState:
    """The state that the entries add up to."""
    state = LedgerState()
    for entry in entries:
        state.apply(entry)
    return state


def observations_of(
    state: LedgerState, trials: Iterable[Trial], *, has_curves: bool = True
) -> list[Observation]:
    """The finished trials as points, in the plan's order; loss is the held-out loss.

    Args:
        state: of the ledger.
        trials: of the plan.
        has_curves: whether a trial's budget is that of an isoFLOP curve.
    """
    points = []
    for trial in trials:
        entry = state.finished.get(trial.trial_id)
        if entry is None:
            continue
        seed = entry.fields.get("seed", trial.seed)
        points.append(
            Observation(
                params=entry.fields["params"],
                tokens=entry.fields["tokens"],
                flops=entry.fields["flops"],
                loss=entry.fields["loss"],
                budget_flops=trial.budget_flops if has_curves else None,
                name=trial.trial_id,
                seed=seed,
                size_value=trial.size.size_value,
                params_non_embedding=trial.size.params_non_embedding,
                run=trial.trunk_id if seed == trial.seed else None,
                params_active=trial.size.params_active,
            )
        )
    return points


def _parse(path: Path, content: bytes) -> list[Entry]:
    """Entries from whole lines."""
    entries = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            data = json.loads(line)
            event, at = data.pop("event"), data.pop("at")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise LedgerError(
                f"`{path}` line {number} is not a ledger entry: {error}",
                hint="a crash cannot do this: the file was changed by hand or damaged; restore "
                "it, or remove that line if you know what it said",
            ) from None
        entries.append(Entry(event, at, data.pop("trial_id", None), data))
    return entries


def _sync_parent(path: Path) -> None:
    """Make a new file's name durable."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
