"""Proves before training that each parameter of a model gets a gradient in every step.

Processes that share a trial wait for the gradient of every parameter, unless they look each step
for those that get none, which costs up to half a millisecond a step. They need not where a pass on
the meta device gives every parameter a gradient: nothing there has a value, so what a model does
with its inputs cannot hang on them, and each pass is like every other.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from flops_fit.training.building import Build, build_on
from flops_fit.training.calling import bound, loss_on
from flops_fit.training.data.batches import LoadedData, heldout_batches
from flops_fit.training.data.streams import map_tensors

_EXAMPLES = 2  # batch norm wants more than one


def may_be_idle(
    build: Build, value: Any, data: LoadedData, loss: Callable[[Any, Any], torch.Tensor]
) -> bool:
    """Return whether a parameter may lack a gradient in some step, as far as is known.

    Args:
        build: makes the model of a size value on torch's current default device.
        value: the size value.
        data: whose held-out set gives the inputs.
        loss: (outputs, targets) -> scalar tensor.
    """
    batch = heldout_batches(data.heldout, batch=_EXAMPLES, examples=_EXAMPLES)[0]
    try:
        model = build_on(build, value, "meta").train()
        batch = map_tensors(lambda t: t.to("meta"), batch)
        before = random.getstate(), torch.get_rng_state()
        loss_on(model, batch, bound(loss, model)).backward()  # type: ignore[no-untyped-call]
    except Exception:
        return True  # It asks for a value, maybe to choose what to pass through.
    # A layer that is dropped at random may have been there this time.
    if random.getstate() != before[0] or not torch.equal(torch.get_rng_state(), before[1]):
        return True
    return any(p.grad is None for p in model.parameters() if p.requires_grad)
