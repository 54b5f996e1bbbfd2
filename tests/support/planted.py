"""Planted laws and the noise of real sweeps: data sets whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flops_fit.fitting.curves import group_curves
from flops_fit.fitting.isoflop import fit_isoflop
from flops_fit.fitting.law import Surface
from flops_fit.fitting.points import Observation
from flops_fit.fitting.surface import solve_surface

CHINCHILLA = Surface(1.8172, 477.83, 2143.4, 0.3473, 0.3672)
LOPSIDED = Surface(1.8, 2500.0, 42.0, 0.465, 0.155)  # alpha three times beta
BUDGETS = (1e18, 1e20)
TARGET = 1e22  # 100 times the largest budget

Noise = Callable[[np.random.Generator, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Scenario:
    """How data sets are drawn.

    Attributes:
        law: the truth.
        num_budgets, num_sizes, width: the isoFLOP grid, sizes from 1/width to width times the
            optimum.
        offset, drift: the grid's centre over the optimum at the first budget, and what it is
            multiplied with until the last.
        noise: (generator, flops, params, place of the size) -> log noise.
        diverged: share of runs whose loss is 0.1 to 1 too high.
        shares_sizes: all budgets draw from one ladder of sizes, so that sizes recur.
    """

    law: Surface = CHINCHILLA
    num_budgets: int = 5
    num_sizes: int = 7
    width: float = 4.0
    offset: float = 1.0
    drift: float = 1.0
    noise: Noise = lambda draw, flops, params, place: 0.003 * draw.standard_normal(len(flops))
    diverged: float = 0.0
    shares_sizes: bool = False


def gauss(sd: float) -> Noise:
    return lambda draw, flops, params, place: sd * draw.standard_normal(len(flops))


def student(sd: float) -> Noise:
    return lambda draw, flops, params, place: sd * draw.standard_t(3, len(flops)) / math.sqrt(3)


def shrinking(sd: float) -> Noise:
    """Four times larger at the smallest budget than at the largest."""

    def noise(draw, flops, params, place):
        share = np.log(flops / flops.min()) / np.log(flops.max() / flops.min())
        return sd * 4.0 ** (1 - share) * draw.standard_normal(len(flops))

    return noise


def by_size(shared: float, own: float) -> Noise:
    """Each size has an effect of its own beside each run's noise."""

    def noise(draw, flops, params, place):
        effects = shared * draw.standard_normal(place.max() + 1)
        return effects[place] + own * draw.standard_normal(len(flops))

    return noise


@dataclass(frozen=True)
class Branches:
    """Sizes on a trunk each, with branches at several horizons about 20 tokens per parameter."""

    num_sizes: int
    num_horizons: int
    law: Surface = CHINCHILLA
    correlation: float = 0.9
    sd: float = 0.003
    seeds: int = 1

    def draw(self, seed: int) -> list[Observation]:
        """One data set, whose largest run spends the largest budget."""
        rng = np.random.default_rng(seed)
        largest = math.sqrt(BUDGETS[1] / 6 / 80)
        runs = []
        for n in np.geomspace(largest / 30, largest, self.num_sizes):
            for trunk in range(self.seeds):
                common = math.sqrt(self.correlation) * rng.standard_normal()
                for d in 20 * n * np.geomspace(0.25, 4, self.num_horizons):
                    own = math.sqrt(1 - self.correlation) * rng.standard_normal()
                    loss = self.law.loss(n, d) * math.exp(self.sd * (common + own))
                    runs.append(
                        Observation(
                            n, d, 6 * n * d, loss, name=f"run {len(runs)}", run=f"{n:g}, {trunk}"
                        )
                    )
        return runs


TRUNKS = {
    "trunks: 4 sizes x 4": Branches(4, 4),
    "trunks: 5 sizes x 3": Branches(5, 3),
    "trunks: 6 sizes x 5": Branches(6, 5),
    "trunks: 8 sizes x 5": Branches(8, 5),
    "trunks: 6 x 5, two seeds": Branches(6, 5, seeds=2),
    "trunks: 6 x 5, correlation .5": Branches(6, 5, correlation=0.5),
    "trunks: 6 x 5, correlation 0": Branches(6, 5, correlation=0.0),
    "trunks: 6 x 5, lopsided truth": Branches(6, 5, law=LOPSIDED),
}

