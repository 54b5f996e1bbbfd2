"""Whether a learning rate carries from size to size: a parabola in log rate at each size.

Near its minimum, log loss is a parabola in the log of the learning rate. Its vertex is the best
rate of a size; how the vertex moves with the size, beyond what the recipe's rule does already, is
the slope that is asked for: zero where the rule carries the rate. The loss is lop-sided (rates
that are too large cost more), so only points within 10 % of the best and its neighbours are fitted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from flops_fit.points import Interval, Note

_NEAR = 0.10
"""Points whose log loss lies within this of the best are part of the parabola."""

_USUAL_NOISE = 0.003
"""Standard deviation of log loss where the points are too few to show their own."""

_WIDE = 0.5
"""A slope known no better than this cannot tell a rule by width from one by its square root."""

_CHEAP = 0.01
"""A rule that costs less than this share of the loss is as good as the noise lets it be."""

Status = Literal["interior", "edge", "flat", "too_few"]
Verdict = Literal["carried", "not carried", "undetermined"]


@dataclass(frozen=True)
class RatePoint:
    """One trial of the study.

    Attributes:
        size_value, params, tokens: what was trained, and on how much data.
        factor: the learning rate over that of the recipe.
        rate: the peak learning rate itself, of weight matrices.
        loss: mean held-out loss, nats per unit; None where the trial diverged.
    """

    size_value: float
    params: float
    tokens: float
    factor: float
    rate: float
    seed: int
    loss: float | None


@dataclass(frozen=True)
class Bracket:
    """What the rates at one size say.

    Attributes:
        rates: (factor, rate, mean loss or None where every seed diverged, seeds), ascending.
        status: `interior`: a minimum with rates on both sides; `edge`: the best rate is the first
            or last that did not diverge; `flat`: no curvature beyond the noise; `too_few`.
        reason: what is wrong, for people; empty for `interior`.
        factor, rate, loss: at the vertex; None unless `interior`.
        factor_interval, rate_interval: 95 %.
        curvature: d2 ln(loss) / d ln(rate)2, halved: the excess is curvature * distance^2.
        recipe_excess: how far the loss at factor 1 lies above the vertex, as a share of it.
        log_error: standard error of ln(factor).
    """

    size_value: float
    params: float
    tokens: float
    rates: tuple[tuple[float, float, float | None, int], ...]
    status: Status
    reason: str = ""
    factor: float | None = None
    rate: float | None = None
    loss: float | None = None
    factor_interval: Interval | None = None
    rate_interval: Interval | None = None
    curvature: float | None = None
    recipe_excess: float | None = None
    log_error: float | None = None


@dataclass(frozen=True)
class Slope:
    """d ln(best rate) / d ln(size), with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Cost:
    """What a rule would cost the largest size if the rate were tuned at the smallest.

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
            more; else `undetermined`.
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


@dataclass(frozen=True)
class _Parabola:
    """ln(loss) = bottom + curvature * (x - vertex)^2, x = ln(factor), less each seed's offset."""

    vertex: float
    bottom: float
    curvature: float
    inverse: np.ndarray  # (X'X)^-1 of [x, x^2], shape (2, 2)
    squares: float  # of the residuals
    freedom: int

    def vertex_error(self, noise: float) -> float:
        """Standard error of the vertex, by the delta method."""
        gradient = np.array([-0.5 / self.curvature, -self.vertex / self.curvature])
        return noise * math.sqrt(float(gradient @ self.inverse @ gradient))

    def curvature_error(self, noise: float) -> float:
        """Standard error of the curvature."""
        return noise * math.sqrt(float(self.inverse[1, 1]))


@dataclass(frozen=True)
class _Scale:
    """The noise of log loss, and the quantiles of Student's t for 95 % two-sided and one-sided."""

    noise: float
    two_sided: float
    one_sided: float


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
    fits = {value: _parabola(cell) for value, cell in by_size.items()}
    freedom = sum(fit.freedom for fit in fits.values() if fit)
    squares = math.fsum(fit.squares for fit in fits.values() if fit)
    noise = math.sqrt(squares / freedom) if freedom else _USUAL_NOISE
    # Not by scipy.stats, whose import takes as long as all the fits of a report.
    quantiles = (stdtrit(freedom, p) if freedom else ndtri(p) for p in (0.975, 0.95))
    scale = _Scale(noise, *map(float, quantiles))
    brackets = tuple(_bracket(cell, fits[value], scale) for value, cell in by_size.items())
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
    verdict = _judge(slope, costs, reasons)
    return Transfer(brackets, verdict, tuple(reasons), slope, rate_slope, costs, noise)


def _means(cell: Sequence[RatePoint]) -> dict[float, tuple[float, float | None, int]]:
    """By factor: rate, mean loss over the seeds that did not diverge (None if all), seeds."""
    by_factor: dict[float, list[RatePoint]] = defaultdict(list)
    for point in cell:
        by_factor[point.factor].append(point)
    means = {}
    for factor, several in by_factor.items():
        logs = [math.log(p.loss) for p in several if p.loss is not None]
        mean = math.exp(math.fsum(logs) / len(logs)) if len(logs) == len(several) else None
        means[factor] = (several[0].rate, mean, len(several))
    return means


