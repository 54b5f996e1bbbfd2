"""Divide this machine's devices among workers."""

from __future__ import annotations

import os


def share_out(num_devices: int, workers: int, each: int) -> list[tuple[str, ...]]:
    """Return the device names of each worker; empty if there are no devices to share.

    Args:
        num_devices: GPUs of this machine.
        workers: that run side by side.
        each: devices of one worker.
    """
    if not num_devices:
        return [()] * workers
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(num_devices)]
    return [
        tuple(names[(worker * each + index) % len(names)] for index in range(each))
        for worker in range(workers)
    ]
