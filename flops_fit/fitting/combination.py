"""The headline answer: methods combined by how well each predicted this table's own budgets.

Each fold fits every method to the lowest budgets and holds it against the minimum of a larger
budget's isoFLOP curve: the error of ln loss and the error of ln N. Where there is no such minimum,
the mean error of the losses of a level of compute stands in, and errors of N are not known.

A method's standard error at a distance is its prior's, scaled by what the folds showed:

    s_m^2(d) = s_prior,m^2(d) * (n0 + sum w_k e_k^2 / s_prior,m^2(d_k)) / (n0 + sum w_k)

with n0 = 3, so that few folds leave the prior as it is (n0 = 20 for the weights in ln N, since the
vertex of one parabola is a noisy test). Weights in ln loss are 1 / s_m^6. Weights in ln N are
1 / (s_m^2 + n_m^2)^4, where n_m is the standard error that the noise of the runs gives the method's
ln N: the best sizes of one table disagree by far more than its losses do. Both vary smoothly with
the distance d (decades beyond the largest run). Tokens follow from the FLOP count. The combination
is tested in the same way, each fold with the weights that only the folds before it give; its errors
make the model's share of the intervals.

The priors are typical errors of each method on published isoFLOP sweeps, see docs/fitting.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from flops_fit.errors import FitError
from flops_fit.fitting.backtest import BackTest
from flops_fit.fitting.curves import group_curves
from flops_fit.fitting.details import CombinationDetails, FitStatus, Minimum, OwnError
from flops_fit.fitting.general import general_frontier, solve_general
from flops_fit.fitting.isoflop import find_minima, fit_isoflop
from flops_fit.fitting.law import Fit, FlopsPerToken, Frontier
from flops_fit.fitting.points import Interval, Observation, Optimum
from flops_fit.fitting.robust import mad_sigma
from flops_fit.fitting.solver.search import log_residuals
from flops_fit.fitting.surface import surface_frontier

METHOD = "combination"
MEMBERS = ("isoflop", "extrapolation", "general", "surface")

_PRIOR_FOLDS = 3.0
"""How many folds a prior counts for."""

_PRIOR_FOLDS_OF_PARAMS = 20.0
"""The same for the weights in ln N: the vertex of one parabola shows little of a method's error."""

_PRIOR_FREEDOM = 4.0
"""Degrees of freedom that the priors add to the folds': they rest on several published sweeps."""

_POWER = 6.0
"""Weights in ln loss are standard errors to the minus this."""

_POWER_OF_PARAMS = 8.0
"""Weights in ln N are standard errors to the minus this."""

_MOST = 200.0
"""A fold's squared error counts at most this many times the prior's variance."""

_RECENT = 0.8
"""The weight of a fold relative to one that tests the next level above."""

_MUCH_NOISE = 10.0
"""A member whose noise is over this many times its expected error counts by its noise."""

_OWN_MOST = 16.0
_OWN_RECENT = 0.55
"""The same two for the combination's own errors, which make the intervals."""

_NEAR_DECADES = 1.35
"""Folds are tested up to this distance."""

_MOST_FOLDS = 6
"""The folds with the most levels; earlier ones say little about the largest budgets."""

_ENOUGH_LEVELS = 5
"""With fewer levels of compute the prior of the combination's error grows."""

_LOWEST = 5
"""A member's optimum is held against this many of the lowest observed losses, at their compute."""

_LEAST_ROOM = 0.01
"""A loss below a member's optimum by more than this, and three residuals, speaks against it."""

_MIN_SIZES = 5
"""Sizes of an isoFLOP curve whose minimum a fold is held against."""


def _few(levels: int) -> float:
    """Return the factor by which few levels of compute increase the expected errors."""
    return max(1.0, _ENOUGH_LEVELS / max(levels, 1))


@dataclass(frozen=True)
class Growth:
    """A standard error that grows with the distance beyond the data.

    Attributes:
        near: at the largest run.
        per_decade: added in squares for each decade of compute beyond it.
        inside: the same for each decade below it, for a law that is fitted to the largest runs.
    """

    near: float
    per_decade: float
    inside: float = 0.0

    def __call__(self, decades: float) -> float:
        """Return the standard error at a distance in decades, negative within the data."""
        rate = self.per_decade if decades > 0 else self.inside
        return math.hypot(self.near, rate * decades)


