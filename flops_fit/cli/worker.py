"""`flops-fit worker`: train trials of a run directory, on any machine that sees it."""

from __future__ import annotations

from typing import Annotated

import typer

from flops_fit.cli.options import RunDirArgument
from flops_fit.cli.output import INTERRUPTED, count_of, print_json, say
from flops_fit.errors import RunDirError


def worker(
    run_dir: RunDirArgument,
    trial_ids: Annotated[
        list[str] | None, typer.Argument(help="Trial ids.", show_default="all that are pending")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", hidden=True)] = False,
    publish: Annotated[bool, typer.Option("--publish", hidden=True)] = False,
) -> None:
    """Train trials of a run directory, one after another, until none is left.

    Start it on as many machines as you like: each trial is trained by one of them, and a trial
    whose worker died is taken over. `flops-fit run --executor pool` gathers what they leave.
    """
    from flops_fit.sweep import worker as work
    from flops_fit.sweep.rundir import RunDir

    opened = RunDir(run_dir)
    if serve:
        work.serve(opened)
        return
    if publish:
        from flops_fit.sweep.publishing import send_report

        print_json(send_report(opened))
        return
    if not opened.is_run():
        raise RunDirError(
            f"`{run_dir}` is not a run directory", hint="`flops-fit run MANIFEST` makes one"
        )
    ended = work.train_listed(opened, trial_ids) if trial_ids else work.train_claimed(opened)
    if ended.trained is not None:
        say(f"trained {count_of(ended.trained, 'trial')}")
    if ended.is_stopped:
        raise typer.Exit(INTERRUPTED)
