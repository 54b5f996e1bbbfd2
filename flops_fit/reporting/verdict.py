"""The verdict before any number: trust, provisional or refuse, each with its reasons.

`refuse`: there is no usable law, or noise hides it. `provisional`: there is a law, and at least one
rule of a credible study is broken. `trust`: no rule is broken. Each reason has a code for programs
and a sentence that names the figure. Thresholds, sources and next steps stand in `rules`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flops_fit.errors import FitError, Note
from flops_fit.fitting.details import CombinationDetails, Minimum, MinimumStatus
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Excluded, Observation, Optimum
from flops_fit.manifest.frames import to_html
from flops_fit.reporting import evidence, rules
from flops_fit.reporting.tables.cells import format_value

Judgement = Literal["trust", "provisional", "refuse"]

MAX_TOLD = 3
MAX_BAD_MINIMA = 1 / 3  # share of budgets without a minimum that is said as a reason
ROUNDING = 0.005  # decades: 1e11 to 3e12 counts as one and a half
# The minima that were measured answer these warnings of the plan.
ANSWERED = frozenset({"few_budgets", "narrow_budgets", "one_sided", "sizes_missing"})
_WHY_NO_MINIMUM = {
    MinimumStatus.FLAT: "the curvature is not larger than its noise",
    MinimumStatus.CONCAVE: "the losses do not rise on both sides",
    MinimumStatus.TOO_FEW: "a parabola needs more sizes",
    MinimumStatus.UNBRACKETED: "it lies outside the sizes that were trained",
}
# Methods that answer what is optimal; the others are forms to hold the law against.
RIVALS = ("combination", "surface", "isoflop", "extrapolation", "envelope")
# Methods without which a study is incomplete.
ESSENTIAL = ("surface", "isoflop")
# The order in which a method speaks for the Result when none is asked for: Approach 3 first
# (Besiroglu et al. 2024, arXiv:2404.10102), then Approach 2, then what is built upon them.
HEADLINE = ("combination", "surface", "isoflop", "extrapolation", "envelope", "general", "kaplan")


@dataclass(frozen=True, repr=False)
class Verdict:
    """Verdict on a result, with its reasons.

    Attributes:
        judgement: `trust`, `provisional` or `refuse`.
        reasons: why; empty only for `trust`.
    """

    judgement: Judgement
    reasons: tuple[Note, ...]

    def __repr__(self) -> str:
        codes = ", ".join(dict.fromkeys(reason.code for reason in self.reasons))
        return f"<Verdict: {self.judgement}{': ' + codes if codes else ''}>"

    def _repr_html_(self) -> str:
        """Return the verdict and its reasons as a notebook shows them."""
        rows = [(reason.code, reason.message) for reason in self.reasons]
        return to_html(f"Verdict: {self.judgement}", ("code", "reason"), rows)


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
        none = rules.NO_USABLE_LAW.reason(
            f"no method gave a law from {len(observations)} observations"
        )
        return Verdict("refuse", (none, *told))
    found = list(evidence.against(usable, observations, predictions))
    refused = [note for note in found if note.code in rules.REFUSING]
    reasons = [note for note in found if note.code not in rules.REFUSING]
    if "combination" in usable:
        reasons += _of_combination(usable["combination"], fits.get("isoflop"), observations)
    else:
        reasons += _of_single_methods(usable, failures, observations, targets, notes, predictions)
    reasons += _of_targets(observations, targets)
    reasons += _of_excluded(excluded, len(observations))
    reasons += [w for w in warnings if "isoflop" not in fits or w.code not in ANSWERED]
    speaks = headline_method(usable)
    if unknown := unknown_optimum(predictions, speaks, observations, targets):
        reasons = [unknown, *(r for r in reasons if r.code != rules.ANSWER_UNCERTAIN.code)]
    if not rules.LARGE_MISFIT.holds(misfit(usable)):
        reasons.sort(key=lambda note: note.code != rules.LAW_DOES_NOT_HOLD.code)
        hidden = hidden_law(usable["surface"], observations, factor=rules.EXTRAPOLATION.most)
        inside = [o.flops for o in predictions if _is_inside(o, observations)]
        hidden = hidden or unknown_optimum(predictions, speaks, observations, inside)
        refused += [] if hidden is None else [hidden]
    if refused:
        return Verdict("refuse", _shortened([*refused, *reasons]))
    return Verdict("provisional" if reasons else "trust", _shortened(reasons))


def _of_combination(
    combination: Fit, isoflop: Fit | None, observations: Sequence[Observation]
) -> Iterator[Note]:
    """Return doubts about the combination; its intervals cover doubts about one member."""
    minima = _minima(isoflop)
    enough = [m for m in minima if rules.TOO_FEW_SIZES.holds(m.num_sizes)]
    bad = [m for m in enough if m.status is not MinimumStatus.OK]
    if len(bad) > MAX_BAD_MINIMA * len(enough):
        yield from _of_minima(isoflop)
    details = combination.details
    levels = details.levels if isinstance(details, CombinationDetails) else len(minima)
    if not rules.TOO_FEW_BUDGETS.holds(levels):
        yield rules.TOO_FEW_BUDGETS.reason(
            f"the runs have {levels or 'too few'} levels of compute; an answer that can be tested "
            f"needs {rules.TOO_FEW_BUDGETS.least:g}"
        )
    yield from _of_range(observations)
    yield from _of_laws({"combination": combination}, observations)


def _of_single_methods(
    usable: Mapping[str, Fit],
    failures: Mapping[str, FitError],
    observations: Sequence[Observation],
    targets: Sequence[float],
    notes: Sequence[Note],
    predictions: Sequence[Optimum],
) -> Iterator[Note]:
    """Return doubts about each method, if there is no combination."""
    rivals = {method: fit for method, fit in usable.items() if method in RIVALS}
    for name, error in failures.items():
        if name in ESSENTIAL:
            yield Note(error.code, f"{name}: {error.message}")
    for method, fit in rivals.items():
        if method != "extrapolation":  # by its weights it need not fit small budgets
            yield from _of_status(method, fit, known={note.message for note in notes})
    yield from _of_minima(usable.get("isoflop"))
    yield from _of_coverage(usable, observations)
    yield from _of_laws(rivals, observations)
    if not predictions:
        yield from _of_agreement(rivals, observations, targets)
    yield from (note for note in notes if note.code in rules.DOUBTS)


def _is_inside(optimum: Optimum, observations: Sequence[Observation]) -> bool:
    """Return whether a prediction is for no more compute than was observed."""
    largest = max(o.budget_flops or o.flops for o in observations)
    return extrapolation_decades(optimum.flops, largest) == 0


def _shortened(reasons: Sequence[Note]) -> tuple[Note, ...]:
    """Return the reasons without repeats, at most MAX_TOLD of one code."""
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
    """Return whether a law can answer: it is finite, and its exponents grow with compute."""
    exponents = fit.exponents.get("params"), fit.exponents.get("tokens")
    return all(value is not None and math.isfinite(value) for value in exponents)


def in_order(fits: Mapping[str, Fit]) -> dict[str, Fit]:
    """Return the fits in the order in which they speak."""
    order = {method: place for place, method in enumerate(HEADLINE)}
    return dict(sorted(fits.items(), key=lambda item: order.get(item[0], len(order))))


def headline_method(fits: Mapping[str, Fit]) -> str | None:
    """Return the method that answers by default: the first sound one in HEADLINE's order.

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
    """Return the decades from the largest observed compute to `budget_flops`; 0 inside."""
    # A trial's FLOPs may differ from its budget by the rounding to whole steps: 2 % is no step out.
    if largest_flops <= 0 or budget_flops <= largest_flops * 1.02:
        return 0.0
    return math.log10(budget_flops / largest_flops)


