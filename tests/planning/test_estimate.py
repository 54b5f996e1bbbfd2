"""What a sweep is expected to take, from measured sizes."""

import pytest

from flops_fit.experiment.timing import Timing
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.estimate import estimate_plan
from flops_fit.planning.notes import estimate_notes, speed_notes
from flops_fit.planning.plan import Plan

SIZES = [Size(v, v * 100, v * 100, v * 600.0) for v in (10, 40, 160)]
TRIALS = tuple(
    Trial.of(budget_flops=1e9, size=size, tokens=10_000, batch_tokens=100, seed=0) for size in SIZES
)
PLAN = Plan(TRIALS)


def timing(size: Size, **more: float) -> Timing:
    return Timing(size.flops_per_token, size.flops_per_token / 1e6, **more)


def test_set_up_start_up_and_evaluations_are_counted() -> None:
    plain = estimate_plan(PLAN, timings=[timing(s) for s in SIZES], basis="")
    training = sum(t.flops / 1e6 for t in TRIALS)
    assert plain.wall_seconds == pytest.approx(training)
    more = {"evaluation_seconds": 0.5, "setup_seconds": 2.0, "startup_seconds": 7.0}
    full = estimate_plan(
        PLAN, timings=[timing(s, **more) for s in SIZES], basis="", curve_points=4, curve_share=0.02
    )
    # The curve of a short trial costs its four evaluations at most, of a long one its share.
    curves = sum(min(0.02 * t.flops / 1e6, 2.0) for t in TRIALS)
    assert full.wall_seconds == pytest.approx(7 + training + curves + 3 * 2.5)


def test_trials_side_by_side_start_as_workers_fall_free() -> None:
    two = estimate_plan(PLAN, timings=[timing(s) for s in SIZES], workers=2, basis="")
    seconds = [t.flops / 1e6 for t in TRIALS]
    assert two.wall_seconds == pytest.approx(max(seconds[0] + seconds[2], seconds[1]))
    assert two.device_seconds == pytest.approx(sum(seconds))


def test_trials_that_will_not_fit_are_named_before_they_run() -> None:
    timings = [
        timing(s, memory_bytes=m, available_bytes=16 * 2**30)
        for s, m in zip(SIZES, (2**30, 3 * 2**30, 9 * 2**30), strict=True)
    ]
    alone = estimate_plan(PLAN, timings=timings, workers=2, basis="")
    assert alone.does_not_fit == ()
    assert estimate_notes(alone) == ()
    together = estimate_plan(PLAN, timings=timings, workers=2, num_devices=0, basis="")
    assert [t.size for t in together.does_not_fit] == [SIZES[2]]
    (note,) = estimate_notes(together)
    assert note.code == "out_of_memory"
    assert "1 of 3 trials" in note.message
    assert "up to 9 GiB and have 8 GiB each" in note.message


def test_the_sizes_that_were_timed_say_how_much_of_the_device_they_use() -> None:
    peaks = {"matmul_flops_per_second": 4e6, "nominal_flops_per_second": 5e6}
    timed = [
        Timing(s.flops_per_token, s.flops_per_token / rate, **peaks)
        for s, rate in zip(SIZES, (5e5, 1e6, 2e6), strict=True)
    ]
    estimate = estimate_plan(PLAN, timings=timed[::-1], basis="")
    rows = estimate.to_dict()["timings"]
    assert [row["flops_per_second"] for row in rows] == pytest.approx([5e5, 1e6, 2e6])
    assert [row["utilisation"] for row in rows] == pytest.approx([0.125, 0.25, 0.5])
    assert [row["mfu"] for row in rows] == pytest.approx([0.1, 0.2, 0.4])
    (note,) = speed_notes(estimate)
    assert "5e5, 1e6 and 2e6 FLOP/s, 12%, 25% and 50% of the 4e6 FLOP/s" in note.message
    assert "10%, 20% and 40% of the 5e6 FLOP/s that the vendor publishes (MFU)" in note.message


def test_no_share_is_claimed_of_a_peak_that_is_not_known() -> None:
    assert speed_notes(estimate_plan(PLAN, flops_per_second=1e6, basis="")) == ()
    assert speed_notes(estimate_plan(PLAN, timings=[timing(s) for s in SIZES], basis="")) == ()
    timed = [timing(s, matmul_flops_per_second=4e6) for s in SIZES]
    (note,) = speed_notes(estimate_plan(PLAN, timings=timed, basis=""))
    assert "MFU" not in note.message


def test_costly_evaluation_is_said_before_the_run() -> None:
    cheap = [timing(s, evaluation_seconds=0.001) for s in SIZES]
    assert estimate_notes(estimate_plan(PLAN, timings=cheap, basis="")) == ()
    dear = [timing(s, evaluation_seconds=50.0) for s in SIZES]
    made = estimate_plan(PLAN, timings=dear, basis="")
    training = sum(t.flops / 1e6 for t in TRIALS)
    assert made.evaluation_share == pytest.approx(150 / (training + 150))
    (note,) = estimate_notes(made)
    assert note.code == "evaluation_share"
    assert f"{150 / (training + 150):.1%} of the trials' time" in note.message
    shortest = min(t.flops / 1e6 for t in TRIALS)
    assert f"up to {50 / (shortest + 50):.1%} of one trial's" in note.message
