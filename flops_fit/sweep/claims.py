"""Which pending trials a worker may train: those whose lease file it holds.

A lease has a heartbeat, and ends when its owner dies. It is a hint, not a fence: two workers may
train one trial, and the outcome file that is complete first counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable

from flops_fit.sweep.rundir import RunDir

_LEASE_SECONDS = 60.0


def claimed(
    run: RunDir,
    pending: Iterable[str],
    *,
    is_stopped: Callable[[], bool],
    is_rank: bool = False,
    device: str = "auto",
) -> Generator[str]:
    """Pending trials, each held until the next is asked for.

    Of several ranks the first claims, and every one is given the same trials.

    Args:
        run: the run directory.
        pending: ids of its trials without an outcome.
        is_stopped: whether no further trial is to begin.
        is_rank: whether this process is one of several ranks.
        device: as the manifest names it; it decides how ranks speak to one another.
    """
    with contextlib.closing(_claims(run, pending, is_stopped)) as own:
        if not is_rank:
            yield from own
            return
        from flops_fit.training.session import said_by_first

        while (said := said_by_first(lambda: next(own, None), device=device)) is not None:
            yield said


def _claims(run: RunDir, pending: Iterable[str], is_stopped: Callable[[], bool]) -> Generator[str]:
    """The trials that this process gets the lease of, those last in which a rank has failed."""
    from filelock import SoftFileLease, Timeout

    for trial_id in sorted(pending, key=lambda each: any(run.trial(each).glob("failure-*.json"))):
        if is_stopped():
            return
        claim = run.trial(trial_id) / "claim.lock"
        claim.parent.mkdir(parents=True, exist_ok=True)
        lease = SoftFileLease(claim, lease_duration=_LEASE_SECONDS, timeout=0)
        try:
            with lease:
                if run.outcome(trial_id).exists():
                    continue
                yield trial_id
        except Timeout:
            continue
        if not run.outcome(trial_id).exists():
            return  # Stopped, maybe by what another rank was asked.
