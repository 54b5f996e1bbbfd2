"""Conductor and workers killed at seeded random moments: the sweep ends as if nothing had happened.

Two hundred kills take about half an hour: `pytest -n 0 -m slow tests/crash/test_random_kills.py`.
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tiny_sweeps import COMMAND, curves, entries, losses, run, write_sweep

SWEEP = 'design = "fixed-tokens"\ntokens = [400, 800, 1600]\nreplicates = 2'
TRAINING = 'schedule = "wsd"\ncurve_points = 3\nretries = 1'
CHECKPOINT_MINUTES = 0.002
STEP = 0.004


def prepare(folder: Path) -> Path:
    return write_sweep(
        folder, sweep=SWEEP, training=TRAINING, seconds=STEP, checkpoint_minutes=CHECKPOINT_MINUTES
    )


def workers_of(pid: int) -> list[int]:
    """The processes that a conductor has started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").glob("*/children"))
        return [int(each) for task in tasks for each in task.read_text().split()]
    except OSError:
        return []


def kill_once(folder: Path, run_dir: Path, draw: random.Random) -> bool:
    """Start the sweep, kill someone at a random moment; whether there was something to kill."""
    child = subprocess.Popen(
        COMMAND, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    began, before = time.monotonic(), len(entries(run_dir))
    while child.poll() is None and len(entries(run_dir)) <= before:
        time.sleep(0.02)
        assert time.monotonic() - began < 120
    until = time.monotonic() + draw.uniform(0.0, 10.0)
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    workers = workers_of(child.pid)
    victim = draw.choice(["conductor", "workers", "both", "one worker"])
    if child.poll() is not None:
        assert "Traceback" not in child.stderr.read()
        child.stderr.close()
        return False
    chosen = {
        "conductor": [child.pid], "workers": workers, "both": [child.pid, *workers],
        "one worker": workers[:1],
    }[victim]  # fmt: skip
    for pid in chosen or [child.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if victim in ("workers", "one worker") and draw.random() < 0.5:
        time.sleep(draw.uniform(0.0, 2.0))  # The conductor goes on for a while.
    if child.poll() is None:
        child.kill()
    child.wait()
    child.stderr.close()
    return True


def check_equal(run_dir: Path, whole: Path, kills: int) -> None:
    assert losses(run_dir) == losses(whole)
    assert curves(run_dir) == curves(whole)
    finished: set[str] = set()
    for entry in entries(run_dir):
        if entry["event"] == "trial_started":
            assert entry["trial_id"] not in finished, "a finished trial was started again"
        if entry["event"] == "trial_finished":
            finished.add(entry["trial_id"])


def kill_often(folder: Path, kills: int, seed: int) -> None:
    print(f"seed {seed}, {kills} kills")
    draw, done, number = random.Random(seed), 0, 0
    whole = prepare(folder / "whole")
    ended = run(folder / "whole")
    assert ended.returncode in (0, 6), ended.stderr
    assert len(losses(whole)) == 18
    while done < kills:
        number += 1
        run_dir = prepare(folder / str(number))
        is_over = False
        while not is_over and done < kills:
            is_over = not kill_once(folder / str(number), run_dir, draw)
            done += not is_over
            print(f"{done} kills: {len(losses(run_dir))} trials have finished", flush=True)
        ended = run(folder / str(number))
        assert "Traceback" not in ended.stderr
        check_equal(run_dir, whole, kills)
        print(f"sweep {number}: equal to the uninterrupted one; {done} kills so far", flush=True)


def test_a_few_random_kills_lose_nothing(tmp_path):
    kill_often(tmp_path, kills=2, seed=20)


@pytest.mark.slow
def test_two_hundred_random_kills_lose_nothing(tmp_path):
    kill_often(tmp_path, kills=int(os.environ.get("FLOPS_FIT_KILLS", "200")), seed=2026)
