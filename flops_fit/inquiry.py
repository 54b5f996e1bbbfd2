"""Questions about an experiment, put to a child process that loads its plugins.

The child imports torch and the user's code; the process that plans, conducts and reports does not.
So a command that only plans starts fast, a conductor holds no GPU memory, and a plugin that takes
the interpreter down takes down only the child.

    python -m flops_fit.inquiry QUESTION.json ANSWER.json

The question holds `manifest` (a path), `search_path`, and for timings `trials`; the answer holds
`description`, or `timings`, or `error`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flops_fit import errors
from flops_fit.description import Description
from flops_fit.errors import FlopsFitError, PluginError
from flops_fit.estimate import Timing
from flops_fit.experiment import Experiment, describe, load_experiment
from flops_fit.manifest import read_manifest
from flops_fit.points import Trial


def ask_description(manifest: Path, *, search_path: Sequence[Path]) -> Description:
    """The description of a manifest's experiment.

    Raises:
        PluginError: a plugin is missing or breaks its contract.
    """
    (answer,) = _ask(
        {"manifest": str(manifest), "search_path": [str(folder) for folder in search_path]}
    )
    return Description.from_dict(answer["description"])


def ask_timings(
    manifest: Path, trials: Sequence[Trial], *, search_path: Sequence[Path], side_by_side: int
) -> list[Timing]:
    """Time some trials' sizes, in as many processes side by side as the sweep will use.

    The slowest answer counts for each size: trials that run side by side share the machine.
    """
    question = {
        "manifest": str(manifest),
        "search_path": [str(folder) for folder in search_path],
        "trials": [trial.to_dict() for trial in trials],
    }
    answers = [
        [Timing(**timing) for timing in answer["timings"]]
        for answer in _ask(question, copies=side_by_side)
    ]
    return [
        max(measured, key=lambda timing: timing.seconds_per_token)
        for measured in zip(*answers, strict=True)
    ]


def time_sizes(experiment: Experiment, trials: Sequence[Trial]) -> list[Timing]:
    """Time the sizes of these trials in this process."""
    from flops_fit.training.probe import time_size

    manifest = experiment.manifest
    timings = []
    for trial in trials:
        measured = time_size(
            trial,
            build=experiment.build,
            data=experiment.data,
            loss=experiment.loss,
            recipe=manifest.training,
            device=None if manifest.execution.device == "auto" else manifest.execution.device,
            threads=manifest.execution.threads_per_worker,
        )
        timings.append(
            Timing(
                flops_per_token=trial.size.flops_per_token,
                seconds_per_token=measured.seconds_per_step / measured.batch_tokens,
                evaluation_seconds=measured.evaluation_seconds,
                memory_bytes=measured.memory_bytes,
            )
        )
    return timings


def _ask(question: Mapping[str, Any], *, copies: int = 1) -> list[dict[str, Any]]:
    """Put a question to child processes, and raise what they raised."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with tempfile.TemporaryDirectory(prefix="flops-fit-") as folder:
        asked = Path(folder) / "question.json"
        asked.write_text(json.dumps(question), encoding="utf-8")
        paths = [Path(folder) / f"answer-{index}.json" for index in range(copies)]
        command = [sys.executable, "-m", "flops_fit.inquiry", str(asked)]
        children = [
            subprocess.Popen([*command, str(path)], env=environment, stdout=2) for path in paths
        ]
        try:
            codes = [child.wait() for child in children]
        finally:
            for child in children:
                child.kill()
        answers = [_read(path, code) for path, code in zip(paths, codes, strict=True)]
    return answers


def _read(path: Path, code: int) -> dict[str, Any]:
    """A child's answer, or the error that it met."""
    if not path.exists() and code == 1:
        raise RuntimeError("the process that loads the plugins met a bug: see its traceback above")
    if not path.exists():
        raise PluginError(
            f"the process that loads the plugins died (exit code {code})",
            hint="a plugin, or a library it uses, ended the interpreter: see what it printed above",
        )
    answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "error" in answer:
        met = answer["error"]
        raise getattr(errors, met["type"])(met["message"], hint=met["hint"])
    return answer


def _answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """What the child says."""
    try:
        manifest = read_manifest(Path(question["manifest"]))
        folders = [Path(folder) for folder in question["search_path"]]
        experiment = load_experiment(manifest, search_path=folders)
        if "trials" in question:
            trials = [Trial.from_dict(trial) for trial in question["trials"]]
            return {"timings": [asdict(timing) for timing in time_sizes(experiment, trials)]}
        return {"description": describe(experiment).to_dict()}
    except FlopsFitError as error:
        return {
            "error": {
                "type": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
            }
        }


def _main(asked: str, answered: str) -> None:
    """Read the question, write the answer."""
    answer = _answer(json.loads(Path(asked).read_text(encoding="utf-8")))
    Path(answered).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
