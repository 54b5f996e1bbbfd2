"""The command line: parses, calls, prints, and chooses the exit code.

Standard output carries the table or the JSON; standard error carries progress, warnings and
errors. Each command has its own file and imports what is heavy inside its function.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from flops_fit.cli import output
from flops_fit.cli.check import check
from flops_fit.cli.drop import drop
from flops_fit.cli.estimate import estimate
from flops_fit.cli.explain import explain
from flops_fit.cli.init import init
from flops_fit.cli.jobs import jobs
from flops_fit.cli.logs import logs
from flops_fit.cli.options import QuietOption, VerboseOption, VersionOption
from flops_fit.cli.output import BROKEN_PIPE, INTERRUPTED, print_error
from flops_fit.cli.plan import plan
from flops_fit.cli.plugins import plugins
from flops_fit.cli.repair import repair
from flops_fit.cli.report import report
from flops_fit.cli.retry import retry
from flops_fit.cli.run import run
from flops_fit.cli.status import status
from flops_fit.cli.transfer import transfer
from flops_fit.cli.worker import worker
from flops_fit.errors import FlopsFitError, ManifestError, StorageError
from flops_fit.sweep.interrupts import interrupting

_GLOBAL = {"--quiet": "--quiet", "-q": "--quiet", "--verbose": "--verbose", "-v": "--verbose"}
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # click's, or the copy in typer


class _Commands(TyperGroup):
    """Commands that accept global options anywhere, and whose broken pipe reaches `main`.

    Typer would leave at a broken pipe with 1, which is the exit code for a bug of ours.
    """

    def make_context(self, info_name: Any, args: list[str], *more: Any, **extra: Any) -> Any:
        """Parse the arguments; `--help` prints here."""
        with _own_end_of_pipes():
            return super().make_context(info_name, _globals_first(args), *more, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _own_end_of_pipes():
            return super().invoke(ctx)


def _globals_first(args: list[str]) -> list[str]:
    """Return the arguments with `--quiet` and `--verbose` moved before the command."""
    end = args.index("--") if "--" in args else len(args)
    found = [_GLOBAL[each] for each in args[:end] if each in _GLOBAL]
    return [*found, *(each for each in args[:end] if each not in _GLOBAL), *args[end:]]


@contextmanager
def _own_end_of_pipes() -> Iterator[None]:
    """Exit at a broken pipe before typer or rich do, with the exit code that shells expect."""
    try:
        yield
    except (BrokenPipeError, SystemExit) as error:
        is_broken = isinstance(error, BrokenPipeError)
        if not is_broken and not isinstance(error.__context__, BrokenPipeError):
            raise
        _drop_output()
        sys.exit(BROKEN_PIPE)


app = typer.Typer(
    cls=_Commands,
    help="Given a compute budget: how big your model should be and how much data to train it on.",
    epilog=output.examples(
        "flops-fit init", "flops-fit run experiment.toml", "flops-fit report runs/my-experiment"
    ),
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _before(
    context: typer.Context,
    version: VersionOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Take the global options; refuse to conduct a sweep from several processes of a launcher."""
    if version:
        from flops_fit.cli.version import print_versions

        print_versions()
        raise typer.Exit
    output.set_loudness(quiet=quiet, verbose=verbose)
    if context.invoked_subcommand not in (None, "worker"):
        from flops_fit.sweep.ranks import refuse_launcher

        refuse_launcher(f"`flops-fit {context.invoked_subcommand}`")


def _add(command: Callable[..., None], panel: str, *examples: str, hidden: bool = False) -> None:
    """Add a command with its examples to a panel of `flops-fit --help`."""
    app.command(rich_help_panel=panel, epilog=output.examples(*examples), hidden=hidden)(command)


