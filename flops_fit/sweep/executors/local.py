"""Tasks in processes on this machine, packed on its GPUs or cores.

Each worker is one long-lived child process (`python -m flops_fit worker RUN_DIR --serve`) that
imports torch and loads the data once and then trains one task after another. Tasks go to it as JSON
lines on its standard input, `done` comes back as a line on its standard output. A worker in which a
trial failed ends, and the next task gets a new one. A worker whose standard input closes saves a
checkpoint and ends, so none outlives its conductor for long.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.devices import share_out
from flops_fit.experiment.interpreter import python_command
from flops_fit.sweep.executors.contract import Resources
from flops_fit.sweep.interrupts import killed_by

_STOP_SECONDS = 120.0  # for a worker to end its step and keep a checkpoint
_SILENT_SECONDS = 2.0  # of that, before the user is told what is waited for
_LOOK_SECONDS = 0.5  # between two looks at whether a worker is alive
_DEATH_SECONDS = 5.0  # for a worker that has closed its output to be gone


class WorkerDiedError(FlopsFitError):
    """A worker process ended in the middle of a task."""

    exit_code = 5


class LocalExecutor:
    """A pool of worker processes on this machine."""

    def __init__(
        self,
        run_dir: Path,
        *,
        workers: int,
        threads: int = 1,
        num_devices: int = 0,
        devices_per_trial: int = 1,
    ) -> None:
        """Prepare the pool; a worker is started with its first task.

        Args:
            run_dir: the run directory that the workers read and write.
            workers: how many tasks run side by side.
            threads: CPU threads of each.
            num_devices: GPUs to share out among the workers, in turn; 0 leaves them as they are.
            devices_per_trial: how many of them each worker is given.
        """
        self._run_dir = run_dir.absolute()
        self._threads = threads
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="worker")
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        shares = share_out(num_devices, workers, devices_per_trial)
        self._slots = [_Slot(share) for share in shares]
        for slot in self._slots:
            self._free.put(slot)
        self._is_closed = False

    def submit(self, task: tuple[str, ...], resources: Resources) -> Future[None]:
        """Hand the trials with these ids to the next free worker."""
        return self._pool.submit(self._carry, task)

    def shutdown(self) -> None:
        """End every worker: each keeps a checkpoint first, unless the user interrupts once more."""
        self._is_closed = True
        for slot in self._slots:
            slot.ask_to_stop()
        try:
            began = time.monotonic()
            if not self._are_gone(began + _SILENT_SECONDS):
                sys.stderr.write(
                    "the running trials save a checkpoint; Ctrl-C again ends them at once\n"
                )
                self._are_gone(began + _STOP_SECONDS)
        except KeyboardInterrupt:
            pass
        finally:
            for slot in self._slots:
                slot.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            for slot in self._slots:
                slot.forget()

    def _are_gone(self, deadline: float) -> bool:
        """Return whether every worker has ended by then (monotonic seconds)."""
        return all([slot.is_gone(deadline) for slot in self._slots])

    def _carry(self, task: tuple[str, ...]) -> None:
        """Send one task to a worker and wait for its answer."""
        slot = self._free.get()
        try:
            child = slot.child
            if child is None or child.poll() is not None:
                slot.forget()
                child = slot.child = self._start(slot.devices)
            if self._is_closed:
                slot.kill()
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                child.stdin.write(json.dumps(list(task)) + "\n")
                child.stdin.flush()
                answer = _answer_of(child)
            except (OSError, ValueError):
                answer = ""
            if answer == "done, and ends":
                slot.end()
            elif answer != "done":
                death = _death_of(child)
                slot.kill()  # Helper processes of the worker's code may have outlived it.
                slot.forget()
                raise WorkerDiedError(death)
        finally:
            self._free.put(slot)

    def _start(self, devices: tuple[str, ...]) -> subprocess.Popen[str]:
        """Start a worker process, outside the terminal's process group so that Ctrl-C spares it."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(self._threads)
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        log = self._run_dir / "workers.log"
        with log.open("a", encoding="utf-8") as errors:
            return subprocess.Popen(
                [*python_command(), "-m", "flops_fit", "worker", str(self._run_dir), "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,
            )


class _Slot:
    """A place for one worker process, and the devices that it is given."""

    def __init__(self, devices: tuple[str, ...]) -> None:
        self.devices = devices
        self.child: subprocess.Popen[str] | None = None

    def ask_to_stop(self) -> None:
        """Ask the worker to save a checkpoint and end."""
        if self.child is not None and self.child.poll() is None:
            self.child.terminate()

    def is_gone(self, deadline: float) -> bool:
        """Return whether the worker has ended by then (monotonic seconds)."""
        if self.child is None:
            return True
        try:
            self.child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """Wait for a worker to end, and end its remaining processes."""
        self.is_gone(time.monotonic() + _DEATH_SECONDS)
        self.kill()
        self.forget()

    def kill(self) -> None:
        """End the worker and the processes that load its data, as one process group."""
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def forget(self) -> None:
        """Close the pipes of a worker that has ended."""
        child, self.child = self.child, None
        if child is not None:
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()


def _answer_of(child: subprocess.Popen[str]) -> str:
    """Return the worker's answer; empty once it is dead.

    Its death is seen by its process: a helper that its code has forked may keep the pipe open.
    """
    assert child.stdout is not None
    while True:
        ready, _, _ = select.select([child.stdout], [], [], _LOOK_SECONDS)
        if ready:
            return child.stdout.readline().strip()
        if child.poll() is not None:
            return ""


def _death_of(child: subprocess.Popen[str]) -> str:
    """Return a sentence on how a worker ended."""
    try:
        code = child.wait(_DEATH_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return "the worker stopped answering and was ended"
    if code < 0:
        return f"the worker was {killed_by(-code)}"
    return f"the worker ended with exit code {code}"
