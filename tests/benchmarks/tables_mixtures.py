"""How often two populations in one table are noticed, and one population is taken for two.

Planted laws of five isoFLOP curves with seven sizes; two data sets that differ by a share of loss,
or by nothing. Run it: `python tests/benchmarks/tables_mixtures.py [TABLES] [SEED]`.
"""

from __future__ import annotations

import math
import sys

import numpy as np

from flops_fit.fitting.points import Observation
from flops_fit.fitting.tables.groups import differences


def runs(rng: np.random.Generator, *, apart: float, noise: float, share: float):
    """Observations of one mixture, and the label of each."""
    alpha, beta = rng.uniform(0.25, 0.5, 2)
    observations, labels = [], []
    for budget in (1e18, 3e18, 1e19, 3e19, 1e20):
        for spread in np.linspace(-1.2, 1.2, 7):
            for label in ("one", "two") if share == 1 else [("one", "two")[rng.random() < share]]:
                n = 1.1e8 * (budget / 1e18) ** 0.5 * math.exp(spread)
                d = budget / 6 / n
                loss = 1.7 + 0.5 * (1e9 / n) ** alpha + 0.5 * (2e10 / d) ** beta
                loss *= math.exp(noise * rng.standard_normal() + apart * (label == "two"))
                observations.append(Observation(n, d, budget, loss))
                labels.append(label)
    return observations, labels


def main() -> None:
    """Print the recall and the rate of false alarms."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    rng = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print("mixture            noise  noticed at 3 %  false alarms")
    for share, name in ((1.0, "each size twice"), (0.5, "half and half"), (0.2, "one in five")):
        for noise in (0.003, 0.01):
            found = [0, 0]
            for k, apart in enumerate((0.03, 0.0)):
                for _ in range(count):
                    seen, labels = runs(rng, apart=apart, noise=noise, share=share)
                    found[k] += any(e.is_clear for e in differences(seen, {"data": labels}))
            print(f"{name:18s} {noise:5.3f}  {found[0] / count:14.3f}  {found[1] / count:12.3f}")


if __name__ == "__main__":
    main()
