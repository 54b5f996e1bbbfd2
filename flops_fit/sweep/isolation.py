"""Trials of one process do not see one another: what one changes for all is put back after it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from flops_fit.sweep.interrupts import STOPPING


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Put back the folder, signal handlers, and torch's dtype, grad mode and device afterwards.

    Enter it after plugins were imported: what they set on import holds for every trial.
    """
    import torch

    folder = Path.cwd()
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOPPING)}
    dtype, has_grad = torch.get_default_dtype(), torch.is_grad_enabled()
    is_inference = torch.is_inference_mode_enabled()
    device = torch.get_default_device()
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        os.chdir(folder)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(has_grad)
        assert torch.is_inference_mode_enabled() == is_inference, "it is a block, not a setting"
        torch.use_deterministic_algorithms(is_deterministic)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if is_main:
            for number, handler in handlers.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)
