"""FLOPs that sweeps need for equal error of N, against a classical 5 x 7 isoFLOP sweep.

    python tests/benchmarks/planning_designs.py [--sets 100] [--noise 0.003] [--only WORD]
                                                [--seed 0] [--law E A B alpha beta]

Planted laws with noise; the target is 30 times the largest run. Nobody is told the centre: every
sweep stands about 20 tokens per parameter, and the true optimum lies a random factor away (a
standard deviation of ln 2 in N). All sweeps have the same top budget, which is the unit of cost.

Each row: root mean square error of ln N at the target, its mean (bias), the mean cost, and the
FLOPs needed for the error of the classical sweep as a share of its FLOPs,

    (cost * error^2) / (classical cost * classical error^2),

as error falls with the root of the number of runs; in brackets the standard error of that share, by
resampling the data sets. The classical sweep is judged twice: by its
parabolas and power law, as it is commonly done (A2), and by the surface fit that the others have
(A3), the harder comparison, which the closing line goes by. `ladder` is `design = "ladder"`,
`adaptive` is `run --adaptive` with the error of the classical sweep by A3 for its goal; all that it
ran counts as its cost. `adaptive, trunks` is the same under `schedule = "wsd"`, where runs of one
size share a trunk and most of their noise (a correlation of 0.9).

Then the failure case: small sizes are worse than they count. For each sweep: how often the ladder
check says so, and the error with and without the levels that it leaves out.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from planted import CHINCHILLA, LOPSIDED

from flops_fit.errors import FitError
from flops_fit.fitting.fit import fit
from flops_fit.fitting.law import Surface
from flops_fit.fitting.points import TRUNK_CORRELATION, Observation
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.adaptive.decide import decide
from flops_fit.planning.adaptive.ladder import check_ladder
from flops_fit.planning.adaptive.terms import History, Run, Terms
from flops_fit.planning.designs import ladder_levels
from flops_fit.planning.plan import Level, plan_levels
from flops_fit.planning.trunks import share_trunks

HOFFMANN = Surface(1.69, 406.4, 410.7, 0.34, 0.28)  # arXiv:2203.15556, section D.3
LAWS = {"Besiroglu": CHINCHILLA, "Hoffmann": HOFFMANN, "lopsided": LOPSIDED}
TOP = 1e19
TARGET = 30 * TOP
GUESS = math.sqrt(TOP / 6 / 20)
SIZES = tuple(
    Size(k, n, None, 6.0 * n) for k, n in ((k, round(GUESS * 2 ** (k / 4))) for k in range(-70, 50))
)
CLASSICAL = [Level(TOP / 3**k, 7, 4.0) for k in range(5)]
UNCENTRED = math.log(2.0)
BOUNDS = {
    "ladder": 0.5,
    "adaptive": 0.45,
    "adaptive, trunks": 0.45,
}  # shares of the FLOPs of the classical sweep by A3

BOOTSTRAPS = 1000
WSD = Recipe(schedule="wsd", batch_rule="fixed", batch_tokens=1)

Loss = Callable[[float, float], float]
Array = NDArray[np.float64]
Judged = tuple[float, float]


def one_batch(size: Size, tokens: float) -> int:
    return 1


def trials_of(levels: list[Level]) -> tuple[Trial, ...]:
    return plan_levels(SIZES, levels, batch_tokens=one_batch).trials


def observe(trials: tuple[Trial, ...], loss: Loss, draw: Callable[[], float]) -> list[Observation]:
    return [run_of(trial, loss, draw).observation for trial in trials]


def run_of(trial: Trial, loss: Loss, draw: Callable[[], float]) -> Run:
    return Run(trial, loss(trial.size.params, trial.tokens) * math.exp(draw()))


def adapt(
    goal: float, loss: Loss, draw: Callable[[], float], *, has_trunks: bool = False
) -> History:
    levels = tuple(TOP / 3**k for k in range(6))
    share = partial(share_trunks, recipe=WSD, units_per_example=1, multiple_of_examples=1)
    terms = Terms(
        SIZES, one_batch, levels, TARGET, goal, 12 * TOP, share_trunks=share if has_trunks else None
    )  # fmt: skip
    history = History()
    common: dict[str, float] = {}
    part = math.sqrt(TRUNK_CORRELATION)

    def noise(trial: Trial) -> float:
        if trial.trunk_id is None:
            return draw()
        common.setdefault(trial.trunk_id, draw())
        return part * common[trial.trunk_id] + math.sqrt(1 - part**2) * draw()

    while True:
        decision = decide(terms, history)
        if decision.action == "stop":
            return history.after(decision, [])
        runs = [run_of(trial, loss, partial(noise, trial)) for trial in decision.trials]
        history = history.after(decision, runs)


def log_params(seen: list[Observation], method: str) -> float:
    try:
        return math.log(fit(seen, method=method).predict(TARGET).params)
    except FitError:
        return math.nan


def true_log_params(loss: Loss) -> float:
    grid = np.linspace(math.log(GUESS) - 4, math.log(GUESS) + 8, 6001)
    return float(grid[np.argmin([loss(math.exp(n), TARGET / 6 / math.exp(n)) for n in grid])])


def moved(law: Surface, factor: float) -> Loss:
    """The law with its optimum at every budget divided by the factor."""
    return lambda params, tokens: law.loss(params * factor, tokens / factor)


def drifting(law: Surface, lost: float) -> Loss:
    """The law where `lost` more parameters are counted than help: they weigh at small sizes."""
    return lambda params, tokens: law.loss(params / (1 + lost / params), tokens)


def errors_of(seen: list[Observation], truth: float, method: str = "surface") -> Judged:
    """The error of ln N at the target, and the cost in top runs."""
    return log_params(seen, method) - truth, math.fsum(o.flops for o in seen) / TOP


def data_set(law: Surface, seed: int, number: int) -> tuple[Loss, float, np.random.Generator]:
    """One planted law: its loss, ln N at the target, and a source of its own for noise."""
    rng = np.random.default_rng([seed, number])
    loss = moved(law, math.exp(UNCENTRED * rng.standard_normal()))
    return loss, true_log_params(loss), rng


def judge_static(law: Surface, noise: float, seed: int, number: int) -> dict[str, Judged]:
    loss, truth, rng = data_set(law, seed, number)

    def draw() -> float:
        return noise * rng.standard_normal()

    classical = observe(trials_of(CLASSICAL), loss, draw)
    found = {
        "classical A2": errors_of(classical, truth, "isoflop"),
        "classical A3": errors_of(classical, truth),
    }
    for key, count in (("ladder", 6), ("ladder, 5 levels", 5)):
        levels = ladder_levels(TOP, num_levels=count)
        found[key] = errors_of(observe(trials_of(levels), loss, draw), truth)
    return found


def judge_adaptive(
    law: Surface, noise: float, seed: int, goal: float, number: int
) -> dict[str, Judged]:
    found = {}
    for key, has_trunks in (("adaptive", False), ("adaptive, trunks", True)):
        loss, truth, rng = data_set(law, seed, number)
        draw = partial(rng.normal, 0.0, noise)
        history = adapt(goal, loss, draw, has_trunks=has_trunks)
        error, _ = errors_of([run.observation for run in history.runs], truth)
        found[key] = (error, history.spent_flops / TOP)
    return found


def product(judged: Array) -> float:
    """Mean squared error times mean cost: what a sweep needs for a given error."""
    return float(np.nanmean(judged[:, 0] ** 2) * judged[:, 1].mean())


def ratio(judged: Array, other: Array) -> tuple[float, float]:
    """FLOPs needed as a share of another sweep's, and its standard error over data sets."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(judged), size=(BOOTSTRAPS, len(judged)))
    spread = np.std([product(judged[rows]) / product(other[rows]) for rows in drawn])
    return product(judged) / product(other), float(spread)


