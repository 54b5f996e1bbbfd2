"""The checklist's part on practice: how trials were trained and measured, from their record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flops_fit.estimate import MOST_EVALUATION
from flops_fit.reporting.record import Record
from flops_fit.reporting.transfer import bracketing

Severity = Literal["refused", "warned", "default"]
_MIN_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Check:
    """One rule and how this study stands to it.

    Attributes:
        rule: the rule, as a sentence.
        held: whether it is held; None where nothing says so.
        figure: the measured number, with its unit.
        severity: what breaking it costs: `refused`, `warned`, or it is the tool's `default`.
        source: where the rule comes from.
    """

    rule: str
    held: bool | None
    figure: str
    severity: Severity
    source: str

    def to_dict(self) -> dict[str, Any]:
        """The check as plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


def of_training(record: Record) -> Iterator[Check]:
    """How every trial was trained."""
    recipe = record.manifest.training
    simulated = record.ledger.is_simulated
    ended = record.ledger.finished.values()
    counts = (entry.fields.get("heldout_examples") for entry in ended)
    sets = {int(count) for count in counts if count is not None}
    heldout = f"held-out examples: {', '.join(str(count) for count in sorted(sets))}"
    yield Check(
        "the fitted loss is measured on one held-out set, the same for all trials",
        False if simulated else len(sets) == 1 if sets else None,
        "losses are drawn from a planted law" if simulated else heldout if sets else "not recorded",
        "refused",
        "arXiv:2502.18969",
    )
    yield Check(
        "losses are taken where the schedule ends, each trial at its own horizon",
        recipe.schedule != "constant",
        f"schedule `{recipe.schedule}`",
        "refused",
        "arXiv:2203.15556; arXiv:2405.18392",
    )
    limit = recipe.warmup_tokens_per_param
    yield Check(
        "warm-up scales with the run",
        recipe.warmup_fraction <= 0.2,
        f"{recipe.warmup_fraction:.0%} of the steps"
        + (f", at most {limit:g} units per parameter" if limit else ""),
        "default",
        "arXiv:2406.19146",
    )
    held, told = bracketing(record.transfer)
    bare = recipe.bare_learning_rate or "its published constants"
    yield Check(
        "the learning rate follows a stated rule, bracketed at two sizes or more",
        held,
        f"rule `{recipe.learning_rate_rule}` from {bare}; {told}",
        "warned",
        "arXiv:2406.19146; arXiv:2503.04715",
    )
    if recipe.optimizer == "adamw":
        yield Check(
            "AdamW's beta2 is 0.98 or more where batches are small",
            recipe.betas[1] >= 0.98,
            f"beta2 {recipe.betas[1]:g}",
            "default",
            "arXiv:2406.19146",
        )
    steps = [trial.steps for trial in record.plan.trials]
    yield Check(
        f"every trial has {_MIN_STEPS} optimiser steps or more",
        min(steps) >= _MIN_STEPS,
        f"{format_range(steps)} steps",
        "warned",
        "arXiv:2505.13738",
    )
    yield from _of_evaluation(record)


def format_range(counts: Sequence[int]) -> str:
    """`5`, or `5 to 7`."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _of_evaluation(record: Record) -> Iterator[Check]:
    """What evaluation took, and whether it was exact; nothing of losses drawn from a law."""
    ended = [entry.fields for entry in record.ledger.finished.values()]
    timed = [each for each in ended if each.get("evaluation_seconds") is not None]
    seconds = math.fsum(each["evaluation_seconds"] for each in timed)
    whole = math.fsum(each.get("wall_seconds") or 0.0 for each in timed)
    if whole > 0:
        share = seconds / whole
        most = max(
            each["evaluation_seconds"] / (each["wall_seconds"] or math.inf) for each in timed
        )
        mend = "" if share <= MOST_EVALUATION else "; `heldout_examples` in [training] limits it"
        yield Check(
            f"held-out losses take {MOST_EVALUATION:.0%} of the trials' time or less",
            share <= MOST_EVALUATION,
            f"{share:.1%} of the time, up to {most:.1%} of a trial{mend}",
            "default",
            "practice",
        )
    inexact = [each["inexact_parts"] for each in ended if each.get("inexact_parts")]
    if timed:
        off = max((abs(b / a - 1) if a else math.inf for a, b in inexact), default=0.0)
        yield Check(
            "a batch's loss is the mean of its parts', however it is passed",
            not inexact,
            f"off by up to {off:.2g} of it in {len(inexact)} of {len(ended)} trials: give the loss "
            "a `count(targets)`"
            if inexact
            else "no difference found",
            "warned",
            "practice",
        )
