"""Reads, writes and compares `provenance.json`: the origin of a run directory.

It holds the experiment's fingerprint, its data, what the plugins said, and the versions behind the
numbers. Nothing is trained under a directory that holds another experiment.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, JsonValue

from flops_fit.errors import RunDirError
from flops_fit.experiment.description import Description
from flops_fit.experiment.loading import fingerprint
from flops_fit.experiment.prepared import Prepared
from flops_fit.fitting.law import Surface
from flops_fit.manifest.files import SMALL_FILE, STORED, Text, read_as, read_text
from flops_fit.manifest.manifest import Manifest, parse_manifest
from flops_fit.planning.plan import Plan
from flops_fit.sweep.rehearsal import planted_law
from flops_fit.sweep.rundir import RunDir

Study = Literal["sweep", "transfer"]


@dataclass(frozen=True)
class Provenance:
    """The origin of a run directory: experiment, data and versions.

    Attributes:
        fingerprint: of the experiment.
        identity: the manifest's values that the trials depend on.
        planted: the law that a simulated sweep draws its losses from; None: trials are trained.
        search_path: folders in which plugins are looked for.
        data: what identifies the data; None where the data plugin says nothing.
        description: the sizes, and what one unit of data is.
        study: what the trials are for.
        adaptive: whether the sweep began without trials and chooses them.
        versions: of the packages that the numbers depend on.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    fingerprint: Text
    identity: Mapping[str, JsonValue]
    planted: Surface | None
    search_path: tuple[str, ...]
    data: Mapping[str, Any] | None
    description: Description
    study: Study = "sweep"
    adaptive: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_simulated(self) -> bool:
        """Whether losses are drawn from a planted law."""
        return self.planted is not None


def read_provenance(run: RunDir) -> Provenance:
    """Return what a run directory was started from.

    Raises:
        RunDirError: the file is missing or broken.
    """
    return read_as(Provenance, run.provenance, most_bytes=SMALL_FILE)


def read_plan(run: RunDir) -> Plan:
    """Return the plan of a run directory.

    Raises:
        RunDirError: the file is missing or broken, or two of its trials have one id.
    """
    plan = read_as(Plan, run.plan)
    seen: set[str] = set()
    for position, trial in enumerate(plan.trials):
        if trial.trial_id in seen:
            raise RunDirError(
                f"`{run.plan}` is not usable: `trials[{position}].trial_id` is "
                f"{trial.trial_id}, which an earlier trial has too",
                hint="the file was changed by hand or by another program: restore it from a copy",
            )
        seen.add(trial.trial_id)
    return plan


def provenance_of(
    prepared: Prepared, plan: Plan, *, study: Study, simulated: bool, is_adaptive: bool
) -> Provenance:
    """Return a run's origin: the experiment, its data and the versions behind its numbers."""
    facts = prepared.description.facts
    return Provenance(
        fingerprint=fingerprint(prepared.manifest),
        identity=prepared.manifest.identity,
        study=study,
        planted=planted_law(max(plan.budgets)) if simulated else None,
        adaptive=is_adaptive,
        search_path=tuple(str(folder) for folder in prepared.search_path),
        data=None if facts.provenance is None else dict(facts.provenance),
        description=prepared.description,
        versions=versions(),
    )


def default_run_dir(manifest: Path, name: str) -> Path:
    """Return where a manifest's sweep lies: `runs/NAME`, the same from every working directory.

    A sweep that was started from this manifest is found in the current folder, beside the manifest
    or in a folder above it. A new one lies in the current folder if the manifest is inside it, else
    beside the manifest.
    """
    folder = manifest.resolve().parent
    here = Path("runs") / name
    if RunDir(here).is_run():
        return here
    for above in (folder, *folder.parents):
        found = RunDir(above / "runs" / name)
        if found.is_run() and str(folder) in read_provenance(found).search_path:
            return found.path
    return here if folder.is_relative_to(Path.cwd().resolve()) else folder / "runs" / name


