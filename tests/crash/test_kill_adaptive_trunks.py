"""Real training: the runs that an adaptive sweep chooses share trunks, killed in between or not."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from trials_of_one_call import train

from flops_fit.experiment.loading import load_experiment
from flops_fit.manifest.manifest import read_manifest
from flops_fit.manifest.trials import Trial

MANIFEST = """
name = "shared"
seed = 3
[model]
plugin = "gpt"
size_param = "d_model"
sizes = [8, 12, 16, 20, 24, 28, 32]
[data]
plugin = "stdlib-text"
kwargs = { context = 16, heldout_windows = 64 }
[loss]
plugin = "cross-entropy"
[sweep]
design = "ladder"
levels = 3
top_flops = 2e9
tokens_per_param = 10
goal = { at = 1e10, params_within = 0.15 }
[training]
schedule = "wsd"
batch_tokens = 64
batch_reference_tokens = 2e4
curve_points = 0
[execution]
workers = 1
[report]
bootstrap = 0
"""


def command() -> list[str]:
    return [sys.executable, "-m", "flops_fit", "run", "m.toml", "--adaptive"]


def entries(folder: Path, *events: str) -> list[dict]:
    ledger = folder / "runs/shared/ledger.jsonl"
    if not ledger.exists():
        return []
    lines = [line for line in ledger.read_text().splitlines(True) if line.endswith("\n")]
    return [entry for line in lines if (entry := json.loads(line))["event"] in events]


def decisions(folder: Path) -> list[dict]:
    return [{**entry, "at": None, "check": None} for entry in entries(folder, "decision_made")]


def finished(folder: Path) -> dict[str, dict]:
    return {entry["trial_id"]: entry for entry in entries(folder, "trial_finished")}


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    (folder / "m.toml").write_text(MANIFEST)
    ended = subprocess.run(command(), cwd=folder, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_the_runs_of_later_decisions_go_on_from_trunks_and_pay_for_the_rest_alone(swept):
    made = [Trial.from_dict(data) for d in decisions(swept) for data in d["trials"]]
    ended = finished(swept)
    shared = [trial for trial in made if trial.trunk and trial.trunk.shared_tokens]
    assert len(shared) >= 4
    for trial in made:
        spent = ended[trial.trial_id].get("spent_flops", trial.flops)
        assert spent == pytest.approx(trial.cost_flops)
    last = decisions(swept)[-1]
    assert last["figures"]["flops"] == pytest.approx(sum(trial.cost_flops for trial in made))
    assert sum(t.cost_flops for t in made) < 0.9 * sum(t.flops for t in made)
    by_decision = [{data["trunk"]["trunk_id"] for data in d["trials"] if data.get("trunk")}
                   for d in decisions(swept)]  # fmt: skip
    assert any(a & b for k, a in enumerate(by_decision) for b in by_decision[:k])
    # The sweep has ended: what trunks left is gone.
    assert not (swept / "runs/shared/trunks").exists()


def test_a_run_that_went_on_from_a_trunk_has_the_bits_of_the_run_trained_alone(swept, request):
    experiment = load_experiment(read_manifest(swept / "m.toml"), search_path=[swept])
    ended = finished(swept)
    made = [Trial.from_dict(data) for d in decisions(swept) for data in d["trials"]]
    shared = [trial for trial in made if trial.trunk and trial.trunk.shared_tokens]
    request.addfinalizer(partial(torch.set_flush_denormal, False))  # Training sets it.
    for trial in sorted(shared, key=lambda trial: trial.flops)[-3:]:
        alone = train(
            trial, build=experiment.build, data=experiment.data, loss=experiment.loss,
            recipe=experiment.manifest.training, directory=swept / "alone" / trial.trial_id,
            device="cpu",
        )  # fmt: skip
        assert alone.loss == ended[trial.trial_id]["loss"]
        assert alone.details.spent_flops > ended[trial.trial_id]["spent_flops"]


def kill_when(folder: Path, has_come) -> None:
    child = subprocess.Popen(
        command(), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not has_come():
        assert child.poll() is None, "the sweep ended before the moment to kill it"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def test_killed_in_between_it_goes_on_to_the_same_decisions_losses_and_flops(tmp_path, swept):
    (tmp_path / "m.toml").write_text(MANIFEST)
    trunks = tmp_path / "runs/shared/trunks"
    # As soon as the first trunk's state lies there: that run has its cool-down still to do.
    kill_when(tmp_path, lambda: any(trunks.glob("*/checkpoint/step-*.pt")))
    states = {trial["trial_id"] for d in decisions(swept) for trial in d["trials"]
              if (trial.get("trunk") or {}).get("shared_tokens")}  # fmt: skip
    # Within the training of a run that went on from a trunk.
    kill_when(tmp_path, lambda: any(
        e["trial_id"] in states for e in entries(tmp_path, "trial_started")
    ))  # fmt: skip
    ended = subprocess.run(command(), cwd=tmp_path, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert decisions(tmp_path) == decisions(swept)
    for trial_id, entry in finished(tmp_path).items():
        whole = finished(swept)[trial_id]
        for key in ("loss", "tokens", "flops", "spent_flops"):
            assert entry.get(key) == whole.get(key)
