"""`flops-fit retry`: have trials trained again."""

from __future__ import annotations

from flops_fit.cli.options import RunDirArgument, TrialsArgument
from flops_fit.cli.output import count_of, say


def retry(run_dir: RunDirArgument, trials: TrialsArgument) -> None:
    """Have ended trials trained again from their start with the next `run`."""
    from flops_fit.sweep.amending import retry_trials

    again = retry_trials(run_dir, trials)
    say(f"{count_of(len(again), 'trial')} to train again; next: flops-fit run {run_dir}")
