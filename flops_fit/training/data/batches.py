"""Turns a data plugin's result into a training set, a fixed held-out set, and the facts of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from flops_fit.errors import Note, PluginError
from flops_fit.training.data.draws import Draws, seed_draws
from flops_fit.training.data.facts import DataFacts
from flops_fit.training.data.streams import (
    Batch,
    collate_of,
    collate_rows,
    concatenate,
    count_examples,
    derive_seed,
    fetcher,
    is_iterable_only,
    is_plain_loader,
    map_tensors,
)

HELDOUT_SHARE = 0.05
"""Share of a single map-style set that is held out."""

HELDOUT_NAMES = ("heldout", "validation", "valid", "val", "dev", "eval", "test")
"""What a container may call its held-out set; the first that is there counts."""

_LOADER_BATCH = 8
_SAMPLE = 256  # examples whose lengths are looked at

_ITERABLE_HELDOUT_EXAMPLES = 4096
"""An iterable held-out set may be endless: this many of its first examples are the held-out set."""


@dataclass(frozen=True)
class LoadedData:
    """A training and a held-out set, their facts, and warnings.

    Attributes:
        train, heldout: a Dataset, an IterableDataset or a DataLoader each.
        facts: what one unit is, how many an example holds, how many different ones there are.
        notes: how the held-out set came about, where it was not given.
    """

    train: Any
    heldout: Any
    facts: DataFacts
    notes: tuple[Note, ...] = ()


def load_data(made: object, *, seed: int, overrides: Mapping[str, Any] | None = None) -> LoadedData:
    """Read what a data plugin's callable returned.

    Args:
        made: an object or mapping with `train` and a held-out set under one of `HELDOUT_NAMES`
            (and maybe a `collate_fn`), a pair (train, held-out), or one map-style set (or a
            DataLoader of one), of which a seeded share is then held out.
        seed: chooses the held-out share of a single set.
        overrides: fields of `DataFacts` that win over what the object says of itself.

    Raises:
        PluginError: there is no training set, or an iterable one without a held-out set.
    """
    train, heldout = _find_pair(made)
    notes: tuple[Note, ...] = ()
    if heldout is None:
        facts = _read_facts((made, train, getattr(train, "dataset", None)), train, overrides)
        train, heldout, note = _hold_out(train, seed=seed)
        notes = (note,)
        if facts.unique_units is not None and not (overrides or {}).get("unique_units"):
            kept = example_count(train)
            assert kept is not None, "a set that was split has a length"
            facts = replace(facts, unique_units=kept * facts.units_per_example)
    else:
        facts = _read_facts((made, train, getattr(train, "dataset", None)), train, overrides)
        notes = tuple(_cut_notes(heldout))
    return LoadedData(train, heldout, facts, notes)


def _cut_notes(heldout: Any) -> Iterator[Note]:
    """Yield a note if only the first examples of an iterable held-out set may be used."""
    dataset: Any = heldout
    if isinstance(heldout, DataLoader):
        if is_plain_loader(heldout):
            return
        dataset = heldout.dataset
    elif not is_iterable_only(heldout):
        return
    try:
        is_short = len(dataset) <= _ITERABLE_HELDOUT_EXAMPLES
    except (TypeError, NotImplementedError, AttributeError):
        is_short = False
    if not is_short:
        yield Note(
            "heldout_first",
            "the held-out set can only be read from its beginning: at most its first "
            f"{_ITERABLE_HELDOUT_EXAMPLES:,} examples are used, unless `heldout_examples` in "
            "[training] states another number",
        )


def _find_pair(made: object) -> tuple[Any, Any]:
    """Return (train, held-out or None) from a plugin's result.

    Raises:
        PluginError: it is neither a set, nor a pair of sets, nor a container that has `train`.
    """
    if isinstance(made, Mapping):
        return _collated_by(made, *_named_sets(made, made.__contains__, made.__getitem__))
    if hasattr(made, "train") and not isinstance(made, torch.nn.Module):
        found = _named_sets(made, partial(hasattr, made), partial(getattr, made))
        return _collated_by(made, *found)
    if isinstance(made, tuple | list) and len(made) == 2 and all(_is_source(m) for m in made):
        return made[0], made[1]
    if isinstance(made, tuple | list) and len(made) <= _MOST_SETS:
        kinds = ", ".join(_kind_of(each) for each in made)
        raise PluginError(
            f"the data is a {type(made).__name__} of {len(made)} ({kinds}): expected a training "
            "and a held-out set",
            hint=_hint_for(made),
        )
    if not _is_source(made):
        raise PluginError(
            f"the data is neither a data set nor a pair of them: it is a {_kind_of(made)}",
            hint=_hint_for((made,)),
        )
    return made, None


_MOST_SETS = 4
"""A tuple or list of more values than this is a list of examples, not of sets."""


def _named_sets(
    made: object, has: Callable[[str], bool], get: Callable[[str], Any]
) -> tuple[Any, Any]:
    """(train, held-out or None) of a container whose sets have names."""
    if not has("train"):
        names = [str(key) for key in made] if isinstance(made, Mapping) else []
        found = ", ".join(f"`{key}`" for key in names) or "nothing"
        raise PluginError(
            f"the data is a mapping without `train`: it has {found}",
            hint='return {"train": ..., "heldout": ...}',
        )
    train = get("train")
    if callable(train) and not _is_source(train):
        raise PluginError(
            "the data's `train` is a method, not a data set",
            hint='return a pair, or {"train": ..., "heldout": ...}',
        )
    for name in HELDOUT_NAMES:
        heldout = get(name) if has(name) else None
        if heldout is not None:
            return _checked("train", train), _checked(name, heldout)
    return _checked("train", train), None


def _checked(name: str, made: object) -> Any:
    """Return a set of a container, if it is one.

    Raises:
        PluginError: it is something else.
    """
    if _is_source(made):
        return made
    raise PluginError(
        f"the data's `{name}` is a {_kind_of(made)}: expected a data set", hint=_hint_for((made,))
    )


def _collated_by(made: object, train: Any, heldout: Any) -> tuple[Any, Any]:
    """Return the sets, collated by the container's own collator if it has one."""
    collate = None
    for name in ("collate_fn", "data_collator"):
        own = made.get(name) if isinstance(made, Mapping) else getattr(made, name, None)
        collate = own if collate is None else collate
    if not callable(collate):
        return train, heldout
    sets = [
        each
        if each is None or isinstance(each, DataLoader)
        else DataLoader(each, batch_size=_LOADER_BATCH, collate_fn=collate)
        for each in (train, heldout)
    ]
    return sets[0], sets[1]


