"""Sentences about the cost of a sweep: its share of the target, its time, its memory."""

from __future__ import annotations

import math

from flops_fit.errors import Note
from flops_fit.manifest.manifest import Manifest
from flops_fit.planning.estimate import MOST_EVALUATION, Estimate
from flops_fit.units import format_duration, format_flops

_TIMING_ERROR = 0.2  # of a share that was estimated


def share_note(manifest: Manifest, total_flops: float) -> Note:
    """Return a note with the sweep's FLOPs as a share of the largest target budget."""
    code = "no_target" if manifest.largest_target is None else "share_of_target"
    return Note(code, share_of_target(manifest, total_flops))


def expected_time(estimate: Estimate) -> str:
    """Return the expected time of a sweep and the basis of the forecast."""
    most = "at most " if estimate.is_most else ""
    return (
        f"{most}{format_duration(estimate.wall_seconds)}, {estimate.workers} trials side by side "
        f"({estimate.basis})"
    )


def estimate_notes(estimate: Estimate) -> tuple[Note, ...]:
    """Problems to fix before the sweep starts: too little memory, too much evaluation."""
    notes = (_memory_note(estimate), _evaluation_note(estimate))
    return tuple(note for note in notes if note is not None)


def _memory_note(estimate: Estimate) -> Note | None:
    """Return a note that trials will run out of memory; None if all fit."""
    lost = estimate.does_not_fit
    if not lost:
        return None
    assert estimate.memory_bytes is not None and estimate.available_bytes is not None  # noqa: PT018
    first = min(trial.size.params for trial in lost)
    return Note(
        "out_of_memory",
        f"{len(lost)} of {len(estimate.trials)} trials (from {first:,} params) need up to "
        f"{estimate.memory_bytes / 2**30:.3g} GiB and have "
        f"{estimate.available_bytes / 2**30:.3g} GiB each: lower `micro_batch_examples`, or run "
        "fewer workers",
    )


def _evaluation_note(estimate: Estimate) -> Note | None:
    """Return a note that held-out losses take much of the time; None if they do not."""
    share = estimate.evaluation_share
    if share <= MOST_EVALUATION * (1 + _TIMING_ERROR):
        return None
    most = max(row.evaluation_seconds / row.wall_seconds for row in estimate.trials)
    return Note(
        "evaluation_share",
        f"held-out losses take {share:.1%} of the trials' time, up to {most:.1%} of one trial's; "
        f"{MOST_EVALUATION:.0%} is plenty: lower `heldout_examples` or `curve_share` in [training]",
    )


def speed_notes(estimate: Estimate) -> tuple[Note, ...]:
    """Return the share of the device's peak that the timed sizes reach; empty for a stated rate."""
    known = [timing for timing in estimate.timings if timing.utilisation is not None]
    if not known:
        return ()
    peak = known[0].matmul_flops_per_second or 0.0  # one device, one peak
    shares = [f"{timing.utilisation:.0%}" for timing in known]
    rates = [format_flops(timing.flops_per_second) for timing in known]
    text = (
        f"the timed sizes train at {_listed(rates)} FLOP/s, {_listed(shares)} of the "
        f"{format_flops(peak)} FLOP/s that a large matrix product reaches here"
    )
    if all(timing.mfu is not None for timing in known):
        nominal = format_flops(known[0].nominal_flops_per_second or 0.0)
        shares = [f"{timing.mfu:.0%}" for timing in known]
        text += f", {_listed(shares)} of the {nominal} FLOP/s that the vendor publishes (MFU)"
    return (Note("utilisation", text),)


def _listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def share_of_target(manifest: Manifest, flops: float) -> str:
    """Return a sentence with these FLOPs as a share of the largest target budget."""
    target = manifest.largest_target
    if target is None:
        return (
            f"{format_flops(flops)} FLOPs; their share of the target budget is not known: state a "
            "target in `[report] budgets` or `[sweep] goal`"
        )
    spent, asked = format_flops(flops), f"the largest target budget, {format_flops(target)} FLOPs"
    if flops <= 0:
        return f"no FLOPs are spent yet of {asked}"
    if flops > target:
        return (
            f"{spent} FLOPs are {flops / target:.3g} times {asked}: the target lies below what the "
            "sweep costs"
        )
    return f"{spent} FLOPs are {_percent(flops / target)} of {asked}"


def _percent(share: float) -> str:
    """Return a share in percent with two digits: `40%`, `2.5%`, `0.0031%`, `under 0.0001%`."""
    if share < 1e-6:
        return "under 0.0001%"
    digits = max(0, 1 - math.floor(math.log10(100 * share) + 1e-9))
    return f"{share:.{digits}%}"
