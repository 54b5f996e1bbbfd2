"""Figures of what a sweep cost and what that bought."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from flops_fit.fitting.details import Gain
from flops_fit.reporting.costs import TrialCost
from flops_fit.reporting.figures.style import (
    MARKERS,
    METHOD_COLOURS,
    PAGE,
    Columns,
    budget_colours,
    figure_size,
    flops_label,
    log_counts,
    log_flops,
    log_loss,
    paper_style,
)
from flops_fit.units import format_duration

_CLOSE = 0.2  # an estimate is good where the real time lies within this share of it
# Durations that read: seconds, minutes, hours, days.
_ROUND_SECONDS = (
    0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 3 * 3600, 10 * 3600, 86400, 3 * 86400,
    10 * 86400, 30 * 86400, 100 * 86400,
)  # fmt: skip


def costs_figure(costs: Sequence[TrialCost], *, columns: Columns = None) -> Figure:
    """Real against expected wall-clock of each trial, with the line on which both are one.

    Args:
        costs: of trials; those that did not end, or have no expected time, are not drawn.
        columns: of a paper that the figure is to fill.
    """
    known = [(c.expected_seconds, c) for c in costs if c.expected_seconds and c.has_ended]
    budgets = sorted({cost.budget_flops for _, cost in known})
    colours = dict(zip(budgets, budget_colours(len(budgets)), strict=True))
    with paper_style():
        size = figure_size(columns, (4.6, 3.1), one=3.6, two=4.2)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        values = [v for expected, cost in known for v in (expected, cost.real_seconds)]
        low, high = min(values) / 1.4, max(values) * 1.4
        axes.fill_between(
            [low, high], [low / (1 + _CLOSE), high / (1 + _CLOSE)],
            [low * (1 + _CLOSE), high * (1 + _CLOSE)], color="#e9eef3", linewidth=0, zorder=0,
            label=f"within {100 * _CLOSE:.0f} %", gid="close",
        )  # fmt: skip
        axes.plot([low, high], [low, high], color="black", linewidth=0.8, zorder=1, gid="equal")
        for place, budget in enumerate(budgets):
            points = [(e, c.real_seconds) for e, c in known if c.budget_flops == budget]
            axes.plot(
                [x for x, _ in points], [y for _, y in points], linestyle="none",
                marker=MARKERS[place % len(MARKERS)], color=colours[budget], zorder=3,
                markeredgecolor="white", markeredgewidth=0.4, label=flops_label(budget),
                gid="trials",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        _durations(axes, low, high)
        axes.set_xlabel("expected time of a trial")
        axes.set_ylabel("real time of a trial")
        is_below = columns == 1
        if len(budgets) <= 12:
            figure.legend(
                loc="outside lower center" if is_below else "outside right upper",
                ncols=2 if is_below else 1, title="budget (FLOPs)",
            )  # fmt: skip
        return figure


def gains_figure(
    gains: Sequence[Gain], loss_unit: str = "nats", *, columns: Columns = None
) -> Figure:
    """Return the optimum at the target, with its interval, against what the runs behind it cost.

    The figure at each interval says how wide it is: its upper end over its lower one.

    Args:
        gains: at one target, with both intervals known.
        loss_unit: what the loss is measured in.
        columns: of a paper that the figure is to fill; its panels stand one below the other in one.
    """
    spent = [gain.spent_flops for gain in gains]
    with paper_style():
        size = figure_size(columns, (PAGE, 2.75), one=4.6, two=2.75)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(2, 1) if columns == 1 else figure.subplots(1, 2)
        for axes, key, colour in zip(panels, ("params", "loss"), METHOD_COLOURS, strict=False):
            intervals = [getattr(gain, f"{key}_interval") for gain in gains]
            lows, highs = zip(*intervals, strict=True)
            axes.fill_between(spent, lows, highs, color=colour, alpha=0.2, linewidth=0, gid="band")
            axes.plot(
                spent, [getattr(gain, key) for gain in gains], color=colour, marker="o", gid=key
            )
            for x, low, high in zip(spent, lows, highs, strict=True):
                axes.plot([x, x], [low, high], color=colour, linewidth=1, gid=f"{key}-interval")
            for x, low, high in list(zip(spent, lows, highs, strict=True))[:: len(gains) // 8 + 1]:
                axes.annotate(
                    _width(low, high), (x, high), xytext=(0, 3), textcoords="offset points",
                    ha="center", va="bottom", fontsize=7, gid="width",
                )  # fmt: skip
            axes.margins(x=0.1, y=0.16)
            axes.set_xscale("log")
            axes.set_yscale("log")
        target = flops_label(gains[0].target_flops)
        log_counts(panels[0], "y", "optimal N (params)")
        log_loss(panels[1], "y", f"loss ({loss_unit})")
        for axes in panels:
            axes.set_title(f"at {target} FLOPs", loc="left")
            log_flops(axes, "x", "training of the fitted runs (FLOPs)")
        return figure


def _width(low: float, high: float) -> str:
    """Return the width of an interval in two digits: its upper end over its lower end."""
    ratio = high / low
    if ratio < 1.2:
        return f"{100 * (ratio - 1):.2g} %"
    return f"\u00d7{float(f'{ratio:.2g}'):.6g}" if ratio < 1e5 else f"\u00d7{flops_label(ratio)}"


def _durations(axes: Axes, low: float, high: float) -> None:
    """Both axes with round durations, about five of them."""
    inside = [seconds for seconds in _ROUND_SECONDS if low <= seconds <= high]
    ticks = inside[:: max(1, math.ceil(len(inside) / 5))] or [math.sqrt(low * high)]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(seconds: float) -> str:
    """`3 min` for 180, `0.3 s`, `1 d`."""
    return format_duration(seconds) if seconds >= 10 else f"{seconds:g} s"
