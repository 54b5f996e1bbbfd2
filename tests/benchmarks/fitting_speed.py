"""Timings of the surface fit and its bootstrap, alone and against the peers on the same data.

    pip install vpnls chinchilla          # the peers; left out where they are not installed
    python tests/benchmarks/fitting_speed.py [FOLDER] [--starts 125]

FOLDER holds tables of finished runs (and reference.json, where objectives are to be compared).
Each of our figures is the least of 7 runs after import, with the CPU time beside it; a peer runs
once. The multi-start of `chinchilla` is timed on --starts of its 3,125 starts and scaled up.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.fitting.details import Loss
from flops_fit.fitting.fit import fit
from flops_fit.fitting.intervals import bootstrap
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Observation
from flops_fit.fitting.solver.search import Coordinates, search
from flops_fit.fitting.surface import solve_surface
from flops_fit.fitting.tables.table import read_table

DEFAULT = Path(__file__).parents[3] / "shared" / "data" / "runs"
DELTA = 1e-3
HUBER = FitOptions(loss=Loss.HUBER, huber_delta=DELTA)
CHINCHILLA_STARTS = 5**5


def least(work: Callable[[], Any], repeats: int = 7) -> tuple[float, float]:
    """Least wall and CPU seconds of several runs."""
    work()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def time_fits(folder: Path) -> None:
    reference_file = folder / "reference.json"
    expected = json.loads(reference_file.read_text())["sets"] if reference_file.exists() else {}
    print("surface fit, huber 1e-3: set, runs, ms wall, ms CPU, objective over the reference - 1")
    for path in sorted(folder.glob("*.csv")):
        runs = read_table(path).observations
        found = fit(runs, HUBER)
        wall, cpu = least(lambda: solve_surface(runs, HUBER))  # noqa: B023
        known = expected.get(path.stem)
        gap = f"{found.objective / known['objective'] - 1:+.1e}" if known else "-"
        print(f"  {path.stem:46s} {len(runs):5d} {wall * 1e3:7.1f} {cpu * 1e3:7.1f}  {gap}")


def time_bootstrap(runs: tuple[Observation, ...], name: str) -> None:
    solved = solve_surface(runs, HUBER)
    wall, cpu = least(lambda: bootstrap(solved, 4000, seed=42), 5)
    print(f"bootstrap of 4,000 at {len(runs)} runs ({name}): {wall:.3f} s wall, {cpu:.3f} s CPU")


def arrays(runs: tuple[Observation, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = [(o.params, o.tokens, o.loss) for o in runs]
    n, d, loss = np.array(columns).T
    return n, d, loss


def against_vpnls(runs: tuple[Observation, ...]) -> None:
    import vpnls

    n, d, loss = arrays(runs)
    where = Coordinates.of(n, d, loss)
    ones = np.ones(len(runs))
    posed = where.problem(DELTA, is_linear=True)
    ours = float(search(posed, ones).objective[0]) / len(runs)
    wall, _ = least(lambda: search(posed, ones))
    start = time.perf_counter()
    theirs = vpnls.fit_vpnls(n, d, loss, method="grid", loss=vpnls.huber(DELTA))
    spent = time.perf_counter() - start
    print(
        f"vpnls grid, Huber {DELTA:g} on loss: {spent * 1e3:.0f} ms, mean objective"
        f" {theirs.loss_value:.9e}; ours {wall * 1e3:.1f} ms, {ours:.9e}: {spent / wall:.1f} times"
    )


def against_chinchilla(runs: tuple[Observation, ...], num_starts: int) -> None:
    from chinchilla import Chinchilla

    def log_huber(true: np.ndarray, fitted: np.ndarray) -> np.ndarray:
        r = np.abs(np.log(true) - np.log(fitted))
        return np.where(r <= DELTA, 0.5 * r * r, DELTA * (r - 0.5 * DELTA))

    side = max(2, round(num_starts ** (1 / 5)))
    grid = {
        "E": np.linspace(1.1, 2.7, side), "a": np.linspace(1, 10, side),
        "b": np.linspace(1, 10, side), "alpha": np.linspace(0.1, 0.7, side),
        "beta": np.linspace(0.1, 0.7, side),
    }  # fmt: skip
    where = Coordinates.of(*arrays(runs))
    ones = np.ones(len(runs))
    wall, _ = least(lambda: search(where.problem(DELTA), ones))
    ours = float(search(where.problem(DELTA), ones).objective[0])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Chinchilla(
            folder, param_grid=grid, loss_fn=log_huber, log_level=60,
            seed_ranges={"C": (1e18, 1e20), "N_to_D": (0.1, 10)}, num_seeding_steps=2,
            scaling_factor=2.0,
        )  # fmt: skip
        for o in runs:
            theirs.database.append(C=o.flops, N=o.params, D=o.tokens, loss=o.loss)
        theirs.visualizer.optim = lambda *a, **k: None
        start = time.process_time(), time.perf_counter()
        theirs.fit(parallel=False)
        spent = time.perf_counter() - start[1]
    p = theirs.get_params()
    n, d, loss = arrays(runs)
    fitted = p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"]
    reached = float(log_huber(loss, fitted).sum())
    full = spent / side**5 * CHINCHILLA_STARTS
    print(
        f"chinchilla, log Huber {DELTA:g}: {spent:.1f} s for {side**5} starts, {full:.0f} s for"
        f" {CHINCHILLA_STARTS}, objective {reached:.9e}; ours {wall * 1e3:.1f} ms, {ours:.9e}:"
        f" {full / wall:.0f} times"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--starts", type=int, default=32, help="of chinchilla, 32 or 243 say")
    chosen = parser.parse_args()
    if not list(chosen.folder.glob("*.csv")):
        sys.exit(f"no tables in {chosen.folder}")
    time_fits(chosen.folder)
    tables = {p.stem: p for p in sorted(chosen.folder.glob("*.csv"))}
    name = "epoch_chinchilla_240" if "epoch_chinchilla_240" in tables else next(iter(tables))
    runs = read_table(tables[name]).observations
    time_bootstrap(runs, name)
    for peer, compare in (
        ("vpnls", lambda: against_vpnls(runs)),
        ("chinchilla", lambda: against_chinchilla(runs, chosen.starts)),
    ):
        if find_spec(peer) is None:
            print(f"{peer} is not installed: left out")
        else:
            compare()


if __name__ == "__main__":
    main()
