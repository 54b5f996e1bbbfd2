"""Every error a user can meet, each with its exit code.

An error says what is wrong, where, what was found and what was expected (`message`), and how to go
on (`hint`). The command line prints both without a traceback and leaves with `exit_code`:
1 our bug; 2 manifest or usage; 3 plugin missing or contract broken; 4 run directory, ledger or
disk; 5 some trials failed; 6 not enough observations to fit; 7 the sweep stopped at a cap.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


class FlopsFitError(Exception):
    """Base class of the errors that a user can fix."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep message and hint apart, so that each interface can show them in its own way."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message, then the hint, as a traceback shows them."""
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class ManifestError(FlopsFitError):
    """The manifest or a command-line argument is not usable."""

    exit_code = 2


class PlanError(FlopsFitError):
    """No sweep can be laid out from these sizes and budgets."""

    exit_code = 2


class PluginError(FlopsFitError):
    """A plugin is missing, does not load, or does not keep its contract."""

    exit_code = 3


class RunDirError(FlopsFitError):
    """The run directory belongs to another experiment, is in use, or cannot be read."""

    exit_code = 4


class LedgerError(RunDirError):
    """The ledger has a line that cannot be read."""


class StorageError(FlopsFitError):
    """The disk, or the receiver of the output, cannot be read or written."""

    exit_code = 4

    @classmethod
    def of(cls, error: OSError) -> StorageError | None:
        """Return the system's error as one for the user; None if it concerns no file or disk."""
        is_of_disk = error.errno in (*_FULL, *_CLOSED, errno.EIO)
        if error.errno is None or (error.filename is None and not is_of_disk):
            return None
        where = "the output" if error.filename is None else f"`{error.filename}`"
        is_write = error.errno in (*_FULL, errno.EROFS) or error.filename is None
        hint = "look at the path, and whether its disk is there"
        if error.errno in _FULL:
            hint = "free some space and give the command again: what was finished is kept"
        elif error.errno in _CLOSED:
            hint = "make it writable, or name another place (`--run-dir`, `--output`)"
        return cls(
            f"{where} cannot be {'written' if is_write else 'read or written'}: {error.strerror}",
            hint=hint,
        )


class TrialsFailedError(FlopsFitError):
    """The sweep ended, but some trials failed."""

    exit_code = 5


class CapReachedError(FlopsFitError):
    """The sweep stopped before a trial that would have exceeded a cap."""

    exit_code = 7


class FitError(FlopsFitError):
    """The observations do not support a fit.

    Attributes:
        code: a stable name of the reason, as in `reasons` of the report's JSON.
    """

    exit_code = 6

    def __init__(self, message: str, *, code: str, hint: str | None = None) -> None:
        """Keep the code with the message and the hint."""
        super().__init__(message, hint=hint)
        self.code = code


class ObservationsError(FlopsFitError):
    """A table of finished runs cannot be read, or has no usable row."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Note:
    """Something a reader must know: a stable `code` for programs, a sentence for people."""

    code: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """Return the note as plain data."""
        return {"code": self.code, "message": self.message}
