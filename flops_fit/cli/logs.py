"""`flops-fit logs`: print what a trial's worker printed."""

from __future__ import annotations

import typer

from flops_fit.cli.options import RunDirArgument, TrialArgument
from flops_fit.errors import RunDirError


def logs(run_dir: RunDirArgument, trial: TrialArgument) -> None:
    """Print the log of one trial: its worker's output, and the traceback if it failed."""
    from flops_fit.reporting.tables.cells import printable
    from flops_fit.sweep.rundir import RunDir
    from flops_fit.sweep.status import find_trials

    run = RunDir(run_dir)
    (found,) = find_trials(run, [trial])
    path = run.log(found.trial_id)
    if not path.exists():
        raise RunDirError(
            f"trial `{found.trial_id}` has no log: its worker has printed nothing",
            hint=f"`flops-fit status {run_dir}` shows whether it has started",
        )
    with path.open(encoding="utf-8", errors="replace") as log:
        for line in log:
            typer.echo(printable(line.rstrip("\n").expandtabs()))
