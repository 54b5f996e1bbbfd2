"""What a fit reports besides its law: statuses, minima, folds, and details of each method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NoReturn

from flops_fit.fitting.points import Interval

Interpolation = Literal["parabola", "akima"]
Reading = Literal["hull", "bins"]


class Loss(StrEnum):
    """What a surface minimises, see `surface.py`."""

    ADAPTIVE = "adaptive"
    HUBER = "huber"
    LOG_LS = "log-ls"
    LS = "ls"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"unknown loss `{value}`; use one of {', '.join(cls)}")


class FitStatus(StrEnum):
    """How a fit ended."""

    OK = "ok"
    BOUND = "bound"
    NOT_CONVERGED = "not_converged"


class MinimumStatus(StrEnum):
    """Whether an isoFLOP minimum can be used, and if not, why."""

    OK = "ok"
    UNBRACKETED = "unbracketed"
    CONCAVE = "concave"
    FLAT = "flat"
    TOO_FEW = "too_few"


class Resampled(StrEnum):
    """What the draws of a fit vary: runs, whole sizes, shared noise; `none`: Wald's covariance."""

    RUNS = "runs"
    SIZES = "sizes"
    NOISE = "noise"
    NONE = "none"


@dataclass(frozen=True)
class Minimum:
    """The loss minimum of one budget.

    Attributes:
        budget_flops: the budget.
        params, tokens, loss: the optimum of this budget, also where it is not used; None where it
            is not defined.
        status: whether the power laws use it.
        reason: why they do not; empty where they do.
        num_sizes: how many different sizes the budget has.
        centre, coefficients: loss = c0 + c1 x + c2 x^2 with x = ln N - centre.
        log_params_error: standard error of ln params; None where the noise is not known.
    """

    budget_flops: float
    params: float | None
    tokens: float | None
    loss: float | None
    status: MinimumStatus
    reason: str
    num_sizes: int
    centre: float
    coefficients: tuple[float, float, float]
    log_params_error: float | None = None


@dataclass(frozen=True)
class Fold:
    """A fit to the runs up to some compute, tested on a level of compute above it.

    Attributes:
        train_flops: largest compute among the fitted runs.
        train_range: natural logarithm of their largest over their smallest compute.
        test_flops: compute of the predicted level (geometric mean).
        num_train, num_test: runs on each side.
        bias: mean of log(observed loss) - log(predicted).
        rms: root mean square of the same.
        absolute: mean magnitude of the same.
        log_params_shift: ln N_opt at `test_flops` by this fit, less that by the fit to all runs.
        is_next: whether the level is the first above the training runs.
    """

    train_flops: float
    train_range: float
    test_flops: float
    num_train: int
    num_test: int
    bias: float
    rms: float
    absolute: float
    log_params_shift: float
    is_next: bool

    @property
    def distance(self) -> float:
        """Natural logarithm of test over training compute."""
        return math.log(self.test_flops / self.train_flops)


@dataclass(frozen=True)
class Spread:
    """Where the draws of a fit come from, and how to read their spread.

    Attributes:
        resampled: what was varied.
        num_draws: how many draws there are.
        degrees_of_freedom: of the t distribution that makes intervals of their spread.
        shrinkage: factor from their standard deviation to the standard error.
    """

    resampled: Resampled
    num_draws: int
    degrees_of_freedom: float
    shrinkage: float


@dataclass(frozen=True)
class LawNumbers:
    """A law's parameters and exponents."""

    parameters: Mapping[str, float]
    exponents: Mapping[str, float]


@dataclass(frozen=True)
class SurfaceDetails:
    """How a surface was fitted.

    Attributes:
        loss: what was minimised.
        huber_delta: threshold in log loss; None for least squares.
        residual_mad: median absolute deviation of the log residuals.
        bounds_hit: the parameters that ended at a bound of the search.
        irreducible_loss: the value at which E was held; None where E was fitted.
        with_outliers: the law through all runs, where outliers were left out.
    """

    loss: Loss = Loss.ADAPTIVE
    huber_delta: float | None = None
    residual_mad: float | None = None
    bounds_hit: tuple[str, ...] = ()
    irreducible_loss: float | None = None
    with_outliers: LawNumbers | None = None


