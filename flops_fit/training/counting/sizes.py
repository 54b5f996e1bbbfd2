"""Count params and FLOPs of model sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from flops_fit.errors import Note, PluginError
from flops_fit.manifest.trials import Size
from flops_fit.training.building import Build, build_on
from flops_fit.training.calling import Loss
from flops_fit.training.counting.flops import Counted, count_flops, own_flops
from flops_fit.training.counting.gaps import check_counted, gaps
from flops_fit.training.counting.params import params_of
from flops_fit.training.data.batches import LoadedData, first_examples

CountFlops = Callable[[Any, Any], Any]


Count = Literal["counted", "6nd", "model"] | CountFlops


def count_params(build: Build, value: int | float) -> int:
    """Return the model's own count of its parameters at a size.

    Raises:
        PluginError: the model cannot be built at that size, or does not count.
    """
    return params_of(_build_light(build, value)).params


def describe_sizes(
    build: Build,
    size_values: Sequence[int | float],
    data: LoadedData,
    *,
    count: Count,
    loss: Loss | None = None,
) -> tuple[list[Size], list[Note]]:
    """Return every size with its params and FLOPs; if possible, without allocating weights.

    Args:
        build: makes the model of a size value on torch's current default device.
        size_values: which sizes.
        data: one of its examples is what FLOPs are counted on.
        count: `counted` (op by op), `6nd` (6 params), `model` (its own `flops_per_token()`), or a
            function (model, batch) -> forward and backward FLOPs of the batch.
        loss: counted with the model; None: the model alone.

    Returns:
        The sizes, and notes of what the count leaves out.

    Raises:
        PluginError: a size cannot be built, counted or run.
    """
    sizes, counts = [], []
    example = first_examples(data.train, 1) if count == "counted" or callable(count) else None
    for value in size_values:
        model = _build_light(build, value)
        has = params_of(model)
        if count == "6nd":
            flops = 6.0 * has.params
        elif count == "model":
            flops = _own_flops(model, data.facts.units_per_example)
        elif callable(count):
            flops = own_flops(count, build, value, example) / data.facts.units_per_example
        else:
            counted: Counted = count_flops(build, value, example, loss)
            counts.append((value, counted))
            flops = check_counted(value, counted) / data.facts.units_per_example
        sizes.append(Size(value, has.params, has.non_embedding, flops, has.active))
    return sizes, gaps(counts)


def _build_light(build: Build, value: int | float) -> nn.Module:
    """Return the model on the meta device, or with weights if it cannot be built there."""
    try:
        return build_on(build, value, "meta")
    except PluginError:
        return build_on(build, value, "cpu")


def _own_flops(model: nn.Module, units_per_example: int) -> float:
    """Return the FLOPs per unit of data that the model states.

    A method that needs an argument is given how many units an example holds: a context's length.
    """
    name = type(model).__name__
    own: Any = getattr(model, "flops_per_token", None)
    if own is None:
        raise PluginError(
            f'`{name}` has no method `flops_per_token()`, which [flops] count = "model" asks for',
            hint='add it, or set count = "counted"',
        )
    flops = own
    if callable(own):
        needed = [p for p in inspect.signature(own).parameters.values() if p.default is p.empty]
        needed = [p for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        flops = own(units_per_example) if needed else own()
    if isinstance(flops, bool) or not isinstance(flops, int | float) or not flops > 0:
        raise PluginError(
            f"`{name}.flops_per_token()` returned {flops!r}: expected a positive number",
            hint="return forward and backward FLOPs of one unit of data",
        )
    return float(flops)
