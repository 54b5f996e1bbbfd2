"""Check that model, data and loss keep their contract on one batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from flops_fit.errors import PluginError
from flops_fit.training.building import build_on
from flops_fit.training.counting.params import params_of
from flops_fit.training.data.batches import LoadedData, first_examples
from flops_fit.training.data.streams import split_batch
from flops_fit.training.heldout import Loss, check_loss
from flops_fit.training.measuring.timing import Build
from flops_fit.training.session import seed_everything


def check_contract(
    build: Build,
    data: LoadedData,
    loss: Loss,
    *,
    smallest: int | float,
    names: tuple[str, str, str] = ("model", "data", "loss"),
) -> None:
    """Build the smallest size, and pass one real batch forward and backward through it.

    Args:
        build: makes the model of a size value.
        data: training and held-out set.
        loss: (outputs, targets) -> scalar tensor.
        smallest: the size value to try.
        names: what the manifest calls the model, data and loss plugins.

    Raises:
        PluginError: a plugin breaks its contract: which one, what it lacks, and how to mend it.
    """
    model_name, data_name, loss_name = names
    with torch.random.fork_rng(devices=[]):
        seed_everything(0)
        with _naming("dataset", data_name):
            batch = first_examples(data.train, 2)
            first_examples(data.heldout, 1)
            inputs, targets = split_batch(batch)
        with _naming("model", model_name):
            model = build_on(build, smallest, "cpu")
            params_of(model)
            model.train()
            outputs = _call(model, inputs)
        with _naming("loss", loss_name):
            try:
                value = loss(outputs, targets)
            except Exception as error:
                raise PluginError(
                    f"the loss failed on the model's outputs: {type(error).__name__}: {error}",
                    hint="it is called with (outputs, targets), as the model and the data give "
                    "them",
                ) from error
            check_loss(value).backward()  # type: ignore[no-untyped-call]
        with _naming("loss", loss_name):
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            if not gradients:
                raise PluginError(
                    "the loss has no gradient for any parameter of the model",
                    hint="compute it from the model's outputs with torch, without `.detach()`",
                )


def _call(model: nn.Module, inputs: Any) -> Any:
    try:
        return model(inputs)
    except Exception as error:
        raise PluginError(
            f"`{type(model).__name__}.forward` failed on the data's inputs: "
            f"{type(error).__name__}: {error}",
            hint="call the model by hand on one batch of the data",
        ) from error


@contextmanager
def _naming(kind: str, name: str) -> Iterator[None]:
    """Let an error say which plugin it is about."""
    try:
        yield
    except PluginError as error:
        raise PluginError(f"{kind} plugin `{name}`: {error.message}", hint=error.hint) from error
