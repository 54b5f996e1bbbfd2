"""A run directory -> what is weak in its sweep, and the runs that come next; writes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flops_fit.adaptive import history_of, make_terms
from flops_fit.errors import FitError
from flops_fit.ledger import read_ledger, replay
from flops_fit.plan import Plan
from flops_fit.planning.belief import Belief
from flops_fit.planning.decide import decide
from flops_fit.planning.mending import Weakness, dropped_levels, weaknesses
from flops_fit.planning.terms import Decision
from flops_fit.planning.worth import belief_of
from flops_fit.prepared import resume
from flops_fit.rundir import RunDir, read_json
from flops_fit.spending import share_of_target
from flops_fit.sweep_plan import ground_of, make_plan
from flops_fit.units import format_count, format_flops

_MIN_RUNS = 5
_MUCH_NOISE = 0.05  # scatter of log loss that more runs of the same kind do not mend
_NEVER = 1e-9  # a standard error that no sweep reaches


@dataclass(frozen=True)
class Refinement:
    """What a sweep lacks.

    Attributes:
        weaknesses: what its runs do not show well.
        decision: the next runs.
        notes: their cost and expected gain, in sentences.
        how: how to run them.
        unit: of data.
    """

    weaknesses: tuple[Weakness, ...]
    decision: Decision
    notes: tuple[str, ...]
    how: str
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """As plain data: what `plan --refine --json` prints."""
        return {
            "weaknesses": [weakness.to_dict() for weakness in self.weaknesses],
            "decision": self.decision.to_dict(),
            "notes": list(self.notes),
            "how": self.how,
        }


def refine_run(directory: Path) -> Refinement:
    """Look at the runs that a run directory holds, and choose the next ones.

    Raises:
        RunDirError: it is no run directory.
        PlanError: its design has no levels of compute.
        FitError: too few trials are finished.
    """
    run = RunDir(directory)
    prepared = resume(directory)
    plan = Plan.from_dict(read_json(run.plan))
    is_new = bool(read_json(run.provenance).get("adaptive"))
    terms = make_terms(
        prepared.manifest,
        ground_of(prepared),
        make_plan(prepared, is_adaptive=True) if is_new else plan,
        total_flops=math.inf,
        is_new=is_new,
    )
    history = history_of(plan, replay(read_ledger(run.ledger)))
    if len(history.counting) < _MIN_RUNS:
        raise FitError(
            f"`{directory}` has {len(history.counting)} finished trials, and {_MIN_RUNS} are the "
            "least to choose the next by",
            code="too_few_observations",
            hint=f"finish more of them: flops-fit run {directory}",
        )
    belief = belief_of(terms, history.counting, drift=0.0)
    kept = set(range(len(terms.budgets))) - dropped_levels(terms, history)
    levels = sorted({terms.level_of(run.trial) for run in history.counting} & kept)
    found = weaknesses(terms, history, belief, levels)
    # Whoever asks wants the next runs, whether or not a goal was set and is reached.
    decision = decide(replace(terms, params_within=_NEVER), history)
    is_reached = belief.error(terms.target_flops) <= terms.params_within
    cost, spent = math.fsum(trial.cost_flops for trial in decision.trials), history.spent_flops
    told = f"{len(decision.trials)} trials, {format_flops(cost)} FLOPs; with the "
    told += f"{format_flops(spent)} spent: {share_of_target(prepared.manifest, spent + cost)}"
    unit = prepared.description.facts.unit
    how = f"flops-fit run --adaptive {directory} --max-flops {1.005 * (spent + cost):.4g}"
    if is_reached:
        error = belief.error(terms.target_flops)
        finer = decision.figures.get("expected_error_with_drift", 0.5 * error)
        finer = min(finer, 0.9 * error)
        wanted = f"goal = {{ at = {terms.target_flops:g}, params_within = {finer:.2g} }}"
        how = f"the present goal is reached: write `{wanted}` into [sweep], then {how}"
    known, *rest = _notes(belief, terms.target_flops, decision)
    return Refinement(tuple(found), decision, (known, told, *rest), how, unit)


def _notes(belief: Belief, target_flops: float, decision: Decision) -> list[str]:
    """What is known at the target, how much of it is noise, and what the next runs would gain."""
    params = format_count(math.exp(belief.log_params(target_flops)))
    notes = [
        f"N at {format_flops(target_flops)} FLOPs is {params} so far, with a standard error of "
        f"{belief.error(target_flops):.3f} in ln N from the runs' noise"
    ]
    if belief.sigma > _MUCH_NOISE:
        notes.append(
            f"the runs scatter by {belief.sigma:.0%} about the law, where seeds differ by about "
            "1 %: see what the report's verdict names before buying more of them"
        )
    figures = decision.figures
    if "expected_error_with_drift" in figures:
        notes.append(
            "expected gain: the standard error of ln N at the target falls from "
            f"{figures['error_with_drift']:.3f} to {figures['expected_error_with_drift']:.3f}, "
            "slow drift of the law included"
        )
    return notes
