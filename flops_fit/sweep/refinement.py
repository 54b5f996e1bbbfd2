"""A run directory -> the weaknesses of its sweep, and the next runs; writes nothing.

The command that is printed trains exactly these runs: an adaptive sweep with its goal and total
decides on them, and its cap ends the sweep after them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flops_fit.errors import FitError
from flops_fit.experiment.prepared import Prepared
from flops_fit.manifest.trials import Trial
from flops_fit.planning.adaptive.answer import answer_of
from flops_fit.planning.adaptive.belief import Belief
from flops_fit.planning.adaptive.decide import decide
from flops_fit.planning.adaptive.mending import Weakness, dropped_levels, weaknesses
from flops_fit.planning.adaptive.terms import Decision, History, Terms
from flops_fit.planning.adaptive.worth import belief_of
from flops_fit.planning.from_manifest import ground_of, make_plan
from flops_fit.planning.notes import share_of_target
from flops_fit.planning.plan import Plan
from flops_fit.sweep.ledger import LedgerState, read_ledger, replay
from flops_fit.sweep.provenance import read_provenance, resume
from flops_fit.sweep.rounds import given_part, history_of, make_terms, planned_so_far, stated_total
from flops_fit.sweep.rundir import RunDir
from flops_fit.units import format_count, format_flops

_MIN_RUNS = 5
_MUCH_NOISE = 0.05  # noise of log loss that more runs of the same kind do not reduce
_FINER = 0.6  # a finer goal, as a factor of the half-width that noise alone gives
_FINEST = 1e-3  # the smallest finer goal; a goal must be above 0
_MOST_TOTALS = 40  # totals to try, each 1.5 times the one before


@dataclass(frozen=True)
class Refinement:
    """The weaknesses of a sweep, and its next runs.

    Attributes:
        weaknesses: what its runs do not determine well.
        decision: the next runs.
        notes: their cost and expected gain, in sentences.
        how: how to run them; ends with the command.
        unit: name of one unit of data.
    """

    weaknesses: tuple[Weakness, ...]
    decision: Decision
    notes: tuple[str, ...]
    how: str
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """Return the refinement as plain data: what `plan --refine --json` prints."""
        return {
            "weaknesses": [weakness.to_dict() for weakness in self.weaknesses],
            "decision": self.decision.to_dict(),
            "notes": list(self.notes),
            "how": self.how,
        }


def refine_run(directory: Path) -> Refinement:
    """Return the weaknesses of a run directory's sweep, and the next runs.

    Raises:
        RunDirError: it is not a run directory.
        PlanError: too few levels of compute train enough sizes.
        FitError: too few trials are finished.
    """
    run = RunDir(directory)
    prepared = resume(directory)
    state = replay(read_ledger(run.ledger))
    plan = planned_so_far(run, state)
    is_new = read_provenance(run).adaptive
    terms = make_terms(
        prepared.manifest,
        ground_of(prepared),
        make_plan(prepared, is_adaptive=True) if is_new else given_part(plan, state),
        total_flops=stated_total(state),
        is_new=is_new,
    )
    history = history_of(plan, state)
    if len(history.counting) < _MIN_RUNS:
        raise FitError(
            f"`{directory}` has {len(history.counting)} finished trials; choosing the next ones "
            f"needs at least {_MIN_RUNS}",
            code="too_few_observations",
            hint=f"finish more of them: flops-fit run {directory}",
        )
    belief = belief_of(terms, history.counting, drift=0.0)
    kept = set(range(len(terms.budgets))) - dropped_levels(terms, history)
    levels = sorted({terms.level_of(run.trial) for run in history.counting} & kept)
    found = tuple(weaknesses(terms, history, belief, levels))
    known, *rest = _notes(belief, terms.target_flops)
    waiting = [t for t in plan.trials if state.is_pending(t) and t.trial_id not in state.failed]
    if waiting:
        decision, how = _begun(history, waiting), f"flops-fit run {directory}"
    else:
        decision, how = _chosen(terms, history, found, directory)
    told, flops = _costs(prepared, plan, state, decision)
    how += f" --max-flops {_rounded_up(flops, 12):.12g}"
    notes = (known, told, *rest, *_gain(decision))
    return Refinement(found, decision, notes, how, prepared.description.facts.unit)


def _begun(history: History, waiting: Sequence[Trial]) -> Decision:
    """Return the planned trials that were not run yet, as a decision."""
    made = Decision(0, "batch", "the plan's trials that were not run yet", tuple(waiting))
    if not history.decisions:
        return made
    last = history.decisions[-1]
    return replace(last, reason=f"decided on, not run yet: {last.reason}", trials=made.trials)


def _chosen(
    terms: Terms,
    history: History,
    found: Sequence[Weakness],
    directory: Path,
) -> tuple[Decision, str]:
    """Return the next runs, regardless of cost, and the command that trains them.

    If the goal is reached, a finer goal is set, since there would be no next runs.
    """
    how, answer, goal = "", answer_of(terms, history.counting), terms.params_within
    is_limited = answer.is_limited_by_law(goal)
    if answer.has_reached(goal) or is_limited:
        finer = _FINER * answer.noise_half_width
        terms = replace(terms, params_within=max(_FINEST, float(f"{finer:.2g}")))
        how = "the present goal is reached"
        if is_limited:
            how = "the law's own error, not noise, keeps N from the present goal"
        beyond = sum(weakness.kind == "unbracketed" for weakness in found)
        if beyond:
            lie = "lies" if beyond == 1 else "lie"
            how = (
                "the present goal is reached as far as noise is concerned, but "
                f"{beyond} of the optima that it depends on {lie} outside the runs"
            )
        wanted = (
            f"goal = {{ at = {terms.target_flops:g}, params_within = {terms.params_within:g} }}"
        )
        how += f": write `{wanted}` into [sweep] of `{RunDir(directory).manifest}`, then "
    decision = _next(replace(terms, total_flops=math.inf), history)
    how += f"flops-fit run --adaptive {directory}"
    cost = history.spent_flops + math.fsum(trial.cost_flops for trial in decision.trials)
    for step in range(_MOST_TOTALS):
        if _next(terms, history).trials == decision.trials:
            break
        terms = replace(terms, total_flops=_rounded_up(cost * 1.5**step, 3))
    else:
        return replace(decision, trials=()), how
    is_raised = step > 0
    return decision, how + (f" --total-flops {terms.total_flops:g}" if is_raised else "")


def _next(terms: Terms, history: History) -> Decision:
    """Return the next decision with trials, or the decision to stop."""
    while True:
        decision = decide(terms, history)
        if decision.trials or decision.action == "stop":
            return decision
        history = history.after(decision, ())


def _costs(
    prepared: Prepared, plan: Plan, state: LedgerState, decision: Decision
) -> tuple[str, float]:
    """Return the cost of the next runs in a sentence, and the FLOPs of the sweep with them."""
    cost, spent = math.fsum(trial.cost_flops for trial in decision.trials), state.spent_flops
    again = [trial for trial in plan.trials if trial.trial_id in state.failed]
    repeated = math.fsum(max(0.0, t.cost_flops - state.flops[t.trial_id]) for t in again)
    told = f"{len(decision.trials)} trials, {format_flops(cost)} FLOPs; "
    if again:
        told += f"{len(again)} failed trials are tried again first ({format_flops(repeated)}); "
    total = spent + repeated + cost
    told += f"with the {format_flops(spent)} spent: {share_of_target(prepared.manifest, total)}"
    return told, total


def _rounded_up(value: float, digits: int) -> float:
    """Round a positive value up to a number of significant digits."""
    value *= 1 + 1e-9  # sums of the same terms differ by rounding
    unit = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return float(f"{math.ceil(value / unit) * unit:.{digits - 1}e}")


def _notes(belief: Belief, target_flops: float) -> list[str]:
    """Return the best size at the target with its standard error, and a warning of high noise."""
    params = format_count(math.exp(belief.log_params(target_flops)))
    notes = [
        f"best size at {format_flops(target_flops)} FLOPs: {params} params, "
        f"+-{_percent(belief.error(target_flops))} (standard error from the noise of the runs)"
    ]
    if belief.sigma > _MUCH_NOISE:
        notes.append(
            f"losses deviate from the law by {_percent(belief.sigma)}; different seeds usually "
            "differ by about 1 %. Fix what the report's verdict names before training more runs"
        )
    return notes


def _gain(decision: Decision) -> list[str]:
    """Return the expected gain of the next runs; empty if it is not known."""
    figures = decision.figures
    if "expected_error_with_drift" not in figures:
        return []
    return [
        "expected gain: the standard error of the best size falls from "
        f"+-{_percent(figures['error_with_drift'])} to "
        f"+-{_percent(figures['expected_error_with_drift'])}, slow drift of the law included"
    ]


def _percent(log_error: float) -> str:
    """Return a standard error of a logarithm as a percentage of the value."""
    return f"{100 * math.expm1(log_error):.2g} %"
