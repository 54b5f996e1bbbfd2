"""Describes the pending trials of a run directory for a scheduler that flops-fit does not drive.

    jsonl      one line for each pending trial: its command, forecast time and memory
    sbatch     one Slurm array, an element for each task
    k8s        one Kubernetes Job in work-queue mode: its pods are a pool of workers
    skypilot   one SkyPilot task whose nodes are a pool of workers

Workers of a pool claim trials by lease, so their number may change at any time. Nothing here talks
to a scheduler.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.manifest.files import read_json
from flops_fit.manifest.manifest import ExecutionSection, Manifest
from flops_fit.manifest.trials import Trial
from flops_fit.planning.plan import Plan
from flops_fit.sweep.ledger import read_ledger, replay
from flops_fit.sweep.provenance import read_plan, resume
from flops_fit.sweep.rundir import RunDir
from flops_fit.sweep.tasks import Forecast, resources_of, tasks_of

_SAVE_SECONDS = 300  # for a worker to end its step and save a checkpoint
_TASK_SECONDS = 600.0
_MOST_WORKERS = 8  # asked for unless the user says how many
_FAILURES = 100  # pods that may fail; disruptions do not count
_GIB = 2**30


@dataclass(frozen=True)
class PendingWork:
    """The trials that are left to train in a run directory.

    Attributes:
        run_dir: absolute.
        manifest: the experiment's.
        plan: all trials.
        pending: the trials without an outcome, in the plan's order.
        forecasts: by trial id, as far as the sweep was estimated.
    """

    run_dir: Path
    manifest: Manifest
    plan: Plan
    pending: tuple[Trial, ...]
    forecasts: Mapping[str, Forecast]

    @property
    def execution(self) -> ExecutionSection:
        """The manifest's [execution]."""
        return self.manifest.execution

    @property
    def tasks(self) -> list[tuple[Trial, ...]]:
        """The pending trials as tasks, longest first."""
        return tasks_of(self.pending, self.forecasts, least_seconds=_TASK_SECONDS)

    @property
    def memory_bytes(self) -> int | None:
        """Forecast memory of the largest pending trial; None where one is not known."""
        return resources_of(self.pending, self.forecasts, num_devices=1).memory_bytes

    def workers(self, asked: int | None) -> int:
        """Return how many workers to start."""
        return asked or self.execution.workers or max(1, min(len(self.pending), _MOST_WORKERS))


def forecasts_of(run: RunDir) -> dict[str, Forecast]:
    """Return the forecast of each trial that the kept estimate holds; empty without one."""
    if not run.estimate.exists():
        return {}
    return {
        row["trial_id"]: Forecast(row["wall_seconds"], row["memory_bytes"])
        for row in read_json(run.estimate)["trials"]
    }


def pending_work(directory: Path) -> PendingWork:
    """Return what is left to train in a run directory.

    Raises:
        RunDirError: it is not a run directory.
        LedgerError: the ledger cannot be read.
    """
    run = RunDir(directory)
    prepared = resume(directory)
    plan = read_plan(run)
    state = replay(read_ledger(run.ledger) if run.ledger.exists() else [])
    pending = tuple(
        trial
        for trial in plan.trials
        if state.is_pending(trial) and not run.outcome(trial.trial_id).exists()
    )
    return PendingWork(directory.absolute(), prepared.manifest, plan, pending, forecasts_of(run))


def as_lines(work: PendingWork) -> list[str]:
    """Return one JSON object for each pending trial.

    `after` names trials of the same trunk that have to end first; it is left out where there is
    none, and so is a forecast that is not known.
    """
    left = {trial.trial_id for trial in work.pending}
    lines = []
    for trial in work.pending:
        known = work.forecasts.get(trial.trial_id)
        after = [each.trial_id for each in work.plan.before(trial) if each.trial_id in left]
        line: dict[str, Any] = {
            "trial_id": trial.trial_id,
            "command": ["flops-fit", "worker", str(work.run_dir), trial.trial_id],
            "num_devices": work.execution.devices_per_trial,
            "flops": trial.cost_flops,
            "wall_seconds": None if known is None else known.wall_seconds,
            "memory_bytes": None if known is None else known.memory_bytes,
            "after": after or None,
        }
        lines.append(json.dumps({key: value for key, value in line.items() if value is not None}))
    return lines


