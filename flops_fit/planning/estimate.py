"""Estimates a plan's FLOPs, hours, memory and money.

Time comes from a few measured sizes, interpolated (log-log) in FLOPs per token, since small models
reach a smaller share of a device's peak than large ones; or from one stated rate.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flops_fit.experiment.timing import Timing
from flops_fit.manifest.frames import to_frame, to_html
from flops_fit.manifest.trials import Trial
from flops_fit.planning.plan import Plan
from flops_fit.units import format_bytes, format_count, format_duration, format_flops

MOST_EVALUATION = 0.03
"""Share of the trials' time that held-out losses may take."""


@dataclass(frozen=True)
class TrialEstimate:
    """The forecast cost of one trial; `memory_bytes` and `cost` are None if not known.

    Of the `wall_seconds`, `evaluation_seconds` go to held-out losses.
    """

    trial: Trial
    wall_seconds: float
    memory_bytes: int | None
    cost: float | None
    evaluation_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain data."""
        return {
            "trial_id": self.trial.trial_id,
            "budget_flops": self.trial.budget_flops,
            "size_value": self.trial.size.size_value,
            "tokens": self.trial.tokens,
            "flops": self.trial.flops,
            "wall_seconds": self.wall_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "memory_bytes": self.memory_bytes,
            "cost": self.cost,
        }


@dataclass(frozen=True, repr=False)
class Estimate:
    """The forecast cost of a sweep.

    Attributes:
        trials: one by one.
        total_flops: of all.
        wall_seconds: from start to end with `workers` side by side.
        device_seconds: of all trials one after another: what is paid for.
        memory_bytes: of one process or device of the largest trial; None where not known.
        available_bytes: what each process has, its share where several share one memory.
        cost: in the currency of the price; None without a price.
        workers: trials side by side.
        basis: where the times come from, for the reader.
        timings: the sizes that were measured, by rising size; empty for a stated rate.
        is_most: whether the sweep may well cost less, as an adaptive one does that ends at its
            goal.
    """

    trials: tuple[TrialEstimate, ...]
    total_flops: float
    wall_seconds: float
    device_seconds: float
    memory_bytes: int | None
    cost: float | None
    workers: int
    basis: str
    available_bytes: int | None = None
    timings: tuple[Timing, ...] = ()
    is_most: bool = False

    def __repr__(self) -> str:
        return f"<Estimate: {self._summary()}>"

    def _repr_html_(self) -> str:
        """Return the estimate as a notebook shows it."""
        headers = ("FLOPs", "size", "params", "units of data", "time", "memory")
        rows = [
            (
                format_flops(row.trial.budget_flops),
                str(row.trial.size.size_value),
                format_count(row.trial.size.params),
                format_count(row.trial.tokens),
                format_duration(row.wall_seconds),
                "-" if row.memory_bytes is None else format_bytes(row.memory_bytes),
            )
            for row in self.trials
        ]
        return to_html(f"Estimate: {self._summary()}", headers, rows, [f"Times: {self.basis}."])

    def _summary(self) -> str:
        """Return the number of trials, their FLOPs, the time and the cost."""
        said = f"{len(self.trials)} trials, {format_flops(self.total_flops)} FLOPs, "
        said += f"{format_duration(self.wall_seconds)} with {self.workers} side by side"
        return said + ("" if self.cost is None else f", cost {self.cost:.2f}")

    def to_pandas(self) -> Any:
        """Return the forecast of each trial as a pandas data frame.

        Raises:
            ManifestError: pandas is not installed.
        """
        return to_frame([row.to_dict() for row in self.trials])

    @property
    def does_not_fit(self) -> tuple[Trial, ...]:
        """The trials that are forecast to run out of memory."""
        if self.available_bytes is None:
            return ()
        return tuple(
            row.trial for row in self.trials if (row.memory_bytes or 0) > self.available_bytes
        )

    @property
    def evaluation_share(self) -> float:
        """The share of all trials' time that goes to held-out losses."""
        return math.fsum(row.evaluation_seconds for row in self.trials) / self.device_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain data: what `estimate --json` prints."""
        return {
            "total_flops": self.total_flops,
            "wall_seconds": self.wall_seconds,
            "device_seconds": self.device_seconds,
            "evaluation_share": self.evaluation_share,
            "memory_bytes": self.memory_bytes,
            "available_bytes": self.available_bytes,
            "does_not_fit": [trial.trial_id for trial in self.does_not_fit],
            "cost": self.cost,
            "workers": self.workers,
            "basis": self.basis,
            "timings": [timing.to_dict() for timing in self.timings],
            "trials": [trial.to_dict() for trial in self.trials],
        }


def estimate_plan(
    plan: Plan,
    *,
    timings: Sequence[Timing] = (),
    flops_per_second: float | None = None,
    workers: int = 1,
    devices_per_trial: int = 1,
    price_per_hour: float | None = None,
    curve_points: int = 0,
    curve_share: float = 0.0,
    num_devices: int | None = None,
    basis: str,
) -> Estimate:
    """Estimate a plan from measured sizes, or from a stated rate.

    Args:
        plan: what will be run.
        timings: at least one, unless `flops_per_second` is given.
        flops_per_second: achieved by one trial, all its devices together; goes before `timings`.
        workers: trials that run side by side.
        devices_per_trial: devices that are paid for while a trial runs.
        price_per_hour: of one device.
        curve_points: evaluations of each trial before its end.
        curve_share: the largest share of a trial's time that they may take.
        num_devices: GPUs that the processes of trials side by side share out; 0: they share the
            machine's memory, as on a CPU; None: each has a memory of its own.
        basis: where the times come from, for the reader.
    """
    assert timings or flops_per_second, "an estimate needs timings or a rate"
    rows = []
    for trial in plan.trials:
        evaluation, memory = 0.0, None
        if flops_per_second:
            seconds = trial.cost_flops / flops_per_second
        else:
            seconds, evaluation = _seconds(
                trial, timings, curve_points=curve_points, curve_share=curve_share
            )
            memory = _memory(trial, timings)
        cost = _cost(seconds, devices_per_trial, price_per_hour)
        rows.append(TrialEstimate(trial, seconds, memory, cost, evaluation))
    device_seconds = math.fsum(row.wall_seconds for row in rows)
    memories = [row.memory_bytes for row in rows if row.memory_bytes is not None]
    return Estimate(
        trials=tuple(rows),
        total_flops=plan.total_flops,
        wall_seconds=_makespan(
            [row.wall_seconds for row in rows],
            workers,
            startup=max((timing.startup_seconds for timing in timings), default=0.0),
        ),
        device_seconds=device_seconds,
        memory_bytes=max(memories, default=None),
        cost=_cost(device_seconds, devices_per_trial, price_per_hour),
        workers=workers,
        basis=basis,
        available_bytes=_available(timings, _sharing(workers * devices_per_trial, num_devices)),
        timings=tuple(sorted(timings, key=lambda timing: timing.flops_per_token)),
    )


def training_seconds(flops_per_token: float, tokens: float, timings: Sequence[Timing]) -> float:
    """Return the seconds to train on `tokens`, by rates interpolated log-log between sizes.

    Beyond the largest measured size its FLOP/s are taken, below the smallest its seconds per token.
    """
    known = [(t.flops_per_token, t.seconds_per_token) for t in timings]
    return tokens * _interpolate(known, flops_per_token)


def sizes_to_time(plan: Plan) -> list[Trial]:
    """Return one trial each of the smallest, a middle and the largest size of the plan.

    The size's trial of middle length stands for the batch that the size is trained with.
    """
    by_size: dict[float, list[Trial]] = {}
    for trial in sorted(plan.trials, key=lambda trial: (trial.size.params, trial.tokens)):
        by_size.setdefault(trial.size.flops_per_token, []).append(trial)
    groups = list(by_size.values())
    picked = sorted({0, len(groups) // 2, len(groups) - 1})
    return [groups[index][len(groups[index]) // 2] for index in picked]


def _seconds(
    trial: Trial, timings: Sequence[Timing], *, curve_points: int, curve_share: float
) -> tuple[float, float]:
    """Return the seconds of one trial with set-up and evaluations, and of the evaluations alone."""
    at = trial.size.flops_per_token
    training = training_seconds(at, trial.cost_tokens, timings)
    setup, evaluation = (
        _interpolate([(t.flops_per_token, seconds) for t, seconds in known], at)
        if all(seconds > 0 for _, seconds in known)
        else 0.0
        for known in (
            [(t, t.setup_seconds) for t in timings],
            [(t, t.evaluation_seconds) for t in timings],
        )
    )
    evaluations = evaluation + min(curve_share * training, curve_points * evaluation)
    return setup + training + evaluations, evaluations


def _sharing(processes: int, num_devices: int | None) -> int:
    """Return the number of processes that share one memory."""
    if num_devices is None:
        return 1
    return math.ceil(processes / num_devices) if num_devices else processes


def _available(timings: Sequence[Timing], sharing: int) -> int | None:
    """Return the available memory per trial; None if it is not known."""
    known = [t.available_bytes for t in timings if t.available_bytes is not None]
    return min(known) // sharing if known else None


def _memory(trial: Trial, timings: Sequence[Timing]) -> int | None:
    """Peak memory of one trial, interpolated between the measured sizes."""
    known = [(t.flops_per_token, float(t.memory_bytes)) for t in timings if t.memory_bytes]
    return round(_interpolate(known, trial.size.flops_per_token)) if known else None


def _interpolate(known: Sequence[tuple[float, float]], at: float) -> float:
    """Interpolate log-log linearly; beyond the known points, extrapolate in proportion to `at`."""
    points = sorted(known)
    if at >= points[-1][0]:
        return points[-1][1] * at / points[-1][0]
    if at <= points[0][0]:
        return points[0][1]
    right = next(i for i, (x, _) in enumerate(points) if x > at)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    share = math.log(at / x0) / math.log(x1 / x0)
    return math.exp((1 - share) * math.log(y0) + share * math.log(y1))


def _makespan(seconds: Sequence[float], workers: int, *, startup: float) -> float:
    """Return when the last task ends, if each starts in this order as soon as a worker is free."""
    ends = [startup] * workers
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def _cost(seconds: float, devices: int, price_per_hour: float | None) -> float | None:
    """Price of the devices' time; None without a price."""
    return None if price_per_hour is None else seconds / 3600 * devices * price_per_hour
