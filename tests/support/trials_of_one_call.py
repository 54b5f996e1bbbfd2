"""One call that trains or times a trial, from its parts by name."""

from flops_fit.training import loop
from flops_fit.training.measuring import timing
from flops_fit.training.orders import Controls, Ingredients, TrialFiles


def train(trial, *, build, data, loss, recipe, directory, trunk=None, **controls):
    return loop.train(
        trial, Ingredients(build, data, loss, recipe), TrialFiles(directory, trunk),
        Controls(**controls),
    )  # fmt: skip


def time_size(trial, *, build, data, loss, recipe, **more):
    return timing.time_size(trial, Ingredients(build, data, loss, recipe), **more)
