"""Keeps the random numbers of a data set apart from those of the model.

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
    """The states in which a data set left the generators of Python, numpy and torch's CPU.

    Copying the state of Python's or numpy's would take longer than many a batch. So numpy's
    generator is swapped as a whole, and Python's is seeded by a number drawn from it before.
    """

    def __init__(self) -> None:
        self._torch: torch.Tensor | None = None
        self._python = 0
        self._numpy: Any = np.random.MT19937(0)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Run a block with the data set's generators, then restore the model's."""
        models = torch.get_rng_state(), random.getrandbits(64), _NUMPY.get_bit_generator()
        if self._torch is not None:
            torch.set_rng_state(self._torch)
        random.seed(self._python)
        _NUMPY.set_bit_generator(self._numpy)
        try:
            yield
        finally:
            self._torch, self._python = torch.get_rng_state(), random.getrandbits(64)
            torch.set_rng_state(models[0])
            random.seed(models[1])
            _NUMPY.set_bit_generator(models[2])

    def state(self) -> dict[str, Any]:
        """Return the states of the generators, as tensors and plain data."""
        numpy = self._numpy.state["state"]
        return {
            "torch": self._torch,
            "python": self._python,
            "numpy": (numpy["key"].tolist(), int(numpy["pos"])),
        }


def seed_draws(seed: int) -> None:
    """Seed what a data set may draw from; a GPU's generator is the model's."""
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)


def restore_draws(state: dict[str, Any]) -> None:
    """Restore the generators from the result of `Draws.state`."""
    torch.set_rng_state(state["torch"])
    random.seed(state["python"])
    np.random.set_state(("MT19937", *state["numpy"]))
