"""`flops-fit status`: how far a sweep is, from any terminal that sees its run directory."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flops_fit.cli.options import JsonOption, RunDirArgument, WatchOption
from flops_fit.cli.output import print_json
from flops_fit.units import format_count, format_duration, format_flops

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from flops_fit.sweep.status import RunningTrial, Status

_WATCH_SECONDS = 2.0


def status(
    run_dir: RunDirArgument, watch: WatchOption = False, as_json: JsonOption = False
) -> None:
    """Show how far a sweep is: its trials by state, FLOPs spent, time left. Reads files only."""
    from flops_fit.sweep.status import read_status

    found = read_status(run_dir)
    if as_json:
        print_json(found.to_dict())
    elif watch:
        _watch(run_dir, found)
    else:
        typer.echo("\n".join(lines_of(found)))


def _watch(run_dir: Path, found: Status) -> None:
    """Show the status again and again until the sweep stops; Ctrl-C ends it."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from flops_fit.sweep.status import SweepPhase, read_status

    console = Console()
    with Live(Text(""), console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(picture(found, console.width), refresh=True)
                if found.phase != SweepPhase.RUNNING:
                    return
                time.sleep(_WATCH_SECONDS)
                found = read_status(run_dir)
        except KeyboardInterrupt:
            return


def picture(found: Status, width: int) -> Group:
    """Return the status as `--watch` shows it: a bar, the running trials, the failed ones."""
    from rich.console import Group
    from rich.text import Text

    from flops_fit.cli.running import RunningRow, bar, running_table

    head, trials, spent, *rest = lines_of(replace(found, running=()))
    drawn = bar(found.spent_flops, found.planned_flops, 24 if width < 100 else 40)
    parts: list[Text | Table] = [Text(f"{head}\n{trials}\n{drawn}\n{spent}")]
    if found.running:
        rows = [
            RunningRow(each.trial, each.step, each.loss, each.tokens_per_second, each.seconds_left)
            for each in found.running
        ]
        parts.append(running_table(rows, width))
    if rest:
        parts.append(Text("\n".join(rest)))
    return Group(*parts)


def lines_of(found: Status) -> list[str]:
    """Return the status in lines of at most 80 columns, except for reasons of failed trials."""
    from flops_fit.reporting.tables.cells import printable

    kind = " (a rehearsal)" if found.is_simulated else ""
    counts = {
        "done": found.finished, "running": found.num_running, "queued": found.queued,
        "failed": found.failed, "diverged": found.diverged, "dropped": found.dropped,
    }  # fmt: skip
    always = ("done", "running", "queued", "failed")
    told = ", ".join(f"{n} {word}" for word, n in counts.items() if n or word in always)
    share = found.spent_flops / found.planned_flops if found.planned_flops else 0.0
    lines = [
        f"{printable(found.name)}{kind}: {found.phase}",
        f"{found.trials} trials: {told}",
        f"{format_flops(found.spent_flops)} of {format_flops(found.planned_flops)} FLOPs spent "
        f"({share:.0%}){_time_left(found)}",
    ]
    if found.running:
        lines += [
            "",
            f"{'running':<14}{'size':>8}{'step':>16}{'loss':>8}{'units/s':>10}{'left':>9}",
        ]
        lines += [_running_line(each) for each in found.running]
    for each in found.ended:
        size = f"size {each.trial.size.size_value:g}"
        lines += ["", f"{each.state} {each.trial.trial_id} ({size}): {printable(each.reason)}"]
    if any(each.state == "failed" for each in found.ended):
        lines.append(f"  log: flops-fit logs {found.run_dir} TRIAL")
    return lines


def _time_left(found: Status) -> str:
    """Return the forecast, and the time since the last sign of life if it is long."""
    said = ""
    if found.seconds_left is not None and (found.num_running or found.queued):
        said = f", about {format_duration(found.seconds_left)} left"
    if found.num_running and found.seconds_silent > 60:
        said += f"; no sign of life for {format_duration(found.seconds_silent)}"
    return said


def _running_line(each: RunningTrial) -> str:
    """Return one running trial as a line."""
    trial = each.trial
    loss = "-" if each.loss is None else f"{each.loss:.3f}"
    rate = "-" if each.tokens_per_second is None else format_count(each.tokens_per_second)
    left = "-" if each.seconds_left is None else format_duration(each.seconds_left)
    step = f"{each.step}/{trial.steps}"
    return f"{trial.trial_id:<14}{trial.size.size_value:>8g}{step:>16}{loss:>8}{rate:>10}{left:>9}"
