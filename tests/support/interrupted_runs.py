"""interrupted_runs."""

from __future__ import annotations

from training_toys import Mlp, mse, pairs, toy_data, toy_trial
from trials_of_one_call import train

from flops_fit.manifest.recipe import Recipe

RECIPE = Recipe(learning_rate=1e-2, learning_rate_rule="constant")


def build(width):
    return Mlp(width, dropout=0.3)


def run(directory, train_set, *, stop_after=None, recipe=RECIPE, **more):
    """Train; stop after so many calls of `should_stop`, each of which is a step."""
    asked = []

    def should_stop():
        asked.append(1)
        return stop_after is not None and len(asked) > stop_after

    return train(
        toy_trial(steps=40, batch=8),
        build=build,
        data=toy_data(train_set, pairs(300, seed=9)),
        loss=mse,
        recipe=recipe,
        directory=directory,
        device="cpu",
        should_stop=should_stop,
        **more,
    )
