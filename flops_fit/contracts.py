"""What a plugin offers: Model, Data, Loss, Executor (Protocols; no torch at run time).

The protocols are structural: a plugin keeps them by shape and never needs to import this package.
A batch is what the user's DataLoader gives: a mapping with `inputs` and `targets`, a pair
(inputs, targets), or a single tensor that is both.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Model(Protocol):
    """A torch.nn.Module, built by `factory(**{size_param: value}, **derived, **kwargs)`.

    Optional methods: `configure_optimizers(...) -> torch.optim.Optimizer` replaces the recipe's
    optimizer; `flops_per_token() -> float` serves `[flops] count = "model"`;
    `num_params(non_embedding=True)` gives the count without embeddings, `num_params(active=True)`
    that of a mixture of experts which one unit of data passes through. The factory, or the module
    that it is defined in, may offer `count_flops(model, batch)`: the forward and backward FLOPs of
    a batch, for `[flops] count = "plugin"`.
    """

    def forward(self, inputs: Any) -> Any:
        """Outputs for one batch of inputs."""
        ...

    def num_params(self) -> int:
        """How many trainable parameters the model has."""
        ...


class Loss(Protocol):
    """A callable that compares a model's outputs with the targets."""

    def __call__(self, outputs: Any, targets: Any) -> torch.Tensor:
        """Mean loss of the batch in nats per unit of data: a scalar tensor with a gradient."""
        ...


@dataclass(frozen=True)
class DataFacts:
    """What a data plugin says of its data, as attributes of what it returns.

    Attributes:
        unit: what one unit of data is called: `token`, `image`, ...
        units_per_example: how many units one example holds.
        unique_units: how many different units the training set holds; None for an endless stream.
        loss_unit: what the loss is measured in (`nats per byte`).
        provenance: what identifies the data (names, sizes, sha256); recorded with the run.
        causal: whether each target must be predicted from what comes before it: examples are
            sequences along their first dimension, and an output may not see later inputs.
    """

    unit: str = "example"
    units_per_example: int = 1
    unique_units: int | None = None
    loss_unit: str = "nats"
    provenance: Mapping[str, Any] | None = None
    causal: bool = False


@dataclass(frozen=True)
class Resources:
    """What one task asks of an executor."""

    num_devices: int = 1
    wall_seconds: float | None = None
    memory_bytes: int | None = None


class Executor(Protocol):
    """A small `concurrent.futures.Executor`: it knows neither trials nor torch."""

    def submit(self, task: tuple[str, ...], resources: Resources) -> Future[None]:
        """Start the trials with these ids somewhere; the future ends when they have ended.

        A future that raises says that the worker died; what the trials left is in their outcome
        files, whichever way the future ends.
        """
        ...

    def shutdown(self) -> None:
        """End every worker at once; what they had not finished is taken up on resume."""
        ...