def _of_status(method: str, fit: Fit, *, known: set[str]) -> Iterator[Note]:
    """Return the notes of a fit that raise doubts about its law.

    `known`: messages that stand among the reasons anyway.
    """
    told = [note for note in fit.notes if note.code in rules.DOUBTS or note.code == fit.status]
    for note in told:
        if note.message not in known:
            yield Note(note.code, f"{method}: {note.message}")
    if fit.status != "ok" and not any(note.code == fit.status for note in told):
        yield Note(fit.status, f"the {method} fit ended as `{fit.status}`")


def _of_excluded(excluded: Sequence[Excluded], num_used: int) -> Iterator[Note]:
    """Check whether trials diverged, and whether many were left out."""
    seen = num_used + len(excluded)
    diverged = sum(out.reason.startswith("diverged") for out in excluded)
    if not rules.DIVERGED_TRIALS.holds(diverged):
        yield rules.DIVERGED_TRIALS.reason(f"{diverged} of {seen} trials diverged")
    if len(excluded) > rules.MANY_EXCLUDED.most * seen:
        yield rules.MANY_EXCLUDED.reason(f"{len(excluded)} of {seen} trials were left out")


def _of_minima(isoflop: Fit | None) -> Iterator[Note]:
    """Return a reason for each budget without a minimum, or one for many of the same kind."""
    by_status: dict[MinimumStatus, list[Minimum]] = {}
    for minimum in _minima(isoflop):
        if minimum.status is not MinimumStatus.OK:
            by_status.setdefault(minimum.status, []).append(minimum)
    for status, found in by_status.items():
        budgets = [format_value(minimum.budget_flops, "flops") for minimum in found]
        why = [minimum.reason or status for minimum in found]
        told = [(f"{budget} FLOPs", reason) for budget, reason in zip(budgets, why, strict=True)]
        if len(found) > MAX_TOLD:
            where = f"{len(found)} budgets ({budgets[0]} to {budgets[-1]} FLOPs)"
            told = [(where, _WHY_NO_MINIMUM.get(status, status))]
        for where, reason in told:
            yield Note(f"{status}_minimum", f"no minimum at {where}: {reason}")


