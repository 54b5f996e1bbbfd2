"""`flops-fit --version`: our version, those that the numbers depend on, and the devices here."""

from __future__ import annotations

import os
from pathlib import Path

import typer

_DRIVER = Path("/proc/driver/nvidia/gpus")  # one folder for each GPU; read without torch


def print_versions() -> None:
    """Print versions from package metadata, and the devices that this machine has."""
    from flops_fit.sweep.provenance import versions

    found = versions()
    typer.echo(f"flops-fit {found.pop('flops-fit', 'unknown')}")
    typer.echo(", ".join(f"{name} {version}" for name, version in found.items()))
    typer.echo(f"devices: {_devices()}")


def _devices() -> str:
    """Return the GPUs that the driver lists, and the processor cores."""
    gpus = len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0
    cores = f"{os.cpu_count()} CPU cores"
    return f"{gpus} NVIDIA GPUs, {cores}" if gpus else cores
