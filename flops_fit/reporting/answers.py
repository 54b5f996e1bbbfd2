"""Answers questions from a fitted law: required compute, fixed N or D, repeats, serving, waste.

Every answer is an allocation: params, tokens, the FLOPs of training on them, and the loss that the
law predicts, each with a 95 % interval where the fit has draws of its parameters (percentiles of
the answers that the draws give). Losses are in the fit's unit; N, D, C as in the papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flops_fit.errors import FitError
from flops_fit.fitting.law import (
    Fit,
    FlopsPerToken,
    Frontier,
    Surface,
    SurfaceFrontier,
    least_argument,
)
from flops_fit.fitting.points import Interval, Optimum

# Decay of repeated data and of excess params, fitted to 182 runs of language models.
# Source: Muennighoff et al. 2023 (arXiv:2305.16264), appendix A.
REPEAT_DECAY = 15.387756
EXCESS_DECAY = 5.309743
NAMES = ("E", "A", "B", "alpha", "beta")
_MAX_DRAWS = 200
_SPAN = 80.0  # natural logs: a search over params, tokens or FLOPs covers 1 to e^80


@dataclass(frozen=True)
class Answer:
    """An allocation that answers a question.

    Attributes:
        params, tokens: the allocation.
        flops: of training on it.
        loss: predicted held-out loss.
        intervals: 95 %, by `params`, `tokens`, `flops`, `loss` or a name in `figures`.
        figures: what else the question asks for, by name.
    """

    params: float
    tokens: float
    flops: float
    loss: float
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain data."""
        return {
            "params": self.params,
            "tokens": self.tokens,
            "flops": self.flops,
            "loss": self.loss,
            **self.figures,
            **{f"{name}_interval": list(pair) for name, pair in self.intervals.items()},
        }


@dataclass(frozen=True)
class LossLaw:
    """A law of loss with its FLOP count.

    Attributes:
        surface: L(N, D).
        flops_per_token: k(N), forward and backward.
    """

    surface: Surface
    flops_per_token: FlopsPerToken = field(default_factory=FlopsPerToken)

    @property
    def frontier(self) -> Frontier:
        """The compute-optimal curve of the law."""
        if not self.flops_per_token.params:
            return self.surface
        return SurfaceFrontier(self.surface.loss, self.flops_per_token, self.surface.log_params)

    def answer(self, params: float, tokens: float, **figures: float) -> Answer:
        """Return the allocation (params, tokens) with its FLOPs and its loss."""
        flops = self.flops_per_token(params) * tokens
        return Answer(params, tokens, flops, self.surface.loss(params, tokens), figures=figures)

    def compute_for(self, loss: float) -> float:
        """Return the least FLOPs that reach `loss`: the inverse of the frontier.

        Under 6 N D it is closed: L_opt - E falls as C^-g with g = alpha beta / (alpha + beta)
        (Hoffmann et al. 2022, arXiv:2203.15556, eq. 4 put into eq. 2).
        """
        self._refuse_below(loss, self.surface.E, "the irreducible loss E")
        if not self.flops_per_token.params:
            g = self.surface.alpha * self.surface.beta / (self.surface.alpha + self.surface.beta)
            excess = (self.surface.optimum(1.0).loss or 0.0) - self.surface.E
            return float((excess / (loss - self.surface.E)) ** (1 / g))
        return _falls_to(lambda c: self.frontier.optimum(c).loss or 0.0, loss)

    def tokens_for(self, params: float, loss: float) -> float:
        """D at which a model of `params` reaches `loss`."""
        floor = self.surface.loss(params, math.inf)
        self._refuse_below(loss, floor, f"the loss of {params:.4g} params with endless data")
        return float((self.surface.B / (loss - floor)) ** (1 / self.surface.beta))

    def params_for(self, tokens: float, loss: float) -> float:
        """N at which a model trained on `tokens` reaches `loss`."""
        floor = self.surface.loss(math.inf, tokens)
        self._refuse_below(loss, floor, f"the loss of a model of any size on {tokens:.4g} tokens")
        return float((self.surface.A / (loss - floor)) ** (1 / self.surface.alpha))

    def params_within(self, tokens: float, flops: float) -> float:
        """N that spends `flops` on `tokens`: k(N) D = C."""
        return _rises_to(lambda n: self.flops_per_token(n) * tokens, flops)

    @staticmethod
    def _refuse_below(loss: float, floor: float, name: str) -> None:
        if loss <= floor:
            raise FitError(
                f"a loss of {loss:.4g} cannot be reached: {name} is {floor:.4g}",
                code="unreachable_loss",
                hint="ask for a larger loss",
            )


def loss_law_of(fit: Fit) -> LossLaw:
    """Return the law of a fit of L(N, D).

    Raises:
        FitError: the method has a frontier only, and no loss outside it.
    """
    # The richer form has a gamma besides, and is another law.
    if not set(NAMES) <= set(fit.parameters) or "gamma" in fit.parameters:
        raise FitError(
            f"the {fit.method} fit has no additive surface E + A / N^alpha + B / D^beta to ask",
            code="no_surface",
            hint="ask the surface: `--method surface`",
        )
    return LossLaw(_surface(fit.parameters), fit.flops_per_token)


