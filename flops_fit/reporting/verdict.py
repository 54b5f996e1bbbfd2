"""The verdict before any number: trust, provisional or refuse, each with its reasons.

`refuse`: there is no usable law, or the runs' scatter hides it, so there is nothing to believe.
`provisional`: there is one, and at least one rule of a credible study is not held. `trust`: none is
broken. Each reason has a code for programs and a sentence that names the figure. The thresholds,
with their sources:

- at least 5 bracketed budgets over at least 1.5 decades, at least 5 sizes at each: Hoffmann et al.
  2022 (arXiv:2203.15556) used 9 budgets, Porian et al. 2024 (arXiv:2406.19146) 12;
- a prediction within 10 times the largest budget: beyond it the error of held-out predictions
  grows quickly (Gadre et al. 2024, arXiv:2403.08540, needed tuned recipes to go to 300 times);
- runs within 10 % of the surface (median): about what ten times the compute buys, in the law of
  Hoffmann et al. from 1e20 to 1e21 FLOPs. Above it that is the first reason; where the law's own
  loss falls by less over the last tenfold, nothing is told apart, and the verdict is `refuse`;
- N at a target within a range narrower than that of the sizes that were trained (95 % interval): a
  wider one says less than the plan did. That goes before all but the misfit;
- a in 0.25 to 0.85, alpha and beta in 0.05 to 1: the range of published laws, rounded outwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flops_fit.errors import FitError, Note
from flops_fit.fitting.details import Minimum, MinimumStatus
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Excluded, Observation, Optimum
from flops_fit.reporting.tables.cells import format_value

Judgement = Literal["trust", "provisional", "refuse"]

MIN_BUDGETS = 5
MIN_DECADES = 1.5
MIN_SIZES = 5
MIN_BRACKET = 3  # sizes at the upper budgets of a tapered sweep
MAX_EXTRAPOLATION = 10.0
EXPONENT_RANGE = (0.25, 0.85)
POWER_RANGE = (0.05, 1.0)
# Two methods whose optimal N differ by more than this, and whose intervals do not meet, disagree.
MAX_RATIO = 1.5
MAX_EXCLUDED_SHARE = 0.1
MAX_TOLD = 3
# What a plan fears of its grid, and the minima have answered by the time of the report.
ANSWERED = frozenset({"few_budgets", "narrow_budgets", "one_sided", "sizes_missing"})
# Codes of a fit's own notes that speak against the law; the others only inform.
DOUBTS = frozenset(
    {"bound", "law_does_not_hold", "methods_disagree", "additive_form_in_doubt", "not_converged"}
)
# Methods that answer what is optimal; the others are forms to hold the law against.
RIVALS = ("surface", "isoflop", "extrapolation", "envelope")
# Methods without which a study is incomplete.
ESSENTIAL = ("surface", "isoflop")
# The order in which a method speaks for the Result when none is asked for: Approach 3 first
# (Besiroglu et al. 2024, arXiv:2404.10102), then Approach 2, then what is built upon them.
HEADLINE = ("surface", "isoflop", "extrapolation", "envelope", "general", "kaplan")


@dataclass(frozen=True)
class Verdict:
    """How far to believe a result.

    Attributes:
        judgement: `trust`, `provisional` or `refuse`.
        reasons: why; empty only for `trust`.
    """

    judgement: Judgement
    reasons: tuple[Note, ...]


def judge(
    fits: Mapping[str, Fit],
    failures: Mapping[str, FitError],
    observations: Sequence[Observation],
    *,
    excluded: Sequence[Excluded] = (),
    targets: Sequence[float] = (),
    warnings: Sequence[Note] = (),
    notes: Sequence[Note] = (),
    predictions: Sequence[Optimum] = (),
) -> Verdict:
    """Weigh fits against the rules of a credible study.

    Args:
        fits: by method.
        failures: the methods that gave no fit, with what they said.
        observations: the trials that count (finished, not excluded).
        excluded: what was left out; a reason that begins with `diverged` is counted apart.
        targets: budgets in FLOPs that predictions are asked for.
        warnings: what the plan already warned of; each makes the result provisional, save those
            that the measured minima answer.
        notes: what fitting said of more than one method; the doubts among them count.
        predictions: optima that were worked out with the fits, intervals and all; fitting has then
            held the methods against each other already.
    """
    usable = {method: fit for method, fit in fits.items() if is_usable(fit)}
    if not usable:
        told = [Note(error.code, f"{name}: {error.message}") for name, error in failures.items()]
        none = Note("no_usable_law", f"no method gave a law from {len(observations)} observations")
        return Verdict("refuse", (none, *told))
    rivals = {method: fit for method, fit in usable.items() if method in RIVALS}
    reasons = [
        Note(error.code, f"{name}: {error.message}")
        for name, error in failures.items()
        if name in ESSENTIAL
    ]
    for method, fit in rivals.items():
        if method == "extrapolation":
            continue  # it leaves small budgets aside by weight, so it need not fit them
        reasons += _of_status(method, fit, known={note.message for note in notes})
    reasons += _of_minima(fits.get("isoflop"))
    reasons += _of_coverage(fits, observations)
    reasons += _of_laws(rivals, observations)
    if not predictions:
        reasons += _of_agreement(rivals, observations, targets)
    reasons += [note for note in notes if note.code in DOUBTS]
    reasons += _of_targets(observations, targets)
    reasons += _of_excluded(excluded, len(observations))
    reasons += [w for w in warnings if "isoflop" not in fits or w.code not in ANSWERED]
    unknown = unknown_optimum(predictions, headline_method(usable), observations, targets)
    reasons = reasons if unknown is None else [unknown, *reasons]
    if misfit(usable) > MAX_MISFIT:
        reasons.sort(key=lambda note: note.code != "law_does_not_hold")
        hidden = hidden_law(usable["surface"], observations, factor=MAX_EXTRAPOLATION)
        if hidden is None:
            inside = [o.flops for o in predictions if _is_inside(o, observations)]
            hidden = unknown_optimum(predictions, headline_method(usable), observations, inside)
        if hidden is not None:
            return Verdict("refuse", _shortened([hidden, *reasons]))
    return Verdict("provisional" if reasons else "trust", _shortened(reasons))


def _is_inside(optimum: Optimum, observations: Sequence[Observation]) -> bool:
    """Whether a prediction is for no more compute than was observed."""
    largest = max(o.budget_flops or o.flops for o in observations)
    return extrapolation_decades(optimum.flops, largest) == 0


def _shortened(reasons: Sequence[Note]) -> tuple[Note, ...]:
    """The reasons without repeats; of one code at most MAX_TOLD, the last saying how many more."""
    by_code: dict[str, list[Note]] = {}
    for note in dict.fromkeys(reasons):
        by_code.setdefault(note.code, []).append(note)
    kept: list[Note] = []
    for code, notes in by_code.items():
        more = len(notes) - MAX_TOLD
        last = notes[MAX_TOLD - 1 : MAX_TOLD]
        if more > 0:
            last = [Note(code, f"{last[0].message}; and {more} more like this")]
        kept += [*notes[: MAX_TOLD - 1], *last]
    return tuple(kept)


def is_usable(fit: Fit) -> bool:
    """Whether a law came out that can be asked: finite, with exponents that grow with compute."""
    exponents = fit.exponents.get("params"), fit.exponents.get("tokens")
    return all(value is not None and math.isfinite(value) for value in exponents)


def in_order(fits: Mapping[str, Fit]) -> dict[str, Fit]:
    """The fits in the order in which they speak."""
    order = {method: place for place, method in enumerate(HEADLINE)}
    return dict(sorted(fits.items(), key=lambda item: order.get(item[0], len(order))))


def headline_method(fits: Mapping[str, Fit]) -> str | None:
    """The method that answers when none is asked for: a sound one first, in HEADLINE's order.

    A form that others are held against speaks only where none of those that answer is usable.
    """
    order = {method: place for place, method in enumerate(HEADLINE)}
    usable = [method for method, fit in fits.items() if is_usable(fit)]
    return min(
        usable,
        key=lambda method: (
            method not in RIVALS,
            fits[method].status != "ok",
            order.get(method, len(order)),
        ),
        default=None,
    )


def extrapolation_decades(budget_flops: float, largest_flops: float) -> float:
    """How many powers of ten `budget_flops` lies beyond the largest observed compute; 0 inside."""
    # A trial's FLOPs may differ from its budget by the rounding to whole steps: 2 % is no step out.
    if largest_flops <= 0 or budget_flops <= largest_flops * 1.02:
        return 0.0
    return math.log10(budget_flops / largest_flops)


def _of_status(method: str, fit: Fit, *, known: set[str]) -> Iterator[Note]:
    """What the fit itself said of its end, and which of its notes speak against the law.

    `known`: messages that stand among the reasons anyway.
    """
    told = [note for note in fit.notes if note.code in DOUBTS or note.code == fit.status]
    for note in told:
        if note.message not in known:
            yield Note(note.code, f"{method}: {note.message}")
    if fit.status != "ok" and not any(note.code == fit.status for note in told):
        yield Note(fit.status, f"the {method} fit ended as `{fit.status}`")


def _of_excluded(excluded: Sequence[Excluded], num_used: int) -> Iterator[Note]:
    """Whether trials diverged, and whether more were left out than a few."""
    seen = num_used + len(excluded)
    diverged = sum(out.reason.startswith("diverged") for out in excluded)
    if diverged:
        yield Note("diverged_trials", f"{diverged} of {seen} trials diverged")
    if len(excluded) > MAX_EXCLUDED_SHARE * seen:
        yield Note("many_excluded", f"{len(excluded)} of {seen} trials were left out")


def _of_minima(isoflop: Fit | None) -> Iterator[Note]:
    """One reason for each budget without a minimum; one for all where a kind has many."""
    by_status: dict[MinimumStatus, list[Minimum]] = {}
    for minimum in _minima(isoflop):
        if minimum.status is not MinimumStatus.OK:
            by_status.setdefault(minimum.status, []).append(minimum)
    for status, found in by_status.items():
        budgets = [format_value(minimum.budget_flops, "flops") for minimum in found]
        why = [minimum.reason or status for minimum in found]
        told = [(f"{budget} FLOPs", reason) for budget, reason in zip(budgets, why, strict=True)]
        if len(found) > MAX_TOLD:
            told = [(f"{len(found)} budgets ({budgets[0]} to {budgets[-1]} FLOPs)", status)]
        for where, reason in told:
            yield Note(f"{status}_minimum", f"no minimum at {where}: {reason}")


def _of_coverage(fits: Mapping[str, Fit], observations: Sequence[Observation]) -> Iterator[Note]:
    """Whether budgets and sizes are enough to speak of a power law."""
    minima = [m for m in _minima(fits.get("isoflop")) if m.status is MinimumStatus.OK]
    if minima and len(minima) < MIN_BUDGETS:
        yield Note(
            "too_few_budgets",
            f"{len(minima)} budgets have a minimum; a power law wants {MIN_BUDGETS} or more",
        )
    # A tapered sweep has few sizes at the top and more below: there three bracket a minimum.
    is_tapered = bool(minima) and minima[0].num_sizes >= MIN_SIZES
    wanted = MIN_BRACKET if is_tapered and "surface" in fits else MIN_SIZES
    thin = [m for m in minima if m.num_sizes < wanted]
    if thin:
        yield Note(
            "too_few_sizes",
            f"{len(thin)} of {len(minima)} budgets have fewer than {wanted} sizes",
        )
    spent = [o.budget_flops or o.flops for o in observations]
    decades = math.log10(max(spent) / min(spent)) if spent else 0.0
    if decades < MIN_DECADES - 0.005:  # 1e11 to 3e12 counts as one and a half
        yield Note(
            "narrow_budgets",
            f"compute spans {decades:.2f} decades; a power law wants {MIN_DECADES} or more",
        )


def _of_laws(fits: Mapping[str, Fit], observations: Sequence[Observation]) -> Iterator[Note]:
    """Whether the laws' parameters are ones that nature has been seen to give."""
    for method, fit in fits.items():
        a = fit.exponents["params"]
        if not EXPONENT_RANGE[0] <= a <= EXPONENT_RANGE[1]:
            yield Note(
                "implausible_exponent",
                f"{method}: N_opt ~ C^{a:.4g}; published laws lie in "
                f"{EXPONENT_RANGE[0]} to {EXPONENT_RANGE[1]}",
            )
        for name in ("alpha", "beta"):
            value = fit.parameters.get(name)
            if value is not None and not POWER_RANGE[0] <= value <= POWER_RANGE[1]:
                yield Note(
                    "implausible_exponent",
                    f"{method}: {name} = {value:.4g}; published laws lie in "
                    f"{POWER_RANGE[0]} to {POWER_RANGE[1]}",
                )
        yield from _of_irreducible_loss(method, fit, observations)


