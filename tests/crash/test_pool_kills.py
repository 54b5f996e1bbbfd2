"""Workers of a pool that are killed at random lose no trial and finish none twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import flops_fit

from flops_fit.sweep.executors import testing

SIZES = tuple(range(5, 13))
FINISHED = "trial_finished"


def start(*words: object, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "flops_fit", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def entries(run: Path) -> list[dict]:
    ledger = run / "ledger.jsonl"
    return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []


def outcomes(study) -> dict[str, float]:
    found = {}
    for trial in study.trials:
        path = study.run.outcome(trial.trial_id)
        if path.exists():
            found[trial.trial_id] = json.loads(path.read_text())["loss"]
    return found


def kill_two_of_four(study, seed: int, *, with_conductor: bool) -> None:
    """Kill two of four workers at random moments, and check that the others finish everything."""
    drawn = random.Random(seed)
    conductor = start("run", study.run.path, "--executor", "pool") if with_conductor else None
    workers = [start("worker", study.run.path) for _ in range(4)]
    deadline = time.monotonic() + 120
    while not any(study.run.progress(t.trial_id).exists() for t in study.trials):
        assert time.monotonic() < deadline, "no worker began"
        time.sleep(0.02)
    for victim in drawn.sample(workers, 2):
        time.sleep(drawn.uniform(0.0, 1.5))
        victim.send_signal(signal.SIGKILL)
    said = [worker.communicate(timeout=240)[1] for worker in workers]
    assert sorted(worker.returncode for worker in workers)[2:] == [0, 0], said
    assert len(outcomes(study)) == len(study.trials)
    if conductor is not None:
        assert "Traceback" not in conductor.communicate(timeout=120)[1]
    else:
        flops_fit("run", study.run.path, "--executor", "pool", cwd=study.folder)
    recorded = [e for e in entries(study.run.path) if e["event"] == FINISHED]
    assert sorted(e["trial_id"] for e in recorded) == sorted(t.trial_id for t in study.trials)
    assert {e["trial_id"]: e["loss"] for e in recorded} == outcomes(study)


@pytest.fixture
def study(tmp_path):
    made = testing.lay_down(tmp_path, *SIZES, execution="checkpoint_minutes = 0.005")
    (tmp_path / "slow").touch()
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The losses of the same trials, trained by one worker that nobody killed."""
    made = testing.lay_down(tmp_path_factory.mktemp("whole"), *SIZES)
    flops_fit("worker", made.run.path, cwd=made.folder)
    return outcomes(made)


@pytest.mark.parametrize(
    ("seed", "with_conductor"), [pytest.param(0, False, marks=pytest.mark.slow), (1, True)]
)
def test_two_of_four_workers_are_killed_and_the_others_finish_each_trial_once(
    study, whole, seed, with_conductor
):
    kill_two_of_four(study, seed, with_conductor=with_conductor)
    assert outcomes(study) == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("with_conductor", [False, True])
def test_twenty_times_two_of_four_workers_are_killed(study, whole, seed, with_conductor):
    kill_two_of_four(study, 100 + seed, with_conductor=with_conductor)
    assert outcomes(study) == whole


def test_run_beside_two_live_workers_trains_nothing_twice(study):
    workers = [start("worker", study.run.path) for _ in range(2)]
    flops_fit("run", study.run.path, cwd=study.folder)
    for worker in workers:
        assert "Traceback" not in worker.communicate(timeout=120)[1]
        assert worker.returncode == 0
    recorded = [e["trial_id"] for e in entries(study.run.path) if e["event"] == FINISHED]
    assert sorted(recorded) == sorted(trial.trial_id for trial in study.trials)
    started = "".join(p.read_text() for p in study.folder.glob("trained-*"))
    assert sorted(started.split()) == sorted(str(size) for size in SIZES)


def test_a_worker_that_is_stopped_says_so_by_its_exit_code(study):
    worker = start("worker", study.run.path)
    while not any(study.run.progress(t.trial_id).exists() for t in study.trials):
        time.sleep(0.05)
    worker.send_signal(signal.SIGTERM)
    assert "Traceback" not in worker.communicate(timeout=60)[1]
    assert worker.returncode == 130
    assert len(outcomes(study)) < len(SIZES)
