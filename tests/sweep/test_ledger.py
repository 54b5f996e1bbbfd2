"""The ledger keeps what it was told, whatever a crash leaves behind."""

import json
import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import entry, said

from flops_fit.errors import LedgerError
from flops_fit.manifest.trials import Size, Trial
from flops_fit.sweep.ledger import Ledger, observations_of, read_ledger, replay

AA = "a" * 12
SIZE = Size(16, 10_000, 6_000, 60_000.0)
TRIAL = Trial.of(budget_flops=1e9, size=SIZE, tokens=16_640, batch_tokens=256, seed=0)


def written(path, *events):
    ledger = Ledger.open(path)
    for event, trial_id, fields in events:
        ledger.append(entry(event, trial_id, **fields))
    ledger.close()


FINISHED = ("trial_finished", TRIAL.trial_id, {"loss": 2.5, "params": 10_000, "tokens": 16_640,
            "flops": 9.98e8, "wall_seconds": 1.0})  # fmt: skip


def test_entries_come_back_in_order_with_their_fields(tmp_path):
    path = tmp_path / "ledger.jsonl"
    written(path, ("trial_started", AA, {"attempt": 1}), ("trial_failed", AA, {"error": "é\n"}))
    first, second = read_ledger(path)
    assert (first.event, first.trial_id, said(first)) == ("trial_started", AA, {"attempt": 1})
    assert second.error == "é\n"
    assert all(json.loads(line)["at"].endswith("+00:00") for line in path.read_text().splitlines())


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000))
def test_a_file_cut_anywhere_gives_its_whole_lines_and_takes_more(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "ledger.jsonl"
    written(path, *(("trial_started", f"{i:012x}", {"attempt": i}) for i in range(5)))
    content = path.read_bytes()
    cut = cut % (len(content) + 1)
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    assert len(read_ledger(path)) == whole
    ledger = Ledger.open(path)
    assert ledger.cut_bytes == cut - (content[:cut].rfind(b"\n") + 1)
    ledger.append(entry("sweep_finished", finished=0))
    ledger.close()
    events = [entry.event for entry in read_ledger(path)]
    assert events == ["trial_started"] * whole + ["sweep_finished"]


def test_a_reader_beside_the_writer_changes_nothing(tmp_path):
    path = tmp_path / "ledger.jsonl"
    written(path, FINISHED)
    torn = path.read_bytes() + b'{"event": "tri'
    path.write_bytes(torn)
    assert len(read_ledger(path)) == 1
    assert path.read_bytes() == torn


@pytest.mark.parametrize("line", ["not json", "[]", '{"at": "now"}', "", "3", "\x00\x00"])
def test_a_broken_line_inside_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    written(path, FINISHED, FINISHED)
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n{second}\n")
    with pytest.raises(LedgerError, match="line 2"):
        Ledger.open(path)
    with pytest.raises(LedgerError, match="line 2"):
        read_ledger(path)


def test_nan_is_refused_before_it_is_written(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger.open(path)
    with pytest.raises(ValueError, match="JSON"):
        ledger.append(entry("trial_finished", AA, loss=float("nan"), params=1, tokens=1, flops=1.0))
    ledger.close()
    assert path.read_bytes() == b""


def test_a_failed_trial_is_pending_and_a_diverged_one_is_not(tmp_path):
    path = tmp_path / "ledger.jsonl"
    written(path, ("trial_failed", TRIAL.trial_id, {"error": "x"}))
    assert replay(read_ledger(path)).is_pending(TRIAL)
    written(path, ("trial_diverged", TRIAL.trial_id, {"error": "x"}))
    state = replay(read_ledger(path))
    assert not state.is_pending(TRIAL)
    assert observations_of(state, [TRIAL]) == []


def test_an_outcome_told_twice_counts_once_and_the_first_stands(tmp_path):
    path = tmp_path / "ledger.jsonl"
    second = (FINISHED[0], FINISHED[1], {**FINISHED[2], "loss": 9.0})
    written(path, FINISHED, second)
    (seen,) = observations_of(replay(read_ledger(path)), [TRIAL])
    assert (seen.loss, seen.params, seen.tokens, seen.name) == (2.5, 10_000, 16_640, TRIAL.trial_id)


def test_a_disk_that_takes_part_of_a_line_leaves_the_ledger_as_it_was(tmp_path):
    path = tmp_path / "ledger.jsonl"
    written(path, FINISHED)
    before = path.read_bytes()
    ledger = Ledger.open(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(LedgerError, match="cannot be written"):
            ledger.append(entry("trial_started", AA, attempt=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    ledger.append(entry("trial_started", AA, attempt=1))
    ledger.close()
    assert [entry.event for entry in read_ledger(path)] == ["trial_finished", "trial_started"]
