"""Figures that let a reader judge a fit: surface, residuals, training curves, agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from flops_fit.fitting.law import Fit, Surface
from flops_fit.fitting.points import Excluded, Observation, Optimum
from flops_fit.fitting.robust import mad
from flops_fit.reporting.figures.style import (
    MANY,
    METHOD_COLOURS,
    PAGE,
    RED,
    Columns,
    budget_colours,
    figure_size,
    flops_label,
    log_counts,
    log_flops,
    log_loss,
    method_style,
    paper_style,
)
from flops_fit.reporting.tables.cells import WIDEST
from flops_fit.units import format_count, plural

_EDGE = 0.04  # of the axes: too near the frame for the label of a contour


def surface_figure(
    fit: Fit,
    observations: Sequence[Observation],
    unit: str = "token",
    loss_unit: str = "nats",
    *,
    targets: Sequence[float] = (),
    columns: Columns = None,
) -> Figure:
    """Draw the fitted loss over N and D as contours, with the frontier and the trials.

    Args:
        fit: of the surface; its parameters are E, A, B, alpha, beta.
        observations: the trials; they and the targets set the limits.
        unit: what one unit of data is called.
        loss_unit: what the loss is measured in.
        targets: budgets in FLOPs asked for: open circles on the frontier.
        columns: of a paper that the figure is to fill.
    """
    law = Surface(*(fit.parameters[name] for name in ("E", "A", "B", "alpha", "beta")))
    asked = [fit.predict(target) for target in targets]
    params = [*(o.params for o in observations), *(o.params for o in asked)]
    tokens = [*(o.tokens for o in observations), *(o.tokens for o in asked)]
    with paper_style():
        size = figure_size(columns, (4.6, 3.5), one=3.0, two=4.4)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        n = np.geomspace(min(params) / 1.5, max(params) * 1.5, 120)
        d = np.geomspace(min(tokens) / 1.5, max(tokens) * 1.5, 120)
        lines = _draw_ground(axes, law, n, d)
        axes.plot(
            [o.params for o in observations], [o.tokens for o in observations], linestyle="none",
            marker="o", markersize=3, color="black", markeredgecolor="white", markeredgewidth=0.4,
            label="trial", gid="trials", rasterized=len(observations) > MANY,
        )  # fmt: skip
        spent = [o.flops for o in observations]
        span = np.geomspace(min(spent) / 1e3, max([*spent, *targets]) * 1e3, 200)
        _draw_frontier(axes, fit, span, asked)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(n[0], n[-1])
        axes.set_ylim(d[0], d[-1])
        _label_contours(axes, lines)
        axes.grid(visible=False)
        log_counts(axes, "x", "model size N (params)")
        log_counts(axes, "y", f"training data D ({plural(unit)})")
        axes.set_title(f"fitted loss ({loss_unit})", loc="left")
        figure.legend(loc="outside upper right", ncols=3, handlelength=1.6)
        return figure


def _deviation(fit: Fit, percent: np.typing.NDArray[np.float64]) -> float:
    """Return the verdict's median deviation of log loss, in percent; 0 without a run."""
    if fit.residual_mad is not None:
        return 100 * fit.residual_mad
    return 100 * mad(np.log1p(percent / 100)) if len(percent) else 0.0


