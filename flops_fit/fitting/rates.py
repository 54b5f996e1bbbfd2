"""Estimate of the best learning rate at one size, by a parabola of log loss in log rate.

Near its minimum, log loss is a parabola in the logarithm of the learning rate; the vertex is the
best rate. The loss is asymmetric (rates that are too large cost more). Therefore the fit uses only
the best rate, its neighbours, and rates whose loss is within 10 % of the best.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flops_fit.fitting.points import Interval

_NEAR = 0.10
"""Largest log loss above the best for points in the parabola."""

Status = Literal["interior", "edge", "flat", "too_few"]


@dataclass(frozen=True)
class RatePoint:
    """A trial of a learning-rate study.

    Attributes:
        size_value, params, tokens: size of the model and of its training data.
        factor: learning rate divided by that of the recipe.
        rate: peak learning rate of the weight matrices.
        seed: random seed of the trial.
        loss: held-out loss at the end, nats per unit; None if the trial diverged.
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
    """Best learning rate at one size, or the reason why it is unknown.

    Attributes:
        size_value, params, tokens: size of the model and of its training data.
        rates: (factor, rate, geometric mean loss, number of seeds) in ascending order; the loss is
            None if a seed diverged.
        status: `interior`: the minimum has rates on both sides; `edge`: the best rate is the
            smallest or largest that did not diverge; `flat`: the curvature is within the noise;
            `too_few`: fewer than 3 rates have a loss.
        reason: explanation of the status; empty for `interior`.
        factor, rate, loss: values at the vertex; None unless `interior`.
        factor_interval, rate_interval: 95 % intervals.
        curvature: half of d2 ln(loss) / d ln(rate)2; ln(loss) exceeds its minimum by
            curvature * distance^2.
        recipe_excess: (loss at factor 1 - loss at the vertex) / loss at the vertex.
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
class Parabola:
    """Parabola ln(loss) = bottom + curvature * (ln(factor) - vertex)^2, averaged over seeds."""

    vertex: float
    bottom: float
    curvature: float
    inverse: np.ndarray  # (X'X)^-1 of [x, x^2], shape (2, 2)
    squares: float  # sum of squared residuals
    freedom: int

    def vertex_error(self, noise: float) -> float:
        """Return the standard error of the vertex, by the delta method."""
        gradient = np.array([-0.5 / self.curvature, -self.vertex / self.curvature])
        return noise * math.sqrt(float(gradient @ self.inverse @ gradient))

    def curvature_error(self, noise: float) -> float:
        """Return the standard error of the curvature."""
        return noise * math.sqrt(float(self.inverse[1, 1]))


@dataclass(frozen=True)
class Scale:
    """Noise of log loss, with quantiles of Student's t for two-sided and one-sided 95 % tests."""

    noise: float
    two_sided: float
    one_sided: float


def _means(cell: Sequence[RatePoint]) -> dict[float, tuple[float, float | None, int]]:
    """Return by factor: rate, geometric mean loss (None if a seed diverged), number of seeds."""
    by_factor: dict[float, list[RatePoint]] = defaultdict(list)
    for point in cell:
        by_factor[point.factor].append(point)
    means = {}
    for factor, several in by_factor.items():
        logs = [math.log(p.loss) for p in several if p.loss is not None]
        mean = math.exp(math.fsum(logs) / len(logs)) if len(logs) == len(several) else None
        means[factor] = (several[0].rate, mean, len(several))
    return means


def fit_parabola(cell: Sequence[RatePoint]) -> Parabola | None:
    """Fit a parabola to the points near the best; return None for fewer than 3 rates.

    Args:
        cell: the trials of one size.
    """
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
    return Parabola(
        vertex, bottom, curvature, inverse[-2:, -2:], float(((design @ found - y) ** 2).sum()),
        max(0, len(near) - len(seeds) - 2),
    )  # fmt: skip


def find_bracket(cell: Sequence[RatePoint], fit: Parabola | None, scale: Scale) -> Bracket:
    """Return the best rate at one size, or the reason why it is unknown.

    Args:
        cell: the trials of this size.
        fit: the parabola of these trials; None if they are too few.
        scale: the noise, estimated from all sizes together.
    """
    means = _means(cell)
    first = cell[0]
    rates = tuple((factor, *means[factor]) for factor in sorted(means))
    finite = [(factor, loss) for factor, _, loss, _ in rates if loss is not None]

    def without(status: Status, reason: str) -> Bracket:
        return Bracket(first.size_value, first.params, first.tokens, rates, status, reason)

    if fit is None:
        found = f"{len(finite)} of {len(rates)} rates gave a loss"
        return without("too_few", f"{found}; three are needed")
    best = min(finite, key=lambda pair: pair[1])[0]
    low, high = finite[0][0], finite[-1][0]
    if best in (low, high):
        side, way = ("smallest", "smaller") if best == low else ("largest", "larger")
        diverged = way == "larger" and high != rates[-1][0]
        more = "the next one diverged" if diverged else f"add {way} rates"
        return without("edge", f"the {side} rate is the best; {more}")
    is_curved = fit.curvature > scale.one_sided * fit.curvature_error(scale.noise)
    if not is_curved or not math.log(low) < fit.vertex < math.log(high):
        return without("flat", "the curvature of the loss is within its noise; add seeds or rates")
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
        recipe_excess=None if plain is None else excess_at(rates, fit.vertex, fit.curvature,
                                                        bottom, 0.0)[0],
        log_error=error,
    )  # fmt: skip


def excess_at(
    rates: Sequence[tuple[float, float, float | None, int]],
    vertex: float,
    curvature: float,
    bottom: float,
    at: float,
) -> tuple[float | None, bool]:
    """Return (relative excess of the loss at ln(factor) = `at`, whether `at` is outside the grid).

    The excess follows the parabola near the vertex. Further out it is interpolated between the
    measured losses, and it is never negative.
    """
    known = [(math.log(f), math.log(loss)) for f, _, loss, _ in rates if loss is not None]
    xs, ys = zip(*known, strict=True)
    on_parabola = curvature * (at - vertex) ** 2
    if on_parabola <= _NEAR and xs[0] <= at <= xs[-1]:
        return math.expm1(on_parabola), False
    is_beyond = not xs[0] <= at <= xs[-1]
    measured = float(np.interp(at, xs, ys)) - math.log(bottom)
    return math.expm1(max(measured, 0.0)), is_beyond
