"""Finds populations in a table: a text column by which runs follow different laws.

The pooled surface's log residuals are regressed on a quadratic in ln N and ln D, with and without a
constant and slopes for each group. The F test of the two says whether one law for all fits clearly
worse. The quadratic takes up what the surface itself misses, so that a law that bends is not taken
for two populations. Runs count with Huber's weights of the richer regression.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import FitError
from flops_fit.fitting.details import Loss
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Observation
from flops_fit.fitting.tables.numbers import is_blank, parse_cell

Array = NDArray[np.float64]

MOST_GROUPS = 50
MOST_SETTINGS = 10
MAX_P = 1e-3
"""Largest p value at which groups count as different; divided by the number of columns tested."""

MIN_EFFECT = 0.003
"""Smallest root mean square, in log loss, of what groups explain."""

MIN_MEMBERS = 3  # rows of a group, for its own constant to mean anything
_SLOPES_FROM = 8  # rows of every group, for slopes of its own
_MOST_ROWS = 20_000  # of which residuals are taken; evenly chosen among more
_HUBER = 1.345
_NO_GROUP = "(blank)"


@dataclass(frozen=True)
class Difference:
    """The difference in loss between the groups of a column.

    Attributes:
        column: the table's name.
        counts: rows of each group, the largest first.
        p_value: of the F test; None where it could not be made.
        effect: root mean square, in log loss, of what the groups explain.
        is_clear: whether one law for all fits clearly worse.
    """

    column: str
    counts: Mapping[str, int]
    p_value: float | None = None
    effect: float = 0.0
    is_clear: bool = False

    @property
    def listed(self) -> str:
        """The groups in words: `c4: 35, wiki: 35`."""
        shown = [f"{label}: {count}" for label, count in list(self.counts.items())[:5]]
        more = len(self.counts) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")


def labels_of(cells: Sequence[Any]) -> list[str]:
    """Return the group of each row."""
    return [_NO_GROUP if is_blank(cell) else str(cell).strip() for cell in cells]


def is_category(cells: Sequence[Any]) -> bool:
    """Return whether a column holds text with two to fifty values, several rows each.

    Blank cells are one value more if several rows have them.
    """
    values: set[str] = set()
    blank = 0
    for cell in cells:
        if is_blank(cell):
            blank += 1
            continue
        if not isinstance(cell, str | bool):
            return False
        values.add(str(cell).strip())
        if len(values) > MOST_GROUPS:
            return False
    several = MIN_MEMBERS <= blank <= len(cells) - MIN_MEMBERS
    if len(values) + several < 2 or not 1 <= len(values) <= len(cells) / 2:
        return False
    return sum(parse_cell(value)[0] is not None for value in values) < len(values) / 2


def is_setting(cells: Sequence[Any]) -> bool:
    """Return whether a column holds numbers with two to ten values, several rows each."""
    values: set[float] = set()
    for cell in cells:
        if is_blank(cell):
            continue
        value = parse_cell(cell)[0]
        if value is None or len(values) > MOST_SETTINGS:
            return False
        values.add(value)
    return 2 <= len(values) <= min(MOST_SETTINGS, len(cells) / MIN_MEMBERS)


def spread_of_repeats(observations: Sequence[Observation]) -> tuple[float, list[list[int]]]:
    """Return the median range, in log loss, of runs with equal params and tokens, and these runs.

    Args:
        observations: finished runs.
    """
    cells: dict[tuple[float, float], list[int]] = {}
    for place, seen in enumerate(observations):
        cells.setdefault((seen.params, seen.tokens), []).append(place)
    repeated = [rows for rows in cells.values() if len(rows) > 1]
    if len(repeated) < MIN_MEMBERS:
        return 0.0, []
    losses = [[observations[k].loss for k in rows] for rows in repeated]
    return float(np.median([math.log(max(each) / min(each)) for each in losses])), repeated


def differences(
    observations: Sequence[Observation], columns: Mapping[str, Sequence[str]]
) -> list[Difference]:
    """Test how the runs differ by each column of groups; the clearest difference comes first.

    A column whose groups have one size each names the sizes (`gpt-31M`), and is no population.

    Args:
        observations: finished runs.
        columns: the label of each run, by column.
    """
    found = []
    for name, labels in columns.items():
        counts = dict(Counter(labels).most_common())
        if len(counts) > 1 and not _names_sizes(observations, labels):
            found.append((name, labels, counts))
    if not found:
        return []
    residuals = _residuals(observations)
    differ = []
    for name, labels, counts in found:
        p_value, effect = (None, 0.0) if residuals is None else _test(*residuals, labels)
        is_clear = p_value is not None and p_value < MAX_P / len(found) and effect > MIN_EFFECT
        differ.append(Difference(name, counts, p_value, effect, is_clear))
    return sorted(differ, key=lambda each: (not each.is_clear, -each.effect, len(each.counts)))


def _names_sizes(observations: Sequence[Observation], labels: Sequence[str]) -> bool:
    """Return whether most groups have one model size each."""
    sizes: dict[str, set[float]] = {}
    for seen, label in zip(observations, labels, strict=True):
        sizes.setdefault(label, set()).add(seen.params)
    return sum(len(each) == 1 for each in sizes.values()) > len(sizes) / 2


def _residuals(observations: Sequence[Observation]) -> tuple[Array, Array, Array] | None:
    """Positions, design (a quadratic in ln N, ln D) and log residuals to the pooled surface."""
    from flops_fit.fitting.surface import solve_surface

    count = len(observations)
    places = np.unique(np.linspace(0, count - 1, min(count, _MOST_ROWS)).astype(int))
    seen = [observations[k] for k in places]
    try:
        law = solve_surface(seen, FitOptions(loss=Loss.HUBER), drop_outliers=False).law
    except FitError:
        return None
    x = np.log([each.params for each in seen])
    z = np.log([each.tokens for each in seen])
    losses = np.array([each.loss for each in seen])
    with np.errstate(all="ignore"):
        expected = np.array([law.loss(each.params, each.tokens) for each in seen])
        residuals = np.log(losses / expected)
    if not np.isfinite(residuals).all():
        return None
    x, z = (x - x.mean()) / (x.std() or 1.0), (z - z.mean()) / (z.std() or 1.0)
    design = np.stack([np.ones_like(x), x, z, x * x, x * z, z * z], axis=1)
    return places.astype(float), design, residuals


def _test(
    places: Array, design: Array, residuals: Array, labels: Sequence[str]
) -> tuple[float | None, float]:
    """Return the p value of the groups, and the root mean square of what they explain."""
    from scipy.special import fdtrc

    group = [labels[int(k)] for k in places]
    counts = Counter(group)
    kept = [label for label, count in counts.most_common() if count >= MIN_MEMBERS]
    rows = np.array([label in kept for label in group])
    if len(kept) < 2:
        return None, 0.0
    design, residuals = design[rows], residuals[rows]
    members = np.array([kept.index(label) for label in group if label in kept])
    own = (members[:, None] == np.arange(1, len(kept))).astype(float)
    if min(counts[label] for label in kept) >= _SLOPES_FROM:
        own = np.hstack([own, own * design[:, 1:2], own * design[:, 2:3]])
    whole = np.hstack([design, own])
    free = len(residuals) - np.linalg.matrix_rank(whole)
    more = int(np.linalg.matrix_rank(whole) - np.linalg.matrix_rank(design))
    if free < 3 or more < 1:
        return None, 0.0
    weights = np.ones(len(residuals))
    for _ in range(10):
        left = _left(whole, residuals, weights)
        scale = max(1.4826 * float(np.median(np.abs(left))), 1e-12)
        weights = np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(left), 1e-300))
    rich, poor = _left(whole, residuals, weights), _left(design, residuals, weights)
    rich_sum, poor_sum = float(weights @ rich**2), float(weights @ poor**2)
    gained = max(poor_sum - rich_sum, 0.0)
    noise = max(rich_sum / free, 1e-16)
    return float(fdtrc(more, free, gained / more / noise)), math.sqrt(gained / len(residuals))


def _left(design: Array, values: Array, weights: Array) -> Array:
    """Residuals of a weighted regression."""
    root = np.sqrt(weights)
    found = np.linalg.lstsq(design * root[:, None], values * root, rcond=None)[0]
    left: Array = values - design @ found
    return left
