"""Measures the energy of a trial, if its device counts it.

    NVIDIA GPUs (Volta and later)   NVML's count of the whole board; needs `nvidia-ml-py`
    CPUs under Linux                RAPL's counts of the packages, memory left out; the files
                                    /sys/class/powercap/intel-rapl:*/energy_uj (AMD's too) must be
                                    readable, which most systems leave to root

Both count what the device takes in all, whoever uses it. So between two readings a trial is given
its share: on a GPU one part of as many as there are processes that compute on it, on a CPU the
share of the process in the processor time that the whole machine spent. What a device takes while
idle is in it; the rest of the machine, and processes that load data, are not.

Sources: NVML's `nvmlDeviceGetTotalEnergyConsumption` (mJ since the driver was loaded); the kernel's
Documentation/power/powercap/powercap.rst (`energy_uj`, `max_energy_range_uj`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch

POWERCAP = Path("/sys/class/powercap")
PROC_STAT = Path("/proc/stat")
_READ_SECONDS = 10.0  # a package of 300 W counts round its 2.6e5 J in a quarter of an hour


class Counter(Protocol):
    """A device's count of energy; `source` is what the ledger calls it."""

    source: str

    def take(self) -> float:
        """Joules since the last time that are this process's.

        Raises:
            OSError: the count cannot be read any more.
        """
        ...


class EnergyMeter:
    """Sums the energy of a trial; None if no counter exists, or it stopped."""

    def __init__(self, counter: Counter | None) -> None:
        """Count from now on."""
        self._counter = counter
        self._joules = 0.0
        self._read_at = time.monotonic()

    @property
    def source(self) -> str | None:
        """The source of the measurement: `NVML`, `RAPL`, or None."""
        return None if self._counter is None else self._counter.source

    def poll(self) -> None:
        """Read the counter from time to time, since it wraps around."""
        if self._counter is not None and time.monotonic() - self._read_at >= _READ_SECONDS:
            self._read()

    def joules(self) -> float | None:
        """So far; a device that claims to have taken nothing does not count."""
        self._read()
        return None if self._counter is None else self._joules or None

    def _read(self) -> None:
        self._read_at = time.monotonic()
        if self._counter is None:
            return
        try:
            self._joules += self._counter.take()
        except OSError:
            self._counter = None


def open_energy_meter(device: torch.device) -> EnergyMeter:
    """Return a meter of a device's energy from now on; for a CPU, of all its packages."""
    try:
        if device.type == "cuda":
            return EnergyMeter(BoardCounter.open(device))
        if device.type == "cpu":
            return EnergyMeter(PackageCounter.open())
    except OSError:  # There is no such count here, or it is not for everyone to read.
        pass
    return EnergyMeter(None)


@dataclass
class BoardCounter:
    """NVML's count of one GPU."""

    nvml: Any
    handle: Any
    source: str = "NVML"
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        """Read the count."""
        self._last = self._count()

    @classmethod
    def open(cls, device: torch.device) -> BoardCounter:
        """Return the count of a CUDA device, found by its UUID: NVML ignores CUDA_VISIBLE_DEVICES.

        Raises:
            OSError: no `nvidia-ml-py`, no NVIDIA driver, a part of a GPU, or one that counts not.
        """
        try:
            nvml: Any = import_module("pynvml")
        except ImportError as error:
            raise OSError(str(error)) from error
        uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
        try:
            nvml.nvmlInit()
            return cls(nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        except nvml.NVMLError as error:
            raise OSError(str(error)) from error

    def take(self) -> float:
        """Joules since the last time, divided by the processes that compute on the GPU."""
        before, self._last = self._last, self._count()
        return (self._last - before) / self._sharing()

    def _count(self) -> float:
        try:
            return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3
        except self.nvml.NVMLError as error:
            raise OSError(str(error)) from error

    def _sharing(self) -> int:
        try:
            return max(1, len(self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle)))
        except self.nvml.NVMLError:  # Containers may hide them: then one worker a GPU is usual.
            return 1


@dataclass
class PackageCounter:
    """RAPL's counts of a machine's CPU packages.

    Attributes:
        zones: a folder of the kernel's for each package.
        stat: the kernel's count of the machine's processor time.
        own_seconds: processor time of this process, all threads.
    """

    zones: tuple[Path, ...]
    stat: Path
    own_seconds: Callable[[], float]
    source: str = "RAPL"
    _last: list[int] = field(init=False)
    _busy: float = field(init=False)
    _own: float = field(init=False)

    def __post_init__(self) -> None:
        """Read the counts."""
        self._last = [_number(zone / "energy_uj") for zone in self.zones]
        self._busy, self._own = _busy_seconds(self.stat), self.own_seconds()

    @classmethod
    def open(
        cls,
        powercap: Path | None = None,
        *,
        stat: Path | None = None,
        own_seconds: Callable[[], float] = time.process_time,
    ) -> PackageCounter:
        """Return the counts of every package; one that is listed by a second interface counts once.

        Raises:
            OSError: there are none, or they cannot be read.
        """
        found: dict[str, Path] = {}
        for zone in sorted((powercap or POWERCAP).glob("intel-rapl:*")):
            name = (zone / "name").read_text(encoding="ascii").strip()
            if zone.name.count(":") == 1 and name.startswith("package"):
                found.setdefault(name, zone)
        if not found:
            raise OSError("no package counts its energy")
        return cls(tuple(found.values()), stat or PROC_STAT, own_seconds)

    def take(self) -> float:
        """Joules of all packages since the last time, times the share of the processor time."""
        joules = 0.0
        for place, zone in enumerate(self.zones):
            now = _number(zone / "energy_uj")
            spent = now - self._last[place]
            if spent < 0:
                spent += _number(zone / "max_energy_range_uj")
            joules += spent / 1e6
            self._last[place] = now
        busy, own = _busy_seconds(self.stat), self.own_seconds()
        whole, part = busy - self._busy, own - self._own
        self._busy, self._own = busy, own
        # The kernel counts in hundredths of a second, so a short part may seem more than the whole.
        return joules * min(1.0, part / whole) if whole > 0 else joules


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except ValueError as error:
        raise OSError(f"`{path}` holds no number") from error


def _busy_seconds(stat: Path) -> float:
    """Processor time that the whole machine has spent, on all cores; none of it idle.

    The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, ... in
    clock ticks (man 5 proc).
    """
    words = stat.read_text(encoding="ascii").split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq = (int(word) for word in words[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
