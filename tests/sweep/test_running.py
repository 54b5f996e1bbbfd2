"""The stages in their order: what stands in a run directory before the first trial."""

import json
from contextlib import ExitStack
from functools import partial

import pytest

from flops_fit.experiment.timing import Timing
from flops_fit.planning.costing import make_estimate
from flops_fit.planning.estimate import estimate_plan
from flops_fit.planning.notes import estimate_notes, expected_time
from flops_fit.sweep import running as stages
from flops_fit.sweep.ledger import Ledger
from flops_fit.sweep.opening import open_sweep
from flops_fit.sweep.running import estimate_first


@pytest.fixture
def started(write_manifest, tmp_path, monkeypatch):
    """Starts a sweep's run directory; times come from a stated rate instead of this machine."""
    monkeypatch.setattr(stages, "make_estimate", partial(make_estimate, flops_per_second=1e9))

    def start(name, *, simulated=False, is_adaptive=False, **sections):
        return opened.enter_context(
            open_sweep(
                write_manifest(**sections), tmp_path / name, simulated=simulated,
                is_adaptive=is_adaptive,
            )
        )  # fmt: skip

    with ExitStack() as opened:
        yield start


def test_a_sweep_worth_timing_keeps_what_it_was_expected_to_cost(started):
    sweep = started("large")
    estimate = estimate_first(sweep, workers=2)
    kept = json.loads(sweep.run.estimate.read_text())
    planned = json.loads(sweep.run.plan.read_text())
    assert kept == estimate.to_dict()
    assert {row["trial_id"] for row in kept["trials"]} == {
        trial["trial_id"] for trial in planned["trials"]
    }
    assert kept["device_seconds"] == pytest.approx(planned["total_flops"] / 1e9)


def test_an_adaptive_sweep_is_told_the_most_that_its_total_takes(started):
    sweep = started("adaptive", is_adaptive=True, sweep='design = "ladder"\ntotal_flops = 5e12')
    estimate = estimate_first(sweep, workers=9)
    assert estimate.device_seconds == pytest.approx(5e12 / 1e9, rel=0.1)
    assert estimate.workers == 4  # a decision asks for no more at a time
    assert expected_time(estimate).startswith("at most ")
    assert "FLOPs that it may cost" in estimate.basis
    assert json.loads(sweep.run.estimate.read_text()) == estimate.to_dict()


def test_an_adaptive_sweep_warns_of_memory(started, monkeypatch):
    """The largest size of the static plan stands for the largest that may be chosen."""
    timing = Timing(6e3, 1e-6, memory_bytes=2**30, available_bytes=2**31)
    monkeypatch.setattr(
        stages, "make_estimate",
        lambda prepared, plan, workers: estimate_plan(plan, timings=[timing], basis="here"),
    )  # fmt: skip
    sweep = started("large", is_adaptive=True, sweep='design = "ladder"\ntotal_flops = 5e12')
    estimate = estimate_first(sweep, workers=1)
    assert "out_of_memory" in [note.code for note in estimate_notes(estimate)]


def test_a_sweep_that_has_begun_is_not_timed_again(started):
    sweep = started("begun")
    Ledger.open(sweep.run.ledger).close()
    assert estimate_first(sweep, workers=1) is None
    assert not sweep.run.estimate.exists()


@pytest.mark.parametrize(
    ("simulated", "sections"),
    [
        (True, {}),
        (False, {"sweep": "budgets = [1e9, 3e9]\nsizes_per_budget = 3\ntokens_per_param = 5"}),
        (False, {"sweep": 'design = "ladder"\ntotal_flops = 5e10', "is_adaptive": True}),
        (False, {"execution": 'executor = "pool"'}),
    ],
    ids=["rehearsed", "small", "small and adaptive", "on other machines"],
)
def test_what_is_not_worth_timing_or_not_trained_here_is_not_timed(started, simulated, sections):
    sweep = started("none", simulated=simulated, **sections)
    assert estimate_first(sweep, workers=1) is None
    assert not sweep.run.estimate.exists()
