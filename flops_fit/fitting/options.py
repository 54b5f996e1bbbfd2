"""Options of a fit, validated once and immutable."""

from __future__ import annotations

from dataclasses import dataclass

from flops_fit.fitting.details import Interpolation, Loss


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit.

    Attributes:
        loss: loss of the surface fit: `adaptive` (outliers are left out), `huber`, `log-ls` or `ls`
            (every run is used).
        huber_delta: threshold of `huber`, in log loss.
        irreducible_loss: fixed value of E in the surface, in the unit of the losses; None: E is
            fitted.
        interpolation: interpolation of isoFLOP curves: `parabola` in ln N, or `akima`, a spline of
            ln L in ln N.
        bootstrap: number of bootstrap resamples for the surface's intervals; 0: Wald's method.
        seed: random seed for the bootstrap.

    Raises:
        ValueError: an unknown loss, or a number out of its range.
    """

    loss: Loss = Loss.ADAPTIVE
    huber_delta: float = 1e-3
    irreducible_loss: float | None = None
    interpolation: Interpolation = "parabola"
    bootstrap: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse unknown names and impossible numbers."""
        Loss(self.loss)
        if not self.huber_delta > 0:
            raise ValueError(f"huber_delta is not positive: {self.huber_delta}")
        if self.bootstrap < 0:
            raise ValueError(f"bootstrap is negative: {self.bootstrap}")