def row(name: str, judged: Array, references: list[Array]) -> str:
    errors, cost = judged[:, 0], judged[:, 1].mean()
    rms, lost = math.sqrt(np.nanmean(errors**2)), int(np.isnan(errors).sum())
    ratios = ""
    for other in references:
        of, spread = (1.0, 0.0) if other is judged else ratio(judged, other)
        ratios += f"{of:11.2f} ({spread:.2f})"
    without = f"   {lost} without a law" if lost else ""
    return f"  {name:18s}{rms:8.3f}{np.nanmean(errors):9.3f}{cost:8.2f}{ratios}{without}"


def compare(
    name: str, law: Surface, noise: float, chosen: argparse.Namespace
) -> dict[str, tuple[float, float]]:
    """One table: every sweep on the same planted laws; the ratios to the classical one by A3."""
    numbers = range(chosen.sets)
    with ProcessPoolExecutor(chosen.processes) as pool:
        static = list(
            pool.map(partial(judge_static, law, noise, chosen.seed), numbers, chunksize=8)
        )
        found = {key: np.array([each[key] for each in static]) for key in static[0]}
        goal = math.sqrt(np.nanmean(found["classical A3"][:, 0] ** 2))
        judge = partial(judge_adaptive, law, noise, chosen.seed, goal)
        adaptive = list(pool.map(judge, numbers, chunksize=4))
        found |= {key: np.array([each[key] for each in adaptive]) for key in adaptive[0]}
    print(f"\n{name}, noise {noise:g}: error of ln N at 30 times the top, {len(numbers)} data sets")
    print(
        f"  {'sweep':18s}{'error':>8s}{'bias':>9s}{'cost':>8s}{'of A2 FLOPs':>18s}"
        f"{'of A3 FLOPs':>18s}"
    )
    references = [found["classical A2"], found["classical A3"]]
    for key, judged in found.items():
        print(row(key, judged, references), flush=True)
    return {key: ratio(judged, references[1]) for key, judged in found.items()}