def _of_irreducible_loss(
    method: str, fit: Fit, observations: Sequence[Observation]
) -> Iterator[Note]:
    """Whether E is a number that the data determine: above 0, below every loss."""
    floor = fit.parameters.get("E")
    least = min((o.loss for o in observations), default=None)
    if floor is None or least is None:
        return
    if floor <= 1e-6 * least:
        yield Note(
            "irreducible_loss_at_bound",
            f"{method}: the irreducible loss E is at its bound 0; these runs do not determine it",
        )
    elif floor >= least:
        yield Note(
            "irreducible_loss_above_data",
            f"{method}: E = {floor:.4f} is not below the least observed loss, {least:.4f}",
        )


def _of_agreement(
    fits: Mapping[str, Fit], observations: Sequence[Observation], targets: Sequence[float]
) -> Iterator[Note]:
    """Whether methods name the same N where it matters: at the targets, else at the top budget."""
    sound = {method: fit for method, fit in fits.items() if fit.status == "ok"}
    top = max((o.budget_flops or o.flops for o in observations), default=None)
    budgets = list(targets) or ([] if top is None else [top])
    headline = headline_method(sound)
    for budget in budgets:
        for method in sound:
            if headline is None or method == headline:
                continue
            ours, theirs = sound[headline].predict(budget), sound[method].predict(budget)
            ratio = max(ours.params / theirs.params, theirs.params / ours.params)
            if ratio > MAX_RATIO and not _meet(ours.params_interval, theirs.params_interval):
                yield Note(
                    "methods_disagree",
                    f"at {format_value(budget, 'flops')} FLOPs {headline} gives "
                    f"N = {format_value(ours.params, 'count')}, {method} "
                    f"{format_value(theirs.params, 'count')}",
                )


