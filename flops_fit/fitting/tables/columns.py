"""Finds which column of a table holds which quantity.

A column is taken by the name that the caller gives, else by our own name, else guessed from a name
that can mean nothing else: `D` is a guess for tokens and `d` is not. A name is split into words, so
that `loss_val`, `val/loss` and `C4 val loss` are read alike. Every guess is said. Held-out losses
go before training losses. A guess never makes rows of a training curve: `step` counts only beside a
`run` that has many rows with rising steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
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
    "params": ("model_size", "nparams"),
    "tokens": ("ntokens", "num_input_tokens_seen", "throughput_total_tokens"),
    "flops": ("throughput_total_flops",),
    "budget_flops": ("isoflop", "isoflops", "iso_c", "target_flops"),
    "tokens_per_param": (
        "tokens_per_parameter", "tpp", "param_data_ratio", "token_param_ratio", "d_over_n", "d_n",
        "tokens_param", "tokens_parameter", "tok_param", "tok_per_param", "token_per_param",
    ),
    "seed": ("random_seed",),
    "params_non_embedding": (
        "non_embedding_params", "n_non_embedding", "num_non_embedding_params",
        "n_params_non_embedding", "nonembedding_params", "non_emb_params", "params_non_emb",
    ),
    "params_active": ("active_params", "num_active_params", "n_active_params"),
    "step": ("steps", "global_step", "iteration"),
    "run": ("run_id", "run_name"),
    "name": ("trial_id", "id"),
    "state": ("status", "run_state"),
}  # fmt: skip
_COUNT_WORDS = frozenset({"n", "num", "number", "of", "total", "count"})
_TRAINED = frozenset({"train", "training", "trained"})
_WORDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "params": (
        frozenset({"param", "params", "parameter", "parameters"}), _COUNT_WORDS | {"model"},
    ),
    "tokens": (
        frozenset({"token", "tokens", "tok", "toks"}),
        _COUNT_WORDS | _TRAINED | {"seen", "processed", "consumed", "on"},
    ),
    "flops": (
        frozenset({"flop", "flops", "flos", "compute"}),
        _COUNT_WORDS | _TRAINED | {"c", "estimated", "actual", "spent", "used"},
    ),
    "budget_flops": (
        frozenset({"budget"}), frozenset({"flop", "flops", "compute", "c", "target", "isoflop"}),
    ),
}  # fmt: skip
"""One of the first words names the quantity, and any of the second may stand beside it."""

_CANDIDATES = {
    "params": re.compile(r"param|model|size", re.IGNORECASE),
    "tokens": re.compile(r"tok|data|sample|image|example", re.IGNORECASE),
    "loss": re.compile(r"loss|ppl|perplex|bpb|nll|entropy|mse|val|eval|macro", re.IGNORECASE),
}
_PREFIX = re.compile(
    r"^((config|summary|summary_metrics|params|metrics|hparams|args|model|data|results?)[./])+"
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])")
_PLAIN_LOSSES = ("loss", "final_loss", "cross_entropy", "ce_loss", "nll", "nll_loss")
_OTHER_LOSSES = (
    "bpb", "bits_per_byte", "bits_per_token", "bits_per_character", "bpc", "perplexity", "ppl",
)  # fmt: skip
_HELDOUT = frozenset(
    {"val", "valid", "validation", "eval", "evaluation", "test", "heldout", "holdout", "dev"}
)
_LOSS = frozenset({"loss", "nll", "ce", "xent", "entropy", "bpb", "bpc", "ppl", "perplexity"})
_UNIT_WORDS = frozenset({"nats", "nat", "bits", "bit", "per", "token", "tok", "byte"})
_NO_VALUE = frozenset(
    {
        "std", "stderr", "sem", "se", "var", "variance", "ci", "low", "high", "lower", "upper",
        "min", "max", "delta", "diff", "change", "gain", "ratio", "init", "initial", "start", "acc",
        "accuracy", "error", "count", "step", "steps", "time", "runtime", "weight", "aux",
    }
)  # fmt: skip
_NOT_A_LOSS = re.compile(r"acc|accuracy|time|runtime|second|per_second|step|size|token|epoch|batch")
_POWER = re.compile(r"(?:in |[x*\u00d7])?\s*(?:1e|10\^|10\*\*)(\d+)", re.IGNORECASE)
_NOUN = re.compile(r"([kmbgt])(?:toks?|tokens?|params?)", re.IGNORECASE)


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
    spaced = _CAMEL.sub("_", name)
    return re.sub(r"[^a-z0-9]+", "_", _PREFIX.sub("", spaced.lower())).strip("_")


def choose_columns(
    headers: Sequence[str],
    *,
    columns: Mapping[str, str],
    loss_column: str | None,
    guesses: bool,
    where: str,
    is_loss_like: Callable[[str], bool] = lambda name: True,
) -> Choice:
    """Choose the columns of a table.

    Args:
        headers: the table's columns, those that hold something.
        columns: ours to the table's; `none` for what is not to be read.
        loss_column: the table's column of losses; goes before `columns`.
        guesses: whether columns may be guessed.
        where: how to name the table.
        is_loss_like: whether a column's numbers may be losses; asked where the name alone does not
            say so (`val/c4`).

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
        loss = _choose_loss(
            headers, guesses=guesses, where=where, notes=notes, is_loss_like=is_loss_like
        )
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
    has = {name: name in chosen for name in (*REQUIRED, "tokens_per_param")}
    has["flops"] = "flops" in chosen or "budget_flops" in chosen
    missing = [] if has["loss"] else ["loss"]
    if sum(has[name] for name in ("params", "tokens", "flops", "tokens_per_param")) < 2:
        missing = [name for name in ("params", "tokens") if not has[name]] + missing
    if not missing:
        return
    read = [theirs for ours, theirs in chosen.items() if ours != "params_non_embedding"]
    unread = [name for name in headers if name not in read]
    if missing == ["loss"]:
        _refuse_no_loss(unread, where)
    likely = {
        name: next((each for each in unread if _CANDIDATES[name].search(each)), "YOUR_COLUMN")
        for name in missing
    }
    example = ",".join(f"{name}={theirs}" for name, theirs in likely.items())
    raise ObservationsError(
        f"{where} has no column for {', '.join(missing)}; it has {_listed(headers)}",
        hint=f'say which ones they are: --columns "{example}" (two of params, tokens and flops are '
        "enough)",
    )


