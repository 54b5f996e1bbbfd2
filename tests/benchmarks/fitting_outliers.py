"""Recall and false positives of the outlier rule on planted laws with 5 % diverged runs.

python tests/benchmarks/fitting_outliers.py [--sets 300]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from planted import OUTLIERS, rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=300)
    chosen = parser.parse_args()
    print(f"{'scenario':20s}  recall  false positives")
    for name, scenario in OUTLIERS.items():
        recall, blamed = rates(scenario, chosen.sets)
        print(f"{name:20s}  {recall:.3f}   {blamed:.4f}", flush=True)


if __name__ == "__main__":
    main()
