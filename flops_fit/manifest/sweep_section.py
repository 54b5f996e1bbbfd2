"""[sweep] as written: design, size and goal, and the rules of each design.

    isoflop       sizes at each of some budgets: `budgets`, or `total_flops` for five of them
                  (both: the budgets keep their ratios, and the whole costs `total_flops`)
    ladder        a tapered isoFLOP design: few runs at the top, more and wider below
    grid          sizes x tokens per parameter
    fixed-tokens  sizes x numbers of tokens

Every design is sized by what it may cost in all (`total_flops`), or by its own measure: the
budgets, the top of the ladder (`top_flops`), the largest size (`largest_params`).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from flops_fit.manifest.limits import (
    MAX_BUDGETS,
    MAX_PER_BUDGET,
    MAX_SIZES,
    MAX_TRIALS,
    Flops,
)
from flops_fit.units import parse_number


def _distinct(values: list[float]) -> list[float]:
    """Refuse repeated values, since their trials would be the same."""
    seen: set[float] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{value:g} is stated twice; for more seeds use `sweep.replicates`")
        seen.add(value)
    return values


def _one_or_more(value: object) -> float | list[float]:
    """Return a positive number, or a list of them."""
    if isinstance(value, list):
        if not value:
            raise ValueError("expected a number, or a list of at least one")
        if len(value) > MAX_BUDGETS:
            raise ValueError(f"expected a list of at most {MAX_BUDGETS:,}, got {len(value):,}")
        return _distinct([_ratio(each) for each in value])
    return _ratio(value)


def _ratio(value: object) -> float:
    """Return a number of tokens per parameter of a possible size."""
    ratio = parse_number(value)
    if not 1e-9 <= ratio <= 1e12:
        raise ValueError(f"{ratio:g} tokens per parameter: expected 1e-9 to 1e12")
    return ratio


Several = Annotated[
    list[Flops], Field(min_length=1, max_length=MAX_BUDGETS), AfterValidator(_distinct)
]
Ratios = Annotated[float | list[float], BeforeValidator(_one_or_more)]
Design = Literal["isoflop", "ladder", "grid", "fixed-tokens"]

_OWN_KEYS: dict[str, tuple[Design, ...]] = {
    "budgets": ("isoflop",),
    "sizes_per_budget": ("isoflop",),
    "size_span": ("isoflop",),
    "top_flops": ("ladder",),
    "levels": ("ladder",),
    "level_spacing": ("ladder",),
    "num_sizes": ("grid", "fixed-tokens"),
    "size_range": ("grid", "fixed-tokens"),
    "largest_params": ("grid", "fixed-tokens"),
    "tokens": ("fixed-tokens",),
}
_SIZED_BY: dict[Design, str] = {
    "isoflop": "budgets",
    "ladder": "top_flops",
    "grid": "largest_params",
    "fixed-tokens": "largest_params",
}


class Goal(BaseModel):
    """The goal of an adaptive sweep: `{ at = 1e21, params_within = 0.2 }`.

    Attributes:
        at: FLOPs of the budget whose optimal size is wanted.
        params_within: half-width of the 90 % interval of ln N_opt at that budget; 0.2 means about
            +-20 %.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    at: Flops
    params_within: Annotated[float, Field(gt=0, lt=3)] = 0.2


def refuse_too_many(*factors: tuple[int, str]) -> None:
    """Refuse a plan of more trials than a study can need.

    Args:
        factors: the numbers whose product is the number of trials, and what they count.

    Raises:
        ValueError: there are too many.
    """
    trials = math.prod(count for count, _ in factors)
    if trials > MAX_TRIALS:
        product = " x ".join(f"{count:,} {what}" for count, what in factors)
        raise ValueError(f"{product} are {trials:,} trials: at most {MAX_TRIALS:,} are planned")


