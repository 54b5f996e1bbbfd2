"""Predictions sealed in the ledger before the big run, and scored afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flops_fit.errors import RunDirError
from flops_fit.ledger import Entry, Ledger, read_ledger
from flops_fit.reporting.seal import Seal
from flops_fit.result import Result
from flops_fit.rundir import RunDir

_SAME = 1e-6  # relative: budgets that differ by less are one


def seal_prediction(directory: Path, result: Result, budget_flops: float) -> Seal:
    """Write the prediction for a budget into the run's ledger, with its digest and the time.

    Raises:
        RunDirError: the sweep is still being conducted.
        FitError: there is no law to predict with.
    """
    seal = result.seal(budget_flops)
    _append(directory, "prediction_sealed", seal.to_dict())
    return seal


def seals_of(directory: Path, budget_flops: float) -> list[Entry]:
    """The entries that sealed a prediction for a budget, the first one first."""
    return [
        entry
        for entry in read_ledger(RunDir(directory).ledger)
        if entry.event == "prediction_sealed"
        and abs(entry.fields["prediction"]["budget_flops"] / budget_flops - 1) < _SAME
    ]


def score_prediction(directory: Path, budget_flops: float, loss: float) -> dict[str, Any]:
    """Hold the first prediction that was sealed for a budget against the real loss.

    Later seals may have been made with the loss in sight, so they are named and not scored.

    Returns:
        `budget_flops`, `sealed_at`, `sha256`, what `Seal.score` gives, and `later_seals`, each with
        `sealed_at`, `sha256` and the loss that it predicted.

    Raises:
        RunDirError: none was sealed for this budget, or the seal is broken.
    """
    sealed = seals_of(directory, budget_flops)
    if not sealed:
        raise RunDirError(
            f"no prediction for {budget_flops:g} FLOPs is sealed in `{directory}`",
            hint=f"seal one before the run: flops-fit report {directory} --seal {budget_flops:g}",
        )
    first, *later = sealed
    scored = {
        "budget_flops": budget_flops,
        "sealed_at": first.at,
        "sha256": first.fields["sha256"],
        **Seal.from_dict(first.fields).score(loss),
        "later_seals": [
            {
                "sealed_at": entry.at,
                "sha256": entry.fields["sha256"],
                "predicted": entry.fields["prediction"]["loss"],
            }
            for entry in later
        ],
    }
    _append(directory, "prediction_scored", scored)
    return scored


def _append(directory: Path, event: str, fields: dict[str, Any]) -> None:
    """Add one entry as the ledger's one writer."""
    run = RunDir(directory)
    with run.lock():
        ledger = Ledger.open(run.ledger)
        try:
            ledger.append(event, **fields)
        finally:
            ledger.close()
