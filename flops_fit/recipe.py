"""The recipe: how every trial of a sweep is trained (the manifest's [training] section).

Every field has a default that suits a model of any kind and size; a manifest states what differs.
What a rule gives at one size is computed in `training/steps.py`; nothing here needs torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args

Optimizer = Literal["adamw", "sgd"]
LearningRateRule = Literal["params", "width", "constant"]
Schedule = Literal["linear", "cosine", "wsd", "constant"]
BatchRule = Literal["sqrt", "fixed"]
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
_POSITIVE = ("learning_rate", "reference_size", "reference_params", "batch_reference_tokens", "eps")
_NOT_NEGATIVE = ("weight_decay", "clip_norm", "warmup_tokens_per_param", "momentum")
_COUNTS = ("batch_tokens", "batch_min_examples", "micro_batch_examples", "heldout_batch",
           "heldout_examples")  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How every trial is trained; which values a rule gave is recorded with each trial.

    Attributes:
        optimizer: `adamw`, or `sgd` with `momentum`. A model's own `configure_optimizers` wins.
        learning_rate: peak rate, at the reference that the rule names.
        learning_rate_rule: `params`: for every parameter, rate * (params / reference_params)^(-1/3)
            (exponent: Porian et al. 2024, arXiv:2406.19146, appendix on tuned hyperparameters; the
            default pair passes near the rates of GPT-3, Brown et al. 2020, table 2.1);
            `width`: rate * reference_size / size_value for weight matrices, the bare rate for
            embeddings, norms and biases (the hidden-layer scaling of Adam in Yang et al. 2022,
            arXiv:2203.03466, table 8), for models whose size parameter is a width;
            `constant`: the bare rate at every size.
        reference_size: size value at which rule `width` gives the bare rate.
        reference_params: parameter count at which rule `params` gives the bare rate.
        weight_decay: decoupled decay, on weight matrices only (no embedding, norm or bias).
        betas, eps: AdamW's; `momentum`: SGD's.
        clip_norm: largest norm of the whole gradient; 0 does not clip.
        schedule: from the peak to `final_learning_rate_fraction` at the trial's own end. `linear`
            and `cosine` fall from the end of warm-up on, `wsd` holds the peak and falls linearly
            over the last `cooldown_fraction` of the steps, `constant` never falls.
        warmup_fraction: share of the steps over which the rate rises linearly from zero.
        warmup_tokens_per_param: warm-up lasts no longer than this many units of data per
            parameter (Porian et al. 2024: one); 0 sets no such limit.
        batch_rule: `sqrt`: a step holds batch_tokens * sqrt(tokens / batch_reference_tokens) units
            of data; `fixed`: it holds `batch_tokens`.
        batch_tokens, batch_reference_tokens: the figures of that rule, in units of data.
        batch_min_examples: a step holds at least this many examples under rule `sqrt`.
        micro_batch_examples: examples that one device passes through the model at once; a larger
            step accumulates gradients. None: the whole step.
        precision: `auto` is bf16 (fp16 where bf16 is missing) on CUDA and fp32 elsewhere.
        compile: whether `torch.compile` is used; worth its seconds of start for long trials.
        deterministic: ask the device for deterministic kernels (CPU results repeat anyway).
        heldout_batch: examples in one evaluation batch.
        heldout_examples: how many held-out examples count; None: every one of a map-style set,
            the first 4,096 of an iterable one.
        curve_points: log-spaced evaluations before the last; they make the training curve.
        curve_share: the largest share of a trial's compute that these evaluations may take; they
            use an evenly spaced part of the held-out set where all of it would cost more.
        log_with: trackers that mirror each trial: names of `TRACKERS`. They change no number, so
            they are no part of what a trial is.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    optimizer: Optimizer = "adamw"
    learning_rate: float = 3e-3
    learning_rate_rule: LearningRateRule = "params"
    reference_size: float | None = None
    reference_params: float = 1e6
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.9
    clip_norm: float = 1.0
    schedule: Schedule = "linear"
    warmup_fraction: float = 0.1
    cooldown_fraction: float = 0.2
    final_learning_rate_fraction: float = 0.0
    warmup_tokens_per_param: float = 0.0
    batch_rule: BatchRule = "sqrt"
    batch_tokens: int = 512
    batch_reference_tokens: float = 1e6
    batch_min_examples: int = 4
    micro_batch_examples: int | None = None
    precision: Precision = "auto"
    compile: bool = False
    deterministic: bool = False
    heldout_batch: int = 64
    heldout_examples: int | None = None
    curve_points: int = 8
    curve_share: float = 0.02
    log_with: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no trial could be trained with.

        Raises:
            ValueError: a sentence that names the field, what it is and what is expected.
        """
        _check_choice("optimizer", self.optimizer, get_args(Optimizer))
        _check_choice("learning_rate_rule", self.learning_rate_rule, get_args(LearningRateRule))
        _check_choice("schedule", self.schedule, get_args(Schedule))
        _check_choice("batch_rule", self.batch_rule, get_args(BatchRule))
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
                _check(name, value, _is_count(value) and value > 0, "a whole number of 1 or more")
        points = self.curve_points
        _check("curve_points", points, _is_count(points) and points >= 0, "a count of 0 or more")
        good = len(self.betas) == 2 and all(_is_number(b) and 0 <= b < 1 for b in self.betas)
        _check("betas", self.betas, good, "two numbers from 0 to just under 1")
        for name in self.log_with:
            _check_choice("log_with", name, tuple(TRACKERS))
        if self.learning_rate_rule == "width" and self.reference_size is None:
            raise ValueError(
                "`reference_size` is missing: expected the size value at which "
                f"`learning_rate` = {self.learning_rate:g} holds, as `learning_rate_rule` asks"
            )
        if self.schedule == "wsd" and self.warmup_fraction + self.cooldown_fraction > 1:
            raise ValueError(
                "`cooldown_fraction` is too large: expected warm-up and cool-down to share the "
                f"trial, got {self.warmup_fraction:g} and {self.cooldown_fraction:g}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, as it is recorded with a trial; trackers are no part of it."""
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
