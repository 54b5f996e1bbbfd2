"""`flops-fit retry`: have trials trained again."""

from __future__ import annotations

from flops_fit.cli.options import RunDirArgument, TrialsArgument
from flops_fit.cli.output import say


def retry(run_dir: RunDirArgument, trials: TrialsArgument) -> None:
    """Have ended trials trained again from their start with the next `run`."""
    from flops_fit.sweep.amending import retry_trials

    again = retry_trials(run_dir, trials)
    say(f"{len(again)} trials will be trained again; next: flops-fit run {run_dir}")
