"""The display of a running sweep fits its terminal and says how far the sweep is."""

import io
import math
import re
import time

import pytest
from rich.console import Console

from flops_fit.cli.progress import Rates, _Lines, _Live, minimum_words
from flops_fit.cli.running import bar
from flops_fit.cli.status import picture
from flops_fit.sweep.conductor import Progress
from flops_fit.sweep.entries import TrialFinished
from flops_fit.sweep.opening import open_sweep
from flops_fit.sweep.provenance import read_plan
from flops_fit.sweep.status import read_status


@pytest.fixture
def run(tmp_path, write_manifest):
    """A run directory in which nothing has been trained yet."""
    with open_sweep(write_manifest(), tmp_path / "planted", simulated=True) as sweep:
        yield sweep.run


def finish(display, trial, loss):
    entry = TrialFinished(
        trial_id=trial.trial_id, loss=loss, params=trial.size.params, tokens=trial.tokens,
        flops=trial.flops, wall_seconds=2.0,
    )  # fmt: skip
    display.on_entry(entry, trial)


def shown(width, renderable):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_display_fits_and_names_spending_running_trials_and_complete_budgets(run, width):
    plan = read_plan(run)
    display = _Live(plan, run, Console(width=width, file=io.StringIO()))
    first = min(trial.budget_flops for trial in plan.trials)
    group = [trial for trial in plan.trials if trial.budget_flops == first]
    for place, trial in enumerate(group):
        finish(display, trial, 3.0 - 0.1 * (place == 1))
    rest = [trial for trial in plan.trials if trial.budget_flops != first]
    display.on_progress([Progress(rest[0], 0, None)])
    display.first_seen[rest[0].trial_id] = (display.began - 10.0, 0)
    display.on_progress([Progress(rest[0], rest[0].steps // 2, 2.5)])
    text = shown(width, display.picture())
    assert max(map(len, text.splitlines())) <= width
    assert f"{len(group)} of {len(plan.trials)} trials done, 1 running" in text
    assert " FLOPs" in text
    assert " so far, about " in text
    assert "money" not in text
    assert " %" not in text
    assert " left" in text
    assert f"{rest[0].steps // 2}/{rest[0].steps}" in text
    assert "2.500" in text
    assert minimum_words({t.size.params: 3.0 - 0.1 * (k == 1) for k, t in enumerate(group)}) in text
    assert ("budget" in text) == (width == 120)


@pytest.mark.parametrize("width", [80, 120])
def test_a_priced_sweep_shows_its_money_and_a_known_device_its_share_of_the_peak(run, width):
    plan = read_plan(run)
    trial = plan.trials[-1]
    pace = 4.0 * trial.batch_tokens / 10.0  # 4 steps in 10 s
    rates = Rates(3600.0, 2, 20.0 * pace * trial.size.flops_per_token)
    display = _Live(plan, run, Console(width=width, file=io.StringIO()), rates)
    finish(display, plan.trials[0], 3.0)  # it took 2 s, by two devices at 1 a second each
    display.on_progress([Progress(trial, 0, None)])
    display.first_seen[trial.trial_id] = (time.monotonic() - 10.0, 0)
    display.on_progress([Progress(trial, 4, 2.5)])
    text = shown(width, display.picture())
    assert max(map(len, text.splitlines())) <= width
    spent, whole = map(float, re.search(r"money ([\d.]+) of about ([\d.]+)", text).groups())
    assert spent == pytest.approx(2 * (2.0 + 10.0), rel=0.2)
    assert whole > spent
    assert "peak" in text
    share = float(re.search(r"([\d.]+) %", text)[1])
    assert share == pytest.approx(5.0, rel=0.2)


def test_the_minimum_of_a_budget_is_the_vertex_of_a_parabola():
    def loss(params):
        return 2.0 + 0.1 * math.log(params / 3e4) ** 2

    assert (
        minimum_words({n: loss(n) for n in (10_000, 20_000, 40_000, 90_000)})
        == "30k params, loss 2.000"
    )
    assert minimum_words({10_000: 2.0, 20_000: 2.1}) == "10k params, loss 2.000 (at the edge)"


def test_without_a_terminal_each_trial_that_ends_is_one_line(run):
    plan, file = read_plan(run), io.StringIO()
    display = _Lines(plan, run, Console(width=80, file=file))
    display.on_progress([Progress(plan.trials[0], 1, 3.0)])
    finish(display, plan.trials[0], 3.0)
    (line,) = file.getvalue().splitlines()
    assert line.startswith(f"[1/{len(plan.trials)}] size ")
    assert "loss 3.0000" in line


@pytest.mark.parametrize("width", [80, 120])
def test_a_watched_status_fits_and_has_the_bar(run, width):
    text = shown(width, picture(read_status(run.path), width))
    assert max(map(len, text.splitlines())) <= width
    assert bar(0, 1, 24 if width == 80 else 40) in text
    assert "planted" in text


def test_a_bar_never_leaves_its_width():
    assert bar(0.0, 0.0, 4) == "....   0%"
    assert bar(1.0, 2.0, 4) == "##..  50%"
    assert bar(5.0, 2.0, 4) == "#### 100%"
