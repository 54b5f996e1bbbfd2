"""The model of a trial: as its seed draws it, and compiled where the recipe says so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from flops_fit.points import Trial
from flops_fit.recipe import Recipe
from flops_fit.training.counting import Build
from flops_fit.training.session import Session, seed_everything
from flops_fit.training.streams import derive_seed


def initial_model(trial: Trial, build: Build, session: Session) -> nn.Module:
    """The model as the trial's seed alone draws it, on the device, ready to train."""
    seed_everything(derive_seed(trial.seed, "initialisation") % 2**63)
    with torch.device("cpu"):
        model = build(trial.size.size_value)
    if session.world > 1 and session.device.type == "cuda":
        convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
        model = convert(model)
    model = model.to(session.device)
    model.train()
    return model


def compiled(model: nn.Module, recipe: Recipe) -> Any:
    """The model as its steps call it; its parameters stay those of the model given."""
    if not recipe.compile:
        return model
    return torch.compile(model, mode="reduce-overhead" if recipe.cuda_graphs else None)


def own_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each parameter zeros of its own, to which every backward pass adds.

    A gradient that autograd takes over from a CUDA graph lies in the graph's memory: the next pass
    overwrites it, and accumulated gradients are silently those of the last part.
    """
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)


def clear_gradients(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], *, as_zeros: bool
) -> None:
    """Begin the next step without gradients; `as_zeros` keeps the memory that they lie in.

    Those of parameters that the optimizer does not move count in the norm that is clipped, too.
    """
    if as_zeros:
        torch._foreach_zero_([p.grad for p in parameters if p.grad is not None])
        return
    # The optimizer's own way takes some 50 microseconds, 1 % of a small model's step.
    for group in ({"params": parameters}, *optimizer.param_groups):
        for parameter in group["params"]:
            parameter.grad = None
