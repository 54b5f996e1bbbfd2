"""Where the sets of real finished runs lie, beside the checkout; they are no part of it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flops_fit.fitting.points import Observation
from flops_fit.fitting.tables.table import read_table

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "runs"
REFERENCE = FOLDER / "reference.json"


def need_runs() -> None:
    """Skip the test where the runs are not at hand."""
    if not REFERENCE.exists():
        pytest.skip("the sets of real runs (../shared/data/runs) are not beside this checkout")


@cache
def reference() -> dict[str, dict[str, Any]]:
    """The reference optima by set; empty where they are not at hand."""
    if not REFERENCE.exists():
        return {}
    sets: dict[str, dict[str, Any]] = json.loads(REFERENCE.read_text())["sets"]
    return sets


@cache
def runs_of(name: str) -> tuple[Observation, ...]:
    """The observations of one set."""
    return read_table(FOLDER / f"{name}.csv").observations
