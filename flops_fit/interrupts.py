"""Signals that stop a sweep as Ctrl-C does: what batch systems and containers send beforehand."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGUSR1)


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Turn SIGTERM and SIGUSR1 into KeyboardInterrupt meanwhile; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
