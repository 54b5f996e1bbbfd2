"""One executor for several plans in a row, so that its workers import and load once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from flops_fit.sweep.executors.contract import Executor, Resources


class LastingExecutor:
    """Makes an executor with the first task, and keeps it until it is shut down.

    After that the next task makes another.
    """

    def __init__(self, make_executor: Callable[[], Executor]) -> None:
        """Take what makes the executor."""
        self._make_executor = make_executor
        self._executor: Executor | None = None

    def submit(self, task: tuple[str, ...], resources: Resources) -> Future[None]:
        """Hand the trials with these ids to the executor."""
        if self._executor is None:
            self._executor = self._make_executor()
        return self._executor.submit(task, resources)

    def shutdown(self) -> None:
        """End the executor, if there is one."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()
