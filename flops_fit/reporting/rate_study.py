"""A study of learning rates read from its run directory; loads no plugin and no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import FitError
from flops_fit.fitting.carryover import Transfer, fit_transfer
from flops_fit.fitting.rates import RatePoint
from flops_fit.manifest.files import write_json
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.rules import settings
from flops_fit.manifest.trials import Trial
from flops_fit.reporting.tables.rates import describe_transfer, optima_table, rule_costs_table
from flops_fit.sweep.ledger import LedgerState, read_ledger, replay
from flops_fit.sweep.provenance import read_plan, resume
from flops_fit.sweep.rundir import RunDir

if TYPE_CHECKING:
    from flops_fit.reporting.tables.table import Table

_RULES = ("constant", "width", "porian", "params-data", "steplaw", "deepseek", "powerlines")
"""Rules of different shapes; `mup` moves a matrix's rate as `width`, and `params` as `porian`."""

_SAME_SHAPE = {"mup": "width", "params": "porian"}


@dataclass(frozen=True)
class TransferResult:
    """A study of learning rates and its result.

    Attributes:
        transfer: optima, slope, verdict and costs.
        name: of the experiment.
        rule: the manifest's learning-rate rule.
        size_param: the argument that sets the size (`d_model`).
        unit, loss_unit: what one unit of data is called, and what the loss is measured in.
        spent_flops: of all trials so far, whatever came of them.
    """

    transfer: Transfer
    name: str
    rule: str
    size_param: str
    unit: str
    loss_unit: str
    spent_flops: float

    def tables(self) -> dict[str, Table]:
        """Return the optimum at each size, and what each rule would cost."""
        found = {"optima": optima_table(self.transfer, self.size_param, self.unit, self.loss_unit)}
        if self.transfer.costs:
            found["costs"] = rule_costs_table(self.transfer, self.size_param)
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "name": self.name,
            "rule": self.rule,
            "size_param": self.size_param,
            "unit": self.unit,
            "loss_unit": self.loss_unit,
            "spent_flops": self.spent_flops,
            **describe_transfer(self.transfer),
        }

    def write(self, folder: Path) -> list[Path]:
        """Write `transfer.json` and the figure into a folder; the paths."""
        from flops_fit.reporting.figures.rates import transfer_figure
        from flops_fit.reporting.figures.style import save_figure

        folder.mkdir(parents=True, exist_ok=True)
        data = folder / "transfer.json"
        write_json(data, self.to_dict())
        figure = transfer_figure(self.transfer, size_param=self.size_param, rule=self.rule)
        return [data, *save_figure(figure, folder / "transfer")]


def read_transfer(directory: Path) -> TransferResult:
    """Fit what a study's run directory holds so far.

    Raises:
        RunDirError: it is no run directory, or holds a sweep.
        FitError: no trial has ended yet.
    """
    run = RunDir(directory)
    prepared = resume(directory, study="transfer")
    plan = read_plan(run)
    state = replay(read_ledger(run.ledger)) if run.ledger.exists() else replay([])
    manifest = prepared.manifest
    recipe = manifest.training
    points = _points(plan.trials, state, recipe)
    if not points:
        raise FitError(
            f"`{directory}` has no finished trial yet",
            code="no_observations",
            hint=f"`flops-fit transfer {directory}` continues it",
        )
    own = _SAME_SHAPE.get(recipe.learning_rate_rule, recipe.learning_rate_rule)
    return TransferResult(
        transfer=fit_transfer(points, _shapes(plan.trials), own=own),
        name=manifest.name,
        rule=recipe.learning_rate_rule,
        size_param=manifest.model.size_param,
        unit=prepared.description.facts.unit,
        loss_unit=prepared.description.facts.loss_unit,
        spent_flops=state.spent_flops,
    )


def _points(trials: Sequence[Trial], state: LedgerState, recipe: Recipe) -> list[RatePoint]:
    """Return the trials that ended, each with the rate it had."""
    points = []
    for trial in trials:
        if state.is_pending(trial):
            continue
        entry = state.finished.get(trial.trial_id)
        rate = settings(
            recipe, size=trial.size, tokens=trial.tokens, batch_tokens=trial.batch_tokens
        ).matrix_rate
        points.append(
            RatePoint(
                size_value=float(trial.size.size_value),
                params=trial.size.params,
                tokens=trial.tokens,
                factor=trial.learning_rate_factor,
                rate=rate * trial.learning_rate_factor,
                seed=trial.seed,
                loss=None if entry is None else entry.loss,
            )
        )
    return points


def _shapes(trials: Sequence[Trial]) -> Mapping[str, Mapping[float, float]]:
    """By rule and size value: the rate of weight matrices, up to a factor of the rule's own."""
    shapes: dict[str, dict[float, float]] = {}
    for rule in _RULES:
        alone = Recipe(
            learning_rate=1.0, learning_rate_rule=rule,  # type: ignore[arg-type]
            reference_size=1.0, reference_params=1.0, reference_flops=1.0, batch_tokens=1,
            batch_reference_tokens=1.0,
        )  # fmt: skip
        shapes[rule] = {
            float(trial.size.size_value): settings(
                alone, size=trial.size, tokens=trial.tokens, batch_tokens=trial.batch_tokens
            ).matrix_rate
            for trial in trials
        }
    return shapes
