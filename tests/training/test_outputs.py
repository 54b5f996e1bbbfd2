"""Models train with whatever they take and give: the loss sees it as it is."""

import architectures as people
import pytest
import torch
from torch import nn
from training_toys import toy_trial
from trials_of_one_call import train

from flops_fit.manifest.recipe import Recipe
from flops_fit.training.counting.params import counted
from flops_fit.training.data.batches import load_data

SEEN = []


class Pair(people.Lstm):
    """Takes a dict and gives a tuple."""

    def forward(self, inputs):
        return super().forward(inputs["tokens"])["logits"], {"extra": None}


class Examples(torch.utils.data.Dataset):
    def __init__(self, count, seed):
        self.rows = people.sequences(count, seed)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return {"inputs": {"tokens": row[:-1]}, "targets": {"next": row[1:], "weight": 1.0}}


def pair_loss(outputs, targets):
    SEEN.append((type(outputs).__name__, type(targets).__name__))
    assert targets["weight"].shape == outputs[0].shape[:1]
    return people.cross_entropy(outputs[0], targets["next"])


def logits_loss(outputs, targets):
    SEEN.append((type(outputs).__name__, type(targets).__name__))
    return nn.functional.cross_entropy(outputs.logits.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize(
    ("build", "data", "loss", "kinds"),
    [
        (people.llama, people.Text, logits_loss, ("CausalLMOutputWithPast", "Tensor")),
        (Pair, lambda: (Examples(256, 0), Examples(64, 1)), pair_loss, ("tuple", "dict")),
    ],
)
def test_a_loss_sees_outputs_and_targets_as_they_are(tmp_path, build, data, loss, kinds):
    SEEN.clear()
    outcome = train(
        toy_trial(width=16, steps=60, units=people.CONTEXT),
        build=counted(build),
        data=load_data(data(), seed=0, overrides={"units_per_example": people.CONTEXT}),
        loss=loss,
        recipe=Recipe(learning_rate=1e-2, batch_rule="fixed", precision="fp32"),
        directory=tmp_path,
        device="cpu",
        threads=1,
    )
    assert outcome.status == "finished"
    assert outcome.loss < 0.9 * torch.tensor(float(people.VOCAB)).log()
    assert set(SEEN) == {kinds}
