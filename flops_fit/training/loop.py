"""Trains one trial on one or several devices and returns its outcome.

The device is waited for only once in a window of steps (a 200th of the trial), where the losses of
the window are looked at, and where a checkpoint may be saved. Several processes (of torchrun
or `accelerate launch`) take a slice each of the same full batch; gradients are averaged, so the
trial is the same on any number of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from flops_fit.errors import ManifestError
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Outcome, Trial
from flops_fit.training.checkpoint import drop_checkpoints
from flops_fit.training.divergence import judge_start
from flops_fit.training.engine import Training
from flops_fit.training.idle import may_be_idle
from flops_fit.training.memory import with_smaller_passes
from flops_fit.training.orders import Controls, Ingredients, Interrupted, TrialFiles
from flops_fit.training.retries import discard, read_discarded, seed_of_attempt, with_discarded
from flops_fit.training.session import Session, open_session
from flops_fit.training.trackers import Run, Trackers

_PROGRESS_SECONDS = 0.5
_ASK_SECONDS = 2.0


def train(
    trial: Trial,
    ingredients: Ingredients,
    files: TrialFiles,
    controls: Controls = Controls(),  # noqa: B008  # frozen
) -> Outcome:
    """Train one trial to its end, from its checkpoint if there is one.

    Args:
        trial: its size, tokens, batch and seed.
        ingredients: model, data, loss and recipe.
        files: where the trial writes.
        controls: device, threads, checkpoints, and when to stop.

    Raises:
        Interrupted: `controls.should_stop` returned true; a checkpoint is saved.
        PluginError: the model, data or loss breaks its contract.
        ManifestError: the device or precision is not to be had, or a step does not divide among
            the processes.
    """
    files.directory.mkdir(parents=True, exist_ok=True)
    recipe = ingredients.recipe
    session = open_session(recipe, device=controls.device, threads=controls.threads)
    if session.rank != 0:
        controls = replace(controls, trackers=None)
    tell = partial(_tell, controls.trackers, trial, recipe, files.directory)

    def attempt(seed: int, trunk: Path | None, recipe: Recipe) -> Outcome:
        return _attempt(
            replace(trial, seed=seed),
            replace(ingredients, recipe=recipe),
            replace(files, trunk=trunk),
            controls,
            session=session,
            tell=tell,
        )

    share = _share(trial, ingredients.data.facts.units_per_example, session.world)
    outcome = _until_kept(trial, recipe, attempt, files, session, share)
    if not controls.keep_checkpoints and session.rank == 0:
        drop_checkpoints(files.directory)
    return outcome


def _share(trial: Trial, units_per_example: int, processes: int) -> int:
    """Return the number of examples of each step that one process passes through the model."""
    examples = trial.batch_tokens // units_per_example
    if examples % processes:
        raise ManifestError(
            f"a step of {examples} examples has no equal share for each of {processes} processes",
            hint=f"plan the sweep with `[execution] devices_per_trial = {processes}`, or start as "
            "many processes as divide the step",
        )
    return examples // processes


def _until_kept(
    trial: Trial,
    recipe: Recipe,
    attempt: Callable[[int, Path | None, Recipe], Outcome],
    files: TrialFiles,
    session: Session,
    examples: int,
) -> Outcome:
    """Return the outcome of the first attempt that is kept.

    One that diverged is discarded while the recipe allows retries; one that ran out of memory goes
    on with smaller passes of the step's `examples`.
    """
    while True:
        discarded = read_discarded(files.directory)
        seed = seed_of_attempt(trial.seed, len(discarded))
        # Another seed is another trunk.
        begin = partial(attempt, seed, None if discarded else files.trunk)
        outcome, recipe = with_smaller_passes(begin, recipe, examples=examples, session=session)
        if outcome.status != "diverged" or len(discarded) >= recipe.retries:
            return with_discarded(outcome, discarded, seed=seed)
        if session.rank == 0:
            discard(files.directory, outcome, seed=seed)
        session.accelerator.wait_for_everyone()


def _attempt(
    trial: Trial,
    ingredients: Ingredients,
    files: TrialFiles,
    controls: Controls,
    *,
    session: Session,
    tell: Callable[[int], None],
) -> Outcome:
    """Train a trial once, from its newest checkpoint, its trunk or its beginning."""
    if session.world > 1:
        build, data, loss = ingredients.build, ingredients.data, ingredients.loss
        session.look_for_idle(may_be_idle(build, trial.size.size_value, data, loss))
    training = Training(trial, ingredients, files, session=session, threads=controls.threads)
    training.begin()
    tell(training.step)
    reason = judge_start(training.untrained_loss) or _run(training, controls)
    if controls.keep_checkpoints and reason is None:
        training.save()
    outcome = training.outcome(reason)
    if controls.trackers is not None:
        outcome = _track_end(controls.trackers, outcome, step=training.step)
    return outcome


def _run(training: Training, controls: Controls) -> str | None:
    """Step to the end; the reason if the trial diverged before it."""
    trial, steps, trackers = training.trial, training.trial.steps, controls.trackers
    reported = saved = time.monotonic()
    asks = _Asks(training)
    while training.step < steps:
        if asks.are_due() and training.agree(controls.should_stop()):
            training.save()
            raise Interrupted(f"trial {trial.trial_id} stopped after step {training.step}")
        training.take_step()
        training.save_trunk()
        if training.at_window_end:
            reason = training.look()
            if trackers is not None:
                trackers.log(_so_far(training), step=training.step)
            if reason is not None:
                return reason
        if training.step in training.curve_steps:
            loss = training.add_curve_point()
            if trackers is not None:
                trackers.log({"heldout_loss": loss}, step=training.step)
        # After the curve point of the same step: a resumed trial does not take the step again.
        if training.at_window_end and training.agree(
            time.monotonic() - saved >= controls.checkpoint_seconds
        ):
            training.save()
            saved = time.monotonic()
        now = time.monotonic()
        if controls.progress is not None and now - reported >= _PROGRESS_SECONDS:
            reported = now
            controls.progress(
                {"trial_id": trial.trial_id, "step": training.step, "steps": steps,
                 "loss": training.recent_loss()}
            )  # fmt: skip
    return None


class _Asks:
    """Decides when processes agree on whether to stop; a single process checks before every step.

    Several must agree, and to ask holds up the device; so they ask about once in two seconds, or in
    a window, at steps that all of them know, as all heard the same answers.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self._due, self._every = training.step, 1
        self._asked = time.monotonic()

    def are_due(self) -> bool:
        """Return whether to ask before the next step."""
        training = self._training
        if training.session.world == 1:
            return True
        if training.step < self._due:
            return False
        now = time.monotonic()
        is_slow = training.agree(now - self._asked > _ASK_SECONDS)
        wanted = self._every // 2 if is_slow else 2 * self._every
        self._every = max(1, min(wanted, training.window))
        self._due, self._asked = training.step + self._every, now
        return True


