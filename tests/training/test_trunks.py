"""Trials that share a trunk are what each would be alone, at a fraction of the compute."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from training_toys import Endless, Mlp, mse, pairs, toy_data
from trials_of_one_call import train

from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.rules import batch_tokens
from flops_fit.manifest.schedule import branch_step
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.trunks import share_trunks
from flops_fit.sweep.ledger import read_ledger
from flops_fit.training.orders import Interrupted

RECIPE = Recipe(
    learning_rate=1e-2, learning_rate_rule="constant", schedule="wsd", batch_rule="fixed",
    batch_tokens=8, warmup_fraction=0.2,
)  # fmt: skip
SIZE = Size(6, 37, 37, 200.0)


def trials(*tokens, recipe=RECIPE, seed=3, size=SIZE):
    made = [
        Trial.of(budget_flops=n * 200.0, size=size, tokens=n, batch_tokens=8, seed=seed)
        for n in tokens
    ]
    return share_trunks(made, recipe, units_per_example=1, multiple_of_examples=1)


def run(trial, directory, *, trunk=None, source=None, recipe=RECIPE, **more):
    return train(
        trial, build=lambda width: Mlp(width, dropout=0.3),
        data=toy_data(source or pairs(100), pairs(50, seed=9)), loss=mse, recipe=recipe,
        directory=directory, device="cpu", trunk=trunk, **more,
    )  # fmt: skip


def test_trials_of_one_size_share_batch_and_warm_up_and_pay_for_the_trunk_once():
    recipe = replace(RECIPE, batch_rule="sqrt", batch_tokens=512, batch_reference_tokens=1e6,
                     warmup_fraction=0.1)  # fmt: skip
    tokens = (500_000, 1_000_000, 2_000_000)
    made = trials(*tokens, recipe=recipe)
    assert len({t.batch_tokens for t in made}) == len({t.trunk.warmup_steps for t in made}) == 1
    assert len({t.trunk_id for t in made}) == 1
    for trial, wanted in zip(made, tokens, strict=True):
        assert trial.tokens == pytest.approx(wanted, rel=0.01)
        assert trial.tokens % trial.batch_tokens == 0
    # Three horizons a factor of two apart with a fifth of cool-down.
    share = sum(t.cost_flops for t in made) / sum(t.flops for t in made)
    assert share == pytest.approx((2 + 0.2 * (0.5 + 1)) / 3.5, abs=0.005)


def test_a_trial_that_shares_with_none_and_other_schedules_are_left_as_they_are():
    assert all(t.trunk is None for t in trials(400))
    linear = replace(RECIPE, schedule="linear")
    assert all(t.trunk is None for t in trials(400, 800, recipe=linear))
    apart = replace(RECIPE, share_trunks=False)
    assert all(t.trunk is None for t in trials(400, 800, recipe=apart))
    first, second = trials(400, seed=0)[0], trials(400, 800, seed=0)[0]
    assert first.trial_id != second.trial_id


SQRT = replace(RECIPE, batch_rule="sqrt", batch_tokens=512, batch_reference_tokens=1e6)


def test_a_trunk_spans_a_factor_of_sixteen_at_most_and_its_batch_stays_near_each_trials_own():
    horizons = [1_000 * 2**k for k in range(9)]
    made = trials(*horizons, recipe=SQRT)
    spans = {}
    for trial, wanted in zip(made, horizons, strict=True):
        spans.setdefault(trial.trunk_id, []).append(wanted)
        alone = batch_tokens(SQRT, size=SIZE, tokens=wanted, units_per_example=1)
        assert 1 / 2.5 <= trial.batch_tokens / alone <= 2.5
        assert trial.tokens == pytest.approx(wanted, rel=0.011)
    assert sorted(map(len, spans.values())) == [4, 5]
    assert all(max(each) <= 16 * min(each) for each in spans.values())


def test_seeds_of_a_cell_are_replicates_whatever_else_their_sizes_train():
    made = [
        Trial.of(budget_flops=n * 200.0, size=SIZE, tokens=n, batch_tokens=8, seed=seed)
        for n, seed in ((20_000, 0), (80_000, 0), (20_000, 1), (20_000, 2))
    ]
    placed = share_trunks(made, SQRT, units_per_example=1, multiple_of_examples=1)
    assert len({(t.batch_tokens, t.trunk.warmup_steps) for t in placed}) == 1
    assert len({t.tokens for t in placed if t.seed != 0} | {placed[0].tokens}) == 1
    assert len({t.trunk_id for t in placed}) == 3
    assert placed[2].trunk.kept_tokens == ()
    assert placed[2].cost_tokens == placed[2].tokens


def test_a_step_of_a_trunk_holds_no_less_than_one_of_its_shortest_trial_alone():
    for horizons in ((300, 1200), (300, 4800), (90, 900), (5_000, 70_000)):
        made = trials(*horizons, recipe=SQRT)
        alone = batch_tokens(SQRT, size=SIZE, tokens=horizons[0], units_per_example=1)
        assert made[0].batch_tokens == made[1].batch_tokens >= alone
        assert made[0].steps >= 50
    assert trials(300, 1200, recipe=SQRT)[0].batch_tokens >= SQRT.batch_min_examples


def test_a_shared_trial_outlives_being_written_down():
    for trial in trials(400, 800):
        assert Trial.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial


@pytest.mark.parametrize("kind", ["map-style", "iterable"])
def test_every_branch_has_the_bits_of_the_trial_trained_alone(tmp_path, kind):
    def source():
        return pairs(70) if kind == "map-style" else Endless(70, noise=0.1)

    made = trials(400, 640, 1200)
    alone = [run(t, tmp_path / f"alone-{t.tokens}", source=source()) for t in made]
    shared = [
        run(t, tmp_path / f"shared-{t.tokens}", trunk=tmp_path / "trunk", source=source())
        for t in made
    ]
    assert [s.loss for s in shared] == [a.loss for a in alone]
    assert [s.tokens for s in shared] == [t.tokens for t in made]
    assert [s.details.spent_flops for s in shared] == [t.cost_flops for t in made]
    assert [a.details.spent_flops for a in alone] == [t.flops for t in made]
    for trial, outcome in zip(made, shared, strict=True):
        rate = outcome.details.tokens_per_second * outcome.details.training_seconds
        assert rate == pytest.approx(trial.cost_tokens)


def test_a_branch_that_was_stopped_goes_on_and_leaves_the_trunk_unharmed(tmp_path):
    first, second, third = trials(400, 640, 1200)
    whole = [run(t, tmp_path / f"{t.tokens}", trunk=tmp_path / "whole") for t in
             (first, second, third)]  # fmt: skip
    run(first, tmp_path / "a", trunk=tmp_path / "trunk")
    assert branch_step(second, RECIPE) - branch_step(first, RECIPE) == 24
    for stop_after in (5, 13, 9):  # on the trunk, on the trunk, in the cool-down
        asked = []

        def should_stop(asked=asked, stop_after=stop_after):
            asked.append(1)
            return len(asked) > stop_after

        with pytest.raises(Interrupted):
            run(second, tmp_path / "b", trunk=tmp_path / "trunk", should_stop=should_stop)
    resumed = run(second, tmp_path / "b", trunk=tmp_path / "trunk")
    assert resumed.loss == whole[1].loss
    assert resumed.details.spent_flops == second.cost_flops
    assert run(third, tmp_path / "c", trunk=tmp_path / "trunk").loss == whole[2].loss


def test_without_the_trunk_before_it_a_trial_is_trained_by_itself(tmp_path):
    first, second = trials(400, 800)
    alone = run(second, tmp_path / "alone")
    other = trials(400, 800, seed=4)[0]
    run(other, tmp_path / "other", trunk=tmp_path / "trunk")
    assert run(second, tmp_path / "second", trunk=tmp_path / "trunk").loss == alone.loss
    assert second.cost_flops < second.flops == alone.details.spent_flops
    assert first.cost_flops == first.flops


MANIFEST = """
name = "trunks"
[model]
plugin = "gpt"
size_param = "d_model"
sizes = [8, 12, 16]
[data]
plugin = "stdlib-text"
kwargs = { context = 32, heldout_windows = 64 }
[loss]
plugin = "cross-entropy"
[sweep]
design = "grid"
tokens_per_param = [2, 4, 8]
[training]
schedule = "wsd"
batch_tokens = 128
batch_reference_tokens = 2e4
[report]
bootstrap = 0
"""


def flops_fit(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "flops_fit", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_sweep_on_trunks_runs_them_in_order_and_spends_what_the_plan_says(tmp_path):
    (tmp_path / "m.toml").write_text(MANIFEST)
    plan = json.loads(flops_fit("plan", "m.toml", "--json", cwd=tmp_path).stdout)
    assert plan["total_flops"] < 0.75 * plan["separate_flops"]
    ended = flops_fit("run", "m.toml", "--workers", "2", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    entries = read_ledger(tmp_path / "runs/trunks/ledger.jsonl")
    trunk_of = {t["trial_id"]: t["trunk"]["trunk_id"] for t in plan["trials"]}
    running, spent = set(), 0.0
    for entry in entries:
        if entry.event == "trial_started":
            assert trunk_of[entry.trial_id] not in running
            running.add(trunk_of[entry.trial_id])
        elif entry.event == "trial_finished":
            running.remove(trunk_of[entry.trial_id])
            spent += entry.spent_flops
            assert entry.trunk.trunk_id == trunk_of[entry.trial_id]
    assert spent == pytest.approx(plan["total_flops"])
    assert not (tmp_path / "runs/trunks/trunks").exists()
