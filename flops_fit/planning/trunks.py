"""Groups trials on a constant-rate trunk, so that many horizons cost little more than the longest.

Under the schedule `wsd` the rate is constant until the cool-down. Trials of one size and seed, of
one batch and warm-up, are therefore one and the same training up to where the shortest of them
begins to cool down; the next goes on from there, and so on. Each trial is to the last bit what it
would be by itself, and its loss is at the end of its own schedule.

Source: Hu et al. 2024 (arXiv:2404.06395); Haegele et al. 2024 (arXiv:2405.18392).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.rules import batch_tokens
from flops_fit.manifest.schedule import branch_step, warmup_steps
from flops_fit.manifest.trials import TRUNK_SPAN, Trial, Trunk

_FEWEST_STEPS = 50  # of the shortest horizon: rounding to whole steps then moves it by under 1 %


def share_trunks(
    trials: Sequence[Trial], recipe: Recipe, *, units_per_example: int, multiple_of_examples: int
) -> tuple[Trial, ...]:
    """Return the trials in their order, those of one size and seed on one trunk.

    The horizons of a size, of whatever seed, are divided from the longest down into spans of a
    factor of 16. All trials of a span have one batch and one warm-up, so that seeds are replicates:
    the batch of the geometric mean of its horizons, no larger than leaves the shortest its 50
    steps, and the warm-up of the shortest. A trial alone in its span, and all of them under another
    schedule than `wsd`, are left as they are.

    Args:
        trials: of a plan.
        recipe: schedule, batch and warm-up.
        units_per_example: units of data in one example.
        multiple_of_examples: as for `batch_tokens`.
    """
    if recipe.schedule != "wsd" or not recipe.share_trunks:
        return tuple(trials)
    by_size: dict[tuple[float, float], list[Trial]] = {}
    for trial in trials:
        key = (trial.size.size_value, trial.learning_rate_factor)
        by_size.setdefault(key, []).append(trial)
    placed: dict[str, Trial] = {}
    for group in by_size.values():
        for span in _spans(group):
            if len({trial.tokens for trial in span}) > 1:
                shape = _shape(span, recipe, units_per_example, multiple_of_examples)
                for seed in {trial.seed for trial in span}:
                    mates = [trial for trial in span if trial.seed == seed]
                    placed.update(_on_trunk(mates, recipe, shape))
    return tuple(placed.get(trial.trial_id, trial) for trial in trials)


def _spans(group: Sequence[Trial]) -> list[list[Trial]]:
    """Yield the trials of one size, grouped by horizons that may share a trunk."""
    spans: list[list[Trial]] = []
    for trial in sorted(group, key=lambda trial: -trial.tokens):
        # Horizons are whole steps: what was meant to be within the span may be a step beyond.
        if spans and spans[-1][0].tokens <= 1.02 * TRUNK_SPAN * trial.tokens:
            spans[-1].append(trial)
        else:
            spans.append([trial])
    return spans


@dataclass(frozen=True)
class _Shape:
    """The batch and warm-up that the trials of a span share."""

    batch_tokens: int
    reference_tokens: int
    warmup_steps: int


def _shape(span: Sequence[Trial], recipe: Recipe, units: int, multiple: int) -> _Shape:
    """Return one batch and warm-up for all trials of a span."""
    horizons = sorted({trial.tokens for trial in span})
    size, shortest = span[0].size, horizons[0]
    middle = round(math.exp(math.fsum(map(math.log, horizons)) / len(horizons)))
    batch, least = (
        batch_tokens(
            recipe, size=size, tokens=tokens, units_per_example=units,
            multiple_of_examples=multiple,
        )
        for tokens in (middle, shortest)
    )  # fmt: skip
    if recipe.batch_rule != "fixed":
        quantum = units * multiple
        batch = max(least, min(batch, shortest // _FEWEST_STEPS // quantum * quantum))
    warmup = warmup_steps(
        recipe, steps=max(1, round(shortest / batch)), batch_tokens=batch, params=size.params
    )
    return _Shape(batch, middle, warmup)


def _on_trunk(mates: Sequence[Trial], recipe: Recipe, shape: _Shape) -> dict[str, Trial]:
    """Return the trials of one size and seed on their trunk, by their former ids."""
    placed, shared = {}, 0
    ordered = sorted(mates, key=lambda trial: trial.tokens)
    batch = shape.batch_tokens
    for trial in ordered:
        tokens = max(1, round(trial.tokens / batch)) * batch
        trunk = Trunk(shape.reference_tokens, shape.warmup_steps, shared)
        made = Trial.of(
            budget_flops=trial.budget_flops, size=trial.size, tokens=tokens, batch_tokens=batch,
            seed=trial.seed, learning_rate_factor=trial.learning_rate_factor, trunk=trunk,
        )  # fmt: skip
        branch = branch_step(made, recipe) * batch
        kept = (branch,) if branch and trial is not ordered[-1] else ()
        placed[trial.trial_id] = replace(made, trunk=replace(trunk, kept_tokens=kept))
        shared = branch
    return placed


class TrunkStates:
    """The saved states of trunks."""

    def __init__(self, kept: Mapping[str, Iterable[int]]) -> None:
        """Take the units of data at which each trunk's state is kept, by trunk id."""
        self._kept = {trunk_id: set(tokens) for trunk_id, tokens in kept.items()}

    def shared_tokens(self, trial: Trial) -> int:
        """Return the units of data that a trial inherits from its trunk's saved state."""
        if trial.trunk is None or trial.trunk_id is None:
            return 0
        there = self._kept.get(trial.trunk_id, set())
        return max((n for n in trial.trunk.kept_tokens if n in there), default=0)

    def cost_flops(self, trial: Trial) -> float:
        """Return the FLOPs that a trial costs, given the saved states."""
        return (trial.tokens - self.shared_tokens(trial)) * trial.size.flops_per_token

    def after(self, trial: Trial) -> TrunkStates:
        """Return the states after one more trial has ended."""
        if trial.trunk is None or trial.trunk_id is None:
            return self
        there = self._kept.get(trial.trunk_id, set())
        return TrunkStates({**self._kept, trial.trunk_id: there | {*trial.trunk.kept_tokens}})

    def settled(self, trials: Sequence[Trial]) -> tuple[Trial, ...]:
        """Return the trials in their order, each with the FLOPs that it adds.

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
        """Return the FLOPs that trials cost together."""
        return math.fsum(trial.cost_flops for trial in self.settled(trials))

    def affordable(self, trials: Sequence[Trial], left_flops: float) -> list[Trial]:
        """Return the first trials that the remaining FLOPs pay for."""
        found: list[Trial] = []
        for trial in trials:
            if self.total_flops([*found, trial]) > left_flops:
                break
            found.append(trial)
        return found
