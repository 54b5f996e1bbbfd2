"""The optimizer of one trial: parameter groups, their peak rates and decay."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from flops_fit.errors import PluginError
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.rules import Settings, settings
from flops_fit.manifest.trials import OptimizerRecord, Trial
from flops_fit.training.building import build_on

_NORM = re.compile(r"Norm(\dd)?$")
"""Ends the name of a class that normalises: torch's own, and those of most who write their own."""

_TABLE = re.compile(
    r"(^|_)(pos|positions?|positional|cls)(_|$)|(^|_)(emb|embeds?|embeddings?|tokens?)$"
)
"""In the name of a bare parameter that is looked up or added, and multiplies nothing."""


def make_optimizer(
    model: nn.Module,
    *,
    recipe: Recipe,
    trial: Trial,
    device: torch.device,
    build: Callable[[Any], nn.Module] | None = None,
) -> torch.optim.Optimizer:
    """Return the model's own optimizer, or the recipe's.

    The learning rates that its groups hold are peaks: the loop multiplies them by the schedule.

    Args:
        model: whose parameters move.
        recipe: the rules.
        trial: its size, tokens and batch are what the rules go by.
        device: where the model lies.
        build: makes the model of a size; rule `mup` compares with the one at the reference.

    Raises:
        PluginError: the model's `configure_optimizers` gives no single optimizer.
    """
    tokens = trial.tokens if trial.trunk is None else trial.trunk.reference_tokens
    given = settings(recipe, size=trial.size, tokens=tokens, batch_tokens=trial.batch_tokens)
    factor = trial.learning_rate_factor
    if hasattr(model, "configure_optimizers"):
        return _own_optimizer(model, recipe=recipe, given=given, factor=factor, device=device)
    matrices, others = split_parameters(model)
    rates = dict.fromkeys(matrices, given.matrix_rate)
    if recipe.learning_rate_rule == "mup":
        assert build is not None, "rule `mup` compares with the model at the reference"
        assert recipe.reference_size is not None, "checked by Recipe"
        reference = type(trial.size.size_value)(recipe.reference_size)
        shrink = _fan_in_ratios(model, _without_weights(build, reference))
        rates = {p: rate / shrink.get(p, 1.0) for p, rate in rates.items()}
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in matrices if rates[p] == rate],
            "lr": rate * factor,
            "weight_decay": _decay(recipe, given, rate=rate, factor=factor),
        }
        for rate in dict.fromkeys(rates.values())
    ]
    if others:
        groups.append({"params": others, "lr": given.other_rate * factor, "weight_decay": 0.0})
    matrix_rate = given.matrix_rate * factor
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=matrix_rate, momentum=recipe.momentum)
    fused = device.type in ("cpu", "cuda") and all(
        p.is_floating_point() for group in groups for p in group["params"]
    )
    return torch.optim.AdamW(
        groups, lr=matrix_rate, betas=recipe.betas, eps=recipe.eps, fused=fused or None
    )


