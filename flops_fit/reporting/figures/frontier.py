"""The frontier: optimal N, D and loss against compute, by each method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from flops_fit.fitting.details import Minimum, MinimumStatus
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Observation, Optimum
from flops_fit.reporting.figures.isoflop import legend_point, minima_of
from flops_fit.reporting.figures.style import (
    GREY,
    MANY,
    PAGE,
    Columns,
    figure_size,
    log_counts,
    log_flops,
    log_loss,
    method_style,
    paper_style,
)
from flops_fit.reporting.tables.cells import WIDEST, significant
from flops_fit.units import format_count, plural

_BEYOND = "#efefef"
_KEYS = ("params", "tokens", "loss")


def frontier_figure(
    fits: Mapping[str, Fit],
    observations: Sequence[Observation],
    unit: str = "token",
    loss_unit: str = "nats",
    *,
    targets: Sequence[float] = (),
    bands: Sequence[Mapping[str, Any]] = (),
    columns: Columns = None,
) -> Figure:
    """Optimal N, D and loss against compute: each method's line, the minima, the targets.

    Args:
        fits: by method; each draws the line that `Fit.predict` gives.
        observations: the trials; they set where measured compute ends, and show their losses.
        unit: what one unit of data is called.
        loss_unit: what the loss is measured in.
        targets: budgets in FLOPs asked for: open circles on each line.
        bands: rows of the Chinchilla table of the first method; their 95 % intervals are shaded.
        columns: of a paper that the figure is to fill; its panels stand one below the other in one.
    """
    minima = [m for m in minima_of(fits) if m.status is MinimumStatus.OK]
    spent = [o.budget_flops or o.flops for o in observations]
    with paper_style():
        size = figure_size(columns, (PAGE, 2.75), one=6.6, two=2.75)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(3, 1) if columns == 1 else figure.subplots(1, 3)
        span = np.geomspace(min(spent) / 1.5, max([*spent, *targets]) * 1.5, 80)
        names_of = list(fits)
        for place, fit in enumerate(fits.values()):
            line = [fit.predict(float(c)) for c in span]
            asked = [fit.predict(float(c)) for c in targets]
            for axes, value in zip(panels, _PANELS, strict=True):
                _draw_line(axes, line, asked, value, method_style(names_of[place], place))
                if place == 0:
                    _write_targets(axes, asked, value)
        for axes, key in zip(panels, _KEYS, strict=True):
            _draw_band(axes, bands, key, method_style(names_of[0])[0])
            _draw_minima(axes, minima, key)
        _draw_trials(panels[2], observations)
        has_bands = sum(row.get("params_interval") is not None for row in bands) > 1
        is_beyond = max([*spent, *targets]) > max(spent) * 1.01
        names = ("optimal N (params)", f"optimal D ({plural(unit)})", f"loss ({loss_unit})")
        firsts = [next(iter(fits.values())).predict(float(c)) for c in targets]
        scales = (log_counts, log_counts, log_loss)
        for axes, name, scale, key in zip(panels, names, scales, _KEYS, strict=True):
            if is_beyond:
                axes.axvspan(max(spent), span[-1], color=_BEYOND, zorder=0, gid="extrapolation")
            axes.set_xlim(span[0], span[-1])
            axes.set_yscale("log")
            axes.set_ylim(*_limits(observations, firsts, key, bands))
            scale(axes, "y", name)
            log_flops(axes, "x", "compute C (FLOPs)")
        figure.legend(
            handles=[
                *_frontier_legend(fits, bool(minima), bool(targets)),
                *([Patch(color=_BEYOND, label="beyond the data")] if is_beyond else []),
                *([_band_patch(next(iter(fits)))] if has_bands else []),
            ],
            loc="outside upper center", ncols=2 if columns == 1 else 5,
            handlelength=2.4,
            columnspacing=1.2,
        )  # fmt: skip
        return figure


_PANELS: tuple[Callable[[Optimum], float | None], ...] = (
    lambda optimum: optimum.params,
    lambda optimum: optimum.tokens,
    lambda optimum: optimum.loss,
)


def _draw_line(
    axes: Axes,
    line: Sequence[Optimum],
    asked: Sequence[Optimum],
    value: Callable[[Optimum], float | None],
    look: tuple[str, Any],
) -> None:
    colour, dashes = look
    known = [(o.flops, y) for o in line if (y := value(o)) is not None]
    if not known:
        return
    wanted = [(o.flops, y) for o in asked if (y := value(o)) is not None]
    axes.plot(
        [x for x, _ in known], [y for _, y in known], color=colour, zorder=3, gid="law",
        linestyle=dashes,
    )  # fmt: skip
    axes.plot(
        [x for x, _ in wanted], [y for _, y in wanted], linestyle="none", marker="o",
        markerfacecolor="white", markeredgecolor=colour, markersize=5, zorder=4, gid="target",
    )  # fmt: skip


def _write_targets(
    axes: Axes, asked: Sequence[Optimum], value: Callable[[Optimum], float | None]
) -> None:
    """The first method's number at each target."""
    for optimum in asked[-2:]:
        y = value(optimum)
        if y is not None:
            text = significant(y, 3) if value is _PANELS[2] else format_count(y)
            axes.annotate(
                text, (optimum.flops, y), textcoords="offset points", xytext=(-5, 5), ha="right",
                fontsize=6.5, zorder=6, gid="target-number",
            )  # fmt: skip


