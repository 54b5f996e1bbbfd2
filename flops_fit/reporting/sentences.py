"""Answers as sentences, and which intervals are worth printing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flops_fit.reporting.tables.cells import WIDEST, printable, significant
from flops_fit.units import format_count, format_duration, format_flops, plural


def believable(interval: Sequence[float]) -> bool:
    """Whether an interval of positive numbers says something: its ends are finite and not far."""
    low, high = interval
    return 0 < low <= high < math.inf and high <= WIDEST * low


def known_params(row: Mapping[str, Any], sizes: Sequence[float]) -> bool:
    """Whether a prediction's N is known better than the range of sizes that were trained."""
    pair = row.get("params_interval")
    if pair is None:
        return True
    if not believable(pair):
        return False
    return len(sizes) < 2 or bool(pair[1] * min(sizes) <= pair[0] * max(sizes))


def joined(interval: Sequence[float], write: Callable[[float], str]) -> str:
    """`95.3k-232k`."""
    return "-".join(map(write, interval))


def answer_sentence(
    row: Mapping[str, Any],
    unit: str,
    loss_unit: str,
    *,
    sizes: Sequence[float] = (),
    has_intervals: bool = True,
) -> str:
    """What to train with a budget, or that this is not known, why, and which run would help.

    Args:
        row: a prediction, as in the table of methods.
        unit: what one unit of data is called.
        loss_unit: what the loss is measured in.
        sizes: params of the runs.
        has_intervals: whether each number is followed by its 95 % interval.
    """

    def told_with(key: str, write: Callable[[float], str]) -> str:
        pair = row.get(f"{key}_interval") if has_intervals else None
        if pair is None or not believable(pair):
            return write(row[key])
        return f"{write(row[key])} ({' to '.join(map(write, pair))})"

    budget = f"For {format_flops(row['budget_flops'])} FLOPs"
    loss = "" if row["loss"] is None else told_with("loss", lambda value: significant(value, 4))
    unit_of_loss = printable(loss_unit)
    if known_params(row, sizes):
        told = f"; expect a loss of {loss} {unit_of_loss}" if loss else ""
        return (
            f"{budget}: train {told_with('params', format_count)} params on "
            f"{told_with('tokens', format_count)} {printable(plural(unit))}{told}."
        )
    why = "its 95 % interval is wider than the range of sizes that were trained"
    if sizes:
        why += f" ({format_count(min(sizes))} to {format_count(max(sizes))} params)"
    told = f" The loss would be near {loss} {unit_of_loss}." if loss else ""
    decades = row.get("extrapolation_decades") or 0.0
    fix = "More sizes at the largest budgets would tell"
    if decades:
        between = row["budget_flops"] / 10 ** (decades / 2)
        fix = f"Runs of {format_flops(between, 2)} FLOPs, half-way to this budget, would tell"
    return f"{budget}: the best size is not known, because {why}.{told} {fix}."


def nearest_words(
    row: Mapping[str, Any], size_param: str, buildable: Sequence[Mapping[str, Any]]
) -> str:
    """`d_model = 72 (143k params, wastes 0.07 % of compute); about 8 min here`; may be empty."""
    value = row.get("nearest_size")
    if value is None:
        return ""
    text = f"{printable(size_param)} = {value:g}"
    same = [
        each
        for each in buildable
        if each["size_value"] == value and each["budget_flops"] == row["budget_flops"]
    ]
    if same:
        text += f" ({format_count(same[0]['params'])} params"
        wasted = same[0]["wasted_percent"]
        text += f", wastes {significant(wasted, 2)} % of compute)" if wasted is not None else ")"
    seconds = row.get("wall_seconds")
    return text if seconds is None else f"{text}; about {format_duration(seconds)} here"
