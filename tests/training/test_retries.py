"""A diverged trial is trained again with another seed, only where the recipe says so."""

import json
from dataclasses import replace

import pytest
import torch
from ledgers import entry
from training_toys import Mlp, mse, pairs, toy_data, toy_trial
from trials_of_one_call import train

from flops_fit.manifest.recipe import Recipe
from flops_fit.sweep.ledger import Ledger
from flops_fit.training.orders import Interrupted
from flops_fit.training.retries import seed_of_attempt

RECIPE = Recipe(learning_rate=1e-2, learning_rate_rule="constant")
TRIAL = toy_trial(steps=40, batch=8)
DATA = toy_data(pairs(100), pairs(50, seed=9))


class Fragile(Mlp):
    """Its loss turns to NaN for the trial's own seed, from the tenth step on."""

    def __init__(self, width):
        super().__init__(width)
        self.fate = torch.rand(()).item()
        self.calls = 0

    def forward(self, inputs):
        self.calls += self.training
        value = super().forward(inputs)
        return value * float("nan") if self.fate in BAD and self.calls > 10 else value


BAD: set[float] = set()


def fate_of(seed):
    """What `Fragile` draws when it is built for an attempt with this seed."""
    fates = []

    def build(width):
        fates.append(Fragile(width).fate)
        return Mlp(width)

    train_with(build, replace(TRIAL, seed=seed), RECIPE, None)
    return fates[0]


def train_with(build, trial, recipe, directory, **more):
    import tempfile
    from pathlib import Path

    folder = directory or Path(tempfile.mkdtemp())
    return train(
        trial, build=build, data=DATA, loss=mse, recipe=recipe, directory=folder, device="cpu",
        **more,
    )  # fmt: skip


@pytest.fixture
def unlucky():
    """The trial's own seed and its first retry diverge."""
    BAD.update(fate_of(seed_of_attempt(TRIAL.seed, attempt)) for attempt in (0, 1))
    yield
    BAD.clear()


def test_without_the_recipes_word_a_diverged_trial_stays_diverged(unlucky, tmp_path):
    outcome = train_with(Fragile, TRIAL, RECIPE, tmp_path)
    assert outcome.status == "diverged"
    assert not (tmp_path / "discarded.json").exists()


def test_a_retry_has_another_seed_and_the_outcome_says_what_was_discarded(unlucky, tmp_path):
    outcome = train_with(Fragile, TRIAL, replace(RECIPE, retries=3), tmp_path)
    third = seed_of_attempt(TRIAL.seed, 2)
    assert outcome.status == "finished"
    assert outcome.trial_id == TRIAL.trial_id
    assert outcome.details.seed == third
    assert [each.seed for each in outcome.details.discarded] == [
        TRIAL.seed, seed_of_attempt(TRIAL.seed, 1)
    ]  # fmt: skip
    assert all("training loss was nan" in each.error for each in outcome.details.discarded)
    assert outcome.details.spent_flops > outcome.flops == TRIAL.flops
    alone = train_with(Fragile, replace(TRIAL, seed=third), RECIPE, None)
    assert outcome.loss == alone.loss
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["loss"] == pytest.approx(outcome.loss)


def test_retries_end_and_the_last_word_is_that_it_diverged(unlucky, tmp_path):
    outcome = train_with(Fragile, TRIAL, replace(RECIPE, retries=1), tmp_path)
    assert outcome.status == "diverged"
    assert len(outcome.details.discarded) == 1


def test_a_trial_stopped_in_its_retry_goes_on_there(unlucky, tmp_path):
    recipe = replace(RECIPE, retries=3)
    whole = train_with(Fragile, TRIAL, recipe, tmp_path / "whole")
    asked = []

    def should_stop():
        asked.append(1)
        return (tmp_path / "stopped/discarded.json").exists() and len(asked) % 17 == 0

    with pytest.raises(Interrupted):
        train_with(Fragile, TRIAL, recipe, tmp_path / "stopped", should_stop=should_stop)
    outcome = train_with(Fragile, TRIAL, recipe, tmp_path / "stopped")
    assert outcome.loss == whole.loss
    assert len(outcome.details.discarded) == 2


def test_the_ledger_counts_what_was_really_spent(tmp_path):
    ledger = Ledger.open(tmp_path / "ledger.jsonl")
    ledger.append(
        entry(
            "trial_finished", "0" * 12, tokens=1, params=1, flops=10.0, spent_flops=14.0, loss=1.0
        )
    )
    assert ledger.state.spent_flops == 14.0
    ledger.close()


class Greedy(Mlp):
    """As a device with little memory: a pass of more than two examples does not fit."""

    def forward(self, inputs):
        if self.training and len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(inputs)


def test_a_batch_that_does_not_fit_is_passed_in_parts_and_stays_the_same_batch(tmp_path):
    whole = train_with(Mlp, TRIAL, RECIPE, tmp_path / "whole")
    parts = train_with(Greedy, TRIAL, RECIPE, tmp_path / "parts")
    assert parts.details.recipe["micro_batch_examples"] == 2
    assert parts.details.batch_tokens == whole.details.batch_tokens == 8
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.tokens == whole.tokens


def test_an_error_that_is_not_of_memory_is_not_tried_again(tmp_path):
    class Broken(Mlp):
        def forward(self, inputs):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train_with(Broken, TRIAL, RECIPE, tmp_path)
