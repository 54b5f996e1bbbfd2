"""Diverged runs planted among sound ones: how many are found, how many sound ones are blamed."""

from __future__ import annotations

import pytest
from planted import OUTLIERS, Scenario, draw

from flops_fit.fitting.surface import solve_surface


def rates(scenario: Scenario, num_sets: int) -> tuple[float, float]:
    """Recall, and the share of sound runs that are flagged, over many data sets."""
    found = planted = blamed = sound = 0
    for seed in range(num_sets):
        runs, bad = draw(scenario, seed)
        flagged = {e.name for e in solve_surface(runs).outliers}
        found += len(flagged & bad)
        planted += len(bad)
        blamed += len(flagged - bad)
        sound += len(runs) - len(bad)
    return found / planted, blamed / sound


@pytest.mark.parametrize("name", ["5 x 7, sd .003", "9 x 14, sd .003"])
def test_diverged_runs_are_found_and_sound_ones_left_alone(name: str) -> None:
    recall, false_positives = rates(OUTLIERS[name], 30)
    assert recall >= 0.95
    assert false_positives <= 0.005


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OUTLIERS))
def test_recall_and_false_positives_hold_on_every_kind_of_noise(name: str) -> None:
    recall, false_positives = rates(OUTLIERS[name], 300)
    assert recall >= 0.95
    assert false_positives <= 0.005
