"""The measured speed of each size, and its share of the device's peak, from the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from flops_fit.reporting.record import Record
from flops_fit.reporting.tables.cells import Column
from flops_fit.reporting.tables.table import Table
from flops_fit.sweep.entries import TrialFinished
from flops_fit.units import plural

_MEDIANS = (
    "tokens_per_second", "flops_per_second", "utilisation", "mfu", "data_wait_fraction",
)  # fmt: skip


def speed_rows(record: Record) -> list[dict[str, Any]]:
    """Return a row for each size and kind of device, by params; empty for a rehearsal.

    Rates and shares are medians over the finished trials, memory is the largest; what no trial of
    the size measured is None.
    """
    groups: dict[tuple[int, float, str], list[TrialFinished]] = {}
    for trial in record.plan.trials:
        ended = record.ledger.finished.get(trial.trial_id)
        if ended is None or ended.flops_per_second is None:
            continue
        size = trial.size
        device = ended.device or ""
        groups.setdefault((size.params, size.size_value, device), []).append(ended)
    return [
        {
            "size_value": value,
            "params": params,
            "trials": len(fields),
            **{key: _known(fields, key, median) for key in _MEDIANS},
            "memory_bytes": _known(fields, "memory_bytes", max),
            "device": device,
        }
        for (params, value, device), fields in sorted(groups.items(), key=lambda item: item[0])
    ]


def speeds_table(rows: Sequence[Mapping[str, Any]], unit: str = "token") -> Table:
    """Return the training speed of each size and its use of the device.

    Args:
        rows: of `speed_rows`.
        unit: what one unit of data is called.
    """
    columns = (
        Column("size_value", "size", "plain"),
        Column("params", "N (params)", "count"),
        Column("trials", "trials", "integer"),
        Column("tokens_per_second", f"{plural(unit)} per s", "count"),
        Column("flops_per_second", "FLOP/s", "flops"),
        Column("utilisation_percent", "of measured peak (%)", "number", is_optional=True),
        Column("mfu_percent", "MFU (%)", "number", is_optional=True),
        Column("data_wait_percent", "waiting for data (%)", "number", is_optional=True),
        Column("memory_bytes", "memory", "bytes", is_optional=True),
        Column("device", "device"),
    )
    percents = (("utilisation", "utilisation_percent"), ("mfu", "mfu_percent"),
                ("data_wait_fraction", "data_wait_percent"))  # fmt: skip
    told = tuple(
        {**row, **{to: None if row[at] is None else 100 * row[at] for at, to in percents}}
        for row in rows
    )
    notes = ["medians of the finished trials; memory: the largest"]
    if any(row["utilisation"] is not None for row in rows):
        notes.append("measured peak: of a large matrix product on the same device")
    if any(row["mfu"] is not None for row in rows):
        notes.append("MFU: of the peak that the device's vendor publishes (dense bf16)")
    return Table("Speed by size", columns, told, tuple(notes))


def _known(ended: Sequence[TrialFinished], key: str, of: Any) -> float | None:
    """Return the median or the largest of the measured values; None if there are none."""
    values = [value for each in ended if (value := getattr(each, key)) is not None]
    return None if not values else of(values)
