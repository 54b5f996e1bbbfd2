"""Reads how the trials of a run directory were trained; reading runs no code.

The manifest, the provenance, the plan and the ledger are plain data: no plugin is imported and
nothing is unpickled. A directory that lacks one of them has no record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.fitting.points import Observation
from flops_fit.manifest.files import read_json
from flops_fit.manifest.manifest import Manifest, read_manifest
from flops_fit.manifest.trials import Trial
from flops_fit.planning.plan import Plan
from flops_fit.sweep.ledger import LedgerState, read_ledger, replay
from flops_fit.sweep.rundir import RunDir


@dataclass(frozen=True)
class Record:
    """The plan of a sweep and the state of its trials.

    Attributes:
        directory: where it was read.
        manifest: the experiment as written.
        plan: its trials.
        ledger: what happened to them.
        provenance: fingerprint, versions, data, description.
        estimate: what the sweep was expected to cost before it began; empty where none was made.
    """

    directory: Path
    manifest: Manifest
    plan: Plan
    ledger: LedgerState
    provenance: Mapping[str, Any] = field(default_factory=dict)
    estimate: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path | None) -> Record | None:
        """Return the record of a run directory; None if it has none, or it cannot be read."""
        if directory is None or not RunDir(directory).is_run():
            return None
        run = RunDir(directory)
        try:
            return cls(
                directory,
                read_manifest(run.manifest),
                Plan.from_dict(read_json(run.plan)),
                replay(read_ledger(run.ledger)) if run.ledger.exists() else LedgerState(),
                read_json(run.provenance) if run.provenance.exists() else {},
                read_json(run.estimate) if run.estimate.exists() else {},
            )
        except FlopsFitError:
            # The report stands without a record; `status` and `run` name what is broken.
            return None

    @property
    def unique_units(self) -> int | None:
        """The number of different units in the training set; None if endless or not known."""
        facts = (self.provenance.get("description") or {}).get("facts") or {}
        return self.manifest.data.unique_units or facts.get("unique_units")

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
        try:
            is_same = read_json(study.provenance).get("fingerprint") == self.provenance.get(
                "fingerprint"
            )
            return read_json(told) if is_same else None
        except FlopsFitError:
            return None

    @property
    def manifest_text(self) -> str:
        """The manifest as written."""
        return RunDir(self.directory).manifest.read_text(encoding="utf-8")

    def curves(self) -> dict[str, list[Observation]]:
        """Return the training curve of each finished trial that left one, by trial id.

        A line that is not a point of a curve is passed over: curves are for the eye.
        """
        curves: dict[str, list[Observation]] = {}
        for trial in self.plan.trials:
            path = RunDir(self.directory).trial(trial.trial_id) / "curve.jsonl"
            if trial.trial_id not in self.ledger.finished or not path.is_file():
                continue
            for line in path.read_text(encoding="utf-8").splitlines():
                point = _point(line, trial)
                if point is not None:
                    curves.setdefault(trial.trial_id, []).append(point)
        return curves

    @property
    def wall_seconds(self) -> float:
        """Time that the finished trials took, one after another."""
        ended = self.ledger.finished.values()
        return math.fsum(entry.wall_seconds for entry in ended)


def _point(line: str, trial: Trial) -> Observation | None:
    """Read one line of a training curve."""
    try:
        point = json.loads(line)
        tokens, flops, loss = (float(point[key]) for key in ("tokens", "flops", "loss"))
    except (ValueError, TypeError, KeyError):
        return None
    if not all(math.isfinite(value) and value > 0 for value in (tokens, flops, loss)):
        return None
    return Observation(trial.size.params, tokens, flops, loss, run=trial.trial_id)
