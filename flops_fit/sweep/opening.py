"""Opens a sweep: from a manifest, a run directory or live objects, the same way for every door.

`run`, `transfer` and `find_optimal` open a sweep to carry it out (see `running`):

    1. prepare    read and validate the manifest; describe sizes and data
    2. plan       lay out the trials
    3. check      refuse a run directory that holds another experiment
    4. lock       one process conducts a run directory
    5. lay down   plan.json and provenance.json, then manifest.toml; or take up the files there

`plan` and `estimate` stop after the second step and write nothing. A crash leaves a directory
without manifest.toml, which is not a run directory: the next start lays it down again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from flops_fit.errors import ManifestError, Note, RunDirError
from flops_fit.experiment.child import ask_device
from flops_fit.experiment.description import stated_description
from flops_fit.experiment.loading import fingerprint
from flops_fit.experiment.plugins import load_plugin, require_trackers
from flops_fit.experiment.prepared import Prepared, prepare
from flops_fit.manifest.files import write_as, write_atomic, write_json
from flops_fit.manifest.manifest import (
    Manifest,
    manifest_from,
    read_manifest,
    read_manifest_text,
)
from flops_fit.planning.from_manifest import ground_of, make_plan, make_transfer_plan
from flops_fit.planning.plan import Plan
from flops_fit.sweep.drift import refuse_drift
from flops_fit.sweep.extending import extend, is_extension, with_budgets
from flops_fit.sweep.provenance import (
    Provenance,
    Study,
    check_same,
    default_run_dir,
    provenance_of,
    read_plan,
    read_provenance,
    refuse_edited_manifest,
    refuse_mixed,
    require_trials,
    resume,
)
from flops_fit.sweep.rundir import RunDir


@dataclass(frozen=True)
class OpenSweep:
    """A sweep that this process may carry out: it holds the lock of the run directory.

    Attributes:
        prepared: the experiment.
        run: the run directory.
        study: what the trials are for; a study of learning rates has its own command.
        notes: what the user should know about the plan.
    """

    prepared: Prepared
    run: RunDir
    study: Study = "sweep"
    notes: tuple[Note, ...] = ()

    @property
    def command(self) -> str:
        """The command that continues this sweep."""
        return f"flops-fit {'run' if self.study == 'sweep' else 'transfer'} {self.run.path}"

    def on_executor(self, name: str | None) -> OpenSweep:
        """Return this sweep with another executor for this session; None: the manifest's."""
        if name is None:
            return self
        manifest = self.prepared.manifest
        execution = manifest.execution.model_copy(update={"executor": name})
        changed = manifest.model_copy(update={"execution": execution})
        return replace(self, prepared=replace(self.prepared, manifest=changed))

    @property
    def plan(self) -> Plan:
        """The planned trials, as the run directory holds them now."""
        return read_plan(self.run)

    @property
    def is_simulated(self) -> bool:
        """Whether losses are drawn from a planted law."""
        return read_provenance(self.run).is_simulated

    @property
    def was_adaptive(self) -> bool:
        """Whether the sweep was started as an adaptive one, without a plan of its own."""
        return read_provenance(self.run).adaptive


