"""The style of figures: sizes for papers, colours, markers and readable ticks.

Colours run from dark to light (viridis without its palest end), so a figure printed in grey keeps
the order of the budgets; markers tell curves apart where colour cannot.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
from matplotlib.textpath import TextPath
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
)

from flops_fit.manifest.files import write_atomic
from flops_fit.reporting.tables.cells import printable
from flops_fit.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.4  # inches: one column of a two-column paper
PAGE = 6.9  # inches: both columns
Columns = Literal[1, 2] | None  # of a paper that a figure is to fill; None: its natural size
GREY = "#8a8a8a"
RED = "#B00020"
MARKERS = "osD^v<>ph"
# More points than this are drawn as an image inside the SVG or PDF, which stay small.
MANY = 3000
# Okabe and Ito's palette without yellow, dark to light, for methods set side by side.
METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
METHOD_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
# A method looks the same in every figure, whichever others stand beside it.
_METHODS: dict[str, tuple[str, Any]] = {
    "combination": ("#000000", "-"),
    "surface": ("#0072B2", "--"),
    "isoflop": ("#D55E00", "-."),
    "extrapolation": ("#009E73", ":"),
    "general": ("#CC79A7", (0, (5, 1, 1, 1, 1, 1))),
    "kaplan": ("#56B4E9", (0, (8, 3))),
    "envelope": ("#E69F00", (0, (1, 1))),
}

_GAP_X, _GAP_Y = 1.0, 0.3  # of the font's size: the least between two labels of an axis
_FINE = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
_NO_DATE: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans", "mathtext.default": "regular", "font.size": 8.0,
    "axes.titlesize": 8.5, "axes.labelsize": 8.5, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5, "legend.title_fontsize": 7.5, "legend.frameon": False,
    "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5, "ytick.minor.width": 0.5,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.5, "axes.axisbelow": True,
    "lines.linewidth": 1.3, "lines.markersize": 4.0, "figure.dpi": 150,
    "figure.facecolor": "white", "savefig.facecolor": "white", "svg.hashsalt": "flops-fit",
    # Text stays text: journals refuse the Type 3 fonts that PDF files get otherwise.
    "pdf.fonttype": 42, "svg.fonttype": "none",
}  # fmt: skip


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw with this report's fonts and lines instead of the user's matplotlibrc."""
    with mpl.rc_context():
        mpl.rcdefaults()
        for name, value in _STYLE.items():
            mpl.rcParams[name] = value  # type: ignore[index]
        yield


def figure_text(text: str) -> str:
    """Text from a file for a figure: no control character, and no formula between dollar signs."""
    return printable(text).replace("$", r"\$")


def method_style(name: str, place: int = 0) -> tuple[str, Any]:
    """Colour and line of a method; of another name, those of its place."""
    other = METHOD_COLOURS[place % len(METHOD_COLOURS)], METHOD_LINES[place % len(METHOD_LINES)]
    return _METHODS.get(name, other)


def figure_size(
    columns: Columns, natural: tuple[float, float], *, one: float, two: float
) -> tuple[float, float]:
    """Width and height in inches: the natural ones, or a column's width with the height given."""
    return natural if columns is None else (COLUMN, one) if columns == 1 else (PAGE, two)


def budget_colours(count: int) -> list[tuple[float, float, float, float]]:
    """Return a colour per budget, dark for the smallest."""
    colours = mpl.colormaps["viridis"]
    return [colours(0.84 * i / max(count - 1, 1)) for i in range(count)]


def flops_label(value: float) -> str:
    """FLOPs for a figure: `1.5 x 10^11` in math text."""
    exponent = math.floor(math.log10(value) + 1e-12)
    mantissa = f"{value / 10.0**exponent:.3g}"
    if float(mantissa) >= 10:
        mantissa, exponent = "1", exponent + 1
    power = f"10^{{{exponent}}}"
    return f"${power}$" if mantissa == "1" else f"${mantissa} \\times {power}$"


def log_counts(axes: Axes, which: str, name: str) -> None:
    """Set a logarithmic axis of counts (`20k`, `1.5M`), with four to nine labelled ticks."""
    _logarithmic(axes, which, lambda value: format_count(value, 2))
    _label(axes, which, name)


def log_flops(axes: Axes, which: str, name: str) -> None:
    """Set a logarithmic axis of FLOPs, with whole powers of ten if two of them fit."""
    _logarithmic(axes, which, flops_label, wanted=2)
    _label(axes, which, name)


