r"""Tables in LaTeX: booktabs, intervals below their values, nothing wider or longer than a page.

A table that fits on a page is a float whose tabular shrinks to the line where it must (graphicx). A
longer one breaks across pages (longtable, which keeps its width). Packages: array, booktabs,
graphicx, longtable; `PREAMBLE` loads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flops_fit.reporting.tables.cells import (
    MISSING,
    POSITIVE,
    Column,
    Shown,
    cell,
    format_value,
    printable,
)

PREAMBLE = r"\usepackage{array,booktabs,graphicx,longtable}"
_MOST_LINES = 47  # of a table in footnotesize on a page of the article class
_SIZES = (("scriptsize", 80), ("tiny", 94))  # of a longtable, and characters on a line of it
_WIDE = 28  # characters beyond which a column of text is set as a paragraph
_SHARES = (0.4, 0.78)  # of the line: what one such column takes, what several do together
_CHARACTERS = 80  # of footnotesize that fit on a line of the article class
_SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "\u2013": "--", "\u00d7": r"$\times$",
}  # fmt: skip


def to_latex(table: Shown) -> str:
    """Return the table as LaTeX source; needs what `PREAMBLE` loads."""
    columns = table.for_people
    widths = _paragraphs(columns, table.rows)
    lines = [line for row in table.rows for line in _lines(row, columns)]
    depth = len(lines) + sum(_extra_lines(row, widths) for row in table.rows)
    head = [r"\toprule", " & ".join(_head(column) for column in columns) + r" \\", r"\midrule"]
    notes = [rf"\par\smallskip\footnotesize {latex_text(note)}" for note in table.notes]
    caption = rf"\caption{{{latex_text(table.title)}}}"
    taken, wanted = _characters(columns, table.rows, widths), sum(widths.values())
    # What is shrunk to the line's width is shrunk in height too.
    if depth <= _MOST_LINES * max(1.0, taken / _CHARACTERS + wanted):
        whole = [
            r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{4pt}", caption,
            rf"\sbox0{{\begin{{tabular}}{{{_aligned(columns, widths)}}}", *head, *lines,
            r"\bottomrule", r"\end{tabular}}%",
            r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
            *notes, r"\end{table}",
        ]  # fmt: skip
    else:
        size, room = next((s for s in _SIZES if taken + wanted * s[1] <= s[1]), _SIZES[-1])
        left = max(0.15, 1 - taken / room)
        widths = {key: share * min(1.0, left / wanted) for key, share in widths.items()}
        whole = [
            rf"\begingroup\{size}\setlength{{\tabcolsep}}{{2.5pt}}",
            rf"\begin{{longtable}}{{{_aligned(columns, widths)}}}", rf"{caption}\\",
            *head, r"\endfirsthead", *head, r"\endhead", r"\bottomrule", r"\endfoot",
            *(line.replace(r"\scriptsize ", "") for line in lines),
            r"\end{longtable}", *notes, r"\endgroup",
        ]  # fmt: skip
    return "\n".join(whole) + "\n"


def latex_text(text: str) -> str:
    """Plain text with the signs that LaTeX would read as commands escaped."""
    return "".join(_SIGNS.get(c, c) for c in printable(text))


def latex_number(text: str) -> str:
    r"""A number in math mode: `1.5e11` -> `$1.5 \times 10^{11}$`."""
    mantissa, e, exponent = text.partition("e")
    if not e:
        return f"${text}$" if text.startswith("-") and text != MISSING else latex_text(text)
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if mantissa == "1" else f"${mantissa} \\times {power}$"


def _head(column: Column) -> str:
    """Return a header; of a long one, the unit or the last words are on a second line."""
    text = column.header
    first, bracket, unit = text.partition(" (")
    if bracket:
        return rf"\shortstack{{{latex_text(first)}\\({latex_text(unit)}}}"
    words = text.split()
    if len(text) <= 12 or len(words) < 2:
        return latex_text(text)
    half = math.ceil(len(words) / 2)
    above, below = (latex_text(" ".join(part)) for part in (words[:half], words[half:]))
    return rf"\shortstack{{{above}\\{below}}}"


def _paragraphs(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the columns of long text by key, each with its share of the line."""
    longest = {
        column.key: max((len(format_value(r.get(column.key), "text")) for r in rows), default=0)
        for column in columns
        if not column.is_numeric
    }
    wide = {key: length for key, length in longest.items() if length > _WIDE}
    whole = _SHARES[min(len(wide), 2) - 1]
    # By the root of its length: a long sentence wraps, but no word may be cut.
    total = sum(math.sqrt(length) for length in wide.values())
    return {key: whole * math.sqrt(length) / total for key, length in wide.items()}


def _extra_lines(row: Mapping[str, Any], widths: Mapping[str, float]) -> int:
    """Return the number of lines beyond the first that the paragraphs of a row take."""
    return max(
        (
            math.ceil(len(format_value(row.get(key), "text")) / (share * _CHARACTERS)) - 1
            for key, share in widths.items()
        ),
        default=0,
    )


def _characters(
    columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], widths: Mapping[str, float]
) -> float:
    """About how many characters wide the columns are that are no paragraphs, gaps included."""
    whole = 0.0
    for column in columns:
        whole += 3.5 if column.kind == "flops" else 1.5  # powers of ten are set wider than `1e18`
        if column.key not in widths:
            cells = [cell(row, column).split(" (") for row in rows]
            heads = column.header.replace(" (", "\n").split("\n") if "(" in column.header else []
            whole += max(len(part) for parts in [*cells, heads or ["N"]] for part in parts)
    return whole


def _aligned(columns: Sequence[Column], widths: Mapping[str, float]) -> str:
    """Return the columns of a tabular."""
    letters = [
        rf">{{\raggedright\arraybackslash}}p{{{widths[column.key]:.2f}\linewidth}}"
        if column.key in widths
        else "r"
        if column.is_numeric
        else "l"
        for column in columns
    ]
    return f"@{{}}{''.join(letters)}@{{}}"


def _lines(row: Mapping[str, Any], columns: Sequence[Column]) -> list[str]:
    """Return a row, with its intervals on a line below."""
    below = [_interval(row, column) for column in columns]
    first = _joined([_value(row, column) for column in columns])
    if not any(below):
        return [first]
    return [f"{first}*", f"{_joined(below)}[2pt]"]


def _joined(cells: Sequence[str]) -> str:
    """Cells as a line of a tabular.

    One that begins with `[` or `*` would be taken for an argument of the line's end above it.
    """
    line = " & ".join(cells) + r" \\"
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def _value(row: Mapping[str, Any], column: Column) -> str:
    value = row.get(column.key)
    if column.kind in ("flops", "parameter", "number") and isinstance(value, int | float):
        return latex_number(format_value(value, column.kind))
    return latex_text(cell({column.key: value}, column))


def _interval(row: Mapping[str, Any], column: Column) -> str:
    pair = row.get(f"{column.key}_interval") if column.has_interval else None
    if pair is None or row.get(column.key) is None:
        return ""
    # A dash is shorter, but between numbers that may be negative it would be read as a sign.
    join = "--" if column.kind in POSITIVE else " to "
    low, high = (latex_number(format_value(bound, column.kind)) for bound in pair)
    return rf"\scriptsize ({low}{join}{high})"
