"""The recipe: how every trial of a sweep is trained (the manifest's [training] section).

Every field has a default that suits a model of any kind and size; a manifest states what differs.
What a rule gives to a trial is computed in `manifest/rules.py`; nothing here needs torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args

from flops_fit.manifest.limits import LARGEST_COUNT, MAX_SAMPLES

Optimizer = Literal["adamw", "sgd"]
LearningRateRule = Literal[
    "constant",
    "width",
    "mup",
    "params",
    "params-data",
    "porian",
    "steplaw",
    "deepseek",
    "powerlines",
]
Schedule = Literal["linear", "cosine", "wsd", "constant"]
BatchRule = Literal["sqrt", "fixed", "porian", "steplaw", "deepseek", "powerlines"]
WeightDecayRule = Literal["constant", "timescale", "powerlines"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

# Names that Accelerate knows, and the package that each needs.
TRACKERS = {
    "aim": "aim", "clearml": "clearml", "comet_ml": "comet-ml", "dvclive": "dvclive",
    "mlflow": "mlflow", "swanlab": "swanlab", "tensorboard": "tensorboard", "trackio": "trackio",
    "wandb": "wandb",
}  # fmt: skip

_FRACTIONS = (
    "warmup_fraction",
    "cooldown_fraction",
    "final_learning_rate_fraction",
    "curve_share",
)
_POSITIVE = ("learning_rate", "reference_size", "reference_params", "reference_flops",
             "batch_reference_tokens", "eps")  # fmt: skip
_PUBLISHED = ("porian", "steplaw", "deepseek")
"""Rules, of rate and batch alike, that stand on published constants where no value is stated."""

_RATE = 3e-3
_BATCH_TOKENS = 512

_NEEDS = {
    "learning_rate_rule": {
        "width": "reference_size", "mup": "reference_size",
        "porian": "reference_params", "steplaw": "reference_params", "deepseek": "reference_flops",
    },
    "batch_rule": {"porian": "reference_params", "deepseek": "reference_flops"},
}  # fmt: skip
"""Which reference a rule needs: `width` and `mup` always, others if the value there is stated."""
_NOT_NEGATIVE = ("weight_decay", "clip_norm", "warmup_tokens_per_param", "momentum")
_COUNTS = ("batch_tokens", "batch_min_examples", "micro_batch_examples", "heldout_batch",
           "heldout_examples")  # fmt: skip

_A_COUNT = f"a whole number from 1 to {float(LARGEST_COUNT):g}"


@dataclass(frozen=True)
class Recipe:
    """The recipe of every trial; each trial records which of its values a rule gave.

    Attributes:
        optimizer: `adamw`, or `sgd` with `momentum`. A model's own `configure_optimizers` wins.
        learning_rate: peak rate, at the reference that the rule names. None: what the rule's
            source published (`porian`, `steplaw`, `deepseek`, each measured on language models),
            and 3e-3 under every other rule, or half of it where the schedule holds the peak (`wsd`,
            `constant`).
        learning_rate_rule: how it depends on the trial; formulas and sources are those of
            `manifest/rules.py`. `constant`: not at all; `width`: 1 / size, of weight matrices;
            `mup`: 1 / fan-in, of each matrix whose fan-in grows with the size; `params` and
            `porian`: params^(-1/3); `steplaw`: params^-0.713 tokens^0.307; `deepseek`:
            flops^-0.125; `powerlines`: the square root of the batch.
        reference_size: size value at which `width` and `mup` give the bare rate.
        reference_params: parameter count at which a rule by params gives the stated rate or batch;
            None: 1e6 under `params`.
        reference_flops: FLOPs of a trial at which `deepseek` gives the stated rate or batch.
        weight_decay: decoupled decay, on weight matrices only (no embedding, norm or bias).
        weight_decay_rule: `constant`; `timescale`: so that the share of a trial over which AdamW
            averages is that of `weight_decay` at the reference (`batch_tokens`,
            `batch_reference_tokens`); `powerlines`: so that it follows the published power of
            tokens per parameter, whatever `weight_decay` is.
        betas: AdamW's decay rates of the two moments.
        eps: AdamW's epsilon.
        momentum: momentum of `sgd`.
        clip_norm: largest norm of the whole gradient; 0 does not clip.
        schedule: from the peak to `final_learning_rate_fraction` at the trial's own end. `linear`
            and `cosine` fall from the end of warm-up on, `wsd` holds the peak and falls linearly
            over the last `cooldown_fraction` of the steps, `constant` never falls.
        cooldown_fraction: share of the steps over which `wsd` falls.
        final_learning_rate_fraction: rate at the end of the schedule, as a fraction of the peak.
        share_trunks: under `wsd`, trials of one size and seed share the part before their
            cool-downs, with one batch and one warm-up (`planning/trunks.py`).
        warmup_fraction: share of the steps over which the rate rises linearly from zero.
        warmup_tokens_per_param: warm-up lasts no longer than this many units of data per
            parameter (Porian et al. 2024: one); 0 sets no such limit.
        batch_rule: units of data that a step holds: `fixed`: `batch_tokens`; `sqrt`: batch_tokens *
            sqrt(tokens / batch_reference_tokens); `powerlines` and `steplaw`: by powers 0.383 and
            0.571 instead; `porian`: params^(2/3); `deepseek`: flops^0.3271.
        batch_tokens: the step at the reference, in units of data. None: what the rule's source
            published (`porian`, `steplaw`, `deepseek`), and 512 under every other rule.
        batch_reference_tokens: units of data of a trial at which rules by tokens give the stated
            rate, batch or decay.
        batch_min_examples: a step holds at least this many examples, except under rule `fixed` and
            where a trial is too short for 50 such steps.
        micro_batch_examples: examples that one device passes through the model at once; a larger
            step accumulates gradients. None: the whole step.
        precision: `auto` is bf16 (fp16 where bf16 is missing) on CUDA and fp32 elsewhere.
        compile: whether `torch.compile` is used; worth its seconds of start for long trials.
        cuda_graphs: whether each step's kernels are replayed as one CUDA graph, through
            `torch.compile`; it helps most if the model is small for its device.
        deterministic: ask the device for deterministic kernels (CPU results repeat anyway).
        heldout_batch: examples in one evaluation batch.
        heldout_examples: how many held-out examples count, evenly spaced over a map-style set,
            the first of an iterable one; None: every one of the former, 4,096 of the latter.
        curve_points: log-spaced evaluations before the last; they make the training curve.
        curve_share: the largest share of a trial's compute that these evaluations may take; they
            use an evenly spaced part of the held-out set where all of it would cost more.
        data_workers: processes that fetch batches ahead of the steps; 0: the trial's own. A set
            that lies in memory needs none. What examples draw at random differs between 0 and
            more, and is the same for any number of them.
        retries: how often a trial that diverged is trained again, each time with another seed.
        log_with: trackers that mirror each trial: names of `TRACKERS`. They change no number, so
            they are no part of what a trial is.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    optimizer: Optimizer = "adamw"
    learning_rate: float | None = None
    learning_rate_rule: LearningRateRule = "params-data"
    reference_size: float | None = None
    reference_params: float | None = None
    reference_flops: float | None = None
    weight_decay: float = 0.1
    weight_decay_rule: WeightDecayRule = "constant"
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    momentum: float = 0.9
    clip_norm: float = 1.0
    schedule: Schedule = "linear"
    share_trunks: bool = True
    warmup_fraction: float = 0.1
    cooldown_fraction: float = 0.2
    final_learning_rate_fraction: float = 0.0
    warmup_tokens_per_param: float = 0.0
    batch_rule: BatchRule = "sqrt"
    batch_tokens: int | None = None
    batch_reference_tokens: float = 1e6
    batch_min_examples: int = 4
    micro_batch_examples: int | None = None
    precision: Precision = "auto"
    compile: bool = False
    cuda_graphs: bool = False
    deterministic: bool = False
    heldout_batch: int = 64
    heldout_examples: int | None = None
    curve_points: int = 8
    curve_share: float = 0.01
    data_workers: int = 0
    retries: int = 0
    log_with: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse settings that no trial can be trained with.

        Raises:
            ValueError: a sentence that names the field, what it is and what is expected.
        """
        _check_choice("optimizer", self.optimizer, get_args(Optimizer))
        _check_choice("learning_rate_rule", self.learning_rate_rule, get_args(LearningRateRule))
        _check_choice("schedule", self.schedule, get_args(Schedule))
        _check_choice("batch_rule", self.batch_rule, get_args(BatchRule))
        _check_choice("weight_decay_rule", self.weight_decay_rule, get_args(WeightDecayRule))
        _check_choice("precision", self.precision, get_args(Precision))
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None:
                _check(name, value, _is_number(value) and value > 0, "a positive number")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            _check(name, value, _is_number(value) and value >= 0, "a number of 0 or more")
        for name in _FRACTIONS:
            value = getattr(self, name)
            _check(name, value, _is_number(value) and 0 <= value <= 1, "a fraction from 0 to 1")
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None:
                _check(name, value, _is_count(value) and 0 < value <= LARGEST_COUNT, _A_COUNT)
        for name in ("curve_points", "data_workers", "retries"):
            value = getattr(self, name)
            is_good = _is_count(value) and 0 <= value <= MAX_SAMPLES
            _check(name, value, is_good, f"a count from 0 to {MAX_SAMPLES:,}")
        good = len(self.betas) == 2 and all(_is_number(b) and 0 <= b < 1 for b in self.betas)
        _check("betas", self.betas, good, "two numbers from 0 to just under 1")
        if self.cuda_graphs and not self.compile:
            raise ValueError("`cuda_graphs` is true: expected `compile` = true beside it")
        for name in self.log_with:
            _check_choice("log_with", name, tuple(TRACKERS))
        self._check_reference("learning_rate_rule", "learning_rate")
        self._check_reference("batch_rule", "batch_tokens")
        if self.weight_decay_rule == "timescale" and self.bare_learning_rate is None:
            raise ValueError(
                "`learning_rate` is missing: expected the rate at the reference, as "
                '`weight_decay_rule` = "timescale" asks'
            )
        asks = [name for name, rule in (("learning_rate_rule", "powerlines"),
                                        ("weight_decay_rule", "timescale"))
                if getattr(self, name) == rule]  # fmt: skip
        if asks and self.bare_batch_tokens is None:
            raise ValueError(
                "`batch_tokens` is missing: expected the step at the reference, as "
                f'`{asks[0]}` = "{getattr(self, asks[0])}" asks'
            )
        if self.schedule == "wsd" and self.warmup_fraction + self.cooldown_fraction > 1:
            raise ValueError(
                "`cooldown_fraction` is too large: expected warm-up and cool-down to share the "
                f"trial, got {self.warmup_fraction:g} and {self.cooldown_fraction:g}"
            )

    @property
    def bare_learning_rate(self) -> float | None:
        """The peak rate at the rule's reference; None: the published constants."""
        if self.learning_rate is None and self.learning_rate_rule not in _PUBLISHED:
            return _RATE / 2 if self.schedule in ("wsd", "constant") else _RATE
        return self.learning_rate

    @property
    def bare_batch_tokens(self) -> int | None:
        """The step at the rule's reference; None: the published constants."""
        if self.batch_tokens is None and self.batch_rule not in _PUBLISHED:
            return _BATCH_TOKENS
        return self.batch_tokens

    def _check_reference(self, rule_field: str, value_field: str) -> None:
        """Require the place at which a stated value holds."""
        rule, value = getattr(self, rule_field), getattr(self, value_field)
        missing = _NEEDS[rule_field].get(rule)
        if missing is None or getattr(self, missing) is not None:
            return
        if value is not None or missing == "reference_size":
            held = "the rate" if value is None else f"`{value_field}` = {value:g}"
            place = {"reference_size": "size value", "reference_params": "parameter count",
                     "reference_flops": "FLOPs of a trial"}[missing]  # fmt: skip
            raise ValueError(
                f"`{missing}` is missing: expected the {place} at which {held} holds, as "
                f'`{rule_field}` = "{rule}" asks'
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data, as a trial records it, without trackers."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["log_with"]
        return values | {"betas": list(self.betas)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    listed = ", ".join(f'"{choice}"' for choice in choices)
    _check(name, value, value in choices, f"one of {listed}")


def _check(name: str, value: object, is_good: bool, expected: str) -> None:
    if not is_good:
        raise ValueError(f"`{name}` is {value!r}: expected {expected}")
