"""Prints the totals and the warnings of a plan or an estimate above its table."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from flops_fit.cli.output import print_tables, shown_text, terminal_width
from flops_fit.errors import Note
from flops_fit.reporting.lines import coded_lines, command_lines, grouped, wrapped
from flops_fit.reporting.tables.table import FACTS, Table

_NAME = 11  # columns of the name of a fact


def print_summary(
    title: str,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[Note] = (),
    tables: Sequence[Table] = (),
) -> None:
    """Print a title with the totals, facts with their names, warnings, then the tables.

    Args:
        title: one sentence with the totals.
        facts: names and sentences, in order.
        notes: those that only inform are left to the facts; the others are warnings, and each
            code is printed once.
        tables: in order.
    """
    for line in summary_lines(title, facts, notes, min(terminal_width(100), 120)):
        typer.echo(shown_text(line))
    typer.echo()
    print_tables(tables, "terminal")


def summary_lines(
    title: str, facts: Sequence[tuple[str, str]], notes: Sequence[Note], width: int
) -> list[str]:
    """Return the lines above the table."""
    lines = wrapped(title, width, indent=2)
    for name, text in facts:
        lines += wrapped(text, width, first=f"  {name:<{_NAME}}", indent=_NAME + 2)
    warnings = grouped([(note.code, note.message) for note in notes if note.code not in FACTS])
    if warnings:
        lines += ["", "Warning" if len(warnings) == 1 else "Warnings"]
        for code, message in warnings:
            lines += coded_lines(message, code, width)
        word = warnings[0][0] if len(warnings) == 1 else "CODE"
        lines += command_lines(f"flops-fit explain {word}", width, first="      Explained by: ")
    return lines
