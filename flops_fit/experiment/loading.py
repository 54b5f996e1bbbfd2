"""Makes an experiment from a manifest and plugins, or from live objects; sizes and fingerprint.

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

from flops_fit.errors import PluginError
from flops_fit.experiment.description import SizeValue
from flops_fit.experiment.plugins import check_takes, find_plugin, guard, load_plugin
from flops_fit.manifest.manifest import Manifest, manifest_from

if TYPE_CHECKING:
    from flops_fit.training.data.batches import LoadedData
    from flops_fit.training.orders import Ingredients

LIVE = "live:"  # begins the plugin's name in the manifest of an experiment made of live objects


@dataclass(frozen=True)
class Experiment:
    """The objects that every trial is made from.

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

    @property
    def ingredients(self) -> Ingredients:
        """Return what a trainer needs of the experiment."""
        from flops_fit.training.orders import Ingredients

        return Ingredients(self.build, self.data, self.loss, self.manifest.training)


def fingerprint(manifest: Manifest) -> str:
    """Return 12 hexadecimal digits that change with anything that a trial's numbers depend on."""
    text = json.dumps(manifest.identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_experiment(manifest: Manifest, *, search_path: Sequence[Path]) -> Experiment:
    """Load the manifest's plugins and its data.

    Raises:
        PluginError: a plugin is missing, does not load, or does not take what the manifest gives.
    """
    if manifest.model.plugin.startswith(LIVE):
        raise PluginError(
            f"this experiment consists of live objects ({manifest.model.plugin}), which other "
            "processes cannot load",
            hint="call `find_optimal` again with the same objects and `run_dir`, or write a "
            "manifest that names them by import path",
        )
    factory = load_factory(manifest, search_path=search_path)
    loss = load_loss(manifest, search_path=search_path)
    data = load_dataset(manifest, search_path=search_path)
    count = load_count(manifest, factory, search_path=search_path)
    return Experiment(manifest, builder(manifest, factory), data, loss, count)


def load_factory(manifest: Manifest, *, search_path: Sequence[Path]) -> Any:
    """Return the model plugin, which takes the arguments that the manifest gives."""
    model = manifest.model
    factory = load_plugin("model", model.plugin, search_path=search_path)
    given: set[str] = {key for each in model.named if isinstance(each, dict) for key in each}
    named = dict.fromkeys(given) | model.kwargs
    check_takes("model", model.plugin, factory, model.size_param, named, model.derive)
    return factory


def load_count(manifest: Manifest, factory: Any, *, search_path: Sequence[Path]) -> Any:
    """Return how FLOPs are counted: by the manifest, or by a plugin's `count_flops(model, batch)`.

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
    """Return the loss plugin; a class is instantiated first."""
    loss = manifest.loss
    loss_fn = load_plugin("loss", loss.plugin, search_path=search_path)
    if isinstance(loss_fn, type) or loss.kwargs:
        check_takes("loss", loss.plugin, loss_fn, "", loss.kwargs)
        make_loss = loss_fn
        loss_fn = guard("loss", loss.plugin, lambda: make_loss(**loss.kwargs))
    if not callable(loss_fn):
        raise PluginError(
            f"loss plugin `{loss.plugin}` is a {type(loss_fn).__name__}, which is not callable",
            hint="a loss is called with (outputs, targets)",
        )
    return loss_fn if loss.offset is None else Raised(loss_fn, loss.offset)


class Raised:
    """A loss plus a constant, with the attributes of the loss."""

    def __init__(self, loss: Any, offset: float) -> None:
        self._loss, self._offset = loss, offset

    def __call__(self, outputs: Any, targets: Any) -> Any:
        """Return the loss plus the constant."""
        return self._loss(outputs, targets) + self._offset

    def of_model(self, model: Any) -> Raised:
        """Return the same for the loss that fits a model."""
        bind = getattr(self._loss, "of_model", None)
        return Raised(bind(model), self._offset) if callable(bind) else self

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the loss itself, such as `count`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loss, name)


def load_dataset(manifest: Manifest, *, search_path: Sequence[Path]) -> LoadedData:
    """Return the data plugin's training and held-out set."""
    from flops_fit.training.data.batches import load_data
    from flops_fit.training.data.draws import Draws, seed_draws
    from flops_fit.training.data.streams import derive_seed

    data = manifest.data
    make_data = load_plugin("dataset", data.plugin, search_path=search_path)
    check_takes("dataset", data.plugin, make_data, "", data.kwargs)
    with Draws().apart():
        # A set that draws its split or its examples draws the same in every process.
        seed_draws(derive_seed(manifest.seed, "plugin"))
        made = guard("dataset", data.plugin, lambda: make_data(**data.kwargs))
    overrides = _stated_facts(manifest)
    loaded: LoadedData = guard(
        "dataset",
        data.plugin,
        lambda: load_data(made, seed=manifest.seed, overrides=overrides),
    )
    return loaded


def _stated_facts(manifest: Manifest) -> dict[str, Any]:
    """Return the facts about the data; those of the manifest replace those of the data."""
    return manifest.data.model_dump(exclude={"plugin", "kwargs"}, exclude_none=True)


def live_experiment(
    manifest: Manifest,
    factory: Callable[..., Any],
    kwargs: Mapping[str, Any],
    made: Any,
    loss: Any,
    count: Any = None,
) -> Experiment:
    """Return an experiment of live objects; `manifest` names them for the record only.

    `count` is a function (model, batch) -> FLOPs, in place of the manifest's `[flops] count`.

    Raises:
        PluginError: the factory does not take the size parameter or `kwargs`, or the data is not
            a data set.
    """
    from flops_fit.training.data.batches import load_data

    name = manifest.model.plugin.removeprefix(LIVE)
    check_takes("model", name, factory, manifest.model.size_param, kwargs, manifest.model.derive)
    overrides = _stated_facts(manifest)
    data_name = manifest.data.plugin.removeprefix(LIVE)
    loaded = guard(
        "dataset", data_name, lambda: load_data(made, seed=manifest.seed, overrides=overrides)
    )
    how = count or load_count(manifest, factory, search_path=())
    return Experiment(manifest, builder(manifest, factory, kwargs), loaded, loss, how)


def live_manifest(
    *,
    factory: Any,
    size_param: str,
    kwargs: Mapping[str, Any],
    made: Any,
    loss: Any,
    sections: Mapping[str, Any],
) -> Manifest:
    """Return the manifest that records live objects; `sections` holds all the rest.

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
    """Return `module:qualified.name` of a class or function, or of an object's class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def _plain(value: Any) -> Any:
    """Return a keyword argument as TOML can hold it; an object by its class's name."""
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
    """Return a function from a size value to a model, whose errors name the plugin and the size."""
    model = manifest.model
    given = model.kwargs if kwargs is None else kwargs

    def build(value: SizeValue) -> Any:
        try:
            arguments = model.arguments(value)
        except ValueError as error:
            raise PluginError(
                f"`[model.derive]` at `{model.size_param} = {value}`: {error}",
                hint="fix the formula, or leave the size out of `sizes`",
            ) from None
        shown = ", ".join(f"{name} = {each}" for name, each in arguments.items())
        return guard(
            "model",
            f"{model.plugin.removeprefix(LIVE)}` at `{shown}",
            lambda: factory(**arguments, **given),
        )

    return build
