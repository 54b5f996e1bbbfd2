"""State as tensors and plain data, which is all that a checkpoint can be read back from.

Numbers and arrays of numpy travel as the bytes of numpy's own file format, without pickled objects,
and come back as what they were.
"""

from __future__ import annotations

import contextlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.serialization import (
    get_crc32_options,
    get_unsafe_globals_in_checkpoint,
    set_crc32_options,
)

from flops_fit.errors import PluginError

_ARRAY, _NUMBER = "flops-fit: array of numpy", "flops-fit: number of numpy"


def write_plain(state: object, file: BinaryIO, *, path: Path | None = None, owner: str) -> None:
    """Write a state so that `torch.load` reads it with `weights_only=True`.

    Args:
        state: tensors, numbers, strings, None, and dicts, lists and tuples of such.
        file: where to.
        path: of the file; None: it is in memory.
        owner: whose state it is, for the error.

    Raises:
        PluginError: the state holds something else, which could not be read back.
    """
    try:
        with _sums():
            torch.save(to_plain(state), file)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise _refused(owner, str(error)) from error
    file.flush()
    if path is None:
        file.seek(0)
    if foreign := get_unsafe_globals_in_checkpoint(file if path is None else str(path)):
        raise _refused(owner, ", ".join(f"`{name}`" for name in sorted(foreign)))


@contextlib.contextmanager
def _sums() -> Iterator[None]:
    """Files of torch have sums by which damage shows, also where a plugin wants its own without."""
    wanted = get_crc32_options()
    set_crc32_options(True)
    try:
        yield
    finally:
        set_crc32_options(wanted)


def check_plain(state: object, *, owner: str) -> None:
    """See whether a checkpoint can hold a state.

    Raises:
        PluginError: it cannot.
    """
    write_plain(state, io.BytesIO(), owner=owner)


def _refused(owner: str, found: str) -> PluginError:
    return PluginError(
        f"{owner} holds what a checkpoint cannot be read back from: {found}",
        hint="keep only numbers, strings, tensors, arrays of numpy without objects, and dicts, "
        "lists and tuples of such",
    )


def to_plain(value: Any) -> Any:
    """Return the value with numpy's numbers and arrays as tensors."""
    if isinstance(value, np.generic) or type(value) in (np.ndarray, np.memmap):
        if value.dtype.hasobject:
            return value
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        tag = _NUMBER if isinstance(value, np.generic) else _ARRAY
        return {tag: torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)}
    return _rebuilt(value, to_plain)


def from_plain(value: Any) -> Any:
    """Return the value that `to_plain` was given."""
    if type(value) is dict and len(value) == 1:
        for tag in (_ARRAY, _NUMBER):
            if tag in value:
                array = np.load(io.BytesIO(value[tag].numpy().tobytes()), allow_pickle=False)
                return array if tag == _ARRAY else array[()]
    return _rebuilt(value, from_plain)


def _rebuilt(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply `function` to each entry of a dict, list or tuple; return itself if none changes.

    A key that is a number of numpy becomes Python's, which is the same key.
    """
    if type(value) in (dict, OrderedDict):
        keys = [key.item() if isinstance(key, np.generic) else key for key in value]
        made = [function(entry) for entry in value.values()]
        if all(map(_same, keys, value)) and all(map(_same, made, value.values())):
            return value
        return type(value)(zip(keys, made, strict=True))
    if type(value) in (list, tuple):
        made = [function(entry) for entry in value]
        return value if all(map(_same, made, value)) else type(value)(made)
    return value


def _same(one: object, other: object) -> bool:
    return one is other
