"""Shows a running sweep: a display in place on a terminal, a plain line a trial elsewhere.

Everything goes to standard error. The bar counts FLOPs, since trials differ in cost by orders of
magnitude.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from flops_fit.cli.output import is_quiet, is_verbose
from flops_fit.cli.running import RunningRow, bar, running_table
from flops_fit.manifest.trials import Trial
from flops_fit.planning.plan import Plan
from flops_fit.reporting.tables.cells import printable
from flops_fit.sweep.conductor import Progress as TrialProgress
from flops_fit.sweep.conductor import Watcher
from flops_fit.sweep.entries import DecisionMade, Entry, TrialEnded, TrialFinished, TrialStarted
from flops_fit.sweep.ledger import read_ledger, replay
from flops_fit.sweep.provenance import read_plan
from flops_fit.sweep.rundir import RunDir
from flops_fit.units import format_count, format_duration, format_flops

if TYPE_CHECKING:
    from flops_fit.manifest.manifest import Manifest
    from flops_fit.planning.estimate import Estimate

_WIDE = 100  # columns from which a display has more


@dataclass(frozen=True)
class Rates:
    """The price and the peak speed of a trial's devices, where they are known.

    Attributes:
        price_per_hour: of one device.
        devices: of one trial.
        peak_flops_per_second: of all devices of a trial: what their vendor publishes, else what a
            large matrix product reached.
    """

    price_per_hour: float | None = None
    devices: int = 1
    peak_flops_per_second: float | None = None

    @classmethod
    def of(cls, manifest: Manifest, price: float | None, expected: Estimate | None) -> Rates:
        """Return the rates of a sweep from its manifest, `--price-per-hour` and its estimate."""
        execution = manifest.execution
        timing = expected.timings[-1] if expected is not None and expected.timings else None
        peak = None
        if timing is not None:
            peak = timing.nominal_flops_per_second or timing.matmul_flops_per_second
        price = execution.price_per_hour if price is None else price
        return cls(price, execution.devices_per_trial, peak)


@contextmanager
def watching(run: RunDir, rates: Rates | None = None) -> Iterator[Watcher]:
    """A watcher that shows a sweep while it runs; under `--quiet` it shows nothing."""
    if is_quiet():
        yield Watcher()
        return
    plan = read_plan(run)
    console = Console(stderr=True)
    display: _Lines
    if console.is_terminal:
        display = _Live(plan, run, console, rates or Rates())
    else:
        display = _Lines(plan, run, console)
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
        self.losses_before = {key: each.loss for key, each in state.finished.items()}
        self.seconds_before = state.spent_seconds
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


class _Live(_Lines):
    """Shows the sweep, its running trials and its complete budgets, updated in place."""

    def __init__(
        self, plan: Plan, run: RunDir, console: Console, rates: Rates | None = None
    ) -> None:
        super().__init__(plan, run, console)
        self.rates = rates or Rates()
        self.seconds = self.seconds_before
        self.name = run.path.name
        self.trials = list(plan.trials)
        self.done_flops = math.fsum(t.cost_flops for t in plan.trials if t.trial_id in self.ended)
        self.done_before = self.done_flops
        self.running: list[TrialProgress] = []
        self.first_seen: dict[str, tuple[float, int]] = {}
        self.losses: dict[str, float] = dict(self.losses_before)
        self.began = time.monotonic()
        self.live = Live(
            console=console,
            get_renderable=self.picture,
            refresh_per_second=4,
            transient=True,
        )

    def __enter__(self) -> _Live:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def on_entry(self, entry: Entry, trial: Trial | None) -> None:
        """Print how a trial ended, and count what it cost."""
        super().on_entry(entry, trial)
        if isinstance(entry, DecisionMade):
            self.trials += entry.trials
        if trial is None or not isinstance(entry, TrialEnded):
            return
        self.running = [each for each in self.running if each.trial.trial_id != trial.trial_id]
        self.first_seen.pop(trial.trial_id, None)
        self.seconds += entry.wall_seconds
        if isinstance(entry, TrialFinished):
            self.losses[trial.trial_id] = entry.loss
        if not entry.tried_again:
            self.done_flops += trial.cost_flops

    def on_progress(self, running: Sequence[TrialProgress]) -> None:
        """Keep the last report of each running trial for the next picture."""
        self.running = list(running)
        for each in running:
            self.first_seen.setdefault(each.trial.trial_id, (time.monotonic(), each.step))

    def picture(self) -> Group:
        """Return the whole display, as wide as the terminal."""
        now = time.monotonic()
        width = self.console.width
        shown: list[Text | RichTable] = [Text(line) for line in self._sweep(now, width)]
        if self.running:
            shown.append(running_table([self._row(each, now) for each in self.running], width))
        best = self._budgets()
        if best:
            shown.append(Text("Minima so far"))
            shown += [Text(f"  {line}", overflow="ellipsis", no_wrap=True) for line in best[-6:]]
        return Group(*shown)

    def _sweep(self, now: float, width: int) -> list[str]:
        """Return the bar, and the line of FLOPs, elapsed time and time left."""
        total = math.fsum(trial.cost_flops for trial in self.trials)
        done = self.done_flops + math.fsum(map(_spent, self.running))
        elapsed, fresh = now - self.began, done - self.done_before
        times = f"{format_duration(elapsed)} so far"
        if fresh > 0:
            times += f", about {format_duration((total - done) / fresh * elapsed)} left"
        times += self._money(now, done, total)
        drawn = (
            f"{bar(done, total, 24 if width < _WIDE else 40)} {format_flops(done)} of "
            f"{format_flops(total)} FLOPs"
        )
        count = f"{len(self.ended)} of {self.total} trials done"
        return [
            f"{printable(self.name)}: {count}, {len(self.running)} running",
            *([f"{drawn}; {times}"] if len(drawn) + len(times) + 2 <= width else [drawn, times]),
        ]

    def _money(self, now: float, done: float, total: float) -> str:
        """Return the money spent, and about how much the sweep will cost; empty without a price."""
        price = self.rates.price_per_hour
        if not price:
            return ""
        seconds = self.seconds + math.fsum(now - at for at, _ in self.first_seen.values())
        spent = price * self.rates.devices * seconds / 3600.0
        whole = f" of about {_money(spent * total / done)}" if done > 0 else ""
        return f"; money {_money(spent)}{whole}"

    def _row(self, each: TrialProgress, now: float) -> RunningRow:
        """Return one running trial; its pace counts from when this process first saw it."""
        at, step = self.first_seen.get(each.trial.trial_id, (now, each.step))
        is_moving = now > at and each.step > step
        pace = (each.step - step) * each.trial.batch_tokens / (now - at) if is_moving else None
        left = (
            None
            if pace is None
            else (each.trial.steps - each.step) * each.trial.batch_tokens / pace
        )
        peak = self.rates.peak_flops_per_second
        share = None if pace is None or not peak else pace * each.trial.size.flops_per_token / peak
        return RunningRow(each.trial, each.step, each.loss, pace, left, share)

    def _budgets(self) -> list[str]:
        """Return the minimum of each budget whose trials have all ended."""
        found = []
        for budget in sorted({trial.budget_flops for trial in self.trials}):
            group = [trial for trial in self.trials if trial.budget_flops == budget]
            points = {
                trial.size.params: self.losses[trial.trial_id]
                for trial in group
                if trial.trial_id in self.losses
            }
            if points and all(trial.trial_id in self.ended for trial in group):
                found.append(f"{format_flops(budget)}: {minimum_words(points)}")
        return found


def minimum_words(points: Mapping[int, float]) -> str:
    """Return the minimum of a budget in words: `24.3k params, loss 1.882`.

    It is the vertex of the parabola through the best size and its two neighbours in log params;
    the report uses all sizes. Where the best size is the smallest or the largest there is none.

    Args:
        points: losses by params, at least one.
    """
    sizes = sorted(points)
    best = min(sizes, key=lambda size: points[size])
    place = sizes.index(best)
    if not 0 < place < len(sizes) - 1:
        return f"{format_count(best)} params, loss {points[best]:.3f} (at the edge)"
    (x0, y0), (x1, y1), (x2, y2) = ((math.log(n), points[n]) for n in sizes[place - 1 : place + 2])
    rise, fall = (y2 - y1) / (x2 - x1), (y1 - y0) / (x1 - x0)
    curvature = (rise - fall) / (x2 - x0)
    if curvature <= 0:
        return f"{format_count(best)} params, loss {y1:.3f}"
    slope = fall + curvature * (x1 - x0)  # at the best size
    at = x1 - slope / (2.0 * curvature)
    loss = y1 - slope**2 / (4.0 * curvature)
    return f"{format_count(math.exp(at))} params, loss {loss:.3f}"


def _money(value: float) -> str:
    """Money in two decimals, or in two digits below 1."""
    return f"{value:.2f}" if value >= 1 else f"{value:.2g}"


def _spent(each: TrialProgress) -> float:
    """FLOPs that a running trial has spent so far, without the trunk before it."""
    trial = each.trial
    seen = each.step * trial.batch_tokens - (trial.tokens - trial.cost_tokens)
    return max(0, seen) * trial.size.flops_per_token


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
