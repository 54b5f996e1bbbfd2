"""Read and write files whole: temporary file, fsync, rename."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flops_fit.errors import RunDirError


def write_atomic(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Replace `path` by `content`, as a whole or not at all.

    Args:
        path: where to; its directory is made.
        content: text is written as UTF-8.
        durable: wait until the disk has it; without, a power cut may bring the old file back.

    Raises:
        OSError: it cannot be written; `filename` is `path`, and nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # a full disk names no file itself
        raise
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable.

    Without it ext4 may forget a rename, or a new file, after a power cut.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write plain data atomically; NaN and infinity are refused, since JSON has none."""
    write_atomic(path, json.dumps(data, indent=1, allow_nan=False) + "\n", durable=durable)


def read_json(path: Path) -> dict[str, Any]:
    """Plain data from one of the run's files.

    Raises:
        RunDirError: the file is missing or is not JSON.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunDirError(
            f"`{path}` cannot be read: {error.strerror}",
            hint="is this a run directory? `flops-fit run MANIFEST` makes one",
        ) from None
    except ValueError as error:
        raise RunDirError(
            f"`{path}` is not JSON: {error}",
            hint="the file was changed by hand or by another program: restore it",
        ) from None
    if not isinstance(data, dict):
        raise RunDirError(f"`{path}` does not hold a JSON object")
    return data
