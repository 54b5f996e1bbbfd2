"""Figures show what the fits say: content is checked, not pixels."""

import itertools
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from figure_parts import BUDGETS, GAINS, legend_texts, lines
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from planted_results import PLANTED, isoflop_fit, observe, planted_result, surface_fit, with_outlier

from flops_fit.fitting.law import Fit, FlopsPerToken, PowerLaw, PowerLawFrontier
from flops_fit.fitting.points import Observation
from flops_fit.reporting.figures.frontier import frontier_figure
from flops_fit.reporting.figures.isoflop import isoflop_figure
from flops_fit.reporting.figures.style import (
    budget_colours,
    figure_bytes,
    flops_label,
    log_counts,
    log_flops,
    log_ticks,
    paper_style,
    save_figure,
)


def drawn(figure):
    """The figure after a layout, with its renderer."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def test_every_budget_has_its_points_its_parabola_and_its_minimum():
    result = planted_result(BUDGETS)
    (axes,) = result.plot()["isoflop"].axes
    assert [len(line.get_xdata()) for line in lines(axes, "trials")] == [7] * 5
    assert len(lines(axes, "parabola")) == len(lines(axes, "minimum")) == 5
    minima = result.fits["isoflop"].minima
    for line, minimum in zip(lines(axes, "minimum"), minima, strict=True):
        assert (line.get_xdata()[0], line.get_ydata()[0]) == (minimum.params, minimum.loss)


def test_a_parabola_goes_through_the_fits_own_values():
    result = planted_result(BUDGETS)
    (axes,) = result.plot()["isoflop"].axes
    for line, minimum in zip(lines(axes, "parabola"), result.fits["isoflop"].minima, strict=True):
        c0, c1, c2 = minimum.coefficients
        x = np.log(line.get_xdata()) - minimum.centre
        assert np.allclose(line.get_ydata(), c0 + c1 * x + c2 * x**2, rtol=1e-12)


def test_an_unbracketed_budget_is_dotted_has_no_minimum_and_says_so():
    seen = observe(BUDGETS[:-1]) + observe(BUDGETS[-1:], offset=8.0)
    figure = isoflop_figure({"isoflop": isoflop_fit(seen)}, seen)
    (axes,) = figure.axes
    assert [line.get_linestyle() for line in lines(axes, "parabola")] == ["-"] * 4 + [":"]
    assert len(lines(axes, "minimum")) == 4
    assert any("(unbracketed)" in text for text in legend_texts(figure))


def test_what_is_left_out_is_a_cross_and_no_point():
    seen, excluded = with_outlier(observe(BUDGETS), 9)
    figure = isoflop_figure({"isoflop": isoflop_fit(seen, excluded=excluded)}, seen)
    (axes,) = figure.axes
    (cross,) = lines(axes, "excluded")
    assert cross.get_marker() == "x"
    assert cross.get_ydata()[0] == seen[9].loss
    assert sum(len(line.get_xdata()) for line in lines(axes, "trials")) == len(seen) - 1
    assert "left out" in legend_texts(figure)


def test_runs_without_a_budget_lie_on_the_curve_that_the_fit_found_for_them():
    planned = observe(BUDGETS)
    fit = isoflop_fit(planned)
    loose = [Observation(o.params, o.tokens, o.flops * 1.04, o.loss) for o in planned]
    stray = Observation(1e8, 1e9, 1e15, 3.0)
    (axes,) = isoflop_figure({"isoflop": fit}, [*loose, stray]).axes
    assert [len(line.get_xdata()) for line in lines(axes, "trials")] == [7] * 5


def test_many_budgets_get_a_colour_bar_in_place_of_a_legend():
    seen = observe([1e17 * 2**i for i in range(13)], sizes=5)
    figure = isoflop_figure({"isoflop": isoflop_fit(seen)}, seen)
    assert not figure.legends
    assert figure.axes[1].get_ylabel() == "budget (FLOPs)"


def test_the_frontier_lines_are_the_fits_predictions():
    result = planted_result(BUDGETS, targets=(5e19,))
    panels = result.plot()["frontier"].axes
    for axes, name in zip(panels, ("params", "tokens", "loss"), strict=True):
        laws = lines(axes, "law")
        assert len(laws) == 2
        for c, y in zip(laws[0].get_xdata(), laws[0].get_ydata(), strict=True):
            assert y == getattr(PLANTED.optimum(c), name)
        for target in lines(axes, "target"):
            assert target.get_xdata() == [5e19]
        (stars,) = lines(axes, f"minima-{name}")
        assert list(stars.get_xdata()) == list(BUDGETS)
    assert {"surface", "isoflop", "target", "isoFLOP minimum"} <= set(
        legend_texts(result.plot()["frontier"])
    )


def test_axes_carry_their_units():
    plots = planted_result(BUDGETS, unit="image", loss_unit="nats per image").plot()
    (axes,) = plots["isoflop"].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "model size N (params)",
        "held-out loss (nats per image)",
    )
    labels = [axes.get_ylabel() for axes in plots["frontier"].axes]
    assert labels == ["optimal N (params)", "optimal D (images)", "loss (nats per image)"]
    assert {axes.get_xlabel() for axes in plots["frontier"].axes} == {"compute C (FLOPs)"}


def test_a_method_that_predicts_no_loss_draws_no_loss_line():
    fit = surface_fit()
    bare = Fit("bare", "ok", {}, fit.exponents, isoflop_fit(observe(BUDGETS)).frontier)
    object.__setattr__(bare.frontier, "loss", None)
    panels = frontier_figure({"bare": bare}, observe(BUDGETS), targets=(1e20,)).axes
    assert [len(lines(axes, "law")) for axes in panels] == [1, 1, 0]


@pytest.mark.parametrize("columns", [None, 1, 2])
@pytest.mark.parametrize(("count", "decades"), [(3, 1), (9, 3), (5, 6)])
def test_no_tick_labels_overlap_and_nothing_is_cut_off(count, decades, columns):
    budgets = [1e17 * 10 ** (decades * i / (count - 1)) for i in range(count)]
    plots = planted_result(budgets, targets=(1e24,), gains=GAINS).plot(columns)
    assert {"isoflop", "frontier", "surface", "residuals", "agreement", "gains"} <= set(plots)
    for figure in plots.values():
        assert figure.get_figwidth() == {1: 3.4, 2: 6.9}.get(columns, figure.get_figwidth())
        renderer = drawn(figure)
        whole = figure.bbox
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                label = axis.label.get_window_extent(renderer)
                assert not axis.label.get_text() or whole.x0 <= label.x0 + 1
                assert not axis.label.get_text() or whole.y0 <= label.y0 + 1
                assert label.x1 <= whole.x1 + 1
                assert label.y1 <= whole.y1 + 1
                boxes = [
                    tick.label1.get_window_extent(renderer)
                    for tick in axis.get_major_ticks()
                    if tick.label1.get_visible() and tick.label1.get_text()
                ]
                # Ticks outside the limits are not drawn.
                boxes = [b for b in boxes if whole.x0 <= b.x0 and b.x1 <= whole.x1 + 12]
                assert len(boxes) != 1  # none where a panel shares its neighbour's axis
                assert not any(
                    one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i]
                )
        for legend in figure.legends:
            box = legend.get_window_extent(renderer)
            assert whole.x0 <= box.x0
            assert box.x1 <= whole.x1
            assert whole.y0 <= box.y0
            assert not any(box.overlaps(axes.get_window_extent(renderer)) for axes in figure.axes)


@pytest.mark.parametrize(("low", "high"), [(3e3, 8e5), (1.1e5, 2.4e5), (1e6, 1e15), (2e4, 3e5)])
def test_log_ticks_are_round_few_and_inside(low, high):
    labelled, between = log_ticks(low, high)
    assert 3 <= len(labelled) <= 12
    assert all(low <= v <= high for v in [*labelled, *between])
    assert not set(labelled) & set(between)
    for value in labelled:
        mantissa = value / 10 ** math.floor(math.log10(value) + 1e-9)
        assert float(f"{mantissa:.1f}") == pytest.approx(mantissa)


@pytest.mark.parametrize("width", [1.6, 3.4, 6.9])
@pytest.mark.parametrize("draw", [log_counts, log_flops])
@pytest.mark.parametrize(("low", "high"), [(2.1e4, 4.4e5), (1.1e6, 1.8e7), (1.2e5, 3e5)])
def test_labels_of_a_logarithmic_axis_stay_clear_of_each_other(low, high, draw, width):
    with paper_style():
        figure = Figure(figsize=(width, 1.5), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlim(low, high)
        draw(axes, "x", "x")
    renderer = drawn(figure)
    boxes = [t.label1.get_window_extent(renderer) for t in axes.xaxis.get_major_ticks()]
    half_a_letter = 0.5 * 7.5 * figure.dpi / 72
    assert len(boxes) >= 2 or width < 2
    assert all(b.x0 - a.x1 > half_a_letter for a, b in itertools.pairwise(boxes))


def test_colours_keep_the_order_of_the_budgets_in_grey():
    greys = [
        0.2126 * r + 0.7152 * g + 0.0722 * b
        for r, g, b in (to_rgb(colour) for colour in budget_colours(9))
    ]
    assert greys == sorted(greys)
    assert greys[-1] < 0.75


def test_flops_read_as_powers_of_ten():
    assert [flops_label(v) for v in (1e12, 1.5e11, 9.9999e11)] == [
        "$10^{12}$",
        "$1.5 \\times 10^{11}$",
        "$10^{12}$",
    ]


def test_the_same_numbers_give_the_same_files(tmp_path):
    written, seen = [], observe(BUDGETS)
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        figure = isoflop_figure({"isoflop": isoflop_fit(seen)}, seen)
        paths = save_figure(figure, folder / "isoflop", ("png", "svg", "pdf"))
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    assert b"<dc:date>" not in written[0][1]


def test_figures_need_no_pyplot_and_no_display(tmp_path):
    code = (
        "import sys; from planted_results import *; "
        "import flops_fit.reporting.figures.diagnostics; "
        "seen = observe([1e17, 1e18, 1e19]); "
        "planted_result(observations=seen, fits={'isoflop': isoflop_fit(seen)})"
        f".write_figures({str(tmp_path)!r}); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    bare = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    path = os.pathsep.join([str(Path(__file__).parents[1] / "support"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env={**bare, "PYTHONPATH": path}
    )
    assert done.returncode == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in ("isoflop", "frontier") for kind in ("png", "svg")
    }


def test_very_many_trials_leave_small_files(tmp_path):
    seen = observe(BUDGETS, sizes=800)
    result = planted_result(observations=seen, fits={"surface": surface_fit()}, targets=())
    paths = result.write_figures(tmp_path, ("svg",))
    assert max(path.stat().st_size for path in paths) < 5e5


def test_intervals_of_the_first_method_are_shaded_between_their_budgets():
    rows = [
        {"budget_flops": c, "params_interval": (1e7 * k, 2e7 * k), "loss_interval": None}
        for k, c in enumerate(BUDGETS, start=1)
    ]
    panels = frontier_figure({"surface": surface_fit()}, observe(BUDGETS), bands=rows).axes
    bands = [[c for c in axes.collections if c.get_gid() == "band"] for axes in panels]
    assert [len(found) for found in bands] == [1, 0, 0]
    corners = {tuple(corner) for corner in bands[0][0].get_paths()[0].vertices}
    assert {(1e17, 1e7), (1e17, 2e7), (1e19, 5e7), (1e19, 1e8)} <= corners


def test_no_law_sets_the_axes_alone_and_a_method_keeps_its_colour():
    result = planted_result()
    wild = replace(
        result.fits["isoflop"],
        frontier=PowerLawFrontier(PowerLaw(1e-30, 2.5), FlopsPerToken(), PowerLaw(1e9, -0.4, 1.0)),
    )
    colours = []
    for fits in (result.fits, {**result.fits, "isoflop": wild}):
        figure = frontier_figure(fits, result.used)
        losses = figure.axes[2].get_ylim()
        assert losses[1] < 1.5 * max(o.loss for o in result.used)
        (law,) = [line for line in figure.legends[0].get_lines() if line.get_label() == "isoflop"]
        colours.append(law.get_color())
    alone = frontier_figure({"isoflop": result.fits["isoflop"]}, result.used)
    colours.append(alone.legends[0].get_lines()[0].get_color())
    assert len(set(colours)) == 1


def test_no_pdf_holds_type_3_fonts_and_svg_text_stays_text():
    figure = frontier_figure(planted_result().fits, planted_result().used)
    assert b"/Type3" not in figure_bytes(figure, "pdf")
    assert b"compute C (FLOPs)" in figure_bytes(figure, "svg")
