"""The loss on the fixed held-out set, whole or an evenly spaced part of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from flops_fit.errors import PluginError
from flops_fit.manifest.recipe import Recipe
from flops_fit.training.calling import Loss, loss_on
from flops_fit.training.data.batches import heldout_batches
from flops_fit.training.data.streams import (
    Batch,
    concatenate,
    count_examples,
    map_tensors,
)
from flops_fit.training.session import Session
from flops_fit.training.weights import PARTS, batch_weight, compare_parts, differ, mean_of

_RESIDENT_BYTES = 2**30
"""A held-out set up to this size lies on the device; a larger one travels at each evaluation."""


class HeldOut:
    """The fixed held-out set on a device.

    Attributes:
        examples: how many examples it holds.
        counts: examples of each batch.
        weights: what each batch weighs in the mean: units that count in it, or examples.
    """

    def __init__(self, source: Any, *, recipe: Recipe, device: torch.device, loss: Loss) -> None:
        """Read the set once; every evaluation sees the same batches.

        Raises:
            PluginError: it yields nothing, or nothing in it counts for the loss.
        """
        self.device, self._recipe = device, recipe
        batches = heldout_batches(
            source, batch=recipe.heldout_batch, examples=recipe.heldout_examples
        )
        self.counts = [count_examples(batch) for batch in batches]
        self.weights = [batch_weight(loss, batch) for batch in batches]
        if not sum(self.weights):
            raise PluginError(
                "the held-out set has no unit that the loss counts: its `count(targets)` is 0",
                hint="hold out examples whose targets are not all ignored",
            )
        self.examples = sum(self.counts)
        fits = sum(_num_bytes(batch) for batch in batches) <= _RESIDENT_BYTES
        self._batches = [_to(batch, device) for batch in batches] if fits else batches

    def losses(
        self, model: nn.Module, loss: Loss, *, chosen: Iterable[int] | None = None
    ) -> dict[int, float]:
        """Mean loss of each chosen batch by its number (all if None), without a gradient."""
        numbers = list(range(len(self._batches))) if chosen is None else list(chosen)
        was_training = model.training
        model.eval()
        values = []
        try:
            with torch.no_grad():
                for number in numbers:
                    batch = _to(self._batches[number], self.device)
                    values.append(loss_on(model, batch, loss).detach().clone())
        finally:
            model.train(was_training)
        if not values:
            return {}
        return dict(zip(numbers, torch.stack(values).double().tolist(), strict=True))

    def mean(self, losses: dict[int, float]) -> float:
        """Return the mean over examples, or over units that count, of what `losses` gave."""
        return mean_of([*losses.values()], [self.weights[number] for number in losses])

    def parts(self, model: nn.Module, loss: Loss, *, session: Session) -> dict[str, Any]:
        """`inexact_parts` where a batch's loss is not the mean of its parts' (whole, parts).

        The first process looks, unless nothing is passed in parts: no training step, and one
        held-out batch.
        """
        is_split = session.world > 1 or self._recipe.micro_batch_examples is not None
        if session.rank or (len(self.counts) == 1 and not is_split):
            return {}
        batch = self._batches[0]
        if self.counts[0] < PARTS:
            # Batches that are padded to a length of their own cannot be joined.
            with contextlib.suppress(RuntimeError):
                batch = concatenate(self._batches[:PARTS])
        compared = compare_parts(model, loss, _to(batch, self.device))
        is_exact = session.precision == "fp32" and self.device.type == "cpu"
        if compared is None or not differ(*compared, is_exact=is_exact):
            return {}
        return {"inexact_parts": tuple(compared)}

    def spread(self, examples: float) -> list[int]:
        """Return indices of evenly spaced batches with about this many examples, at least one."""
        total = len(self.counts)
        count = max(1, min(total, round(total * examples / self.examples)))
        return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def _num_bytes(batch: Batch) -> int:
    """Bytes of every tensor in a batch."""
    total = 0

    def add(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    map_tensors(add, batch)
    return total


def _to(batch: Batch, device: torch.device) -> Batch:
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def check_loss(value: object, *, name: str = "the loss") -> torch.Tensor:
    """Return the loss of one batch, if it is a scalar tensor with a gradient.

    Raises:
        PluginError: it is something else.
    """
    if not isinstance(value, torch.Tensor):
        raise PluginError(
            f"{name} returned a `{type(value).__name__}`: expected a scalar tensor",
            hint="return the tensor itself, without `.item()` or `float()`",
        )
    if value.ndim != 0:
        raise PluginError(
            f"{name} returned a tensor of shape {tuple(value.shape)}: expected a scalar",
            hint="return the mean over the batch",
        )
    if not value.requires_grad:
        raise PluginError(
            f"{name} returned a scalar without a gradient",
            hint="compute it from the model's outputs with torch, without `.detach()` or "
            "`torch.no_grad()`",
        )
    return value
