"""Reads finished runs into observations, with what was read, what was left out, and why.

A table needs a loss and two of `params`, `tokens` and `flops`; the third follows from C = 6 N D.
It may have `budget_flops`, `tokens_per_param`, `flops_per_token`, `seed`, `size_value`,
`params_non_embedding`, `params_active`, `state`, `name`, and a training curve's `step` and `run`.
`columns` chooses them, `formats` reads the file, `scales` checks the units, `losses` those of the
loss, `repeats` merges rows, `groups` finds populations. A cell of an optional column that holds no
number is not known, and costs no row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import ManifestError, Note, ObservationsError
from flops_fit.fitting.details import Loss
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Excluded, Observation, ReadRow, is_in_range
from flops_fit.fitting.tables import groups, repeats, scales
from flops_fit.fitting.tables.columns import (
    COUNTS,
    NONE,
    NUMBERS,
    TEXTS,
    Choice,
    choose_columns,
    heldout_losses,
    rivals,
)
from flops_fit.fitting.tables.formats import Cells, Columns, open_table
from flops_fit.fitting.tables.losses import (
    is_loss_like,
    nats_of,
    parse_loss_unit,
    refuse_rising,
    to_nats,
)
from flops_fit.fitting.tables.numbers import (
    Numbers,
    find_decimal_commas,
    is_blank,
    parse_cell,
    parse_column,
)
from flops_fit.units import FLOP_UNITS, format_flops

Array = NDArray[np.float64]

ALL = "all"
"""What a caller writes for all held-out losses, one law each."""

_ENDED = frozenset({"finished", "completed", "complete", "done", "success", "succeeded", "ok", ""})
_NOT_ENDED = frozenset(
    {
        "crashed", "failed", "failure", "running", "killed", "preempted", "preempting", "pending",
        "diverged", "error", "oom", "aborted", "cancelled", "canceled", "timeout", "stopped",
        "incomplete", "scheduled", "queued", "terminated",
    }
)  # fmt: skip
_CURVE_POINTS = 3  # rows of one run from which they can be points of a training curve
_CURVE_STEP = 1.4  # some neighbours among them are closer than that: runs of several lengths double
_FAR_OFF = (10.0, 0.05)  # robust standard deviations, and log loss, that make a row worth a look
_MOST_LOOKED_AT = 20_000
_SAME_COLUMN = 0.01  # range, in log, of the ratio of two columns that say the same
_WIDE_REPEATS = 0.02  # range, in log loss, of equal runs: ten times the noise of seeds
_SCALE_WORDS = {
    1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions",
    **{factor: unit for unit, factor in FLOP_UNITS.items() if factor not in (1e6, 1e9, 1e12)},
}  # fmt: skip


@dataclass(frozen=True)
class TableOptions:
    """The options for reading a table.

    Attributes:
        columns: our name to the table's; `none` for a column that is not to be read.
        strict: refuse a table with rows that cannot be used.
        guesses: whether columns may be guessed by their names.
        scale: factors by our name: {"params": 1e6, "flops": "PF-days"}.
        flops_per_token: a multiple of params (`8N`), or the table's column of FLOPs per token.
        group: the table's column that tells populations apart, `COLUMN=VALUE` for one of them, or
            `none` to pool all rows.
        loss_column: the table's column of losses.
        loss_unit: `nats`, `bits` or `perplexity`; None: by the column's name, else nats.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    guesses: bool = True
    scale: Mapping[str, float | str] = field(default_factory=dict)
    flops_per_token: str | None = None
    group: str | None = None
    loss_column: str | None = None
    loss_unit: str | None = None