def _decay(recipe: Recipe, given: Settings, *, rate: float, factor: float) -> float:
    """Return the decay of matrices whose peak rate is `rate * factor`.

    A rule gives the product of rate and decay, which `given` divides by the rate of most matrices.
    `timescale` holds the product at the reference, whose rate is multiplied by `factor` as well.
    """
    if recipe.weight_decay_rule == "constant":
        return given.weight_decay
    decay = given.weight_decay * (given.matrix_rate / rate)
    return decay / factor if recipe.weight_decay_rule == "powerlines" else decay


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters as (weight matrices, all others), each once.

    Decay and the width rule belong to weight matrices: parameters of two dimensions or more that
    are none of these:

    - an embedding's, also where a head shares it;
    - a normalisation's: of a module whose class is named so (`LayerNorm`, `RMSNorm`, ...);
    - a bias: a name with `bias` in its last part;
    - a bare parameter (not a module's `weight`) that is a position, token or embedding by its name
      (`pos_embed`, `cls_token`), or that has but one dimension of more than one entry.
    """
    spared: set[int] = set()
    for module in model.modules():
        is_whole = isinstance(module, nn.Embedding | nn.EmbeddingBag) or bool(
            _NORM.search(type(module).__name__)
        )
        for name, parameter in module.named_parameters(recurse=False):
            if is_whole or "bias" in name or _is_no_matrix(name, parameter):
                spared.add(id(parameter))
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim >= 2 and id(parameter) not in spared
        (matrices if is_matrix else others).append(parameter)
    return matrices, others


def _is_no_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter counts as a table or a vector, whatever its dimensions."""
    if name.startswith("weight"):
        return False
    return bool(_TABLE.search(name)) or sum(length > 1 for length in parameter.shape) < 2


def _fan_in_ratios(model: nn.Module, reference: nn.Module) -> dict[nn.Parameter, float]:
    """Return the ratio of each matrix's fan-in to that of the reference model's same matrix.

    The fan-in is the product of all dimensions but the first, as torch's layers hold weights. The
    same matrix is the one of the same name, or, where the reference has fewer blocks, of the same
    name but for its numbers; one without a counterpart is not in the result.
    """
    shapes: dict[str, torch.Size] = {}
    for name, parameter in reference.named_parameters():
        shapes.setdefault(re.sub(r"\d+", "#", name), parameter.shape)
        shapes[name] = parameter.shape
    ratios = {}
    for name, parameter in model.named_parameters():
        shape = shapes.get(name) or shapes.get(re.sub(r"\d+", "#", name))
        if shape is not None and parameter.ndim >= 2:
            ratios[parameter] = parameter.shape[1:].numel() / shape[1:].numel()
    return ratios


def _without_weights(build: Callable[[Any], nn.Module], value: Any) -> nn.Module:
    """Return the model of a size, for its shapes: on the meta device if it can be built there."""
    with torch.random.fork_rng(devices=[]):
        try:
            return build_on(build, value, "meta")
        except PluginError:
            return build_on(build, value, "cpu")


def _own_optimizer(
    model: nn.Module, *, recipe: Recipe, given: Settings, factor: float, device: torch.device
) -> torch.optim.Optimizer:
    """Call the model's `configure_optimizers` with the arguments that it names."""
    rate = given.matrix_rate * factor
    offered = {
        "learning_rate": rate,
        "lr": rate,
        "weight_decay": _decay(recipe, given, rate=given.matrix_rate, factor=factor),
        "betas": recipe.betas,
        "eps": recipe.eps,
        "device_type": device.type,
    }
    configure: Any = model.configure_optimizers
    parameters = inspect.signature(configure).parameters.values()
    taken = {p.name: offered[p.name] for p in parameters if p.name in offered}
    unknown = [
        p.name
        for p in parameters
        if p.name not in offered
        and p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    name = type(model).__name__
    if unknown:
        raise PluginError(
            f"`{name}.configure_optimizers` asks for `{unknown[0]}`, which is not known here",
            hint=f"it may take {', '.join(offered)}, by name, or nothing",
        )
    made = configure(**taken)
    if isinstance(made, list | tuple) and len(made) == 1:
        made = made[0]
    if not isinstance(made, torch.optim.Optimizer):
        raise PluginError(
            f"`{name}.configure_optimizers` returned a `{type(made).__name__}`: expected one "
            "torch.optim.Optimizer",
            hint="return the optimizer alone: warm-up and decay follow the recipe's schedule, "
            "which ends at each trial's own horizon",
        )
    if not taken.keys() & {"learning_rate", "lr"}:
        for group in made.param_groups:
            group["lr"] *= factor
    return made


def recorded(recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the recipe and the optimizer that really trained, as a trial's record holds them.

    Of the optimizer: its class, whether it is the model's own, and its settings but for rates and
    decays; one that differs from group to group as a list.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)  # Accelerate's wrapper holds it.
    is_own = hasattr(model, "configure_optimizers")
    groups = optimizer.param_groups
    settings_of = {}
    for name in groups[0]:
        if name in ("params", "lr", "initial_lr", "weight_decay"):
            continue
        values = [_plain(group.get(name)) for group in groups]
        settings_of[name] = values[0] if all(each == values[0] for each in values) else values
    written = recipe.to_dict()
    return {
        "recipe": {**written, "optimizer": "own"} if is_own else written,
        "optimizer": OptimizerRecord(type(optimizer).__name__, is_own, settings_of),
    }


def _plain(value: Any) -> Any:
    """Return a setting as a record can hold it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    return value if isinstance(value, bool | int | float | str | None) else type(value).__name__


def set_learning_rates(
    groups: Iterable[dict[str, Any]], peaks: Iterable[float], factor: float
) -> None:
    """Set each group's rate to its peak times `factor`."""
    for group, peak in zip(groups, peaks, strict=True):
        group["lr"] = peak * factor
