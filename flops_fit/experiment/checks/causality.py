"""Tests whether an output depends on its own target, by changing inputs and targets.

Nothing is assumed of what the numbers mean. Sequences are tensors with examples in the first and
positions in the second dimension; another example's values from some position on are always
possible values, so they replace what is there, and the outputs are compared. Three offsets are
found that way and their sum decides:

- data: the target at position q is the input at position q + k (k = 1: the next one);
- loss: the output at position p is scored on the target at position p + m (m = 1: the loss shifts);
- model: an output that changes with later inputs looks ahead.

Output p is asked for input p + m + k. It must lie ahead (m + k >= 1), and the model must not look
ahead. The weights get noise first: many models start with layers that pass nothing on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import nn

from flops_fit.errors import PluginError
from flops_fit.experiment.checks.findings import DoubtfulError, InapplicableError
from flops_fit.training.calling import call, is_models_own
from flops_fit.training.data.streams import Batch, map_tensors, split_batch

_NOISE = 0.05
"""Standard deviation of what is added to each weight."""

_TOLERANCE = 1e-4
"""Change of an output, as a share of the largest one, that is more than rounding."""

_SHIFTS = range(-3, 4)
_SAME_SHARE = 0.99
_IGNORED = -100  # torch's mark of a target that does not count


SHIFT_MEND = (
    "shift the targets by one: `inputs = row[:-1]`, `targets = row[1:]`; or, where the model "
    "shifts labels inside its own loss (as in transformers), take that loss: "
    '`[loss] plugin = "model"`'
)


@dataclass(frozen=True)
class _Case:
    """A model and a batch of sequences to test it on."""

    model: nn.Module
    inputs: Any
    targets: Any
    length: int


def check_causal(
    model: nn.Module, batch: Batch, loss: Callable[[Any, Any], torch.Tensor], *, declared: bool
) -> str:
    """No output sees its own target.

    Args:
        model: its weights may be trained or not; noise is added to them.
        batch: several examples.
        loss: (outputs, targets) -> scalar tensor.
        declared: whether the data states that it is causal.

    Raises:
        PluginError: an output sees its target.
        DoubtfulError: it does, but the data does not say that it must not; or it cannot be told.
        InapplicableError: the data neither says that it is causal nor looks so.
    """
    inputs, targets = split_batch(batch)
    length = _length(targets)
    if length is None:
        if not declared:
            raise InapplicableError("the data is not declared causal")
        raise DoubtfulError(
            "the data is declared causal, but its targets have no positions",
            hint="give targets the shape (examples, positions, ...), or remove `causal`",
        )
    case = _Case(_with_noise(model), inputs, targets, length)
    ahead = _offset_of_data(case)
    if not declared and is_models_own(loss) and not getattr(loss, "shifts", False):
        raise InapplicableError("the model's own loss is not declared causal")
    if not declared and (ahead is None or not 0 <= ahead <= 1):
        raise InapplicableError("the data is not declared causal")
    try:
        return _judge(case, loss, ahead)
    except PluginError as error:
        if declared:
            raise
        hint = f"{error.hint}; or, if that is intended, declare it: [data] causal = false"
        where = "the inputs themselves" if ahead == 0 else "the inputs shifted by one position"
        message = f"the targets are {where}, yet {error.message}"
        if ahead == 0:
            message = f"the targets are {where}: {error.message}"
        raise DoubtfulError(message, hint=hint) from error


def unshifted(model: nn.Module, batch: Batch, loss: Callable[[Any, Any], torch.Tensor]) -> bool:
    """Return whether the targets are not shifted: each output is scored on its own input.

    Only for whole numbers in sequences, which a model with an output for each position can copy.
    """
    inputs, targets = split_batch(batch)
    length = _length(targets)
    if length is None or is_models_own(loss):
        return False
    tensor = next(t for t in tensors_in(targets) if t.ndim >= 2 and t.shape[1] > 1)
    case = _Case(model.eval(), inputs, targets, length)
    if tensor.is_floating_point() or _offset_of_data(case) != 0:
        return False
    return _offset_of_loss(case, loss) == 0


def _judge(case: _Case, loss: Callable[[Any, Any], torch.Tensor], ahead: int | None) -> str:
    """Combine the three offsets."""
    shift = _offset_of_loss(case, loss)
    asked = None if ahead is None or shift is None else ahead + shift
    if asked is not None and asked <= 0:
        where = "at the same position" if asked == 0 else f"{-asked} positions before"
        raise PluginError(
            f"the targets are leaked: each output is scored on a value that its input {where} says",
            hint=SHIFT_MEND,
        )
    seen = _look_ahead(case)
    if seen is not None:
        output, changed = seen
        raise PluginError(
            f"the model sees future inputs: output {output} changes with the inputs "
            f"from position {changed} on",
            hint="mask attention (`is_causal=True`), pad convolutions on the left only, and do not "
            "normalise or pool over positions",
        )
    if asked is not None and asked > 1:
        raise DoubtfulError(
            f"outputs are scored on the input {asked} positions ahead, not the next one: the "
            "data shifts the targets and the loss shifts them again",
            hint="shift in one place only",
        )
    told = "no output changes with later inputs"
    return told if asked is None else f"{told}; each is scored on the next input"


def _with_noise(model: nn.Module) -> nn.Module:
    """Add noise to the weights, so that no layer is zero; turn off dropout."""
    noisy = model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in noisy.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter.device, parameter.dtype), alpha=_NOISE)
    return noisy


def _length(targets: Any) -> int | None:
    """Return the number of positions of the targets."""
    for tensor in tensors_in(targets):
        if tensor.ndim >= 2 and tensor.shape[1] > 1:
            return int(tensor.shape[1])
    return None


def _offset_of_data(case: _Case) -> int | None:
    """Return k, if the target at q is the input at q + k; None if no shift fits, or several do."""
    targets = next(t for t in tensors_in(case.targets) if t.ndim >= 2 and t.shape[1] > 1)
    for inputs in tensors_in(case.inputs):
        if inputs.shape != targets.shape or inputs.dtype != targets.dtype:
            continue
        shares = {}
        for shift in _SHIFTS:
            low, high = max(0, -shift), case.length - max(0, shift)
            kept = targets[:, low:high] != _IGNORED
            if high > low and kept.any():
                same = targets[:, low:high] == inputs[:, low + shift : high + shift]
                shares[shift] = float(same[kept].float().mean())
        fitting = [shift for shift, share in shares.items() if share >= _SAME_SHARE]
        if len(fitting) == 1:
            return fitting[0]
    return None


def _offset_of_loss(case: _Case, loss: Callable[[Any, Any], torch.Tensor]) -> int | None:
    """Return m, if the output at p is scored on the target at p + m; None if it is not known."""
    if is_models_own(loss):  # Its outputs and its loss come from one call.
        return 1 if getattr(loss, "shifts", False) else None
    outputs = call(case.model, case.inputs)
    sequences = [s for s in _sequences(outputs, case) if s.requires_grad]
    if not sequences:
        return None
    place = case.length // 2

    def swap(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim < 2 or tensor.shape[1] != case.length:
            return tensor
        swapped = tensor.clone()
        swapped[:, place] = tensor.roll(1, 0)[:, place]
        return swapped

    gradients = []
    for targets in (case.targets, map_tensors(swap, case.targets)):
        value = loss(outputs, targets)
        if not isinstance(value, torch.Tensor) or not value.requires_grad:
            return None
        found = torch.autograd.grad(value, sequences, retain_graph=True, allow_unused=True)
        gradients.append(found)
    for before, after in zip(*gradients, strict=True):
        if before is None or after is None:
            continue
        change = _by_position(before - after, case)
        moved = (change > _TOLERANCE * before.abs().max()).nonzero().flatten().tolist()
        if len(moved) == 1:
            return place - int(moved[0])
    return None


def _look_ahead(case: _Case) -> tuple[int, int] | None:
    """Return (an output, the first changed position), if an output saw the change.

    Raises:
        DoubtfulError: the outputs have no positions, or no input matters to them.
    """
    matters = False
    for place in sorted({1, case.length // 2, case.length - 1}):
        with torch.no_grad():
            before = _sequences(call(case.model, case.inputs), case)
            after = _sequences(call(case.model, _changed_from(case, place)), case)
        if not before:
            raise DoubtfulError(
                "the data is declared causal, but no output has a position for each target",
                hint="return outputs of shape (examples, positions, ...)",
            )
        for first, second in zip(before, after, strict=True):
            change = _by_position(first - second, case)
            moved = change > _TOLERANCE * first.abs().max()
            matters = matters or bool(moved[place:].any())
            if moved[:place].any():
                return int(moved.nonzero()[0]), place
    if not matters:
        raise DoubtfulError(
            "no output changes when the inputs change",
            hint="use the inputs in `forward`",
        )
    return None


def _changed_from(case: _Case, place: int) -> Any:
    """Return the inputs with another example's values from a position on."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim < 2 or tensor.shape[1] != case.length:
            return tensor
        return torch.cat((tensor[:, :place], tensor.roll(1, 0)[:, place:]), dim=1)

    return map_tensors(change, case.inputs)


def _sequences(outputs: Any, case: _Case) -> list[torch.Tensor]:
    """Return the floating outputs that have a row for each position of each example."""
    examples = _length_of_batch(case.targets)
    found = []
    for tensor in tensors_in(outputs):
        is_long = tensor.ndim >= 2 and tensor.shape[:2] == (examples, case.length)
        is_flat = tensor.ndim >= 1 and tensor.shape[0] == examples * case.length
        if tensor.is_floating_point() and (is_long or is_flat):
            found.append(tensor)
    return found


def _length_of_batch(targets: Any) -> int:
    return int(next(t for t in tensors_in(targets) if t.ndim >= 2).shape[0])


def _by_position(change: torch.Tensor, case: _Case) -> torch.Tensor:
    """Return the largest change at each position, shape (positions,)."""
    return change.abs().reshape(_length_of_batch(case.targets), case.length, -1).amax((0, 2))


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in a structure of mappings, sequences and dataclasses."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
