"""Numbers to text and back: `1e18`, `3.2B`, `4 h 10 min`."""

from __future__ import annotations

import math
import re

_COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_BYTES = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))

COUNT_UNITS = {"thousands": 1e3, "millions": 1e6, "billions": 1e9, "trillions": 1e12}
"""Units that params and tokens are written in."""

FLOP_UNITS = {
    "MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15, "EFLOP": 1e18, "ZFLOP": 1e21,
    "PFLOP/s-days": 8.64e19, "EFLOP/s-days": 8.64e22,
}  # fmt: skip
"""Units that FLOPs are written in."""

_SPELLED = {
    "k": 1e3, "thousand": 1e3, "thousands": 1e3,
    "m": 1e6, "mm": 1e6, "mn": 1e6, "mln": 1e6, "mio": 1e6, "million": 1e6, "millions": 1e6,
    "b": 1e9, "g": 1e9, "bn": 1e9, "billion": 1e9, "billions": 1e9,
    "t": 1e12, "tn": 1e12, "trillion": 1e12, "trillions": 1e12,
}  # fmt: skip
_PREFIXES = {
    "mega": 1e6, "giga": 1e9, "tera": 1e12, "peta": 1e15, "exa": 1e18, "zetta": 1e21, "yotta": 1e24,
    "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24,
}  # fmt: skip
_FLOPS = re.compile(
    rf"({'|'.join(_PREFIXES)})?f(?:lops?|los)?(?:/?s(?:ec)?)?[ _-]*(days?|d|hours?|h)?"
)


def parse_number(value: object) -> float:
    """Return the positive finite number that a user wrote as `1e18`, `"1e18"` or `18`.

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


def unit_factor(text: str) -> float | None:
    """Return the factor of a unit: `M` -> 1e6, `PF-days` -> 8.64e19; None if unknown.

    Plain `FLOPs`, `tokens` and `params` give 1.
    """
    name = text.strip().lower().replace("petaflop/s", "petaflop").strip("[]()")
    if name in _SPELLED:
        return _SPELLED[name]
    if name in {"token", "tokens", "params", "parameters", "flop", "flops"}:
        return 1.0
    found = _FLOPS.fullmatch(name)
    if found is None or not (found[1] or found[2]):
        return None
    seconds = {"d": 86400.0, "h": 3600.0}.get((found[2] or "")[:1], 1.0)
    return _PREFIXES.get(found[1] or "", 1.0) * seconds


def format_count(value: float, digits: int = 3) -> str:
    """Return a count with a unit letter: 3200000000 -> `3.2B`; else as a power of ten."""
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
    """Return a duration in its two largest units: `4 h 10 min`, `3 min 5 s`, `0.8 s`."""
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
    """Return the plural of a unit's name: `token` -> `tokens`, `patch` -> `patches`."""
    if unit.endswith("s"):
        return unit
    return f"{unit}es" if unit.endswith(("ch", "sh", "x", "z")) else f"{unit}s"
