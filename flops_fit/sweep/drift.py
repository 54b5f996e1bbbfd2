"""Checks that trials still use the code and data that the sweep began with.

`made_of.json` in the run directory holds a list of records. The first process that trains writes
the first one, and keeps a copy of the plugins' source files under `source/`. Every later process,
and every later session, compares itself with the last record before it trains a step; a difference
is refused. `--accept-drift TEXT` adds a record with that text, which the next process fills in.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flops_fit.errors import RunDirError
from flops_fit.experiment.identity import (
    Identity,
    code_changes,
    differences,
    identity_of,
    keep_files,
)
from flops_fit.experiment.loading import Experiment
from flops_fit.manifest.files import read_json, write_json
from flops_fit.sweep.rundir import RunDir

_HINT = (
    "undo the change to continue that sweep; start a new one with --run-dir; or, if the change "
    'cannot move a loss, record why: --accept-drift "TEXT"'
)


def match_identity(run: RunDir, experiment: Experiment, *, search_path: list[Path]) -> Identity:
    """Compare this process with the sweep's record; the first process writes the record.

    Raises:
        RunDirError: the code, a version or the data is another.
    """
    from filelock import FileLock

    now = identity_of(experiment, search_path=search_path)
    with FileLock(run.path / "made_of.lock"):
        records = _records(run)
        if not records or records[-1]["identity"] is None:
            keep_files(now, run.path / "source")
            accepted = records.pop() if records else {}
            records.append({**accepted, "at": _now(), "identity": now.to_dict()})
            _write(run, records)
            return now
        found = differences(Identity(**records[-1]["identity"]), now, run.path / "source")
    if found:
        raise RunDirError(
            f"this process does not train what the sweep began with: {'; '.join(found)}",
            hint=f"{_HINT}. A set that is split or drawn anew in each process needs a fixed seed",
        )
    return now


def refuse_drift(run: RunDir, *, accepted: str | None = None) -> None:
    """Compare source files and versions with the sweep's record, before anything is started.

    Args:
        run: the run directory.
        accepted: why the change may be accepted; it is recorded.

    Raises:
        RunDirError: they changed, and the change is not accepted.
    """
    records = _records(run)
    if not records or records[-1]["identity"] is None:
        return
    if accepted is not None:
        records.append({"at": _now(), "accepted": accepted, "identity": None})
        _write(run, records)
        return
    changed = code_changes(Identity(**records[-1]["identity"]), run.path / "source")
    if changed:
        raise RunDirError(
            f"the code changed since `{run.path}` was started: {'; '.join(changed)}", hint=_HINT
        )


def _records(run: RunDir) -> list[dict[str, Any]]:
    path = run.path / "made_of.json"
    return list(read_json(path)["records"]) if path.exists() else []


def _write(run: RunDir, records: list[dict[str, Any]]) -> None:
    write_json(run.path / "made_of.json", {"records": records})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
