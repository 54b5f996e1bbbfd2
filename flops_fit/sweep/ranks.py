"""Runs one trial in several processes of one machine, and reports a failure's root cause once.

The processes are ranks of one `python -m torch.distributed.run --standalone`, which picks a free
port and ends the others when one dies. Each rank runs `flops_fit worker RUN_DIR TRIAL_ID` and finds
its devices through Accelerate. A rank that fails leaves `failure-RANK.json` in the trial's
directory; the one that failed first is the cause, since the others only lost their peer. One that
was killed can leave nothing: the launcher's own report, in the trial's log, names it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from flops_fit.errors import ManifestError
from flops_fit.manifest.files import read_json, write_json
from flops_fit.sweep.interrupts import killed_by
from flops_fit.sweep.rundir import RunDir

_GRACE_SECONDS = 10.0
_LATER_SECONDS = 30.0


class Ranks:
    """The processes of one trial; ended together."""

    def __init__(self) -> None:
        """Nothing runs before `train`."""
        self._child: subprocess.Popen[bytes] | None = None

    def train(self, run: RunDir, trial_id: str, *, processes: int, threads: int) -> str | None:
        """Train a trial in `processes` ranks; the root cause if it left no outcome, else None."""
        for old in run.trial(trial_id).glob("failure-*.json"):
            old.unlink()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", "-m", "flops_fit", "worker"]
        command += [str(run.path), trial_id]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with run.log(trial_id).open("ab") as log:
            said_before = log.tell()
            self._child = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            code = self._child.wait()
        self._child = None
        if run.outcome(trial_id).exists():
            return None
        with run.log(trial_id).open("rb") as log:
            log.seek(said_before)
            said = log.read().decode("utf-8", "replace")
        cause = killed_rank(said) or first_failure(run.trial(trial_id))
        return cause or f"the ranks ended with exit code {code}"

    def ask_to_stop(self) -> None:
        """Pass SIGTERM on: every rank saves a checkpoint and ends."""
        if self._child is not None:
            self._child.terminate()

    def kill(self) -> None:
        """End all ranks now: the launcher ends them when it is asked to."""
        child = self._child
        if child is None:
            return
        child.terminate()
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()


def this_rank() -> int | None:
    """Return this process's rank in its trial; None if it is the only process."""
    rank = os.environ.get("RANK")
    return None if rank is None or os.environ.get("WORLD_SIZE", "1") == "1" else int(rank)


def refuse_launcher(started: str) -> None:
    """Refuse to be one of a launcher's processes: what conducts a sweep is started once.

    The first rank says so. The others leave later and without a word, since a launcher ends all
    when one has left, and what they say would hide it.

    Args:
        started: what the launcher started.

    Raises:
        ManifestError: this is the first of several ranks.
        SystemExit: it is another of them.
    """
    rank = this_rank()
    if rank is None:
        return
    if rank != 0:
        time.sleep(_LATER_SECONDS)
        sys.exit(ManifestError.exit_code)
    world = os.environ["WORLD_SIZE"]
    raise ManifestError(
        f"{started} was started as {world} processes by a launcher such as torchrun, and works "
        "as one",
        hint=f"start it by itself: under `[execution] devices_per_trial = {world}` the sweep of a "
        "manifest starts the processes of each trial; a run directory that is there already is "
        f"trained by `torchrun --nproc-per-node {world} -m flops_fit worker RUN_DIR`",
    )


def record_failure(directory: Path, rank: int, reason: str) -> None:
    """Leave why this rank failed, and when."""
    failure = {"rank": rank, "at": time.time(), "reason": reason}
    write_json(directory / f"failure-{rank}.json", failure)


def killed_rank(said: str) -> str | None:
    """Return the rank that a signal ended, by the launcher's report; None if none was.

    Not by SIGTERM: with that the launcher itself ends the ranks that lost their peer.
    """
    for rank, number in re.findall(r"rank\s*: (\d+) .*?\n\s*exitcode\s*: -(\d+)", said):
        if int(number) != signal.SIGTERM:
            return f"rank {rank} was {killed_by(int(number))}"
    return None


def end_with_launcher() -> None:
    """End this rank when its launcher is gone: nothing else would tell it to."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def first_failure(directory: Path) -> str | None:
    """Return the failure that came before the others: the root cause."""
    failures = [read_json(path) for path in directory.glob("failure-*.json")]
    if not failures:
        return None
    first = min(failures, key=lambda failure: failure["at"])
    return f"rank {first['rank']}: {first['reason']}"
