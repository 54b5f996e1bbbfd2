"""Result: what the user keeps - `predict`, `chinchilla_table`, `plot`, `save`, `load`.

A result holds the laws, the trials that they rest on, what was left out and why, and a verdict on
how far to believe them. It needs no plugin and runs no user code; nothing heavy is imported before
a figure is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import FitError, ManifestError, Note
from flops_fit.fitting.details import Gain, Waste
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Excluded, Observation, Optimum, ReadRow
from flops_fit.manifest.frames import to_frame
from flops_fit.reporting.answers import (
    Answer,
    LossLaw,
    anchored,
    ask_law,
    data_constrained,
    loss_law_of,
    near_optimal_params,
    overtrain,
    serving,
    waste_of,
)
from flops_fit.reporting.archive import (
    describe_excluded,
    describe_failure,
    describe_fit,
    plain,
    read_fields,
    write_fields,
)
from flops_fit.reporting.budgets import asked_budgets, distinct_budgets, own_budgets
from flops_fit.reporting.verdict import (
    Judgement,
    Verdict,
    extrapolation_decades,
    headline_method,
    in_order,
    is_usable,
    judge,
)
from flops_fit.units import parse_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flops_fit.reporting.buildable import Setting
    from flops_fit.reporting.checklist import Check
    from flops_fit.reporting.comparison import Comparison
    from flops_fit.reporting.contents import Contents
    from flops_fit.reporting.figures.style import Columns
    from flops_fit.reporting.record import Record
    from flops_fit.reporting.screen import Screen
    from flops_fit.reporting.seal import Seal
    from flops_fit.reporting.tables.table import Table


@dataclass(frozen=True, repr=False)
class Result:
    """The fits, predictions and verdict of a sweep or of a table of finished runs.

    Attributes:
        fits: the laws, by method.
        failures: the methods that gave none, with the reason.
        observations: the finished trials.
        excluded: what was left out of every fit, and why.
        targets: budgets in FLOPs that predictions are asked for.
        notes: what a reader must know besides the verdict.
        unit: what one unit of data is called.
        loss_unit: what the loss is measured in.
        name: of the experiment or the table.
        plan_warnings: what the plan warned of.
        run_dir: where it came from, if from a run directory.
        predictions: optima that were worked out with the fits, intervals and all; others are worked
            out when they are asked for.
        wastes: what one method's allocation wastes if another's law is true, at the largest target.
        gains: the optimum at the largest target from the runs up to each level of compute.
        rows_read: how each row of a table was read; of a long table the rows that are not used.
    """

    fits: Mapping[str, Fit]
    failures: Mapping[str, FitError]
    observations: Sequence[Observation]
    excluded: Sequence[Excluded]
    targets: Sequence[float]
    notes: Sequence[Note]
    unit: str = "token"
    loss_unit: str = "nats"
    name: str = ""
    plan_warnings: Sequence[Note] = ()
    run_dir: Path | None = None
    predictions: Sequence[Optimum] = ()
    wastes: Sequence[Waste] = ()
    gains: Sequence[Gain] = ()
    rows_read: Sequence[ReadRow] = ()

    def __repr__(self) -> str:
        answer = "; ".join(self.answers()[-1:])
        return f"<Result of {self.name or 'runs'}: {self.verdict}{'; ' + answer if answer else ''}>"

    def _repr_html_(self) -> str:
        """Return the result as a notebook shows it: answer, verdict, table and isoFLOP curves."""
        from flops_fit.reporting.notebook import show_result

        return show_result(self, self.answers(), self.table("answer"), self._contents.figures)

    @cached_property
    def used(self) -> tuple[Observation, ...]:
        """The observations that were not left out."""
        out = {excluded.name for excluded in self.excluded}
        return tuple(o for o in self.observations if not o.name or o.name not in out)

    @property
    def asked(self) -> tuple[float, ...]:
        """The targets, in FLOPs, that are not the sweep's own budgets."""
        return asked_budgets(self._budgets(), self.targets, self.observations)

    @property
    def verdict(self) -> Judgement:
        """`trust`, `provisional` or `refuse`; `reasons` has the reasons."""
        return self._judged.judgement

    @property
    def reasons(self) -> list[Note]:
        """The reasons why the verdict is not `trust`, each with a code."""
        return list(self._judged.reasons)

    def predict(self, compute_budget: float | str, *, method: str | None = None) -> Optimum:
        """Return the compute-optimal model size and data for a budget, with 95 % intervals.

        Args:
            compute_budget: FLOPs, as a number or as text (`"1e20"`).
            method: which law to ask; by default the surface, or the first usable one after it.

        Raises:
            ValueError: the budget is not a positive number.
            FitError: no law, or not this one, came out of the observations.
        """
        return self._optimum(parse_number(compute_budget), self.fit(method))

    def fit(self, method: str | None = None) -> Fit:
        """Return the law of one method; by default the one that speaks for the result.

        Raises:
            FitError: the method gave no law, or was not asked for.
        """
        name = self.headline if method is None else method
        if name is not None and name in self.fits:
            return self.fits[name]
        if name is not None and name in self.failures:
            raise self.failures[name]
        if name is not None:
            known = ", ".join([*self.fits, *self.failures]) or "none"
            raise FitError(f"no method `{name}` was fitted; there are: {known}", code="no_method")
        told = "; ".join(f"{name}: {error.message}" for name, error in self.failures.items())
        raise FitError(
            f"there is no usable law{': ' if told else ''}{told}",
            code="no_usable_law",
            hint="`reasons` says what is missing; more budgets and sizes are the usual cure",
        )

    def chinchilla_table(
        self, budgets: Sequence[float | str] | None = None
    ) -> list[dict[str, Any]]:
        """Optimal params, tokens and loss at each budget, by each usable method.

        Args:
            budgets: FLOPs; by default the sweep's own budgets and then the targets.

        Returns:
            One row per budget and method: `budget_flops`, `method`, `params`, `tokens`,
            `tokens_per_param`, `loss`, their 95 % intervals (or None), `near_optimal`, the range
            of params that wastes at most 1 % of the compute (or None),
            `extrapolation_decades`, how far the budget lies beyond the data, and, where they are
            known, `nearest_size` (the size value that can be built), `wall_seconds` and `cost` of
            training it, and `is_rate_extrapolated`.
        """
        asked = self._budgets() if budgets is None else [parse_number(b) for b in budgets]
        return [self._row(budget, method) for budget in asked for method in self._methods()]

    def compute_for_loss(self, loss: float | str, *, method: str = "surface") -> Answer:
        """Return the least compute that reaches a loss, and the N and D to spend it on.

        Raises:
            FitError: no compute reaches it (`unreachable_loss`), or the method has no surface.
        """
        wanted = parse_number(loss)

        def question(law: LossLaw) -> Answer:
            optimum = law.frontier.optimum(law.compute_for(wanted))
            return law.answer(optimum.params, optimum.tokens)

        return ask_law(self.fit(method), question)

    def with_params(
        self,
        params: float | str,
        *,
        tokens: float | str | None = None,
        compute_budget: float | str | None = None,
        loss: float | str | None = None,
        method: str = "surface",
    ) -> Answer:
        """Return the allocation of a model of fixed size: for `tokens`, a budget, or a loss.

        Figures: `loss_limit`, the loss with endless data; `waste`, the share of the compute that a
        model of the optimal size would save.

        Raises:
            ValueError: not exactly one of tokens, compute_budget and loss is given.
            FitError: a model of this size does not reach the loss (`unreachable_loss`).
        """
        size = parse_number(params)
        name, value = _only(tokens=tokens, compute_budget=compute_budget, loss=loss)

        def question(law: LossLaw) -> Answer:
            match name:
                case "tokens":
                    seen = value
                case "compute_budget":
                    seen = value / law.flops_per_token(size)
                case _:
                    seen = law.tokens_for(size, value)
            limit = law.surface.loss(size, float("inf"))
            return law.answer(size, seen, loss_limit=limit, waste=waste_of(law, size, seen))

        return ask_law(self.fit(method), question)

    def with_tokens(
        self,
        tokens: float | str,
        *,
        params: float | str | None = None,
        compute_budget: float | str | None = None,
        loss: float | str | None = None,
        method: str = "surface",
    ) -> Answer:
        """Return the allocation of a fixed amount of fresh data: for `params`, a budget, or a loss.

        Figures: `loss_limit`, the loss of an endlessly large model; `waste`, as in `with_params`.

        Raises:
            ValueError: not exactly one of params, compute_budget and loss is given.
            FitError: no model reaches the loss on so little data (`unreachable_loss`).
        """
        seen = parse_number(tokens)
        name, value = _only(params=params, compute_budget=compute_budget, loss=loss)

        def question(law: LossLaw) -> Answer:
            match name:
                case "params":
                    size = value
                case "compute_budget":
                    size = law.params_within(seen, value)
                case _:
                    size = law.params_for(seen, value)
            limit = law.surface.loss(float("inf"), seen)
            return law.answer(size, seen, loss_limit=limit, waste=waste_of(law, size, seen))

        return ask_law(self.fit(method), question)

    def with_unique_tokens(
        self,
        unique_tokens: float | str,
        compute_budget: float | str,
        *,
        method: str = "surface",
    ) -> Answer:
        """Return the best allocation of a budget if tokens beyond `unique_tokens` repeat.

        The worth of repeats is that of language models (Muennighoff et al. 2023,
        arXiv:2305.16264); it is not fitted to these trials. Figures: `epochs`, and
        `loss_with_fresh_data`, the loss of the budget without repeats.
        """
        unique, budget = parse_number(unique_tokens), parse_number(compute_budget)
        return ask_law(self.fit(method), lambda law: data_constrained(law, budget, unique))

    def with_serving(
        self, loss: float | str, served_tokens: float | str, *, method: str = "surface"
    ) -> Answer:
        """Return the N that reaches a loss with the least FLOPs of training plus serving.

        Figures: `total_flops`; `saved`, against the compute-optimal model of the same loss;
        `params_without_serving`, that model's size. Source: Sardana et al. 2024 (arXiv:2401.00448).

        Raises:
            FitError: no compute reaches the loss (`unreachable_loss`).
        """
        wanted, served = parse_number(loss), parse_number(served_tokens)
        return ask_law(self.fit(method), lambda law: serving(law, wanted, served))

    def overtrained(
        self, compute_budget: float | str, multiple: float | str, *, method: str = "surface"
    ) -> Answer:
        """Return the loss at `multiple` times the optimal tokens per parameter and equal compute.

        Figures: `tokens_per_param` and `waste`, the share of the compute that the optimum would
        save. A multiple below 1 under-trains.
        """
        budget, times = parse_number(compute_budget), parse_number(multiple)
        return ask_law(self.fit(method), lambda law: overtrain(law, budget, times))

    def near_optimal(
        self, compute_budget: float | str, *, waste: float = 0.01, method: str = "surface"
    ) -> tuple[float, float]:
        """Return the smallest and the largest params that waste at most this share of a budget.

        Raises:
            ValueError: the share is not between 0 and 1.
        """
        if not 0 < waste < 1:
            raise ValueError(f"`waste` is not a share between 0 and 1: {waste}")
        budget = parse_number(compute_budget)
        law = self.law_near(budget, method) or loss_law_of(self.fit(method))
        return near_optimal_params(law, budget, waste)

    def law_near(self, budget: float, method: str) -> LossLaw | None:
        """Return a law of loss near a method's optimum, or None."""
        try:
            if method == "combination":
                law = loss_law_of(self.fit("surface"))
                return anchored(law, self.predict(budget, method=method))
            return loss_law_of(self.fit(method))
        except FitError:
            return None

    def _near_optimal(self, budget: float, method: str) -> tuple[float, float] | None:
        """Return the params that waste at most 1 % of a budget; None without a surface."""
        try:
            return self.near_optimal(budget, method=method)
        except FitError:
            return None

    def plot(self, columns: Columns = None) -> dict[str, Figure]:
        """Draw the figures that the observations allow, by name; for 1 or 2 columns if asked.

        `isoflop` (curves, parabolas, minima), `frontier` (N, D and loss against compute),
        `surface`, `residuals`, `curves` (of training), `agreement` (of the methods at targets),
        `gains` (what each level of compute bought), `costs` (expected and real).
        """
        return self._contents.draw(columns)

    def write_figures(
        self,
        directory: str | Path,
        formats: Sequence[str] = ("png", "svg"),
        *,
        columns: Columns = None,
        data: bool = False,
    ) -> list[Path]:
        """Write every figure into a directory, in each format; return the files' paths.

        Args:
            directory: where to; it is made.
            formats: `png`, `svg`, `pdf`.
            columns: of a paper that each figure fills; None: its natural size.
            data: whether the numbers of each figure are written beside it, as CSV.
        """
        from flops_fit.manifest.files import write_atomic
        from flops_fit.reporting.figures.numbers import to_csv
        from flops_fit.reporting.figures.style import save_figure

        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        figures = self._contents.figures if columns is None else self.plot(columns)
        written = [save_figure(figure, target / name, formats) for name, figure in figures.items()]
        for name, figure in figures.items() if data else ():
            path = target / f"{name}.csv"
            write_atomic(path, to_csv(figure))
            written.append([path])
        return [path for paths in written for path in paths]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data: what `report --json` prints."""
        judged = self._judged
        return {
            "name": self.name,
            "unit": self.unit,
            "loss_unit": self.loss_unit,
            "verdict": judged.judgement,
            "reasons": [note.to_dict() for note in judged.reasons],
            "notes": [note.to_dict() for note in self.notes],
            "observations": {
                "used": len(self.used),
                "excluded": [describe_excluded(excluded) for excluded in self.excluded],
            },
            "fits": {
                **{method: describe_fit(fit) for method, fit in self.fits.items()},
                **{method: describe_failure(error) for method, error in self.failures.items()},
            },
            "predictions": plain(self.rows),
            **plain(self._contents.extras()),
            "checklist": [check.to_dict() for check in self.checklist()],
        }

    def save(self, directory: str | Path) -> Path:
        """Write the result as `result.json` into a directory; return the file's path."""
        return write_fields(Path(directory), {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, directory: str | Path) -> Result:
        """Return the result that `save` left in a directory.

        Raises:
            RunDirError: there is none, or it was written in another format.
        """
        return cls(**read_fields(Path(directory)))

    def tables(self, *, without: Collection[str] = ()) -> dict[str, Table]:
        """Return the tables of the report by name, in the order of reading."""
        return self._contents.tables(without=without)

    def table_names(self) -> list[str]:
        """Return the names that `table` knows, in the order of reading."""
        shown = self._contents.tables(without={"observations"})
        return ["answer", *(["reasons"] if self.reasons else []), *shown, "observations"]

    def table(self, name: str) -> Table:
        """Return one table of the report: `answer`, `reasons`, or one of `tables`.

        Raises:
            ManifestError: there is no such table in this report.
        """
        from flops_fit.reporting.screen import reasons_table

        if name == "answer":
            return self._contents.answer()
        if name == "reasons":
            return reasons_table(self)
        left_out = {"observations"} - {name}
        found = self._contents.tables(without=left_out)
        if name not in found:
            raise ManifestError(
                f"this report has no table `{name}`",
                hint=f"it has: {', '.join(self.table_names())}",
            )
        return found[name]

    def to_pandas(self, table: str = "answer") -> Any:
        """Return one table of the report as a pandas data frame.

        Args:
            table: a name that `table_names` gives.

        Raises:
            ManifestError: there is no such table in this report, or pandas is not installed.
        """
        return to_frame(self.table(table).to_json())

    def figure_data(self, name: str) -> list[dict[str, Any]]:
        """Return the numbers of a figure, to draw them into axes of one's own.

        One row for each point: `panel`, `x_axis`, `y_axis`, `series`, `x`, `y`.

        Raises:
            ManifestError: there is no such figure.
        """
        from flops_fit.reporting.figures.numbers import numbers_of

        figures = self._contents.figures
        if name not in figures:
            raise ManifestError(
                f"this report has no figure `{name}`", hint=f"it has: {', '.join(figures)}"
            )
        return numbers_of(figures[name])

    def to_text(self, screen: Screen) -> list[str]:
        """Return the report as one screen: its lines, the first of which ends with the verdict."""
        from flops_fit.reporting.screen import render_screen

        return render_screen(self, screen, self._contents.buildable)

    def answers(self) -> list[str]:
        """Return a sentence with the optimum at each requested budget, or else at the largest."""
        return self._contents.answers()

    def to_html(self) -> str:
        """Return the report as one self-contained page: no script, no request to anywhere."""
        return self._contents.page()

    def seal(self, compute_budget: float | str, *, method: str | None = None) -> Seal:
        """Seal the prediction for a budget before the run: see `Seal.digest` and `Seal.score`.

        Raises:
            FitError: as for `predict`.
        """
        from flops_fit.reporting.seal import Seal

        budget, fit = parse_number(compute_budget), self.fit(method)
        return Seal.of(self._row(budget, fit.method), self.used)

    def compare(self, other: Result, *, method: str = "surface") -> Comparison:
        """Compare with another result: laws, and the compute that the other needs for equal loss.

        Raises:
            FitError: one of them has no such surface, or they differ in units.
        """
        from flops_fit.reporting.comparison import Side, compare

        sides = [
            Side(result.name or "result", result.fit(method), result.used)
            for result in (self, other)
        ]
        units = {
            "unit": (self.unit, other.unit),
            "loss_unit": (self.loss_unit, other.loss_unit),
        }
        return compare(sides[0], sides[1], units=units, budgets=self._budgets())

    def checklist(self) -> list[Check]:
        """Return the rules of a credible study: held or not, with the figure."""
        from flops_fit.reporting.checklist import checklist

        return checklist(
            self.fits, self.used, self.excluded, targets=self.targets, record=self.record
        )

    @cached_property
    def headline(self) -> str | None:
        """The method that speaks where none is asked for; None without a usable law."""
        return headline_method(self.fits)

    @property
    def size_param(self) -> str:
        """The manifest's name for the size of the model; `size` for a table."""
        return "size" if self.record is None else self.record.manifest.model.size_param

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The Chinchilla table at the sweep's budgets and the targets."""
        return self.chinchilla_table()

    @cached_property
    def _contents(self) -> Contents:
        """All that the report shows, gathered once for tables, figures and page."""
        from flops_fit.reporting.contents import Contents

        return Contents(self)

    @cached_property
    def record(self) -> Record | None:
        """The record of planning and training; None for a table."""
        from flops_fit.reporting.record import Record

        return Record.read(self.run_dir)

    @cached_property
    def setting(self) -> Setting:
        """The sizes that can be built, rates and prices."""
        from flops_fit.reporting.buildable import Setting

        return Setting.of(self.record, self.observations)

    @cached_property
    def _largest_flops(self) -> float:
        return max((o.flops for o in self.used), default=0.0)

    @cached_property
    def _judged(self) -> Verdict:
        """The verdict; a result does not change, so it is weighed once."""
        return judge(
            self.fits,
            self.failures,
            self.used,
            excluded=self.excluded,
            targets=self.targets,
            warnings=self.plan_warnings,
            notes=self.notes,
            predictions=self.predictions,
        )

    def _methods(self) -> list[str]:
        """Return the usable methods, the most trusted first."""
        return [method for method, fit in in_order(self.fits).items() if is_usable(fit)]

    def _budgets(self) -> list[float]:
        """Return the sweep's budgets, or round ones inside the data; then the targets."""
        return distinct_budgets([*own_budgets(self.observations), *self.targets])

    def _row(self, budget: float, method: str) -> dict[str, Any]:
        from flops_fit.reporting.buildable import with_setting

        optimum = self._optimum(budget, self.fits[method])
        beyond = optimum.extrapolation_decades
        row = {
            "budget_flops": budget,
            "method": method,
            "params": optimum.params,
            "near_optimal": self._near_optimal(budget, method),
            "tokens": optimum.tokens,
            "tokens_per_param": optimum.tokens_per_param,
            "loss": optimum.loss,
            "params_interval": optimum.params_interval,
            "tokens_interval": optimum.tokens_interval,
            "loss_interval": optimum.loss_interval,
            "extrapolation_decades": (
                extrapolation_decades(budget, self._largest_flops) if beyond is None else beyond
            ),
        }
        return with_setting(row, self.setting)

    def _optimum(self, budget: float, fit: Fit) -> Optimum:
        """Return the stored prediction for a budget, else what the fit says of it."""
        from flops_fit.fitting.predictions import predict

        for known in self.predictions:
            if known.method == fit.method and math.isclose(known.flops, budget, rel_tol=1e-9):
                return known
        return predict(fit, [budget])[0]


def _only(**given: float | str | None) -> tuple[str, float]:
    """Return the one argument that was given, with its value.

    Raises:
        ValueError: none was, or more than one.
    """
    stated = {name: value for name, value in given.items() if value is not None}
    if len(stated) != 1:
        names = ", ".join(given)
        raise ValueError(f"expected exactly one of {names}; got {', '.join(stated) or 'none'}")
    ((name, value),) = stated.items()
    assert value is not None
    return name, parse_number(value)
