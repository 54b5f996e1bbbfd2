"""An adaptive sweep finds its centre, spends little, brackets the top, and sees what is wrong."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from flops_fit.fitting.law import Surface
from flops_fit.fitting.points import Observation
from flops_fit.manifest.trials import Size
from flops_fit.planning.adaptive.belief import believe
from flops_fit.planning.adaptive.decide import decide
from flops_fit.planning.adaptive.terms import Decision, History, Run, Terms

LAW = Surface(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
TOP = 1e19
BUDGETS = tuple(TOP / 3**k for k in range(6))


def size_ladder(low: int = -60, high: int = 40) -> tuple[Size, ...]:
    """Sizes 2^(1/4) apart about the optimum at 20 tokens per parameter."""
    counts = [round(math.sqrt(TOP / 120) * 2 ** (k / 4)) for k in range(low, high)]
    return tuple(Size(k, n, None, 6.0 * n) for k, n in enumerate(counts))


def terms(**changed) -> Terms:
    given = {
        "sizes": size_ladder(), "batch_tokens": lambda size, tokens: 1, "budgets": BUDGETS,
        "target_flops": 30 * TOP, "params_within": 0.1, "total_flops": 12 * TOP,
    } | changed  # fmt: skip
    return Terms(**given)


def sweep(terms_: Terms, *, shift=1.0, sigma=0.003, seed=0, loss=None, spoil=None) -> History:
    """Carry an adaptive sweep out on a planted law; optima lie at the law's divided by `shift`."""
    rng = np.random.default_rng(seed)
    history = History()
    while True:
        decision = decide(terms_, history)
        if decision.action == "stop":
            return history.after(decision, [])
        assert len(history.decisions) < 60
        runs = []
        for trial in decision.trials:
            n, d = trial.size.params, trial.tokens
            value = loss(n, d) if loss else LAW.loss(n * shift, d / shift)
            value *= math.exp(sigma * rng.standard_normal())
            runs.append(Run(trial, spoil(trial, value) if spoil else value))
        history = history.after(decision, runs)


def error_of(history: History, shift: float = 1.0) -> float:
    truth = LAW.optimum(30 * TOP).params / shift
    return math.log(history.decisions[-1].figures["params"] / truth)


@pytest.mark.parametrize("shift", [1.0, 5.0, 1 / 5])
def test_the_centre_is_found_unaided_and_the_goal_is_reached_for_little(shift):
    histories = [sweep(terms(params_within=0.2), shift=shift, seed=seed) for seed in range(6)]
    errors = [error_of(history, shift) for history in histories]
    assert math.sqrt(np.mean(np.square(errors))) < 0.12
    reached = [h.decisions[-1].figures["params_half_width"] <= 0.2 for h in histories]
    assert sum(reached) >= 4
    for history, has_goal in zip(histories, reached, strict=True):
        assert has_goal or "the law's own error" in history.decisions[-1].reason
    assert np.mean([history.spent_flops for history in histories]) < 4.6 * TOP


def test_the_top_budget_is_bracketed_whatever_came_before():
    history = sweep(terms())
    at_top = sorted(r.trial.size.params for r in history.runs if r.trial.budget_flops == TOP)
    centre = LAW.optimum(TOP).params
    assert at_top[0] < centre / 2
    assert at_top[-1] > centre * 2
    assert any(abs(math.log(n / centre)) < 0.5 for n in at_top)


def test_levels_open_from_below_one_after_another():
    history = sweep(terms(params_within=0.05, target_flops=10 * TOP), sigma=0.008)
    opened = []
    for decision in history.decisions:
        if decision.action == "top":
            break
        opened += [round(math.log(TOP / t.budget_flops, 3)) for t in decision.trials]
    lowest = [min(opened[: k + 1]) for k in range(len(opened))]
    assert all(low - high <= 1 for low, high in itertools.pairwise(lowest))
    assert lowest[0] == 5
    assert lowest[-1] <= 3


@pytest.mark.parametrize("total", [1.0, 3.2, 4.0, 6.0])
def test_the_total_is_never_passed(total):
    tight = terms(total_flops=total * TOP, params_within=0.01, target_flops=2 * TOP)
    history = sweep(tight, sigma=0.01)
    assert history.spent_flops <= total * TOP
    assert history.decisions[-1].action == "stop"
    if total > 3.2:
        assert history.done("top") == 1


def test_what_mends_several_weak_runs_is_paid_for_together():
    history = sweep(terms())
    level = [r for r in history.runs if r.trial.budget_flops == BUDGETS[2]]
    cost = level[0].cost_flops
    off = {r.trial.trial_id for r in level[:3]}
    spoiled = [replace(r, loss=r.loss * 1.1) if r.trial.trial_id in off else r
               for r in history.runs]  # fmt: skip
    history = History(tuple(spoiled), history.decisions[:-1])
    tight = terms(total_flops=history.spent_flops + 2.5 * cost)
    decision = decide(tight, history)
    assert len(level) >= 3
    assert "far" in str(decision.reasons) or "above the law" in str(decision.reasons)
    assert 0 < math.fsum(t.cost_flops for t in decision.trials) <= 2.5 * cost


def test_runs_that_show_no_optimum_are_not_taken_to_know_it():
    """Where smaller is always better the law has no optimum, and no goal is reached by that."""
    seen = [
        Observation(size.params, tokens, 6.0 * size.params * tokens, 2 + 1e3 * tokens**-0.4)
        for size in size_ladder(-40, 0)[::8]
        for tokens in (1e10, 1e11, 1e12)
    ]
    assert believe(seen, top_flops=TOP, drift=0.0).error(30 * TOP) > 1.0


