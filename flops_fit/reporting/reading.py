"""A Result from a run directory, or from a table of finished runs; loads no plugin and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flops_fit.errors import ManifestError, Note
from flops_fit.experiment.prepared import Prepared
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Excluded, Observation, ReadRow
from flops_fit.fitting.tables.table import Table, TableOptions, read_table
from flops_fit.fitting.tables.trackers import is_project
from flops_fit.manifest.files import write_atomic
from flops_fit.planning.plan import Plan
from flops_fit.reporting.budgets import default_targets, distinct_budgets, own_budgets
from flops_fit.reporting.result import Result
from flops_fit.sweep.ledger import LedgerState, observations_of, read_ledger, replay
from flops_fit.sweep.provenance import read_plan, require_trials, resume
from flops_fit.sweep.rundir import RunDir

if TYPE_CHECKING:
    from flops_fit.planning.adaptive.ladder import LadderCheck

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xlsx", ".parquet")
# Worth saying, and no reason to doubt a law.
_HARMLESS = {
    "shared_trunks", "heldout_split", "heldout_first", "data_seen_again", "elementwise_large",
}  # fmt: skip
_MOST_ROWS = 200  # of a table, on its page
_WALD = Note(
    "no_resampling",
    "a large table: intervals are Wald's, and the back-test uses a part of the runs; `--bootstrap "
    "1000` resamples",
)
_SIMULATED = Note(
    "simulated", "a rehearsal: the losses are drawn from a planted law, nothing was trained"
)


def read_source(source: Any, *, table: TableOptions | None = None, **options: Any) -> Result:
    """Fit a run directory, or a table of finished runs.

    Args:
        source: a path of either, or a table in memory.
        table: how a table is read.
        **options: of `read_run` and `read_table_of_runs`.

    Raises:
        ManifestError: there is no such table.
        FlopsFitError: as those two raise.
    """
    if not isinstance(source, str | Path) or is_project(str(source)):
        return read_table_of_runs(source, table=table, **options)
    path = Path(source)
    if not path.exists() and path.suffix.lower() in _TABLES:
        raise ManifestError(f"there is no file `{path}`", hint="give a table or a run directory")
    if path.is_dir() or not path.exists():
        return read_run(path, **options)
    return read_table_of_runs(path, table=table, **options)


def read_run(
    directory: Path,
    *,
    budgets: Sequence[float] = (),
    methods: Sequence[str] | None = None,
    bootstrap: int | None = None,
    shows_gains: bool = True,
    options: FitOptions = FitOptions(),  # noqa: B008  it is frozen
) -> Result:
    """Fit what a run directory holds so far; loads no plugin and no torch.

    Args:
        directory: of the run.
        budgets: FLOPs to answer for, besides the sweep's own, its goal and the manifest's.
        methods: which fits; the manifest's if None.
        bootstrap: resamples behind the intervals; the manifest's if None.
        shows_gains: as for `fit_all`.
        options: as for `fit_all`; `bootstrap` above takes the place of theirs.

    Raises:
        RunDirError: it is no run directory, or has no trials yet.
        ManifestError: the irreducible loss that is to be held is not below every loss.
    """
    from flops_fit.fitting.fit import fit_all

    run = RunDir(directory)
    prepared = resume(directory)
    plan = read_plan(run)
    state = replay(read_ledger(run.ledger))
    require_trials(directory, plan)
    simulated = (_SIMULATED,) if state.is_simulated else ()
    warnings = [warning for warning in plan.warnings if warning.code not in _HARMLESS]
    manifest, facts = prepared.manifest, prepared.description.facts
    goal = [] if manifest.sweep.goal is None else [manifest.sweep.goal.at]
    targets = tuple(distinct_budgets([*plan.budgets, *manifest.report.budgets, *goal, *budgets]))
    observations, left_out, drift = _usable(prepared, plan, state)
    _refuse_floor(observations, options.irreducible_loss)
    resamples = manifest.report.bootstrap if bootstrap is None else bootstrap
    fitted = fit_all(
        observations,
        replace(options, bootstrap=resamples),
        methods=_methods_for(plan, methods or manifest.report.methods),
        targets=targets,
        shows_gains=shows_gains,
    )
    return Result(
        fits=fitted.fits,
        failures=fitted.failures,
        observations=tuple(observations),
        excluded=(*_ended(state), *left_out, *fitted.excluded),
        targets=targets,
        notes=(*_unmet(state), *fitted.notes, *(w for w in plan.warnings if w.code in _HARMLESS)),
        unit=facts.unit,
        loss_unit=facts.loss_unit,
        name=manifest.name,
        plan_warnings=(*simulated, *_said(drift), *warnings),
        run_dir=directory,
        predictions=fitted.predictions,
        wastes=fitted.wastes,
        gains=fitted.gains,
    )


def _usable(
    prepared: Prepared, plan: Plan, state: LedgerState
) -> tuple[list[Observation], list[Excluded], LadderCheck | None]:
    """Return the trials to fit, those left out and why, and the ladder check if it failed.

    What the ladder check names is left out of a ladder that nobody has decided on yet.
    """
    seen = observations_of(state, plan.trials, has_curves=plan.has_curves)
    left_out = state.left_out
    kept = [each for each in seen if each.name not in left_out]
    drift = _drift_of(prepared, plan, kept)
    if drift and prepared.manifest.sweep.design == "ladder" and not state.decisions:
        left_out = left_out | dict.fromkeys(drift.members, drift.reason)
        kept = [each for each in kept if each.name not in left_out]
    return kept, [Excluded(*pair) for pair in left_out.items()], drift


def _ended(state: LedgerState) -> list[Excluded]:
    """Return the trials without a loss, and the diverged attempts before a retry."""
    ended = [
        Excluded(trial_id, f"{word}: {entry.error or 'no reason given'}")
        for word, entries in (("diverged", state.diverged), ("failed", state.failed))
        for trial_id, entry in entries.items()
    ]
    discarded = [
        Excluded(f"{trial_id}, seed {each.seed}", f"diverged, then trained again: {each.error}")
        for trial_id, entry in {**state.finished, **state.diverged}.items()
        for each in entry.discarded or ()
    ]
    return ended + discarded


def _drift_of(
    prepared: Prepared, plan: Plan, observations: Sequence[Observation]
) -> LadderCheck | None:
    """Return the ladder check of a sweep's runs, if it has failed."""
    from flops_fit.planning.adaptive.ladder import check_ladder

    if not plan.has_curves or not observations:
        return None
    manifest = prepared.manifest
    check = check_ladder(
        observations,
        target_flops=manifest.largest_target or 10 * max(plan.budgets),
        tokens_per_param=manifest.sweep.expected_ratio,
    )
    return check if check is not None and check.has_failed else None


