"""The test of whether the best learning rate carries over from one model size to another.

`rates.py` finds the best rate at each size. Divided by the rate of the recipe's rule, it gives the
best factor. If the rule carries the rate, this factor does not depend on the size: the slope of
ln(factor) against ln(size) is zero.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from flops_fit.errors import Note
from flops_fit.fitting.points import Interval
from flops_fit.fitting.rates import Bracket, RatePoint, Scale, excess_at, find_bracket, fit_parabola

_USUAL_NOISE = 0.003
"""Standard deviation of log loss, assumed where too few points are given to estimate it."""

_WIDE = 0.5
"""Half-width above which a slope cannot separate a 1/width rule from a 1/sqrt(width) rule."""

_CHEAP = 0.01
"""Share of the loss below which the cost of a rule is negligible."""

Verdict = Literal["carried", "not carried", "undetermined"]


@dataclass(frozen=True)
class Slope:
    """Slope d ln(best rate) / d ln(size) with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Cost:
    """Extra loss at the largest size if a rule carries the rate from the smallest bracketed one.

    Attributes:
        rule: its name.
        rate: the learning rate that the rule gives at the largest size.
        excess: (loss at this rate - least loss) / least loss; None where it is not known.
        is_beyond: whether the rate lies outside the tried rates; `excess` is then a lower bound.
        is_own: whether it is the manifest's rule.
    """

    rule: str
    rate: float
    excess: float | None
    is_beyond: bool
    is_own: bool


@dataclass(frozen=True)
class Transfer:
    """The result of a learning-rate study.

    Attributes:
        brackets: the best rate at each size, smallest size first.
        verdict: `carried`: the interval of `slope` contains zero and its half-width is at most 0.5,
            or the rule costs the largest size less than 1 % of its loss. `not carried`: the
            interval excludes zero and the cost is higher; or, at a size without a bracketed best
            rate, the carried rate diverges or costs at least 1 % of the loss. `undetermined`: all
            other cases, for example an unknown best rate at the largest size.
        reasons: sentences that explain the verdict, each with a code.
        slope: slope of ln(best factor) in ln(size); zero if the rule carries the rate.
        rate_slope: slope of ln(best rate) in ln(size).
        costs: the cost of each rule at the largest size; empty where it is not known.
        noise: standard deviation of log loss about the parabolas.
    """

    brackets: tuple[Bracket, ...]
    verdict: Verdict
    reasons: tuple[Note, ...]
    slope: Slope | None
    rate_slope: Slope | None
    costs: tuple[Cost, ...]
    noise: float


def fit_transfer(
    points: Sequence[RatePoint], shapes: Mapping[str, Mapping[float, float]], *, own: str
) -> Transfer:
    """Find the best rate at each size and decide whether the rule `own` carries it over.

    Args:
        points: the trials at two or more sizes, with one or more seeds at each rate.
        shapes: by rule and size value, the rate up to a constant factor of each rule.
        own: the manifest's rule, one of `shapes`.
    """
    by_size: dict[float, list[RatePoint]] = defaultdict(list)
    for point in sorted(points, key=lambda p: (p.params, p.factor, p.seed)):
        by_size[point.size_value].append(point)
    fits = {value: fit_parabola(cell) for value, cell in by_size.items()}
    freedom = sum(fit.freedom for fit in fits.values() if fit)
    squares = math.fsum(fit.squares for fit in fits.values() if fit)
    noise = math.sqrt(squares / freedom) if freedom else _USUAL_NOISE
    # Importing scipy.stats would take as long as all fits of a report.
    quantiles = (stdtrit(freedom, p) if freedom else ndtri(p) for p in (0.975, 0.95))
    scale = Scale(noise, *map(float, quantiles))
    brackets = tuple(find_bracket(cell, fits[value], scale) for value, cell in by_size.items())
    inside = [bracket for bracket in brackets if bracket.status == "interior"]
    reasons = [
        Note("unbracketed", f"size {b.size_value:g}: {b.reason}")
        for b in brackets
        if b.status != "interior"
    ]
    if not freedom:
        reasons.append(
            Note("noise_assumed", f"too few rates to estimate the noise; {noise:.1%} is assumed")
        )
    slope = _slope(inside, [b.factor for b in inside], scale.two_sided)
    rate_slope = _slope(inside, [b.rate for b in inside], scale.two_sided)
    costs = _costs(inside, brackets, shapes, own)
    carried = _common_factor(inside, scale.two_sided)
    unknown = [b for b in brackets if b.status in ("edge", "too_few")]
    if brackets[-1].status == "flat":
        unknown.append(brackets[-1])
    misses = [(bracket, _least_excess(bracket, carried, scale)) for bracket in unknown]
    verdict = _judge(slope, costs, reasons, misses)
    return Transfer(brackets, verdict, tuple(reasons), slope, rate_slope, costs, noise)


def _slope(
    inside: Sequence[Bracket], values: Sequence[float | None], quantile: float
) -> Slope | None:
    """Slope of ln(value) in ln(size) by least squares, weighted by the errors of ln(value).

    If three or more sizes deviate from the line by more than their errors, the interval is widened
    by the square root of the reduced chi-squared.
    """
    if len(inside) < 2:
        return None
    x = np.log([bracket.size_value for bracket in inside])
    y = np.log([value for value in values if value is not None])
    weights = 1 / np.array([max(bracket.log_error or 0.0, 1e-9) for bracket in inside]) ** 2
    centre = float(np.average(x, weights=weights))
    spread = float((weights * (x - centre) ** 2).sum())
    value = float((weights * (x - centre) * y).sum() / spread)
    level = float(np.average(y, weights=weights))
    chi_squared = float((weights * (y - level - value * (x - centre)) ** 2).sum())
    grown = math.sqrt(max(1.0, chi_squared / (len(inside) - 2))) if len(inside) > 2 else 1.0
    half = quantile * grown / math.sqrt(spread)
    return Slope(value, (value - half, value + half))


