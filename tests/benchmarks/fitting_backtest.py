"""Extrapolation held against runs that were kept out, on any folder of tables.

    python tests/benchmarks/fitting_backtest.py [FOLDER]

For each table the largest runs are kept out, the rest is fitted, and the kept-out losses are
predicted at their own params and tokens: `next` keeps out the largest budget of an isoFLOP table,
else the top fifth of the runs by compute; `10x` keeps out all from a tenth of the largest compute.
Printed: mean magnitude of the relative error of the Huber(1e-3) surface, the default surface and
the weighted one, and how many of the kept-out losses lie in the weighted fit's stated 95 %
interval (noise, model and residual). Then the medians over the tables.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from flops_fit.errors import FlopsFitError
from flops_fit.fitting.backtest import BackTest, back_test, levels_of, loss_error
from flops_fit.fitting.curves import group_curves
from flops_fit.fitting.details import Loss
from flops_fit.fitting.intervals import Draws, bootstrap
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Observation
from flops_fit.fitting.robust import mad_sigma
from flops_fit.fitting.surface import SolvedSurface, solve_surface
from flops_fit.fitting.tables.table import read_table

DEFAULT = Path(__file__).parents[3] / "shared" / "data" / "runs"
Runs = list[Observation]


def split(runs: Runs, kind: str) -> tuple[Runs, Runs]:
    """The runs to fit and those to keep out."""
    flops = np.array([o.flops for o in runs])
    if kind == "10x":
        out = flops >= flops.max() / 10 * (1 - 1e-9)
    else:
        curves = [c for c in group_curves(runs) if len(c.members) >= 3]
        whole = sum(len(c.members) for c in curves) >= 0.9 * len(runs)
        out = np.zeros(len(runs), dtype=bool)
        if whole and len(curves) > 4:
            out[levels_of(runs)[-1]] = True
        else:
            out = flops >= np.quantile(flops, 0.8)
    return (
        [o for o, kept_out in zip(runs, out, strict=True) if not kept_out],
        [o for o, kept_out in zip(runs, out, strict=True) if kept_out],
    )


def errors(solved: SolvedSurface, held: Runs) -> np.ndarray:
    """Log errors of the predicted losses."""
    return np.array([math.log(o.loss / solved.law.loss(o.params, o.tokens)) for o in held])


def half_widths(test: BackTest, draws: Draws, held: Runs) -> np.ndarray:
    """Half the stated interval of each kept-out log loss."""
    top = max(o.flops for o in test.weighted.observations)
    laws = draws.laws
    residual = mad_sigma(test.weighted.residuals)
    t = float(stdtrit(draws.degrees_of_freedom, 0.975))
    widths = []
    for o in held:
        losses = (
            laws[:, 0] + laws[:, 1] * o.params ** -laws[:, 3] + laws[:, 2] * o.tokens ** -laws[:, 4]
        )
        noise = float(np.log(losses).std(ddof=1)) * draws.shrinkage
        whole = loss_error(test.folds[test.power], max(math.log(o.flops / top), 0.0)) or 0.0
        widths.append(t * math.hypot(noise, max(whole, residual)))
    return np.array(widths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--resamples", type=int, default=400)
    chosen = parser.parse_args()
    found = sorted(p for e in ("csv", "json", "jsonl") for p in chosen.folder.glob(f"*.{e}"))
    tables = [p for p in found if p.name != "reference.json"]
    rows: dict[str, list[tuple[float, ...]]] = {"next": [], "10x": []}
    print(f"{'table':46s} kept out     huber default weighted (p)  in 95 %  half-width")
    for path in tables:
        for kind, kept in rows.items():
            try:
                train, held = split(list(read_table(path).observations), kind)
                solved = solve_surface(train)
                test = back_test(solved)
            except FlopsFitError as error:
                print(f"{path.stem:46s} {kind:5s} {error.message}")
                continue
            if test is None or len(train) < 12:
                print(f"{path.stem:46s} {kind:5s} too few runs below")
                continue
            draws = bootstrap(test.weighted, chosen.resamples, seed=0)
            by = [
                errors(s, held) for s in (solve_surface(train, FitOptions(loss=Loss.HUBER)), solved)
            ]
            weighted = errors(test.weighted, held)
            widths = half_widths(test, draws, held)
            means = [float(np.abs(e).mean()) for e in (*by, weighted)]
            inside = float((np.abs(weighted) <= widths).mean())
            kept.append((*means, inside, float(np.median(widths)), len(held)))
            print(
                f"{path.stem:46s} {kind:5s}{len(held):4d}  {means[0]:7.2%} {means[1]:7.2%}"
                f" {means[2]:7.2%}  ({test.power})   {inside:6.2f}   {np.median(widths):7.1%}",
                flush=True,
            )
    for kind, kept in rows.items():
        if kept:
            table = np.array(kept)
            ratio = float(np.exp(np.log(table[:, 2] / table[:, 0]).mean()))
            shares = f"by table {table[:, 3].mean():.3f}, by run "
            shares += f"{np.average(table[:, 3], weights=table[:, 5]):.3f}"
            huber, default, weighted = np.median(table[:, :3], axis=0)
            print(
                f"{kind}: median error huber {huber:.2%}, default {default:.2%}, weighted"
                f" {weighted:.2%}; weighted over huber (geometric mean) {ratio:.2f}; coverage"
                f" {shares}; median half-width {np.median(table[:, 4]):.1%}; {len(kept)} tables"
            )
    if not tables:
        sys.exit(f"no tables in {chosen.folder}")


if __name__ == "__main__":
    main()
