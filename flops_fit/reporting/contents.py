"""The contents of a report, in order: its tables and the sections of its page."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flops_fit.fitting.points import Observation
from flops_fit.reporting.buildable import buildable_rows
from flops_fit.reporting.checklist import checklist_table
from flops_fit.reporting.costs import TrialCost, cost_rows, trial_costs
from flops_fit.reporting.reported import Reported
from flops_fit.reporting.sentences import answer_sentence
from flops_fit.reporting.tables import costs as economy
from flops_fit.reporting.tables import table as tables
from flops_fit.reporting.tables.speeds import speed_rows, speeds_table
from flops_fit.reporting.tables.table import Table
from flops_fit.reporting.verdict import in_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flops_fit.reporting.figures.style import Columns
    from flops_fit.reporting.page import Section

_MAX_LISTED = 200  # observations on the page; all of them are in the CSV and JSON
_OPEN = ("isoflop", "frontier", "methods", "buildable")  # the rest of the page is folded
_ORDER = (
    "methods", "buildable", "agreement", "wastes", "frontier", "isoflop", "minima", "laws",
    "conventions",
    "surface", "residuals", "curves", "transfer", "gains", "costs", "speeds", "excluded",
    "checklist", "observations",
)  # fmt: skip
_CAPTIONS = {
    "isoflop": (
        "IsoFLOP curves",
        "Held-out loss against model size, one curve per compute budget. Stars: minima of the "
        "parabolas. Dotted: no minimum to believe. Crosses: left out of the fits.",
    ),
    "frontier": (
        "Compute-optimal frontier",
        "Optimal model size, data and loss against compute, by each method.",
    ),
    "surface": (
        "Loss surface",
        "The fitted loss over model size and data, with the trials and the optimal path.",
    ),
    "residuals": ("Residuals", "How far each trial lies above the fitted surface."),
    "curves": ("Training curves", "Held-out loss along each training, against compute."),
    "transfer": (
        "Learning-rate transfer",
        "Loss above the best of its size against learning rate, with a parabola near the best; and "
        "the best rate of each size, beside what the manifest's rule gives from the smallest on.",
    ),
    "gains": (
        "What each level of compute bought",
        "The answer at the largest target from the runs up to each level of compute; bars and "
        "shade: 95 % intervals from the noise of the runs.",
    ),
    "costs": (
        "Expected and real time",
        "Wall-clock of each trial against the estimate made before the sweep began.",
    ),
    "agreement": (
        "Agreement of the methods",
        "What each method names at each target; bars: 95 % intervals, where known.",
    ),
}


@dataclass(frozen=True)
class Contents:
    """All that a report shows of a result, each part worked out once."""

    result: Reported

    def tables(self, *, without: Collection[str] = ()) -> dict[str, Table]:
        """Return the report's tables by name, in the order in which they are read."""
        unit, loss_unit = self.result.unit, self.result.loss_unit
        found: dict[str, Table] = {}
        if self.result.rows:
            notes = self.result.setting.notes(self.result.rows)
            found["methods"] = tables.chinchilla_table(
                self.result.rows, unit, loss_unit, notes=notes
            )
        if self.buildable:
            found["buildable"] = economy.buildable_table(
                self.buildable, unit, loss_unit, notes=self.result.setting.notes(self.buildable)
            )
        isoflop = self.result.fits.get("isoflop")
        if isoflop is not None and isoflop.minima:
            found["minima"] = tables.minima_table(isoflop.minima, unit, loss_unit)
        if self.result.fits:
            found["laws"] = tables.laws_table(in_order(self.result.fits))
        if self.conventions:
            found["conventions"] = economy.conventions_table(self.conventions)
        largest = max((waste.budget_flops for waste in self.result.wastes), default=None)
        if largest is not None:
            shown = [waste for waste in self.result.wastes if waste.budget_flops == largest]
            found["wastes"] = economy.wastes_table(shown)
        if self.result.gains:
            found["gains"] = economy.gains_table(self.result.gains, loss_unit)
        if self.costs:
            found["costs"] = economy.costs_table(self.costs, self._basis)
        if self.speeds:
            found["speeds"] = speeds_table(self.speeds, unit)
        if self.result.excluded:
            found["excluded"] = tables.excluded_table(self.result.excluded)
        found["checklist"] = checklist_table(self.result.checklist())
        if "observations" not in without:  # a table of 100,000 rows takes a second to make
            found["observations"] = tables.observations_table(
                self.result.observations,
                self.result.excluded,
                self.result.fits.get("surface"),
                unit,
                loss_unit,
            )
        return {name: table for name, table in found.items() if name not in without}

    def answer(self) -> Table:
        """Return the headline's optimum at each budget."""
        rows = [row for row in self.result.rows if row["method"] == self.result.headline]
        return tables.chinchilla_table(
            rows, self.result.unit, self.result.loss_unit, notes=self.result.setting.notes(rows)
        )

    @cached_property
    def buildable(self) -> list[dict[str, Any]]:
        """The sizes around the headline's optimum at each budget; none where no size is known."""
        method = self.result.headline
        if method is None:
            return []
        optima = {
            row["budget_flops"]: row["params"]
            for row in self.result.rows
            if row["method"] == method
        }
        laws = {budget: self.result.law_near(budget, method) for budget in optima}
        return buildable_rows(laws, self.result.setting, optima)

    @cached_property
    def conventions(self) -> list[dict[str, Any]]:
        """The exponents under each convention of N and C; empty if all count the same."""
        from flops_fit.fitting.conventions import by_convention

        return by_convention(self.result.fits)

    @cached_property
    def trial_costs(self) -> list[TrialCost]:
        """Return the expected and the real time of each trial; empty without a run directory."""
        return [] if self.result.record is None else trial_costs(self.result.record)

    @cached_property
    def costs(self) -> list[dict[str, Any]]:
        """Expected and real cost: a row for each budget, and one for the sweep."""
        return cost_rows(self.trial_costs, price_per_device_second=self.result.setting.cost(1.0))

    @cached_property
    def speeds(self) -> list[dict[str, Any]]:
        """Return the training speed of each size; empty without a run directory."""
        return [] if self.result.record is None else speed_rows(self.result.record)

    @property
    def _basis(self) -> str:
        """Return the source of the expected times."""
        record = self.result.record
        return "" if record is None else record.estimate.basis

    def extras(self) -> dict[str, Any]:
        """Return the parts of the JSON other than fits, predictions and checks."""
        return {
            "buildable": self.buildable,
            "conventions": self.conventions,
            "costs": self.costs,
            "gains": [asdict(gain) for gain in self.result.gains],
            "speeds": self.speeds,
            "wastes": [asdict(waste) for waste in self.result.wastes],
        }

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The report's figures by name, those that these observations allow; drawn once."""
        return self.draw()

    def draw(self, columns: Columns = None) -> dict[str, Figure]:
        """Draw the figures again, in their natural sizes or for one or two columns of a paper."""
        from flops_fit.reporting.figures.gallery import draw

        return draw(
            self.result,
            columns,
            curves=self.training_curves(),
            trial_costs=self.trial_costs,
        )

    def training_curves(self) -> dict[str, list[Observation]]:
        """Points of training curves by training: from the run directory, or from the table."""
        curves = {} if self.result.record is None else self.result.record.curves()
        for seen in self.result.observations:
            if seen.run is not None and seen.step is not None:
                curves.setdefault(seen.run, []).append(seen)
        return {name: curve for name, curve in curves.items() if len(curve) > 1}

    def page(self) -> str:
        """Return the report as one self-contained HTML page."""
        from flops_fit.reporting.page import Section, render_page

        is_long = len(self.result.observations) > _MAX_LISTED
        shown = self.tables(without={"observations"} if is_long else set())
        found = {name: Section(table.title, table=table) for name, table in shown.items()}
        for name, figure in self.figures.items():
            drawn = _figure_section(name, figure)
            # Where a figure shows what a table says, the two stand under one title.
            found[name] = replace(found[name], image=drawn.image) if name in found else drawn
        order = dict.fromkeys([*_OPEN, *_ORDER, *found])
        sections = [
            replace(found[name], is_folded=name not in _OPEN) for name in order if name in found
        ]
        return render_page(
            self.result.name or "Scaling law",
            self.result.verdict,
            reasons=self.result.reasons,
            answers=self.answers(),
            notes=[note for note in self.result.notes if note not in self.result.reasons],
            sections=[*sections, *self._rows_read(), *self._provenance()],
        )

    def answers(self) -> list[str]:
        """Return the predictions asked for, else that at the largest budget, a sentence each.

        By the method that speaks first; none where there is no law to believe.
        """
        if self.result.verdict == "refuse":
            return []
        unit, loss_unit = self.result.unit, self.result.loss_unit
        sizes = [o.params for o in self.result.used]
        rows = [row for row in self.result.rows if row["method"] == self.result.headline]
        asked = self.result.asked or [max((r["budget_flops"] for r in rows), default=0.0)]
        return [
            answer_sentence(row, unit, loss_unit, sizes=sizes)
            for row in rows
            if row["budget_flops"] in asked
        ]

    def _rows_read(self) -> list[Section]:
        """Return how each row of a table was read; none for a run directory."""
        from flops_fit.reporting.page import Section

        if not self.result.rows_read:
            return []
        notes = [note.message for note in self.result.notes if note.code == "table_read"]
        if all(not row.used for row in self.result.rows_read):
            notes.append("Rows that are used are not listed: `--explain` prints them.")
        table = tables.rows_table(self.result.rows_read, "How each row was read", notes)
        return [Section(table.title, table=table)]

    def _provenance(self) -> list[Section]:
        """Fingerprint, versions and manifest of the run, if there is one."""
        from flops_fit.reporting.page import Section

        if self.result.record is None:
            return []
        provenance = self.result.record.provenance
        lines = ["fingerprint  not recorded"]
        if provenance is not None:
            lines = [
                f"fingerprint  {provenance.fingerprint}",
                *(f"{name:<12} {version}" for name, version in provenance.versions.items()),
                *(f"data.{name}: {value}" for name, value in (provenance.data or {}).items()),
            ]
        return [
            Section("Provenance", text="\n".join(lines), is_folded=True),
            Section("Manifest", text=self.result.record.manifest_text, is_folded=True),
        ]


def _figure_section(name: str, figure: Figure) -> Section:
    from flops_fit.reporting.page import Image, Section

    title, caption = _CAPTIONS[name]
    return Section(title, image=Image(figure, caption))
