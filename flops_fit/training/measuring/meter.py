"""Measures a running trial: rates, waits, memory, energy and versions."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from typing import Any, ParamSpec, TypeVar

import torch

from flops_fit.manifest.trials import Trial
from flops_fit.training.measuring.energy import open_energy_meter
from flops_fit.training.measuring.peaks import nominal_peak
from flops_fit.training.session import Session

P = ParamSpec("P")
Taken = TypeVar("Taken")


class Meter:
    """Times one trial; what went before a resume counts too."""

    def __init__(self, trial: Trial, *, session: Session, threads: int) -> None:
        """Start the clock of the whole trial."""
        self.trial, self.session, self.threads = trial, session, threads
        self._began = time.monotonic()
        self._earlier = {"wall": 0.0, "training": 0.0, "evaluating": 0.0, "data": 0.0}
        self._evaluating = self._before = self._data = self._training = 0.0
        self._training_began: float | None = None
        self._tokens = 0
        self._energy = open_energy_meter(session.device)
        self._earlier_joules: float | None = 0.0
        self.untimed_tokens = 0  # seen before this trial began, on the trunk that it branches off
        if session.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(session.device)

    def start(self, *, tokens: int) -> None:
        """Training begins, or continues after `tokens`."""
        self._synchronize()
        self._before = self._evaluating  # of the untrained model: no part of training's time
        self._tokens = tokens
        self._training_began = time.monotonic()

    def stop_training(self, *, tokens: int) -> None:
        """Training has ended; what follows is evaluation."""
        self._synchronize()
        self._training = self._since_start()
        self._training_began = None
        self._tokens = tokens

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The time of an evaluation, which is no training time."""
        self._synchronize()
        began = time.monotonic()
        try:
            yield
        finally:
            self._synchronize()
            self._evaluating += time.monotonic() - began

    def waiting_for(self, take: Callable[P, Taken], *args: P.args, **kwargs: P.kwargs) -> Taken:
        """Return the result of `take`, and count the time as waiting for examples."""
        self._energy.poll()
        began = time.perf_counter()
        batch = take(*args, **kwargs)
        self._data += time.perf_counter() - began
        return batch

    @property
    def wall_seconds(self) -> float:
        """From the trial's first line of code to now, less the time between stop and resume."""
        return self._earlier["wall"] + time.monotonic() - self._began

    @property
    def joules(self) -> float | None:
        """The energy that this process used on its device, in joules; None if not known."""
        now, earlier = self._energy.joules(), self._earlier_joules
        return None if now is None or earlier is None else earlier + now

    def state(self, *, tokens: int) -> dict[str, float | None]:
        """Return the times and the energy so far, for a checkpoint."""
        del tokens
        return {
            "wall": self.wall_seconds,
            "training": self._earlier["training"] + self._since_start(),
            "evaluating": self._earlier["evaluating"] + self._evaluating,
            "data": self._earlier["data"] + self._data,
            "joules": self.joules,
            "untimed_tokens": self.untimed_tokens,
        }

    def restore(self, state: dict[str, float | None]) -> None:
        """Continue from a checkpoint's times; energy is unknown if the checkpoint has none."""
        self._earlier_joules = state.get("joules")
        self._earlier = {name: state[name] or 0.0 for name in self._earlier}
        self.untimed_tokens = int(state["untimed_tokens"] or 0)

    def details(self) -> dict[str, Any]:
        """Rates, shares, memory and versions; JSON-ready."""
        training = self._earlier["training"] + self._training
        evaluating = self._earlier["evaluating"] + self._evaluating
        rate = (self._tokens - self.untimed_tokens) / training if training > 0 else None
        device = self.session.device
        achieved = None if rate is None else rate * self.trial.size.flops_per_token
        energy = self._energy_of_all()
        memory = peak_memory(device)  # before the product that measures the peak takes some
        one = matmul_peak(device, self.session.precision, self.threads)
        peak = None if one is None else one * self.session.world
        return {
            "tokens_per_second": rate,
            "flops_per_second": achieved,
            "matmul_flops_per_second": peak,
            "utilisation": None if achieved is None or peak is None else achieved / peak,
            **self._against_nominal(achieved),
            **energy,
            "training_seconds": training,
            "evaluation_seconds": evaluating,
            "data_wait_fraction": (self._earlier["data"] + self._data) / training
            if training > 0
            else None,
            "memory_bytes": memory,
            "device": device_name(device),
            "processes": self.session.world,
            "threads": self.threads,
            "versions": versions(),
        }

    def _against_nominal(self, achieved: float | None) -> dict[str, float]:
        """Return the devices' published peak, and the share of it; nothing where none is listed.

        The share is the model FLOPs utilisation of Chowdhery et al. 2022 (PaLM, arXiv:2204.02311,
        appendix B): FLOPs that the model needs, so what is computed twice counts once.
        """
        peak = nominal_peak(device_name(self.session.device), self.session.precision)
        if peak is None:
            return {}
        peak *= self.session.world
        share = {} if achieved is None else {"mfu": achieved / peak}
        return {"nominal_flops_per_second": peak, **share}

    def _energy_of_all(self) -> dict[str, Any]:
        """Return the energy of all processes and its source; nothing if one does not know it.

        Every process must ask, since they add it up together.
        """
        joules = self.joules
        if self.session.world > 1:
            # NaN, which a sum keeps, from a process that does not know.
            own = torch.tensor([math.nan if joules is None else joules], device=self.session.device)
            whole = self.session.accelerator.reduce(own, reduction="sum").item()
            joules = whole if math.isfinite(whole) else None
        if joules is None:
            return {}
        return {"energy_joules": joules, "energy_source": self._energy.source}

    def _since_start(self) -> float:
        if self._training_began is None:
            return self._training
        return time.monotonic() - self._training_began - (self._evaluating - self._before)

    def _synchronize(self) -> None:
        synchronize(self.session.device)


_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def matmul_peak(device: torch.device, precision: str, threads: int) -> float | None:
    """Return the FLOP/s of a large square matrix product here, the reference of utilisation.

    Measured once a process, in well under a second: a stated peak would be of another clock, and
    of no processor that nobody has listed. None where it cannot be measured, as where a trial
    leaves the device no memory for it.

    Args:
        device: where.
        precision: `fp32` (TF32 on CUDA, as in training), `bf16` or `fp16`.
        threads: of the process, which a CPU's figure depends on.
    """
    try:
        return _measured_peak(device, precision, threads)
    except RuntimeError:  # It must not pass for an error of the trial.
        return None


@cache
def _measured_peak(device: torch.device, precision: str, threads: int) -> float:
    del threads
    side = 768 if device.type == "cpu" else 8192 if device.type == "cuda" else 2048
    # Neither random, which would draw from the trial's numbers, nor zeros, which run cooler.
    values = torch.linspace(-1, 1, side * side, device=device, dtype=_PRECISIONS[precision])
    matrix = values.view(side, side)
    product = torch.empty_like(matrix)
    best = math.inf
    for _ in range(8):
        synchronize(device)
        began = time.perf_counter()
        torch.matmul(matrix, matrix, out=product)
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def synchronize(device: torch.device) -> None:
    """Wait for what the device was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> int | None:
    """Largest memory so far, in bytes: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # There is no such module on Windows.
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def total_memory(device: torch.device) -> int | None:
    """Return the memory of the device, or of the machine on a CPU, in bytes; None if not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Not every system says.
        return None


def device_name(device: torch.device) -> str:
    """Return the device's name: `cpu (x86_64)`, `NVIDIA H100 80GB HBM3`, ..."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "accelerate": metadata.version("accelerate"),
    }
