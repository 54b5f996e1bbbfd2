"""Plans spend what they say, on grids centred where they say, under ids made of their content."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flops_fit.errors import PlanError
from flops_fit.manifest.trials import Size
from flops_fit.planning.plan import Level, Plan, plan_levels


def sizes_of(*widths: int) -> list[Size]:
    """Two-layer transformers with a byte vocabulary, FLOPs as 6 N."""
    counts = [24 * d * d + 256 * d for d in widths]
    return [Size(d, n, n - 256 * d, 6.0 * n) for d, n in zip(widths, counts, strict=True)]


LADDER = sizes_of(8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)


def fixed_batch(tokens: int):
    return lambda size, wanted: tokens


def isoflop(sizes, budgets, *, sizes_per_budget=5, size_span=4.0, **options) -> Plan:
    """The plan of curves that all have the same count and span of sizes."""
    levels = [Level(budget, sizes_per_budget, size_span) for budget in budgets]
    return plan_levels(sizes, levels, **options)


def codes(plan: Plan) -> list[str]:
    return [warning.code for warning in plan.warnings]


@settings(max_examples=200, deadline=None)
@given(
    budgets=st.lists(st.floats(1e10, 1e14), min_size=1, max_size=6, unique=True),
    batch=st.sampled_from([64, 256, 1024, 4096]),
    count=st.integers(3, 9),
    ratio=st.floats(2, 200),
)
def test_every_trial_spends_its_budget_to_one_percent_in_whole_steps(budgets, batch, count, ratio):
    try:
        plan = isoflop(
            LADDER,
            budgets,
            batch_tokens=fixed_batch(batch),
            sizes_per_budget=count,
            tokens_per_param=ratio,
        )
    except PlanError:
        return
    for trial in plan.trials:
        assert trial.tokens % batch == 0
        assert trial.flops == pytest.approx(trial.budget_flops, rel=0.01)
        assert trial.flops == trial.tokens * trial.size.flops_per_token
    assert plan.total_flops == pytest.approx(sum(trial.flops for trial in plan.trials))


def test_the_grid_is_the_nearest_choice_to_an_even_one_of_all_choices():
    plan = isoflop(LADDER, [3e11], batch_tokens=fixed_batch(64), size_span=4.0)
    centre = math.sqrt(3e11 / 6 / 20)
    wanted = [centre * 4.0 ** (i / 2 - 1) for i in range(5)]

    def distance(chosen) -> float:
        return sum(math.log(size.params / w) ** 2 for size, w in zip(chosen, wanted, strict=True))

    best = min(itertools.combinations(LADDER, 5), key=distance)
    assert [trial.size for trial in plan.trials] == list(best)


def test_the_same_relative_grid_stands_at_every_budget_where_sizes_allow_it():
    fine = sizes_of(*range(8, 200))
    plan = isoflop(fine, [1e11, 1e12], batch_tokens=fixed_batch(64))
    for low, high in zip(plan.trials[:5], plan.trials[5:], strict=True):
        assert high.size.params / low.size.params == pytest.approx(math.sqrt(10), rel=0.06)


def test_ids_do_not_depend_on_position_or_on_other_trials():
    whole = isoflop(LADDER, [1e11, 3e11], batch_tokens=fixed_batch(64))
    part = isoflop(LADDER[::-1], [3e11], batch_tokens=fixed_batch(64))
    assert {t.trial_id for t in part.trials} == {
        t.trial_id for t in whole.trials if t.budget_flops == 3e11
    }


def test_ids_change_with_every_part_of_the_content():
    def first(**changed):
        given_ = {"batch_tokens": fixed_batch(64), "seeds": (0,)} | changed
        return isoflop(LADDER, [1e11], **given_).trials[0].trial_id

    ids = [first(), first(batch_tokens=fixed_batch(128)), first(seeds=(1,))]
    ids.append(isoflop(LADDER, [1.1e11], batch_tokens=fixed_batch(64)).trials[0].trial_id)
    assert len(set(ids)) == 4


def test_a_plan_survives_its_own_json():
    plan = isoflop(LADDER, [1e11, 3e11], batch_tokens=fixed_batch(64), unique_tokens=1000)
    assert Plan.from_dict(plan.to_dict()) == plan


def test_counted_flops_move_tokens_and_nothing_else_is_assumed():
    heavy = [Size(s.size_value, s.params, None, 9.0 * s.params) for s in LADDER]
    plan = isoflop(heavy, [3e11], batch_tokens=fixed_batch(64))
    for trial in plan.trials:
        assert trial.tokens == pytest.approx(3e11 / (9 * trial.size.params), rel=0.01)


@pytest.mark.parametrize(("widths", "word"), [((2048, 4096), "large"), ((1, 2), "small")])
def test_sizes_out_of_reach_are_refused_with_the_way_to_mend(widths, word):
    with pytest.raises(PlanError, match=f"all too {word}") as caught:
        isoflop(sizes_of(*widths), [1e11, 3e11], batch_tokens=fixed_batch(64))
    assert caught.value.hint is not None


def test_sizes_that_cannot_fill_fifty_steps_are_refused():
    with pytest.raises(PlanError, match="optimiser steps"):
        isoflop(LADDER, [1e11], batch_tokens=fixed_batch(10**6))


def test_warnings_name_the_budget_that_is_wrong():
    plan = isoflop(sizes_of(8, 12, 16, 20, 24), [3e10, 3e12], batch_tokens=fixed_batch(64))
    assert "one_sided" in codes(plan)
    assert any("3e+12" in w.message for w in plan.warnings if w.code == "one_sided")


def test_a_gap_in_the_sizes_is_a_warning():
    plan = isoflop(sizes_of(8, 10, 12, 96, 128), [3e11], batch_tokens=fixed_batch(64))
    assert "sizes_missing" in codes(plan)


def test_repeated_data_is_a_warning_with_the_epochs():
    plan = isoflop(LADDER, [1e11], batch_tokens=fixed_batch(64), unique_tokens=100_000)
    (warning,) = [w for w in plan.warnings if w.code == "data_repeated"]
    epochs = max(trial.tokens for trial in plan.trials) / 100_000
    assert f"{epochs:.1f} epochs" in warning.message
    mild = isoflop(LADDER, [1e11], batch_tokens=fixed_batch(64), unique_tokens=10**6)
    assert {"data_seen_again"} == {c for c in codes(mild) if c.startswith("data_")}


def test_enough_budgets_far_enough_apart_are_no_warning():
    budgets = [3e10, 1e11, 3e11, 1e12, 3e12]
    plan = isoflop(sizes_of(*range(6, 200)), budgets, batch_tokens=fixed_batch(64))
    assert codes(plan) == []


def test_replicates_differ_in_seed_only():
    plan = isoflop(LADDER, [1e11], batch_tokens=fixed_batch(64), seeds=(3, 4))
    pairs = {(t.size, t.tokens, t.budget_flops) for t in plan.trials}
    assert len(plan.trials) == 10
    assert len(pairs) == 5
    assert {t.seed for t in plan.trials} == {3, 4}