def check_same(run: RunDir, manifest: Manifest, *, simulated: bool, study: Study = "sweep") -> None:
    """Refuse to continue with another experiment than the run directory's."""
    provenance = read_provenance(run)
    refuse_other_study(run, provenance, study)
    refuse_mixed(run, simulated=simulated)
    if provenance.fingerprint != fingerprint(manifest):
        changed = "; ".join(_differences(provenance.identity, manifest.identity))
        raise RunDirError(
            f"the manifest changed since `{run.path}` was started: {changed}",
            hint="undo the change to continue that sweep, or start a new one with --run-dir; "
            + (
                "an adaptive sweep chooses its own trials: change its goal, or give --total-flops"
                if provenance.adaptive
                else "[sweep] and the sizes may change"
            ),
        )


def refuse_mixed(run: RunDir, *, simulated: bool) -> None:
    """Refuse to mix simulated and trained losses in one run directory."""
    if read_provenance(run).is_simulated != simulated:
        kind = "trained" if simulated else "simulated"
        raise RunDirError(
            f"`{run.path}` holds a {kind} sweep; simulated and trained losses never mix",
            hint="name another directory with --run-dir",
        )


def refuse_edited_manifest(run: RunDir, manifest: Manifest) -> None:
    """Refuse to start with a manifest in the run directory that is no longer the sweep's own.

    Raises:
        RunDirError: a value changed that the trials depend on; execution and report may change.
    """
    provenance = read_provenance(run)
    if provenance.fingerprint != fingerprint(manifest):
        changed = "; ".join(_differences(provenance.identity, manifest.identity))
        raise RunDirError(
            f"`{run.manifest}` changed since the sweep was started: {changed}",
            hint="undo the change to continue this sweep, or start a new one from a manifest of "
            "your own with --run-dir",
        )


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("flops-fit", "torch", "accelerate", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _differences(was: Mapping[str, Any], now: Mapping[str, Any], at: str = "") -> list[str]:
    """Return each key whose value changed, as `training.learning_rate: 0.006 -> 0.003`."""
    found = []
    for key in sorted({*was, *now}):
        before, after, place = was.get(key), now.get(key), f"{at}{key}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(before, after, f"{place}.")
        elif before != after:
            found.append(f"{place}: {before!r} -> {after!r}")
    return found


def refuse_other_study(run: RunDir, provenance: Provenance, wanted: Study) -> None:
    """A sweep's run directory is no study of learning rates, nor the other way round."""
    if provenance.study == wanted:
        return
    if provenance.study == "transfer":
        raise RunDirError(
            f"`{run.path}` holds a study of learning rates, not a sweep",
            hint=f"`flops-fit transfer {run.path}` continues it and shows it",
        )
    raise RunDirError(
        f"`{run.path}` holds a sweep, not a study of learning rates",
        hint="name another directory with --run-dir, or give the manifest",
    )


def study_of(run: RunDir) -> Study:
    """Return the kind of study that a run directory holds.

    Raises:
        RunDirError: it is not a run directory.
    """
    if not run.is_run():
        raise RunDirError(
            f"`{run.path}` is not a run directory", hint="`flops-fit run MANIFEST` makes one"
        )
    return read_provenance(run).study


def resume(directory: Path, *, study: Study = "sweep") -> Prepared:
    """Return the experiment that a run directory was started from, without loading a plugin.

    Raises:
        RunDirError: it is no run directory, holds another kind of study, or cannot be read.
    """
    run = RunDir(directory)
    if not run.is_run():
        raise RunDirError(
            f"`{directory}` is not a run directory",
            hint="`flops-fit run MANIFEST` makes one",
        )
    provenance = read_provenance(run)
    refuse_other_study(run, provenance, study)
    text = read_text(run.manifest, most_bytes=SMALL_FILE)
    return Prepared(
        parse_manifest(text, where=str(run.manifest)),
        text,
        provenance.description,
        run.manifest,
        tuple(Path(folder) for folder in provenance.search_path),
    )


def require_trials(directory: Path, plan: Plan) -> None:
    """Refuse a run directory whose adaptive sweep has not come to its first decision.

    Raises:
        RunDirError: there is no trial to look at.
    """
    if not plan.trials:
        raise RunDirError(
            f"`{directory}` has no trials yet: its adaptive sweep was stopped before it had "
            "decided on the first ones",
            hint=f"continue it: flops-fit run {directory}",
        )
