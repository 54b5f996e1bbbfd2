"""Time training steps of a few sizes on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from pydantic import ConfigDict

from flops_fit.experiment.loading import Experiment
from flops_fit.manifest.files import STORED, Count, NotNegative, Positive
from flops_fit.manifest.trials import Trial


@dataclass(frozen=True)
class Timing:
    """The measured speed and memory of one size on this device.

    Attributes:
        flops_per_token: of the size that was timed.
        seconds_per_token: of training, by all of a trial's devices together, data included,
            warm-up steps left out.
        evaluation_seconds: the evaluation at a trial's end; those before it read less.
        memory_bytes: peak of one process (CPU) or one device of the trial; None where it cannot
            be told.
        setup_seconds: what each trial takes before its first usual step: building the model,
            reading the held-out set, compiling.
        startup_seconds: what each worker takes before its first trial: importing torch, loading
            the data.
        available_bytes: memory that the device (or, on a CPU, the machine) has in all.
        matmul_flops_per_second: what a large matrix product reached on all of a trial's devices.
        nominal_flops_per_second: the peak that their vendor publishes; None where none is listed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    flops_per_token: Positive
    seconds_per_token: Positive
    evaluation_seconds: NotNegative = 0.0
    memory_bytes: Count | None = None
    setup_seconds: NotNegative = 0.0
    startup_seconds: NotNegative = 0.0
    available_bytes: Count | None = None
    matmul_flops_per_second: NotNegative | None = None
    nominal_flops_per_second: NotNegative | None = None

    @property
    def flops_per_second(self) -> float:
        """Measured training FLOPs per second."""
        return self.flops_per_token / self.seconds_per_token

    @property
    def utilisation(self) -> float | None:
        """Share of the speed of a large matrix product; None if that was not measured."""
        peak = self.matmul_flops_per_second
        return None if peak is None else self.flops_per_second / peak

    @property
    def mfu(self) -> float | None:
        """Share of the published peak: model FLOPs utilisation; None if no peak is listed."""
        peak = self.nominal_flops_per_second
        return None if peak is None else self.flops_per_second / peak

    def to_dict(self) -> dict[str, Any]:
        """Return the measurements and the shares of the peak as plain data."""
        rates = {key: getattr(self, key) for key in ("flops_per_second", "utilisation", "mfu")}
        return {**asdict(self), **rates}


def time_sizes(experiment: Experiment, trials: Sequence[Trial]) -> list[Timing]:
    """Time the sizes of these trials in this process, one of those that share each batch.

    The exchange of gradients between several is not in it.
    """
    from flops_fit.training.measuring.timing import time_size

    manifest = experiment.manifest
    shared_by = manifest.execution.devices_per_trial
    timings = []
    for trial in trials:
        measured = time_size(
            replace(trial, batch_tokens=trial.batch_tokens // shared_by),
            experiment.ingredients,
            device=None if manifest.execution.device == "auto" else manifest.execution.device,
            threads=manifest.execution.threads_per_worker,
        )
        timings.append(
            Timing(
                flops_per_token=trial.size.flops_per_token,
                seconds_per_token=measured.seconds_per_step / trial.batch_tokens,
                evaluation_seconds=measured.evaluation_seconds,
                memory_bytes=measured.memory_bytes,
                setup_seconds=measured.setup_seconds,
                available_bytes=measured.available_bytes,
                matmul_flops_per_second=_times(measured.matmul_flops_per_second, shared_by),
                nominal_flops_per_second=_times(measured.nominal_flops_per_second, shared_by),
            )
        )
    return timings


def _times(rate: float | None, count: int) -> float | None:
    """Return the rate of this many devices; None if it is not known."""
    return None if rate is None else rate * count