def log_loss(axes: Axes, which: str, name: str) -> None:
    """Set a logarithmic axis of losses, with plain round ticks if the range is small."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if high / low > 3:
        _logarithmic(axes, which, lambda value: f"{value:g}")
        _label(axes, which, name)
        return
    axis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _label(axes, which, name)


def save_figure(figure: Figure, stem: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write the figure as `<stem>.<format>`; equal figures give equal bytes.

    Its layout is solved once and then stays as it is.
    """
    paths = []
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        write_atomic(path, figure_bytes(figure, kind), durable=False)
        paths.append(path)
    return paths


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """Return the figure as a file of one format, without a date."""
    buffer = io.BytesIO()
    with paper_style():
        figure.savefig(buffer, format=kind, dpi=200, metadata=_NO_DATE.get(kind))
        # Solving the layout is most of the work; once solved, it serves every format.
        figure.set_layout_engine(None)
    return buffer.getvalue()


def _label(axes: Axes, which: str, name: str) -> None:
    axes.set_xlabel(name) if which == "x" else axes.set_ylabel(name)


def _logarithmic(axes: Axes, which: str, text: Callable[[float], str], wanted: int = 4) -> None:
    """Set a log scale with ticks for the present limits; call it after drawing."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    labelled, between = log_ticks(low, high, wanted)
    axis.set_major_locator(ApartLocator(labelled, text))
    # What is not labelled for want of room still gets a mark.
    axis.set_minor_locator(FixedLocator([*labelled, *between]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_xlim(low, high) if which == "x" else axes.set_ylim(low, high)


class ApartLocator(FixedLocator):
    """Ticks of a logarithmic axis, thinned as it is drawn until no two labels come close.

    How much room there is is known only when the layout is; the text is measured by its font, so
    that every file format has the same ticks.
    """

    def __init__(self, values: Sequence[float], text: Callable[[float], str]) -> None:
        """`values`: ascending; `text`: how each is written."""
        super().__init__(values)
        self._values, self._text = list(values), text
        self._size = float(mpl.rcParams["xtick.labelsize"])  # in points

    def __call__(self) -> list[float]:
        """Return the most regular values whose labels do not touch."""
        for stride in range(1, len(self._values)):
            for first in range(stride):
                chosen = self._values[first::stride]
                if len(chosen) > 1 and self._stand_apart(chosen):
                    return chosen
        return self._values[:1]

    def _stand_apart(self, values: Sequence[float]) -> bool:
        """Return whether each label is clear of the next."""
        axis: Any = self.axis
        axes = axis.axes
        is_x = axis is axes.xaxis
        low, high = sorted(axis.get_view_interval())
        length = (axes.bbox.width if is_x else axes.bbox.height) * 72 / axes.get_figure().dpi
        gap = (_GAP_X if is_x else _GAP_Y) * self._size
        extents = [_extent(self._text(value), self._size)[0 if is_x else 1] for value in values]
        places = [length * math.log(value / low) / math.log(high / low) for value in values]
        return all(
            places[i + 1] - places[i] >= (extents[i] + extents[i + 1]) / 2 + gap
            for i in range(len(values) - 1)
        )


@functools.cache
def _extent(text: str, size: float) -> tuple[float, float]:
    """Width and height of a label, in points."""
    box = TextPath((0, 0), text, size=size).get_extents()
    return float(box.width), float(box.height)


def log_ticks(low: float, high: float, wanted: int = 4) -> tuple[list[float], list[float]]:
    """Round values inside [low, high] to be labelled, and others that only get a mark.

    The coarsest of 1; 1, 3; 1, 2, 5; 1, 1.5, 2, 3, 5, 7; and finer, per decade, that gives at
    least `wanted` labels; whole powers of ten are thinned beyond seven. Marks between them
    stop at five decades.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))

    def inside(steps: Sequence[float], stride: int = 1) -> list[float]:
        powers = range(-(-first // stride) * stride, last + 1, stride)
        values = (step * 10.0**power for power in powers for step in steps)
        return [v for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]

    for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), _FINE):
        labelled = inside(steps)
        if len(labelled) >= wanted:
            break
    if steps is _FINE and len(labelled) > 7:
        labelled = labelled[::2]
    stride = 1
    while len(labelled) > 7 and steps == (1.0,):
        stride += 1
        labelled = inside(steps, stride)
    is_long = stride > 1 or high / low > 1e5
    marks = inside((1.0,)) if is_long else inside([float(k) for k in range(1, 10)])
    return labelled, [v for v in marks if v not in labelled]
