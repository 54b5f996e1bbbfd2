"""Every design spends what it was given, stands where it says, and feeds the fits made for it."""

import itertools
import math
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flops_fit.errors import FitError, ManifestError, PlanError
from flops_fit.fitting.fit import fit
from flops_fit.fitting.law import Surface
from flops_fit.fitting.points import Observation
from flops_fit.manifest.manifest import parse_manifest
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.sweep_section import SweepSection
from flops_fit.manifest.trials import Size
from flops_fit.planning.designs import Ground, lay_out
from flops_fit.planning.plan import Plan
from flops_fit.planning.trunks import share_trunks

FINE = [Size(n, n, None, 6.0 * n) for n in (round(1000 * 1.1**k) for k in range(130))]
GROUND = Ground(FINE, batch_tokens=lambda size, tokens: 64)
LAW = Surface(1.8, 400.0, 1500.0, 0.35, 0.37)


def plan_of(**keys) -> Plan:
    return lay_out(SweepSection(**keys), GROUND)


def seen(plan: Plan) -> list[Observation]:
    return [
        Observation(
            t.size.params, t.tokens, t.flops, LAW.loss(t.size.params, t.tokens),
            budget_flops=t.budget_flops if plan.has_curves else None,
        )
        for t in plan.trials
    ]  # fmt: skip


RATIOS = [5.0, 10.0, 20.0, 40.0, 80.0]
EVERY = {
    "isoflop": {"design": "isoflop"},
    "stated": {"design": "isoflop", "budgets": [1.0, 5.0, 20.0]},
    "ladder": {"design": "ladder"},
    "grid": {"design": "grid", "tokens_per_param": RATIOS},
    "fixed-tokens": {"design": "fixed-tokens", "tokens": [1e5, 1e6, 1e7]},
}


@settings(max_examples=25, deadline=None)
@given(total=st.floats(1e12, 1e17), name=st.sampled_from(sorted(EVERY)), seeds=st.integers(1, 3))
def test_a_total_is_never_passed_and_well_used(total, name, seeds):
    plan = lay_out(
        SweepSection(**EVERY[name], total_flops=total),
        Ground(FINE, batch_tokens=lambda size, tokens: 64, seeds=range(seeds)),
    )
    # Sizes a tenth apart and a fixed list of tokens leave steps in what a grid can cost.
    floor = 0.98 if plan.has_curves else 0.6
    largest = max(trial.size.params for trial in plan.trials)
    assert plan.total_flops <= total
    assert plan.total_flops >= floor * total or largest == FINE[-1].params


@settings(max_examples=25, deadline=None)
@given(total=st.floats(1e13, 1e16), name=st.sampled_from(["isoflop", "ladder", "stated"]))
def test_a_total_pays_for_what_shared_trunks_really_cost(total, name):
    share = partial(
        share_trunks,
        recipe=Recipe(schedule="wsd", batch_rule="fixed", batch_tokens=64),
        units_per_example=64,
        multiple_of_examples=1,
    )
    coarse = FINE[::5]  # a factor of 1.6 apart: neighbouring levels meet in a size
    ground = Ground(coarse, batch_tokens=lambda size, tokens: 64, share_trunks=share)
    plan = lay_out(SweepSection(**EVERY[name], total_flops=total), ground)
    assert plan.total_flops < plan.separate_flops
    assert 0.9 * total <= plan.total_flops <= total


def test_a_ladder_is_tapered_and_its_noise_can_be_seen():
    plan = plan_of(design="ladder", top_flops=1e15)
    counts, spans, seeds = [], [], []
    for budget in plan.budgets:
        level = [t for t in plan.trials if t.budget_flops == budget]
        params = sorted({t.size.params for t in level})
        counts.append(len(params))
        spans.append(math.sqrt(params[-1] / params[0]))
        seeds.append(len({t.seed for t in level}))
        centre = math.sqrt(budget / 6 / 20)
        assert params[0] < centre < params[-1]
    assert counts == [7, 6, 5, 4, 3, 3]
    assert spans == pytest.approx([8, 8, 6, 4, 4, 3], rel=0.06)
    assert seeds == [3, 1, 1, 1, 1, 1]
    assert plan.total_flops / 1e15 == pytest.approx(4.74, rel=0.01)
    top = sum(t.flops for t in plan.trials if t.budget_flops == plan.budgets[-1])
    assert top / plan.total_flops == pytest.approx(0.632, rel=0.01)


def test_a_ladder_costs_less_than_half_of_the_classical_sweep_with_the_same_top():
    budgets = [1e15 / 3**k for k in range(5)]
    classical = plan_of(design="isoflop", budgets=budgets, sizes_per_budget=7)
    assert plan_of(design="ladder", top_flops=1e15).total_flops < 0.46 * classical.total_flops


