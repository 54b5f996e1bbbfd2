"""Lays out a study of learning rates: a few sizes, and a grid of rates at each, on the same data.

Each trial trains at the recipe's own rates times a factor, so the study asks one question: is the
best factor the same at every size? Sizes see the same units of data in the same batches, so that
what moves the optimum is the size alone (the design of Yang et al. 2022, arXiv:2203.03466, fig. 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flops_fit.errors import Note, PlanError
from flops_fit.manifest.manifest import TransferSection
from flops_fit.manifest.rules import MIN_STEPS
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.plan import BatchTokens, Plan


def lay_transfer(
    section: TransferSection,
    sweep: Plan,
    sizes: Sequence[Size],
    *,
    batch_tokens: BatchTokens,
    seed: int,
) -> Plan:
    """Lay out the study: smallest size first, rates from the middle of the grid outwards.

    Args:
        section: the manifest's [transfer].
        sweep: the plan whose learning rates are in question; it gives sizes and data where the
            section leaves them open.
        sizes: every size that the manifest offers, with its counts.
        batch_tokens: units of data in one optimiser step, of a size and the tokens it will see.
        seed: of the first replicate.

    Raises:
        PlanError: fewer than two sizes, a size that the manifest does not offer, or too few steps.
    """
    chosen = _choose_sizes(section, sweep, sizes)
    tokens = section.tokens or min(trial.tokens for trial in sweep.trials)
    half = section.rates // 2
    exponents = sorted(range(-half, section.rates - half), key=lambda k: (abs(k), k))
    trials: list[Trial] = []
    for size in chosen:
        batch = batch_tokens(size, tokens)
        steps = round(tokens / batch)
        if steps < MIN_STEPS:
            raise PlanError(
                f"{tokens:,.0f} units of data are {steps} optimiser steps at size "
                f"{size.size_value:g}: a study of learning rates needs {MIN_STEPS} or more",
                hint="raise `transfer.tokens` (--tokens), or make the batch smaller",
            )
        trials += [
            Trial.of(
                budget_flops=steps * batch * size.flops_per_token,
                size=size,
                tokens=steps * batch,
                batch_tokens=batch,
                seed=seed + replicate,
                learning_rate_factor=section.step**exponent,
            )
            for exponent in exponents
            for replicate in range(section.replicates)
        ]
    share = math.fsum(trial.flops for trial in trials) / sweep.total_flops
    note = Note("study_share", f"the study costs {share:.0%} of the sweep's FLOPs")
    return Plan(tuple(trials), (note,), has_curves=False)


def _choose_sizes(section: TransferSection, sweep: Plan, sizes: Sequence[Size]) -> list[Size]:
    """Return the requested sizes, or the smallest, a middle one and the largest of the sweep."""
    if section.sizes:
        offered = {size.size_value: size for size in sizes}
        missing = [value for value in section.sizes if value not in offered]
        if missing:
            raise PlanError(
                f"`transfer.sizes` names {missing[0]:g}, which is none of `model.sizes`",
                hint="offered: " + ", ".join(f"{value:g}" for value in sorted(offered)),
            )
        chosen = {value: offered[value] for value in section.sizes}
    else:
        planned = sorted({trial.size for trial in sweep.trials}, key=lambda size: size.params)
        middle = math.sqrt(planned[0].params * planned[-1].params)
        central = min(planned, key=lambda size: abs(math.log(size.params / middle)))
        chosen = {size.size_value: size for size in (planned[0], central, planned[-1])}
    if len(chosen) < 2:
        raise PlanError(
            "a rate is carried from one size to another: expected two sizes or more",
            hint="list them in `transfer.sizes` (--sizes 16,64)",
        )
    return sorted(chosen.values(), key=lambda size: size.params)
