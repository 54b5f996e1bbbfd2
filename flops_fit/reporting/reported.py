"""What tables, figures and page read of a result: `Result`, known by its shape.

The files that show a result stand below the one that holds it, so they cannot import it.
"""

# ruff: noqa: D102 - `Result` documents each property
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from flops_fit.errors import Note
from flops_fit.fitting.details import Gain, Waste
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Excluded, Observation
from flops_fit.reporting.buildable import Setting
from flops_fit.reporting.checklist import Check
from flops_fit.reporting.record import Record
from flops_fit.reporting.verdict import Judgement


class Reported(Protocol):
    """The parts of a `Result` that a report shows; see there."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def loss_unit(self) -> str: ...
    @property
    def verdict(self) -> Judgement: ...
    @property
    def reasons(self) -> list[Note]: ...
    @property
    def notes(self) -> Sequence[Note]: ...
    @property
    def fits(self) -> Mapping[str, Fit]: ...
    @property
    def observations(self) -> Sequence[Observation]: ...
    @property
    def used(self) -> tuple[Observation, ...]: ...
    @property
    def excluded(self) -> Sequence[Excluded]: ...
    @property
    def rows(self) -> list[dict[str, Any]]: ...
    @property
    def asked(self) -> tuple[float, ...]: ...
    @property
    def record(self) -> Record | None: ...
    @property
    def setting(self) -> Setting: ...
    @property
    def wastes(self) -> Sequence[Waste]: ...
    @property
    def gains(self) -> Sequence[Gain]: ...
    def checklist(self) -> list[Check]: ...
