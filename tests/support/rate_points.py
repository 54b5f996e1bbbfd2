"""rate_points."""

from __future__ import annotations

import math
import random

from flops_fit.fitting.rates import RatePoint

SIZES = (16.0, 32.0, 128.0)


FACTORS = tuple(2.0**k for k in range(-2, 3))


SHAPES = {
    "constant": dict.fromkeys(SIZES, 1.0),
    "width": {size: 1 / size for size in SIZES},
}


def points(
    best=lambda size: 1.0, *, noise=0.0, seeds=1, curvature=0.03, factors=FACTORS, rates=1.0, seed=0
):
    """Losses on parabolas in log rate whose vertex lies at `best(size)` times the recipe's rate."""
    drawn = random.Random(seed)
    return [
        RatePoint(
            size, 12 * size**2, 1e5, factor, factor * rates, number,
            (3 - 0.2 * math.log(size))
            * math.exp(curvature * math.log(factor / best(size)) ** 2 + drawn.gauss(0, noise)
                       + 0.01 * number),
        )
        for size in SIZES for factor in factors for number in range(seeds)
    ]  # fmt: skip


def vars_of(point):
    return {name: getattr(point, name) for name in point.__dataclass_fields__}
