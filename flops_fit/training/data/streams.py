"""A training set as one endless, seeded, resumable stream of examples, taken batch by batch.

Epoch follows epoch, each in an order of its own that depends on the seed and the epoch alone. A
step takes the next examples of the stream, across the end of an epoch if need be, so that every
step is full and nothing is dropped, padded or drawn twice within an epoch. Several processes each
take their own slice of the same full batch.

Where a stream stands is a count of examples, which is what a checkpoint keeps. A map-style set
goes on there at once. An iterable set (`iterables.py`) goes on by its own `state_dict` where it has
one, and is read up to there again where it has not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from flops_fit.errors import PluginError

Batch = Any
Collate = Callable[[list[Any]], Batch]

_RESIDENT_BYTES = 4 * 2**30
"""A training set up to this size is held on an accelerator; a larger one travels batch by batch."""


def derive_seed(seed: int, *purpose: object) -> int:
    """Return a separate seed for each purpose, so that no two share a stream of numbers."""
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], batch: Batch) -> Batch:
    """Return the batch with every tensor in it replaced by `function(tensor)`."""
    if isinstance(batch, torch.Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(function, value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(function, value) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(function, value) for value in batch)
    return batch


def first_tensor(batch: Batch) -> torch.Tensor:
    """Return the first tensor found in a batch; its first dimension counts the examples.

    Raises:
        PluginError: there is none.
    """
    found: list[torch.Tensor] = []

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(remember, batch)
    if not found or found[0].ndim == 0:
        raise PluginError(
            f"a batch of the data holds no tensor with examples in its first dimension: {batch!r}",
            hint='let each example be {"inputs": tensor, "targets": tensor}, a pair, or a tensor',
        )
    return found[0]


def count_examples(batch: Batch) -> int:
    """Return the number of examples in a batch."""
    return int(first_tensor(batch).shape[0])


TARGET_KEYS = ("targets", "labels", "label", "label_ids", "target")
"""Names under which a batch that is a mapping may hold its targets, the first one found counts."""


def split_batch(batch: Batch) -> tuple[Any, Any]:
    """Return inputs and targets of a batch.

    A mapping has `inputs` and `targets`, or its targets under one of `TARGET_KEYS`; all its other
    entries are then the inputs: a mapping, or the value of the only one.

    Raises:
        PluginError: the batch is neither such a mapping, nor a pair, nor a tensor.
    """
    if isinstance(batch, Mapping):
        key = next((key for key in TARGET_KEYS if key in batch), None)
        if key is not None and "inputs" in batch:
            return batch["inputs"], batch[key]
        rest = {name: value for name, value in batch.items() if name != key}
        if key is not None and rest:
            return (rest if len(rest) > 1 else next(iter(rest.values()))), batch[key]
        found = ", ".join(f"`{name}`" for name in batch)
        raise PluginError(
            f"a batch of the data is a mapping without `inputs` and `targets`: it has {found}",
            hint="name the two entries `inputs` and `targets` (`inputs` may itself be a mapping), "
            'or the targets `labels`; `[loss] plugin = "model"` takes the loss of a model that '
            "needs no targets",
        )
    if isinstance(batch, tuple | list):
        if len(batch) == 2:
            return batch[0], batch[1]
        if len(batch) == 1:
            return batch[0], batch[0]
        raise PluginError(
            f"a batch of the data is a tuple of {len(batch)}: expected (inputs, targets)",
            hint='return a pair, or a dict {"inputs": ..., "targets": ...}',
        )
    return batch, batch


def collate_rows(examples: Sequence[Any]) -> Batch:
    """Join examples to a batch: torch's default collation, and lists of numbers become tensors.

    Rows of a `datasets.Dataset` hold lists, which torch's own function would turn on their side.
    Text is left out of a row: no model takes it.

    Raises:
        PluginError: rows differ in length, or hold what has no tensor.
    """
    first = examples[0]
    try:
        if isinstance(first, Mapping):
            return _collated(examples, first)
        return default_collate(list(examples))
    except (TypeError, RuntimeError, ValueError) as error:
        raise PluginError(
            f"examples of the data cannot be joined to a batch: {error}",
            hint="let every example hold tensors or numbers of one shape, or return a DataLoader "
            "with your own `collate_fn` (a padding collator, say)",
        ) from error


def _collated(rows: Sequence[Mapping[str, Any]], first: Mapping[str, Any]) -> dict[str, Any]:
    batch = {}
    for key, value in first.items():
        column = [row[key] for row in rows]
        if isinstance(value, str | None):
            continue
        if isinstance(value, list) and value and isinstance(value[0], int | float | list):
            batch[key] = default_collate([torch.tensor(each) for each in column])
        else:
            batch[key] = default_collate(column)
    return batch


def collate_of(loader: DataLoader[Any]) -> Collate:
    """Return what joins a loader's examples to a batch: its own function, or `collate_rows`."""
    own: Collate = loader.collate_fn
    return collate_rows if own is default_collate else own