def _limits(
    observations: Sequence[Observation],
    asked: Sequence[Optimum],
    key: str,
    bands: Sequence[Mapping[str, Any]],
) -> tuple[float, float]:
    """Limits of a panel from the trials and the first method's targets: no wild law sets them."""
    values = [getattr(each, key) for each in (*observations, *asked)]
    pairs = [row.get(f"{key}_interval") for row in bands]
    values += [end for pair in pairs if pair and pair[1] < WIDEST * pair[0] for end in pair]
    known = [value for value in values if value is not None and 0 < value < math.inf]
    room = (max(known) / min(known)) ** 0.06
    return min(known) / room, max(known) * room


def _draw_minima(axes: Axes, minima: Sequence[Minimum], key: str) -> None:
    """The isoFLOP curves' own minima, as stars."""
    axes.plot(
        [m.budget_flops for m in minima], [getattr(m, key) for m in minima],
        linestyle="none", marker="*", markersize=8, color="black",
        markeredgecolor="white", markeredgewidth=0.5, zorder=5, gid=f"minima-{key}",
    )  # fmt: skip


def _draw_trials(axes: Axes, observations: Sequence[Observation]) -> None:
    axes.plot(
        [o.flops for o in observations], [o.loss for o in observations], linestyle="none",
        marker=".", markersize=2.5, color=GREY, zorder=1, gid="trials",
        rasterized=len(observations) > MANY,
    )  # fmt: skip


def _draw_band(axes: Axes, bands: Sequence[Mapping[str, Any]], key: str, colour: str) -> None:
    """Shade the intervals of a method between the budgets at which they are known."""
    known = [row for row in bands if row.get(f"{key}_interval") is not None]
    if len(known) < 2:
        return
    known.sort(key=lambda row: row["budget_flops"])
    lows, highs = zip(*(row[f"{key}_interval"] for row in known), strict=True)
    axes.fill_between(
        [row["budget_flops"] for row in known], lows, highs,
        color=colour, alpha=0.15, linewidth=0, zorder=1.5, gid="band",
    )  # fmt: skip


def _band_patch(method: str) -> Patch:
    return Patch(color=method_style(method)[0], alpha=0.15, label=f"95 % ({method})")


def _frontier_legend(fits: Mapping[str, Fit], has_minima: bool, has_targets: bool) -> list[Line2D]:
    handles = []
    for place, method in enumerate(fits):
        colour, dashes = method_style(method, place)
        line = Line2D([], [], color=colour, label=method)
        line.set_linestyle(dashes)
        handles.append(line)
    if has_minima:
        handles.append(legend_point("*", "black", "isoFLOP minimum", 7))
    handles.append(legend_point(".", GREY, "trial", 5))
    if has_targets:
        target = legend_point("o", "black", "target", 5)
        target.set_markerfacecolor("white")
        handles.append(target)
    return handles
