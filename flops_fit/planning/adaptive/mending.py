"""Weaknesses of the runs so far, and the run that fixes each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.curves import group_curves
from flops_fit.fitting.isoflop import find_minima
from flops_fit.fitting.robust import mad_sigma
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.adaptive.belief import Belief
from flops_fit.planning.adaptive.terms import History, Run, Terms
from flops_fit.planning.adaptive.worth import flops_per_token_of
from flops_fit.units import format_count, format_flops

_FAR_OFF = 4.0  # robust standard deviations of a run that is repeated
_AT_LEAST_OFF = 0.01  # and log loss
_NUM_PARAMETERS = 5  # of the surface
_FEW = 8  # runs below which one that is far off cannot be told
_BESIDE = math.log(1.5)  # in ln N: a run that stands in for one without a loss
_MANY = 9  # runs of a level, beyond which more do not make a flat minimum steep
_BEYOND = 2.0  # in N: how far beyond an optimum a run brackets it


@dataclass(frozen=True)
class Weakness:
    """A weakness of the runs so far.

    Attributes:
        kind: `far_above_law`, `unbracketed`, `flat` or `no_loss`.
        budget_flops: where.
        message: what, in a sentence.
        remedy: the run that mends it; None where no size is left for one.
    """

    kind: str
    budget_flops: float
    message: str
    remedy: Trial | None

    def to_dict(self) -> dict[str, Any]:
        """Return the values as plain data."""
        return {
            "kind": self.kind,
            "budget_flops": self.budget_flops,
            "message": self.message,
            "remedy": None if self.remedy is None else self.remedy.trial_id,
        }


def weaknesses(
    terms: Terms, history: History, belief: Belief, levels: Sequence[int]
) -> list[Weakness]:
    """Return the weaknesses at these levels, the most certain first.

    Whether a level's own parabola is flat is asked only of runs that were planned as isoFLOP curves
    (given ones that lie at the levels); an adaptive sweep's levels may be thin where the law needs
    no more.
    """
    found = [*_far_above(terms, history, belief), *_without_loss(terms, history, levels)]
    found += _unbracketed(terms, history, belief, levels)
    if history.given and all(terms.at_level(run.trial) for run in history.given):
        found += _flat(terms, history, belief, levels)
    remedies: set[str] = set()
    kept = []
    for each in found:
        if each.remedy is None or each.remedy.trial_id not in remedies:
            kept.append(each)
        if each.remedy is not None:
            remedies.add(each.remedy.trial_id)
    return kept


def dropped_levels(terms: Terms, history: History) -> set[int]:
    """Return the levels that the ladder check left out."""
    dropped = [d for d in history.decisions if d.action == "drop_level"]
    ids = {trial_id for decision in dropped for trial_id in decision.left_out}
    return {terms.level_of(run.trial) for run in history.runs if run.trial.trial_id in ids}


def nearest_size(sizes: Sequence[Size], params: float) -> Size:
    """Return the size nearest to a number of params, by ratio."""
    return min(sizes, key=lambda size: abs(math.log(size.params / params)))


def outvoted(terms: Terms, history: History, belief: Belief) -> tuple[tuple[str, ...], str]:
    """Return runs far above the law whose repeats are not, and why they are left out."""
    runs = history.counting
    is_off, _ = _residuals(runs, belief)
    cells = [(run.trial.size.size_value, run.trial.budget_flops) for run in runs]
    gone = [
        runs[k].trial.trial_id
        for k in np.flatnonzero(is_off).tolist()
        if any(cell == cells[k] and not is_off[j] for j, cell in enumerate(cells))
    ]
    because = "far above the law, although the same cell with another seed is not" if gone else ""
    return tuple(gone), because


def _residuals(
    runs: Sequence[Run], belief: Belief
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return a mask of runs far above the law, and all log residuals."""
    n = np.log([run.trial.size.params for run in runs])
    d = np.log([run.trial.tokens for run in runs])
    residuals = np.log([run.observation.loss for run in runs]) - belief.log_loss(n, d)
    if len(runs) < _FEW:
        return np.zeros(len(runs), dtype=bool), residuals
    # The law is drawn to its own runs: residuals are smaller than the noise by this factor.
    robust = mad_sigma(residuals) * math.sqrt(len(runs) / max(len(runs) - _NUM_PARAMETERS, 1))
    limit = max(_FAR_OFF * robust, _AT_LEAST_OFF)
    return residuals - np.median(residuals) > limit, residuals


