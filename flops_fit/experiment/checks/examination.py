"""Examines an experiment: loads its plugins and tests their contract, claim by claim.

Each fault is reported where it occurs, with a fix. Checks that need a broken part are skipped. The
plugins' code runs here, so call this in a process of its own (see `child`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flops_fit.experiment.checks.findings import (
    DoubtfulError,
    Examination,
    Finding,
    InapplicableError,
)
from flops_fit.experiment.describing import buildable_sizes
from flops_fit.experiment.description import SizeValue, size_values, stated_sizes
from flops_fit.experiment.loading import builder, load_count, load_dataset, load_factory, load_loss
from flops_fit.experiment.plugins import guard
from flops_fit.manifest.manifest import Manifest
from flops_fit.manifest.rules import MIN_STEPS, batch_tokens
from flops_fit.manifest.trials import Size, Trial
from flops_fit.units import format_flops, plural

_EXAMPLES = 8
"""Examples in the batch that the smallest model is tried on."""

_SPLIT_EXAMPLES = 64
"""Held-out examples whose loss is compared with that of their parts."""


def examine(manifest: Manifest, *, search_path: Sequence[Path]) -> list[Finding]:
    """Return every check of a manifest's plugins, in the order in which they build on each other.

    What a plugin raises is a finding, and raised no further.
    """
    it, seen = _Subject(manifest, search_path), Examination()
    model, data, loss = manifest.model.plugin, manifest.data.plugin, manifest.loss.plugin
    seen.check("model", f"model plugin `{model}` loads", it.load_model)
    seen.check("data", f"dataset plugin `{data}` loads", it.load_data)
    seen.check("loss", f"loss plugin `{loss}` loads", it.load_loss)
    seen.check("batch", "a batch has inputs and targets", it.draw_batch, needs=["data"])
    seen.check("epoch", "the training set has its stated length", it.read_training, needs=["batch"])
    seen.check("heldout", "the held-out set stays the same", it.read_heldout, needs=["batch"])
    seen.check("apart", "no held-out example is trained on", it.compare_sets, needs=["epoch"])
    seen.check("sizes", "every size can be built", it.build_sizes, needs=["model"])
    seen.check("growth", "params grow with the size", it.compare_sizes, needs=["sizes"])
    seen.check("count", "num_params counts what is trained", it.count_params, needs=["sizes"])
    needs = ["sizes", "batch"]
    seen.check("forward", "the smallest size takes a batch", it.pass_forward, needs=needs)
    needs = ["forward", "loss"]
    seen.check("step", "the loss gives a finite gradient", it.pass_backward, needs=needs)
    seen.check("flops", "FLOPs are counted in full", it.count_flops, needs=["forward"])
    seen.check("learning", "the loss falls on one batch", it.train, needs=["step"])
    seen.check("repeats", "evaluation repeats itself", it.evaluate_twice, needs=["step"])
    seen.check("parts", "a batch's loss is the mean of its parts'", it.split, needs=["step"])
    seen.check("causal", "no output sees its own target", it.look_ahead, needs=["step"])
    return seen.findings


class _Subject:
    """The plugins under examination, as far as they could be loaded, with a test for each claim."""

    factory: Any
    data: Any
    loss: Any
    batch: Any
    build: Any
    counts: dict[SizeValue, Any]
    counted: Size | None = None  # the smallest size, once its FLOPs are known
    bound_loss: Any  # the loss for the model of the smallest size
    repeats = False  # whether evaluation was seen to repeat itself

    def __init__(self, manifest: Manifest, search_path: Sequence[Path]) -> None:
        self.manifest = manifest
        self.search_path = search_path

    def load_model(self) -> str:
        """Import the factory."""
        self.factory = load_factory(self.manifest, search_path=self.search_path)
        self.build = builder(self.manifest, self.factory)
        return _place(self.factory)

    def load_data(self) -> str:
        """Import the data plugin and make its sets."""
        self.data = load_dataset(self.manifest, search_path=self.search_path)
        facts = self.data.facts
        each = facts.units_per_example
        told = f"{each:,} {facts.unit if each == 1 else plural(facts.unit)} an example"
        causal = "; causal" if facts.causal else ""
        return f"{told}{causal}{''.join(f'; {note.message}' for note in self.data.notes)}"

    def load_loss(self) -> str:
        """Import the loss."""
        self.loss = load_loss(self.manifest, search_path=self.search_path)
        return _place(self.loss)

    def draw_batch(self) -> str:
        """Take the first examples of both sets."""
        from flops_fit.experiment.checks.data import describe_batch
        from flops_fit.training.data.batches import first_examples

        told = self._data_says(
            describe_batch, self.data, needs_targets=self.manifest.loss.plugin != "model"
        )
        self.batch = self._data_says(first_examples, self.data.train, _EXAMPLES)
        return str(told)

    def read_training(self) -> str:
        """Read an epoch, or a good part of it."""
        from flops_fit.experiment.checks.data import check_goes_on

        facts = self.data.facts
        units = facts.unique_units
        claimed = None if units is None else units // facts.units_per_example
        return str(self._data_says(check_goes_on, self.data.train, claimed=claimed))

    def read_heldout(self) -> str:
        """Read the held-out set twice."""
        from flops_fit.experiment.checks.data import check_repeatable

        return str(self._data_says(check_repeatable, self.data.heldout))

    def compare_sets(self) -> str:
        """Look for held-out examples among those of training."""
        from flops_fit.experiment.checks.data import check_apart

        return str(self._data_says(check_apart, self.data))

    def build_sizes(self) -> str:
        """Build every size without weights."""
        from flops_fit.experiment.checks.model import check_sizes

        values = size_values(self.manifest) or buildable_sizes(self.manifest, self.build)
        told, self.counts = check_sizes(self.build, values)
        return told

    def compare_sizes(self) -> str:
        """Compare the counts of params."""
        from flops_fit.experiment.checks.model import check_growth

        return check_growth(self.counts)

    def count_params(self) -> str:
        """Compare the model's own count with the parameters that it trains."""
        from flops_fit.experiment.checks.model import check_count

        return check_count(self.build, self.smallest)

    def pass_forward(self) -> str:
        """Build the smallest size with weights, and call it on the batch."""
        from flops_fit.experiment.checks.model import check_forward
        from flops_fit.training.calling import bound

        model = self.fresh()
        loss = getattr(self, "loss", None)
        self.bound_loss = None if loss is None else bound(loss, model)
        told = check_forward(model, self.batch, self.bound_loss)
        return f"size {self.smallest}: {told}"

    def fresh(self) -> Any:
        """Build the smallest size with the same weights as before, and no other state."""
        from flops_fit.training.building import build_on
        from flops_fit.training.session import seed_everything

        seed_everything(0)
        return build_on(self.build, self.smallest, "cpu")

    def pass_backward(self) -> str:
        """Compute one loss and its gradient."""
        from flops_fit.experiment.checks.model import check_step

        return check_step(self.fresh(), self.batch, self.bound_loss, recipe=self.manifest.training)

    def count_flops(self) -> str:
        """Count the smallest and the largest size, and what cannot be counted in them."""
        from flops_fit.training.counting.sizes import describe_sizes

        count = load_count(self.manifest, self.factory, search_path=self.search_path)
        sizes, notes = describe_sizes(
            self.build,
            sorted({self.smallest, max(self.counts)}),
            self.data,
            count=count,
            loss=getattr(self, "loss", None),
        )
        self.counted = sizes[0]
        if notes:
            first, *others = (note.message for note in notes)
            raise DoubtfulError(
                "; ".join([first, *others]), hint='see `count` in [flops]: "model", "plugin"'
            )
        how = count if isinstance(count, str) else "the plugin's own count"
        told = " to ".join(format_flops(size.flops_per_token) for size in sizes)
        return f"{told} per {self.data.facts.unit} ({how})"

    def train(self) -> str:
        """Train a few steps on the batch, by the manifest's recipe."""
        from flops_fit.experiment.checks.model import check_learning

        return str(
            self._model_says(
                check_learning, self.fresh, self.batch, self.bound_loss,
                recipe=self.manifest.training, trial=self._likely_trial(), build=self.build,
            )
        )  # fmt: skip

    def _likely_trial(self) -> Trial:
        """Return the trial of the smallest size at the budget for which it should be optimal.

        The rules of [training] go by its tokens, its batch and its FLOPs.
        """
        size, units = self._planned_size(), self.data.facts.units_per_example
        sweep = self.manifest.sweep
        horizon = min(sweep.tokens) if sweep.tokens else sweep.expected_ratio * size.params
        batch = batch_tokens(
            self.manifest.training,
            size=size,
            tokens=horizon,
            units_per_example=units,
            multiple_of_examples=self.manifest.execution.devices_per_trial,
        )
        tokens = max(MIN_STEPS, round(horizon / batch)) * batch
        return Trial.of(
            budget_flops=size.flops_per_token * tokens, size=size, tokens=tokens,
            batch_tokens=batch, seed=self.manifest.seed,
        )  # fmt: skip

    def _planned_size(self) -> Size:
        """Return the smallest size with the manifest's counts, or else the measured ones.

        Where its FLOPs cannot be counted, which a check of its own says, it has 6 for each param.
        """
        known = stated_sizes(self.manifest, self.manifest.model.stated or ())
        if known:
            return min(known, key=lambda size: size.size_value)
        has = self.counts[self.smallest]
        six = Size(self.smallest, has.params, has.non_embedding, 6.0 * has.params, has.active)
        return self.counted or six

    def split(self) -> str:
        """Pass a held-out batch whole and in parts."""
        self._need_repeats()
        from flops_fit.experiment.checks.model import taught
        from flops_fit.experiment.checks.parts import check_parts
        from flops_fit.training.data.batches import first_examples

        batch = self._data_says(first_examples, self.data.heldout, _SPLIT_EXAMPLES)
        model = self._model_says(taught, self.fresh(), self.batch, self.bound_loss)
        return str(self._model_says(check_parts, model, self.bound_loss, batch))

    def evaluate_twice(self) -> str:
        """Pass one batch twice in evaluation."""
        from flops_fit.experiment.checks.model import check_repeats

        told = str(self._model_says(check_repeats, self.fresh(), self.batch, self.bound_loss))
        self.repeats = True
        return told

    def look_ahead(self) -> str:
        """Change inputs and targets, and find which outputs change."""
        self._need_repeats()
        from flops_fit.experiment.checks.causality import check_causal

        declared = self.data.facts.causal
        return str(
            self._model_says(
                check_causal, self.fresh(), self.batch, self.bound_loss, declared=declared
            )
        )

    def _need_repeats(self) -> None:
        if not self.repeats:
            raise InapplicableError("cannot be told, since evaluation does not repeat itself")

    @property
    def smallest(self) -> SizeValue:
        """The size that is built with weights."""
        return min(self.counts)

    def _data_says(self, prove: Any, *args: Any, **kwargs: Any) -> Any:
        return guard("dataset", self.manifest.data.plugin, lambda: prove(*args, **kwargs))

    def _model_says(self, prove: Any, *args: Any, **kwargs: Any) -> Any:
        return guard("model", self.manifest.model.plugin, lambda: prove(*args, **kwargs))


def _place(thing: Any) -> str:
    """Return the module and name of a plugin's object: `my_module.MyGPT`."""
    kind = "class" if isinstance(thing, type) else "callable"
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    return f"{kind} {getattr(thing, '__module__', '?')}.{name}"
