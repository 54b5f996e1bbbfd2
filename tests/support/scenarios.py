"""Planted tables, sound and unsound, with the true optimum at ten times the largest budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flops_fit.fitting.law import Surface

Row = tuple[float, float, float, float]  # params, tokens, flops, loss

LAWS = {
    "chinchilla": Surface(1.8172, 482.0, 2085.4, 0.3478, 0.3658),
    "data-hungry": Surface(1.5, 300.0, 3e4, 0.30, 0.45),
    "small": Surface(1.1, 170.0, 150.0, 0.55, 0.43),
}
TOPS = {"chinchilla": 3e19, "data-hungry": 3e20, "small": 3e13}


@dataclass(frozen=True)
class Scenario:
    """A table and what is true of it.

    Attributes:
        name: the scenario's name, with its law.
        is_sound: whether a credible study may look like this.
        columns: `params`, `tokens`, `flops` and `loss`, ready for `flops_fit.report`.
        target: the budget to answer for.
        params: the true optimal params there.
    """

    name: str
    is_sound: bool
    columns: dict[str, list[float]]
    target: float
    params: float


def isoflop(
    law: Surface,
    top: float,
    rng: np.random.Generator,
    *,
    budgets: int = 6,
    step: float = 3.0,
    sizes: int = 7,
    width: float = 4.0,
    noise: float = 0.003,
    offset: float = 1.0,
    drift: float = 1.0,
) -> list[Row]:
    """IsoFLOP curves about the law's optimum, times `offset`, drifting by `drift` a budget."""
    rows = []
    for k in range(budgets):
        flops = top / step ** (budgets - 1 - k)
        centre = law.optimum(flops).params * offset * drift**k
        for place in np.linspace(-1, 1, sizes):
            params = float(centre * width**place)
            tokens = flops / 6 / params
            rows.append((params, tokens, flops, _noisy(law.loss(params, tokens), noise, rng)))
    return rows


def grid(law: Surface, top: float, rng: np.random.Generator) -> list[Row]:
    """Every size at every number of tokens per param, compute as it comes."""
    best = law.optimum(top)
    rows = []
    for size in np.geomspace(best.params / 40, best.params, 8):
        for ratio in np.geomspace(0.25, 4, 6):
            params, tokens = float(size), float(size * best.tokens / best.params * ratio)
            loss = _noisy(law.loss(params, tokens), 0.003, rng)
            rows.append((params, tokens, 6 * params * tokens, loss))
    return rows


def _noisy(loss: float, noise: float, rng: np.random.Generator) -> float:
    return float(loss * math.exp(noise * rng.standard_normal()))


def _levels(rows: list[Row]) -> list[float]:
    return sorted({row[2] for row in rows})


def _scaled(rows: list[Row], factor: Callable[[Row], float]) -> list[Row]:
    return [(n, d, c, loss * factor((n, d, c, loss))) for n, d, c, loss in rows]


def _embedding(rows: list[Row], law: Surface, amount: float) -> list[Row]:
    """Small models lose more than the law says."""
    return _scaled(rows, lambda r: 1 + amount * (min(row[0] for row in rows) / r[0]) ** 0.5)


def _tapered(law: Surface, top: float, rng: np.random.Generator) -> list[Row]:
    """Few sizes at the top, more below."""
    rows = []
    for k, sizes in enumerate((7, 6, 5, 5, 5, 5)):
        level = top / 3 ** (5 - k)
        rows += isoflop(law, level, rng, budgets=1, sizes=sizes)
    return rows


SOUND: dict[str, Callable[[Surface, float, np.random.Generator], list[Row]]] = {
    "six budgets": isoflop,
    "nine budgets": lambda w, t, r: isoflop(w, t, r, budgets=9, step=2.5),
    "five budgets": lambda w, t, r: isoflop(w, t, r, budgets=5, step=4.0, sizes=9),
    "quiet": lambda w, t, r: isoflop(w, t, r, noise=0.001),
    "off centre": lambda w, t, r: isoflop(w, t, r, offset=1.5),
    "tapered": _tapered,
    "small models a little worse": lambda w, t, r: _embedding(isoflop(w, t, r, budgets=7), w, 0.01),
    "repeated": lambda w, t, r: [row for row in isoflop(w, t, r) for _ in range(2)],
}

UNSOUND: dict[str, Callable[[Surface, float, np.random.Generator], list[Row]]] = {
    "no signal": lambda w, t, r: [
        (n, d, c, _noisy(3.0, 0.01, r)) for n, d, c, _ in isoflop(w, t, r)
    ],
    "accuracy": lambda w, t, r: [(n, d, c, 1.2 / loss) for n, d, c, loss in isoflop(w, t, r)],
    "another tokenizer above": lambda w, t, r: (
        lambda rows: _scaled(rows, lambda x: 1.08 if x[2] > _levels(rows)[2] * 1.01 else 1.0)
    )(isoflop(w, t, r)),
    "top budget worse": lambda w, t, r: (
        lambda rows: _scaled(rows, lambda x: 1.03 if x[2] >= _levels(rows)[-1] else 1.0)
    )(isoflop(w, t, r)),
    "one ratio": lambda w, t, r: [
        (n, 20 * n, 120 * n * n, _noisy(w.loss(n, 20 * n), 0.003, r))
        for n in np.geomspace(1, 60, 30) * (t / 120) ** 0.5 / 60
    ],
    "three budgets": lambda w, t, r: isoflop(w, t, r, budgets=3),
    "narrow": lambda w, t, r: isoflop(w, t, r, step=1.4),
    "very noisy": lambda w, t, r: isoflop(w, t, r, noise=0.05),
    "all sizes too small": lambda w, t, r: isoflop(w, t, r, offset=0.1, width=2.0),
    "columns exchanged": lambda w, t, r: [(d, n, c, loss) for n, d, c, loss in isoflop(w, t, r)],
    "params in millions": lambda w, t, r: [
        (n / 1e6, d, c, loss) for n, d, c, loss in isoflop(w, t, r)
    ],
    "small models much worse": lambda w, t, r: _embedding(isoflop(w, t, r, budgets=7), w, 0.25),
}


def scenarios(seed: int) -> list[Scenario]:
    """Every scenario for every law, 60 in all, with one seed."""
    found = []
    for law_name, law in LAWS.items():
        for is_sound, makers in ((True, SOUND), (False, UNSOUND)):
            for name, make in makers.items():
                rng = np.random.default_rng([seed, len(found)])
                rows = make(law, TOPS[law_name], rng)
                n, d, c, loss = (list(map(float, column)) for column in zip(*rows, strict=True))
                target = 10 * max(c)
                found.append(
                    Scenario(
                        f"{name}, {law_name}",
                        is_sound,
                        {"params": n, "tokens": d, "flops": c, "loss": loss},
                        target,
                        law.optimum(target).params,
                    )
                )
    return found
