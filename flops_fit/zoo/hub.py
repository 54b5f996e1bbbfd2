"""Data sets of the Hugging Face hub, or a local copy of one, and arrays made from them once.

A data set that cannot be had ends in an error that says how to get it. What is made of a data set
(token ids, pixels) is kept as an array in the cache of `datasets`, and mapped into memory: many
worker processes on one machine share it, and only the first one works.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets

_READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".txt": "text"}


def load_split(name: str, split: str, path: str | Path | None = None) -> datasets.Dataset:
    """Load one split of a data set from the hub (or its cache), or from a local copy.

    Args:
        name: of the data set on the hub.
        split: `train`, `validation`, `test`.
        path: a folder in which the hub's files lie, or one written by `save_to_disk`, or one file.

    Raises:
        ModuleNotFoundError: the package `datasets` is not installed.
        ConnectionError: the hub cannot be reached, and its cache lacks the data set.
        ValueError: the local copy is not one, or has no such split.
    """
    datasets = _import_datasets()
    if path is not None:
        return _load_local(datasets, Path(path), split)
    try:
        return datasets.load_dataset(name, split=split)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ConnectionError(
            f"the data set `{name}` cannot be loaded from the Hugging Face hub ({error}). With a "
            f"network, run: hf download {name} --repo-type dataset --local-dir FOLDER; then "
            'copy the folder here and give it in the manifest: kwargs = { path = "FOLDER" }'
        ) from None


def _load_local(datasets: Any, path: Path, split: str) -> Any:
    """Return a split of a local copy."""
    if not path.exists():
        raise ValueError(f"`path` is `{path}`, which does not exist (seen from `{Path.cwd()}`)")
    if path.is_file():
        if path.suffix not in _READERS:
            raise ValueError(f"`path` is `{path}`: expected one of {', '.join(_READERS)}")
        files = {split: str(path)}
        return datasets.load_dataset(_READERS[path.suffix], data_files=files, split=split)
    if (path / "dataset_dict.json").exists():
        found = datasets.load_from_disk(str(path))
    else:
        try:
            found = datasets.load_dataset(str(path))
        except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
            raise ValueError(f"`path` is `{path}`, which holds no data set: {error}") from None
    if split not in found:
        raise ValueError(f"`{path}` has no split `{split}`; it has {', '.join(map(repr, found))}")
    return found[split]


def kept_array(key: dict[str, Any], make: Callable[[], np.ndarray[Any, Any]]) -> Any:
    """Return the array that belongs to `key`: mapped from the cache, or made and put there first.

    Args:
        key: JSON-ready; all that the array depends on.
        make: called if no process has made it before.

    Returns:
        A copy-on-write memory map, of the shape and type that `make` gave.
    """
    from filelock import FileLock

    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = Path(_import_datasets().config.HF_DATASETS_CACHE) / "flops-fit"
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{digest}.npy"
    with FileLock(folder / f"{digest}.lock"):
        if not place.exists():
            unfinished = folder / f".tmp-{digest}.npy"
            np.save(unfinished, make())
            unfinished.replace(place)
    return np.load(place, mmap_mode="c")


def _import_datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ModuleNotFoundError(
            "this data needs the package `datasets`: pip install 'flops-fit[data]'",
            name=error.name,
        ) from None
    return datasets