def _said(drift: LadderCheck | None) -> tuple[Note, ...]:
    """Return a failed ladder check as a note."""
    return () if drift is None else (Note("small_scale_drift", drift.reason),)


def _unmet(state: LedgerState) -> tuple[Note, ...]:
    """Return a note if an adaptive sweep ended before it reached its goal."""
    from flops_fit.sweep.rounds import unmet_goal

    note = unmet_goal(state)
    return () if note is None else (note,)


def read_table_of_runs(
    source: Any,
    *,
    table: TableOptions | None = None,
    budgets: Sequence[float] = (),
    methods: Sequence[str] | None = None,
    bootstrap: int | None = None,
    shows_gains: bool = True,
    options: FitOptions = FitOptions(),  # noqa: B008  it is frozen
) -> Result:
    """Fit a table of finished runs: a path, a mapping of columns, or a data frame.

    Args:
        source: as for `read_table`.
        table: how it is read.
        budgets: FLOPs to answer for; ten times the largest run's too, where none is given.
        methods: which fits; all that need no more than finished runs if None.
        bootstrap: resamples behind the intervals; if None, 1,000, and Wald's intervals in their
            place for more than 20,000 runs, where the two agree and resampling takes minutes.
        shows_gains: as for `fit_all`.
        options: as for `fit_all`; `bootstrap` above takes the place of theirs.

    Raises:
        ObservationsError: the table cannot be read or has no usable row.
        ManifestError: the irreducible loss that is to be held is not below every loss.
    """
    from flops_fit.fitting.fit import fit_all
    from flops_fit.fitting.solver.search import LARGE

    read = read_table(source, table)
    targets = tuple(distinct_budgets(budgets or default_targets(read.observations)))
    rows = distinct_budgets([*own_budgets(read.observations), *targets])
    _refuse_floor(read.observations, options.irreducible_loss)
    is_large = len(read.observations) > LARGE
    resampled = None if bootstrap is not None or not is_large else _WALD
    resamples = bootstrap if bootstrap is not None else 0 if is_large else 1000
    fitted = fit_all(
        read.observations,
        replace(options, bootstrap=resamples),
        methods=_known_methods(methods),
        targets=rows,
        shows_gains=shows_gains,
    )
    return Result(
        fits=fitted.fits,
        failures=fitted.failures,
        observations=read.observations,
        excluded=(*read.rejected, *fitted.excluded),
        targets=targets,
        notes=(*read.notes, *fitted.notes, *([] if resampled is None else [resampled])),
        name=Path(source).stem if isinstance(source, str | Path) else "table",
        predictions=fitted.predictions,
        wastes=fitted.wastes,
        gains=fitted.gains,
        loss_unit=read.loss_unit,
        rows_read=_rows_shown(read),
    )