def _so_far(training: Training) -> dict[str, float]:
    """Return the numbers that trackers receive at the end of a window of steps."""
    return {
        "training_loss": training.window_loss,
        "learning_rate": float(training.optimizer.param_groups[0]["lr"]),
        "tokens": training.tokens,
        "flops": training.tokens * training.trial.size.flops_per_token,
    }


def _tell(
    trackers: Trackers | None, trial: Trial, recipe: Recipe, directory: Path, step: int
) -> None:
    """Let trackers know that an attempt begins, `step` steps of which were done before.

    They hear what holds of every attempt: the trial's own seed, and the recipe as written.
    """
    if trackers is None:
        return
    earlier = [attempt.step or 0 for attempt in read_discarded(directory)]
    run = Run.of(trial, step=step, discarded_steps=sum(earlier))
    trackers.start(run, {**trial.to_dict(), **recipe.to_dict()})
    if earlier:
        trackers.log({"attempt": len(earlier) + 1}, step=step)


def _track_end(trackers: Trackers, outcome: Outcome, *, step: int) -> Outcome:
    """Tell trackers how a trial ended; the outcome says which of them failed on the way."""
    details = outcome.details
    trackers.log(
        {
            "heldout_loss": outcome.loss,
            "tokens_per_second": details.tokens_per_second,
            "flops_per_second": details.flops_per_second,
            "memory_bytes": details.memory_bytes,
        },
        step=step,
    )
    if not trackers.failures:
        return outcome
    return replace(outcome, details=replace(details, tracker_failures=dict(trackers.failures)))
