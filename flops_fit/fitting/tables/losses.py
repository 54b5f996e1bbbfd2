"""Converts losses to nats, by a column's name or an option, and refuses what is no loss."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import ManifestError, Note, ObservationsError
from flops_fit.fitting.tables.numbers import parse_cell

LossUnit = Literal["nats", "bits", "perplexity"]
UNITS = ("nats", "bits", "perplexity")

MAX_NATS = 12.5
"""ln of 268,000: an untrained model over so many tokens has this loss, and a trained one less."""

MIN_RISE = 0.5
"""Rank correlation of loss with compute from which a table is refused as one of rising losses."""

MIN_ROWS = 6

_NAMES = (
    ("bits", re.compile(r"bpb|bpc|(^|_)bits?(_|$)")),
    ("perplexity", re.compile(r"perplexity|(^|_)ppl(_|$)")),
    ("accuracy", re.compile(r"accuracy|(^|_)acc(_|$)|(^|_)top_?[15]$")),
    ("error", re.compile(r"error|(^|_)(wer|cer|err)(_|$)")),
)


def unit_in_name(name: str) -> str | None:
    """Return the unit in a loss column's name: `val_bpb` -> bits; None if it has none."""
    return next((unit for unit, pattern in _NAMES if pattern.search(name)), None)


def is_loss_like(cells: Sequence[object]) -> bool:
    """Return whether the numbers of a column may be losses in nats or bits: mostly 1 to 20."""
    numbers = [value for cell in cells if (value := parse_cell(cell)[0]) is not None]
    known = [value for value in numbers if math.isfinite(value)]
    return bool(known) and 1.0 < float(np.median(known)) < 20.0


def nats_of(column: str) -> str:
    """Return the unit of a column's losses in nats: `val_bpb` -> `nats per byte`, else `nats`."""
    name = column.lower()
    if re.search(r"bpb|byte", name):
        return "nats per byte"
    return "nats per character" if re.search(r"bpc|character", name) else "nats"


def parse_loss_unit(text: str | None) -> LossUnit | None:
    """Return the unit of losses that a user named.

    Raises:
        ManifestError: it is not known.
    """
    for unit in UNITS:
        if text == unit:
            return unit  # type: ignore[return-value]  # UNITS are the members of LossUnit
    if text is None:
        return None
    raise ManifestError(
        f"`--loss-unit`: expected one of {', '.join(UNITS)}, got `{text}`",
        hint="accuracies and error rates are no losses: give the held-out cross-entropy",
    )


def to_nats(
    losses: NDArray[np.float64], *, column: str, stated: LossUnit | None, named: str | None
) -> tuple[NDArray[np.float64], LossUnit, list[Note]]:
    """Losses in nats, the unit that they were in, and what was converted.

    Args:
        losses: float64, shape (rows,); positive, or NaN where not known.
        column: the table's name for them.
        stated: the unit that the caller stated; goes before the name.
        named: the unit that the name states.

    Raises:
        ObservationsError: the column holds accuracies or error rates, or losses too large for nats.
    """
    if stated is None and named in ("accuracy", "error"):
        what = "accuracies" if named == "accuracy" else "error rates"
        raise ObservationsError(
            f"`{column}` holds {what}, and a law is fitted to losses",
            hint="give the held-out cross-entropy of the same runs: --loss-column YOUR_COLUMN",
        )
    unit: LossUnit = stated or ("bits" if named == "bits" else "nats")
    if stated is None and named == "perplexity":
        unit = "perplexity"
    known = losses[np.isfinite(losses)]
    if unit == "nats":
        if stated is None and len(known) >= MIN_ROWS and float(np.median(known)) > MAX_NATS:
            raise ObservationsError(
                f"the losses in `{column}` are too large for nats per token: their median is "
                f"{float(np.median(known)):.4g}",
                hint="say what they are: --loss-unit perplexity, bits or nats",
            )
        return losses, unit, []
    if unit == "bits":
        said = f"`{column}` is in bits: losses are converted to nats (times ln 2)"
        return losses * math.log(2), unit, [Note("loss_converted", said)]
    with np.errstate(divide="ignore", invalid="ignore"):
        nats = np.log(losses)
    said = f"`{column}` holds perplexities: losses are their logarithm, in nats"
    return nats, unit, [Note("loss_converted", said)]


def refuse_rising(flops: Sequence[float], losses: Sequence[float], *, column: str) -> None:
    """Refuse a table whose losses rise with compute, as accuracies do.

    Raises:
        ObservationsError: the rank correlation of loss with compute is MIN_RISE or more.
    """
    if len(losses) < MIN_ROWS or len(set(flops)) < 3 or len(set(losses)) < 3:
        return
    rise = float(np.corrcoef(_ranks(flops), _ranks(losses))[0, 1])
    if rise >= MIN_RISE:
        raise ObservationsError(
            f"`{column}` rises with compute (rank correlation {rise:.2f}), and a loss falls",
            hint="an accuracy or a score is no loss: give the held-out cross-entropy with "
            "--loss-column YOUR_COLUMN",
        )


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the rank of each value; equal ones share their mean rank."""
    array = np.asarray(values)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