def test_a_grid_has_every_size_at_every_ratio():
    plan = plan_of(design="grid", tokens_per_param=RATIOS, largest_params=1e6, num_sizes=5)
    sizes = sorted({t.size.params for t in plan.trials})
    assert len(sizes) == 5
    assert sizes[-1] == pytest.approx(1e6, rel=0.06)
    assert sizes[-1] / sizes[0] == pytest.approx(30, rel=0.1)
    steps = [math.log(b / a) for a, b in itertools.pairwise(sizes)]
    assert steps == pytest.approx([math.log(30) / 4] * 4, abs=0.12)
    ratios = {(t.size.params, round(t.tokens / t.size.params)) for t in plan.trials}
    assert ratios == {(n, r) for n in sizes for r in RATIOS}
    flops = [t.flops for t in plan.trials]
    assert flops == sorted(flops)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_the_fits_meant_for_a_design_find_the_planted_law_from_it(name):
    plan = plan_of(**EVERY[name], total_flops=1e15)
    methods = {"surface": LAW.beta / (LAW.alpha + LAW.beta)}
    if plan.has_curves:
        methods["isoflop"] = methods["surface"]
    for method, exponent in methods.items():
        found = fit(seen(plan), method=method)
        assert found.exponents["params"] == pytest.approx(
            exponent, abs=1e-4 if method == "surface" else 0.03
        )
    assert fit(seen(plan), method="kaplan").parameters["alpha_N"] > 0


def test_two_numbers_of_tokens_are_said_to_show_no_optimum():
    plan = plan_of(design="fixed-tokens", tokens=[1e6, 4e6], largest_params=1e5)
    assert [w.code for w in plan.warnings] == ["two_horizons"]
    with pytest.raises(FitError, match="only two values of the number of tokens") as caught:
        fit(seen(plan))
    assert caught.value.code == "two_horizons"


def test_one_number_of_tokens_is_said_to_show_no_optimum():
    plan = plan_of(design="fixed-tokens", tokens=[1e6], largest_params=1e5)
    assert [w.code for w in plan.warnings] == ["one_horizon"]
    with pytest.raises(FitError, match=r"alpha_N = 0\.1898") as caught:
        fit(seen(plan), method="kaplan")
    assert caught.value.code == "one_horizon"


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_total_too_small_for_any_plan_is_refused(name):
    with pytest.raises(PlanError, match=r"cheapest|as little as") as caught:
        plan_of(**EVERY[name], total_flops=1e6)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["isoflop", "stated", "ladder"])
def test_a_total_beyond_every_size_is_said_to_be_too_large(name):
    with pytest.raises(PlanError, match=r"more than `model\.sizes` can use") as caught:
        plan_of(**EVERY[name], total_flops=1e24)
    told = caught.value.message + caught.value.hint
    assert f"{FINE[-1].params:,} params" in told
    assert "lower the total" in told
    assert "sweep.budgets" not in told
    assert "raise" not in told


@st.composite
def grounds(draw) -> Ground:
    """Sizes, batches and seeds of all kinds."""
    least, step = draw(st.floats(1e3, 1e6)), draw(st.floats(1.05, 2.5))
    counts = [round(least * step**k) for k in range(draw(st.integers(1, 20)))]
    flops = draw(st.floats(1.0, 8.0))
    batch = draw(st.sampled_from([64, 4096, 262_144]))
    return Ground(
        [Size(k, n, None, 6.0 * n * flops) for k, n in enumerate(counts)],
        batch_tokens=lambda size, tokens: batch,
        seeds=range(draw(st.integers(1, 8))),
    )


CURVES = st.one_of(
    st.builds(dict, design=st.just("ladder"), levels=st.integers(3, 8)),
    st.builds(dict, design=st.just("isoflop"), sizes_per_budget=st.integers(3, 9)),
)


def laid(shape, ground, **compute) -> Plan:
    return lay_out(SweepSection(**shape, **compute, replicates=len(ground.seeds)), ground)


def cost_of(shape, ground, top) -> float | None:
    """What the sweep with this top budget costs; None where the sizes do not fit it."""
    stated = {"top_flops": top}
    if shape["design"] == "isoflop":
        stated = {"budgets": [float(f"{top / 3**k:.2e}") for k in range(5)]}
    try:
        return laid(shape, ground, **stated).total_flops
    except PlanError:
        return None


@settings(max_examples=60, deadline=None)
@given(shape=CURVES, ground=grounds(), at=st.floats(0, 1, allow_subnormal=False))
def test_a_total_that_a_stated_top_fits_within_is_never_refused(shape, ground, at):
    costs = [cost_of(shape, ground, 10 ** (k / 12)) for k in range(9 * 12, 23 * 12)]
    known = [cost for cost in costs if cost is not None]
    if not known:
        return  # the batch leaves no size enough steps
    least, most = 1.01 * min(known), max(known)
    total = min(most, least) * (most / min(most, least)) ** at
    assert laid(shape, ground, total_flops=total).total_flops <= total


