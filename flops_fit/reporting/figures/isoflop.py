"""IsoFLOP curves as a matplotlib figure (never pyplot).

Every figure is a plain `Figure`: nothing global is touched, no window opens, and the same numbers
give the same file. Numbers on axes carry their unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flops_fit.fitting.details import Minimum, MinimumStatus
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Excluded, Observation
from flops_fit.reporting.figures.style import (
    MANY,
    MARKERS,
    RED,
    Columns,
    budget_colours,
    figure_size,
    flops_label,
    log_counts,
    log_loss,
    paper_style,
)

_MAX_IN_LEGEND = 12
_BELOW = 0.5  # of a curve's range of losses: how far below its points a minimum may lie
_MOST_ERROR = 1.0  # of ln N: a wider interval would cross the whole figure
_WIDE = 5.0  # highest over lowest loss from which their axis is logarithmic


def isoflop_figure(
    fits: Mapping[str, Fit],
    observations: Sequence[Observation],
    unit: str = "token",
    loss_unit: str = "nats",
    *,
    excluded: Sequence[Excluded] = (),
    columns: Columns = None,
) -> Figure:
    """Loss against model size, one curve per budget, with the parabola and minimum of each.

    Args:
        fits: by method; the one named `isoflop`, where there is one, gives parabolas and minima.
        observations: the trials; those without a budget are not on any curve, and not drawn.
        unit: what one unit of data is called.
        loss_unit: what the loss is measured in.
        excluded: what the fits left out: drawn as crosses.
        columns: of a paper that the figure is to fill.
    """
    minima = minima_of(fits)
    out = {e.name for e in (*excluded, *(x for fit in fits.values() for x in fit.excluded))}
    curves = _curves(observations, minima)
    window = fits["isoflop"].window if "isoflop" in fits else None
    with paper_style():
        size = figure_size(columns, (5.2, 3.3), one=3.7, two=3.9)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        colours = budget_colours(len(curves))
        for place, (budget, curve) in enumerate(curves.items()):
            marker = MARKERS[place % len(MARKERS)]
            _draw_points(
                axes, curve, out, colour=colours[place], marker=marker,
                is_many=len(observations) > MANY,
            )  # fmt: skip
            found = _closest(minima, budget)
            if found is None and len(curves) <= _MAX_IN_LEGEND:
                _draw_thread(axes, [o for o in curve if o.name not in out], colours[place])
            # Among very many curves the parabolas without a minimum would only hide the others.
            is_drawn = len(curves) <= _MAX_IN_LEGEND or (
                found is not None and found.status is MinimumStatus.OK
            )
            if found is not None and is_drawn:
                kept = [o for o in curve if not o.name or o.name not in out]
                _draw_parabola(axes, found, _near_best(kept, window), colours[place])
        _isoflop_axes(axes, loss_unit, [o.loss for curve in curves.values() for o in curve])
        has_out = any(o.name in out for curve in curves.values() for o in curve if o.name)
        if len(curves) > _MAX_IN_LEGEND:
            _budget_bar(figure, axes, list(curves))
        else:
            is_below = columns == 1
            _isoflop_legend(figure, list(curves), minima, has_out=has_out, is_below=is_below)
        return figure


def minima_of(fits: Mapping[str, Fit]) -> tuple[Minimum, ...]:
    """Return the minima of the isoflop fit; empty if there is no fit."""
    return fits["isoflop"].minima if "isoflop" in fits else ()


def _curves(
    observations: Sequence[Observation], minima: Sequence[Minimum]
) -> dict[float, list[Observation]]:
    """Return the observations of each budget, by rising budget; those on no curve are left out."""
    curves: dict[float, list[Observation]] = {}
    for seen in observations:
        found = _closest(minima, seen.budget_flops or seen.flops)
        budget = seen.budget_flops if found is None else found.budget_flops
        if budget is not None:
            curves.setdefault(budget, []).append(seen)
    return dict(sorted(curves.items()))


def _near_best(curve: Sequence[Observation], window: float | None) -> Sequence[Observation]:
    """Return the sizes that the parabola was fitted to: within `window` times the best."""
    if window is None or not curve:
        return curve
    best = min(curve, key=lambda o: o.loss).params
    near = [o for o in curve if 1 / window <= o.params / best <= window]
    return near if len({o.params for o in near}) >= 5 else curve


def _closest(minima: Sequence[Minimum], budget: float) -> Minimum | None:
    """Return the minimum of this budget (budgets within 10 % are one)."""
    close = [m for m in minima if abs(math.log(m.budget_flops / budget)) < math.log(1.1)]
    return min(close, key=lambda m: abs(math.log(m.budget_flops / budget)), default=None)


def _draw_points(
    axes: Axes,
    curve: Sequence[Observation],
    out: set[str],
    *,
    colour: Any,
    marker: str,
    is_many: bool,
) -> None:
    kept = [o for o in curve if not o.name or o.name not in out]
    left = [o for o in curve if o.name and o.name in out]
    axes.plot(
        [o.params for o in kept], [o.loss for o in kept], linestyle="none", marker=marker,
        color=colour, markeredgecolor="white", markeredgewidth=0.4, zorder=3, gid="trials",
        rasterized=is_many,
    )  # fmt: skip
    axes.plot(
        [o.params for o in left], [o.loss for o in left], linestyle="none", marker="x",
        color=RED, markersize=5, markeredgewidth=1.3, zorder=4, gid="excluded",
    )  # fmt: skip


def _draw_thread(axes: Axes, curve: Sequence[Observation], colour: Any) -> None:
    """A thin line through the median loss of each size, where no fit holds a curve together."""
    sizes = sorted({o.params for o in curve})
    losses = [median(o.loss for o in curve if o.params == size) for size in sizes]
    axes.plot(sizes, losses, color=colour, linewidth=0.7, alpha=0.6, zorder=2, gid="thread")


def _draw_parabola(axes: Axes, found: Minimum, curve: Sequence[Observation], colour: Any) -> None:
    """The parabola over its own curve's sizes, and the minimum if it is one."""
    bracketed = found.status is MinimumStatus.OK
    if found.status is not MinimumStatus.TOO_FEW and len(curve) > 1:
        sizes = [math.log(o.params) for o in curve]
        log_params = np.linspace(min(sizes), max(sizes), 60)
        x = log_params - found.centre
        losses = sum(c * x**power for power, c in enumerate(found.coefficients))
        axes.plot(
            np.exp(log_params), losses, color=colour, linestyle="-" if bracketed else ":",
            zorder=2, gid="parabola",
        )  # fmt: skip
    if bracketed and found.params is not None and found.loss is not None:
        losses_seen = [o.loss for o in curve]
        if found.loss < min(losses_seen) - _BELOW * (max(losses_seen) - min(losses_seen)):
            return  # a vertex far below its points is none that they show
        if found.log_params_error is not None:
            reach = math.exp(1.96 * min(found.log_params_error, _MOST_ERROR))
            axes.plot(
                [found.params / reach, found.params * reach], [found.loss] * 2, color="black",
                linewidth=0.8, zorder=4, gid="minimum-interval",
            )  # fmt: skip
        axes.plot(
            [found.params], [found.loss], linestyle="none", marker="*", markersize=9,
            color="black", markeredgecolor="white", markeredgewidth=0.6, zorder=5, gid="minimum",
        )  # fmt: skip


