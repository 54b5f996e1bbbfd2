"""How far a sweep is, seen from beside it."""

import json
import os
import subprocess
import sys
import time

import pytest
from command_line import flops_fit

from flops_fit.manifest.files import write_json
from flops_fit.sweep.entries import SweepStarted, TrialFailed, TrialFinished, TrialStarted
from flops_fit.sweep.ledger import Ledger
from flops_fit.sweep.opening import open_sweep
from flops_fit.sweep.status import read_status


@pytest.fixture
def half_way(tmp_path, write_manifest):
    """A sweep with one trial of each kind: finished, failed, running; the conductor is alive."""
    with open_sweep(write_manifest(), tmp_path / "runs/planted", simulated=True) as sweep:
        done, failed, running, *_ = sweep.plan.trials
        ledger = Ledger.open(sweep.run.ledger)
        ledger.append(SweepStarted(fingerprint="x", trials=35))
        for trial in (done, failed, running):
            ledger.append(TrialStarted(trial_id=trial.trial_id))
        ledger.append(
            TrialFinished(
                trial_id=done.trial_id, loss=3.0, params=done.size.params, tokens=done.tokens,
                flops=done.flops, wall_seconds=100.0,
            )
        )  # fmt: skip
        ledger.append(TrialFailed(trial_id=failed.trial_id, error="\x1b[2Jout of memory"))
        report = sweep.run.progress(running.trial_id)
        report.parent.mkdir(parents=True)
        said = {"trial_id": running.trial_id, "step": 10, "steps": running.steps, "loss": 4.5}
        write_json(report, said)
        later = time.time() + 2
        os.utime(report, (later, later))
        yield sweep, running
        ledger.close()


def test_a_status_counts_trials_and_flops_beside_the_conductor(half_way, tmp_path):
    sweep, running = half_way
    before = sweep.run.ledger.read_bytes()
    ended = flops_fit("status", "runs/planted", "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    counts = (told["finished"], told["num_running"], told["queued"], told["failed"])
    assert counts == (1, 1, 32, 1)
    assert told["phase"] == "running"
    trial = told["running_trials"][0]
    assert (trial["trial_id"], trial["step"], trial["loss"]) == (running.trial_id, 10, 4.5)
    done = sweep.plan.trials[0].flops
    partial = 10 * running.batch_tokens * running.size.flops_per_token
    assert told["spent_flops"] == pytest.approx(done + partial)
    assert told["planned_flops"] == pytest.approx(sweep.plan.total_flops)
    assert told["seconds_left"] > 100
    assert sweep.run.ledger.read_bytes() == before


def test_a_status_fits_80_columns_and_prints_no_escape_codes(half_way, tmp_path):
    ended = flops_fit("status", "runs/planted", cwd=tmp_path)
    assert "\x1b" not in ended.stdout
    assert "out of memory" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert "1 done, 1 running, 32 queued, 1 failed" in ended.stdout


def test_a_dead_conductor_is_seen_by_its_silence(half_way):
    sweep, running = half_way
    long_ago = time.time() - 3600
    for path in (sweep.run.progress(running.trial_id), sweep.run.ledger, sweep.run.manifest):
        os.utime(path, (long_ago, long_ago))
    status = read_status(sweep.run.path)
    assert status.seconds_silent > 3000


def test_a_status_loads_no_torch(half_way, tmp_path):
    code = (
        "import sys\nfrom flops_fit.cli.main import app\n"
        "app(['status', 'runs/planted'], standalone_mode=False)\n"
        "print('torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert ended.stdout.splitlines()[-1] == "False"


def test_watching_ends_with_the_sweep(tmp_path, write_manifest):
    assert flops_fit("run", write_manifest(), "--simulate", cwd=tmp_path).returncode == 0
    ended = flops_fit("status", "runs/planted", "--watch", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "35 done" in ended.stdout


def test_a_log_is_printed_without_escape_codes_and_by_the_first_digits(half_way, tmp_path):
    sweep, running = half_way
    sweep.run.log(running.trial_id).write_text("step 1\n\x1b[2Jboom\n")
    ended = flops_fit("logs", "runs/planted", running.trial_id[:7], cwd=tmp_path)
    assert ended.stdout == "step 1\n\\x1b[2Jboom\n"
    other = sweep.plan.trials[-1].trial_id
    none = flops_fit("logs", "runs/planted", other, cwd=tmp_path)
    assert none.returncode == 4
    assert "has no log" in none.stderr
    assert flops_fit("status", "nowhere", cwd=tmp_path).returncode == 4