def _far_above(terms: Terms, history: History, belief: Belief) -> list[Weakness]:
    """Yield weaknesses: runs far above the law with only one seed."""
    runs = history.counting
    is_off, residuals = _residuals(runs, belief)
    found = []
    for k in np.flatnonzero(is_off).tolist():
        trial = runs[k].trial
        times = history.times(trial.size, trial.budget_flops)
        if times > 1:
            continue
        message = (
            f"the loss of {format_count(trial.size.params)} params is "
            f"{math.expm1(float(residuals[k])):.1%} above the law; it is repeated with another seed"
        )
        remedy = terms.repeated(history, trial)
        found.append(Weakness("far_above_law", trial.budget_flops, message, remedy))
    return found


def _without_loss(terms: Terms, history: History, levels: Sequence[int]) -> list[Weakness]:
    """Yield weaknesses: diverged and failed runs without a replacement."""
    found = []
    for run in history.runs:
        level = terms.level_of(run.trial)
        if run.loss is not None or level not in levels:
            continue
        at = run.trial.size.params
        budget = run.trial.budget_flops
        beside = [
            other for other in history.runs
            if other is not run and other.trial.budget_flops == budget
            and abs(math.log(other.trial.size.params / at)) < _BESIDE
        ]  # fmt: skip
        if beside:
            continue
        message = f"the run of {format_count(at)} params gave no loss"
        sizes = [s for s in terms.trainable(level) if not history.times(s, budget)]
        near = [s for s in sizes if abs(math.log(s.params / at)) < _BESIDE]
        if near and terms.at_level(run.trial):
            remedy = terms.trial(nearest_size(near, at), level)
            message += "; a neighbouring size replaces it"
        else:
            remedy = terms.repeated(history, run.trial)
            message += "; it is repeated with another seed"
        found.append(Weakness("no_loss", budget, message, remedy))
    return found


def _unbracketed(
    terms: Terms, history: History, belief: Belief, levels: Sequence[int]
) -> list[Weakness]:
    """Yield weaknesses: levels whose fitted optimum is outside the sizes run there."""
    found = []
    for level in levels:
        budget = terms.budgets[level]
        there = sorted(
            run.trial.size.params for run in history.counting if terms.level_of(run.trial) == level
        )
        centre = math.exp(belief.log_params(budget))
        if len(there) < 2 or there[0] < centre < there[-1]:
            continue
        message = (
            f"the optimum at {format_flops(budget)} FLOPs, near {format_count(centre)} params, "
            "lies outside the sizes run there"
        )
        remedy = _beyond(terms, history, level, there, centre, is_up=centre >= there[-1])
        found.append(Weakness("unbracketed", budget, message, remedy))
    return found


def _flat(terms: Terms, history: History, belief: Belief, levels: Sequence[int]) -> list[Weakness]:
    """Yield weaknesses: isoFLOP curves whose parabola has no clear minimum."""
    seen = [run.observation for run in history.counting]
    minima = find_minima(group_curves(seen), flops_per_token_of(terms.sizes))
    found = []
    for minimum in minima:
        away = [abs(math.log(minimum.budget_flops / terms.budgets[level])) for level in levels]
        if minimum.status == "ok" or not away or min(away) > _BESIDE:
            continue
        level = levels[away.index(min(away))]
        budget = terms.budgets[level]
        there = sorted(
            run.trial.size.params for run in history.counting if terms.level_of(run.trial) == level
        )
        if len(there) >= _MANY:
            continue
        centre = math.exp(belief.log_params(budget))
        is_up = centre / there[0] > there[-1] / centre
        kind = "unbracketed" if minimum.status == "unbracketed" else "flat"
        message = f"no minimum at {format_flops(budget)} FLOPs: {minimum.reason}"
        remedy = _beyond(terms, history, level, there, centre, is_up=is_up)
        found.append(Weakness(kind, budget, message, remedy))
    return found


def _beyond(
    terms: Terms,
    history: History,
    level: int,
    there: Sequence[float],
    centre: float,
    *,
    is_up: bool,
) -> Trial | None:
    """Return a run at the next size beyond those of a level, on one side."""
    wanted = max(centre, there[-1]) * _BEYOND if is_up else min(centre, there[0]) / _BEYOND
    beyond = [
        size for size in terms.trainable(level)
        if (size.params > there[-1] if is_up else size.params < there[0])
        and not history.times(size, terms.budgets[level])
    ]  # fmt: skip
    return terms.trial(nearest_size(beyond, wanted), level) if beyond else None
