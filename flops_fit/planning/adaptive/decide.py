"""Decides the next runs of an adaptive sweep from its history.

1. Pilot at the lowest level: three sizes four times apart about the guessed optimum, and further
   ones outwards until the middle one has the lowest loss.
2. Centre: two more sizes about the pilot's minimum, and four at the next level.
3. Climb: three sizes at the next level, a quarter, one and four times its optimum, up to the third
   level from the top, as soon as that optimum is known to a factor of two. So the levels can be
   held against each other, whatever the law's own error says.
4. Batches of the runs of most worth (`worth`), from the levels that are open, until the goal is
   reached. The next level opens when its optimum is known to a factor of two; one a batch; a level
   whose first run is worth most gets three, as in 3, so that it shows its own minimum. The
   FLOPs of three runs at the top are kept for 6. A level whose fitted optimum lies outside its runs
   gets a run there; a run far above the law is repeated with another seed, and left out if the
   other is not. Where no run is left to choose among, the next level opens as a last resort.
5. Ladder check, once the goal is near: if the lowest level tells another law than the rest, it is
   left out for good.
6. Top: once the goal is reached, or nothing else can be paid for or chosen, three sizes at the top
   budget, a third, one and three times its optimum: what bracket the answer where it matters.
7. Stop: the goal is reached; noise is so small beside the law's own error that further runs would
   not help; nothing is left to pay for or to choose among; or most runs give no loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from flops_fit.manifest.trials import Trial
from flops_fit.planning.adaptive.answer import answer_of
from flops_fit.planning.adaptive.belief import DRIFT, Belief
from flops_fit.planning.adaptive.ladder import check_ladder
from flops_fit.planning.adaptive.mending import (
    Weakness,
    dropped_levels,
    nearest_size,
    outvoted,
    weaknesses,
)
from flops_fit.planning.adaptive.pilot import ask, pilot
from flops_fit.planning.adaptive.terms import Decision, History, Run, Terms
from flops_fit.planning.adaptive.worth import (
    Pick,
    belief_of,
    candidates,
    choose,
    flops_per_token_of,
)
from flops_fit.planning.trunks import TrunkStates
from flops_fit.units import format_count, format_flops

BATCH = 4
TRIPLE = (1.0, 1 / 3, 3.0)
CLIMBING = (1.0, 1 / 4, 4.0)
CLIMB_TO = 2
"""The level, counted from the top, up to which three sizes are run before the top is."""
_NEAR_GOAL = 1.6
_NO_GOAL = 1e-6  # a goal below which the next runs are wanted, whatever is known
_RESERVED = 0.75  # of the total: more is never kept for the runs at the top
_SAME = math.log(1.7)
_KNOWN = math.log(2.0)
_LEAST_RUNS = 5
_MANY_LOST = 6  # runs without a loss that end the sweep where they are the greater part
_ENOUGH_AT_LEVEL = 3  # runs, before the level above opens


def decide(terms: Terms, history: History) -> Decision:
    """Return the next decision; all trials of the earlier ones must have ended."""
    lost = sum(run.loss is None for run in history.runs)
    if lost >= _MANY_LOST and 2 * lost > len(history.runs):
        reason = (
            f"{lost} of {len(history.runs)} runs diverged or failed: find the reason before more "
            "are trained (too high a learning rate, too little memory?)"
        )
        figures = {"flops": history.spent_flops}
        return Decision(len(history.decisions), "stop", reason, figures=figures)
    decision = pilot(terms, history)
    if decision is None or not decision.trials:
        decision = _after_pilot(terms, history)
    trials = history.trunk_states.settled(decision.trials)
    return replace(decision, number=len(history.decisions), trials=trials)


def _after_pilot(terms: Terms, history: History) -> Decision:
    """Decide the next runs once the lowest two levels are centred."""
    runs = history.counting
    if len(runs) < _LEAST_RUNS:
        left = max(0.0, terms.total_flops - history.spent_flops)
        reason = (
            f"only {len(runs)} runs gave a loss, too few to plan by; {format_flops(left)} of "
            f"{format_flops(terms.total_flops)} FLOPs are left"
        )
        return Decision(0, "stop", reason, figures={"flops": history.spent_flops})
    plain = belief_of(terms, runs, drift=0.0)
    answer = answer_of(terms, runs)
    goal = terms.params_within
    figures = {
        "flops": history.spent_flops,
        "params": math.exp(answer.log_params),
        "params_error": answer.error,
        "params_half_width": answer.half_width,
        "noise_half_width": answer.noise_half_width,
        "goal": goal,
        "exponent": plain.exponent,
        "sigma": plain.sigma,
    }
    wanted = [] if history.done("top") else _top_triple(terms, history, plain)
    left = terms.total_flops - history.spent_flops
    top = history.trunk_states.affordable(wanted, left)
    left -= _reserve(terms, history, wanted, top)
    climb = _climb(terms, history, plain, left)
    if climb is not None:
        return replace(climb, figures=figures)
    if answer.noise_half_width <= _NEAR_GOAL * goal:
        dropped = _dropped_level(terms, history, runs)
        if dropped is not None:
            return replace(dropped, figures=figures)
    left_out, because = outvoted(terms, history, plain)
    found = Decision(0, "stop", "", (), {}, figures, left_out, because)
    is_limited = answer.is_limited_by_law(goal)
    is_there = answer.has_reached(goal) or is_limited
    batch = _batch(terms, history, plain, left, is_there=is_there)
    known = f"N at the target: {_percent(answer.half_width)} (90 %)"
    if goal > _NO_GOAL:
        known += f", goal {_percent(goal)}"
    if is_limited:
        known += (
            f"; noise alone gives {_percent(answer.noise_half_width)}, the rest is the law's own "
            "error, which a larger top budget can lower and more runs below it cannot"
        )
    if batch.trials:
        if batch.action == "climb":
            return replace(batch, figures=figures)
        return replace(
            found, action="batch", reason=f"{known}; {batch.reason}", trials=batch.trials,
            reasons=batch.reasons, figures={**figures, **batch.figures},
        )  # fmt: skip
    if left_out:
        return replace(found, action="leave_out", reason=because)
    why = known if is_there else f"{batch.reason}; {known}"
    if not top:
        return replace(found, reason=why)
    why += ": the sizes that bracket the optimum at the top budget"
    return replace(found, action="top", reason=why, trials=tuple(top))


def _percent(half_width: float) -> str:
    """Return a half-width in ln N as `+-14 %`, or as a factor if it is large."""
    if half_width > 0.5:
        return f"a factor of {math.exp(min(half_width, 50.0)):.3g}"
    return f"+-{math.expm1(half_width):.1%}".replace("%", " %")


def _climb(terms: Terms, history: History, plain: Belief, left_flops: float) -> Decision | None:
    """Return three sizes at the lowest level without runs, if its optimum is known well enough."""
    dropped = dropped_levels(terms, history)
    for level in range(terms.lowest, CLIMB_TO - 1, -1):
        if _is_climbed(terms, history, level) or level in dropped:
            continue
        return _bracket(terms, history, plain, level, left_flops)
    return None


def _is_climbed(terms: Terms, history: History, level: int) -> bool:
    """Return whether as many sizes as show a minimum were run at a level."""
    tried = {r.trial.size for r in history.runs if terms.level_of(r.trial) == level}
    return len(tried) >= len(CLIMBING)


def _bracket(
    terms: Terms, history: History, plain: Belief, level: int, left_flops: float
) -> Decision | None:
    """Return sizes near a level's optimum to make three; None if there are too few."""
    budget = terms.budgets[level]
    error = plain.error(budget)
    if error > _KNOWN:
        return None
    tried = {r.trial.size for r in history.runs if terms.level_of(r.trial) == level}
    centre = math.exp(plain.log_params(budget))
    reason = (
        f"the optimum at {format_flops(budget)} FLOPs is known to a factor of "
        f"{math.exp(error):.2f}, near {format_count(centre)} params"
    )
    wanted = [(level, [centre * factor for factor in CLIMBING[: len(CLIMBING) - len(tried)]])]
    asked = ask(terms, history, "climb", wanted, reason)
    trials = tuple(history.trunk_states.affordable(asked.trials, left_flops))
    return replace(asked, trials=trials) if trials else None


