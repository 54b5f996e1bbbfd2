"""Extends a sweep: a changed [sweep] or list of sizes adds trials and keeps those that are there.

Trial ids are hashes of what a trial is, so a trial that the new plan asks for again is the same
trial and is not trained again. Ended trials that the new plan does not ask for stay in the plan,
the ledger and the fits; those that were not trained yet leave the plan.

    what is written, in order   manifest.toml, plan.json, the ledger's `sweep_extended`,
                                provenance.json
    after a crash in between    provenance.json still holds the old experiment and manifest.toml
                                the new one, so the next start extends the sweep to the same plan
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from flops_fit.errors import ManifestError, Note, RunDirError
from flops_fit.experiment.loading import fingerprint
from flops_fit.experiment.prepared import Prepared, written
from flops_fit.manifest.files import write_as, write_atomic, write_json
from flops_fit.manifest.manifest import Manifest, manifest_from, parse_manifest
from flops_fit.manifest.trials import Trial
from flops_fit.planning.plan import Plan
from flops_fit.sweep.entries import SweepExtended
from flops_fit.sweep.ledger import Ledger, LedgerState
from flops_fit.sweep.provenance import read_plan, read_provenance
from flops_fit.sweep.rundir import RunDir
from flops_fit.units import format_flops

_BUDGETS = re.compile(r"^(\s*budgets\s*=\s*)\[[^\]]*\]", re.MULTILINE)


@dataclass(frozen=True)
class Extension:
    """The changes that a new plan makes to a sweep.

    Attributes:
        plan: the new plan, with the ended trials that it does not ask for.
        kept: trials that the old and the new plan ask for.
        new: trials that only the new plan asks for.
        no_longer_asked: trials that only the old plan asks for; the ended ones stay in the fits.
    """

    plan: Plan
    kept: tuple[Trial, ...]
    new: tuple[Trial, ...]
    no_longer_asked: tuple[Trial, ...]

    def note(self, run: RunDir) -> Note:
        """Return a note on what changes."""
        flops = sum(trial.cost_flops for trial in self.new)
        said = f"the sweep changes: {len(self.kept)} trials are kept, {len(self.new)} are new"
        said += f" ({format_flops(flops)} FLOPs)" if self.new else ""
        said += f", {len(self.no_longer_asked)} are no longer asked for"
        ids = {trial.trial_id for trial in self.plan.trials}
        stay = [trial for trial in self.no_longer_asked if trial.trial_id in ids]
        if stay:
            first = stay[0].trial_id
            said += (
                f"; {len(stay)} of those have ended and stay in the fits (leave one out: "
                f"flops-fit drop {run.path} {first} --why TEXT)"
            )
        return Note("sweep_extended", said)


def is_extension(was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two identities of a manifest differ only in which trials they ask for."""
    return _without_trials(was) == _without_trials(now)


def _without_trials(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without [sweep] and the list of sizes."""
    model = {key: value for key, value in identity["model"].items() if key != "sizes"}
    rest = {key: value for key, value in identity.items() if key not in ("sweep", "model")}
    return {**rest, "model": model}


def extension_of(old: Plan, new: Plan, state: LedgerState) -> Extension:
    """Compare two plans of one experiment.

    Raises:
        RunDirError: only one of the plans has isoFLOP curves, so their trials do not mix.
    """
    if old.trials and old.has_curves != new.has_curves:
        raise RunDirError(
            "the new design and the old one do not mix: only one of them has isoFLOP curves",
            hint="start a new sweep with --run-dir, or keep a design of the same kind (`isoflop` "
            "and `ladder`, or `grid` and `fixed-tokens`)",
        )
    old_ids = {trial.trial_id for trial in old.trials}
    new_ids = {trial.trial_id for trial in new.trials}
    gone = tuple(trial for trial in old.trials if trial.trial_id not in new_ids)
    ended = [t for t in gone if t.trial_id in state.finished or t.trial_id in state.diverged]
    return Extension(
        plan=replace(new, trials=(*new.trials, *ended)),
        kept=tuple(trial for trial in new.trials if trial.trial_id in old_ids),
        new=tuple(trial for trial in new.trials if trial.trial_id not in old_ids),
        no_longer_asked=gone,
    )


def extend(run: RunDir, prepared: Prepared, plan: Plan) -> Note:
    """Give a run directory a new plan, and return what changes; this process holds its lock.

    Raises:
        RunDirError: the plans do not mix.
    """
    old, mark = read_plan(run), fingerprint(prepared.manifest)
    with closing(Ledger.open(run.ledger)) as ledger:
        extension = extension_of(old, plan, ledger.state)
        write_atomic(run.manifest, prepared.text)
        write_json(run.plan, extension.plan.to_dict())
        if ledger.state.fingerprint is not None:
            ledger.append(
                SweepExtended(
                    fingerprint=mark,
                    kept=len(extension.kept),
                    new=len(extension.new),
                    no_longer_asked=len(extension.no_longer_asked),
                )
            )
    changed = replace(
        read_provenance(run),
        fingerprint=mark,
        identity=prepared.manifest.identity,
        description=prepared.description,
    )
    write_as(run.provenance, changed)
    return extension.note(run)


def with_budgets(manifest: Manifest, text: str, more: Sequence[float]) -> tuple[Manifest, str]:
    """Return a manifest and its text with further isoFLOP budgets.

    Raises:
        ManifestError: the design has no list of budgets.
    """
    sweep = manifest.sweep
    if sweep.budgets is None or sweep.total_flops is not None:
        raise ManifestError(
            "`--add-budgets` adds to `budgets` in [sweep], and this sweep is sized by "
            f"`{'total_flops' if sweep.total_flops else 'design'}`",
            hint="raise `total_flops` or `levels` in [sweep] of the manifest, and run it again",
        )
    budgets = sorted({*sweep.budgets, *more})
    data = manifest.model_dump(mode="json", exclude_none=True)
    data["sweep"]["budgets"] = budgets
    changed = manifest_from(data, where="the command line")
    listed = ", ".join(format_flops(budget, 12) for budget in budgets)
    edited = _BUDGETS.sub(rf"\g<1>[{listed}]", text, count=1)
    try:
        is_right = parse_manifest(edited, where="the manifest") == changed
    except ManifestError:
        is_right = False
    # [report] has a list of the same name; where the text cannot be edited, it is written anew.
    return changed, edited if is_right else written(changed)
