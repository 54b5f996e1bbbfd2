"""Params, FLOPs, memory and time of a size, and whether the plugins keep their contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Trial
from flops_fit.training.engine import Training
from flops_fit.training.measuring.meter import (
    device_name,
    matmul_peak,
    peak_memory,
    synchronize,
    total_memory,
)
from flops_fit.training.measuring.peaks import nominal_peak
from flops_fit.training.memory import with_smaller_passes
from flops_fit.training.orders import Ingredients, TrialFiles
from flops_fit.training.session import Session, open_session

Build = Callable[[Any], nn.Module]


@dataclass(frozen=True)
class StepTiming:
    """The training speed of one size on this device.

    Attributes:
        seconds_per_step: median wall time of an optimiser step.
        batch_tokens: units of data in that step.
        evaluation_seconds: wall time of a trial's last evaluation, of the whole held-out set.
        memory_bytes: peak memory: of the device, or of this process on a CPU; None if not known.
        setup_seconds: wall time before the first usual step: building, first evaluation, compiling.
        available_bytes: memory of the device, or of the machine on a CPU; None if not known.
        matmul_flops_per_second: what a large matrix product reaches on the process's device.
        nominal_flops_per_second: what the device's vendor publishes; None where none is listed.
    """

    size_value: int | float
    seconds_per_step: float
    batch_tokens: int
    evaluation_seconds: float
    memory_bytes: int | None
    setup_seconds: float
    available_bytes: int | None
    matmul_flops_per_second: float | None
    nominal_flops_per_second: float | None


def find_device(asked: str = "auto") -> tuple[str, int]:
    """(`cpu`, `cuda` or `mps`; how many there are, 0 for a CPU).

    Raises:
        ManifestError: the device asked for is not there.
    """
    with _kept_settings():
        session = open_session(Recipe(), device=None if asked == "auto" else asked, threads=1)
    kind = session.device.type
    if kind == "cuda":
        return kind, torch.cuda.device_count()
    return kind, 0 if kind == "cpu" else 1


def time_size(
    trial: Trial,
    ingredients: Ingredients,
    *,
    device: str | None = None,
    threads: int = 1,
    seconds: float = 1.0,
) -> StepTiming:
    """Train a few steps of a trial, nothing of which is kept, and time them.

    Args:
        trial: whose size and batch are timed.
        ingredients: model, data, loss and recipe.
        device: `cpu`, `cuda` or `mps`; None: the best there is.
        threads: CPU threads of this process.
        seconds: about how long to time, after three steps to get going.
    """
    recipe = ingredients.recipe
    session = open_session(recipe, device=device, threads=threads)

    def attempt(recipe: Recipe) -> StepTiming:
        tried = replace(ingredients, recipe=recipe)
        return _time_steps(trial, tried, session=session, threads=threads, seconds=seconds)

    units = ingredients.data.facts.units_per_example
    examples = trial.batch_tokens // units // session.world
    timing, _ = with_smaller_passes(attempt, recipe, examples=examples, session=session)
    return timing


def _time_steps(
    trial: Trial,
    ingredients: Ingredients,
    *,
    session: Session,
    threads: int,
    seconds: float,
) -> StepTiming:
    """Train and time a few steps of a trial."""
    started = time.perf_counter()
    enough = replace(trial, tokens=max(trial.tokens, 10_000 * trial.batch_tokens))
    with TemporaryDirectory(prefix="flops-fit-") as folder:
        files = TrialFiles(Path(folder))
        training = Training(enough, ingredients, files, session=session, threads=threads)
        training.begin()
        synchronize(session.device)
        setup = time.perf_counter() - started
        times: list[float] = []
        while len(times) < 8 or (sum(times) < seconds and len(times) < 1000):
            began = time.perf_counter()
            training.take_step()
            synchronize(session.device)
            times.append(time.perf_counter() - began)
        began = time.perf_counter()
        training.heldout.losses(training.model, ingredients.loss)
        training.heldout.parts(training.bare_model, ingredients.loss, session=session)
        synchronize(session.device)
        evaluation_seconds = time.perf_counter() - began
    measured = sorted(times[3:])
    usual = measured[len(measured) // 2]
    memory = peak_memory(session.device)  # before the product that measures the peak takes some
    return StepTiming(
        size_value=trial.size.size_value,
        seconds_per_step=usual,
        batch_tokens=trial.batch_tokens,
        evaluation_seconds=evaluation_seconds,
        memory_bytes=memory,
        setup_seconds=setup + max(0.0, sum(times[:3]) - 3 * usual),
        available_bytes=total_memory(session.device),
        matmul_flops_per_second=matmul_peak(session.device, session.precision, threads),
        nominal_flops_per_second=nominal_peak(device_name(session.device), session.precision),
    )


@contextmanager
def _kept_settings() -> Iterator[None]:
    """Leave the number of threads as it was."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
