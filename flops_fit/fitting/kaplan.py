"""Fit of Kaplan's joint form L = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D, for comparison.

The form has no irreducible loss, so it underestimates the loss far beyond the runs. Where at least
three sizes were trained on the same number of tokens, L = (N_c/N)^alpha_N is also fitted.

Source: Kaplan et al. 2020 (arXiv:2001.08361), eq. 1.5 and 1.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flops_fit.errors import FitError
from flops_fit.fitting.details import FixedTokensLaw, GeneralDetails
from flops_fit.fitting.general import describe_general, solve_general
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Observation
from flops_fit.fitting.powers import fit_line
from flops_fit.fitting.surface import SolvedSurface

MIN_SIZES = 3
_MOST = 700.0  # exp of a larger logarithm overflows


def fit_kaplan(solved: SolvedSurface) -> Fit:
    """Fit Kaplan's joint form to the runs of a solved surface, with its own Huber threshold.

    The parameters are alpha_N, alpha_D, N_c (params) and D_c (tokens).

    Raises:
        FitError: the loss does not fall with params, so N_c overflows (`no_law`).
    """
    found = solve_general(solved, has_offset=False, beta=1.0)
    fit = describe_general(solved, found, "kaplan")
    law = found.law
    if not 0 < law.A < math.inf or abs(math.log(law.A) / law.alpha) > _MOST:
        raise FitError(
            "the loss shows no dependence on params in Kaplan's form",
            code="no_law",
            hint="add runs over a wider range of params and tokens",
        )
    parameters = {
        "alpha_N": law.alpha * law.gamma,
        "alpha_D": law.gamma,
        "N_c": math.exp(math.log(law.A) / law.alpha),
        "D_c": law.B,
    }
    fixed = tuple(fixed_tokens_laws(solved.observations))
    details = GeneralDetails(found.delta, solved.objective, fixed)
    return replace(fit, parameters=parameters, details=details)


def fixed_tokens_laws(observations: Sequence[Observation]) -> list[FixedTokensLaw]:
    """Fit L = (N_c/N)^alpha_N at each number of tokens with at least 3 sizes (log-log regression).

    Numbers of tokens within 10 % of each other count as equal.
    """
    groups: list[list[Observation]] = []
    for seen in sorted(observations, key=lambda o: o.tokens):
        if groups and seen.tokens <= 1.1 * groups[-1][0].tokens:
            groups[-1].append(seen)
        else:
            groups.append([seen])
    laws = []
    for group in groups:
        if len({o.params for o in group}) < MIN_SIZES:
            continue
        line = fit_line(np.log([o.params for o in group]), np.log([o.loss for o in group]))
        if line.slope < 0:
            laws.append(
                FixedTokensLaw(
                    tokens=math.exp(float(np.mean(np.log([o.tokens for o in group])))),
                    alpha_N=-line.slope,
                    N_c=math.exp(min(-line.intercept / line.slope, _MOST)),
                    r_squared=line.r_squared,
                )
            )
    return laws
