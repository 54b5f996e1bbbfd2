"""The schedule of a trial: warm-up, decay, and points of the training curve."""

from __future__ import annotations

import math

from flops_fit.manifest.recipe import Recipe, Schedule
from flops_fit.manifest.trials import Trial


def warmup_steps(recipe: Recipe, *, steps: int, batch_tokens: int, params: int) -> int:
    """Return the number of warm-up steps.

    A share of the trial, and no more than `warmup_tokens_per_param` units of data per parameter
    where that is set, so that a short trial of a small model is not all warm-up.
    """
    longest = recipe.warmup_fraction * steps
    if recipe.warmup_tokens_per_param > 0:
        longest = min(longest, recipe.warmup_tokens_per_param * params / batch_tokens)
    return min(steps, round(longest))


def learning_rate_factor(
    step: int,
    *,
    steps: int,
    warmup: int,
    schedule: Schedule,
    cooldown_fraction: float = 0.2,
    final_fraction: float = 0.0,
) -> float:
    """Return the share of the peak learning rate at step number `step` (from 0).

    Warm-up reaches the peak at step `warmup - 1`. Decay reaches `final_fraction` at the step after
    the last, so that the last step still learns: the whole schedule belongs to this trial's
    horizon and to no other.

    Args:
        step: 0 to steps - 1.
        steps: steps of the trial.
        warmup: how many of them are warm-up.
        schedule: `linear`, `cosine`, `wsd` or `constant`.
        cooldown_fraction: share of the steps in which `wsd` falls.
        final_fraction: share of the peak at the end.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    start = warmup
    if schedule == "wsd":
        start = cooldown_start(steps, warmup=warmup, cooldown_fraction=cooldown_fraction)
    if step < start:
        return 1.0
    # The peak is held at the last step before the decay, `start - 1`.
    progress = (step - start + 1) / (steps - start + 1)
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return final_fraction + (1 - final_fraction) * shape


def cooldown_start(steps: int, *, warmup: int, cooldown_fraction: float) -> int:
    """Return the step at which a `wsd` schedule begins to decay and leaves its trunk."""
    return max(warmup, steps - round(cooldown_fraction * steps))


def curve_steps(*, steps: int, points: int) -> list[int]:
    """Log-spaced step counts, increasing, from about a hundredth of the trial to before its end."""
    first = max(1.0, steps / 100)
    spread = {round(first * (steps / first) ** (i / points)) for i in range(points)}
    return sorted(step for step in spread if 0 < step < steps)


def warmup_of(trial: Trial, recipe: Recipe) -> int:
    """Return the warm-up steps of a trial: its trunk's, or its own."""
    if trial.trunk is not None:
        return trial.trunk.warmup_steps
    return warmup_steps(
        recipe, steps=trial.steps, batch_tokens=trial.batch_tokens, params=trial.size.params
    )


def branch_step(trial: Trial, recipe: Recipe) -> int:
    """Return the steps of a trial's trunk before the trial branches off."""
    assert trial.trunk is not None, "a trial by itself has no branch"
    return cooldown_start(
        trial.steps, warmup=trial.trunk.warmup_steps, cooldown_fraction=recipe.cooldown_fraction
    )