def _kind_of(made: object) -> str:
    if isinstance(made, torch.Tensor):
        return f"`Tensor` of shape {tuple(made.shape)}"
    return f"`{type(made).__name__}`"


def _hint_for(made: Sequence[Any]) -> str:
    """Return a hint on what was probably meant."""
    if any(isinstance(each, torch.Tensor) for each in made):
        return "wrap tensors in a set: `TensorDataset(inputs, targets)`, one set for each part"
    if len(made) == 3 and all(_is_source(each) for each in made):
        return (
            "return training and held-out set alone; a third set (test) is not used: keep it for "
            'the final model, or name the sets: {"train": ..., "validation": ..., "test": ...}'
        )
    return "return a training and a held-out set: a Dataset, IterableDataset or DataLoader each"


def _is_source(candidate: object) -> bool:
    """Return whether a thing can give examples (a tensor or a number is no data set here)."""
    if isinstance(candidate, torch.Tensor | str | bytes | int | float):
        return False
    return hasattr(candidate, "__iter__") or hasattr(candidate, "__getitem__")


def _hold_out(train: Any, *, seed: int) -> tuple[Any, Any, Note]:
    """Split one map-style set by a seeded permutation."""
    dataset, loader = train, None
    if isinstance(train, DataLoader):
        dataset, loader = train.dataset, train
    if is_iterable_only(dataset) or (loader is not None and not is_plain_loader(loader)):
        raise PluginError(
            "the data has no held-out set, and an iterable set cannot be split into two",
            hint="return a pair (train, heldout): a second set of examples that train lacks",
        )
    total = len(dataset)
    heldout_count = max(1, round(total * HELDOUT_SHARE))
    if total < 2:
        raise PluginError(
            f"the data holds {total} examples: too few to train on some and hold out others",
            hint="return a larger set, or a pair (train, heldout)",
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "heldout"))
    order = torch.randperm(total, generator=generator)
    parts = [
        Subset(dataset, sorted(part.tolist()))
        for part in (order[heldout_count:], order[:heldout_count])
    ]
    if loader is not None:
        parts = [
            DataLoader(part, batch_size=loader.batch_size, collate_fn=collate_of(loader))  # type: ignore[misc]
            for part in parts
        ]
    message = (
        f"no held-out set was given: {heldout_count:,} of {total:,} examples "
        f"({HELDOUT_SHARE:.0%}, chosen by seed {seed}) are held out and never trained on"
    )
    return parts[0], parts[1], Note("heldout_split", message)


