"""Limits of a manifest: the most that it may ask for, so that a slip of a digit is one sentence.

Each limit is far beyond what a study needs, and low enough that reading and planning end in
seconds and in less than 500 MB.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from flops_fit.units import parse_number

MANIFEST_BYTES = 2**20
MAX_DEPTH = 32
"""Tables inside tables, and parts of one dotted key."""
MAX_TRIALS = 100_000
"""Trials of one plan: 370 MB and 8 seconds."""
MAX_SIZES = 1_000
MAX_BUDGETS = 1_000
MAX_PER_BUDGET = 100
MAX_RATES = 101
MAX_PROCESSES = 10_000
MAX_BOOTSTRAP = 100_000
MAX_SAMPLES = 10_000
"""Points of a curve, or processes that load data."""
MAX_FORMULA = 1_000
MAX_NAME_BYTES = 200
"""Of a file name most systems take 255, and the run directory adds to it."""
LARGEST_COUNT = 10**18
LARGEST_FLOPS = 1e40

_PIECES = re.compile(r"[={},\[\]\n#]")
_DOTTED = re.compile(r"[\w\"'-][ \t]*\.[ \t]*[\w\"'-]")


def _flops(value: object) -> float:
    """Return a number of FLOPs, or of units of data, of a possible size."""
    number = parse_number(value)
    if number > LARGEST_FLOPS:
        raise ValueError(f"{number:g} is too large: at most {LARGEST_FLOPS:g} are planned for")
    return number


def whole(value: object) -> int:
    """Read a positive whole number, also `1.5e6`.

    Raises:
        ValueError: it is no whole number, or too large.
    """
    number = parse_number(value)
    if number > LARGEST_COUNT:
        raise ValueError(f"{number:g} is too large: expected at most {float(LARGEST_COUNT):g}")
    if number != int(number):
        raise ValueError(f"not a whole number: {value!r}")
    return int(number)


Flops = Annotated[float, BeforeValidator(_flops)]
Count = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
Whole = Annotated[int, BeforeValidator(whole)]
Processes = Annotated[int, Field(gt=0, le=MAX_PROCESSES)]


def is_too_dotted(text: str) -> bool:
    """Return whether a key of a TOML text has too many parts: `a.b.c`, again and again.

    The parser's time grows with the square of their number.
    """
    return any(
        piece.count(".") > MAX_DEPTH and len(_DOTTED.findall(piece)) > MAX_DEPTH
        for piece in _PIECES.split(text)
    )


def is_too_deep(data: Any) -> bool:
    """Return whether plain data has too many tables or lists inside one another."""
    level = [data]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
