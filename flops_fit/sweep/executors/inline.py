"""Tasks in a thread of this process, one after another: for live objects and simulations."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from flops_fit.sweep.executors.contract import Resources


class InlineExecutor:
    """Runs tasks where it stands; the caller's thread stays free to watch and to interrupt."""

    def __init__(
        self, run_task: Callable[[tuple[str, ...]], None], stop: Callable[[], None]
    ) -> None:
        """Take what runs a task, and what asks a running one to stop."""
        self._run_task = run_task
        self._stop = stop
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inline")

    def submit(self, task: tuple[str, ...], resources: Resources) -> Future[None]:
        """Queue the trials with these ids."""
        return self._pool.submit(self._run_task, task)

    def shutdown(self) -> None:
        """Ask the running task to stop and wait until it has."""
        self._stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
