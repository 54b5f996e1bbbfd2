"""The facts that a data plugin states about its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict

from flops_fit.manifest.files import STORED, Count, PositiveCount


@dataclass(frozen=True)
class DataFacts:
    """The facts that a data plugin states as attributes of its result.

    Attributes:
        unit: what one unit of data is called: `token`, `image`, ...
        units_per_example: how many units one example holds.
        unique_units: how many different units the training set holds; None for an endless stream.
        loss_unit: what the loss is measured in (`nats per byte`).
        provenance: what identifies the data (names, sizes, sha256); recorded with the run.
        causal: whether each target must be predicted from what comes before it: examples are
            sequences along their first dimension, and an output may not see later inputs.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    unit: str = "example"
    units_per_example: PositiveCount = 1
    unique_units: Count | None = None
    loss_unit: str = "nats"
    provenance: Mapping[str, Any] | None = None
    causal: bool = False
