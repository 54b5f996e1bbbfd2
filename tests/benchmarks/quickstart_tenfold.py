"""The quickstart's answer held against training at ten times its largest budget.

    python tests/benchmarks/quickstart_tenfold.py RUN_DIR FOLDER [--seeds 3] [--workers 2]

RUN_DIR is a finished quickstart. Its answer for 1e13 FLOPs is sealed, five sizes are trained there
with the quickstart's own recipe (in FOLDER; started again, it goes on), and the sealed numbers are
held against a parabola in ln N through the mean losses. One seed takes about 25 minutes of one CPU
core.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import tomli_w

import flops_fit

BUDGET = 1e13
SIZES = (56, 72, 96, 128, 160)


def manifest(run_dir: Path, seeds: int) -> str:
    """The quickstart's manifest with one budget and these sizes."""
    data = tomllib.loads((run_dir / "manifest.toml").read_text(encoding="utf-8"))
    data["name"] = "tenfold"
    data["model"]["sizes"] = list(SIZES)
    data["sweep"] = {
        "budgets": [BUDGET],
        "sizes_per_budget": len(SIZES),
        "tokens_per_param": 40,
        "size_span": 3,
        "replicates": seeds,
    }
    return tomli_w.dumps(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    sealed = flops_fit.report(chosen.run_dir, budgets=[BUDGET]).predict(BUDGET)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    written = chosen.folder / "tenfold.toml"
    written.write_text(manifest(chosen.run_dir, chosen.seeds), encoding="utf-8")
    directory = chosen.folder / "run"
    subprocess.run(
        [sys.executable, "-m", "flops_fit", "run", str(written), "--run-dir", str(directory),
         "--workers", str(chosen.workers)],
        check=False,
    )  # fmt: skip
    losses: dict[float, list[float]] = defaultdict(list)
    sizes: dict[float, float] = {}
    for seen in flops_fit.report(directory).observations:
        losses[seen.params].append(seen.loss)
        sizes[seen.params] = seen.size_value or 0.0
    print(f"{'d_model':>8s} {'params':>9s} {'loss':>8s} {'seeds':>6s} {'sd':>7s}")
    for params, found in sorted(losses.items()):
        spread = f"{stdev(found):.4f}" if len(found) > 1 else "-"
        print(
            f"{sizes[params]:8.0f} {params:9.0f} {fmean(found):8.4f} {len(found):6d} {spread:>7s}"
        )
    x = np.log(sorted(losses))
    c2, c1, c0 = np.polyfit(x, [fmean(losses[p]) for p in sorted(losses)], 2)
    best, least = math.exp(-c1 / (2 * c2)), c0 - c1 * c1 / (4 * c2)
    low, high = sealed.params_interval or (math.nan, math.nan)
    under, over = sealed.loss_interval or (math.nan, math.nan)
    print(f"trained: best near {best:,.0f} params at {least:.4f}")
    print(f"sealed:  {sealed.params:,.0f} ({low:,.0f} to {high:,.0f}) params")
    print(f"         loss {sealed.loss:.4f} ({under:.4f} to {over:.4f})")
    print(f"errors:  ln N {math.log(best / sealed.params):+.3f}, loss "
          f"{math.log(least / (sealed.loss or math.nan)):+.2%}")  # fmt: skip


if __name__ == "__main__":
    main()
