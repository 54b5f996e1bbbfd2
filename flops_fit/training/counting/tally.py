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

from flops_fit.training.counting.operations import FORMULAS, FOURIER, ONE_WAY, costs_little

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
        backward: FLOPs of the backward pass by its real graph; None if it was not counted.
    """

    products: float = 0.0
    transforms: float = 0.0
    elements: float = 0.0
    unknown: list[Unknown] = field(default_factory=list)
    backward: float | None = None

    @property
    def training_flops(self) -> float:
        """FLOPs of forward and backward: the counted backward pass, or else the usual multiple.

        The usual backward pass has two products for each product and a transform for each.
        """
        usual = 2 * self.products + self.transforms
        return self.products + self.transforms + (usual if self.backward is None else self.backward)


class Counting:
    """A context that tallies what runs inside it; `tally()` afterwards.

    Args:
        model: whose modules name what is found.
        looks_outside: whether work outside torch is looked for; on the meta device there is none.
    """

    def __init__(self, model: torch.nn.Module, *, looks_outside: bool) -> None:
        self._counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
        self._root = type(model).__name__
        self._model = model
        self._watch = _Watch(self._counter, looks_outside=looks_outside)
        self._forward: dict[Any, int] | None = None
        self._backward: float | None = None

    def __enter__(self) -> Counting:
        self._watch.__enter__()  # type: ignore[no-untyped-call]
        self._counter.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        self._counter.__exit__(*raised)  # type: ignore[no-untyped-call]
        self._watch.__exit__(*raised)  # type: ignore[no-untyped-call]

    def count_backward(self, root: torch.Tensor | None) -> None:
        """Pass backward from a scalar, and count what the graph really computes.

        Frozen parameters get no gradient, and parts before the first trained parameter none at all;
        checkpointed parts are computed again. A model that trains all of its parameters in one pass
        costs the usual multiple of the forward pass: that its inputs need no gradient is not
        counted, as in 6 N D. The multiple also stands in if the backward pass fails, or if an
        operation of it has no formula.
        """
        self._forward = dict(self._counts())
        frozen = any(not parameter.requires_grad for parameter in self._model.parameters())
        if not (frozen or self._watch.is_partial):
            return
        if root is None or not root.requires_grad:
            self._backward = 0.0 if frozen else None
            return
        self._watch.is_backward = True
        try:
            root.backward()  # type: ignore[no-untyped-call]
        except Exception:
            return
        done = sum(self._counts().values()) - sum(self._forward.values())
        done += sum(2 * flops for packet, flops in self._forward.items() if packet in ONE_WAY)
        if self._watch.is_unsure or not (done or not self._forward):
            return
        trained = [p for p in self._model.parameters() if p.requires_grad]
        if not frozen and all(p.grad is not None for p in trained):
            transforms = sum(n for packet, n in self._forward.items() if packet in FOURIER)
            done = max(done, 2 * sum(self._forward.values()) - transforms)
        self._backward = float(done)

    def _counts(self) -> dict[Any, int]:
        """Return FLOPs by operation so far."""
        return self._counter.get_flop_counts().get("Global", {})

    def tally(self) -> Tally:
        """Return the totals of the pass."""
        counted = self._counts() if self._forward is None else self._forward
        transforms = sum(flops for packet, flops in counted.items() if packet in FOURIER)
        products = sum(counted.values()) - transforms
        merged: dict[tuple[str, str], tuple[int, float | None]] = {}
        for operation, module, most in self._watch.found:
            key = (operation, self._place(module))
            calls, so_far = merged.get(key, (0, 0.0))
            total = None if most is None or so_far is None else so_far + most
            merged[key] = (calls + 1, total)
        unknown = [Unknown(*key, *value) for key, value in merged.items()]
        return Tally(products, transforms, self._watch.elements, unknown, self._backward)

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
        self.is_backward = False
        self.is_unsure = False
        self.is_partial = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note what the counter does not know of it."""
        kwargs = kwargs or {}
        if self.is_backward:
            known = func._overloadpacket in self.counter.flop_registry or func.is_view
            makes = not any(True for _ in _given(func, args, kwargs))  # from nothing, as zeros do
            self.is_unsure |= not (known or makes or costs_little(func, is_backward=True))
            return func(*args, **kwargs)
        if func._overloadpacket in self.counter.flop_registry:
            self.is_partial |= not torch.is_grad_enabled() or _saves_by_hooks()
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


def _saves_by_hooks() -> bool:
    """Return whether torch saves tensors by hooks now, as activation checkpointing does."""
    top: Any = torch._C._autograd._top_saved_tensors_default_hooks
    return top(False) is not None


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