def as_sbatch(work: PendingWork, *, workers: int | None = None, most_elements: int = 1000) -> str:
    """Return a batch script whose array trains the pending trials, to be given to `sbatch`.

    Where there are more tasks than an array may have elements, an element trains several.
    """
    all_tasks = work.tasks
    tasks = [
        tuple(trial for task in all_tasks[start::most_elements] for trial in task)
        for start in range(min(most_elements, len(all_tasks)))
    ]
    name, execution = work.manifest.name, work.execution
    limits = [
        resources_of(task, work.forecasts, num_devices=execution.devices_per_trial)
        for task in tasks
    ]
    seconds = [each.wall_seconds for each in limits]
    options = {
        "job-name": shlex.quote(f"flops-fit-{name}"),
        "array": f"0-{max(0, len(tasks) - 1)}%{work.workers(workers)}",
        "cpus-per-task": execution.threads_per_worker * execution.devices_per_trial,
        "signal": f"B:USR1@{_SAVE_SECONDS}",
        "output": shlex.quote(str(work.run_dir / "slurm-%A_%a.out")),
    }
    if execution.device == "cuda":
        options["gpus-per-node"] = execution.devices_per_trial
    if seconds and None not in seconds:
        options["time"] = max(15, math.ceil(2 * max(each or 0.0 for each in seconds) / 60))
    if (memory := work.memory_bytes) is not None:
        options["mem"] = f"{_gibibytes(memory)}G"
    if execution.slurm is not None:
        stated = execution.slurm.options
        for key in ("setup", "poll_seconds", "flops_per_second"):
            stated.pop(key, None)
        names = {"gpus": "gpus-per-node", "cpus": "cpus-per-task"}
        options |= {names.get(key, key.replace("_", "-")): each for key, each in stated.items()}
    lines = ["#!/bin/bash"]
    for key, each in options.items():
        lines.append(f"#SBATCH --{key}" if each is True else f"#SBATCH --{key}={each}")
    lines += ["#SBATCH --requeue", "#SBATCH --open-mode=append", "", "tasks=("]
    lines += [f'    "{" ".join(trial.trial_id for trial in task)}"' for task in tasks]
    lines += [")", *(execution.slurm.setup if execution.slurm else [])]
    lines += [
        "# Before the time limit the worker saves a checkpoint, and the job waits in line again.",
        'requeue() { kill -TERM "$worker"; wait "$worker"; scontrol requeue "$SLURM_JOB_ID"; }',
        "trap requeue USR1",
        f"flops-fit worker {shlex.quote(str(work.run_dir))} ${{tasks[$SLURM_ARRAY_TASK_ID]}} &",
        "worker=$!",
        'wait "$worker"',
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Pod:
    """The settings of a Kubernetes Job's pods beside the run directory.

    Attributes:
        image: container image with flops-fit and the user's plugins.
        claim: PersistentVolumeClaim that holds the run directory.
        mount: where it is mounted; the run directory lies below. Its parent folder if None.
        queue: local queue of Kueue; None: the Job starts at once.
        workers: pods side by side.
    """

    image: str
    claim: str
    mount: Path | None = None
    queue: str | None = None
    workers: int | None = None


def as_kubernetes(work: PendingWork, pod: Pod) -> dict[str, Any]:
    """Return a Job in work-queue mode: each pod trains until nothing is left.

    A pod that is evicted or preempted counts as no failure, and has time to save a checkpoint.
    """
    name = _kubernetes_name(work.manifest.name)
    execution = work.execution
    requests: dict[str, Any] = {
        "cpu": str(execution.threads_per_worker * execution.devices_per_trial)
    }
    limits: dict[str, Any] = {}
    if (memory := work.memory_bytes) is not None:
        requests["memory"] = limits["memory"] = f"{_gibibytes(memory)}Gi"
    if execution.device == "cuda":
        limits["nvidia.com/gpu"] = str(execution.devices_per_trial)
    labels = {"app.kubernetes.io/name": "flops-fit", "app.kubernetes.io/instance": name}
    metadata: dict[str, Any] = {"generateName": f"{name}-", "labels": dict(labels)}
    if pod.queue is not None:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = pod.queue
    container = {
        "name": "worker",
        "image": pod.image,
        "command": ["flops-fit", "worker", str(work.run_dir)],
        "env": [{"name": "OMP_NUM_THREADS", "value": str(execution.threads_per_worker)}],
        "resources": {"requests": requests, **({"limits": limits} if limits else {})},
        "volumeMounts": [{"name": "runs", "mountPath": str(pod.mount or work.run_dir.parent)}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            # No `completions`: the Job is complete once a pod has ended well and no pod runs.
            "parallelism": work.workers(pod.workers),
            "backoffLimit": _FAILURES,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    }
                ]
            },
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": _SAVE_SECONDS,
                    "containers": [container],
                    "volumes": [
                        {"name": "runs", "persistentVolumeClaim": {"claimName": pod.claim}}
                    ],
                },
            },
        },
    }


def as_skypilot(work: PendingWork, *, workers: int | None = None) -> dict[str, Any]:
    """Return a SkyPilot task: every node is a worker; spot nodes may come and go."""
    execution = work.execution
    resources: dict[str, Any] = {
        "cpus": f"{execution.threads_per_worker * execution.devices_per_trial}+",
        "use_spot": True,
    }
    if (memory := work.memory_bytes) is not None:
        resources["memory"] = f"{_gibibytes(memory)}+"
    if execution.device == "cuda":
        resources["accelerators"] = f"A100:{execution.devices_per_trial}"
    return {
        "name": _kubernetes_name(work.manifest.name),
        "num_nodes": work.workers(workers),
        "resources": resources,
        "envs": {"OMP_NUM_THREADS": str(execution.threads_per_worker)},
        "setup": "pip install flops-fit",
        "run": f"flops-fit worker {shlex.quote(str(work.run_dir))}",
    }


def to_yaml(data: Mapping[str, Any]) -> str:
    """Return plain data as YAML, keys in their order."""
    import yaml

    text: str = yaml.safe_dump(dict(data), sort_keys=False)
    return text


def _gibibytes(memory_bytes: int) -> int:
    """Return the memory to ask for: half as much again, and 2 GiB for libraries."""
    return math.ceil(1.5 * memory_bytes / _GIB + 2)


def _kubernetes_name(name: str) -> str:
    """Return a name as Kubernetes accepts it: lower case, digits and dashes, 40 at most."""
    kept = [each if each.isascii() and each.isalnum() else "-" for each in name.lower()]
    return "".join(kept).strip("-")[:40].strip("-") or "sweep"
