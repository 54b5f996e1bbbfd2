"""The contract of an executor: submit a task, get a future.

An executor whose tasks wait in a scheduler's queue outlives the conductor. It also says which jobs
it has submitted, so that the ledger can hold their ids, and takes a known job up again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeGuard

from flops_fit.errors import FlopsFitError


@dataclass(frozen=True)
class Resources:
    """The resources that a task needs from an executor.

    Attributes:
        num_devices: GPUs, or processes on a CPU.
        wall_seconds: forecast time; None: not known.
        memory_bytes: forecast memory of one process; None: not known.
    """

    num_devices: int = 1
    wall_seconds: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Job:
    """A task in a scheduler's queue, under the scheduler's own id."""

    job_id: str
    task: tuple[str, ...]


class JobLostError(FlopsFitError):
    """A job is gone, and some of its trials have no outcome."""

    exit_code = 5

    def __init__(self, job_id: str, reason: str) -> None:
        """Keep the scheduler's id of the job, and what the scheduler says of it."""
        super().__init__(f"job {job_id} is lost: {reason}")
        self.job_id = job_id
        self.reason = reason


class Executor(Protocol):
    """A small `concurrent.futures.Executor`: it knows neither trials nor torch.

    An executor class may have a static method `require_here()`. It raises a `FlopsFitError` if this
    machine cannot use the executor. `plan` and `run` call it before anything is written.
    """

    def submit(self, task: tuple[str, ...], resources: Resources) -> Future[None]:
        """Start the trials with these ids somewhere; the future ends when they have ended.

        A future that raises says that the worker died; what the trials left is in their outcome
        files, whichever way the future ends.
        """
        ...

    def shutdown(self) -> None:
        """End every worker at once; what they had not finished is taken up on resume."""
        ...


class QueueExecutor(Executor, Protocol):
    """An executor whose jobs outlive the conductor.

    A future raises `JobLostError` where its job is gone without all its outcomes.

    Attributes:
        task_seconds: forecast seconds below which several trials are put into one task; 0: never.
    """

    task_seconds: ClassVar[float]

    def flush(self) -> Sequence[Job]:
        """Submit what still waits here; return the jobs that were submitted since the last call."""
        ...

    def attach(self, job: Job) -> Future[None]:
        """Return the future of a job that an earlier conductor submitted."""
        ...

    def unrecorded(self, known: Collection[str]) -> Sequence[Job]:
        """Return jobs of this run directory beside the known ids.

        A conductor that was killed right after it submitted them did not record them.
        """
        ...

    def detach(self) -> None:
        """Leave every job in its queue and end this executor."""
        ...


def has_queue(executor: object) -> TypeGuard[QueueExecutor]:
    """Return whether the jobs of an executor, or of an executor class, outlive the conductor."""
    return hasattr(executor, "task_seconds")


def running_future() -> Future[None]:
    """Return a future that cannot be cancelled any more."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future