class SweepSection(BaseModel):
    """[sweep]: the trials to run.

    Attributes:
        design: `isoflop`: sizes at each budget; `ladder`: few runs at the top, more and wider ones
            below; `grid`: sizes x tokens per parameter; `fixed-tokens`: sizes x numbers of tokens.
        budgets: `isoflop`: FLOPs of each curve. With `total_flops` the budgets keep their ratios.
        total_flops: FLOPs that the whole sweep may cost; the design is sized to it.
        sizes_per_budget: `isoflop`: number of sizes on each curve.
        tokens_per_param: where the optimum is expected; the sizes are centred on it. A `grid` takes
            a list, which is its second axis.
        size_span: `isoflop`: each curve runs from the expected params divided by this factor to the
            expected params times this factor.
        top_flops: `ladder`: FLOPs of each of the largest runs, instead of `total_flops`.
        levels: `ladder`: number of budgets.
        level_spacing: `ladder`: ratio of each budget to the one below it.
        num_sizes: `grid`, `fixed-tokens`: number of sizes, evenly spaced in log params; 6, or every
            size in the list of `[model]`, if left out.
        size_range: `grid`, `fixed-tokens`: ratio of the largest to the smallest params.
        largest_params: `grid`, `fixed-tokens`: params of the largest size, instead of
            `total_flops`.
        tokens: `fixed-tokens`: units of data, a list; three or more for a compute-optimal size.
        replicates: seeds of each point: `seed`, `seed + 1`, ...
        goal: the goal of `run --adaptive`: `{ at = 1e21, params_within = 0.2 }`. It may change
            during a sweep.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    design: Design = "isoflop"
    budgets: Several | None = None
    total_flops: Flops | None = None
    sizes_per_budget: Annotated[int, Field(ge=3, le=MAX_PER_BUDGET)] = 5
    tokens_per_param: Ratios = 20.0
    size_span: Annotated[float, Field(gt=1, le=1e9)] = 4.0
    top_flops: Flops | None = None
    levels: Annotated[int, Field(ge=3, le=8)] = 6
    level_spacing: Annotated[float, Field(ge=1.5, le=10)] = 3.0
    num_sizes: Annotated[int, Field(ge=3, le=MAX_SIZES)] | None = None
    size_range: Annotated[float, Field(gt=1, le=1e12)] = 30.0
    largest_params: Flops | None = None
    tokens: Several | None = None
    replicates: Annotated[int, Field(gt=0, le=MAX_TRIALS)] = 1
    goal: Goal | None = None

    @model_validator(mode="after")
    def _fits_the_design(self) -> SweepSection:
        """Refuse keys of another design, and a design without its size."""
        fields = type(self).model_fields
        for key, designs in _OWN_KEYS.items():
            if self.design not in designs and getattr(self, key) != fields[key].default:
                owners = " and ".join(f"`{name}`" for name in designs)
                raise ValueError(f"`{key}` belongs to the design {owners}, not to `{self.design}`")
        ratios = isinstance(self.tokens_per_param, list)
        if ratios and self.design != "grid":
            raise ValueError(
                f"`tokens_per_param` of `{self.design}` is one number, where the optimum is "
                "expected; only the design `grid` takes a list"
            )
        if self.design == "grid" and not ratios:
            raise ValueError(
                "the design `grid` needs `tokens_per_param` as a list: "
                "`tokens_per_param = [5, 10, 20, 40, 80]`"
            )
        if self.design == "fixed-tokens" and self.tokens is None:
            raise ValueError("the design `fixed-tokens` needs `tokens = [1e8, 3e8, 1e9]`")
        own = _SIZED_BY[self.design]
        is_stated_twice = getattr(self, own) is not None and self.total_flops is not None
        if is_stated_twice and self.design != "isoflop":
            raise ValueError(f"`{own}` and `total_flops` both say how large the sweep is: give one")
        if self.design in ("isoflop", "ladder") and self.measure is None:
            raise ValueError(f"the design `{self.design}` needs `{own}` or `total_flops`")
        if self.design == "isoflop":
            refuse_too_many(
                (len(self.budgets or range(5)), "budgets"),
                (self.sizes_per_budget, "sizes"),
                (self.replicates, "replicates"),
            )
        return self

    @property
    def measure(self) -> list[float] | float | None:
        """The key that sets the size of the sweep; None: the sizes listed in [model] set it."""
        own: list[float] | float | None = getattr(self, _SIZED_BY[self.design])
        return own if self.total_flops is None else self.total_flops

    @property
    def ratios(self) -> tuple[float, ...]:
        """Tokens per parameter: of the grid, or the one where the optimum is expected."""
        given = self.tokens_per_param
        return tuple(given) if isinstance(given, list) else (given,)

    @property
    def expected_ratio(self) -> float:
        """Tokens per parameter where the optimum is expected."""
        logs = [math.log(ratio) for ratio in self.ratios]
        return math.exp(math.fsum(logs) / len(logs))

    @property
    def params_reach(self) -> float | None:
        """Largest params of a trial; None if the sizes in [model] decide."""
        if self.measure is None:
            return None
        if self.design in ("isoflop", "ladder"):
            stated = [] if self.total_flops else self.budgets or []
            largest = max([*stated, self.total_flops or 0.0, self.top_flops or 0.0])
            span = self.size_span if self.design == "isoflop" else 4.0
            return span**2 * math.sqrt(largest / 6.0 / self.expected_ratio)
        if self.largest_params is not None:
            return 2.0 * self.largest_params
        assert self.total_flops is not None
        if self.design == "grid":
            return 2.0 * math.sqrt(self.total_flops / 6.0 / max(self.ratios))
        return 2.0 * self.total_flops / 6.0 / max(self.tokens or [1.0])

    def with_total(self, total_flops: float) -> SweepSection:
        """Return the same design, made to cost `total_flops` in all."""
        left_out = set() if self.design == "isoflop" else {_SIZED_BY[self.design]}
        kept = self.model_dump(exclude_unset=True, exclude=left_out)
        return SweepSection.model_validate({**kept, "total_flops": total_flops})
