"""Laws of loss, their compute-optimal frontiers, and the result of a fit (Law, Frontier, Fit).

N is the number of parameters, D the number of training tokens (units of data), and C the number of
FLOPs. C = k(N) D, where k(N) is the number of FLOPs for one token. By default k is 6 N (Kaplan et
al. 2020, arXiv:2001.08361, section 2.1). If FLOPs were counted, k is the measured function of N.
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
"""Distance in ln N beyond the measured sizes at which the slope of k(N) / N falls to 1/e."""

_MOST_LOG = 200.0
"""Laws are evaluated only at sizes between e^-200 and e^200."""

_STEEPEST = 1.0
"""Largest power of params with which FLOPs / params grows beyond the measured sizes."""

_ROUNDING = 1e-6  # relative difference below which FLOPs count as 6 N D


@dataclass(frozen=True)
class FlopsPerToken:
    """FLOPs of one token as a function of params, k(N), through the measured sizes.

    Between two knots, ln(k / N) is a cubic in ln N. Its slopes are those of the parabolas through
    three neighbours, so that there are no kinks at which optima would collect. Beyond the end
    knots, the slope of ln(k / N) fades as exp(-|ln N - ln N_end| / 2), because at fixed depth the
    share of embeddings and attention falls as N^(-1/2). Without knots, k is 6 N.
    """

    params: tuple[float, ...] = ()
    flops: tuple[float, ...] = ()

    @classmethod
    def through(cls, observations: Sequence[Observation]) -> FlopsPerToken:
        """Return the function through the points (params, flops / tokens) of finished trials.

        Each size has one knot, the geometric mean of its observations. If the points zigzag by
        more than 2 % (nominal budgets or rounded counts), FLOPs are not a function of params; the
        median ratio of FLOPs to params then applies to all sizes.
        """
        if all(abs(o.flops / (6 * o.params * o.tokens) - 1) < _ROUNDING for o in observations):
            return cls()  # shortcut: a tenth of the time for 100,000 observations
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
        """Return FLOPs for one token at this size, forward and backward."""
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
        """Values of ln N and of ln(k / N) at the knots, and the slopes d ln(k / N) / d ln N."""
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
    """Limit the slope at a knot so that the cubics beside it do not overshoot their ends.

    Source: Hyman 1983 (SIAM J. Sci. Stat. Comput. 4, 645), the filter for monotone interpolation.
    """
    if left * right <= 0:
        return 0.0
    return math.copysign(min(abs(slope), 3 * abs(left), 3 * abs(right)), left)


def _power(base: float, exponent: float) -> float:
    """Return base^exponent, or infinity on overflow."""
    try:
        return float(base**exponent)
    except (OverflowError, ZeroDivisionError):
        return math.inf


@dataclass(frozen=True)
class PowerLaw:
    """Power law y = coefficient * x^exponent + offset; only losses have an offset."""

    coefficient: float
    exponent: float
    offset: float = 0.0

    def __call__(self, x: float) -> float:
        """Return the value of the law at x."""
        return float(self.offset + self.coefficient * _power(x, self.exponent))


@dataclass(frozen=True)
class Surface:
    """Additive law of loss, L(N, D) = E + A / N^alpha + B / D^beta.

    Source: Hoffmann et al. 2022 (arXiv:2203.15556), eq. 2 and 10.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, params: float, tokens: float) -> float:
        """Return the predicted loss in nats per token at N = `params`, D = `tokens`."""
        size, data = _power(params, -self.alpha), _power(tokens, -self.beta)
        return float(self.E + self.A * size + self.B * data)

    def optimum(self, flops: float) -> Optimum:
        """Return the allocation of least loss under C = 6 N D, in closed form.

        Source: Hoffmann et al. 2022, eq. 4: N = G (C/6)^a, D = (C/6)^b / G,
        G = (alpha A / (beta B))^(1 / (alpha + beta)), a = beta / (alpha + beta), b = 1 - a.
        """
        params = math.exp(min(max(self.log_params(flops), -_MOST_LOG), _MOST_LOG))
        tokens = flops / 6 / params
        return Optimum(flops, params, tokens, self.loss(params, tokens))

    def log_params(self, flops: float) -> float:
        """Return ln N_opt under C = 6 N D; unlike N_opt it cannot overflow."""
        total = self.alpha + self.beta
        log_g = math.log(self.alpha / self.beta) + math.log(self.A) - math.log(self.B)
        return (log_g + self.beta * math.log(flops / 6)) / total


