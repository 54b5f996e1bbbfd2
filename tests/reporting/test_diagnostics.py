"""Figures that judge a fit show the fit's own values; content is checked, not pixels."""

import json

import numpy as np
import pytest
from planted_results import (
    PLANTED,
    observe,
    planted_result,
    run_directory,
    surface_fit,
    with_outlier,
)

from flops_fit.fitting.points import Observation
from flops_fit.reporting.figures.diagnostics import (
    agreement_figure,
    curves_figure,
    residuals_figure,
    surface_figure,
)
from flops_fit.reporting.record import Record
from flops_fit.sweep.rundir import RunDir

BUDGETS = (1e17, 1e18, 1e19)


def lines(axes, gid):
    return [line for line in axes.lines if line.get_gid() == gid and len(line.get_xdata())]


def curve(params, end_tokens, *, run):
    """A training whose loss is the planted surface at each number of tokens."""
    return [
        Observation(params, d, 6 * params * d, PLANTED.loss(params, d), run=run, step=d)
        for d in np.geomspace(end_tokens / 50, end_tokens, 6)
    ]


def test_the_surface_shows_trials_frontier_and_targets():
    seen = observe(BUDGETS)
    (axes,) = surface_figure(surface_fit(), seen, "image", targets=(1e20,)).axes
    (trials,) = lines(axes, "trials")
    assert list(trials.get_xdata()) == [o.params for o in seen]
    assert list(trials.get_ydata()) == [o.tokens for o in seen]
    (path,) = lines(axes, "frontier")
    for n, d in zip(path.get_xdata()[::20], path.get_ydata()[::20], strict=True):
        assert PLANTED.optimum(6 * n * d).params == pytest.approx(n, rel=1e-9)
    (target,) = lines(axes, "target")
    assert target.get_xdata()[0] == PLANTED.optimum(1e20).params
    assert axes.get_ylabel() == "training data D (images)"


def test_contours_carry_the_laws_own_values():
    (axes,) = surface_figure(surface_fit(), observe(BUDGETS)).axes
    (contours,) = [c for c in axes.collections if hasattr(c, "levels")]
    assert 5 <= len(contours.levels) <= 9
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        for n, d in path.vertices[::10]:
            assert PLANTED.loss(n, d) == pytest.approx(level, rel=2e-3)


def test_residuals_are_percent_above_the_fit_and_exclusions_are_crosses():
    seen, excluded = with_outlier(observe(BUDGETS), 3, share=0.05)
    panels = residuals_figure(surface_fit(), seen, excluded=excluded).axes
    for axes, key in zip(panels, ("params", "tokens"), strict=True):
        (points,) = lines(axes, "residuals")
        assert len(points.get_xdata()) == len(seen) - 1
        assert np.allclose(points.get_ydata(), 0, atol=1e-9)
        (cross,) = lines(axes, "excluded")
        assert cross.get_ydata()[0] == pytest.approx(5.0)
        assert cross.get_xdata()[0] == getattr(seen[3], key)


def test_each_training_is_one_curve_and_the_law_lies_below_them():
    curves = {str(n): curve(n, 2e9, run=str(n)) for n in (1e7, 3e7, 1e8)}
    figure = curves_figure(curves, "nats per byte", envelope=surface_fit())
    axes = figure.axes[0]
    assert len(lines(axes, "curve")) == 3
    (below,) = lines(axes, "envelope")
    for c, loss in zip(below.get_xdata(), below.get_ydata(), strict=True):
        assert loss == PLANTED.optimum(c).loss
    assert axes.get_ylabel() == "held-out loss (nats per byte)"
    assert figure.axes[1].get_ylabel() == "model size N (params)"


def test_agreement_shows_what_each_method_names_with_its_interval():
    rows = planted_result().chinchilla_table([1e20, 1e21])
    rows[1] = {**rows[1], "params": 2e9, "params_interval": (1.5e9, 2.5e9)}
    panels = agreement_figure(rows).axes
    named = [line.get_xdata()[0] for line in lines(panels[0], "named-params")]
    assert named == [row["params"] for row in rows]
    (interval,) = lines(panels[0], "interval-params")
    assert list(interval.get_xdata()) == [1.5e9, 2.5e9]
    assert len(lines(panels[1], "named-tokens")) == 4
    texts = [tick.get_text() for tick in panels[0].get_yticklabels()]
    assert texts == ["$10^{20}$ surface", "$10^{20}$ isoflop", "$10^{21}$ surface",
                     "$10^{21}$ isoflop"]  # fmt: skip


def test_a_result_draws_training_curves_from_its_run_directory(tmp_path):
    run = run_directory(tmp_path)
    trial = Record.read(run).plan.trials[0]
    points = [{"step": k, "tokens": 400 * k, "flops": 1e8 * k, "loss": 5 - k} for k in (1, 2, 3)]
    text = "\n".join([*(json.dumps(point) for point in points), "broken", '{"loss": null}'])
    RunDir(run).trial(trial.trial_id).mkdir(parents=True)
    (RunDir(run).trial(trial.trial_id) / "curve.jsonl").write_text(text)
    drawn = planted_result(run_dir=run).plot()
    (line,) = lines(drawn["curves"].axes[0], "curve")
    assert list(line.get_ydata()) == [4, 3, 2]


def test_only_figures_that_the_observations_allow_are_drawn():
    assert set(planted_result(targets=()).plot()) == {
        "isoflop", "frontier", "surface", "residuals",
    }  # fmt: skip
    alone = planted_result(fits={"surface": surface_fit()})
    assert "agreement" not in alone.plot()
    assert set(planted_result(fits={}).plot()) == {"isoflop"}