LOSS_PRIORS: Mapping[str, Growth] = {
    "isoflop": Growth(0.0010, 0.0080),
    "extrapolation": Growth(0.0030, 0.0130, inside=0.02),
    "general": Growth(0.0015, 0.0100),
    "surface": Growth(0.0040, 0.0180),
}
"""Standard errors of ln loss at the optimum, by method."""

PARAMS_PRIORS: Mapping[str, Growth] = {
    "isoflop": Growth(0.07, 0.21),
    "extrapolation": Growth(0.08, 0.11, inside=0.25),
    "general": Growth(0.14, 0.28),
    "surface": Growth(0.14, 0.30),
}
"""Standard errors of ln N at the optimum, by method."""

OWN_LOSS_PRIOR = Growth(0.0013, 0.0070)
OWN_PARAMS_PRIOR = Growth(0.06, 0.15)
"""The same for the combination."""


@dataclass(frozen=True)
class Miss:
    """The errors of one fold at one larger budget.

    Attributes:
        cut: how many levels of compute were fitted.
        level: the level that was predicted, counted from 0.
        flops: its compute.
        decades: distance beyond the largest run that was fitted.
        loss: error of ln loss, observed less predicted, by method.
        params: error of ln N by method; empty where the level shows no minimum.
        params_noise: standard error of the observed ln N.
    """

    cut: int
    level: int
    flops: float
    decades: float
    loss: Mapping[str, float]
    params: Mapping[str, float] = field(default_factory=dict)
    params_noise: float = 0.0


@dataclass(frozen=True)
class Scale:
    """The ratio of the folds' errors to a prior.

    Attributes:
        ratio: variance of the errors over the prior's, shrunk to 1.
        folds: weight of the folds behind it, the prior's own included.
    """

    ratio: float = 1.0
    folds: float = _PRIOR_FOLDS

    @classmethod
    def of(
        cls,
        misses: Sequence[Miss],
        cut: int,
        errors: Sequence[float | None],
        prior: Growth,
        noises: Sequence[float],
        *,
        most: float = _MOST,
        recent: float = _RECENT,
        folds: float = _PRIOR_FOLDS,
    ) -> Scale:
        """Return a method's scale from the errors of these folds, as known at a later `cut`."""
        total = weight = folds
        for miss, error, noise in zip(misses, errors, noises, strict=True):
            if error is None:
                continue
            share = recent ** (cut - 1 - miss.level) / (1 + 0.5 * (miss.level - miss.cut))
            expected = (_few(miss.cut) * prior(miss.decades)) ** 2 + noise**2
            total += share * min(error**2 / expected, most)
            weight += share
        return cls(total / weight, weight)


@dataclass(frozen=True)
class NoiseAt:
    """Standard errors that the noise of the runs gives the members' answers at one budget.

    Attributes:
        log_flops: natural logarithm of the budget.
        params: of ln N, by method.
        loss: of ln loss, by method.
    """

    log_flops: float
    params: Mapping[str, float]
    loss: Mapping[str, float]

    @classmethod
    def of(cls, flops: float, optima: Mapping[str, Optimum]) -> NoiseAt:
        """Return the noise of these optima; members without known noise are absent."""
        parts = {method: optimum.parts for method, optimum in optima.items()}
        return cls(
            math.log(flops),
            {m: p["params_noise"] for m, p in parts.items() if "params_noise" in p},
            {m: p["loss_noise"] for m, p in parts.items() if "loss_noise" in p},
        )


