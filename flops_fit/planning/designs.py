"""Lays out a [sweep]: isoFLOP curves, a ladder, a grid or fixed tokens, each sized to a total.

The ladder spends its compute where it narrows the extrapolated optimum most: three runs at the top
bracket the optimum where it matters, cheap levels below are wider and give the slope. Numbers of
runs and widths by level were found by simulation and on published sweeps, where this ladder gave
the accuracy of a 5 x 7 isoFLOP sweep with the same top budget at less than half its FLOPs
(`tests/benchmarks/planning_designs.py` shows it on planted laws).

Source: isoFLOP curves and the grid for a parametric fit: Hoffmann et al. 2022 (arXiv:2203.15556),
sections 3.2 and 3.3; fixed tokens: Kaplan et al. 2020 (arXiv:2001.08361), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flops_fit.errors import Note, PlanError
from flops_fit.manifest.rules import MIN_STEPS
from flops_fit.manifest.sweep_section import SweepSection, refuse_too_many
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.plan import (
    BatchTokens,
    Level,
    OutOfReachError,
    Plan,
    even_grid,
    lay_trials,
    nearest,
    num_steps,
    plan_levels,
    warn_of_repeats,
)

TAPER = ((3, 3.0), (3, 4.0), (4, 4.0), (5, 6.0), (6, 8.0), (7, 8.0))
"""Sizes, and their span in params about the expected optimum, from the top level down."""
EXTRA_SEEDS = 2  # at one cell of the cheapest level: three seeds show the noise
DEFAULT_BUDGETS = tuple(3.0**-k for k in range(4, -1, -1))
_SOME_SIZES = 6
_CLOSE_ENOUGH = 0.99  # of the total that was asked for
_SAME_TOP = 1.0005  # top budgets so near to one another are not told apart
_ROUNDS = 40


@dataclass(frozen=True)
class Ground:
    """The sizes, units and limits that every design uses.

    Attributes:
        sizes: what the model can be built at.
        batch_tokens: units of data in one optimiser step, of a size and the tokens it will see.
        seeds: one trial for each seed.
        unique_tokens: units in the training set, to warn where they would be repeated.
        share_trunks: puts trials of one size and seed on a trunk; None: the recipe shares none.
    """

    sizes: Sequence[Size]
    batch_tokens: BatchTokens
    seeds: Sequence[int] = (0,)
    unique_tokens: int | None = None
    share_trunks: Callable[[Sequence[Trial]], Sequence[Trial]] | None = None


def lay_out(sweep: SweepSection, ground: Ground) -> Plan:
    """Return the plan of a manifest's [sweep], its trials on trunks if the recipe shares them.

    Raises:
        PlanError: the sizes do not fit the compute, or no plan costs as little as is asked for.
    """
    if sweep.design == "grid":
        return _by_sizes(sweep, ground, _grid)
    if sweep.design == "fixed-tokens":
        return _by_sizes(sweep, ground, _fixed_tokens)
    levels = _ladder if sweep.design == "ladder" else _isoflop

    def lay(top_flops: float) -> Plan:
        plan = plan_levels(
            ground.sizes,
            levels(sweep, top_flops),
            batch_tokens=ground.batch_tokens,
            tokens_per_param=sweep.expected_ratio,
            seeds=ground.seeds,
            unique_tokens=ground.unique_tokens,
        )
        return _shared(plan, ground)

    if sweep.total_flops is None:
        return lay(sweep.top_flops or max(sweep.budgets or ()))
    return _sized(lay, sweep.total_flops, guess=sweep.total_flops / 4.8)


def _shared(plan: Plan, ground: Ground) -> Plan:
    """Return the plan with its trials on trunks, if the recipe shares them."""
    if ground.share_trunks is None:
        return plan
    return replace(plan, trials=tuple(ground.share_trunks(plan.trials)))


def ladder_levels(
    top_flops: float, *, num_levels: int = 6, spacing: float = 3.0, extra_seeds: int = EXTRA_SEEDS
) -> list[Level]:
    """Return the tapered ladder below a top budget, the top first."""
    levels = []
    for k in range(num_levels):
        count, span = TAPER[min(k, len(TAPER) - 1)]
        levels.append(Level(_rounded(top_flops / spacing**k), count, span))
    return [*levels[:-1], replace(levels[-1], extra_seeds=extra_seeds)]


def _ladder(sweep: SweepSection, top_flops: float) -> list[Level]:
    """Return the ladder of the manifest."""
    extra = max(0, EXTRA_SEEDS + 1 - sweep.replicates)
    return ladder_levels(
        top_flops, num_levels=sweep.levels, spacing=sweep.level_spacing, extra_seeds=extra
    )


def _isoflop(sweep: SweepSection, top_flops: float) -> list[Level]:
    """Return the stated budgets, or five of them a factor of three apart, moved to this top."""
    stated = sweep.budgets or DEFAULT_BUDGETS
    if sweep.total_flops is not None:
        # Budgets within a rounding of one another are one.
        stated = sorted({_rounded(top_flops / max(stated) * budget) for budget in stated})
    return [Level(budget, sweep.sizes_per_budget, sweep.size_span) for budget in stated]


def _rounded(flops: float) -> float:
    """Return a budget rounded to three significant digits."""
    return float(f"{flops:.2e}")


def _sized(lay: Callable[[float], Plan], total_flops: float, *, guess: float) -> Plan:
    """Return the largest plan found that costs no more than `total_flops`, within a percent.

    The cost is near proportional to the top budget, with steps where a size comes in or leaves.
    A top beyond every size's reach counts as too dear: lower ones may spend the total.

    Raises:
        PlanError: no plan costs so little, or none can use so much.
    """
    best: Plan | None = None
    low, high, top, cheapest = 0.0, math.inf, guess, math.inf
    # What is wrong with plans at `low` and at `high`, apart from their cost.
    below: OutOfReachError | None = None
    beyond: OutOfReachError | None = None
    for _ in range(_ROUNDS):
        met = None
        try:
            plan = lay(top)
        except OutOfReachError as caught:
            met, cost = caught, math.inf if caught.is_too_small else 0.0
        else:
            cost = plan.total_flops
            cheapest = min(cheapest, cost)
            if cost <= total_flops and (best is None or cost > best.total_flops):
                best = plan
        if cost > total_flops:
            high, beyond = top, met
        else:
            low, below = top, met
        if best is not None and best.total_flops >= _CLOSE_ENOUGH * total_flops:
            return best
        if low and high / low < _SAME_TOP:
            break
        top = _next_top(top, total_flops / cost if cost else math.inf, low, high)
    if beyond is not None and below is None:
        raise _too_much(total_flops, beyond, best)
    if best is None:
        raise _too_little(total_flops, below, cheapest)
    return best


def _next_top(top: float, share: float, low: float, high: float) -> float:
    """Return the top budget to try after `top`, which is now one of the bounds.

    Args:
        top: the last one tried.
        share: the total over its plan's cost: 0 beyond every size's reach, infinite below it.
        low: the highest top known to be too low.
        high: the lowest one known to be too high.
    """
    aimed = top * 0.999 * share if 0 < share < math.inf else 2.0 * top
    if low < aimed < high:
        return aimed
    if low and high < math.inf:
        return math.sqrt(low * high)
    return 2.0 * top if high == math.inf else 0.5 * top


def _too_much(total_flops: float, met: OutOfReachError, most: Plan | None) -> PlanError:
    """Return the error for a total that pays for budgets beyond every size."""
    to = "" if most is None else f" to {_rounded(most.total_flops):g}"
    return PlanError(
        f"a total of {total_flops:g} FLOPs is more than `model.sizes` can use; already the "
        f"smallest of its budgets is too large: {met.why}",
        hint=f"add larger sizes, lower the total{to}, or state where you expect the optimum with "
        "`sweep.tokens_per_param`",
    )


def _too_little(total_flops: float, met: OutOfReachError | None, cheapest: float) -> PlanError:
    """Return the error for a total below the cost of every plan."""
    known = f"the cheapest found costs {cheapest:.3g}" if met is None else met.why
    return PlanError(
        f"no plan of this design costs as little as {total_flops:g} FLOPs: {known}",
        hint="raise the total, add smaller sizes, or make the batch smaller",
    )


def _by_sizes(
    sweep: SweepSection, ground: Ground, lay: Callable[[SweepSection, Ground, Sequence[Size]], Plan]
) -> Plan:
    """Return a plan of sizes up to the stated largest, or up to the largest that the total affords.

    Raises:
        PlanError: there is no size, too few are left, or no choice of sizes is cheap enough.
    """
    ordered = sorted(ground.sizes, key=lambda size: size.params)
    if not ordered:
        raise PlanError("there is no size to plan with", hint="list sizes in `model.sizes`")
    if sweep.measure is None:
        chosen = ordered if sweep.num_sizes is None else _spread(sweep, ordered, ordered[-1].params)
        return lay(sweep, ground, chosen)
    if sweep.largest_params is not None:
        chosen = _spread(sweep, ordered, sweep.largest_params)
        if not chosen:
            raise _none_within(sweep.largest_params, sweep.size_range, ordered)
        return lay(sweep, ground, chosen)
    assert sweep.total_flops is not None
    cheapest = math.inf
    for largest in reversed(ordered):
        chosen = _spread(sweep, ordered, largest.params)
        if len(chosen) < 3:
            continue
        plan = lay(sweep, ground, chosen)
        cheapest = min(cheapest, plan.total_flops)
        if plan.total_flops <= sweep.total_flops:
            return plan
    raise PlanError(
        f"no three sizes of `model.sizes` make a `{sweep.design}` sweep for {sweep.total_flops:g} "
        f"FLOPs; the cheapest costs {cheapest:.3g}",
        hint="raise the total, add smaller sizes, or ask for fewer tokens",
    )


def _none_within(largest: float, size_range: float, ordered: Sequence[Size]) -> PlanError:
    """Return the error for sizes that are all too small for the sweep."""
    least, most = ordered[0].params, ordered[-1].params
    side, end = ("smaller", "smallest") if largest < least else ("larger", "largest")
    return PlanError(
        f"no size is within `sweep.largest_params` = {largest:,.0f} and a `sweep.size_range` of "
        f"{size_range:g} below it: `model.sizes` have {least:,} to {most:,} params",
        hint=f"add {side} sizes, or set `largest_params` near the {end} size's params",
    )


def _spread(sweep: SweepSection, ordered: Sequence[Size], largest: float) -> list[Size]:
    """Sizes log-evenly over `size_range` up to `largest` params, the nearest that can be built."""
    reach = math.log(sweep.size_range)
    logs = [math.log(size.params / largest) for size in ordered]
    inside = [k for k, x in enumerate(logs) if -1.1 * reach < x < 0.05]
    wanted = [x - reach / 2 for x in even_grid(sweep.num_sizes or _SOME_SIZES, reach / 2)]
    return [ordered[inside[k]] for k in nearest([logs[k] for k in inside], wanted)]


def _grid(sweep: SweepSection, ground: Ground, sizes: Sequence[Size]) -> Plan:
    """Return every size at every number of tokens per parameter."""
    cells = [(size, ratio * size.params) for size in sizes for ratio in sorted(sweep.ratios)]
    return _cells(ground, cells)


def _fixed_tokens(sweep: SweepSection, ground: Ground, sizes: Sequence[Size]) -> Plan:
    """Return every size at every number of tokens."""
    horizons = sorted(set(sweep.tokens or ()))
    plan = _cells(ground, [(size, tokens) for size in sizes for tokens in horizons])
    if len(horizons) > 2:
        return plan
    code, numbers = (
        ("one_horizon", "one number of tokens shows")
        if len(horizons) == 1
        else ("two_horizons", "two numbers of tokens show")
    )
    note = Note(
        code,
        f"{numbers} how the loss falls with params (Kaplan's L(N)), not which size "
        "is compute-optimal: give `tokens` three values or more for that",
    )
    return replace(plan, warnings=(note, *plan.warnings))


def _cells(ground: Ground, cells: Sequence[tuple[Size, float]]) -> Plan:
    """Return a trial for each size and its tokens, the cheapest first.

    Raises:
        PlanError: no cell has enough optimiser steps.
    """
    trials, short = [], 0
    try:
        refuse_too_many((len(cells), "cells"), (len(ground.seeds), "replicates"))
    except ValueError as error:
        raise PlanError(str(error), hint="ask for fewer sizes, tokens or replicates") from None
    for size, tokens in sorted(cells, key=lambda cell: cell[0].flops_per_token * cell[1]):
        flops = size.flops_per_token * tokens
        if num_steps(size, flops, ground.batch_tokens) < MIN_STEPS:
            short += 1
            continue
        whole = lay_trials(size, flops, ground.batch_tokens, ground.seeds)[0].flops
        trials += lay_trials(size, whole, ground.batch_tokens, ground.seeds)
    if not trials:
        raise PlanError(
            f"none of the {len(cells)} cells is trained for {MIN_STEPS} optimiser steps or more",
            hint="ask for more tokens, or make the batch smaller",
        )
    notes = warn_of_repeats(trials, ground.unique_tokens)
    if short:
        said = f"{short} of {len(cells)} cells are left out: fewer than {MIN_STEPS} optimiser steps"
        notes = [Note("sizes_missing", said), *notes]
    return _shared(Plan(tuple(trials), tuple(notes), has_curves=False), ground)
