"""Coverage of the 95 % intervals of a, ln N_opt and ln L_opt on planted laws.

    python tests/benchmarks/fitting_coverage.py [--sets 300] [--resamples 400] [--only WORD]

Prints, per scenario, the share of data sets whose interval (estimate +- t times the bootstrap's
standard error) holds the truth at 100 times the largest budget, and the same for Wald's preview.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from planted import COVERAGE, TARGET, TRUNKS, Branches, Scenario, draw

from flops_fit.fitting.intervals import (
    bootstrap,
    degrees_of_freedom,
    t_interval,
    target_errors,
    wald_errors,
    with_intervals,
)
from flops_fit.fitting.law import FlopsPerToken
from flops_fit.fitting.surface import describe, solve_surface

CHINCHILLA_COUNT = FlopsPerToken()


def covered(scenario: Scenario | Branches, seed: int, resamples: int) -> np.ndarray:
    """Six booleans: bootstrap's and Wald's intervals of a, ln N_opt, ln L_opt hold the truth."""
    runs = scenario.draw(seed) if isinstance(scenario, Branches) else draw(scenario, seed)[0]
    solved = solve_surface(runs)
    fit = describe(solved)
    draws = bootstrap(solved, resamples, seed=seed)
    fit = with_intervals(fit, draws)
    target = np.array([TARGET])
    truth, found = scenario.law.optimum(TARGET), fit.predict(TARGET)
    a = scenario.law.beta / (scenario.law.alpha + scenario.law.beta)
    truths = (a, math.log(truth.params), math.log(truth.loss))
    values = (fit.exponents["params"], math.log(found.params), math.log(found.loss))
    params_error, loss_error = target_errors(draws, target, CHINCHILLA_COUNT)
    boot = (fit.standard_errors["a"], params_error[0], loss_error[0])
    share, params, loss = wald_errors(solved, target, CHINCHILLA_COUNT)
    wald = (share, params[0], loss[0])
    freedom = degrees_of_freedom(solved)
    return np.array(
        [
            low <= true <= high
            for errors, dof in ((boot, draws.degrees_of_freedom), (wald, freedom))
            for true, value, error in zip(truths, values, errors, strict=True)
            for low, high in [t_interval(value, float(error), dof)]
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=300)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    print(f"{'scenario':28s}  bootstrap: a   lnN   lnL   Wald: a   lnN   lnL   seconds")
    for name, scenario in {**COVERAGE, **TRUNKS}.items():
        if chosen.only not in name:
            continue
        start = time.perf_counter()
        shares = np.mean(
            [covered(scenario, s, chosen.resamples) for s in range(chosen.sets)], axis=0
        )
        text = "  ".join(f"{share:.3f}" for share in shares)
        print(f"{name:28s}  {text}   {time.perf_counter() - start:.0f}", flush=True)


if __name__ == "__main__":
    main()
