"""Sends a finished report to the trackers of [training] log_with.

    python -m flops_fit worker RUN_DIR --publish

A child process does it: trackers load torch, and the process that reports does not.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from flops_fit.experiment.interpreter import python_command
from flops_fit.manifest.manifest import read_manifest
from flops_fit.sweep.provenance import read_provenance
from flops_fit.sweep.rundir import RunDir
from flops_fit.sweep.worker import Bench


def send_report(run: RunDir) -> dict[str, str]:
    """Send the report folder to each of the manifest's trackers, as a run named `report`.

    Returns:
        The failures, by tracker.
    """
    from flops_fit.training.trackers import Run

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
    """Send the figures as images: TensorBoard keeps no files."""
    from matplotlib.image import imread

    for path in sorted(folder.glob("*.png")):
        picture = imread(path)[None, :, :, :3]  # float32, shape (1, height, width, 3)
        tracker.log_images({path.stem: picture}, step=0, dataformats="NHWC")


def _keep_in_wandb(folder: Path, tracker: Any) -> None:
    import wandb

    artifact = wandb.Artifact("report", type="report")
    artifact.add_dir(str(folder))
    tracker.tracker.log_artifact(artifact)


def publish_report(run: RunDir) -> dict[str, str]:
    """Send a trained sweep's report to its trackers; return the failures by tracker."""
    manifest = read_manifest(run.manifest)
    if not manifest.training.log_with or read_provenance(run).is_simulated:
        return {}
    command = [*python_command(), "-m", "flops_fit", "worker", str(run.path), "--publish"]
    run.trackers.mkdir(exist_ok=True)
    with (run.trackers / "publish.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, check=False)
    answer = done.stdout.strip().splitlines()
    if done.returncode != 0 or not answer:
        return dict.fromkeys(manifest.training.log_with, f"see `{log.name}`")
    failures: dict[str, str] = json.loads(done.stdout)
    return failures
