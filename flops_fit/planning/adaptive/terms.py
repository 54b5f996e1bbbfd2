"""The nouns of an adaptive sweep: its terms, its runs so far, and its decisions.

A decision is a plain record (an entry of the ledger): what is to be run next and why, with the
figures that led to it. What follows after a decision depends on the terms, the runs and the earlier
decisions alone, so that a sweep that was killed goes on to the same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flops_fit.fitting.points import Observation
from flops_fit.manifest.files import from_plain
from flops_fit.manifest.rules import MIN_STEPS
from flops_fit.manifest.trials import TRUNK_SPAN, Size, Trial
from flops_fit.planning.plan import BatchTokens, lay_trials, num_steps
from flops_fit.planning.trunks import TrunkStates

ShareTrunks = Callable[[Sequence[Trial]], Sequence[Trial]]
"""Trials of one size and seed -> the same on their trunk, in the order given."""

Action = Literal["pilot", "centre", "climb", "batch", "top", "drop_level", "leave_out", "stop"]


@dataclass(frozen=True)
class Terms:
    """The settings and limits of an adaptive sweep.

    Attributes:
        sizes: what the model can be built at, by rising params.
        batch_tokens: units of data in one optimiser step, of a size and the tokens it will see.
        budgets: FLOPs of a run at each level, from the top down.
        target_flops: the budget whose optimum is wanted.
        params_within: the goal: standard error of ln N_opt at the target.
        total_flops: what the sweep may cost in all.
        tokens_per_param: the guess of the optimum that the pilot starts from.
        seed: of every run; a second run of a cell has the next one.
        share_trunks: puts the runs of one size at several levels on a trunk; None: each is trained
            by itself.
    """

    sizes: tuple[Size, ...]
    batch_tokens: BatchTokens
    budgets: tuple[float, ...]
    target_flops: float
    params_within: float
    total_flops: float
    tokens_per_param: float = 20.0
    seed: int = 0
    share_trunks: ShareTrunks | None = None

    @property
    def top_flops(self) -> float:
        """FLOPs of a run at the top budget."""
        return self.budgets[0]

    @property
    def lowest(self) -> int:
        """The cheapest level; 0 is the top."""
        return len(self.budgets) - 1

    def level_of(self, trial: Trial) -> int:
        """Return the level that a trial belongs to."""
        away = [abs(math.log(trial.budget_flops / budget)) for budget in self.budgets]
        return away.index(min(away))

    def at_level(self, trial: Trial) -> bool:
        """Return whether a trial spends just what its level does; those of a grid need not."""
        return trial.budget_flops == self.budgets[self.level_of(trial)]

    def trainable(self, level: int) -> list[Size]:
        """Return the sizes that a level's budget trains for enough steps."""
        return [size for size in self.sizes if self._trains(size, level)]

    def _trains(self, size: Size, level: int) -> bool:
        """Return whether a level's budget trains a size for enough steps."""
        return num_steps(size, self.budgets[level], self.batch_tokens) >= MIN_STEPS

    def trial(self, size: Size, level: int, *, repeat: int = 0) -> Trial:
        """Return the run of a size at a level; `repeat` counts the earlier runs of the cell."""
        levels = [k for k in self._on_one_trunk(level) if k == level or self._trains(size, k)]
        mates = [self.budgets[k] for k in levels]
        return self._laid(size, self.budgets[level], mates, seed=self.seed + repeat)

    def _laid(self, size: Size, budget: float, mates: Sequence[float], *, seed: int) -> Trial:
        """Return the run of a size at a budget, on the trunk shared with runs at `mates`."""
        if self.share_trunks is None:
            return lay_trials(size, budget, self.batch_tokens, [seed])[0]
        laid = [lay_trials(size, each, self.batch_tokens, [seed])[0] for each in mates]
        placed = self.share_trunks(laid)
        trial = placed[mates.index(budget)]
        if trial.trunk is None:
            return trial
        shorter = [t.trunk for t in placed if t.trunk is not None and t.tokens <= trial.tokens]
        kept = sorted({n for trunk in shorter for n in trunk.kept_tokens})
        # Whatever of the trunk comes to be run: what is shared is settled with each decision.
        trunk = replace(trial.trunk, shared_tokens=0, kept_tokens=tuple(kept))
        return replace(trial, trunk=trunk)

    def again(self, history: History, size: Size, level: int) -> Trial:
        """Return the run of a cell with its first unused seed."""
        return self.trial(size, level, repeat=self._repeat(history, size, self.budgets[level]))

    def repeated(self, history: History, trial: Trial) -> Trial:
        """Return a trial's cell with its first unused seed; it may be at no level."""
        if self.at_level(trial):
            return self.again(history, trial.size, self.level_of(trial))
        repeat = self._repeat(history, trial.size, trial.budget_flops)
        # On a trunk like its own, so that it has the same batch and warm-up.
        mates = {trial.budget_flops} | {
            run.trial.budget_flops for run in history.runs
            if trial.trunk is not None and run.trial.trunk_id == trial.trunk_id
        }  # fmt: skip
        return self._laid(
            trial.size, trial.budget_flops, sorted(mates, reverse=True), seed=self.seed + repeat
        )

    def _repeat(self, history: History, size: Size, budget_flops: float) -> int:
        """Return the offset from the sweep's seed to the first seed that a cell has not used."""
        seeds = history.seeds(size, budget_flops)
        return next(k for k in range(len(seeds) + 1) if self.seed + k not in seeds)

    def _on_one_trunk(self, level: int) -> list[int]:
        """Return the levels whose runs of one size share a trunk with those of this level."""
        group: list[int] = []
        for k, budget in enumerate(self.budgets):
            if group and self.budgets[group[0]] / budget > TRUNK_SPAN:
                if level in group:
                    break
                group = []
            group.append(k)
        return group


