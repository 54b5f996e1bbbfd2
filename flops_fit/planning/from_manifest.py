"""Lays out the trials of a manifest on the sizes of its model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from flops_fit.errors import Note, PlanError
from flops_fit.experiment.prepared import Prepared
from flops_fit.manifest.manifest import Manifest
from flops_fit.manifest.rules import batch_tokens
from flops_fit.manifest.trials import Size
from flops_fit.planning.designs import Ground, lay_out
from flops_fit.planning.plan import Plan
from flops_fit.planning.rate_grid import lay_transfer
from flops_fit.planning.trunks import share_trunks
from flops_fit.training.data.facts import DataFacts
from flops_fit.units import format_flops

if TYPE_CHECKING:
    from flops_fit.planning.power import Power


def make_plan(prepared: Prepared, *, is_adaptive: bool = False) -> Plan:
    """Return the plan of the manifest's sweep.

    Args:
        prepared: the experiment.
        is_adaptive: whether the plan only gives the first levels of an adaptive sweep. Its trunks
            are created run by run, so its total is sized without shared trunks.

    Raises:
        PlanError: the sizes and budgets do not fit each other, or a batch does not divide.
    """
    sweep, ground = prepared.manifest.sweep, ground_of(prepared)
    if is_adaptive and sweep.total_flops is not None:
        ground = replace(ground, share_trunks=None)
    plan = lay_out(sweep, ground)
    notes = (*prepared.description.notes, *_saving(plan), *plan.warnings)
    return replace(plan, warnings=notes)


def _saving(plan: Plan) -> tuple[Note, ...]:
    """Return a note with the FLOPs that shared trunks save; empty if no trial shares one."""
    total, separate = plan.total_flops, plan.separate_flops
    if total == separate:
        return ()
    trunks = len({trial.trunk_id for trial in plan.trials if trial.trunk is not None})
    said = (
        f"trials share {trunks} trunks and cost {format_flops(total)} FLOPs; without sharing they "
        f"would cost {format_flops(separate)} ({total / separate:.0%} of that is spent)"
    )
    return (Note("shared_trunks", said),)


def make_transfer_plan(prepared: Prepared) -> Plan:
    """Return the plan of the manifest's study of learning rates.

    Raises:
        PlanError: as `make_plan`, or the study has fewer than two sizes.
    """
    ground = ground_of(prepared)
    return lay_transfer(
        prepared.manifest.transfer,
        make_plan(prepared),
        ground.sizes,
        batch_tokens=ground.batch_tokens,
        seed=prepared.manifest.seed,
    )


def ground_of(prepared: Prepared) -> Ground:
    """Return the sizes, batch rule and seeds that plans of an experiment use.

    Raises:
        PlanError: a batch does not divide.
    """
    manifest, facts = prepared.manifest, prepared.description.facts
    _check_batch_divides(manifest, facts)

    def batch(size: Size, tokens: float) -> int:
        return batch_tokens(
            manifest.training,
            size=size,
            tokens=tokens,
            units_per_example=facts.units_per_example,
            multiple_of_examples=manifest.execution.devices_per_trial,
        )

    recipe = manifest.training
    share = partial(
        share_trunks,
        recipe=recipe,
        units_per_example=facts.units_per_example,
        multiple_of_examples=manifest.execution.devices_per_trial,
    )
    return Ground(
        prepared.description.sizes,
        batch,
        seeds=range(manifest.seed, manifest.seed + manifest.sweep.replicates),
        unique_tokens=facts.unique_units,
        share_trunks=share if recipe.schedule == "wsd" and recipe.share_trunks else None,
    )


def _check_batch_divides(manifest: Manifest, facts: DataFacts) -> None:
    """Refuse a stated batch that is not a whole number of examples on each device.

    Raises:
        PlanError: it would have to be rounded, or padded.
    """
    recipe, devices = manifest.training, manifest.execution.devices_per_trial
    if recipe.batch_rule != "fixed" or recipe.bare_batch_tokens is None:
        return
    whole, asked = facts.units_per_example * devices, recipe.bare_batch_tokens
    if asked % whole == 0:
        return
    below = asked // whole * whole
    choices = f"{below:,} or {below + whole:,}" if below else f"{whole:,}"
    shared = f", shared by {devices} devices" if devices > 1 else ""
    raise PlanError(
        f"`training.batch_tokens` is {asked:,}: expected a multiple of {whole:,} (an example holds "
        f"{facts.units_per_example:,} {facts.unit}s{shared})",
        hint=f"set it to {choices}",
    )


def plan_power(prepared: Prepared, plan: Plan, *, noise: float = 0.003, prior: str = "") -> Power:
    """Return how precisely a plan would find the exponent, and N at the largest target.

    If no target is stated, the target is ten times the largest budget.

    Args:
        prepared: the experiment.
        plan: whose trials are simulated.
        noise: standard deviation of log loss between seeds.
        prior: parts of the true law, such as `"E=1.69 alpha=0.34 beta=0.28"`.

    Raises:
        ManifestError: the prior cannot be read.
        FitError: no law with an optimum can be fitted to such runs.
    """
    from flops_fit.planning.power import power_of, read_prior

    return power_of(
        plan.trials,
        target_flops=prepared.manifest.largest_target or 10 * max(plan.budgets),
        tokens_per_param=prepared.manifest.sweep.expected_ratio,
        noise=noise,
        stated=read_prior(prior),
    )
