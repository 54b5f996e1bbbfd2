"""Merges rows that repeat a run: exact duplicates, and all but the best of a tuned setting.

Several rows with one (N, D) that differ in a tuned column (learning rate, batch, weight decay) are
a sweep over that setting. A law of optimal training takes the best of them. Rows that differ only
in their seed are replicates and all stay.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flops_fit.errors import Note
from flops_fit.fitting.points import Excluded, Observation
from flops_fit.fitting.tables.columns import normalise

_TUNED = re.compile(
    r"(\w+_)?(lr|learning_rate|batch_size|weight_decay)|(lr|learning_rate)_(max|peak|base)|"
    r"bs|batch|batch_tokens|wd|warmup(_steps|_ratio|_fraction)?|beta_?[12]|adam_beta_?[12]"
)
_SAME_TOKENS = 0.01  # steps are whole, so one plan's tokens differ a little between batch sizes


@dataclass(frozen=True)
class Kept:
    """The rows that are kept.

    Attributes:
        places: positions of those.
        left: rows that stand for nothing of their own, with the reason.
        notes: what was done, in words.
    """

    places: Sequence[int]
    left: tuple[Excluded, ...] = ()
    notes: tuple[Note, ...] = field(default=())


def is_tuned(name: str) -> bool:
    """Return whether a column holds a tuned setting: a learning rate, a batch, a weight decay."""
    return _TUNED.fullmatch(normalise(name)) is not None


def merge_duplicates(
    observations: Sequence[Observation], contents: Sequence[Hashable], names: Sequence[str]
) -> Kept:
    """Keep the first of equal rows.

    Args:
        observations: of each row.
        contents: all that a row says.
        names: `row 12`, of each row.
    """
    first: dict[Hashable, int] = {}
    places: list[int] = []
    left: list[Excluded] = []
    for place, content in enumerate(contents):
        before = first.setdefault(content, place)
        if before == place:
            places.append(place)
        else:
            left.append(Excluded(names[place], f"the same as {names[before]}"))
    if not left:
        return Kept(places)
    said = f"{len(left)} of {len(observations)} rows repeat another row exactly and count once"
    return Kept(places, tuple(left), (Note("duplicates_merged", said),))


def best_of_tuned(
    observations: Sequence[Observation],
    tuned: Mapping[str, Sequence[Any]],
    labels: Sequence[Hashable],
    names: Sequence[str],
) -> Kept:
    """Keep the best setting of rows with equal (N, D) that differ in a tuned setting.

    The best has the lowest mean loss over its seeds.

    Args:
        observations: of each row.
        tuned: the cells of each tuned column.
        labels: of each row: what else tells runs apart (a data set).
        names: `row 12`, of each row.
    """
    cells: dict[Hashable, dict[Hashable, list[int]]] = {}
    settings = list(zip(*tuned.values(), strict=True)) if tuned else [()] * len(observations)
    step = math.log1p(_SAME_TOKENS)
    for place, seen in enumerate(observations):
        key = (seen.params, round(math.log(seen.tokens) / step), labels[place])
        cells.setdefault(key, {}).setdefault(tuple(map(str, settings[place])), []).append(place)
    swept = [cell for cell in cells.values() if len(cell) > 1]
    if not swept:
        return Kept(range(len(observations)))

    def mean(rows: Sequence[int]) -> float:
        return sum(observations[k].loss for k in rows) / len(rows)

    best = {id(cell): min(cell.values(), key=mean) for cell in swept}
    dropped: dict[int, str] = {}
    for cell in swept:
        chosen = best[id(cell)]
        for rows in cell.values():
            if rows is not chosen:
                reason = f"{names[chosen[0]]} of the same params and tokens has a better setting"
                dropped.update(dict.fromkeys(rows, reason))
    varied = [
        f"`{name}`"
        for name, column in tuned.items()
        if any(len({str(column[k]) for rows in cell.values() for k in rows}) > 1 for cell in swept)
    ]
    said = (
        f"{len(swept)} pairs of params and tokens were trained at several values of "
        f"{', '.join(varied)}: the best is used, and {len(dropped)} rows are left aside"
    )
    edges = _at_edge(swept, tuned, best)
    if edges:
        said += f"; at {edges} of them the best value is the first or last one tried"
    return Kept(
        [k for k in range(len(observations)) if k not in dropped],
        tuple(Excluded(names[k], reason) for k, reason in dropped.items()),
        (Note("best_of_tuned", said),),
    )


def _at_edge(
    swept: Sequence[Mapping[Hashable, list[int]]],
    tuned: Mapping[str, Sequence[Any]],
    best: Mapping[int, list[int]],
) -> int:
    """Return the number of sweeps over a numeric setting whose best value is at an edge."""
    if len(tuned) != 1:
        return 0
    (column,) = tuned.values()
    count = 0
    for cell in swept:
        try:
            values = sorted({float(column[k]) for rows in cell.values() for k in rows})
            chosen = float(column[best[id(cell)][0]])
        except (TypeError, ValueError):
            continue
        count += len(values) > 2 and chosen in (values[0], values[-1])
    return count