def ask_law(fit: Fit, question: Callable[[LossLaw], Answer]) -> Answer:
    """Return the answer of a fit; its draws give the intervals.

    A draw that cannot answer (a loss below its own E, say) counts as no answer; where a tenth of
    them cannot, there is no interval.
    """
    law = loss_law_of(fit)
    answer = question(law)
    chosen = loss_law_draws(fit)
    answers: list[Answer] = []
    for drawn in chosen:
        try:
            answers.append(question(drawn))
        except (FitError, OverflowError):
            continue
    if len(answers) < max(20, 0.9 * len(chosen)):
        return answer
    whole = {name: [a.to_dict()[name] for a in answers] for name in answer.to_dict()}
    intervals = {name: percentiles(values) for name, values in whole.items()}
    # What the question fixed has no interval.
    open_ones = {
        name: pair for name, pair in intervals.items() if pair[1] - pair[0] > 1e-9 * abs(pair[1])
    }
    if "loss" in open_ones:
        open_ones["loss"] = _of_one_run(open_ones["loss"], answer, fit)
    return Answer(
        answer.params, answer.tokens, answer.flops, answer.loss, open_ones, answer.figures
    )


def _of_one_run(interval: Interval, answer: Answer, fit: Fit) -> Interval:
    """Return the interval of a law's loss, widened to hold the loss of one run.

    The draws show the uncertainty of the law. A run also deviates from the law by as much as the
    fitted runs do (their 95 % quantile), and beyond the data by the error of the back-test.
    """
    off = sorted(abs(r) for r in fit.residuals)
    if not off or answer.loss <= 0 or interval[0] <= 0:
        return interval
    freedom = max(len(off) - len(NAMES), 1)
    residual = off[min(math.ceil(0.95 * len(off)), len(off)) - 1] * math.sqrt(len(off) / freedom)
    top = max((max(o.budget_flops or 0.0, o.flops) for o in fit.used), default=answer.flops)
    distance = max(0.0, math.log(answer.flops / top))
    missed = 0.0
    if distance:
        missed = max((f.rms * max(1.0, distance / f.distance) for f in fit.folds), default=0.0)
    low, high = (math.hypot(math.log(end / answer.loss), residual, 2 * missed) for end in interval)
    return answer.loss * math.exp(-low), answer.loss * math.exp(high)


def anchored(law: LossLaw, optimum: Optimum) -> LossLaw:
    """Return the law shifted so that its optimum at a budget is `optimum`.

    Params scale by s and tokens by 1/s, which keeps the compute; the loss scales as a whole.
    """
    own = law.frontier.optimum(optimum.flops)
    s = own.params / optimum.params
    ratio = 1.0 if optimum.loss is None or not own.loss else optimum.loss / own.loss
    surface = law.surface
    return LossLaw(
        Surface(
            ratio * surface.E,
            ratio * surface.A * s**-surface.alpha,
            ratio * surface.B * s**surface.beta,
            surface.alpha,
            surface.beta,
        ),
        law.flops_per_token,
    )


