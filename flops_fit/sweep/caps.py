"""Hard caps on a sweep's FLOPs and device time.

FLOPs are known before a trial starts, so a sweep never spends more than its cap on trials that end
well. Device time is forecast from the trials that have finished; a trial that would pass the cap by
that forecast is not started, and one that takes longer than forecast is stopped at the cap, with a
checkpoint. Money is device time at a price.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flops_fit.errors import ManifestError
from flops_fit.manifest.manifest import Manifest
from flops_fit.manifest.trials import Trial
from flops_fit.planning.plan import Plan
from flops_fit.sweep.entries import SweepCapped
from flops_fit.sweep.ledger import Ledger


@dataclass(frozen=True)
class Caps:
    """The most that a sweep may spend, earlier sessions included; None: no cap.

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
        """Return the cap that the next trial would exceed, if there is one.

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
        """Return the reached cap on device time and the trials that will not be finished."""
        assert self.device_seconds is not None
        missing = tuple(trial.trial_id for trial in waiting)
        return CapReached(
            self.device_seconds_said, "device seconds", self.device_seconds, device_seconds, missing
        )


@dataclass(frozen=True)
class CapReached:
    """The reason why a sweep stopped before its end.

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

    @property
    def entry(self) -> SweepCapped:
        """The ledger's entry."""
        return SweepCapped(
            cap=self.cap, unit=self.unit, limit=self.limit, would_be=self.would_be,
            missing=self.missing,
        )  # fmt: skip


_STOP_SECONDS = 5.0  # kept for a trial that is stopped to end its step and save a checkpoint


_STOP_SHARE = 1 / 3  # of a cap: more of a short one is never kept for that


_SLACK = 1.2  # what a forecast may err by before a running trial is no longer waited for


_STOP_STEPS = 1.5  # the same in steps of the trial's own, where those are longer


