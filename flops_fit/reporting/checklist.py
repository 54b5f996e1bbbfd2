"""The checklist of a credible study: rule, held or not, the figure, the source.

Each rule is answered from the fits, the manifest, the plan and the ledger. What none of them says
is not known (`held` is None), never taken as held. The sources of the rules are papers, by their
arXiv number where one settles it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flops_fit.fitting.details import ExtrapolationDetails, MinimumStatus
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Excluded, Observation
from flops_fit.planning.estimate import MOST_EVALUATION
from flops_fit.reporting.record import Record
from flops_fit.reporting.tables.cells import Column, format_value
from flops_fit.reporting.tables.rates import bracketing
from flops_fit.reporting.tables.table import Table
from flops_fit.reporting.verdict import (
    EXPONENT_RANGE,
    MAX_EXTRAPOLATION,
    MIN_BUDGETS,
    MIN_DECADES,
    MIN_SIZES,
    extrapolation_decades,
    headline_method,
)

_TOKENS_PER_PARAM = (1.0, 250.0)
_MAX_SHARE = 0.2


def checklist(
    fits: Mapping[str, Fit],
    observations: Sequence[Observation],
    excluded: Sequence[Excluded] = (),
    *,
    targets: Sequence[float] = (),
    record: Record | None = None,
) -> list[Check]:
    """Every rule, answered as far as the study says.

    Args:
        fits: by method.
        observations: the trials that count.
        excluded: what was left out.
        targets: budgets in FLOPs that predictions are asked for.
        record: how the trials were trained; None for a table of finished runs.
    """
    checks: list[Check] = []
    if record is not None:
        checks += of_training(record)
        checks += _of_spending(record, targets)
    if observations:
        checks += _of_design(observations)
        checks += _of_targets(observations, targets)
    checks += _of_minima(fits.get("isoflop"))
    checks += _of_laws(fits, observations)
    checks += _of_uncertainty(fits)
    left = f"{len(excluded)} left out, each with its reason"
    checks.append(Check("no trial is dropped silently", True, left, "refused", "arXiv:2404.10102"))
    return checks


def checklist_table(checks: Sequence[Check]) -> Table:
    """The checklist as a table."""
    columns = (
        Column("rule", "rule"),
        Column("held", "held"),
        Column("figure", "figure"),
        Column("severity", "if broken"),
        Column("source", "source"),
    )
    words = {True: "yes", False: "no", None: "not known"}
    rows = tuple({**check.to_dict(), "held": words[check.held]} for check in checks)
    return Table("Checklist of a credible study", columns, rows)


def _of_spending(record: Record, targets: Sequence[float]) -> Iterator[Check]:
    """What was spent, on which data, and what is left for a reader to repeat."""
    trials = record.plan.trials
    miss = max(abs(trial.flops / trial.budget_flops - 1) for trial in trials)
    yield Check(
        "realised FLOPs lie within 1 % of the budget",
        miss <= 0.01,
        f"largest difference {miss:.2%}",
        "refused",
        "arXiv:2406.19146",
    )
    yield Check(
        "FLOPs count every matrix product, the head and attention included",
        record.manifest.flops.count == "counted",
        f"count `{record.manifest.flops.count}`",
        "default",
        "arXiv:2406.19146",
    )
    unique = record.unique_units
    epochs = None if unique is None else max(trial.tokens for trial in trials) / unique
    yield Check(
        "training data is not repeated (up to 4 epochs cost little)",
        None if epochs is None else epochs <= 4,
        "size of the data not known" if epochs is None else f"up to {epochs:.2g} epochs",
        "warned",
        "arXiv:2305.16264",
    )
    seeds: dict[tuple[float, float], set[int]] = {}
    for trial in trials:
        seeds.setdefault((trial.budget_flops, trial.size.params), set()).add(trial.seed)
    most = max(len(found) for found in seeds.values())
    yield Check(
        "seed noise is measured: one cell has 3 seeds or more",
        most >= 3,
        f"at most {most} seeds in a cell",
        "warned",
        "arXiv:2406.19146",
    )
    spent = math.fsum(entry.fields["flops"] for entry in record.ledger.finished.values())
    if targets and max(targets) > max(record.plan.budgets) * 1.02:
        share = spent / max(targets)
        yield Check(
            f"the sweep costs at most {_MAX_SHARE:.0%} of the largest target",
            share <= _MAX_SHARE,
            f"{share:.2%} of {format_value(max(targets), 'flops')} FLOPs",
            "warned",
            "practice",
        )
    yield Check(
        "all runs, failed ones too, are kept with seeds, versions and a fingerprint",
        bool(record.provenance.get("fingerprint")),
        f"fingerprint {record.provenance.get('fingerprint', 'missing')}; "
        f"{len(record.ledger.finished)} finished, {len(record.ledger.diverged)} diverged, "
        f"{len(record.ledger.failed)} failed",
        "default",
        "arXiv:2502.18969",
    )


def _of_design(observations: Sequence[Observation]) -> Iterator[Check]:
    """Budgets, sizes and tokens per parameter."""
    spent = [o.budget_flops or o.flops for o in observations]
    decades = math.log10(max(spent) / min(spent))
    budgets = {o.budget_flops for o in observations if o.budget_flops is not None}
    if budgets:
        yield Check(
            f"{MIN_BUDGETS} budgets or more, over {MIN_DECADES} decades or more",
            len(budgets) >= MIN_BUDGETS and decades >= MIN_DECADES - 0.005,
            f"{len(budgets)} budgets over {decades:.2f} decades",
            "warned",
            "arXiv:2203.15556; arXiv:2406.19146",
        )
    ratios = [o.tokens / o.params for o in observations]
    low, high = _TOKENS_PER_PARAM
    yield Check(
        f"tokens per parameter lie within {low:g} to {high:g}",
        low <= min(ratios) and max(ratios) <= high,
        f"{format_value(min(ratios), 'number')} to {format_value(max(ratios), 'number')}",
        "warned",
        "arXiv:2401.00448",
    )


def _of_targets(observations: Sequence[Observation], targets: Sequence[float]) -> Iterator[Check]:
    """How far predictions reach."""
    if targets:
        largest = max(o.flops for o in observations)
        factor = 10 ** max(extrapolation_decades(target, largest) for target in targets)
        yield Check(
            f"predictions reach at most {MAX_EXTRAPOLATION:g} times the largest budget",
            factor <= MAX_EXTRAPOLATION * (1 + 1e-9),
            f"{format_value(factor, 'number')} times",
            "warned",
            "arXiv:2403.08540",
        )


def _of_minima(isoflop: Fit | None) -> Iterator[Check]:
    """The isoFLOP minima."""
    if isoflop is None or not isoflop.minima:
        return
    minima, total = isoflop.minima, len(isoflop.minima)
    open_ones = sum(m.status is MinimumStatus.UNBRACKETED for m in minima)
    yield Check(
        "every minimum is bracketed", open_ones == 0, f"{total - open_ones} of {total} budgets",
        "refused", "arXiv:2406.19146",
    )  # fmt: skip
    bent = sum(m.status in (MinimumStatus.FLAT, MinimumStatus.CONCAVE) for m in minima)
    yield Check(
        "every curvature is positive and larger than its noise", bent == 0,
        f"{total - bent} of {total} budgets", "refused", "arXiv:2406.19146",
    )  # fmt: skip
    sizes = [m.num_sizes for m in minima]
    yield Check(
        f"{MIN_SIZES} sizes or more at every budget", min(sizes) >= MIN_SIZES,
        f"{format_range(sizes)} sizes", "warned", "arXiv:2203.15556",
    )  # fmt: skip
    window = isoflop.window
    if window is not None:
        yield Check(
            "a parabola uses sizes near its minimum only", window <= 10,
            f"within a factor of {window:g} of the best size", "default", "arXiv:2603.22339",
        )  # fmt: skip


def _of_laws(fits: Mapping[str, Fit], observations: Sequence[Observation]) -> Iterator[Check]:
    """The fitted laws."""
    headline = headline_method(fits)
    yield Check(
        "the surface speaks first, and its fit ended well",
        headline == "surface" and fits["surface"].status == "ok",
        f"headline: {headline or 'none'}", "default", "arXiv:2404.10102",
    )  # fmt: skip
    exponents = {m: f.exponents for m, f in fits.items() if f.exponents.get("params") is not None}
    if exponents:
        told = ", ".join(f"{m} {e['params'] + e['tokens']:.4f}" for m, e in exponents.items())
        off = max(abs(e["params"] + e["tokens"] - 1) for e in exponents.values())
        yield Check(
            "tokens follow from params through the FLOP count: a + b is near 1", off < 0.05,
            told, "refused", "arXiv:2203.15556",
        )  # fmt: skip
        low, high = EXPONENT_RANGE
        yield Check(
            f"exponent a lies within {low:g} to {high:g}",
            all(low <= e["params"] <= high for e in exponents.values()),
            ", ".join(f"{m} {e['params']:.4f}" for m, e in exponents.items()),
            "warned", "published laws",
        )  # fmt: skip
    surface = fits.get("surface")
    if surface is not None and "E" in surface.parameters and observations:
        floor, least = surface.parameters["E"], min(o.loss for o in observations)
        low_end = (surface.intervals.get("E") or (floor, floor))[0]
        yield Check(
            "the irreducible loss is determined: above 0, below every loss",
            1e-6 * least < low_end and floor < least,
            f"E = {floor:.4f}, least loss {least:.4f}", "warned", "arXiv:2404.10102",
        )  # fmt: skip
    others = [method for method in ("kaplan", "general") if method in fits]
    yield Check(
        "the additive form is held against another one", bool(others),
        ", ".join(others) or "no other form was fitted", "warned", "arXiv:2603.22339",
    )  # fmt: skip


def _of_uncertainty(fits: Mapping[str, Fit]) -> Iterator[Check]:
    """Intervals and held-out budgets."""
    draws = {method: len(fit.draws) for method, fit in fits.items() if fit.draws}
    yield Check(
        "intervals rest on 1000 resamples or more",
        max(draws.values(), default=0) >= 1000,
        ", ".join(f"{method} {count}" for method, count in draws.items()) or "no resamples",
        "default", "arXiv:2404.10102",
    )  # fmt: skip
    tested = [m for m, fit in fits.items() if isinstance(fit.details, ExtrapolationDetails)]
    yield Check(
        "larger budgets were held out and predicted", bool(tested),
        ", ".join(tested) or "no back-test", "default", "arXiv:2403.08540",
    )  # fmt: skip


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
