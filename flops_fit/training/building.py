"""Builds the model of a trial from its seed, and compiles it if the recipe asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from flops_fit.errors import PluginError
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Trial
from flops_fit.training.data.streams import derive_seed
from flops_fit.training.session import Session, seed_everything


def initial_model(trial: Trial, build: Build, session: Session) -> nn.Module:
    """Return the model as the trial's seed alone draws it, on the device, ready to train."""
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
    """Return the model as its steps call it; its parameters stay those of the model given."""
    if not recipe.compile:
        return model
    return torch.compile(model, mode="reduce-overhead" if recipe.cuda_graphs else None)


def own_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each parameter a gradient of zeros, to which every backward pass adds.

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


Build = Callable[[Any], nn.Module]


def build_on(build: Build, value: Any, device: str) -> nn.Module:
    """Return the model of a size, on a device.

    Raises:
        PluginError: the constructor raised, or gave no module.
    """
    try:
        with torch.device(device):
            model = build(value)
    except PluginError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise PluginError(
            f"the model cannot be built at size {value}: {kind}: {error}",
            hint="call the constructor by hand with the manifest's `size_param` and `kwargs`",
        ) from error
    if not isinstance(model, nn.Module):
        raise PluginError(
            f"the model at size {value} is a `{type(model).__name__}`: expected a torch.nn.Module",
            hint="let the plugin be a Module class, or a function that returns a Module",
        )
    return model
