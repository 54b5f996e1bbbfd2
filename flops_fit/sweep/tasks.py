"""Divides pending trials into the tasks of a scheduler's queue.

The trials of one trunk form one task, in the order in which they continue one another. Short trials
are put together, so that a job is worth its wait in the queue. Tasks come longest first: a long one
that starts last would keep the sweep waiting alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flops_fit.manifest.trials import Trial
from flops_fit.sweep.executors.contract import Resources


@dataclass(frozen=True)
class Forecast:
    """The forecast cost of one trial; `memory_bytes` of one process, None if not known."""

    wall_seconds: float
    memory_bytes: int | None = None


def tasks_of(
    pending: Sequence[Trial], forecasts: Mapping[str, Forecast], *, least_seconds: float
) -> list[tuple[Trial, ...]]:
    """Return the tasks, longest first.

    Args:
        pending: the trials to be trained.
        forecasts: by trial id; a trial without one is not put together with others.
        least_seconds: forecast below which a trial is short; 0: each trial is a task of its own.
    """
    if not least_seconds:
        return [(trial,) for trial in pending]
    by_trunk: dict[str, list[Trial]] = {}
    short: list[Trial] = []
    tasks: list[tuple[Trial, ...]] = []
    for trial in pending:
        known = forecasts.get(trial.trial_id)
        if trial.trunk_id is not None:
            by_trunk.setdefault(trial.trunk_id, []).append(trial)
        elif known is not None and known.wall_seconds < least_seconds:
            short.append(trial)
        else:
            tasks.append((trial,))
    tasks += [tuple(sorted(mates, key=_start)) for mates in by_trunk.values()]
    tasks += _packed(short, forecasts, least_seconds)
    if all(trial.trial_id in forecasts for trial in pending):
        return sorted(tasks, key=lambda task: -_seconds(task, forecasts))
    return sorted(tasks, key=lambda task: -math.fsum(trial.cost_flops for trial in task))


def resources_of(
    task: Sequence[Trial], forecasts: Mapping[str, Forecast], *, num_devices: int
) -> Resources:
    """Return what a task needs: the time of all its trials, and the memory of the largest."""
    known = [forecasts[trial.trial_id] for trial in task if trial.trial_id in forecasts]
    if len(known) < len(task):
        return Resources(num_devices)
    memories = [each.memory_bytes for each in known if each.memory_bytes is not None]
    return Resources(
        num_devices, math.fsum(each.wall_seconds for each in known), max(memories, default=None)
    )


def _seconds(task: Sequence[Trial], forecasts: Mapping[str, Forecast]) -> float:
    """Return the forecast seconds of a task."""
    return math.fsum(forecasts[trial.trial_id].wall_seconds for trial in task)


def _start(trial: Trial) -> int:
    """Units of data at which a trial continues from its trunk."""
    return 0 if trial.trunk is None else trial.trunk.shared_tokens


def _packed(
    short: Sequence[Trial], forecasts: Mapping[str, Forecast], least_seconds: float
) -> list[tuple[Trial, ...]]:
    """Put short trials together until each task is long enough, the longest of them first."""
    tasks: list[tuple[Trial, ...]] = []
    task: list[Trial] = []
    seconds = 0.0
    for trial in sorted(short, key=lambda trial: -forecasts[trial.trial_id].wall_seconds):
        task.append(trial)
        seconds += forecasts[trial.trial_id].wall_seconds
        if seconds >= least_seconds:
            tasks.append(tuple(task))
            task, seconds = [], 0.0
    return [*tasks, tuple(task)] if task else tasks
