"""Finished runs from anywhere (a CSV, JSON or JSONL table, or columns in memory) as Observations.

A table needs `params`, `tokens` and `loss`; it may have `flops`, `budget_flops`, `seed`,
`size_value`, `params_non_embedding`, `params_active`, a training curve's `step`, and `run` (which
training a row belongs to). Column names are taken from `columns`, else by these names, else guessed
from the usual ones, which is said in a note. Numbers are plain counts; losses are nats per unit of
data.

CSV: one header line, comma, semicolon or tab. JSON: a list of objects, or an object of lists.
JSONL: one object a line. In memory: a mapping of columns, or a data frame (anything with `columns`
and `[]`). A row that cannot be used is rejected with its place: the line number for CSV and JSONL
(the header is line 1), the position from 1 for the rest.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from flops_fit.errors import Note, ObservationsError
from flops_fit.fitting.points import Excluded, Observation, is_in_range

REQUIRED = ("params", "tokens", "loss")
OPTIONAL = (
    "flops", "budget_flops", "seed", "size_value", "params_non_embedding", "params_active", "step",
    "run", "name",
)  # fmt: skip
_POSITIVE = ("params", "tokens", "loss", "flops", "budget_flops")
_NUMBERS = (*_POSITIVE, "seed", "size_value", "params_non_embedding", "params_active", "step")
_GUESSES = {
    "params": ("n", "n_params", "num_params", "parameters", "model_size", "nparams"),
    "tokens": ("d", "n_tokens", "num_tokens", "training_tokens", "train_tokens", "ntokens"),
    "loss": ("l", "val_loss", "eval_loss", "validation_loss", "final_loss", "test_loss"),
    "flops": ("c", "compute", "training_flops", "total_flops", "flop"),
    "budget_flops": ("budget", "compute_budget", "flops_budget", "isoflop"),
    "step": ("steps", "iteration", "global_step"),
    "run": ("run_id", "model", "run_name"),
    "name": ("trial_id", "id"),
}
_NEVER_RUN = "model"  # a column of model names says which training only beside a step

Columns = Mapping[str, Sequence[Any]]
Row = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """What a table held.

    Attributes:
        observations: the usable rows, in the table's order.
        rejected: the rows left out, each named `row N` with the reason.
        notes: what was assumed: guessed columns, FLOPs taken as 6ND.
    """

    observations: tuple[Observation, ...]
    rejected: tuple[Excluded, ...]
    notes: tuple[Note, ...]


def read_table(
    source: str | PathLike[str] | Columns | Any,
    *,
    columns: Mapping[str, str] | None = None,
    strict: bool = False,
) -> Table:
    """Read finished runs from a file, a mapping of columns or a data frame.

    Args:
        source: a path (`.csv`, `.tsv`, `.json`, `.jsonl`), a mapping from column to values, or a
            data frame.
        columns: our name to the table's: {"params": "N", "loss": "val_loss"}.
        strict: refuse the table where any row would be rejected.

    Raises:
        ObservationsError: the table cannot be read, lacks a column, has no usable row, or has a
            bad one and `strict` is set.
    """
    where, headers, rows = _open(source)
    chosen, notes = _choose_columns(headers, columns or {}, where)
    observations: list[Observation] = []
    rejected: list[Excluded] = []
    seen: dict[tuple[object, ...], int] = {}
    assumed = False
    numbers = [(ours, chosen[ours]) for ours in _NUMBERS if ours in chosen]
    for number, row in rows:
        found = _observe(number, row, chosen, numbers)
        if isinstance(found, str):
            rejected.append(Excluded(f"row {number}", found))
            continue
        first = seen.setdefault(_content(found, is_named="name" in chosen), number)
        if first != number:
            rejected.append(Excluded(f"row {number}", f"the same as row {first}"))
            continue
        observations.append(found)
        assumed = assumed or "flops" not in chosen or _is_blank(row.get(chosen["flops"]))
    if strict and rejected:
        raise ObservationsError(
            f"{len(rejected)} of the rows of {where} cannot be used: {_list_some(rejected)}",
            hint="mend these rows, or leave out --strict to go on without them",
        )
    if not observations:
        raise ObservationsError(
            f"{where} has no usable row" + (f": {_list_some(rejected)}" if rejected else ""),
            hint="each row needs positive numbers for params, tokens and loss",
        )
    if assumed:
        notes.append(Note("flops_assumed", "FLOPs that the table lacks are taken as 6 N D"))
    return Table(tuple(observations), tuple(rejected), tuple(notes))


def _open(source: Any) -> tuple[str, list[str], Iterable[Row]]:
    """What to call the source in messages, its column names, and its numbered rows."""
    if isinstance(source, str | PathLike):
        path = Path(source)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ObservationsError(
                f"`{path}` cannot be read: {error}", hint="give a CSV, JSON or JSONL file"
            ) from None
        where = f"`{path}`"
        if not text.strip():
            raise ObservationsError(f"{where} is empty", hint="give a CSV, JSON or JSONL file")
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            return where, *_from_records(where, list(_json_lines(text, where)))
        if path.suffix.lower() == ".json":
            return where, *_from_json(where, text)
        return where, *_from_csv(where, text)
    names = getattr(source, "columns", None)
    if names is None:
        if not isinstance(source, Mapping):
            raise ObservationsError(
                f"a {type(source).__name__} is no table",
                hint="give a path, a mapping of columns or a data frame",
            )
        names = source.keys()
    return "the table", *_from_columns("the table", {str(k): source[k] for k in names})


def _from_csv(where: str, text: str) -> tuple[list[str], Iterable[Row]]:
    """Header and rows of a CSV text; a row's number is the line that it ends on."""
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    headers = [name.strip() for name in next(reader)]
    if len(set(headers)) != len(headers):
        twice = sorted({name for name in headers if headers.count(name) > 1})
        raise ObservationsError(
            f"{where} has two columns called `{twice[0]}`", hint="give each column its own name"
        )

    def rows() -> Iterator[Row]:
        try:
            for cells in reader:
                if cells:
                    row = dict(zip(headers, cells, strict=False))
                    if len(cells) != len(headers):
                        row = {_MISFIT: f"{len(cells)} cells where the header has {len(headers)}"}
                    yield reader.line_num, row
        except csv.Error as error:
            raise ObservationsError(
                f"line {reader.line_num} of {where} is not CSV: {error}", hint="mend that line"
            ) from None

    return headers, rows()


