"""What the verdict says of planted tables, sound and unsound.

    python tests/benchmarks/verdict_scenarios.py [--seeds 3]

Printed: each scenario with its verdicts, the error of N at ten times the largest budget and the
first reasons; then how many sound tables get `trust` (80 % wanted), how many are refused (none
wanted), and whether any `trust` stands on an N that is wrong by more than a factor of 2.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from scenarios import Scenario, scenarios

import flops_fit
from flops_fit.errors import FlopsFitError


def judged(scenario: Scenario) -> tuple[str, float, list[str]]:
    """The verdict, |ln N| error (NaN without an answer) and the codes of the reasons."""
    try:
        result = flops_fit.report(scenario.columns, budgets=[scenario.target], bootstrap=0)
    except FlopsFitError as error:
        return "refuse", math.nan, [type(error).__name__]
    codes = list(dict.fromkeys(note.code for note in result.reasons))
    try:
        found = result.predict(scenario.target)
    except FlopsFitError:
        return result.verdict, math.nan, codes
    return result.verdict, abs(math.log(found.params / scenario.params)), codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    rows: dict[str, list[tuple[str, float, list[str]]]] = defaultdict(list)
    sound: dict[str, bool] = {}
    for seed in range(chosen.seeds):
        for scenario in scenarios(seed):
            rows[scenario.name].append(judged(scenario))
            sound[scenario.name] = scenario.is_sound
    for name, found in rows.items():
        errors = " ".join(f"{error:.2f}" for _, error, _ in found)
        verdicts = " ".join(verdict for verdict, _, _ in found)
        print(f"{'sound' if sound[name] else '     '} {name:42s} {verdicts:36s} {errors:16s} "
              f"{', '.join(found[0][2][:3])}")  # fmt: skip
    good = [one for name, found in rows.items() if sound[name] for one in found]
    bad = [one for name, found in rows.items() if not sound[name] for one in found]
    trusted = [one for one in (*good, *bad) if one[0] == "trust"]
    trust = sum(v == "trust" for v, _, _ in good) / len(good)
    refused = sum(v == "refuse" for v, _, _ in good)
    print(f"sound: trust in {trust:.0%} of {len(good)}, refused {refused}")
    print(f"unsound: trust in {sum(v == 'trust' for v, _, _ in bad)} of {len(bad)}, refused "
          f"{sum(v == 'refuse' for v, _, _ in bad)}")  # fmt: skip
    print(f"trust with N wrong by more than 2: {sum(e > math.log(2) for _, e, _ in trusted)} of "
          f"{len(trusted)}")  # fmt: skip


if __name__ == "__main__":
    main()
