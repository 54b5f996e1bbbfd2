"""Several processes that share one trial's batches give the trial that one process gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flops_fit
from flops_fit.errors import ManifestError
from flops_fit.sweep import ranks
from flops_fit.sweep.ranks import killed_rank

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


def launched(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What two processes of a launcher did."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [sys.executable, *launcher, "-m", "flops_fit", *command],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


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


def test_what_conducts_a_sweep_is_refused_under_a_launcher_and_says_so_once(monkeypatch):
    ranks.refuse_launcher("a script")  # no launcher: no word
    waited = []
    monkeypatch.setattr(ranks.time, "sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ManifestError, match="as 2 processes by a launcher") as refused:
        flops_fit.find_optimal("no-such.toml")
    assert "devices_per_trial = 2" in refused.value.hint
    assert "-m flops_fit worker RUN_DIR" in refused.value.hint
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as left:  # later, so that the launcher lets the first speak
        flops_fit.find_optimal("no-such.toml")
    assert left.value.code == 2
    assert waited


@pytest.mark.parametrize("command", ["run", "transfer", "estimate", "check"])
def test_a_command_is_refused_under_a_launcher(command, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "flops_fit", command, "m.toml"],
        cwd=tmp_path, env={**os.environ, "RANK": "0", "WORLD_SIZE": "2"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert f"`flops-fit {command}` was started as 2 processes by a launcher" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_ranks_of_a_launcher_claim_together_what_is_pending(tmp_path):
    (tmp_path / "m.toml").write_text(MANIFEST.format(model="gpt", devices=1))
    laid = [sys.executable, "-m", "flops_fit", "run", "m.toml", "--max-flops", "1"]
    assert subprocess.run(laid, cwd=tmp_path, capture_output=True, check=False).returncode == 7
    shared = launched("worker", "runs/shared", folder=tmp_path)
    assert shared.returncode == 0, shared.stderr
    assert shared.stderr.count("trained 3 trials") == 1
    alone = finished(run(tmp_path / "one")[2])
    for trial_id, entry in alone.items():
        left = json.loads((tmp_path / "runs/shared/trials" / trial_id / "outcome.json").read_text())
        assert left["details"]["processes"] == 2
        assert left["loss"] == pytest.approx(entry["loss"], abs=1e-5)


@pytest.mark.slow
def test_torchrun_of_a_sweep_says_once_why_it_ends(tmp_path):
    (tmp_path / "m.toml").write_text(MANIFEST.format(model="gpt", devices=1))
    ended = launched("run", "m.toml", folder=tmp_path)
    assert ended.returncode != 0
    assert ended.stderr.count("by a launcher such as torchrun") == 1
    assert not (tmp_path / "runs").exists()
