"""What a data set draws at random, kept apart from what the model draws.

Data sets draw from the generators of the whole process: an order by `torch.randperm`, noise by
`random` or numpy. So does the model, by dropout, on each process of a trial differently. Here a
data set has those generators to itself while it is read. They are seeded by trial and epoch, so
every process reads the same order, and so does a trial that was stopped and reads its past again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_NUMPY: Any = np.random  # its stubs leave out the functions that swap generators


class Draws:
    """The state of Python's, numpy's and torch's CPU generator as one data set left them."""

    def __init__(self) -> None:
        self._torch: torch.Tensor | None = None
        self._python: tuple[Any, ...] | None = None
        # Swapped as a whole: copying numpy's state takes longer than many a batch.
        self._numpy: Any = np.random.MT19937(0)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Let the generators go on where the data set left them, and put them back afterwards."""
        before = torch.get_rng_state(), random.getstate(), _NUMPY.get_bit_generator()
        if self._torch is not None and self._python is not None:
            torch.set_rng_state(self._torch)
            random.setstate(self._python)
        _NUMPY.set_bit_generator(self._numpy)
        try:
            yield
        finally:
            self._torch, self._python = torch.get_rng_state(), random.getstate()
            torch.set_rng_state(before[0])
            random.setstate(before[1])
            _NUMPY.set_bit_generator(before[2])

    def state(self) -> dict[str, Any]:
        """Where the data set left the generators, as tensors and plain data."""
        with self.apart():
            kind, keys, *rest = _NUMPY.get_state()
        numbers = (str(kind), keys.tolist(), *rest)
        return {"torch": self._torch, "python": self._python, "numpy": numbers}


def seed_draws(seed: int) -> None:
    """Seed what a data set may draw from; a GPU's generator is the model's."""
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)


def restore_draws(state: dict[str, Any]) -> None:
    """Let the generators go on from what `Draws.state` gave."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["torch"])
    np.random.set_state(tuple(state["numpy"]))
