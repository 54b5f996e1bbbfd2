"""Every attempt and every trial begins with the memory that the ones before it had."""

import weakref
from dataclasses import replace

import pytest
import torch
from training_toys import Mlp, mse, toy_data, toy_trial
from trials_of_one_call import time_size, train

from flops_fit import counted
from flops_fit.manifest.recipe import Recipe


class Watched:
    """Builds models, and counts at each build which of the earlier ones are still alive."""

    def __init__(self, *, out_of_memory_at=(), make=Mlp):
        self.out_of_memory_at, self.make = out_of_memory_at, make
        self.models, self.alive = [], []
        self.passes = 0

    def __call__(self, width):
        self.alive.append(sum(model() is not None for model in self.models))
        model = self.make(width)
        self.models.append(weakref.ref(model))
        return model

    def loss(self, outputs, targets):
        """Runs out of memory where gradients are held: in later passes of a step."""
        self.passes += torch.is_grad_enabled()
        if torch.is_grad_enabled() and self.passes in self.out_of_memory_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return mse(outputs.float(), targets)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_smaller_passes_begin_without_the_model_that_ran_out_of_memory(tmp_path, precision):
    watched = Watched(out_of_memory_at=(2, 4))
    recipe = Recipe(micro_batch_examples=8, precision=precision)
    outcome = train(
        toy_trial(batch=16), build=watched, data=toy_data(), loss=watched.loss, recipe=recipe,
        directory=tmp_path, device="cpu",
    )  # fmt: skip
    assert outcome.status == "finished"
    assert outcome.details.recipe["micro_batch_examples"] == 2
    assert watched.alive == [0, 0, 0]


def test_a_timing_that_ran_out_of_memory_begins_again_without_its_model():
    watched = Watched(out_of_memory_at=(2, 4))
    time_size(
        toy_trial(batch=16), build=watched, data=toy_data(), loss=watched.loss,
        recipe=Recipe(micro_batch_examples=8), device="cpu", seconds=0.01,
    )  # fmt: skip
    assert watched.alive == [0, 0, 0]


@pytest.mark.parametrize("kind", ["mixed precision", "counted"])
def test_a_trial_begins_without_the_models_of_the_trials_before_it(tmp_path, kind):
    # Either makes a model refer to itself, so that only a collection frees it.
    plain = torch.nn.Sequential
    make = counted(lambda width: plain(torch.nn.Linear(4, width), torch.nn.Linear(width, 1)))
    watched = Watched(make=make if kind == "counted" else Mlp)
    recipe = Recipe(precision="bf16" if kind == "mixed precision" else "fp32")
    for seed in range(3):
        trial = replace(toy_trial(), seed=seed)
        train(
            trial, build=watched, data=toy_data(), loss=watched.loss, recipe=recipe,
            directory=tmp_path / str(seed), device="cpu",
        )  # fmt: skip
    assert watched.alive == [0, 0, 0]
