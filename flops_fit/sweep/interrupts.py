"""Signals: those that stop a sweep as Ctrl-C does, and what one says that ended a process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGUSR1)
"""What batch systems and containers send before they end a process."""


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Let a handler have the stopping signals meanwhile; only the main thread can."""
    previous = {number: signal.signal(number, handler) for number in STOPPING}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Turn the stopping signals into KeyboardInterrupt meanwhile; not in other threads."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    with handling(interrupt) if is_main else contextlib.nullcontext():
        yield


def killed_by(number: int) -> str:
    """Return the name of the signal that ended a process."""
    name = signal.Signals(number).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