def _of_coverage(fits: Mapping[str, Fit], observations: Sequence[Observation]) -> Iterator[Note]:
    """Check whether budgets and sizes are enough to determine a power law."""
    minima = [m for m in _minima(fits.get("isoflop")) if m.status is MinimumStatus.OK]
    least_budgets = rules.TOO_FEW_BUDGETS.least
    if minima and len(minima) < least_budgets:
        yield rules.TOO_FEW_BUDGETS.reason(
            f"{len(minima)} budgets have a minimum; a power law needs {least_budgets:g} or more"
        )
    # A tapered sweep has few sizes at the top and more below: there three bracket a minimum.
    is_tapered = bool(minima) and rules.TOO_FEW_SIZES.holds(minima[0].num_sizes)
    rule = rules.TAPERED_SIZES if is_tapered and "surface" in fits else rules.TOO_FEW_SIZES
    thin = [m for m in minima if not rule.holds(m.num_sizes)]
    if thin:
        yield rules.TOO_FEW_SIZES.reason(
            f"{len(thin)} of {len(minima)} budgets have fewer than {rule.least:g} sizes"
        )
    yield from _of_range(observations)


def _of_range(observations: Sequence[Observation]) -> Iterator[Note]:
    """Check whether the budgets span enough compute."""
    spent = [o.budget_flops or o.flops for o in observations]
    decades = math.log10(max(spent) / min(spent)) if spent else 0.0
    if not rules.NARROW_BUDGETS.holds(decades + ROUNDING):
        yield rules.NARROW_BUDGETS.reason(
            f"compute spans {decades:.2f} decades; a power law needs "
            f"{rules.NARROW_BUDGETS.least:g} or more"
        )


def _of_laws(fits: Mapping[str, Fit], observations: Sequence[Observation]) -> Iterator[Note]:
    """Check whether the laws' parameters are in the published range."""
    for method, fit in fits.items():
        a = fit.exponents["params"]
        rule = rules.IMPLAUSIBLE_EXPONENT
        if not rule.holds(a):
            yield rule.reason(
                f"{method}: N_opt ~ C^{a:.4g}; published laws lie in {rule.least} to {rule.most}"
            )
        rule = rules.IMPLAUSIBLE_POWER
        for name in ("alpha", "beta"):
            value = fit.parameters.get(name)
            if value is not None and not rule.holds(value):
                yield rule.reason(
                    f"{method}: {name} = {value:.4g}; published laws lie in "
                    f"{rule.least} to {rule.most}"
                )
        yield from _of_irreducible_loss(method, fit, observations)


