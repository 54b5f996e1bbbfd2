"""A prediction sealed before the big run, and scored when its real loss is known.

A seal holds the prediction and a digest of the observations that it rests on. Its own digest is
the SHA-256 of both as canonical JSON (keys sorted, no spaces): written down before the run, in a
ledger or anywhere public, it shows afterwards that neither was changed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flops_fit.errors import RunDirError
from flops_fit.fitting.points import Observation
from flops_fit.manifest.files import from_plain
from flops_fit.reporting.archive import observations_to_dict, plain
from flops_fit.sweep.entries import Entry, PredictionScored, PredictionSealed
from flops_fit.sweep.ledger import Ledger, read_ledger
from flops_fit.sweep.rundir import RunDir


@dataclass(frozen=True)
class Seal:
    """A prediction that can no longer be changed unnoticed.

    Attributes:
        prediction: a row of the Chinchilla table.
        observations_digest: of the trials that it rests on.
    """

    prediction: Mapping[str, Any]
    observations_digest: str

    @classmethod
    def of(cls, prediction: Mapping[str, Any], observations: Sequence[Observation]) -> Seal:
        """Seal a row of the Chinchilla table."""
        return cls(plain(prediction), _digest(observations_to_dict(observations)))

    @property
    def digest(self) -> str:
        """64 hexadecimal digits: what to write down before the run."""
        return _digest(self._content())

    def to_dict(self) -> dict[str, Any]:
        """Return the seal as plain data, with its digest."""
        return {**self._content(), "sha256": self.digest}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Seal:
        """Return the object that `to_dict` made plain.

        Raises:
            RunDirError: the seal is broken: its digest is not that of its content.
        """
        seal = cls(data["prediction"], data["observations_digest"])
        if seal.digest != data["sha256"]:
            raise RunDirError(
                f"the seal is broken: its content has the SHA-256 {seal.digest}, not "
                f"{data['sha256']}",
                hint="take the file as it was written when the prediction was sealed",
            )
        return seal

    def score(self, loss: float) -> dict[str, Any]:
        """Error of a sealed prediction.

        Args:
            loss: the real held-out loss of the big run, in the unit of the prediction.

        Returns:
            `predicted`, `loss`, `error` (predicted - real), `error_percent` of the real loss, and
            `is_inside`, whether the real loss lies in the 95 % interval (None without one).

        Raises:
            ValueError: the loss is not positive and finite, or none was predicted.
        """
        predicted = self.prediction["loss"]
        if predicted is None:
            raise ValueError(f"the method {self.prediction['method']} predicted no loss")
        if not (math.isfinite(loss) and loss > 0):
            raise ValueError(f"not a positive, finite loss: {loss}")
        interval = self.prediction.get("loss_interval")
        return {
            "predicted": predicted,
            "loss": loss,
            "error": predicted - loss,
            "error_percent": 100 * (predicted / loss - 1),
            "is_inside": None if interval is None else interval[0] <= loss <= interval[1],
        }

    def _content(self) -> dict[str, Any]:
        return {
            "prediction": dict(self.prediction),
            "observations_digest": self.observations_digest,
        }


def _digest(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


_SAME = 1e-6  # relative: budgets that differ by less are one


def seal_prediction(directory: Path, seal: Seal) -> None:
    """Write a sealed prediction into the run's ledger, with its digest and the time.

    Raises:
        RunDirError: the sweep is still being conducted.
    """
    _append(directory, PredictionSealed(**seal.to_dict()))


def seals_of(directory: Path, budget_flops: float) -> list[PredictionSealed]:
    """Return the entries that sealed a prediction for a budget, the first one first."""
    return [
        entry
        for entry in read_ledger(RunDir(directory).ledger)
        if isinstance(entry, PredictionSealed) and abs(_budget_of(entry) / budget_flops - 1) < _SAME
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
        "sha256": first.sha256,
        **Seal.from_dict(asdict(first)).score(loss),
        "later_seals": [
            {
                "sealed_at": entry.at,
                "sha256": entry.sha256,
                "predicted": entry.prediction["loss"],
            }
            for entry in later
        ],
    }
    _append(directory, from_plain(PredictionScored, scored))
    return scored


def _budget_of(entry: PredictionSealed) -> float:
    """Return the budget of a sealed prediction, in FLOPs; NaN if it has none."""
    budget = entry.prediction.get("budget_flops")
    return float(budget) if isinstance(budget, int | float) else math.nan


def _append(directory: Path, entry: Entry) -> None:
    """Add one entry as the ledger's one writer."""
    run = RunDir(directory)
    with run.lock():
        ledger = Ledger.open(run.ledger)
        try:
            ledger.append(entry)
        finally:
            ledger.close()