def fail(name: str, law: Surface, noise: float, sets: int) -> None:
    """The failure case: how often it is said, and what leaving levels out does to the error."""
    rng = np.random.default_rng(0)
    print(f"\n{name}, noise {noise:g}: small sizes worse than they count, {sets} data sets")
    print(
        f"  {'params lost':>12s}{'sweep':>12s}{'said':>8s}{'error':>9s}"
        f"{'error, level left out':>24s}"
    )
    for lost in (0.0, 1e7, 3e7, 1e8):
        loss = drifting(law, lost)
        truth = true_log_params(loss)

        def draw() -> float:
            return noise * rng.standard_normal()

        for key in ("ladder", "adaptive"):
            said, errors, mended = 0, [], []
            for _ in range(sets):
                if key == "ladder":
                    seen = observe(trials_of(ladder_levels(TOP)), loss, draw)
                    check = check_ladder(seen, target_flops=TARGET)
                    gone = check.members if check and check.has_failed else ()
                else:
                    history = adapt(0.1, loss, draw)
                    seen = [run.observation for run in history.runs]
                    gone = tuple(history.left_out)
                kept = [o for o in seen if o.name not in gone]
                said += bool(gone)
                errors.append(log_params(seen, "surface") - truth)
                mended.append(log_params(kept, "surface") - truth)
            rms, better = (math.sqrt(np.nanmean(np.square(e))) for e in (errors, mended))
            print(f"  {lost:12.0e}{key:>12s}{said / sets:8.0%}{rms:9.3f}{better:24.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--noise", type=float, action="append")
    parser.add_argument("--only", default="")
    parser.add_argument("--law", type=float, nargs=5, metavar="X", help="E A B alpha beta")
    parser.add_argument("--drift", action="store_true", help="only the failure case")
    parser.add_argument("--no-drift", action="store_true", help="without the failure case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    began = time.perf_counter()
    laws = {"stated": Surface(*chosen.law)} if chosen.law else LAWS
    ratios: dict[str, list[tuple[float, float]]] = {key: [] for key in BOUNDS}
    for name, law in laws.items():
        if not chosen.drift and (chosen.law or chosen.only in name):
            for noise in chosen.noise or (0.002, 0.005):
                found = compare(name, law, noise, chosen)
                for key, values in ratios.items():
                    values.append(found[key])
    if not chosen.law and not chosen.no_drift and chosen.only in "Besiroglu":
        fail("Besiroglu", CHINCHILLA, (chosen.noise or [0.003])[0], chosen.sets)
    print()
    for key, values in ratios.items():
        if values:
            mean, (most, spread) = (
                float(np.exp(np.mean(np.log([r for r, _ in values])))),
                max(values),
            )
            print(
                f"{key}: {mean:.2f} of the FLOPs of the classical sweep by A3 (geometric mean; at "
                f"most {most:.2f}, standard error {spread:.2f}); {BOUNDS[key]:g} or less is wanted"
            )
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
