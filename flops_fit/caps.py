"""Hard caps of a sweep: what it may spend in all, in FLOPs and in device time.

FLOPs are known before a trial starts, so a sweep never spends more than its cap on trials that end
well. Device time is forecast from the trials that have finished; a trial that would pass the cap by
that forecast is not started, and one that takes longer than forecast is stopped at the cap, with a
checkpoint. Money is device time at a price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flops_fit.points import Trial


@dataclass(frozen=True)
class Caps:
    """What a sweep may spend in all, earlier sessions included; None: no cap.

    Attributes:
        flops: of all trials, failed and diverged ones too.
        device_seconds: wall-clock of the trials, added up, times the devices of each.
        device_seconds_said: how the user stated `device_seconds`: `--max-hours 3`, say.
        devices_per_trial: that a running trial occupies.
        total_flops: no cap, but what an adaptive sweep is planned to cost in all, where that is no
            longer the manifest's total.
    """

    flops: float | None = None
    device_seconds: float | None = None
    device_seconds_said: str = ""
    devices_per_trial: int = 1
    total_flops: float | None = None

    @property
    def are_none(self) -> bool:
        """Whether the sweep may spend without limit."""
        return self.flops is None and self.device_seconds is None

    def seconds_left(self, spent_device_seconds: float) -> float | None:
        """Device seconds until the cap; None without one."""
        if self.device_seconds is None:
            return None
        return self.device_seconds - spent_device_seconds

    def reached(
        self, *, flops: float, device_seconds: float, waiting: Sequence[Trial]
    ) -> CapReached | None:
        """What a sweep comes to with the next trial, if that is more than a cap allows.

        Args:
            flops: spent, with the next trial.
            device_seconds: spent, with the next trial as far as it is forecast.
            waiting: the trials that would not be run, the next one first.
        """
        missing = tuple(trial.trial_id for trial in waiting)
        if self.flops is not None and flops > self.flops:
            said = f"--max-flops {self.flops:g}"
            return CapReached(said, "FLOPs", self.flops, flops, missing)
        if self.device_seconds is not None and device_seconds > self.device_seconds:
            return self.out_of_time(device_seconds, waiting)
        return None

    def out_of_time(self, device_seconds: float, waiting: Sequence[Trial]) -> CapReached:
        """That the cap on device time is reached, with the trials that will not be finished."""
        assert self.device_seconds is not None
        missing = tuple(trial.trial_id for trial in waiting)
        return CapReached(
            self.device_seconds_said, "device seconds", self.device_seconds, device_seconds, missing
        )


@dataclass(frozen=True)
class CapReached:
    """Why a sweep stopped before its end.

    Attributes:
        cap: as the user stated it.
        unit: of the next two.
        limit, would_be: what is allowed, and what it would come to with the next trial.
        missing: ids of the trials that were not finished.
    """

    cap: str
    unit: str
    limit: float
    would_be: float
    missing: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As the ledger's entry `sweep_capped` holds it."""
        return {
            "cap": self.cap,
            "unit": self.unit,
            "limit": self.limit,
            "would_be": self.would_be,
            "missing": list(self.missing),
        }
