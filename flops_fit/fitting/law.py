"""L(N, D), its frontier in closed form, and what a fit gives back (Law, Frontier, Fit).

N is the number of parameters, D the number of training tokens (units of data), C the FLOPs, and
C = k(N) D, where k(N) is the FLOPs spent on one token. k is 6 N by default (Kaplan et al. 2020,
arXiv:2001.08361, section 2.1); where FLOPs were counted it is the measured function of N.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Protocol

from flops_fit.errors import FitError, Note
from flops_fit.fitting.details import (
    Details,
    FitStatus,
    Fold,
    IsoflopDetails,
    Minimum,
    Spread,
    SurfaceDetails,
)
from flops_fit.fitting.points import Excluded, Interval, Observation, Optimum

FADE = 2.0
"""In ln N: how far beyond the measured sizes the slope of k(N) / N falls to 1/e of itself."""

_MOST_LOG = 200.0
"""Laws are not evaluated at sizes beyond e^200, or below e^-200."""

_STEEPEST = 1.0
"""The ratio of FLOPs to params goes on beyond the measured sizes with no larger power of params."""

_ROUNDING = 1e-6  # FLOPs that differ from 6 N D by less are 6 N D


@dataclass(frozen=True)
class FlopsPerToken:
    """k(N): the FLOPs of one token as a function of params, through measured sizes.

    ln(k / N) is a cubic in ln N between two knots, with the slopes of the parabolas through each
    three neighbours, so that an optimum does not stick to a kink. Beyond the end knots the ratio of
    FLOPs to params goes on with their slope, which fades as exp(-|ln N - ln N_end| / 2): at a fixed
    depth, what embeddings and attention add to 6 N falls as N^(-1/2). No knots: 6 N.
    """

    params: tuple[float, ...] = ()
    flops: tuple[float, ...] = ()

    @classmethod
    def through(cls, observations: Sequence[Observation]) -> FlopsPerToken:
        """The function that passes through the (params, flops / tokens) of finished trials.

        Observations of one size are averaged geometrically, so it goes through one point a size.
        Where the given FLOPs are no function of params (nominal budgets, rounded counts), the
        points zigzag by more than 2 %, and one typical ratio of FLOPs to params serves for all.
        """
        if all(abs(o.flops / (6 * o.params * o.tokens) - 1) < _ROUNDING for o in observations):
            return cls()  # as below, at a tenth of the time for a table of 100,000
        by_params: dict[float, list[float]] = {}
        for seen in observations:
            by_params.setdefault(seen.params, []).append(math.log(seen.flops / seen.tokens))
        params = tuple(sorted(by_params))
        flops = tuple(math.exp(sum(by_params[n]) / len(by_params[n])) for n in params)
        if all(abs(k / (6 * n) - 1) < _ROUNDING for n, k in zip(params, flops, strict=True)):
            return cls()
        if _is_ragged(params, flops):
            ratios = sorted(k / n for n, k in zip(params, flops, strict=True))
            return cls(params[:1], (ratios[len(ratios) // 2] * params[0],))
        return cls(params, flops)

    def __call__(self, params: float) -> float:
        """FLOPs that a model of `params` spends on one token, forward and backward."""
        if not self.params:
            return 6.0 * params
        x, ratio, slopes = self.log_knots
        log_params = math.log(params)
        if log_params <= x[0] or log_params >= x[-1]:
            last = 0 if log_params <= x[0] else -1
            beyond = log_params - x[last]
            faded = FADE * math.copysign(1 - math.exp(-abs(beyond) / FADE), beyond)
            return math.exp(log_params + ratio[last] + slopes[last] * faded)
        right = bisect_right(self.params, params)
        left, width = right - 1, x[right] - x[right - 1]
        t = (log_params - x[left]) / width
        rise = ratio[right] - ratio[left]
        start, end = slopes[left] * width - rise, rise - slopes[right] * width
        bent = t * (1 - t) * ((1 - t) * start + t * end)
        return math.exp(log_params + ratio[left] + t * rise + bent)

    @cached_property
    def log_knots(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """The knots' ln N, their ln(k / N), and the slopes of the latter over the former."""
        x = tuple(math.log(n) for n in self.params)
        ratio = tuple(math.log(k) - log_n for k, log_n in zip(self.flops, x, strict=True))
        widths = [b - a for a, b in pairwise(x)]
        rises = [(b - a) / w for (a, b), w in zip(pairwise(ratio), widths, strict=True)]
        if not rises:
            return x, ratio, (0.0,) * len(x)
        inner = [
            (rises[i] * widths[i + 1] + rises[i + 1] * widths[i]) / (widths[i] + widths[i + 1])
            for i in range(len(rises) - 1)
        ]
        limited = [
            _limited(slope, left, right)
            for slope, (left, right) in zip(inner, pairwise(rises), strict=True)
        ]
        first, last = (min(max(rise, -_STEEPEST), _STEEPEST) for rise in (rises[0], rises[-1]))
        return x, ratio, (first, *limited, last)


