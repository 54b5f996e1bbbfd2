"""A self-contained HTML report: one script of its own, no network, every text escaped.

Figures stand in the file as SVG images; the page's own policy forbids it to load anything, and
allows the one script (page.js) by its hash. Text from a manifest or a plugin goes through jinja2's
autoescape, like every other text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from flops_fit.errors import Note
from flops_fit.reporting.figures.style import PAGE, figure_bytes
from flops_fit.reporting.tables.cells import Column, cell, printable
from flops_fit.reporting.tables.table import Table
from flops_fit.reporting.verdict import Judgement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WORDS = {
    "trust": "Trust: every rule of a credible study is held.",
    "provisional": "Provisional: there is a law, with these doubts.",
    "refuse": "Refused: there is no law to believe. What was measured stands below.",
}


@dataclass(frozen=True)
class Image:
    """A figure with the sentence that belongs below it."""

    figure: Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """A section of the page: a heading with a table, a figure or plain text; folded or open."""

    title: str
    table: Table | None = None
    image: Image | None = None
    text: str = ""
    is_folded: bool = False


def render_page(
    title: str,
    judgement: Judgement,
    *,
    reasons: Sequence[Note] = (),
    answers: Sequence[str] = (),
    notes: Sequence[Note] = (),
    sections: Sequence[Section] = (),
) -> str:
    """Return the whole page as one HTML document.

    Args:
        title: of the experiment.
        judgement: it stands first, with its reasons.
        reasons: why the result is not trusted.
        answers: the predictions asked for, a sentence each.
        notes: what a reader must know besides.
        sections: in the order of reading.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    place = files("flops_fit.reporting")
    source = place.joinpath("page.html").read_text(encoding="utf-8")
    script = place.joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.from_string(source).render(
        title=printable(title),
        script=script,
        script_hash=f"sha256-{digest}",
        judgement=judgement,
        verdict_words=_WORDS[judgement],
        reasons=[_shown(reason) for reason in reasons],
        answers=answers,
        notes=[_shown(note) for note in notes],
        sections=[_section(section) for section in sections],
    )


def _section(section: Section) -> Mapping[str, Any]:
    """Return a section as the template reads it."""
    table = section.table
    return {
        "title": printable(section.title),
        "table": None if table is None else _table(table),
        "image": None if section.image is None else _image(section.image),
        "is_folded": section.is_folded,
        "notes": [] if table is None else [printable(note) for note in table.notes],
        "text": "\n".join(printable(line) for line in section.text.splitlines()),
    }


def _table(table: Table) -> Mapping[str, Any]:
    shown = table.for_people
    heads = [{"text": printable(column.header), "number": column.is_numeric} for column in shown]
    rows = [[_cell(row, column) for column in shown] for row in table.rows]
    return {"heads": heads, "rows": rows}


def _cell(row: Mapping[str, Any], column: Column) -> Mapping[str, Any]:
    """Return a cell with its interval apart, which goes below the value."""
    value, bracket, interval = cell(row, column), "", ""
    if column.has_interval:
        value, bracket, interval = value.partition(" (")
    raw = row.get(column.key)
    is_number = isinstance(raw, int | float) and not isinstance(raw, bool)
    return {
        "text": value,
        "below": f"({interval}" if bracket else "",
        "number": column.is_numeric,
        "value": repr(raw) if column.is_numeric and is_number else None,
    }


def _image(image: Image) -> Mapping[str, Any]:
    data = base64.b64encode(figure_bytes(image.figure, "svg")).decode("ascii")
    return {
        "caption": printable(image.caption),
        "source": f"data:image/svg+xml;base64,{data}",
        "is_narrow": image.figure.get_figwidth() < PAGE,
    }


def _shown(note: Note) -> Mapping[str, str]:
    return {"code": printable(note.code), "message": printable(note.message)}