def test_what_follows_depends_on_the_runs_and_the_decisions_alone():
    whole = sweep(terms(), sigma=0.005)
    runs = list(whole.runs)
    history = History()
    for decision in whole.decisions:
        again = decide(terms(), history)
        assert again == decision
        assert Decision.from_dict(decision.to_dict()) == decision
        ids = {trial.trial_id for trial in decision.trials}
        history = history.after(decision, [run for run in runs if run.trial.trial_id in ids])


def drifting(params: float, tokens: float) -> float:
    """A law whose small sizes are worse than they count: embeddings that do nothing."""
    return LAW.loss(params / (1 + (2e8 / params) ** 1.0 * 0.15), tokens)


def test_small_scale_drift_is_seen_said_and_left_out():
    seen = 0
    for seed in range(6):
        history = sweep(terms(), loss=drifting, seed=seed, sigma=0.003)
        drops = [d for d in history.decisions if d.action == "drop_level"]
        seen += bool(drops)
        for decision in drops:
            assert "small-scale drift" in decision.reason
            assert decision.left_out
            gone = set(decision.left_out)
            assert not gone & {r.trial.trial_id for r in history.counting}
    assert seen >= 4


def test_a_law_that_holds_raises_no_alarm():
    assert not any(sweep(terms(), seed=seed).done("drop_level") for seed in range(12))


def test_a_run_far_above_the_law_is_repeated_and_left_out():
    bad: set[str] = set()

    def spoil(trial, value):
        if not bad and trial.budget_flops < TOP / 20 and trial.seed == 0 and len(spoiled) > 12:
            bad.add(trial.trial_id)
            return value * 1.06
        spoiled.append(trial.trial_id)
        return value

    spoiled: list[str] = []
    history = sweep(terms(params_within=0.03, target_flops=10 * TOP), spoil=spoil)
    (gone,) = bad
    asked = [reason for d in history.decisions for reason in d.reasons.values()]
    assert any("repeated with another seed" in reason for reason in asked)
    assert gone in history.left_out
    (cell,) = {
        (r.trial.size, r.trial.budget_flops) for r in history.runs if r.trial.trial_id == gone
    }
    seeds = [r.trial.seed for r in history.runs if (r.trial.size, r.trial.budget_flops) == cell]
    assert seeds == [0, 1]


def test_runs_without_a_loss_do_not_stop_the_sweep():
    def spoil(trial, value):
        return None if trial.size.params > LAW.optimum(trial.budget_flops).params * 5 else value

    history = sweep(terms(), spoil=spoil)
    assert abs(error_of(history)) < 0.3
    assert any(run.loss is None for run in history.runs)


def test_sizes_that_end_too_early_are_said_and_worked_with():
    small = terms(sizes=size_ladder(low=-3))
    history = sweep(small)
    assert "the sizes end before" in " ".join(d.reason for d in history.decisions)
    assert history.decisions[-1].action == "stop"


@pytest.mark.parametrize("sizes", [size_ladder(0, 2), size_ladder(39, 40)])
def test_too_few_sizes_end_the_sweep_and_do_not_hang_it(sizes):
    history = sweep(terms(sizes=sizes))
    assert history.decisions[-1].action == "stop"


def test_a_sweep_whose_runs_mostly_diverge_ends_and_says_why():
    history = sweep(
        terms(), spoil=lambda trial, value: None if trial.size.size_value % 3 else value
    )
    assert history.decisions[-1].action == "stop"
    assert "diverged or failed" in history.decisions[-1].reason
    assert history.spent_flops < TOP


def test_where_no_run_is_left_to_choose_the_next_level_opens_and_the_reason_is_true():
    """Few sizes and much noise: each cell of the open levels is run twice, with money left."""
    few = terms(sizes=size_ladder()[::6], total_flops=500 * TOP, params_within=0.001)
    history = sweep(few, sigma=0.1)
    last = history.decisions[-1]
    assert last.action == "stop"
    assert history.spent_flops < 400 * TOP
    assert "no candidate is left" in last.reason
    assert "the noise of the runs" in last.reason
    opened = {few.level_of(trial) for d in history.decisions[:-1] for trial in d.trials}
    assert opened == set(range(len(few.budgets)))
    cells = [(r.trial.size.size_value, r.trial.budget_flops) for r in history.runs]
    at_top = [cell for cell in cells if cell[1] == TOP]
    assert len(at_top) > 3
    assert all(cells.count(cell) == 2 for cell in at_top)


def test_a_pilot_that_the_total_does_not_pay_for_says_so_and_goes_on_under_a_larger_one():
    lowest = terms().budgets[-1]
    history = sweep(terms(total_flops=2.5 * lowest))
    pilot, stop = history.decisions
    assert (pilot.action, len(pilot.trials)) == ("pilot", 2)
    assert "pay for 2 of 3" in pilot.reason
    assert "only 2 runs gave a loss" in stop.reason
    assert "FLOPs are left" in stop.reason
    more = decide(terms(), history)
    assert (more.action, len(more.trials)) == ("pilot", 1)
    there = {run.trial.size.size_value for run in history.runs}
    (first,) = [decide(terms(), History())]
    wanted = {trial.size.size_value for trial in first.trials}
    assert {trial.size.size_value for trial in more.trials} == wanted - there
