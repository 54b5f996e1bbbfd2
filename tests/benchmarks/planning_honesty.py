"""How honest an adaptive sweep's stated error is, on simulated sweeps.

    python tests/benchmarks/planning_honesty.py [--sets 10] [--goal 0.2] [--target 30]
                                                [--total 12] [--seed 0] [--processes 2]

Four planted laws, `--sets` sweeps each: two published ones with usual noise (0.3 % of the loss), a
lopsided one with 1 %, and one with small-scale drift (small sizes are worse than they count, as in
`planning_designs.py`). Each true optimum lies a random factor from where the sweep expects it (a
standard deviation of ln 2 in N).

Each row: the root mean square of the error of ln N at the target, that of the stated standard
error, that of the error in stated standard errors (0.8 to 1.25 is wanted over all sweeps), how many
sweeps say that they have reached the goal, in how many of those N lies within the goal (90 % is
wanted), and the mean cost in runs of the top budget.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from planning_designs import (
    CHINCHILLA,
    HOFFMANN,
    LOPSIDED,
    SIZES,
    TOP,
    UNCENTRED,
    Loss,
    drifting,
    moved,
    one_batch,
    run_of,
)

from flops_fit.fitting.law import Surface
from flops_fit.planning.adaptive.decide import decide
from flops_fit.planning.adaptive.terms import History, Terms

RATIO = (0.8, 1.25)
MET = 0.9
LEVELS = tuple(TOP / 3**k for k in range(6))


@dataclass(frozen=True)
class Case:
    """A planted law, the noise of log loss, and how many params count without helping."""

    law: Surface
    noise: float
    lost_params: float = 0.0


CASES = {
    "Besiroglu": Case(CHINCHILLA, 0.003),
    "Hoffmann": Case(HOFFMANN, 0.003),
    "lopsided, 1 % noise": Case(LOPSIDED, 0.01),
    "drift at small sizes": Case(CHINCHILLA, 0.003, lost_params=1e7),
}


@dataclass(frozen=True)
class Judged:
    """One sweep: error of ln N, stated standard error, whether it claims its goal, cost, runs."""

    error: float
    stated: float
    has_goal: bool
    cost: float
    runs: int


def planted(case: Case, rng: np.random.Generator) -> Loss:
    shift = math.exp(UNCENTRED * rng.standard_normal())
    if case.lost_params == 0:
        return moved(case.law, shift)
    loss = drifting(case.law, case.lost_params)
    return lambda params, tokens: loss(params * shift, tokens / shift)


def true_log_params(loss: Loss, target_flops: float) -> float:
    centre = 0.5 * math.log(target_flops / 120)
    grid = np.linspace(centre - 6, centre + 6, 12001)
    losses = [loss(math.exp(n), target_flops / 6 / math.exp(n)) for n in grid]
    return float(grid[np.argmin(losses)])


def sweep(terms: Terms, loss: Loss, draw: Callable[[], float]) -> History:
    history = History()
    while True:
        decision = decide(terms, history)
        if decision.action == "stop":
            return history.after(decision, [])
        runs = [run_of(trial, loss, draw) for trial in decision.trials]
        history = history.after(decision, runs)


def judge(case: Case, goal: float, target: float, total: float, seed: int, number: int) -> Judged:
    rng = np.random.default_rng([seed, number])
    loss = planted(case, rng)
    terms = Terms(SIZES, one_batch, LEVELS, target * TOP, goal, total * TOP)
    history = sweep(terms, loss, partial(rng.normal, 0.0, case.noise))
    figures = history.decisions[-1].figures
    error = math.log(figures["params"]) - true_log_params(loss, target * TOP)
    stated = figures["params_error"]
    has_goal = figures["params_half_width"] <= goal
    return Judged(error, stated, has_goal, history.spent_flops / TOP, len(history.runs))


def root_mean_square(values: list[float]) -> float:
    return math.sqrt(math.fsum(v * v for v in values) / len(values))


def row(name: str, judged: list[Judged], goal: float) -> str:
    claims = [j for j in judged if j.has_goal]
    within = sum(abs(j.error) <= goal for j in claims)
    met = f"{within / len(claims):8.0%}" if claims else f"{'-':>8s}"
    return (
        f"  {name:22s}{root_mean_square([j.error for j in judged]):8.3f}"
        f"{root_mean_square([j.stated for j in judged]):8.3f}"
        f"{root_mean_square([j.error / j.stated for j in judged]):8.2f}"
        f"{len(claims):5d} of {len(judged):<4d}{met}"
        f"{float(np.mean([j.cost for j in judged])):8.2f}"
        f"{float(np.mean([j.runs for j in judged])):7.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=10)
    parser.add_argument("--goal", type=float, default=0.2)
    parser.add_argument("--target", type=float, default=30.0, help="in runs of the top budget")
    parser.add_argument("--total", type=float, default=12.0, help="in runs of the top budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    began = time.perf_counter()
    print(
        f"{len(CASES) * chosen.sets} adaptive sweeps, goal {chosen.goal:g} at {chosen.target:g} "
        "times the top budget"
    )
    print(
        f"  {'law':22s}{'error':>8s}{'stated':>8s}{'ratio':>8s}{'claim it':>12s}{'met':>8s}"
        f"{'cost':>8s}{'runs':>7s}"
    )
    everything: list[Judged] = []
    with ProcessPoolExecutor(chosen.processes) as pool:
        for name, case in CASES.items():
            of = partial(judge, case, chosen.goal, chosen.target, chosen.total, chosen.seed)
            found = list(pool.map(of, range(chosen.sets)))
            everything += found
            print(row(name, found, chosen.goal), flush=True)
    print(row("all", everything, chosen.goal))
    print(f"wanted: a ratio of {RATIO[0]} to {RATIO[1]}, the goal met in {MET:.0%}")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
