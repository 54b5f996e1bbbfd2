"""A batch passed in parts gives the loss of the whole, where a loss ignores some targets too."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from training_toys import (
    Mlp,
    Tagger,
    bare_cross_entropy,
    counted_cross_entropy,
    mse,
    padded,
    toy_data,
    toy_trial,
)
from trials_of_one_call import train
from two_processes import in_two_processes

from flops_fit.errors import PluginError
from flops_fit.experiment.checks.findings import DoubtfulError
from flops_fit.experiment.checks.parts import check_parts
from flops_fit.manifest.recipe import Recipe
from flops_fit.training.weights import units_of
from flops_fit.zoo.losses import cross_entropy

RECIPE = Recipe(learning_rate=1e-2, learning_rate_rule="constant")
DATA = toy_data(padded(192), padded(64, seed=1))


def outcome_of(tmp_path, loss, **changes):
    trial = toy_trial(steps=60, batch=16)
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    recipe = replace(RECIPE, **changes)
    return train(
        trial, build=Tagger, data=DATA, loss=loss, recipe=recipe, directory=folder, device="cpu"
    )


@pytest.mark.parametrize(
    "loss", [counted_cross_entropy, cross_entropy], ids=["with a count", "our own"]
)
def test_accumulation_and_evaluation_are_exact_where_the_loss_counts(tmp_path, loss):
    whole = outcome_of(tmp_path, loss)
    for changes in (
        {"micro_batch_examples": 4},
        {"micro_batch_examples": 1},
        {"heldout_batch": 7},
        {"heldout_batch": 1, "micro_batch_examples": 5},
    ):
        again = outcome_of(tmp_path, loss, **changes)
        assert again.loss == pytest.approx(whole.loss, abs=1e-5)
        assert again.details.inexact_parts is None


TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
from training_toys import *
from flops_fit.manifest.recipe import Recipe
from trials_of_one_call import train

out, losses = Path(sys.argv[1]), []
for micro in (None, 3):
    recipe = Recipe(learning_rate=1e-2, learning_rate_rule="constant", micro_batch_examples=micro)
    losses.append(train(
        toy_trial(steps=60, batch=16), build=Tagger, data=toy_data(padded(192), padded(64, seed=1)),
        loss=counted_cross_entropy, recipe=recipe, directory=out / f"{micro}", device="cpu",
    ).loss)
if os.environ["RANK"] == "0":
    (out / "losses.json").write_text(json.dumps(losses))
import torch.distributed
torch.distributed.destroy_process_group()
"""


def test_two_processes_give_the_loss_of_one_where_the_loss_counts(tmp_path):
    in_two_processes(TWO_PROCESSES, tmp_path)
    (tmp_path / "alone").mkdir()
    whole = outcome_of(tmp_path / "alone", counted_cross_entropy)
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert losses == pytest.approx([whole.loss] * 2, abs=1e-5)


def test_a_loss_that_says_nothing_of_what_it_ignores_is_noticed(tmp_path):
    whole = outcome_of(tmp_path, bare_cross_entropy)
    assert whole.details.inexact_parts is None  # nothing was passed in parts
    for changes in ({"micro_batch_examples": 4}, {"heldout_batch": 7}, {"heldout_batch": 1}):
        told = outcome_of(tmp_path, bare_cross_entropy, **changes)
        first, second = told.details.inexact_parts
        assert abs(first - second) > 1e-3


def test_parts_without_a_unit_that_counts_weigh_nothing(tmp_path):
    inputs, targets = padded(192).tensors
    targets = targets.clone()
    targets[::3] = -100
    data = toy_data(torch.utils.data.TensorDataset(inputs, targets), padded(64, seed=1))
    losses = []
    for micro in (None, 1):
        recipe = replace(RECIPE, micro_batch_examples=micro)
        folder = tmp_path / f"{micro}"
        losses.append(
            train(
                toy_trial(steps=40, batch=16), build=Tagger, data=data, loss=counted_cross_entropy,
                recipe=recipe, directory=folder, device="cpu",
            ).loss
        )  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_held_out_set_of_nothing_but_ignored_targets_is_named(tmp_path):
    empty = torch.utils.data.TensorDataset(padded(8).tensors[0], torch.full((8, 8), -100))
    with pytest.raises(PluginError, match="no unit that the loss counts"):
        train(
            toy_trial(), build=Tagger, data=toy_data(padded(32), empty), recipe=RECIPE,
            loss=counted_cross_entropy, directory=tmp_path, device="cpu",
        )  # fmt: skip


def test_the_check_names_a_loss_whose_parts_do_not_add_up():
    torch.manual_seed(0)
    model, batch = Tagger(8), tuple(padded(64).tensors)
    assert "by its parts" in check_parts(model, counted_cross_entropy, batch)
    with pytest.raises(DoubtfulError) as met:
        check_parts(model, bare_cross_entropy, batch)
    assert "count(targets)" in met.value.hint
    inputs = torch.randn(64, 4)
    assert "by its parts" in check_parts(Mlp(8), mse, (inputs, inputs[:, :1]))


def test_torchs_own_losses_need_no_count():
    targets = torch.tensor([0, 1, 2, 2, 4, 5])
    weight = torch.arange(1.0, 7.0)
    outputs = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=weight, ignore_index=2)):
        first, second = (units_of(loss, part) for part in (targets[:3], targets[3:]))
        parts = loss(outputs[:3], targets[:3]) * first + loss(outputs[3:], targets[3:]) * second
        assert (parts / (first + second)).item() == pytest.approx(loss(outputs, targets).item())
    assert units_of(nn.CrossEntropyLoss(), torch.rand(6, 6)) is None


def test_a_count_that_is_no_number_is_named():
    def odd(outputs, targets):
        return outputs.mean()

    odd.count = lambda targets: targets != -100
    with pytest.raises(PluginError, match="expected one number"):
        units_of(odd, torch.zeros(3))
