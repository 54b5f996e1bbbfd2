"""Lays out plans: sizes x budgets make trials, whose ids are hashes of their content.

An isoFLOP plan spends the same compute at several sizes and asks where the loss is least. Each
budget's grid is log-spaced around the expected optimum, the same relative grid at every budget,
since a grid that drifts against the optimum biases the exponent (Czech et al., arXiv:2603.22339).
The expected optimum is where a trial would see `tokens_per_param` units of data a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict

from flops_fit.errors import Note, PlanError
from flops_fit.manifest.files import STORED, from_plain
from flops_fit.manifest.frames import to_frame, to_html
from flops_fit.manifest.limits import LARGEST_COUNT
from flops_fit.manifest.rules import MIN_STEPS
from flops_fit.manifest.trials import Size, Trial
from flops_fit.units import format_count, format_flops

MIN_BUDGETS = 5  # Hoffmann et al. 2022 used 9; fewer leave the exponent to chance
MIN_DECADES = 1.5
MANY_EPOCHS = 4  # beyond it a repeated unit is worth less than a fresh one (arXiv:2305.16264)


BatchTokens = Callable[[Size, float], int]


@dataclass(frozen=True, repr=False)
class Plan:
    """The ordered trials of a sweep, with its warnings.

    Attributes:
        trials: in the order in which they are started.
        warnings: what the reader should know.
        has_curves: whether trials of one `budget_flops` form an isoFLOP curve; else it is only
            each trial's own compute.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    trials: tuple[Trial, ...]
    warnings: tuple[Note, ...] = ()
    has_curves: bool = True

    def __repr__(self) -> str:
        return f"<Plan: {self._summary()}>"

    def _repr_html_(self) -> str:
        """Return the plan as a notebook shows it."""
        headers = ("FLOPs", "size", "params", "units of data", "steps", "seed")
        rows = [
            (
                format_flops(trial.budget_flops),
                str(trial.size.size_value),
                format_count(trial.size.params),
                format_count(trial.tokens),
                f"{trial.steps:,}",
                str(trial.seed),
            )
            for trial in self.trials
        ]
        notes = [f"warning: {warning.message}" for warning in self.warnings]
        return to_html(f"Plan: {self._summary()}", headers, rows, notes)

    def _summary(self) -> str:
        """Return the number of trials, their FLOPs, and the number of warnings."""
        said = f"{len(self.trials)} trials, {format_flops(self.total_flops)} FLOPs"
        count = len(self.warnings)
        return said + (f", {count} warning{'s' if count > 1 else ''}" if count else "")

    def to_pandas(self) -> Any:
        """Return the trials as a pandas data frame, one row each.

        Raises:
            ManifestError: pandas is not installed.
        """
        return to_frame([trial.to_dict() for trial in self.trials])

    @property
    def total_flops(self) -> float:
        """FLOPs of all trials; shared trunks count once."""
        return math.fsum(trial.cost_flops for trial in self.trials)

    @property
    def separate_flops(self) -> float:
        """FLOPs of the same trials without shared trunks."""
        return math.fsum(trial.flops for trial in self.trials)

    @property
    def budgets(self) -> tuple[float, ...]:
        """The isoFLOP budgets, in FLOPs, ascending; without curves the largest trial's alone."""
        found = sorted({trial.budget_flops for trial in self.trials})
        return tuple(found if self.has_curves else found[-1:])

    def before(self, trial: Trial) -> list[Trial]:
        """Return the trials that may leave the trunk state from which this one continues."""
        start = 0 if trial.trunk is None else trial.trunk.shared_tokens
        return [
            mate
            for mate in self.trials
            if mate.trunk is not None
            and mate.trunk.shared_tokens < start
            and start in mate.trunk.kept_tokens
            and mate.trunk_id == trial.trunk_id
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data: what `plan --json` prints and `plan.json` holds."""
        return {
            "trials": [trial.to_dict() for trial in self.trials],
            "total_flops": self.total_flops,
            "separate_flops": self.separate_flops,
            "has_curves": self.has_curves,
            "warnings": [warning.to_dict() for warning in self.warnings],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_dict` made plain."""
        return from_plain(cls, data)


@dataclass(frozen=True)
class Level:
    """The plan of one isoFLOP curve.

    Attributes:
        budget_flops: the compute of each of its trials.
        num_sizes: points wanted.
        size_span: the sizes run from the expected optimum / span to it * span, in params.
        extra_seeds: how many more seeds the size nearest to the expected optimum is given.
    """

    budget_flops: float
    num_sizes: int
    size_span: float
    extra_seeds: int = 0


def plan_levels(
    sizes: Sequence[Size],
    levels: Sequence[Level],
    *,
    batch_tokens: BatchTokens,
    tokens_per_param: float = 20.0,
    seeds: Sequence[int] = (0,),
    unique_tokens: int | None = None,
) -> Plan:
    """Lay out isoFLOP curves, each with its own count and span of sizes, smallest budget first.

    Args:
        sizes: what the model can be built at; the nearest to the wanted grids are taken.
        levels: the curves wanted.
        batch_tokens: units of data in one optimiser step, of a size and the tokens it will see.
        tokens_per_param: where the optimum is expected; 20 is Hoffmann et al. 2022's.
        seeds: one trial for each seed; a level's extra seeds follow on the last.
        unique_tokens: units in the training set, to warn where they would be repeated.

    Raises:
        PlanError: no size, or none within reach of any budget's expected optimum.
    """
    ordered = sorted(sizes, key=lambda size: size.params)
    budgets = [level.budget_flops for level in levels]
    span = max((level.size_span for level in levels), default=1.0)
    _refuse_out_of_reach(ordered, budgets, tokens_per_param, span)
    trials: list[Trial] = []
    warnings = _warn_of_budgets(budgets)
    for level in sorted(levels, key=lambda level: level.budget_flops):
        budget = level.budget_flops
        fitting = [size for size in ordered if num_steps(size, budget, batch_tokens) >= MIN_STEPS]
        offsets = [offset(size, budget, tokens_per_param) for size in fitting]
        wanted = even_grid(level.num_sizes, math.log(level.size_span))
        picked = nearest(offsets, wanted)
        warnings += _warn_of_grid(budget, fitting, [offsets[i] for i in picked], wanted)
        central = min(picked, key=lambda i: abs(offsets[i]), default=None)
        for index in picked:
            more = level.extra_seeds if index == central else 0
            drawn = [*seeds, *range(seeds[-1] + 1, seeds[-1] + 1 + more)]
            trials += lay_trials(fitting[index], budget, batch_tokens, drawn)
    if not trials:
        raise OutOfReachError(
            _too_few_steps(ordered[0], max(budgets), batch_tokens),
            is_too_small=False,
            hint="add smaller sizes, raise the budgets, or make the batch smaller",
        )
    return Plan(tuple(trials), (*warnings, *warn_of_repeats(trials, unique_tokens)))


class OutOfReachError(PlanError):
    """The sizes do not fit the budgets.

    Attributes:
        is_too_small: whether the sizes are too small for the budgets, rather than too large.
        why: of which size and budget that is said.
    """

    def __init__(self, why: str, *, is_too_small: bool, hint: str) -> None:
        """Keep the reason apart, for a sweep sized by a total."""
        word = "small" if is_too_small else "large"
        super().__init__(
            f"`model.sizes` are all too {word} for the sweep's budgets: {why}", hint=hint
        )
        self.is_too_small, self.why = is_too_small, why


def num_steps(size: Size, budget: float, batch_tokens: BatchTokens) -> int:
    """Whole optimiser steps that the budget buys at this size."""
    tokens = budget / size.flops_per_token
    return round(tokens / batch_tokens(size, tokens))


def lay_trials(
    size: Size, budget: float, batch_tokens: BatchTokens, seeds: Sequence[int]
) -> list[Trial]:
    """Return one trial for each seed, its tokens rounded to whole steps.

    Raises:
        PlanError: more units of data than any file holds.
    """
    batch = batch_tokens(size, budget / size.flops_per_token)
    tokens = num_steps(size, budget, batch_tokens) * batch
    if tokens > LARGEST_COUNT:
        raise PlanError(
            f"{budget:g} FLOPs would train size {size.size_value:g} on {tokens:.3g} units of data: "
            f"at most {float(LARGEST_COUNT):g} are planned for",
            hint="lower the budgets, or check `flops_per_token`",
        )
    return [
        Trial.of(budget_flops=budget, size=size, tokens=tokens, batch_tokens=batch, seed=seed)
        for seed in seeds
    ]


def offset(size: Size, budget: float, tokens_per_param: float) -> float:
    """Return log(params / expected optimum's params) at this budget.

    At a fixed budget tokens per parameter fall with the square of params (as FLOPs per token are
    near proportional to params), so half the log of their ratio is the distance in log params.
    """
    ratio = budget / size.flops_per_token / size.params
    return 0.5 * math.log(tokens_per_param / ratio)


def even_grid(count: int, reach: float) -> list[float]:
    """Return `count` offsets evenly spaced over [-reach, reach]."""
    if count == 1:
        return [0.0]
    return [reach * (2 * i / (count - 1) - 1) for i in range(count)]


def nearest(offsets: Sequence[float], wanted: Sequence[float]) -> list[int]:
    """Return the indices of distinct `offsets` closest to `wanted`; both ascend.

    Least sum of squared distances, by dynamic programming over both lists; all of `offsets` where
    there are not more than are wanted.
    """
    if len(offsets) <= len(wanted):
        return list(range(len(offsets)))
    # cost[j]: least cost of the wanted so far, carried by offsets[:j]; taken[k][j]: whether the
    # last of them carries the k-th.
    cost = [0.0] * (len(offsets) + 1)
    taken: list[list[bool]] = []
    for target in wanted:
        following, own = [math.inf], [False]
        for j, offset in enumerate(offsets):
            with_it, without = cost[j] + (offset - target) ** 2, following[-1]
            # Of equal costs the earlier offsets win.
            own.append(with_it < without)
            following.append(min(without, with_it))
        cost = following
        taken.append(own)
    chosen, j = [], len(offsets)
    for own in reversed(taken):
        while not own[j]:
            j -= 1
        j -= 1
        chosen.append(j)
    return chosen[::-1]


def _refuse_out_of_reach(
    sizes: Sequence[Size], budgets: Sequence[float], tokens_per_param: float, size_span: float
) -> None:
    """Raise PlanError unless some size lies within the grid of some budget."""
    if not sizes:
        raise PlanError("there is no size to plan with", hint="list sizes in `model.sizes`")
    if not budgets:
        raise PlanError("there is no budget to plan for", hint="list FLOPs in `sweep.budgets`")
    reach = math.log(size_span) + 0.1
    offsets = [offset(size, c, tokens_per_param) for size in sizes for c in budgets]
    for side, size, budget in (
        ("large", sizes[0], max(budgets)),
        ("small", sizes[-1], min(budgets)),
    ):
        beyond = min(offsets) > reach if side == "large" else max(offsets) < -reach
        if beyond:
            ratio = budget / size.flops_per_token / size.params
            word = "smallest" if side == "large" else "largest"
            raise OutOfReachError(
                f"at {budget:g} FLOPs even the {word}, {size.size_value:g} with {size.params:,} "
                f"params, would see {ratio:.3g} tokens per parameter, while the optimum is "
                f"expected near {tokens_per_param:g}",
                is_too_small=side == "small",
                hint=f"add {'smaller' if side == 'large' else 'larger'} sizes, "
                f"{'raise' if side == 'large' else 'lower'} the budgets, or state where you expect "
                "the optimum with `sweep.tokens_per_param`",
            )


def _too_few_steps(size: Size, budget: float, batch_tokens: BatchTokens) -> str:
    """Return why even the smallest size cannot be trained at the largest budget."""
    steps = num_steps(size, budget, batch_tokens)
    return (
        f"{budget:g} FLOPs buy the smallest, "
        f"{size.size_value:g} with {size.params:,} params, {steps} optimiser steps, and at least "
        f"{MIN_STEPS} are needed to spend a budget to within 1 %"
    )


def _warn_of_budgets(budgets: Sequence[float]) -> list[Note]:
    """Warn of too few budgets, or budgets too close together, for a reliable exponent."""
    distinct = sorted(set(budgets))
    decades = math.log10(distinct[-1] / distinct[0])
    notes = []
    if len(distinct) < MIN_BUDGETS:
        notes.append(
            Note(
                "few_budgets",
                f"{len(distinct)} budgets: {MIN_BUDGETS} or more make an exponent credible",
            )
        )
    if decades < MIN_DECADES - 0.005:
        notes.append(
            Note(
                "narrow_budgets",
                f"the budgets span {decades:.1f} decades of compute: {MIN_DECADES:g} or more make "
                "an exponent credible",
            )
        )
    return notes


def _warn_of_grid(
    budget: float, fitting: Sequence[Size], picked: Sequence[float], wanted: Sequence[float]
) -> list[Note]:
    """Warn of sizes that a budget's grid lacks, and of grids on one side of the optimum."""
    notes = []
    spacing = wanted[1] - wanted[0] if len(wanted) > 1 else math.log(4.0)
    if len(picked) < len(wanted):
        notes.append(
            Note(
                "sizes_missing",
                f"{budget:g} FLOPs: {len(picked)} of {len(wanted)} sizes; no others can be trained "
                f"for {MIN_STEPS} steps or more",
            )
        )
    else:
        far = [w for w, p in zip(wanted, picked, strict=True) if abs(w - p) > spacing]
        if far and fitting:
            factors = ", ".join(f"{math.exp(w):.2g}" for w in far)
            notes.append(
                Note(
                    "sizes_missing",
                    f"{budget:g} FLOPs: no size near {factors} times the expected optimum's params",
                )
            )
    below = sum(offset < -0.05 for offset in picked)
    above = sum(offset > 0.05 for offset in picked)
    if picked and min(below, above) < 1:
        side = "above" if below == 0 else "below"
        notes.append(
            Note(
                "one_sided",
                f"{budget:g} FLOPs: every size is {side} the expected optimum, so the minimum may "
                "not be bracketed",
            )
        )
    return notes


def warn_of_repeats(trials: Sequence[Trial], unique_tokens: int | None) -> list[Note]:
    """Warn of trials that see the same data more than once."""
    if not unique_tokens:
        return []
    repeated = [trial for trial in trials if trial.tokens > unique_tokens]
    if not repeated:
        return []
    epochs = max(trial.tokens for trial in repeated) / unique_tokens
    judgement = (
        "the loss then measures repetition as well as size"
        if epochs > MANY_EPOCHS
        else f"up to about {MANY_EPOCHS} epochs cost little"
    )
    return [
        Note(
            "data_repeated" if epochs > MANY_EPOCHS else "data_seen_again",
            f"{len(repeated)} of {len(trials)} trials need more than the {unique_tokens:,} unique "
            f"units of training data, up to {epochs:.1f} epochs: {judgement}",
        )
    ]
