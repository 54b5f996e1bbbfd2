"""Training sets as streams, and batches fetched ahead of the steps by processes of their own.

Such processes are for examples that are costly to make: images to decode, text to tokenise. What an
example draws at random is seeded by the place of its batch in the trial, so any number of
processes, and a trial that was stopped and goes on, see the same batches.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from flops_fit.errors import PluginError
from flops_fit.training.data.draws import seed_draws
from flops_fit.training.data.iterables import IterableStream
from flops_fit.training.data.streams import (
    Batch,
    Collate,
    MapStream,
    collate_of,
    collate_rows,
    derive_seed,
    fetcher,
    is_in_memory,
    is_iterable_only,
    is_plain_loader,
)
from flops_fit.training.session import seed_everything

Stream = MapStream | IterableStream

_READ_AHEAD = 64  # examples of an iterable set in what its process hands over at once


class _Batches(Dataset[Batch]):
    """Batches by (seed, example numbers), as a worker process is asked for them."""

    def __init__(self, dataset: Any, collate: Collate) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitem__(self, key: tuple[int, torch.Tensor]) -> Batch:
        seed, indices = key
        seed_everything(seed)
        return self._fetch(indices)

    @cached_property
    def _fetch(self) -> Callable[[torch.Tensor], Batch]:
        # Made in the worker: a nested function cannot be sent to a process that is spawned.
        return fetcher(self.dataset, self.collate)


class _Iterable(IterableDataset[Any]):
    """Whatever can be iterated, as a set that torch takes for iterable."""

    def __init__(self, source: Iterable[Any]) -> None:
        self.source = source

    def __iter__(self) -> Iterator[Any]:
        return iter(self.source)


class FetchedAhead(MapStream):
    """A `MapStream` whose batches worker processes fetch; its order is the same."""

    def __init__(
        self, dataset: Any, *, seed: int, collate: Collate, workers: int, pinned: bool
    ) -> None:
        super().__init__(dataset, seed=seed, collate=collate)
        self._made = {"dataset": dataset, "seed": seed, "collate": collate}
        self._workers, self._pinned = workers, pinned
        self._batches: Iterator[Batch] | None = None

    def take(self, count: int, *, part: slice = slice(None)) -> Batch:
        """Return examples like `MapStream.take`; all calls of a trial ask for the same part."""
        if self._batches is None:
            ahead = MapStream(**self._made)
            ahead.drawn = self.drawn
            loader = DataLoader(
                _Batches(self.dataset, self.collate), batch_size=None,
                sampler=_keys(ahead, count, part), num_workers=self._workers,
                pin_memory=self._pinned,
                # Else opening it would draw from the numbers that the trial itself draws from.
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
            self._batches = _start(loader)
        self.drawn += count
        return next(self._batches)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a stream stood."""
        super().restore(state)
        self._batches = None


def _keys(ahead: MapStream, count: int, part: slice) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the seed and the examples of each batch, without end."""
    while True:
        seed = derive_seed(ahead.seed, "batch", ahead.drawn) % 2**63
        yield seed, ahead.indices(count)[part]


class ReadAhead(IterableStream):
    """An `IterableStream` whose source a separate process reads; its examples are the same."""

    def _read(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", self._epoch))
        source = self.source
        if not isinstance(source, IterableDataset):
            source = _Iterable(source)
        return _start(
            DataLoader(
                source, batch_size=_READ_AHEAD, collate_fn=collate_rows, num_workers=1,
                generator=generator, worker_init_fn=partial(_seed_worker, self.draws_seed()),
            )
        )  # fmt: skip


def _seed_worker(seed: int, worker: int) -> None:
    """Seed a worker so that the set draws the same numbers as in the trial's own process."""
    seed_draws(seed)


def _start(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Start a loader's processes; if they are not forked, the set is pickled.

    Raises:
        PluginError: the set cannot be sent.
    """
    try:
        return iter(loader)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if not re.search("pickle|local object", str(error)):
            raise
        raise PluginError(
            f"the training set cannot be sent to a process that fetches its batches: {error}",
            hint="define its class and what it holds at the top level of a module, or leave "
            "`data_workers` at 0",
        ) from error


def open_stream(train: Any, *, seed: int) -> Stream:
    """Return the endless stream of a training set of any kind.

    A DataLoader that only batches and shuffles a map-style set is unwrapped: the trial sets the
    batch, and the seed sets the order. One with a sampler or batches of its own is taken as it is.
    """
    if isinstance(train, DataLoader):
        if is_plain_loader(train):
            return MapStream(train.dataset, seed=seed, collate=collate_of(train))
        return IterableStream(train, seed=seed)
    if is_iterable_only(train):
        return IterableStream(train, seed=seed)
    return MapStream(train, seed=seed)


def open_with_workers(train: Any, *, seed: int, workers: int, device: torch.device) -> Stream:
    """Return the stream of a training set, fetched by `workers` processes if that helps.

    A set that lies in memory, a DataLoader of the user's own and a set that keeps its own state
    are read in this process, as without workers.
    """
    plain = open_stream(train, seed=seed)
    if not workers:
        return plain
    if isinstance(plain, MapStream):
        if is_in_memory(plain.dataset):
            return plain
        return FetchedAhead(
            plain.dataset, seed=seed, collate=plain.collate, workers=workers,
            pinned=device.type == "cuda",
        )  # fmt: skip
    if isinstance(train, DataLoader) or hasattr(train, "state_dict"):
        return plain
    return ReadAhead(train, seed=seed)
