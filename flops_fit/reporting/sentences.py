"""Answers as sentences, and which intervals are worth printing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flops_fit.reporting.tables.cells import WIDEST, printable, significant
from flops_fit.units import format_count, format_duration, format_flops, plural


def believable(interval: Sequence[float]) -> bool:
    """Return whether an interval of positive numbers is finite and narrow enough to print."""
    low, high = interval
    return 0 < low <= high < math.inf and high <= WIDEST * low


def known_params(row: Mapping[str, Any], sizes: Sequence[float]) -> bool:
    """Return whether the interval of N is narrower than the range of trained sizes."""
    pair = row.get("params_interval")
    if pair is None:
        return True
    if not believable(pair):
        return False
    return len(sizes) < 2 or bool(pair[1] * min(sizes) <= pair[0] * max(sizes))


def joined(interval: Sequence[float], write: Callable[[float], str]) -> str:
    """Return an interval as `95.3k-232k`."""
    return "-".join(map(write, interval))


def answer_sentence(
    row: Mapping[str, Any],
    unit: str,
    loss_unit: str,
    *,
    sizes: Sequence[float] = (),
    has_intervals: bool = True,
) -> str:
    """Return the best model for a budget, or why it is not known and which run would help.

    Args:
        row: a prediction, as in the table of methods.
        unit: name of one unit of data.
        loss_unit: unit of the loss.
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
    fix = "More sizes at the largest budgets would determine it"
    if decades:
        between = row["budget_flops"] / 10 ** (decades / 2)
        fix = (
            f"Runs of {format_flops(between, 2)} FLOPs, half-way to this budget, would determine it"
        )
    return f"{budget}: the best size is not known, because {why}.{told} {fix}."


def nearest_words(
    row: Mapping[str, Any], size_param: str, buildable: Sequence[Mapping[str, Any]]
) -> str:
    """Return `d_model = 72 (143k params, wastes 0.07 % of compute); about 8 min here`, or ""."""
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


def question_sentence(
    asked: Mapping[str, float], row: Mapping[str, Any], unit: str, loss_unit: str
) -> str:
    """Return one sentence that answers a question about the law, with its 95 % intervals.

    Args:
        asked: the numbers of the question, in the names of the methods of `Result`.
        row: the answer as plain data, with `<name>_interval` where an interval is known.
        unit: name of one unit of data.
        loss_unit: unit of the loss.
    """

    def number(key: str, write: Callable[[float], str]) -> str:
        pair = row.get(f"{key}_interval")
        value = write(row[key])
        if key in asked or pair is None:
            return value
        if write is not _percent and not believable(pair):  # a share may be 0 or negative
            return f"{value} (uncertain by more than a factor of {WIDEST:g})"
        return f"{value} ({' to '.join(map(write, pair))})"

    units, unit_of_loss = printable(plural(unit)), printable(loss_unit)
    params = f"{number('params', format_count)} params"
    data = f"{number('tokens', format_count)} {units}"
    loss = f"a loss of {number('loss', _four_digits)} {unit_of_loss}"
    flops = f"{number('flops', format_flops)} FLOPs"
    wasted = f"wastes {number('waste', _percent)} of the compute" if "waste" in row else ""
    if "served_tokens" in asked:
        return (
            f"To reach {loss} and serve {format_count(asked['served_tokens'])} {units}, train "
            f"{params} on {data}: training and serving cost {number('total_flops', format_flops)} "
            f"FLOPs, {number('saved', _percent)} less than with the compute-optimal model of "
            f"{number('params_without_serving', format_count)} params."
        )
    if "unique_tokens" in asked:
        return (
            f"With {format_count(asked['unique_tokens'])} different {units} and {flops}, train "
            f"{params} on {data} ({number('epochs', _three_digits)} epochs); expect {loss}. With "
            f"fresh data it would be {number('loss_with_fresh_data', _four_digits)}."
        )
    if "multiple" in asked:
        return (
            f"With {flops} and {_three_digits(asked['multiple'])} times the optimal {units} per "
            f"param, train {params} on {data}; expect {loss}. This {wasted}."
        )
    if set(asked) == {"loss"}:
        return f"To reach {loss}, spend {flops}: train {params} on {data}."
    if "loss" in asked:
        return f"To reach {loss}, train {params} on {data}: this needs {flops} and {wasted}."
    return f"Expect {loss} from {params} trained on {data} ({flops}); this {wasted}."


def compared_sentence(rows: Sequence[Mapping[str, Any]], first: str, second: str) -> str:
    """Return one sentence: the compute that `second` needs for the loss of `first`.

    Args:
        rows: multipliers of a comparison; the largest budget decides.
        first: name of the result that the multipliers are relative to.
        second: name of the other result.
    """
    if not rows:
        return ""
    row = max(rows, key=lambda each: float(each["budget_flops"]))
    one, other = printable(first), printable(second)
    budget, loss = format_flops(row["budget_flops"]), row["loss"]
    where = f"the loss that {one} reaches with {budget} FLOPs"
    if loss is not None:
        where += f" ({_four_digits(loss)})"
    ratio, pair = row["multiplier"], row["multiplier_interval"]
    if ratio is None:
        return f"{other} cannot reach {where}."
    text = f"{other} needs {_three_digits(ratio)} times the compute for {where}"
    if pair is None or not believable(pair):
        return f"{text}; the 95 % interval is not known."
    low, high = pair
    text += f", 95 % interval {_three_digits(low)} to {_three_digits(high)}"
    if low <= 1 <= high:
        return f"{text}: no significant difference."
    return f"{text}: {other if high < 1 else one} is the better one."


def _three_digits(value: float) -> str:
    """Return a number in three digits."""
    return significant(value, 3)


def _four_digits(value: float) -> str:
    """Return a loss in four digits."""
    return significant(value, 4)


def _percent(share: float) -> str:
    """Return a share in percent, in three digits."""
    return f"{significant(100 * share, 3)} %"
