"""Asks Slurm how jobs stand: `squeue` first, then `sacct` where there is accounting.

Without slurmdbd a job that has ended is forgotten after `MinJobAge` (5 minutes by default). A job
that neither command knows is gone.
"""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping

from flops_fit.errors import FlopsFitError

_ASK_SECONDS = 60.0
# Every other state (CANCELLED, FAILED, NODE_FAIL, OUT_OF_MEMORY, TIMEOUT, ...) is an end.
_ALIVE = frozenset(
    [
        "PENDING",
        "CONFIGURING",
        "RUNNING",
        "COMPLETING",
        "SUSPENDED",
        "STOPPED",
        "SIGNALING",
        "STAGE_OUT",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESIZING",
        "SPECIAL_EXIT",
        "RESV_DEL_HOLD",
        "PREEMPTED",
    ]
)
GONE = "gone from the queue"


class SlurmError(FlopsFitError):
    """Slurm is not there, or refused a request."""

    exit_code = 4


def require_slurm() -> None:
    """Check that this machine can submit jobs.

    Raises:
        SlurmError: `sbatch` or `squeue` is not on the PATH.
    """
    missing = [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]
    if missing:
        raise SlurmError(
            f"`{missing[0]}` is not on the PATH, so no job can be submitted to Slurm from here",
            hint="start the sweep on a login node, or print the jobs for another scheduler: "
            "flops-fit jobs RUN_DIR",
        )


def ended_jobs(job_ids: Collection[str]) -> Mapping[str, str]:
    """Return the state of each of these jobs that has ended or is gone; others still live.

    A Slurm that cannot be reached says nothing about any job: none is returned.
    """
    listed = _ask("squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%T")
    if listed is None:
        return {}
    states = dict(line.strip().split("|", 1) for line in listed.splitlines() if "|" in line)
    ended = {each: states[each] for each in job_ids if states.get(each, "PENDING") not in _ALIVE}
    unknown = [each for each in job_ids if each not in states]
    if unknown:
        accounted = _accounted(unknown)
        for each in unknown:
            state = accounted.get(each, GONE)
            if state not in _ALIVE:
                ended[each] = state
    return ended


def jobs_named(name: str) -> list[str]:
    """Return the ids of this user's jobs with a name, also of those that have just ended."""
    listed = _ask(
        "squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-n", name, "-o", "%i"
    )
    return [] if listed is None else [line.strip() for line in listed.splitlines() if line.strip()]


def cancel(job_ids: Collection[str]) -> None:
    """End these jobs."""
    if job_ids:
        _ask("scancel", *sorted(job_ids))


def most_elements() -> int:
    """Return how many elements one array may have: the cluster's MaxArraySize, or 1000."""
    said = _ask("scontrol", "show", "config") or ""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", said)
    return max(1, int(found.group(1)) - 1) if found else 1000


def _accounted(job_ids: Collection[str]) -> dict[str, str]:
    """Return the states that the accounting knows, by id; empty without accounting."""
    ids = ",".join(sorted(job_ids))
    said = _ask("sacct", "-n", "-P", "-X", "-o", "JobID,State", "-j", ids) or ""
    found = {}
    for line in said.splitlines():
        job_id, _, state = line.partition("|")
        if state:
            found[job_id] = state.split()[0]  # "CANCELLED by 1000"
    return found


def _ask(*command: str) -> str | None:
    """Return what a command prints; None if it fails or is missing."""
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout if ended.returncode == 0 else None
