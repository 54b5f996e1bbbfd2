"""An adaptive sweep against the classical one, on planted laws whose centre nobody is told."""

import math

import numpy as np
import pytest
from planted import CHINCHILLA, LOPSIDED

from flops_fit.errors import FitError
from flops_fit.fitting.fit import fit
from flops_fit.manifest.trials import Size
from flops_fit.planning.adaptive.decide import decide
from flops_fit.planning.adaptive.terms import History, Run, Terms
from flops_fit.planning.plan import Level, plan_levels

TOP = 1e19
TARGET = 30 * TOP
GUESS = math.sqrt(TOP / 6 / 20)
COUNTS = [round(GUESS * 2 ** (k / 4)) for k in range(-70, 50)]
SIZES = tuple(Size(k, n, None, 6.0 * n) for k, n in enumerate(COUNTS))
SETS = 24


def adapt(goal, observe):
    terms = Terms(
        SIZES, lambda size, tokens: 1, tuple(TOP / 3**k for k in range(6)), TARGET, goal, 12 * TOP
    )  # fmt: skip
    history = History()
    while (decision := decide(terms, history)).action != "stop":
        history = history.after(decision, [observe(trial) for trial in decision.trials])
    return list(history.runs)


@pytest.mark.slow
@pytest.mark.parametrize("law", [CHINCHILLA, LOPSIDED])
def test_an_adaptive_sweep_needs_045_of_the_classical_flops_at_most(law):
    """For equal error of N at 30 times the top; both are read by the surface fit."""
    rng = np.random.default_rng(2)
    levels = [Level(TOP / 3**k, 7, 4.0) for k in range(5)]
    classical = plan_levels(SIZES, levels, batch_tokens=lambda size, tokens: 1).trials
    errors, costs = {"classical": [], "adaptive": []}, {"classical": [], "adaptive": []}
    for _ in range(SETS):
        shift = math.exp(math.log(2) * rng.standard_normal())
        truth = math.log(law.optimum(TARGET).params / shift)

        def observe(trial, shift=shift):
            loss = law.loss(trial.size.params * shift, trial.tokens / shift)
            return Run(trial, loss * math.exp(0.003 * rng.standard_normal()))

        swept = {"classical": [observe(trial) for trial in classical]}
        swept["adaptive"] = adapt(0.05 if law is CHINCHILLA else 0.08, observe)
        for name, runs in swept.items():
            costs[name].append(sum(run.trial.flops for run in runs))
            try:
                found = fit([run.observation for run in runs]).predict(TARGET)
            except FitError:
                errors[name].append(3.0)  # a sweep without a law is no success
            else:
                errors[name].append(math.log(found.params) - truth)
    needed = {name: np.mean(np.square(errors[name])) * np.mean(costs[name]) for name in errors}
    assert needed["adaptive"] <= 0.45 * needed["classical"]
