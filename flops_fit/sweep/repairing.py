"""Keeps the whole lines of a damaged ledger, and saves the original beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flops_fit.errors import LedgerError
from flops_fit.manifest.files import write_atomic
from flops_fit.sweep.entries import Entry
from flops_fit.sweep.ledger import line_of, scan_ledger
from flops_fit.sweep.rundir import RunDir


@dataclass(frozen=True)
class Repair:
    """The contents of a damaged ledger.

    Attributes:
        kept: the entries that are whole, in their order.
        dropped: each line that cannot be kept, and why. A dropped trial is harvested again from its
            outcome, or trained again.
        gaps: each line before which lines were removed, added or moved; the line itself is kept.
    """

    kept: tuple[Entry, ...]
    dropped: tuple[str, ...]
    gaps: tuple[str, ...]

    @property
    def is_needed(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.dropped or self.gaps)


def examine(run: RunDir) -> Repair:
    """Return what can be kept of a run's ledger; changes nothing.

    Raises:
        LedgerError: the file cannot be read, or has a newer format.
    """
    kept: list[Entry] = []
    dropped: list[str] = []
    gaps: list[str] = []
    for line in scan_ledger(run.ledger):
        if line.mistake is None or line.is_whole:
            assert line.entry is not None
            kept.append(line.entry)
        if line.mistake is not None:
            (gaps if line.is_whole else dropped).append(line.mistake.message)
    return Repair(tuple(kept), tuple(dropped), tuple(gaps))


def repair(run: RunDir) -> tuple[Repair, Path | None]:
    """Rewrite the ledger with its whole lines; return the original's path, None if unchanged.

    Raises:
        LedgerError: the file cannot be read, or nothing in it is whole.
        RunDirError: the sweep is being conducted.
    """
    with run.lock():
        found = examine(run)
        if not found.is_needed:
            return found, None
        if not found.kept:
            raise LedgerError(
                f"no line of `{run.ledger}` is whole",
                hint="restore the file from a copy, or remove it: outcomes in trials/ are kept",
            )
        content, check = b"", ""
        for entry in found.kept:
            line, check = line_of(entry, after=check)
            content += line
        saved = _free_name(run.ledger)
        write_atomic(saved, run.ledger.read_bytes())
        write_atomic(run.ledger, content)
        return found, saved


def _free_name(path: Path) -> Path:
    """Return an unused name beside a file: `ledger.broken.jsonl`, `ledger.broken-2.jsonl`."""
    number, free = 1, path.with_name(f"{path.stem}.broken{path.suffix}")
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}.broken-{number}{path.suffix}")
    return free
