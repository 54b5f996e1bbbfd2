"""Evidence for or against an answer in the runs themselves; each finding is a broken rule.

- No signal: the loss does not fall with compute, or by less than its noise.
- Collinear design: tokens per param is almost constant, so alpha and beta cannot be told apart.
- Budgets that do not match: the runs of one budget lie off the law together, by much more than the
  runs of a budget differ among themselves.
- The worst fold: the combination missed a budget of this very table.
- An answer that is too uncertain to build on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median, pstdev

from flops_fit.errors import Note
from flops_fit.fitting.details import CombinationDetails
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Observation, Optimum
from flops_fit.reporting import rules
from flops_fit.reporting.tables.cells import format_value

_BINS = 8
_PER_BIN = 3
_MIN_RUNS = 4
_NORMAL = 1.4826  # standard deviation of a normal distribution over its MAD
_LAST_FOLDS = 3
_NEXT_DECADES = 0.75
_NEAR_TOP = 3.0  # compute of runs that count as of the largest budget
_LEAST_NEAR = 10  # or at least so many of the largest runs
_WIDTH = 1.1  # ratio of FLOPs within one budget


def against(
    fits: Mapping[str, Fit], observations: Sequence[Observation], predictions: Sequence[Optimum]
) -> Iterator[Note]:
    """Every rule that the runs break, the gravest first."""
    yield from signal(fits, observations)
    yield from collinear(observations)
    yield from unmatched_budgets(fits.get("surface"))
    yield from outside_sizes(fits.get("combination"), observations)
    yield from missed_budgets(fits.get("combination"))
    yield from uncertain(predictions)


def signal(fits: Mapping[str, Fit], observations: Sequence[Observation]) -> Iterator[Note]:
    """Check whether the best loss falls with compute by more than the noise of single runs."""
    runs = sorted(observations, key=lambda o: o.flops)
    bins = min(_BINS, len(runs) // _PER_BIN)
    if bins < 2 or runs[-1].flops < 1.5 * runs[0].flops:
        return
    edges = [len(runs) * k // bins for k in range(bins + 1)]
    groups = [runs[a:b] for a, b in pairwise(edges)]
    best = [
        (fmean(math.log(o.flops) for o in group), min(math.log(o.loss) for o in group))
        for group in groups
    ]
    slopes = [
        (y2 - y1) / (x2 - x1)
        for k, (x1, y1) in enumerate(best)
        for x2, y2 in best[k + 1 :]
        if x2 > x1
    ]
    if not slopes:
        return
    fall = -median(slopes) * (best[-1][0] - best[0][0])
    noise = _noise_of(fits, observations)
    if fall < 0 and -fall > noise:
        yield rules.LOSS_RISES.reason(
            f"the best loss rises by {math.expm1(-fall):.1%} over the range of compute; a loss "
            "falls, so this may be an accuracy, or two columns may be exchanged"
        )
    elif not rules.NO_SIGNAL.holds(fall / noise if noise > 0 else math.inf):
        change = f"falls by {-math.expm1(-fall):.1%}" if fall > 0 else "does not fall"
        yield rules.NO_SIGNAL.reason(
            f"the best loss {change} over the range of compute, and single runs differ by "
            f"{noise:.1%} (one standard deviation)"
        )


def _noise_of(fits: Mapping[str, Fit], observations: Sequence[Observation]) -> float:
    """Return the standard deviation of ln loss about the surface, or else about the mean."""
    surface = fits.get("surface")
    if surface is not None and surface.residuals:
        middle = median(surface.residuals)
        return _NORMAL * median(abs(r - middle) for r in surface.residuals)
    return pstdev(math.log(o.loss) for o in observations)


def collinear(observations: Sequence[Observation]) -> Iterator[Note]:
    """Check whether tokens per param vary enough to determine both exponents."""
    ratios = [math.log(o.tokens / o.params) for o in observations]
    spread = pstdev(ratios) if len(ratios) > 1 else 0.0
    if not rules.COLLINEAR_DESIGN.holds(spread):
        typical = format_value(math.exp(fmean(ratios)), "number")
        yield rules.COLLINEAR_DESIGN.reason(
            f"all runs have about {typical} tokens per param (standard deviation of the logarithm "
            f"{spread:.2f}), so the effects of params and tokens cannot be told apart"
        )


def unmatched_budgets(surface: Fit | None) -> Iterator[Note]:
    """Check whether the runs of a budget are off the surface as a group."""
    if surface is None or len(surface.residuals) != len(surface.used):
        return
    groups: list[tuple[float, list[float]]] = []
    spent = [o.budget_flops or o.flops for o in surface.used]
    pairs = sorted(zip(spent, surface.residuals, strict=True))
    for flops, residual in pairs:
        if groups and flops <= groups[-1][0] * _WIDTH:
            groups[-1][1].append(residual)
        else:
            groups.append((flops, [residual]))
    curves = [(flops, group) for flops, group in groups if len(group) >= _MIN_RUNS]
    steps = [high / low for (low, _), (high, _) in pairwise(groups)]
    are_apart = len(curves) >= 3 and min(steps) > _WIDTH**2
    if not are_apart or sum(len(group) for _, group in curves) < 0.8 * len(pairs):
        return
    middles = [(flops, median(group)) for flops, group in curves]
    within = [abs(r - m) for (_, m), (_, group) in zip(middles, curves, strict=True) for r in group]
    noise = _NORMAL * median(within)
    flops, worst = max(middles, key=lambda pair: abs(pair[1]))
    size = abs(worst) / noise if noise > 0 else math.inf
    if abs(worst) < rules.LEAST_SHIFT:
        return
    where = format_value(flops, "flops")
    message = (
        f"the runs at {where} FLOPs lie {abs(worst):.1%} {'above' if worst > 0 else 'below'} the "
        f"law together, {size:.1f} times what runs of one budget differ among themselves"
    )
    if not rules.BUDGETS_DO_NOT_MATCH.holds(size):
        yield rules.BUDGETS_DO_NOT_MATCH.reason(message)
    elif not rules.BUDGET_OFF_THE_LAW.holds(size):
        yield rules.BUDGET_OFF_THE_LAW.reason(message)


def outside_sizes(combination: Fit | None, observations: Sequence[Observation]) -> Iterator[Note]:
    """Check whether the best size at the largest budget is outside the sizes trained there."""
    if combination is None:
        return
    runs = sorted(observations, key=lambda o: o.flops, reverse=True)
    top = runs[0].flops
    near = sum(o.flops >= top / _NEAR_TOP for o in runs)
    sizes = [o.params for o in runs[: max(near, _LEAST_NEAR)]]
    best = combination.predict(top).params
    if min(sizes) <= best <= max(sizes):
        return
    low, high, found = (format_value(n, "count") for n in (min(sizes), max(sizes), best))
    yield rules.OUTSIDE_SIZES.reason(
        f"the best size at the largest budget, {found} params, lies outside the sizes that were "
        f"trained there, {low} to {high}"
    )


def missed_budgets(combination: Fit | None) -> Iterator[Note]:
    """Check whether the combination missed one of the table's own largest budgets."""
    details = None if combination is None else combination.details
    if not isinstance(details, CombinationDetails):
        return
    near = [e for e in details.own_errors if e.is_next and e.decades <= _NEXT_DECADES]
    for error in near[-_LAST_FOLDS:]:
        where = format_value(error.flops, "flops")
        if error.loss is not None and not rules.WORST_FOLD.holds(abs(error.loss)):
            yield rules.WORST_FOLD.reason(
                f"fitted to smaller budgets, the answer misses the loss at {where} FLOPs by "
                f"{abs(error.loss):.1%}"
            )
        room = math.log(rules.ANSWER_UNCERTAIN.most) + 2 * error.params_noise
        if error.params is not None and abs(error.params) > room:
            yield rules.WORST_FOLD.reason(
                f"fitted to smaller budgets, the answer misses the best size at {where} FLOPs by a "
                f"factor of {math.exp(abs(error.params)):.2f}"
            )


def uncertain(predictions: Sequence[Optimum]) -> Iterator[Note]:
    """Check whether the headline's intervals at the largest target are too wide."""
    ours = [o for o in predictions if o.method == "combination"]
    if not ours:
        return
    optimum = max(ours, key=lambda o: o.flops)
    where = format_value(optimum.flops, "flops")
    if optimum.params_interval is not None:
        low, high = optimum.params_interval
        factor = math.sqrt(high / low)
        if not rules.ANSWER_UNCERTAIN.holds(factor):
            yield rules.ANSWER_UNCERTAIN.reason(
                f"the best size at {where} FLOPs is uncertain by a factor of {factor:.2f} either "
                "way (95 %)"
            )
    if optimum.loss_interval is not None and optimum.loss is not None:
        low, high = optimum.loss_interval
        half = math.log(high / low) / 2
        if not rules.LOSS_UNCERTAIN.holds(half):
            yield rules.LOSS_UNCERTAIN.reason(
                f"the loss at {where} FLOPs is uncertain by {half:.1%} either way (95 %)"
            )