@dataclass(frozen=True)
class GeneralSurface:
    """General law of loss, L(N, D) = E + (A / N^alpha + B / D^beta)^gamma.

    gamma = 1 gives the additive surface. E = 0 and beta = 1 give the joint form of Kaplan et al.
    2020 (arXiv:2001.08361), eq. 1.5, with gamma = alpha_D, alpha = alpha_N / alpha_D,
    A = N_c^alpha and B = D_c.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float

    def loss(self, params: float, tokens: float) -> float:
        """Return the predicted loss at N = `params`, D = `tokens`."""
        inner = self.A * _power(params, -self.alpha) + self.B * _power(tokens, -self.beta)
        return float(self.E + _power(inner, self.gamma))

    def optimum(self, flops: float) -> Optimum:
        """Return the allocation of least loss under C = 6 N D; gamma does not change it."""
        inside = Surface(0.0, self.A, self.B, self.alpha, self.beta).optimum(flops)
        return Optimum(flops, inside.params, inside.tokens, self.loss(inside.params, inside.tokens))

    def log_params(self, flops: float) -> float:
        """Return ln N_opt under C = 6 N D."""
        return Surface(0.0, self.A, self.B, self.alpha, self.beta).log_params(flops)


class Frontier(Protocol):
    """Compute-optimal curve of a law."""

    def optimum(self, flops: float) -> Optimum:
        """Return the allocation of least loss for a budget of `flops`."""
        ...


@dataclass(frozen=True)
class SurfaceFrontier:
    """Compute-optimal curve of any L(N, D) under C = k(N) D, by golden-section search in log N.

    Attributes:
        loss: L(N, D), convex in log N at fixed compute.
        flops_per_token: k(N).
        start: approximate ln N_opt as a function of FLOPs (closed form for k = 6 N).
    """

    loss: Callable[[float, float], float]
    flops_per_token: FlopsPerToken
    start: Callable[[float], float]

    def optimum(self, flops: float) -> Optimum:
        """Return the allocation of least loss for a budget of `flops`."""

        def at(log_params: float) -> float:
            params = math.exp(log_params)
            return self.loss(params, flops / self.flops_per_token(params))

        centre = min(max(self.start(flops), -_MOST_LOG), _MOST_LOG)
        params = math.exp(least_argument(at, centre - 7.0, centre + 7.0))
        tokens = flops / self.flops_per_token(params)
        return Optimum(flops, params, tokens, self.loss(params, tokens))


@dataclass(frozen=True)
class PowerLawFrontier:
    """Compute-optimal curve N_opt = coefficient * C^a, with an optional law of loss in C.

    D follows from N and k(N), so that C = k(N) D holds at every budget.
    """

    params: PowerLaw
    flops_per_token: FlopsPerToken
    loss: PowerLaw | None = None

    def optimum(self, flops: float) -> Optimum:
        """Return the allocation of the power law for a budget of `flops`."""
        params = min(max(self.params(flops), math.exp(-_MOST_LOG)), math.exp(_MOST_LOG))
        tokens = flops / self.flops_per_token(params)
        return Optimum(flops, params, tokens, None if self.loss is None else self.loss(flops))


@dataclass(frozen=True, repr=False)
class Fit:
    """Fitted law with residuals, intervals, status and excluded observations.

    Attributes:
        method: `surface`, `isoflop`, `envelope`, `kaplan`, ...
        status: how the fit ended.
        parameters: fitted values under the papers' names (surface: E, A, B, alpha, beta).
        exponents: {"params": a, "tokens": b} for N_opt ~ C^a and D_opt ~ C^b.
        frontier: the compute-optimal curve.
        objective: minimum of the fitted objective; None for methods without one.
        r_squared: coefficient of determination by regressed quantity (`params`, `tokens`, `loss`).
        residuals: log(observed loss) - log(fitted loss), in the order of `used`; for isoFLOP fits,
            ln N of each minimum minus the line.
        used, excluded: the fitted observations, and the omitted ones with reasons.
        standard_errors, intervals: by parameter name, with exponents as `a` and `b`; may be empty.
        notes: warnings and remarks, each with a code.
        details: results that only this kind of method has, or None.
        folds: the back-test of the predictions; may be empty.
        draws: parameter sets that represent the uncertainty of the fit; may be empty.
        spread: origin and scale of the draws; None without draws.
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

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={value:.4g}" for name, value in self.parameters.items())
        return f"<Fit by {self.method}: {numbers}; {len(self.used)} runs, {self.status}>"

    def _repr_html_(self) -> str:
        """Return the law as a notebook shows it: each parameter with its 95 % interval."""
        from tabulate import tabulate

        values = {**self.parameters, "a": self.exponents.get("params", math.nan)}
        rows = []
        for name, value in values.items():
            low, high = self.intervals.get(name, (None, None))
            interval = "-" if low is None or high is None else f"{low:.4g} to {high:.4g}"
            rows.append([name, f"{value:.4g}", interval])
        table = tabulate(
            rows, headers=["parameter", "value", "95 %"], tablefmt="html", disable_numparse=True
        )
        return f"<p><b>{self.method}</b>: {len(self.used)} runs, {self.status}</p>\n{table}"

    @property
    def flops_per_token(self) -> FlopsPerToken:
        """FLOPs of one token as a function of params, as in the frontier."""
        if isinstance(self.frontier, SurfaceFrontier | PowerLawFrontier):
            return self.frontier.flops_per_token
        return FlopsPerToken()

    @property
    def minima(self) -> tuple[Minimum, ...]:
        """The loss minimum of each budget; empty for methods without them."""
        return self.details.minima if isinstance(self.details, IsoflopDetails) else ()

    @property
    def window(self) -> float | None:
        """Largest ratio of a fitted size to the best size; None for methods without parabolas."""
        return self.details.window if isinstance(self.details, IsoflopDetails) else None

    @property
    def residual_mad(self) -> float | None:
        """Median absolute deviation of a surface's log residuals; None for other methods."""
        return self.details.residual_mad if isinstance(self.details, SurfaceDetails) else None

    def sample(self, n: int, *, seed: int = 0) -> list[Mapping[str, float]]:
        """Draw n parameter sets from the uncertainty of the fit.

        They come from the bootstrap if one was run, else from the normal approximation.

        Raises:
            FitError: the fit has no draws (`no_uncertainty`).
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
        """Return the compute-optimal allocation for a budget of `budget_flops`."""
        return self.frontier.optimum(budget_flops)


def _is_ragged(params: Sequence[float], flops: Sequence[float]) -> bool:
    """Return whether log(flops / params) zigzags with params by more than 2 %."""
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
    """Return the minimiser of a unimodal f on [low, high], by golden section to within 1e-9."""
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
