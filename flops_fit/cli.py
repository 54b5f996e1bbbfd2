"""The command line: parse, call, print, exit code.

Standard output carries the table or the JSON; standard error carries progress, warnings and
errors. Heavy imports wait inside the commands.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from flops_fit.errors import FlopsFitError, ManifestError, StorageError
from flops_fit.options import (
    FormatOption,
    JsonOption,
    ManifestArgument,
    PriceOption,
    TotalOption,
    WorkersOption,
    started_once,
)
from flops_fit.plan_command import plan, planned
from flops_fit.plugin_commands import check, plugins
from flops_fit.printing import (
    BROKEN_PIPE,
    number_of,
    print_error,
    print_json,
    print_tables,
    say,
)
from flops_fit.report_command import report
from flops_fit.run_command import run
from flops_fit.transfer_command import transfer

if TYPE_CHECKING:
    from flops_fit.estimate import Estimate
    from flops_fit.plan import Plan
    from flops_fit.prepared import Prepared
    from flops_fit.reporting.tables import Table


class _Commands(TyperGroup):
    """Commands whose broken pipe reaches `main`: typer would leave with 1, which is our bug."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse; `--help` prints here."""
        with _own_end_of_pipes():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _own_end_of_pipes():
            return super().invoke(ctx)


@contextmanager
def _own_end_of_pipes() -> Iterator[None]:
    """Leave at a broken pipe before typer does, with the code that shells give for it."""
    try:
        yield
    except BrokenPipeError:
        _drop_output()
        sys.exit(BROKEN_PIPE)


app = typer.Typer(
    cls=_Commands,
    help="Given a compute budget: how big your model should be and how much data to train it on.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


app.callback()(started_once)


def main() -> None:
    """Run the command line; a user's mistake ends as two lines and an exit code."""
    try:
        _run()
    except BrokenPipeError:
        _drop_output()  # The reader of our output left; there is nobody to tell.
        sys.exit(BROKEN_PIPE)


def _run() -> None:
    """Run the command line; mistakes, and what the disk refuses, end as a message and a code."""
    told: FlopsFitError | None
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # while what it cannot take can still be told
        return
    except BrokenPipeError:
        raise
    except FlopsFitError as error:
        told = error
    except OSError as error:
        told = StorageError.of(error)
        if told is None:
            raise
        if error.filename is None:
            _drop_output()
    print_error(told)
    sys.exit(told.exit_code)


def _drop_output() -> None:
    """Send what is still to be written nowhere: Python would try once more when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="the file to write")] = Path("experiment.toml"),
    total_flops: Annotated[
        str | None, typer.Option(help="FLOPs that the whole sweep may cost")
    ] = None,
) -> None:
    """Write a commented manifest to start from: a tapered ladder for a total budget."""
    from importlib.resources import files

    total = number_of(total_flops, "--total-flops")

    if path.exists():
        raise ManifestError(f"`{path}` exists already", hint="name another file, or remove it")
    text = files("flops_fit").joinpath("template.toml").read_text(encoding="utf-8")
    if total is not None:
        text = text.replace("total_flops = 3e12", f"total_flops = {total_flops}", 1)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"`{path}` cannot be written: {error.strerror}") from None
    say(f"wrote {path}; next: flops-fit check {path}")


app.command()(plan)


@app.command()
def estimate(
    manifest: ManifestArgument,
    flops_per_second: Annotated[
        str | None, typer.Option(help="FLOP/s that one trial achieves, instead of timing it here")
    ] = None,
    price_per_hour: PriceOption = None,
    workers: WorkersOption = None,
    total_flops: TotalOption = None,
    as_json: JsonOption = False,
    layout: FormatOption = "terminal",
) -> None:
    """Cost the plan: time, memory and money, by timing three sizes here or from a stated rate."""
    from flops_fit.stages import make_estimate

    rate = number_of(flops_per_second, "--flops-per-second")
    prepared, made = planned(manifest, number_of(total_flops, "--total-flops"))
    costed = make_estimate(
        prepared, made, flops_per_second=rate, price_per_hour=price_per_hour, workers=workers
    )
    if as_json:
        print_json(costed.to_dict())
        return
    print_tables([_estimate_table(costed, made, prepared)], layout)


app.command()(run)
app.command()(report)
app.command()(transfer)
app.command()(check)
app.command()(plugins)


@app.command(hidden=True)
def worker(
    run_dir: Path,
    trial_ids: Annotated[list[str] | None, typer.Argument()] = None,
    serve: Annotated[bool, typer.Option(help="take tasks from standard input")] = False,
    publish: Annotated[bool, typer.Option(help="hand the report to the trackers")] = False,
) -> None:
    """Train trials of a run directory: those named, or whatever is pending."""
    from flops_fit import worker as work
    from flops_fit.rundir import RunDir

    opened = RunDir(run_dir)
    if serve:
        work.serve(opened)
    elif publish:
        from flops_fit.publishing import publish_report

        print_json(publish_report(opened))
    elif trial_ids:
        work.train_listed(opened, trial_ids)
    elif (trained := work.train_claimed(opened)) is not None:
        say(f"trained {trained} trials")


def _estimate_table(costed: Estimate, made: Plan, prepared: Prepared) -> Table:
    """The estimate with its totals."""
    from flops_fit.points import Note
    from flops_fit.reporting.tables import estimate_table
    from flops_fit.spending import estimate_notes, share_note, speed_notes

    totals = {
        "flops": costed.total_flops,
        "wall_seconds": costed.wall_seconds,
        "memory_bytes": costed.memory_bytes,
        "cost": costed.cost,
    }
    basis = Note("basis", f"{costed.workers} trials side by side; times from {costed.basis}")
    return estimate_table(
        [row.to_dict() for row in costed.trials],
        unit=prepared.description.facts.unit,
        totals=totals,
        warnings=[
            basis,
            *speed_notes(costed),
            *estimate_notes(costed),
            share_note(prepared.manifest, costed.total_flops),
            *made.warnings,
        ],
    )
