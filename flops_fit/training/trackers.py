"""Each trial a run in the user's own trackers, through Accelerate's; the ledger stays the truth.

A run holds the trial's metrics by optimiser step and its place in the sweep. Nothing that a tracker
does reaches the training: what it draws from shared random generators is put back, and one that
fails is dropped for the rest of the trial, which goes on; why stands in the trial's log and in its
outcome. Only the first process of a trial tracks.

Where the user's environment names a server (`WANDB_*`, `MLFLOW_TRACKING_URI`, ...) it is used as
that tracker does; files of trackers that write some lie in the run directory's `trackers/`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from flops_fit.manifest.trials import Trial
from flops_fit.training.checkpoint import random_state, restore_random_state
from flops_fit.units import format_flops

_LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Run:
    """A run of a tracker.

    Attributes:
        run_id: unique in the sweep: the trial's id.
        title: for people.
        step: the steps done before; a run that goes on forgets what it has beyond them.
        discarded_steps: of attempts that were given up, which the run holds before them.
    """

    run_id: str
    title: str
    step: int = 0
    discarded_steps: int = 0

    @property
    def at(self) -> int:
        """The last step that the run holds; it never goes back, which not every tracker can."""
        return self.discarded_steps + self.step

    @classmethod
    def of(cls, trial: Trial, *, step: int, discarded_steps: int = 0) -> Run:
        """Return the run of a trial."""
        budget, size = format_flops(trial.budget_flops), f"{trial.size.size_value:g}"
        title = f"{budget}-size-{size}-seed-{trial.seed}"
        return cls(trial.trial_id, title, step, discarded_steps)


@dataclass
class Trackers:
    """The trackers of one trial, or of the report.

    Attributes:
        names: as Accelerate calls them.
        directory: where those that write files put them.
        experiment: the name that the runs of a sweep have in common.
        sweep_id: tells sweeps of one name apart: the fingerprint.
        failures: what went wrong, by tracker.
        unusable: the trackers that could not be started.
    """

    names: tuple[str, ...]
    directory: Path
    experiment: str
    sweep_id: str
    failures: dict[str, str] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    _open: dict[str, Any] = field(default_factory=dict)
    _run: Run | None = None
    _told: int = 0

    def start(self, run: Run, place: Mapping[str, Any]) -> None:
        """Open a run in each tracker, or continue the one with this id.

        Further attempts at a trial go on in its run.

        Args:
            run: which.
            place: numbers and text that say where in the sweep it stands; of every attempt.
        """
        is_open, self._run = self._run is not None, run
        if is_open:
            return
        self._told = run.at
        for name in self.names:
            self._guarded(name, "start", partial(self._start, name, run))
        self.unusable = set(self.failures)
        whole = {"experiment": self.experiment, "sweep_id": self.sweep_id, **_simple(place)}
        for name, tracker in list(self._open.items()):
            self._guarded(name, "note the run", partial(tracker.store_init_configuration, whole))

    def log(self, values: Mapping[str, float | None], *, step: int) -> None:
        """Log known numbers at a step, unless they were logged before."""
        at = step if self._run is None else self._run.discarded_steps + step
        if at < self._told:
            return  # An attempt that ran out of memory came as far.
        self._told = at
        known = {key: value for key, value in values.items() if value is not None}
        for name, tracker in list(self._open.items()):
            self._guarded(name, f"log step {step}", partial(tracker.log, known, step=at))

    def each(self, what: str, calls: Mapping[str, Callable[[Any], None]]) -> None:
        """Do something more with the open trackers that `calls` names; guarded as all else."""
        for name, tracker in list(self._open.items()):
            if name in calls:
                self._guarded(name, what, partial(calls[name], tracker))

    def finish(self, status: str) -> None:
        """Close every run, with what became of the trial."""
        self.each("note the status", {n: partial(note, status) for n, note in _STATUS.items()})
        for name, tracker in list(self._open.items()):
            self._guarded(name, "finish", tracker.finish)
        self._open.clear()

    def _start(self, name: str, run: Run) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # Accelerate's trackers ask it which process they are in.
        folder = (self.directory / name).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        made = _ARGUMENTS.get(name, _only_the_project)(self, folder, run)
        tracker = LOGGER_TYPE_TO_CLASS[name](*made.positional, **made.named)
        # One at a time: local stores are made by whoever comes first.
        with FileLock(folder / ".lock", timeout=_LOCK_SECONDS):
            tracker.start()
        self._open[name] = tracker

    def _guarded(self, name: str, what: str, call: Callable[[], None]) -> None:
        """Call a tracker; an error ends the tracking, never the trial."""
        try:
            with _undisturbed():
                call()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.failures[name] = f"could not {what}: {reason}"
            self._open.pop(name, None)
            print(f"tracker {name}: {self.failures[name]}", file=sys.stderr)  # noqa: T201


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Restore all random generators after the block."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)


@dataclass(frozen=True)
class _Arguments:
    """The arguments of a tracker of Accelerate."""

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)


def _simple(place: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that every tracker takes: numbers, text, booleans; lists as text, no None."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in place.items()
        if value is not None
    }


def _only_the_project(made: Trackers, folder: Path, run: Run) -> _Arguments:
    """Most trackers take the experiment for their project and name the run themselves."""
    del folder, run
    return _Arguments((made.experiment,))


def _tensorboard(made: Trackers, folder: Path, run: Run) -> _Arguments:
    return _Arguments(
        (f"{run.title}-{run.run_id}", folder), {"purge_step": run.at} if run.at else {}
    )


def _wandb(made: Trackers, folder: Path, run: Run) -> _Arguments:
    import wandb

    named: dict[str, Any] = {
        "name": run.title,
        "group": made.experiment,
        "id": f"{made.sweep_id}-{run.run_id}",
        "dir": str(folder),
        # The trial's log is kept already, and its file descriptors are not to be touched.
        "settings": wandb.Settings(console="off"),
    }
    if run.at:
        named["resume"] = "allow"
    if wandb.run is not None:
        wandb.run.finish()
    return _Arguments((os.environ.get("WANDB_PROJECT", "flops-fit"),), named)


def _mlflow(made: Trackers, folder: Path, run: Run) -> _Arguments:
    import mlflow

    location = None
    if "MLFLOW_TRACKING_URI" not in os.environ:
        location = (folder / "artifacts").as_uri()
        mlflow.set_tracking_uri(_local_store(folder))
    tags = {"sweep_id": made.sweep_id, "trial_id": run.run_id}
    known = mlflow.search_runs(
        experiment_names=[made.experiment],
        filter_string=" and ".join(f"tags.{key} = '{value}'" for key, value in tags.items()),
        output_format="list",
        max_results=1,
    )
    return _Arguments(
        named={
            "experiment_name": made.experiment,
            "logging_dir": location,
            "run_id": known[0].info.run_id if known else None,
            "run_name": run.title,
            "tags": tags,
            "nested_run": True,  # below a run of the user's own, where there is one
        }
    )


def _local_store(folder: Path) -> str:
    """Return MLflow's store without a server: a database, or files if it cannot read one."""
    if find_spec("sqlalchemy") is not None and find_spec("alembic") is not None:
        return f"sqlite:///{folder / 'mlflow.db'}"
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return (folder / "runs").as_uri()


_ARGUMENTS: Mapping[str, Callable[[Trackers, Path, Run], _Arguments]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


def _mlflow_status(status: str, tracker: Any) -> None:
    del tracker
    import mlflow

    mlflow.set_tag("status", status)


_STATUS: Mapping[str, Callable[[str, Any], None]] = {
    "tensorboard": lambda status, tracker: tracker.log({"status": status}),
    "wandb": lambda status, tracker: tracker.tracker.summary.update({"status": status}),
    "mlflow": _mlflow_status,
}
