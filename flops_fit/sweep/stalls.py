"""Ends a trial that shows no sign of life: a step, a loader or an import that never returns."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


class StallWatch:
    """Calls a function once a trial has shown no sign of life for too long."""

    def __init__(self, seconds: float) -> None:
        """Nothing is watched before `watching`."""
        self.seconds = seconds
        self._seen = time.monotonic()

    def alive(self) -> None:
        """A sign of life: a step has ended, say."""
        self._seen = time.monotonic()

    @contextlib.contextmanager
    def watching(self, on_stall: Callable[[], None]) -> Iterator[None]:
        """Watch until the block ends; `on_stall` is called in a separate thread."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(min(5.0, self.seconds / 4)):
                if time.monotonic() - self._seen > self.seconds:
                    on_stall()
                    return

        self.alive()
        thread = threading.Thread(target=watch, name="stall-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
