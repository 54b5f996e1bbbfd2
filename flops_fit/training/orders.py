"""What a trainer receives: ingredients, files and controls.

`loop.train` is the trainer of this package. Any callable of the same form can take its place: it
trains a trial, writes only below the given folders, and returns the outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Outcome, Trial
from flops_fit.training.building import Build
from flops_fit.training.calling import Loss
from flops_fit.training.data.batches import LoadedData

if TYPE_CHECKING:
    from flops_fit.training.trackers import Trackers


class Interrupted(Exception):  # noqa: N818  # It is a way to end, not an error.
    """The trial was asked to stop; its checkpoint lets it continue."""


@dataclass(frozen=True)
class Ingredients:
    """What every trial of a sweep is trained from.

    Attributes:
        build: makes the model of a size value on torch's current default device.
        data: training and held-out set.
        loss: (outputs, targets) -> mean loss of the batch, a scalar tensor in nats per unit.
        recipe: how to train: optimizer, schedule, batch and precision.
    """

    build: Build
    data: LoadedData
    loss: Loss
    recipe: Recipe


@dataclass(frozen=True)
class TrialFiles:
    """Where a trial writes.

    Attributes:
        directory: the trial's own; `curve.jsonl` and `checkpoint/` are written there.
        trunk: directory of the trunk that the trial shares with others, where it does.
    """

    directory: Path
    trunk: Path | None = None


@dataclass(frozen=True)
class Controls:
    """How a trial is run on this machine; nothing here changes its loss.

    Attributes:
        device: `cpu`, `cuda` or `mps`; None: the best there is.
        threads: CPU threads of this process.
        should_stop: asked at every step; once true, a checkpoint is saved and `Interrupted` raised.
        progress: receives {trial_id, step, steps, loss} at most twice a second.
        checkpoint_seconds: time between two checkpoints.
        keep_checkpoints: keep them when the trial has ended, one of its last step among them.
        trackers: receive the same numbers; whoever made them closes them. Only the first process
            of a trial uses its own.
    """

    device: str | None = None
    threads: int = 1
    should_stop: Callable[[], bool] = lambda: False
    progress: Callable[[dict[str, Any]], None] | None = None
    checkpoint_seconds: float = 300.0
    keep_checkpoints: bool = False
    trackers: Trackers | None = None


class Trainer(Protocol):
    """Trains one trial to its end, from its checkpoint if there is one, and returns its outcome.

    Raises:
        Interrupted: `controls.should_stop` returned true; a later call continues the trial.
    """

    def __call__(
        self, trial: Trial, ingredients: Ingredients, files: TrialFiles, controls: Controls
    ) -> Outcome:
        """Train one trial."""
        ...
