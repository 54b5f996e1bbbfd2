"""Tasks in a thread of this process, one after another: for live objects and simulations."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from flops_fit.sweep.executors.contract import Resources


class InlineExecutor:
    """Runs tasks in a thread, so that the caller's thread can watch and interrupt."""

    def __init__(
        self, run_task: Callable[[tuple[str, ...]], object], stop: Callable[[], None]
    ) -> None:
        """Keep the function that runs a task, and the one that asks a running task to stop."""
        self._run_task = run_task
        self._stop = stop
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inline")

    def submit(self, task: tuple[str, ...], resources: Resources) -> Future[None]:
        """Queue the trials with these ids."""
        return self._pool.submit(self._run, task)

    def _run(self, task: tuple[str, ...]) -> None:
        self._run_task(task)

    def shutdown(self) -> None:
        """Ask the running task to stop and wait until it has."""
        self._stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
