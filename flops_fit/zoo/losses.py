"""Losses for language models and classifiers, ours and other people's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

_IGNORED = -100  # torch's mark of a target that does not count


def cross_entropy(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats per target.

    Args:
        outputs: logits, float, shape (batch, ..., classes) or, for pictures whose every place has
            a class, (batch, classes, ...); or what holds them: an object or a mapping with
            `logits`, or a tuple that begins with them.
        targets: class numbers, int64, shape (batch, ...).
    """
    logits = logits_of(outputs)
    if logits.shape[:-1] != targets.shape and logits.shape[2:] == targets.shape[1:]:
        return functional.cross_entropy(logits, targets)
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


def logits_of(outputs: Any) -> torch.Tensor:
    """Return the logits among a model's outputs.

    Raises:
        TypeError: there are none.
    """
    found = outputs
    if isinstance(outputs, Mapping):
        found = outputs.get("logits")
    elif not isinstance(outputs, torch.Tensor):
        found = getattr(outputs, "logits", None)
        if found is None and isinstance(outputs, tuple | list) and outputs:
            found = outputs[0]
    if isinstance(found, torch.Tensor) and found.ndim >= 1:
        return found
    has = ", ".join(f"`{key}`" for key in outputs) if isinstance(outputs, Mapping) else ""
    raise TypeError(
        f"no logits in the model's outputs, a `{type(outputs).__name__}`"
        f"{' with ' + has if has else ''}: return them as a tensor or as `logits`"
    )


def count_targets(targets: torch.Tensor) -> torch.Tensor:
    """Return how many targets a cross-entropy is the mean of: those that are not -100."""
    return (targets != _IGNORED).sum()


cross_entropy.count = count_targets  # type: ignore[attr-defined]


class ModelLoss:
    """The loss that the model computes itself, as `transformers` models do if they get `labels`.

    The model is called with the whole batch, and the loss is read from what it returns: `loss` of
    an object or a mapping, the scalar of a tuple (`logits, loss`), or the scalar itself.

    Attributes:
        shifts: whether the model shifts labels by one inside its loss, so that the first label of
            each example does not count.
    """

    is_models_own = True

    def __init__(self, *, shifts: bool = False) -> None:
        self.shifts = shifts

    def of_model(self, model: Any) -> ModelLoss:
        """Return the loss for a model, whose `loss_type` says whether it shifts labels."""
        kinds = [getattr(each, "loss_type", None) for each in model.modules()]
        return ModelLoss(shifts="ForCausalLM" in kinds)

    def __call__(self, outputs: Any, targets: Any) -> torch.Tensor:
        """Return the loss among the model's outputs.

        Raises:
            TypeError: there is none.
        """
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(outputs, torch.Tensor | Mapping):
            loss = getattr(outputs, "loss", None)
            if loss is None and isinstance(outputs, tuple | list):
                scalars = [x for x in outputs if isinstance(x, torch.Tensor) and x.ndim == 0]
                loss = scalars[0] if scalars else None
        if isinstance(loss, torch.Tensor):
            return loss
        raise TypeError(
            f"the model returned no loss, but a `{type(outputs).__name__}`: it returns `loss` only "
            "where the batch has the labels that it asks for"
        )

    def count(self, targets: Any) -> Any:
        """Return the number of labels that the loss is a mean over; examples if there are none."""
        if isinstance(targets, Mapping):
            first = next(each for each in targets.values() if isinstance(each, torch.Tensor))
            return len(first)
        if targets.is_floating_point():
            return len(targets)
        kept = targets[:, 1:] if self.shifts and targets.ndim >= 2 else targets
        return (kept != _IGNORED).sum()


model_loss = ModelLoss()
