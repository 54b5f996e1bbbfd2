"""Describe an experiment: the sizes' params and FLOPs, the data's facts, the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flops_fit.errors import ManifestError, Note, PluginError
from flops_fit.experiment.description import Description, SizeValue, size_values, stated_sizes
from flops_fit.experiment.loading import LIVE, Experiment
from flops_fit.manifest.limits import LARGEST_COUNT
from flops_fit.manifest.manifest import Manifest, SizeRange


def describe(experiment: Experiment) -> Description:
    """Check the plugins' contract, build every size on the meta device and count.

    Raises:
        PluginError: a plugin breaks its contract; nothing has been trained yet.
    """
    from flops_fit.experiment.checks.contract import check_contract
    from flops_fit.experiment.checks.data import overlap_notes
    from flops_fit.experiment.checks.norms import batch_norm_notes
    from flops_fit.training.counting.sizes import describe_sizes
    from flops_fit.training.measuring.timing import find_device

    manifest = experiment.manifest
    values = size_values(manifest) or buildable_sizes(manifest, experiment.build)
    if isinstance(manifest.model.sizes, SizeRange):
        _refuse_beyond(experiment.build, max(values))
    odd = check_contract(
        experiment.build,
        experiment.data,
        experiment.loss,
        smallest=min(values),
        recipe=manifest.training,
        names=(manifest.model.plugin, manifest.data.plugin, manifest.loss.plugin),
    )
    stated = manifest.model.stated
    facts, notes = experiment.data.facts, [*experiment.data.notes, *odd]
    if stated is not None and (known := stated_sizes(manifest, stated)) is not None:
        sizes = known
    else:
        counted, left_out = describe_sizes(
            experiment.build, values, experiment.data, count=experiment.count, loss=experiment.loss
        )
        sizes = tuple(counted)
        notes += left_out
    if named := manifest.model.named:
        told = ", ".join(f"{place} = {_shown(each)}" for place, each in enumerate(named, 1))
        notes.append(Note("named_sizes", f"sizes are numbered in their order: {told}"))
    notes += overlap_notes(experiment.data, is_lent=manifest.data.plugin.startswith(LIVE))
    execution = manifest.execution
    if execution.executor == "local" or execution.device == "auto":
        device, num_devices = find_device(execution.device)
    else:
        device, num_devices = execution.device, 0  # Trials run on other machines than this one.
    notes += batch_norm_notes(
        experiment.build,
        min(values),
        recipe=manifest.training,
        device=device,
        devices_per_trial=execution.devices_per_trial,
    )
    return Description(sizes, facts, tuple(notes), device, num_devices)


def _refuse_beyond(build: Callable[[SizeValue], Any], largest: SizeValue) -> None:
    """Refuse a range whose largest size is no model, before the smaller ones are counted.

    Raises:
        PluginError: it cannot be built.
        ManifestError: it has more params than any plan holds.
    """
    from flops_fit.training.counting.sizes import count_params

    params = count_params(build, largest)
    if params > LARGEST_COUNT:
        raise ManifestError(
            f"`model.sizes` reach to {largest:,}, a model of {params:.3g} params: expected at most "
            f"{float(LARGEST_COUNT):g}",
            hint="lower `max`",
        )


def _shown(size: str | dict[str, Any]) -> str:
    """Return the name of a size: `tiny`, or `width 64, depth 2`."""
    if isinstance(size, str):
        return size
    return ", ".join(f"{key} {value}" for key, value in size.items())


def buildable_sizes(manifest: Manifest, build: Callable[[SizeValue], Any]) -> list[SizeValue]:
    """Return the sizes that the model can be built at and that the grid of a budget may use.

    Tries 1, 2, 3, 4, 6, 8, 12, ... (powers of two and the middles between them); one that the
    model refuses (a width that its heads do not divide, say) is passed over.

    Raises:
        PluginError: none of them can be built.
        ManifestError: the sweep does not say how far they should reach.
    """
    from flops_fit.training.counting.sizes import count_params

    reach = manifest.sweep.params_reach
    if reach is None:
        raise ManifestError(
            '`model.sizes` is "auto", and `[sweep]` does not say how far sizes should reach',
            hint="list the sizes, or give `[sweep]` a `total_flops` or `largest_params`",
        )
    values: list[SizeValue] = []
    refusal: PluginError | None = None
    for exponent in range(40):
        value = 2 ** (exponent // 2) if exponent % 2 == 0 else 3 * 2 ** (exponent // 2) // 2
        if value in values or value == 0:
            continue
        try:
            params = count_params(build, value)
        except PluginError as error:
            refusal = error
            continue
        values.append(value)
        if params > reach:
            break
    if not values:
        assert refusal is not None
        raise refusal
    return values
