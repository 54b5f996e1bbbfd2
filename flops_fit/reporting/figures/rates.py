"""The figure of a study of learning rates: loss by rate at each size, and the best rate by size."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from flops_fit.reporting.figures.style import (
    GREY,
    MARKERS,
    PAGE,
    RED,
    Columns,
    budget_colours,
    figure_size,
    paper_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flops_fit.fitting.carryover import Transfer
    from flops_fit.fitting.rates import Bracket

_SHOWN = 0.35
"""Losses further above the best than this share are drawn at the edge, as open marks."""

_MOST_TICKS = 6
_LINE = 34  # characters of a sentence in a panel


def transfer_figure(
    transfer: Transfer, *, size_param: str, rule: str, columns: Columns = None
) -> Figure:
    """Left: loss above the best against learning rate, a curve a size. Right: the best rates.

    Args:
        transfer: the study.
        size_param: the argument that sets the size.
        rule: the manifest's learning-rate rule.
        columns: of a paper that the figure is to fill; in one, the two stand one below the other.
    """
    with paper_style():
        size = figure_size(columns, (PAGE, 2.9), one=5.6, two=2.9)
        figure = Figure(figsize=size, layout="constrained")
        if columns == 1:
            left, right = figure.subplots(2, 1)
        else:
            left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        colours = budget_colours(len(transfer.brackets))
        for place, bracket in enumerate(transfer.brackets):
            _draw_losses(left, bracket, colours[place], MARKERS[place % len(MARKERS)], size_param)
        _finish_losses(left, transfer, size_param, is_narrow=columns == 1)
        _draw_optima(right, transfer, rule, colours)
        _finish_optima(right, transfer, size_param)
        _say_what_is_missing(right, transfer, size_param)
        return figure


def _excesses(bracket: Bracket) -> list[tuple[float, float]]:
    """(rate, share by which its loss lies above the vertex or the least measured one), if any."""
    known = [(rate, loss) for _, rate, loss, _ in bracket.rates if loss is not None]
    best = min((loss for _, loss in known), default=0.0) if bracket.loss is None else bracket.loss
    return [(rate, loss / best - 1) for rate, loss in known]


def _draw_losses(
    axes: Axes, bracket: Bracket, colour: tuple[float, ...], marker: str, size_param: str
) -> None:
    """The losses of one size, its parabola near the vertex, and the vertex."""
    known = _excesses(bracket)
    axes.plot(
        [rate for rate, _ in known], [100 * min(excess, _SHOWN) for _, excess in known], ":",
        color=colour, linewidth=0.8,
    )  # fmt: skip
    for is_shown in (True, False):
        some = [(r, 100 * min(e, _SHOWN)) for r, e in known if (e <= _SHOWN) == is_shown]
        if some:
            axes.plot(
                *zip(*some, strict=True), marker, color=colour, linestyle="none",
                markerfacecolor=colour if is_shown else "white", clip_on=False,
                label=f"{size_param} = {bracket.size_value:g}" if is_shown else None,
            )  # fmt: skip
    if bracket.rate is not None and bracket.curvature is not None:
        reach = math.sqrt(0.05 / bracket.curvature)
        offsets = np.linspace(-reach, reach, 60)
        axes.plot(
            bracket.rate * np.exp(offsets), 100 * np.expm1(bracket.curvature * offsets**2),
            color=colour, label="_parabola",
        )  # fmt: skip


def _finish_losses(axes: Axes, transfer: Transfer, size_param: str, *, is_narrow: bool) -> None:
    """The limits, and at the upper one a cross for each rate that diverged."""
    excesses = [e for bracket in transfer.brackets for _, e in _excesses(bracket)]
    top = 100 * min(_SHOWN, max([*excesses, 0.02]))
    axes.set_ylim(min(-0.02 * top, 115 * min(excesses, default=0.0)), top)
    for bracket in transfer.brackets:
        diverged = [rate for _, rate, loss, _ in bracket.rates if loss is None]
        if not diverged:
            continue  # a line of no points would count as one at the figure's corner
        is_all = len(diverged) == len(bracket.rates)
        axes.plot(
            diverged, [top] * len(diverged), "x", color=RED, clip_on=False, zorder=3,
            label=f"{size_param} = {bracket.size_value:g}: all diverged" if is_all else "_diverged",
        )  # fmt: skip
    _rates(axes, "x", "peak learning rate of weight matrices")
    axes.set_ylabel("loss above the best of its size (%)")
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), handletextpad=0.2, columnspacing=1.0,
        ncols=2 if is_narrow else len(transfer.brackets),
    )  # fmt: skip


def _draw_optima(
    axes: Axes, transfer: Transfer, rule: str, colours: list[tuple[float, float, float, float]]
) -> None:
    """The best rate at each size with its interval, the line through them, and the rule's."""
    inside = []
    for place, bracket in enumerate(transfer.brackets):
        if bracket.rate is None or bracket.rate_interval is None or bracket.factor is None:
            continue
        inside.append(bracket)
        low, high = bracket.rate_interval
        axes.errorbar(
            bracket.size_value, bracket.rate,
            [[bracket.rate - low], [high - bracket.rate]],
            fmt=MARKERS[place % len(MARKERS)], color=colours[place], capsize=2.5, zorder=3,
        )  # fmt: skip
    if not inside or transfer.rate_slope is None:
        return
    sizes = np.array([bracket.size_value for bracket in inside])
    rates = np.array([bracket.rate for bracket in inside], dtype=float)
    recipes = rates / np.array([bracket.factor for bracket in inside], dtype=float)
    span = np.geomspace(sizes[0] / 1.25, sizes[-1] * 1.25, 30)
    slope = transfer.rate_slope.value
    weights = 1 / np.array([b.log_error for b in inside], dtype=float) ** 2
    centre = np.average(np.log(sizes), weights=weights)
    level = np.average(np.log(rates), weights=weights)
    axes.plot(
        span, np.exp(level + slope * (np.log(span) - centre)), color="black",
        label=f"best: slope {slope:+.2f}",
    )  # fmt: skip
    carried = rates[0] * recipes / recipes[0]
    own = math.log(recipes[-1] / recipes[0]) / math.log(sizes[-1] / sizes[0])
    axes.plot(
        sizes, carried, "--", color=GREY, label=f"rule `{rule}` from the smallest: {own:+.2f}"
    )


