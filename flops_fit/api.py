"""find_optimal, and each stage as a function: the library's door."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

if TYPE_CHECKING:
    from flops_fit.experiment.prepared import Options, Prepared
    from flops_fit.fitting.law import Fit
    from flops_fit.fitting.tables.table import TableOptions
    from flops_fit.planning.estimate import Estimate
    from flops_fit.planning.plan import Plan
    from flops_fit.reporting.result import Result
    from flops_fit.sweep.caps import Limits
    from flops_fit.sweep.conductor import Watcher

# Imports wait inside the functions: `import flops_fit` is part of every command, and the manifest's
# validator alone takes longer to import than `--help` to print.


def plan(
    model_cls: Any,
    model_size_param: str = "",
    model_kwargs: Mapping[str, Any] | None = None,
    dataset: Any = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    compute_budgets: Sequence[float | str] | None = None,
    **options: Unpack[Options],
) -> Plan:
    """Return the plan of the sweep that `find_optimal` with the same arguments would run.

    Trains and writes nothing. Arguments and errors are those of `find_optimal`.
    """
    from flops_fit.sweep.opening import planned

    source = _source(
        model_cls, model_size_param, model_kwargs, dataset, loss_fn, compute_budgets, options
    )
    return planned(source)[1]


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
    **options: Unpack[Options],
) -> Estimate:
    """Return what the sweep that `find_optimal` would run costs in time, memory and money.

    The other arguments are those of `find_optimal`.

    Args:
        model_cls: as for `find_optimal`.
        model_size_param: as for `find_optimal`.
        model_kwargs: as for `find_optimal`.
        dataset: as for `find_optimal`.
        loss_fn: as for `find_optimal`.
        compute_budgets: as for `find_optimal`.
        flops_per_second: FLOP/s that one trial achieves; None times a few sizes on this machine.
        price_per_hour: price per device-hour; the manifest's if None.
        **options: as for `find_optimal`.
    """
    from flops_fit.planning.costing import make_estimate
    from flops_fit.sweep.opening import planned

    source = _source(
        model_cls, model_size_param, model_kwargs, dataset, loss_fn, compute_budgets, options
    )
    prepared, laid_out = planned(source)
    return make_estimate(
        prepared, laid_out, flops_per_second=flops_per_second, price_per_hour=price_per_hour
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
    **options: Unpack[Options],
) -> Result:
    """Train a sweep of a model's sizes and fit its scaling law.

    Args:
        model_cls: a class or factory of torch modules with `num_params()` (see `counted`); or, as
            the only description, the path of a manifest.
        model_size_param: name of the constructor argument that sets the size.
        model_kwargs: the other constructor arguments.
        dataset: a Dataset, a pair (training, held-out), or an object with `train` and `heldout`.
        loss_fn: (outputs, targets) -> mean loss in nats per unit of data; cross-entropy if None.
        compute_budgets: FLOPs of each isoFLOP curve; None if an option says how large the sweep
            is: `total_flops`, `top_flops`, `largest_params` or `tokens`.
        run_dir: where the sweep keeps its files; called again with the same arguments, it resumes.
            `runs/NAME-FINGERPRINT` if None.
        watcher: told of the ledger's entries and of progress.
        adaptive: choose the runs in batches, until the `goal` or a cap is reached.
        max_flops: the sweep stops before the trial that would pass this many FLOPs in all.
        max_hours: the same for device-hours, all trials added up.
        max_cost: the same for money, at `price_per_hour`.
        price_per_hour: price per device-hour; the manifest's if None.
        **options: any key of the manifest's [model], [sweep], [data] and [execution], by its own
            name; `training` (a mapping or a `Recipe`), `name`, `seed`, `count` (of FLOPs: a word,
            or a function (model, batch) -> FLOPs), `heldout_dataset`, and of [report]
            `target_budgets`, `methods` and `bootstrap`. `flops_fit.experiment.prepared.Options`
            lists them with their types.

    Raises:
        TypeError: an unknown option, or a missing argument.
        TrialsFailedError: every trial failed.
        CapReachedError: a cap was reached; the run directory holds the finished trials.
        FlopsFitError: as the stages raise.
    """
    from flops_fit.sweep.caps import Limits

    source = _source(
        model_cls, model_size_param, model_kwargs, dataset, loss_fn, compute_budgets, options
    )
    limits = Limits(max_flops, max_hours, max_cost, price_per_hour)
    return _sweep(source, run_dir, limits, watcher=watcher, is_adaptive=adaptive)


def _sweep(
    source: Path | Prepared,
    run_dir: str | Path | None,
    limits: Limits,
    *,
    watcher: Watcher | None,
    is_adaptive: bool,
) -> Result:
    """Plan, train and fit; raise an error with the reason if the sweep did not end."""
    from flops_fit.manifest.manifest import read_manifest
    from flops_fit.reporting.reading import read_run, write_report
    from flops_fit.sweep.caps import make_caps
    from flops_fit.sweep.opening import default_directory, open_sweep
    from flops_fit.sweep.publishing import publish_report
    from flops_fit.sweep.running import Execution, carry_out, error_of

    manifest = read_manifest(source) if isinstance(source, Path) else source.manifest
    directory = default_directory(manifest) if run_dir is None else Path(run_dir)
    with open_sweep(source, directory, is_adaptive=is_adaptive) as sweep:
        execution = Execution(caps=make_caps(manifest, limits), is_adaptive=is_adaptive)
        summary = carry_out(sweep, execution, watcher=watcher)
    if summary.is_interrupted:
        raise KeyboardInterrupt
    error = error_of(sweep, summary)
    if error is not None and not (summary.failed and summary.finished and summary.cap is None):
        raise error
    result = read_run(directory)
    if manifest.training.log_with:
        write_report(result, sweep.run.report)
        publish_report(sweep.run)
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
    no_guess: bool = False,
    scale: Mapping[str, float | str] | None = None,
    flops_per_token: str | None = None,
    group: str | None = None,
    loss_column: str | None = None,
    loss_unit: str | None = None,
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
        columns: of a table: our name to the table's, where they differ; `none` for one that is not
            to be read.
        strict: refuse a table with bad rows.
        no_guess: read no column by a guessed name.
        scale: factors of a table's columns: {"params": 1e6, "flops": "PF-days"}.
        flops_per_token: a multiple of params (`8N`), or the column of FLOPs per token.
        group: `none` to pool all rows, or `COLUMN=VALUE` to read one group; `report_groups` reads
            them all.
        loss_column: the table's column of losses.
        loss_unit: `nats`, `bits` or `perplexity`; by default what the column's name says, or nats.

    Raises:
        RunDirError: there is no such run directory.
        ManifestError: there is no such table; an option that the runs do not allow.
        ObservationsError: the table cannot be read or has no usable row.
    """
    from flops_fit.fitting.details import Loss
    from flops_fit.fitting.options import FitOptions
    from flops_fit.reporting.reading import read_source
    from flops_fit.units import parse_number

    return read_source(
        source,
        table=_table_options(
            columns, strict, no_guess, scale, flops_per_token, group, loss_column, loss_unit
        ),
        budgets=[parse_number(budget) for budget in budgets],
        methods=methods,
        bootstrap=bootstrap,
        options=FitOptions(
            loss=Loss(loss),
            huber_delta=huber_delta,
            irreducible_loss=irreducible_loss,
            interpolation=interpolation,
            seed=seed,
        ),
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
    no_guess: bool = False,
    scale: Mapping[str, float | str] | None = None,
    flops_per_token: str | None = None,
    group: str | None = None,
    loss_column: str | None = None,
    loss_unit: str | None = None,
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
        columns: our name to the table's, where they differ: {"loss": "val_loss"}; `none`
            for one that is not to be read.
        strict: refuse a table with bad rows.
        no_guess: read no column by a guessed name.
        scale: factors of a table's columns: {"params": 1e6, "flops": "PF-days"}.
        flops_per_token: a multiple of params (`8N`), or the column of FLOPs per token.
        group: `none` to pool all rows, or `COLUMN=VALUE` to read one group; `report_groups` reads
            them all.
        loss_column: the table's column of losses.
        loss_unit: `nats`, `bits` or `perplexity`; by default what the column's name says, or nats.

    Raises:
        ObservationsError: the table cannot be read or has no usable row.
        FitError: the runs do not support the fit; `.code` says why.
    """
    from flops_fit.fitting import fit as fitting
    from flops_fit.fitting.details import Loss
    from flops_fit.fitting.options import FitOptions
    from flops_fit.fitting.tables.table import read_table

    read = read_table(
        table,
        _table_options(
            columns, strict, no_guess, scale, flops_per_token, group, loss_column, loss_unit
        ),
    )
    found = fitting.fit(
        read.observations,
        FitOptions(
            loss=Loss(loss),
            huber_delta=huber_delta,
            irreducible_loss=irreducible_loss,
            interpolation=interpolation,
            bootstrap=bootstrap,
            seed=seed,
        ),
        method=method,
    )
    return replace(
        found,
        excluded=(*read.rejected, *found.excluded),
        notes=(*read.notes, *found.notes),
    )


def report_groups(
    source: Any, group: str | None = None, *, loss_columns: Sequence[str] = (), **options: Any
) -> dict[str, Result]:
    """Fit a table once for each group of its rows, or once for each of several losses.

    Args:
        source: a table of finished runs, as for `report`.
        group: the column that tells the groups apart.
        loss_columns: columns of losses, or `["all"]` for every one that is held-out.
        **options: as for `report`.

    Returns:
        By the group's label, or the column of losses.

    Raises:
        ObservationsError: the table cannot be read or has no usable row.
        TypeError: neither a group nor losses are named.
    """
    from flops_fit.fitting.tables.table import split

    if group is None and not loss_columns:
        raise TypeError("name a column: `group`, or `loss_columns`")
    table = _table_options(
        options.get("columns"), False, bool(options.get("no_guess")), options.get("scale"),
        options.get("flops_per_token"), group, options.get("loss_column"), options.get("loss_unit"),
    )  # fmt: skip
    results = {}
    for label, chosen in split(source, table, losses=loss_columns).items():
        named = {"group": chosen.group, "loss_column": chosen.loss_column}
        results[label] = report(source, **{**options, **named})
    return results


def _table_options(
    columns: Mapping[str, str] | None,
    strict: bool,
    no_guess: bool,
    scale: Mapping[str, float | str] | None,
    flops_per_token: str | None,
    group: str | None,
    loss_column: str | None,
    loss_unit: str | None,
) -> TableOptions:
    """Return the table options that a call's arguments state."""
    from flops_fit.fitting.tables.table import TableOptions

    return TableOptions(
        columns=columns or {},
        strict=strict,
        guesses=not no_guess,
        scale=scale or {},
        flops_per_token=flops_per_token,
        group=group,
        loss_column=loss_column,
        loss_unit=loss_unit,
    )


def _source(
    model_cls: Any,
    model_size_param: str,
    model_kwargs: Mapping[str, Any] | None,
    dataset: Any,
    loss_fn: Callable[[Any, Any], Any] | None,
    compute_budgets: Sequence[float | str] | None,
    options: Options,
) -> Path | Prepared:
    """Return the prepared experiment of a manifest's path or of live objects.

    Raises:
        TypeError: an unknown option, a missing argument, or arguments beside a manifest.
    """
    from flops_fit.experiment.prepared import prepare_live, refuse_unknown
    from flops_fit.sweep.ranks import refuse_launcher

    refuse_launcher("a script that calls flops_fit")
    refuse_unknown(options)
    if isinstance(model_cls, str | Path):
        given = (model_size_param, model_kwargs, dataset, loss_fn, compute_budgets, *options)
        if any(value is not None and value != "" for value in given):
            raise TypeError("a manifest states all options: give its path alone")
        return Path(model_cls)
    if not model_size_param:
        raise TypeError("`model_size_param` is missing: the argument that sets the model's size")
    return prepare_live(
        model_cls, model_size_param, model_kwargs, dataset, loss_fn, compute_budgets, options
    )