@dataclass(frozen=True)
class Combination:
    """The combined answer at any budget.

    Attributes:
        frontiers: of the member methods.
        top_flops: the largest observed compute.
        levels: how many levels of compute were observed.
        count: FLOPs per token by params.
        misses: the folds that the weights and the intervals come from.
        residual: standard deviation of a single run's ln loss about the surface.
        noise: the members' noise at some budgets, by rising compute.
        lowest: FLOPs and loss of the runs with the lowest losses.
    """

    frontiers: Mapping[str, Frontier]
    top_flops: float
    levels: int
    count: FlopsPerToken
    misses: tuple[Miss, ...] = ()
    residual: float = 0.0
    noise: tuple[NoiseAt, ...] = ()
    lowest: tuple[tuple[float, float], ...] = ()

    @cached_property
    def loss_scales(self) -> dict[str, Scale]:
        """Each method's errors of ln loss relative to its prior."""
        return {m: self._loss_scale(m, self.misses, self._last_cut) for m in self.frontiers}

    @cached_property
    def params_scales(self) -> dict[str, Scale]:
        """Each method's errors of ln N relative to its prior."""
        return {m: self._params_scale(m, self.misses, self._last_cut) for m in self.frontiers}

    @property
    def _last_cut(self) -> int:
        return 1 + max((miss.level for miss in self.misses), default=0)

    def _loss_scale(self, method: str, misses: Sequence[Miss], cut: int) -> Scale:
        errors = [miss.loss.get(method) for miss in misses]
        return Scale.of(misses, cut, errors, LOSS_PRIORS[method], [0.0] * len(misses))

    def _params_scale(self, method: str, misses: Sequence[Miss], cut: int) -> Scale:
        errors = [miss.params.get(method) for miss in misses]
        noises = [miss.params_noise for miss in misses]
        prior = PARAMS_PRIORS[method]
        return Scale.of(misses, cut, errors, prior, noises, folds=_PRIOR_FOLDS_OF_PARAMS)

    @cached_property
    def own_errors(self) -> list[tuple[Miss, float | None, float | None]]:
        """The combination's errors of ln loss and ln N at each fold, weighted by earlier folds."""
        found = []
        for miss in self.misses:
            before = [earlier for earlier in self.misses if earlier.level < miss.cut]
            scales = {m: self._loss_scale(m, before, miss.cut) for m in miss.loss}
            errors = _errors(LOSS_PRIORS, scales, miss.loss, miss.decades)
            loss = _mean(miss.loss, _inverse(errors, _POWER))
            scales = {m: self._params_scale(m, before, miss.cut) for m in miss.params}
            errors = _errors(PARAMS_PRIORS, scales, miss.params, miss.decades)
            params = _mean(miss.params, _inverse(errors, _POWER_OF_PARAMS))
            found.append((miss, loss, params))
        return found

    @cached_property
    def _own(self) -> tuple[Scale, Scale]:
        """The combination's own scales of ln loss and ln N, from nested folds."""
        losses = [loss for _, loss, _ in self.own_errors]
        params = [error for _, _, error in self.own_errors]
        cut, quiet = self._last_cut, [0.0] * len(self.misses)
        noises = [miss.params_noise for miss in self.misses]
        return (
            Scale.of(
                self.misses, cut, losses, OWN_LOSS_PRIOR, quiet, most=_OWN_MOST, recent=_OWN_RECENT
            ),
            Scale.of(
                self.misses,
                cut,
                params,
                OWN_PARAMS_PRIOR,
                noises,
                most=_OWN_MOST,
                recent=_OWN_RECENT,
            ),
        )

    def decades(self, flops: float) -> float:
        """Return the decades from the largest run's FLOPs to a budget; negative within the data."""
        return math.log10(flops / self.top_flops)

    def optima(self, flops: float) -> dict[str, Optimum]:
        """Return the optimum of each member that gives a possible one at this budget."""
        found = {method: _optimum(frontier, flops) for method, frontier in self.frontiers.items()}
        return {method: optimum for method, optimum in found.items() if optimum is not None}

    def params_weights(self, flops: float) -> dict[str, float]:
        """Return the weight of each member in ln N at a budget; they add up to 1."""
        return self._between(flops, *self._params_ends)

    def loss_weights(self, flops: float) -> dict[str, float]:
        """Return the weight of each member in ln loss at a budget; they add up to 1."""
        return self._between(flops, *self._loss_ends)

    @cached_property
    def _params_ends(self) -> tuple[dict[str, float], dict[str, float]]:
        """Weights in ln N a decade within the data and a decade beyond it."""
        return self._shares(-1.0, "params"), self._shares(1.0, "params")

    @cached_property
    def _loss_ends(self) -> tuple[dict[str, float], dict[str, float]]:
        """Weights in ln loss a decade within the data and a decade beyond it."""
        return self._shares(-1.0, "loss"), self._shares(1.0, "loss")

    def _between(
        self, flops: float, within: Mapping[str, float], beyond: Mapping[str, float]
    ) -> dict[str, float]:
        """Weights at a budget: they change evenly over the two decades about the largest run.

        So an answer passes smoothly from one member to another, and rises with the budget.
        """
        share = min(max((self.decades(flops) + 1) / 2, 0.0), 1.0)
        raw = {
            method: (1 - share) * within.get(method, 0.0) + share * beyond.get(method, 0.0)
            for method in self.optima(flops)
        }
        total = math.fsum(raw.values())
        return {method: weight / total for method, weight in raw.items() if weight > 0}

    def _shares(self, decades: float, part: Literal["params", "loss"]) -> dict[str, float]:
        """Return the weight of each member at a distance from the largest run; they add up to 1."""
        flops = self.top_flops * 10**decades
        optima = self.optima(flops)
        noise = {m: self._noise(flops, {m: 1.0}, part) for m in optima}
        if part == "params":
            values = {m: math.log(optimum.params) for m, optimum in optima.items()}
            errors = _errors(PARAMS_PRIORS, self.params_scales, values, decades)
            errors = {m: math.hypot(e, noise[m] or noise.get("surface", 0.0))
                      for m, e in errors.items()}  # fmt: skip
            power, trust, far = _POWER_OF_PARAMS, 2.0, {m: 2 * e for m, e in errors.items()}
        else:
            told = {m: v for m, o in optima.items() if (v := _log_loss(o)) is not None}
            values = {m: v for m, v in told.items() if self._reaches_lowest(m)} or told
            errors = _errors(LOSS_PRIORS, self.loss_scales, values, decades)
            # Folds show ordinary noise; a law that the runs leave all but open counts by its noise.
            errors = {m: noise[m] if noise[m] > _MUCH_NOISE * e else e for m, e in errors.items()}
            power, trust, far = _POWER, _POWER, {m: 3 * LOSS_PRIORS[m](decades) for m in errors}
        if not values:
            return {}
        # An answer far from the others' middle counts less: it has left the range of its folds.
        middle = _weighted_median(values, _inverse(errors, trust))
        raw = {
            m: weight / (1 + ((values[m] - middle) / far[m]) ** 2) ** 2
            for m, weight in _inverse(errors, power).items()
        }
        total = math.fsum(raw.values())
        return {method: weight / total for method, weight in raw.items()}

    def _reaches_lowest(self, method: str) -> bool:
        """Return whether at most one of the lowest losses lies well below the member's optimum.

        One run may be lucky, or recorded wrongly; two at their own compute speak against the law.
        """
        room = math.exp(max(3 * self.residual, _LEAST_ROOM))
        beyond = 0
        for flops, loss in self.lowest:
            optimum = _optimum(self.frontiers[method], flops)
            if optimum is not None and optimum.loss is not None:
                beyond += optimum.loss > loss * room
        return beyond <= 1

    def _middle(self, flops: float) -> Optimum:
        """Return the combined allocation without intervals; tokens follow from the FLOP count.

        Raises:
            FitError: no member gives an answer at this budget (`no_answer`).
        """
        found = self.optima(flops)
        weights = self.params_weights(flops)
        if not weights:
            raise FitError(
                f"no method gives a possible optimum at {flops:.3g} FLOPs",
                code="no_answer",
                hint="ask for a budget nearer to the runs",
            )
        params = math.exp(math.fsum(w * math.log(found[m].params) for m, w in weights.items()))
        tokens = flops / self.count(params)
        shares = self.loss_weights(flops)
        logs = {m: _log_loss(found[m]) for m in shares}
        loss = math.exp(math.fsum(w * (logs[m] or 0.0) for m, w in shares.items()))
        return Optimum(flops, params, tokens, loss if shares else None)

    def optimum(self, flops: float) -> Optimum:
        """Return the combined optimum for a budget of `flops`, with 95 % intervals and their parts.

        Raises:
            FitError: no member gives an answer at this budget (`no_answer`).
        """
        optimum = self._middle(flops)
        decades, found = self.decades(flops), self.optima(flops)
        own_loss, own_params = self._own
        few = _few(self.levels)
        weights = self.params_weights(flops)
        parts = {
            "params_noise": self._noise(flops, weights, "params"),
            "params_model": few * math.sqrt(own_params.ratio) * OWN_PARAMS_PRIOR(decades),
            "params_disagreement": _disagreement(
                {m: math.log(found[m].params) for m in weights}, weights
            ),
        }
        error = _in_squares(parts.values())
        params_interval = _around(optimum.params, error, own_params.folds, 1.0, flops)
        few_tokens, many_tokens = (flops / self.count(n) for n in reversed(params_interval))
        loss_interval: Interval | None = None
        if optimum.loss is not None:
            shares = self.loss_weights(flops)
            loss_parts = {
                "loss_noise": self._noise(flops, shares, "loss"),
                "loss_model": few * math.sqrt(own_loss.ratio) * OWN_LOSS_PRIOR(decades),
                "loss_disagreement": _disagreement(
                    {m: _log_loss(found[m]) or 0.0 for m in shares}, shares
                ),
            }
            error = _in_squares(loss_parts.values())
            loss_interval = _around(optimum.loss, error, own_loss.folds)
            parts |= loss_parts
        reach = max((miss.decades for miss in self.misses), default=0.0)
        return replace(
            optimum,
            params_interval=params_interval,
            tokens_interval=(min(few_tokens, optimum.tokens), max(many_tokens, optimum.tokens)),
            loss_interval=loss_interval,
            method=METHOD,
            extrapolation_decades=max(decades, 0.0),
            parts=parts,
            is_supported=decades <= reach * 1.05,
        )

    def _noise(
        self, flops: float, weights: Mapping[str, float], part: Literal["params", "loss"]
    ) -> float:
        """Return the weighted noise of the members whose noise is known."""
        known = [(n.log_flops, getattr(n, part)) for n in self.noise]
        told = [m for m in weights if known and all(m in by for _, by in known)]
        total = math.fsum(weights[m] for m in told)
        if not total:
            return 0.0
        at = [math.fsum(weights[m] * by[m] for m in told) / total for _, by in known]
        return float(np.interp(math.log(flops), [place for place, _ in known], at))

    def run_error(self, flops: float) -> tuple[float, float]:
        """Standard error of ln loss of one single run, and its degrees of freedom.

        The law's error at that compute and the spread of single runs about the surface.
        """
        own_loss, _ = self._own
        model = math.sqrt(own_loss.ratio) * OWN_LOSS_PRIOR(self.decades(flops))
        return math.hypot(model, self.residual), own_loss.folds