@dataclass(frozen=True)
class Table:
    """The observations of a table, with notes and the rows that were left out.

    Attributes:
        observations: the usable rows, in the table's order; losses in nats.
        rejected: the rows left out, each named `row N` with the reason.
        notes: what was read, and what was assumed: `table_read` first.
        aside: rows that stand for no run of their own: duplicates, and settings that were not best.
        places: `row N` of each observation.
        labels: the group of each observation; empty where the table has no groups.
        loss_unit: unit of the observations' losses: `nats`, or `nats per byte`.
    """

    observations: tuple[Observation, ...]
    rejected: tuple[Excluded, ...]
    notes: tuple[Note, ...]
    aside: tuple[Excluded, ...] = ()
    places: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    loss_unit: str = "nats"

    @property
    def summary(self) -> str:
        """Columns, units and rows that were read, in one line."""
        return self.notes[0].message

    def explain(self) -> list[ReadRow]:
        """Return how each row was read, in the order of the table."""
        rows = [
            ReadRow(place, True, seen.params, seen.tokens, seen.flops, seen.loss)
            for place, seen in zip(self.places, self.observations, strict=True)
        ]
        left = (*self.rejected, *self.aside)
        rows += [ReadRow(each.name, False, reason=each.reason) for each in left]
        return sorted(rows, key=lambda each: int(each.row.split()[-1]))


def read_table(
    source: str | PathLike[str] | Columns | Any, options: TableOptions | None = None
) -> Table:
    """Read finished runs from a file, a mapping of columns, a data frame or a tracker's project.

    Args:
        source: a path (`.csv`, `.tsv`, `.json`, `.jsonl`, `.xlsx`, `.parquet`), a mapping from
            column to values, a data frame, `wandb:ENTITY/PROJECT` or `mlflow:EXPERIMENT`.
        options: how to read it.

    Raises:
        ObservationsError: the table cannot be read, lacks a column, has no usable row, or has a bad
            one and `strict` is set; its units are not plain; its rows follow different laws.
        ManifestError: an option that cannot be.
    """
    options = options or TableOptions()
    return _Reader(open_table(source), options).read()


def _loss_columns(source: Any) -> list[str]:
    """Return the columns of held-out losses of a table."""
    cells = open_table(source)
    headers = [name for name, column in cells.columns.items() if _holds(column)]
    found = heldout_losses(headers, lambda name: is_loss_like(cells.columns[name]))
    if not found:
        raise ObservationsError(
            f"{cells.where} has no columns of held-out losses", hint="name one: --loss-column"
        )
    return found


def has_groups(options: TableOptions) -> bool:
    """Return whether a table is read group by group: a column is named, and no value of it."""
    return options.group not in (None, NONE) and "=" not in (options.group or "")


def split(
    source: Any, options: TableOptions, *, losses: Sequence[str] = ()
) -> dict[str, TableOptions]:
    """Return the options to read each group of a table, or each of several losses.

    Args:
        source: as for `read_table`.
        options: how the table is read; its `group` names the column of the groups.
        losses: the table's columns of losses; `all` for every one that is held-out.

    Returns:
        By the group's label, the largest group first, or by the column of losses.
    """
    if losses:
        names = _loss_columns(source) if list(losses) == [ALL] else losses
        return {name: replace(options, loss_column=name) for name in names}
    labels = Counter(read_table(source, options).labels)
    return {
        label: replace(options, group=f"{options.group}={label}")
        for label, _ in labels.most_common()
    }


