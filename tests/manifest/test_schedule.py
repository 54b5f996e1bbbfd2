import itertools
import math

import pytest

from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.schedule import curve_steps, learning_rate_factor, warmup_steps


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("steps", [10, 333, 1000])
def test_warm_up_and_decay_end_exactly_where_the_trial_does(schedule, steps):
    warmup = steps // 10
    rates = [
        learning_rate_factor(step, steps=steps, warmup=warmup, schedule=schedule)
        for step in range(steps)
    ]
    assert rates[warmup - 1] == 1.0
    assert all(a < b for a, b in itertools.pairwise(rates[:warmup]))
    falling = rates[warmup:]
    assert all(a >= b for a, b in itertools.pairwise(falling))
    # The step after the last would be the first at zero: not one earlier, not one later.
    after = learning_rate_factor(steps, steps=steps, warmup=warmup, schedule=schedule)
    assert after == pytest.approx(0.0, abs=1e-12)
    assert 0 < rates[-1] < 0.5


def test_wsd_holds_the_peak_until_its_cool_down():
    rates = [
        learning_rate_factor(
            step, steps=100, warmup=10, schedule="wsd", cooldown_fraction=0.2, final_fraction=0.1
        )
        for step in range(101)
    ]
    assert rates[9:80] == [1.0] * 71
    assert rates[80] < 1.0
    assert rates[100] == pytest.approx(0.1)


def test_warm_up_is_capped_by_tokens_per_parameter():
    def steps(cap):
        recipe = Recipe(warmup_fraction=0.1, warmup_tokens_per_param=cap)
        return warmup_steps(recipe, steps=1000, batch_tokens=500, params=10_000)

    assert steps(0) == 100
    assert steps(1) == 20
    assert steps(100) == 100


def test_curve_points_are_log_spaced_and_before_the_end():
    points = curve_steps(steps=10_000, points=8)
    assert points[0] == 100
    assert points[-1] < 10_000
    ratios = [math.log(b / a) for a, b in itertools.pairwise(points)]
    assert max(ratios) - min(ratios) < 0.02
    assert curve_steps(steps=3, points=8) == [1, 2]
    assert curve_steps(steps=100, points=0) == []
