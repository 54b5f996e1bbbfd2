"""The training curve: held-out losses at log-spaced points, in `curve.jsonl`.

One JSON object a line: `step`, `tokens`, `flops`, `loss`, `heldout_examples`. Points before the
last are evaluated on a fixed, evenly spaced part of the held-out set where all of it would cost too
much; at the end both the part and the whole are known, and the difference between them is added
to every earlier point, so that the curve is one of losses on the whole set. The file is replaced
whole at each point: a crash leaves the one before.

Of a trial that diverged `training.jsonl` keeps how its training loss went there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TAIL_STEPS = 100
"""The last steps before a trial diverged whose losses are kept one by one."""


@dataclass
class Curve:
    """The points of one trial so far.

    Attributes:
        path: where they are written.
        points: what was evaluated before the end.
    """

    path: Path
    points: list[dict[str, Any]] = field(default_factory=list)

    def add(self, *, step: int, tokens: int, flops: float, loss: float, examples: int) -> None:
        """Add a point and write the file."""
        self.points.append(
            {"step": step, "tokens": tokens, "flops": flops, "loss": loss,
             "heldout_examples": examples}
        )  # fmt: skip
        self._write(self.points)

    def end(self, point: dict[str, Any], *, part_loss: float) -> None:
        """Write the whole curve; `point` is on the whole set, `part_loss` on the part."""
        shift = point["loss"] - part_loss
        self._write([{**p, "loss": p["loss"] + shift} for p in self.points] + [point])

    def _write(self, points: list[dict[str, Any]]) -> None:
        _write_lines(self.path, points)


def write_training_losses(path: Path, losses: Sequence[float], *, window: int) -> None:
    """Write how the training loss went: means of windows of steps, and each of the last steps.

    One JSON object a line: `step`, the last one; `steps`, how many steps up to it the line is the
    mean of; `loss`, null where it is not finite.

    Args:
        path: of the file.
        losses: of every step so far.
        window: steps in a window.
    """
    single = max(0, len(losses) - TAIL_STEPS) // window * window
    ends = [*range(window, single + 1, window), *range(single + 1, len(losses) + 1)]
    lines: list[dict[str, Any]] = []
    for begin, end in zip([0, *ends], ends, strict=False):
        mean = sum(losses[begin:end]) / (end - begin)
        loss = mean if math.isfinite(mean) else None
        lines.append({"step": end, "steps": end - begin, "loss": loss})
    _write_lines(path, lines)


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    partial.replace(path)
