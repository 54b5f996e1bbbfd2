"""Counts a model's parameters: all, those outside embedding tables, and those active for a token.

Which of them is called N moves the exponents of a law, so each is kept. A model counts its own
parameters (`num_params`); `counted` adds that method to what any factory builds.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

from flops_fit.errors import PluginError


@dataclass(frozen=True)
class Params:
    """The parameters of a model.

    Attributes:
        params: all that are trained, shared ones once.
        non_embedding: those outside embedding tables.
        active: those that one unit of data passes through; None where the model does not say.
    """

    params: int
    non_embedding: int
    active: int | None = None


def counted(
    build: Callable[..., Any], *, active: Callable[[Any], int] | None = None
) -> Callable[..., Any]:
    """Return the factory with `num_params()` added to its models; shared weights count once.

    Args:
        build: a class or a function that returns a `torch.nn.Module`.
        active: for a mixture of experts, how many of a model's parameters one token passes
            through. Without it the count is worked out for `transformers` models whose
            configuration says how many experts there are and how many a token visits.

    Returns:
        A function with the factory's own arguments, to be named in a manifest
        (`plugin = "my_module:build"`) or handed to `find_optimal`.
    """

    @functools.wraps(build, updated=())
    def built(*args: Any, **kwargs: Any) -> Any:
        model = build(*args, **kwargs)
        if active is not None or not callable(getattr(model, "num_params", None)):
            model.num_params = MethodType(_counter(model, active), model)
        return model

    if hasattr(build, "count_flops"):
        built.count_flops = build.count_flops  # type: ignore[attr-defined]
    return built


def params_of(model: Any) -> Params:
    """Return a model's parameters: by its own `num_params`, or else all that are trainable.

    `num_params(non_embedding=True)` and `num_params(active=True)` are asked for where the method
    takes these arguments. Without the first, the weights of `nn.Embedding`s are subtracted.

    Raises:
        PluginError: `num_params` raised, or gave no positive whole number.
    """
    own: Any = getattr(model, "num_params", None)
    if not callable(own):
        own = MethodType(_counter(model, None), model)
    taken = _taken(model, own)
    params = _whole(model, own, {})
    if "non_embedding" in taken:
        non_embedding = _whole(model, own, {"non_embedding": True})
    else:
        non_embedding = params - _embedded(model)
    active = None
    if "active" in taken:
        active = _whole(model, own, {"active": True})
    return Params(params, non_embedding, active)


def _taken(model: Any, own: Any) -> frozenset[str]:
    """Return the names of the arguments of `num_params`, none of which may be required.

    Raises:
        PluginError: one is.
    """
    parameters = inspect.signature(own).parameters.values()
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise PluginError(
            f"`{type(model).__name__}.num_params` needs the argument `{needed[0]}`: it is called "
            "without one",
            hint=f"give it a default (`{needed[0]}=True`), or remove the method: trainable "
            "parameters are then counted for you",
        )
    return frozenset(p.name for p in parameters)


def _whole(model: Any, own: Any, asked: dict[str, bool]) -> int:
    """Return a count of parameters, checked.

    Raises:
        PluginError: the method raised, or gave no positive whole number.
    """
    called = f"`{type(model).__name__}.num_params({', '.join(f'{key}=True' for key in asked)})`"
    if lazy := [name for name, p in model.named_parameters() if is_lazy(p)]:
        raise PluginError(
            f"the parameter `{lazy[0]}` of `{type(model).__name__}` has no shape yet: a lazy layer "
            "gets it in its first pass",
            hint="pass one dummy batch through the model at the end of its constructor, or state "
            "the layer's sizes (`nn.Linear` in place of `nn.LazyLinear`)",
        )
    try:
        count = own(**asked)
    except Exception as error:
        raise PluginError(
            f"{called} raised {type(error).__name__}: {error}",
            hint="let it return `sum(p.numel() for p in self.parameters() if p.requires_grad)`, or "
            "remove the method: trainable parameters are then counted for you",
        ) from error
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise PluginError(
            f"{called} returned {count!r}: expected a whole number of 1 or more",
            hint="return how many trainable parameters the model has",
        )
    return count


def is_lazy(parameter: Any) -> bool:
    """Return whether a parameter has no shape yet."""
    from torch.nn.parameter import is_lazy as has_no_shape

    return bool(has_no_shape(parameter))


def _embedded(model: Any) -> int:
    """Trainable parameters in embedding tables."""
    from torch import nn

    tables = {
        id(p): p.numel()
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for p in module.parameters(recurse=False)
        if p.requires_grad
    }
    return sum(tables.values())


def _counter(model: Any, active: Callable[[Any], int] | None) -> Callable[..., int]:
    """Return the method that `counted` adds; it takes `active` only if that is known."""
    if active is None:
        share = _routed_share(model)
        if share is None:
            return _trainable

        def active(model: Any) -> int:
            return _trainable(model) - round(_routed(model) * (1 - share))

    tell = active

    def num_params(model: Any, active: bool = False) -> int:
        return tell(model) if active else _trainable(model)

    return num_params


def _trainable(model: Any) -> int:
    """Return every trained parameter, shared ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _routed(model: Any) -> int:
    """Trained parameters of the experts among which a router chooses."""
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if p.requires_grad and "experts" in name.split(".")
    )


def _routed_share(model: Any) -> float | None:
    """Return the share of routed experts that a token visits, by a `transformers` configuration.

    The names are those of Mixtral, Qwen and OLMoE, and DeepSeek.
    """
    config = getattr(model, "config", None)
    visited = getattr(config, "num_experts_per_tok", None)
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        experts = getattr(config, name, None)
        if experts and visited and _routed(model):
            return float(visited / experts)
    return None