def loss_law_draws(fit: Fit) -> list[LossLaw]:
    """Return at most 200 of a fit's draws, evenly spaced, each as a law."""
    count = loss_law_of(fit).flops_per_token
    stride = max(1, len(fit.draws) // _MAX_DRAWS)
    chosen = [draw for draw in fit.draws[::stride] if set(NAMES) <= set(draw)]
    return [LossLaw(_surface(draw), count) for draw in chosen]


def waste_of(law: LossLaw, params: float, tokens: float) -> float:
    """Return the share of compute that an allocation wastes: 1 - C'/C.

    C' is the least compute that reaches the loss of the allocation.
    """
    flops = law.flops_per_token(params) * tokens
    return max(0.0, 1 - law.compute_for(law.surface.loss(params, tokens)) / flops)


def near_optimal_params(law: LossLaw, flops: float, share: float) -> tuple[float, float]:
    """Return the least and the largest N whose waste at a budget of `flops` is at most `share`.

    N wastes no more than that if it reaches, with the whole budget, the optimal loss of the rest.
    """
    best = law.frontier.optimum(flops).params
    allowed = law.frontier.optimum(flops * (1 - share)).loss or 0.0

    def excess(log_params: float) -> float:
        params = math.exp(log_params)
        return law.surface.loss(params, flops / law.flops_per_token(params)) - allowed

    low = _bisect(lambda x: -excess(x), math.log(best) - 10, math.log(best))
    high = _bisect(excess, math.log(best), math.log(best) + 10)
    return math.exp(low), math.exp(high)


def overtrain(law: LossLaw, flops: float, multiple: float) -> Answer:
    """Return the allocation at `multiple` times the optimal tokens per parameter, same FLOPs.

    Source: over-training by a token multiplier M = D / N, Gadre et al. 2024 (arXiv:2403.08540).
    """
    optimum = law.frontier.optimum(flops)
    wanted = optimum.tokens_per_param * multiple

    def ratio_above(log_params: float) -> float:
        params = math.exp(log_params)
        return math.log(wanted * params * law.flops_per_token(params) / flops)

    centre = math.log(optimum.params)
    reach = abs(math.log(multiple)) + 3
    params = math.exp(_bisect(ratio_above, centre - reach, centre + reach))
    tokens = flops / law.flops_per_token(params)
    return law.answer(
        params, tokens, tokens_per_param=tokens / params, waste=waste_of(law, params, tokens)
    )


def repeated_loss(law: Surface, params: float, tokens: float, unique_tokens: float) -> float:
    """L(N, D) where only `unique_tokens` of the D tokens differ.

    D' = U + U R (1 - exp(-r / R)) with r = D / U - 1 repeats and R = REPEAT_DECAY; N' in the same
    way, with U_N the optimal params for U tokens (N if smaller) and EXCESS_DECAY.

    Source: Muennighoff et al. 2023 (arXiv:2305.16264), eq. 5 and 6 and appendix A.
    """
    unique = min(unique_tokens, tokens)
    # The params for which `unique` tokens are optimal: N = G (G D)^(beta / alpha), from
    # N = G (C/6)^a and D = (C/6)^b / G of Hoffmann et al. 2022, eq. 4; G is `scale`.
    scale = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    base = min(params, scale * (scale * unique) ** (law.beta / law.alpha))

    def effective(fresh: float, whole: float, decay: float) -> float:
        return fresh + fresh * decay * -math.expm1(-(whole / fresh - 1) / decay)

    return law.loss(effective(base, params, EXCESS_DECAY), effective(unique, tokens, REPEAT_DECAY))


def data_constrained(law: LossLaw, flops: float, unique_tokens: float) -> Answer:
    """Return the best allocation of `flops` where tokens beyond `unique_tokens` are repeats."""

    def at(log_params: float) -> float:
        params = math.exp(log_params)
        tokens = flops / law.flops_per_token(params)
        return repeated_loss(law.surface, params, tokens, unique_tokens)

    centre = math.log(law.frontier.optimum(flops).params)
    params = math.exp(least_argument(at, centre - 8, centre + 8))
    tokens = flops / law.flops_per_token(params)
    loss = repeated_loss(law.surface, params, tokens, unique_tokens)
    fresh = law.frontier.optimum(flops).loss or math.nan
    figures = {"epochs": max(1.0, tokens / unique_tokens), "loss_with_fresh_data": fresh}
    return Answer(params, tokens, flops, loss, figures=figures)


def serving(law: LossLaw, loss: float, served_tokens: float) -> Answer:
    """Return the allocation that reaches `loss` with the least training plus serving FLOPs.

    Serving a token costs its forward pass, a third of k(N): 2 N where training costs 6 N.

    Source: Sardana et al. 2024 (arXiv:2401.00448), eq. 3: min 6 N D + 2 N D_inf.
    """
    law.compute_for(loss)  # refuses a loss that no compute reaches
    floor = math.log((law.surface.A / (loss - law.surface.E)) ** (1 / law.surface.alpha))

    def whole(log_params: float) -> float:
        params = math.exp(log_params)
        tokens = law.tokens_for(params, loss)
        return math.log(law.flops_per_token(params) * (tokens + served_tokens / 3))

    params = math.exp(least_argument(whole, floor + 1e-9, floor + 15))
    tokens = law.tokens_for(params, loss)
    total = law.flops_per_token(params) * (tokens + served_tokens / 3)
    optimum = law.frontier.optimum(law.compute_for(loss))
    chinchilla = optimum.flops + law.flops_per_token(optimum.params) * served_tokens / 3
    return law.answer(
        params, tokens, total_flops=total, saved=1 - total / chinchilla,
        params_without_serving=optimum.params,
    )  # fmt: skip


def _surface(parameters: Mapping[str, float]) -> Surface:
    return Surface(*(parameters[name] for name in NAMES))


def percentiles(values: Sequence[float]) -> Interval:
    """Return the 2.5 and 97.5 percentiles, linear between the values."""
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return at(0.025), at(0.975)


def _bisect(f: Callable[[float], float], low: float, high: float) -> float:
    """Return the zero of a rising f in [low, high], or the nearer end if there is none."""
    for _ in range(100):
        middle = (low + high) / 2
        if f(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _rises_to(f: Callable[[float], float], value: float) -> float:
    """Return the argument at which a rising f is `value`."""
    return math.exp(_bisect(lambda x: f(math.exp(x)) - value, 0.0, _SPAN))


def _falls_to(f: Callable[[float], float], value: float) -> float:
    """Return the argument at which a falling f is `value`."""
    return math.exp(_bisect(lambda x: value - f(math.exp(x)), 0.0, _SPAN))
