"""Tests of a data set: its length is as stated, and the held-out examples are not trained on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from flops_fit.errors import Note, PluginError
from flops_fit.training.data.batches import LoadedData, first_examples, heldout_batches
from flops_fit.training.data.streams import (
    Batch,
    collate_of,
    collate_rows,
    count_examples,
    fetcher,
    is_in_memory,
    is_iterable_only,
    is_plain_loader,
    map_tensors,
    nothing_yielded,
    split_batch,
)

MOST_EXAMPLES = 8192
"""Examples that are read of a set that cannot be indexed."""

MOST_SECONDS = 10.0
"""How long one set is read at most."""

QUICK_SECONDS = 0.5
"""How long one set is read where nobody asked for a check."""

ALLOWED_SHARE = 0.01
"""Share of held-out examples that may also occur in training: short texts repeat by chance."""

_ALL_READ = 65_536  # a map-style set up to this size is compared whole, a larger one in part


def describe_batch(data: LoadedData, *, needs_targets: bool = True) -> str:
    """Describe a batch of each set; both sets must give the same kind.

    `needs_targets`: whether a batch must have targets; the model's own loss may do without.

    Raises:
        PluginError: a set yields nothing, or no inputs and targets; or the two differ in kind.
    """
    kinds = []
    for source in (data.train, data.heldout):
        batch = first_examples(source, 2)
        if not needs_targets:
            kinds.append(_kind(batch))
            continue
        inputs, targets = split_batch(batch)
        kinds.append(f"inputs {_kind(inputs)}, targets {_kind(targets)}")
    if kinds[0] != kinds[1]:
        raise PluginError(
            f"the training set yields {kinds[0]}, but the held-out set yields {kinds[1]}",
            hint="make the examples of both sets in the same way",
        )
    return f"{kinds[0]} in a batch of two"


def check_goes_on(source: Any, *, claimed: int | None) -> str:
    """Check that a set can be read to its stated end, and then again; return what was seen.

    Args:
        source: a Dataset, an IterableDataset or a DataLoader.
        claimed: how many examples it is said to hold, if it does not say so itself.

    Raises:
        PluginError: it ends early, cannot be read where it says it holds examples, or only once.
    """
    dataset = source.dataset if isinstance(source, DataLoader) else source
    if not is_iterable_only(dataset) and not (
        isinstance(source, DataLoader) and not is_plain_loader(source)
    ):
        return _check_indices(dataset)
    if not isinstance(source, DataLoader) and iter(source) is source:
        raise PluginError(
            f"it can be read only once: a {type(source).__name__} cannot start again",
            hint="wrap it in a class whose `__iter__` starts again each time",
        )
    said = _said_length(source) or claimed
    seen, ended = 0, True
    deadline = time.monotonic() + MOST_SECONDS
    for batch in _batches(source):
        seen += count_examples(batch)
        if seen >= MOST_EXAMPLES or time.monotonic() > deadline:
            ended = False
            break
    if not seen:
        raise nothing_yielded()
    if ended and said is not None and seen < said:
        raise PluginError(
            f"it ends after {seen:,} examples, though it says that it holds {said:,}",
            hint="let `__iter__` yield every example, or state the true length (`__len__`, "
            "`unique_units`)",
        )
    if next(_batches(source), None) is None:
        raise PluginError(
            f"it can be read only once: after {seen:,} examples a second pass yields nothing",
            hint="start again in each `__iter__`; a generator object cannot: wrap it in a class",
        )
    return f"an epoch of {seen:,} examples" if ended else f"{seen:,} examples read, and more"


def check_repeatable(heldout: Any) -> str:
    """Check that the held-out set is the same each time it is read.

    Raises:
        PluginError: it is not.
    """
    passes = []
    for _ in range(2):
        made = heldout_batches(heldout, batch=64, examples=512)
        passes.append([digest for batch in made for digest in digests(batch)])
    first, second = passes
    if first != second:
        changed = sum(a != b for a, b in zip(first, second, strict=False))
        changed += abs(len(first) - len(second))
        raise PluginError(
            f"the held-out set changes: {changed} of its first {len(first)} examples differ when "
            "it is read again",
            hint="draw it once, with a fixed seed: every trial must be measured on the same "
            "examples, without augmentation",
        )
    return f"its first {len(first):,} examples are the same twice"


def check_apart(data: LoadedData) -> str:
    """Check that training and held-out set share no examples.

    Raises:
        PluginError: they share more than chance would.
    """
    return _compare(data, seconds=MOST_SECONDS)


def overlap_notes(data: LoadedData, *, is_lent: bool) -> tuple[Note, ...]:
    """Return a warning if held-out examples are among the training examples read in a second.

    Args:
        data: both sets.
        is_lent: whether the sets are the caller's own objects, which reading may change; only
            numbers of a common data set, and sets in memory, are then compared.
    """
    sets = [s.dataset if isinstance(s, DataLoader) else s for s in (data.train, data.heldout)]
    try:
        _check_indices_apart(data.train, data.heldout)
        if not is_lent or all(is_in_memory(each) for each in sets):
            _compare(data, seconds=QUICK_SECONDS)
    except PluginError as error:
        return (Note("overlap", f"{error.message}: {error.hint}"),)
    except Exception:  # A set that cannot be read: `check`, or the first trial, says why.
        return ()
    return ()


def _compare(data: LoadedData, *, seconds: float) -> str:
    """Look for held-out examples among those of training, within a time limit for each set."""
    _check_indices_apart(data.train, data.heldout)
    heldout = set(_digests_of(data.heldout, most=4096, seconds=seconds))
    seen, share = _training_digests(data.train, seconds=seconds)
    shared = heldout & seen
    # What a part of the training set holds of them, the whole holds so many times more.
    estimate = min(1.0, len(shared) / len(heldout) / (share or 1.0))
    read = "a part of no known share" if share is None else f"{share:.2%} of it"
    if estimate > ALLOWED_SHARE and (len(shared) > 1 or share in (1.0, None)):
        raise PluginError(
            f"training and held-out set share examples: {len(shared):,} of {len(heldout):,} "
            f"held-out ones were found among {len(seen):,} of training"
            + (f", {read}, so about {estimate:.1%} are in all" if share and share < 1 else ""),
            hint="split before windows are cut or examples are drawn, and drop duplicates: the "
            "loss on trained examples does not show the loss on new ones",
        )
    found = f"{len(shared):,} of {len(heldout):,} held-out examples were found"
    return f"{found} among {len(seen):,} of training, {'all of it' if share == 1.0 else read}"


def digests(batch: Batch) -> list[bytes]:
    """Return a hash of each example of a batch, over all its tensors."""
    rows: list[Any] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.detach().cpu().contiguous().reshape(len(tensor), -1)
        rows.append(flat.view(torch.uint8).numpy())
        return tensor

    map_tensors(keep, batch)
    return [
        hashlib.blake2b(b"".join(row[at].tobytes() for row in rows), digest_size=12).digest()
        for at in range(count_examples(batch))
    ]


def _kind(value: Any) -> str:
    """Return dtype and shape, such as `int64 (2, 64)`, of each tensor of a structure."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if hasattr(value, "items"):
        return "{" + ", ".join(f"{key}: {_kind(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(_kind(each) for each in value) + ")"
    return type(value).__name__


