"""The headline answer held against budgets that were kept out, on any folder of tables.

    python tests/benchmarks/headline_backtest.py [FOLDER ...]

For each isoFLOP table and each cut, the levels of compute below the cut are fitted as `report`
fits a table, and the answer is held against the minimum of a kept-out budget's curve: `next` is the
first level above the cut, `10x` a level at 0.7 to 1.35 decades beyond the largest fitted run. A
minimum counts if its curve has 6 sizes or more and its own standard error of ln N is at most 0.12.

Printed by family (tables with the same `dataset` and `model` columns are one family): mean error of
ln loss and ln N, how often the stated 95 % intervals hold the observed minimum, and the median
half-width of the loss interval; then the means over families, for the headline and each method.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

import numpy as np

from flops_fit.errors import FlopsFitError
from flops_fit.fitting.backtest import levels_of
from flops_fit.fitting.curves import group_curves
from flops_fit.fitting.fit import fit_all
from flops_fit.fitting.isoflop import Minimum, find_minima
from flops_fit.fitting.law import FlopsPerToken
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Observation, Optimum
from flops_fit.fitting.tables.table import read_table
from flops_fit.reporting.verdict import judge

DEFAULT = Path(__file__).parents[3] / "shared" / "data" / "runs"
MIN_SIZES, MAX_ERROR, NEAR, FAR = 6, 0.12, 0.7, 1.35
METHODS = ("combination", "isoflop", "extrapolation", "general", "surface")


@dataclass(frozen=True)
class Held:
    """One answer held against one observed minimum."""

    loss_error: float
    params_error: float
    loss_inside: bool | None
    params_inside: bool | None
    half_width: float
    verdict: str = ""


def visible_minima(runs: list[Observation]) -> list[Minimum]:
    """The minima that are sharp enough to hold an answer against."""
    return [
        m
        for m in find_minima(group_curves(runs), FlopsPerToken.through(tuple(runs)))
        if m.status == "ok"
        and m.num_sizes >= MIN_SIZES
        and (m.log_params_error or 0.0) <= MAX_ERROR
    ]


def hold(optimum: Optimum, minimum: Minimum) -> Held | None:
    """The errors of an answer."""
    if optimum.loss is None or minimum.loss is None or minimum.params is None:
        return None
    inside = [
        None if interval is None else interval[0] <= seen <= interval[1]
        for interval, seen in (
            (optimum.loss_interval, minimum.loss),
            (optimum.params_interval, minimum.params),
        )
    ]
    width = optimum.loss_interval
    return Held(
        abs(math.log(minimum.loss / optimum.loss)),
        abs(math.log(minimum.params / optimum.params)),
        inside[0],
        inside[1],
        math.nan if width is None else math.log(width[1] / width[0]) / 2,
    )


def family_of(path: Path) -> str:
    """The data set and model that a table names, else its file name."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8") as file:
            row = next(csv.DictReader(file), {})
        if row.get("dataset") and row.get("model"):
            return f"{row['dataset']}/{row['model']}"
    return path.stem


def rolling(path: Path, min_levels: int, resamples: int) -> dict[tuple[str, str], list[Held]]:
    """Every fold of one table: (kind, method) -> errors."""
    found: dict[tuple[str, str], list[Held]] = defaultdict(list)
    runs = list(read_table(path).observations)
    levels = levels_of(runs)
    flops = np.array([o.flops for o in runs])
    minima = visible_minima(runs)
    for cut in range(min_levels, len(levels)):
        train = [runs[k] for k in np.sort(np.concatenate(levels[:cut]))]
        top = max(o.flops for o in train)
        edge = flops[levels[cut]].max() * 1.03
        targets = [
            m
            for m in minima
            if top * 1.03 < m.budget_flops
            and (m.budget_flops <= edge or NEAR <= math.log10(m.budget_flops / top) <= FAR)
        ]
        if not targets:
            continue
        try:
            fits = fit_all(
                train,
                FitOptions(bootstrap=resamples),
                targets=[m.budget_flops for m in targets],
                shows_gains=False,
            )
        except FlopsFitError:
            continue
        for minimum in targets:
            judged = judge(
                fits.fits,
                fits.failures,
                train,
                excluded=fits.excluded,
                targets=[minimum.budget_flops],
                notes=fits.notes,
                predictions=[o for o in fits.predictions if o.flops == minimum.budget_flops],
            )
            kinds = ["next"] if minimum.budget_flops <= edge else []
            if NEAR <= math.log10(minimum.budget_flops / top) <= FAR:
                kinds.append("10x")
            for optimum in fits.predictions:
                if optimum.flops == minimum.budget_flops and (held := hold(optimum, minimum)):
                    held = replace(held, verdict=judged.judgement)
                    for kind in kinds:
                        found[kind, optimum.method].append(held)
    return found


