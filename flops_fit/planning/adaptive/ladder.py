"""The ladder check: tests whether the cheapest runs follow the same law as the others.

At small scale a run can differ in kind: embeddings are most of its parameters, warm-up most of its
steps. Such runs bend the law where it is longest extrapolated from, while every residual stays
small. So the optimum at the target is estimated with and without the lowest levels; a shift beyond
three standard errors is a reason to leave the lowest one out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flops_fit.fitting.law import FlopsPerToken
from flops_fit.fitting.points import Observation
from flops_fit.planning.adaptive.belief import Belief, believe
from flops_fit.units import format_flops

CHECK_SIGMAS = 3.0
_LEAST_ERROR = 0.02  # of ln N_opt: a smaller shift is no reason to doubt a level
_MIN_LEFT = 8  # runs, over at least three levels, that a check leaves
_MIN_LEVELS = 3
_BENT = 0.05  # log loss per square decade


@dataclass(frozen=True)
class LadderCheck:
    """The shift of the answer that the lowest levels cause.

    Attributes:
        budget_flops: of the lowest level.
        members: names of its runs.
        num_dropped: levels left out in the comparison that went worst: one or two.
        shift: ln N_opt at the target with all runs, less that without these levels.
        error: standard error of the shift where one law holds.
    """

    budget_flops: float
    members: tuple[str, ...]
    num_dropped: int
    shift: float
    error: float

    @property
    def sigmas(self) -> float:
        """The shift in standard errors."""
        return abs(self.shift) / self.error

    @property
    def has_failed(self) -> bool:
        """Whether the shift is more than noise explains."""
        return self.sigmas > CHECK_SIGMAS

    @property
    def reason(self) -> str:
        """The meaning of a failed check, in a sentence."""
        lowest = "lowest level" if self.num_dropped == 1 else "two lowest levels"
        return (
            f"small-scale drift: the runs at {format_flops(self.budget_flops)} FLOPs follow "
            f"another law than the rest; with the {lowest}, N at the target is "
            f"{math.exp(self.shift):.2f} times as large, {self.sigmas:.1f} standard errors"
        )


def check_ladder(
    observations: Sequence[Observation],
    *,
    target_flops: float,
    tokens_per_param: float = 20.0,
    flops_per_token: FlopsPerToken | None = None,
) -> LadderCheck | None:
    """Test leaving out the lowest and the two lowest levels; None if too few runs would remain.

    Of two estimates, one with all runs and one with some of them, the variance of the difference is
    the difference of the variances where one law holds, since the former is efficient.

    Args:
        observations: finished runs with a `budget_flops`.
        target_flops: the budget whose optimum is compared.
        tokens_per_param: where the optimum is expected.
        flops_per_token: FLOPs of one token by params; through the runs if None.

    Source: Hausman 1978, “Specification tests in econometrics”, lemma 2.1.
    """
    levels = sorted({o.budget_flops for o in observations if o.budget_flops is not None})
    if len(levels) <= _MIN_LEVELS:
        return None

    def belief(seen: Sequence[Observation], drift: float = 0.0) -> Belief:
        return believe(
            seen,
            top_flops=levels[-1],
            tokens_per_param=tokens_per_param,
            flops_per_token=flops_per_token,
            drift=drift,
        )

    whole = belief(observations)
    # A law that may bend takes the misfit out of the noise, which would hide what is looked for.
    bent = belief(observations, drift=_BENT)
    sigma = bent.sigma
    at = whole.log_params(target_flops)
    members = tuple(o.name for o in observations if o.budget_flops == levels[0])
    worst: LadderCheck | None = None
    for dropped in (1, 2):
        kept = [o for o in observations if o.budget_flops not in levels[:dropped]]
        if len(levels) - dropped < _MIN_LEVELS or len(kept) < _MIN_LEFT:
            break
        part = belief(kept)
        few, all_ = (replace(b, covariance=b.covariance_at(sigma)) for b in (part, whole))
        variance = few.error(target_flops) ** 2 - all_.error(target_flops) ** 2
        error = math.sqrt(max(variance, _LEAST_ERROR**2))
        shift = at - part.log_params(target_flops)
        found = LadderCheck(levels[0], members, dropped, shift, error)
        if worst is None or found.sigmas > worst.sigmas:
            worst = found
    return worst
