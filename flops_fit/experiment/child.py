"""Asks a child process, which loads the plugins, about an experiment.

The child imports torch and the user's code; the process that plans, conducts and reports does not.
So a command that only plans starts fast, a conductor holds no GPU memory, and a plugin that takes
the interpreter down takes down only the child.

    python -m flops_fit.experiment.child QUESTION.json ANSWER.json

The question holds `manifest` (a path), `search_path`, and for timings `trials`, for a check
`examine`; or `load`, installed plugins to import; or `device`, a device to look for. The answer
holds `description`, `timings`, `findings`, `device`, or `problems`, one for each plugin that was
tried so far; or `error`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from flops_fit import errors
from flops_fit.errors import FlopsFitError, PluginError
from flops_fit.experiment.checks.examination import examine
from flops_fit.experiment.checks.findings import Finding
from flops_fit.experiment.describing import describe
from flops_fit.experiment.description import Description
from flops_fit.experiment.devices import share_out
from flops_fit.experiment.interpreter import python_command
from flops_fit.experiment.loading import load_experiment
from flops_fit.experiment.plugins import Listed, problem_of
from flops_fit.experiment.timing import Timing, time_sizes
from flops_fit.manifest.manifest import read_manifest
from flops_fit.manifest.trials import Trial

_PATIENCE_MINUTES = 60.0
"""For an answer about a manifest's plugins, where the manifest states no `stall_minutes`."""
LEAST_PATIENCE_MINUTES = 5.0
"""However small `stall_minutes` is: the import of torch alone may take minutes on a shared disk."""
_IMPORT_MINUTES = 10.0
"""For the import of the installed plugins, before the one at work is given up."""


def ask_description(
    manifest: Path, *, search_path: Sequence[Path], most_minutes: float
) -> Description:
    """Return the description of a manifest's experiment.

    Raises:
        PluginError: a plugin is missing or breaks its contract, or gives no answer in time.
    """
    question = {"manifest": str(manifest), "search_path": [str(folder) for folder in search_path]}
    (answer,) = _ask(question, most_minutes=most_minutes)
    return Description.from_dict(answer["description"])


def ask_device(device: str) -> tuple[str, int]:
    """Return a device of this machine and how many of it there are.

    Raises:
        ManifestError: this machine has none that torch can use.
    """
    (answer,) = _ask({"device": device}, most_minutes=LEAST_PATIENCE_MINUTES)
    kind, count = answer["device"]
    return kind, count


def ask_timings(
    manifest: Path,
    trials: Sequence[Trial],
    *,
    search_path: Sequence[Path],
    side_by_side: int,
    devices_per_trial: int = 1,
    num_devices: int = 0,
    most_minutes: float = _PATIENCE_MINUTES,
) -> list[Timing]:
    """Time some trials' sizes, in as many concurrent processes as the sweep will use.

    Each has the device that the sweep will give it, and its share of the batch. Of the processes of
    one trial the slowest counts, of trials side by side their mean. Of the peaks that they measured
    the highest counts for all.

    Args:
        manifest: the experiment.
        trials: one of each size.
        search_path: where plugins are looked for besides the installed ones.
        side_by_side: trials that will run at once.
        devices_per_trial: processes of each, a device each.
        num_devices: GPUs of this machine to share out; 0: none.
        most_minutes: how long to wait for the answers.
    """
    question = {
        "manifest": str(manifest),
        "search_path": [str(folder) for folder in search_path],
        "trials": [trial.to_dict() for trial in trials],
    }
    shares = share_out(num_devices, side_by_side, devices_per_trial)
    devices = [
        share[index] if share else "" for share in shares for index in range(devices_per_trial)
    ]
    answers = [
        [Timing(**timing) for timing in answer["timings"]]
        for answer in _ask(question, devices, most_minutes=most_minutes)
    ]
    peaks = [timing.matmul_flops_per_second or 0.0 for answer in answers for timing in answer]
    return [
        replace(_usual(measured, devices_per_trial), matmul_flops_per_second=max(peaks) or None)
        for measured in zip(*answers, strict=True)
    ]


def _usual(measured: Sequence[Timing], devices_per_trial: int) -> Timing:
    """Merge the timings of one size that the processes of concurrent trials measured."""
    trials = [
        max(measured[at : at + devices_per_trial], key=lambda timing: timing.seconds_per_token)
        for at in range(0, len(measured), devices_per_trial)
    ]
    return replace(
        trials[0],
        seconds_per_token=fmean(timing.seconds_per_token for timing in trials),
        evaluation_seconds=fmean(timing.evaluation_seconds for timing in trials),
        setup_seconds=fmean(timing.setup_seconds for timing in trials),
        startup_seconds=fmean(timing.startup_seconds for timing in trials),
        memory_bytes=max(t.memory_bytes or 0 for t in measured) or None,
    )


def ask_findings(manifest: Path, *, search_path: Sequence[Path]) -> list[Finding]:
    """Examine a manifest's plugins in a child process and return the findings.

    Raises:
        ManifestError: the manifest breaks a rule.
        PluginError: a plugin ended the process that examined it.
    """
    folders = [str(folder) for folder in search_path]
    (answer,) = _ask({"manifest": str(manifest), "search_path": folders, "examine": True})
    return [Finding(**finding) for finding in answer["findings"]]


