"""Numbers to text and back: `1e18`, `3.2B`, `4 h 10 min`."""

from __future__ import annotations

import math

_COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_BYTES = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))


def parse_number(value: object) -> float:
    """The positive finite number that a user wrote as `1e18`, `"1e18"` or `18`.

    Raises:
        ValueError: the value is not a number, or is not positive and finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"not a number: {value!r}")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"not a number: `{value}`") from None
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"not a positive, finite number: `{value}`")
    return number


def format_count(value: float, digits: int = 3) -> str:
    """A count with a unit letter: 3200000000 -> `3.2B`; powers of ten where no letter serves."""
    if value != 0 and not 1e-3 <= abs(value) < 1e15:
        return format_flops(value, digits)
    for size, letter in _COUNTS:
        if abs(value) >= size * (1 - 0.5 * 10.0**-digits):
            return f"{_significant(value / size, digits)}{letter}"
    return _significant(value, digits)


def format_flops(value: float, digits: int = 3) -> str:
    """FLOPs in powers of ten: 6e10 -> `6e10`, 1.5e11 -> `1.5e11`."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    exponent = math.floor(math.log10(abs(value)))
    mantissa = f"{value / 10.0**exponent:.{digits - 1}f}"
    if float(mantissa) >= 10:
        mantissa, exponent = f"{1:.{digits - 1}f}", exponent + 1
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{exponent}"


def format_duration(seconds: float) -> str:
    """A duration in its two largest units: `4 h 10 min`, `3 min 5 s`, `0.8 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def format_bytes(value: float) -> str:
    """Memory in binary units: `1.5 GiB`."""
    for size, unit in _BYTES:
        if value >= size:
            return f"{_significant(value / size, 3)} {unit}"
    return f"{value:.0f} B"


def _significant(value: float, digits: int) -> str:
    """`digits` significant digits without an exponent and without trailing zeros."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def plural(unit: str) -> str:
    """The plural of a unit's name: `token` -> `tokens`, `patch` -> `patches`."""
    if unit.endswith("s"):
        return unit
    return f"{unit}es" if unit.endswith(("ch", "sh", "x", "z")) else f"{unit}s"
