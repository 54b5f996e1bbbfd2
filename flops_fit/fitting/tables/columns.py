"""Finds which column of a table holds which quantity.

A column is taken by the name that the caller gives, else by our own name, else guessed from a name
that can mean nothing else: `D` is a guess for tokens and `d` is not. Every guess is said. Held-out
losses go before training losses. A guess never makes rows of a training curve: `step` counts only
beside a `run` that has many rows with rising steps.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from flops_fit.errors import Note, ObservationsError
from flops_fit.fitting.tables.losses import unit_in_name
from flops_fit.units import unit_factor

REQUIRED = ("params", "tokens", "loss")
COUNTS = ("params", "tokens", "flops", "budget_flops")
NUMBERS = (
    *COUNTS, "tokens_per_param", "flops_per_token", "seed", "size_value", "params_non_embedding",
    "params_active", "step",
)  # fmt: skip
TEXTS = ("run", "name", "state")
KNOWN = ("params", "tokens", "loss", "flops", "budget_flops", *NUMBERS[4:], *TEXTS)

NONE = "none"
"""What a caller writes for a column that is not to be read."""

_SYMBOLS = {"params": "N", "tokens": "D", "flops": "C", "loss": "L"}
_GUESSES: Mapping[str, tuple[str, ...]] = {
    "params": (
        "n_params", "num_params", "nparams", "parameters", "model_size", "model_params",
        "parameter_count", "param_count", "params_total", "total_params", "num_parameters",
        "n_parameters", "total_parameters", "model_parameters",
    ),
    "tokens": (
        "n_tokens", "num_tokens", "ntokens", "training_tokens", "train_tokens", "tokens_trained",
        "tokens_seen", "total_tokens", "num_input_tokens_seen", "throughput_total_tokens",
    ),
    "flops": (
        "compute", "training_flops", "training_flop", "train_flops", "total_flops", "total_flop",
        "flop", "total_flos", "training_compute", "throughput_total_flops",
    ),
    "budget_flops": (
        "budget", "compute_budget", "flops_budget", "flop_budget", "isoflop", "isoflops", "iso_c",
        "target_flops",
    ),
    "tokens_per_param": (
        "tokens_per_parameter", "tpp", "param_data_ratio", "token_param_ratio", "d_over_n", "d_n",
    ),
    "seed": ("random_seed",),
    "params_non_embedding": ("non_embedding_params", "n_non_embedding", "num_non_embedding_params"),
    "params_active": ("active_params", "num_active_params"),
    "step": ("steps", "global_step", "iteration"),
    "run": ("run_id", "run_name"),
    "name": ("trial_id", "id"),
    "state": ("status", "run_state"),
}  # fmt: skip
_PREFIX = re.compile(r"^(config|summary|summary_metrics|params|metrics|hparams|args)[./]")
_PLAIN_LOSSES = ("loss", "final_loss", "cross_entropy", "ce_loss", "nll", "nll_loss")
_BIT_LOSSES = ("bpb", "bits_per_byte", "bits_per_token", "bits_per_character", "bpc")
_HELDOUT = re.compile(
    r"(final_|best_)?(val|valid|validation|eval|evaluation|test|heldout|held_out)_"
    r"((\w+_)?loss|nll|cross_entropy|bpb|bits_per_byte|bits_per_token|bpc)"
)
_HELDOUT_PREFIX = re.compile(r"(val|valid|validation|eval|test|heldout)[/._ ].+", re.IGNORECASE)
_TRAINING = re.compile(r"(final_)?(train|training)_(\w+_)?(loss|nll)")
_NOT_A_LOSS = re.compile(r"acc|accuracy|time|runtime|second|per_second|step|size|token|epoch|batch")


@dataclass(frozen=True)
class Choice:
    """The columns that are read, by quantity.

    Attributes:
        columns: ours to the table's.
        guessed: those of them that were guessed.
        factors: of ours whose column's name states a unit, such as `tokens_billions`: the factor.
        loss_unit: the unit that the loss column's name states, if it does.
        notes: guesses and choices in words.
    """

    columns: Mapping[str, str]
    guessed: frozenset[str] = frozenset()
    factors: Mapping[str, float] = field(default_factory=dict)
    loss_unit: str | None = None
    notes: tuple[Note, ...] = ()


def normalise(name: str) -> str:
    """Return a column's name in lower case, with one underscore for other characters.

    A tracker's prefix, as in `config.n_params` (W&B) or `metrics.val_loss` (MLflow), is left out.
    """
    return re.sub(r"[^a-z0-9]+", "_", _PREFIX.sub("", name.lower())).strip("_")


def choose_columns(
    headers: Sequence[str],
    *,
    columns: Mapping[str, str],
    loss_column: str | None,
    guesses: bool,
    where: str,
) -> Choice:
    """Choose the columns of a table.

    Args:
        headers: the table's columns, those that hold something.
        columns: ours to the table's; `none` for what is not to be read.
        loss_column: the table's column of losses; goes before `columns`.
        guesses: whether columns may be guessed.
        where: how to name the table.

    Raises:
        ObservationsError: a named column is unknown or absent, or one that is needed is not found.
    """
    asked = {**columns, **({} if loss_column is None else {"loss": loss_column})}
    _refuse_unknown(headers, asked, where)
    chosen = {ours: theirs for ours, theirs in asked.items() if theirs != NONE}
    barred = {ours for ours, theirs in asked.items() if theirs == NONE}
    guessed: dict[str, str] = {}
    factors: dict[str, float] = {}
    notes: list[Note] = []
    if "loss" not in asked:
        loss = _choose_loss(headers, guesses=guesses, where=where, notes=notes)
        if loss is not None:
            chosen["loss"] = loss
            if loss != "loss":
                guessed["loss"] = loss
    for ours in KNOWN:
        if ours in chosen or ours in barred or ours == "loss":
            continue
        if ours in headers:
            chosen[ours] = ours
        elif guesses:
            theirs, factor = _guess(ours, headers, taken=chosen.values())
            if theirs is not None:
                chosen[ours] = guessed[ours] = theirs
                if factor != 1.0:
                    factors[ours] = factor
    _refuse_missing(headers, chosen, where)
    said = ", ".join(f"{ours} = `{theirs}`" for ours, theirs in guessed.items())
    if said:
        notes.insert(0, Note("columns_guessed", f"columns were guessed: {said}"))
    return Choice(
        chosen, frozenset(guessed), factors, unit_in_name(normalise(chosen["loss"])), tuple(notes)
    )


def _refuse_unknown(headers: Sequence[str], asked: Mapping[str, str], where: str) -> None:
    """Refuse a column that a fit does not use, or that the table lacks."""
    for ours, theirs in asked.items():
        if ours not in KNOWN:
            raise ObservationsError(
                f"`{ours}` is no column that a fit uses", hint=f"use one of {', '.join(KNOWN)}"
            )
        if theirs != NONE and theirs not in headers:
            raise ObservationsError(
                f"{where} has no column `{theirs}`", hint=f"it has {_listed(headers)}"
            )


def _refuse_missing(headers: Sequence[str], chosen: Mapping[str, str], where: str) -> None:
    """Refuse a table without a loss, or with fewer than two of params, tokens and FLOPs."""
    known = [
        {"params"}.intersection(chosen),
        {"tokens", "tokens_per_param"}.intersection(chosen),
        {"flops", "budget_flops"}.intersection(chosen),
    ]
    missing = [] if "loss" in chosen else ["loss"]
    if sum(map(bool, known)) < 2:
        missing = [n for n in ("params", "tokens") if n not in chosen] + missing
    if not missing:
        return
    example = ",".join(f"{name}=YOUR_COLUMN" for name in missing)
    training = [name for name in headers if _TRAINING.fullmatch(normalise(name))]
    if missing == ["loss"] and training:
        raise ObservationsError(
            f"{where} has no column of held-out losses; `{training[0]}` is the training loss",
            hint=f"use it all the same: --loss-column {training[0]}",
        )
    raise ObservationsError(
        f"{where} has no column for {', '.join(missing)}; it has {_listed(headers)}",
        hint=f"say which ones they are: --columns {example} (two of params, tokens and flops are "
        "enough)",
    )


def _listed(headers: Sequence[str], most: int = 40) -> str:
    """Return the first 40 columns in words."""
    more = len(headers) - most
    return ", ".join(headers[:most]) + (f" and {more} more" if more > 0 else "")


def _guess(
    ours: str, headers: Sequence[str], *, taken: Collection[str]
) -> tuple[str | None, float]:
    """Return the table's column for a quantity, and the factor of the unit in its name."""
    free = [name for name in headers if name not in taken]
    symbol = _SYMBOLS.get(ours)
    if symbol in free:
        return symbol, 1.0
    names = (ours, *_GUESSES.get(ours, ()))
    by_name = {normalise(name): name for name in reversed(free)}
    for guess in names:
        if guess in by_name:
            return by_name[guess], 1.0
    if ours not in COUNTS:
        return None, 1.0
    for name in free:
        factor = _unit_of(name, symbol, names)
        if factor is not None:
            return name, factor
    return None, 1.0


