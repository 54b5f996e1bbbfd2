"""Prepared: an experiment that is ready to be planned, from a manifest or from live objects.

Planning needs the manifest and the Description of sizes and data. A child process loads the
plugins to describe them; no plugin is loaded if the manifest states all counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypedDict

from pydantic import BaseModel

from flops_fit.experiment.child import LEAST_PATIENCE_MINUTES, ask_description
from flops_fit.experiment.describing import describe
from flops_fit.experiment.description import Description, stated_description
from flops_fit.experiment.loading import LIVE, Experiment, live_experiment, live_manifest, name_of
from flops_fit.experiment.plugins import Kind, find_plugin, load_plugin
from flops_fit.manifest.manifest import (
    Manifest,
    SizeRange,
    StatedSize,
    parse_manifest,
    read_manifest_text,
)
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.sweep_section import Design, Goal


@dataclass(frozen=True)
class Prepared:
    """An experiment that is ready to be planned.

    Attributes:
        manifest: the validated manifest.
        text: the manifest as written.
        description: sizes and facts of the data.
        path: file of the manifest; None for live objects.
        search_path: folders in which its import paths are looked up.
        experiment: the live objects; None for a manifest.
    """

    manifest: Manifest
    text: str
    description: Description
    path: Path | None = None
    search_path: tuple[Path, ...] = ()
    experiment: Experiment | None = None

    @property
    def num_workers(self) -> int:
        """Return the number of parallel trials.

        `trials_per_device` for each GPU or group of `devices_per_trial`; without GPUs one for each
        `threads_per_worker` cores.
        """
        execution = self.manifest.execution
        if self.experiment is not None:
            return 1
        if execution.workers is not None:
            return execution.workers
        described = self.description
        if described.num_devices:
            side_by_side = described.num_devices // execution.devices_per_trial
            return max(1, side_by_side) * execution.trials_per_device
        each = execution.threads_per_worker * execution.devices_per_trial
        return max(1, _cores() // each)


def prepare(
    manifest: str | Path,
    *,
    total_flops: float | None = None,
    device: str | None = None,
    search_path: tuple[Path, ...] = (),
) -> Prepared:
    """Read a manifest, check its plugins' contract, and count every size.

    A child process loads the plugins, unless the manifest states all that planning needs.

    Args:
        manifest: its path.
        total_flops: FLOPs that the whole sweep may cost, in place of the manifest's design size.
        device: of another machine that will train the trials; None: as the manifest says.
        search_path: folders of the user's modules; the manifest's and the current one if empty.

    Raises:
        ManifestError: the manifest breaks a rule.
        PluginError: a plugin is missing or breaks its contract.
    """
    path = Path(manifest)
    text = read_manifest_text(path)
    read = parse_manifest(text, where=str(path))
    if total_flops is not None:
        read = read.model_copy(update={"sweep": read.sweep.with_total(total_flops)})
        text = written(read)
    if device is not None:
        # The workers of a pool are on other machines, so this one is not asked for the device.
        elsewhere = read.execution.model_copy(update={"device": device, "executor": "pool"})
        read = read.model_copy(update={"execution": elsewhere})
        text = written(read)
    named: tuple[tuple[Kind, str], ...] = (
        ("model", read.model.plugin),
        ("dataset", read.data.plugin),
        ("loss", read.loss.plugin),
        ("executor", read.execution.executor),
    )
    for kind, name in named:
        if ":" not in name:
            find_plugin(kind, name)
    search_path = search_path or (path.resolve().parent, Path.cwd())
    described = stated_description(read)
    patience = max(LEAST_PATIENCE_MINUTES, read.execution.stall_minutes)
    if described is None and total_flops is None and device is None:
        described = ask_description(path, search_path=search_path, most_minutes=patience)
    elif described is None:
        with tempfile.TemporaryDirectory(prefix="flops-fit-") as folder:
            changed = Path(folder) / path.name
            changed.write_text(text, encoding="utf-8")
            described = ask_description(changed, search_path=search_path, most_minutes=patience)
    return Prepared(read, text, described, path, search_path)


def written(manifest: Manifest) -> str:
    """Return a manifest as TOML."""
    import tomli_w

    return tomli_w.dumps(manifest.model_dump(mode="json", exclude_none=True))


class ModelOptions(TypedDict, total=False):
    """Keywords of a library call that belong to [model]."""

    sizes: Sequence[int | float | StatedSize | Mapping[str, Any]] | Mapping[str, int] | SizeRange
    derive: Mapping[str, str]


class SweepOptions(TypedDict, total=False):
    """Keywords of a library call that belong to [sweep]; `budgets` is `compute_budgets` there."""

    design: Design
    total_flops: float | str
    sizes_per_budget: int
    tokens_per_param: float | Sequence[float]
    size_span: float
    top_flops: float | str
    levels: int
    level_spacing: float
    num_sizes: int
    size_range: float
    largest_params: float | str
    tokens: Sequence[float | str]
    replicates: int
    goal: Goal | Mapping[str, float | str]


class DataOptions(TypedDict, total=False):
    """Keywords of a library call that belong to [data]: facts in place of what the data says."""

    unit: str
    units_per_example: int
    unique_units: int
    loss_unit: str
    causal: bool


class ExecutionOptions(TypedDict, total=False):
    """Keywords of a library call that belong to [execution]."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    checkpoint_minutes: float
    keep_checkpoints: bool


