"""What a Slurm job runs: a worker as a child process, which is asked to save before a requeue.

submitit ignores SIGTERM, and calls `checkpoint` inside the signal handler of the main thread. So
`__call__` never blocks in a wait that the handler would need too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

_LOOK_SECONDS = 0.2
_SAVE_SECONDS = 600.0  # for a worker to save; Slurm ends the job earlier where its limit says so


@dataclass
class Element:
    """The task of one job: it starts `flops-fit worker RUN_DIR TRIAL...` and waits for it."""

    run_dir: str
    task: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def __call__(self) -> int:
        """Train the trials; return the worker's exit code.

        Whether they have ended is seen by their outcome files. A worker that was stopped leaves a
        checkpoint, and its conductor submits it again.
        """
        self._child = subprocess.Popen(
            [sys.executable, "-m", "flops_fit", "worker", self.run_dir, *self.task],
            env={**os.environ, **self.environment},
            start_new_session=True,
        )
        while (code := self._child.poll()) is None:
            time.sleep(_LOOK_SECONDS)
        return code

    def checkpoint(self) -> Any:
        """Ask the worker to save, wait for it, and return what submitit submits again."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            _stop(self._child.pid)
        return DelayedSubmission(Element(self.run_dir, self.task, self.environment))


def _stop(pid: int) -> None:
    """Ask a child process to stop, and wait until it has; it is left to its parent to reap.

    `Popen.wait` takes a lock that the interrupted main thread may hold.
    """
    deadline = time.monotonic() + _SAVE_SECONDS
    try:
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(_LOOK_SECONDS)
    except (ProcessLookupError, ChildProcessError):
        return
