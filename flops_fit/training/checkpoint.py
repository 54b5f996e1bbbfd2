"""Save and restore one trial, atomically.

A checkpoint is one file, `checkpoint/step-<steps done>.pt`, readable by `torch.load` with
`weights_only=True` (tensors and plain data, no code; `plain.py`). It is written beside its place,
flushed to the disk, and then renamed, so a crash leaves either the whole file or none under its
name. Of a trial the newest two are kept: if the newest cannot be read, or a byte of it is not what
was written, the one before is taken.

Each process of a trial keeps files of its own. A crash may leave the processes one checkpoint
apart; they all go on from the newest step that every one of them has.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from flops_fit.errors import PluginError
from flops_fit.training.plain import from_plain, write_plain
from flops_fit.training.session import Session

FORMAT = 1
_UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


def save_checkpoint(
    directory: Path,
    state: dict[str, Any],
    *,
    step: int,
    rank: int = 0,
    most_kept: int | None = 2,
) -> Path:
    """Write a checkpoint of `step` steps done and drop all but the newest.

    Args:
        directory: the trial's directory.
        state: tensors and plain data.
        step: steps done.
        rank: each process of a trial keeps a file of its own.
        most_kept: how many checkpoints there are afterwards; None: as many as were written, maybe
            by several trials at once.

    Raises:
        PluginError: the state holds what could not be read back; what was kept before is left.
    """
    folder = directory / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:012d}{_suffix(rank)}"
    partial = path.with_suffix(f".{os.getpid()}.partial" if most_kept is None else ".partial")
    whole = {"format": FORMAT, "step": step, **state}
    try:
        with partial.open("wb") as file:
            write_plain(whole, file, path=partial, owner="the state of data, model or optimizer")
            os.fsync(file.fileno())
    except PluginError:
        partial.unlink()
        raise
    partial.replace(path)
    _sync_folder(folder)
    if most_kept is not None:
        for old in _checkpoints(directory, rank)[most_kept:]:
            old.unlink(missing_ok=True)
    return path


def load_checkpoint(directory: Path, *, rank: int = 0, most_steps: int | None = None) -> Any:
    """Return the newest checkpoint that can be read, as it was saved; None if there is none.

    Args:
        directory: the trial's directory.
        rank: whose file.
        most_steps: only a checkpoint of no more steps.
    """
    for path in _checkpoints(directory, rank):
        if most_steps is not None and _step_of(path) > most_steps:
            continue
        try:
            if _is_damaged(path):
                continue
            state = from_plain(torch.load(path, map_location="cpu", weights_only=True))
        except _UNREADABLE:
            continue
        if isinstance(state, dict) and state.get("format") == FORMAT:
            return state
    return None


def _is_damaged(path: Path) -> bool:
    """Return whether a checkpoint's bytes changed; `torch.load` checks no checksums."""
    with zipfile.ZipFile(path) as file:
        # Entries are stored as they are; other ways or lengths are damage to the list of them.
        if any(
            entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size
            for entry in file.infolist()
        ):
            return True
        return file.testzip() is not None


def load_common(directory: Path, *, session: Session, most_steps: int | None = None) -> Any:
    """This process's checkpoint of the newest step that every process has; None if there is none.

    Args:
        directory: the trial's directory.
        session: whose processes all ask at once.
        most_steps: only a checkpoint of no more steps.
    """
    while True:
        state = load_checkpoint(directory, rank=session.rank, most_steps=most_steps)
        steps = session.gather(-1 if state is None else state["step"])
        most_steps = min(steps)
        if most_steps == max(steps):
            return state


def drop_newer(directory: Path, state: Any, *, session: Session) -> None:
    """Remove this process's checkpoints beyond the state from which all processes continue.

    Else these files would pass for the newest two, and those that follow be dropped.
    """
    step = -1 if state is None else state["step"]
    if session.world > 1:
        for path in _checkpoints(directory, session.rank):
            if _step_of(path) > step:
                path.unlink(missing_ok=True)


def drop_checkpoints(directory: Path) -> None:
    """Remove every checkpoint of a trial that has ended."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory / "checkpoint")


def random_state() -> dict[str, Any]:
    """Return the state of everything that draws, as tensors and plain data."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    with contextlib.suppress(ImportError):
        import numpy as np

        drawn: Any = np.random.get_state()
        kind, keys, position, has_gauss, gauss = drawn
        # Plain numbers: `weights_only` refuses numpy's own types.
        state["numpy"] = (str(kind), keys.tolist(), int(position), int(has_gauss), float(gauss))
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore a state of all random generators."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "numpy" in state:
        with contextlib.suppress(ImportError):
            import numpy as np

            np.random.set_state(tuple(state["numpy"]))


def _suffix(rank: int) -> str:
    return f".rank-{rank}.pt" if rank else ".pt"


def _checkpoints(directory: Path, rank: int) -> list[Path]:
    """Return the files of one process, newest first."""
    found = (directory / "checkpoint").glob(f"step-{'[0-9]' * 12}{_suffix(rank)}")
    return sorted(found, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name[5:17])


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, if the system can (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
