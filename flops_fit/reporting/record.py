"""Reads how the trials of a run directory were trained; reading runs no code.

The manifest, the provenance, the plan and the ledger are plain data: no plugin is imported and
nothing is unpickled. A directory that lacks one of them has no record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from flops_fit.errors import FlopsFitError, RunDirError
from flops_fit.experiment.timing import Timing
from flops_fit.fitting.points import Observation
from flops_fit.manifest.files import (
    STORED,
    HexId,
    NotNegative,
    Positive,
    Text,
    parse_as,
    read_as,
    read_json,
    read_text,
)
from flops_fit.manifest.manifest import Manifest, read_manifest
from flops_fit.manifest.trials import Trial
from flops_fit.planning.plan import Plan
from flops_fit.sweep.ledger import LedgerState, read_ledger, replay
from flops_fit.sweep.provenance import Provenance, read_plan, read_provenance
from flops_fit.sweep.rundir import RunDir


@dataclass(frozen=True)
class ExpectedTrial:
    """The forecast times of one trial; None: not known."""

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    trial_id: HexId
    wall_seconds: NotNegative | None = None


@dataclass(frozen=True)
class Expected:
    """The estimate that was made before the sweep began; empty where none was made.

    Attributes:
        trials: the trials that were planned then.
        timings: the sizes that were timed.
        basis: where the times come from, for the reader.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    trials: tuple[ExpectedTrial, ...] = ()
    timings: tuple[Timing, ...] = ()
    basis: Text = ""


@dataclass(frozen=True)
class _CurvePoint:
    """A line of a training curve."""

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    tokens: Positive
    flops: Positive
    loss: Positive


@dataclass(frozen=True)
class Record:
    """The plan of a sweep and the state of its trials.

    Attributes:
        directory: where it was read.
        manifest: the experiment as written.
        plan: its trials.
        ledger: what happened to them.
        provenance: what the sweep was started from; None: not recorded.
        estimate: how long the sweep was expected to take before it began.
    """

    directory: Path
    manifest: Manifest
    plan: Plan
    ledger: LedgerState
    provenance: Provenance | None = None
    estimate: Expected = field(default_factory=Expected)

    @classmethod
    def read(cls, directory: Path | None) -> Record | None:
        """Return the record of a run directory; None where there is none, or it cannot be read.

        Raises:
            RunDirError: `estimate.json` is broken: no other command reads it.
        """
        if directory is None or not RunDir(directory).is_run():
            return None
        run = RunDir(directory)
        estimate = read_as(Expected, run.estimate) if run.estimate.exists() else Expected()
        try:
            return cls(
                directory,
                read_manifest(run.manifest),
                read_plan(run),
                replay(read_ledger(run.ledger)) if run.ledger.exists() else LedgerState(),
                read_provenance(run) if run.provenance.exists() else None,
                estimate,
            )
        except FlopsFitError:
            # The report stands without a record; `status` and `run` name what is broken.
            return None

    @property
    def unique_units(self) -> int | None:
        """The number of different units in the training set; None if endless or not known."""
        facts = None if self.provenance is None else self.provenance.description.facts
        return self.manifest.data.unique_units or (None if facts is None else facts.unique_units)

    @cached_property
    def transfer(self) -> Mapping[str, Any] | None:
        """The result of a study of this experiment's learning rates; None if there is none.

        It is looked for where `flops-fit transfer` puts it, beside the sweep's run directory.
        """
        # `.` and `..` have no name of their own; a link keeps the one it is called by.
        is_named = self.directory.name not in ("", "..")
        own = self.directory if is_named else self.directory.resolve()
        study = RunDir(own.with_name(f"{own.name}-transfer"))
        told = study.report / "transfer.json"
        if not told.is_file():
            return None
        if self.provenance is None:
            return None
        try:
            is_same = read_provenance(study).fingerprint == self.provenance.fingerprint
            return read_json(told) if is_same else None
        except FlopsFitError:
            return None

    @property
    def manifest_text(self) -> str:
        """The manifest as written."""
        return read_text(RunDir(self.directory).manifest)

    def curves(self) -> dict[str, list[Observation]]:
        """Return the training curve of each finished trial that left one, by trial id.

        A line that is not a point of a curve is passed over: curves are for the eye.
        """
        curves: dict[str, list[Observation]] = {}
        for trial in self.plan.trials:
            path = RunDir(self.directory).trial(trial.trial_id) / "curve.jsonl"
            if trial.trial_id not in self.ledger.finished or not path.is_file():
                continue
            for line in _lines(path):
                point = _point(line, path, trial)
                if point is not None:
                    curves.setdefault(trial.trial_id, []).append(point)
        return curves

    @property
    def wall_seconds(self) -> float:
        """Time that the finished trials took, one after another."""
        ended = self.ledger.finished.values()
        return math.fsum(entry.wall_seconds for entry in ended)


def _lines(path: Path) -> list[str]:
    """Return the lines of a curve; none where the file cannot be read."""
    try:
        return read_text(path).splitlines()
    except RunDirError:
        return []


def _point(line: str, path: Path, trial: Trial) -> Observation | None:
    """Return a line of a training curve as a point; None where it is none."""
    try:
        point = parse_as(_CurvePoint, line, path=path)
    except RunDirError:
        return None
    return Observation(trial.size.params, point.tokens, point.flops, point.loss, run=trial.trial_id)
