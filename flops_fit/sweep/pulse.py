"""The sign of life of a conductor that workers of a pool wait for: `conductor.json`.

The conductor counts up in it every few seconds, and removes it at its end. A worker judges by its
own clock: a count that has not changed for a minute belongs to a conductor that died. Clocks of two
machines are never compared.
"""

from __future__ import annotations

import time
from types import TracebackType

from flops_fit.errors import RunDirError
from flops_fit.manifest.files import read_json, write_json
from flops_fit.sweep.rundir import RunDir

_BEAT_SECONDS = 2.0
_DEAD_SECONDS = 60.0


class Pulse:
    """Writes the sign of life of this process."""

    def __init__(self, run: RunDir) -> None:
        """Nothing is written before the block begins."""
        self._path = run.pulse
        self._count, self._last = 0, 0.0

    def __enter__(self) -> Pulse:
        """Begin with the first beat."""
        self.beat()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say that this conductor has ended."""
        self._path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Count up, unless the last beat is younger than two seconds."""
        now = time.monotonic()
        if self._count and now - self._last < _BEAT_SECONDS:
            return
        self._count, self._last = self._count + 1, now
        write_json(self._path, {"count": self._count}, durable=False)


class Listener:
    """Judges whether a conductor lives."""

    def __init__(self, run: RunDir) -> None:
        """Nothing was heard yet."""
        self._path = run.pulse
        self._count, self._heard = -1, 0.0

    def hears(self) -> bool:
        """Return whether the count changed within the last minute."""
        try:
            count = int(read_json(self._path)["count"])
        except (RunDirError, OSError, KeyError, ValueError):
            return False
        if count != self._count:
            self._count, self._heard = count, time.monotonic()
        return time.monotonic() - self._heard < _DEAD_SECONDS
