"""Bias of the isoFLOP methods on planted grids without noise, at 100 times the largest budget.

python tests/benchmarks/fitting_isoflop_bias.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from planted import GRIDS, LAWS, Scenario, bias, gauss

from flops_fit.errors import FitError


def main() -> None:
    print(f"{'law':12s} {'grid':12s} width sizes  parabola: a, ln N     akima: a, ln N")
    for law in LAWS:
        for grid, moved in GRIDS.items():
            for width in (4.0, 16.0):
                for sizes in (7, 13):
                    scenario = Scenario(
                        law=LAWS[law], num_sizes=sizes, width=width, noise=gauss(0.0), **moved
                    )
                    cells = []
                    for interpolation in ("parabola", "akima"):
                        try:
                            a, away = bias(scenario, interpolation)
                            cells.append(f"{a:+.4f} {away:+.3f}")
                        except FitError as error:
                            cells.append(error.code)
                    print(f"{law:12s} {grid:12s} {width:5.0f} {sizes:5d}  " + "      ".join(cells))


if __name__ == "__main__":
    main()