class _Reader:
    """Reads one table into observations."""

    def __init__(self, cells: Cells, options: TableOptions) -> None:
        """Choose the columns."""
        self.cells = cells
        self.options = options
        self.where = cells.where
        self.notes: list[Note] = list(cells.notes)
        self.rejected: list[Excluded] = list(cells.rejected)
        self.bad: dict[int, str] = {}
        self.scale = scales.parse_scales(options.scale)
        headers = [name for name, column in cells.columns.items() if _holds(column)]
        self.choice: Choice = choose_columns(
            headers or list(cells.columns),
            columns=self._asked(headers),
            loss_column=options.loss_column,
            guesses=options.guesses,
            where=self.where,
            is_loss_like=lambda name: is_loss_like(cells.columns[name]),
        )
        self.notes += self.choice.notes
        self.columns = dict(self.choice.columns)
        self.factor: float | None = None
        self._read_flops_per_token()

    def read(self) -> Table:
        """Run all steps, in order."""
        numbers = self._numbers()
        self._leave_out_unfinished()
        loss, unit = self._losses(numbers)
        counts = self._counts(numbers)
        for name, what in (("loss", loss), ("params", counts.params), ("tokens", counts.tokens)):
            self._reject_missing(name, what)
        for name, what in (
            ("loss", loss), ("params", counts.params), ("tokens", counts.tokens),
            ("flops", counts.flops),
        ):  # fmt: skip
            self._reject_out_of_range(name, what)
        budgets = self._budgets(numbers, counts)
        curves = self._is_curve(numbers)
        places = [k for k in range(len(loss)) if k not in self.bad]
        self.rejected += [Excluded(self._row(k), self.bad[k]) for k in sorted(self.bad)]
        self.rejected.sort(key=lambda each: int(each.name.split()[-1]))
        self._refuse_unusable(places)
        seen = self._observations(places, numbers, counts, loss, budgets, curves=curves)
        kept, aside = self._without_repeats(places, seen, curves=curves)
        seen, places = [seen[k] for k in kept], [places[k] for k in kept]
        seen, places, labels = self._of_groups(seen, places, curves=curves)
        refuse_rising(
            [each.flops for each in seen],
            [each.loss for each in seen],
            column=self.columns["loss"],
        )
        self._say_far_off(seen, curves=curves)
        left = len(self.rejected)
        read = self._summary(unit, len(seen), left, len(aside))
        return Table(
            tuple(seen),
            tuple(self.rejected),
            (Note("table_read", read), *self.notes),
            tuple(aside),
            tuple(self._row(k) for k in places),
            tuple(labels),
            nats_of(self.columns["loss"]),
        )

    # Choosing and parsing.

    def _asked(self, headers: Sequence[str]) -> dict[str, str]:
        """Return the caller's columns; one of FLOPs per token may be named by its own option."""
        asked = dict(self.options.columns)
        per_token = self.options.flops_per_token
        if per_token is not None and per_token in headers:
            asked["flops_per_token"] = per_token
        return asked

    def _read_flops_per_token(self) -> None:
        """Return the multiple of params that the caller states, if it is not a column."""
        text = self.options.flops_per_token
        if text is None or "flops_per_token" in self.columns:
            return
        number, _ = parse_cell(text.strip().removesuffix("N").rstrip("* "))
        if number is None or not 0 < number < 1e6:
            raise ManifestError(
                f"`--flops-per-token`: expected a multiple of params or a column, got `{text}`",
                hint="write --flops-per-token 8N, or name the table's column",
            )
        self.factor = number

    def _row(self, place: int) -> str:
        """Return the name of a row in messages."""
        return f"row {self.cells.places[place]}"

    def _numbers(self) -> dict[str, Array]:
        """Return each column of numbers, scaled; unknown optional cells are NaN."""
        wanted = {n: self.columns[n] for n in ("loss", *NUMBERS) if n in self.columns}
        texts = {
            "perplexity" if ours == "loss" and self._may_have_thousands() else ours:
            self.cells.columns[theirs]
            for ours, theirs in wanted.items()
        }  # fmt: skip
        commas = find_decimal_commas(texts, delimiter=self.cells.delimiter, where=self.where)
        if commas:
            self.notes.append(Note("decimal_commas", "commas in numbers stand before decimals"))
        found: dict[str, Array] = {}
        for ours, theirs in wanted.items():
            column = parse_column(self.cells.columns[theirs], has_decimal_commas=commas)
            if ours in ("params", "tokens", "loss"):
                self._reject_faults(ours, column)
            elif ours != "step" or self._may_be_curve():
                self._forget_faults(ours, column, is_count=ours in ("flops", "budget_flops"))
            values = column.values
            if ours in ("params", "tokens", "flops", "budget_flops", "tokens_per_param"):
                with np.errstate(invalid="ignore"):
                    values = np.where(values > 0, values, math.nan)
            found[ours] = values * self._scale_of(ours)
        self._say_rivals(found)
        return found

    def _say_rivals(self, numbers: Mapping[str, Array]) -> None:
        """Note another column that may be the params, tokens or FLOPs, and has other numbers."""
        headers = list(self.cells.columns)
        for ours in ("params", "tokens", "flops"):
            if ours not in self.columns or ours in self.options.columns:
                continue
            for name in rivals(ours, headers, taken=self.columns.values()):
                other = parse_column(self.cells.columns[name]).values
                with np.errstate(all="ignore"):
                    ratio = np.log(other / numbers[ours])
                known = ratio[np.isfinite(ratio)]
                if len(known) and float(np.ptp(known)) > _SAME_COLUMN:
                    said = (
                        f"warning: `{self.columns[ours]}` is read as {ours}, and `{name}` could be "
                        f'it: --columns "{ours}={name}"'
                    )
                    self.notes.append(Note("column_chosen", said))

    def _may_have_thousands(self) -> bool:
        """Return whether losses may be perplexities, which can exceed a thousand."""
        return "perplexity" in (self.choice.loss_unit, self.options.loss_unit)

    def _scale_of(self, ours: str) -> float:
        """Return the factor of a column: the caller's, or the one in its name."""
        return self.scale.get(ours, self.choice.factors.get(ours, 1.0))

    def _reject_faults(self, ours: str, column: Numbers) -> None:
        """Leave out rows with a required cell that is not a positive number."""
        for place, fault in column.faults.items():
            self.bad.setdefault(place, f"{ours} {fault}")
        with np.errstate(invalid="ignore"):
            wrong = np.flatnonzero(column.values <= 0).tolist()
        for place in wrong:
            self.bad.setdefault(place, f"{ours} is not positive: {column.values[place]:g}")

    def _forget_faults(self, ours: str, column: Numbers, *, is_count: bool) -> None:
        """Add a note with the number of unknown optional cells."""
        with np.errstate(invalid="ignore"):
            zeros = np.flatnonzero(column.values <= 0).tolist() if is_count else []
        places = [*column.faults, *zeros]
        if not places:
            return
        cells = self.cells.columns[self.columns[ours]]
        example = str(cells[places[0]])[:30]
        said = (
            f"{ours}: {len(places)} of {len(cells)} cells hold no usable number (`{example}`) and "
            "are not known"
        )
        self.notes.append(Note("cells_unknown", said))

    def _reject_missing(self, name: str, values: Array) -> None:
        """Leave out rows with an unknown required number."""
        for place in np.flatnonzero(~np.isfinite(values)):
            self.bad.setdefault(int(place), f"{name} is missing")

    def _reject_out_of_range(self, name: str, values: Array) -> None:
        """Leave out rows with a number outside the range of a fit."""
        known = values[np.isfinite(values)]
        if not len(known) or all(is_in_range(name, float(f(known))) for f in (np.min, np.max)):
            return
        for place, value in enumerate(values.tolist()):
            if math.isfinite(value) and not is_in_range(name, value):
                self.bad.setdefault(place, f"{name} is out of range: {value:g}")

    def _leave_out_unfinished(self) -> None:
        """Leave out runs whose state is not `finished`."""
        column = self.columns.get("state")
        if column is None:
            return
        states = [str(cell or "").strip().lower() for cell in self.cells.columns[column]]
        known = set(states) & (_NOT_ENDED | _ENDED - {""})
        if not known:
            return
        for place, state in enumerate(states):
            if state not in _ENDED:
                self.bad[place] = f"its state is `{state[:30]}`, not finished"

    # Numbers in house units.

    def _losses(self, numbers: Mapping[str, Array]) -> tuple[Array, str]:
        """Return the losses in nats, and their original unit."""
        stated = parse_loss_unit(self.options.loss_unit)
        loss = numbers["loss"].copy()
        loss[list(self.bad)] = math.nan
        column = self.columns["loss"]
        loss, unit, notes = to_nats(loss, column=column, stated=stated, named=self.choice.loss_unit)
        self.notes += notes
        for place in np.flatnonzero(np.isfinite(loss) & (loss <= 0)):
            self.bad.setdefault(int(place), f"loss is not positive: {loss[place]:g}")
        return loss, unit

    def _counts(self, numbers: Mapping[str, Array]) -> scales.Counts:
        """Return params, tokens and FLOPs of every row, with checked units."""
        rows = len(numbers["loss"])
        none = np.full(rows, math.nan)
        params = numbers.get("params", none).copy()
        tokens = numbers.get("tokens", none).copy()
        flops = numbers.get("flops", none).copy()
        names = dict(self.columns)
        if (
            "budget_flops" in numbers
            and not np.isfinite(flops).any()
            and len({"params", "tokens", "tokens_per_param"} & set(names)) < 2
        ):
            flops = numbers["budget_flops"].copy()
            names["flops"] = names["budget_flops"]
        if "tokens_per_param" in numbers:
            params, tokens = self._by_tokens_per_param(
                numbers["tokens_per_param"], params, tokens, flops
            )
            names.setdefault("tokens", names["tokens_per_param"])
            names.setdefault("params", names["tokens_per_param"])
        if "flops_per_token" in numbers:
            flops, tokens = self._by_flops_per_token(numbers["flops_per_token"], flops, tokens)
        active = numbers.get("params_active", none)
        active = np.where(np.isfinite(active) & (active > 0), active, params)
        for values in (params, tokens, flops):
            values[list(self.bad)] = math.nan
        counts = scales.Counts(params, tokens, flops, active)
        sure = frozenset(name for name, factor in self.scale.items() if factor == 1.0)
        for name, values in (("params", params), ("tokens", tokens)):
            if name in self.columns and name not in sure:
                scales.refuse_mixed_units(values, name, self.columns[name], self.where)
        if self.factor is None:
            scales.check_units(counts, names=names, sure=sure, where=self.where)
        faults = scales.misfits(counts) if self.factor is None else {}
        for name, values in (("params", params), ("tokens", tokens)):
            if name not in sure:
                faults |= scales.strays(values, name)
        for place, fault in faults.items():
            self.bad.setdefault(place, fault)
            for values in (params, tokens, flops):
                values[place] = math.nan
        odd = scales.note_odd_ratios(counts.params, counts.tokens)
        if odd is not None and sure.isdisjoint(("params", "tokens")):
            self.notes.append(odd)
        counts, notes = scales.complete(counts, factor=self.factor)
        self.notes += notes
        return counts

    def _by_tokens_per_param(
        self, ratio: Array, params: Array, tokens: Array, flops: Array
    ) -> tuple[Array, Array]:
        """Compute params and tokens from their ratio and one of params, tokens and FLOPs."""
        factor = scales.SIX if self.factor is None else self.factor
        with np.errstate(invalid="ignore", divide="ignore"):
            params = np.where(np.isfinite(params), params, tokens / ratio)
            from_flops = np.sqrt(flops / (factor * ratio))
        derived = ~np.isfinite(params) & np.isfinite(from_flops)
        if derived.any():
            said = f"params and tokens follow from C = {factor:g} N D and the tokens per parameter"
            self.notes.append(Note("params_assumed", said))
        params = np.where(derived, from_flops, params)
        return params, np.where(np.isfinite(tokens), tokens, params * ratio)

    def _by_flops_per_token(
        self, per_token: Array, flops: Array, tokens: Array
    ) -> tuple[Array, Array]:
        """Compute FLOPs from the table's FLOPs per token, and tokens if only FLOPs are known."""
        with np.errstate(invalid="ignore", divide="ignore"):
            known = np.isfinite(per_token) & (per_token > 0)
            tokens = np.where(known & ~np.isfinite(tokens), flops / per_token, tokens)
            flops = np.where(known & ~np.isfinite(flops), per_token * tokens, flops)
        return flops, tokens

    def _budgets(self, numbers: Mapping[str, Array], counts: scales.Counts) -> Array | None:
        """Return the budget of each row, if the table's budgets agree with its FLOPs."""
        budgets = numbers.get("budget_flops")
        if budgets is None:
            return None
        is_sure = self.scale.get("budget_flops") == 1.0
        name = self.columns["budget_flops"]
        note = scales.check_budgets(budgets, counts.flops, name=name, is_sure=is_sure)
        if note is None:
            with np.errstate(invalid="ignore"):
                budgets = np.where(budgets > 0, budgets, math.nan)
            return scales.fill_budgets(budgets, counts.flops)
        self.notes.append(note)
        del self.columns["budget_flops"]
        return None

    # Rows that belong together.

    def _may_be_curve(self) -> bool:
        """Return whether the table has both columns that a training curve takes."""
        return "step" in self.columns and "run" in self.columns

    def _is_curve(self, numbers: Mapping[str, Array]) -> bool:
        """Return whether rows are points of training curves; else `step` and `run` are ignored."""
        is_asked = "step" in self.options.columns and self.options.columns["step"] != NONE
        is_curve = self._may_be_curve() and (is_asked or self._has_rising_steps(numbers["step"]))
        if not is_curve:
            for name in ("step", "run"):
                self.columns.pop(name, None)
        return is_curve

    def _has_rising_steps(self, steps: Array) -> bool:
        """Return whether one run has many rows with rising steps."""
        runs: dict[str, list[float]] = {}
        for place, run in enumerate(self.cells.columns[self.columns["run"]]):
            if place not in self.bad and not is_blank(run) and math.isfinite(steps[place]):
                runs.setdefault(str(run), []).append(float(steps[place]))
        rising = [
            (run, each)
            for run, each in runs.items()
            if len(each) >= _CURVE_POINTS and all(a < b for a, b in pairwise(each))
        ]
        if any(b < _CURVE_STEP * a for _, each in rising for a, b in pairwise(each)):
            return True
        if rising:
            step, run = self.columns["step"], self.columns["run"]
            self.notes.append(
                Note(
                    "steps_not_read",
                    f"the rows of `{rising[0][0]}` in `{run}` have rising `{step}` and are read as "
                    "finished runs; if they are points of one run: "
                    f"--columns step={step},run={run}",
                )
            )
        return False

    def _refuse_unusable(self, places: Sequence[int]) -> None:
        """Refuse a table without usable rows, and with `strict` one with a bad row."""
        if self.options.strict and self.rejected:
            raise ObservationsError(
                f"{len(self.rejected)} of the rows of {self.where} cannot be used: "
                f"{_list_some(self.rejected)}",
                hint="correct these rows, or leave out --strict to go on without them",
            )
        if not places:
            raise ObservationsError(
                f"{self.where} has no usable row"
                + (f": {_list_some(self.rejected)}" if self.rejected else ""),
                hint="each row needs a positive loss, and two of params, tokens and FLOPs",
            )

    def _observations(
        self,
        places: Sequence[int],
        numbers: Mapping[str, Array],
        counts: scales.Counts,
        loss: Array,
        budgets: Array | None,
        *,
        curves: bool,
    ) -> list[Observation]:
        """Return the rows at these positions as observations."""
        names = self._names()
        runs = self.cells.columns[self.columns["run"]] if curves else None
        optional: dict[str, list[float]] = {
            ours: numbers[ours].tolist()
            for ours in ("seed", "size_value", "params_non_embedding", "params_active", "step")
            if ours in self.columns
        }
        if budgets is not None:
            optional["budget_flops"] = budgets.tolist()
        params, tokens = counts.params.tolist(), counts.tokens.tolist()
        flops, losses = counts.flops.tolist(), loss.tolist()
        seen = []
        for k in places:
            more: dict[str, Any] = {
                name: column[k] for name, column in optional.items() if math.isfinite(column[k])
            }
            if "seed" in more:
                more["seed"] = int(more["seed"])
            if runs is not None and not is_blank(runs[k]):
                more["run"] = str(runs[k])
            name = self._row(k) if names is None else names[k]
            seen.append(Observation(params[k], tokens[k], flops[k], losses[k], name=name, **more))
        return seen

    def _names(self) -> list[str] | None:
        """Return the table's own row names, if they are unique."""
        column = self.columns.get("name")
        if column is None:
            return None
        cells = self.cells.columns[column]
        names = [self._row(k) if is_blank(cell) else str(cell) for k, cell in enumerate(cells)]
        return names if len(set(names)) == len(names) else None

    def _without_repeats(
        self, places: Sequence[int], seen: Sequence[Observation], *, curves: bool
    ) -> tuple[list[int], list[Excluded]]:
        """Return the positions in `seen` of rows that are separate runs."""
        rows = [self._row(k) for k in places]
        others = [self.cells.columns[name] for name in self._other_columns()]
        named = "name" in self.columns
        contents = [
            (
                each.params, each.tokens, each.flops, each.loss, each.budget_flops, each.seed,
                each.size_value, each.step, each.run, each.name if named else None,
                *(str(cells[k]) for cells in others),
            )
            for k, each in zip(places, seen, strict=True)
        ]  # fmt: skip
        merged = repeats.merge_duplicates(seen, contents, rows)
        kept = list(merged.places)
        self.notes += merged.notes
        tuned = [] if curves else [n for n in self.cells.columns if self._is_free_tuned(n)]
        if not tuned:
            return kept, list(merged.left)
        best = repeats.best_of_tuned(
            [seen[k] for k in kept],
            {name: [self.cells.columns[name][places[k]] for k in kept] for name in tuned},
            [
                tuple(str(self.cells.columns[name][places[k]]) for name in self._categories())
                for k in kept
            ],
            [rows[k] for k in kept],
        )
        self.notes += best.notes
        return [kept[k] for k in best.places], [*merged.left, *best.left]

    def _is_free_tuned(self, name: str) -> bool:
        """Return whether a column holds a tuned setting, and nothing that is read."""
        return name not in self.columns.values() and repeats.is_tuned(name)

    def _other_columns(self) -> list[str]:
        """Return unread columns in which rows with the same numbers may differ."""
        taken = set(self.columns.values())
        return [n for n in self.cells.columns if n not in taken and self._tells_apart(n)]

    def _tells_apart(self, name: str) -> bool:
        """Return whether an unread column can tell two runs apart: a category or a setting."""
        return repeats.is_tuned(name) or name in self._categories()

    def _categories(self) -> list[str]:
        """Return the unread text columns of two to fifty values."""
        if not hasattr(self, "_found_categories"):
            taken = set(self.columns.values()) | {
                theirs for ours, theirs in self.choice.columns.items() if ours in TEXTS
            }
            self._found_categories = [
                name
                for name, cells in self.cells.columns.items()
                if name not in taken and not repeats.is_tuned(name) and groups.is_category(cells)
            ]
        return self._found_categories

    def _of_groups(
        self, seen: list[Observation], places: list[int], *, curves: bool
    ) -> tuple[list[Observation], list[int], list[str]]:
        """Return the rows of the requested group; without one, add a note if groups differ."""
        asked = self.options.group
        if asked == NONE:
            return seen, places, []
        if asked is None:
            if not curves:
                self._tell_groups(seen, places)
                self._say_settings(seen, places)
            return seen, places, []
        column, _, value = asked.partition("=")
        if asked in self.cells.columns:
            column, value = asked, ""
        if column not in self.cells.columns:
            raise ObservationsError(
                f"{self.where} has no column `{column}`",
                hint=f"it has {', '.join(list(self.cells.columns)[:40])}",
            )
        labels = groups.labels_of([self.cells.columns[column][k] for k in places])
        if value:
            rows = [k for k, label in enumerate(labels) if label == value]
            if not rows:
                known = ", ".join(dict.fromkeys(labels))
                raise ObservationsError(
                    f"`{column}` of {self.where} is nowhere `{value}`", hint=f"it has {known[:500]}"
                )
            said = f"{len(seen) - len(rows)} rows of other groups are not read"
            self.notes.append(Note("group_read", f"only rows with {column} = {value}: {said}"))
            return [seen[k] for k in rows], [places[k] for k in rows], [value] * len(rows)
        return seen, places, labels

    def _tell_groups(self, seen: Sequence[Observation], places: Sequence[int]) -> None:
        """Note the columns in which rows differ; refuse to pool if one law fits clearly worse."""
        columns = {
            name: groups.labels_of([self.cells.columns[name][k] for k in places])
            for name in self._categories()
        }
        found = groups.differences(seen, columns)
        if not found:
            return
        first = found[0]
        if first.is_clear:
            raise ObservationsError(
                f"the rows of {self.where} differ in `{first.column}` ({first.listed}), and one "
                f"law for all fits clearly worse than one for each: {100 * first.effect:.2g} % of "
                "loss between them",
                hint=f'--group "{first.column}" for one law each, --group "{first.column}='
                f'{next(iter(first.counts))}" for one of them, or --group none to pool them',
            )
        for each in found:
            said = f"rows differ in `{each.column}` ({each.listed}) and are pooled"
            if each.p_value is not None:
                said += ": one law fits them all"
            self.notes.append(
                Note("groups_pooled", f"{said}; --group {each.column} separates them")
            )

    def _say_settings(self, seen: Sequence[Observation], places: Sequence[int]) -> None:
        """Note a column of numbers by which losses differ, and repeats that differ much."""
        if len(seen) > _MOST_LOOKED_AT:
            return
        taken = set(self.choice.columns.values())
        settings = {
            name: groups.labels_of([cells[k] for k in places])
            for name, cells in self.cells.columns.items()
            if name not in taken and groups.is_setting(cells)
        }
        clear = [each for each in groups.differences(seen, settings) if each.is_clear]
        if clear:
            first = clear[0]
            said = (
                f"rows differ in `{first.column}` ({first.listed}), and one law for each fits "
                f"clearly better: {100 * first.effect:.2g} % of loss between them"
            )
            hint = f'--group "{first.column}" separates them'
            self.notes.append(Note("groups_differ", f"warning: {said}; {hint}"))
            return
        spread, repeated = groups.spread_of_repeats(seen)
        if spread < _WIDE_REPEATS:
            return
        columns = [
            f"`{name}`"
            for name, cells in self.cells.columns.items()
            if name not in self.columns.values()
            and any(len({str(cells[places[k]]) for k in rows}) > 1 for rows in repeated)
        ]
        cause = f"they also differ in {', '.join(columns[:5])}" if columns else "no column says why"
        self.notes.append(
            Note(
                "repeats_differ",
                f"warning: rows with equal params and tokens differ by {100 * spread:.2g} % of "
                f"loss (median of {len(repeated)} pairs), and {cause}",
            )
        )

    def _say_far_off(self, seen: Sequence[Observation], *, curves: bool) -> None:
        """Note rows far from the law of the others, as a wrong cell makes them."""
        from flops_fit.errors import FitError
        from flops_fit.fitting.curves import check_enough
        from flops_fit.fitting.surface import solve_surface

        if curves or not 2 * scales.MIN_ROWS <= len(seen) <= _MOST_LOOKED_AT:
            return
        try:
            check_enough(seen)
            law = solve_surface(seen, FitOptions(loss=Loss.HUBER), drop_outliers=False).law
        except FitError:
            return
        with np.errstate(all="ignore"):
            expected = np.array([law.loss(each.params, each.tokens) for each in seen])
            left = np.log(np.array([each.loss for each in seen]) / expected)
        scale = 1.4826 * float(np.median(np.abs(left - np.median(left))))
        limit = max(_FAR_OFF[0] * scale, _FAR_OFF[1])
        far: list[int] = np.flatnonzero(np.abs(left) > limit).tolist()
        if far:
            told = ", ".join(f"{seen[k].name} ({100 * left[k]:+.0f} %)" for k in far[:5])
            more = f" and {len(far) - 5} more" if len(far) > 5 else ""
            self.notes.append(
                Note("rows_far_off", f"loss far from the law of the other rows: {told}{more}")
            )

    def _summary(self, unit: str, used: int, left: int, aside: int) -> str:
        """Return one line with the columns, units and rows that were read."""
        parts = []
        for ours in (*COUNTS, "tokens_per_param", "flops_per_token", "step", "run"):
            if ours in self.columns:
                factor = self._scale_of(ours)
                word = _SCALE_WORDS.get(factor, f"times {format_flops(factor)}")
                unit_of = "" if factor == 1.0 else f" ({word})"
                parts.append(f"{ours} = `{self.columns[ours]}`{unit_of}")
        parts.append(f"loss = `{self.columns['loss']}` ({unit})")
        rows = f"{used} rows used, {left} left out"
        if aside:
            rows += f", {aside} repeat others"
        return f"read: {', '.join(parts)}; {rows}"


def _holds(column: Sequence[Any]) -> bool:
    """Return whether a column holds anything at all."""
    return any(not is_blank(cell) for cell in column)


def _list_some(rejected: Sequence[Excluded], most: int = 5) -> str:
    """Return the first rejected rows in words."""
    shown = "; ".join(f"{item.name}: {item.reason}" for item in rejected[:most])
    more = len(rejected) - most
    return f"{shown}; and {more} more" if more > 0 else shown
