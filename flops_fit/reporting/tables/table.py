"""Plan, estimate, minima, laws and Chinchilla table as rich, Markdown, LaTeX, CSV and JSON.

A table is plain data: columns that know their unit, rows that hold numbers, notes below. The
builders decide what stands in it, the renderers how it looks. Every format has every column.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flops_fit.errors import Note
from flops_fit.fitting.details import Minimum
from flops_fit.fitting.law import Fit, Surface
from flops_fit.fitting.points import Excluded, Observation, ReadRow
from flops_fit.manifest.trials import Trial
from flops_fit.reporting.details import minimum_to_dict
from flops_fit.reporting.tables.cells import (
    Column,
    cell,
    csv_cell,
    flat_cells,
    format_value,
    printable,
)
from flops_fit.reporting.tables.latex import to_latex
from flops_fit.reporting.tables.terminal import ForTerminal
from flops_fit.units import plural


@dataclass(frozen=True)
class Table:
    """A table as plain data, with a renderer for each format.

    Attributes:
        title: what it shows.
        columns: in order, from left to right.
        rows: one mapping a row, by the columns' keys.
        notes: sentences that belong below it.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()

    @property
    def for_people(self) -> tuple[Column, ...]:
        """The columns that people are shown: without those that may be empty, and are."""
        return tuple(
            column
            for column in self.columns
            if not column.is_optional or any(row.get(column.key) is not None for row in self.rows)
        )

    def to_rich(self) -> ForTerminal:
        """Return the table for a terminal: a rich renderable, to be printed by a console."""
        return ForTerminal(replace(self, columns=self.for_people))

    def to_markdown(self) -> str:
        """Return a GitHub-flavoured Markdown table under a heading."""
        from tabulate import tabulate

        shown = self.for_people
        body = tabulate(
            [[_markdown(cell(row, column)) for column in shown] for row in self.rows],
            headers=[_markdown(column.header) for column in shown],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=[("right" if c.is_numeric else "left") for c in shown],
        )
        notes = "".join(f"\n- {_markdown(note)}" for note in self.notes)
        return f"### {_markdown(self.title)}\n\n{body}\n" + (f"{notes}\n" if notes else "")

    def to_latex(self) -> str:
        """Return a LaTeX table; it needs the packages booktabs, graphicx and longtable."""
        return to_latex(self)

    def to_csv(self) -> str:
        """Comma-separated values with a header; numbers unrounded, in house units."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(
            [csv_cell(name) for column in self.columns for name in flat_cells({}, column)]
        )
        plain = not any(column.has_interval or column.kind == "range" for column in self.columns)
        if plain:  # half the time for a table of 100,000 observations
            keys = [column.key for column in self.columns]
            writer.writerows([csv_cell(row.get(key)) for key in keys] for row in self.rows)
        else:
            writer.writerows(map(csv_cell, row.values()) for row in self.to_json())
        return buffer.getvalue()

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rows as plain data, ready for `json.dumps`."""
        return [
            {name: value for column in self.columns for name, value in _cells(row, column)}
            for row in self.rows
        ]


COST = Column("cost_flops", "to train (FLOPs)", "flops", is_optional=True)
"""What a trial really costs, where it goes on from a trunk that another has trained."""