def combine(
    fits: Mapping[str, Fit],
    test: BackTest | None,
    observations: Sequence[Observation],
    answers: Callable[[Fit, Sequence[float]], Sequence[Optimum]],
) -> Combination | None:
    """Combine the fits by the table's own back-test; None for fewer than two members.

    Args:
        fits: by method; those of MEMBERS that have finite exponents take part.
        test: the rolling back-test of the surface; None: the priors alone make the weights.
        observations: the runs that count, outliers left out.
        answers: a fit's optima at budgets, with the noise among their parts.
    """
    members = {m: fits[m] for m in MEMBERS if m in fits and _is_sound(fits[m])}
    if len(members) < 2:
        return None
    runs = tuple(observations)
    top = max(max(o.budget_flops or 0.0, o.flops) for o in runs)
    low = min(o.flops for o in runs)
    places = [low, top, 10 * top, 100 * top, 1000 * top]
    told = {method: answers(fit, places) for method, fit in members.items()}
    surface = fits.get("surface")
    return Combination(
        {method: fit.frontier for method, fit in members.items()},
        top,
        0 if test is None else len(test.levels),
        FlopsPerToken.through(runs),
        () if test is None else tuple(find_misses(test, members=tuple(members))),
        0.0 if surface is None else mad_sigma(np.array(surface.residuals)),
        tuple(
            NoiseAt.of(flops, {method: optima[k] for method, optima in told.items()})
            for k, flops in enumerate(places)
        ),
        tuple((o.flops, o.loss) for o in sorted(runs, key=lambda o: o.loss)[:_LOWEST]),
    )


