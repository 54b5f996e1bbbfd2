"""Parses cells as numbers, in the ways that people write them.

`1e18`, `1,234`, `1 234`, `1_234`, `147M`, `1.2 billion`, `6x10^18`, `1.2 EFLOPs`, `3 PF-days`, and
decimal commas. Whether a comma separates thousands or decimals is decided once for the table, from
all its columns of numbers, because `1,234` alone can mean both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import ObservationsError
from flops_fit.units import unit_factor

Array = NDArray[np.float64]

_BLANK = frozenset(
    {"", "na", "n/a", "<na>", "none", "null", "-", "--", "?", "unknown", "not_recorded", "missing"}
)
_MOST_DIGITS = 60  # a longer cell is no number that a person wrote
_SPACES = dict.fromkeys(map(ord, "\u00a0\u2009\u202f '\u2019_"), None)
_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-"})
_HIGH = {ord(high): low for high, low in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True)}
_HIGH_POWER = re.compile(r"10\s*([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_LOSS_UNITS = re.compile(
    r"\s*(?:nats?|bits?)(?:\s*(?:/|per)\s*(?:tok|tokens?|byte))?$", re.IGNORECASE
)
_PLAIN = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_POWER = re.compile(rf"({_PLAIN})?\s*[x*\u00d7\u00b7]?\s*10\s*(?:\^|\*\*)\s*([+-]?\d+)")
_WITH_UNIT = re.compile(rf"[~\u2248]?\s*({_PLAIN})\s*([A-Za-z][A-Za-z/ _-]*)?")
_PLUS_MINUS = re.compile(r"\s*(?:\u00b1|\+/-|\+-)\s*[\d.,eE+-]+\s*$")
_COMMA = re.compile(r"\d,\d")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?(?:\s*[A-Za-z].*)?")
_DOTS = re.compile(r"[+-]?\d{1,3}(?:\.\d{3}){2,}(?:,\d*)?")


@dataclass(frozen=True)
class Numbers:
    """A column of numbers.

    Attributes:
        values: float64, shape (rows,); NaN where the cell holds no number.
        faults: of the cells that are neither a number nor blank, by position: what they hold.
        units: how many cells carried a unit or a multiplier, such as `147M`.
    """

    values: Array
    faults: Mapping[int, str]
    units: int = 0


def is_blank(cell: Any) -> bool:
    """Return whether a cell holds nothing, or a word for nothing."""
    if cell is None:
        return True
    if isinstance(cell, str):
        return len(cell) < 20 and cell.strip().lower() in _BLANK
    return type(cell).__name__ in ("NAType", "NaTType")


def parse_column(cells: Sequence[Any], *, has_decimal_commas: bool = False) -> Numbers:
    """Return the numbers of a column.

    Args:
        cells: text, or values of any kind.
        has_decimal_commas: whether a comma stands before the decimals.
    """
    kinds = set(map(type, cells))
    if bool not in kinds and kinds <= {float, int, str}:
        try:
            values = np.array([float(cell) for cell in cells])
            return Numbers(values, _not_finite(values))
        except (ValueError, OverflowError):
            pass
    values = np.full(len(cells), math.nan)
    faults: dict[int, str] = {}
    units = 0
    for place, cell in enumerate(cells):
        if is_blank(cell):
            continue
        value, has_unit = parse_cell(cell, has_decimal_commas=has_decimal_commas)
        if value is None:
            faults[place] = f"is not a number: {str(cell)[:40]!r}"
        elif not math.isfinite(value):
            faults[place] = f"is not finite: {value}"
        else:
            values[place] = value
            units += has_unit
    return Numbers(values, faults, units)


def _not_finite(values: Array) -> dict[int, str]:
    """Return the values that are NaN or infinite, by position."""
    places = np.flatnonzero(~np.isfinite(values)).tolist()
    return {place: f"is not finite: {values[place]}" for place in places}


def parse_cell(cell: Any, *, has_decimal_commas: bool = False) -> tuple[float | None, bool]:
    """Return the number that a cell holds, None if it holds none, and whether it carried a unit."""
    if isinstance(cell, bool):
        return None, False
    if not isinstance(cell, str):
        try:
            return float(cell), False
        except (TypeError, ValueError, OverflowError):
            return None, False
    text = cell.strip()
    if len(text) > _MOST_DIGITS:
        return None, False
    if not text.isascii():
        text = _HIGH_POWER.sub(lambda found: f"10^{found[1].translate(_HIGH)}", text)
        text = text.translate(_SIGNS)
    text = _PLUS_MINUS.sub("", text.removeprefix("'"))
    if text[-1:].isalpha():
        text = _LOSS_UNITS.sub("", text)
    if has_decimal_commas and "," in text:
        text = text.replace(".", "").replace(",", ".")
    elif _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    elif _DOTS.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    try:
        return float(text), False
    except ValueError:
        pass
    power = _POWER.fullmatch(text)
    if power is not None:
        try:
            return float(power[1] or 1) * 10.0 ** int(power[2]), False
        except OverflowError:
            return math.inf, False
    if text and text[0] in "0123456789.+-":
        try:
            return float(text.translate(_SPACES)), False
        except ValueError:
            pass
    found = _WITH_UNIT.fullmatch(text)
    if found is None:
        return None, False
    factor = 1.0 if found[2] is None else _factor(found[2])
    return (None, False) if factor is None else (float(found[1]) * factor, factor != 1.0)


def _factor(words: str) -> float | None:
    """Return the factor of a unit, with or without a noun: `B tokens`, `million params`."""
    parts = words.split()
    if len(parts) == 2 and unit_factor(parts[1]) == 1.0:
        return unit_factor(parts[0])
    return unit_factor(words)


def find_decimal_commas(
    columns: Mapping[str, Sequence[Any]], *, delimiter: str, where: str
) -> bool:
    """Return whether commas in the numbers of a table stand before the decimals.

    Args:
        columns: the cells of each column of numbers, by our name; no `loss` has thousands.
        delimiter: of a CSV file.
        where: how to name the table.

    Raises:
        ObservationsError: the columns contradict each other.
    """
    decimal, thousands, both = 0, 0, 0
    for name, cells in columns.items():
        for cell in cells:
            if not isinstance(cell, str) or "," not in cell or not _COMMA.search(cell):
                continue
            text = cell.strip()
            if not re.fullmatch(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?\s*[A-Za-z]{0,12}", text):
                continue
            first, last = text.index(","), text.rindex(",")
            digits = re.match(r"\d*", text[last + 1 :])
            assert digits is not None
            if first != last or "." in text[last:]:
                thousands += 1
            elif (
                "." in text[:first]
                or len(digits[0]) != 3
                or text.lstrip("+-").startswith("0,")
                or name == "loss"
            ):
                decimal += 1
            else:
                both += 1
    if decimal and thousands:
        raise ObservationsError(
            f"{where} has commas before decimals in {decimal} cells, and between thousands in "
            f"{thousands}",
            hint="write all numbers in one way, with a point before the decimals",
        )
    return decimal > 0 or (both > 0 and not thousands and delimiter == ";")
