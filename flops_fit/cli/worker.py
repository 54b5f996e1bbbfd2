"""`flops-fit worker`: train trials of a run directory, as executors ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flops_fit.cli.output import print_json, say


def worker(
    run_dir: Path,
    trial_ids: Annotated[list[str] | None, typer.Argument()] = None,
    serve: Annotated[bool, typer.Option(help="take tasks from standard input")] = False,
    publish: Annotated[bool, typer.Option(help="hand the report to the trackers")] = False,
) -> None:
    """Train trials of a run directory: those named, or whatever is pending."""
    from flops_fit.sweep import worker as work
    from flops_fit.sweep.rundir import RunDir

    opened = RunDir(run_dir)
    if serve:
        work.serve(opened)
    elif publish:
        from flops_fit.sweep.publishing import send_report

        print_json(send_report(opened))
    elif trial_ids:
        work.train_listed(opened, trial_ids)
    elif (trained := work.train_claimed(opened)) is not None:
        say(f"trained {trained} trials")
