"""Runs that share a trunk: what they cost, what they tell, and that caps hold."""

import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from flops_fit.fitting.law import Surface
from flops_fit.fitting.points import TRUNK_CORRELATION
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Size
from flops_fit.planning.adaptive.belief import believe
from flops_fit.planning.adaptive.decide import decide
from flops_fit.planning.adaptive.terms import History, Run, Terms
from flops_fit.planning.adaptive.worth import MAX_PER_CELL, belief_of, candidates, choose
from flops_fit.planning.trunks import TrunkStates, share_trunks
from flops_fit.sweep.ledger import read_ledger, replay

LAW = Surface(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
TOP = 1e19
RECIPE = Recipe(schedule="wsd", batch_rule="fixed", batch_tokens=1)
COUNTS = [round(math.sqrt(TOP / 120) * 2 ** (k / 4)) for k in range(-60, 40)]
TERMS = Terms(
    tuple(Size(k, n, None, 6.0 * n) for k, n in enumerate(COUNTS)),
    lambda size, tokens: 1,
    tuple(TOP / 3**k for k in range(6)),
    30 * TOP,
    0.1,
    12 * TOP,
    share_trunks=partial(share_trunks, recipe=RECIPE, units_per_example=1, multiple_of_examples=1),
)


def three(size=60):
    """The runs of one size at the upper three levels, the longest first."""
    return [TERMS.trial(TERMS.sizes[size], level) for level in range(3)]


def sweep(terms, *, sigma=0.003, seed=0, lost=0.0, outliers=0.0):
    rng = np.random.default_rng(seed)
    history, common = History(), {}
    while (decision := decide(terms, history)).action != "stop":
        runs = []
        for trial in decision.trials:
            own = rng.standard_normal()
            if trial.trunk_id is not None:
                shared = common.setdefault(trial.trunk_id, rng.standard_normal())
                own = math.sqrt(TRUNK_CORRELATION) * shared + math.sqrt(0.1) * own
            loss = LAW.loss(trial.size.params, trial.tokens) * math.exp(sigma * own)
            fate = rng.random() if lost or outliers else 1.0
            spoilt = None if fate < lost else 1.08 * loss
            runs.append(Run(trial, spoilt if fate < lost + outliers else loss))
        history = history.after(decision, runs)
    return history.after(decision, [])


def test_runs_of_a_size_share_a_trunk_over_a_factor_of_ten_in_tokens_at_most():
    upper = three()
    lower = [TERMS.trial(TERMS.sizes[60], level) for level in (3, 4, 5)]
    assert len({t.trunk_id for t in upper}) == len({t.trunk_id for t in lower}) == 1
    assert upper[0].trunk_id != lower[0].trunk_id
    assert TERMS.trial(TERMS.sizes[60], 0, repeat=1).trunk_id != upper[0].trunk_id
    # Each keeps the states of its own branch and of the shorter ones; the longest has no longer.
    middle = [round(0.8 * t.tokens) for t in upper[1:]]
    assert upper[0].trunk.kept_tokens == pytest.approx(tuple(reversed(middle)), abs=2)
    assert upper[1].trunk.kept_tokens == upper[0].trunk.kept_tokens
    assert upper[2].trunk.kept_tokens == upper[0].trunk.kept_tokens[:1]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_in_any_order_the_runs_of_a_trunk_cost_the_longest_and_the_cool_downs(order):
    runs = three()
    separate = [t.tokens for t in runs]
    fair = separate[0] + 0.2 * (separate[1] + separate[2])
    together = TrunkStates({}).settled([runs[k] for k in order])
    assert [t.tokens for t in together] == [separate[k] for k in order]
    assert sum(t.cost_tokens for t in together) == pytest.approx(fair, rel=1e-6)
    states, one_by_one = TrunkStates({}), 0
    for k in order:
        (made,) = states.settled([runs[k]])
        one_by_one += made.cost_tokens
        states = states.after(made)
    assert one_by_one == pytest.approx(fair, rel=1e-6)


def test_a_trunk_of_which_every_state_was_gone_on_from_is_taken_for_removed():
    placed = TrunkStates({}).settled(three())
    whole = History(tuple(Run(trial, 3.0) for trial in placed))
    assert whole.trunk_states.shared_tokens(three()[0]) == 0
    part = History(tuple(Run(trial, 3.0) for trial in placed[1:]))
    assert part.trunk_states.shared_tokens(three()[0]) == placed[1].trunk.kept_tokens[-1]
    lost = History((Run(placed[2], None, kept_tokens=()),))
    assert lost.trunk_states.shared_tokens(three()[0]) == 0


def test_an_adaptive_sweep_on_trunks_reaches_the_goal_for_less_than_it_would_cost_apart():
    terms = replace(TERMS, params_within=0.05)
    for seed in range(4):
        history = sweep(terms, seed=seed)
        spent = history.spent_flops
        assert spent == pytest.approx(sum(run.trial.cost_flops for run in history.runs))
        assert spent < 0.99 * sum(run.trial.flops for run in history.runs)
        last = history.decisions[-1].figures
        # A half-width of 90 %: the noise reaches the goal, the law's own error may not.
        assert last["noise_half_width"] <= 0.05
        assert last["flops"] == pytest.approx(spent)
        assert abs(math.log(last["params"] / LAW.optimum(30 * TOP).params)) < 0.2


@pytest.mark.parametrize("total", [0.2, 1.0, 3.3])
def test_what_is_decided_never_costs_more_than_the_total(total):
    history = sweep(replace(TERMS, total_flops=total * TOP, params_within=1e-9))
    assert 0.5 * total * TOP < history.spent_flops <= total * TOP


@pytest.mark.parametrize(("lost", "outliers"), [(0.0, 0.0), (0.15, 0.0), (0.0, 0.1)])
@pytest.mark.parametrize("step", [4, 12])
def test_no_cell_is_run_more_than_twice_though_each_trunk_offers_a_run_of_it(step, lost, outliers):
    few = replace(TERMS, sizes=TERMS.sizes[20:70:step], params_within=1e-9, total_flops=40 * TOP)
    most = 0
    for seed in range(1, 4):
        history = sweep(few, seed=seed, lost=lost, outliers=outliers)
        cells = Counter((r.trial.size.size_value, r.trial.budget_flops) for r in history.runs)
        most = max(most, *cells.values())
    assert most == MAX_PER_CELL


def test_what_a_batch_already_holds_counts_towards_its_cell():
    few, rng = replace(TERMS, sizes=TERMS.sizes[30:60:8]), np.random.default_rng(0)
    trials = [few.trial(s, k, repeat=r) for s in few.sizes for k in (4, 5) for r in (0, 1)]
    noise = np.exp(0.003 * rng.standard_normal(len(trials)))
    losses = [
        LAW.loss(t.size.params, t.tokens) * float(e) for t, e in zip(trials, noise, strict=True)
    ]
    history = History(tuple(map(Run, trials, losses)))
    belief = belief_of(few, history.counting, drift=0.05)
    offered = candidates(few, history, belief, [3])
    # Each size is offered on both of its trunks and on a new one.
    assert {t.seed for t in offered} == {0, 1, 2}
    most = []
    for held in range(3):
        mending = [few.trial(s, 3, repeat=5 + k) for s in few.sizes for k in range(held)]
        picks = choose(
            belief, few.target_flops, offered, count=12, left_flops=few.total_flops,
            top_flops=TOP, done=trials, taken=[*trials, *mending],
        )  # fmt: skip
        most.append(max(Counter(p.trial.size for p in picks).values(), default=0))
    assert most == [2, 1, 0]


def test_the_expected_gain_of_a_run_is_what_the_belief_says_once_it_is_run():
    cells = [(k, size) for k in (2, 3, 5) for size in (20, 30, 40, 50, 60)]
    done = [TERMS.trial(TERMS.sizes[size], k) for k, size in cells]
    ran = [Run(t, LAW.loss(t.size.params, t.tokens)) for t in done]
    belief = believe([run.observation for run in ran], top_flops=TOP)
    before = belief.error(30 * TOP)
    gains = {}
    for level, size, repeat in ((1, 20, 0), (1, 20, 1), (0, 60, 0), (0, 60, 1), (4, 40, 0)):
        trial = TERMS.trial(TERMS.sizes[size], level, repeat=repeat)
        picks = choose(
            belief, 30 * TOP, [trial], count=1, left_flops=2 * TOP, top_flops=TOP, done=done
        )
        more = [*ran, Run(trial, LAW.loss(trial.size.params, trial.tokens))]
        after = believe([run.observation for run in more], top_flops=TOP)
        then = replace(after, covariance=after.covariance_at(belief.sigma)).error(30 * TOP)
        # A run that has only noise in common with others may tell nothing.
        assert bool(picks) == (then < before)
        for pick in picks:
            assert pick.error_before == pytest.approx(before)
            assert pick.error_after == pytest.approx(then, rel=0.004)
        gains[level, size, repeat] = before - then
    # The first seed's trunk has runs already: how the loss falls along it, that run tells better.
    assert done[0].trunk_id == TERMS.trial(TERMS.sizes[20], 1).trunk_id
    assert gains[1, 20, 0] > 1.1 * gains[1, 20, 1]
    assert gains[4, 40, 0] < 0


def test_the_standard_error_knows_that_runs_of_a_trunk_have_noise_in_common():
    trials = [TERMS.trial(TERMS.sizes[size], k) for k in range(6) for size in (20, 30, 40, 50, 60)]
    truth = math.log(LAW.optimum(30 * TOP).params)
    off, claimed, naive = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        common = {t.trunk_id: rng.standard_normal() for t in trials}
        seen = []
        for t in trials:
            own = math.sqrt(0.9) * common[t.trunk_id] + math.sqrt(0.1) * rng.standard_normal()
            loss = LAW.loss(t.size.params, t.tokens) * math.exp(0.005 * own)
            seen.append(Run(t, loss).observation)
        belief = believe(seen, top_flops=TOP, drift=0.0)
        apart = believe([replace(o, run=None) for o in seen], top_flops=TOP, drift=0.0)
        off.append(belief.log_params(30 * TOP) - truth)
        claimed.append(belief.error(30 * TOP))
        naive.append(apart.error(30 * TOP))
    rms = math.sqrt(np.mean(np.square(off)))
    assert np.mean(claimed) == pytest.approx(rms, rel=0.25)
    assert np.mean(naive) < 0.6 * rms


def test_caps_hold_and_lifting_one_goes_on_from_what_trunks_left(write_manifest, tmp_path):
    write_manifest(
        sweep='design = "ladder"\ntotal_flops = 2e13\ngoal = { at = 1e14, params_within = 0.05 }',
        training='schedule = "wsd"',
    )
    ledger = tmp_path / "runs/planted/ledger.jsonl"
    for cap, code in (("2e12", 7), ("9e12", 7), ("2e13", 0)):
        ended = subprocess.run(
            [sys.executable, "-m", "flops_fit", "run", "experiment.toml", "--simulate",
             "--adaptive", "--max-flops", cap],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == code, ended.stderr
        state = replay(read_ledger(ledger))
        assert state.spent_flops <= float(cap)
    trials = [t for d in state.decisions for t in d.trials]
    planned = json.loads((tmp_path / "runs/planted/plan.json").read_text())
    assert planned["total_flops"] == pytest.approx(state.spent_flops)
    assert any(t.trunk.shared_tokens for t in trials if t.trunk)


def test_which_trunks_are_taken_for_removed_is_what_workers_remove():
    shortest, middle, longest = reversed(TrunkStates({}).settled(three()))
    states = sorted(middle.trunk.kept_tokens)
    # It diverged past the first state and never left the second: nobody went on from that one.
    diverged = Run(middle, None, kept_tokens=tuple(states[:1]))
    cut = replace(longest, trunk=replace(longest.trunk, shared_tokens=states[0]))
    history = History((Run(shortest, 3.0), diverged, Run(cut, None, kept_tokens=())))
    assert history.trunk_states.shared_tokens(three()[0]) == states[0]
    # What failed is tried again from the trunk, which is kept for it.
    failed = Run(longest, None, kept_tokens=(), has_failed=True)
    history = History((Run(shortest, 3.0), Run(middle, 3.0), failed))
    assert history.trunk_states.shared_tokens(three()[0]) == states[-1]


def test_a_run_retried_with_another_seed_has_no_noise_in_common_with_its_trunk():
    trial = three()[0]
    assert Run(trial, 3.0).observation.run == trial.trunk_id
    retried = Run(trial, 3.0, is_retried=True)
    assert retried.observation.run is None
    assert retried.trained.trunk is None
    assert retried.trained.trial_id == trial.trial_id


@pytest.mark.parametrize(
    ("every", "sigma", "seed"), [(3, 0.02, 0), (4, 0.1, 1), (4, 0.3, 1), (5, 0.1, 4), (6, 0.02, 5)]
)
def test_the_runs_at_the_top_are_paid_for_whatever_trunks_promised_to_save(every, sigma, seed):
    # Few sizes, so that trunks are shared often; no goal, so that all that may be spent is.
    sizes = TERMS.sizes[2::every]
    terms = replace(TERMS, sizes=sizes, params_within=1e-9, total_flops=4.7 * TOP)
    history = sweep(terms, seed=seed, sigma=sigma)
    (top,) = [decision for decision in history.decisions if decision.action == "top"]
    assert len(top.trials) == 3
    assert history.spent_flops <= terms.total_flops