def describe_combination(
    combined: Combination, observations: Sequence[Observation], at_flops: float
) -> Fit:
    """Return the Fit of a combination: exponents are its slopes over the decade beyond the data.

    Args:
        combined: the combination.
        observations: the runs that it rests on.
        at_flops: the budget at which the weights are stated.
    """
    here, beyond = (combined.optimum(combined.top_flops * factor) for factor in (1.0, 10.0))
    a = math.log(beyond.params / here.params) / math.log(10)
    b = math.log(beyond.tokens / here.tokens) / math.log(10)
    return Fit(
        method=METHOD,
        status=FitStatus.OK,
        parameters={},
        exponents={"params": a, "tokens": b},
        frontier=combined,
        used=tuple(observations),
        details=CombinationDetails(
            at_flops,
            combined.params_weights(at_flops),
            combined.loss_weights(at_flops),
            len(combined.misses),
            combined.levels,
            tuple(
                OwnError(
                    miss.flops,
                    miss.decades,
                    miss.level == miss.cut,
                    loss,
                    params,
                    miss.params_noise,
                )
                for miss, loss, params in combined.own_errors
            ),
        ),
    )


def find_misses(test: BackTest, *, members: Sequence[str] = MEMBERS) -> list[Miss]:
    """Hold every method's fits to the lower levels against the budgets above them."""
    runs = test.fitted.observations
    minima = [
        m
        for m in find_minima(group_curves(runs), FlopsPerToken.through(runs))
        if m.status == "ok" and m.num_sizes >= _MIN_SIZES and m.params and m.loss
    ]
    flops = np.array([o.flops for o in runs])
    lows = [float(flops[level].min()) for level in test.levels]
    level_of = {m.budget_flops: int(np.searchsorted(lows, m.budget_flops * 1.03)) - 1
                for m in minima}  # fmt: skip
    misses: list[Miss] = []
    for cut in test.cuts[-_MOST_FOLDS:]:
        below = np.concatenate(test.levels[:cut])
        top = float(flops[below].max())
        frontiers, residuals = _fits_below(test, cut, members)
        for level in range(cut, len(test.levels)):
            here = [m for m in minima if level_of[m.budget_flops] == level]
            if here:
                misses += [_against(m, cut, level, top, frontiers) for m in here]
            elif not minima:
                places = test.levels[level]
                middle = float(np.exp(np.log(flops[places]).mean()))
                loss = {method: float(errors[places].mean()) for method, errors in
                        residuals.items()}  # fmt: skip
                misses.append(Miss(cut, level, middle, math.log10(middle / top), loss))
    return [m for m in misses if 0.01 < m.decades <= _NEAR_DECADES]