def ask_problems(plugins: Sequence[Listed]) -> list[Listed]:
    """Return the plugins, each with the error of its import, if any.

    One that ends the interpreter is named so, and the others are tried in another child.
    """
    tried: list[Listed] = []
    while len(tried) < len(plugins):
        rest = plugins[len(tried) :]
        try:
            ((text, code),) = _put(
                {"load": [asdict(plugin) for plugin in rest]}, most_minutes=_IMPORT_MINUTES
            )
        except _TooSlowError as error:
            text, code = error.text, 0
            ended = f"was still being imported after {_IMPORT_MINUTES:g} minutes"
        else:
            ended = f"ended the interpreter (exit code {code})"
        problems = [] if text is None else json.loads(text)["problems"]
        if len(problems) < len(rest):
            problems.append(ended)
        tried += [replace(p, problem=met) for p, met in zip(rest, problems, strict=False)]
    return tried


class _TooSlowError(Exception):
    """A child process gave no whole answer in time; `text` is what it had answered by then."""

    def __init__(self, text: str | None) -> None:
        super().__init__()
        self.text = text


def _ask(
    question: Mapping[str, Any],
    devices: Sequence[str] = ("",),
    *,
    most_minutes: float = _PATIENCE_MINUTES,
) -> list[dict[str, Any]]:
    """Ask child processes, and raise the errors that they raised.

    Raises:
        PluginError: a plugin's import, data, model or loss did not return in time.
    """
    try:
        return [_read(*each) for each in _put(question, devices, most_minutes=most_minutes)]
    except _TooSlowError:
        raise PluginError(
            f"the process that loads the plugins gave no answer within {most_minutes:g} minutes "
            "(`stall_minutes` in [execution]): an import, the data, the model or the loss hangs",
            hint="look at what it printed above; raise `stall_minutes` if it only needs longer",
        ) from None


def _put(
    question: Mapping[str, Any], devices: Sequence[str] = ("",), *, most_minutes: float
) -> list[tuple[str | None, int]]:
    """Ask child processes; return each one's answer (None if it gave none) and exit code.

    There is one for each of `devices`, which it sees no other than; `""` leaves all as they are.
    A child ends with the process that asks: it watches its standard input.

    Raises:
        _TooSlowError: there is no answer in time.
    """
    deadline = time.monotonic() + 60 * most_minutes
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with tempfile.TemporaryDirectory(prefix="flops-fit-") as folder:
        asked = Path(folder) / "question.json"
        asked.write_text(json.dumps(question), encoding="utf-8")
        paths = [Path(folder) / f"answer-{index}.json" for index in range(len(devices))]
        command = [*python_command(), "-m", "flops_fit.experiment.child", str(asked)]
        children = [
            subprocess.Popen(
                [*command, str(path)],
                env=environment | ({"CUDA_VISIBLE_DEVICES": device} if device else {}),
                stdin=subprocess.PIPE,
                stdout=2,
                start_new_session=True,
            )
            for path, device in zip(paths, devices, strict=True)
        ]
        try:
            codes = [child.wait(_seconds_to(deadline)) for child in children]
        except subprocess.TimeoutExpired:
            said = paths[0].read_text(encoding="utf-8") if paths[0].exists() else None
            raise _TooSlowError(said) from None
        finally:
            for child in children:
                # With its helper processes: a plugin may have forked some.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                assert child.stdin is not None
                child.stdin.close()
        texts = [path.read_text(encoding="utf-8") if path.exists() else None for path in paths]
    return list(zip(texts, codes, strict=True))


def _seconds_to(deadline: float) -> float | None:
    """Return the seconds to a moment (monotonic); None if it is too far away for a clock."""
    left = max(0.0, deadline - time.monotonic())
    return left if left < 1e8 else None


def _read(text: str | None, code: int) -> dict[str, Any]:
    """Return a child's answer, or raise its error."""
    if text is None and code == 1:
        raise RuntimeError(
            "the process that loads the plugins failed by a bug: see its traceback above"
        )
    if text is None:
        raise PluginError(
            f"the process that loads the plugins died (exit code {code})",
            hint="a plugin, or a library it uses, ended the interpreter: see its output above",
        )
    answer: dict[str, Any] = json.loads(text)
    if "error" in answer:
        met = answer["error"]
        raise getattr(errors, met["type"])(met["message"], hint=met["hint"])
    return answer


def _answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return the child's answer to a question."""
    began = time.monotonic()
    try:
        if "device" in question:
            from flops_fit.training.measuring.timing import find_device

            return {"device": find_device(question["device"])}
        manifest = read_manifest(Path(question["manifest"]))
        folders = [Path(folder) for folder in question["search_path"]]
        if "examine" in question:
            found = examine(manifest, search_path=folders)
            return {"findings": [finding.to_dict() for finding in found]}
        experiment = load_experiment(manifest, search_path=folders)
        if "trials" in question:
            trials = [Trial.from_dict(trial) for trial in question["trials"]]
            startup = time.monotonic() - began
            timings = time_sizes(experiment, trials)
            return {"timings": [asdict(replace(t, startup_seconds=startup)) for t in timings]}
        return {"description": describe(experiment).to_dict()}
    except FlopsFitError as error:
        return {
            "error": {
                "type": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
            }
        }


def _load(plugins: Sequence[Mapping[str, Any]], answered: Path) -> None:
    """Import plugins one after another; the answer grows, so that a crash shows which it was."""
    problems: list[str | None] = []
    for plugin in plugins:
        problems.append(problem_of(Listed(**plugin)))
        answered.write_text(json.dumps({"problems": problems}), encoding="utf-8")


def _end_with_asker() -> None:
    """End this process once the one that asked has gone: standard input then closes."""
    incoming = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # A plugin that reads standard input waits for nobody.
    os.close(nothing)

    def watch() -> None:
        if not os.read(incoming, 1):
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _main(asked: str, answered: str) -> None:
    """Read the question, write the answer."""
    _end_with_asker()
    question = json.loads(Path(asked).read_text(encoding="utf-8"))
    if "load" in question:
        _load(question["load"], Path(answered))
        return
    Path(answered).write_text(json.dumps(_answer(question)), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
