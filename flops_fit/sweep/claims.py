"""Leases: which process trains which trial.

Every worker, of a pool or of the conductor, holds the lease file `trials/<id>/claim.lock` of the
trial that it trains. A lease has a heartbeat. When its owner dies the heartbeat stops, and another
worker takes the lease over after a minute. A lease is not a fence: an owner that was frozen may
wake up without it. It then stops before it writes, and two outcomes of one trial are the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from flops_fit.errors import FlopsFitError
from flops_fit.sweep.rundir import RunDir

if TYPE_CHECKING:
    from filelock import SoftFileLease

LEASE_SECONDS = 60.0
_POLL_SECONDS = 1.0


class LeaseLostError(FlopsFitError):
    """Another process has taken this process's trial over."""

    exit_code = 5


class Leases:
    """The leases of one process."""

    def __init__(self, run: RunDir, *, seconds: float = LEASE_SECONDS) -> None:
        """Begin without any; `seconds` without a heartbeat end a lease."""
        self._run = run
        self._seconds = seconds
        # Kept between two tries: how long a claim has not changed is counted from the first.
        self._known: dict[str, SoftFileLease] = {}

    def take(self, trial_id: str) -> bool:
        """Take the lease of a trial unless another process holds it; whether it is ours."""
        from filelock import SoftFileLease, Timeout

        lease = self._known.get(trial_id)
        if lease is None:
            claim = self._run.trial(trial_id) / "claim.lock"
            claim.parent.mkdir(parents=True, exist_ok=True)
            lease = SoftFileLease(
                claim, lease_duration=self._seconds, timeout=0, thread_local=False
            )
            self._known[trial_id] = lease
        try:
            lease.acquire()
        except Timeout:
            return False
        return True

    def holds(self, trial_id: str) -> bool:
        """Return whether this process holds the lease of a trial."""
        lease = self._known.get(trial_id)
        return lease is not None and lease.is_locked and lease.compromise is None

    def has_lost(self, trial_id: str) -> bool:
        """Return whether this process took the lease of a trial and holds it no more."""
        return trial_id in self._known and not self.holds(trial_id)

    def release(self, trial_id: str) -> None:
        """Release a lease."""
        lease = self._known.pop(trial_id, None)
        if lease is not None:
            lease.release()

    def require(self, trial_id: str) -> None:
        """Refuse to continue without the lease of a trial.

        Raises:
            LeaseLostError: it was lost.
        """
        if not self.holds(trial_id):
            raise LeaseLostError(f"another process has taken over trial {trial_id}")

    def wait(self, trial_id: str, *, is_over: Callable[[], bool]) -> bool:
        """Take a lease, waiting for its owner; False once `is_over`, without the lease."""
        while not is_over():
            if self.take(trial_id):
                return True
            time.sleep(_POLL_SECONDS)
        return False


def claimed(
    run: RunDir,
    leases: Leases,
    pending: Callable[[], Sequence[str]],
    *,
    is_stopped: Callable[[], bool],
    is_awaited: Callable[[], bool] = lambda: False,
    is_rank: bool = False,
    device: str = "auto",
) -> Generator[str]:
    """Pending trials, each leased until the next is asked for.

    Only rank 0 of several claims; all ranks receive its choice.

    Args:
        run: the run directory.
        leases: of this process.
        pending: ids of its trials without an outcome, as they are now.
        is_stopped: whether no further trial is to begin.
        is_awaited: whether a conductor lives that may yet add trials.
        is_rank: whether this process is one of several ranks.
        device: the manifest's; it decides how ranks communicate.
    """
    with contextlib.closing(_claims(run, leases, pending, is_stopped, is_awaited)) as own:
        if not is_rank:
            yield from own
            return
        from flops_fit.training.session import said_by_first

        while (said := said_by_first(lambda: next(own, None), device=device)) is not None:
            yield said


def _claims(
    run: RunDir,
    leases: Leases,
    pending: Callable[[], Sequence[str]],
    is_stopped: Callable[[], bool],
    is_awaited: Callable[[], bool],
) -> Generator[str]:
    """Trials that this process leases; waits while others hold the rest, which may yet die.

    Trials in which a rank has failed come last.
    """
    while (waiting := pending()) or is_awaited():
        is_idle = True
        by_failure = sorted(waiting, key=lambda each: any(run.trial(each).glob("failure-*.json")))
        for trial_id in by_failure:
            if is_stopped():
                return
            if run.outcome(trial_id).exists() or not leases.take(trial_id):
                continue
            is_idle = False
            try:
                if not run.outcome(trial_id).exists():
                    yield trial_id
                was_lost = not leases.holds(trial_id)
            finally:
                leases.release(trial_id)
            if not was_lost and not run.outcome(trial_id).exists():
                return  # Stopped, maybe by what another rank was asked.
        if is_stopped():
            return
        if is_idle:
            time.sleep(_POLL_SECONDS)
