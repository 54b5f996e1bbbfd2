"""Call a model on a batch, and a loss on what the model returned: the one place that knows how.

A model is called with the batch's inputs. Inputs that are a mapping become keyword arguments where
`forward` takes their names, as in the `Trainer` of `transformers`; else the mapping is the one
argument. A loss is called with (outputs, targets). The model's own loss (`is_models_own`) needs the
whole batch: the targets go to the model too, and the loss is read from its outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from flops_fit.errors import PluginError
from flops_fit.training.data.streams import TARGET_KEYS, Batch, split_batch

Loss = Callable[[Any, Any], torch.Tensor]


def is_models_own(loss: object) -> bool:
    """Return whether the loss is the one that the model computes itself."""
    return bool(getattr(loss, "is_models_own", False))


def bound(loss: Any, model: nn.Module) -> Any:
    """Return the loss for this model: `loss.of_model(model)` if the loss has this method."""
    bind = getattr(loss, "of_model", None)
    return bind(model) if callable(bind) else loss


def targets_of(batch: Batch, loss: object) -> Any:
    """Return the batch's targets; the whole batch where only the model's own loss knows them."""
    if is_models_own(loss) and isinstance(batch, Mapping) and not _has_targets(batch):
        return batch
    return split_batch(batch)[1]


def run_model(model: nn.Module, batch: Batch, loss: object) -> tuple[Any, Any]:
    """Pass a batch through a model: (outputs, targets), as the loss takes them."""
    if not is_models_own(loss):
        inputs, targets = split_batch(batch)
        return call(model, inputs), targets
    if isinstance(batch, Mapping) and not _has_targets(batch):
        return call(model, batch), batch
    inputs, targets = split_batch(batch)
    taken = _parameters(type(_bare(model)).forward)
    name = next((key for key in ("labels", *TARGET_KEYS) if key in taken.names), None)
    if name is None and taken.takes_any:
        name = "labels"
    if name is None:
        return _called(model, inputs, targets), targets
    return _called(model, inputs, **{name: targets}), targets


def loss_on(model: nn.Module, batch: Batch, loss: Any) -> torch.Tensor:
    """Return the loss of a model on a batch."""
    value: torch.Tensor = loss(*run_model(model, batch, loss))
    return value


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model on inputs: by keyword if they are a mapping with names that it takes."""
    return _called(model, inputs)


def _called(model: nn.Module, inputs: Any, *more: Any, **named: Any) -> Any:
    if isinstance(inputs, Mapping):
        taken = _parameters(type(_bare(model)).forward)
        keywords = taken.of(inputs)
        if keywords is not None:
            return model(*more, **{**keywords, **named})
    return model(inputs, *more, **named)


def _has_targets(batch: Mapping[Any, Any]) -> bool:
    return any(key in batch for key in TARGET_KEYS)


def _bare(model: nn.Module) -> Any:
    """Return the user's model inside torch's wrappers for compiling and sharing batches."""
    bare: Any = model
    while True:
        if isinstance(bare, DistributedDataParallel):
            bare = bare.module
        elif "_orig_mod" in getattr(bare, "_modules", {}):
            bare = bare._orig_mod
        else:
            return bare


class _Parameters:
    """The names that a `forward` takes."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.names: frozenset[str] = frozenset()
        self.required: frozenset[str] = frozenset()
        self.takes_any = False
        try:
            found = list(inspect.signature(forward).parameters.values())[1:]  # without `self`
        except (TypeError, ValueError):
            return
        by_name = [p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.names = frozenset(p.name for p in by_name)
        self.required = frozenset(
            p.name
            for p in found
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        )
        self.takes_any = any(p.kind is p.VAR_KEYWORD for p in found)

    def of(self, inputs: Mapping[Any, Any]) -> dict[str, Any] | None:
        """Return the keyword arguments in a mapping; None if the mapping is one argument.

        Entries that `forward` does not name are left out, as `Trainer` does.
        """
        if not self.required <= inputs.keys():
            return None
        known = {key: inputs[key] for key in inputs if key in self.names}
        if known:
            return known
        return dict(inputs) if self.takes_any else None


@lru_cache(maxsize=64)
def _parameters(forward: Callable[..., Any]) -> _Parameters:
    return _Parameters(forward)


def explain_call(error: Exception, model: nn.Module) -> PluginError:
    """Return the error for a `forward` that failed on the data's inputs."""
    return PluginError(
        f"`{type(_bare(model)).__name__}.forward` failed on the data's inputs: "
        f"{type(error).__name__}: {error}",
        hint="call the model by hand on one batch of the data: it gets `inputs` as they are, or "
        "the batch's entries by keyword if `forward` takes their names",
    )
