"""What to do where a batch does not fit the device's memory: pass it in smaller parts.

The optimizer sees the same batch; only its gradient is accumulated over more passes, so a loss
changes by rounding alone.
"""

from __future__ import annotations

import gc
from dataclasses import replace

import torch
from accelerate.utils.memory import should_reduce_batch_size

from flops_fit.recipe import Recipe
from flops_fit.training.session import Session


def pass_less(error: RuntimeError, recipe: Recipe, *, examples: int, session: Session) -> Recipe:
    """The recipe with half the examples in a pass, if the error says that memory ran out.

    Args:
        error: what a trial met.
        recipe: how it was trained.
        examples: of one step on this device.
        session: several processes cannot choose for one another, so theirs is not changed.

    Raises:
        RuntimeError: the error, if it is another, or the pass cannot be made smaller.
    """
    now = min(recipe.micro_batch_examples or examples, examples)
    if session.world > 1 or now <= 1 or not should_reduce_batch_size(error):
        raise error
    gc.collect()
    if session.device.type == "cuda":
        torch.cuda.empty_cache()
    return replace(recipe, micro_batch_examples=now // 2)
