"""Whether a learning rate carries from size to size.

How the best rate (`rates.py`) moves with the size, beyond what the recipe's rule does already, is
the slope that is asked for: zero where the rule carries the rate.
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
"""Standard deviation of log loss where the points are too few to show their own."""

_WIDE = 0.5
"""A slope known no better than this cannot tell a rule by width from one by its square root."""

_CHEAP = 0.01
"""A rule that costs less than this share of the loss is as good as the noise lets it be."""

Verdict = Literal["carried", "not carried", "undetermined"]


@dataclass(frozen=True)
class Slope:
    """d ln(best rate) / d ln(size), with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Cost:
    """What a rule would cost the largest size if the rate were tuned at the smallest bracketed one.

    Attributes:
        rule: its name.
        rate: what it carries to the largest size.
        excess: the loss there above the best, as a share of it; None where it cannot be said.
        is_beyond: the rate lies outside the grid: the excess is that at its end, and more.
        is_own: it is the manifest's rule.
    """

    rule: str
    rate: float
    excess: float | None
    is_beyond: bool
    is_own: bool


@dataclass(frozen=True)
class Transfer:
    """What the study says.

    Attributes:
        verdict: `carried`: the slope of the best factor has zero in its interval, and the interval
            is narrower than half a power of the size to each side; or what is left over costs the
            largest size less than 1 % of its loss. `not carried`: zero lies outside, and it costs
            more; or at a size whose best rate is not bracketed the rate of the others diverged, or
            costs 1 % of the loss at least. Else `undetermined`, as it is where the best rate of the
            largest size is not known, or that of another lies at the end of its grid.
        reasons: why, in sentences with codes.
        slope: of the best factor: what the rule leaves over.
        rate_slope: of the best rate itself.
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
    """Find the best rate at each size, and say whether the rule `own` carries it.

    Args:
        points: the trials, at two sizes or more; several seeds a rate may be given.
        shapes: by rule and size value, the rate up to a factor of the rule's own.
        own: the manifest's rule, one of `shapes`.
    """
    by_size: dict[float, list[RatePoint]] = defaultdict(list)
    for point in sorted(points, key=lambda p: (p.params, p.factor, p.seed)):
        by_size[point.size_value].append(point)
    fits = {value: fit_parabola(cell) for value, cell in by_size.items()}
    freedom = sum(fit.freedom for fit in fits.values() if fit)
    squares = math.fsum(fit.squares for fit in fits.values() if fit)
    noise = math.sqrt(squares / freedom) if freedom else _USUAL_NOISE
    # Not by scipy.stats, whose import takes as long as all the fits of a report.
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
            Note("noise_assumed", f"too few rates to see the noise: {noise:.1%} was assumed")
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
    """D ln(value) / d ln(size) over the sizes with an optimum, weighted by their errors.

    Where three or more sizes scatter about the line by more than their errors, the error grows.
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
    scatter = float((weights * (y - level - value * (x - centre)) ** 2).sum())
    grown = math.sqrt(max(1.0, scatter / (len(inside) - 2))) if len(inside) > 2 else 1.0
    half = quantile * grown / math.sqrt(spread)
    return Slope(value, (value - half, value + half))


def _common_factor(inside: Sequence[Bracket], quantile: float) -> Interval | None:
    """The 95 % interval of ln(factor), taken to be the same at every bracketed size."""
    if not inside:
        return None
    x = np.log([bracket.factor for bracket in inside if bracket.factor is not None])
    weights = 1 / np.array([max(bracket.log_error or 0.0, 1e-9) for bracket in inside]) ** 2
    level = float(np.average(x, weights=weights))
    scatter = float((weights * (x - level) ** 2).sum())
    grown = math.sqrt(max(1.0, scatter / (len(inside) - 1))) if len(inside) > 1 else 1.0
    half = quantile * grown / math.sqrt(float(weights.sum()))
    return level - half, level + half


def _least_excess(bracket: Bracket, carried: Interval | None, scale: Scale) -> float:
    """What the carried factor costs at least at a size without an optimum, as a share of its loss.

    A loss with one minimum only rises away from the best measured rate, so that the rates passed on
    the way to the carried factor bound its loss from below: infinite where one of them diverged, 0
    where they rise no further than the noise. Where every rate diverged, so does any above the
    smallest of them.
    """
    if carried is None:
        return 0.0
    known = [(loss, math.log(factor)) for factor, _, loss, _ in bracket.rates if loss is not None]
    if not known:
        smallest = bracket.rates[0][0]
        return math.inf if carried[0] >= math.log(smallest) else 0.0
    least, best = min(known)
    end = min(max(best, carried[0]), carried[1])  # the nearest that the factor may be
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
    """The verdict, with its reason added.

    Args:
        slope: through the sizes with an optimum.
        costs: of the rules at the largest size; empty where it has no optimum.
        reasons: what was found so far.
        misses: the sizes whose best rate may be anywhere beyond their grid, and what the factor
            carried from the others costs there at least.
    """
    worst, least = max(misses, key=lambda miss: miss[1], default=(None, 0.0))
    if worst is not None and least >= _CHEAP:
        told = f"costs size {worst.size_value:g} at least {least:.1%} of its loss"
        if math.isinf(least):
            told = f"reaches at size {worst.size_value:g} where training diverges"
            if all(loss is None for _, _, loss, _ in worst.rates):
                told += f", as it did at every rate tried there, from {worst.rates[0][1]:.3g} up"
        reasons.append(Note("rule_misses", f"the rate carried from the bracketed sizes {told}"))
        return "not carried"
    if slope is None:
        reasons.append(Note("too_few_optima", "fewer than two sizes have a bracketed best rate"))
        return "undetermined"
    low, high = slope.interval
    told = f"size^{slope.value:+.2f} [{low:+.2f}, {high:+.2f}] is left over by the rule"
    known = [c.excess for c in costs if c.is_own and not c.is_beyond and c.excess is not None]
    is_cheap = bool(known) and known[0] < _CHEAP
    if not low <= 0 <= high and not is_cheap:
        reasons.append(Note("rule_fails", f"{told}: it does not carry the rate"))
        return "not carried"
    if misses:
        sizes = ", ".join(f"{bracket.size_value:g}" for bracket, _ in misses)
        message = f"{told} elsewhere, but the best rate at size {sizes} is not known"
        reasons.append(Note("sizes_unknown", message))
        return "undetermined"
    if not low <= 0 <= high:
        price = f"it costs the largest size {known[0]:.1%} of its loss"
        reasons.append(Note("rule_costs_little", f"{told}, but {price}"))
        return "carried"
    if (high - low) / 2 > _WIDE:
        reasons.append(Note("slope_unclear", f"{told}: too wide an interval to say"))
        return "undetermined"
    reasons.append(Note("rule_holds", f"{told}: zero lies inside"))
    return "carried"


def _costs(
    inside: Sequence[Bracket],
    brackets: Sequence[Bracket],
    shapes: Mapping[str, Mapping[float, float]],
    own: str,
) -> tuple[Cost, ...]:
    """What each rule costs the largest size, if the rate is tuned at the smallest."""
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
