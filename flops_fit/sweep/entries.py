"""The entries of the ledger: a dataclass for each event.

A line is one JSON object with `event`, `at` (UTC, ISO 8601), for a trial `trial_id`, and the fields
of the event's class below. Fields without a value are left out. Unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import ConfigDict, JsonValue

from flops_fit.manifest.files import (
    STORED,
    Count,
    Finite,
    HexId,
    NotNegative,
    Positive,
    PositiveCount,
    Text,
    to_plain,
)
from flops_fit.manifest.trials import Details
from flops_fit.planning.adaptive.terms import Decision


class Event(StrEnum):
    """The kind of an entry."""

    SWEEP_STARTED = "sweep_started"
    SWEEP_RESUMED = "sweep_resumed"
    TRIAL_STARTED = "trial_started"
    TRIAL_FINISHED = "trial_finished"
    TRIAL_DIVERGED = "trial_diverged"
    TRIAL_FAILED = "trial_failed"
    TRIAL_STOPPED = "trial_stopped"
    DECISION_MADE = "decision_made"
    SWEEP_INTERRUPTED = "sweep_interrupted"
    SWEEP_CAPPED = "sweep_capped"
    SWEEP_FINISHED = "sweep_finished"
    SWEEP_EXTENDED = "sweep_extended"
    JOB_SUBMITTED = "job_submitted"
    JOB_LOST = "job_lost"
    TRIAL_RETRIED = "trial_retried"
    TRIAL_DROPPED = "trial_dropped"
    TRIAL_RESTORED = "trial_restored"
    PREDICTION_SEALED = "prediction_sealed"
    PREDICTION_SCORED = "prediction_scored"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the ledger; `at` is set when the entry is appended."""

    __pydantic_config__: ClassVar[ConfigDict] = STORED
    event: ClassVar[Event]

    at: str = ""


@dataclass(frozen=True, kw_only=True)
class SweepStarted(Entry):
    """A sweep begins: the ledger's format, the experiment, and the versions of its numbers."""

    event: ClassVar[Event] = Event.SWEEP_STARTED

    format: PositiveCount = 1
    fingerprint: str
    trials: Count
    simulated: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SweepResumed(Entry):
    """A sweep continues; `cut_bytes` of a torn last line were removed."""

    event: ClassVar[Event] = Event.SWEEP_RESUMED

    pending: Count
    cut_bytes: Count = 0


@dataclass(frozen=True, kw_only=True)
class TrialEntry(Entry):
    """An entry about one trial."""

    trial_id: HexId


@dataclass(frozen=True, kw_only=True)
class TrialStarted(TrialEntry):
    """A trial begins, for the first time or again."""

    event: ClassVar[Event] = Event.TRIAL_STARTED

    attempt: Count = 1


@dataclass(frozen=True, kw_only=True)
class TrialStopped(TrialEntry):
    """A trial was stopped; it continues from its checkpoint on resume.

    Attributes:
        wall_seconds: of this attempt.
    """

    event: ClassVar[Event] = Event.TRIAL_STOPPED

    wall_seconds: NotNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class TrialEnded(Details, TrialEntry):
    """A trial ended: its cost, and all of its outcome but the loss.

    Attributes:
        tokens, flops, wall_seconds: as in the outcome.
        attempt_seconds: of this attempt, by the conductor's clock; None where it was not started by
            this conductor.
        error: what happened, where it did not finish.
        heldout_loss: of a trial that is no observation.
    """

    tokens: Count = 0
    flops: NotNegative = 0.0
    wall_seconds: NotNegative = 0.0
    attempt_seconds: NotNegative | None = None
    error: Text | None = None
    heldout_loss: Finite | None = None

    @property
    def own_flops(self) -> float:
        """FLOPs that the trial really spent."""
        return self.flops if self.spent_flops is None else self.spent_flops


@dataclass(frozen=True, kw_only=True)
class TrialFinished(TrialEnded):
    """A trial finished with a loss to be fitted."""

    event: ClassVar[Event] = Event.TRIAL_FINISHED

    loss: Finite
    params: PositiveCount
    tokens: PositiveCount
    flops: Positive


@dataclass(frozen=True, kw_only=True)
class TrialDiverged(TrialEnded):
    """A trial diverged; this is final."""

    event: ClassVar[Event] = Event.TRIAL_DIVERGED


@dataclass(frozen=True, kw_only=True)
class TrialFailed(TrialEnded):
    """A trial failed; it is tried again on resume."""

    event: ClassVar[Event] = Event.TRIAL_FAILED


@dataclass(frozen=True, kw_only=True)
class DecisionMade(Decision, Entry):
    """The next runs of an adaptive sweep, and the reason."""

    event: ClassVar[Event] = Event.DECISION_MADE

    @classmethod
    def of(cls, decision: Decision) -> DecisionMade:
        """Return the entry of a decision."""
        return cls(**{each.name: getattr(decision, each.name) for each in fields(Decision)})


