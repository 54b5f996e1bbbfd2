"""The display of a running sweep fits its terminal and says how far the sweep is."""

import io

import pytest
from rich.console import Console

from flops_fit.cli.progress import _Lines, _Live
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
    assert " FLOPs; " in text
    assert " left" in text
    assert f"{rest[0].steps // 2}/{rest[0].steps}" in text
    assert "2.500" in text
    assert f"size {group[1].size.size_value:g}, loss 2.900" in text
    assert ("params" in text) == (width == 120)


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