def _read_facts(
    owners: tuple[Any, ...], train: Any, overrides: Mapping[str, Any] | None
) -> DataFacts:
    """DataFacts from the first owner that states each field, overrides first."""
    values: dict[str, Any] = {}
    for field in fields(DataFacts):
        for owner in owners:
            value = (
                owner.get(field.name)
                if isinstance(owner, Mapping)
                else getattr(owner, field.name, None)
            )
            if value is not None and not callable(value):
                values[field.name] = value
                break
    known = {field.name for field in fields(DataFacts)}
    for name, value in (overrides or {}).items():
        if name not in known:
            raise PluginError(
                f"`{name}` is no fact about data",
                hint=f"the facts are {', '.join(sorted(known))}",
            )
        if value is not None:
            values[name] = value
    if values.get("units_per_example") is None and _has_tokens(train):
        values = {**_token_facts(train), **values}
    per_example = values.get("units_per_example", 1)
    if isinstance(per_example, bool) or not isinstance(per_example, int) or per_example < 1:
        raise PluginError(
            f"the data's `units_per_example` is {per_example!r}: expected a whole number from 1",
            hint="state how many units of data (tokens, images) one example holds",
        )
    if values.get("unique_units") is None:
        length = example_count(train)
        values["unique_units"] = None if length is None else length * per_example
    return DataFacts(**values)


def _has_tokens(train: Any) -> bool:
    """Return whether a set is a table of `datasets` with a column of token numbers."""
    dataset = getattr(train, "dataset", train)
    return "input_ids" in (getattr(dataset, "column_names", None) or ())


def _token_facts(train: Any) -> dict[str, Any]:
    """Return what follows from a sample of tokenised examples: the unit, and how many there are.

    Where lengths differ, an example counts as many tokens as the mean of the sample.
    """
    batch = first_examples(train, _SAMPLE)
    mask = batch.get("attention_mask", batch["input_ids"])
    kept = (
        mask.ne(0).sum(1) if "attention_mask" in batch else torch.full((len(mask),), mask.shape[1])
    )
    return {
        "unit": "token",
        "units_per_example": max(1, round(float(kept.double().mean()))),
        "loss_unit": "nats per token",
    }


def example_count(source: Any) -> int | None:
    """Return the number of examples in a set; None if it does not state one."""
    dataset: Any = source.dataset if isinstance(source, DataLoader) else source
    if is_iterable_only(dataset):
        return None
    return len(dataset)


def heldout_batches(heldout: Any, *, batch: int, examples: int | None) -> list[Batch]:
    """Return the whole fixed held-out set as batches, the same ones in every trial.

    Args:
        heldout: a Dataset, IterableDataset or DataLoader (whose own batches are kept).
        batch: examples in one batch.
        examples: how many examples count, evenly spaced over a map-style set and the first of an
            iterable one; None: all of a map-style set, the first 4,096 of an iterable one.

    Raises:
        PluginError: it yields nothing.
    """
    made = _read(heldout, batch=batch, examples=examples, is_spread=True)
    if not made:
        raise _empty("held-out set", "check its length; the loss that is fitted is measured on it")
    return made


def _read(source: Any, *, batch: int, examples: int | None, is_spread: bool) -> list[Batch]:
    """Yield batches of this many examples; random sets always yield the same ones."""
    with Draws().apart():
        seed_draws(0)
        return _read_chosen(source, batch=batch, examples=examples, is_spread=is_spread)


def _read_chosen(source: Any, *, batch: int, examples: int | None, is_spread: bool) -> list[Batch]:
    """Yield batches of this many examples: the first or, of a map-style set, evenly spaced ones."""
    collate: Any = collate_rows
    if isinstance(source, DataLoader):
        if not is_plain_loader(source):
            return list(_limit(iter(source), examples or _ITERABLE_HELDOUT_EXAMPLES))
        source, collate = source.dataset, collate_of(source)
    elif is_iterable_only(source):
        chosen = islice(iter(source), examples or _ITERABLE_HELDOUT_EXAMPLES)
        made = []
        while group := list(islice(chosen, batch)):
            made.append(collate_rows(group))
        return made
    total = len(source)
    count = total if examples is None else min(examples, total)
    numbers = torch.arange(count)
    if is_spread and count < total:
        numbers = (2 * numbers + 1) * total // (2 * count)
    fetch = fetcher(source, collate)
    return [fetch(numbers[at : at + batch]) for at in range(0, count, batch)]


def _limit(batches: Iterator[Batch], examples: int) -> Iterator[Batch]:
    """Batches until `examples` examples have come, the last cut to fit."""
    left = examples
    for batch in batches:
        count = count_examples(batch)
        if count >= left:
            yield map_tensors(lambda t, left=left: t[:left], batch)  # type: ignore[misc]
            return
        yield batch
        left -= count


def first_examples(train: Any, count: int) -> Batch:
    """Return the first `count` examples of a training set as one batch, without drawing at random.

    Raises:
        PluginError: it yields nothing.
    """
    made = _read(train, batch=count, examples=count, is_spread=False)
    if not made:
        raise _empty("data set", "check its length")
    return made[0] if len(made) == 1 else concatenate(made)


def _empty(which: str, hint: str) -> PluginError:
    return PluginError(f"the {which} yields nothing: not one example came out of it", hint=hint)
