"""Options of `flops-fit report` for tables: columns, units, and one law for each group."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.cli.options import Format
from flops_fit.cli.output import print_json, print_tables, say
from flops_fit.errors import ManifestError

if TYPE_CHECKING:
    from flops_fit.fitting.tables.table import TableOptions
    from flops_fit.reporting.result import Result

_PAIRS = re.compile(r",(?=\s*[a-z_]+\s*=)")


def columns_of(text: str | None) -> dict[str, str]:
    """Return `params=N,loss=loss (val, nats)` as a mapping; a column's name may have commas."""
    return _pairs(text, "--columns", "params=N,tokens=D,loss=val_loss")


def scale_of(text: str | None) -> dict[str, str]:
    """Return `params=1e6,flops=PF-days` as a mapping."""
    return {
        name: factor.rstrip(",") for name, factor in
        _pairs(text, "--scale", "params=1e6,tokens=1e9,flops=PF-days").items()
    }  # fmt: skip


def _pairs(text: str | None, option: str, example: str) -> dict[str, str]:
    """Return the NAME=VALUE pairs of an option, which commas separate."""
    pairs = [pair.partition("=") for pair in _PAIRS.split(text or "") if pair.strip(" ,")]
    for name, equals, value in pairs:
        if not equals or not name.strip() or not value.strip(' ",'):
            raise ManifestError(
                f"`{option}`: expected NAME=VALUE pairs with commas between, got `{text}`",
                hint=f"write {option} {example}",
            )
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}


def options_of(
    *,
    columns: str | None,
    strict: bool,
    no_guess: bool,
    scale: str | None,
    flops_per_token: str | None,
    group: str | None,
    loss_column: Sequence[str] | None,
    loss_unit: str | None,
    num_sources: int,
) -> list[TableOptions]:
    """Return the reading options of each source; only a table uses them.

    Raises:
        ManifestError: an option is not well formed.
    """
    from flops_fit.fitting.tables.table import ALL, TableOptions

    units = loss_unit.split(",") if loss_unit else [None]
    if len(units) not in (1, num_sources):
        raise ManifestError(
            f"`--loss-unit`: {len(units)} units for {num_sources} tables",
            hint="write one unit, or one for each table: --loss-unit nats,bits",
        )
    losses = loss_column or []
    one = TableOptions(
        columns=columns_of(columns),
        strict=strict,
        guesses=not no_guess,
        scale=scale_of(scale),
        flops_per_token=flops_per_token,
        group=group,
        loss_column=losses[0] if len(losses) == 1 and losses[0] != ALL else None,
    )
    units = units * num_sources if len(units) == 1 else units
    return [replace(one, loss_unit=unit) for unit in units]


def print_explanation(
    source: Path, options: TableOptions, layout: Format, *, as_json: bool
) -> None:
    """Print how each row of a table was read."""
    from flops_fit.fitting.tables.table import read_table
    from flops_fit.reporting.tables.table import rows_table

    if source.is_dir():
        raise ManifestError(f"`--explain` is for tables, and `{source}` is a run directory")
    read = read_table(str(source), options)
    rows = read.explain()
    if as_json:
        notes = [note.to_dict() for note in read.notes]
        print_json({"notes": notes, "rows": [row.to_dict() for row in rows]})
        return
    said = [note.message for note in read.notes]
    print_tables([rows_table(rows, f"Rows of {source}", said)], layout)


def with_one_convention(
    results: Sequence[Result],
    sources: Sequence[Path],
    tables: Sequence[TableOptions],
    read: Callable[..., Result],
) -> list[Result]:
    """Return two results with one convention of FLOPs, and say what was converted.

    Where one table counts its FLOPs and the other source has 6 N D, the counted table is read again
    with 6 N D. A run directory cannot be converted; the comparison refuses it.
    """
    from flops_fit.reporting.comparison import has_counted_flops

    found = list(results)
    counted = [has_counted_flops(result.used) for result in results]
    if len(found) != 2 or counted[0] == counted[1]:
        return found
    which = counted.index(True)
    if sources[which].is_dir():
        return found
    columns = {**tables[which].columns, "flops": "none", "flops_per_token": "none"}
    converted = replace(tables[which], columns=columns, flops_per_token="6N")
    found[which] = read(sources[which], table=converted)
    say(
        f"warning: the FLOPs of `{results[which].name}` are counted, and those of "
        f"`{results[1 - which].name}` are 6 N D: both are taken as 6 N D"
    )
    return found


def groups_of(
    sources: Sequence[Path],
    table: TableOptions,
    losses: Sequence[str] | None,
    read: Callable[..., Result],
) -> dict[str, Result] | None:
    """Return the result of each group or loss of a table; None if the table has one law.

    Raises:
        ManifestError: there are two sources, or a run directory.
    """
    from flops_fit.fitting.tables.table import ALL, has_groups, split

    several = losses if losses and (len(losses) > 1 or losses[0] == ALL) else []
    if not has_groups(table) and not several:
        return None
    if len(sources) > 1 or sources[0].is_dir():
        raise ManifestError(
            "`--group` and several `--loss-column` take one table",
            hint="choose one: --group COLUMN=VALUE, or one --loss-column",
        )
    each = split(sources[0], table, losses=several)
    return {label: read(sources[0], table=chosen) for label, chosen in each.items()}


def groups_table(results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Return one row for each group: its runs, its law, and its optimum at the largest target."""
    rows = []
    for label, result in results.items():
        row: dict[str, Any] = {
            "group": label, "verdict": str(result.verdict), "runs": len(result.used)
        }  # fmt: skip
        surface = result.fits.get("surface")
        if surface is not None:
            row |= {name: surface.parameters.get(name) for name in ("E", "alpha", "beta")}
        if result.fits and str(result.verdict) != "refuse":
            best = result.predict(max(result.targets))
            row |= {
                "flops": best.flops, "params": best.params, "tokens": best.tokens,
                "loss": best.loss, "params_interval": best.params_interval,
                "tokens_interval": best.tokens_interval, "loss_interval": best.loss_interval,
            }  # fmt: skip
        rows.append(row)
    return rows


def print_groups(results: Mapping[str, Result], layout: Format, *, as_json: bool) -> None:
    """Print the laws of the groups side by side."""
    from flops_fit.reporting.tables.cells import Column
    from flops_fit.reporting.tables.table import Table

    if as_json:
        print_json({"groups": {label: each.to_dict() for label, each in results.items()}})
        return
    columns = (
        Column("group", "group", is_key=True),
        Column("verdict", "verdict"),
        Column("runs", "runs", "integer"),
        Column("E", "E", "parameter"),
        Column("alpha", "alpha", "parameter"),
        Column("beta", "beta", "parameter"),
        Column("flops", "FLOPs", "flops"),
        Column("params", "N (params)", "count", has_interval=True),
        Column("tokens", "D (tokens)", "count", has_interval=True),
        Column("loss", "loss (nats)", "loss", has_interval=True),
    )
    for label, result in results.items():
        for note in result.notes:
            if note.code == "table_read":
                say(f"{label}: {note.message}")
    print_tables([Table("One law for each group", columns, tuple(groups_table(results)))], layout)
