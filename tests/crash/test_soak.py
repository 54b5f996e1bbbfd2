"""Five hundred real trials with kills of workers: nothing leaks.

It takes some ten minutes: `pytest -n 0 -m slow tests/crash/test_soak.py`.
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tiny_sweeps import COMMAND, entries, losses, write_sweep


def memory_of(pid: int) -> float:
    """Resident memory of a process in MB; 0 once it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def children_of(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").glob("*/children"))
        return [int(each) for task in tasks for each in task.read_text().split()]
    except OSError:
        return []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts files through /proc")
def test_five_hundred_trials_with_random_kills_leak_nothing(tmp_path):
    draw = random.Random(20)
    run_dir = write_sweep(
        tmp_path,
        sweep='design = "fixed-tokens"\ntokens = [400, 480, 560, 640, 720]\nreplicates = 34',
        sizes=(2, 3, 4), training="curve_points = 1", checkpoint_minutes=1.0,
    )  # fmt: skip
    child = subprocess.Popen(
        COMMAND, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    memory, files, next_kill = [], [], 40
    while child.poll() is None:
        time.sleep(0.25)
        seen = entries(run_dir)
        if seen and seen[-1]["event"] == "sweep_finished":
            continue  # What follows is the report, which loads the libraries of the fit.
        count = sum(e["event"] == "trial_finished" for e in seen)
        workers = children_of(child.pid)
        try:
            files.append((count, len(list(Path(f"/proc/{child.pid}/fd").iterdir()))))
        except OSError:
            break
        memory.append((count, memory_of(child.pid)))
        if count >= next_kill and workers:
            next_kill += 40
            os.kill(draw.choice(workers), signal.SIGKILL)
    said = child.stderr.read()
    child.stderr.close()
    assert "Traceback" not in said
    assert child.returncode in (0, 6), said
    done = losses(run_dir)
    early = [mb for count, mb in memory if 50 <= count < 150 and mb]
    late = [mb for count, mb in memory if count >= len(done) - 60 and mb]
    opened = [number for count, number in files if count >= 50]
    print(f"{len(done)} trials; {next_kill // 40 - 1} kills; MB {max(early):.1f} -> "
          f"{max(late):.1f}; files {min(opened)} to {max(opened)}; ledger "
          f"{(run_dir / 'ledger.jsonl').stat().st_size / len(done):.0f} bytes a trial; workers.log "
          f"{(run_dir / 'workers.log').stat().st_size} bytes")  # fmt: skip
    assert len(done) == 510
    assert max(late) < 1.1 * max(early)
    assert max(opened) - min(opened) <= 6
    assert (run_dir / "workers.log").stat().st_size < 100_000
    assert (run_dir / "ledger.jsonl").stat().st_size < 3000 * len(done)
