"""A picture of isoFLOP curves in characters: loss against params, one line per budget.

Dots of braille characters give 2 x 4 points per character; a terminal without Unicode gets points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from flops_fit.units import format_count, format_flops

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column of a dot
_MARGIN = 8  # characters for the losses at the left
_LABEL = 9  # characters for the budgets at the right


@dataclass(frozen=True)
class PictureCurve:
    """An isoFLOP curve.

    Attributes:
        budget_flops: its compute.
        points: (params, loss) of its runs, by rising params.
        minimum: (params, loss) of the fitted minimum; None where there is none to believe.
    """

    budget_flops: float
    points: Sequence[tuple[float, float]]
    minimum: tuple[float, float] | None = None


def isoflop_picture(
    curves: Sequence[PictureCurve], *, width: int, height: int, is_unicode: bool = True
) -> list[str]:
    """Return the `height` lines of the picture, at most `width` wide; empty without room."""
    columns, rows = width - _MARGIN - _LABEL - 2, height - 1
    points = [point for curve in curves for point in curve.points]
    if not points or columns < 20 or rows < 4:
        return []
    area = _Area(
        math.log(min(p for p, _ in points)), math.log(max(p for p, _ in points)),
        min(loss for _, loss in points), max(loss for _, loss in points), columns, rows,
    )  # fmt: skip
    canvas: list[list[int]] = [[0] * columns for _ in range(rows)]
    marks: dict[tuple[int, int], str] = {}
    labels: dict[int, str] = {}
    for curve in curves:
        places = [area.dot(params, loss) for params, loss in curve.points]
        for start, end in pairwise(places):
            _draw_line(canvas, start, end)
        for x, y in places:
            canvas[y // 4][x // 2] |= _BITS[y % 4][x % 2]
        if curve.minimum is not None and area.holds(*curve.minimum):
            x, y = area.dot(*curve.minimum)
            marks[y // 4, x // 2] = "*"
        if places:
            row = min((places[-1][1] // 4 + d for d in (0, 1, -1)), key=lambda r: r in labels)
            if 0 <= row < rows and row not in labels:
                labels[row] = format_flops(curve.budget_flops, 2)
    losses = {0: f"{area.high:.4g}", rows - 1: f"{area.low:.4g}"}
    lines = []
    for row in range(rows):
        drawn = "".join(
            marks.get((row, column)) or _character(canvas[row][column], is_unicode)
            for column in range(columns)
        )
        lines.append(f"{losses.get(row, ''):>{_MARGIN - 1}} {drawn} {labels.get(row, '')}".rstrip())
    ends = [format_count(math.exp(end)) for end in (area.left, area.right)]
    middle = "params  (* minimum)"
    gap = columns - len(ends[0]) - len(ends[1]) - len(middle)
    pads = (" " * (gap // 2), " " * (gap - gap // 2)) if gap > 1 else (" ", " ")
    lines.append(f"{'':>{_MARGIN}}{ends[0]}{pads[0]}{middle if gap > 1 else ''}{pads[1]}{ends[1]}")
    return lines


@dataclass(frozen=True)
class _Area:
    """Positions of values on the canvas: x is ln params, y is loss."""

    left: float
    right: float
    low: float
    high: float
    columns: int
    rows: int

    def dot(self, params: float, loss: float) -> tuple[int, int]:
        """Column and row of the dot, 2 and 4 to a character."""
        across = (math.log(params) - self.left) / ((self.right - self.left) or 1.0)
        down = (self.high - loss) / ((self.high - self.low) or 1.0)
        return round(across * (2 * self.columns - 1)), round(down * (4 * self.rows - 1))

    def holds(self, params: float, loss: float) -> bool:
        """Return whether a point lies inside."""
        return self.left <= math.log(params) <= self.right and self.low <= loss <= self.high


def _draw_line(canvas: list[list[int]], start: tuple[int, int], end: tuple[int, int]) -> None:
    """Set the dots between two points."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for step in range(steps + 1):
        x = round(start[0] + (end[0] - start[0]) * step / steps)
        y = round(start[1] + (end[1] - start[1]) * step / steps)
        canvas[y // 4][x // 2] |= _BITS[y % 4][x % 2]


def _character(bits: int, is_unicode: bool) -> str:
    """Return the character of a cell."""
    if not bits:
        return " "
    return chr(0x2800 + bits) if is_unicode else "."
