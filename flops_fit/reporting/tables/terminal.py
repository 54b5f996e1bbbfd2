"""A table on a terminal: numbers stay whole, headers and sentences give way.

An interval goes below its value. Where the terminal has no room for whole headers, they break
between words; where it has none for all columns, the table is printed in parts below one another,
each of which begins with the columns that say what a row is about. Of very long tables the
beginning is shown. rich is imported when a table is printed, and not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flops_fit.reporting.tables.cells import Column, Shown, cell, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table as RichTable

_GAP = 2  # characters between columns
_SENTENCE = 30  # characters that a column of text may ask for: it goes on in the next line
_MAX_ROWS = 200  # more than anyone reads on a terminal; rich would lay them out for minutes


class ForTerminal:
    """A rich renderable that fits the table to the console that prints it."""

    def __init__(self, table: Shown) -> None:
        self.table = table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        from rich.text import Text

        table = self.table
        rows = table.rows[:_MAX_ROWS]
        more = len(table.rows) - len(rows)
        said = [printable(note) for note in table.notes]
        said += [f"{more:,} more rows: all are in the CSV and the JSON"] if more else []
        lines = [[_stacked(row, column) for column in table.columns] for row in rows]
        room = _Room(
            [_Needs.of(c, [line[k] for line in lines]) for k, c in enumerate(table.columns)]
        )
        parts = room.parts(options.max_width, keys=self._keys())
        for number, places in enumerate(parts, 1):
            title = printable(table.title) + (", continued" if number > 1 else "")
            # Not the table's own title and caption: these are folded to the width of its columns.
            yield Text(title, style="italic")
            yield self._part(lines, places, room.widths(places, options.max_width))
        if said:
            yield Text("\n".join(said), style="italic dim")

    def _keys(self) -> list[int]:
        """Return the columns that say what a row is about: those marked so, else the first."""
        return [k for k, column in enumerate(self.table.columns) if column.is_key] or [0]

    def _part(
        self, lines: Sequence[Sequence[str]], places: Sequence[int], widths: Sequence[int | None]
    ) -> RichTable:
        """Some of the columns as a table of their own."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for place, width in zip(places, widths, strict=True):
            column = self.table.columns[place]
            shown.add_column(
                Text(_headed(column)),
                justify="right" if column.is_numeric else "left",
                overflow="fold",
                width=width,
            )
        for line in lines:
            shown.add_row(*(Text(line[place]) for place in places))
        return shown


@dataclass(frozen=True)
class _Needs:
    """Width that a column needs.

    Attributes:
        least: numbers, intervals and words stay whole.
        neat: so does each line of the header.
        is_numeric: it has this width; a column of text takes what is left besides.
    """

    least: int
    neat: int
    is_numeric: bool

    @classmethod
    def of(cls, column: Column, cells: Sequence[str]) -> _Needs:
        """Return the needs of a column with these cells."""
        words = max(map(len, column.header.split()), default=0)
        head = max([words, *map(len, _headed(column).split("\n"))])
        whole = max([0, *(len(line) for text in cells for line in text.split("\n"))])
        if column.is_numeric:
            return cls(max(words, whole), max(head, whole), is_numeric=True)
        longest = max([0, *(len(word) for text in cells for word in text.split())])
        wanted = max(words, min(whole, _SENTENCE), min(longest, 2 * _SENTENCE))
        return cls(wanted, wanted, is_numeric=False)


@dataclass(frozen=True)
class _Room:
    """Columns arranged in the width of a terminal."""

    needs: Sequence[_Needs]

    def parts(self, width: int, *, keys: Sequence[int]) -> list[list[int]]:
        """Return the columns in one part if they fit; else in parts with the key columns."""
        every = list(range(len(self.needs)))
        if self._least(every) <= width:
            return [every]
        rest = [place for place in every if place not in keys]
        parts: list[list[int]] = []
        for place in rest:
            if parts and self._least([*keys, *parts[-1], place]) <= width:
                parts[-1].append(place)
            else:
                parts.append([place])
        return [sorted([*keys, *part]) for part in parts] or [every]

    def widths(self, places: Sequence[int], width: int) -> list[int | None]:
        """Return the width of each of these columns of numbers, with whole headers if they fit."""
        needs = [self.needs[place] for place in places]
        is_neat = sum(each.neat + _GAP for each in needs) <= width
        return [
            (each.neat if is_neat else each.least) if each.is_numeric else None for each in needs
        ]

    def _least(self, places: Sequence[int]) -> int:
        return sum(self.needs[place].least + _GAP for place in places)


def _headed(column: Column) -> str:
    """Return a header, its unit below its name."""
    return printable(column.header).replace(" (", "\n(")


def _stacked(row: Mapping[str, Any], column: Column) -> str:
    """Return a cell: the value, and below it the interval."""
    return cell(row, column).replace(" (", "\n(", int(column.has_interval))
