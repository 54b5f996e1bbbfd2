"""10,000 simulated trials through the conductor with 100 workers: time a trial, memory, the ledger.

    python tests/benchmarks/sweep_ten_thousand.py [NUM_TRIALS] [NUM_WORKERS]

Workers are threads that leave outcome files, as processes would. The conductor's time is the CPU
time of its own thread. Goals: under 5 ms a trial, under 500 MB.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flops_fit.manifest.trials import Outcome, Size, Status, Trial
from flops_fit.planning.plan import Plan
from flops_fit.sweep.conductor import conduct
from flops_fit.sweep.ledger import Ledger, read_ledger, replay
from flops_fit.sweep.rundir import RunDir, write_outcome


class Threads:
    """An executor of threads that leave outcomes."""

    def __init__(self, run: RunDir, plan: Plan, workers: int) -> None:
        self.run, self.trials = run, {trial.trial_id: trial for trial in plan.trials}
        self.pool = ThreadPoolExecutor(workers)

    def submit(self, task, resources):
        return self.pool.submit(self.work, task[0])

    def work(self, trial_id):
        trial = self.trials[trial_id]
        done = Outcome(trial_id, Status.FINISHED, 2.0, trial.tokens, trial.flops, 0.1)
        write_outcome(self.run, done)

    def shutdown(self):
        self.pool.shutdown()


def measure(num_trials: int, num_workers: int) -> dict[str, float]:
    """Conduct the trials; return seconds, milliseconds a trial, megabytes and trials recorded."""
    size = Size(8, 8000, None, 48_000.0)
    plan = Plan(
        tuple(
            Trial.of(budget_flops=1e9, size=size, tokens=6400, batch_tokens=64, seed=seed)
            for seed in range(num_trials)
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        ledger = Ledger.open(run.ledger)
        began, own = time.monotonic(), time.thread_time()
        summary = conduct(
            plan, run, ledger, lambda: Threads(run, plan, num_workers), max_running=num_workers
        )
        seconds, own = time.monotonic() - began, time.thread_time() - own
        ledger.close()
        entries = read_ledger(run.ledger)
    finished = [e.trial_id for e in entries if e.event == "trial_finished"]
    assert summary.finished == len(set(finished)) == len(finished) == num_trials
    assert len(replay(entries).finished) == num_trials
    return {
        "seconds": seconds,
        "conductor_ms_per_trial": 1e3 * own / num_trials,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "recorded": len(finished),
    }


if __name__ == "__main__":
    asked = [int(each) for each in sys.argv[1:]]
    for name, figure in measure(*(asked + [10_000, 100][len(asked) :])).items():
        print(f"{name:<24}{figure:10.3g}")