@dataclass(frozen=True)
class ExtrapolationDetails(SurfaceDetails):
    """How the weighted surface was fitted.

    Attributes:
        power: p of the weights (C / C_top)^p, chosen by the back-test.
        back_test_error: by power, mean magnitude of the log error at the next level.
        back_test_reach_decades: the longest tested step beyond the training runs.
    """

    power: int = 0
    back_test_error: Mapping[int, float | None] | None = None
    back_test_reach_decades: float = 0.0


@dataclass(frozen=True)
class LineErrors:
    """The standard error of ln N_opt along the line of the minima.

    Attributes:
        log_flops_centre: ln C where the line is best known.
        log_params: standard error of ln N_opt there.
        slope: standard error of the exponent.
    """

    log_flops_centre: float
    log_params: float
    slope: float

    def at(self, flops: float) -> float:
        """Standard error of ln N_opt at a budget."""
        return math.hypot(self.log_params, self.slope * (math.log(flops) - self.log_flops_centre))


@dataclass(frozen=True)
class IsoflopDetails:
    """How the minima were read and what follows for the laws through them.

    Attributes:
        degrees_of_freedom: minima less 2.
        line_errors: of ln N_opt.
        loss_covariance: of E, ln c and g, shape (3, 3); None without a spare minimum.
        interpolation: how the curves were read.
        window: largest factor from the best size that a parabola uses.
        minima: one for each budget.
    """

    degrees_of_freedom: int = 0
    line_errors: LineErrors | None = None
    loss_covariance: tuple[tuple[float, ...], ...] | None = None
    interpolation: Interpolation = "parabola"
    window: float | None = None
    minima: tuple[Minimum, ...] = ()


@dataclass(frozen=True)
class FixedTokensLaw:
    """L = (N_c / N)^alpha_N at one number of tokens."""

    tokens: float
    alpha_N: float  # noqa: N815  the paper's name
    N_c: float
    r_squared: float


@dataclass(frozen=True)
class GeneralDetails:
    """How a richer form was fitted, for comparison with the surface.

    Attributes:
        huber_delta: threshold in log loss.
        objective_of_surface: the additive surface's summed loss on the same runs.
        fixed_tokens: Kaplan's law at each number of tokens; None for the other form.
    """

    huber_delta: float
    objective_of_surface: float
    fixed_tokens: tuple[FixedTokensLaw, ...] | None = None


@dataclass(frozen=True)
class EnvelopeDetails:
    """How the envelope was read, and how many of the points lie on it."""

    reading: Reading
    num_points: int
    num_on_envelope: int


@dataclass(frozen=True)
class OwnError:
    """How the combination, fitted to smaller budgets, answered for one larger budget.

    Attributes:
        flops: the budget.
        decades: its distance beyond the largest run that was fitted.
        is_next: whether it is the first level above the fitted ones.
        loss: error of ln loss, observed less predicted; None where it is not known.
        params: error of ln N; None where the budget shows no minimum.
        params_noise: standard error of the observed ln N.
    """

    flops: float
    decades: float
    is_next: bool
    loss: float | None
    params: float | None
    params_noise: float


@dataclass(frozen=True)
class CombinationDetails:
    """Of what the combined answer is made.

    Attributes:
        at_flops: the budget at which the weights are stated.
        params_weights: share of each method in ln N there.
        loss_weights: share of each method in ln loss there.
        num_folds: budgets that were held against fits to smaller ones.
        levels: levels of compute among the runs; 0 where they are too few for a back-test.
        own_errors: the combination's errors at these budgets.
    """

    at_flops: float
    params_weights: Mapping[str, float]
    loss_weights: Mapping[str, float]
    num_folds: int
    levels: int = 0
    own_errors: tuple[OwnError, ...] = ()


Details = SurfaceDetails | IsoflopDetails | GeneralDetails | EnvelopeDetails | CombinationDetails


@dataclass(frozen=True)
class Waste:
    """The share of a budget that one method's allocation wastes if another method's law is true."""

    budget_flops: float
    chosen: str
    true: str
    wasted_share: float


@dataclass(frozen=True)
class Gain:
    """The optimum at a target from the runs up to one level of compute.

    Attributes:
        up_to_flops: compute of the largest run.
        num_runs: how many runs there are.
        spent_flops: compute of these runs together, each as if trained alone.
        target_flops: the budget that is predicted for.
        params, loss: the optimum at the target.
        params_interval, loss_interval: 95 %, from the noise of the runs alone.
    """

    up_to_flops: float
    num_runs: int
    spent_flops: float
    target_flops: float
    params: float
    params_interval: Interval | None
    loss: float | None
    loss_interval: Interval | None