@dataclass(frozen=True, kw_only=True)
class SweepInterrupted(Entry):
    """A sweep was stopped by a signal."""

    event: ClassVar[Event] = Event.SWEEP_INTERRUPTED

    pending: Count


@dataclass(frozen=True, kw_only=True)
class SweepCapped(Entry):
    """A sweep stopped at a cap.

    Attributes:
        cap: as the user stated it.
        unit: of the next two.
        limit, would_be: what is allowed, and what it would come to with the next trial.
        missing: ids of the trials that were not finished.
    """

    event: ClassVar[Event] = Event.SWEEP_CAPPED

    cap: str
    unit: str
    limit: NotNegative
    would_be: NotNegative
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SweepFinished(Entry):
    """A sweep ended: how many trials in each state."""

    event: ClassVar[Event] = Event.SWEEP_FINISHED

    finished: Count = 0
    diverged: Count = 0
    failed: Count = 0


@dataclass(frozen=True, kw_only=True)
class SweepExtended(Entry):
    """The plan changed: how many trials stay, are new, and are no longer asked for."""

    event: ClassVar[Event] = Event.SWEEP_EXTENDED

    fingerprint: str
    kept: Count
    new: Count
    no_longer_asked: Count


@dataclass(frozen=True, kw_only=True)
class JobSubmitted(Entry):
    """A job was submitted to a scheduler for these trials, in this order."""

    event: ClassVar[Event] = Event.JOB_SUBMITTED

    job_id: str
    trial_ids: tuple[HexId, ...]


@dataclass(frozen=True, kw_only=True)
class JobLost(Entry):
    """A job is gone, and left these trials without an outcome; they are submitted again."""

    event: ClassVar[Event] = Event.JOB_LOST

    job_id: str
    trial_ids: tuple[HexId, ...]
    reason: Text


@dataclass(frozen=True, kw_only=True)
class TrialRetried(TrialEntry):
    """The user asked to train a trial again from its start."""

    event: ClassVar[Event] = Event.TRIAL_RETRIED


@dataclass(frozen=True, kw_only=True)
class TrialDropped(TrialEntry):
    """The user dropped a trial: it is not trained, and left out of the fits for this reason."""

    event: ClassVar[Event] = Event.TRIAL_DROPPED

    why: Text


@dataclass(frozen=True, kw_only=True)
class TrialRestored(TrialEntry):
    """The user took a dropped trial back."""

    event: ClassVar[Event] = Event.TRIAL_RESTORED


@dataclass(frozen=True, kw_only=True)
class PredictionSealed(Entry):
    """A prediction was sealed; `sha256` is the digest of the other two fields."""

    event: ClassVar[Event] = Event.PREDICTION_SEALED

    prediction: Mapping[str, JsonValue]
    observations_digest: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class LaterSeal:
    """A prediction that was sealed after the one that is scored."""

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    sealed_at: str
    sha256: str
    predicted: Finite | None


@dataclass(frozen=True, kw_only=True)
class PredictionScored(Entry):
    """A sealed prediction was compared with the real loss.

    Attributes:
        budget_flops: of the prediction.
        sealed_at, sha256: when it was sealed, and its digest.
        predicted, loss: the two losses.
        error, error_percent: predicted - real, and in percent of the real loss.
        is_inside: whether the real loss lies in the 95 % interval; None without one.
        later_seals: further seals for the same budget, which are not scored.
    """

    event: ClassVar[Event] = Event.PREDICTION_SCORED

    budget_flops: Positive
    sealed_at: str
    sha256: str
    predicted: Finite
    loss: Finite
    error: Finite
    error_percent: Finite
    is_inside: bool | None = None
    later_seals: tuple[LaterSeal, ...] = ()


ENTRIES: tuple[type[Entry], ...] = (
    SweepStarted, SweepResumed, TrialStarted, TrialFinished, TrialDiverged, TrialFailed,
    TrialStopped, DecisionMade, SweepInterrupted, SweepCapped, SweepFinished, PredictionSealed,
    PredictionScored, SweepExtended, TrialRetried, TrialDropped, TrialRestored, JobSubmitted,
    JobLost,
)  # fmt: skip
ENTRY_OF = {kind.event: kind for kind in ENTRIES}

_FIRST = ("trial_id", "loss", "params", "error", "tokens", "flops", "wall_seconds")


def entry_to_dict(entry: Entry) -> dict[str, Any]:
    """Return an entry as its line holds it, without the fields that have no value."""
    data = {"event": str(entry.event), "at": entry.at}
    held = to_plain(entry)
    data |= {name: held[name] for name in _FIRST if name in held}
    return {name: value for name, value in (data | held).items() if value is not None}
