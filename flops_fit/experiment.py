"""Manifest + plugins, or live objects -> Experiment; its sizes, its fingerprint.

An Experiment holds what a trial is made from. What the planner needs of it (sizes with their
counts, what one unit of data is) is its Description, plain data that crosses processes, so that a
command which only plans or conducts never imports torch or the user's code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.contracts import DataFacts
from flops_fit.errors import ManifestError, PluginError
from flops_fit.manifest import Manifest, SizeRange, StatedSize, manifest_from
from flops_fit.plugins import check_takes, guard, load_plugin
from flops_fit.points import Note, Size

if TYPE_CHECKING:
    from flops_fit.training.batches import LoadedData

SizeValue = int | float
LIVE = "live:"  # begins the plugin's name in the manifest of an experiment made of live objects


@dataclass(frozen=True)
class Experiment:
    """What every trial is made from.

    Attributes:
        manifest: the experiment as written.
        build: makes the model of a size on torch's current default device.
        data: training and held-out set, and the facts of the data.
        loss: (outputs, targets) -> scalar tensor.
    """

    manifest: Manifest
    build: Callable[[SizeValue], Any]
    data: LoadedData
    loss: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Description:
    """What planning needs to know of an experiment; JSON-ready.

    Attributes:
        sizes: every size that may be planned, with its counts.
        facts: what one unit of data is.
        notes: what the user should know (a held-out share that was cut, for instance).
        device: `cpu`, `cuda` or `mps`: where trials will train.
        num_devices: how many of them there are; 0 for a CPU.
    """

    sizes: tuple[Size, ...]
    facts: DataFacts
    notes: tuple[Note, ...] = ()
    device: str = "cpu"
    num_devices: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The description as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Description:
        """The inverse of `to_dict`."""
        return cls(
            sizes=tuple(Size(**size) for size in data["sizes"]),
            facts=DataFacts(**data["facts"]),
            notes=tuple(Note(**note) for note in data["notes"]),
            device=data["device"],
            num_devices=data["num_devices"],
        )


def fingerprint(manifest: Manifest) -> str:
    """12 hexadecimal digits that change with anything that a trial's numbers depend on."""
    text = json.dumps(manifest.identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_experiment(manifest: Manifest, *, search_path: Sequence[Path]) -> Experiment:
    """Load the manifest's plugins and draw up its data.

    Raises:
        PluginError: a plugin is missing, does not load, or does not take what the manifest gives.
    """
    from flops_fit.training.batches import load_data

    if manifest.model.plugin.startswith(LIVE):
        raise PluginError(
            f"this experiment was made of live objects ({manifest.model.plugin}), which another "
            "process cannot load",
            hint="call `find_optimal` again with the same objects and `run_dir`, or write a "
            "manifest that names them by import path",
        )
    model, data, loss = manifest.model, manifest.data, manifest.loss
    factory = load_plugin("model", model.plugin, search_path=search_path)
    check_takes("model", model.plugin, factory, model.size_param, model.kwargs)
    make_data = load_plugin("dataset", data.plugin, search_path=search_path)
    check_takes("dataset", data.plugin, make_data, "", data.kwargs)
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
    made = guard("dataset", data.plugin, lambda: make_data(**data.kwargs))
    overrides = data.model_dump(exclude={"plugin", "kwargs"}, exclude_none=True)
    loaded = guard(
        "dataset",
        data.plugin,
        lambda: load_data(made, seed=manifest.seed, overrides=overrides),
    )
    return Experiment(manifest, _builder(manifest, factory), loaded, loss_fn)


def live_experiment(
    manifest: Manifest, factory: Callable[..., Any], kwargs: Mapping[str, Any], made: Any, loss: Any
) -> Experiment:
    """An experiment of live objects; `manifest` names them for the record only.

    Raises:
        PluginError: the factory does not take the size parameter or `kwargs`, or the data is not
            a data set.
    """
    from flops_fit.training.batches import load_data

    name = manifest.model.plugin.removeprefix(LIVE)
    check_takes("model", name, factory, manifest.model.size_param, kwargs)
    overrides = manifest.data.model_dump(exclude={"plugin", "kwargs"}, exclude_none=True)
    data_name = manifest.data.plugin.removeprefix(LIVE)
    loaded = guard(
        "dataset", data_name, lambda: load_data(made, seed=manifest.seed, overrides=overrides)
    )
    return Experiment(manifest, _builder(manifest, factory, kwargs), loaded, loss)


def describe(experiment: Experiment) -> Description:
    """Check the plugins' contract, build every size on the meta device and count.

    Raises:
        PluginError: a plugin breaks its contract; nothing has been trained yet.
    """
    from flops_fit.training.probe import check_contract, describe_sizes, find_device

    manifest = experiment.manifest
    values = size_values(manifest) or _buildable_sizes(experiment)
    check_contract(
        experiment.build,
        experiment.data,
        experiment.loss,
        smallest=min(values),
        names=(manifest.model.plugin, manifest.data.plugin, manifest.loss.plugin),
    )
    stated = manifest.model.stated
    facts = experiment.data.facts
    if stated is not None and (known := _stated_sizes(manifest, stated)) is not None:
        sizes = known
    else:
        sizes = tuple(
            describe_sizes(
                experiment.build,
                values,
                experiment.data,
                count=manifest.flops.count,
                loss=experiment.loss,
            )
        )
    device, num_devices = find_device(manifest.execution.device)
    return Description(sizes, facts, tuple(experiment.data.notes), device, num_devices)


def stated_description(manifest: Manifest) -> Description | None:
    """The description, if the manifest states all that it holds; None where plugins must be asked.

    All is stated if every size has `params` and, unless FLOPs are counted as 6 N D,
    `flops_per_token`, and [data] has `units_per_example`.
    """
    stated, data = manifest.model.stated, manifest.data
    if stated is None or data.units_per_example is None:
        return None
    sizes = _stated_sizes(manifest, stated)
    if sizes is None:
        return None
    facts = DataFacts(
        unit=data.unit or DataFacts.unit,
        units_per_example=data.units_per_example,
        unique_units=data.unique_units,
        loss_unit=data.loss_unit or DataFacts.loss_unit,
    )
    return Description(sizes, facts)


def size_values(manifest: Manifest) -> list[SizeValue]:
    """The values of the size parameter that may be planned, ascending.

    A range becomes a ladder of steps of 2^(1/4), near the square root of 2 in params where params
    grow with the square of the size, rounded to the multiple asked for. Empty for `auto`.
    """
    sizes = manifest.model.sizes
    if sizes == "auto":
        return []
    if isinstance(sizes, SizeRange):
        low = -(-sizes.min // sizes.multiple_of) * sizes.multiple_of
        values, at = [], float(low)
        while at <= sizes.max:
            values.append(round(at / sizes.multiple_of) * sizes.multiple_of)
            at *= 2**0.25
        return sorted({value for value in values if sizes.min <= value <= sizes.max})
    plain = {size.size_value if isinstance(size, StatedSize) else size for size in sizes}
    return sorted(plain)


def _buildable_sizes(experiment: Experiment) -> list[SizeValue]:
    """Whole sizes that the model can be built at and that some budget's grid may want.

    Tries 1, 2, 3, 4, 6, 8, 12, ... (powers of two and the middles between them); one that the
    model refuses (a width that its heads do not divide, say) is passed over.

    Raises:
        PluginError: none of them can be built.
        ManifestError: the sweep does not say how far they should reach.
    """
    from flops_fit.training.probe import count_params

    reach = experiment.manifest.sweep.params_reach
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
            params = count_params(experiment.build, value)
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


def _stated_sizes(manifest: Manifest, stated: Sequence[StatedSize]) -> tuple[Size, ...] | None:
    """Sizes from what the manifest states; None if the FLOPs of one are neither stated nor 6 N."""
    sizes = []
    for size in stated:
        flops = size.flops_per_token
        if flops is None:
            if manifest.flops.count != "6nd":
                return None
            flops = 6.0 * size.params
        sizes.append(Size(size.size_value, size.params, size.params_non_embedding, flops))
    return tuple(sizes)


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
        "plugin": LIVE + _name_of(factory),
        "size_param": size_param,
        "kwargs": {key: _plain(value) for key, value in kwargs.items()},
    }
    given = dict(sections)
    return manifest_from(
        {
            **given,
            "model": {**model, **given.get("model", {})},
            "data": {"plugin": LIVE + _name_of(made), **given.get("data", {})},
            "loss": {"plugin": LIVE + _name_of(loss)},
        },
        where="the call",
    )


def _name_of(thing: Any) -> str:
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
    return "None" if value is None else _name_of(value)


def _builder(
    manifest: Manifest, factory: Callable[..., Any], kwargs: Mapping[str, Any] | None = None
) -> Callable[[SizeValue], Any]:
    """A function from a size value to a model, whose errors name the plugin and the size."""
    model = manifest.model
    given = model.kwargs if kwargs is None else kwargs

    def build(value: SizeValue) -> Any:
        return guard(
            "model",
            f"{model.plugin.removeprefix(LIVE)}` at `{model.size_param} = {value}",
            lambda: factory(**{model.size_param: value}, **given),
        )

    return build
