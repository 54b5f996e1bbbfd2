"""The nouns of fitting: Observation, Excluded, Optimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Interval = tuple[float, float]

TRUNK_CORRELATION = 0.9
"""Of the noise in log loss between trials that branch off one trunk.

Along trunks of a published suite of models (OpenEuroLLM, dense scaling laws) losses scatter by
about 0.03 %, between seeds by 0.1 to 0.3 %.
"""


_FACTOR = 1e30
"""Largest and smallest number of params, tokens or loss; of FLOPs its square times ten.

No unit of a real run comes near it, and within it nothing that a fit computes overflows.
"""


def is_in_range(name: str, value: float) -> bool:
    """Whether a positive number of an observation is one that a fit can compute with."""
    most = 10 * _FACTOR**2 if name in ("flops", "budget_flops") else _FACTOR
    return 1 / most <= value <= most


@dataclass(frozen=True, slots=True)
class Observation:
    """A finished trial as a point of the loss surface.

    Attributes:
        params, tokens, flops, loss: counts, and nats per unit of data; all positive and finite.
        budget_flops: the isoFLOP curve it lies on; None where runs were not planned on curves.
        name: what to call it when it is excluded: a trial id, or `row 12` of a table.
        seed, size_value, params_non_embedding, params_active, step: known or None. `step` marks a
            point of a training curve; points that share `run` come from one training.
        run: which training the point belongs to; None: one of its own.
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
    """An observation that a fit leaves out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Optimum:
    """One point of a compute-optimal frontier.

    Attributes:
        flops: the compute budget.
        params, tokens: the allocation; `tokens` times the FLOPs per token of `params` is `flops`.
        loss: predicted held-out loss, nats per unit; None where the method predicts none.
        params_interval, tokens_interval, loss_interval: 95 %, or None where not known.
        method: the method that predicts it; empty where that is plain.
        extrapolation_decades: powers of ten beyond the largest observed compute; 0 inside.
        parts: what the intervals consist of, as standard errors of ln params (`params_noise`,
            `params_model`) and of ln loss (`loss_noise`, `loss_model`, `loss_residual`).
        is_supported: whether the back-test reaches far enough to stand behind it.
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
        """Units of data per parameter."""
        return self.tokens / self.params
