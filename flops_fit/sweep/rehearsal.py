"""A rehearsal: draws outcomes from a planted law instead of training."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from flops_fit.fitting.law import Surface
from flops_fit.fitting.points import TRUNK_CORRELATION
from flops_fit.manifest.trials import Details, Outcome, SharedTrunk, Status, Trial

PLANTED_NOISE = 0.003  # standard deviation of log loss, a usual seed-to-seed noise


def planted_law(largest_budget: float) -> Surface:
    """Return the true law of a rehearsal: a published law, moved to the sweep's scale.

    The law of Besiroglu et al. 2024 (arXiv:2404.10102, their refit of Hoffmann et al.'s runs),
    with N and D rescaled so that the sweep's largest budget corresponds to 1e21 FLOPs there. The
    exponents, E and the tokens per parameter stay the same.
    """
    scale = (1e21 / largest_budget) ** 0.5
    alpha, beta = 0.3478, 0.3658
    return Surface(1.8172, 482.01 * scale**-alpha, 2085.43 * scale**-beta, alpha, beta)


def simulate(trial: Trial, law: Surface) -> Outcome:
    """Draw an outcome from a planted law; the same trial always gets the same outcome."""
    noise = random.Random(trial.trial_id).gauss(0.0, PLANTED_NOISE)
    details = Details(simulated=True)
    if trial.trunk is not None:
        share = math.sqrt(TRUNK_CORRELATION)
        common = random.Random(trial.trunk_id).gauss(0.0, PLANTED_NOISE)
        noise = share * common + math.sqrt(1 - share**2) * noise
        shared, kept = trial.trunk.shared_tokens, trial.trunk.kept_tokens
        assert trial.trunk_id is not None
        later = tuple(tokens for tokens in kept if tokens > shared)
        trunk = SharedTrunk(trial.trunk_id, shared, later)
        details = replace(details, trunk=trunk, spent_flops=trial.cost_flops)
    loss = law.loss(trial.size.params, trial.tokens) * math.exp(noise)
    return Outcome(
        trial.trial_id,
        Status.FINISHED,
        loss,
        trial.tokens,
        trial.flops,
        0.0,
        details=details,
    )
