"""Finds entry points (metadata only), loads one, and checks its contract.

A plugin is named by an entry point (`gpt`) of one of the groups below, or by an import path
(`my_module:MyGPT`). Finding reads package metadata and imports nothing; loading imports. Whatever a
plugin's own code raises becomes a PluginError that names the plugin and the line.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from flops_fit.errors import FlopsFitError, PluginError
from flops_fit.manifest.recipe import TRACKERS

Kind = Literal["model", "dataset", "loss", "executor", "FLOP count"]
GROUPS: Mapping[Kind, str] = {
    "model": "flops_fit.models",
    "dataset": "flops_fit.datasets",
    "loss": "flops_fit.losses",
    "executor": "flops_fit.executors",
}


@dataclass(frozen=True)
class Listed:
    """An installed plugin, as its package's metadata states it.

    Attributes:
        name, kind: what a manifest calls it, and where.
        package, version: the distribution that offers it.
        where: `module:attribute`.
        also: other packages that claim the same name.
        problem: why it cannot be loaded; None if it can, or was not tried.
    """

    name: str
    kind: Kind
    package: str
    version: str
    where: str
    also: tuple[str, ...] = ()
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the plugin as plain data."""
        return {**asdict(self), "group": GROUPS[self.kind]}


def list_plugins() -> list[Listed]:
    """Return every installed plugin, by kind and name, without an import."""
    listed = []
    for kind in GROUPS:
        points = _points(kind)
        for point in points:
            others = {_package(p) for p in points if p.name == point.name} - {_package(point)}
            version = point.dist.version if point.dist else ""
            listed.append(
                Listed(
                    point.name, kind, _package(point), version, point.value, tuple(sorted(others))
                )
            )
    return listed


def problem_of(plugin: Listed) -> str | None:
    """Import an installed plugin in a separate process; return the error, or None."""
    point = EntryPoint(plugin.name, plugin.where, GROUPS[plugin.kind])
    try:
        loaded = guard(plugin.kind, plugin.name, point.load)
    except PluginError as error:
        return error.message.removeprefix(f"{plugin.kind} plugin `{plugin.name}` ")
    return None if callable(loaded) else f"is a {type(loaded).__name__}, which is not callable"


def _points(kind: Kind) -> list[EntryPoint]:
    """Return the entry points of a kind, by name; a package found twice counts once."""
    found = {(p.name, _package(p), p.value): p for p in entry_points(group=GROUPS[kind])}
    return [found[key] for key in sorted(found)]


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "?"


def load_plugin(kind: Kind, name: str, *, search_path: Sequence[Path] = ()) -> Any:
    """Import the plugin called `name`.

    Args:
        kind: which group to look in.
        name: an entry point's name, or `module:attribute`.
        search_path: folders in which an import path is looked up first.

    Raises:
        PluginError: no such plugin, or its import fails.
    """
    for folder in reversed(search_path):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    if ":" in name:
        return guard(kind, name, lambda: _import(kind, name))
    return guard(kind, name, find_plugin(kind, name).load)


def find_plugin(kind: Kind, name: str) -> EntryPoint:
    """Return the installed plugin called `name`, without an import.

    Raises:
        PluginError: there is none, and the hint names what there is; or two packages claim it.
    """
    points = _points(kind)
    found = {point.name: point for point in points}
    claims = [point for point in points if point.name == name]
    if len(claims) > 1:
        told = ", ".join(f"{_package(point)} (`{point.value}`)" for point in claims)
        raise PluginError(
            f"{len(claims)} packages provide the {kind} plugin `{name}`: {told}",
            hint=f"uninstall one, or name the intended one: `{claims[0].value}`",
        )
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        known = ", ".join(sorted(found)) or "none installed"
        raise PluginError(
            f"there is no {kind} plugin `{name}`",
            hint=f"did you mean `{near[0]}`?"
            if near
            else f"known: {known}; or write `module:attribute` for your own code",
        )
    return found[name]


