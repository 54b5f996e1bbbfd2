"""Losses for the example models."""

from __future__ import annotations

import torch
from torch.nn import functional


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats per target.

    Args:
        outputs: logits, float, shape (batch, ..., classes).
        targets: class numbers, int64, shape (batch, ...).
    """
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def count_targets(targets: torch.Tensor) -> torch.Tensor:
    """How many targets a cross-entropy is the mean of: those that are not -100."""
    return (targets != -100).sum()


cross_entropy.count = count_targets  # type: ignore[attr-defined]