def _common_factor(inside: Sequence[Bracket], quantile: float) -> Interval | None:
    """95 % interval of the mean ln(factor), assumed equal at all bracketed sizes."""
    if not inside:
        return None
    x = np.log([bracket.factor for bracket in inside if bracket.factor is not None])
    weights = 1 / np.array([max(bracket.log_error or 0.0, 1e-9) for bracket in inside]) ** 2
    level = float(np.average(x, weights=weights))
    chi_squared = float((weights * (x - level) ** 2).sum())
    grown = math.sqrt(max(1.0, chi_squared / (len(inside) - 1))) if len(inside) > 1 else 1.0
    half = quantile * grown / math.sqrt(float(weights.sum()))
    return level - half, level + half


def _least_excess(bracket: Bracket, carried: Interval | None, scale: Scale) -> float:
    """Lower bound of the cost of the carried factor at a size without an optimum, over its loss.

    If the loss has a single minimum, it only rises away from the best measured rate. The rates
    between the best one and the carried factor then bound the loss from below. The bound is
    infinite if one of them diverged, and 0 if they rise by no more than the noise. If every rate
    diverged, all rates above the smallest of them diverge too.
    """
    if carried is None:
        return 0.0
    known = [(loss, math.log(factor)) for factor, _, loss, _ in bracket.rates if loss is not None]
    if not known:
        smallest = bracket.rates[0][0]
        return math.inf if carried[0] >= math.log(smallest) else 0.0
    least, best = min(known)
    end = min(max(best, carried[0]), carried[1])  # the closest value in the interval of the factor
    passed = [
        math.inf if loss is None else math.log(loss / least)
        for factor, _, loss, _ in bracket.rates
        if min(best, end) <= math.log(factor) <= max(best, end)
    ]
    rise = max(passed)
    return math.expm1(rise) if rise > scale.two_sided * math.sqrt(2) * scale.noise else 0.0


def _judge(
    slope: Slope | None,
    costs: Sequence[Cost],
    reasons: list[Note],
    misses: Sequence[tuple[Bracket, float]],
) -> Verdict:
    """Return the verdict and append its reason to `reasons`.

    Args:
        slope: slope through the sizes with an optimum.
        costs: costs of the rules at the largest size; empty if this size has no optimum.
        reasons: the notes so far.
        misses: the sizes without a known best rate, each with the least cost of the factor that is
            carried from the other sizes.
    """
    worst, least = max(misses, key=lambda miss: miss[1], default=(None, 0.0))
    if worst is not None and least >= _CHEAP:
        finding = f"costs size {worst.size_value:g} at least {least:.1%} of its loss"
        if math.isinf(least):
            finding = f"diverges at size {worst.size_value:g}"
            if all(loss is None for _, _, loss, _ in worst.rates):
                finding += f", where every tried rate from {worst.rates[0][1]:.3g} up diverged"
        reasons.append(Note("rule_misses", f"the rate carried from the bracketed sizes {finding}"))
        return "not carried"
    if slope is None:
        reasons.append(Note("too_few_optima", "fewer than two sizes have a bracketed best rate"))
        return "undetermined"
    low, high = slope.interval
    finding = f"the rule leaves a trend of size^{slope.value:+.2f} [{low:+.2f}, {high:+.2f}]"
    known = [c.excess for c in costs if c.is_own and not c.is_beyond and c.excess is not None]
    is_cheap = bool(known) and known[0] < _CHEAP
    if not low <= 0 <= high and not is_cheap:
        reasons.append(Note("rule_fails", f"{finding} and does not carry the rate"))
        return "not carried"
    if misses:
        sizes = ", ".join(f"{bracket.size_value:g}" for bracket, _ in misses)
        message = f"{finding} at the other sizes; the best rate at size {sizes} is not known"
        reasons.append(Note("sizes_unknown", message))
        return "undetermined"
    if not low <= 0 <= high:
        price = f"this costs the largest size only {known[0]:.1%} of its loss"
        reasons.append(Note("rule_costs_little", f"{finding}, but {price}"))
        return "carried"
    if (high - low) / 2 > _WIDE:
        reasons.append(Note("slope_unclear", f"{finding}; the interval is too wide to decide"))
        return "undetermined"
    reasons.append(Note("rule_holds", f"{finding}; the interval includes zero"))
    return "carried"


def _costs(
    inside: Sequence[Bracket],
    brackets: Sequence[Bracket],
    shapes: Mapping[str, Mapping[float, float]],
    own: str,
) -> tuple[Cost, ...]:
    """Cost of each rule at the largest size if the rate is tuned at the smallest bracketed size."""
    if len(inside) < 2 or inside[-1] is not brackets[-1]:
        return ()
    small, large = inside[0], inside[-1]
    assert small.factor is not None
    assert large.factor is not None
    assert large.rate is not None
    assert large.loss is not None
    assert large.curvature is not None
    base = large.rate / large.factor

    def moved(rule: str) -> float:
        return math.log(shapes[rule][large.size_value] / shapes[rule][small.size_value])

    costs = []
    for rule in shapes:
        at = math.log(small.factor) + moved(rule) - moved(own)
        excess, is_beyond = excess_at(
            large.rates, math.log(large.factor), large.curvature, large.loss, at
        )
        costs.append(Cost(rule, base * math.exp(at), excess, is_beyond, rule == own))
    return tuple(sorted(costs, key=lambda cost: (not cost.is_own, cost.excess or 0.0)))
