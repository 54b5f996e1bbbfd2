"""Columns and cells: how a value of a table reads on a screen, in LaTeX, and in a CSV file.

A value is written once, as a number; its column says what it is (a count, FLOPs, a loss, seconds)
and each format shows it in its own way. For people an interval stands in the cell of its value;
in CSV and JSON it has columns of its own, with every digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flops_fit.units import format_bytes, format_count, format_duration, format_flops

Kind = Literal[
    "text", "plain", "range", "integer", "count", "flops", "loss", "number", "parameter",
    "duration", "bytes", "money",
]  # fmt: skip
MISSING = "-"
WIDEST = 30.0  # upper over lower end of an interval that a reader still believes
POSITIVE = frozenset({"count", "flops", "loss", "duration", "bytes", "money"})


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        key: where rows keep the value, and its name in CSV and JSON.
        header: what people read; with its unit, where it has one.
        kind: how the value is written for people.
        has_interval: rows may keep a pair (low, high) under `<key>_interval`.
        is_optional: people are not shown it where no row has a value; programs are.
        is_key: it says what a row is about, so each part of a table too wide for a terminal has it.
    """

    key: str
    header: str
    kind: Kind = "text"
    has_interval: bool = False
    is_optional: bool = False
    is_key: bool = False

    @property
    def is_numeric(self) -> bool:
        """Whether the column is set flush right."""
        return self.kind != "text"


class Shown(Protocol):
    """Protocol of a table that a renderer writes."""

    @property
    def title(self) -> str:
        """Title of the table."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """From left to right."""

    @property
    def for_people(self) -> tuple[Column, ...]:
        """The columns that people are shown."""

    @property
    def rows(self) -> tuple[Mapping[str, Any], ...]:
        """By the columns' keys."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences below."""


def printable(text: object) -> str:
    """Return the text with control characters spelt out, so that no name can steer a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def csv_cell(value: object) -> object:
    """Return a value for a CSV file: no text that a spreadsheet would run, no control character.

    An apostrophe before `=`, `+`, `-` or `@` makes a spreadsheet read text as text. Numbers stay.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def format_value(value: object, kind: Kind) -> str:
    """Return one value for people; `-` if there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if kind == "range" and isinstance(value, tuple | list):
        return "\u2013".join(format_count(bound) for bound in value)
    if kind == "text" or isinstance(value, str | bool) or not isinstance(value, int | float):
        return printable(value)
    if not math.isfinite(value):
        return str(value)
    match kind:
        case "plain":
            return f"{value:.10g}"
        case "integer":
            return f"{value:.0f}"
        case "count":
            return format_count(value)
        case "flops":
            return format_flops(value)
        case "loss":
            return f"{value:.4f}" if abs(value) < 1e4 else significant(value, 3)
        case "number":
            return significant(value, 3)
        case "parameter":
            return significant(value, 5)
        case "duration":
            return format_duration(value)
        case "bytes":
            return format_bytes(value)
        case "money":
            return significant(value, 2) if 0 < value < 0.1 else f"{value:,.2f}"
    return printable(value)


def significant(value: float, digits: int) -> str:
    """Return a number with `digits` significant digits; powers of ten outside 1e-3 to 1e6."""
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return format_flops(value, digits) if value > 0 else f"-{format_flops(-value, digits)}"
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")  # 0.9999 to three digits is 1.00, not 1.000
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{decimals}f}"


def cell(row: Mapping[str, Any], column: Column) -> str:
    """Return the text of one cell: the value, then the interval in brackets."""
    text = format_value(row.get(column.key), column.kind)
    interval = row.get(f"{column.key}_interval") if column.has_interval else None
    if interval is None or text == MISSING:
        return text
    low, high = (format_value(bound, column.kind) for bound in interval)
    # A dash is shorter, but between numbers that may be negative it would be read as a sign.
    join = "\u2013" if column.kind in POSITIVE else " to "
    return f"{text} ({low}{join}{high})"


def flat_cells(row: Mapping[str, Any], column: Column) -> dict[str, Any]:
    """Return the cells of a value in CSV and JSON: itself, and `<key>_low`, `<key>_high`."""
    if column.kind == "range":
        low, high = row.get(column.key) or (None, None)
        return {f"{column.key}_low": low, f"{column.key}_high": high}
    cells = {column.key: row.get(column.key)}
    if column.has_interval:
        low, high = row.get(f"{column.key}_interval") or (None, None)
        cells |= {f"{column.key}_low": low, f"{column.key}_high": high}
    return cells
