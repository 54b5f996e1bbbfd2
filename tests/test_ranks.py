"""Several processes that share one trial's batches give the trial that one process gives."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flops_fit.ranks import killed_rank

MANIFEST = """
name = "shared"
[model]
plugin = "{model}"
size_param = "d_model"
sizes = [8, 12, 16]
[data]
plugin = "stdlib-text"
kwargs = {{ context = 32, heldout_windows = 64 }}
[loss]
plugin = "cross-entropy"
[sweep]
budgets = [3e8]
sizes_per_budget = 3
tokens_per_param = 5
[training]
batch_rule = "fixed"
batch_tokens = 64
[execution]
devices_per_trial = {devices}
device = "cpu"
workers = 1
[report]
bootstrap = 0
"""

FRAGILE = """
import os
from flops_fit.zoo.gpt import GPT

class Fragile(GPT):
    def forward(self, inputs):
        if os.environ.get("RANK") == "1":
            raise RuntimeError("the second rank has no memory left")
        return super().forward(inputs)
"""


def run(folder: Path, model: str = "gpt", devices: int = 1) -> tuple[int, str, list[dict]]:
    folder.mkdir(exist_ok=True)
    (folder / "m.toml").write_text(MANIFEST.format(model=model, devices=devices))
    ended = subprocess.run(
        [sys.executable, "-m", "flops_fit", "run", "m.toml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    ledger = (folder / "runs/shared/ledger.jsonl").read_text()
    return ended.returncode, ended.stderr, [json.loads(line) for line in ledger.splitlines()]


def finished(entries: list[dict]) -> dict[str, dict]:
    return {e["trial_id"]: e for e in entries if e["event"] == "trial_finished"}


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    alone = finished(run(tmp_path / "one")[2])
    shared = finished(run(tmp_path / "two", devices=2)[2])
    assert set(alone) == set(shared)
    assert len(alone) == 3
    for trial_id, entry in alone.items():
        assert shared[trial_id]["processes"] == 2
        assert shared[trial_id]["tokens"] == entry["tokens"]
        assert shared[trial_id]["loss"] == pytest.approx(entry["loss"], abs=1e-5)


def test_a_rank_that_was_killed_is_the_root_cause_though_it_could_say_nothing():
    report = """
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  host      : here
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 4242)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 4242
"""
    assert killed_rank(report) == "rank 1 was killed by SIGKILL (out of memory?)"
    assert killed_rank(report.replace("-9", "-15")) is None
    assert killed_rank(report.replace("-9", "1")) is None


@pytest.mark.slow
def test_a_rank_that_dies_is_named_once_as_the_root_cause(tmp_path):
    (tmp_path / "fragile.py").write_text(FRAGILE)
    code, said, entries = run(tmp_path, model="fragile:Fragile", devices=2)
    assert code == 5
    failed = [e for e in entries if e["event"] == "trial_failed"]
    assert len(failed) == 3
    for entry in failed:
        assert entry["error"] == "rank 1: RuntimeError: the second rank has no memory left"
    assert said.count("the second rank has no memory left") == 4  # one a trial, one in the error
    assert "Traceback" not in said
