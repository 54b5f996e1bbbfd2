"""`flops-fit repair`: show what can be kept of a damaged ledger, and keep it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flops_fit.cli.output import say


def repair(
    run_dir: Annotated[Path, typer.Argument(help="Run directory with a damaged ledger.")],
    dry_run: Annotated[bool, typer.Option(help="Only show what would be kept.")] = False,
) -> None:
    """Keep the whole lines of a damaged ledger; the original is saved beside it."""
    from flops_fit.sweep.repairing import examine
    from flops_fit.sweep.repairing import repair as keep
    from flops_fit.sweep.rundir import RunDir

    run = RunDir(run_dir)
    found, saved = (examine(run), None) if dry_run else keep(run)
    for mistake in found.dropped:
        say(f"dropped: {mistake}")
    for mistake in found.gaps:
        say(f"kept: {mistake}")
    if not found.is_needed:
        say(f"`{run.ledger}` is whole: {len(found.kept)} lines")
        return
    say(f"{len(found.kept)} lines can be kept, {len(found.dropped)} cannot")
    if saved is not None:
        say(f"kept; the original is `{saved}`. Continue with: flops-fit run {run_dir}")