def _finish_optima(axes: Axes, transfer: Transfer, size_param: str) -> None:
    sizes = [bracket.size_value for bracket in transfer.brackets]
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.35, max(sizes) * 1.35)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(size_param)
    shown = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]
    rates = np.concatenate([values for values in shown if len(values)] or [np.array([0.01])])
    middle = math.sqrt(rates.min() * rates.max())
    axes.set_ylim(min(rates.min() / 1.3, middle / 2.2), max(rates.max() * 1.3, middle * 2.2))
    _rates(axes, "y", "best learning rate")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)


def _say_what_is_missing(axes: Axes, transfer: Transfer, size_param: str) -> None:
    """Explain in the empty panel why no size has an optimum, one line for each size."""
    if any(bracket.rate is not None for bracket in transfer.brackets):
        return
    reasons: dict[str, list[str]] = {}
    for bracket in transfer.brackets:
        reasons.setdefault(bracket.reason, []).append(f"{bracket.size_value:g}")
    lines = [textwrap.fill("no size has its best rate between two others", _LINE)]
    for reason, sizes in reasons.items():
        lines.append(textwrap.fill(f"{size_param} = {', '.join(sizes)}: {reason}", _LINE))
    axes.text(
        0.5, 0.5, "\n\n".join(lines), transform=axes.transAxes, ha="center", va="center",
        fontsize=8, color="black", gid="missing",
        in_layout=False,
    )  # fmt: skip
    axes.set_yticks([])
    axes.set_yticks([], minor=True)
    axes.grid(visible=False)


def _rates(axes: Axes, which: str, name: str) -> None:
    """Set a logarithmic axis of learning rates, with round ticks."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
        if len(ticks) <= _MOST_TICKS:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.set_xlim(low, high) if which == "x" else axes.set_ylim(low, high)
    axes.set_xlabel(name) if which == "x" else axes.set_ylabel(name)