def _of_targets(observations: Sequence[Observation], targets: Sequence[float]) -> Iterator[Note]:
    """Which targets lie too far beyond the data."""
    largest = max((o.flops for o in observations), default=0.0)
    for target in targets:
        factor = 10.0 ** extrapolation_decades(target, largest)
        if factor > MAX_EXTRAPOLATION * (1 + 1e-9):
            yield Note(
                "extrapolation",
                f"{format_value(target, 'flops')} FLOPs is {format_value(factor, 'number')} times "
                f"the largest budget; predictions hold to about {MAX_EXTRAPOLATION:.0f} times",
            )


def _minima(isoflop: Fit | None) -> Sequence[Minimum]:
    return () if isoflop is None else isoflop.minima


def _meet(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    """Whether both intervals are known and share a point."""
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]


MAX_MISFIT = 0.1  # median deviation of the log losses from the surface


_SAME = 1e-6  # relative difference up to which two budgets are one


def misfit(fits: Mapping[str, Fit]) -> float:
    """The median deviation of the log losses from the surface; 0 where it is not known."""
    return (fits["surface"].residual_mad or 0.0) if "surface" in fits else 0.0


def hidden_law(surface: Fit, observations: Sequence[Observation], *, factor: float) -> Note | None:
    """That the runs scatter by more than the law lets the loss fall over the last compute.

    Args:
        surface: the fit.
        observations: that it rests on.
        factor: how many times less compute to compare the largest budget with.
    """
    top = max(o.budget_flops or o.flops for o in observations)
    here, below = surface.predict(top).loss, surface.predict(top / factor).loss
    if here is None or below is None:
        return None
    scatter, fall = misfit({"surface": surface}), math.log(below / here)
    if scatter <= fall:
        return None
    return Note(
        "law_hidden_by_scatter",
        f"the runs scatter about the surface by {scatter:.1%} (median deviation), more than the "
        f"{fall:.1%} by which it lets the loss fall over the last {factor:.0f}-fold of compute",
    )


def unknown_optimum(
    predictions: Sequence[Optimum],
    method: str | None,
    observations: Sequence[Observation],
    targets: Sequence[float],
) -> Note | None:
    """The largest target at which N is known less well than the range of sizes that were trained.

    None where there is no such target.
    """
    sizes = [o.params for o in observations]
    wide = [
        (optimum.flops, interval)
        for optimum in predictions
        if optimum.method == method
        and (interval := optimum.params_interval) is not None
        and interval[1] * min(sizes) > interval[0] * max(sizes)
        and any(math.isclose(optimum.flops, target, rel_tol=_SAME) for target in targets)
    ]
    if not wide:
        return None
    flops, interval = max(wide)
    counts = (*interval, min(sizes), max(sizes))
    low, high, least, most = (format_value(count, "count") for count in counts)
    return Note(
        "optimum_unknown",
        f"{method}: N at {format_value(flops, 'flops')} FLOPs lies anywhere from {low} to {high} "
        "params (95 %), a wider range than that of the sizes that were trained, "
        f"{least} to {most}",
    )
