"""FLOPs that sweeps need for equal error of N, against a classical 5 x 7 isoFLOP sweep.

    python tests/benchmarks/planning_designs.py [--sets 100] [--noise 0.003] [--only WORD]

Planted laws with noise; the target is 30 times the largest run. Nobody is told the centre: every
sweep stands about 20 tokens per parameter, and the true optimum lies a random factor away (a
standard deviation of ln 2 in N). All sweeps have the same top budget, which is the unit of cost.

Each row: root mean square error of ln N at the target, its mean (bias), the mean cost, and the
FLOPs needed for the error of the classical sweep as a share of its FLOPs,

    (cost * error^2) / (classical cost * classical error^2),

as error falls with the root of the number of runs. The classical sweep is judged twice: by its
parabolas and power law, as it is commonly done (A2), and by the surface fit that the others have
(A3), the harder comparison, which the closing line goes by. `ladder` is `design = "ladder"`,
`adaptive` is `run --adaptive` with the error of the classical sweep by A3 for its goal; all that it
ran counts as its cost.

Then the failure case: small sizes are worse than they count. For each sweep: how often the ladder
check says so, and the error with and without the levels that it leaves out.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "oracle"))

from planted import CHINCHILLA, LOPSIDED

from flops_fit.designs import ladder_levels
from flops_fit.errors import FitError
from flops_fit.fitting.fit import fit
from flops_fit.law import Surface
from flops_fit.plan import Level, plan_levels
from flops_fit.planning.decide import decide
from flops_fit.planning.ladder import check_ladder
from flops_fit.planning.terms import History, Run, Terms
from flops_fit.points import Observation, Size, Trial

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
BOUNDS = {"ladder": 0.5, "adaptive": 0.45}  # shares of the FLOPs of the classical sweep by A3

Loss = Callable[[float, float], float]


def one_batch(size: Size, tokens: float) -> int:
    return 1


def trials_of(levels: list[Level]) -> tuple[Trial, ...]:
    return plan_levels(SIZES, levels, batch_tokens=one_batch).trials


def observe(trials: tuple[Trial, ...], loss: Loss, draw: Callable[[], float]) -> list[Observation]:
    return [run_of(trial, loss, draw).observation for trial in trials]


def run_of(trial: Trial, loss: Loss, draw: Callable[[], float]) -> Run:
    return Run(trial, loss(trial.size.params, trial.tokens) * math.exp(draw()))


def adapt(goal: float, loss: Loss, draw: Callable[[], float]) -> History:
    terms = Terms(
        SIZES, one_batch, tuple(TOP / 3**k for k in range(6)), TARGET, goal, 12 * TOP
    )  # fmt: skip
    history = History()
    while True:
        decision = decide(terms, history)
        if decision.action == "stop":
            return history.after(decision, [])
        history = history.after(decision, [run_of(t, loss, draw) for t in decision.trials])


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


def row(name: str, errors: list[float], costs: list[float], reference: list[float]) -> str:
    found = np.array(errors)
    fine = found[np.isfinite(found)]
    rms, cost = math.sqrt(np.mean(fine**2)), float(np.mean(costs))
    ratios = "".join(f"{cost * rms**2 / other:14.2f}" for other in reference)
    lost = f"   {len(found) - len(fine)} without a law" if len(fine) < len(found) else ""
    return f"  {name:22s}{rms:8.3f}{fine.mean():9.3f}{cost:8.2f}{ratios}{lost}"


def compare(name: str, law: Surface, noise: float, sets: int) -> dict[str, float]:
    """One table: every sweep on the same planted laws; the ratios to the classical one by A3."""
    rng = np.random.default_rng(0)

    def draw() -> float:
        return noise * rng.standard_normal()

    laws = [moved(law, math.exp(UNCENTRED * rng.standard_normal())) for _ in range(sets)]
    truths = [true_log_params(loss) for loss in laws]
    found: dict[str, tuple[list[float], list[float]]] = {}

    def judge(key: str, seen: list[Observation], truth: float, method: str = "surface") -> None:
        errors, costs = found.setdefault(key, ([], []))
        errors.append(log_params(seen, method) - truth)
        costs.append(math.fsum(o.flops for o in seen) / TOP)

    static = {"ladder": ladder_levels(TOP), "ladder, 5 levels": ladder_levels(TOP, num_levels=5)}
    for loss, truth in zip(laws, truths, strict=True):
        classical = observe(trials_of(CLASSICAL), loss, draw)
        judge("classical A2", classical, truth, "isoflop")
        judge("classical A3", classical, truth)
        for key, levels in static.items():
            judge(key, observe(trials_of(levels), loss, draw), truth)
    goal = math.sqrt(np.nanmean(np.square(found["classical A3"][0])))
    for loss, truth in zip(laws, truths, strict=True):
        judge("adaptive", [r.observation for r in adapt(goal, loss, draw).runs], truth)
    rule = [float(np.nanmean(np.square(e)) * np.mean(c)) for e, c in found.values()]
    print(f"\n{name}, noise {noise:g}: error of ln N at 30 times the top, {sets} data sets")
    print(
        f"  {'sweep':22s}{'error':>8s}{'bias':>9s}{'cost':>8s}{'of A2 FLOPs':>14s}"
        f"{'of A3 FLOPs':>14s}"
    )
    for key, (errors, costs) in found.items():
        print(row(key, errors, costs, rule[:2]), flush=True)
    return dict(zip(found, (each / rule[1] for each in rule), strict=True))


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--noise", type=float, action="append")
    parser.add_argument("--only", default="")
    parser.add_argument("--drift", action="store_true", help="only the failure case")
    chosen = parser.parse_args()
    began = time.perf_counter()
    ratios: dict[str, list[float]] = {key: [] for key in BOUNDS}
    for name, law in LAWS.items():
        if chosen.only in name and not chosen.drift:
            for noise in chosen.noise or (0.002, 0.005):
                found = compare(name, law, noise, chosen.sets)
                for key, values in ratios.items():
                    values.append(found[key])
    if chosen.only in "Besiroglu":
        fail("Besiroglu", CHINCHILLA, (chosen.noise or [0.003])[0], chosen.sets)
    print()
    for key, values in ratios.items():
        if values:
            mean, most = float(np.exp(np.mean(np.log(values)))), max(values)
            print(
                f"{key}: {mean:.2f} of the FLOPs of the classical sweep by A3 (geometric mean; at "
                f"most {most:.2f}); {BOUNDS[key]:g} or less is wanted"
            )
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