def _fits_below(
    test: BackTest, cut: int, members: Sequence[str]
) -> tuple[dict[str, Frontier], dict[str, np.ndarray]]:
    """Return each member's frontier from the lowest levels, and its residuals of ln loss."""
    everything = test.fitted
    surface = test.surface_below(cut, 0)
    runs = surface.observations
    count = FlopsPerToken.through(runs)
    frontiers: dict[str, Frontier] = {}
    residuals: dict[str, np.ndarray] = {}
    powers = {"surface": 0, "extrapolation": test.power_below(cut)}
    for method, power in powers.items():
        if method in members:
            solved = test.surface_below(cut, power)
            frontiers[method] = surface_frontier(solved.law, count)
            residuals[method] = log_residuals(everything.coordinates, solved.theta)
    if "general" in members and len(runs) >= 8:
        delta = surface.problem.delta if math.isfinite(surface.problem.delta) else 1.0
        law = solve_general(surface, has_offset=True, beta=None, delta=delta).law
        frontiers["general"] = general_frontier(law, count)
        residuals["general"] = np.array(
            [math.log(o.loss / law.loss(o.params, o.tokens)) for o in everything.observations]
        )
    if "isoflop" in members:
        with suppress(FitError):
            frontiers["isoflop"] = fit_isoflop(group_curves(runs), runs).frontier
    return frontiers, residuals


