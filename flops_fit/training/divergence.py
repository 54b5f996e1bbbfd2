"""Detects diverged trials: a loss that is not finite, a lasting spike, or nothing learned.

AdamW at a rate several times too high seldom gives a NaN, only a loss that is quietly too high;
those are for the fit's residuals to find. What is found here is what no fit should ever see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from flops_fit.training.weights import mean_of

_SPIKE = 2.0
"""A window of steps is part of a spike if its mean loss is over this many times the median."""

_SPIKE_SHARE = 0.05
"""A spike that has lasted for this share of the trial does not recover any more."""

_SPIKE_STEPS = 50
"""Nor is anything shorter a spike: single batches are noisy."""

_FAR_ABOVE = 1.5
"""A loss over this many times the untrained model's is no warm-up that rises a little."""

_MARGIN = 2.0
"""Standard errors by which a trained model must be worse than untrained to have learned nothing."""

CHECKS = 200
"""How many windows a trial is cut into; the device is waited for once a window."""


@dataclass
class Watch:
    """Follows the training losses of one trial, window by window.

    Attributes:
        warmup: steps of warm-up, in which a spike is forgiven.
        steps: steps of the trial.
        windows: mean losses of the windows after warm-up that were no spike.
        first: mean loss of the first window: what an all but untrained model gives.
        last_good: (step, loss) at the end of the last finite window that was no spike, and not
            above the untrained model's loss.
        start: loss of the first step, which the untrained model gave in training mode.
        recent: (steps, mean loss) of the last windows: twice as many steps as a spike may last.
        is_signed: whether a loss was below zero; "times" then means nothing.
    """

    warmup: int
    steps: int
    windows: list[float] = field(default_factory=list)
    last_good: tuple[int, float] | None = None
    spike_began: int | None = None
    first: float | None = None
    start: float | None = None
    recent: list[tuple[int, float]] = field(default_factory=list)
    is_signed: bool = False

    def see(self, *, end: int, losses: Sequence[float], untrained: float = -math.inf) -> str | None:
        """Take the losses of a window of steps; the reason to stop, or None.

        Args:
            end: how many steps have been taken.
            losses: of the window, which ends there.
            untrained: held-out loss of the untrained model.

        Returns:
            A sentence for the outcome.
        """
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                step = end - len(losses) + offset + 1
                return f"the training loss was {loss} at step {step:,} of {self.steps:,}"
        mean = sum(losses) / len(losses)
        if self.first is None or self.start is None:
            self.first, self.start = mean, losses[0]
        self.is_signed = self.is_signed or min(losses) < 0
        usual = median(self.windows[-CHECKS // 4 :]) if self.windows else math.inf
        # Training may have terms that evaluation lacks; the first step's loss has them too.
        known = max(untrained, self.start)
        ceiling = math.inf if self.is_signed else _FAR_ABOVE * known
        self.recent.append((len(losses), mean))
        while sum(steps for steps, _ in self.recent[1:]) >= 2 * self._patience:
            del self.recent[0]
        if reason := self._stays_above(ceiling, known, end):
            return reason
        # A loss that is small by any measure may double without having lost what was learned.
        if mean > max(_SPIKE * usual, 0.5 * self.first):
            if self.spike_began is None:
                self.spike_began = end - len(losses)
            if end - self.spike_began >= self._patience:
                return (
                    f"the training loss rose to {mean:.4g}, over {_SPIKE:g} times its median of "
                    f"{usual:.4g}, at step {self.spike_began + 1:,} of {self.steps:,} and stayed"
                )
            return None
        self.spike_began = None
        if self.is_signed or mean <= known:
            self.last_good = (end, mean)
        if mean <= ceiling and end > self.warmup:
            self.windows.append(mean)
        return None

    @property
    def _patience(self) -> float:
        """The number of steps that a spike may last."""
        return max(_SPIKE_STEPS, _SPIKE_SHARE * self.steps)

    def _stays_above(self, ceiling: float, known: float, end: int) -> str | None:
        """Return the reason to stop where most recent steps lie above the ceiling."""
        above = [(steps, mean) for steps, mean in self.recent if mean > ceiling]
        if sum(steps for steps, _ in above) < self._patience:
            return None
        first = next(at for at, (_, mean) in enumerate(self.recent) if mean > ceiling)
        began = end - sum(steps for steps, _ in self.recent[first:])
        return (
            f"the training loss rose to {median(mean for _, mean in above):.4g}, over "
            f"{_FAR_ABOVE:g} times the untrained model's {known:.4g}, at step {began + 1:,} of "
            f"{self.steps:,} and stayed"
        )

    def state(self) -> dict[str, Any]:
        """All that it remembers, as plain data."""
        return {
            "windows": self.windows,
            "last_good": self.last_good,
            "spike_began": self.spike_began,
            "first": self.first,
            "start": self.start,
            "recent": self.recent,
            "is_signed": self.is_signed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state` gave."""
        self.windows, self.last_good = list(state["windows"]), state["last_good"]
        self.spike_began, self.first = state["spike_began"], state["first"]
        self.start = state.get("start", self.first)  # An earlier version kept no such thing.
        self.recent, self.is_signed = list(state.get("recent", [])), state.get("is_signed", False)


def judge_start(untrained_loss: float) -> str | None:
    """Return why a trial is not started, or None."""
    if math.isfinite(untrained_loss):
        return None
    return f"the untrained model's held-out loss is {untrained_loss}"


def judge_end(
    losses: Mapping[int, float], untrained: Mapping[int, float], weights: Sequence[float]
) -> str | None:
    """Say why a whole trial's held-out loss is no observation, or None.

    The two models are compared on the same held-out batches, pair by pair. The trained one has
    learned nothing if it is worse, or not better by a difference beyond its own noise.

    Args:
        losses: of the trained model by held-out batch.
        untrained: of the untrained model, for all or some of the same batches.
        weights: of every batch in the mean.
    """
    loss = mean_of([*losses.values()], [weights[batch] for batch in losses])
    if not math.isfinite(loss):
        return f"the held-out loss was {loss} at the end"
    shared = [batch for batch in losses if batch in untrained]
    if not shared:
        return None
    shares = [weights[batch] for batch in shared]
    gaps = [losses[batch] - untrained[batch] for batch in shared]
    gap = mean_of(gaps, shares)
    if gap < _MARGIN * _standard_error(gaps, shares, gap) or gap < 0:
        return None
    before = mean_of([untrained[batch] for batch in shared], shares)
    return (
        f"the held-out loss was {before + gap:.4g} at the end, no better than the untrained "
        f"model's {before:.4g} on the same examples"
    )


def _standard_error(gaps: Sequence[float], weights: Sequence[float], mean: float) -> float:
    """Standard error of a weighted mean of differences; 0 for a single one."""
    total = math.fsum(weights)
    if len(gaps) < 2 or not total:
        return 0.0
    squares = math.fsum((w * (gap - mean)) ** 2 for gap, w in zip(gaps, weights, strict=True))
    return math.sqrt(squares * len(gaps) / (len(gaps) - 1)) / total
