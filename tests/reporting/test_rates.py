import json

import numpy as np
import pytest
from rate_points import SHAPES, points, vars_of

from flops_fit.fitting.carryover import fit_transfer
from flops_fit.fitting.rates import RatePoint
from flops_fit.reporting.figures.rates import transfer_figure
from flops_fit.reporting.figures.style import figure_bytes
from flops_fit.reporting.tables.rates import (
    bracketing,
    describe_transfer,
    optima_table,
    rule_costs_table,
    transfer_from,
)


@pytest.fixture
def study():
    return fit_transfer(
        points(lambda size: (size / 32) ** -0.5, rates=0.01), SHAPES, own="constant"
    )


def test_the_table_holds_each_optimum_and_the_slopes(study):
    table = optima_table(study, "d_model", "byte", "nats per byte")
    assert [row["size_value"] for row in table.rows] == [16, 32, 128]
    assert table.rows[0]["rate"] == pytest.approx(0.01 * 2**0.5)
    text = table.to_markdown()
    assert "d\\_model" in text
    assert "-0.50" in text
    assert "what is wrong" not in text
    edge = fit_transfer(points(lambda size: 16.0), SHAPES, own="constant")
    assert "add larger rates" in optima_table(edge, "d", "byte", "nats").to_csv()


def test_the_costs_name_the_manifests_rule_and_what_lies_beyond_the_grid(study):
    table = rule_costs_table(study, "d_model")
    notes = {row["rule"]: row["note"] for row in table.rows}
    assert notes["constant"] == "the manifest's rule"
    assert "16, carried to 128" in table.title


def test_the_data_are_json_and_hold_every_rate(study):
    told = json.loads(json.dumps(describe_transfer(study), allow_nan=False))
    assert told["verdict"] == "not carried"
    assert [len(size["rates"]) for size in told["sizes"]] == [5, 5, 5]
    assert set(told["sizes"][0]["rates"][0]) == {"factor", "rate", "loss", "seeds"}
    assert {rule["rule"] for rule in told["rules"]} == {"constant", "width"}


def test_the_figure_shows_every_loss_each_parabola_and_the_line_through_the_optima(study):
    figure = transfer_figure(study, size_param="d_model", rule="constant")
    left, right = figure.axes
    assert not right.texts
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == [f"d_model = {size:g}" for size in (16, 32, 128)]
    assert left.get_xlabel() == "peak learning rate of weight matrices"
    assert "%" in left.get_ylabel()
    marks = [line for line in left.get_lines() if line.get_label() in labels]
    assert [len(line.get_xdata()) for line in marks] == [5, 5, 5]
    parabolas = [line for line in left.get_lines() if line.get_label() == "_parabola"]
    for line, bracket in zip(parabolas, study.brackets, strict=True):
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert x[y.argmin()] == pytest.approx(bracket.rate, rel=0.05)
    best, rule = (
        next(line for line in right.get_lines() if str(line.get_label()).startswith(start))
        for start in ("best", "rule")
    )
    assert "-0.50" in best.get_label()
    x, y = np.asarray(best.get_xdata()), np.asarray(best.get_ydata())
    for bracket in study.brackets:
        on_line = np.exp(np.interp(np.log(bracket.size_value), np.log(x), np.log(y)))
        assert on_line == pytest.approx(bracket.rate, rel=1e-3)
    assert np.ptp(rule.get_ydata()) == pytest.approx(0)  # a constant rate
    low, high = right.get_ylim()
    assert all(low < bracket.rate < high for bracket in study.brackets)


def test_a_study_without_an_optimum_is_drawn_all_the_same():
    edge = fit_transfer(points(lambda size: 16.0), SHAPES, own="constant")
    figure = transfer_figure(edge, size_param="d", rule="constant")
    left, right = figure.axes
    assert len(left.get_legend().get_texts()) == 3
    (said,) = (text for text in right.texts if text.get_gid() == "missing")
    assert "no size has its best rate between two others" in said.get_text().replace("\n", " ")
    assert "d = 16, 32, 128: " in said.get_text()
    assert "add larger rates" in said.get_text().replace("\n", " ")
    figure.canvas.draw()
    # The words stay inside their panel.
    words, panel = said.get_window_extent(), right.get_window_extent()
    assert panel.x0 <= words.x0
    assert words.x1 <= panel.x1


def without(study_points, size):
    return [
        RatePoint(**{**vars_of(p), "loss": None if size in (p.size_value, "all") else p.loss})
        for p in study_points
    ]


@pytest.mark.parametrize("size", [16.0, 128.0, "all"])
def test_a_size_at_which_every_rate_diverged_is_drawn_as_such(size):
    told = fit_transfer(without(points(curvature=0.002), size), SHAPES, own="constant")
    figure = transfer_figure(told, size_param="d", rule="constant")
    left = figure.axes[0]
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert sum("all diverged" in label for label in labels) == (3 if size == "all" else 1)
    top = left.get_ylim()[1]
    assert top < 5
    for line in left.get_lines():
        if "diverged" in str(line.get_label()) and len(line.get_xdata()):
            assert list(line.get_ydata()) == [top] * 5  # inside the axes, whatever their height
    figure.canvas.draw()
    describe_transfer(told)
    optima_table(told, "d", "byte", "nats").to_markdown()


def test_data_read_back_are_the_same_study(study):
    told = json.loads(json.dumps(describe_transfer(study)))
    assert transfer_from(told) == study


def test_a_sweep_beside_its_study_says_whether_the_rate_was_bracketed(study):
    told = describe_transfer(study) | {"size_param": "d_model"}
    assert bracketing(None) == (None, "no bracketing recorded (`flops-fit transfer` does it)")
    held, figure = bracketing(told)
    assert not held
    assert figure == (
        "bracketed at 3 of 3 sizes: not carried, -0.50 [-0.50, -0.50] in d_model left over"
    )
    good = fit_transfer(points(noise=0.001), SHAPES, own="constant")
    assert bracketing(describe_transfer(good) | {"size_param": "d"})[0]


@pytest.mark.parametrize("columns", [1, 2])
def test_the_figure_fills_the_columns_of_a_paper(study, columns):
    figure = transfer_figure(study, size_param="d", rule="constant", columns=columns)
    assert figure.get_figwidth() == {1: 3.4, 2: 6.9}[columns]
    figure_bytes(figure, "png")  # solves the layout
    for axes in figure.axes:
        room = axes.get_position().bounds
        assert room[2] > 0.25
        assert room[3] > 0.25
