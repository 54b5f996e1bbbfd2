"""The FLOPs of one pass through a model, op by op, and what in it could not be counted.

torch's own `FlopCounterMode` counts. Beside it a second mode sees every operation that the counter
has no formula for, and work that is done behind torch's back: a tensor that no operation made (from
NumPy, say), or one that was made empty and is read without an operation having filled it (by a
compiled extension).
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from flops_fit.training.counting.operations import FORMULAS, FOURIER, costs_little

_LEAST_OUTSIDE = 64
"""Numbers in a tensor from outside torch that make it worth telling; scalars and flags are not."""

_EMPTY = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})


@dataclass(frozen=True)
class Unknown:
    """An operation without a formula.

    Attributes:
        operation: its name, `mylib::scan`; or "work outside torch".
        module: in which module of the model, numbers in its name replaced by `*`.
        calls: how often.
        most_flops: no more than so many forward FLOPs; None where nothing can be said.
    """

    operation: str
    module: str
    calls: int
    most_flops: float | None


@dataclass
class Tally:
    """The FLOPs and operations of one pass.

    Attributes:
        products: forward FLOPs of matrix products, convolutions and attention.
        transforms: forward FLOPs of Fourier transforms.
        elements: numbers that element-wise work and reductions read or wrote, whichever is more.
        unknown: what has no formula.
    """

    products: float = 0.0
    transforms: float = 0.0
    elements: float = 0.0
    unknown: list[Unknown] = field(default_factory=list)

    @property
    def training_flops(self) -> float:
        """Forward and backward: two products behind each product, one transform behind each."""
        return 3 * self.products + 2 * self.transforms


class Counting:
    """A context that tallies what runs inside it; `tally()` afterwards.

    Args:
        model: whose modules name what is found.
        looks_outside: whether work outside torch is looked for; on the meta device there is none.
    """

    def __init__(self, model: torch.nn.Module, *, looks_outside: bool) -> None:
        self._counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
        self._root = type(model).__name__
        self._watch = _Watch(self._counter, looks_outside=looks_outside)

    def __enter__(self) -> Counting:
        self._watch.__enter__()  # type: ignore[no-untyped-call]
        self._counter.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        self._counter.__exit__(*raised)  # type: ignore[no-untyped-call]
        self._watch.__exit__(*raised)  # type: ignore[no-untyped-call]

    def tally(self) -> Tally:
        """Return the totals of the pass."""
        counted = self._counter.get_flop_counts().get("Global", {})
        transforms = sum(flops for packet, flops in counted.items() if packet in FOURIER)
        products = sum(counted.values()) - transforms
        merged: dict[tuple[str, str], tuple[int, float | None]] = {}
        for operation, module, most in self._watch.found:
            key = (operation, self._place(module))
            calls, so_far = merged.get(key, (0, 0.0))
            total = None if most is None or so_far is None else so_far + most
            merged[key] = (calls + 1, total)
        unknown = [Unknown(*key, *value) for key, value in merged.items()]
        return Tally(products, transforms, self._watch.elements, unknown)

    def _place(self, module: str) -> str:
        """`GPT.blocks.3.mixer` as `blocks.*.mixer`; the model itself by its class."""
        inner = module.removeprefix(self._root).removeprefix(".")
        return re.sub(r"\b\d+\b", "*", inner) or self._root


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operation below the counter, which has decomposed what can be."""

    def __init__(self, counter: FlopCounterMode, *, looks_outside: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = counter
        self.looks_outside = looks_outside
        self.known: set[Any] = set(_storages(_tensors_alive())) if looks_outside else set()
        self.empty: set[Any] = set()
        self.found: list[tuple[str, str, float | None]] = []
        self.elements = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note what the counter does not know of it."""
        kwargs = kwargs or {}
        given = _given(func, args, kwargs)
        if self.looks_outside:
            self._look_outside(given, is_view=func.is_view)
        out = func(*args, **kwargs)
        made = list(_tensors(out))
        if self.looks_outside:
            storages = set(_storages(made))
            self.known |= storages
            if func._schema.name.removeprefix("aten::") in _EMPTY:
                self.empty |= storages
        if func._overloadpacket in self.counter.flop_registry or func.is_view:
            return out
        read = [tensor for tensor, _ in given]
        written = made + [tensor for tensor, is_written in given if is_written]
        if costs_little(func):
            self.elements += max(_count(read), _count(written))
        elif read and written:  # else it makes numbers from none, or only asks for a shape
            self._unknown(func._schema.name, _most(read, written))
        return out

    def _look_outside(self, given: list[tuple[torch.Tensor, bool]], *, is_view: bool) -> None:
        """Name tensors that no operation made, or filled."""
        for tensor, is_written in given:
            (storage,) = _storages([tensor])
            is_outside = storage not in self.known
            is_unfilled = storage in self.empty and not is_written and not is_view
            self.known.add(storage)
            if is_written or is_unfilled:
                self.empty.discard(storage)
            worth = tensor.is_floating_point() and tensor.numel() >= _LEAST_OUTSIDE
            if worth and (is_outside or is_unfilled):
                self._unknown("work outside torch", None)

    def _unknown(self, operation: str, most: float | None) -> None:
        inside = [name for name in self.counter.mod_tracker.parents if name != "Global"]
        self.found.append((operation, max(inside, key=len, default=""), most))


def _most(read: list[torch.Tensor], written: list[torch.Tensor]) -> float:
    """Return a bound for an operation of which only the shapes are known.

    Every number that comes out may depend on every number that goes in, by one multiply-add.
    """
    return 2.0 * _count(read) * _count(written)


def _count(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _given(func: Any, args: Any, kwargs: dict[str, Any]) -> list[tuple[torch.Tensor, bool]]:
    """Return the tensors that an operation is called with, and whether it writes to them."""
    arguments = func._schema.arguments
    pairs = [*zip(arguments, args, strict=False)]
    pairs += [(each, kwargs[each.name]) for each in arguments if each.name in kwargs]
    return [
        (tensor, bool(argument.alias_info is not None and argument.alias_info.is_write))
        for argument, value in pairs
        for tensor in _tensors(value)
    ]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in an operation's arguments or results."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _storages(tensors: Iterable[torch.Tensor]) -> Iterator[Any]:
    """Marks of the tensors' memory that stay different even when memory is used again."""
    for tensor in tensors:
        try:
            yield StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        except (RuntimeError, NotImplementedError):  # sparse and other tensors without one
            yield id(tensor)


def _tensors_alive() -> list[torch.Tensor]:
    """Return every tensor that Python holds: weights, inputs, constants."""
    return [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
