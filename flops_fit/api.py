"""find_optimal, and each stage as a function: the library's door."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flops_fit.planning.estimate import Estimate
from flops_fit.planning.plan import Plan

if TYPE_CHECKING:
    from flops_fit.experiment.prepared import Prepared
    from flops_fit.fitting.law import Fit
    from flops_fit.reporting.result import Result
    from flops_fit.sweep.conductor import Watcher

# The rest is imported inside the functions: `import flops_fit` is part of every command, and the
# manifest's validator alone takes longer to import than `--help` to print. `plan` and `estimate`
# are imported here all the same, so that no later import of these rooms can hide the functions of
# the same name on the package.


def plan(
    model_cls: Any,
    model_size_param: str = "",
    model_kwargs: Mapping[str, Any] | None = None,
    dataset: Any = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    compute_budgets: Sequence[float | str] | None = None,
    **options: Any,
) -> Plan:
    """Lay out the sweep that `find_optimal` with the same arguments would run."""
    from flops_fit.planning.from_manifest import make_plan

    return make_plan(
        _prepared(
            model_cls, model_size_param, model_kwargs, dataset, loss_fn, compute_budgets, options
        )
    )


def estimate(
    model_cls: Any,
    model_size_param: str = "",
    model_kwargs: Mapping[str, Any] | None = None,
    dataset: Any = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    compute_budgets: Sequence[float | str] | None = None,
    *,
    flops_per_second: float | None = None,
    price_per_hour: float | None = None,
    **options: Any,
) -> Estimate:
    """Cost the sweep that `find_optimal` with the same arguments would run.

    Args:
        model_cls: this and the next five as for `find_optimal`.
        model_size_param: see there.
        model_kwargs: see there.
        dataset: see there.
        loss_fn: see there.
        compute_budgets: see there.
        flops_per_second: achieved by one trial; without it a few sizes are timed here.
        price_per_hour: of one device.
        **options: see there.
    """
    from flops_fit.planning.costing import make_estimate
    from flops_fit.planning.from_manifest import make_plan

    prepared = _prepared(
        model_cls, model_size_param, model_kwargs, dataset, loss_fn, compute_budgets, options
    )
    return make_estimate(
        prepared,
        make_plan(prepared),
        flops_per_second=flops_per_second,
        price_per_hour=price_per_hour,
    )


def find_optimal(
    model_cls: Any,
    model_size_param: str = "",
    model_kwargs: Mapping[str, Any] | None = None,
    dataset: Any = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    compute_budgets: Sequence[float | str] | None = None,
    *,
    run_dir: str | Path | None = None,
    watcher: Watcher | None = None,
    adaptive: bool = False,
    max_flops: float | None = None,
    max_hours: float | None = None,
    max_cost: float | None = None,
    price_per_hour: float | None = None,
    **options: Any,
) -> Result:
    """Train a sweep of a model's sizes and fit its scaling law.

    Args:
        model_cls: a class or factory of torch modules with `num_params()` (see `counted`); or,
            alone, the path of a manifest, which then says all the rest.
        model_size_param: the name of its argument that sets the size.
        model_kwargs: its other arguments.
        dataset: a Dataset, a pair (training, held-out), or an object with `train` and `heldout`.
        loss_fn: (outputs, targets) -> mean loss in nats per unit of data; cross-entropy if None.
        compute_budgets: FLOPs of each isoFLOP curve; None for another design, whose size is then
            among the options: `design`, `total_flops`, `top_flops`, `largest_params`, `tokens`.
        run_dir: where the sweep keeps its state; called again with the same arguments, it resumes.
            `runs/<model>-<fingerprint>` if None.
        watcher: told of the ledger's entries and of progress.
        adaptive: choose the runs one batch after another, until the `goal` or a cap is reached.
        max_flops: the sweep stops before the trial that would pass this many FLOPs in all.
        max_hours: the same for device hours, all trials added up.
        max_cost: the same for money, at `price_per_hour`.
        price_per_hour: of one device.
        **options: `heldout_dataset`, `sizes` and `derive` (as in the manifest), `design` and the
            keys of its `[sweep]` section: `total_flops`, `top_flops`, `levels`, `level_spacing`,
            `num_sizes`, `size_range`, `largest_params`, `tokens`, `goal`, `sizes_per_budget`,
            `tokens_per_param`, `size_span`, `replicates`, `seed`, `name`, `count` (of FLOPs; or a
            function (model, batch) -> FLOPs), `unit`, `units_per_example`, `unique_units`,
            `loss_unit`, `causal`, `training` (a mapping, as the manifest's section), `device`,
            `checkpoint_minutes`, `keep_checkpoints`, `target_budgets`, `methods`, `bootstrap`.

    Raises:
        TypeError: an unknown option, or a missing argument.
        CapReachedError: a cap was reached; the run directory holds what was trained.
        FlopsFitError: as the stages raise.
    """
    prepared = _prepared(
        model_cls, model_size_param, model_kwargs, dataset, loss_fn, compute_budgets, options
    )
    limits = {
        "max_flops": max_flops,
        "max_hours": max_hours,
        "max_cost": max_cost,
        "price_per_hour": price_per_hour,
    }
    return _sweep(prepared, run_dir, limits, watcher=watcher, is_adaptive=adaptive)


def _sweep(
    prepared: Prepared,
    run_dir: str | Path | None,
    limits: Mapping[str, float | None],
    *,
    watcher: Watcher | None,
    is_adaptive: bool,
) -> Result:
    """Plan, train, fit; a sweep that did not come to its end is an error that says why.

    `limits`: of `make_caps`.
    """
    from flops_fit.experiment.loading import fingerprint
    from flops_fit.planning.from_manifest import make_plan
    from flops_fit.reporting.reading import read_run, write_report
    from flops_fit.sweep.caps import make_caps
    from flops_fit.sweep.provenance import start_run
    from flops_fit.sweep.publishing import publish_report
    from flops_fit.sweep.running import carry_out, failure_of, stopped_at

    manifest = prepared.manifest
    name = f"{manifest.name}-{fingerprint(manifest)}"
    directory = Path("runs") / name if run_dir is None else Path(run_dir)
    run = start_run(prepared, make_plan(prepared), directory, is_adaptive=is_adaptive)
    caps = make_caps(manifest, **limits)
    summary = carry_out(prepared, run, watcher=watcher, caps=caps, is_adaptive=is_adaptive)
    if summary.is_interrupted:
        raise KeyboardInterrupt
    if summary.cap is not None:
        raise stopped_at(run, summary)
    if summary.failed and not summary.finished:
        raise failure_of(run, summary)
    result = read_run(directory)
    if manifest.training.log_with:
        write_report(result, run.report)
        publish_report(run)
    return result


def report(
    source: Any,
    *,
    budgets: Sequence[float | str] = (),
    methods: Sequence[str] | None = None,
    bootstrap: int | None = None,
    seed: int = 0,
    loss: str = "adaptive",
    huber_delta: float = 1e-3,
    irreducible_loss: float | None = None,
    interpolation: Literal["parabola", "akima"] = "parabola",
    columns: Mapping[str, str] | None = None,
    strict: bool = False,
) -> Result:
    """Fit finished runs by every method: verdict, laws, answers with intervals, tables, figures.

    Args:
        source: a run directory, finished or not, or a table of finished runs: a path (CSV, JSON or
            JSONL), a mapping of columns, or a data frame.
        budgets: FLOPs to answer for, besides the sweep's own and its manifest's.
        methods: which laws; the manifest's, or all that the runs allow, if None.
        bootstrap: resamples behind the intervals; the manifest's, or 1,000, if None.
        seed: of the resamples.
        loss: of the surface, and so the next two: as for `fit`.
        huber_delta: see there.
        irreducible_loss: see there.
        interpolation: of the isoFLOP curves: `parabola` or `akima`.
        columns: of a table: our name to the table's, where they differ.
        strict: refuse a table with bad rows.

    Raises:
        RunDirError: there is no such run directory.
        ManifestError: there is no such table; an option that the runs do not allow.
        ObservationsError: the table cannot be read or has no usable row.
    """
    from flops_fit.reporting.reading import read_source
    from flops_fit.units import parse_number

    return read_source(
        source,
        columns=columns,
        strict=strict,
        budgets=[parse_number(budget) for budget in budgets],
        methods=methods,
        bootstrap=bootstrap,
        seed=seed,
        loss=loss,
        huber_delta=huber_delta,
        irreducible_loss=irreducible_loss,
        interpolation=interpolation,
    )


def fit(
    table: Any,
    *,
    method: str = "surface",
    loss: str = "adaptive",
    huber_delta: float = 1e-3,
    bootstrap: int = 0,
    seed: int = 0,
    irreducible_loss: float | None = None,
    interpolation: Literal["parabola", "akima"] = "parabola",
    columns: Mapping[str, str] | None = None,
    strict: bool = False,
) -> Fit:
    """Fit one law to a table of finished runs; `report` gives all of them, with intervals.

    Args:
        table: a path (CSV, JSON or JSONL), a mapping of columns, or a data frame.
        method: `surface`, `isoflop`, `envelope`, `kaplan`, `general` or `extrapolation`.
        loss: of the surface: `adaptive`, `huber`, `log-ls` or `ls`.
        huber_delta: threshold of `huber`, in log loss.
        bootstrap: resamples behind standard errors and intervals; 0 for none.
        seed: of the resamples.
        irreducible_loss: hold the surface's E at this value, in the losses' unit.
        interpolation: of the isoFLOP curves: `parabola` or `akima`.
        columns: our name to the table's, where they differ: {"loss": "val_loss"}.
        strict: refuse a table with bad rows.

    Raises:
        ObservationsError: the table cannot be read or has no usable row.
        FitError: the runs do not support the fit; `.code` says why.
    """
    from flops_fit.fitting import fit as fitting
    from flops_fit.fitting.observations import read_table

    read = read_table(table, columns=columns, strict=strict)
    found = fitting.fit(
        read.observations,
        method=method,
        loss=loss,
        huber_delta=huber_delta,
        bootstrap=bootstrap,
        seed=seed,
        irreducible_loss=irreducible_loss,
        interpolation=interpolation,
    )
    return replace(
        found,
        excluded=(*read.rejected, *found.excluded),
        notes=(*read.notes, *found.notes),
    )


def _prepared(
    model_cls: Any,
    model_size_param: str,
    model_kwargs: Mapping[str, Any] | None,
    dataset: Any,
    loss_fn: Callable[[Any, Any], Any] | None,
    compute_budgets: Sequence[float | str] | None,
    options: Mapping[str, Any],
) -> Prepared:
    """A manifest's path, or live objects, prepared; unknown options are refused."""
    from flops_fit.experiment.prepared import OPTIONS, prepare, prepare_live
    from flops_fit.sweep.ranks import refuse_launcher

    refuse_launcher("a script that calls flops_fit")
    for option in options:
        if option not in OPTIONS and option != "heldout_dataset":
            known = ", ".join(["heldout_dataset", *OPTIONS])
            raise TypeError(f"unexpected argument `{option}`; known: {known}")
    if isinstance(model_cls, str | Path):
        given = (model_size_param, model_kwargs, dataset, loss_fn, compute_budgets, *options)
        if any(value is not None and value != "" for value in given):
            raise TypeError("a manifest says everything: give its path alone")
        return prepare(model_cls)
    if not model_size_param:
        raise TypeError("`model_size_param` is missing: the argument that sets the model's size")
    return prepare_live(
        model_cls, model_size_param, model_kwargs, dataset, loss_fn, compute_budgets, options
    )
