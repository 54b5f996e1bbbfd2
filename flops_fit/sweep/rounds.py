"""Carries out an adaptive sweep: train, decide, record, until the goal or a cap is reached.

A decision is first appended to the ledger, then its trials are added to the plan. On resume the
plan is completed from the ledger, so a killed sweep makes the same decisions again: a decision
depends only on the ended runs, the earlier decisions, and the total that the sweep may cost, which
each entry states. A cap changes no decision: the sweep stops before the trial that would pass it,
and continues from there when the cap is raised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from flops_fit.errors import Note, PlanError
from flops_fit.manifest.files import write_json
from flops_fit.manifest.manifest import Manifest
from flops_fit.manifest.rules import MIN_STEPS
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.adaptive.decide import decide
from flops_fit.planning.adaptive.terms import Decision, History, Run, Terms
from flops_fit.planning.designs import Ground
from flops_fit.planning.plan import Plan
from flops_fit.sweep.conductor import SweepSummary, Watcher
from flops_fit.sweep.entries import DecisionMade
from flops_fit.sweep.ledger import Ledger, LedgerState
from flops_fit.sweep.provenance import read_plan
from flops_fit.sweep.rundir import RunDir
from flops_fit.units import format_flops

NUM_LEVELS = 6
SPACING = 3.0
_MIN_SIZES = 4
_MIN_LEVELS = 3
_FURTHER = 10.0  # the target over the top budget where none is stated


def make_terms(
    manifest: Manifest,
    ground: Ground,
    plan: Plan,
    *,
    total_flops: float | None = None,
    is_new: bool = True,
) -> Terms:
    """Return the terms of an adaptive sweep: sizes, levels of compute, goal, total.

    Args:
        manifest: states the goal, or at least a target in [report].
        ground: sizes, batches and seeds.
        plan: the static plan of the manifest, whose top and total the sweep has too; or what was
            planned before the first decision, to be gone on with.
        total_flops: what the sweep may cost in place of the manifest's total; without either, as
            much as the static plan.
        is_new: whether levels are laid out anew below the plan's top, or are the plan's own.

    Raises:
        PlanError: a new sweep's design has no levels of compute, or too few train enough sizes.
    """
    if is_new and (not plan.has_curves or len(plan.budgets) < 2):
        raise PlanError(
            f"the next runs are chosen among levels of compute, and the design "
            f"`{manifest.sweep.design}` has none",
            hint='use `design = "ladder"` or `"isoflop"` in [sweep]; or `flops-fit run` it first, '
            "and go on from its runs with --adaptive",
        )
    budgets = _levels_of(plan, ground.sizes, tokens_per_param=manifest.sweep.expected_ratio)
    if is_new and manifest.sweep.design != "ladder":
        budgets = _below(budgets[0], NUM_LEVELS)
    goal = manifest.sweep.goal
    target = goal.at if goal else manifest.largest_target or _FURTHER * budgets[0]
    terms = Terms(
        sizes=tuple(sorted(ground.sizes, key=lambda size: size.params)),
        batch_tokens=ground.batch_tokens,
        budgets=budgets,
        target_flops=max(target, budgets[0]),
        params_within=goal.params_within if goal else 0.2,
        total_flops=total_flops or manifest.sweep.total_flops or plan.total_flops,
        tokens_per_param=manifest.sweep.expected_ratio,
        seed=manifest.seed,
        share_trunks=ground.share_trunks,
    )
    if is_new:
        return _with_usable_levels(terms, min_sizes=_MIN_SIZES)
    return terms if plan.has_curves else _with_usable_levels(terms, min_sizes=1)


def _below(top_flops: float, count: int) -> tuple[float, ...]:
    """Levels from a top down, in three significant digits."""
    return tuple(float(f"{top_flops / SPACING**k:.2e}") for k in range(count))


def _levels_of(plan: Plan, sizes: Sequence[Size], *, tokens_per_param: float) -> tuple[float, ...]:
    """Return a plan's budgets, from the top down, with lower ones to make at least three.

    Of a plan without curves: levels over the compute of its trials, up to where the largest size is
    the optimum.
    """
    own = tuple(sorted(plan.budgets, reverse=True))
    if not plan.has_curves:
        spent = [trial.budget_flops for trial in plan.trials]
        largest = max(sizes, key=lambda size: size.params)
        within = tokens_per_param * largest.params * largest.flops_per_token
        top = max(spent) if max(spent) <= within else _below(within, 1)[0]
        steps = math.log(top / min(spent)) / math.log(SPACING)
        return (top, *_below(top, max(_MIN_LEVELS, 1 + math.floor(steps)))[1:])
    return (*own, *_below(own[-1], 1 + max(0, _MIN_LEVELS - len(own)))[1:])


def _with_usable_levels(terms: Terms, *, min_sizes: int) -> Terms:
    """Return the terms without the lowest levels that train too few sizes for enough steps.

    Raises:
        PlanError: fewer than three levels are left.
    """
    usable = [k for k in range(len(terms.budgets)) if len(terms.trainable(k)) >= min_sizes]
    kept = tuple(terms.budgets[k] for k in usable)
    if len(kept) < _MIN_LEVELS:
        raise PlanError(
            f"{len(kept)} of {len(terms.budgets)} levels of compute train {min_sizes} sizes or "
            f"more for {MIN_STEPS} optimiser steps, and an adaptive sweep needs {_MIN_LEVELS}",
            hint="add smaller sizes, raise `sweep.total_flops`, or make the batch smaller",
        )
    return replace(terms, budgets=kept)


def stated_total(state: LedgerState) -> float | None:
    """Return the total that the last decision was made under; None before the first."""
    if not state.decisions:
        return None
    return state.decisions[-1].figures.get("total_flops")


def conduct_adaptively(
    run: RunDir,
    ledger: Ledger,
    carry_out: Callable[[Plan], SweepSummary],
    terms: Terms,
    watcher: Watcher,
) -> SweepSummary:
    """Decide and carry out in turn, until a decision, a cap or an interrupt stops the sweep.

    Args:
        run: the run directory; its `plan.json` is rewritten with each decision.
        ledger: open for writing.
        carry_out: trains what the ledger lacks of a plan, as far as the caps allow, without ending
            the sweep.
        terms: of the sweep.
        watcher: receives each decision.
    """
    plan = planned_so_far(run, ledger.state)
    failed: set[str] = set()  # in this session: tried again when the sweep is started again
    while True:
        write_json(run.plan, plan.to_dict())
        left = tuple(trial for trial in plan.trials if trial.trial_id not in failed)
        summary = carry_out(replace(plan, trials=left))
        failed |= set(ledger.state.failed)
        summary = replace(summary, failed=len(failed))
        if summary.is_interrupted or summary.cap is not None:
            return summary
        history = history_of(plan, ledger.state)
        decision = decide(terms, history)
        figures = {**decision.figures, "total_flops": terms.total_flops}
        decision = replace(decision, figures=figures)
        last = history.decisions[-1] if history.decisions else None
        if last is None or decision.action != "stop" or last.action != "stop":
            watcher.on_entry(ledger.append(DecisionMade.of(decision)), None)
        if decision.action != "stop":
            plan = extended(plan, decision)
            continue
        if not ledger.state.is_complete:
            watcher.on_entry(ledger.append(summary.entry), None)
        if not summary.failed:
            run.drop_trunks()
        return summary


def unmet_goal(state: LedgerState) -> Note | None:
    """Return a note on why the sweep ended before its goal; None if it reached it."""
    last = state.decisions[-1] if state.decisions else None
    figures = {} if last is None else last.figures
    # Older ledgers name the standard error alone.
    known = figures.get("params_half_width", figures.get("params_error", math.inf))
    if last is None or last.action != "stop" or known <= figures.get("goal", 0.0):
        return None
    total = figures.get("total_flops")
    paid = "" if total is None else f" (it may cost {format_flops(total)} FLOPs in all)"
    return Note("goal_not_reached", f"the sweep ended without its goal: {last.reason}{paid}")


def planned_so_far(run: RunDir, state: LedgerState) -> Plan:
    """Return the run directory's plan with the trials of all recorded decisions."""
    plan = read_plan(run)
    for decision in state.decisions:
        plan = extended(plan, decision)
    return plan


