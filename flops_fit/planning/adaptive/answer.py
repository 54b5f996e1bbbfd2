"""The answer of an adaptive sweep: N_opt at the target, with noise and the law's own error.

The surface is only nearly true. How far it drifts is not known beforehand, so the runs decide: the
law is fitted with a drift of several sizes, each weighted by its evidence (how probable it makes
the losses seen). The answer is that of the surface alone, as in the report. Its variance holds the
noise of each fit and the distance of each fit from the surface's answer. Where runs lie on the
surface, this is little more than the noise. Where small runs bend the law, it is several times
that.

Source: model averaging by Laplace's approximation: MacKay 2003, “Information Theory, Inference and
Learning Algorithms”, chapter 28.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from flops_fit.planning.adaptive.terms import Run, Terms
from flops_fit.planning.adaptive.worth import belief_of

DRIFTS = (0.0, 0.003, 0.01, 0.03)
"""Sizes of the drift that are thought equally likely, as `drift` of `believe`.

Published sweeps depart from the surface by about 1 % a decade: 0.01, a third of it and three times
it, beside an exact law.
"""

CONFIDENCE = 0.9
"""How often N_opt lies within the half-width that an adaptive sweep states and its goal names."""

ENOUGH = 0.5
"""Share of the goal at which noise is a quarter of the variance that the goal allows."""


@dataclass(frozen=True)
class Answer:
    """N_opt at the target, with its standard error.

    Attributes:
        log_params: ln N_opt of the surface alone.
        error: standard error of ln N_opt, from noise and from the law's own error.
        half_width: half of the 90 % interval of ln N_opt.
        noise_half_width: the same from noise alone, which further runs can lower.
    """

    log_params: float
    error: float
    half_width: float
    noise_half_width: float

    def has_reached(self, goal: float) -> bool:
        """Return whether the 90 % interval is as narrow as the goal."""
        return self.half_width <= goal

    def is_limited_by_law(self, goal: float) -> bool:
        """Return whether further runs cannot help, because the error of the law itself remains."""
        return not self.has_reached(goal) and self.noise_half_width <= ENOUGH * goal


def answer_of(terms: Terms, runs: Sequence[Run]) -> Answer:
    """Return N_opt at the target by the surface, and its error by all sizes of the drift."""
    target_flops = terms.target_flops
    beliefs = [belief_of(terms, runs, drift=drift) for drift in DRIFTS]
    evidence = np.array([belief.log_evidence for belief in beliefs])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    at = np.array([belief.log_params(target_flops) for belief in beliefs])
    errors = np.array([belief.error(target_flops) for belief in beliefs])
    error = math.sqrt(float(weights @ (errors**2 + (at - at[0]) ** 2)))
    freedom = float(weights @ np.array([belief.freedom for belief in beliefs]))
    t = t_quantile(freedom)
    return Answer(float(at[0]), error, t * error, t * float(errors[0]))


def t_quantile(freedom: float) -> float:
    """Return half the central 90 % of Student's t in standard errors; within 1 % from 3 degrees.

    Source: Cornish-Fisher expansion: Abramowitz and Stegun 1964, equation 26.7.5.
    """
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + (z**3 + z) / (4 * freedom) + second / freedom**2