def _check_indices(dataset: Any) -> str:
    """Check that a map-style set has as many examples as its length states."""
    count = len(dataset)
    if count == 0:
        raise nothing_yielded()
    for index in sorted({0, count // 4, count // 2, 3 * count // 4, count - 1}):
        try:
            dataset[index]
        except Exception as error:
            raise PluginError(
                f"it says that it holds {count:,} examples, but number {index:,} raises "
                f"{type(error).__name__}: {error}",
                hint="let `__len__` count what `__getitem__` can give",
            ) from error
    return f"{count:,} examples; the last of them can be read"


def _said_length(source: Any) -> int | None:
    """Return the number of examples that an iterable set or loader states."""
    try:
        length = len(source)
    except (TypeError, NotImplementedError):
        return None
    if isinstance(source, DataLoader) and source.batch_size is not None:
        # Its last batch may be short, so it promises no more than one example there.
        return max(1, (length - 1) * source.batch_size + 1)
    return length


def _batches(source: Any) -> Iterator[Batch]:
    """Yield examples in the set's own order, from its beginning."""
    if isinstance(source, DataLoader):
        yield from source
        return
    examples = iter(source)
    while group := list(islice(examples, 64)):
        yield collate_rows(group)


def _check_indices_apart(train: Any, heldout: Any) -> None:
    """Check that two parts of one set do not overlap."""
    sides = []
    for source in (train, heldout):
        dataset: Any = source.dataset if isinstance(source, DataLoader) else source
        indices = None
        if isinstance(dataset, Subset):
            dataset, indices = dataset.dataset, set(dataset.indices)
        sides.append((dataset, indices))
    (first, chosen), (second, held) = sides
    if first is not second:
        return
    if chosen is None or held is None:
        raise PluginError(
            "training and held-out set share examples: both are the same data set",
            hint="return two sets, or the one alone: a seeded share of it is then held out",
        )
    if both := len(chosen & held):
        raise PluginError(
            f"training and held-out set share examples: {both:,} numbers of the same data set",
            hint="give the two subsets no common index",
        )


def _digests_of(source: Any, *, most: int, seconds: float) -> Iterator[bytes]:
    """Hashes of the first examples of a set."""
    deadline = time.monotonic() + seconds
    given = 0
    for batch in _batches(source) if _cannot_index(source) else _indexed(source, None):
        for digest in digests(batch):
            yield digest
            given += 1
            if given == most:
                return
        if time.monotonic() > deadline:
            return


def _training_digests(train: Any, *, seconds: float) -> tuple[set[bytes], float | None]:
    """Hashes of training examples, and which share of the set they are; None if not known.

    A large set is read at its beginning, at its end and in between, at random; one for which time
    is short, at random.
    """
    deadline = time.monotonic() + seconds
    if _cannot_index(train):
        read = list(_digests_of(train, most=MOST_EXAMPLES, seconds=seconds))
        if len(read) < MOST_EXAMPLES and time.monotonic() < deadline:
            return set(read), 1.0
        length = _said_length(train)
        return set(read), min(1.0, len(read) / length) if length else None
    dataset: Any = train.dataset if isinstance(train, DataLoader) else train
    count = len(dataset)
    order = torch.arange(count) if count <= _ALL_READ else _three_parts(count)
    order = order[torch.randperm(len(order), generator=_generator())]
    seen: set[bytes] = set()
    number = 0
    for batch in _indexed(train, order):
        seen.update(digests(batch))
        number += count_examples(batch)
        if time.monotonic() > deadline:
            break
    return seen, number / count


def _three_parts(count: int) -> torch.Tensor:
    """Return indices at the beginning and end of a set, and random ones between, each once."""
    part = _ALL_READ // 4
    middle = torch.randint(part, count - part, (2 * part,), generator=_generator())
    every = torch.cat((torch.arange(part), torch.arange(count - part, count), middle)).sort()[0]
    return every[torch.cat((torch.tensor([True]), every[1:] != every[:-1]))]


def _indexed(source: Any, order: torch.Tensor | None) -> Iterator[Batch]:
    """Yield the examples of a map-style set in an order."""
    dataset: Any = source
    collate: Any = collate_rows
    if isinstance(source, DataLoader):
        dataset, collate = source.dataset, collate_of(source)
    fetch = fetcher(dataset, collate)
    order = torch.arange(len(dataset)) if order is None else order
    for start in range(0, len(order), 64):
        yield fetch(order[start : start + 64])


def _cannot_index(source: Any) -> bool:
    if isinstance(source, DataLoader):
        return not is_plain_loader(source)
    return is_iterable_only(source)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
