"""Finds layers whose result depends on how a batch is split among devices and passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from flops_fit.errors import Note
from flops_fit.manifest.recipe import Recipe
from flops_fit.training.building import build_on

_Norm: Any = nn.modules.batchnorm._BatchNorm


def batch_norm_notes(
    build: Callable[[Any], nn.Module],
    value: int | float,
    *,
    recipe: Recipe,
    device: str,
    devices_per_trial: int,
) -> tuple[Note, ...]:
    """Warn if the model normalises over the batch and the batch is split.

    Args:
        build: makes the model of a size value.
        value: a size value to look at.
        recipe: whether a step accumulates over several passes.
        device: what the trials run on.
        devices_per_trial: processes that share each batch.
    """
    if devices_per_trial == 1 and recipe.micro_batch_examples is None:
        return ()
    model = build_on(build, value, "cpu")
    names = [name for name, layer in model.named_modules() if isinstance(layer, _Norm)]
    if not names:
        return ()
    first = f"the model normalises over the batch (`{names[0]}`, {len(names)} layers in all)"
    said = []
    if devices_per_trial > 1:
        said.append(
            f"{devices_per_trial} devices share each batch, and average its statistics over all of "
            "it, as one device would"
            if device == "cuda"
            else f"{devices_per_trial} processes share each batch, and each normalises its own "
            "part: losses differ from those of one process"
        )
    if recipe.micro_batch_examples is not None:
        said.append(
            f"each pass of {recipe.micro_batch_examples} examples normalises by itself: losses "
            "depend on `micro_batch_examples`"
        )
    return (Note("batch_norm", f"{first}; {'; '.join(said)}"),)