def _parabola(cell: Sequence[RatePoint]) -> _Parabola | None:
    """The parabola through the points near the best; None where there are too few."""
    finite = {
        factor: math.log(loss) for factor, (_, loss, _) in _means(cell).items() if loss is not None
    }
    if len(finite) < 3:
        return None
    factors = sorted(finite)
    best = factors.index(min(finite, key=lambda factor: finite[factor]))
    low = high = min(max(best, 1), len(factors) - 2)
    low, high = low - 1, high + 1
    floor = finite[factors[best]] + _NEAR
    while low > 0 and finite[factors[low - 1]] <= floor:
        low -= 1
    while high < len(factors) - 1 and finite[factors[high + 1]] <= floor:
        high += 1
    used = set(factors[low : high + 1])
    near = [p for p in cell if p.factor in used and p.loss is not None]
    seeds = sorted({p.seed for p in near})
    x = np.log([p.factor for p in near])
    y = np.log([p.loss for p in near])  # type: ignore[arg-type]
    offsets = np.array([[p.seed == seed for seed in seeds] for p in near], dtype=float)
    design = np.column_stack([offsets, x, x**2])
    inverse = np.linalg.pinv(design.T @ design)
    found = inverse @ design.T @ y
    linear, curvature = float(found[-2]), float(found[-1])
    if curvature <= 0:
        curvature = math.nan
    vertex = -linear / (2 * curvature)
    bottom = float(found[: len(seeds)].mean()) - linear**2 / (4 * curvature)
    return _Parabola(
        vertex, bottom, curvature, inverse[-2:, -2:], float(((design @ found - y) ** 2).sum()),
        max(0, len(near) - len(seeds) - 2),
    )  # fmt: skip


def _bracket(cell: Sequence[RatePoint], fit: _Parabola | None, scale: _Scale) -> Bracket:
    """The best rate at one size, or why it is not known."""
    means = _means(cell)
    first = cell[0]
    rates = tuple((factor, *means[factor]) for factor in sorted(means))
    finite = [(factor, loss) for factor, _, loss, _ in rates if loss is not None]

    def without(status: Status, reason: str) -> Bracket:
        return Bracket(first.size_value, first.params, first.tokens, rates, status, reason)

    if fit is None:
        return without("too_few", f"{len(finite)} rates did not diverge: three are needed")
    best = min(finite, key=lambda pair: pair[1])[0]
    low, high = finite[0][0], finite[-1][0]
    if best in (low, high):
        side, way = ("smallest", "smaller") if best == low else ("largest", "larger")
        diverged = way == "larger" and high != rates[-1][0]
        more = "the next one diverged" if diverged else f"add {way} ones"
        return without("edge", f"the {side} rate is the best: {more}")
    is_curved = fit.curvature > scale.one_sided * fit.curvature_error(scale.noise)
    if not is_curved or not math.log(low) < fit.vertex < math.log(high):
        return without("flat", "the loss does not curve beyond its noise: add seeds or rates")
    error = fit.vertex_error(scale.noise)
    factor, base = math.exp(fit.vertex), first.rate / first.factor
    reach = math.exp(scale.two_sided * error)
    interval = (factor / reach, factor * reach)
    bottom = math.exp(fit.bottom)
    plain = means.get(1.0, (0.0, None, 0))[1]
    return Bracket(
        first.size_value, first.params, first.tokens, rates, "interior",
        factor=factor,
        rate=factor * base,
        loss=bottom,
        factor_interval=interval,
        rate_interval=(interval[0] * base, interval[1] * base),
        curvature=fit.curvature,
        recipe_excess=None if plain is None else _excess(rates, fit.vertex, fit.curvature,
                                                        bottom, 0.0)[0],
        log_error=error,
    )  # fmt: skip


def _excess(
    rates: Sequence[tuple[float, float, float | None, int]],
    vertex: float,
    curvature: float,
    bottom: float,
    at: float,
) -> tuple[float | None, bool]:
    """(loss at ln(factor) = `at` above the best as a share of it, whether the grid ends before).

    On the parabola near the vertex; further out between the measured losses, never below the
    parabola's bottom.
    """
    known = [(math.log(f), math.log(loss)) for f, _, loss, _ in rates if loss is not None]
    xs, ys = zip(*known, strict=True)
    on_parabola = curvature * (at - vertex) ** 2
    if on_parabola <= _NEAR and xs[0] <= at <= xs[-1]:
        return math.expm1(on_parabola), False
    is_beyond = not xs[0] <= at <= xs[-1]
    measured = float(np.interp(at, xs, ys)) - math.log(bottom)
    return math.expm1(max(measured, 0.0)), is_beyond


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


def _judge(slope: Slope | None, costs: Sequence[Cost], reasons: list[Note]) -> Verdict:
    """The verdict, with its reason added."""
    if slope is None:
        reasons.append(Note("too_few_optima", "fewer than two sizes have a bracketed best rate"))
        return "undetermined"
    low, high = slope.interval
    told = f"size^{slope.value:+.2f} [{low:+.2f}, {high:+.2f}] is left over by the rule"
    known = [c.excess for c in costs if c.is_own and not c.is_beyond and c.excess is not None]
    if not low <= 0 <= high and known and known[0] < _CHEAP:
        price = f"it costs the largest size {known[0]:.1%} of its loss"
        reasons.append(Note("rule_costs_little", f"{told}, but {price}"))
        return "carried"
    if not low <= 0 <= high:
        reasons.append(Note("rule_fails", f"{told}: it does not carry the rate"))
        return "not carried"
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
        excess, is_beyond = _excess(
            large.rates, math.log(large.factor), large.curvature, large.loss, at
        )
        costs.append(Cost(rule, base * math.exp(at), excess, is_beyond, rule == own))
    return tuple(sorted(costs, key=lambda cost: (not cost.is_own, cost.excess or 0.0)))
