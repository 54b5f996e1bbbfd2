"""Real training killed by SIGKILL, again and again, ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MANIFEST = """
name = "killed"
seed = 3
[model]
plugin = "gpt"
size_param = "d_model"
sizes = [8, 12, 16, 24, 32]
[data]
plugin = "stdlib-text"
kwargs = { context = 32, heldout_windows = 64 }
[loss]
plugin = "cross-entropy"
[sweep]
budgets = [6e8, 1.2e9]
sizes_per_budget = 3
tokens_per_param = 10
[execution]
workers = 2
[report]
bootstrap = 0
"""


def command(manifest: Path) -> list[str]:
    return [sys.executable, "-m", "flops_fit", "run", str(manifest)]


def entries(folder: Path) -> list[dict]:
    ledger = folder / "runs/killed/ledger.jsonl"
    if not ledger.exists():
        return []
    return [json.loads(line) for line in ledger.read_text().splitlines(True) if line.endswith("\n")]


def losses(folder: Path) -> dict[str, float]:
    return {e["trial_id"]: e["loss"] for e in entries(folder) if e["event"] == "trial_finished"}


def kill_when(folder: Path, manifest: Path, has_come: object) -> None:
    """Start the sweep and kill its conductor, with no warning, as soon as `has_come` is true."""
    child = subprocess.Popen(
        command(manifest), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not has_come(entries(folder)):
        assert child.poll() is None, "the sweep ended before the moment to kill it"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def count(event: str, at_least: int):
    return lambda seen: sum(e["event"] == event for e in seen) >= at_least


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "m.toml").write_text(MANIFEST)
    subprocess.run(command(folder / "m.toml"), cwd=folder, check=False, capture_output=True)
    assert len(losses(folder)) == 6
    return losses(folder)


def test_a_sweep_killed_three_times_ends_with_the_same_losses(tmp_path, uninterrupted):
    manifest = tmp_path / "m.toml"
    manifest.write_text(MANIFEST)
    kill_when(tmp_path, manifest, count("trial_started", 1))
    kill_when(tmp_path, manifest, count("trial_finished", 1))
    kill_when(tmp_path, manifest, count("trial_finished", 3))
    ended = subprocess.run(
        command(manifest), cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert "Traceback" not in ended.stderr
    assert losses(tmp_path) == uninterrupted
    finished: set[str] = set()
    for entry in entries(tmp_path):
        if entry["event"] == "trial_started":
            assert entry["trial_id"] not in finished, "a finished trial was started again"
        if entry["event"] == "trial_finished":
            assert entry["trial_id"] not in finished, "a finished trial was recorded twice"
            finished.add(entry["trial_id"])


def test_a_torn_last_line_is_cut_and_the_sweep_goes_on(tmp_path, uninterrupted):
    manifest = tmp_path / "m.toml"
    manifest.write_text(MANIFEST)
    kill_when(tmp_path, manifest, count("trial_finished", 2))
    ledger = tmp_path / "runs/killed/ledger.jsonl"
    torn = b'{"event": "trial_fin'
    with ledger.open("ab") as file:
        file.write(torn)
    subprocess.run(command(manifest), cwd=tmp_path, check=False, capture_output=True)
    assert losses(tmp_path) == uninterrupted
    (resumed,) = [e for e in entries(tmp_path) if e["event"] == "sweep_resumed"]
    assert resumed["cut_bytes"] == len(torn)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path, uninterrupted):
    manifest = tmp_path / "m.toml"
    manifest.write_text(MANIFEST)
    child = subprocess.Popen(
        command(manifest), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not count("trial_finished", 1)(entries(tmp_path)):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in said
    assert "continue with: flops-fit run runs/killed" in said
    assert entries(tmp_path)[-1]["event"] == "sweep_interrupted"
    resumed = [sys.executable, "-m", "flops_fit", "run", "runs/killed"]
    subprocess.run(resumed, cwd=tmp_path, check=False, capture_output=True)
    assert losses(tmp_path) == uninterrupted


def test_two_sweeps_cannot_share_a_run_directory(tmp_path):
    manifest = tmp_path / "m.toml"
    manifest.write_text(MANIFEST)
    first = subprocess.Popen(
        command(manifest), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not count("trial_started", 1)(entries(tmp_path)):
            assert first.poll() is None
            time.sleep(0.01)
        second = subprocess.run(
            command(manifest), cwd=tmp_path, check=False, capture_output=True, text=True
        )
        assert second.returncode == 4
        assert "is in use" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        first.kill()
        first.wait()
