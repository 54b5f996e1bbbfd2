"""The command line: parse, call, print, exit code.

Standard output carries the table or the JSON; standard error carries progress, warnings and
errors. Heavy imports wait inside the commands.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from flops_fit.cli.check import check
from flops_fit.cli.estimate import estimate
from flops_fit.cli.init import init
from flops_fit.cli.options import started_once
from flops_fit.cli.output import BROKEN_PIPE, print_error
from flops_fit.cli.plan import plan
from flops_fit.cli.plugins import plugins
from flops_fit.cli.report import report
from flops_fit.cli.run import run
from flops_fit.cli.transfer import transfer
from flops_fit.cli.worker import worker
from flops_fit.errors import FlopsFitError, StorageError


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
for command in (init, plan, estimate, run, report, transfer, check, plugins):
    app.command()(command)
app.command(hidden=True)(worker)


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
