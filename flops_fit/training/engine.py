"""The state of one trial, and what a step does to it.

A step takes the next examples of the stream, sets the rate, passes the examples through the model
in as few parts as memory allows, clips, and lets the optimizer move. Nothing in it waits for the
device; losses stay there until a window of steps has ended. All that draws is seeded by the trial
alone, so a trial gives the same numbers whatever runs beside it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flops_fit.manifest.schedule import (
    branch_step,
    curve_steps,
    learning_rate_factor,
    warmup_of,
)
from flops_fit.manifest.trials import Details, Outcome, SharedTrunk, Status, Trial
from flops_fit.training.building import (
    clear_gradients,
    compiled,
    initial_model,
    own_gradients,
)
from flops_fit.training.calling import bound, loss_on
from flops_fit.training.checkpoint import (
    drop_newer,
    load_common,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from flops_fit.training.curve import Curve, write_training_losses
from flops_fit.training.data.streams import Batch, derive_seed, map_tensors, on_device
from flops_fit.training.data.workers import open_with_workers
from flops_fit.training.divergence import CHECKS, Watch, judge_end
from flops_fit.training.heldout import HeldOut
from flops_fit.training.measuring.meter import Meter
from flops_fit.training.memory import remember
from flops_fit.training.optimizers import make_optimizer, recorded, set_learning_rates
from flops_fit.training.orders import Ingredients, TrialFiles
from flops_fit.training.session import Session, seed_everything
from flops_fit.training.weights import Weight, part_weights, weighed


class Training:
    """The state of one trial between two steps."""

    def __init__(
        self,
        trial: Trial,
        ingredients: Ingredients,
        files: TrialFiles,
        *,
        session: Session,
        threads: int,
    ) -> None:
        """Build the model from the trial's seed alone, and open the stream."""
        build, data, recipe = ingredients.build, ingredients.data, ingredients.recipe
        self.trial, self.recipe, self.session = trial, recipe, session
        self.build = build
        self.directory = files.directory
        self.trunk = None if trial.trunk is None else files.trunk
        self.meter = Meter(trial, session=session, threads=threads)
        self.units = data.facts.units_per_example
        self.examples = trial.batch_tokens // self.units
        share = self.examples // session.world
        assert share * session.world * self.units == trial.batch_tokens, "checked by the plan"
        self.part = slice(session.rank * share, (session.rank + 1) * share)
        limit = recipe.micro_batch_examples or share
        self.bounds = [(start, min(start + limit, share)) for start in range(0, share, limit)]
        device = session.device
        model = initial_model(trial, build, session)
        remember(model)
        self.loss = loss = bound(ingredients.loss, model)
        optimizer = make_optimizer(model, recipe=recipe, trial=trial, device=device, build=build)
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self.decays = [float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups]
        self.bare_model = model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.model = session.accelerator.prepare(compiled(model, recipe))
        if recipe.cuda_graphs:
            own_gradients(self.parameters)
        # Accelerate's optimizer is only needed to scale gradients; it costs a millisecond a step.
        self.scaler = session.accelerator.scaler
        self.optimizer = (
            optimizer if self.scaler is None else session.accelerator.prepare(optimizer)
        )
        train_set = on_device(data.train, device)
        self.stream = open_with_workers(
            train_set, seed=derive_seed(trial.seed, "data"), workers=recipe.data_workers,
            device=device,
        )  # fmt: skip
        self.heldout = HeldOut(data.heldout, recipe=recipe, device=device, loss=loss)
        self.warmup = warmup_of(trial, recipe)
        self.branch = None if self.trunk is None else branch_step(trial, recipe)
        kept = () if trial.trunk is None or self.trunk is None else trial.trunk.kept_tokens
        self.kept_steps = {tokens // trial.batch_tokens for tokens in kept}
        self.window = max(1, trial.steps // CHECKS)
        self.watch = Watch(self.warmup, trial.steps)
        self.curve = Curve(self.directory / "curve.jsonl")
        self._plan_curve()
        self.losses = torch.zeros(trial.steps, device=device)
        self.step = self.tokens = 0
        self.untrained: dict[int, float] = {}  # by held-out batch
        self.window_loss = math.nan

    def _plan_curve(self) -> None:
        """Choose the steps at which the curve is evaluated, and the part of the held-out set."""
        # Evaluating costs a forward pass, a third of training on the same tokens. Where even one
        # batch a point is too much, there are fewer points: the latest.
        recipe, trial = self.recipe, self.trial
        affordable = recipe.curve_share * trial.tokens * 3 / self.units
        points = min(recipe.curve_points, int(affordable / self.heldout.counts[0]))
        planned = curve_steps(steps=trial.steps, points=recipe.curve_points)
        self.curve_steps = set(planned[len(planned) - min(points, len(planned)) :])
        self.curve_part = self.heldout.spread(affordable / (points + 1))

    def begin(self) -> None:
        """Restore the newest checkpoint, or measure the untrained model."""
        seed_everything(derive_seed(self.trial.seed, "training", self.session.rank) % 2**63)
        state = load_common(self.directory, session=self.session)
        drop_newer(self.directory, state, session=self.session)
        if state is not None or (state := self._trunk_state()) is not None:
            self._restore(state)
        else:
            self.untrained = self._part_losses()
        self.meter.start(tokens=self.tokens)

    def take_step(self) -> None:
        """Take one optimiser step on the next full batch."""
        batch = self.meter.waiting_for(self.stream.take, self.examples, part=self.part)
        factor = learning_rate_factor(
            self.step,
            steps=self.trial.steps,
            warmup=self.warmup,
            schedule=self.recipe.schedule,
            cooldown_fraction=self.recipe.cooldown_fraction,
            final_fraction=self.recipe.final_learning_rate_fraction,
        )
        set_learning_rates(self.optimizer.param_groups, self.peaks, factor)
        weights = part_weights(self.loss, batch, self.bounds, session=self.session)
        for (start, end), weight in zip(self.bounds, weights, strict=True):
            if isinstance(weight, torch.Tensor) or weight:
                self._pass(batch, start, end, weight)
        if self.recipe.clip_norm > 0:
            if self.scaler is not None:
                self.session.accelerator.unscale_gradients(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm, foreach=self._foreach)
        self.optimizer.step()
        clear_gradients(self.optimizer, self.parameters, as_zeros=self.recipe.cuda_graphs)
        self.step += 1
        self.tokens += self.trial.batch_tokens

    def _pass(self, batch: Batch, start: int, end: int, weight: Weight) -> None:
        """Forward and backward of examples `start` to `end` of this process's share."""
        accelerator = self.session.accelerator
        is_whole, is_last = len(self.bounds) == 1, end == self.bounds[-1][1]
        device = self.session.device
        part = batch
        if not (is_whole and device.type == "cpu"):
            part = map_tensors(
                lambda t: (t if is_whole else t[start:end]).to(device, non_blocking=True), batch
            )
        together = contextlib.nullcontext() if is_last else accelerator.no_sync(self.model)
        if self.recipe.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with together:
            value = weighed(loss_on(self.model, part, self.loss), weight)
            # Accelerate divides by a number of parts even if it is one; only scaling needs it.
            if self.scaler is None:
                value.backward()  # type: ignore[no-untyped-call]
            else:
                accelerator.backward(value)
        self.losses[self.step].add_(value.detach())

    @property
    def _foreach(self) -> bool | None:
        return True if self.session.device.type in ("cpu", "cuda") else None

    @property
    def at_window_end(self) -> bool:
        """Return whether a window of steps ends now."""
        return self.step % self.window == 0 or self.step == self.trial.steps

    def agree(self, wish: bool) -> bool:
        """Return whether any process asks for it."""
        if self.session.world == 1:
            return wish
        flag = torch.tensor([float(wish)], device=self.session.device)
        return bool(self.session.accelerator.reduce(flag, reduction="sum").item() > 0)

    def look(self) -> str | None:
        """Wait for the device and look at the window that ended; the reason to stop, or None."""
        losses = self._losses_from((self.step - 1) // self.window * self.window)
        self.window_loss = math.fsum(losses) / len(losses)
        return self.watch.see(end=self.step, losses=losses, untrained=self.untrained_loss)

    def _losses_from(self, begin: int) -> list[float]:
        """Losses of the steps from `begin` on; every process must ask."""
        losses = self.losses[begin : self.step]
        if self.session.world > 1:
            losses = self.session.accelerator.reduce(losses, reduction="mean")
        return [float(loss) for loss in losses.tolist()]

    def recent_loss(self) -> float | None:
        """Mean training loss of the last window, for the eye."""
        return _finite(float(self.losses[max(0, self.step - self.window) : self.step].mean()))

    def add_curve_point(self) -> float:
        """Evaluate a point of the training curve and return its loss."""
        loss = self.heldout.mean(self._part_losses())
        if math.isfinite(loss) and self.session.rank == 0:
            self.curve.add(
                step=self.step,
                tokens=self.tokens,
                flops=self.tokens * self.trial.size.flops_per_token,
                loss=loss,
                examples=sum(self.heldout.counts[number] for number in self.curve_part),
            )
        return loss

    @property
    def untrained_loss(self) -> float:
        """The untrained model's loss on the held-out batches it was evaluated on."""
        return self.heldout.mean(self.untrained) if self.untrained else math.nan

    def _part_losses(self) -> dict[int, float]:
        """Held-out losses by batch, on the part that curve points use."""
        with self.meter.evaluating():
            return self.heldout.losses(self.model, self.loss, chosen=self.curve_part)

    def _judge_end(self, losses: dict[int, float]) -> str | None:
        """Return the reason why the trial's end is no observation, from losses on the whole set.

        Where the part that the untrained model was evaluated on gives such a reason, the untrained
        model is built again and evaluated on the whole set: a few batches may be unlike the rest.
        """
        weights = self.heldout.weights
        reason = judge_end(losses, self.untrained, weights)
        if reason is None or len(self.untrained) == len(losses) or not self.untrained:
            return reason
        untrained = initial_model(self.trial, self.build, self.session)
        with self.meter.evaluating():
            whole = self.heldout.losses(untrained, self.loss)
        return judge_end(losses, whole, weights)

    def _trunk_state(self) -> dict[str, Any] | None:
        """Return the state that an earlier branch of the trunk left, without measurements."""
        if self.trunk is None or self.branch is None:
            return None
        state = load_common(self.trunk, session=self.session, most_steps=self.branch)
        if state is None or state["trunk_id"] != self.trial.trunk_id:
            return None
        times = dict.fromkeys(state["meter"], 0.0) | {"untimed_tokens": state["tokens"]}
        return {**state, "trial_id": self.trial.trial_id, "meter": times}

    def save_trunk(self) -> None:
        """Keep the trunk's state, if other trials continue from it."""
        if self.trunk is not None and self.step in self.kept_steps:
            self.save(self.trunk, most_kept=None)

    def save(self, directory: Path | None = None, *, most_kept: int | None = 2) -> None:
        """Write a checkpoint of everything that draws or counts; the trial's own by default."""
        state = {
            "trial_id": self.trial.trial_id,
            "trunk_id": self.trial.trunk_id,
            "model": self.bare_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "stream": self.stream.state(),
            "random": random_state(),
            "losses": self.losses[: self.step].clone(),
            "tokens": self.tokens,
            "untrained": self.untrained,
            "curve": self.curve.points,
            "watch": self.watch.state(),
            "meter": self.meter.state(tokens=self.tokens),
        }
        save_checkpoint(
            directory or self.directory, state, step=self.step, rank=self.session.rank,
            most_kept=most_kept,
        )  # fmt: skip

    def _restore(self, state: dict[str, Any]) -> None:
        """Go on where `save` left off; random states last, since opening a stream may draw."""
        assert state["trial_id"] == self.trial.trial_id, "a trial's directory is its own"
        self.bare_model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None and self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.tokens = state["step"], state["tokens"]
        self.losses[: self.step] = state["losses"].to(self.losses.device)
        self.untrained = state.get("untrained", {})
        self.curve.points = state["curve"]
        self.watch.restore(state["watch"])
        self.meter.restore(state["meter"])
        self.stream.restore(state["stream"])
        restore_random_state(state["random"])

    def outcome(self, reason: str | None) -> Outcome:
        """Evaluate the whole held-out set, unless the trial diverged, and put all together."""
        self.meter.stop_training(tokens=self.tokens)
        flops = self.tokens * self.trial.size.flops_per_token
        loss: float | None = None
        inexact: dict[str, Any] = {}
        if reason is None:
            with self.meter.evaluating():
                losses = self.heldout.losses(self.model, self.loss)
                inexact = self.heldout.parts(self.bare_model, self.loss, session=self.session)
            loss = self.heldout.mean(losses)
            reason = self._judge_end(losses)
            if math.isfinite(loss) and self.session.rank == 0:
                part = self.heldout.mean({number: losses[number] for number in self.curve_part})
                point = {"step": self.step, "tokens": self.tokens, "flops": flops, "loss": loss,
                         "heldout_examples": self.heldout.examples}  # fmt: skip
                self.curve.end(point, part_loss=part)
        details: dict[str, Any] = {
            **recorded(self.recipe, self.bare_model, self.optimizer),
            "learning_rates": tuple(self.peaks),
            "weight_decays": tuple(self.decays),
            "steps": self.step,
            "batch_tokens": self.trial.batch_tokens,
            "warmup_steps": self.warmup,
            "precision": self.session.precision,
            "untrained_loss": _finite(self.untrained_loss),
            "heldout_examples": self.heldout.examples,
            **inexact,
            **self.meter.details(),
        }
        details |= trunk_details(
            self.trial, tokens=self.tokens, began=self.meter.untimed_tokens, kept=self.kept_steps
        )
        if reason is not None:
            details["stopped_at_step"] = self.step
            details["last_good"] = self.watch.last_good
            course = self._losses_from(0)
            if self.session.rank == 0:
                path = self.directory / "training.jsonl"
                write_training_losses(path, course, window=self.window)
        return Outcome(
            self.trial.trial_id,
            Status.FINISHED if reason is None else Status.DIVERGED,
            _finite(loss),
            self.tokens,
            flops,
            self.meter.wall_seconds,
            error=reason,
            details=Details(**details),
        )


def _finite(loss: float | None) -> float | None:
    """Return the loss, as a record can hold it."""
    return loss if loss is not None and math.isfinite(loss) else None


def trunk_details(trial: Trial, *, tokens: int, began: int, kept: Iterable[int]) -> dict[str, Any]:
    """Return what a trial's outcome records of its trunk; nothing for a separate trial.

    Args:
        trial: the trial.
        tokens: that its model has seen.
        began: tokens that its model had seen before it began.
        kept: steps at which states are kept for other trials.
    """
    if trial.trunk is None:
        return {}
    # A later state can only be what an earlier, killed attempt of this trial has kept.
    shared = min(began, trial.trunk.shared_tokens)
    states = sorted(step * trial.batch_tokens for step in kept)
    assert trial.trunk_id is not None
    later = tuple(each for each in states if shared < each <= tokens)
    trunk = SharedTrunk(trial.trunk_id, shared, later)
    return {"trunk": trunk, "spent_flops": (tokens - shared) * trial.size.flops_per_token}
