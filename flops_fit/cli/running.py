"""Draws the bar of a sweep and the table of its running trials, for `run` and `status --watch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flops_fit.reporting.tables.cells import significant
from flops_fit.units import format_count, format_duration, format_flops

if TYPE_CHECKING:
    from rich.table import Table

    from flops_fit.manifest.trials import Trial

_MAX_ROWS = 12  # more would push the bar of the sweep off a small terminal


@dataclass(frozen=True)
class RunningRow:
    """A running trial: steps, recent loss, units per second, seconds left, share of the peak."""

    trial: Trial
    step: int
    loss: float | None
    pace: float | None
    seconds_left: float | None
    peak_share: float | None = None


def bar(done: float, total: float, width: int) -> str:
    """Return a bar of text and the share in percent."""
    share = min(1.0, done / total) if total > 0 else 0.0
    filled = round(share * width)
    return f"{'#' * filled}{'.' * (width - filled)} {share:4.0%}"


def running_table(rows: Sequence[RunningRow], width: int) -> Table:
    """Return the running trials as a table; a narrow terminal shows neither params nor budget."""
    from rich.table import Table

    is_wide = width >= 100
    heads = ["trial", "size", *(["params", "budget"] if is_wide else [])]
    has_peak = any(row.peak_share is not None for row in rows)
    heads += ["step", "loss", "units/s", *(["peak"] if has_peak else []), "left"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, justify="left" if head == "trial" else "right", no_wrap=True)
    for row in rows[:_MAX_ROWS]:
        trial = row.trial
        more = [format_count(trial.size.params), format_flops(trial.budget_flops)]
        table.add_row(
            trial.trial_id,
            f"{trial.size.size_value:g}",
            *(more if is_wide else []),
            f"{row.step}/{trial.steps}",
            "-" if row.loss is None else f"{row.loss:.3f}",
            "-" if row.pace is None else format_count(row.pace),
            *([_percent(row.peak_share)] if has_peak else []),
            "-" if row.seconds_left is None else format_duration(row.seconds_left),
        )
    if len(rows) > _MAX_ROWS:
        table.add_row(f"and {len(rows) - _MAX_ROWS} more")
    return table


def _percent(share: float | None) -> str:
    """Return a share in percent with two digits: `41 %`, `0.52 %`."""
    return "-" if share is None else f"{significant(100.0 * share, 2)} %"
