"""Prints: tables and data go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import shutil
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


_loudness = {"quiet": False, "verbose": False}


def set_loudness(*, quiet: bool, verbose: bool) -> None:
    """Store the options `--quiet` and `--verbose`."""
    _loudness.update(quiet=quiet, verbose=verbose)


def is_quiet() -> bool:
    """Return whether only results and errors are printed."""
    return _loudness["quiet"]


def is_verbose() -> bool:
    """Return whether more progress, and tracebacks of errors, are printed."""
    return _loudness["verbose"]


def examples(*commands: str) -> str:
    """Return the last lines of a command's help: commands to copy."""
    return "\n\n".join(["Examples:", *(f"  {command}" for command in commands)])


def say(text: str) -> None:
    """Print progress, a warning or a hint on standard error; nothing under `--quiet`."""
    if not is_quiet():
        typer.echo(shown_text(text), err=True)


def shown_text(text: str) -> str:
    """Lines for a terminal: control characters, escape codes and bidi marks are spelt out."""
    from flops_fit.reporting.tables.cells import printable

    return "\n".join(map(printable, text.split("\n")))


def leave_interrupted(sweep: OpenSweep, summary: SweepSummary) -> NoReturn:
    """Say how to continue a sweep that Ctrl-C stopped, and leave with the exit code for it."""
    say(
        f"stopped: {summary.finished} trials finished, {summary.pending} to train; "
        f"continue with: {sweep.command}"
    )
    sys.exit(INTERRUPTED)


def print_error(error: FlopsFitError) -> None:
    """Print the error, then how to continue."""
    typer.echo(shown_text(f"error: {error.message}"), err=True)
    if error.hint:
        typer.echo(shown_text(f"\nhint: {error.hint}"), err=True)


def print_json(data: Any) -> None:
    """Print data for a program as JSON."""
    typer.echo(json.dumps(data, indent=1, allow_nan=False))


def print_tables(tables: Sequence[Table], layout: Format) -> None:
    """Print tables for a person, in the requested form."""
    if layout == "terminal":
        from rich.console import Console

        console = Console(width=terminal_width(140))
        for table in tables:
            with console.capture() as drawn:  # rich itself would end the program at a broken pipe
                console.print(table.to_rich())
            typer.echo(drawn.get(), nl=bool(table.notes))  # else the table ends with a blank line
        return
    write = {"markdown": "to_markdown", "latex": "to_latex", "csv": "to_csv"}[layout]
    for table in tables:
        typer.echo(getattr(table, write)(), nl=layout != "csv")


def terminal_width(elsewhere: int) -> int:
    """Return the terminal's columns, or COLUMNS; `elsewhere` if there is neither."""
    return shutil.get_terminal_size((elsewhere, 40)).columns


def print_verdict(result: Result, layout: Format, *, with_answers: bool = False) -> None:
    """Print the verdict, the answers if requested, and the reasons; as comments in LaTeX.

    Each answer is a sentence, as on the page. A CSV holds a table alone, so there the same lines
    go to standard error.
    """
    from flops_fit.reporting.tables.cells import printable

    read = [note.message for note in result.notes if note.code == "table_read"]
    lines = [*read, f"verdict: {result.verdict}"]
    lines += ["", *result.answers(), ""] if with_answers and result.answers() else []
    lines += [f"  {reason.code}: {reason.message}" for reason in result.reasons]
    reasons = {"table_read", *(reason.code for reason in result.reasons)}
    lines += [f"  note: {note.message}" for note in result.notes if note.code not in reasons]
    mark = {"latex": "% ", "markdown": "> "}.get(layout, "")
    ending = "\\" if layout == "markdown" else ""
    for line in lines:
        text = f"{mark}{printable(line)}{ending}".rstrip() if line else mark.rstrip()
        typer.echo(text, err=layout == "csv")
    typer.echo(err=layout == "csv")


def number_of(text: str | None, option: str) -> float | None:
    """Return the positive number of an option; None if it was not given."""
    if text is None:
        return None
    try:
        return parse_number(text)
    except ValueError as error:
        raise ManifestError(f"`{option}`: {error}", hint="write it as `1e18`") from None


def numbers_of(text: str | None, option: str) -> tuple[float, ...] | None:
    """Return positive numbers from a comma-separated list; None if the option was not given."""
    if text is None:
        return None
    try:
        return tuple(parse_number(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise ManifestError(
            f"`{option}`: expected numbers with commas between, got `{text}`: {error}",
            hint=f"write {option} 16,64",
        ) from None


def count_of(number: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
