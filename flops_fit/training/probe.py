"""Params, FLOPs, memory and time of a size, and whether the plugins keep their contract."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import nn

from flops_fit.errors import PluginError
from flops_fit.params import params_of
from flops_fit.points import Note, Size, Trial
from flops_fit.recipe import Recipe
from flops_fit.training.batches import LoadedData, first_examples
from flops_fit.training.counting import Counted, build_on, count_flops, own_flops
from flops_fit.training.engine import Training
from flops_fit.training.gaps import check_counted, gaps
from flops_fit.training.heldout import Loss, check_loss
from flops_fit.training.memory import with_smaller_passes
from flops_fit.training.peaks import nominal_peak
from flops_fit.training.session import Session, open_session, seed_everything
from flops_fit.training.streams import split_batch
from flops_fit.training.telemetry import (
    device_name,
    matmul_peak,
    peak_memory,
    synchronize,
    total_memory,
)

Build = Callable[[Any], nn.Module]
CountFlops = Callable[[Any, Any], Any]
Count = Literal["counted", "6nd", "model"] | CountFlops


@dataclass(frozen=True)
class StepTiming:
    """How fast one size trains on the device at hand.

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


def count_params(build: Build, value: int | float) -> int:
    """The model's own count of its parameters at a size.

    Raises:
        PluginError: the model cannot be built at that size, or does not count.
    """
    return params_of(_build_light(build, value)).params


def describe_sizes(
    build: Build,
    size_values: Sequence[int | float],
    data: LoadedData,
    *,
    count: Count,
    loss: Loss | None = None,
) -> tuple[list[Size], list[Note]]:
    """Every size with its params and FLOPs; no weights are allocated where that can be.

    Args:
        build: makes the model of a size value on torch's current default device.
        size_values: which sizes.
        data: one of its examples is what FLOPs are counted on.
        count: `counted` (op by op), `6nd` (6 params), `model` (its own `flops_per_token()`), or a
            function (model, batch) -> forward and backward FLOPs of the batch.
        loss: counted with the model; None: the model alone.

    Returns:
        The sizes, and notes of what the count leaves out.

    Raises:
        PluginError: a size cannot be built, counted or run.
    """
    sizes, counts = [], []
    example = first_examples(data.train, 1) if count == "counted" or callable(count) else None
    for value in size_values:
        model = _build_light(build, value)
        has = params_of(model)
        if count == "6nd":
            flops = 6.0 * has.params
        elif count == "model":
            flops = _own_flops(model, data.facts.units_per_example)
        elif callable(count):
            flops = own_flops(count, build, value, example) / data.facts.units_per_example
        else:
            counted: Counted = count_flops(build, value, example, loss)
            counts.append((value, counted))
            flops = check_counted(value, counted) / data.facts.units_per_example
        sizes.append(Size(value, has.params, has.non_embedding, flops, has.active))
    return sizes, gaps(counts)


def check_contract(
    build: Build,
    data: LoadedData,
    loss: Loss,
    *,
    smallest: int | float,
    names: tuple[str, str, str] = ("model", "data", "loss"),
) -> None:
    """Build the smallest size, and pass one real batch forward and backward through it.

    Args:
        build: makes the model of a size value.
        data: training and held-out set.
        loss: (outputs, targets) -> scalar tensor.
        smallest: the size value to try.
        names: what the manifest calls the model, data and loss plugins.

    Raises:
        PluginError: a plugin breaks its contract: which one, what it lacks, and how to mend it.
    """
    model_name, data_name, loss_name = names
    with torch.random.fork_rng(devices=[]):
        seed_everything(0)
        with _naming("dataset", data_name):
            batch = first_examples(data.train, 2)
            first_examples(data.heldout, 1)
            inputs, targets = split_batch(batch)
        with _naming("model", model_name):
            model = build_on(build, smallest, "cpu")
            params_of(model)
            model.train()
            outputs = _call(model, inputs)
        with _naming("loss", loss_name):
            try:
                value = loss(outputs, targets)
            except Exception as error:
                raise PluginError(
                    f"the loss failed on the model's outputs: {type(error).__name__}: {error}",
                    hint="it is called with (outputs, targets), as the model and the data give "
                    "them",
                ) from error
            check_loss(value).backward()  # type: ignore[no-untyped-call]
        with _naming("loss", loss_name):
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            if not gradients:
                raise PluginError(
                    "the loss has no gradient for any parameter of the model",
                    hint="compute it from the model's outputs with torch, without `.detach()`",
                )