_MISFIT = "\0misfit"


def _json_lines(text: str, where: str) -> Iterator[Row]:
    """Each line of a JSONL text as an object; a line that is none becomes a row to reject."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            is_object = isinstance(row, dict)
            yield number, row if is_object else {_MISFIT: "not a JSON object"}


def _from_json(where: str, text: str) -> tuple[list[str], Iterable[Row]]:
    """Columns and rows of a JSON list of objects, or of an object of lists."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ObservationsError(
            f"{where} is not JSON: {error}", hint="one object a line goes into a .jsonl file"
        ) from None
    if isinstance(data, dict) and data and all(isinstance(v, list) for v in data.values()):
        return _from_columns(where, data)
    if isinstance(data, list):
        rows: list[Row] = [
            (k, row if isinstance(row, dict) else {_MISFIT: "not a JSON object"})
            for k, row in enumerate(data, start=1)
        ]
        return _from_records(where, rows)
    raise ObservationsError(
        f"{where} holds no table", hint="give a list of objects, or an object of lists"
    )


def _from_records(where: str, rows: list[Row]) -> tuple[list[str], Iterable[Row]]:
    """Columns (of all objects, in order of appearance) and rows of a list of objects."""
    names: dict[str, None] = {}
    for _, row in rows:
        names.update(dict.fromkeys(row))
    names.pop(_MISFIT, None)
    if not names:
        raise ObservationsError(f"{where} has no object with columns", hint="see docs/fitting.md")
    return list(names), rows


def _from_columns(where: str, table: Columns) -> tuple[list[str], Iterable[Row]]:
    """Columns and rows of a mapping from column to values."""
    lengths = {name: len(values) for name, values in table.items()}
    if len(set(lengths.values())) > 1:
        raise ObservationsError(
            f"the columns of {where} differ in length: {lengths}",
            hint="give one value a row in every column",
        )
    values = [v.tolist() if hasattr(v, "tolist") else v for v in table.values()]
    names = list(table)
    rows = enumerate(zip(*values, strict=True), start=1)
    return names, ((number, dict(zip(names, cells, strict=True))) for number, cells in rows)


