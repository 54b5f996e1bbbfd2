"""The contract of executors as tests: subclass `ExecutorContract` in a test module of pytest.

    from flops_fit import testing

    class TestMine(testing.ExecutorContract):
        def make(self, run_dir):
            return MyExecutor(run_dir, workers=2)

Each test lays down a run directory of tiny real trials, submits some of them, and looks at futures
and outcome files: order, results, a trial that raises, a worker that dies, resources, shutdown, and
what happens after the conductor's death.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from flops_fit.manifest.trials import Outcome, Status, Trial
from flops_fit.sweep.executors.contract import Executor, Resources, has_queue
from flops_fit.sweep.opening import open_sweep
from flops_fit.sweep.provenance import read_plan
from flops_fit.sweep.rundir import RunDir, read_outcome

SOUND, RAISES, DIES_ONCE, WAITS = 1, 2, 3, 4
"""Sizes of the trials of a study, by what they do; any larger one is sound too."""

_PLUGINS = f'''
"""Trials that end well, raise, kill their process once, or wait for a file."""

import os
import signal
import time
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

HERE = Path(__file__).parent


class Model(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width, self.is_new = width, True
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 1))

    def forward(self, inputs):
        if self.training and (HERE / "armed").exists():
            if self.is_new:
                with (HERE / ("trained-" + str(os.getpid()))).open("a") as record:
                    print(self.width, file=record)
            self.is_new = False
            act(self.width)
        return self.layers(inputs)


def act(width):
    if (HERE / "slow").exists():
        time.sleep(0.02)
    if width == {RAISES}:
        raise RuntimeError("this trial raises")
    if width == {DIES_ONCE} and not (HERE / "died").exists():
        (HERE / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    end = time.monotonic() + 1.0  # A step ends, so that the trial can be stopped.
    while width == {WAITS} and not (HERE / "go").exists() and time.monotonic() < end:
        (HERE / "alive").write_text(str(time.time()))
        time.sleep(0.05)


def data():
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 4, generator=drawn)
    targets = inputs.sum(1, keepdim=True) + 3.0
    return TensorDataset(inputs[:300], targets[:300]), TensorDataset(inputs[300:], targets[300:])


def mse(outputs, targets):
    return torch.nn.functional.mse_loss(outputs, targets)
'''
_MANIFEST = """
name = "contract"
[model]
plugin = "contract_plugins:Model"
size_param = "width"
sizes = [{sizes}]
[data]
plugin = "contract_plugins:data"
unit = "example"
units_per_example = 1
[loss]
plugin = "contract_plugins:mse"
[sweep]
design = "fixed-tokens"
tokens = [1000]
[training]
batch_tokens = 10
[execution]
device = "cpu"
lease_seconds = 5.0
{execution}
[report]
bootstrap = 0
"""


@dataclass(frozen=True)
class Study:
    """A run directory of tiny trials, one of each size."""

    folder: Path
    run: RunDir
    trials: tuple[Trial, ...]

    def task(self, *sizes: int) -> tuple[str, ...]:
        """Return the ids of the trials of these sizes, in this order."""
        by_size = {trial.size.size_value: trial.trial_id for trial in self.trials}
        return tuple(by_size[size] for size in sizes)

    def outcome(self, size: int) -> Outcome | None:
        """Return what the trial of a size left."""
        (trial,) = [trial for trial in self.trials if trial.size.size_value == size]
        return read_outcome(self.run, trial)

    def release(self) -> None:
        """Let the waiting trial go on."""
        (self.folder / "go").touch()

    def is_alive(self) -> bool:
        """Return whether the waiting trial runs now."""
        sign = self.folder / "alive"
        before = sign.read_text() if sign.exists() else ""
        time.sleep(0.5)
        return sign.exists() and sign.read_text() != before


def lay_down(folder: Path, *sizes: int, execution: str = "") -> Study:
    """Make the run directory of a study of these sizes; `execution`: more lines of [execution]."""
    stated = ", ".join(
        f"{{ size_value = {s}, params = {6 * s + 1}, params_non_embedding = {6 * s + 1}, "
        f"flops_per_token = {36 * s + 6} }}"
        for s in sizes
    )
    (folder / "contract_plugins.py").write_text(_PLUGINS, encoding="utf-8")
    manifest = folder / "contract.toml"
    manifest.write_text(_MANIFEST.format(sizes=stated, execution=execution), encoding="utf-8")
    with open_sweep(manifest, folder / "run") as sweep:
        run = sweep.run
    (folder / "armed").touch()
    return Study(folder, run, read_plan(run).trials)


class ExecutorContract(ABC):
    """The tests that every executor must pass; a subclass defines `make`.

    Attributes:
        seconds: within which a task of tiny trials ends, its wait in a queue included.
        ends_workers: whether `shutdown` ends the workers; a pool's belong to somebody else.
    """

    seconds = 120.0
    ends_workers = True

    @abstractmethod
    def make(self, run_dir: Path) -> Executor:
        """Return an executor of the run directory, for two tasks at a time."""

    def test_each_trial_of_a_task_ends_in_order_with_an_outcome(self, tmp_path: Path) -> None:
        """Results come back by outcome files; trials of one task run one after another."""
        study = lay_down(tmp_path, SOUND, 5, 6)
        needs = Resources(num_devices=1, wall_seconds=60.0, memory_bytes=2**28)
        with self._open(study) as executor:
            futures = [
                executor.submit(study.task(SOUND), needs),
                executor.submit(study.task(6, 5), needs),
            ]
            for future in futures:
                assert self._end_of(future) is None
        losses = [study.outcome(size) for size in (SOUND, 5, 6)]
        assert all(each is not None and each.status is Status.FINISHED for each in losses)
        if self.ends_workers:
            first, second = (study.run.outcome(each).stat().st_mtime for each in study.task(6, 5))
            assert first <= second

    def test_a_trial_that_raises_is_a_failed_outcome_and_the_next_one_is_trained(
        self, tmp_path: Path
    ) -> None:
        """An error of the user's code is an outcome, and no error of the executor."""
        study = lay_down(tmp_path, SOUND, RAISES)
        with self._open(study) as executor:
            futures = [executor.submit(study.task(size), Resources()) for size in (RAISES, SOUND)]
            for future in futures:
                assert self._end_of(future) is None
        failed, finished = study.outcome(RAISES), study.outcome(SOUND)
        assert failed is not None
        assert failed.status is Status.FAILED
        assert "this trial raises" in (failed.error or "")
        assert finished is not None
        assert finished.status is Status.FINISHED

    def test_a_worker_that_dies_is_seen_and_its_task_can_be_given_again(
        self, tmp_path: Path
    ) -> None:
        """The future raises, unless another worker took the trial over."""
        study = lay_down(tmp_path, SOUND, DIES_ONCE)
        task = study.task(DIES_ONCE)
        with self._open(study) as executor:
            error = self._end_of(executor.submit(task, Resources()))
            if error is not None:
                assert study.outcome(DIES_ONCE) is None
                assert self._end_of(executor.submit(task, Resources())) is None
        outcome = study.outcome(DIES_ONCE)
        assert (tmp_path / "died").exists()
        assert outcome is not None
        assert outcome.status is Status.FINISHED

    def test_shutdown_ends_what_runs_and_a_new_executor_goes_on(self, tmp_path: Path) -> None:
        """No worker outlives a shutdown; what it had not finished can be submitted again."""
        study = lay_down(tmp_path, WAITS)
        with self._open(study) as executor:
            executor.submit(study.task(WAITS), Resources())
            self._wait_until(study.is_alive)
        if self.ends_workers:
            self._wait_until(lambda: not study.is_alive())
        assert study.outcome(WAITS) is None
        study.release()
        with self._open(study) as executor:
            assert self._end_of(executor.submit(study.task(WAITS), Resources())) is None
        assert study.outcome(WAITS) is not None

    def test_a_new_conductor_takes_up_the_jobs_of_one_that_died(self, tmp_path: Path) -> None:
        """A job in a queue is found again by its id, and not submitted twice."""
        study = lay_down(tmp_path, WAITS)
        first = self.make(study.run.path)
        if not has_queue(first):
            first.shutdown()
            return
        first.submit(study.task(WAITS), Resources())
        jobs = first.flush()
        self._wait_until(study.is_alive)
        first.detach()
        assert study.is_alive()
        second = self.make(study.run.path)
        assert has_queue(second)
        with contextlib.closing(_Closing(second)):
            futures = [second.attach(job) for job in jobs]
            if not jobs:  # of a pool, whose workers know the plan
                futures = [second.submit(study.task(WAITS), Resources())]
            study.release()
            for future in futures:
                assert self._end_of(future) is None
            assert not second.unrecorded(frozenset(job.job_id for job in jobs))
        assert study.outcome(WAITS) is not None

    @contextlib.contextmanager
    def _open(self, study: Study) -> Iterator[Executor]:
        executor = self.make(study.run.path)
        try:
            yield executor
        finally:
            executor.shutdown()

    def _end_of(self, future: Future[None]) -> BaseException | None:
        """Return what a future raised in the end; None if it ended well."""
        return future.exception(timeout=self.seconds)

    def _wait_until(self, is_so: object) -> None:
        deadline = time.monotonic() + self.seconds
        assert callable(is_so)
        while not is_so():
            assert time.monotonic() < deadline, "the executor took too long"
            time.sleep(0.1)


class _Closing:
    """An executor as something to close."""

    def __init__(self, executor: Executor) -> None:
        self.close = executor.shutdown