def _reserve(
    terms: Terms, history: History, wanted: Sequence[Trial], top: Sequence[Trial]
) -> float:
    """Return the FLOPs reserved for the top runs; without shared trunks, if enough remains.

    The trunks that they would share go out of reach when the optimum moves.
    """
    separate = math.fsum(trial.flops for trial in wanted)
    if separate <= _RESERVED * terms.total_flops:
        return separate
    return history.trunk_states.total_flops(top)


def _batch(
    terms: Terms,
    history: History,
    plain: Belief,
    left_flops: float,
    *,
    is_there: bool,
) -> Decision:
    """Return the next batch: runs that fix a weakness, then those worth most until the goal."""
    runs = history.counting
    steering = belief_of(terms, runs, drift=DRIFT)
    open_level = _open_level(terms, history, steering, runs)
    dropped = dropped_levels(terms, history)
    kept = [k for k in range(open_level, len(terms.budgets)) if k not in dropped]
    states = history.trunk_states
    mending = _mending(weaknesses(terms, history, plain, kept), states, left_flops)
    reasons = {trial.trial_id: why for trial, why in mending}
    spare = left_flops - states.total_flops([trial for trial, _ in mending])
    count = 0 if is_there else BATCH - len(mending)
    taken = [*(run.trial for run in history.runs), *(trial for trial, _ in mending)]

    def among(levels: Sequence[int]) -> list[Trial]:
        there = candidates(terms, history, steering, levels)
        return [trial for trial in there if trial.trial_id not in reasons]

    def picked(trials: Sequence[Trial]) -> list[Pick]:
        return choose(
            steering, terms.target_flops, trials,
            count=count, left_flops=spare, top_flops=terms.top_flops,
            done=[run.trained for run in runs], taken=taken, states=states,
        )  # fmt: skip

    there = among(kept)
    picks = picked(there)
    bare = [k for k in kept if not _is_climbed(terms, history, k)]
    wanted = [terms.level_of(p.trial) for p in picks if terms.level_of(p.trial) in bare]
    if wanted and not mending:
        # A level that is worth a run is given three, so that it shows its own minimum.
        climb = _bracket(terms, history, plain, max(wanted), spare)
        if climb is not None and len(climb.trials) == len(CLIMBING):
            return climb
    if wanted:
        there = among([k for k in kept if k not in bare])
        picks = picked(there)
    for level in (*(reversed(bare) if wanted else ()), *range(open_level - 1, -1, -1)):
        if there or mending:
            break
        # The last resort: the open levels have no run left that was not chosen twice.
        there = among([level])
        picks = picked(there)
        open_level = min(open_level, level)
    reasons |= {pick.trial.trial_id: _worth_of(pick) for pick in picks}
    figures = {"open_level": float(open_level)}
    trials = (*(trial for trial, _ in mending), *(pick.trial for pick in picks))
    if not trials:
        return Decision(0, "batch", _why_none(there, states, spare, plain.sigma), figures=figures)
    reason = f"budgets up to {format_flops(terms.budgets[open_level])} FLOPs are open"
    return Decision(0, "batch", reason, trials, reasons, figures | _gain(picks))


