"""The place of a trial: device, precision, threads, seeds, and the processes that share batches."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list

from flops_fit.errors import ManifestError
from flops_fit.manifest.recipe import Recipe


@dataclass(frozen=True)
class Session:
    """The device and precision of one trial.

    Attributes:
        accelerator: Accelerate's view of the processes and their device.
        precision: `fp32`, `bf16` or `fp16`, with `auto` decided.
    """

    accelerator: Accelerator
    precision: str

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        """The number of processes that share each batch."""
        return int(self.accelerator.num_processes)

    def gather(self, number: int) -> list[int]:
        """Return the whole number that each process gives, by rank; all must ask."""
        if self.world == 1:
            return [number]
        mine = torch.tensor([number], device=self.device)
        return [int(each) for each in self.accelerator.gather(mine).tolist()]

    def look_for_idle(self, wish: bool) -> None:
        """Look for parameters without a gradient in each step, if any process asks for it.

        Else each would wait for ever for what another does not send. Holds for the next model.
        """
        handler = self.accelerator.ddp_handler
        assert handler is not None, "given by `open_session`"
        handler.find_unused_parameters = any(self.gather(int(wish)))


def open_session(recipe: Recipe, *, device: str | None, threads: int) -> Session:
    """Decide device and precision, and set what torch keeps for the whole process.

    Denormal numbers are flushed: they slow a CPU several times over and mean nothing here. Float32
    matrix products use TF32 on CUDA, and full float32 elsewhere.

    Raises:
        ManifestError: the device is not there, or has no such precision.
    """
    kind = device or _best_device()
    _check_device(kind)
    precision = _decide_precision(recipe.precision, kind)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high" if kind.startswith("cuda") else "highest")
    torch.use_deterministic_algorithms(recipe.deterministic)
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    mixed = "no" if precision == "fp32" else precision
    shared: dict[str, Any] = AcceleratorState._shared_state
    is_other_device = shared and shared["device"].type != torch.device(kind).type
    if shared and (shared["_mixed_precision"] != mixed or is_other_device):
        # Accelerate keeps the first precision of a process for good; trials may differ in theirs.
        AcceleratorState._reset_state(reset_partial_state=bool(is_other_device))
    sharing = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=kind == "cpu", mixed_precision=mixed, kwargs_handlers=[sharing])
    return Session(accelerator, precision)


def said_by_first(say: Callable[[], str | None], *, device: str) -> str | None:
    """Return the answer of the first process to all; every process must call this.

    Args:
        say: its answer.
        device: `cpu`, `cuda`, `mps` or `auto`; it decides how processes speak to one another.
    """
    kind = _best_device() if device == "auto" else device
    state = PartialState(cpu=kind == "cpu")
    said = [say() if state.process_index == 0 else None]
    broadcast_object_list(said)
    return said[0]


def seed_everything(seed: int) -> None:
    """Seed all that a model or a data set may draw from."""
    random.seed(seed)
    torch.manual_seed(seed)
    try:
        import numpy as np
    except ImportError:
        return
    np.random.seed(seed % 2**32)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(kind: str) -> None:
    name = kind.split(":")[0]
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name not in there:
        raise ManifestError(f"no device is called `{kind}`", hint='"cpu", "cuda" or "mps"')
    if not there[name]:
        raise ManifestError(
            f"this machine has no `{name}` device that torch can use",
            hint='leave `device` out, or set it to "auto"',
        )


def _decide_precision(asked: str, kind: str) -> str:
    if asked == "auto":
        if not kind.startswith("cuda"):
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if asked == "fp16" and not kind.startswith("cuda"):
        raise ManifestError(
            f"`training.precision` is `fp16`, which cannot be used for training on `{kind}`",
            hint='use "auto", "fp32" or "bf16"',
        )
    return asked
