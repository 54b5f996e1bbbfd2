"""Check that model, data and loss keep their contract on one batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from flops_fit.errors import Note, PluginError
from flops_fit.experiment.checks.causality import SHIFT_MEND, unshifted
from flops_fit.experiment.checks.model import NEGATIVE_LOSS, gradients_of, loss_of_outputs, passed
from flops_fit.manifest.recipe import Recipe
from flops_fit.training.building import Build, build_on
from flops_fit.training.calling import Loss, bound, targets_of
from flops_fit.training.counting.params import params_of
from flops_fit.training.data.batches import LoadedData, first_examples
from flops_fit.training.session import seed_everything
from flops_fit.training.weights import SUM_MEND, compare_parts, is_sum

_EXAMPLES = 2
_FEWEST_POSITIONS = 4  # fewer are more likely several labels of one example
_UNITS_TOLERANCE = 0.1  # some labels may be padding, or cut off at an end


def check_contract(
    build: Build,
    data: LoadedData,
    loss: Loss,
    *,
    smallest: int | float,
    recipe: Recipe,
    names: tuple[str, str, str] = ("model", "data", "loss"),
) -> tuple[Note, ...]:
    """Build the smallest size, and pass one real batch forward and backward through it.

    Args:
        build: makes the model of a size value.
        data: training and held-out set.
        loss: (outputs, targets) -> scalar tensor.
        smallest: the size value to try.
        recipe: whose optimizer must take the gradients.
        names: what the manifest calls the model, data and loss plugins.

    Returns:
        Warnings: a loss that is a sum or not positive, targets without a shift.

    Raises:
        PluginError: a plugin breaks its contract: which one, what it lacks, and how to fix it.
    """
    model_name, data_name, loss_name = names
    with torch.random.fork_rng(devices=[]):
        seed_everything(0)
        with _naming("dataset", data_name):
            batch = first_examples(data.train, _EXAMPLES)
            first_examples(data.heldout, 1)
            targets_of(batch, loss)
        with _naming("model", model_name):
            model = build_on(build, smallest, "cpu")
            params_of(model)
            loss = bound(loss, model)
            outputs, taken = passed(model.train(), batch, loss)
        with _naming("loss", loss_name):
            value = loss_of_outputs(outputs, taken, loss)
            gradients_of(model, value, recipe=recipe)
        units = data.facts.units_per_example
        return (
            *_frozen(model),
            *_units(taken, units=units),
            *_warnings(model, batch, loss, float(value.detach())),
        )


def _frozen(model: torch.nn.Module) -> tuple[Note, ...]:
    """Return a note with the number of frozen parameters, if some are."""
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if not frozen:
        return ()
    whole = frozen + sum(p.numel() for p in model.parameters() if p.requires_grad)
    said = f"{frozen:,} of {whole:,} parameters of the smallest size are frozen: params count"
    return (Note("frozen_params", f"{said} the trained ones alone, FLOPs count what is computed"),)


def _units(targets: Any, *, units: int) -> tuple[Note, ...]:
    """Warn where class numbers in sequences are not the units that the data states."""
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point() or targets.ndim != 2:
        return ()
    each = targets.shape[1]
    if each < _FEWEST_POSITIONS or abs(units - each) <= _UNITS_TOLERANCE * each:
        return ()
    return (
        Note(
            "units_per_example",
            f"an example has {each:,} targets, but `units_per_example` is {units:,}: if each "
            f'target is a unit, set `unit = "token"` and `units_per_example = {each}` in [data]; '
            "tokens, FLOPs per token and `tokens_per_param` go by it",
        ),
    )


def _warnings(model: Any, batch: Any, loss: Loss, first: float) -> tuple[Note, ...]:
    """Yield notes on a suspicious loss of one batch."""
    notes = []
    try:
        compared = compare_parts(model, loss, batch)
        if compared is not None and is_sum(*compared, num_parts=_EXAMPLES):
            notes.append(
                Note("summed_loss", f"the loss is a sum over the batch, not a mean: {SUM_MEND}")
            )
        if unshifted(model, batch, loss):
            notes.append(
                Note(
                    "unshifted_targets",
                    "each target is the input at its own position, which the model can copy: "
                    f"{SHIFT_MEND}",
                )
            )
    except Exception:  # Whatever fails here is shown by `check`, claim by claim.
        notes = notes[:1]
    if first <= 0:
        notes.append(
            Note(
                "negative_loss",
                f"the untrained loss is {first:.4g}: {NEGATIVE_LOSS}",
            )
        )
    return tuple(notes)


@contextmanager
def _naming(kind: str, name: str) -> Iterator[None]:
    """Add the plugin's name to an error."""
    try:
        yield
    except PluginError as error:
        raise PluginError(f"{kind} plugin `{name}`: {error.message}", hint=error.hint) from error
