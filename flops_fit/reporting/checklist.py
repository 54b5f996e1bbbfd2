"""The checklist of a credible study: each rule, whether it is held, and the figure.

The rules stand in `rules`. Each is answered from the fits, the manifest, the plan and the ledger. A
rule that none of them answers is not known (`held` is None); it is never taken as held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flops_fit.fitting.details import ExtrapolationDetails, MinimumStatus
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Excluded, Observation
from flops_fit.reporting import rules
from flops_fit.reporting.record import Record
from flops_fit.reporting.rules import Rule
from flops_fit.reporting.tables.cells import Column, format_value
from flops_fit.reporting.tables.rates import bracketing
from flops_fit.reporting.tables.table import Table
from flops_fit.reporting.verdict import ROUNDING, extrapolation_decades, headline_method


@dataclass(frozen=True, slots=True)
class Check:
    """A rule, and whether this study keeps it.

    Attributes:
        rule: what is asked.
        held: whether it is held; None where nothing says so.
        figure: the measured number, with its unit.
    """

    rule: Rule
    held: bool | None
    figure: str

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain data."""
        return {
            "rule": self.rule.statement,
            "held": self.held,
            "figure": self.figure,
            "severity": self.rule.severity.value,
            "source": self.rule.source,
        }


def checklist(
    fits: Mapping[str, Fit],
    observations: Sequence[Observation],
    excluded: Sequence[Excluded] = (),
    *,
    targets: Sequence[float] = (),
    record: Record | None = None,
) -> list[Check]:
    """Return every rule, checked as far as the study allows.

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
    checks.append(
        Check(rules.NOTHING_DROPPED, True, f"{len(excluded)} left out, each with its reason")
    )
    return checks


def checklist_table(checks: Sequence[Check]) -> Table:
    """Return the checklist as a table."""
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


def of_training(record: Record) -> Iterator[Check]:
    """Return the checks of the training recipe."""
    recipe = record.manifest.training
    simulated = record.ledger.is_simulated
    ended = record.ledger.finished.values()
    counts = (entry.heldout_examples for entry in ended)
    sets = {count for count in counts if count is not None}
    heldout = f"held-out examples: {', '.join(str(count) for count in sorted(sets))}"
    yield Check(
        rules.ONE_HELDOUT_SET,
        False if simulated else len(sets) == 1 if sets else None,
        "losses are drawn from a planted law" if simulated else heldout if sets else "not recorded",
    )
    yield Check(rules.SCHEDULE_ENDS, recipe.schedule != "constant", f"schedule `{recipe.schedule}`")
    limit = recipe.warmup_tokens_per_param
    yield Check(
        rules.WARMUP_SCALES,
        rules.WARMUP_SCALES.holds(recipe.warmup_fraction),
        f"{recipe.warmup_fraction:.0%} of the steps"
        + (f", at most {limit:g} units per parameter" if limit else ""),
    )
    held, told = bracketing(record.transfer)
    bare = recipe.bare_learning_rate or "its published constants"
    yield Check(
        rules.RATE_FOLLOWS_RULE, held, f"rule `{recipe.learning_rate_rule}` from {bare}; {told}"
    )
    if recipe.optimizer == "adamw":
        beta2 = recipe.betas[1]
        yield Check(
            rules.BETA2_SUITS_BATCH, rules.BETA2_SUITS_BATCH.holds(beta2), f"beta2 {beta2:g}"
        )
    steps = [trial.steps for trial in record.plan.trials]
    yield Check(
        rules.ENOUGH_STEPS, rules.ENOUGH_STEPS.holds(min(steps)), f"{format_range(steps)} steps"
    )
    yield from _of_evaluation(record)


def _of_evaluation(record: Record) -> Iterator[Check]:
    """Return the checks of evaluation; none if the losses are simulated."""
    ended = list(record.ledger.finished.values())
    timed = [
        (each.evaluation_seconds, each.wall_seconds)
        for each in ended
        if each.evaluation_seconds is not None
    ]
    seconds = math.fsum(evaluation for evaluation, _ in timed)
    whole = math.fsum(wall for _, wall in timed)
    if whole > 0:
        share = seconds / whole
        most = max(evaluation / (wall or math.inf) for evaluation, wall in timed)
        held = rules.EVALUATION_SHARE.holds(share)
        fix = "" if held else "; `heldout_examples` in [training] limits it"
        yield Check(
            rules.EVALUATION_SHARE,
            held,
            f"{share:.1%} of the time, up to {most:.1%} of a trial{fix}",
        )
    inexact = [each.inexact_parts for each in ended if each.inexact_parts]
    if timed:
        off = max((abs(b / a - 1) if a else math.inf for a, b in inexact), default=0.0)
        yield Check(
            rules.EXACT_PARTS,
            not inexact,
            f"off by up to {off:.2g} of it in {len(inexact)} of {len(ended)} trials: give the loss "
            "a `count(targets)`"
            if inexact
            else "no difference found",
        )


def _of_spending(record: Record, targets: Sequence[float]) -> Iterator[Check]:
    """Return the checks of cost, data and reproducibility."""
    trials = record.plan.trials
    miss = max(abs(trial.flops / trial.budget_flops - 1) for trial in trials)
    yield Check(
        rules.FLOPS_MATCH_BUDGET,
        rules.FLOPS_MATCH_BUDGET.holds(miss),
        f"largest difference {miss:.2%}",
    )
    yield Check(
        rules.FLOPS_COUNTED,
        record.manifest.flops.count == "counted",
        f"count `{record.manifest.flops.count}`",
    )
    unique = record.unique_units
    epochs = None if unique is None else max(trial.tokens for trial in trials) / unique
    yield Check(
        rules.DATA_REPEATED,
        None if epochs is None else rules.DATA_REPEATED.holds(epochs),
        "size of the data not known" if epochs is None else f"up to {epochs:.2g} epochs",
    )
    seeds: dict[tuple[float, float], set[int]] = {}
    for trial in trials:
        seeds.setdefault((trial.budget_flops, trial.size.params), set()).add(trial.seed)
    most = max(len(found) for found in seeds.values())
    yield Check(rules.SEED_NOISE, rules.SEED_NOISE.holds(most), f"at most {most} seeds in a cell")
    spent = math.fsum(entry.flops for entry in record.ledger.finished.values())
    if targets and max(targets) > max(record.plan.budgets) * 1.02:
        share = spent / max(targets)
        yield Check(
            rules.SWEEP_SHARE,
            rules.SWEEP_SHARE.holds(share),
            f"{share:.2%} of {format_value(max(targets), 'flops')} FLOPs",
        )
    yield Check(
        rules.RUNS_KEPT,
        record.provenance is not None,
        f"fingerprint {'missing' if record.provenance is None else record.provenance.fingerprint}; "
        f"{len(record.ledger.finished)} finished, {len(record.ledger.diverged)} diverged, "
        f"{len(record.ledger.failed)} failed",
    )


def _of_design(observations: Sequence[Observation]) -> Iterator[Check]:
    """Budgets, sizes and tokens per parameter."""
    spent = [o.budget_flops or o.flops for o in observations]
    decades = math.log10(max(spent) / min(spent))
    budgets = {o.budget_flops for o in observations if o.budget_flops is not None}
    if budgets:
        yield Check(
            rules.TOO_FEW_BUDGETS,
            rules.TOO_FEW_BUDGETS.holds(len(budgets))
            and rules.NARROW_BUDGETS.holds(decades + ROUNDING),
            f"{len(budgets)} budgets over {decades:.2f} decades",
        )
    ratios = [o.tokens / o.params for o in observations]
    yield Check(
        rules.TOKENS_PER_PARAM,
        all(rules.TOKENS_PER_PARAM.holds(ratio) for ratio in (min(ratios), max(ratios))),
        f"{format_value(min(ratios), 'number')} to {format_value(max(ratios), 'number')}",
    )


def _of_targets(observations: Sequence[Observation], targets: Sequence[float]) -> Iterator[Check]:
    """Return the check of the distance of predictions from the data."""
    if targets:
        largest = max(o.flops for o in observations)
        factor = 10 ** max(extrapolation_decades(target, largest) for target in targets)
        yield Check(
            rules.EXTRAPOLATION,
            rules.EXTRAPOLATION.holds(factor / (1 + 1e-9)),
            f"{format_value(factor, 'number')} times",
        )


def _of_minima(isoflop: Fit | None) -> Iterator[Check]:
    """The isoFLOP minima."""
    if isoflop is None or not isoflop.minima:
        return
    minima, total = isoflop.minima, len(isoflop.minima)
    open_ones = sum(m.status is MinimumStatus.UNBRACKETED for m in minima)
    yield Check(
        rules.UNBRACKETED_MINIMUM, open_ones == 0, f"{total - open_ones} of {total} budgets"
    )
    bent = sum(m.status in (MinimumStatus.FLAT, MinimumStatus.CONCAVE) for m in minima)
    yield Check(rules.FLAT_MINIMUM, bent == 0, f"{total - bent} of {total} budgets")
    sizes = [m.num_sizes for m in minima]
    yield Check(
        rules.TOO_FEW_SIZES, rules.TOO_FEW_SIZES.holds(min(sizes)), f"{format_range(sizes)} sizes"
    )
    window = isoflop.window
    if window is not None:
        yield Check(
            rules.NARROW_PARABOLA,
            rules.NARROW_PARABOLA.holds(window),
            f"within a factor of {window:g} of the best size",
        )


def _of_laws(fits: Mapping[str, Fit], observations: Sequence[Observation]) -> Iterator[Check]:
    """The fitted laws."""
    headline = headline_method(fits)
    yield Check(
        rules.SURFACE_SPEAKS,
        headline == "surface" and fits["surface"].status == "ok",
        f"headline: {headline or 'none'}",
    )
    exponents = {m: f.exponents for m, f in fits.items() if f.exponents.get("params") is not None}
    if exponents:
        off = max(abs(e["params"] + e["tokens"] - 1) for e in exponents.values())
        yield Check(
            rules.EXPONENTS_ADD_UP,
            rules.EXPONENTS_ADD_UP.holds(off),
            ", ".join(f"{m} {e['params'] + e['tokens']:.4f}" for m, e in exponents.items()),
        )
        yield Check(
            rules.IMPLAUSIBLE_EXPONENT,
            all(rules.IMPLAUSIBLE_EXPONENT.holds(e["params"]) for e in exponents.values()),
            ", ".join(f"{m} {e['params']:.4f}" for m, e in exponents.items()),
        )
    surface = fits.get("surface")
    if surface is not None and "E" in surface.parameters and observations:
        floor, least = surface.parameters["E"], min(o.loss for o in observations)
        low_end = (surface.intervals.get("E") or (floor, floor))[0]
        rule = rules.IRREDUCIBLE_LOSS_AT_BOUND
        yield Check(
            rule,
            rule.least * least < low_end and floor < least,
            f"E = {floor:.4f}, least loss {least:.4f}",
        )
    others = [method for method in ("kaplan", "general") if method in fits]
    yield Check(rules.OTHER_FORM, bool(others), ", ".join(others) or "no other form was fitted")


def _of_uncertainty(fits: Mapping[str, Fit]) -> Iterator[Check]:
    """Intervals and held-out budgets."""
    draws = {method: len(fit.draws) for method, fit in fits.items() if fit.draws}
    yield Check(
        rules.ENOUGH_RESAMPLES,
        rules.ENOUGH_RESAMPLES.holds(max(draws.values(), default=0)),
        ", ".join(f"{method} {count}" for method, count in draws.items()) or "no resamples",
    )
    tested = [m for m, fit in fits.items() if isinstance(fit.details, ExtrapolationDetails)]
    yield Check(rules.HELD_OUT_BUDGETS, bool(tested), ", ".join(tested) or "no back-test")


def format_range(counts: Sequence[int]) -> str:
    """`5`, or `5 to 7`."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
