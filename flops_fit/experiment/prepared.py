"""Prepared: an experiment that is ready to be planned, from a manifest, live objects or a run.

The three ways in to the same stages. What planning needs is its Description; plugins are loaded in
a child process, or not at all where the manifest, or the run directory, says enough.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.experiment.child import ask_description
from flops_fit.experiment.describing import describe
from flops_fit.experiment.description import Description, stated_description
from flops_fit.experiment.loading import LIVE, Experiment, live_experiment, live_manifest, name_of
from flops_fit.experiment.plugins import Kind, find_plugin, load_plugin
from flops_fit.manifest.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Prepared:
    """An experiment that is ready to be planned.

    Attributes:
        manifest: as validated; `text` is how it was written.
        description: sizes and facts of the data.
        path, search_path: where the manifest lies, and where its import paths are looked up.
        experiment: the live objects, where it was made of such; else None.
    """

    manifest: Manifest
    text: str
    description: Description
    path: Path | None = None
    search_path: tuple[Path, ...] = ()
    experiment: Experiment | None = None

    @property
    def num_workers(self) -> int:
        """Trials to run side by side: one a GPU, or one for every `threads_per_worker` cores."""
        execution = self.manifest.execution
        if self.experiment is not None:
            return 1
        if execution.workers is not None:
            return execution.workers
        described = self.description
        if described.num_devices:
            return max(1, described.num_devices // execution.devices_per_trial)
        each = execution.threads_per_worker * execution.devices_per_trial
        return max(1, _cores() // each)


def prepare(manifest: str | Path, *, total_flops: float | None = None) -> Prepared:
    """Read a manifest, check its plugins' contract, and count every size.

    A child process loads the plugins, unless the manifest states all that planning needs.

    Args:
        manifest: its path.
        total_flops: make the sweep cost this much in all, whatever the manifest says.

    Raises:
        ManifestError: the manifest breaks a rule.
        PluginError: a plugin is missing or breaks its contract.
    """
    path = Path(manifest)
    read, text = read_manifest(path), path.read_text(encoding="utf-8")
    if total_flops is not None:
        read = read.model_copy(update={"sweep": read.sweep.with_total(total_flops)})
        text = written(read)
    named: tuple[tuple[Kind, str], ...] = (
        ("model", read.model.plugin),
        ("dataset", read.data.plugin),
        ("loss", read.loss.plugin),
    )
    for kind, name in named:
        if ":" not in name:
            find_plugin(kind, name)
    search_path = (path.resolve().parent, Path.cwd())
    described = stated_description(read)
    if described is None and total_flops is None:
        described = ask_description(path, search_path=search_path)
    elif described is None:
        with tempfile.TemporaryDirectory(prefix="flops-fit-") as folder:
            changed = Path(folder) / path.name
            changed.write_text(text, encoding="utf-8")
            described = ask_description(changed, search_path=search_path)
    return Prepared(read, text, described, path, search_path)


def written(manifest: Manifest) -> str:
    """A manifest as TOML."""
    import tomli_w

    return tomli_w.dumps(manifest.model_dump(mode="json", exclude_none=True))


def prepare_live(
    model_cls: Any,
    model_size_param: str,
    model_kwargs: Mapping[str, Any] | None,
    dataset: Any,
    loss_fn: Callable[[Any, Any], Any] | None,
    compute_budgets: Sequence[float | str] | None,
    options: Mapping[str, Any],
) -> Prepared:
    """The same for live objects; `options` are the keyword arguments of `find_optimal`."""
    is_sized = compute_budgets is not None or any(options.get(key) for key in _SIZING)
    if dataset is None or not is_sized:
        missing = "dataset" if dataset is None else "compute_budgets"
        raise TypeError(f"`{missing}` is missing: expected it beside the model")
    loss = loss_fn or load_plugin("loss", "cross-entropy")
    heldout = options.get("heldout_dataset")
    made = dataset if heldout is None else (dataset, heldout)
    manifest = live_manifest(
        factory=model_cls,
        size_param=model_size_param,
        kwargs=model_kwargs or {},
        made=dataset,
        loss=loss,
        sections=_sections(compute_budgets, options),
    )
    count = options.get("count") if callable(options.get("count")) else None
    experiment = live_experiment(manifest, model_cls, model_kwargs or {}, made, loss, count)
    return Prepared(manifest, written(manifest), describe(experiment), experiment=experiment)


OPTIONS: Mapping[str, tuple[str, ...]] = {
    "name": ("name",),
    "seed": ("seed",),
    "sizes": ("model", "sizes"),
    "derive": ("model", "derive"),
    "count": ("flops", "count"),
    "design": ("sweep", "design"),
    "total_flops": ("sweep", "total_flops"),
    "top_flops": ("sweep", "top_flops"),
    "levels": ("sweep", "levels"),
    "level_spacing": ("sweep", "level_spacing"),
    "num_sizes": ("sweep", "num_sizes"),
    "size_range": ("sweep", "size_range"),
    "largest_params": ("sweep", "largest_params"),
    "tokens": ("sweep", "tokens"),
    "goal": ("sweep", "goal"),
    "sizes_per_budget": ("sweep", "sizes_per_budget"),
    "tokens_per_param": ("sweep", "tokens_per_param"),
    "size_span": ("sweep", "size_span"),
    "replicates": ("sweep", "replicates"),
    "unit": ("data", "unit"),
    "units_per_example": ("data", "units_per_example"),
    "unique_units": ("data", "unique_units"),
    "loss_unit": ("data", "loss_unit"),
    "causal": ("data", "causal"),
    "training": ("training",),
    "device": ("execution", "device"),
    "checkpoint_minutes": ("execution", "checkpoint_minutes"),
    "keep_checkpoints": ("execution", "keep_checkpoints"),
    "target_budgets": ("report", "budgets"),
    "methods": ("report", "methods"),
    "bootstrap": ("report", "bootstrap"),
}


_SIZING = ("total_flops", "top_flops", "largest_params", "tokens")  # instead of budgets


def _sections(budgets: Sequence[float | str] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a library call as sections of a manifest."""
    sections: dict[str, Any] = {"sweep": {} if budgets is None else {"budgets": list(budgets)}}
    for option, value in options.items():
        if option == "heldout_dataset" or value is None:
            continue
        *sections_of, key = OPTIONS[option]
        at = sections
        for section in sections_of:
            at = at.setdefault(section, {})
        named = LIVE + name_of(value) if callable(value) else value
        at[key] = dict(value) if isinstance(value, Mapping) else named
    return sections


def _cores() -> int:
    """Processor cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