@settings(max_examples=25, deadline=None)
@given(shape=CURVES, ground=grounds(), excess=st.floats(1.2, 1e6))
def test_a_total_beyond_every_stated_top_is_refused_and_the_hint_helps(shape, ground, excess):
    costs = [cost_of(shape, ground, 10 ** (k / 12)) for k in range(9 * 12, 23 * 12)]
    if costs[-1] is not None or not any(costs):
        return
    most = max(cost for cost in costs if cost is not None)
    with pytest.raises(PlanError, match=r"more than `model\.sizes` can use") as caught:
        laid(shape, ground, total_flops=10 ** (1 / 12) * excess * most)
    hinted = float(caught.value.hint.split("lower the total to ")[1].split(",")[0])
    assert hinted >= 0.995 * most
    assert laid(shape, ground, total_flops=hinted).total_flops >= 0.95 * hinted


@pytest.mark.parametrize("name", ["isoflop", "stated", "ladder"])
def test_a_total_below_every_size_is_said_in_its_own_terms(name):
    with pytest.raises(PlanError, match="as little as") as caught:
        plan_of(**EVERY[name], total_flops=1e6)
    told = caught.value.message + caught.value.hint
    assert "raise the total" in told
    assert "sweep.budgets" not in told


@pytest.mark.parametrize("name", ["grid", "fixed-tokens"])
@pytest.mark.parametrize(("largest", "side"), [(10, "smaller"), (1e12, "larger")])
def test_no_size_up_to_the_largest_that_is_wanted_is_said_so(name, largest, side):
    with pytest.raises(PlanError, match=r"`sweep\.largest_params`") as caught:
        plan_of(**EVERY[name], largest_params=largest, size_range=20)
    message = caught.value.message
    assert "`sweep.size_range` of 20" in message
    assert f"{FINE[0].params:,} to {FINE[-1].params:,} params" in message
    assert f"add {side} sizes" in caught.value.hint


def test_budgets_that_round_to_one_are_one():
    plan = plan_of(budgets=[1.0, 5.0, 5.0001], total_flops=1e14)
    ids = [trial.trial_id for trial in plan.trials]
    assert len(set(ids)) == len(ids)


def test_sizes_left_out_for_want_of_steps_are_named():
    plan = lay_out(
        SweepSection(design="grid", tokens_per_param=[1.0, 100.0], largest_params=1e5),
        Ground(FINE, batch_tokens=lambda size, tokens: 2048),
    )
    assert "sizes_missing" in [w.code for w in plan.warnings]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("budgets = [1e11]\nlevels = 4", "`levels` belongs to the design `ladder`"),
        ('design = "ladder"', "needs `top_flops` or `total_flops`"),
        ('design = "ladder"\ntop_flops = 1e11\ntotal_flops = 1e12', "give one"),
        ('design = "grid"\ntotal_flops = 1e12\ntokens_per_param = [5, 5]', "stated twice"),
        ('design = "fixed-tokens"\ntotal_flops = 1e12\ntokens = [1e6, "1e6"]', "stated twice"),
        ('design = "grid"\ntotal_flops = 1e12', "as a list"),
        ('design = "fixed-tokens"\ntotal_flops = 1e12', "needs `tokens"),
        ('design = "ladder"\ntotal_flops = 1e12\ntokens_per_param = [5, 9]', "is one number"),
        ('design = "ladder"\ntotal_flops = "1e12 flop"', "not a number"),
        ('design = "lader"\ntotal_flops = 1e12', "`sweep.design`"),
        ('design = "ladder"\ntotal_flops = 1e12\ngoal = { by = 1e13 }', "`sweep.goal.by`"),
        ("tokens_per_param = 20", "needs `budgets` or `total_flops`"),
    ],
)
def test_a_section_that_does_not_fit_its_design_is_one_error(section, said):
    text = '[model]\nplugin = "m"\nsize_param = "d"\n[data]\nplugin = "d"\n[loss]\nplugin = "l"\n'
    with pytest.raises(ManifestError) as caught:
        parse_manifest(f"{text}[sweep]\n{section}\n", where="m.toml")
    assert said in caught.value.message


def test_the_goal_may_change_during_a_sweep():
    text = (
        '[model]\nplugin = "m"\nsize_param = "d"\n[data]\nplugin = "d"\n[loss]\nplugin = "l"\n'
        '[sweep]\ndesign = "ladder"\ntotal_flops = 1e12\n'
    )
    with_goal = parse_manifest(f"{text}goal = {{ at = 1e14 }}\n", where="m.toml")
    assert with_goal.identity == parse_manifest(text, where="m.toml").identity
    assert with_goal.largest_target == 1e14