def _refuse_no_loss(unread: Sequence[str], where: str) -> None:
    """Refuse a table whose only losses are training losses, accuracies or error rates."""
    for name in unread:
        if is_training_loss(name):
            raise ObservationsError(
                f"{where} has no column of held-out losses; `{name}` is the training loss",
                hint=f'use it all the same: --loss-column "{name}"',
            )
    for name in unread:
        unit = unit_in_name(normalise(name))
        if unit in ("accuracy", "error"):
            what = "accuracies" if unit == "accuracy" else "error rates"
            raise ObservationsError(
                f"{where} has no column of losses: `{name}` holds {what}, and a law is fitted to "
                "losses",
                hint="add the held-out cross-entropy of the same runs to the table",
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
        if _means(ours, normalise(name)):
            return name, 1.0
    for name in free:
        factor = _unit_of(name, ours)
        if factor is not None:
            return name, factor
    return None, 1.0


def rivals(ours: str, headers: Sequence[str], *, taken: Collection[str]) -> list[str]:
    """Return the columns besides those taken whose names mean the same quantity."""
    return [name for name in headers if name not in taken and _means(ours, normalise(name))]


def _means(ours: str, name: str) -> bool:
    """Return whether a normalised name can only mean this quantity."""
    if name in (ours, *_GUESSES[ours]):
        return True
    nouns, beside = _WORDS[ours]
    words = set(name.split("_"))
    return bool(words & nouns) and words <= nouns | beside


def _unit_of(name: str, ours: str) -> float | None:
    """Return the factor that a name such as `tokens_billions`, `N (M)` or `total_gflops` states.

    None where the rest of the name does not mean this quantity.
    """
    symbol = _SYMBOLS.get(ours)
    noun = _NOUN.fullmatch(name)
    if noun is not None:
        return unit_factor(noun[1]) if _means(ours, name[1:].lower()) else None
    split = re.fullmatch(r"(.+?)\s*[\[(](.+?)[\])]|(.+?)\s*/\s*(1e\d+)|(.+?)_([^_]+)", name)
    if split is not None:
        stem, unit = (part.strip() for part in split.groups() if part)
        if stem == symbol or (not split[5] and _means(ours, normalise(stem))):
            return _factor_in(unit)
    parts = normalise(name).split("_")
    for size in (4, 3, 2, 1):
        stem, unit = "_".join(parts[:-size]).removesuffix("_in"), "_".join(parts[-size:])
        factor = _factor_in(unit)
        if factor is not None and factor != 1.0:
            if _means(ours, stem):
                return factor
            if "flop" in unit and _means(ours, f"{stem}_flops".lstrip("_")):
                return factor
    return None


def _factor_in(unit: str) -> float | None:
    """Return the factor of a unit in a column's name: `M`, `Mtok`, `x1e18`, `petaflop_s_days`."""
    unit = unit.strip().removeprefix("in ")
    power = _POWER.fullmatch(unit)
    if power is not None:
        return 10.0 ** int(power[1]) if int(power[1]) <= 30 else None
    noun = _NOUN.fullmatch(unit)
    return unit_factor(noun[1] if noun else unit.replace("_s_", "/s-"))


def _choose_loss(
    headers: Sequence[str],
    *,
    guesses: bool,
    where: str,
    notes: list[Note],
    is_loss_like: Callable[[str], bool],
) -> str | None:
    """Return the column of losses: held-out ones, then a plain `loss`; nats before other units.

    Raises:
        ObservationsError: several held-out losses, none before the others.
    """
    if not guesses:
        return "loss" if "loss" in headers else None
    found = heldout_losses(headers, is_loss_like)
    nats = [name for name in found if unit_in_name(normalise(name)) is None]
    bits = [name for name in found if unit_in_name(normalise(name)) == "bits"]
    plain = [name for name in headers if _is_plain_loss(name)]
    other = [name for name in headers if normalise(name) in _OTHER_LOSSES]
    pool = nats or bits or found or plain or other
    if not pool:
        return None
    if pool is not plain and pool is not other and len(pool) > 1:
        first = _first_of(pool)
        if first is None:
            raise ObservationsError(
                f"{where} has several held-out losses: {_listed(pool)}",
                hint=f'choose one: --loss-column "{pool[0]}"; or take all, one law each: '
                "--loss-column all",
            )
        pool = [first]
    others = [name for name in (*found, *plain, *other) if name != pool[0]]
    if others:
        also = ", ".join(f"`{name}`" for name in dict.fromkeys(others))
        said = f"warning: `{pool[0]}` is read as the loss, and {also} could be it: --loss-column"
        notes.append(Note("loss_chosen", said))
    return pool[0]


def _first_of(names: Sequence[str]) -> str | None:
    """Return the main one of several held-out losses: validation before test; else None."""
    by_name = {normalise(name): name for name in reversed(names)}
    for name in ("val_loss", "validation_loss", "valid_loss", "eval_loss", "loss_val", "test_loss"):
        if name in by_name:
            return by_name[name]
    return None


def _words_of(name: str) -> set[str]:
    """Return the words of a column's name; `held_out` is one."""
    return set(re.sub(r"(held|hold)_out", "heldout", normalise(name)).split("_"))


def _is_plain_loss(name: str) -> bool:
    """Return whether a name is `loss` or a synonym, with or without its unit."""
    words = [word for word in normalise(name).split("_") if word not in _UNIT_WORDS]
    return name == "L" or "_".join(words) in _PLAIN_LOSSES


def is_training_loss(name: str) -> bool:
    """Return whether a name says that a column holds training losses."""
    words = _words_of(name)
    return bool(words & _TRAINED and words & _LOSS) and not words & _HELDOUT


def heldout_losses(
    headers: Sequence[str], is_loss_like: Callable[[str], bool] = lambda name: True
) -> list[str]:
    """Return the columns of held-out losses, by their names: `val_loss`, `val/c4`, `eval_bpb`."""
    words = {name: _words_of(name) for name in headers}
    heldout = [
        name
        for name, each in words.items()
        if each & _HELDOUT and not each & _TRAINED and not each & _NO_VALUE
    ]
    plain = [name for name in heldout if words[name] & _LOSS or {"bits", "byte"} <= words[name]]
    if plain:
        return plain
    return [
        name
        for name in heldout
        if normalise(name).split("_")[0] in _HELDOUT
        and not _NOT_A_LOSS.search(normalise(name))
        and is_loss_like(name)
    ]