def _limited(slope: float, left: float, right: float) -> float:
    """A knot's slope, small enough that the cubics beside it do not overshoot their ends.

    Source: Hyman 1983 (SIAM J. Sci. Stat. Comput. 4, 645), the filter for monotone interpolation.
    """
    if left * right <= 0:
        return 0.0
    return math.copysign(min(abs(slope), 3 * abs(left), 3 * abs(right)), left)


def _power(base: float, exponent: float) -> float:
    """Base to the exponent, infinite where that is more than a float holds."""
    try:
        return float(base**exponent)
    except (OverflowError, ZeroDivisionError):
        return math.inf


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * x^exponent (+ offset, used for losses only)."""

    coefficient: float
    exponent: float
    offset: float = 0.0

    def __call__(self, x: float) -> float:
        """The law's value at x."""
        return float(self.offset + self.coefficient * _power(x, self.exponent))


@dataclass(frozen=True)
class Surface:
    """L(N, D) = E + A / N^alpha + B / D^beta.

    Source: Hoffmann et al. 2022 (arXiv:2203.15556), eq. 2 and 10.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, params: float, tokens: float) -> float:
        """Predicted loss in nats per token at N = `params`, D = `tokens`."""
        size, data = _power(params, -self.alpha), _power(tokens, -self.beta)
        return float(self.E + self.A * size + self.B * data)

    def optimum(self, flops: float) -> Optimum:
        """The allocation of least loss under C = 6 N D, in closed form.

        Source: Hoffmann et al. 2022, eq. 4: N = G (C/6)^a, D = (C/6)^b / G,
        G = (alpha A / (beta B))^(1 / (alpha + beta)), a = beta / (alpha + beta), b = 1 - a.
        """
        params = math.exp(min(max(self.log_params(flops), -_MOST_LOG), _MOST_LOG))
        tokens = flops / 6 / params
        return Optimum(flops, params, tokens, self.loss(params, tokens))

    def log_params(self, flops: float) -> float:
        """The logarithm of the optimum's params, which no law is too odd for."""
        total = self.alpha + self.beta
        log_g = math.log(self.alpha / self.beta) + math.log(self.A) - math.log(self.B)
        return (log_g + self.beta * math.log(flops / 6)) / total


@dataclass(frozen=True)
class GeneralSurface:
    """L(N, D) = E + (A / N^alpha + B / D^beta)^gamma.

    gamma = 1 is the additive surface; E = 0 and beta = 1 is the joint form of Kaplan et al. 2020
    (arXiv:2001.08361), eq. 1.5, with gamma = alpha_D, alpha = alpha_N / alpha_D,
    A = N_c^alpha and B = D_c.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float

    def loss(self, params: float, tokens: float) -> float:
        """Predicted loss at N = `params`, D = `tokens`."""
        inner = self.A * _power(params, -self.alpha) + self.B * _power(tokens, -self.beta)
        return float(self.E + _power(inner, self.gamma))

    def optimum(self, flops: float) -> Optimum:
        """The allocation of least loss under C = 6 N D: that of the sum inside the bracket."""
        inside = Surface(0.0, self.A, self.B, self.alpha, self.beta).optimum(flops)
        return Optimum(flops, inside.params, inside.tokens, self.loss(inside.params, inside.tokens))

    def log_params(self, flops: float) -> float:
        """The logarithm of the optimum's params."""
        return Surface(0.0, self.A, self.B, self.alpha, self.beta).log_params(flops)


class Frontier(Protocol):
    """The compute-optimal curve that a law implies."""

    def optimum(self, flops: float) -> Optimum:
        """The allocation of least loss for a budget of `flops`."""
        ...


@dataclass(frozen=True)
class SurfaceFrontier:
    """The least loss of any L(N, D) along C = k(N) D, found by golden-section search in log N.

    Attributes:
        loss: L(N, D), convex in log N along a budget.
        flops_per_token: k(N).
        start: a guess of the optimum's ln params as a function of flops (closed form under 6 N).
    """

    loss: Callable[[float, float], float]
    flops_per_token: FlopsPerToken
    start: Callable[[float], float]

    def optimum(self, flops: float) -> Optimum:
        """The allocation of least loss for a budget of `flops`."""

        def at(log_params: float) -> float:
            params = math.exp(log_params)
            return self.loss(params, flops / self.flops_per_token(params))

        centre = min(max(self.start(flops), -_MOST_LOG), _MOST_LOG)
        params = math.exp(least_argument(at, centre - 7.0, centre + 7.0))
        tokens = flops / self.flops_per_token(params)
        return Optimum(flops, params, tokens, self.loss(params, tokens))