def _of_irreducible_loss(
    method: str, fit: Fit, observations: Sequence[Observation]
) -> Iterator[Note]:
    """Check whether the data determine E: above 0, below every loss."""
    floor = fit.parameters.get("E")
    least = min((o.loss for o in observations), default=None)
    if floor is None or least is None:
        return
    if floor <= rules.IRREDUCIBLE_LOSS_AT_BOUND.least * least:
        yield rules.IRREDUCIBLE_LOSS_AT_BOUND.reason(
            f"{method}: the irreducible loss E is at its bound 0; these runs do not determine it"
        )
    elif floor >= least:
        yield rules.IRREDUCIBLE_LOSS_ABOVE_DATA.reason(
            f"{method}: E = {floor:.4f} is not below the least observed loss, {least:.4f}"
        )


def _of_agreement(
    fits: Mapping[str, Fit], observations: Sequence[Observation], targets: Sequence[float]
) -> Iterator[Note]:
    """Check whether methods agree on N at the targets, or else at the top budget."""
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
            if not rules.METHODS_DISAGREE.holds(ratio) and not _meet(
                ours.params_interval, theirs.params_interval
            ):
                yield rules.METHODS_DISAGREE.reason(
                    f"at {format_value(budget, 'flops')} FLOPs {headline} gives "
                    f"N = {format_value(ours.params, 'count')}, {method} "
                    f"{format_value(theirs.params, 'count')}"
                )


def _of_targets(observations: Sequence[Observation], targets: Sequence[float]) -> Iterator[Note]:
    """Return a reason if targets lie too far beyond the data."""
    largest = max((o.flops for o in observations), default=0.0)
    for target in targets:
        factor = 10.0 ** extrapolation_decades(target, largest)
        if not rules.EXTRAPOLATION.holds(factor / (1 + 1e-9)):
            yield rules.EXTRAPOLATION.reason(
                f"{format_value(target, 'flops')} FLOPs is {format_value(factor, 'number')} times "
                "the largest budget; predictions hold to about "
                f"{rules.EXTRAPOLATION.most:.0f} times"
            )


def _minima(isoflop: Fit | None) -> Sequence[Minimum]:
    return () if isoflop is None else isoflop.minima


def _meet(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    """Return whether both intervals are known and share a point."""
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]


_SAME = 1e-6  # relative difference up to which two budgets are one


def misfit(fits: Mapping[str, Fit]) -> float:
    """Return the median deviation of the log losses from the surface; 0 if it is not known."""
    return (fits["surface"].residual_mad or 0.0) if "surface" in fits else 0.0


def hidden_law(surface: Fit, observations: Sequence[Observation], *, factor: float) -> Note | None:
    """Return a reason if the noise of the runs exceeds the fall of the loss with compute.

    Args:
        surface: the fit.
        observations: the runs of the fit.
        factor: ratio of the largest budget to the smaller one that it is compared with.
    """
    top = max(o.budget_flops or o.flops for o in observations)
    here, below = surface.predict(top).loss, surface.predict(top / factor).loss
    if here is None or below is None:
        return None
    noise, fall = misfit({"surface": surface}), math.log(below / here)
    if noise <= fall:
        return None
    return rules.LAW_HIDDEN_BY_SCATTER.reason(
        f"the runs differ from the surface by {noise:.1%} (median deviation), more than the "
        f"{fall:.1%} by which the loss falls over the last {factor:.0f}-fold of compute"
    )


def unknown_optimum(
    predictions: Sequence[Optimum],
    method: str | None,
    observations: Sequence[Observation],
    targets: Sequence[float],
) -> Note | None:
    """Return the largest target whose interval of N is wider than the range of trained sizes.

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
    return rules.OPTIMUM_UNKNOWN.reason(
        f"{method}: N at {format_value(flops, 'flops')} FLOPs lies anywhere from {low} to {high} "
        "params (95 %), a wider range than that of the sizes that were trained, "
        f"{least} to {most}"
    )
