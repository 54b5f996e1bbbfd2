"""The nouns of an adaptive sweep: its terms, its runs so far, and its decisions.

A decision is a plain record (an entry of the ledger): what is to be run next and why, with the
figures that led to it. What follows after a decision depends on the terms, the runs and the earlier
decisions alone, so that a sweep that was killed goes on to the same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flops_fit.plan import MIN_STEPS, BatchTokens, lay_trials, num_steps
from flops_fit.points import Observation, Size, Trial

Action = Literal["pilot", "centre", "climb", "batch", "top", "drop_level", "leave_out", "stop"]


@dataclass(frozen=True)
class Terms:
    """What an adaptive sweep works under.

    Attributes:
        sizes: what the model can be built at, by rising params.
        batch_tokens: units of data in one optimiser step, of a size and the tokens it will see.
        budgets: FLOPs of a run at each level, from the top down.
        target_flops: the budget whose optimum is wanted.
        params_within: the goal: standard error of ln N_opt at the target.
        total_flops: what the sweep may cost in all.
        tokens_per_param: the guess of the optimum that the pilot starts from.
        seed: of every run; a second run of a cell has the next one.
    """

    sizes: tuple[Size, ...]
    batch_tokens: BatchTokens
    budgets: tuple[float, ...]
    target_flops: float
    params_within: float
    total_flops: float
    tokens_per_param: float = 20.0
    seed: int = 0

    @property
    def top_flops(self) -> float:
        """FLOPs of each of the largest runs."""
        return self.budgets[0]

    @property
    def lowest(self) -> int:
        """The cheapest level; 0 is the top."""
        return len(self.budgets) - 1

    def level_of(self, trial: Trial) -> int:
        """The level that a trial belongs to."""
        away = [abs(math.log(trial.budget_flops / budget)) for budget in self.budgets]
        return away.index(min(away))

    def trainable(self, level: int) -> list[Size]:
        """The sizes that a level's budget trains for enough steps."""
        budget = self.budgets[level]
        return [s for s in self.sizes if num_steps(s, budget, self.batch_tokens) >= MIN_STEPS]

    def trial(self, size: Size, level: int, *, repeat: int = 0) -> Trial:
        """The run of a size at a level; `repeat` counts the earlier runs of the cell."""
        return lay_trials(size, self.budgets[level], self.batch_tokens, [self.seed + repeat])[0]


@dataclass(frozen=True)
class Run:
    """A trial that has ended; `loss` is None where it gave none (it diverged or failed)."""

    trial: Trial
    loss: float | None

    @property
    def observation(self) -> Observation:
        """The run as a point; it must have a loss."""
        assert self.loss is not None
        trial = self.trial
        return Observation(
            trial.size.params, trial.tokens, trial.flops, self.loss,
            budget_flops=trial.budget_flops, name=trial.trial_id, seed=trial.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """What to run next, and why.

    Attributes:
        number: counted from 0.
        action: `pilot`, `centre` (of the lowest levels), `climb` (to the next one), `batch`,
            `top`, `drop_level`, `leave_out` or `stop`.
        reason: in a sentence.
        trials: to be run; none where it only changes what counts.
        reasons: by trial id, why this one.
        figures: the numbers that it rests on (`params_error` is a standard error of ln N_opt at
            the target; `flops` are spent before it).
        left_out: ids of finished trials that count no more from here on.
        left_out_because: why.
    """

    number: int
    action: Action
    reason: str
    trials: tuple[Trial, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    left_out_because: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As the ledger's entry `decision_made` holds it."""
        return {
            "number": self.number,
            "action": self.action,
            "reason": self.reason,
            "trials": [trial.to_dict() for trial in self.trials],
            "reasons": dict(self.reasons),
            "figures": dict(self.figures),
            "left_out": list(self.left_out),
            "left_out_because": self.left_out_because,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        """The inverse of `to_dict`."""
        return cls(
            data["number"],
            data["action"],
            data["reason"],
            tuple(Trial.from_dict(trial) for trial in data["trials"]),
            dict(data["reasons"]),
            dict(data["figures"]),
            tuple(data["left_out"]),
            data["left_out_because"],
        )


@dataclass(frozen=True)
class History:
    """What has happened so far.

    Attributes:
        runs: every trial that has ended, in the order of the decisions, the given ones first.
        decisions: in their order.
    """

    runs: tuple[Run, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @property
    def spent_flops(self) -> float:
        """By all of the runs."""
        return math.fsum(run.trial.flops for run in self.runs)

    def after(self, decision: Decision, runs: Sequence[Run]) -> History:
        """Once one more decision was carried out."""
        return History((*self.runs, *runs), (*self.decisions, decision))

    @property
    def given(self) -> list[Run]:
        """The runs that no decision asked for: of the plan that was there before."""
        asked = {trial.trial_id for decision in self.decisions for trial in decision.trials}
        return [run for run in self.runs if run.trial.trial_id not in asked]

    @property
    def left_out(self) -> set[str]:
        """Ids of the trials that count no more."""
        return {trial_id for decision in self.decisions for trial_id in decision.left_out}

    @property
    def counting(self) -> list[Run]:
        """The runs with a loss that count."""
        gone = self.left_out
        return [r for r in self.runs if r.loss is not None and r.trial.trial_id not in gone]

    def done(self, action: Action) -> int:
        """How many decisions of a kind there were."""
        return sum(decision.action == action for decision in self.decisions)

    def times(self, size: Size, budget_flops: float) -> int:
        """How often a cell was run."""
        return sum(
            r.trial.size.size_value == size.size_value and r.trial.budget_flops == budget_flops
            for r in self.runs
        )
