import math

import pytest
from rate_points import SHAPES, SIZES, points, vars_of

from flops_fit.fitting.carryover import fit_transfer
from flops_fit.fitting.rates import RatePoint


def test_vertices_and_slope_of_planted_parabolas_are_found():
    told = fit_transfer(points(lambda size: (size / 32) ** -0.5, rates=0.01), SHAPES, own="width")
    for bracket, expected in zip(told.brackets, (2**0.5, 1.0, 0.5), strict=True):
        assert bracket.status == "interior"
        assert bracket.factor == pytest.approx(expected, rel=1e-6)
        assert bracket.rate == pytest.approx(0.01 * expected, rel=1e-6)
        assert bracket.loss == pytest.approx(3 - 0.2 * math.log(bracket.size_value))
        excess = math.expm1(0.03 * math.log(expected) ** 2)
        assert bracket.recipe_excess == pytest.approx(excess, abs=1e-9)
    assert told.slope.value == pytest.approx(-0.5)
    assert told.verdict == "not carried"


def test_a_rule_that_holds_is_said_to_carry_the_rate():
    told = fit_transfer(points(noise=0.001), SHAPES, own="constant")
    assert told.verdict == "carried"
    assert told.slope.interval[0] < 0 < told.slope.interval[1]
    assert [reason.code for reason in told.reasons] == ["rule_holds"]


def test_a_slope_that_costs_next_to_nothing_does_not_speak_against_the_rule():
    told = fit_transfer(points(lambda size: (size / 32) ** -0.2), SHAPES, own="constant")
    assert told.slope.interval[1] < 0
    assert told.verdict == "carried"
    (reason,) = told.reasons
    assert reason.code == "rule_costs_little"
    assert "0.5% of its loss" in reason.message


def test_the_interval_of_the_slope_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        told = fit_transfer(
            points(lambda size: size**-0.3 * 3, noise=0.002, seed=seed), SHAPES, own="constant"
        )
        covered += told.slope.interval[0] <= -0.3 <= told.slope.interval[1]
    assert 0.90 <= covered / 200 <= 1.0


def test_seeds_that_differ_as_a_whole_do_not_blur_the_optimum():
    told = fit_transfer(points(lambda size: 1.5, seeds=3), SHAPES, own="constant")
    assert told.noise < 1e-9  # the seeds differ by one per cent, the same at every rate
    assert [bracket.factor for bracket in told.brackets] == pytest.approx([1.5] * 3)
    assert told.brackets[0].rates[0][3] == 3


def test_a_wrong_rule_costs_what_the_parabola_of_the_largest_size_says():
    # True best rate: 1 / size; the recipe follows it.
    told = fit_transfer(points(curvature=0.02), SHAPES, own="width")
    costs = {cost.rule: cost for cost in told.costs}
    assert costs["width"].excess == pytest.approx(0, abs=1e-9)
    assert costs["width"].is_own
    # A constant rate, tuned at 16, is 8 times too large at 128: beyond the grid, which ends at 4.
    assert costs["constant"].rate == pytest.approx(8)
    assert costs["constant"].is_beyond
    assert costs["constant"].excess == pytest.approx(math.expm1(0.02 * math.log(4) ** 2))
    half = {"root": {size: size**-0.5 for size in SIZES}, **SHAPES}
    mild = {c.rule: c for c in fit_transfer(points(curvature=0.02), half, own="width").costs}
    assert mild["root"].excess == pytest.approx(math.expm1(0.02 * math.log(8**0.5) ** 2), rel=1e-6)
    assert not mild["root"].is_beyond


def test_an_optimum_at_the_end_of_the_grid_is_flagged_and_no_number():
    told = fit_transfer(points(lambda size: 16.0), SHAPES, own="constant")
    assert {bracket.status for bracket in told.brackets} == {"edge"}
    assert "add larger rates" in told.brackets[0].reason
    assert told.brackets[0].rate is None
    assert (told.verdict, told.slope, told.costs) == ("undetermined", None, ())


def test_rates_that_diverged_bound_the_grid_and_are_never_fitted():
    some = [
        RatePoint(**{**vars_of(p), "loss": None if p.factor == 4 else p.loss}) for p in points()
    ]
    told = fit_transfer(some, SHAPES, own="constant")
    assert [bracket.factor for bracket in told.brackets] == pytest.approx([1.0] * 3)
    assert told.brackets[0].rates[-1][2] is None
    most = [
        RatePoint(**{**vars_of(p), "loss": None if p.factor > 1 else p.loss})
        for p in points(lambda size: 3.0)
    ]
    told = fit_transfer(most, SHAPES, own="constant")
    assert all("the next one diverged" in bracket.reason for bracket in told.brackets)


