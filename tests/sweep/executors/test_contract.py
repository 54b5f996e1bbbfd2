"""Every executor of ours keeps the contract that third parties can test theirs by."""

import os
import signal
import subprocess
import sys

import pytest

from flops_fit import testing
from flops_fit.sweep.executors.local import LocalExecutor
from flops_fit.sweep.executors.pool import PoolExecutor
from flops_fit.sweep.executors.slurm import SlurmExecutor


class TestLocal(testing.ExecutorContract):
    def make(self, run_dir):
        return LocalExecutor(run_dir, workers=2)


class TestSlurm(testing.ExecutorContract):
    @pytest.fixture(autouse=True)
    def _with_slurm(self, cluster):
        self.cluster = cluster

    def make(self, run_dir):
        return SlurmExecutor(run_dir, workers=2, options={"poll_seconds": 0.5, "time": 10})


class TestPool(testing.ExecutorContract):
    ends_workers = False

    @pytest.fixture(autouse=True)
    def _ending_workers(self):
        self.workers = []
        yield
        for worker in self.workers:
            worker.send_signal(signal.SIGKILL)
            worker.wait()

    def make(self, run_dir):
        alive = [worker for worker in self.workers if worker.poll() is None]
        for _ in range(2 - len(alive)):
            self.workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "flops_fit", "worker", str(run_dir)],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        return PoolExecutor(run_dir)