def given_part(plan: Plan, state: LedgerState) -> Plan:
    """Return the plan without the trials that decisions asked for."""
    asked = {trial.trial_id for decision in _decisions(state) for trial in decision.trials}
    return replace(plan, trials=tuple(t for t in plan.trials if t.trial_id not in asked))


def history_of(plan: Plan, state: LedgerState) -> History:
    """Return the ended runs so far: first those of the plan, then those of each decision."""
    decisions = _decisions(state)
    asked = [trial for decision in decisions for trial in decision.trials]
    given = given_part(plan, state).trials
    ended = [trial for trial in (*given, *asked) if _has_ended(trial, state)]
    return History(tuple(_run_of(trial, state) for trial in ended), decisions)


def _decisions(state: LedgerState) -> tuple[Decision, ...]:
    return tuple(state.decisions)


def extended(plan: Plan, decision: Decision) -> Plan:
    """Return the plan with the trials of a decision added."""
    known = {trial.trial_id for trial in plan.trials}
    more = [trial for trial in decision.trials if trial.trial_id not in known]
    return replace(plan, trials=(*plan.trials, *more))


def _has_ended(trial: Trial, state: LedgerState) -> bool:
    """Return whether a trial has ended: trained, with any outcome, or dropped."""
    states = (state.finished, state.diverged, state.failed, state.dropped)
    return any(trial.trial_id in ended for ended in states)


def _run_of(trial: Trial, state: LedgerState) -> Run:
    """Return an ended trial with its loss, its real cost, and the trunk states that it kept."""
    if trial.trial_id in state.dropped:
        return Run(trial, None, kept_tokens=(), has_failed=True)
    entry = state.finished.get(trial.trial_id)
    loss = None if entry is None else entry.loss
    ended = entry or state.diverged.get(trial.trial_id)
    if ended is None:
        # How far a trial came that failed depends on when it did: it counts as a whole.
        return Run(trial, loss, kept_tokens=(), has_failed=True)
    kept = set() if ended.trunk is None else set(ended.trunk.kept_tokens)
    there = state.trunk_tokens.get(trial.trunk_id or "", set())
    is_retried = ended.seed not in (None, trial.seed)
    return Run(
        trial, loss, state.flops[trial.trial_id], tuple(sorted(kept & there)), is_retried=is_retried
    )