def _unit_of(name: str, symbol: str | None, names: Sequence[str]) -> float | None:
    """Return the factor that a name such as `tokens_billions`, `N (M)` or `total_gflops` states.

    None where the rest of the name is not one of `names`.
    """
    bracketed = re.fullmatch(r"(.+?)\s*[\[(](.+?)[\])]", name)
    if bracketed:
        stem, unit = bracketed[1].strip(), bracketed[2]
        if stem == symbol or normalise(stem) in names:
            return unit_factor(unit.removeprefix("in "))
        return None
    parts = normalise(name).split("_")
    for size in (2, 1):
        stem = "_".join(parts[:-size]).removesuffix("_in")
        unit = "_".join(parts[-size:])
        factor = unit_factor(unit)
        if factor is not None and factor != 1.0:
            if stem in names:
                return factor
            if "flop" in unit and f"{stem}_flops".lstrip("_") in names:
                return factor
    return None


def _choose_loss(
    headers: Sequence[str], *, guesses: bool, where: str, notes: list[Note]
) -> str | None:
    """Return the column of losses: held-out ones in nats, then in bits, then a plain `loss`.

    Raises:
        ObservationsError: several held-out losses, none before the others.
    """
    if not guesses:
        return "loss" if "loss" in headers else None
    found = heldout_losses(headers)
    plain = [name for name in headers if normalise(name) in _PLAIN_LOSSES or name == "L"]
    bits = [name for name in headers if normalise(name) in _BIT_LOSSES]
    nats = [name for name in found if unit_in_name(normalise(name)) is None]
    pool = nats or plain or found or bits
    if not pool:
        return None
    if pool is nats and len(pool) > 1:
        first = _first_of(pool)
        if first is None:
            raise ObservationsError(
                f"{where} has several held-out losses: {_listed(pool)}",
                hint=f'choose one: --loss-column "{pool[0]}"; or take all, one law each: '
                "--loss-column all",
            )
        pool = [first]
    others = [name for name in (*nats, *plain, *found, *bits) if name != pool[0]]
    if others:
        also = ", ".join(f"`{name}`" for name in dict.fromkeys(others))
        said = f"warning: `{pool[0]}` is read as the loss, and {also} could be it: --loss-column"
        notes.append(Note("loss_chosen", said))
    return pool[0]


def _first_of(names: Sequence[str]) -> str | None:
    """Return the main one of several held-out losses: validation before test; else None."""
    by_name = {normalise(name): name for name in reversed(names)}
    for name in ("val_loss", "validation_loss", "valid_loss", "eval_loss", "test_loss"):
        if name in by_name:
            return by_name[name]
    return None


def heldout_losses(headers: Sequence[str]) -> list[str]:
    """Return the columns of held-out losses, by their names: `val_loss`, `val/c4`, `eval_bpb`."""
    plain = [name for name in headers if _HELDOUT.fullmatch(normalise(name))]
    if plain:
        return plain
    return [
        name
        for name in headers
        if _HELDOUT_PREFIX.fullmatch(name)
        and not _NOT_A_LOSS.search(normalise(name))
        and unit_in_name(normalise(name)) not in ("perplexity", "accuracy", "error")
    ]
