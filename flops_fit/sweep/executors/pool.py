"""Tasks for workers that somebody else starts: `flops-fit worker RUN_DIR` on any machine.

Nothing is submitted: workers claim pending trials by lease. This executor watches for outcomes. As
long as it lives it writes `conductor.json` again and again, so that workers wait for the trials of
the next decision of an adaptive sweep instead of ending.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

from flops_fit.sweep.executors.contract import Job, Resources, running_future
from flops_fit.sweep.pulse import Pulse
from flops_fit.sweep.rundir import RunDir

_LOOK_SECONDS = 0.5


class PoolExecutor:
    """Watches what a pool of workers leaves."""

    task_seconds: ClassVar[float] = 0.0

    def __init__(self, run_dir: Path, **_: Any) -> None:
        """Watch a run directory; how many workers there are is not known here."""
        self._run = RunDir(run_dir.absolute())
        self._open: dict[tuple[str, ...], Future[None]] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def submit(self, task: tuple[str, ...], resources: Resources) -> Future[None]:
        """Wait for the outcomes of these trials."""
        future = running_future()
        with self._lock:
            self._open[task] = future
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="pool", daemon=True)
            self._thread.start()
        return future

    def flush(self) -> Sequence[Job]:
        """Return no job: workers know the plan."""
        return ()

    def attach(self, job: Job) -> Future[None]:
        """Wait for the outcomes of a job's trials."""
        return self.submit(job.task, Resources())

    def unrecorded(self, known: Collection[str]) -> Sequence[Job]:
        """Return no job."""
        return ()

    def detach(self) -> None:
        """End the watch; workers go on until nothing is left to train."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def shutdown(self) -> None:
        """End the watch and its futures; workers belong to whoever started them."""
        self.detach()
        with self._lock:
            for future in self._open.values():
                future.set_exception(ConnectionAbortedError("the conductor has ended"))
            self._open.clear()

    def _look(self) -> None:
        with Pulse(self._run) as pulse:
            while not self._end.wait(_LOOK_SECONDS):
                pulse.beat()
                with self._lock:
                    waiting = list(self._open.items())
                for task, future in waiting:
                    if all(self._run.outcome(each).exists() for each in task):
                        with self._lock:
                            del self._open[task]
                        future.set_result(None)