def time_size(
    trial: Trial,
    *,
    build: Build,
    data: LoadedData,
    loss: Loss,
    recipe: Recipe,
    device: str | None = None,
    threads: int = 1,
    seconds: float = 1.0,
) -> StepTiming:
    """Train a few steps of a trial, nothing of which is kept, and time them.

    Args:
        trial: whose size and batch are timed.
        build: makes the model of a size value.
        data: training and held-out set.
        loss: (outputs, targets) -> scalar tensor.
        recipe: how to train.
        device: `cpu`, `cuda` or `mps`; None: the best there is.
        threads: CPU threads of this process.
        seconds: about how long to time, after three steps to get going.
    """
    session = open_session(recipe, device=device, threads=threads)

    def attempt(recipe: Recipe) -> StepTiming:
        return _time_steps(
            trial, build=build, data=data, loss=loss, recipe=recipe, session=session,
            threads=threads, seconds=seconds,
        )  # fmt: skip

    examples = trial.batch_tokens // data.facts.units_per_example // session.world
    timing, _ = with_smaller_passes(attempt, recipe, examples=examples, session=session)
    return timing


def _time_steps(
    trial: Trial,
    *,
    build: Build,
    data: LoadedData,
    loss: Loss,
    recipe: Recipe,
    session: Session,
    threads: int,
    seconds: float,
) -> StepTiming:
    """Train and time a few steps of a trial."""
    started = time.perf_counter()
    enough = replace(trial, tokens=max(trial.tokens, 10_000 * trial.batch_tokens))
    with TemporaryDirectory(prefix="flops-fit-") as folder:
        training = Training(
            enough, build=build, data=data, loss=loss, recipe=recipe, directory=Path(folder),
            session=session, threads=threads,
        )  # fmt: skip
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
        training.heldout.losses(training.model, loss)
        training.heldout.parts(training.bare_model, loss, session=session)
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


def _build_light(build: Build, value: int | float) -> nn.Module:
    """The model without weights, or with them where it cannot be built without."""
    try:
        return build_on(build, value, "meta")
    except PluginError:
        return build_on(build, value, "cpu")


def _own_flops(model: nn.Module, units_per_example: int) -> float:
    """What the model says of its FLOPs per unit of data.

    A method that needs an argument is given how many units an example holds: a context's length.
    """
    name = type(model).__name__
    own: Any = getattr(model, "flops_per_token", None)
    if own is None:
        raise PluginError(
            f'`{name}` has no method `flops_per_token()`, which [flops] count = "model" asks for',
            hint='add it, or set count = "counted"',
        )
    flops = own
    if callable(own):
        needed = [p for p in inspect.signature(own).parameters.values() if p.default is p.empty]
        needed = [p for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        flops = own(units_per_example) if needed else own()
    if isinstance(flops, bool) or not isinstance(flops, int | float) or not flops > 0:
        raise PluginError(
            f"`{name}.flops_per_token()` returned {flops!r}: expected a positive number",
            hint="return forward and backward FLOPs of one unit of data",
        )
    return float(flops)


def _call(model: nn.Module, inputs: Any) -> Any:
    try:
        return model(inputs)
    except Exception as error:
        raise PluginError(
            f"`{type(model).__name__}.forward` failed on the data's inputs: "
            f"{type(error).__name__}: {error}",
            hint="call the model by hand on one batch of the data",
        ) from error


@contextmanager
def _naming(kind: str, name: str) -> Iterator[None]:
    """Let an error say which plugin it is about."""
    try:
        yield
    except PluginError as error:
        raise PluginError(f"{kind} plugin `{name}`: {error.message}", hint=error.hint) from error


@contextmanager
def _kept_settings() -> Iterator[None]:
    """Leave the number of threads as it was."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