def summary(held: list[Held]) -> tuple[float, float, float, float, float]:
    """Mean errors, coverages and median half-width."""
    covers = [
        fmean(v) if (v := [x for x in values if x is not None]) else math.nan
        for values in ([h.loss_inside for h in held], [h.params_inside for h in held])
    ]
    return (
        fmean(h.loss_error for h in held),
        fmean(h.params_error for h in held),
        *covers,
        median(h.half_width for h in held),
    )


def show(title: str, row: tuple[float, ...], count: int) -> None:
    loss, params, cover_loss, cover_params, width = row
    print(
        f"{title:42s} {loss:7.2%}  {params:6.3f}   {cover_loss:5.2f} {cover_params:5.2f}"
        f"   {width:7.2%}  {count:4d}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[DEFAULT])
    parser.add_argument("--min-levels", type=int, default=4, help="levels that a fold is fitted to")
    parser.add_argument(
        "--resamples", type=int, default=1000, help="of the bootstrap, as `report` draws; 0: Wald's"
    )
    chosen = parser.parse_args()
    paths = sorted(p for folder in chosen.folders for p in folder.glob("*.csv"))
    families: dict[str, dict[tuple[str, str], list[Held]]] = {}
    print(f"{'family, kind, method':42s} {'loss':>7s}  {'ln N':>6s}   cover (loss, N)  half-width")
    for path in paths:
        if path.name.startswith("curves_"):
            continue  # training curves, not finished runs
        family = families.setdefault(family_of(path), defaultdict(list))
        for key, held in rolling(path, chosen.min_levels, chosen.resamples).items():
            family[key] += held
    for name, by in families.items():
        for kind in ("next", "10x"):
            if by.get((kind, "combination")):
                held = by[kind, "combination"]
                show(f"{name} {kind}", summary(held), len(held))
    for kind in ("next", "10x"):
        for method in METHODS:
            rows = [summary(by[kind, method]) for by in families.values() if by.get((kind, method))]
            if rows:
                means = [float(np.nanmean(column)) for column in zip(*rows, strict=True)]
                means[-1] = float(np.nanmedian([row[-1] for row in rows]))
                show(f"MEAN {kind} {method}", tuple(means), len(rows))
    show_verdicts([h for by in families.values() for key, v in by.items()
                   if key[1] == "combination" for h in v])  # fmt: skip


def show_verdicts(held: list[Held]) -> None:
    """Whether the verdict separates good answers from bad ones."""
    for verdict in ("trust", "provisional", "refuse"):
        ours = [h for h in held if h.verdict == verdict]
        if not ours:
            print(f"{verdict:12s} none")
            continue
        right = fmean(h.params_error <= math.log(1.5) and h.loss_error <= 0.02 for h in ours)
        print(
            f"{verdict:12s} {len(ours):4d} answers; median error of loss "
            f"{median(h.loss_error for h in ours):.2%}, of ln N "
            f"{median(h.params_error for h in ours):.3f}; N within 1.5x and loss within 2 %: "
            f"{right:.2f}"
        )


if __name__ == "__main__":
    main()