def _mending(
    found: Sequence[Weakness], states: TrunkStates, left_flops: float
) -> list[tuple[Trial, str]]:
    """Return the first remedies that fit the remaining FLOPs together, and what each fixes."""
    mending: list[tuple[Trial, str]] = []
    for each in found:
        if each.remedy is not None and len(mending) < BATCH:
            together = [*(trial for trial, _ in mending), each.remedy]
            if states.total_flops(together) <= left_flops:
                mending.append((each.remedy, each.message))
    return mending


def _worth_of(pick: Pick) -> str:
    """Return the reason for which a run was chosen."""
    return (
        f"takes the standard error at the target from {pick.error_before:.3f} to "
        f"{pick.error_after:.3f}, drift included"
    )


def _gain(picks: Sequence[Pick]) -> dict[str, float]:
    """Return the standard error before and after the chosen runs."""
    if not picks:
        return {}
    before, after = picks[0].error_before, picks[-1].error_after
    return {"error_with_drift": before, "expected_error_with_drift": after}


def _why_none(there: Sequence[Trial], states: TrunkStates, left_flops: float, sigma: float) -> str:
    """Return the reason for which no candidate was chosen."""
    if not there:
        return (
            "no candidate is left: every size near the optimum was run twice at each "
            f"level of compute, and the noise of the runs about the law is {sigma:.1%}"
        )
    if any(states.cost_flops(trial) <= left_flops for trial in there):
        return "no affordable run would narrow the interval"
    return "no other run is affordable"


def _open_level(terms: Terms, history: History, belief: Belief, runs: Sequence[Run]) -> int:
    """Return the highest level to run at: one above the last, if its optimum is well known."""
    at = [terms.level_of(run.trial) for run in runs]
    last = min((k for k in set(at) if at.count(k) >= _ENOUGH_AT_LEVEL), default=terms.lowest)
    if last == 0:
        return 0
    return last - 1 if belief.error(terms.budgets[last - 1]) < _KNOWN else last


def _top_triple(terms: Terms, history: History, belief: Belief) -> list[Trial]:
    """Return the sizes near the top budget's optimum that were not run there yet."""
    centre = belief.log_params(terms.budgets[0])
    there = [
        math.log(run.trial.size.params) for run in history.runs if terms.level_of(run.trial) == 0
    ]
    sizes, trials = terms.trainable(0), list[Trial]()
    for factor in TRIPLE:
        wanted = centre + math.log(factor)
        if any(abs(n - wanted) <= _SAME for n in there) or not sizes:
            continue
        size = nearest_size(sizes, math.exp(wanted))
        if not history.times(size, terms.budgets[0]) and all(t.size != size for t in trials):
            trials.append(terms.trial(size, 0))
    return trials


def _dropped_level(terms: Terms, history: History, runs: Sequence[Run]) -> Decision | None:
    """Return the decision to leave out the lowest level, if it follows another law."""
    check = check_ladder(
        [
            replace(run.observation, budget_flops=terms.budgets[terms.level_of(run.trial)])
            for run in runs
        ],
        target_flops=terms.target_flops,
        tokens_per_param=terms.tokens_per_param,
        flops_per_token=flops_per_token_of(terms.sizes),
    )
    if check is None or not check.has_failed:
        return None
    return Decision(
        0, "drop_level", check.reason, left_out=check.members, left_out_because=check.reason
    )