@dataclass(frozen=True)
class PowerLawFrontier:
    """N_opt = coefficient * C^a, D through the FLOP count, and a loss law in C where there is one.

    D is derived, never fitted, so that N and D satisfy the FLOP count at every budget.
    """

    params: PowerLaw
    flops_per_token: FlopsPerToken
    loss: PowerLaw | None = None

    def optimum(self, flops: float) -> Optimum:
        """The allocation that the power law names for a budget of `flops`."""
        params = min(max(self.params(flops), math.exp(-_MOST_LOG)), math.exp(_MOST_LOG))
        tokens = flops / self.flops_per_token(params)
        return Optimum(flops, params, tokens, None if self.loss is None else self.loss(flops))


@dataclass(frozen=True)
class Fit:
    """A law with its residuals, intervals, status and excluded observations.

    Attributes:
        method: `surface`, `isoflop`, `envelope`, `kaplan`, ...
        status: how the fit ended.
        parameters: by the papers' names (E, A, B, alpha, beta for the surface).
        exponents: {"params": a, "tokens": b}: N_opt ~ C^a, D_opt ~ C^b.
        frontier: the compute-optimal curve.
        objective: the summed loss of the fit at its optimum; None where there is none.
        r_squared: by what was regressed (`params`, `tokens`, `loss`).
        residuals: log(observed loss) - log(fitted), in the order of `used`.
        used, excluded: the observations that went in, and those left out with the reason.
        standard_errors, intervals: by parameter, exponents as `a` and `b`; empty if not asked.
        notes: what a reader must know, each with a code.
        details: what only this kind of method knows; None where there is nothing.
        folds: the back-test that speaks for its predictions; empty where there is none.
        draws: parameter sets that stand for the fit's uncertainty; empty where it has none.
        spread: where the draws come from; None where there are none.
    """

    method: str
    status: FitStatus
    parameters: Mapping[str, float]
    exponents: Mapping[str, float]
    frontier: Frontier
    objective: float | None = None
    r_squared: Mapping[str, float] = field(default_factory=dict)
    residuals: tuple[float, ...] = ()
    used: tuple[Observation, ...] = ()
    excluded: tuple[Excluded, ...] = ()
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    details: Details | None = None
    folds: tuple[Fold, ...] = ()
    draws: tuple[Mapping[str, float], ...] = ()
    spread: Spread | None = None

    @property
    def flops_per_token(self) -> FlopsPerToken:
        """FLOPs of one token by params, as the frontier counts them."""
        if isinstance(self.frontier, SurfaceFrontier | PowerLawFrontier):
            return self.frontier.flops_per_token
        return FlopsPerToken()

    @property
    def minima(self) -> tuple[Minimum, ...]:
        """The loss minimum of each budget; empty for methods without them."""
        return self.details.minima if isinstance(self.details, IsoflopDetails) else ()

    @property
    def window(self) -> float | None:
        """Largest factor from the best size that a parabola uses; None for other methods."""
        return self.details.window if isinstance(self.details, IsoflopDetails) else None

    @property
    def residual_mad(self) -> float | None:
        """Median absolute deviation of a surface's log residuals; None for other methods."""
        return self.details.residual_mad if isinstance(self.details, SurfaceDetails) else None

    def sample(self, n: int, *, seed: int = 0) -> list[Mapping[str, float]]:
        """Draw n parameter sets, each as likely as the observations make it.

        From the bootstrap where one was run, else from the normal approximation at the optimum.

        Raises:
            FitError: the method gives no uncertainty (`no_uncertainty`).
        """
        if not self.draws:
            raise FitError(
                f"the {self.method} fit has no draws of its parameters",
                code="no_uncertainty",
                hint="fit with bootstrap=1000",
            )
        if n == len(self.draws):
            return list(self.draws)
        return random.Random(seed).choices(self.draws, k=n)

    def predict(self, budget_flops: float) -> Optimum:
        """The compute-optimal allocation for a budget of `budget_flops`."""
        return self.frontier.optimum(budget_flops)


def _is_ragged(params: Sequence[float], flops: Sequence[float]) -> bool:
    """Whether log(flops / params) goes up and down with params by more than 2 %, as noise does."""
    if len(params) < 8:
        return False
    x = [math.log(n) for n in params]
    q = [math.log(k / n) for n, k in zip(params, flops, strict=True)]
    turns, misses = 0, []
    for i in range(1, len(x) - 1):
        share = (x[i] - x[i - 1]) / (x[i + 1] - x[i - 1])
        misses.append(abs(q[i] - q[i - 1] - share * (q[i + 1] - q[i - 1])))
        turns += (q[i] - q[i - 1]) * (q[i + 1] - q[i]) < 0
    return turns * 3 > len(misses) and sorted(misses)[len(misses) // 2] > 0.02


def least_argument(f: Callable[[float], float], low: float, high: float) -> float:
    """The argument of the least value of f, unimodal on [low, high], by golden section to 1e-9."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    f_left, f_right = f(left), f(right)
    while high - low > 1e-9:
        if f_left <= f_right:
            high, right, f_right = right, left, f_left
            left = high - ratio * (high - low)
            f_left = f(left)
        else:
            low, left, f_left = left, right, f_right
            right = low + ratio * (high - low)
            f_right = f(right)
    return (low + high) / 2
