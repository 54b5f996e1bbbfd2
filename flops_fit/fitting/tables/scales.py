"""Compares the units of params, tokens and FLOPs, and computes missing ones from the others.

N, D and C are redundant: C / (N D) is 6 for a plain transformer and 2 to 30 for the models at hand.
A table that breaks this, or whose tokens per parameter or sizes are out of all range, is in other
units or has its columns exchanged. It is refused, and the error names the scale that makes it
plausible. Numbers are never rescaled without the caller's word: `--scale params=1e6`, or a column's
own name (`tokens_billions`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import ManifestError, Note, ObservationsError
from flops_fit.units import FLOP_UNITS, format_flops, parse_number, unit_factor

Array = NDArray[np.float64]

FLOPS_RANGE = (2.0, 30.0)
"""C / (N D). 6 is Kaplan et al.'s (arXiv:2001.08361); small models with large heads reach 20."""

TOKENS_RANGE = (0.1, 1e5)
"""Tokens per parameter of language models at hand: 0.3 (Kaplan) to 30,000 (over-trained)."""

SIZE_RANGE = (1e3, 1e14)
DATA_RANGE = (1e4, 1e16)
ROW_FACTOR = 10.0
"""A row whose C / (N D) differs by more than this from the median holds a wrong number."""

MIN_ROWS = 6
SIX = 6.0
_BUDGET_WIDTH = 1.1  # as of the isoFLOP curves
_MIXED_GAP = 2.5  # decades without any row
_MIXED_ROWS = 2
_MIXED_NEAR = 1.3  # decades between the two units' medians and a unit's factor
_SAME = 0.01  # relative difference below which C is 6 N D
_SMOOTH = 0.02  # of FLOPs per token against size, for blank cells to be filled from it
_COUNT_SCALES = (1.0, 1e3, 1e6, 1e9, 1e12)
_UNUSUAL = {
    "params": {1e6: 0.1, 1e9: 0.3, 1e3: 1.0, 1e12: 2.0},
    "tokens": {1e9: 0.1, 1e6: 0.4, 1e12: 0.4, 1e3: 1.0},
}  # decades of doubt: params are mostly written in millions, and tokens in billions
_FLOP_SCALES = (1.0, *FLOP_UNITS.values())
_WORDS = {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"}
_FLOP_WORDS = {factor: unit for unit, factor in FLOP_UNITS.items()}


_QUIET = np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore")
"""Counts may hold anything; a ratio that is no number is judged as one that does not fit."""


@dataclass(frozen=True)
class Counts:
    """Params, tokens and FLOPs of each row, float64, shape (rows,); NaN where not known.

    Attributes:
        params, tokens, flops: as the table has them, scaled.
        active: params that a token visits, where the table has them; else the params.
    """

    params: Array
    tokens: Array
    flops: Array
    active: Array

    @property
    def ratio(self) -> Array:
        """C / (N D) of each row."""
        return self.flops / (self.active * self.tokens)


def parse_scales(scale: Mapping[str, float | str] | None) -> dict[str, float]:
    """Factors by our name of the column; each a number or a unit (`M`, `billions`, `PF-days`).

    Raises:
        ManifestError: a column that has no scale, or no factor.
    """
    found: dict[str, float] = {}
    for name, value in (scale or {}).items():
        if name not in ("params", "tokens", "flops", "budget_flops", "flops_per_token"):
            raise ManifestError(
                f"`--scale`: `{name}` has no scale",
                hint="write --scale params=1e6,tokens=1e9,flops=1e15",
            )
        factor = unit_factor(value) if isinstance(value, str) else None
        if factor is None:
            try:
                factor = parse_number(value)
            except ValueError as error:
                raise ManifestError(
                    f"`--scale`: {error}", hint="write --scale params=1e6, or --scale flops=PF-days"
                ) from None
        found[name] = factor
    return found


@_QUIET
def check_units(
    counts: Counts, *, names: Mapping[str, str], sure: frozenset[str], where: str
) -> None:
    """Refuse a table whose numbers are in other units, or in each other's columns.

    Args:
        counts: as given, nothing derived yet.
        names: our column to the table's.
        sure: our columns whose numbers the caller says are right (`--scale params=1`).
        where: how to name the table.

    Raises:
        ObservationsError: with the likely fix.
    """
    given = [name for name in ("params", "tokens", "flops") if name in names]
    medians = {name: _median(getattr(counts, name)) for name in given}
    if len(given) < 2 or any(value is None for value in medians.values()):
        return
    middle = {name: value for name, value in medians.items() if value is not None}
    factor = _median(counts.ratio) if len(given) == 3 else SIX
    if factor is None:
        factor = SIX
    found = _completed(middle, factor)
    if not sure.isdisjoint(given):
        return
    if not _inside(factor, FLOPS_RANGE):
        spread = np.ptp(np.nanpercentile(np.log10(counts.ratio), [10, 90]))
        about = "" if spread < 0.3 else f", by factors that differ 10^{spread:.1f}-fold among rows"
        what = f"the FLOPs of {where} are {_times(factor / SIX)} 6 N D{about}"
        usual = f"C / (N D) is {format_flops(factor)}; {FLOPS_RANGE[0]:g} to {FLOPS_RANGE[1]:g} "
        raise _refusal(f"{what} ({usual}is usual)", middle, factor, names)
    counted = "flops" if "flops" in names else "flops_per_token"
    if counted in names and counted not in sure and _is_forward_only(counts.ratio):
        raise ObservationsError(
            f"the FLOPs of {where} are 2 N D in every row, which is the forward pass alone; "
            "training takes about 6 N D",
            hint=f"--scale {counted}=3; if the numbers are right as they are: --scale {counted}=1",
        )
    per_param = found["tokens"] / found["params"]
    if not _inside(per_param, TOKENS_RANGE):
        raise _refusal(
            f"{where} has {per_param:.3g} tokens for each parameter in the median run "
            f"({TOKENS_RANGE[0]:g} to {TOKENS_RANGE[1]:,.0f} is usual)",
            middle, factor, names,
        )  # fmt: skip
    if not (_inside(found["params"], SIZE_RANGE) and _inside(found["tokens"], DATA_RANGE)):
        raise _refusal(
            f"the median run of {where} has {found['params']:.3g} params and "
            f"{found['tokens']:.3g} tokens",
            middle, factor, names,
        )  # fmt: skip


def _median(values: Array) -> float | None:
    """Return the median of the known values; None for fewer than MIN_ROWS rows."""
    known = values[np.isfinite(values) & (values > 0)]
    return float(np.median(known)) if len(known) >= MIN_ROWS else None


def _is_forward_only(ratio: Array) -> bool:
    """Return whether C / (N D) is 2 within 1 % in nine rows of ten."""
    known = ratio[np.isfinite(ratio)]
    return known.size > 0 and bool(np.mean(np.abs(known / 2 - 1) < 0.01) >= 0.9)


def _inside(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _times(factor: float) -> str:
    """Return a factor in words: `1e6 times`, or `1/1e9 of`."""
    return f"{factor:.3g} times" if factor >= 1 else f"1/{1 / factor:.3g} of"


def _completed(middle: Mapping[str, float], factor: float) -> dict[str, float]:
    """Median params, tokens and FLOPs, the third from the other two."""
    found = dict(middle)
    if "tokens" not in found:
        found["tokens"] = found["flops"] / (factor * found["params"])
    if "params" not in found:
        found["params"] = found["flops"] / (factor * found["tokens"])
    return found


def _refusal(
    message: str, middle: Mapping[str, float], factor: float, names: Mapping[str, str]
) -> ObservationsError:
    """Return the error with the likely fix: an exchange, or a scale of the fewest columns."""
    right = ",".join(f"{name}=1" for name in middle)
    sure = f"if the numbers are right as they are: --scale {right}"
    is_exchanged = (
        {"params", "tokens"} <= set(middle)
        and middle["tokens"] < TOKENS_RANGE[0] * middle["params"]
        and middle["tokens"] >= SIZE_RANGE[0] * 10
        and _inside(factor, FLOPS_RANGE)
        and _inside(middle["params"] / middle["tokens"], TOKENS_RANGE)
    )
    if is_exchanged:
        exchange = f"params={names['tokens']},tokens={names['params']}"
        return ObservationsError(
            f"{message}: params and tokens look exchanged",
            hint=f"--columns {exchange}; {sure}",
        )
    scales = _likely_scales(middle, factor)
    if scales is None:
        return ObservationsError(
            f"{message}: its units are not plain",
            hint="name their units, such as --scale params=1e6,tokens=1e9, or leave the FLOPs out "
            f"with --columns flops=none; {sure}",
        )
    words = " and ".join(
        f"{name} look like " + (_FLOP_WORDS[scale] if name == "flops" else _WORDS[scale])
        for name, scale in scales.items()
    )
    option = ",".join(f"{name}={format_flops(scale)}" for name, scale in scales.items())
    return ObservationsError(f"{message}: {words}", hint=f"--scale {option}; {sure}")


def _likely_scales(middle: Mapping[str, float], factor: float) -> dict[str, float] | None:
    """Return the factors of the fewest columns that make the median run plausible.

    Among as few the one whose C / (N D) is nearest to 6, and its tokens per parameter to 20.
    """
    choices = [_FLOP_SCALES if name == "flops" else _COUNT_SCALES for name in middle]
    best: tuple[tuple[float, float], dict[str, float]] | None = None
    for chosen in itertools.product(*choices):
        scales = dict(zip(middle, chosen, strict=True))
        ratio = factor
        if len(middle) == 3:
            ratio *= scales["flops"] / (scales["params"] * scales["tokens"])
        found = _completed({name: middle[name] * scales[name] for name in middle}, ratio)
        per_param = found["tokens"] / found["params"]
        if not (
            _inside(ratio, FLOPS_RANGE)
            and _inside(per_param, TOKENS_RANGE)
            and _inside(found["params"], SIZE_RANGE)
            and _inside(found["tokens"], DATA_RANGE)
        ):
            continue
        odd = 3 * abs(math.log10(ratio / SIX)) + abs(math.log10(per_param / 20))
        odd += sum(_UNUSUAL.get(name, {}).get(scale, 0.0) for name, scale in scales.items())
        rank = (float(sum(scale != 1 for scale in chosen)), odd)
        if best is None or rank < best[0]:
            best = rank, {name: scale for name, scale in scales.items() if scale != 1}
    return None if best is None or not best[1] else best[1]


@_QUIET
def misfits(counts: Counts) -> dict[int, str]:
    """Rows whose params, tokens and FLOPs contradict the other rows', by position."""
    ratio = counts.ratio
    middle = _median(ratio)
    if middle is None:
        return {}
    off = np.abs(np.log(ratio / middle)) > math.log(ROW_FACTOR)
    return {
        int(k): f"params, tokens and FLOPs contradict each other: C / (N D) is {ratio[k]:.3g}, and "
        f"{middle:.3g} in the median row"
        for k in np.flatnonzero(off & np.isfinite(ratio))
    }


def strays(values: Array, name: str) -> dict[int, str]:
    """Rows whose number lies a factor of 100 or more apart from every other row's, by position."""
    known = np.flatnonzero(np.isfinite(values) & (values > 0))
    if len(known) < MIN_ROWS + 2:
        return {}
    order = known[np.argsort(values[known], kind="stable")]
    logs = np.log10(values[order])
    found = {}
    for place, gap, near in ((0, logs[1] - logs[0], 1), (-1, logs[-1] - logs[-2], -2)):
        if gap >= 2:
            k = int(order[place])
            found[k] = (
                f"{name} is {values[k]:.3g}, and the nearest of any other row is "
                f"{values[order[near]]:.3g}"
            )
    return found


@_QUIET
def note_odd_ratios(params: Array, tokens: Array) -> Note | None:
    """Return a note if some rows have few tokens per parameter and others have many."""
    ratio = tokens / params
    few, many = int(np.sum(ratio < TOKENS_RANGE[0])), int(np.sum(ratio > 10))
    if few < 2 or few + many < MIN_ROWS or many < few:
        return None
    return Note(
        "ratios_differ",
        f"warning: {few} rows have less than {TOKENS_RANGE[0]:g} tokens for each parameter, and "
        f"{many} rows more than 10: look whether params and tokens are exchanged in some rows",
    )


def refuse_mixed_units(values: Array, name: str, column: str, where: str) -> None:
    """Refuse counts of which some rows are in another unit than the others.

    Two units are suspected where no row lies within 2.5 decades, two rows or more lie on either
    side, and a unit explains the factor between the sides.

    Args:
        values: params or tokens, scaled.
        name: ours.
        column: the table's.
        where: how to name the table.

    Raises:
        ObservationsError: with the number of rows in each unit.
    """
    known = np.sort(values[np.isfinite(values) & (values > 0)])
    if len(known) < 2 * _MIXED_ROWS:
        return
    logs = np.log10(known)
    place = int(np.argmax(np.diff(logs))) + 1
    few = min(place, len(known) - place)
    gap = float(logs[place] - logs[place - 1])
    if gap < _MIXED_GAP or few < _MIXED_ROWS:
        return
    low, high = float(np.median(known[:place])), float(np.median(known[place:]))
    unit = min(_WORDS, key=lambda each: abs(math.log10(high / low / each)))
    if low * unit > DATA_RANGE[1] or abs(math.log10(high / low / unit)) > _MIXED_NEAR:
        return
    raise ObservationsError(
        f"`{column}` of {where} mixes units: {place} rows have at most {known[place - 1]:.3g} "
        f"{name}, {len(known) - place} rows have at least {known[place]:.3g}, and no row lies "
        f"between; the smaller numbers look like {_WORDS[unit]}",
        hint=f"write all {name} in one unit; if the numbers are right: --scale {name}=1",
    )


@_QUIET
def check_budgets(budgets: Array, flops: Array, *, name: str, is_sure: bool) -> Note | None:
    """Compare the budgets with the FLOPs; return a note if they are not used.

    Raises:
        ObservationsError: they are in another unit.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = flops / budgets
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    if len(ratio) < MIN_ROWS or is_sure:
        return None
    middle = float(np.median(ratio))
    if _inside(middle, (0.2, 5.0)):
        return None
    exponents = np.log10(flops) / budgets
    if _inside(float(np.nanmedian(exponents)), (0.98, 1.02)):
        said = f"`{name}` is not used: it holds the logarithm (base 10) of the FLOPs"
        return Note("budgets_ignored", said)
    unit = next((f for f in _FLOP_SCALES if _inside(middle / f, (0.5, 2.0))), None)
    if unit is not None:
        raise ObservationsError(
            f"the budgets in `{name}` look like {_FLOP_WORDS[unit]}: the FLOPs are "
            f"{middle:.3g} times as large",
            hint=f"--scale budget_flops={format_flops(unit)}, or --columns budget_flops=none",
        )
    said = f"`{name}` is not used: the FLOPs are {middle:.3g} times the budgets"
    return Note("budgets_ignored", said)


@_QUIET
def fill_budgets(budgets: Array, flops: Array) -> Array:
    """Return the budgets; a row without one gets a budget within 10 % of its FLOPs."""
    known = np.unique(budgets[np.isfinite(budgets)])
    blank = np.flatnonzero(~np.isfinite(budgets) & np.isfinite(flops))
    filled = budgets.copy()
    if len(known) and len(blank):
        gaps = np.abs(np.log(flops[blank, None] / known))
        nearest = gaps.argmin(axis=1)
        is_near = gaps[np.arange(len(blank)), nearest] <= math.log(_BUDGET_WIDTH)
        filled[blank[is_near]] = known[nearest[is_near]]
    return filled


@_QUIET
def complete(counts: Counts, *, factor: float | None = None) -> tuple[Counts, list[Note]]:
    """Return each row's missing one of params, tokens and FLOPs, by one convention for all rows.

    Counted FLOPs stay, and blank cells are taken from the FLOPs per token of the runs of like size.
    Where that is not smooth, or too few rows are counted, all rows take C = 6 N D.

    Args:
        counts: with NaN for what is not known.
        factor: C / (N D) that the caller states for all rows.
    """
    params, tokens, flops = (counts.params.copy(), counts.tokens.copy(), counts.flops.copy())
    has = {name: np.isfinite(a) for name, a in zip("NDC", (params, tokens, flops), strict=True)}
    notes: list[Note] = []
    blank = has["N"] & has["D"] & ~has["C"]
    no_tokens = has["N"] & has["C"] & ~has["D"]
    no_params = has["D"] & has["C"] & ~has["N"]
    known = has["N"] & has["D"] & has["C"]
    per_row = np.full(len(params), SIX if factor is None else factor)
    said = "6 N D" if factor is None else f"{factor:g} N D"
    ratio = flops / (params * tokens)
    is_counted = bool(np.any(np.abs(ratio[known] / SIX - 1) > _SAME))
    if factor is not None:
        if known.any():
            notes.append(Note("flops_assumed", f"FLOPs are taken as {said} in every row"))
        flops[known] = factor * params[known] * tokens[known]
    elif is_counted and (blank.any() or no_tokens.any()):
        filled = _filled(params, ratio, known, blank | no_tokens)
        if filled is None:
            notes.append(
                Note(
                    "flops_assumed",
                    "FLOPs are taken as 6 N D in every row: some cells are blank, and the counted "
                    "ones do not give them",
                )
            )
            flops[known] = SIX * params[known] * tokens[known]
        else:
            per_row = filled
            notes.append(
                Note(
                    "flops_filled",
                    f"{int(blank.sum() + no_tokens.sum())} rows lack FLOPs or tokens: they are "
                    "taken from the counted FLOPs per token of the runs of like size",
                )
            )
            said = ""
    flops[blank] = (per_row * params * tokens)[blank]
    tokens[no_tokens] = (flops / (per_row * params))[no_tokens]
    params[no_params] = (flops / (per_row * tokens))[no_params]
    for code, rows, what in (
        ("flops_assumed", blank, "FLOPs that the table lacks are taken as {}"),
        ("tokens_assumed", no_tokens, "tokens that the table lacks follow from C = {}"),
        ("params_assumed", no_params, "params that the table lacks follow from C = {}"),
    ):
        if rows.any() and said and not any(note.code == code for note in notes):
            notes.append(Note(code, what.format(said)))
    active = np.where(np.isfinite(counts.active), counts.active, params)
    return Counts(params, tokens, flops, active), notes


def _filled(
    params: Array, ratio: Array, known: NDArray[np.bool_], wanted: NDArray[np.bool_]
) -> Array | None:
    """C / (N D) of every row, between the known ones in ln N; None where that is not smooth."""
    sizes, where = np.unique(params[known], return_inverse=True)
    if len(sizes) < 3 or known.sum() < wanted.sum():
        return None
    sums = np.bincount(where, weights=np.log(ratio[known]))
    means = sums / np.bincount(where)
    logs = np.log(sizes)
    inner = [
        means[k] - np.interp(logs[k], np.delete(logs, k), np.delete(means, k))
        for k in range(1, len(logs) - 1)
    ]
    within = np.abs(np.log(ratio[known]) - means[where])
    reach = (sizes[0] / 2 <= params[wanted]).all() and (params[wanted] <= sizes[-1] * 2).all()
    if not reach or float(np.median(np.abs(inner))) > _SMOOTH or within.max() > _SMOOTH:
        return None
    filled: Array = np.exp(np.interp(np.log(params), logs, means))
    return filled