def fetcher(dataset: Any, collate: Collate = collate_rows) -> Callable[[torch.Tensor], Batch]:
    """Return a function from example numbers, int64 of shape (examples,), to one collated batch.

    Sets whose examples lie in memory are read many at a time: a `TensorDataset`, or any set with a
    method `batch_of(indices) -> batch`.
    """
    if collate is collate_rows:
        if isinstance(dataset, TensorDataset):
            return lambda indices: tuple(t[indices.to(t.device)] for t in dataset.tensors)
        if hasattr(dataset, "batch_of"):
            batch_of: Callable[[torch.Tensor], Batch] = dataset.batch_of
            return batch_of
    if isinstance(dataset, Subset):
        chosen = torch.as_tensor(dataset.indices, dtype=torch.int64)
        inner = fetcher(dataset.dataset, collate)
        return lambda indices: inner(chosen[indices])
    if hasattr(dataset, "__getitems__"):
        return lambda indices: collate(dataset.__getitems__(indices.tolist()))
    return lambda indices: collate([dataset[i] for i in indices.tolist()])


def is_in_memory(dataset: Any) -> bool:
    """Return whether examples lie in memory, so that fetching them costs nothing."""
    if isinstance(dataset, Subset):
        return is_in_memory(dataset.dataset)
    return isinstance(dataset, TensorDataset) or hasattr(dataset, "num_bytes")


_BLOCK = 2**20
"""A set of more examples than 16 times this many is shuffled in blocks of this many."""


class MapStream:
    """The endless, seeded stream of a map-style set.

    Each epoch's order is a permutation of the whole set. One of a set that is too large to be held
    as such (a billion windows, an endless generator's 2^40 examples) is a permutation of blocks,
    each permuted in itself, so that memory stays small and every example still comes once.
    """

    def __init__(self, dataset: Any, *, seed: int, collate: Collate = collate_rows) -> None:
        self.size = len(dataset)
        if self.size == 0:
            raise nothing_yielded()
        self.dataset, self.seed, self.collate = dataset, seed, collate
        self.drawn = 0
        self.fetch = fetcher(dataset, collate)
        self._block = self.size if self.size <= 16 * _BLOCK else _BLOCK
        self._epoch = -1
        self._begin = self._end = 0  # which examples of the stream `_order` holds
        self._order = self._blocks = torch.empty(0, dtype=torch.int64)

    def indices(self, count: int) -> torch.Tensor:
        """Return the numbers of the next `count` examples: int64, shape (count,)."""
        parts = []
        while count:
            if not self._begin <= self.drawn < self._end:
                self._permute()
            end = min(self.drawn + count, self._end)
            parts.append(self._order[self.drawn - self._begin : end - self._begin])
            count -= end - self.drawn
            self.drawn = end
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _permute(self) -> None:
        """Draw the order of the block whose turn it is; a block that is not full comes last."""
        epoch, in_epoch = divmod(self.drawn, self.size)
        turn = in_epoch // self._block
        full, rest = divmod(self.size, self._block)
        if self._epoch != epoch:
            self._blocks = torch.randperm(full, generator=self._seeded("epoch", epoch, "blocks"))
        is_whole = self._block == self.size
        purpose = ("epoch", epoch) if is_whole else ("epoch", epoch, "block", turn)
        start = int(self._blocks[turn]) if turn < full else full
        length = self._block if turn < full else rest
        order = torch.randperm(length, generator=self._seeded(*purpose))
        self._order = start * self._block + order
        self._epoch = epoch
        self._begin = epoch * self.size + turn * self._block
        self._end = self._begin + length

    def _seeded(self, *purpose: object) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, *purpose))

    def take(self, count: int, *, part: slice = slice(None)) -> Batch:
        """Return the next `count` examples as a batch, or only the requested `part` of them."""
        return self.fetch(self.indices(count)[part])

    def state(self) -> dict[str, Any]:
        """Return the stream's position."""
        return {"drawn": self.drawn}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a stream stood."""
        self.drawn = int(state["drawn"])


def on_device(dataset: Any, device: torch.device) -> Any:
    """Return the set with its examples on the device, if they are in memory and few enough.

    A `TensorDataset`, or a set with `batch_of`, `num_bytes` and `to(device)`; any other set is
    returned as it is.
    """
    if device.type == "cpu":
        return dataset
    if isinstance(dataset, TensorDataset):
        if sum(t.numel() * t.element_size() for t in dataset.tensors) <= _RESIDENT_BYTES:
            return TensorDataset(*(t.to(device) for t in dataset.tensors))
    elif all(hasattr(dataset, name) for name in ("batch_of", "num_bytes", "to")):
        return dataset.to(device) if dataset.num_bytes <= _RESIDENT_BYTES else dataset
    return dataset


def is_plain_loader(loader: DataLoader[Any]) -> bool:
    """Return whether a loader only batches and shuffles a map-style set, each example once."""
    sampler = loader.sampler
    if loader.batch_size is None or is_iterable_only(loader.dataset):
        return False
    if not isinstance(sampler, RandomSampler | SequentialSampler):
        return False
    is_each_once = len(sampler) == len(loader.dataset)  # type: ignore[arg-type]
    return is_each_once and not getattr(sampler, "replacement", False)


def is_iterable_only(dataset: Any) -> bool:
    """Return whether a set can only be read from its beginning."""
    if isinstance(dataset, IterableDataset):
        return True
    return not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"))


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Batches of one shape joined along their first dimension."""
    first = batches[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(batches))
    if isinstance(first, Mapping):
        return {key: concatenate([batch[key] for batch in batches]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(concatenate(parts) for parts in zip(*batches, strict=True)))
    if isinstance(first, list | tuple):
        return type(first)(concatenate(parts) for parts in zip(*batches, strict=True))
    return first


def nothing_yielded() -> PluginError:
    """Return the error for a training set without a single example."""
    return PluginError(
        "the training set yields nothing: not one example came out of it",
        hint="check its length and, for an iterable set, that `__iter__` starts anew each time",
    )