@dataclass(frozen=True)
class RateGrid:
    """A grid of learning rates as a command asks for it; None: as [transfer] says.

    Attributes:
        sizes: values of the size parameter.
        rates: learning rates at each size.
        step: factor from one rate to the next.
        replicates: seeds at each rate.
        tokens: units of data of each trial.
    """

    sizes: tuple[int | float, ...] | None = None
    rates: int | None = None
    step: float | None = None
    replicates: int | None = None
    tokens: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the command sets no value."""
        return self == RateGrid()

    def on(self, manifest: Manifest) -> Manifest:
        """Return the manifest with this grid.

        Raises:
            ManifestError: a value breaks a rule of [transfer].
        """
        asked = {key: value for key, value in asdict(self).items() if value is not None}
        if "sizes" in asked:
            asked["sizes"] = list(asked["sizes"])
        data = manifest.model_dump(mode="json", exclude_none=True)
        data["transfer"] = {**data.get("transfer", {}), **asked}
        return manifest_from(data, where="the command line")


def planned(
    source: Path | Prepared,
    *,
    total_flops: float | None = None,
    device: str | None = None,
    needs_trials: bool = True,
) -> tuple[Prepared, Plan]:
    """Return the experiment and its plan, from a manifest, a run directory or live objects.

    Args:
        source: a manifest's path, a run directory, or a prepared experiment.
        total_flops: size the plan of a manifest to this many FLOPs in all.
        device: of another machine that will train the trials; None: as the manifest says.
        needs_trials: whether to refuse a run directory without trials.

    Raises:
        ManifestError: `total_flops` or `device` for a run directory, whose plan is fixed.
        RunDirError: the directory is not a run directory, or has no trials.
    """
    if isinstance(source, Prepared):
        return source, make_plan(source)
    if not source.is_dir():
        prepared = prepare(source, total_flops=total_flops, device=device)
        return prepared, make_plan(prepared)
    if total_flops is not None or device is not None:
        asked = "`--total-flops` sizes" if device is None else "`--for` makes"
        raise ManifestError(
            f"{asked} a new plan, and `{source}` already has a plan",
            hint="give the manifest instead of the run directory",
        )
    prepared, plan = resume(source), read_plan(RunDir(source))
    if needs_trials:
        require_trials(source, plan)
    return prepared, plan


def on_this_machine(prepared: Prepared) -> Prepared:
    """Return an experiment that can be run from this machine, with the devices that it has.

    Raises:
        PluginError: the executor is missing, or needs a package that is missing.
        ManifestError: the trials would run here, and the device is not here.
        FlopsFitError: the executor cannot be used from here.
    """
    execution, described = prepared.manifest.execution, prepared.description
    if prepared.experiment is not None:
        return prepared
    require_here = getattr(load_plugin("executor", execution.executor), "require_here", None)
    if require_here is not None:
        require_here()
    if execution.executor != "local" or execution.device in ("auto", "cpu", described.device):
        return prepared
    device, num_devices = ask_device(execution.device)  # Stated sizes: no plugin was loaded.
    return replace(prepared, description=replace(described, device=device, num_devices=num_devices))


@contextmanager
def open_sweep(
    source: Path | Prepared,
    run_dir: Path | None = None,
    *,
    simulated: bool = False,
    is_adaptive: bool = False,
    add_budgets: Sequence[float] = (),
    accept_drift: str | None = None,
    executor: str | None = None,
) -> Iterator[OpenSweep]:
    """Open a sweep to carry it out, and hold its lock until the block ends.

    A changed [sweep] or list of sizes extends a sweep that is there; any other change of what a
    trial is made of is refused.

    Args:
        source: a manifest's path, a run directory, or live objects, prepared.
        run_dir: where the sweep's files are; `runs/NAME` if None. A run directory as source is its
            own.
        simulated: whether losses of a new sweep are drawn from a planted law.
        is_adaptive: whether a new sweep begins without trials and chooses them as it goes.
        add_budgets: isoFLOP budgets, in FLOPs, to extend a sweep by.
        accept_drift: why code that changed since the sweep began may train its other trials.
        executor: another one than the manifest's for this session.

    Raises:
        ManifestError: the manifest breaks a rule.
        PluginError: a plugin is missing or breaks its contract.
        PlanError: the sizes and budgets do not fit each other, or the design cannot be adaptive.
        RunDirError: the directory holds another experiment or other files, or is in use; or the
            code changed since the sweep began.
    """
    if isinstance(source, Path) and source.is_dir():
        run, known = RunDir(source), resume(source)
        manifest, text = known.manifest, known.text
        simulated = read_provenance(run).is_simulated
    else:
        manifest = source.manifest if isinstance(source, Prepared) else read_manifest(source)
        run, text = RunDir(run_dir or _default_place(source, manifest.name)), _text_of(source)
    if not simulated:
        require_trackers(manifest.training.log_with)
    if add_budgets:
        if not run.is_run():
            raise ManifestError(
                f"`--add-budgets` extends a sweep that has started, and `{run.path}` has not",
                hint="write the budgets into [sweep] of the manifest",
            )
        manifest, text = with_budgets(manifest, text, add_budgets)
    if run.is_run():
        with run.lock():
            refuse_drift(run, accepted=accept_drift)
            taken_up = _taken_up(run, source, manifest, text, simulated=simulated)
            yield taken_up.on_executor(executor)
        return
    _refuse_other_files(run)
    prepared, plan = planned(source)
    prepared = OpenSweep(prepared, run).on_executor(executor).prepared
    if not simulated:
        prepared = on_this_machine(prepared)
    if is_adaptive:
        from flops_fit.sweep.rounds import make_terms

        make_terms(manifest, ground_of(prepared), plan)
    provenance = provenance_of(
        prepared, plan, study="sweep", simulated=simulated, is_adaptive=is_adaptive
    )
    with _laid_down(run, prepared, replace(plan, trials=()) if is_adaptive else plan, provenance):
        yield OpenSweep(prepared, run)


def _taken_up(
    run: RunDir, source: Path | Prepared, manifest: Manifest, text: str, *, simulated: bool
) -> OpenSweep:
    """Return the sweep of a run directory, extended if the manifest asks for other trials.

    Raises:
        RunDirError: the manifest describes another experiment.
    """
    provenance = read_provenance(run)
    is_same = provenance.fingerprint == fingerprint(manifest)
    is_fixed = provenance.adaptive or not is_extension(provenance.identity, manifest.identity)
    if is_same or is_fixed:
        check_same(run, manifest, simulated=simulated)
        _adopt(run, text)
        return OpenSweep(source if isinstance(source, Prepared) else resume(run.path), run)
    refuse_mixed(run, simulated=simulated)
    prepared = source if isinstance(source, Prepared) else _described(run, manifest, text)
    note = extend(run, prepared, make_plan(prepared))
    return OpenSweep(prepared, run, notes=(note,))


def _described(run: RunDir, manifest: Manifest, text: str) -> Prepared:
    """Return a run directory's experiment under a manifest that asks for other trials.

    The plugins are asked again only if other sizes may be planned.
    """
    known = resume(run.path)
    was = cast("Mapping[str, Any]", read_provenance(run).identity["model"])
    now = manifest.identity["model"]
    if was.get("sizes") == now.get("sizes") and manifest.model.sizes != "auto":
        stated = stated_description(manifest)
        return replace(known, manifest=manifest, text=text, description=stated or known.description)
    with tempfile.TemporaryDirectory(prefix="flops-fit-") as folder:
        path = Path(folder) / run.manifest.name
        path.write_text(text, encoding="utf-8")
        prepared = prepare(path, search_path=known.search_path)
    return replace(prepared, path=run.manifest)


@contextmanager
def open_study(
    source: Path, run_dir: Path | None = None, *, grid: RateGrid | None = None
) -> Iterator[OpenSweep]:
    """Open a study of learning rates to carry it out, and hold its lock until the block ends.

    A study may change its grid: what was trained counts where the new grid still asks for it.

    Args:
        source: a manifest's path, or the run directory of a study.
        run_dir: where the study's files are; `runs/NAME-transfer` if None.
        grid: what the command asks for, before what [transfer] says.

    Raises:
        ManifestError, PluginError, PlanError, RunDirError: as `open_sweep`.
    """
    grid = grid or RateGrid()
    if source.is_dir():
        prepared, run = resume(source, study="transfer"), RunDir(source)
        refuse_edited_manifest(run, prepared.manifest)
        if grid.is_empty:
            with run.lock():
                yield OpenSweep(prepared, run, "transfer")
            return
    else:
        manifest = read_manifest(source)
        run = RunDir(run_dir or default_run_dir(source, f"{manifest.name}-transfer"))
        if run.is_run():
            check_same(run, manifest, simulated=False, study="transfer")
            known = resume(run.path, study="transfer")
            prepared = replace(known, manifest=manifest, text=_text_of(source))
        else:
            _refuse_other_files(run)
            prepared = prepare(source)
    require_trackers(prepared.manifest.training.log_with)
    prepared = replace(prepared, manifest=grid.on(prepared.manifest))
    plan = make_transfer_plan(prepared)
    opened = OpenSweep(prepared, run, "transfer", plan.warnings)
    if run.is_run():
        with run.lock():
            _adopt(run, prepared.text)
            write_json(run.plan, plan.to_dict())
            yield opened
        return
    provenance = provenance_of(prepared, plan, study="transfer", simulated=False, is_adaptive=False)
    with _laid_down(run, prepared, plan, provenance):
        yield opened


@contextmanager
def _laid_down(
    run: RunDir, prepared: Prepared, plan: Plan, provenance: Provenance
) -> Iterator[None]:
    """Write the files of a new run directory, and hold its lock.

    Raises:
        RunDirError: the directory is in use or cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(run.lock())
            write_as(run.provenance, provenance)
            write_json(run.plan, plan.to_dict())
            # The manifest comes last: a directory that has it has all three.
            write_atomic(run.manifest, prepared.text)
        except OSError as error:
            raise RunDirError(
                f"`{run.path}` cannot be written: {error.strerror}",
                hint="name another directory with --run-dir",
            ) from None
        yield


def _refuse_other_files(run: RunDir) -> None:
    """Refuse to start a sweep among files that are not a sweep's.

    A start that was stopped before the manifest was in place has left files of a run directory
    only; they are written again.
    """
    if run.path.exists() and any(not run.is_of_start(each.name) for each in run.path.iterdir()):
        raise RunDirError(
            f"`{run.path}` is not empty and is not a run directory",
            hint="name another with --run-dir",
        )


def _adopt(run: RunDir, text: str) -> None:
    """Keep a changed manifest of the same experiment: execution, report and trackers may change."""
    if text != read_manifest_text(run.manifest):
        write_atomic(run.manifest, text)


def _text_of(source: Path | Prepared) -> str:
    """Return the manifest as written."""
    return source.text if isinstance(source, Prepared) else read_manifest_text(source)


def _default_place(source: Path | Prepared, name: str) -> Path:
    """Return a sweep's default directory."""
    path = source.path if isinstance(source, Prepared) else source
    return Path("runs") / name if path is None else default_run_dir(path, name)


def default_directory(manifest: Manifest) -> Path:
    """Return the default directory of a library call: `runs/NAME-FINGERPRINT`."""
    return Path("runs") / f"{manifest.name}-{fingerprint(manifest)}"
