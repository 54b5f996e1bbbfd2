"""What a command prints: tables and data on standard output, all else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from flops_fit.cli.options import Format
from flops_fit.errors import FlopsFitError, ManifestError
from flops_fit.units import parse_number

if TYPE_CHECKING:
    from flops_fit.reporting.result import Result
    from flops_fit.reporting.tables.table import Table
    from flops_fit.sweep.conductor import SweepSummary
    from flops_fit.sweep.opening import OpenSweep


INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended
BROKEN_PIPE = 141  # and of one whose reader left, as `head` does


def say(text: str) -> None:
    """Tell the user something beside the result."""
    typer.echo(text, err=True)


def leave_interrupted(sweep: OpenSweep, summary: SweepSummary) -> NoReturn:
    """Say how to continue a sweep that Ctrl-C stopped, and leave with the exit code for it."""
    say(
        f"stopped: {summary.finished} trials finished, {summary.pending} to go; "
        f"go on with: {sweep.command}"
    )
    sys.exit(INTERRUPTED)


def print_error(error: FlopsFitError) -> None:
    """What is wrong, then how to go on."""
    say(f"error: {error.message}")
    if error.hint:
        say(f"\nhint: {error.hint}")


def print_json(data: Any) -> None:
    """Data for a program."""
    typer.echo(json.dumps(data, indent=1, allow_nan=False))


def print_tables(tables: Sequence[Table], layout: Format) -> None:
    """Tables for a person, in the asked form."""
    if layout == "terminal":
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else 140)
        for table in tables:
            with console.capture() as drawn:  # rich itself would end the program at a broken pipe
                console.print(table.to_rich())
            typer.echo(drawn.get(), nl=bool(table.notes))  # else the table ends with a blank line
        return
    write = {"markdown": "to_markdown", "latex": "to_latex", "csv": "to_csv"}[layout]
    for table in tables:
        typer.echo(getattr(table, write)())


def print_verdict(result: Result, layout: Format, *, with_answers: bool = False) -> None:
    """The verdict, the answers if wanted, and the reasons; comments where a table is LaTeX or CSV.

    Each answer is a sentence, as on the page.
    """
    lines = [f"verdict: {result.verdict}"]
    lines += ["", *result.answers(), ""] if with_answers and result.answers() else []
    lines += [f"  {reason.code}: {reason.message}" for reason in result.reasons]
    reasons = {reason.code for reason in result.reasons}
    lines += [f"  note: {note.message}" for note in result.notes if note.code not in reasons]
    mark = {"latex": "% ", "csv": "# ", "markdown": "> "}.get(layout, "")
    ending = "\\" if layout == "markdown" else ""
    for line in lines:
        typer.echo(f"{mark}{line}{ending}".rstrip() if line else mark.rstrip())
    typer.echo()


def number_of(text: str | None, option: str) -> float | None:
    """A positive number given to an option; None where it was not given."""
    if text is None:
        return None
    try:
        return parse_number(text)
    except ValueError as error:
        raise ManifestError(f"`{option}`: {error}", hint="write it as `1e18`") from None
