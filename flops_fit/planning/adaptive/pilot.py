"""The first runs of an adaptive sweep, which locate the lowest level's optimum."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flops_fit.manifest.trials import Trial
from flops_fit.planning.adaptive.mending import nearest_size
from flops_fit.planning.adaptive.terms import Action, Decision, History, Run, Terms
from flops_fit.units import format_count, format_flops

MAX_PILOT_STEPS = 8
_STEP = 4.0
_ABOUT_CENTRE = (0.4, 2.5)
_NEXT_LEVEL = (0.2, 0.6, 1.6, 5.0)
_ABOUT_GUESS = "sizes four times apart about the guess"
_ENOUGH_GIVEN = 8  # finished runs from before, which make a pilot needless


def pilot(terms: Terms, history: History) -> Decision | None:
    """Return the pilot's next step, or the runs that follow it; None when both are done."""
    if history.done("centre") or len(history.given) >= _ENOUGH_GIVEN:
        return None
    level = terms.lowest
    sizes = terms.trainable(level)
    if not history.decisions:
        return ask(terms, history, "pilot", [(level, _about_guess(terms))], _ABOUT_GUESS)
    ended = _ended(terms, history.counting)
    if len(ended) < 3 and history.done("pilot") < MAX_PILOT_STEPS:
        # Sizes that diverged or failed say nothing; their neighbours may.
        here = [run for run in history.runs if run.trial.budget_flops == terms.budgets[level]]
        tried = [run.trial.size.params for run in here if run.loss is None]
        wanted = [n * 0.6 for n in tried] + [n * 1.7 for n in tried]
        reason = "in place of runs without a loss"
        if not tried:  # the total did not pay for all of them when they were asked for
            wanted, reason = _not_run(terms, history), _ABOUT_GUESS
        return ask(terms, history, "pilot", [(level, wanted)], reason)
    best = min(range(len(ended)), key=lambda k: ended[k].loss or math.inf)
    at = ended[best].trial.size.params
    if best in (0, len(ended) - 1) and history.done("pilot") < MAX_PILOT_STEPS:
        side, step = ("smallest", 1 / _STEP) if best == 0 else ("largest", _STEP)
        beyond = [s for s in sizes if (s.params / at - 1) * (step - 1) > 0]
        if beyond:
            reason = f"the lowest loss is at the {side} size so far, {format_count(at)} params"
            return ask(terms, history, "pilot", [(level, [at * step])], reason)
    centre = _vertex(ended, best)
    up = centre * math.sqrt(terms.budgets[level - 1] / terms.budgets[level])
    wanted_below = [centre * f for f in _ABOUT_CENTRE]
    wanted_above = [up * f for f in _NEXT_LEVEL]
    is_inside = 0 < best < len(ended) - 1
    reason = f"the pilot's minimum lies near {format_count(centre)} params"
    if not is_inside:
        reason = f"the sizes end before the pilot's minimum, near {format_count(at)} params"
    return ask(terms, history, "centre", [(level, wanted_below), (level - 1, wanted_above)], reason)


def _about_guess(terms: Terms) -> list[float]:
    """Params of the pilot's first sizes."""
    centre = math.sqrt(terms.budgets[terms.lowest] / 6.0 / terms.tokens_per_param)
    return [centre / _STEP, centre, centre * _STEP]


def _ended(terms: Terms, runs: Sequence[Run]) -> list[Run]:
    """Return the runs of the lowest level by rising params, one of each size."""
    budget = terms.budgets[terms.lowest]
    there = {run.trial.size.params: run for run in runs if run.trial.budget_flops == budget}
    return [there[params] for params in sorted(there)]


def _not_run(terms: Terms, history: History) -> list[float]:
    """Return those of the pilot's first sizes that were not run."""
    sizes, budget = terms.trainable(terms.lowest), terms.budgets[terms.lowest]
    return [
        params
        for params in _about_guess(terms)
        if sizes and not history.times(nearest_size(sizes, params), budget)
    ]


def _vertex(ended: Sequence[Run], best: int) -> float:
    """Params at the vertex of the parabola through the best run and its neighbours."""
    if not 0 < best < len(ended) - 1:
        return float(ended[best].trial.size.params)
    x = [math.log(run.trial.size.params) for run in ended[best - 1 : best + 2]]
    y = [math.log(run.loss or math.inf) for run in ended[best - 1 : best + 2]]
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    bend = (right - left) / (x[2] - x[0])
    vertex = 0.5 * (x[0] + x[1]) - left / (2 * bend) if bend > 0 else x[1]
    return math.exp(min(max(vertex, x[0]), x[2]))


def ask(
    terms: Terms,
    history: History,
    action: Action,
    wanted: Sequence[tuple[int, Sequence[float]]],
    reason: str,
) -> Decision:
    """Return a decision for the sizes nearest to the wanted ones that were not run yet."""
    trials: list[Trial] = []
    for level, params in wanted:
        budget = terms.budgets[level]
        taken: set[float] = set()
        for each in params:
            free = [
                size for size in terms.trainable(level)
                if size.size_value not in taken and not history.times(size, budget)
            ]  # fmt: skip
            if free:
                size = nearest_size(free, each)
                taken.add(size.size_value)
                trials.append(terms.trial(size, level))
    left = terms.total_flops - history.spent_flops
    figures = {"flops": history.spent_flops}
    paid = tuple(history.trunk_states.affordable(trials, left))
    if len(paid) < len(trials):
        reason += (
            f"; the {format_flops(max(left, 0.0))} FLOPs that are left pay for {len(paid)} of "
        )
        reason += f"{len(trials)}"
    return Decision(0, action, reason, paid, figures=figures)
