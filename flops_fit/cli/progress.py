"""Shows a running sweep: bars on a terminal, plain lines elsewhere.

Everything goes to standard error. One bar counts the FLOPs of the sweep, since trials differ in
cost by orders of magnitude; each running trial has a bar that counts its steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from flops_fit.cli.output import is_quiet, is_verbose
from flops_fit.manifest.trials import Trial
from flops_fit.planning.plan import Plan
from flops_fit.sweep.conductor import Progress as TrialProgress
from flops_fit.sweep.conductor import Watcher
from flops_fit.sweep.entries import DecisionMade, Entry, TrialEnded, TrialFinished, TrialStarted
from flops_fit.sweep.ledger import read_ledger, replay
from flops_fit.sweep.provenance import read_plan
from flops_fit.sweep.rundir import RunDir
from flops_fit.units import format_count, format_duration, format_flops


@contextmanager
def watching(run: RunDir) -> Iterator[Watcher]:
    """A watcher that shows a sweep while it runs; under `--quiet` it shows nothing."""
    if is_quiet():
        yield Watcher()
        return
    plan = read_plan(run)
    console = Console(stderr=True)
    display = _Bars(plan, run, console) if console.is_terminal else _Lines(plan, run, console)
    with display:
        yield Watcher(display.on_entry, display.on_progress)


class _Lines:
    """Prints a line for each trial that ends."""

    def __init__(self, plan: Plan, run: RunDir, console: Console) -> None:
        self.console = console
        self.total = len(plan.trials)
        self.trackers_told: set[str] = set()
        state = replay(read_ledger(run.ledger)) if run.ledger.exists() else replay([])
        self.ended = {trial.trial_id for trial in plan.trials if not state.is_pending(trial)}
        if self.ended:
            self.print(f"{len(self.ended)} of {self.total} trials were done before")

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def print(self, text: str) -> None:
        """Print one line without interpreting markup in it."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def on_entry(self, entry: Entry, trial: Trial | None) -> None:
        """Print how a trial ended, or what an adaptive sweep decided."""
        if isinstance(entry, DecisionMade):
            self.total += len(entry.trials)
            self.print(describe_decision(entry))
        if trial is not None and isinstance(entry, TrialStarted) and is_verbose():
            self.print(f"started {trial.trial_id}: {describe(trial)}")
        if trial is None or not isinstance(entry, TrialEnded):
            return
        if entry.tried_again:
            self.print(f"{describe_ended(entry, trial)}; tried again")
            return
        self.ended.add(entry.trial_id)
        self.print(f"[{len(self.ended)}/{self.total}] {describe_ended(entry, trial)}")
        for name, reason in (entry.tracker_failures or {}).items():
            if name not in self.trackers_told:
                self.trackers_told.add(name)
                self.print(f"tracker {name}, at {describe(trial)}: {reason}; training continues")

    def on_progress(self, running: Sequence[TrialProgress]) -> None:
        """Print nothing: a log needs no steps."""


class _Bars(_Lines):
    """Shows a bar of the sweep's FLOPs and one of each running trial's steps."""

    def __init__(self, plan: Plan, run: RunDir, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[figure]}"),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=4,
            transient=True,
        )
        super().__init__(plan, run, console)
        self.done_flops = math.fsum(t.cost_flops for t in plan.trials if t.trial_id in self.ended)
        self.total_flops = plan.total_flops
        self.bars: dict[str, TaskID] = {}
        self.sweep = self.progress.add_task("sweep", total=self.total_flops, figure=self._figure())
        self.progress.update(self.sweep, completed=self.done_flops)

    def __enter__(self) -> _Bars:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def on_entry(self, entry: Entry, trial: Trial | None) -> None:
        """Print how a trial ended, and move the bar of the sweep."""
        super().on_entry(entry, trial)
        if isinstance(entry, DecisionMade):
            self.total_flops += math.fsum(each.flops for each in entry.trials)
            self.progress.update(self.sweep, total=self.total_flops, figure=self._figure())
        if trial is None or not isinstance(entry, TrialEnded):
            return
        bar = self.bars.pop(trial.trial_id, None)
        if bar is not None:
            self.progress.remove_task(bar)
        if not entry.tried_again:
            self.done_flops += trial.cost_flops
        self.progress.update(self.sweep, completed=self.done_flops, figure=self._figure())

    def on_progress(self, running: Sequence[TrialProgress]) -> None:
        """Move the bars of the running trials and of the sweep."""
        partial = 0.0
        for each in running:
            trial = each.trial
            seen = each.step * trial.batch_tokens - (trial.tokens - trial.cost_tokens)
            partial += max(0, seen) * trial.size.flops_per_token
            fields: dict[str, Any] = {
                "completed": each.step,
                "figure": "" if each.loss is None else f"loss {each.loss:.3f}",
            }
            if trial.trial_id not in self.bars:
                self.bars[trial.trial_id] = self.progress.add_task(
                    f"  {describe(trial)}", total=trial.steps, **fields
                )
            else:
                self.progress.update(self.bars[trial.trial_id], **fields)
        self.progress.update(self.sweep, completed=self.done_flops + partial)

    def _figure(self) -> str:
        return f"{len(self.ended)}/{self.total} trials"


def describe(trial: Trial) -> str:
    """Return a trial in a few words."""
    factor = trial.learning_rate_factor
    return (
        f"size {trial.size.size_value:g} ({format_count(trial.size.params)} params) "
        f"at {format_flops(trial.budget_flops)} FLOPs"
        + (f", {factor:g} x the rate" if factor != 1.0 else "")
    )


def describe_decision(entry: DecisionMade) -> str:
    """Return the decision of an adaptive sweep in one line."""
    trials = entry.trials
    flops = math.fsum(each.flops for each in trials)
    cost = f": {len(trials)} trials, {format_flops(flops)} FLOPs" if trials else ""
    return f"decision {entry.number} ({entry.action}){cost}; {entry.reason}"


def describe_ended(entry: TrialEnded, trial: Trial) -> str:
    """Return the end of a trial in one line."""
    seconds = format_duration(entry.wall_seconds)
    if isinstance(entry, TrialFinished):
        return f"{describe(trial)}: loss {entry.loss:.4f} ({seconds})"
    word = entry.event.removeprefix("trial_")
    return f"{describe(trial)}: {word}, {entry.error} ({seconds})"
