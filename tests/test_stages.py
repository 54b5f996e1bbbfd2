"""The stages in their order: what stands in a run directory before the first trial."""

import json
from functools import partial

import pytest

from flops_fit import stages
from flops_fit.ledger import Ledger
from flops_fit.prepared import prepare
from flops_fit.provenance import start_run
from flops_fit.stages import estimate_first, make_estimate
from flops_fit.sweep_plan import make_plan


@pytest.fixture
def started(write_manifest, tmp_path, monkeypatch):
    """Starts a sweep's run directory; times come from a stated rate instead of this machine."""
    monkeypatch.setattr(stages, "make_estimate", partial(make_estimate, flops_per_second=1e9))

    def start(name, *, simulated=False, **sections):
        prepared = prepare(write_manifest(**sections))
        run = start_run(prepared, make_plan(prepared), tmp_path / name, simulated=simulated)
        return prepared, run

    return start


def test_a_sweep_worth_timing_keeps_what_it_was_expected_to_cost(started):
    prepared, run = started("large")
    estimate = estimate_first(prepared, run, workers=2)
    kept = json.loads(run.estimate.read_text())
    planned = json.loads(run.plan.read_text())
    assert kept == estimate.to_dict()
    assert {row["trial_id"] for row in kept["trials"]} == {
        trial["trial_id"] for trial in planned["trials"]
    }
    assert kept["device_seconds"] == pytest.approx(planned["total_flops"] / 1e9)


def test_a_sweep_that_has_begun_is_not_timed_again(started):
    prepared, run = started("begun")
    Ledger.open(run.ledger).close()
    assert estimate_first(prepared, run, workers=1) is None
    assert not run.estimate.exists()


@pytest.mark.parametrize(
    ("simulated", "sections"),
    [
        (True, {}),
        (False, {"sweep": "budgets = [1e9, 3e9]\nsizes_per_budget = 3\ntokens_per_param = 5"}),
        (False, {"execution": 'executor = "elsewhere"'}),
    ],
    ids=["rehearsed", "small", "on other machines"],
)
def test_what_is_not_worth_timing_or_not_trained_here_is_not_timed(started, simulated, sections):
    prepared, run = started("none", simulated=simulated, **sections)
    assert estimate_first(prepared, run, workers=1) is None
    assert not run.estimate.exists()
