"""Estimates a plan's cost from timed sizes on this machine, or from a stated rate."""

from __future__ import annotations

from collections.abc import Sequence

from flops_fit.experiment.child import LEAST_PATIENCE_MINUTES, ask_timings
from flops_fit.experiment.prepared import Prepared
from flops_fit.experiment.timing import Timing, time_sizes
from flops_fit.planning.estimate import Estimate, estimate_plan, sizes_to_time
from flops_fit.planning.plan import Plan


def make_estimate(
    prepared: Prepared,
    plan: Plan,
    *,
    flops_per_second: float | None = None,
    price_per_hour: float | None = None,
    workers: int | None = None,
) -> Estimate:
    """Return what a plan costs in time, memory and money.

    Args:
        prepared: the experiment.
        plan: its trials.
        flops_per_second: FLOP/s that one trial achieves; None times a few sizes on this machine.
        price_per_hour: price per device-hour; the manifest's if None.
        workers: trials side by side; as many as fit if None.
    """
    execution = prepared.manifest.execution
    workers = workers or prepared.num_workers
    timings: Sequence[Timing] = ()
    basis = f"a stated rate of {flops_per_second:g} FLOP/s a trial" if flops_per_second else ""
    if not flops_per_second:
        trials = sizes_to_time(plan)
        if prepared.experiment is not None:
            timings = time_sizes(prepared.experiment, trials)
        else:
            assert prepared.path is not None
            timings = ask_timings(
                prepared.path,
                trials,
                search_path=prepared.search_path,
                side_by_side=workers,
                devices_per_trial=execution.devices_per_trial,
                num_devices=prepared.description.num_devices,
                most_minutes=max(LEAST_PATIENCE_MINUTES, execution.stall_minutes),
            )
        device = prepared.description.device
        basis = f"{len(trials)} sizes timed on this machine ({device}, {workers} side by side)"
        if execution.devices_per_trial > 1:
            basis += (
                f", each by one of {execution.devices_per_trial} processes with its share of the "
                "batch, without the exchange of gradients"
            )
    return estimate_plan(
        plan,
        timings=timings,
        flops_per_second=flops_per_second,
        workers=workers,
        devices_per_trial=execution.devices_per_trial,
        price_per_hour=execution.price_per_hour if price_per_hour is None else price_per_hour,
        curve_points=prepared.manifest.training.curve_points,
        curve_share=prepared.manifest.training.curve_share,
        num_devices=prepared.description.num_devices,
        basis=basis,
    )
