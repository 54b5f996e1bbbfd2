"""Passes a batch that does not fit the device's memory in smaller parts.

The optimizer sees the same batch; only its gradient is accumulated over more passes, so a loss
changes by rounding alone. Each attempt starts with the device's memory to itself: what an earlier
one left is let go of first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar
from weakref import WeakSet

from accelerate.utils.memory import release_memory, should_reduce_batch_size
from torch import nn

from flops_fit.manifest.recipe import Recipe
from flops_fit.training.session import Session

Made = TypeVar("Made")

_alive: WeakSet[nn.Module] = WeakSet()
"""Models of this process that something still refers to, be it only a circle of their own."""


def remember(model: nn.Module) -> None:
    """Note a model that was built, so that the next attempt knows whether it is gone."""
    _alive.add(model)


def with_smaller_passes(
    attempt: Callable[[Recipe], Made], recipe: Recipe, *, examples: int, session: Session
) -> tuple[Made, Recipe]:
    """Return the result of an attempt, and the recipe that it was made with.

    Where memory runs out it is made again with half the examples in a pass.

    Args:
        attempt: trains by a recipe.
        recipe: the first to try.
        examples: of one step on this device.
        session: where; several processes cannot choose for one another, so theirs is not changed.

    Raises:
        RuntimeError: the attempt's, if it is another error, or the pass cannot be made smaller.
    """
    while True:
        if _alive:
            _let_go(session)
        now = min(recipe.micro_batch_examples or examples, examples)
        try:
            return attempt(recipe), recipe
        except RuntimeError as error:
            if session.world > 1 or now <= 1 or not should_reduce_batch_size(error):
                raise
        # Not before here: the error's traceback holds the model and its gradients.
        _let_go(session)
        recipe = replace(recipe, micro_batch_examples=now // 2)


def _let_go(session: Session) -> None:
    """Free what earlier attempts left.

    Accelerate lists what it prepared, and its wrapper of `forward` for mixed precision and methods
    bound to a model make circles, which only a collection frees.
    """
    session.accelerator.free_memory()
    release_memory()
