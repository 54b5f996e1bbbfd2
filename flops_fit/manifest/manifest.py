"""Reads TOML into a Manifest, or raises one precise error.

Every section but model, data, loss and sweep may be left out. Keys are checked: an unknown one is
refused with the nearest known one. Numbers of FLOPs may be written `1e18` or `"1e18"`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from flops_fit.errors import ManifestError, RunDirError
from flops_fit.manifest.derive import Number, evaluate, names_in
from flops_fit.manifest.files import Seed, read_text
from flops_fit.manifest.limits import (
    LARGEST_COUNT,
    MANIFEST_BYTES,
    MAX_BOOTSTRAP,
    MAX_BUDGETS,
    MAX_DEPTH,
    MAX_FORMULA,
    MAX_NAME_BYTES,
    MAX_RATES,
    MAX_SIZES,
    MAX_TRIALS,
    Count,
    Flops,
    Processes,
    Whole,
    is_too_deep,
    is_too_dotted,
)
from flops_fit.manifest.mistakes import first_mistake, shown
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.slurm_section import SlurmSection
from flops_fit.manifest.sweep_section import SweepSection, refuse_too_many

COUNTS = ("counted", "6nd", "model", "plugin")


class _Section(BaseModel):
    """A table of the manifest: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class SizeRange(_Section):
    """Sizes between two values: `{ min = 16, max = 512, multiple_of = 8 }`.

    Attributes:
        min: smallest size value.
        max: largest size value.
        multiple_of: every size value is a multiple of this number.
    """

    min: Count
    max: Annotated[int, Field(gt=0, le=10**12)]
    multiple_of: Count = 1

    @model_validator(mode="after")
    def _is_ordered(self) -> SizeRange:
        if -(-self.min // self.multiple_of) * self.multiple_of > self.max >= self.min:
            raise ValueError(
                f"no multiple of {self.multiple_of} lies from {self.min} to {self.max}"
            )
        if self.max < self.min:
            raise ValueError(f"`max` ({self.max}) is below `min` ({self.min})")
        return self


class StatedSize(_Section):
    """A size whose counts are stated, so that planning need not build the model.

    Attributes:
        size_value: value of the size parameter.
        params: number of trainable parameters.
        params_non_embedding: number of parameters outside embeddings.
        params_active: number of parameters that one token passes through (mixture of experts).
        flops_per_token: training FLOPs per unit of data.
    """

    size_value: Annotated[int | float, Field(gt=0, le=LARGEST_COUNT)]
    params: Whole
    params_non_embedding: Whole | None = None
    params_active: Whole | None = None
    flops_per_token: Annotated[Flops, Field(ge=1e-9)] | None = None


class ModelSection(_Section):
    """[model]: the model, and its possible sizes.

    Sizes may be names, or sets of arguments, smallest first: `sizes = ["tiny", "small"]` or
    `sizes = [{ width = 64, depth = 2 }, { width = 96, depth = 3 }]`. Their size values are then
    their places in the list: 1, 2, 3, ...

    Attributes:
        plugin: name of an installed model plugin, or `"module:attribute"`. Modules are looked up
            beside the manifest, in the current folder, and among installed packages.
        size_param: constructor argument that sets the size. It may be left out only if `sizes` are
            sets of arguments.
        sizes: list of values, names or sets of arguments, smallest first; or
            `{ min, max, multiple_of }`; or `"auto"`, which tries 1, 2, 3, 4, 6, 8, 12, ... as far
            as the budgets reach and skips what the model refuses.
        kwargs: other constructor arguments.
        derive: constructor arguments that follow from the size by arithmetic, such as
            `{ num_heads = "size // 64" }`.
    """

    plugin: str
    size_param: str = ""
    sizes: list[int | float | str | dict[str, Any] | StatedSize] | SizeRange | Literal["auto"] = (
        "auto"
    )
    kwargs: dict[str, Any] = Field(default_factory=dict)
    derive: dict[str, str] = Field(default_factory=dict)

    @field_validator("sizes", mode="before")
    @classmethod
    def _read_sizes(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return SizeRange.model_validate(value)
        if value == "auto":
            return value
        if not isinstance(value, list) or not value:
            raise ValueError('expected a list of sizes, `{ min, max, multiple_of }` or "auto"')
        if len(value) > MAX_SIZES:
            raise ValueError(f"expected at most {MAX_SIZES:,} sizes, got {len(value):,}")
        sizes = [_read_size(size) for size in value]
        values = [size.size_value if isinstance(size, StatedSize) else size for size in sizes]
        twice = next((each for k, each in enumerate(values) if each in values[:k]), None)
        if twice is not None:
            raise ValueError(f"the size {shown(twice)} is stated twice")
        if any(isinstance(each, str | dict) for each in sizes) and len(set(map(type, sizes))) > 1:
            raise ValueError("expected numbers alone, names alone or sets of arguments alone")
        return sizes

    @model_validator(mode="after")
    def _has_size_param(self) -> ModelSection:
        is_by_arguments = bool(self.named) and isinstance(self.named[0], dict)
        if not self.size_param and not is_by_arguments:
            raise ValueError(
                "`size_param` is missing: the argument that sets the size (it may be left out only "
                "where `sizes` are sets of arguments)"
            )
        return self

    @model_validator(mode="after")
    def _derives(self) -> ModelSection:
        known = set(self._numbers(1))
        for name, formula in self.derive.items():
            if len(formula) > MAX_FORMULA:
                raise ValueError(
                    f"`derive.{name}` has {len(formula):,} characters: expected at most "
                    f"{MAX_FORMULA:,}"
                )
            if name in (self.size_param, *self.kwargs):
                where = "size_param" if name == self.size_param else "kwargs"
                raise ValueError(f"`derive.{name}` is already set by `{where}`")
            missing = sorted(names_in(formula) - known)
            if missing:
                have = ", ".join(f"`{each}`" for each in sorted(known))
                raise ValueError(
                    f"`derive.{name}` needs `{missing[0]}`; known there are {have} (derived ones "
                    "from the lines above)"
                )
            known.add(name)
        return self

    def _numbers(self, value: Number) -> dict[str, Number]:
        """Return the names that `derive` may use: both names of the size, and numeric kwargs."""
        first = self.named[0] if self.named else None
        if isinstance(first, dict):
            return {k: v for k, v in (self.kwargs | first).items() if type(v) in (int, float)}
        numbers = {k: v for k, v in self.kwargs.items() if type(v) in (int, float)}
        return {**numbers, "size": value, self.size_param: value}

    def arguments(self, value: Number) -> dict[str, Any]:
        """Return a size's arguments: the size parameter and the derived ones.

        Raises:
            ValueError: a formula has no value at this size.
        """
        if self.named:
            entry = self.named[int(value) - 1]
            given: dict[str, Any] = entry if isinstance(entry, dict) else {self.size_param: entry}
            numbers: dict[str, Number] = {
                k: v for k, v in given.items() if isinstance(v, int | float)
            }
            return {**given, **self._derived({**self._numbers(value), **numbers})}
        return {self.size_param: value, **self._derived(self._numbers(value))}

    def _derived(self, names: dict[str, Number]) -> dict[str, Number]:
        """Return the derived arguments, each computed from the names before it."""
        derived: dict[str, Number] = {}
        for name, formula in self.derive.items():
            derived[name] = names[name] = evaluate(formula, names)
        return derived

    @property
    def named(self) -> list[str | dict[str, Any]]:
        """The sizes, if they are names or sets of arguments; else empty."""
        if not isinstance(self.sizes, list):
            return []
        return [size for size in self.sizes if isinstance(size, str | dict)]

    @property
    def stated(self) -> list[StatedSize] | None:
        """The sizes, if every one has its counts stated."""
        if not isinstance(self.sizes, list):
            return None
        stated = [size for size in self.sizes if isinstance(size, StatedSize)]
        return stated if len(stated) == len(self.sizes) else None


class DataSection(_Section):
    """[data]: the data set; stated facts replace those of the plugin.

    Attributes:
        plugin: name of an installed data plugin, or `"module:attribute"`: a callable that returns a
            training and a held-out set.
        kwargs: arguments of the plugin.
        unit: name of one unit of data, such as `"token"`; the plugin's, or `"example"`.
        units_per_example: units of data in one example; the plugin's, or 1.
        unique_units: units of data in the training set, for warnings about repeated data.
        loss_unit: unit of the loss; the plugin's, or `"nats"`.
        causal: whether each target must be predicted from what comes before it. `check` then
            proves that no output sees its own target.
    """

    plugin: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    unit: str | None = None
    units_per_example: Count | None = None
    unique_units: Count | None = None
    loss_unit: str | None = None
    causal: bool | None = None


class LossSection(_Section):
    """[loss]: the function that compares outputs with targets.

    Attributes:
        plugin: name of an installed loss plugin, or `"module:attribute"`: a callable
            (outputs, targets) -> mean loss in nats per unit; `"model"` takes the loss that the
            model computes itself.
        kwargs: arguments that a loss class or factory is called with first.
        offset: constant that is added to every loss, so that a loss that may be negative can be
            fitted; 0 if left out.
    """

    plugin: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    offset: float | None = None


class FlopsSection(_Section):
    """[flops]: how the FLOPs of one unit of data are counted.

    Attributes:
        count: `"counted"`: operation by operation; `"6nd"`: six times the params; `"model"`: the
            model's own `flops_per_token()`; `"plugin"`: `count_flops(model, batch)` of the model's
            class or module; or `"module:function"`, such a function elsewhere.
    """

    count: str = "counted"

    @field_validator("count")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in COUNTS and ":" not in value:
            known = ", ".join(f'"{each}"' for each in COUNTS)
            raise ValueError(f'expected {known} or "module:function", got {shown(value)}')
        return value


class ExecutionSection(_Section):
    """[execution]: where trials run, and which files they keep; it never changes a result.

    Attributes:
        executor: name of an installed executor plugin.
        workers: number of trials side by side; as many as fit if left out.
        threads_per_worker: CPU threads of each worker.
        devices_per_trial: processes that share the batches of one trial, with one device each.
        trials_per_device: trials side by side on each GPU, or on each group of `devices_per_trial`.
        device: device of the trials.
        price_per_hour: price of one device for one hour, in any currency.
        checkpoint_minutes: minutes between two checkpoints of a trial.
        stall_minutes: a trial without a sign of life for so many minutes fails, and its process is
            ended.
        keep_checkpoints: whether ended trials keep their newest two checkpoints.
        lease_seconds: a worker that shows no sign of life for so long loses its trial to another.
        slurm: what each job asks Slurm for.
    """

    executor: str = "local"
    workers: Processes | None = None
    threads_per_worker: Processes = 1
    devices_per_trial: Processes = 1
    trials_per_device: Processes = 1
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 5.0
    stall_minutes: Annotated[float, Field(gt=0)] = 60.0
    keep_checkpoints: bool = False
    lease_seconds: Annotated[float, Field(gt=0)] = 60.0
    slurm: SlurmSection | None = None


class ReportSection(_Section):
    """[report]: the questions that the report answers.

    Attributes:
        budgets: FLOPs to answer for, besides the budgets of the sweep.
        methods: names of the fitting methods; all that the runs allow if empty.
        bootstrap: number of resamples behind the intervals; 0 uses the covariance instead.
    """

    budgets: Annotated[list[Flops], Field(max_length=MAX_BUDGETS)] = Field(default_factory=list)
    methods: Annotated[list[str], Field(max_length=MAX_BUDGETS)] = Field(default_factory=list)
    bootstrap: Annotated[int, Field(ge=0, le=MAX_BOOTSTRAP)] = 1000


class TransferSection(_Section):
    """[transfer]: a study of learning rates; it never changes the sweep's trials.

    Attributes:
        sizes: size values, two or more; the smallest, a middle and the largest planned if empty.
        rates: number of learning rates at each size; the recipe's own is in the middle.
        step: factor from one learning rate to the next.
        replicates: seeds of each learning rate.
        tokens: units of data that every size sees; the fewest of any planned trial if left out.
    """

    sizes: Annotated[list[int | float], Field(max_length=MAX_SIZES)] = Field(default_factory=list)
    rates: Annotated[int, Field(ge=3, le=MAX_RATES)] = 5
    step: Annotated[float, Field(gt=1, le=1e6)] = 2.0
    replicates: Annotated[int, Field(gt=0, le=MAX_TRIALS)] = 1
    tokens: Flops | None = None

    @model_validator(mode="after")
    def _is_bounded(self) -> TransferSection:
        if (reach := math.log10(self.step) * (self.rates // 2)) > 12:
            raise ValueError(
                f"{self.rates} rates a factor of {self.step:g} apart reach 1e{reach:.0f} times the "
                "recipe's own: expected at most 1e12"
            )
        refuse_too_many(
            (len(self.sizes) or 3, "sizes"), (self.rates, "rates"), (self.replicates, "replicates")
        )
        return self


class Manifest(_Section):
    """An experiment as written and validated.

    Attributes:
        name: name of the experiment; the run directory is `runs/NAME`.
        seed: seed of the first replicate, of the held-out split and of the bootstrap.
        model: which model, and its sizes.
        data: which data set.
        loss: which loss.
        flops: how FLOPs are counted.
        sweep: which trials to run.
        training: recipe of every trial.
        execution: where the trials run.
        report: what to answer.
        transfer: the study of learning rates.
    """

    name: str = "experiment"
    seed: Seed = 0
    model: ModelSection
    data: DataSection
    loss: LossSection
    flops: FlopsSection = FlopsSection()
    sweep: SweepSection
    training: Recipe = Recipe()
    execution: ExecutionSection = ExecutionSection()
    report: ReportSection = ReportSection()
    transfer: TransferSection = TransferSection()

    @field_validator("name")
    @classmethod
    def _is_file_name(cls, value: str) -> str:
        if not value or "/" in value or value.startswith("."):
            raise ValueError(
                f'expected a name that a folder can have, as "my-sweep", got "{value}": the run '
                "directory is `runs/NAME`"
            )
        if not value.isprintable() or len(value.encode("utf-8", "replace")) > MAX_NAME_BYTES:
            raise ValueError(
                f"expected a name of at most {MAX_NAME_BYTES} bytes without control characters, "
                f"got {shown(value)}: the run directory is `runs/NAME`"
            )
        return value

    @property
    def identity(self) -> dict[str, Any]:
        """The values that a trial's numbers depend on.

        Name, execution, report, transfer, goal and trackers may change on the way. Keys without a
        value are left out, so that a sweep goes on under a version that knows more.
        """
        left_out: dict[str, Any] = dict.fromkeys(("name", "execution", "report", "transfer"), True)
        return self.model_dump(
            mode="json",
            exclude={**left_out, "sweep": {"goal"}, "training": {"log_with"}},
            exclude_none=True,
        )

    @property
    def largest_target(self) -> float | None:
        """FLOPs of the largest target; None if none is stated."""
        goal = [] if self.sweep.goal is None else [self.sweep.goal.at]
        return max([*self.report.budgets, *goal], default=None)


def read_manifest(path: Path) -> Manifest:
    """Read and validate a manifest.

    Raises:
        ManifestError: the file is missing, is not TOML, or breaks a rule: the first one it breaks.
    """
    return parse_manifest(read_manifest_text(path), where=str(path))


def read_manifest_text(path: Path) -> str:
    """Return the text of a manifest, which may be reached by a link.

    Raises:
        ManifestError: it cannot be read, is no regular file, too large, or not UTF-8.
    """
    try:
        return read_text(path, most_bytes=MANIFEST_BYTES, is_link_fine=True).removeprefix("\ufeff")
    except RunDirError as error:
        raise ManifestError(
            error.message, hint="`flops-fit init` writes a commented manifest to start from"
        ) from None


def parse_manifest(text: str, *, where: str) -> Manifest:
    """Validate a manifest's text; `where` names it in errors."""
    if len(text) > MANIFEST_BYTES:
        raise ManifestError(
            f"`{where}` has {len(text):,} characters, expected at most {MANIFEST_BYTES:,}"
        )
    try:
        is_deep = is_too_dotted(text)
        # Editors on Windows write the mark of byte order.
        data = {} if is_deep else tomllib.loads(text.removeprefix("\ufeff"))
        is_deep = is_deep or is_too_deep(data)
    except RecursionError:
        is_deep = True
    except ValueError as error:  # Not only TOML's own: a number may have too many digits.
        raise ManifestError(
            f"`{where}` is not TOML: {error}", hint="strings need quotes, tables need [brackets]"
        ) from None
    if is_deep:
        raise ManifestError(
            f"`{where}` is nested too deeply: expected at most {MAX_DEPTH} tables or lists inside "
            "one another",
            hint="`flops-fit init` writes a commented manifest to start from",
        )
    return manifest_from(data, where=where)


def manifest_from(data: Mapping[str, Any], *, where: str) -> Manifest:
    """Validate a manifest given as plain data."""
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        raise first_mistake(error, Manifest, where) from None


def _read_size(value: object) -> object:
    """Read one entry of `sizes`."""
    if isinstance(value, Mapping):
        if "size_value" not in value and "params" not in value:
            return dict(value)
        return StatedSize.model_validate(value)
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected numbers, got {shown(value)}")
    if value <= 0:
        raise ValueError(f"expected positive sizes, got {shown(value)}")
    return value