def _against(
    minimum: Minimum, cut: int, level: int, top: float, frontiers: Mapping[str, Frontier]
) -> Miss:
    """Hold the frontiers against one minimum."""
    assert minimum.params is not None, "only minima with a vertex are tested"
    assert minimum.loss is not None, "only minima with a vertex are tested"
    loss, params = {}, {}
    for method, frontier in frontiers.items():
        optimum = _optimum(frontier, minimum.budget_flops)
        if optimum is None:
            continue
        params[method] = math.log(minimum.params / optimum.params)
        if (predicted := _log_loss(optimum)) is not None:
            loss[method] = math.log(minimum.loss) - predicted
    return Miss(
        cut, level, minimum.budget_flops, math.log10(minimum.budget_flops / top), loss, params,
        minimum.log_params_error or 0.0,
    )  # fmt: skip


def _is_sound(fit: Fit) -> bool:
    """Return whether both exponents are finite and N grows with compute, no faster than compute."""
    a, b = fit.exponents.get("params"), fit.exponents.get("tokens")
    return a is not None and b is not None and 0 < a < 1 and math.isfinite(b)


def _optimum(frontier: Frontier, flops: float) -> Optimum | None:
    """Return a frontier's optimum, if it is possible: at least one param, at most one per FLOP."""
    try:
        optimum = frontier.optimum(flops)
    except (OverflowError, ZeroDivisionError, ValueError):
        return None
    is_possible = math.isfinite(optimum.params) and 1 <= optimum.params <= flops
    return optimum if is_possible else None


def _log_loss(optimum: Optimum) -> float | None:
    loss = optimum.loss
    return math.log(loss) if loss is not None and 0 < loss < math.inf else None


def _errors(
    priors: Mapping[str, Growth],
    scales: Mapping[str, Scale],
    methods: Iterable[str],
    decades: float,
) -> dict[str, float]:
    """Return each method's standard error at a distance, scaled by its folds."""
    return {m: math.sqrt(scales[m].ratio) * priors[m](decades) for m in methods}


def _inverse(errors: Mapping[str, float], power: float) -> dict[str, float]:
    """Return weights 1 / error^power, the largest 1."""
    least = min(errors.values(), default=1.0)
    return {method: (least / error) ** power for method, error in errors.items()}


def _mean(values: Mapping[str, float], weights: Mapping[str, float]) -> float | None:
    total = math.fsum(weights[m] for m in values)
    return math.fsum(weights[m] * v for m, v in values.items()) / total if values else None


def _weighted_median(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the weighted median; halfway between two values if the weights are split evenly."""
    ordered = sorted(values, key=lambda m: values[m])
    half, seen = math.fsum(weights[m] for m in ordered) / 2, 0.0
    for method in ordered:
        seen += weights[method]
        if seen >= half:
            return values[method]
    return values[ordered[-1]]


def _disagreement(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Half the weighted standard deviation of the members' answers."""
    middle = math.fsum(weights[m] * v for m, v in values.items())
    return 0.5 * math.sqrt(math.fsum(weights[m] * (v - middle) ** 2 for m, v in values.items()))


def _in_squares(parts: Iterable[float]) -> float:
    return math.sqrt(math.fsum(v * v for v in parts))


def _around(
    middle: float, error: float, folds: float, least: float = 0.0, most: float = math.inf
) -> Interval:
    """Return a 95 % interval of a positive number whose logarithm has this standard error."""
    half = min(float(stdtrit(folds + _PRIOR_FREEDOM, 0.975)) * error, 300.0)
    return max(middle * math.exp(-half), min(least, middle)), min(
        middle * math.exp(half), max(most, middle)
    )