def with_costs(trials: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return trials as plain data, with `cost_flops` if any of them continues a trunk."""
    shared = [(trial.get("trunk") or {}).get("shared_tokens", 0) for trial in trials]
    if not any(shared):
        return tuple(map(dict, trials))
    return tuple(
        {**trial, "cost_flops": (trial["tokens"] - tokens) * trial["flops_per_token"]}
        for trial, tokens in zip(trials, shared, strict=True)
    )


def plan_table(
    trials: Sequence[Trial], warnings: Sequence[Note] = (), unit: str = "token"
) -> Table:
    """Return the trials of a plan, with its total and its warnings below."""
    columns = (
        Column("trial_id", "trial"),
        Column("budget_flops", "budget (FLOPs)", "flops"),
        Column("size_value", "size", "plain"),
        Column("params", "N (params)", "count"),
        Column("params_non_embedding", "non-embedding", "count"),
        Column("params_active", "active", "count", is_optional=True),
        Column("flops_per_token", f"FLOPs per {unit}", "flops"),
        Column("tokens", f"D ({plural(unit)})", "count"),
        Column("steps", "steps", "integer"),
        Column("flops", "FLOPs", "flops"),
        COST,
        Column("seed", "seed", "integer"),
    )
    rows = with_costs([{**trial.to_dict(), "steps": trial.steps} for trial in trials])
    total = format_value(sum(trial.cost_flops for trial in trials), "flops")
    notes = (f"{len(trials)} trials, {total} FLOPs in all", *(_warning(w) for w in warnings))
    return Table("Plan", columns, rows, notes)


def short_plan_table(trials: Sequence[Trial], unit: str = "token") -> Table:
    """Return the trials of a plan in the columns that differ, for a terminal of 80 columns."""
    columns = (
        Column("trial_id", "trial"),
        Column("budget_flops", "budget (FLOPs)", "flops"),
        Column("size_value", "size", "plain"),
        Column("params", "N (params)", "count"),
        Column("tokens", f"D ({plural(unit)})", "count"),
        Column("tokens_per_param", "D per N", "number"),
        Column("steps", "steps", "integer"),
        COST,
        Column("seed", "seed", "integer", is_optional=True),
    )
    seeds = {trial.seed for trial in trials}
    rows = with_costs(
        [
            {
                **trial.to_dict(),
                "steps": trial.steps,
                "tokens_per_param": trial.tokens / trial.size.params,
                "seed": trial.seed if len(seeds) > 1 else None,
            }
            for trial in trials
        ]
    )
    return Table("Trials", columns, rows, ("every column: --format csv, or --json",))


def estimate_table(
    rows: Sequence[Mapping[str, Any]],
    *,
    unit: str = "token",
    totals: Mapping[str, Any] | None = None,
    warnings: Sequence[Note] = (),
) -> Table:
    """Return the expected cost of a plan, for each trial and in total.

    Args:
        rows: per trial `trial_id`, `size_value`, `tokens`, `flops`, `wall_seconds`,
            `memory_bytes`, `cost`; what is not known is absent or None.
        unit: what one unit of data is called.
        totals: `flops`, `wall_seconds`, `memory_bytes`, `cost` of the whole sweep; by default the
            sums over trials, one after another, and the largest memory.
        warnings: what a reader must know, set below the totals.
    """
    columns = (
        Column("trial_id", "trial"),
        Column("size_value", "size", "plain"),
        Column("tokens", f"D ({plural(unit)})", "count"),
        Column("flops", "FLOPs", "flops"),
        Column("wall_seconds", "time", "duration"),
        Column("memory_bytes", "memory", "bytes"),
        Column("cost", "cost", "money"),
    )
    whole = _totals(rows) | dict(totals or {})
    parts = [f"{format_value(whole['flops'], 'flops')} FLOPs"]
    kinds = (("wall_seconds", "duration", ""), ("memory_bytes", "bytes", " at the peak"),
             ("cost", "money", " in money"))  # fmt: skip
    for key, kind, suffix in kinds:
        if whole.get(key) is not None:
            parts.append(f"{format_value(whole[key], kind)}{suffix}")  # type: ignore[arg-type]
    notes = (f"{len(rows)} trials in all: {', '.join(parts)}", *(_warning(w) for w in warnings))
    return Table("Estimate", columns, tuple(rows), notes)


def minima_table(minima: Sequence[Minimum], unit: str = "token", loss_unit: str = "nats") -> Table:
    """Return the minimum of each isoFLOP curve."""
    columns = (
        Column("budget_flops", "budget (FLOPs)", "flops"),
        Column("status", "status"),
        Column("num_sizes", "sizes", "integer"),
        Column("params", "N (params)", "count", has_interval=True),
        Column("tokens", f"D ({plural(unit)})", "count"),
        Column("loss", f"loss ({loss_unit})", "loss"),
        Column("reason", "what is wrong"),
    )
    return Table("IsoFLOP minima", columns, tuple(map(minimum_to_dict, minima)))


def laws_table(fits: Mapping[str, Fit]) -> Table:
    """Return every parameter of every law, with its standard error and its 95 % interval.

    No standard error stands beside an interval that is narrower than it: a few wild draws made it.
    """
    columns = (
        Column("method", "method", is_key=True),
        Column("status", "status"),
        Column("parameter", "parameter", is_key=True),
        Column("value", "value", "parameter", has_interval=True),
        Column("standard_error", "standard error", "parameter"),
    )
    rows = tuple(
        {
            "method": method,
            "status": str(fit.status),
            "parameter": name,
            "value": value,
            "value_interval": fit.intervals.get(name),
            "standard_error": _telling_error(fit, name),
        }
        for method, fit in fits.items()
        for name, value in _parameters(fit).items()
    )
    return Table("Laws", columns, rows, ("a, b: N_opt ~ C^a, D_opt ~ C^b; in brackets: 95 %",))


def _telling_error(fit: Fit, name: str) -> float | None:
    """Return a parameter's standard error, if it is not larger than the interval's width."""
    error, interval = fit.standard_errors.get(name), fit.intervals.get(name)
    is_wild = error is not None and interval is not None and error > interval[1] - interval[0]
    return None if is_wild else error


def chinchilla_table(
    rows: Sequence[Mapping[str, Any]],
    unit: str = "token",
    loss_unit: str = "nats",
    *,
    notes: Sequence[str] = (),
) -> Table:
    """Return the compute-optimal allocation at each budget, by each method."""
    columns = (
        Column("budget_flops", "budget (FLOPs)", "flops", is_key=True),
        Column("method", "method", is_key=True),
        Column("params", "N (params)", "count", has_interval=True),
        Column("near_optimal", "near-optimal (N)", "range"),
        Column("tokens", f"D ({plural(unit)})", "count", has_interval=True),
        Column("tokens_per_param", f"{plural(unit)} per param", "number"),
        Column("loss", f"loss ({loss_unit})", "loss", has_interval=True),
        Column("nearest_size", "nearest size", "plain", is_optional=True),
        Column("wall_seconds", "time", "duration", is_optional=True),
        Column("cost", "cost", "money", is_optional=True),
        Column("extrapolation_decades", "decades beyond", "number"),
    )
    note = "near-optimal: any N in this range wastes at most 1 % of the compute"
    near = (note,) if any(row.get("near_optimal") for row in rows) else ()
    return Table("Compute-optimal allocation", columns, tuple(rows), (*near, *notes))


def excluded_table(excluded: Sequence[Excluded]) -> Table:
    """Return the runs that were left out of the fits, with reasons."""
    columns = (Column("name", "trial or row"), Column("reason", "reason"))
    rows = tuple({"name": out.name, "reason": out.reason} for out in excluded)
    return Table("Left out", columns, rows)


def rows_table(rows: Sequence[ReadRow], title: str, notes: Sequence[str] = ()) -> Table:
    """Return how each row of a table of runs was read."""
    columns = (
        Column("row", "row", is_key=True),
        Column("params", "N (params)", "count"),
        Column("tokens", "D (tokens)", "count"),
        Column("flops", "FLOPs", "flops"),
        Column("loss", "loss (nats)", "loss"),
        Column("reason", "not used because", is_optional=True),
    )
    shown = tuple({**row.to_dict(), "reason": row.reason or None} for row in rows)
    return Table(title, columns, shown, tuple(notes))


def observations_table(
    observations: Sequence[Observation],
    excluded: Sequence[Excluded] = (),
    fit: Fit | None = None,
    unit: str = "token",
    loss_unit: str = "nats",
) -> Table:
    """Return every trial with what the surface predicts for it, used or left out.

    Args:
        observations: the trials.
        excluded: which of them are left out, and why.
        fit: a fit of the surface; without, there are no residuals.
        unit: what one unit of data is called.
        loss_unit: what the loss is measured in.
    """
    columns = (
        Column("name", "trial or row"),
        Column("budget_flops", "budget (FLOPs)", "flops"),
        Column("params", "N (params)", "count"),
        Column("tokens", f"D ({plural(unit)})", "count"),
        Column("flops", "FLOPs", "flops"),
        Column("loss", f"loss ({loss_unit})", "loss"),
        Column("fitted", f"fitted ({loss_unit})", "loss"),
        Column("residual_percent", "residual (%)", "number"),
        Column("left_out", "left out because"),
    )
    reasons = {out.name: out.reason for out in excluded}
    law = None
    if fit is not None and {"E", "A", "B", "alpha", "beta"} <= set(fit.parameters):
        law = Surface(*(fit.parameters[name] for name in ("E", "A", "B", "alpha", "beta")))
    rows = []
    for seen in observations:
        fitted = None if law is None else law.loss(seen.params, seen.tokens)
        rows.append(
            {
                **{key: getattr(seen, key) for key in _OBSERVED},
                "fitted": fitted,
                "residual_percent": None if fitted is None else 100 * (seen.loss / fitted - 1),
                "left_out": reasons.get(seen.name) if seen.name else None,
            }
        )
    return Table("Observations", columns, tuple(rows))


_OBSERVED = ("name", "budget_flops", "params", "tokens", "flops", "loss")


def _parameters(fit: Fit) -> dict[str, float]:
    """Return a fit's parameters followed by its exponents a and b, each once."""
    exponents = {"a": fit.exponents.get("params"), "b": fit.exponents.get("tokens")}
    known = {name: value for name, value in exponents.items() if value is not None}
    return {**fit.parameters, **known}


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return sums over trials and the largest memory; None if a trial's figure is not known."""
    totals: dict[str, Any] = {}
    for key in ("flops", "wall_seconds", "memory_bytes", "cost"):
        values = [row.get(key) for row in rows]
        known = [value for value in values if value is not None]
        whole = max(known, default=None) if key == "memory_bytes" else sum(known)
        totals[key] = whole if len(known) == len(values) else None
    return totals


def _cells(row: Mapping[str, Any], column: Column) -> list[tuple[str, Any]]:
    return list(flat_cells(row, column).items())


FACTS = {"basis", "share_of_target", "no_target", "utilisation", "shared_trunks"}
"""Codes of notes that inform and warn of nothing."""


def _warning(note: Note) -> str:
    return note.message if note.code in FACTS else f"warning ({note.code}): {note.message}"


def _markdown(text: str) -> str:
    """Return the text with the signs that would break a cell or start a tag escaped."""
    escaped = printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return escaped.replace("*", "\\*").replace("_", "\\_").replace("`", "\\`")
