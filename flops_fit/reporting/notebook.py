"""How a result looks in a notebook: the answer, the verdict, the table and the isoFLOP curves."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flops_fit.manifest.frames import to_html
from flops_fit.reporting.reported import Reported
from flops_fit.reporting.tables.cells import cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flops_fit.reporting.tables.table import Table

_MOST_REASONS = 3


def show_result(
    result: Reported, answers: Sequence[str], table: Table, figures: Mapping[str, Figure]
) -> str:
    """Return a result as HTML, with its figure inline."""
    shown = table.for_people
    rows = [[cell(row, column) for column in shown] for row in table.rows]
    reasons = [f"{reason.code}: {reason.message}" for reason in result.reasons[:_MOST_REASONS]]
    more = len(result.reasons) - len(reasons)
    parts = [
        f"<p><b>{html.escape(result.name or 'runs')}</b>: {html.escape(str(result.verdict))}</p>",
        *(f"<p>{html.escape(sentence)}</p>" for sentence in answers),
        *(f"<p>{html.escape(reason)}</p>" for reason in reasons),
        *([f"<p>{more} more reasons: <code>result.reasons</code></p>"] if more > 0 else []),
        to_html(table.title, [column.header for column in shown], rows),
        _figure(figures),
    ]
    return "\n".join(part for part in parts if part)


def _figure(figures: Mapping[str, Figure]) -> str:
    """Return the isoFLOP curves, or else the first figure, as an inline image; may be empty."""
    from flops_fit.reporting.figures.style import figure_bytes

    name = "isoflop" if "isoflop" in figures else next(iter(figures), None)
    if name is None:
        return ""
    image = base64.b64encode(figure_bytes(figures[name], "png")).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{image}">'
