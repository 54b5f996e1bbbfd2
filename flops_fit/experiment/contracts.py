"""Protocols of the plugins: Model, Data, Loss and Executor; torch is not imported.

The protocols are structural: a plugin keeps them by shape and never needs to import this package.
A batch is what the user's DataLoader gives: a mapping with `inputs` and `targets`, a pair
(inputs, targets), or a single tensor that is both.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


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
        """Return the number of trainable parameters."""
        ...
