"""Append-only JSONL: one writer, survives kill -9, replays to a state.

Format. UTF-8, one JSON object a line, each line ended by a newline; `entries` holds the fields of
each event. A line ends with `check`, 24 hexadecimal digits: 12 of the SHA-256 of the line without
`check`, and 12 of the SHA-256 of the `check` of the line before and those 12. The first half shows
that a line was edited, the second that a line before it was removed, added or moved. A ledger
without `check` is read; lines that follow on it have it, the first one chained to the digest of the
line before.

An entry is one write on a descriptor opened to append, then fsync: when `append` returns, the entry
survives. A crash may leave part of one last line. `Ledger.open` cuts the bytes after the last
newline and says how many; readers ignore them. A broken line anywhere else means that something
other than a crash changed the file. It is refused with its number; `flops-fit repair` keeps the
lines that are whole.

A ledger of a newer format is refused. Only the process that holds the run directory's lock appends.
Limit: on network file systems an append is atomic for one writer only, so there is one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import ConfigDict, Field

from flops_fit.errors import LedgerError, RunDirError
from flops_fit.fitting.points import Observation
from flops_fit.manifest.files import (
    STORED,
    Text,
    adapter,
    parse_as,
    read_bytes,
    require_regular,
    sync_directory,
)
from flops_fit.manifest.trials import Trial
from flops_fit.sweep.entries import (
    ENTRY_OF,
    DecisionMade,
    Entry,
    Event,
    JobLost,
    JobSubmitted,
    PredictionScored,
    PredictionSealed,
    SweepExtended,
    SweepFinished,
    SweepStarted,
    TrialDiverged,
    TrialDropped,
    TrialEnded,
    TrialEntry,
    TrialFailed,
    TrialFinished,
    TrialRestored,
    TrialRetried,
    TrialStarted,
    TrialStopped,
    entry_to_dict,
)

FORMAT = 1
_MOST_BYTES = 2**31
_CHECK = re.compile(rb', "check": "([0-9a-f]{12})([0-9a-f]{12})"\}$')


class NewerFormatError(LedgerError):
    """The ledger was written by a later version."""


_SAY_NOTHING_OF_THE_END = (PredictionSealed, PredictionScored, TrialDropped, TrialRestored)
AnyEntry = TypeVar("AnyEntry", bound=Entry)


@dataclass
class LedgerState:
    """The state that the entries add up to.

    Attributes:
        fingerprint: of the experiment that the sweep was started with; None before it started.
        is_simulated: whether the losses were drawn from a planted law.
        finished, diverged, failed: the last entry of each trial in that state, by trial id.
        dropped: the trials that the user dropped: by id, the reason.
        attempts: how often each trial was started.
        flops, wall_seconds: spent on each trial so far, by trial id, however it ended.
        trunk_tokens: units of data at which the state of a trunk was saved, by trunk id; empty once
            the sweep has finished and no trial is left to be tried again.
        job_of: the job in whose hands each open trial is, by trial id.
        job_ids: of all jobs that were ever submitted.
        decisions: of an adaptive sweep, in their order.
        is_complete: whether `sweep_finished` came last.
    """

    fingerprint: str | None = None
    is_simulated: bool = False
    finished: dict[str, TrialFinished] = field(default_factory=dict)
    diverged: dict[str, TrialDiverged] = field(default_factory=dict)
    failed: dict[str, TrialFailed] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    wall_seconds: dict[str, float] = field(default_factory=dict)
    trunk_tokens: dict[str, set[int]] = field(default_factory=dict)
    job_of: dict[str, str] = field(default_factory=dict)
    job_ids: set[str] = field(default_factory=set)
    decisions: list[DecisionMade] = field(default_factory=list)
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
        """The trials that a decision or the user left out: by id, the reason."""
        decided = {
            trial_id: decision.left_out_because
            for decision in self.decisions
            for trial_id in decision.left_out
        }
        return decided | {trial_id: f"dropped: {why}" for trial_id, why in self.dropped.items()}

    def apply(self, entry: Entry) -> None:
        """Take one more entry into account; a finished trial stays finished."""
        if not isinstance(entry, _SAY_NOTHING_OF_THE_END):
            self.is_complete = isinstance(entry, SweepFinished)
        match entry:
            case SweepStarted():
                self.fingerprint, self.is_simulated = entry.fingerprint, entry.simulated
            case SweepExtended():
                self.fingerprint = entry.fingerprint
            case TrialDropped():
                self.dropped[entry.trial_id] = entry.why
            case TrialRestored():
                self.dropped.pop(entry.trial_id, None)
            case TrialRetried():
                self.finished.pop(entry.trial_id, None)
                self.diverged.pop(entry.trial_id, None)
                self.failed.pop(entry.trial_id, None)
            case JobSubmitted():
                self.job_ids.add(entry.job_id)
                self.job_of.update(dict.fromkeys(entry.trial_ids, entry.job_id))
            case JobLost():
                for trial_id in entry.trial_ids:
                    if self.job_of.get(trial_id) == entry.job_id:
                        del self.job_of[trial_id]
            case DecisionMade():
                self.decisions.append(entry)
            case SweepFinished() if not entry.failed:
                self.trunk_tokens.clear()
            case TrialStarted():
                self.attempts[entry.trial_id] = self.attempts.get(entry.trial_id, 0) + 1
                self.failed.pop(entry.trial_id, None)
            case TrialFinished():
                self.finished.setdefault(entry.trial_id, entry)
                self.failed.pop(entry.trial_id, None)
            case TrialDiverged():
                self.diverged.setdefault(entry.trial_id, entry)
            case TrialFailed() if entry.trial_id not in self.finished:
                self.failed[entry.trial_id] = entry
        if isinstance(entry, TrialEnded | TrialRetried | TrialDropped):
            self.job_of.pop(entry.trial_id, None)
        if isinstance(entry, TrialEntry):
            self._count(entry)

    def _count(self, entry: TrialEntry) -> None:
        """Add what a trial spent. A later entry of a trial includes what came before it.

        A trial that continues from its checkpoint reports all of its FLOPs and time at its end. The
        steps after its last checkpoint are the difference. The conductor's own `attempt_seconds`
        include what the trial cannot see: its worker's start, a lost attempt.
        """
        trial_id = entry.trial_id
        flops = seconds = attempt = 0.0
        if isinstance(entry, TrialStopped):
            seconds = attempt = entry.wall_seconds
        elif isinstance(entry, TrialEnded):
            flops, seconds, attempt = (
                entry.own_flops, entry.wall_seconds, entry.attempt_seconds or 0.0,
            )  # fmt: skip
            if entry.trunk is not None:
                kept = self.trunk_tokens.setdefault(entry.trunk.trunk_id, set())
                kept.update(entry.trunk.kept_tokens)
        self.flops[trial_id] = max(self.flops.get(trial_id, 0.0), flops)
        before = self.wall_seconds.get(trial_id, 0.0)
        self.wall_seconds[trial_id] = max(before + attempt, seconds)

    def is_pending(self, trial: Trial) -> bool:
        """Return whether the trial has still to be trained (a failed one has)."""
        closed = (self.finished, self.diverged, self.dropped)
        return not any(trial.trial_id in each for each in closed)


class Ledger:
    """The ledger of one run, open for its one writer."""

    def __init__(
        self, path: Path, descriptor: int, state: LedgerState, cut_bytes: int, check: str
    ) -> None:
        """Use `Ledger.open`."""
        self.path = path
        self.state = state
        self.cut_bytes = cut_bytes
        self._descriptor = descriptor
        self._check = check

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Open or create the ledger, cut a torn last line, and replay the rest.

        Raises:
            LedgerError: a line before the last cannot be read, was edited, or is missing.
        """
        is_new = not path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            raise LedgerError(f"`{path}` cannot be opened: {error.strerror}") from None
        try:
            require_regular(descriptor, path)
            if is_new:
                sync_directory(path.parent)
            content = _read(path)
            whole = content.rfind(b"\n") + 1
            state, check = LedgerState(), ""
            for entry, check in _entries(path, content[:whole]):  # noqa: B007  # the last one
                state.apply(entry)
            if whole < len(content):
                os.ftruncate(descriptor, whole)
                os.fsync(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, state, len(content) - whole, check)

    def append(self, entry: AnyEntry) -> AnyEntry:
        """Add one entry; when this returns, the entry survives a crash.

        Returns:
            The entry with the time at which it was written.

        Raises:
            ValueError: a field could not be read again (NaN, say): a bug of the caller.
        """
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = replace(entry, at=at)
        line, check = line_of(entry, after=self._check)
        adapter(type(entry)).validate_json(line)
        self._write(line, check)
        self.state.apply(entry)
        return entry

    def _write(self, data: bytes, check: str) -> None:
        """Write a whole line and keep its checksum, or raise with the file as it was before."""
        end, before = os.fstat(self._descriptor).st_size, self._check
        try:
            if os.write(self._descriptor, data) != len(data):
                raise OSError(28, "the disk took only part of the line")  # 28: ENOSPC
            # Before the flush, which Ctrl-C may interrupt: the line is in the file from here on.
            self._check = check
            os.fsync(self._descriptor)
        except OSError as error:
            self._check = before
            os.ftruncate(self._descriptor, end)
            raise LedgerError(
                f"`{self.path}` cannot be written: {error.strerror}",
                hint="free some space and run again: what was recorded is safe",
            ) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_ledger(path: Path) -> list[Entry]:
    """Return every whole entry, also while the ledger is written; change nothing.

    Raises:
        LedgerError: the file is missing; a line before the last cannot be read, was edited, or is
            missing.
    """
    content = _read(path)
    return [entry for entry, _ in _entries(path, content[: content.rfind(b"\n") + 1])]


