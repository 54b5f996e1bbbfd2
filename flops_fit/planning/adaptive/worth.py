"""Ranks runs by how much they narrow the target per FLOP.

The worth of a run x is what it takes off the variance of ln N_opt at the target, over its cost to
the power 0.4. For a run by itself that is

    U(x) = (j S g)^2 / (sigma^2 + j S j') / c^0.4,

with j the gradient of ln L at x by the parameters, S their covariance and g the gradient of
ln N_opt at the target. A run that goes on from a trunk costs what it adds to it, and tells less
than one by itself, as its noise is mostly that of the trunk's other runs. A batch is filled one by
one; each chosen run updates S as if it were done, which needs no loss.

Source: choosing runs by the variance of what is wanted, over cost^0.4: Li et al. 2026
(arXiv:2604.22753).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.law import FlopsPerToken
from flops_fit.fitting.points import TRUNK_CORRELATION
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.adaptive.belief import Belief, believe, covariance_of
from flops_fit.planning.adaptive.terms import History, Run, Terms
from flops_fit.planning.trunks import TrunkStates

Array = NDArray[np.float64]

COST_POWER = 0.4
MAX_PER_CELL = 2
_WINDOWS = (math.log(4.0), math.log(5.7), math.log(8.0))  # of ln N / N_opt: top, next, below


@dataclass(frozen=True)
class Pick:
    """A chosen run, and its expected gain.

    Attributes:
        trial: the run.
        error_before, error_after: standard error of ln N_opt at the target, drift included,
            before and after it.
    """

    trial: Trial
    error_before: float
    error_after: float


def flops_per_token_of(sizes: Sequence[Size]) -> FlopsPerToken:
    """FLOPs of one token by params, through every size that can be built."""
    by_params = {size.params: size.flops_per_token for size in sizes}
    params = tuple(sorted(by_params))
    if all(abs(by_params[n] / (6.0 * n) - 1) < 1e-6 for n in params):
        return FlopsPerToken()
    return FlopsPerToken(tuple(map(float, params)), tuple(by_params[n] for n in params))


def belief_of(terms: Terms, runs: Sequence[Run], *, drift: float) -> Belief:
    """Return the belief from the runs, centred at the guessed optimum of the top budget."""
    return believe(
        [run.observation for run in runs],
        top_flops=terms.top_flops,
        tokens_per_param=terms.tokens_per_param,
        flops_per_token=flops_per_token_of(terms.sizes),
        drift=drift,
    )


def candidates(
    terms: Terms, history: History, belief: Belief, levels: Sequence[int]
) -> list[Trial]:
    """Return the candidates: sizes near each level's optimum, at most two per cell."""
    found = []
    trunks = {run.trial.trunk_id for run in history.runs} - {None}
    for level in levels:
        centre = belief.log_params(terms.budgets[level])
        window = _WINDOWS[min(level, len(_WINDOWS) - 1)]
        for size in terms.trainable(level):
            times = history.times(size, terms.budgets[level])
            if times < MAX_PER_CELL and abs(math.log(size.params) - centre) <= window:
                found += _seeds_of_cell(terms, history, size, level, trunks)
    return found


def _seeds_of_cell(
    terms: Terms, history: History, size: Size, level: int, trunks: Collection[str | None]
) -> list[Trial]:
    """Yield the next runs of a cell: one on each trunk without it, and one on a new trunk."""
    if terms.share_trunks is None:
        return [terms.again(history, size, level)]
    seeds = history.seeds(size, terms.budgets[level])
    found = []
    for repeat in range(len(history.runs) + 1):
        trial = terms.trial(size, level, repeat=repeat)
        if trial.seed not in seeds:
            found.append(trial)
            if trial.trunk_id not in trunks:
                break
    return found


def choose(
    belief: Belief,
    target_flops: float,
    trials: Sequence[Trial],
    *,
    count: int,
    left_flops: float,
    top_flops: float,
    done: Sequence[Trial] = (),
    taken: Sequence[Trial] | None = None,
    states: TrunkStates | None = None,
) -> list[Pick]:
    """Return the runs worth most, one after another, within the remaining FLOPs.

    Of a cell, on whatever trunks, no more are chosen than make two with those that are taken.

    Args:
        belief: with drift, whose covariance steers.
        target_flops: whose optimum is wanted.
        trials: to choose from.
        count: how many at most.
        left_flops: what they may cost together.
        top_flops: the unit of cost.
        done: the runs that the belief rests on.
        taken: every run so far, and what the batch holds already; None: those done.
        states: of the trunks that are there to go on from; None: there are none.
    """
    chosen, states = list[Pick](), states or TrunkStates({})
    if not trials:
        return chosen
    rows, slope = _rows(belief, trials), belief.slope(target_flops)
    mates, trunks = np.zeros_like(rows), np.array([trial.trunk_id or "" for trial in trials])
    for trial, row in zip(done, _rows(belief, done) if done else (), strict=True):
        _add_mate(mates, trunks, trial, row)
    squares, scatter = belief.squares, belief.scatter
    before = float(slope @ belief.covariance @ slope)
    cells = [_cell(trial) for trial in trials]
    times = Counter(map(_cell, done if taken is None else taken))
    is_free = np.ones(len(trials), dtype=bool)
    while len(chosen) < count:
        costs = np.array([states.cost_flops(trial) for trial in trials])
        own = rows[:, :, None] * rows[:, None, :]
        common = TRUNK_CORRELATION * rows[:, :, None] * mates[:, None, :]
        all_squares, all_scatter = squares + own, scatter + own + common + common.swapaxes(1, 2)
        found = covariance_of(all_squares, all_scatter, belief.precision, belief.sigma)
        after = np.maximum(np.einsum("j,njk,k->n", slope, found, slope), 0.0)
        is_left = is_free & np.array([times[cell] < MAX_PER_CELL for cell in cells])
        worth = np.where(is_left & (costs <= left_flops), before - after, -1.0)
        worth /= (costs / top_flops) ** COST_POWER
        best = int(np.argmax(worth))
        if worth[best] <= 0:
            break
        chosen.append(Pick(trials[best], math.sqrt(before), math.sqrt(after[best])))
        before, squares, scatter = float(after[best]), all_squares[best], all_scatter[best]
        left_flops -= float(costs[best])
        is_free[best] = False
        times[cells[best]] += 1
        states = states.after(trials[best])
        _add_mate(mates, trunks, trials[best], rows[best])
    return chosen


def _cell(trial: Trial) -> tuple[float, float]:
    """Size and budget of the run."""
    return trial.size.size_value, trial.budget_flops


def _rows(belief: Belief, trials: Sequence[Trial]) -> Array:
    """Return the gradient of ln L by the parameters at each trial, shape (trials, 8)."""
    return belief.row(
        np.log([trial.size.params for trial in trials]), np.log([t.tokens for t in trials])
    )


def _add_mate(mates: Array, trunks: NDArray[np.str_], ran: Trial, row: Array) -> None:
    """Add a run's gradient to those of the runs that each trial shares a trunk with."""
    if ran.trunk is not None:
        mates[trunks == ran.trunk_id] += row
