"""A training set that can only be read from its beginning, as one endless stream of examples.

Iterable sets, and DataLoaders whose sampler or batches are their own. What such a set draws while
an epoch is opened and read is seeded by trial and epoch (`draws.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from flops_fit.training.data.draws import Draws, restore_draws, seed_draws
from flops_fit.training.data.streams import (
    Batch,
    collate_rows,
    concatenate,
    count_examples,
    derive_seed,
    map_tensors,
    nothing_yielded,
)
from flops_fit.training.plain import check_plain


class IterableStream:
    """The endless stream of an iterable set or a DataLoader; epochs follow one another.

    An iterable set that shuffles should offer `set_epoch(epoch)`, as the ones of most libraries do,
    or draw its order from the generators of torch, numpy or Python.
    """

    def __init__(self, source: Any, *, seed: int) -> None:
        self.source = source
        self.seed = seed
        self.drawn = 0
        self._epoch = self._count = 0
        self._held: list[Batch] = []
        self._iterator: Iterator[Batch] | None = None
        self._draws = Draws()
        self._is_checked = self._is_placed = False
        self._resumed: Mapping[str, Any] | None = None

    def take(self, count: int, *, part: slice = slice(None)) -> Batch:
        """Return the next `count` examples as a batch, or only the requested `part` of them."""
        held = sum(count_examples(batch) for batch in self._held)
        if held < count:
            with self._draws.apart():
                while held < count:
                    batch = self._next()
                    self._held.append(batch)
                    held += count_examples(batch)
        if not self._is_checked:
            # At once, not in five minutes or when the trial is asked to stop.
            self._is_checked = True
            if self._has_state:
                check_plain(self.source.state_dict(), owner="the training set's `state_dict()`")
        whole = self._held[0] if len(self._held) == 1 else concatenate(self._held)
        self._held = [] if held == count else [map_tensors(lambda t: t[count:], whole)]
        self.drawn += count
        self._count = count
        kept = range(count)[part]
        return map_tensors(lambda t: t[kept.start : kept.stop], whole)

    def _next(self) -> Batch:
        for _ in range(2):
            if self._iterator is None:
                self._iterator = self._open()
            batch = next(self._iterator, None)
            if batch is not None:
                return batch
            self._epoch += 1
            self._iterator = None
        raise nothing_yielded()

    def _open(self) -> Iterator[Batch]:
        """Open the epoch; a set that knows its position continues from it."""
        resumed, self._resumed = self._resumed, None
        if not self._is_placed:
            self._set_epoch()
        self._is_placed = False
        seed_draws(self.draws_seed())
        generator = getattr(self.source, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(derive_seed(self.seed, "epoch", self._epoch))
        opened = iter(self.source) if isinstance(self.source, DataLoader) else self._read()
        if resumed is not None:
            restore_draws(dict(resumed))
        return opened

    def draws_seed(self) -> int:
        """Return the seed of all random numbers of this epoch, on every process of a trial."""
        return derive_seed(self.seed, "epoch", self._epoch, "draws")

    def _set_epoch(self) -> None:
        for owner in (self.source, getattr(self.source, "dataset", None)):
            set_epoch = getattr(owner, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(self._epoch)
                break

    def _read(self) -> Iterator[Batch]:
        """Read one epoch of a source that is no DataLoader, in batches of any size."""
        return (collate_rows([example]) for example in self.source)

    @property
    def _has_state(self) -> bool:
        return hasattr(self.source, "state_dict") and hasattr(self.source, "load_state_dict")

    def state(self) -> dict[str, Any]:
        """Return the stream's position, with the source's own state if it has one."""
        state: dict[str, Any] = {"drawn": self.drawn, "count": self._count, "epoch": self._epoch}
        if self._has_state:
            state["source"] = self.source.state_dict()
            state["held"] = self._held
            is_open = self._iterator is not None
            state["draws"] = self._draws.state() if is_open else self._resumed
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a stream stood: by the source's own state, or by reading up to there."""
        if "source" in state:
            self._epoch, self._held = int(state["epoch"]), list(state["held"])
            self.drawn = int(state["drawn"])
            # The epoch first and once: it may send the set to the epoch's beginning.
            self._set_epoch()
            self.source.load_state_dict(state["source"])
            self._is_placed = True
            self._resumed = state["draws"]
            return
        # Batch by batch as before: the generators are swapped between batches (`Draws.apart`).
        while missing := int(state["drawn"]) - self.drawn:
            self.take(min(int(state["count"]), missing))