def _choose_columns(
    headers: Sequence[str], columns: Mapping[str, str], where: str
) -> tuple[dict[str, str], list[Note]]:
    """Which of the table's columns holds each of ours; notes name the guesses."""
    known = (*REQUIRED, *OPTIONAL)
    for ours, theirs in columns.items():
        if ours not in known:
            raise ObservationsError(
                f"`{ours}` is no column that a fit uses", hint=f"use one of {', '.join(known)}"
            )
        if theirs not in headers:
            raise ObservationsError(
                f"{where} has no column `{theirs}`", hint=f"it has {', '.join(headers)}"
            )
    chosen = dict(columns)
    guessed: dict[str, str] = {}
    lowered = {name.lower(): name for name in reversed(headers)}
    for ours in known:
        if ours in chosen:
            continue
        if ours in headers:
            chosen[ours] = ours
            continue
        for guess in (ours, *_GUESSES.get(ours, ())):
            found = lowered.get(guess)
            if found is not None and found not in chosen.values():
                if guess == _NEVER_RUN and "step" not in chosen:
                    continue
                chosen[ours] = guessed[ours] = found
                break
    missing = [name for name in REQUIRED if name not in chosen]
    if missing:
        example = ",".join(f"{name}=YOUR_COLUMN" for name in missing)
        raise ObservationsError(
            f"{where} has no column for {', '.join(missing)}; it has {', '.join(headers)}",
            hint=f"say which ones they are: --columns {example}",
        )
    said = ", ".join(f"{ours} = `{theirs}`" for ours, theirs in guessed.items())
    return chosen, [Note("columns_guessed", f"columns were guessed: {said}")] if said else []


def _observe(
    number: int,
    row: Mapping[str, Any],
    chosen: Mapping[str, str],
    numbers: Sequence[tuple[str, str]],
) -> Observation | str:
    """The observation of one row, or why there is none; `numbers` are its columns of numbers."""
    if _MISFIT in row:
        return str(row[_MISFIT])
    values: dict[str, float] = {}
    for ours, theirs in numbers:
        cell = row.get(theirs)
        try:
            value = float(cell)  # type: ignore[arg-type]  # what is no number is caught below
        except (TypeError, ValueError, OverflowError):
            if not _is_blank(cell):
                return f"{ours} is not a number: {str(cell)[:40]!r}"
            if ours in REQUIRED:
                return f"{ours} is missing"
            continue
        if isinstance(cell, bool):
            return f"{ours} is not a number: {cell!r}"
        if not math.isfinite(value):
            return f"{ours} is not finite: {value}"
        if value <= 0 and ours in _POSITIVE:
            return f"{ours} is not positive: {value:g}"
        if ours in _POSITIVE and not is_in_range(ours, value):
            return f"{ours} is out of range: {value:g}"
        values[ours] = value
    values.setdefault("flops", 6.0 * values["params"] * values["tokens"])
    seed = values.pop("seed", None)
    run = row.get(chosen["run"]) if "run" in chosen else None
    name = row.get(chosen["name"]) if "name" in chosen else None
    return Observation(
        **values,
        name=f"row {number}" if _is_blank(name) else str(name),
        seed=None if seed is None else int(seed),
        run=None if _is_blank(run) else str(run),
    )


def _content(seen: Observation, *, is_named: bool) -> tuple[object, ...]:
    """What makes two rows the same: every number, and the name where the table gives one."""
    return (
        seen.params, seen.tokens, seen.flops, seen.loss, seen.budget_flops, seen.seed,
        seen.size_value, seen.step, seen.run, seen.name if is_named else None,
    )  # fmt: skip


def _is_blank(cell: Any) -> bool:
    """Whether a cell holds nothing."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _list_some(rejected: Sequence[Excluded], most: int = 5) -> str:
    """The first few rejected rows in words."""
    shown = "; ".join(f"{item.name}: {item.reason}" for item in rejected[:most])
    more = len(rejected) - most
    return f"{shown}; and {more} more" if more > 0 else shown
