"""Tasks as elements of Slurm arrays, submitted by submitit.

    slurm/NAME.json      the tasks of one submission, in the order of its elements; written before
                         it, so that a conductor that is killed in between finds its jobs again
    slurm/NAME/          submitit's files: what each job runs, and its standard output and error

Tasks with the same devices and limits form one array, in parts of at most MaxArraySize. An element
has ended when every trial of its task has an outcome. One that Slurm no longer holds, and that left
trials without an outcome, is lost. submitit's files are never read here.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from flops_fit.errors import PluginError
from flops_fit.manifest.files import read_json, write_json
from flops_fit.sweep.executors.contract import Job, JobLostError, Resources, running_future
from flops_fit.sweep.executors.element import Element
from flops_fit.sweep.executors.scheduler import (
    SlurmError,
    cancel,
    ended_jobs,
    jobs_named,
    most_elements,
    require_slurm,
)
from flops_fit.sweep.rundir import RunDir

_LOOK_SECONDS = 1.0
_GATHER_SECONDS = 1.0  # after the last task, before an array is submitted
_TIME_MARGIN, _LEAST_MINUTES = 2.0, 10.0  # a limit is this many times the forecast, and at least
_MEMORY_MARGIN, _MEMORY_MORE = 1.5, 2.0  # times the forecast, plus gigabytes for libraries
_UNKNOWN_MINUTES = 60.0  # without a forecast; a job that reaches its limit saves and is requeued
_SIGNAL_SECONDS = 120  # before the limit, for the worker to save
_GONE_LOOKS = 2  # looks at a job that is gone, for its outcome to arrive by the shared disk


class SlurmExecutor:
    """Submits tasks to Slurm and watches for their outcomes."""

    task_seconds: ClassVar[float] = 600.0

    def __init__(
        self,
        run_dir: Path,
        *,
        workers: int | None = None,
        threads: int = 1,
        num_devices: int = 0,
        devices_per_trial: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare; nothing is submitted before the first task.

        Args:
            run_dir: the run directory, on a disk that the nodes see.
            workers: elements of an array that run at once; all if None.
            threads: CPU threads of each process.
            num_devices: not used: the options say what a job asks for.
            devices_per_trial: processes of a trial, a device each.
            options: [execution.slurm].

        Raises:
            PluginError: submitit is not installed.
            SlurmError: Slurm's commands are not here.
        """
        self.require_here()
        self._run = RunDir(run_dir.absolute())
        self._folder = self._run.path / "slurm"
        self._workers, self._threads, self._devices = workers, threads, devices_per_trial
        self._options = dict(options or {})
        self._poll_seconds = float(self._options.pop("poll_seconds", 15.0))
        self._options.pop("flops_per_second", None)
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._watched: dict[str, _Watched] = {}
        self._told: list[Job] = []
        self._last_submit = 0.0
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    @staticmethod
    def require_here() -> None:
        """Check that this machine can submit jobs.

        Raises:
            PluginError: submitit is not installed.
            SlurmError: Slurm's commands are not here.
        """
        if find_spec("submitit") is None:
            raise PluginError(
                "the executor `slurm` needs submitit, which is not installed",
                hint='pip install "flops-fit[slurm]"',
            )
        require_slurm()

    def submit(self, task: tuple[str, ...], resources: Resources) -> Future[None]:
        """Keep a task for the next array."""
        future = running_future()
        with self._lock:
            self._waiting.append(_Waiting(task, resources, future))
            self._last_submit = time.monotonic()
        self._watch()
        return future

    def flush(self) -> Sequence[Job]:
        """Submit the waiting tasks as arrays; return the jobs submitted since the last call.

        Raises:
            SlurmError: Slurm refused the submission.
        """
        with self._lock:
            self._submit_waiting()
            told, self._told = self._told, []
        return told

    def attach(self, job: Job) -> Future[None]:
        """Watch a job that an earlier conductor submitted."""
        future = running_future()
        with self._lock:
            self._watched[job.job_id] = _Watched(job, future)
        self._watch()
        return future

    def unrecorded(self, known: Collection[str]) -> list[Job]:
        """Return jobs that were submitted by a conductor that was killed before it recorded them.

        Args:
            known: job ids that the ledger holds.
        """
        recorded, found = set(known), []
        for path in sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []:
            submission = read_json(path)
            if recorded & set(submission.get("job_ids", ())):
                continue
            tasks = [tuple(task) for task in submission["tasks"]]
            for job_id in jobs_named(path.stem):
                _, _, index = job_id.partition("_")
                place = int(index) if index.isdigit() else 0
                if job_id not in recorded and place < len(tasks):
                    found.append(Job(job_id, tasks[place]))
        return found

    def detach(self) -> None:
        """Leave the jobs in the queue; end the watch."""
        self._end.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def shutdown(self) -> None:
        """End every job that this executor watches."""
        self.detach()
        with self._lock:
            cancel(self._watched)
            futures = [each.future for each in self._waiting]
            futures += [each.future for each in self._watched.values()]
            for future in futures:
                future.set_exception(JobLostError("", "the conductor has ended it"))
            self._waiting.clear()
            self._watched.clear()

    def _watch(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="slurm", daemon=True)
            self._thread.start()

    def _look(self) -> None:
        """Submit what has gathered, and resolve futures, until the end."""
        asked = 0.0
        while not self._end.wait(min(_LOOK_SECONDS, self._poll_seconds)):
            with self._lock:
                if self._waiting and time.monotonic() - self._last_submit > _GATHER_SECONDS:
                    try:
                        self._submit_waiting()
                    except SlurmError as error:
                        self._refuse_waiting(error)
                self._resolve_ended()
                open_ids = list(self._watched)
            if open_ids and time.monotonic() - asked >= self._poll_seconds:
                gone = ended_jobs(open_ids)  # Slow: without the lock.
                asked = time.monotonic()
                with self._lock:
                    self._resolve_lost(gone)

    def _resolve_ended(self) -> None:
        for job_id, each in list(self._watched.items()):
            if not self._open_trials(each.job):
                del self._watched[job_id]
                each.future.set_result(None)

    def _resolve_lost(self, gone: Mapping[str, str]) -> None:
        self._resolve_ended()
        for job_id, each in list(self._watched.items()):
            each.looks_gone = each.looks_gone + 1 if job_id in gone else 0
            if each.looks_gone >= _GONE_LOOKS:
                del self._watched[job_id]
                each.future.set_exception(JobLostError(job_id, gone[job_id]))

    def _open_trials(self, job: Job) -> list[str]:
        """Return the trials of a job without an outcome."""
        return [each for each in job.task if not self._run.outcome(each).exists()]

    def _refuse_waiting(self, error: SlurmError) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.future.set_exception(error)

    def _submit_waiting(self) -> None:
        """Submit the waiting tasks, those of the same limits together."""
        by_limits: dict[_Limits, list[_Waiting]] = {}
        for each in self._waiting:
            by_limits.setdefault(self._limits(each.resources), []).append(each)
        most = most_elements() if by_limits else 1
        for limits, group in by_limits.items():
            for start in range(0, len(group), most):
                part = group[start : start + most]
                ids = self._sbatch([each.task for each in part], limits)
                for job_id, each in zip(ids, part, strict=True):
                    self._waiting.remove(each)
                    job = Job(job_id, each.task)
                    self._watched[job_id] = _Watched(job, each.future)
                    self._told.append(job)

    def _limits(self, resources: Resources) -> _Limits:
        """Return time and memory to ask for: as stated, else the forecast with a margin."""
        minutes = self._options.get("time")
        if minutes is None and resources.wall_seconds is not None:
            forecast = max(_LEAST_MINUTES, _TIME_MARGIN * resources.wall_seconds / 60)
            minutes = _rounded_up(forecast)
        gigabytes = None
        if "mem" not in self._options and resources.memory_bytes is not None:
            each = _MEMORY_MARGIN * resources.memory_bytes / 1e9 + _MEMORY_MORE
            gigabytes = _rounded_up(each * resources.num_devices)
        return _Limits(resources.num_devices, int(minutes or _UNKNOWN_MINUTES), gigabytes)

    def _sbatch(self, tasks: Sequence[tuple[str, ...]], limits: _Limits) -> list[str]:
        """Submit one array and return the ids of its elements.

        Raises:
            SlurmError: Slurm refused it.
        """
        import submitit

        name = f"flops-fit-{uuid.uuid4().hex[:12]}"
        record = self._folder / f"{name}.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(record, {"tasks": [list(task) for task in tasks]})
        # submitit counts time-outs and gives up after three by default; a trial may need many.
        executor = submitit.SlurmExecutor(self._folder / name, max_num_timeout=10**6)
        parameters: dict[str, Any] = {
            "job_name": name,
            "time": limits.minutes,
            "signal_delay_s": min(_SIGNAL_SECONDS, 20 * limits.minutes),
            "array_parallelism": self._workers or len(tasks),
            "cpus_per_task": self._threads * limits.num_devices,
            "wckey": None,
        }
        stated = dict(self._options)
        stated.pop("time", None)
        if (gpus := stated.pop("gpus", None)) is not None:
            parameters["gpus_per_node"] = gpus
        if (cpus := stated.pop("cpus", None)) is not None:
            parameters["cpus_per_task"] = cpus
        more: dict[str, Any] = {}
        if (memory := stated.pop("mem", None)) is not None:
            more["mem"] = memory
        elif limits.gigabytes is not None:
            more["mem"] = f"{limits.gigabytes}G"
        for key in ("partition", "account", "qos", "constraint", "setup"):
            if key in stated:
                parameters[key] = stated.pop(key)
        more |= {key.replace("_", "-"): value for key, value in stated.items()}
        if more:
            parameters["additional_parameters"] = more
        threads = {
            each: str(self._threads)
            for each in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }
        elements = [Element(str(self._run.path), task, threads) for task in tasks]
        try:
            executor.update_parameters(**parameters)
            with executor.batch():
                jobs = [executor.submit(element) for element in elements]
            ids = [str(job.job_id) for job in jobs]
        except (
            OSError,
            submitit.core.utils.FailedJobError,
            submitit.core.utils.FailedSubmissionError,
        ) as error:
            raise _refusal(error) from None
        write_json(record, {"tasks": [list(task) for task in tasks], "job_ids": ids})
        return ids


@dataclass(frozen=True)
class _Limits:
    """The resources that one array asks Slurm for."""

    num_devices: int
    minutes: int
    gigabytes: int | None


@dataclass
class _Waiting:
    """A task that is not submitted yet."""

    task: tuple[str, ...]
    resources: Resources
    future: Future[None]


@dataclass
class _Watched:
    """A job in the queue; `looks_gone`: looks in a row that did not find it."""

    job: Job
    future: Future[None]
    looks_gone: int = 0


def _refusal(error: Exception) -> SlurmError:
    """Return a failed submission as an error for the user: the last line that Slurm printed."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "error:" in line), lines[-1] if lines else "no reason")
    return SlurmError(
        f"Slurm refused the jobs: {said.strip()}",
        hint="look at [execution.slurm]; `sinfo` lists partitions, `sacctmgr show assoc` accounts",
    )


def _rounded_up(number: float) -> int:
    """Round up to a power of the square root of two, so that few different limits arise."""
    return math.ceil(2 ** (math.ceil(2 * math.log2(max(number, 1.0))) / 2) - 1e-9)