class Allowance:
    """The account of one carrying-out of a plan.

    Attributes:
        began: of the running trials, by id: monotonic seconds.
    """

    def __init__(
        self, plan: Plan, ledger: Ledger, caps: Caps, steps_of: Callable[[Trial], int]
    ) -> None:
        """Begin with nothing running.

        Args:
            plan: whose trials are carried out.
            ledger: says what was spent.
            caps: what may be spent in all.
            steps_of: the steps that a running trial has told of.
        """
        self.began: dict[str, float] = {}
        self._queued: set[str] = set()
        self._plan, self._ledger, self._caps, self._steps_of = plan, ledger, caps, steps_of
        self._by_id = {trial.trial_id: trial for trial in plan.trials}

    def start(self, trial: Trial) -> None:
        """A trial runs from now on."""
        self.began[trial.trial_id] = time.monotonic()

    def queue(self, trial: Trial) -> None:
        """A trial waits in a queue or runs on another machine, by a clock that is not ours."""
        self._queued.add(trial.trial_id)

    def end(self, trial_id: str) -> float | None:
        """Seconds that a trial has run, which it does no longer; None if it did not run here."""
        self._queued.discard(trial_id)
        began = self.began.pop(trial_id, None)
        return None if began is None else time.monotonic() - began

    def passed_by(self, waiting: Sequence[Trial]) -> CapReached | None:
        """Return the cap that the first waiting trial would exceed, given the running ones."""
        if not waiting or self._caps.are_none:
            return None
        state = self._ledger.state
        at_work = [*(self._by_id[i] for i in (*self.began, *self._queued)), waiting[0]]
        flops = state.spent_flops + math.fsum(
            max(0.0, self._cost(t) - state.flops.get(t.trial_id, 0.0)) for t in at_work
        )
        to_go = [self._seconds_to_go(t) for t in at_work]
        seconds = self._spent_seconds() + math.fsum([*to_go[:-1], max(to_go[-1], self._reserve)])
        return self._caps.reached(
            flops=flops, device_seconds=seconds * self._caps.devices_per_trial, waiting=waiting
        )

    def seconds_left(self) -> float | None:
        """Return the seconds until running trials must be stopped to end in time; None: no cap."""
        left = self._caps.seconds_left(self._spent_seconds() * self._caps.devices_per_trial)
        if left is None:
            return None
        share = left / self._caps.devices_per_trial / max(1, len(self.began))
        late = [trial_id for trial_id in self.began if not self._ends_within(trial_id, share)]
        return share - max(map(self._seconds_to_stop, late), default=0.0)

    @property
    def _reserve(self) -> float:
        """Seconds that are kept for a trial to be stopped in."""
        cap = self._caps.device_seconds
        if cap is None:
            return 0.0
        return min(_STOP_SECONDS, _STOP_SHARE * cap / self._caps.devices_per_trial)

    def out_of_time(self, open_trials: Sequence[Trial]) -> CapReached:
        """Return the reached cap on device time and the trials that will not be finished."""
        running = [trial for trial in open_trials if trial.trial_id in self.began]
        seconds = self._spent_seconds() + math.fsum(map(self._seconds_to_go, running))
        return self._caps.out_of_time(seconds * self._caps.devices_per_trial, open_trials)

    def _cost(self, trial: Trial) -> float:
        """Return the FLOPs that a trial will spend: with its trunk's if the trunk is missing."""
        if trial.trunk is None or trial.trunk_id is None:
            return trial.flops
        kept = self._ledger.state.trunk_tokens.get(trial.trunk_id, ())
        start = max((n for n in kept if n <= trial.trunk.shared_tokens), default=0)
        return (trial.tokens - start) * trial.size.flops_per_token

    def _spent_seconds(self) -> float:
        """Wall-clock of all trials until now, the running ones too."""
        now = time.monotonic()
        running = math.fsum(now - began for began in self.began.values())
        return self._ledger.state.spent_seconds + running

    def _seconds_to_stop(self, trial_id: str) -> float:
        """Return the seconds that a running trial needs to end its step and save a checkpoint."""
        steps = self._steps_of(self._by_id[trial_id])
        so_far = time.monotonic() - self.began[trial_id]
        return max(self._reserve, _STOP_STEPS * so_far / steps if steps else 0.0)

    def _ends_within(self, trial_id: str, seconds: float) -> bool:
        """Return whether a running trial is forecast to end well within so many seconds."""
        so_far = time.monotonic() - self.began[trial_id]
        whole = self._seconds_in_all(self._by_id[trial_id])
        return so_far < _SLACK * whole <= so_far + seconds

    def _seconds_to_go(self, trial: Trial) -> float:
        """Return the forecast remaining seconds of a trial."""
        began = self.began.get(trial.trial_id)
        so_far = 0.0 if began is None else time.monotonic() - began
        return max(0.0, self._seconds_in_all(trial) - so_far)

    def _seconds_in_all(self, trial: Trial) -> float:
        """Return a trial's seconds at the speed of the nearest finished size; 0: not known."""
        state = self._ledger.state
        known = [t for t in self._plan.trials if t.trial_id in state.finished]
        if not known:
            return 0.0
        size = math.log(trial.size.flops_per_token)
        gaps = [abs(math.log(t.size.flops_per_token) - size) for t in known]
        least = min(gaps)
        near = [t for t, gap in zip(known, gaps, strict=True) if gap <= least + 1e-9]
        # Ignore time lost in stopped attempts; it would distort the rate.
        pace = max(state.finished[t.trial_id].wall_seconds / state.flops[t.trial_id] for t in near)
        return pace * self._cost(trial)


@dataclass(frozen=True)
class Limits:
    """The limits that a user sets on a sweep's spending; None: no limit.

    Attributes:
        max_flops: FLOPs of all trials.
        max_hours: device-hours of all trials.
        max_cost: money, in the currency of the price.
        price_per_hour: price per device-hour; the manifest's if None.
        total_flops: what an adaptive sweep is planned to cost, in place of the manifest's total.
    """

    max_flops: float | None = None
    max_hours: float | None = None
    max_cost: float | None = None
    price_per_hour: float | None = None
    total_flops: float | None = None


def make_caps(manifest: Manifest, limits: Limits) -> Caps:
    """Turn limits into caps, with the devices of a trial and their price from the manifest.

    Raises:
        ManifestError: a cost without a price.
    """
    execution = manifest.execution
    price = limits.price_per_hour
    price = execution.price_per_hour if price is None else price
    stated: list[tuple[float, str]] = []
    if limits.max_hours is not None:
        stated.append((3600.0 * limits.max_hours, f"--max-hours {limits.max_hours:g}"))
    if limits.max_cost is not None:
        if not price:
            raise ManifestError(
                "`--max-cost` needs the price of a device-hour, and none is stated",
                hint="write `price_per_hour` in [execution], or give --price-per-hour",
            )
        stated.append((3600.0 * limits.max_cost / price, f"--max-cost {limits.max_cost:g}"))
    seconds, said = min(stated, default=(None, ""))
    return Caps(limits.max_flops, seconds, said, execution.devices_per_trial, limits.total_flops)