def _isoflop_axes(axes: Axes, loss_unit: str, losses: Sequence[float]) -> None:
    """The scales: losses that span much on a logarithmic one, or the small ones were a heap."""
    name = f"held-out loss ({loss_unit})"
    axes.set_xscale("log")
    is_wide = 0 < _WIDE * min(losses, default=0.0) < max(losses, default=0.0)
    axes.set_yscale("log" if is_wide else "linear")
    axes.margins(x=0.05, y=0.07)
    if losses and not is_wide:  # the points set the axis, never a parabola
        room = 0.07 * (max(losses) - min(losses)) or 0.1 * max(losses)
        axes.set_ylim(min(losses) - room, max(losses) + room)
    log_counts(axes, "x", "model size N (params)")
    if is_wide:
        log_loss(axes, "y", name)
    else:
        axes.set_ylabel(name)


def _budget_bar(figure: Figure, axes: Axes, budgets: Sequence[float]) -> None:
    """A colour bar in place of a legend that would not fit."""
    colours = ListedColormap(budget_colours(256))
    scale = ScalarMappable(LogNorm(min(budgets), max(budgets)), colours)
    bar = figure.colorbar(scale, ax=axes, label="budget (FLOPs)", pad=0.02)
    bar.outline.set_visible(False)


def _isoflop_legend(
    figure: Figure,
    budgets: Sequence[float],
    minima: Sequence[Minimum],
    *,
    has_out: bool,
    is_below: bool,
) -> None:
    colours = budget_colours(len(budgets))
    handles = []
    for place, budget in enumerate(budgets):
        found = _closest(minima, budget)
        dotted = found is not None and found.status is not MinimumStatus.OK
        note = f" ({found.status.replace('_', ' ')})" if found is not None and dotted else ""
        line = Line2D([], [], color=colours[place], marker=MARKERS[place % len(MARKERS)])
        line.set_linestyle(":" if dotted else "-")
        line.set_linewidth(0.7 if found is None else line.get_linewidth())
        line.set_label(flops_label(budget) + note)
        handles.append(line)
    if any(m.status is MinimumStatus.OK for m in minima):
        handles.append(legend_point("*", "black", "minimum", 7))
    if has_out:
        handles.append(legend_point("x", RED, "left out", 5))
    figure.legend(
        handles=handles, title="budget (FLOPs)",
        ncols=1 if not is_below else 2 if len(handles) <= 8 else 3,
        handlelength=1.6, columnspacing=1.0,
        loc="outside lower center" if is_below else "outside right upper",
    )  # fmt: skip


def legend_point(marker: str, colour: str, label: str, size: float) -> Line2D:
    """Return a legend's entry for points without a line."""
    return Line2D(
        [], [], linestyle="none", marker=marker, color=colour, label=label, markersize=size
    )