def residuals_figure(
    fit: Fit,
    observations: Sequence[Observation],
    unit: str = "token",
    *,
    excluded: Sequence[Excluded] = (),
    columns: Columns = None,
) -> Figure:
    """Draw the residuals of the trials from the fitted surface, in percent, by N and by D."""
    law = Surface(*(fit.parameters[name] for name in ("E", "A", "B", "alpha", "beta")))
    out = {e.name for e in (*excluded, *fit.excluded)}
    percent = [100 * (o.loss / law.loss(o.params, o.tokens) - 1) for o in observations]
    is_out = np.array([bool(o.name) and o.name in out for o in observations], dtype=bool)
    y = np.array(percent)
    spread = _deviation(fit, y[~is_out])
    with paper_style():
        size = figure_size(columns, (PAGE, 2.5), one=4.2, two=2.5)
        figure = Figure(figsize=size, layout="constrained")
        shape = (2, 1) if columns == 1 else (1, 2)
        panels = figure.subplots(*shape, sharey=True)
        names = ("model size N (params)", f"training data D ({plural(unit)})")
        for axes, key, name in zip(panels, ("params", "tokens"), names, strict=True):
            x = np.array([getattr(o, key) for o in observations])
            axes.axhspan(-spread, spread, color="#e9eef3", zorder=0, gid="spread")
            axes.axhline(0, color="black", linewidth=0.8, zorder=1)
            axes.plot(
                x[~is_out], y[~is_out], linestyle="none", marker="o", markersize=3.5,
                color=METHOD_COLOURS[0], markeredgecolor="white", markeredgewidth=0.3,
                label="trial", gid="residuals", rasterized=len(y) > MANY,
            )  # fmt: skip
            axes.plot(
                x[is_out], y[is_out], linestyle="none", marker="x", markersize=5, color=RED,
                label="left out", gid="excluded",
            )  # fmt: skip
            axes.set_xscale("log")
            log_counts(axes, "x", name)
        for axes in panels if columns == 1 else panels[:1]:
            axes.set_ylabel("loss above the fit (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        shown = 2 if is_out.any() else 1
        handles, labels = handles[:shown], labels[:shown]
        handles.append(panels[0].patches[0])
        labels.append(f"median deviation {spread:.1f} %")
        # In one column three entries side by side would be cut off where something is left out.
        ncols = 3 if columns != 1 else 2
        figure.legend(handles, labels, loc="outside upper center", ncols=ncols)
        return figure


def curves_figure(
    curves: Mapping[str, Sequence[Observation]],
    loss_unit: str = "nats",
    *,
    envelope: Fit | None = None,
    columns: Columns = None,
) -> Figure:
    """Held-out loss against compute along each training, and the least loss at each compute.

    Args:
        curves: the points of each training by its name, in any order.
        loss_unit: what the loss is measured in.
        envelope: a fit whose frontier predicts losses, drawn over the curves.
        columns: of a paper that the figure is to fill.
    """
    ordered = [sorted(curve, key=lambda o: o.flops) for curve in curves.values() if curve]
    ordered.sort(key=lambda curve: curve[-1].params)
    sizes = sorted({curve[-1].params for curve in ordered})
    with paper_style():
        size = figure_size(columns, (4.6, 3.1), one=2.9, two=3.8)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        colours = dict(zip(sizes, budget_colours(len(sizes)), strict=True))
        for curve in ordered:
            axes.plot(
                [o.flops for o in curve], [o.loss for o in curve], linewidth=0.8, marker=".",
                markersize=2.5, color=colours[curve[-1].params], gid="curve", alpha=0.85,
            )  # fmt: skip
        if envelope is not None:
            ends = [curve[-1].flops for curve in ordered]
            span = np.geomspace(min(ends), max(ends), 60)
            losses = [envelope.predict(float(c)).loss for c in span]
            if all(loss is not None for loss in losses):
                axes.plot(
                    span, [float(loss or 0) for loss in losses], color="black", linewidth=1.6,
                    linestyle="--", label=f"optimal ({envelope.method})", gid="envelope",
                )  # fmt: skip
                figure.legend(loc="outside upper right")
        axes.set_xscale("log")
        axes.set_yscale("log")
        log_loss(axes, "y", f"held-out loss ({loss_unit})")
        log_flops(axes, "x", "compute spent so far (FLOPs)")
        _size_bar(figure, axes, sizes)
        return figure


def agreement_figure(
    rows: Sequence[Mapping[str, Any]], unit: str = "token", *, columns: Columns = None
) -> Figure:
    """N and D that each method names at each target, with their intervals where known.

    Args:
        rows: of the Chinchilla table, at the targets only.
        unit: what one unit of data is called.
        columns: of a paper that the figure is to fill.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    targets = sorted({row["budget_flops"] for row in rows})
    with paper_style():
        height = max(1.8, 0.7 + 0.24 * len(targets) * (len(methods) + 1))
        size = figure_size(columns, (PAGE, height), one=1.6 * height, two=height)
        figure = Figure(figsize=size, layout="constrained")
        shape = (2, 1) if columns == 1 else (1, 2)
        panels = figure.subplots(*shape, sharey=True)
        for axes, key in zip(panels, ("params", "tokens"), strict=True):
            for row in rows:
                place = targets.index(row["budget_flops"]) * (len(methods) + 1)
                y = place + methods.index(row["method"])
                colour, _ = method_style(row["method"], methods.index(row["method"]))
                interval = row.get(f"{key}_interval")
                if interval is not None:
                    axes.plot(interval, [y, y], color=colour, linewidth=2, gid=f"interval-{key}")
                axes.plot([row[key]], [y], marker="o", color=colour, gid=f"named-{key}")
                axes.annotate(
                    format_count(row[key]), (row[key], y), textcoords="offset points",
                    xytext=(0, 4), ha="center", fontsize=6, gid=f"number-{key}",
                )  # fmt: skip
            axes.set_xscale("log")
            axes.margins(y=0.25 / len(targets))
            ends = [_believed(row, key) for row in rows]
            axes.set_xlim(min(low for low, _ in ends) / 1.2, max(high for _, high in ends) * 1.2)
            axes.grid(visible=False, axis="y")
        log_counts(panels[0], "x", "optimal N (params)")
        log_counts(panels[1], "x", f"optimal D ({plural(unit)})")
        ticks = [
            (targets.index(t) * (len(methods) + 1) + k, m, t)
            for t in targets
            for k, m in enumerate(methods)
        ]
        panels[0].set_yticks(
            [place for place, _, _ in ticks],
            [f"{flops_label(target)} {method}" for _, method, target in ticks],
        )
        panels[0].invert_yaxis()
        return figure


def _believed(row: Mapping[str, Any], key: str) -> tuple[float, float]:
    """Return a row's interval, or its value alone: an interval no reader believes sets no axis."""
    pair = row.get(f"{key}_interval")
    return (row[key], row[key]) if pair is None or pair[1] > WIDEST * pair[0] else pair


def _draw_ground(axes: Axes, law: Surface, n: Any, d: Any) -> ContourSet:
    """Draw the law in pale colours with contours; n: shape (params,), d: shape (tokens,)."""
    # float64, shape (tokens, params)
    losses = law.E + law.A * n[None, :] ** -law.alpha + law.B * d[:, None] ** -law.beta
    # The excess over E falls by powers of N and D, so even colours are even in its logarithm.
    axes.pcolormesh(
        n, d, np.log(losses - law.E), cmap=_pale(), shading="gouraud", rasterized=True,
    )  # fmt: skip
    return axes.contour(
        n, d, losses, levels=_round_levels(losses), colors="#333333", linewidths=0.6
    )


def _draw_frontier(axes: Axes, fit: Fit, span: Any, asked: Sequence[Optimum]) -> None:
    """The optimum along `span` (FLOPs; float64, shape (points,)), and those asked for."""
    path = [fit.predict(float(c)) for c in span]
    x, y = [o.params for o in path], [o.tokens for o in path]
    # In grey the line would have the ground's own tone: white on either side parts them.
    axes.plot(x, y, color="white", linewidth=3.6, gid="halo")
    axes.plot(x, y, color=METHOD_COLOURS[1], linewidth=1.8, label="optimal", gid="frontier")
    if asked:
        axes.plot(
            [o.params for o in asked], [o.tokens for o in asked], linestyle="none", marker="o",
            markerfacecolor="white", markeredgecolor=METHOD_COLOURS[1], markersize=5.5,
            label="target", gid="target",
        )  # fmt: skip


def _label_contours(axes: Axes, lines: ContourSet) -> None:
    """Write its loss on each contour, but not across the frame.

    Labels are placed by distances on the page, so only when scales and limits are known. A first
    round shows where each would stand: a line that is to have none keeps no gap for it either.
    """
    crossing = set()
    for label in axes.clabel(lines, fmt="%.9g", fontsize=6.5, inline=False):
        x, y = axes.transAxes.inverted().transform(axes.transData.transform(label.get_position()))
        if not (_EDGE < x < 1 - _EDGE and _EDGE < y < 1 - _EDGE):
            crossing.add(label.get_text())
        label.remove()
    told = [level for level in lines.levels if f"{level:.9g}" not in crossing]
    axes.clabel(lines, told, fmt="%g", fontsize=6.5, inline_spacing=3)


def _round_levels(losses: Any) -> list[float]:
    """Round losses that split the plane about evenly, so that contours do not crowd.

    losses: float64, shape (tokens, params).
    """
    wanted = np.quantile(losses, np.linspace(0.04, 0.98, 9))
    levels: list[float] = []
    for digits in (1, 2, 3, 4, 5):
        levels = sorted({round(float(level), digits) for level in wanted})
        if len(levels) >= 7:
            break
    return levels


def _pale() -> ListedColormap:
    """Return viridis mixed with white, dark for high losses, as a background of lines."""
    colours = np.array(colormaps["viridis_r"](np.linspace(0, 1, 256)))
    return ListedColormap(0.45 * colours + 0.55)


def _size_bar(figure: Figure, axes: Axes, sizes: Sequence[float]) -> None:
    """A colour bar that says which size a curve belongs to."""
    if len(sizes) < 2:
        return
    scale = ScalarMappable(LogNorm(sizes[0], sizes[-1]), ListedColormap(budget_colours(256)))
    bar = figure.colorbar(scale, ax=axes, pad=0.02)
    log_counts(bar.ax, "y", "model size N (params)")
    bar.outline.set_visible(False)