@dataclass(frozen=True)
class Run:
    """A trial that has ended.

    Attributes:
        trial: what was run.
        loss: None where it gave none (it diverged or failed).
        spent_flops: what was really spent on it; None: as planned.
        kept_tokens: units of data at which it has kept the state of its trunk; None: as planned.
        has_failed: whether an error ended it; it may be tried again.
        is_retried: whether it was trained with another seed than the trial's, after it diverged.
    """

    trial: Trial
    loss: float | None
    spent_flops: float | None = None
    kept_tokens: tuple[int, ...] | None = None
    has_failed: bool = False
    is_retried: bool = False

    @property
    def trained(self) -> Trial:
        """The trial as it was trained; with another seed it has no trunk."""
        return replace(self.trial, trunk=None) if self.is_retried else self.trial

    @property
    def cost_flops(self) -> float:
        """FLOPs spent on it."""
        return self.trial.cost_flops if self.spent_flops is None else self.spent_flops

    @property
    def observation(self) -> Observation:
        """The run as a point; it must have a loss."""
        assert self.loss is not None
        trial = self.trained
        return Observation(
            trial.size.params, trial.tokens, trial.flops, self.loss,
            budget_flops=trial.budget_flops, name=trial.trial_id, seed=trial.seed,
            run=trial.trunk_id,
        )  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """The runs to make next, and the reason.

    Attributes:
        number: counted from 0.
        action: `pilot`, `centre` (of the lowest levels), `climb` (to the next one), `batch`,
            `top`, `drop_level`, `leave_out` or `stop`.
        reason: in a sentence.
        trials: to be run; none where it only changes what counts.
        reasons: by trial id, why this one.
        figures: the numbers that it rests on. `params_error` and `params_half_width` are standard
            error and 90 % half-width of ln N_opt at the target; `flops` are spent before it.
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
        """Return the fields of the ledger's entry `decision_made`."""
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
        """Return the decision that `to_dict` made plain."""
        return from_plain(cls, data)


@dataclass(frozen=True)
class History:
    """The trials and decisions so far.

    Attributes:
        runs: every trial that has ended, in the order of the decisions, the given ones first.
        decisions: in their order.
    """

    runs: tuple[Run, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @property
    def spent_flops(self) -> float:
        """FLOPs of all runs."""
        return math.fsum(run.cost_flops for run in self.runs)

    @property
    def trunk_states(self) -> TrunkStates:
        """The checkpoints that trunks left for further runs.

        A trunk is removed once each state that was planned to be kept was gone on from, and no run
        of it failed.
        """
        kept: dict[str, set[int]] = {}
        planned: dict[str, set[int]] = {}
        used: dict[str, set[int]] = {}
        has_failed = {run.trial.trunk_id for run in self.runs if run.has_failed}
        for run in self.runs:
            trunk, trunk_id = run.trial.trunk, run.trial.trunk_id
            if trunk is None or trunk_id is None:
                continue
            left = trunk.kept_tokens if run.kept_tokens is None else run.kept_tokens
            kept.setdefault(trunk_id, set()).update(left)
            planned.setdefault(trunk_id, set()).update(trunk.kept_tokens)
            used.setdefault(trunk_id, set()).add(trunk.shared_tokens)
        there = {i for i in kept if i in has_failed or planned[i] - used[i]}
        return TrunkStates({i: kept[i] for i in there})

    def after(self, decision: Decision, runs: Sequence[Run]) -> History:
        """Return the history after one more decision."""
        return History((*self.runs, *runs), (*self.decisions, decision))

    @property
    def given(self) -> list[Run]:
        """Return the runs of the initial plan, for which no decision asked."""
        asked = {trial.trial_id for decision in self.decisions for trial in decision.trials}
        return [run for run in self.runs if run.trial.trial_id not in asked]

    @property
    def left_out(self) -> set[str]:
        """Ids of the trials that are left out."""
        return {trial_id for decision in self.decisions for trial_id in decision.left_out}

    @property
    def counting(self) -> list[Run]:
        """Return the runs with a loss that are not left out."""
        gone = self.left_out
        return [r for r in self.runs if r.loss is not None and r.trial.trial_id not in gone]

    def done(self, action: Action) -> int:
        """Return the number of decisions of a kind."""
        return sum(decision.action == action for decision in self.decisions)

    def times(self, size: Size, budget_flops: float) -> int:
        """Return the number of runs of a cell."""
        return len(self.seeds(size, budget_flops))

    def seeds(self, size: Size, budget_flops: float) -> list[int]:
        """Return the seeds of the runs of a cell."""
        return [
            run.trial.seed
            for run in self.runs
            if run.trial.size.size_value == size.size_value
            and run.trial.budget_flops == budget_flops
        ]
