"""Basic types of fitting: Observation, Excluded, Optimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Interval = tuple[float, float]

TRUNK_CORRELATION = 0.9
"""Assumed correlation of the noise in log loss between trials that branch off one trunk.

In a published suite of models (OpenEuroLLM, dense scaling laws), the noise of losses is about
0.03 % along a trunk and 0.1 to 0.3 % between seeds.
"""


_FACTOR = 1e30
"""Largest valid number of params, tokens or loss, and inverse of the smallest.

For FLOPs the limit is 10 times its square. Real runs are far from these limits in any unit, and
within them no computation of a fit overflows.
"""


def is_in_range(name: str, value: float) -> bool:
    """Return whether a positive number is within the range in which fits do not overflow."""
    most = 10 * _FACTOR**2 if name in ("flops", "budget_flops") else _FACTOR
    return 1 / most <= value <= most


@dataclass(frozen=True, slots=True)
class Observation:
    """Finished trial as a point of the loss surface.

    Attributes:
        params, tokens, flops: counts, positive and finite.
        loss: loss in nats per unit of data, positive and finite.
        budget_flops: planned budget of its isoFLOP curve; None if no curve was planned.
        name: name in messages: a trial id, or `row 12` of a table.
        seed, size_value, params_non_embedding, params_active: further facts, or None if unknown.
        step: training step of a point on a training curve; None for other observations.
        run: name of the training run or trunk that several observations share; None if it is
            not shared.
    """

    params: float
    tokens: float
    flops: float
    loss: float
    budget_flops: float | None = None
    name: str = ""
    seed: int | None = None
    size_value: float | None = None
    params_non_embedding: float | None = None
    step: float | None = None
    run: str | None = None
    params_active: float | None = None


@dataclass(frozen=True, slots=True)
class Excluded:
    """Observation that a fit leaves out, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReadRow:
    """The reading of one row of a table.

    Attributes:
        row: `row N`.
        used: whether a fit uses it.
        params, tokens, flops, loss: its numbers in house units; None for a row that is not used.
        reason: why it is not used.
    """

    row: str
    used: bool
    params: float | None = None
    tokens: float | None = None
    flops: float | None = None
    loss: float | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data, without the numbers that are not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Optimum:
    """Point of a compute-optimal frontier.

    Attributes:
        flops: the compute budget.
        params, tokens: the allocation; `tokens` times the FLOPs per token of `params` is `flops`.
        loss: predicted held-out loss, nats per unit; None if the method predicts no loss.
        params_interval, tokens_interval, loss_interval: 95 % intervals; None if not known.
        method: name of the predicting method; may be empty.
        extrapolation_decades: distance beyond the largest observed compute in powers of ten; 0
            within it.
        parts: components of the intervals, as standard errors of ln params (`params_noise`,
            `params_model`) and of ln loss (`loss_noise`, `loss_model`, `loss_residual`).
        is_supported: whether the back-test reaches as far as this prediction.
    """

    flops: float
    params: float
    tokens: float
    loss: float | None
    params_interval: Interval | None = None
    tokens_interval: Interval | None = None
    loss_interval: Interval | None = None
    method: str = ""
    extrapolation_decades: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    is_supported: bool = True

    @property
    def tokens_per_param(self) -> float:
        """Number of tokens (units of data) per parameter."""
        return self.tokens / self.params