def at_the_largest(change):
    """The planted study with one optimum for all sizes, and other losses at the largest one."""
    return [
        RatePoint(**{**vars_of(p), "loss": change(p)}) if p.size_value == SIZES[-1] else p
        for p in points(noise=0.001)
    ]


def test_a_largest_size_whose_best_rate_lies_far_from_the_others_is_not_carried():
    # The smaller sizes agree on 1; the largest has its optimum at a sixteenth, outside the grid.
    def moved(point):
        return 2 * math.exp(0.02 * math.log(16 * point.factor) ** 2)

    told = fit_transfer(at_the_largest(moved), SHAPES, own="constant")
    assert [bracket.status for bracket in told.brackets] == ["interior", "interior", "edge"]
    assert told.slope.interval[0] < 0 < told.slope.interval[1]
    assert told.verdict == "not carried"
    assert [reason.code for reason in told.reasons] == ["unbracketed", "rule_misses"]
    # From 1/4, the best measured, to 1/2, which is passed on the way to what is carried.
    least = math.expm1(0.02 * (math.log(8) ** 2 - math.log(4) ** 2))
    assert f"at least {least:.1%}" in told.reasons[-1].message


def test_a_size_whose_best_rate_is_not_known_keeps_the_verdict_open():
    told = fit_transfer(
        at_the_largest(lambda p: 2 * math.exp(1e-3 * math.log(16 * p.factor) ** 2)),
        SHAPES,
        own="constant",
    )
    assert told.slope.interval[0] < 0 < told.slope.interval[1]
    assert told.verdict == "undetermined"
    assert told.reasons[-1].code == "sizes_unknown"
    assert "size 128 is not known" in told.reasons[-1].message


@pytest.mark.parametrize("which", SIZES)
def test_a_size_that_diverged_from_below_the_carried_rate_on_is_not_carried(which):
    some = [
        RatePoint(**{**vars_of(p), "loss": None if p.size_value == which else p.loss})
        for p in points(noise=0.001, rates=0.01)
    ]
    told = fit_transfer(some, SHAPES, own="constant")
    assert told.slope.interval[0] < 0 < told.slope.interval[1]
    assert told.verdict == "not carried"
    assert told.reasons[-1].code == "rule_misses"
    assert f"diverges at size {which:g}, where" in told.reasons[-1].message
    assert "every tried rate from 0.0025 up diverged" in told.reasons[-1].message


def test_a_size_that_diverged_only_at_rates_above_the_carried_one_keeps_the_verdict_open():
    # The smaller sizes agree on 1; the largest was tried at 2 and 4 alone, and 1 may be its best.
    some = [
        RatePoint(**{**vars_of(p), "loss": None if p.size_value == SIZES[-1] else p.loss})
        for p in points(noise=0.001)
        if p.size_value != SIZES[-1] or p.factor >= 2
    ]
    told = fit_transfer(some, SHAPES, own="constant")
    assert told.verdict == "undetermined"
    assert told.reasons[-1].code == "sizes_unknown"


def test_a_carried_rate_at_which_the_largest_size_diverges_is_not_carried():
    # The smaller sizes agree on 2; the largest trains at 1/4 and 1/2 and diverges from 1 on.
    some = [
        RatePoint(**{**vars_of(p), "loss": None if p.factor > 0.9 else p.loss})
        if p.size_value == SIZES[-1] else p
        for p in points(lambda size: 2.0)
    ]  # fmt: skip
    told = fit_transfer(some, SHAPES, own="constant")
    assert told.brackets[-1].status == "too_few"
    assert told.verdict == "not carried"
    assert f"diverges at size {SIZES[-1]:g}" in told.reasons[-1].message


def test_one_diverged_seed_of_two_takes_its_rate_out_of_the_fit():
    some = [
        RatePoint(**{**vars_of(p), "loss": None if (p.factor, p.seed) == (4, 1) else p.loss})
        for p in points(seeds=2)
    ]
    told = fit_transfer(some, SHAPES, own="constant")
    assert told.brackets[0].rates[-1][2:] == (None, 2)


def test_a_loss_that_does_not_curve_beyond_its_noise_gives_no_optimum():
    told = fit_transfer(points(curvature=1e-5, noise=0.01, seed=3), SHAPES, own="constant")
    assert all(bracket.status in {"flat", "edge"} for bracket in told.brackets)
    assert told.verdict == "undetermined"


def test_three_rates_are_the_least_and_their_noise_is_assumed_and_said():
    told = fit_transfer(points(factors=(0.5, 1.0, 2.0)), SHAPES, own="constant")
    assert "noise_assumed" in {reason.code for reason in told.reasons}
    assert told.noise == 0.003
    few = fit_transfer(points(factors=(0.5, 1.0)), SHAPES, own="constant")
    assert {bracket.status for bracket in few.brackets} == {"too_few"}