def require_trackers(names: Sequence[str]) -> None:
    """Check that the packages of these trackers are installed; imports none of them.

    Raises:
        PluginError: one is not.
    """
    for name in names:
        if find_spec(name) is None:
            raise PluginError(
                f"`training.log_with` names `{name}`, but its package is not installed",
                hint=f"`pip install {TRACKERS[name]}`, or leave the name out: a tracker changes no "
                "result",
            )


def guard(kind: Kind, name: str, call: Callable[[], Any]) -> Any:
    """Run a plugin's code; an error becomes a PluginError that names the plugin."""
    try:
        return call()
    except FlopsFitError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{kind} plugin `{name}` raised {type(error).__name__}: {error}{line_of(error)}"
            f"{_cause_of(error)}",
            hint="fix the plugin, or its `kwargs` in the manifest",
        ) from error


def _cause_of(error: BaseException) -> str:
    """Return the innermost cause of an error, if it has one: `; caused by ...`."""
    inner, seen = error, {id(error)}
    while True:
        earlier = inner.__cause__ or (None if inner.__suppress_context__ else inner.__context__)
        if earlier is None or id(earlier) in seen:
            break
        inner = earlier
        seen.add(id(inner))
    if inner is error or str(inner) in str(error):
        return ""
    return f"; caused by {type(inner).__name__}: {inner}{line_of(inner)}"


def check_takes(
    kind: Kind,
    name: str,
    factory: Any,
    argument: str,
    given: Mapping[str, Any],
    derived: Mapping[str, Any] | None = None,
) -> None:
    """Check that a factory is callable and takes `argument`, all of `given` and all of `derived`.

    Raises:
        PluginError: it is not callable, or lacks one of them.
    """
    if not callable(factory):
        raise PluginError(
            f"{kind} plugin `{name}` is a {type(factory).__name__}, which is not callable",
            hint="name a class or a function",
        )
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return  # Some builtins have no signature: the call itself will tell.
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    takes = ", ".join(parameters) or "no arguments"
    asked = [(argument, "model.size_param"), *((key, "kwargs") for key in given)]
    asked += [(key, "model.derive") for key in derived or ()]
    for wanted, where in asked:
        if wanted and wanted not in parameters:
            raise PluginError(
                f"{kind} plugin `{name}` takes no argument `{wanted}`, which `{where}` names; "
                f"it takes: {takes}",
                hint=f"name one of these in `{where}`, or add the argument to the plugin",
            )


def _import(kind: Kind, name: str) -> Any:
    """Return the object at `module:attribute.attribute`."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise PluginError(
            f"{kind} plugin `{name}`: there is no module `{error.name}`",
            hint="modules are looked up beside the manifest, in the current folder, and among "
            "installed packages",
        ) from None
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError:
        public = [key for key in vars(module) if not key.startswith("_")]
        near = difflib.get_close_matches(attribute, public, n=1)
        raise PluginError(
            f"{kind} plugin `{name}`: module `{module_name}` has no `{attribute}`",
            hint=f"did you mean `{module_name}:{near[0]}`?" if near else None,
        ) from None


def line_of(error: BaseException) -> str:
    """Return the place where a plugin's code raised: ` (model.py line 12)`; else empty.

    The innermost line outside this package, torch and Python's own files.
    """
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.lineno is not None]
    outside = [f for f in frames if not _is_ours(f.filename)]
    theirs = [f for f in outside if not _is_library(f.filename)] or outside
    return f" ({Path(theirs[-1].filename).name} line {theirs[-1].lineno})" if theirs else ""


def _is_ours(file: str) -> bool:
    package = Path(__file__).parents[1]
    path = Path(file)
    return file.startswith("<") or (path.is_relative_to(package) and "zoo" not in path.parts)


def _is_library(file: str) -> bool:
    places = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
    return any(Path(file).is_relative_to(place) for place in places)