_add(
    init, "Prepare", "flops-fit init gpt.toml --total-flops 1e15",
    "flops-fit init --plugin my_plugin",
)  # fmt: skip
_add(check, "Prepare", "flops-fit check experiment.toml", "flops-fit check experiment.toml --json")
_add(plugins, "Prepare", "flops-fit plugins", "flops-fit plugins --json")
_add(plan, "Plan", "flops-fit plan experiment.toml", "flops-fit plan --refine runs/my-experiment")
_add(
    estimate, "Plan", "flops-fit estimate experiment.toml --price-per-hour 2.5",
    "flops-fit estimate experiment.toml --flops-per-second 1e14",
)  # fmt: skip
_add(
    run, "Run", "flops-fit run experiment.toml --max-hours 8",
    "flops-fit run runs/my-experiment --add-budgets 3e12,1e13",
)  # fmt: skip
_add(
    transfer, "Run", "flops-fit transfer experiment.toml",
    "flops-fit transfer experiment.toml --sizes 16,64 --rates 7",
)  # fmt: skip
_add(
    status, "Run", "flops-fit status runs/my-experiment",
    "flops-fit status runs/my-experiment --watch",
)  # fmt: skip
_add(
    logs, "Run", "flops-fit logs runs/my-experiment cf3823554140",
    "flops-fit logs runs/my-experiment cf38",
)  # fmt: skip
_add(
    retry, "Run", "flops-fit retry runs/my-experiment cf3823554140",
    "flops-fit retry runs/my-experiment cf38 8a7f",
)  # fmt: skip
_add(
    drop, "Run", 'flops-fit drop runs/my-experiment cf38 --why "the disk was full"',
    "flops-fit drop runs/my-experiment cf38 --take-back",
)  # fmt: skip
_add(
    report, "Report", "flops-fit report runs/my-experiment --budget 1e21",
    "flops-fit report runs.csv --columns params=N,tokens=D,loss=val_loss",
)  # fmt: skip
_add(explain, "Report", "flops-fit explain too_few_budgets", "flops-fit explain")
_add(
    repair,
    "Run",
    "flops-fit repair runs/my-experiment --dry-run",
    "flops-fit repair runs/my-experiment",
)
_add(
    worker, "Run", "flops-fit worker runs/my-experiment",
    "flops-fit worker runs/my-experiment cf3823554140",
)  # fmt: skip
_add(
    jobs, "Run", "flops-fit jobs runs/my-experiment",
    "flops-fit jobs runs/my-experiment --format sbatch > jobs.sh",
)  # fmt: skip


def main() -> None:
    """Run the command line; a user's mistake ends as two lines and an exit code."""
    try:
        _run()
    except BrokenPipeError:
        _drop_output()  # The reader of our output left; there is nobody to tell.
        sys.exit(BROKEN_PIPE)


def _run() -> None:
    """Run the command line; mistakes and disk errors end as a message and an exit code."""
    try:
        try:
            with interrupting():  # What batch systems send stops every command as Ctrl-C does.
                code = app(standalone_mode=False)
        finally:
            sys.stdout.flush()  # Errors of this flush can still be reported here.
    except BrokenPipeError:
        raise
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except _UsageError as error:
        _leave(_usage_error(error))
    except FlopsFitError as error:
        _leave(error)
    except OSError as error:
        told = StorageError.of(error)
        if told is None:
            raise
        if error.filename is None:
            _drop_output()
        _leave(told)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _leave(error: FlopsFitError) -> None:
    """Print an error and leave with its exit code."""
    if output.is_verbose():
        traceback.print_exc()
    print_error(error)
    sys.exit(error.exit_code)


def _usage_error(error: Any) -> ManifestError:
    """Return a mistake in the arguments as a `ManifestError`; its hint names the help to read."""
    context = error.ctx
    message = error.format_message().strip().rstrip(".")
    message = message[:1].lower() + message[1:]
    if context is None:
        return ManifestError(message)
    command = context.command_path.replace("python -m flops_fit", "flops-fit")
    return ManifestError(message, hint=f"see `{command} --help`")


def _drop_output() -> None:
    """Discard output that is still buffered: Python would try to write it again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