def _rows_shown(read: Table) -> tuple[ReadRow, ...]:
    """Return the rows of a table that its page lists: all of a short one, else those not used."""
    rows = read.explain()
    if len(rows) > _MOST_ROWS:
        rows = [row for row in rows if not row.used]
    return tuple(rows[:_MOST_ROWS])


def _refuse_floor(observations: Sequence[Observation], loss: float | None) -> None:
    """Refuse to hold the irreducible loss where runs have gone below it."""
    least = min((seen.loss for seen in observations), default=None)
    if loss is not None and least is not None and loss >= least:
        raise ManifestError(
            f"`--irreducible-loss {loss:g}` is not below the lowest loss of the runs, {least:g}",
            hint="give a smaller one, in the unit of the losses, or leave it out to have it fitted",
        )


def write_report(
    result: Result,
    folder: Path,
    *,
    formats: Sequence[str] = ("png", "svg"),
    columns: Literal[1, 2] | None = None,
    data: bool = False,
) -> list[Path]:
    """Write a result, its page and its figures; return the paths, the page first.

    Args:
        result: what to write.
        folder: where to; it is made.
        formats: of the figures: `png`, `svg`, `pdf`.
        columns: of a paper that each figure is to fill; None: its natural size.
        data: whether the numbers of each figure are written beside it, as CSV.
    """
    page = folder / "report.html"
    result.save(folder)
    figures = result.write_figures(folder, formats, columns=columns, data=data)
    write_atomic(page, result.to_html())
    return [page, *figures]


def _methods_for(plan: Plan, asked: Sequence[str] | None) -> Sequence[str] | None:
    """Return the methods asked for, else those that a plan without curves allows; None: all."""
    from flops_fit.fitting.fit import METHODS

    known = _known_methods(asked)
    if known is None and not plan.has_curves:
        return [method for method in METHODS if method not in ("isoflop", "envelope")]
    return known


def _known_methods(methods: Sequence[str] | None) -> Sequence[str] | None:
    """Return the checked methods; None if none are named: all that the runs allow."""
    from flops_fit.fitting.fit import METHODS

    for method in methods or ():
        if method not in METHODS:
            raise ManifestError(
                f"there is no fitting method `{method}`", hint=f"known: {', '.join(METHODS)}"
            )
    return methods or None
