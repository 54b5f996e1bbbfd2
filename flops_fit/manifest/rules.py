"""Rules for a trial's learning rate, batch and weight decay, each with its source.

N is every trainable parameter (a tied head once), D the trial's units of data, C = D times the
FLOPs of one unit, B the units of data in a step. A rule with published constants gives them where
the recipe states no value: they were measured on language models with tokens as units, and hold
for nothing else. Where the recipe states a value, the rule carries it from the reference on.

Learning rate, per rule
    constant    rate
    width       rate * reference_size / size, for weight matrices; the rate for all else. Hidden
                weights under Adam: Yang et al. 2022 (arXiv:2203.03466), table 8
    mup         rate / (fan-in / fan-in at reference_size), for each matrix whose fan-in grows with
                the size; the rate for all else. Adam's row in Yang et al. 2022, table 3; the
                model's own initialisation and multipliers are its own affair
    params      rate * (N / reference_params)^(-1/3), 1e6 params unless stated; with 3e-3 it passes
                near the rates of GPT-3 (Brown et al. 2020, table 2.1)
    params-data as `params`, times min(1, (C / 6 N^2 / 20)^0.307): less where a trial is short for
                its size. C / 6 N^2 is how many positions train each parameter, D / N of a dense
                language model; 20 of them are near compute-optimal (Hoffmann et al. 2022,
                arXiv:2203.15556), and the power of data is Step Law's
    porian      0.0047 (N / 108e6)^(-1/3): Porian et al. 2024 (arXiv:2406.19146)
    steplaw     1.79 N^-0.713 D^0.307, N without embeddings: Li et al. 2025 (arXiv:2503.04715)
    deepseek    0.3118 C^-0.1250: Bi et al. 2024 (arXiv:2401.02954)
    powerlines  rate * sqrt(B / batch_tokens); goes with the batch and decay of that name
Batch
    fixed       batch_tokens
    sqrt        batch_tokens * (D / batch_reference_tokens)^0.5
    powerlines  batch_tokens * (D / batch_reference_tokens)^0.383: Bergsma et al. 2025
                (arXiv:2505.13738)
    porian      160 * 2048 (N / 108e6)^(2/3)
    steplaw     0.58 D^0.571
    deepseek    0.2920 C^0.3271
Weight decay, of matrices; `rate` is that of each matrix itself, under `mup` too
    constant    weight_decay
    timescale   B / (rate * decay * D) as at the reference: Wang and Aitchison 2024
                (arXiv:2405.13698)
    powerlines  B / (rate * decay * D) = 1.084 (D / N)^-0.527: Bergsma et al. 2025
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Size

_FEWEST_STEPS = 50
"""Rounding to whole steps moves tokens by at most half a step: 1 % of 50 steps."""

_REFERENCE_PARAMS = 1e6
_ENOUGH_DATA, _DATA_POWER = 20.0, 0.307  # positions a parameter, and how the rate falls with fewer

_PORIAN_PARAMS = 108e6
_PORIAN_RATE = 0.0047
_PORIAN_BATCH = 160 * 2048
_STEPLAW_RATE = 1.79
_STEPLAW_BATCH = 0.58
_DEEPSEEK_RATE = 0.3118
_DEEPSEEK_BATCH = 0.2920
_POWERS = {"fixed": 0.0, "sqrt": 0.5, "powerlines": 0.383, "steplaw": 0.571}
"""How a step grows with the tokens of its trial, under each batch rule that goes by tokens."""

_TIMESCALE, _TIMESCALE_POWER = 1.084, -0.527


@dataclass(frozen=True)
class Settings:
    """The values that the rules give to one trial.

    Attributes:
        matrix_rate: peak learning rate of weight matrices (at the reference's fan-in, under `mup`).
        other_rate: peak learning rate of every other parameter.
        weight_decay: decoupled decay of weight matrices whose rate is `matrix_rate`.
    """

    matrix_rate: float
    other_rate: float
    weight_decay: float


def settings(recipe: Recipe, *, size: Size, tokens: int, batch_tokens: int) -> Settings:
    """Peak learning rates and weight decay of one trial.

    Args:
        recipe: the rules, and the values at their references.
        size: the size that is trained.
        tokens: units of data that the trial sees.
        batch_tokens: units of data in one of its steps.
    """
    matrix_rate, other_rate = _rates(recipe, size=size, tokens=tokens, batch_tokens=batch_tokens)
    decay = recipe.weight_decay
    if recipe.weight_decay_rule == "timescale":
        rate_there, steps_there = _reference(recipe)
        decay *= rate_there * steps_there / (matrix_rate * tokens / batch_tokens)
    elif recipe.weight_decay_rule == "powerlines":
        timescale = _TIMESCALE * (tokens / size.params) ** _TIMESCALE_POWER
        decay = batch_tokens / (matrix_rate * tokens * timescale)
    return Settings(matrix_rate, other_rate, decay)


def _reference(recipe: Recipe) -> tuple[float, float]:
    """(peak rate of weight matrices, steps) of the trial at which `weight_decay` holds."""
    rate, batch = recipe.bare_learning_rate, recipe.bare_batch_tokens
    assert rate is not None and batch is not None, "checked by Recipe"  # noqa: PT018
    return rate, recipe.batch_reference_tokens / batch


def _rates(recipe: Recipe, *, size: Size, tokens: int, batch_tokens: int) -> tuple[float, float]:
    """Peak rates of (weight matrices, all else)."""
    rule, bare = recipe.learning_rate_rule, recipe.bare_learning_rate
    if rule == "porian":
        at, there = _anchor(bare, recipe.reference_params, (_PORIAN_RATE, _PORIAN_PARAMS))
        rate = at * (size.params / there) ** (-1 / 3)
    elif rule == "steplaw":
        params = size.params_non_embedding or size.params
        at, there = _anchor(bare, recipe.reference_params, (_STEPLAW_RATE, 1.0))
        tokens_there = 1.0 if bare is None else recipe.batch_reference_tokens
        rate = at * (params / there) ** -0.713 * (tokens / tokens_there) ** 0.307
    elif rule == "deepseek":
        at, there = _anchor(bare, recipe.reference_flops, (_DEEPSEEK_RATE, 1.0))
        rate = at * (tokens * size.flops_per_token / there) ** -0.125
    else:
        assert bare is not None, "only published rules lack a rate"
        rate = bare
    if rule in ("params", "params-data"):
        rate *= (size.params / (recipe.reference_params or _REFERENCE_PARAMS)) ** (-1 / 3)
    if rule == "params-data":
        positions = tokens * size.flops_per_token / 6 / size.params**2
        rate *= min(1.0, positions / _ENOUGH_DATA) ** _DATA_POWER
    elif rule == "powerlines":
        assert recipe.bare_batch_tokens is not None, "checked by Recipe"
        rate *= math.sqrt(batch_tokens / recipe.bare_batch_tokens)
    elif rule == "width":
        assert recipe.reference_size is not None, "checked by Recipe"
        return rate * recipe.reference_size / size.size_value, rate
    return rate, rate


def _anchor(
    stated: float | None, reference: float | None, published: tuple[float, float]
) -> tuple[float, float]:
    """Return (value, where it holds), from the recipe or else as published."""
    if stated is None:
        return published
    assert reference is not None, "checked by Recipe"
    return stated, reference


def batch_tokens(
    recipe: Recipe,
    *,
    size: Size,
    tokens: float,
    units_per_example: int,
    multiple_of_examples: int = 1,
) -> int:
    """Units of data in one optimiser step: a whole number of examples.

    Every rule but `fixed` keeps batches small where a trial is short, and never leaves fewer than
    50 steps while the batch can still shrink, so that whole steps hit `tokens` within 1 %.

    Args:
        recipe: batch_rule, batch_tokens, the references, batch_min_examples.
        size: the size that is trained.
        tokens: units of data that the trial is to see.
        units_per_example: units of data in one example.
        multiple_of_examples: the batch holds a multiple of this many examples (devices times
            accumulation), so that it divides without padding.

    Raises:
        ValueError: a count is not positive.
    """
    if tokens <= 0 or units_per_example < 1 or multiple_of_examples < 1:
        raise ValueError(
            "expected positive counts, got "
            f"tokens={tokens:g}, units_per_example={units_per_example}, "
            f"multiple_of_examples={multiple_of_examples}"
        )
    examples = _wanted_batch(recipe, size=size, tokens=tokens) / units_per_example
    if recipe.batch_rule != "fixed":
        examples = max(examples, recipe.batch_min_examples)
        examples = min(examples, tokens / _FEWEST_STEPS / units_per_example)
    multiples = max(1, round(examples / multiple_of_examples))
    if recipe.batch_rule != "fixed" and multiples > 1:
        most = tokens / _FEWEST_STEPS / (units_per_example * multiple_of_examples)
        multiples = max(1, min(multiples, math.floor(most)))
    return multiples * multiple_of_examples * units_per_example


def _wanted_batch(recipe: Recipe, *, size: Size, tokens: float) -> float:
    """Units of data in one step, before rounding."""
    rule, bare = recipe.batch_rule, recipe.bare_batch_tokens
    if rule == "porian":
        at, there = _anchor(bare, recipe.reference_params, (_PORIAN_BATCH, _PORIAN_PARAMS))
        return at * math.pow(size.params / there, 2 / 3)
    if rule == "deepseek":
        at, there = _anchor(bare, recipe.reference_flops, (_DEEPSEEK_BATCH, 1.0))
        return at * math.pow(tokens * size.flops_per_token / there, 0.3271)
    if rule == "steplaw" and bare is None:
        return _STEPLAW_BATCH * math.pow(tokens, _POWERS["steplaw"])
    assert bare is not None, "only published rules lack a batch"
    return bare * math.pow(tokens / recipe.batch_reference_tokens, _POWERS[rule])


MIN_STEPS = 50  # half a step of rounding is then at most 1 % of the trial's FLOPs
