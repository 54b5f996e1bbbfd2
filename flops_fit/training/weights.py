"""Weights of the parts of a batch, so that their mean losses add up to that of the whole.

A part weighs as much as it has examples. Where a loss is a mean over fewer units than there are
(cross-entropy with ignored targets, say), that is wrong; such a loss says by `count(targets)` how
many units it is the mean of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from flops_fit.errors import PluginError
from flops_fit.training.calling import loss_on, targets_of
from flops_fit.training.data.streams import Batch, count_examples, map_tensors
from flops_fit.training.session import Session

Weight = float | torch.Tensor

TOLERANCE = 1e-4
"""Share of a loss by which float32 sums in another order may differ, with room to spare."""

_SUM_TOLERANCE = 0.02  # for parts of unequal lengths
_ROUGH_TOLERANCE = 1e-2  # of bf16, fp16 and TF32
PARTS = 8
"""Into how many parts a batch is cut to see whether they add up."""

MEND = (
    "give the loss a `count(targets)`, the number of units that it is the mean of: `my_loss.count "
    "= lambda targets: (targets != -100).sum()`"
)

SUM_MEND = (
    'return the mean over the batch: drop `reduction="sum"`, or divide by the number of units. A '
    "sum grows with the batch, so losses of different batches cannot be compared"
)


def is_sum(whole: float, parts: float, *, num_parts: int = PARTS) -> bool:
    """Return whether a batch's loss is the sum of its equal parts' losses; `parts`: their mean."""
    return parts != 0 and abs(whole / parts / num_parts - 1) < _SUM_TOLERANCE


def units_of(loss: Any, targets: Any) -> Weight | None:
    """Return the number of units that the loss is a mean over; None if the loss does not state it.

    A tensor on a device other than the CPU stays there: nothing waits for it.

    Raises:
        PluginError: its `count` gives something other than a number.
    """
    count = getattr(loss, "count", None)
    if callable(count):
        units = count(targets)
        if isinstance(units, torch.Tensor) and units.numel() == 1:
            return float(units) if units.device.type == "cpu" else units.detach().reshape(())
        if isinstance(units, int | float):
            return float(units)
        raise PluginError(
            f"the loss's `count(targets)` gave a `{type(units).__name__}`: expected one number",
            hint="return how many units the loss is the mean of",
        )
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and isinstance(targets, torch.Tensor):
        return None if targets.is_floating_point() else _units_of_classes(loss, targets)
    return None


def _units_of_classes(loss: nn.CrossEntropyLoss | nn.NLLLoss, targets: torch.Tensor) -> Weight:
    """Return the divisor of torch's losses: the targets that are not ignored, by class weight."""
    kept = targets != loss.ignore_index
    if loss.weight is not None:
        kept = kept * loss.weight.to(targets.device)[targets.clamp(min=0)]
    units = kept.sum()
    return float(units) if units.device.type == "cpu" else units


def part_weights(
    loss: Any, batch: Batch, bounds: Sequence[tuple[int, int]], *, session: Session
) -> list[Weight]:
    """Return the factor of each part's mean loss.

    Summed over the parts, and averaged over the processes, they give the mean of the full batch.

    Args:
        loss: may have a `count`.
        batch: this process's share.
        bounds: first example of each part, and the one after its last.
        session: the processes; all must ask.
    """
    if len(bounds) == 1 and session.world == 1:
        return [1.0]
    targets = targets_of(batch, loss)
    units = [
        units_of(loss, map_tensors(lambda t, at=slice(*ends): t[at], targets))  # type: ignore[misc]
        for ends in bounds
    ]
    known = [each for each in units if each is not None]
    if len(known) < len(units):
        return [(end - start) / bounds[-1][1] for start, end in bounds]
    own: Weight = sum(known[1:], start=known[0])
    if session.world == 1:
        return [each / own if isinstance(own, torch.Tensor) or own else 0.0 for each in known]
    mine = torch.as_tensor(own, dtype=torch.float32, device=session.device)
    mean = session.accelerator.reduce(mine, reduction="sum") / session.world
    return [each / mean.clamp(min=1e-30) for each in known]


def weighed(value: torch.Tensor, weight: Weight) -> torch.Tensor:
    """Return the part's loss times its weight; zero for a part without units."""
    if isinstance(weight, float):
        return value if weight == 1.0 else value * weight
    weight = weight.to(value)
    return torch.where(weight > 0, value, torch.zeros_like(value)) * weight


def batch_weight(loss: Any, batch: Batch) -> float:
    """Return a batch's weight in a mean over batches: its units, or else its examples."""
    units = units_of(loss, targets_of(batch, loss))
    return float(count_examples(batch) if units is None else units)


def compare_parts(model: nn.Module, loss: Any, batch: Batch) -> tuple[float, float] | None:
    """Return the loss of a batch and the mean of its parts', by their weights.

    None where it has one example, or a loss is not finite for another reason than having no units.
    The model is asked in evaluation mode.
    """
    count = count_examples(batch)
    edges = [count * at // PARTS for at in range(PARTS + 1)]
    ends = [(start, end) for start, end in pairwise(edges) if end > start]
    parts = [map_tensors(lambda t, at=slice(*each): t[at], batch) for each in ends]  # type: ignore[misc]
    if len(parts) < 2:
        return None
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            losses = [float(loss_on(model, part, loss)) for part in (batch, *parts)]
    finally:
        model.train(was_training)
    weights = [batch_weight(loss, part) for part in parts]
    mean = mean_of(losses[1:], weights)
    return (losses[0], mean) if math.isfinite(losses[0]) and math.isfinite(mean) else None


def mean_of(losses: Sequence[float], weights: Sequence[float]) -> float:
    """Return the weighted mean of losses; a loss without weight is ignored, even if not finite."""
    pairs = [(loss, weight) for loss, weight in zip(losses, weights, strict=True) if weight]
    whole = sum(weight for _, weight in pairs)
    return sum(loss * weight for loss, weight in pairs) / whole if whole else math.nan


def differ(whole: float, parts: float, *, is_exact: bool = True) -> bool:
    """Return whether a batch's loss differs from the mean of its parts' by more than rounding.

    `is_exact`: float32 is computed as such.
    """
    tolerance = TOLERANCE if is_exact else _ROUGH_TOLERANCE
    return abs(whole - parts) > tolerance * max(abs(whole), abs(parts), 1e-6)
