"""Manifest + plugins, or live objects -> Experiment; its sizes, its fingerprint.

An Experiment holds what a trial is made from. What the planner needs of it (sizes with their
counts, what one unit of data is) is its Description.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.description import Description, SizeValue, size_values, stated_sizes
from flops_fit.errors import ManifestError, PluginError
from flops_fit.manifest import Manifest, manifest_from
from flops_fit.plugins import check_takes, find_plugin, guard, load_plugin

if TYPE_CHECKING:
    from flops_fit.training.batches import LoadedData

LIVE = "live:"  # begins the plugin's name in the manifest of an experiment made of live objects


@dataclass(frozen=True)
class Experiment:
    """What every trial is made from.

    Attributes:
        manifest: the experiment as written.
        build: makes the model of a size on torch's current default device.
        data: training and held-out set, and the facts of the data.
        loss: (outputs, targets) -> scalar tensor.
        count: how FLOPs are found: the manifest's word, or the plugin's function.
    """

    manifest: Manifest
    build: Callable[[SizeValue], Any]
    data: LoadedData
    loss: Callable[[Any, Any], Any]
    count: Any = "counted"


def fingerprint(manifest: Manifest) -> str:
    """12 hexadecimal digits that change with anything that a trial's numbers depend on."""
    text = json.dumps(manifest.identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_experiment(manifest: Manifest, *, search_path: Sequence[Path]) -> Experiment:
    """Load the manifest's plugins and draw up its data.

    Raises:
        PluginError: a plugin is missing, does not load, or does not take what the manifest gives.
    """
    if manifest.model.plugin.startswith(LIVE):
        raise PluginError(
            f"this experiment was made of live objects ({manifest.model.plugin}), which another "
            "process cannot load",
            hint="call `find_optimal` again with the same objects and `run_dir`, or write a "
            "manifest that names them by import path",
        )
    factory = load_factory(manifest, search_path=search_path)
    loss = load_loss(manifest, search_path=search_path)
    data = load_dataset(manifest, search_path=search_path)
    count = load_count(manifest, factory, search_path=search_path)
    return Experiment(manifest, builder(manifest, factory), data, loss, count)


def load_factory(manifest: Manifest, *, search_path: Sequence[Path]) -> Any:
    """The model plugin, which takes the arguments that the manifest gives."""
    model = manifest.model
    factory = load_plugin("model", model.plugin, search_path=search_path)
    check_takes("model", model.plugin, factory, model.size_param, model.kwargs, model.derive)
    return factory


def load_count(manifest: Manifest, factory: Any, *, search_path: Sequence[Path]) -> Any:
    """How FLOPs are found: the manifest's word, or a plugin's `count_flops(model, batch)`.

    Raises:
        PluginError: the function is not there.
    """
    count = manifest.flops.count
    if ":" in count:
        return load_plugin("FLOP count", count, search_path=search_path)
    if count != "plugin":
        return count
    name = manifest.model.plugin.removeprefix(LIVE)
    named = name if ":" in name else find_plugin("model", name).value
    modules = (named.partition(":")[0], getattr(factory, "__module__", ""))
    for owner in (factory, *(sys.modules.get(module) for module in modules)):
        if callable(own := getattr(owner, "count_flops", None)):
            return own
    raise PluginError(
        f'model plugin `{name}` has no `count_flops`, which [flops] count = "plugin" asks for',
        hint="define `count_flops(model, batch)` beside the factory or as a method of the class, "
        'or name it: count = "my_module:my_count"',
    )


def load_loss(manifest: Manifest, *, search_path: Sequence[Path]) -> Any:
    """The loss plugin; a class is called first."""
    loss = manifest.loss
    loss_fn = load_plugin("loss", loss.plugin, search_path=search_path)
    if isinstance(loss_fn, type) or loss.kwargs:
        check_takes("loss", loss.plugin, loss_fn, "", loss.kwargs)
        make_loss = loss_fn
        loss_fn = guard("loss", loss.plugin, lambda: make_loss(**loss.kwargs))
    if not callable(loss_fn):
        raise PluginError(
            f"loss plugin `{loss.plugin}` is a {type(loss_fn).__name__}, not something to call",
            hint="a loss is called with (outputs, targets)",
        )
    return loss_fn


def load_dataset(manifest: Manifest, *, search_path: Sequence[Path]) -> LoadedData:
    """The data plugin's training and held-out set."""
    from flops_fit.training.batches import load_data

    data = manifest.data
    make_data = load_plugin("dataset", data.plugin, search_path=search_path)
    check_takes("dataset", data.plugin, make_data, "", data.kwargs)
    made = guard("dataset", data.plugin, lambda: make_data(**data.kwargs))
    overrides = data.model_dump(exclude={"plugin", "kwargs"}, exclude_none=True)
    loaded: LoadedData = guard(
        "dataset",
        data.plugin,
        lambda: load_data(made, seed=manifest.seed, overrides=overrides),
    )
    return loaded


def live_experiment(
    manifest: Manifest,
    factory: Callable[..., Any],
    kwargs: Mapping[str, Any],
    made: Any,
    loss: Any,
    count: Any = None,
) -> Experiment:
    """An experiment of live objects; `manifest` names them for the record only.

    `count` is a function (model, batch) -> FLOPs, in place of the manifest's `[flops] count`.

    Raises:
        PluginError: the factory does not take the size parameter or `kwargs`, or the data is not
            a data set.
    """
    from flops_fit.training.batches import load_data

    name = manifest.model.plugin.removeprefix(LIVE)
    check_takes("model", name, factory, manifest.model.size_param, kwargs, manifest.model.derive)
    overrides = manifest.data.model_dump(exclude={"plugin", "kwargs"}, exclude_none=True)
    data_name = manifest.data.plugin.removeprefix(LIVE)
    loaded = guard(
        "dataset", data_name, lambda: load_data(made, seed=manifest.seed, overrides=overrides)
    )
    how = count or load_count(manifest, factory, search_path=())
    return Experiment(manifest, builder(manifest, factory, kwargs), loaded, loss, how)


def describe(experiment: Experiment) -> Description:
    """Check the plugins' contract, build every size on the meta device and count.

    Raises:
        PluginError: a plugin breaks its contract; nothing has been trained yet.
    """
    from flops_fit.training.norms import batch_norm_notes
    from flops_fit.training.probe import check_contract, describe_sizes, find_device
    from flops_fit.training.scrutiny import overlap_notes

    manifest = experiment.manifest
    values = size_values(manifest) or buildable_sizes(manifest, experiment.build)
    check_contract(
        experiment.build,
        experiment.data,
        experiment.loss,
        smallest=min(values),
        names=(manifest.model.plugin, manifest.data.plugin, manifest.loss.plugin),
    )
    stated = manifest.model.stated
    facts, notes = experiment.data.facts, list(experiment.data.notes)
    if stated is not None and (known := stated_sizes(manifest, stated)) is not None:
        sizes = known
    else:
        counted, left_out = describe_sizes(
            experiment.build, values, experiment.data, count=experiment.count, loss=experiment.loss
        )
        sizes = tuple(counted)
        notes += left_out
    notes += overlap_notes(experiment.data, is_lent=manifest.data.plugin.startswith(LIVE))
    device, num_devices = find_device(manifest.execution.device)
    notes += batch_norm_notes(
        experiment.build,
        min(values),
        recipe=manifest.training,
        device=device,
        devices_per_trial=manifest.execution.devices_per_trial,
    )
    return Description(sizes, facts, tuple(notes), device, num_devices)


def buildable_sizes(manifest: Manifest, build: Callable[[SizeValue], Any]) -> list[SizeValue]:
    """Whole sizes that the model can be built at and that some budget's grid may want.

    Tries 1, 2, 3, 4, 6, 8, 12, ... (powers of two and the middles between them); one that the
    model refuses (a width that its heads do not divide, say) is passed over.

    Raises:
        PluginError: none of them can be built.
        ManifestError: the sweep does not say how far they should reach.
    """
    from flops_fit.training.probe import count_params

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


def live_manifest(
    *,
    factory: Any,
    size_param: str,
    kwargs: Mapping[str, Any],
    made: Any,
    loss: Any,
    sections: Mapping[str, Any],
) -> Manifest:
    """The manifest that records an experiment of live objects; `sections` holds all the rest.

    Raises:
        ManifestError: a section breaks a rule of the manifest.
    """
    model = {
        "plugin": LIVE + name_of(factory),
        "size_param": size_param,
        "kwargs": {key: _plain(value) for key, value in kwargs.items()},
    }
    given = dict(sections)
    return manifest_from(
        {
            **given,
            "model": {**model, **given.get("model", {})},
            "data": {"plugin": LIVE + name_of(made), **given.get("data", {})},
            "loss": {"plugin": LIVE + name_of(loss)},
        },
        where="the call",
    )


def name_of(thing: Any) -> str:
    """`module:qualified.name` of a class or function, or of an object's class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def _plain(value: Any) -> Any:
    """A keyword argument as TOML can hold it; an object by its class's name."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return "None" if value is None else name_of(value)


def builder(
    manifest: Manifest, factory: Callable[..., Any], kwargs: Mapping[str, Any] | None = None
) -> Callable[[SizeValue], Any]:
    """A function from a size value to a model, whose errors name the plugin and the size."""
    model = manifest.model
    given = model.kwargs if kwargs is None else kwargs

    def build(value: SizeValue) -> Any:
        try:
            arguments = model.arguments(value)
        except ValueError as error:
            raise PluginError(
                f"`[model.derive]` at `{model.size_param} = {value}`: {error}",
                hint="mend the formula, or leave the size out of `sizes`",
            ) from None
        shown = ", ".join(f"{name} = {each}" for name, each in arguments.items())
        return guard(
            "model",
            f"{model.plugin.removeprefix(LIVE)}` at `{shown}",
            lambda: factory(**arguments, **given),
        )

    return build
