"""What a run costs that goes on from the state of a trunk that earlier runs have kept.

A trunk is the part at a constant rate that runs of one size and seed have in common, whatever their
tokens. A run keeps the trunk's state where it branches off itself and where shorter runs do, so a
longer one of the same size pays for the difference and a shorter one for its cool-down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from flops_fit.points import Trial


class TrunkStates:
    """The states of trunks that are there to go on from."""

    def __init__(self, kept: Mapping[str, Iterable[int]]) -> None:
        """Take the units of data at which each trunk's state is kept, by trunk id."""
        self._kept = {trunk_id: set(tokens) for trunk_id, tokens in kept.items()}

    def shared_tokens(self, trial: Trial) -> int:
        """Units of data that a trial need not be trained on: those of the state it starts from."""
        if trial.trunk is None or trial.trunk_id is None:
            return 0
        there = self._kept.get(trial.trunk_id, set())
        return max((n for n in trial.trunk.kept_tokens if n in there), default=0)

    def cost_flops(self, trial: Trial) -> float:
        """FLOPs that a trial costs with what is there."""
        return (trial.tokens - self.shared_tokens(trial)) * trial.size.flops_per_token

    def after(self, trial: Trial) -> TrunkStates:
        """What is there once one more trial has ended."""
        if trial.trunk is None or trial.trunk_id is None:
            return self
        there = self._kept.get(trial.trunk_id, set())
        return TrunkStates({**self._kept, trial.trunk_id: there | {*trial.trunk.kept_tokens}})

    def settled(self, trials: Sequence[Trial]) -> tuple[Trial, ...]:
        """The trials in their order, each with what it shares with the past and with one another.

        Of one trunk the shorter run before the longer ones.
        """
        states, placed = self, dict[str, Trial]()
        for trial in sorted(trials, key=lambda trial: trial.tokens):
            made = trial
            if trial.trunk is not None:
                trunk = replace(trial.trunk, shared_tokens=states.shared_tokens(trial))
                made = replace(trial, trunk=trunk)
            placed[trial.trial_id] = made
            states = states.after(made)
        return tuple(placed[trial.trial_id] for trial in trials)

    def total_flops(self, trials: Sequence[Trial]) -> float:
        """FLOPs that trials cost together."""
        return math.fsum(trial.cost_flops for trial in self.settled(trials))

    def affordable(self, trials: Sequence[Trial], left_flops: float) -> list[Trial]:
        """As many of the trials, from the first on, as the FLOPs that are left pay for."""
        found: list[Trial] = []
        for trial in trials:
            if self.total_flops([*found, trial]) > left_flops:
                break
            found.append(trial)
        return found