class Options(ModelOptions, SweepOptions, DataOptions, ExecutionOptions, total=False):
    """Keywords of `find_optimal`, `plan` and `estimate` that describe an experiment.

    Each is the manifest's key of the same name, except `count` ([flops]; or a function
    (model, batch) -> FLOPs), `target_budgets`, `methods`, `bootstrap` ([report] budgets, methods
    and bootstrap) and `heldout_dataset` (live objects only). None means not given.
    """

    name: str
    seed: int
    training: Recipe | Mapping[str, Any]
    count: str | Callable[[Any, Any], float]
    target_budgets: Sequence[float | str]
    methods: Sequence[str]
    bootstrap: int
    heldout_dataset: Any


_SECTIONS: Mapping[str, type] = {
    "model": ModelOptions,
    "sweep": SweepOptions,
    "data": DataOptions,
    "execution": ExecutionOptions,
}
_RENAMED: Mapping[str, tuple[str, str]] = {
    "count": ("flops", "count"),
    "target_budgets": ("report", "budgets"),
    "methods": ("report", "methods"),
    "bootstrap": ("report", "bootstrap"),
}
_SIZING = ("total_flops", "top_flops", "largest_params", "tokens")  # instead of budgets


def prepare_live(
    model_cls: Any,
    model_size_param: str,
    model_kwargs: Mapping[str, Any] | None,
    dataset: Any,
    loss_fn: Callable[[Any, Any], Any] | None,
    compute_budgets: Sequence[float | str] | None,
    options: Options,
) -> Prepared:
    """Prepare live objects; the arguments are those of `find_optimal`.

    Raises:
        TypeError: an unknown option, or no data, or nothing that says how large the sweep is.
        ManifestError: an option breaks a rule of the manifest.
        PluginError: the objects do not keep their contract.
    """
    refuse_unknown(options)
    is_sized = compute_budgets is not None or any(options.get(key) for key in _SIZING)
    if dataset is None or not is_sized:
        missing = "dataset" if dataset is None else "compute_budgets"
        raise TypeError(f"`{missing}` is missing: expected it beside the model")
    loss = loss_fn or load_plugin("loss", "cross-entropy")
    heldout, count = options.get("heldout_dataset"), options.get("count")
    made = dataset if heldout is None else (dataset, heldout)
    manifest = live_manifest(
        factory=model_cls,
        size_param=model_size_param,
        kwargs=model_kwargs or {},
        made=dataset,
        loss=loss,
        sections=_sections(compute_budgets, options),
    )
    own_count = count if callable(count) else None
    experiment = live_experiment(manifest, model_cls, model_kwargs or {}, made, loss, own_count)
    return Prepared(manifest, written(manifest), describe(experiment), experiment=experiment)


def refuse_unknown(options: Options) -> None:
    """Refuse a keyword that no option has.

    Raises:
        TypeError: with the nearest known one.
    """
    known = list(Options.__annotations__)
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, n=1)
            nearest = f"; did you mean `{near[0]}`?" if near else "."
            raise TypeError(f"unexpected argument `{option}`{nearest} Known: {', '.join(known)}")


def _sections(budgets: Sequence[float | str] | None, options: Options) -> dict[str, Any]:
    """Return the keywords of a library call as sections of a manifest."""
    sections: dict[str, Any] = {"sweep": {} if budgets is None else {"budgets": list(budgets)}}
    for option, value in options.items():
        if option == "heldout_dataset" or value is None:
            continue
        section, key = _RENAMED.get(option, (_section_of(option), option))
        at = sections if section is None else sections.setdefault(section, {})
        at[key] = _plain(value)
    return sections


def _section_of(option: str) -> str | None:
    """Return the manifest's section of an option; None for the top."""
    found = (name for name, group in _SECTIONS.items() if option in group.__annotations__)
    return next(found, None)


def _plain(value: Any) -> Any:
    """Return an option's value as a manifest holds it; a function by its name."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return LIVE + name_of(value) if callable(value) else value


def _cores() -> int:
    """Return the number of processor cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
