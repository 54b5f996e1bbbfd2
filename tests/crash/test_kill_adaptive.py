"""An adaptive sweep killed by SIGKILL anywhere goes on to the same decisions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SWEEP = 'design = "ladder"\ntotal_flops = 2e13\ngoal = { at = 1e14, params_within = 0.12 }'


def command() -> list[str]:
    return [
        sys.executable, "-m", "flops_fit", "run", "experiment.toml", "--simulate", "--adaptive",
    ]  # fmt: skip


def entries(folder: Path) -> list[dict]:
    ledger = folder / "runs/planted/ledger.jsonl"
    if not ledger.exists():
        return []
    return [json.loads(line) for line in ledger.read_text().splitlines(True) if line.endswith("\n")]


def decisions(folder: Path) -> list[dict]:
    """Every decision with its reasons and figures, without its time and the checksum over it."""
    made = [dict(entry) for entry in entries(folder) if entry["event"] == "decision_made"]
    for entry in made:
        del entry["at"], entry["check"]
    return made


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, write_stated) -> list[dict]:
    folder = tmp_path_factory.mktemp("whole")
    write_stated(folder, sweep=SWEEP)
    ended = subprocess.run(command(), cwd=folder, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    made = decisions(folder)
    assert [made[0]["action"], made[-1]["action"]] == ["pilot", "stop"]
    assert len(made) >= 5
    return made


def kill_at(folder: Path, lines: int) -> bool:
    """Start the sweep and kill it as soon as the ledger has so many lines; False if it ended."""
    child = subprocess.Popen(
        command(), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(entries(folder)) < lines:
        if child.poll() is not None:
            return False
        assert time.monotonic() < deadline
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return True


def test_killed_at_many_points_it_goes_on_to_the_same_decisions(
    tmp_path, write_stated, uninterrupted
):
    write_stated(tmp_path, sweep=SWEEP)
    total = sum(1 + 2 * len(d["trials"]) for d in uninterrupted)
    # At the first decision, within a batch, between batches, near the end.
    points = [2, 5, 9, total // 3, total // 2, 2 * total // 3, total - 6]
    assert sum(kill_at(tmp_path, lines) for lines in points) >= 5
    ended = subprocess.run(command(), cwd=tmp_path, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert decisions(tmp_path) == uninterrupted
    finished = [e["trial_id"] for e in entries(tmp_path) if e["event"] == "trial_finished"]
    assert len(finished) == len(set(finished))


def test_killed_between_a_decision_and_its_plan_it_loses_nothing(
    tmp_path, write_stated, uninterrupted
):
    write_stated(tmp_path, sweep=SWEEP)
    assert kill_at(tmp_path, 20)
    ledger = tmp_path / "runs/planted/ledger.jsonl"
    lines = ledger.read_text().splitlines(True)
    places = [k for k, line in enumerate(lines) if '"decision_made"' in line]
    ledger.write_text("".join(lines[: places[1] + 1]))  # the decision is there, its trials are not
    plan = tmp_path / "runs/planted/plan.json"
    known = json.loads(plan.read_text())
    first = {trial["trial_id"] for trial in json.loads(lines[places[0]])["trials"]}
    known["trials"] = [trial for trial in known["trials"] if trial["trial_id"] in first]
    plan.write_text(json.dumps(known))
    ended = subprocess.run(command(), cwd=tmp_path, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert decisions(tmp_path) == uninterrupted
