"""The figures of a report, and the function that draws each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from flops_fit.fitting.details import Gain
from flops_fit.fitting.points import Observation
from flops_fit.reporting.costs import TrialCost
from flops_fit.reporting.figures import costs as spending
from flops_fit.reporting.figures import diagnostics
from flops_fit.reporting.figures import frontier as frontiers
from flops_fit.reporting.figures import isoflop as figures
from flops_fit.reporting.figures.rates import transfer_figure
from flops_fit.reporting.figures.style import Columns, figure_text
from flops_fit.reporting.reported import Reported
from flops_fit.reporting.tables.rates import transfer_from
from flops_fit.reporting.verdict import headline_method, in_order, is_usable

_WIDEST = 1e12  # upper over lower end of an interval that is still drawn


def draw(
    report: Reported,
    columns: Columns,
    *,
    curves: Mapping[str, Sequence[Observation]],
    trial_costs: Sequence[TrialCost],
) -> dict[str, Figure]:
    """Return the figures that a result's observations allow, by name, in the order of reading.

    Args:
        report: the result.
        columns: of a paper that each figure fills; None: its own size.
        curves: points of training curves, by training.
        trial_costs: what each trial was expected to take, and took.
    """
    unit, loss_unit = figure_text(report.unit), figure_text(report.loss_unit)
    found: dict[str, Figure] = {}
    usable = {method: fit for method, fit in in_order(report.fits).items() if is_usable(fit)}
    used = report.used
    isoflop = report.fits.get("isoflop")
    has_curves = isoflop is not None and bool(isoflop.minima)
    if has_curves or any(o.budget_flops is not None for o in report.observations):
        found["isoflop"] = figures.isoflop_figure(
            report.fits, report.observations, unit, loss_unit, excluded=report.excluded,
            columns=columns,
        )  # fmt: skip
    if usable and used:
        first = next(iter(usable))
        bands = [row for row in report.rows if row["method"] == first]
        found["frontier"] = frontiers.frontier_figure(
            usable, used, unit, loss_unit, targets=report.asked, bands=bands, columns=columns
        )
    surface = usable.get("surface")
    if surface is not None and used and "alpha" in surface.parameters:
        found["surface"] = diagnostics.surface_figure(
            surface, used, unit, loss_unit, targets=report.asked, columns=columns
        )
        found["residuals"] = diagnostics.residuals_figure(
            surface, report.observations, unit, excluded=report.excluded, columns=columns
        )
    if curves:
        speaks = headline_method(usable)
        envelope = None if speaks is None else usable[speaks]
        found["curves"] = diagnostics.curves_figure(
            curves, loss_unit, envelope=envelope, columns=columns
        )
    study = None if report.record is None else report.record.transfer
    if study is not None:
        found["transfer"] = transfer_figure(
            transfer_from(study),
            size_param=figure_text(study["size_param"]),
            rule=figure_text(study["rule"]),
            columns=columns,
        )
    if len(usable) > 1 and report.asked:
        rows = [row for row in report.rows if row["budget_flops"] in report.asked]
        found["agreement"] = diagnostics.agreement_figure(rows, unit, columns=columns)
    bought = [row for row in report.gains if _can_be_drawn(row)]
    if len(bought) > 1:
        found["gains"] = spending.gains_figure(bought, loss_unit, columns=columns)
    if any(cost.expected_seconds and cost.has_ended for cost in trial_costs):
        found["costs"] = spending.costs_figure(trial_costs, columns=columns)
    return found


def _can_be_drawn(gain: Gain) -> bool:
    """Return whether both intervals are known and narrow enough not to flatten all others."""
    intervals = gain.params_interval, gain.loss_interval
    return all(pair is not None and pair[1] < pair[0] * _WIDEST for pair in intervals)
