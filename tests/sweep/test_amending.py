"""Trials are dropped, taken back and repeated; the ledger says so, and the fits follow."""

import json

import pytest
from command_line import flops_fit

from flops_fit.errors import RunDirError
from flops_fit.reporting.reading import read_run
from flops_fit.sweep.amending import drop_trials, restore_trials, retry_trials
from flops_fit.sweep.ledger import read_ledger, replay
from flops_fit.sweep.rundir import RunDir
from flops_fit.sweep.status import read_status


@pytest.fixture(scope="module")
def swept(tmp_path_factory, write_stated):
    """A folder with a rehearsed sweep."""
    folder = tmp_path_factory.mktemp("swept")
    ended = flops_fit("run", write_stated(folder), "--simulate", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return folder


def trial_ids(folder):
    plan = json.loads((folder / "runs/planted/plan.json").read_text())
    return [trial["trial_id"] for trial in plan["trials"]]


def test_a_dropped_trial_is_left_out_with_its_reason_and_can_be_taken_back(swept):
    directory, dropped = swept / "runs/planted", trial_ids(swept)[3]
    whole = read_run(directory)
    told = flops_fit("drop", "runs/planted", dropped[:6], "--why", "bad node", cwd=swept)
    assert told.returncode == 0, told.stderr
    without = read_run(directory)
    assert dropped not in {each.name for each in without.observations}
    assert "dropped: bad node" in {each.reason for each in without.excluded}
    assert read_status(directory).dropped == 1
    assert read_status(directory).phase == "finished"
    again = flops_fit("run", "runs/planted", cwd=swept)
    assert again.returncode == 0, again.stderr
    attempts = replay(read_ledger(directory / "ledger.jsonl")).attempts
    assert attempts[dropped] == 1
    back = flops_fit("drop", "runs/planted", dropped, "--take-back", cwd=swept)
    assert back.returncode == 0, back.stderr
    assert read_run(directory).fits == whole.fits


def test_a_retried_trial_is_trained_again_from_its_start(swept):
    directory, repeated = swept / "runs/planted", trial_ids(swept)[0]
    assert flops_fit("retry", "runs/planted", repeated, cwd=swept).returncode == 0
    assert not RunDir(directory).outcome(repeated).exists()
    status = read_status(directory)
    assert (status.queued, status.phase) == (1, "stopped")
    assert flops_fit("run", "runs/planted", cwd=swept).returncode == 0
    state = replay(read_ledger(directory / "ledger.jsonl"))
    assert state.attempts[repeated] == 2
    assert repeated in state.finished
    assert sum(state.attempts.values()) == len(state.finished) + 1


def test_a_trial_that_was_dropped_before_its_turn_is_not_trained(tmp_path, write_manifest):
    manifest = write_manifest()
    capped = flops_fit("run", manifest, "--simulate", "--max-flops", "1e12", cwd=tmp_path)
    assert capped.returncode == 7
    directory = tmp_path / "runs/planted"
    waiting = read_status(directory)
    last = trial_ids(tmp_path)[-1]
    drop_trials(directory, [last], why="too dear")
    assert read_status(directory).queued == waiting.queued - 1
    assert flops_fit("run", "runs/planted", cwd=tmp_path).returncode == 0
    state = replay(read_ledger(directory / "ledger.jsonl"))
    assert last not in state.attempts
    assert state.is_complete


@pytest.mark.parametrize(
    ("amend", "told"),
    [
        (lambda run: drop_trials(run, ["ffffffffffff"], why="x"), "has no trial"),
        (lambda run: drop_trials(run, [""], why="x"), "begin with"),
        (lambda run: restore_trials(run, trial_ids(run.parents[1])[:1]), "was not dropped"),
    ],
)
def test_a_mistake_changes_nothing(swept, amend, told):
    ledger = swept / "runs/planted/ledger.jsonl"
    before = ledger.read_bytes()
    with pytest.raises(RunDirError, match=told):
        amend(swept / "runs/planted")
    assert ledger.read_bytes() == before


def test_a_trial_without_an_end_cannot_be_repeated(tmp_path, write_manifest):
    flops_fit("run", write_manifest(), "--simulate", "--max-flops", "1e12", cwd=tmp_path)
    with pytest.raises(RunDirError, match="has not ended yet"):
        retry_trials(tmp_path / "runs/planted", [trial_ids(tmp_path)[-1]])


def test_dropping_needs_a_reason(swept):
    ended = flops_fit("drop", "runs/planted", trial_ids(swept)[0], cwd=swept)
    assert ended.returncode == 2
    assert "--why" in ended.stderr
