"""A broken file of a run directory is one clear error, and never stops what does not need it."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import entry

from flops_fit.errors import FlopsFitError, LedgerError, RunDirError
from flops_fit.manifest.files import read_bytes
from flops_fit.manifest.trials import Outcome, Size, Status, Trial
from flops_fit.sweep.ledger import Ledger, read_ledger, replay
from flops_fit.sweep.repairing import repair
from flops_fit.sweep.rundir import RunDir, read_outcome, write_outcome

SIZE = Size(16, 10_000, 6_000, 60_000.0)
TRIAL = Trial.of(budget_flops=1e9, size=SIZE, tokens=16_640, batch_tokens=256, seed=0)
GOOD = Outcome(TRIAL.trial_id, Status.FINISHED, 2.5, TRIAL.tokens, TRIAL.flops, 1.0)
VALUES = st.one_of(
    st.none(), st.text(), st.integers(), st.floats(), st.booleans(), st.just([]), st.just({})
)


@pytest.fixture
def left(tmp_path):
    run = RunDir(tmp_path)
    write_outcome(run, GOOD)
    return run


def change(run, **fields):
    path = run.outcome(TRIAL.trial_id)
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_an_outcome_with_an_unknown_field_is_read(left):
    change(left, invented=3)
    assert read_outcome(left, TRIAL) == GOOD


@pytest.mark.parametrize(
    "fields",
    [{"trial_id": "0" * 12}, {"flops": "1e9"}, {"flops": 1.0}, {"tokens": -1}, {"tokens": 5},
     {"loss": None}, {"loss": True}, {"status": "done"}, {"details": 3}, {"wall_seconds": -1}],
)  # fmt: skip
def test_a_broken_outcome_fails_its_trial_and_is_kept(left, fields):
    change(left, **fields)
    outcome = read_outcome(left, TRIAL)
    assert outcome.status is Status.FAILED
    assert "outcome.broken.json" in outcome.error
    assert (left.trial(TRIAL.trial_id) / "outcome.broken.json").is_file()
    assert not left.outcome(TRIAL.trial_id).exists()


def test_a_finished_outcome_replaces_a_failed_one_and_not_the_other_way(tmp_path):
    run, failed = RunDir(tmp_path), Outcome.of_failure(TRIAL.trial_id, "no disk", seconds=1.0)
    write_outcome(run, failed)
    write_outcome(run, GOOD)
    write_outcome(run, failed)
    assert read_outcome(run, TRIAL) == GOOD


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**10)
    for name, said in (("fifo", "a FIFO"), ("link", "a link"), ("sparse", "too large")):
        with pytest.raises(RunDirError, match=said):
            read_bytes(tmp_path / name)


def ledger_of(path):
    ledger = Ledger.open(path)
    ledger.append(entry("sweep_started", fingerprint="abc", trials=1))
    ledger.append(entry("trial_started", TRIAL.trial_id, attempt=1))
    ledger.append(entry(
        "trial_finished", TRIAL.trial_id, loss=2.5, params=10_000, tokens=16_640, flops=9.98e8,
        wall_seconds=1.0,
    ))  # fmt: skip
    ledger.append(entry("sweep_finished", finished=1))
    ledger.close()
    return path.read_text().splitlines(keepends=True)


def test_an_edited_and_a_removed_line_are_named(tmp_path):
    path = tmp_path / "ledger.jsonl"
    lines = ledger_of(path)
    edited = [*lines[:2], lines[2].replace("2.5", "2.4"), lines[3]]
    path.write_text("".join(edited))
    with pytest.raises(LedgerError, match="line 3 was edited"):
        read_ledger(path)
    path.write_text("".join([lines[0], *lines[2:]]))
    with pytest.raises(LedgerError, match="line 2 does not follow the line before"):
        Ledger.open(path)


def test_lines_without_a_checksum_are_read_and_continued(tmp_path):
    path = tmp_path / "ledger.jsonl"
    lines = ledger_of(path)
    bare = [json.loads(line) for line in lines]
    path.write_text("".join(json.dumps({**b, "check": None} | {}) + "\n" for b in bare[:3]))
    ledger = Ledger.open(path)
    ledger.append(entry("sweep_finished", finished=1))
    ledger.close()
    assert replay(read_ledger(path)).is_complete


def test_a_repair_keeps_whole_lines_and_saves_the_original(tmp_path):
    run = RunDir(tmp_path)
    lines = ledger_of(run.ledger)
    broken = "".join([lines[0], "not json\n", lines[2].replace("2.5", "2.4"), lines[3]])
    run.ledger.write_text(broken)
    found, saved = repair(run)
    assert [kept.event for kept in found.kept] == ["sweep_started", "sweep_finished"]
    assert len(found.dropped) == 2
    assert saved.read_text() == broken
    assert [kept.event for kept in read_ledger(run.ledger)] == ["sweep_started", "sweep_finished"]
    assert repair(run)[1] is None


def test_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"event": "sweep_started", "at": "now", "format": 2, "new": true}\n')
    with pytest.raises(LedgerError, match="format 2"):
        read_ledger(path)


def test_a_finished_trial_stays_finished_whatever_follows(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger_of(path)
    ledger = Ledger.open(path)
    ledger.append(entry("trial_failed", TRIAL.trial_id, error="late"))
    ledger.close()
    state = replay(read_ledger(path))
    assert (list(state.finished), state.failed) == ([TRIAL.trial_id], {})


@settings(max_examples=200, deadline=None)
@given(line=st.integers(0, 3), key=st.sampled_from(
    ["event", "at", "trial_id", "loss", "params", "tokens", "flops", "wall_seconds", "attempt",
     "fingerprint", "trials", "finished", "trunk", "discarded", "recipe", "format"]
), value=VALUES)  # fmt: skip
def test_a_mutated_ledger_is_read_or_refused_in_one_sentence(tmp_path_factory, line, key, value):
    path = tmp_path_factory.mktemp("fuzz") / "ledger.jsonl"
    held = [json.loads(text) for text in ledger_of(path)]
    for each in held:
        del each["check"]
    held[line][key] = value
    path.write_text("".join(json.dumps(each) + "\n" for each in held))
    error = refusal_of(path)
    if error is not None:
        assert error.exit_code == 4
        assert f"line {line + 1}" in error.message or "format" in error.message


def refusal_of(path):
    try:
        replay(read_ledger(path))
    except FlopsFitError as error:
        return error
    return None
