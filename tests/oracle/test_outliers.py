"""Diverged runs planted among sound ones: how many are found, how many sound ones are blamed."""

from __future__ import annotations

import pytest
from planted import OUTLIERS, rates


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
