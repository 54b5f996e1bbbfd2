"""The nouns of a sweep: Size, Trunk, Trial, Outcome and its Details (frozen, with units).

House units are bare: `params` is a count of parameters (which ones: `params_convention`), `tokens`
a count of data units (for images, say, the data plugin names what one unit is), `flops` a count of
floating-point operations (never a rate), `loss` nats per unit of data. Everything else carries its
unit in its name.

All of them cross files and processes through `manifest.files`: their annotations are the limits
that a file is held against. A trial is written flat, with the numbers of its size beside its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, JsonValue
from pydantic_core import CoreSchema, core_schema

from flops_fit.manifest.files import (
    STORED,
    Count,
    Finite,
    HexId,
    NotNegative,
    Positive,
    PositiveCount,
    Seed,
    Text,
    from_plain,
)


class Status(StrEnum):
    """The status with which a trial ended.

    `finished`: with a loss to be fitted. `diverged`: it was trained, but its loss says nothing of
    the law. `failed`: an error; the trial is tried again on resume.
    """

    FINISHED = "finished"
    FAILED = "failed"
    DIVERGED = "diverged"


TRUNK_SPAN = 16.0
"""Between the longest and the shortest trial of a trunk, at most, in tokens.

One rate held for all of a size's horizons costs up to 0.3 % of the loss down to a tenth of the
longest, and up to 1.2 % at a fiftieth (OpenEuroLLM's published dense scaling runs); small GPTs at
five horizons, each twice the one before, lay at most 0.9 % apart
(tests/benchmarks/training_trunks.py).
"""


@dataclass(frozen=True, slots=True)
class Size:
    """A model size: the constructor's argument, and the counts of the model that it built.

    Attributes:
        size_value: the value of the model's size parameter (`d_model = 64`, say).
        params: every trainable parameter, shared ones counted once.
        params_non_embedding: `params` without embedding tables; None: not known.
        flops_per_token: forward and backward FLOPs of one unit of data.
        params_active: the parameters that one unit of data passes through, in a mixture of
            experts; None where the model does not state them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    size_value: PositiveCount | Positive
    params: PositiveCount
    params_non_embedding: Count | None
    flops_per_token: Positive
    params_active: Count | None = None


@dataclass(frozen=True, slots=True)
class Trunk:
    """The constant-rate training that trials of one size and seed share before they branch off.

    Attributes:
        reference_tokens: units of data at which the recipe's rules for rate and decay are taken.
        warmup_steps: optimiser steps over which the rate rises, the same for every branch.
        shared_tokens: units of data that the trunk has seen at the branch before this trial's; 0
            for the shortest. This trial continues from there, so it does not pay for them.
        kept_tokens: units of data at which the trial saves the trunk's state for others: at its own
            branch, and where later, shorter trials may branch off.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    reference_tokens: Count
    warmup_steps: Count
    shared_tokens: Count = 0
    kept_tokens: tuple[Count, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """A planned trial: a size, an amount of data and a seed.

    Attributes:
        trial_id: 12 hexadecimal digits of a hash of the content below, never a position.
        budget_flops: its isoFLOP budget.
        tokens: units of data to train on, a whole number of optimiser steps.
        batch_tokens: units of data in one optimiser step.
        seed: seeds initialisation, data order and every other random draw.
        learning_rate_factor: multiplies the recipe's peak learning rates; 1 except in a study of
            learning rates.
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
        """FLOPs of the trial: its tokens times the FLOPs of one token."""
        return self.tokens * self.size.flops_per_token

    @property
    def cost_tokens(self) -> int:
        """Units of data that the trial is trained on, without the trunk before it."""
        return self.tokens - (0 if self.trunk is None else self.trunk.shared_tokens)

    @property
    def cost_flops(self) -> float:
        """FLOPs that the trial costs, without the trunk before it."""
        return self.cost_tokens * self.size.flops_per_token

    @property
    def trunk_id(self) -> str | None:
        """The id that the trials of one trunk share; None without a trunk."""
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
        """Return the trial as plain data, as `plan --json` prints it."""
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
        """Return the trial that `to_dict` made plain; the id is kept as written."""
        return from_plain(cls, data)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read a trial from its flat form, and write it so."""
        return core_schema.no_info_after_validator_function(
            _FlatTrial.trial,
            handler.generate_schema(_FlatTrial),
            serialization=core_schema.plain_serializer_function_ser_schema(cls.to_dict),
        )


@dataclass(frozen=True, slots=True)
class _FlatTrial:
    """A trial as files hold it, with the fields of its size."""

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    trial_id: HexId
    budget_flops: Positive
    size_value: PositiveCount | Positive
    params: PositiveCount
    params_non_embedding: Count | None
    flops_per_token: Positive
    tokens: PositiveCount
    batch_tokens: PositiveCount
    seed: Seed
    params_active: Count | None = None
    learning_rate_factor: Positive = 1.0
    trunk: Trunk | None = None

    def trial(self) -> Trial:
        """Return the trial, its size apart."""
        size = Size(
            self.size_value, self.params, self.params_non_embedding, self.flops_per_token,
            self.params_active,
        )  # fmt: skip
        return Trial(
            self.trial_id, self.budget_flops, size, self.tokens, self.batch_tokens, self.seed,
            self.learning_rate_factor, self.trunk,
        )  # fmt: skip


def _digest(content: Any) -> str:
    """Return 12 hexadecimal digits of a hash of plain data."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class SharedTrunk:
    """The part of a trial's training that came from its trunk, and the part it left for others.

    Attributes:
        trunk_id: the trunk.
        shared_tokens: units of data that the trunk had seen when the trial began.
        kept_tokens: units of data at which the trial saved the trunk's state.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    trunk_id: HexId
    shared_tokens: Count
    kept_tokens: tuple[Count, ...] = ()


@dataclass(frozen=True)
class OptimizerRecord:
    """The optimizer that trained: its class, whether it is the model's own, and its settings."""

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    name: str
    is_own: bool = False
    settings: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Discarded:
    """An attempt that diverged and was trained again with another seed.

    Attributes:
        seed: of the attempt.
        error: why it diverged.
        step: where it stopped.
        last_good: the last step with a usual loss, and that loss.
        flops, wall_seconds, energy_joules: what it spent; None: not known.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    seed: Seed
    error: Text | None
    flops: NotNegative
    wall_seconds: NotNegative
    step: Count | None = None
    last_good: tuple[Count, Finite] | None = None
    energy_joules: NotNegative | None = None


@dataclass(frozen=True, kw_only=True)
class Details:
    """The measurements of an outcome beside its loss; None: not measured, or does not apply.

    Attributes:
        recipe: the recipe that trained, as written in the manifest with its defaults.
        optimizer: the optimizer that trained.
        learning_rates, weight_decays: peaks, one a parameter group.
        steps, batch_tokens, warmup_steps: of the schedule.
        precision: `fp32`, `bf16` or `fp16`.
        untrained_loss: the untrained model's held-out loss.
        heldout_examples: examples behind the loss.
        inexact_parts: a batch's loss as a whole and as the mean of its parts, where they differ.
        tokens_per_second, flops_per_second: rates of training, without evaluation.
        matmul_flops_per_second, utilisation: a large matrix product's rate here, and the share.
        nominal_flops_per_second, mfu: the vendor's peak, and the share.
        energy_joules, energy_source: what the devices took, and what counted it.
        training_seconds, evaluation_seconds, data_wait_fraction: where the time went.
        memory_bytes: the peak, of one process or device.
        device, processes, threads, versions: what it ran on.
        trunk: what it shared with other trials.
        spent_flops: FLOPs really spent, where they are not those of the trial.
        stopped_at_step, last_good: where a trial diverged; the last step with a usual loss, and
            that loss.
        seed: that trained it, where it is not the plan's.
        discarded: the attempts before it.
        tracker_failures: why a tracker was dropped, by its name.
        simulated: whether the loss was drawn from a planted law.
        tried_again: whether the trial was started again at once, since its worker had died.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    recipe: Mapping[str, JsonValue] | None = None
    optimizer: OptimizerRecord | None = None
    learning_rates: tuple[Finite, ...] | None = None
    weight_decays: tuple[Finite, ...] | None = None
    steps: Count | None = None
    batch_tokens: Count | None = None
    warmup_steps: Count | None = None
    precision: str | None = None
    untrained_loss: Finite | None = None
    heldout_examples: Count | None = None
    inexact_parts: tuple[Finite, Finite] | None = None
    tokens_per_second: NotNegative | None = None
    flops_per_second: NotNegative | None = None
    matmul_flops_per_second: NotNegative | None = None
    utilisation: NotNegative | None = None
    nominal_flops_per_second: NotNegative | None = None
    mfu: NotNegative | None = None
    energy_joules: NotNegative | None = None
    energy_source: str | None = None
    training_seconds: NotNegative | None = None
    evaluation_seconds: NotNegative | None = None
    data_wait_fraction: NotNegative | None = None
    memory_bytes: Count | None = None
    device: str | None = None
    processes: Count | None = None
    threads: Count | None = None
    versions: Mapping[str, str] | None = None
    trunk: SharedTrunk | None = None
    spent_flops: NotNegative | None = None
    stopped_at_step: Count | None = None
    last_good: tuple[Count, Finite] | None = None
    seed: Seed | None = None
    discarded: tuple[Discarded, ...] | None = None
    tracker_failures: Mapping[str, str] | None = None
    simulated: bool | None = None
    tried_again: bool | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a trial: its status, and its numbers or its error.

    Attributes:
        trial_id: of the trial.
        status: how it ended.
        loss: mean held-out loss at the end, nats per unit of data; None unless finite.
        tokens: units of data drawn for training.
        flops: `tokens` times the size's FLOPs per token.
        wall_seconds: from the trial's first line of code to its last.
        error: what happened, in a sentence, where it failed or diverged.
        details: everything else that was measured.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    trial_id: HexId
    status: Status
    loss: Finite | None
    tokens: Count
    flops: NotNegative
    wall_seconds: NotNegative
    error: Annotated[str, Field(max_length=1_000_000)] | None = None
    details: Details = field(default_factory=Details)

    @classmethod
    def of_failure(cls, trial_id: str, error: str, *, seconds: float) -> Outcome:
        """Return the outcome of a trial that failed."""
        return cls(trial_id, Status.FAILED, None, 0, 0.0, seconds, shortened(error))


MOST_TEXT = 2_000


def shortened(text: str) -> str:
    """Return a text of at most 2,000 characters, since an error may quote a whole file."""
    if len(text) <= MOST_TEXT:
        return text
    return f"{text[:MOST_TEXT]} ... ({len(text):,} characters in all)"
