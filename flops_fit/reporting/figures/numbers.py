"""The numbers of a figure, so that an author can draw them into other axes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.reporting.tables.cells import csv_cell

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("panel", "x_axis", "y_axis", "series", "x", "y")


def numbers_of(figure: Figure) -> list[dict[str, Any]]:
    """Return the points of all lines and markers of a figure, one row each.

    `panel` counts the axes from 1; `series` is the legend's text, or else the artist's name.
    """
    rows = []
    for panel, axes in enumerate(figure.axes, start=1):
        axis = {"panel": panel, "x_axis": axes.get_xlabel(), "y_axis": axes.get_ylabel()}
        for series, points in _series(axes):
            rows += [
                {**axis, "series": series, "x": float(x), "y": float(y)}
                for x, y in points
                if math.isfinite(x) and math.isfinite(y)
            ]
    return rows


def to_csv(figure: Figure) -> str:
    """Return the numbers of a figure as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([csv_cell(row[name]) for name in COLUMNS] for row in numbers_of(figure))
    return buffer.getvalue()


def _series(axes: Axes) -> Iterator[tuple[str, Any]]:
    """Yield the name and the points, shape (points, 2), of each line and each set of markers."""
    for k, line in enumerate(axes.lines, start=1):
        yield _name_of(line, f"line {k}"), np.asarray(line.get_xydata(), dtype=float)
    for k, marks in enumerate(axes.collections, start=1):
        offsets: NDArray[np.float64] = np.ma.filled(
            np.ma.asarray(marks.get_offsets(), dtype=float), math.nan
        )
        if offsets.size and np.any(offsets != 0.0):
            yield _name_of(marks, f"markers {k}"), offsets.reshape(-1, 2)


def _name_of(artist: Artist, other: str) -> str:
    """Return an artist's label, or else its id, or else `other`."""
    label = str(artist.get_label() or "")
    if label and not label.startswith("_"):
        return label
    return artist.get_gid() or other
