"""Forecasts how precisely a plan's runs will determine the exponent, and N at the target.

Losses of the plan's trials are drawn from a prior law with noise, some hundred times, and the
surface is fitted to each draw, all as one batched problem that starts at the truth. Trials that
share a trunk share most of their noise. Half-widths are of the central 95 % of the estimates. Noise
is one part of the error: published sweeps depart from the surface by more than it, and the error of
N from that grows with the distance to the target by about 0.25 in ln N for each power of ten, which
is stated beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flops_fit.errors import ManifestError
from flops_fit.fitting.curves import check_enough
from flops_fit.fitting.law import FlopsPerToken, Surface
from flops_fit.fitting.points import Observation
from flops_fit.fitting.shared_noise import correlation_of
from flops_fit.fitting.solver.newton import minimise
from flops_fit.fitting.solver.search import Coordinates
from flops_fit.fitting.surface import ADAPTIVE
from flops_fit.fitting.targets import optima
from flops_fit.manifest.trials import Trial
from flops_fit.units import parse_number

NOISE = 0.003  # of log loss between seeds; 0.001 to 0.005 is usual
MODEL_ERROR = 0.25  # of ln N, for each power of ten between the largest run and the target
_SIMULATIONS = 400
_PUBLISHED = Surface(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
_AT = 1e21  # FLOPs
_LEVEL = 95.0


@dataclass(frozen=True)
class Power:
    """The expected precision of a plan.

    Attributes:
        exponent: of N_opt in C, by the prior law.
        exponent_half_width: of its 95 % interval.
        target_flops, params: the target, and N_opt there by the prior law.
        params_factor: the 95 % interval of N_opt is `params` divided and multiplied by this, from
            the runs' noise.
        params_factor_with_model: the same with the error of the law itself.
        decades: powers of ten from the largest run to the target.
        law, noise, simulations: what it rests on.
        failures: draws whose fit ended at a bound, where the runs showed no law.
    """

    exponent: float
    exponent_half_width: float
    target_flops: float
    params: float
    params_factor: float
    params_factor_with_model: float
    decades: float
    law: Surface
    noise: float
    simulations: int
    failures: int

    def to_dict(self) -> dict[str, Any]:
        """Return the values as plain data: `power` of `plan --power --json`."""
        return {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name != "law"
        } | {"law": {name: getattr(self.law, name) for name in ("E", "A", "B", "alpha", "beta")}}


def prior_law(
    top_flops: float, tokens_per_param: float, stated: Mapping[str, float] | None = None
) -> Surface:
    """Return a published law, moved so that its optimum at the top budget is as expected.

    Exponents, E and the two reducible terms at the optimum are those of Besiroglu et al. 2024
    (arXiv:2404.10102, their refit of Hoffmann et al.'s runs) at 1e21 FLOPs.

    Args:
        top_flops: the largest budget.
        tokens_per_param: where its optimum is expected.
        stated: `E`, `alpha` or `beta` to take instead. The terms keep the ratio that the exponents
            ask for, and their sum.
    """
    given = {"E": _PUBLISHED.E, "alpha": _PUBLISHED.alpha, "beta": _PUBLISHED.beta} | {
        **(stated or {})
    }
    alpha, beta = given["alpha"], given["beta"]
    reducible = _PUBLISHED.optimum(_AT).loss
    assert reducible is not None
    reducible -= _PUBLISHED.E
    # At an optimum alpha A / N^alpha = beta B / D^beta.
    of_params, of_tokens = reducible * beta / (alpha + beta), reducible * alpha / (alpha + beta)
    params = math.sqrt(top_flops / 6.0 / tokens_per_param)
    tokens = tokens_per_param * params
    return Surface(given["E"], of_params * params**alpha, of_tokens * tokens**beta, alpha, beta)


def read_prior(text: str) -> dict[str, float]:
    """Parse `"E=1.69 alpha=0.34 beta=0.28"` into a mapping.

    Raises:
        ManifestError: another name, or no number.
    """
    found = {}
    for pair in text.replace(",", " ").split():
        name, _, value = pair.partition("=")
        if name not in ("E", "alpha", "beta"):
            raise ManifestError(
                f"`--prior`: `{pair}` is no part of a law",
                hint='state `E`, `alpha` and `beta`, or some of them: "alpha=0.34 beta=0.28"',
            )
        try:
            found[name] = parse_number(value)
        except ValueError as error:
            raise ManifestError(f"`--prior`: `{pair}` is {error}") from None
    return found


def power_of(
    trials: Sequence[Trial],
    *,
    target_flops: float,
    tokens_per_param: float = 20.0,
    noise: float = NOISE,
    stated: Mapping[str, float] | None = None,
    simulations: int = _SIMULATIONS,
    seed: int = 0,
) -> Power:
    """Simulate the precision of a plan's trials.

    Args:
        trials: of the plan.
        target_flops: the budget whose N_opt is wanted.
        tokens_per_param: where the optimum is expected.
        noise: standard deviation of log loss between seeds.
        stated: parts of the prior law, as for `prior_law`.
        simulations: how many draws.
        seed: of the draws.

    Raises:
        FitError: no law with an optimum can be fitted to such runs, whatever their losses.
    """
    law = prior_law(max(t.budget_flops for t in trials), tokens_per_param, stated)
    seen = [
        Observation(
            t.size.params, t.tokens, t.flops, law.loss(t.size.params, t.tokens), run=t.trunk_id
        )
        for t in trials
    ]
    check_enough(seen)
    where, laws, failures = _simulate(law, seen, noise=noise, simulations=simulations, seed=seed)
    count = FlopsPerToken.through(seen)
    optimum, _ = optima(laws, np.array([target_flops]), count)
    truth, _ = optima(where.to_law(where.from_law(law)), np.array([target_flops]), count)
    half_width = _half_width(laws[:, 4] / (laws[:, 3] + laws[:, 4]))
    spread = _half_width(optimum[:, 0])
    decades = max(0.0, math.log10(target_flops / max(o.flops for o in seen)))
    return Power(
        exponent=law.beta / (law.alpha + law.beta),
        exponent_half_width=half_width,
        target_flops=target_flops,
        params=math.exp(float(truth[0, 0])),
        params_factor=math.exp(min(spread, 50.0)),
        params_factor_with_model=math.exp(
            min(math.hypot(spread, 1.96 * MODEL_ERROR * decades), 50.0)
        ),
        decades=decades,
        law=law,
        noise=noise,
        simulations=simulations,
        failures=failures,
    )


def _simulate(
    law: Surface, seen: Sequence[Observation], *, noise: float, simulations: int, seed: int
) -> tuple[Coordinates, np.ndarray[Any, Any], int]:
    """Draw the losses of `seen` with noise about a law, and fit the surface to each draw.

    Returns:
        The coordinates of the fits; the fitted laws, float64, shape (simulations, 5), as
        `Coordinates.to_law` gives them; and how many fits ended at a bound.
    """
    params, tokens, loss = (
        np.array([getattr(o, name) for o in seen], dtype=float)
        for name in ("params", "tokens", "loss")
    )
    where = Coordinates.of(params, tokens, loss)
    problem = where.problem(ADAPTIVE * noise)
    draws = np.random.RandomState(seed).standard_normal((simulations, len(seen)))
    draws = draws @ np.linalg.cholesky(correlation_of([o.run for o in seen])).T
    # The bounds leave room for the noise: E may come out above the lowest planted loss.
    upper = problem.upper.copy()
    upper[:3] += 4 * noise
    noisy = replace(problem, log_loss=where.log_loss + noise * draws, upper=upper)
    start = np.repeat(where.from_law(law), simulations, axis=0)
    found = minimise(noisy, start, np.ones(len(seen)), max_iterations=60, tolerance=1e-8)
    inside = (found.theta > noisy.lower) & (found.theta < noisy.upper)
    return where, where.to_law(found.theta), int((~inside[:, [1, 2]].all(axis=1)).sum())


def _half_width(values: np.ndarray[Any, Any]) -> float:
    """Return half the width of the central 95 % of the draws."""
    low, high = np.percentile(values, [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2])
    return float(high - low) / 2
