"""The nouns: Size, Trial, Task, Outcome, Observation, Optimum (frozen, with units).

House units are bare: `params` is a count of parameters (which ones: `params_convention`), `tokens`
a count of data units (for images, say, the data plugin names what one unit is), `flops` a count of
floating-point operations (never a rate), `loss` nats per unit of data. Everything else carries its
unit in its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

OutcomeStatus = Literal["finished", "failed", "diverged"]

TRUNK_SPAN = 16.0
"""Between the longest and the shortest trial of a trunk, at most, in tokens.

One rate held for all of a size's horizons costs up to 0.3 % of the loss down to a tenth of the
longest, and up to 1.2 % at a fiftieth (OpenEuroLLM's published dense scaling runs); small GPTs at
five horizons, each twice the one before, lay at most 0.9 % apart
(tests/benchmarks/training_trunks.py).
"""


@dataclass(frozen=True, slots=True)
class Size:
    """One model size: what was asked of the constructor, and what it gave.

    Attributes:
        size_value: the value of the model's size parameter (`d_model = 64`, say).
        params: every trainable parameter, shared ones counted once.
        params_non_embedding: `params` without embedding tables; None where it is not known.
        flops_per_token: forward and backward FLOPs spent on one unit of data.
        params_active: those that one unit of data passes through, in a mixture of experts; None
            where the model does not tell them apart.
    """

    size_value: int | float
    params: int
    params_non_embedding: int | None
    flops_per_token: float
    params_active: int | None = None


@dataclass(frozen=True, slots=True)
class Trunk:
    """The constant-rate part that trials of one size and seed share, each branching off its own.

    Attributes:
        reference_tokens: units of data that the recipe's rules for rate and decay are asked for.
        warmup_steps: optimiser steps over which the rate rises, the same for every branch.
        shared_tokens: units of data that the trunk has seen at the branch before this trial's; 0
            for the shortest. This trial goes on from there, so it does not pay for them.
        kept_tokens: units of data at which the trial keeps the trunk's state, for others to go on
            from: where it branches off itself, and where shorter trials do that may yet come.
    """

    reference_tokens: int
    warmup_steps: int
    shared_tokens: int = 0
    kept_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """One planned training result: a size, how much data it sees, and a seed.

    Attributes:
        trial_id: 12 hexadecimal digits of a hash of the content below, never a position.
        budget_flops: the isoFLOP budget that it belongs to.
        tokens: units of data to train on, a whole number of optimiser steps.
        batch_tokens: units of data in one optimiser step.
        seed: seeds initialisation, data order and everything else that draws.
        learning_rate_factor: peak learning rates are the recipe's times this; 1 except in a study
            of learning rates.
        trunk: what it shares with other trials; None: it is trained by itself.
    """

    trial_id: str
    budget_flops: float
    size: Size
    tokens: int
    batch_tokens: int
    seed: int
    learning_rate_factor: float = 1.0
    trunk: Trunk | None = None

    @property
    def flops(self) -> float:
        """FLOPs that the trial spends: its tokens times the FLOPs of one token."""
        return self.tokens * self.size.flops_per_token

    @property
    def cost_tokens(self) -> int:
        """Units of data that the trial is really trained on, without the trunk before it."""
        return self.tokens - (0 if self.trunk is None else self.trunk.shared_tokens)

    @property
    def cost_flops(self) -> float:
        """FLOPs that the trial really costs, without those of the trunk before it."""
        return self.cost_tokens * self.size.flops_per_token

    @property
    def trunk_id(self) -> str | None:
        """What the trials of one trunk have in common; None without one."""
        if self.trunk is None:
            return None
        return _digest(
            [
                float(self.size.size_value), self.size.params, self.batch_tokens, self.seed,
                self.learning_rate_factor, self.trunk.reference_tokens, self.trunk.warmup_steps,
            ]
        )  # fmt: skip

    @property
    def steps(self) -> int:
        """Optimiser steps of the trial."""
        return self.tokens // self.batch_tokens

    @classmethod
    def of(
        cls,
        *,
        budget_flops: float,
        size: Size,
        tokens: int,
        batch_tokens: int,
        seed: int,
        learning_rate_factor: float = 1.0,
        trunk: Trunk | None = None,
    ) -> Trial:
        """Make a trial and derive its `trial_id` from what it consists of."""
        content: list[Any] = [
            float(budget_flops), float(size.size_value), size.params, tokens, batch_tokens, seed,
        ]  # fmt: skip
        if learning_rate_factor != 1.0:
            content.append(learning_rate_factor)
        if trunk is not None:
            content.append(["trunk", trunk.reference_tokens, trunk.warmup_steps])
        return cls(
            _digest(content), float(budget_flops), size, tokens, batch_tokens, seed,
            learning_rate_factor, trunk,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The trial as plain data, as `plan --json` prints it."""
        data = {
            "trial_id": self.trial_id,
            "budget_flops": self.budget_flops,
            "size_value": self.size.size_value,
            "params": self.size.params,
            "params_non_embedding": self.size.params_non_embedding,
            "params_active": self.size.params_active,
            "flops_per_token": self.size.flops_per_token,
            "tokens": self.tokens,
            "batch_tokens": self.batch_tokens,
            "flops": self.flops,
            "seed": self.seed,
        }
        if self.learning_rate_factor != 1.0:
            data["learning_rate_factor"] = self.learning_rate_factor
        if self.trunk is not None:
            data["trunk"] = {"trunk_id": self.trunk_id, **asdict(self.trunk)}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trial:
        """The inverse of `to_dict`; the id is kept as written."""
        size = Size(
            data["size_value"],
            data["params"],
            data["params_non_embedding"],
            data["flops_per_token"],
            data.get("params_active"),
        )
        return cls(
            data["trial_id"],
            data["budget_flops"],
            size,
            data["tokens"],
            data["batch_tokens"],
            data["seed"],
            data.get("learning_rate_factor", 1.0),
            _trunk_from(data.get("trunk")),
        )


def _digest(content: Any) -> str:
    """12 hexadecimal digits of a hash of plain data."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _trunk_from(data: Mapping[str, Any] | None) -> Trunk | None:
    """A trunk from what `Trial.to_dict` made of it."""
    if data is None:
        return None
    return Trunk(
        data["reference_tokens"],
        data["warmup_steps"],
        data["shared_tokens"],
        tuple(data.get("kept_tokens", ())),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial left behind: its status, and the numbers or the error.

    Attributes:
        status: `finished` (a loss to be fitted), `diverged` (trained, but the loss says nothing of
            the law) or `failed` (an error; tried again on resume).
        loss: mean held-out loss at the end, nats per unit of data; None unless finite.
        tokens: units of data really drawn for training.
        flops: `tokens` times the size's FLOPs per token.
        wall_seconds: from the trial's first line of code to its last.
        error: for `failed` and `diverged`: what happened, in a sentence.
        details: anything else worth keeping (rates, versions, recipe), JSON-ready.
    """

    trial_id: str
    status: OutcomeStatus
    loss: float | None
    tokens: int
    flops: float
    wall_seconds: float
    error: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
