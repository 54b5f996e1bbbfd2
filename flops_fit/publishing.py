"""Hand a finished report to the trackers that its trials were told to.

    python -m flops_fit worker RUN_DIR --publish

It stands in a process of its own, since trackers load torch and the process that reports does not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from flops_fit.rundir import RunDir


def publish_report(run: RunDir) -> dict[str, str]:
    """A run `report` in each of the manifest's trackers, with the report folder's files.

    Returns:
        What failed, by tracker.
    """
    from flops_fit.training.trackers import Run
    from flops_fit.worker import Bench

    trackers = Bench(run).make_trackers()
    if trackers is None or not run.report.is_dir():
        return {}
    trackers.start(Run("report", "report"), {})
    keep: dict[str, Callable[[Any], None]] = {
        "tensorboard": partial(_show_in_tensorboard, run.report),
        "wandb": partial(_keep_in_wandb, run.report),
        "mlflow": lambda tracker: tracker.log_artifacts(str(run.report), "report"),
    }
    trackers.each("keep the report", keep)
    trackers.finish("finished")
    return trackers.failures


def _show_in_tensorboard(folder: Path, tracker: Any) -> None:
    """TensorBoard keeps no files: the figures become images."""
    from matplotlib.image import imread

    for path in sorted(folder.glob("*.png")):
        picture = imread(path)[None, :, :, :3]  # float32, shape (1, height, width, 3)
        tracker.log_images({path.stem: picture}, step=0, dataformats="NHWC")


def _keep_in_wandb(folder: Path, tracker: Any) -> None:
    import wandb

    artifact = wandb.Artifact("report", type="report")
    artifact.add_dir(str(folder))
    tracker.tracker.log_artifact(artifact)
