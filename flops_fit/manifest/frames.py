"""Rows of plain data for a notebook: as an HTML table, or as a pandas data frame."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from flops_fit.errors import ManifestError

_MOST_ROWS = 30


def to_html(
    title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> str:
    """Return a title, a table of at most 30 rows, and notes as HTML; all text is escaped."""
    from tabulate import tabulate

    shown = [[str(cell) for cell in row] for row in rows[:_MOST_ROWS]]
    table = tabulate(shown, headers=list(headers), tablefmt="html", disable_numparse=True)
    more = len(rows) - len(shown)
    below = [*notes, *([f"{more} more rows"] if more > 0 else [])]
    parts = [f"<p><b>{html.escape(title)}</b></p>", table]
    return "\n".join([*parts, *(f"<p>{html.escape(note)}</p>" for note in below)])


def to_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return rows as a pandas data frame.

    Raises:
        ManifestError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise ManifestError(
            "`to_pandas` needs the package `pandas`, which is not installed",
            hint="pip install pandas, or use the method `to_dict`",
        ) from None
    return pd.DataFrame([dict(row) for row in rows])