COVERAGE = {
    "Gauss .003": Scenario(),
    "Gauss .01": Scenario(noise=gauss(0.01)),
    "drift to 3x": Scenario(drift=3.0),
    "t3 noise": Scenario(noise=student(0.003)),
    "noise 4x at small C": Scenario(noise=shrinking(0.003)),
    "4 x 5 runs": Scenario(num_budgets=4, num_sizes=5),
    "5% diverged": Scenario(diverged=0.05),
    "9 x 14 runs": Scenario(num_budgets=9, num_sizes=14),
    "9 x 14, 5% diverged": Scenario(num_budgets=9, num_sizes=14, diverged=0.05),
    "lopsided truth": Scenario(law=LOPSIDED),
    "size effect, 5 x 7": Scenario(noise=by_size(0.003, 0.0015), shares_sizes=True),
    "size effect, 9 x 14": Scenario(
        num_budgets=9, num_sizes=14, noise=by_size(0.003, 0.0015), shares_sizes=True
    ),
    "shared sizes, Gauss .003": Scenario(shares_sizes=True),
}

OUTLIERS = {
    "5 x 7, sd .003": Scenario(diverged=0.05),
    "5 x 7, sd .01": Scenario(noise=gauss(0.01), diverged=0.05),
    "9 x 14, sd .003": Scenario(num_budgets=9, num_sizes=14, diverged=0.05),
    "9 x 14, sd .01": Scenario(num_budgets=9, num_sizes=14, noise=gauss(0.01), diverged=0.05),
    "5 x 7, t3": Scenario(noise=student(0.003), diverged=0.05),
}


def draw(scenario: Scenario, seed: int) -> tuple[list[Observation], set[str]]:
    """One data set and the names of its diverged runs."""
    rng = np.random.default_rng(seed)
    law, flops, params = scenario.law, [], []
    budgets = np.geomspace(*BUDGETS, scenario.num_budgets)
    steps = np.geomspace(1 / scenario.width, scenario.width, scenario.num_sizes)
    ratio = steps[1] / steps[0]
    for k, budget in enumerate(budgets):
        drift = scenario.drift ** (k / (scenario.num_budgets - 1))
        centre = law.optimum(budget).params * scenario.offset * drift
        if scenario.shares_sizes:
            rung = round(math.log(centre / 1e8) / math.log(ratio))
            centre = 1e8 * ratio**rung
        flops += [budget] * len(steps)
        params += list(centre * steps)
    c, n = np.array(flops), np.array(params)
    place = np.unique(np.round(np.log(n) / math.log(ratio), 6), return_inverse=True)[1]
    if scenario.shares_sizes:
        n = np.exp(np.array([np.log(n[place == p]).mean() for p in place]))
    log_loss = np.log([law.loss(a, b) for a, b in zip(n, c / 6 / n, strict=True)])
    log_loss = log_loss + scenario.noise(rng, c, n, place)
    bad = rng.random(len(c)) < scenario.diverged
    loss = np.exp(log_loss) + np.where(bad, rng.uniform(0.1, 1.0, len(c)), 0.0)
    runs = [
        Observation(
            float(n[i]),
            float(c[i] / 6 / n[i]),
            float(c[i]),
            float(loss[i]),
            float(c[i]),
            f"run {i}",
        )
        for i in range(len(c))
    ]
    return runs, {f"run {i}" for i in np.flatnonzero(bad)}


def grid(law=CHINCHILLA, *, sd: float = 0.0, seed: int = 0, **shape) -> list[Observation]:
    """IsoFLOP runs about a law's optimum; `shape` as for Scenario."""
    runs, _ = draw(Scenario(law=law, noise=gauss(sd), **shape), seed)
    return runs


def rates(scenario: Scenario, num_sets: int) -> tuple[float, float]:
    """Recall, and the share of sound runs that are flagged, over many data sets."""
    found = planted = blamed = sound = 0
    for seed in range(num_sets):
        runs, bad = draw(scenario, seed)
        flagged = {e.name for e in solve_surface(runs).outliers}
        found += len(flagged & bad)
        planted += len(bad)
        blamed += len(flagged - bad)
        sound += len(runs) - len(bad)
    return found / planted, blamed / sound


GRIDS = {
    "centred": {},
    "offset 3x": {"offset": 3.0},
    "drift to 3x": {"drift": 3.0},
}


LAWS = {"chinchilla": CHINCHILLA, "lopsided": LOPSIDED}


def bias(scenario: Scenario, interpolation: str) -> tuple[float, float]:
    """Error of a, and of ln N_opt at 100 times the largest budget."""
    runs, _ = draw(scenario, 0)
    found = fit_isoflop(group_curves(runs), runs, interpolation=interpolation)
    law = scenario.law
    a = law.beta / (law.alpha + law.beta)
    away = math.log(found.predict(TARGET).params / law.optimum(TARGET).params)
    return found.exponents["params"] - a, away
