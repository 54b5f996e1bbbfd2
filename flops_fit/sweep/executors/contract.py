"""The contract of an executor: submit a task, get a future."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Resources:
    """The resources that a task needs from an executor."""

    num_devices: int = 1
    wall_seconds: float | None = None
    memory_bytes: int | None = None


class Executor(Protocol):
    """A small `concurrent.futures.Executor`: it knows neither trials nor torch."""

    def submit(self, task: tuple[str, ...], resources: Resources) -> Future[None]:
        """Start the trials with these ids somewhere; the future ends when they have ended.

        A future that raises says that the worker died; what the trials left is in their outcome
        files, whichever way the future ends.
        """
        ...

    def shutdown(self) -> None:
        """End every worker at once; what they had not finished is taken up on resume."""
        ...