def replay(entries: Iterable[Entry]) -> LedgerState:
    """Return the state that the entries add up to."""
    state = LedgerState()
    for entry in entries:
        state.apply(entry)
    return state


def observations_of(
    state: LedgerState, trials: Iterable[Trial], *, has_curves: bool = True
) -> list[Observation]:
    """Return the finished trials as points, in the plan's order; the loss is the held-out loss.

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
        seed = trial.seed if entry.seed is None else entry.seed
        points.append(
            Observation(
                params=entry.params,
                tokens=entry.tokens,
                flops=entry.flops,
                loss=entry.loss,
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


def line_of(entry: Entry, *, after: str) -> tuple[bytes, str]:
    """Return an entry's line, and its `check`; `after`: the `check` of the line before."""
    text = json.dumps(entry_to_dict(entry), allow_nan=False, ensure_ascii=False)
    body = text.encode("utf-8", "replace")
    own = _own(body)
    check = own + _chained(after, own)
    return body[:-1] + f', "check": "{check}"}}\n'.encode(), check


def _own(body: bytes) -> str:
    """Return the first half of a line's `check`: of its content without `check`."""
    return hashlib.sha256(body).hexdigest()[:12]


def _chained(after: str, own: str) -> str:
    """Return the second half of a line's `check`: of the line before, and its first half."""
    return hashlib.sha256(f"{after}{own}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Line:
    """A whole line of the file.

    Attributes:
        number: counted from 1.
        text: as it stands there, without the newline.
        entry: what it says; None where it is no entry.
        mistake: what is wrong with it; None: nothing.
        check: what the next line is chained to; None where that cannot be known.
        is_whole: whether its content is what was written, whatever came before it.
    """

    number: int
    text: bytes
    entry: Entry | None
    mistake: LedgerError | None
    check: str | None
    is_whole: bool = True


def scan_ledger(path: Path) -> Iterator[Line]:
    """Return each whole line with its defect, if any; change nothing.

    Raises:
        LedgerError: the file cannot be read, or has a newer format.
    """
    content = _read(path)
    return _scan(path, content[: content.rfind(b"\n") + 1])


def _scan(path: Path, content: bytes) -> Iterator[Line]:
    before: str | None = ""
    is_checked = False
    for number, text in enumerate(content.split(b"\n")[:-1], 1):
        try:
            entry = _entry_of(path, text, number)
        except NewerFormatError:
            raise
        except RunDirError as error:
            before = None
            yield Line(number, text, None, LedgerError(error.message, hint=_REPAIR), None, False)
            continue
        is_whole = True
        stated = _CHECK.search(text)
        if stated is None:
            before, mistake = _own(text) * 2, None
            if is_checked:
                mistake = "has no `check`, and the lines before it have one"
        else:
            own, chained = (half.decode() for half in stated.groups())
            mistake = None
            if _own(text[: stated.start()] + b"}") != own:
                mistake = "was edited: its `check` is not that of its content"
                is_whole = False
            elif before is not None and _chained(before, own) != chained:
                mistake = "does not follow the line before: lines were removed, added or moved"
            before, is_checked = own + chained, True
        wrong = None
        if mistake is not None:
            wrong = LedgerError(f"`{path}` line {number} {mistake}", hint=_REPAIR)
        yield Line(number, text, entry, wrong, before, is_whole)


_REPAIR = (
    "a crash cannot cause this: the file was changed by hand or damaged; restore it from a copy, "
    "or keep its whole lines: flops-fit repair RUN_DIR"
)


def _entries(path: Path, content: bytes) -> Iterator[tuple[Entry, str]]:
    """Return each entry and its `check`; raises at the first line that is broken."""
    for line in _scan(path, content):
        if line.mistake is not None:
            raise line.mistake
        assert line.entry is not None
        yield line.entry, line.check or ""


def _entry_of(path: Path, text: bytes, number: int) -> Entry:
    """Return what a line says.

    Raises:
        RunDirError: it is no entry.
        LedgerError: the ledger has a newer format.
    """
    at = parse_as(_Head, text, path=path, line=number)
    kind = ENTRY_OF[at.event]
    if at.event is Event.SWEEP_STARTED and at.format > FORMAT:
        raise NewerFormatError(
            f"`{path}` has format {at.format}, and this version reads format {FORMAT}",
            hint="use the version of flops-fit that wrote it, or a later one",
        )
    return parse_as(kind, text, path=path, line=number)


@dataclass(frozen=True)
class _Head:
    """The fields that every line has; they decide which class reads the rest."""

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    event: Event
    at: Text
    format: Annotated[int, Field(ge=1)] = 1


def _read(path: Path) -> bytes:
    """Return the file's content.

    Raises:
        LedgerError: it is missing, no regular file, or too large.
    """
    try:
        return read_bytes(path, most_bytes=_MOST_BYTES)
    except RunDirError as error:
        hint = error.hint
        if not path.exists():
            hint = "has the sweep been started? `flops-fit run` writes the ledger"
        raise LedgerError(error.message, hint=hint) from None
