"""Tests whether a model and a loss keep their contract: it builds, counts, runs and trains them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from flops_fit.errors import PluginError
from flops_fit.experiment.checks.findings import DoubtfulError
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Trial
from flops_fit.training.building import Build, build_on
from flops_fit.training.calling import Loss, explain_call, loss_on, run_model
from flops_fit.training.counting.params import Params, params_of
from flops_fit.training.data.streams import Batch
from flops_fit.training.heldout import check_loss
from flops_fit.training.optimizers import make_optimizer, set_learning_rates
from flops_fit.training.session import seed_everything
from flops_fit.units import format_count

SizeValue = int | float

MOST_STEPS = 60
"""Steps on one batch within which the loss must fall."""

NEGATIVE_LOSS = (
    "scaling laws are fitted to positive losses. Add a constant that keeps the loss above zero: "
    "`offset = 10.0` in [loss] (the log likelihood of a density has no natural zero); answers are "
    "then for the loss plus that constant"
)

_WARMUP_STEPS = 10
_SAME = 1e-6
_LEAST_FALL = 0.02
_ENOUGH_FALL = 0.1
_WELL_ABOVE_ZERO = 1.0  # A loss that starts lower takes all steps, to see whether it goes below 0.
_MOST_NAMED = 5


def check_sizes(build: Build, values: Sequence[SizeValue]) -> tuple[str, dict[SizeValue, Params]]:
    """Check that every size can be built and has the same counts each time; return the counts.

    Raises:
        PluginError: one cannot, or does not.
    """
    counts, refused = {}, []
    ends = {min(values), max(values)}
    for value in values:
        try:
            seen = {_params_on_light(build, value) for _ in range(2 if value in ends else 1)}
        except PluginError as error:
            refused.append((value, error))
            continue
        if len(seen) > 1:
            told = " and then ".join(f"{each.params:,}" for each in seen)
            raise PluginError(
                f"`num_params()` changes from call to call: size {value} gave {told}",
                hint="make it depend on the model alone: sum `p.numel()` over its parameters",
            )
        (counts[value],) = seen
    if refused:
        value, met = refused[0]
        others = ", ".join(str(each) for each, _ in refused[1:_MOST_NAMED])
        more = f" (so do sizes {others})" if others else ""
        raise PluginError(
            f"size {value} fails: {met.message}{more}",
            hint=met.hint or "remove it from `sizes`, or fix the constructor",
        )
    return f"{len(counts)} sizes, {min(ends)} to {max(ends)}, built without weights", counts


def check_growth(counts: dict[SizeValue, Params]) -> str:
    """Params grow from each size to the next.

    Raises:
        PluginError: they do not.
    """
    ordered = sorted(counts.items())
    for (small, few), (large, many) in pairwise(ordered):
        if many.params <= few.params:
            raise PluginError(
                f"size {large} has {many.params:,} params, size {small} has {few.params:,}: they "
                "do not grow with the size",
                hint="name in `size_param` the argument that makes the model larger, let the "
                "constructor use it, and let `num_params()` count what it built",
            )
    first, last = ordered[0][1], ordered[-1][1]
    return f"{format_count(first.params)} to {format_count(last.params)}{_three_ways(last)}"


def check_count(build: Build, value: SizeValue) -> str:
    """`num_params()` counts what the model trains.

    Raises:
        DoubtfulError: it counts something else.
    """
    model = _light(build, value)
    said = params_of(model).params
    real = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if abs(said - real) > 0.01 * max(said, real):
        raise DoubtfulError(
            f"`num_params()` says {said:,} at size {value}, but {real:,} numbers are trained",
            hint="count every trainable parameter once; missing ones shift the law's exponents",
        )
    return f"{said:,} at size {value}"


def check_forward(model: nn.Module, batch: Batch, loss: Loss | None) -> str:
    """Check that a model with weights takes a real batch; return its outputs.

    Raises:
        PluginError: it does not.
    """
    model.train()
    outputs, _ = passed(model, batch, loss)
    shape = f" of shape {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else ""
    return f"it gives a `{type(outputs).__name__}`{shape}"


def check_step(model: nn.Module, batch: Batch, loss: Loss, *, recipe: Recipe) -> str:
    """Check that the loss takes the outputs, is finite, and gives the parameters finite gradients.

    Raises:
        PluginError: it does not.
        DoubtfulError: some parameters get no gradient.
    """
    value = loss_of(model, batch, loss)
    first = float(value.detach())
    if not math.isfinite(first):
        raise PluginError(
            f"the loss is {first} on the first batch, before any training",
            hint="look for a logarithm or a root of zero, a division by a count of zero, or "
            "weights that start too large",
        )
    reached = gradients_of(model, value, recipe=recipe)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in reached.items():
        values = gradient.coalesce().values() if gradient.is_sparse else gradient
        if not torch.isfinite(values).all():
            raise PluginError(
                f"the gradient of `{name}` is not finite at the first step, so the next loss "
                "would be nan",
                hint="look for a root or a norm of exact zeros, and for overflow",
            )
    left = [name for name in trained if name not in reached]
    if left:
        named = ", ".join(f"`{name}`" for name in left[:_MOST_NAMED])
        raise DoubtfulError(
            f"{len(left)} of {len(trained)} parameters get no gradient from this batch: {named}",
            hint="remove unused ones from the model, or from `num_params()`; experts that no "
            "example of this batch visits are fine",
        )
    return f"{first:.4g} on the first batch, with a finite gradient for every parameter"


def loss_of(model: nn.Module, batch: Batch, loss: Loss) -> torch.Tensor:
    """Return the loss of a batch: a scalar tensor with a gradient.

    Raises:
        PluginError: model or loss raised, or the loss is something else.
    """
    return loss_of_outputs(*passed(model, batch, loss), loss)


def passed(model: nn.Module, batch: Batch, loss: Loss | None) -> tuple[Any, Any]:
    """Return the model's outputs for a batch, and the batch's targets.

    Raises:
        PluginError: the batch has no targets, or the model raised.
    """
    try:
        return run_model(model, batch, loss)
    except PluginError:
        raise
    except Exception as error:
        raise explain_call(error, model) from error


def loss_of_outputs(outputs: Any, targets: Any, loss: Loss) -> torch.Tensor:
    """Return the loss of a model's outputs: a scalar tensor with a gradient.

    Raises:
        PluginError: the loss raised, or is something else.
    """
    try:
        value = loss(outputs, targets)
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(
            f"the loss failed on the model's outputs, a `{type(outputs).__name__}`: "
            f"{type(error).__name__}: {error}",
            hint="it is called with (outputs, targets), as the model and the data give them",
        ) from error
    return check_loss(value)


def gradients_of(
    model: nn.Module, value: torch.Tensor, *, recipe: Recipe
) -> dict[str, torch.Tensor]:
    """Return the gradient of each parameter that the loss reaches, by its name.

    Raises:
        PluginError: the backward pass raised, reached nothing, or gave sparse gradients that the
            recipe's optimizer or its clipping does not take.
    """
    model.zero_grad(set_to_none=True)
    try:
        value.backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise PluginError(
            f"the backward pass of the loss failed: {type(error).__name__}: {error}",
            hint="look for a change in place of what the gradient needs, and for a state that is "
            "kept from one batch to the next without `.detach()`",
        ) from error
    reached = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if not reached:
        raise PluginError(
            "the loss has no gradient for any parameter of the model",
            hint="compute it from the model's outputs with torch, without `.detach()`",
        )
    sparse = [name for name, gradient in reached.items() if gradient.is_sparse]
    takes_sparse = hasattr(model, "configure_optimizers") or recipe.optimizer == "sgd"
    if sparse and (recipe.clip_norm > 0 or not takes_sparse):
        who = "gradient clipping does" if takes_sparse else "AdamW and gradient clipping do"
        raise PluginError(
            f"the gradient of `{sparse[0]}` is sparse, which {who} not take",
            hint="make the embedding with `sparse=False`; or give the model a "
            "`configure_optimizers` that takes sparse gradients, and set `clip_norm = 0` in "
            "[training]",
        )
    return reached


def check_learning(
    fresh: Callable[[], nn.Module],
    batch: Batch,
    loss: Loss,
    *,
    recipe: Recipe,
    trial: Trial,
    build: Build,
) -> str:
    """Check that the loss falls over a few steps on one batch, by the manifest's recipe.

    Args:
        fresh: builds the model with the same weights each time.
        batch: examples, all of which are passed in every step.
        loss: (outputs, targets) -> scalar tensor.
        recipe: the optimizer and its rules.
        trial: whose size, tokens and batch the rules go by; only its first steps are taken.
        build: makes the model of a size value.

    Raises:
        PluginError: it does not.
        DoubtfulError: it does so at a lower rate only, or goes below zero.
    """
    reports: list[str] = []
    for share in (1.0, 0.1, 0.01):
        losses = _train(fresh(), batch, loss, recipe, trial, build, share)
        first, last = losses[0], losses[-1]
        told = f"from {first:.4g} to {last:.4g} in {len(losses) - 1} steps"
        if min(losses) <= 0:
            raise DoubtfulError(f"the loss goes below zero ({told})", hint=NEGATIVE_LOSS)
        if math.isfinite(last) and last < first - _LEAST_FALL * max(abs(first), 1e-3):
            if share == 1.0:
                return told
            raise DoubtfulError(
                f"it falls at {share:g} times the learning rate ({told}), but not at the "
                f"manifest's: {reports[0]}",
                hint="lower `learning_rate` in [training], or bracket it",
            )
        reports.append(told)
    raise PluginError(
        f"the loss does not fall on one batch: {reports[0]}; at a hundredth of the learning rate "
        f"{reports[-1]}",
        hint="check whether the loss has the right sign, whether outputs depend on the "
        "inputs, and whether [training] fits the model",
    )


def taught(model: nn.Module, batch: Batch, loss: Loss) -> nn.Module:
    """Return the model after a few steps on one batch: its outputs then differ by example."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    model.train()
    for _ in range(_WARMUP_STEPS):
        optimizer.zero_grad(set_to_none=True)
        check_loss(loss_on(model, batch, loss)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def check_repeats(model: nn.Module, batch: Batch, loss: Loss) -> str:
    """Check that the model has the same loss twice for one batch in evaluation mode.

    Raises:
        DoubtfulError: it does not.
    """
    model.eval()
    with torch.no_grad():
        first, second = (float(loss_on(model, batch, loss)) for _ in range(2))
    if first != second and abs(first - second) > _SAME * max(abs(first), abs(second)):
        raise DoubtfulError(
            f"the loss of one batch is {first:.6g} and then {second:.6g} in evaluation: the model "
            "keeps state between batches, or is random in evaluation mode",
            hint="reset the state at the start of `forward`, and be random only in training mode "
            "(`self.training`); else held-out losses depend on the order of the batches",
        )
    return f"{first:.6g} twice"


def _train(
    model: nn.Module, batch: Batch, loss: Loss, recipe: Recipe, trial: Trial, build: Build,
    share: float,
) -> list[float]:  # fmt: skip
    """Return the losses before each step on one batch, until the loss has clearly fallen."""
    seed_everything(0)
    optimizer = make_optimizer(
        model, recipe=recipe, trial=trial, device=torch.device("cpu"), build=build
    )
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    model.train()
    losses: list[float] = []
    for step in range(MOST_STEPS + 1):
        value = check_loss(loss_on(model, batch, loss))
        losses.append(float(value.detach()))
        recent = sum(losses[-3:]) / 3
        fallen = len(losses) > 3 and recent < losses[0] - _ENOUGH_FALL * abs(losses[0])
        is_enough = fallen and losses[0] > _WELL_ABOVE_ZERO
        if is_enough or not math.isfinite(losses[-1]) or step == MOST_STEPS:
            break
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        set_learning_rates(
            optimizer.param_groups, peaks, share * min(1, (step + 1) / _WARMUP_STEPS)
        )
        if recipe.clip_norm > 0:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
    return losses


def _params_on_light(build: Build, value: SizeValue) -> Params:
    """Return the counts of a size, counted twice, since a count may be random."""
    model = _light(build, value)
    first, second = params_of(model), params_of(model)
    if first != second:
        raise PluginError(
            f"`num_params()` changes from call to call: {first.params:,} and then "
            f"{second.params:,} from one model",
            hint="make it depend on the model alone: sum `p.numel()` over its parameters",
        )
    return first


def _light(build: Build, value: SizeValue) -> nn.Module:
    """Return the model on the meta device, or with weights if it cannot be built there."""
    try:
        return build_on(build, value, "meta")
    except PluginError:
        return build_on(build, value, "cpu")


def _three_ways(has: Params) -> str:
    """Return which other counts exist for the largest size."""
    active = "" if has.active is None else f", {format_count(has.active)} active"
    return f" (of which {format_count(has.non_embedding)} outside embeddings{active})"
