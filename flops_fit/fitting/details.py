"""Results of a fit besides its law: statuses, minima, folds, and details of each method."""

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
    """Loss that a surface fit minimises; see `surface.py`."""

    ADAPTIVE = "adaptive"
    HUBER = "huber"
    LOG_LS = "log-ls"
    LS = "ls"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"unknown loss `{value}`; use one of {', '.join(cls)}")


class FitStatus(StrEnum):
    """Outcome of a fit."""

    OK = "ok"
    BOUND = "bound"
    NOT_CONVERGED = "not_converged"


class MinimumStatus(StrEnum):
    """Usability of an isoFLOP minimum, with the reason if it is unusable."""

    OK = "ok"
    UNBRACKETED = "unbracketed"
    CONCAVE = "concave"
    FLAT = "flat"
    TOO_FEW = "too_few"


class Resampled(StrEnum):
    """Kind of draws: resampled runs or sizes, simulated noise, or normal draws (`none`)."""

    RUNS = "runs"
    SIZES = "sizes"
    NOISE = "noise"
    NONE = "none"


@dataclass(frozen=True)
class Minimum:
    """Loss minimum of one budget.

    Attributes:
        budget_flops: the budget.
        params, tokens, loss: the optimum of this budget, also if it is not used; None if it is not
            defined.
        status: whether the power laws use it.
        reason: why the power laws do not use it; empty if they do.
        num_sizes: number of different sizes in the budget.
        centre, coefficients: loss = c0 + c1 x + c2 x^2 with x = ln N - centre.
        log_params_error: standard error of ln params; None if the noise is not known.
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
    """Fit to the runs up to some compute, tested on a higher level of compute.

    Attributes:
        train_flops: largest compute among the fitted runs.
        train_range: ln(largest / smallest compute) of the fitted runs.
        test_flops: compute of the tested level (geometric mean).
        num_train, num_test: numbers of fitted and of tested runs.
        bias: mean of the errors log(observed loss) - log(predicted loss).
        rms: root mean square of these errors.
        absolute: mean magnitude of these errors.
        log_params_shift: ln N_opt at `test_flops` by this fit minus that by the fit to all runs.
        is_next: whether the level is the first one above the fitted runs.
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
        """Log-distance ln(test_flops / train_flops)."""
        return math.log(self.test_flops / self.train_flops)


@dataclass(frozen=True)
class Spread:
    """Origin of the draws of a fit, and the scale of their standard deviation.

    Attributes:
        resampled: the kind of draws.
        num_draws: number of draws.
        degrees_of_freedom: degrees of freedom for t intervals.
        shrinkage: factor from their standard deviation to the standard error.
    """

    resampled: Resampled
    num_draws: int
    degrees_of_freedom: float
    shrinkage: float


@dataclass(frozen=True)
class LawNumbers:
    """Parameters and exponents of a law."""

    parameters: Mapping[str, float]
    exponents: Mapping[str, float]


@dataclass(frozen=True)
class SurfaceDetails:
    """Details of a surface fit.

    Attributes:
        loss: the minimised loss.
        huber_delta: Huber's threshold in log loss; None for least squares.
        residual_mad: median absolute deviation of the log residuals.
        bounds_hit: parameters that ended at a bound of the search.
        irreducible_loss: fixed value of E; None if E was fitted.
        with_outliers: the law fitted to all runs; None if there were no outliers.
    """

    loss: Loss = Loss.ADAPTIVE
    huber_delta: float | None = None
    residual_mad: float | None = None
    bounds_hit: tuple[str, ...] = ()
    irreducible_loss: float | None = None
    with_outliers: LawNumbers | None = None


@dataclass(frozen=True)
class ExtrapolationDetails(SurfaceDetails):
    """Details of the fit of the weighted surface.

    Attributes:
        power: p of the weights (C / C_top)^p, chosen by the back-test.
        back_test_error: mean magnitude of the log error at the next level, by power.
        back_test_reach_decades: longest tested distance beyond the fitted runs, in decades.
    """

    power: int = 0
    back_test_error: Mapping[int, float | None] | None = None
    back_test_reach_decades: float = 0.0


@dataclass(frozen=True)
class LineErrors:
    """Standard error of ln N_opt along the line through the minima.

    Attributes:
        log_flops_centre: ln C at which the error is least.
        log_params: standard error of ln N_opt at this point.
        slope: standard error of the exponent.
    """

    log_flops_centre: float
    log_params: float
    slope: float

    def at(self, flops: float) -> float:
        """Return the standard error of ln N_opt at a budget."""
        return math.hypot(self.log_params, self.slope * (math.log(flops) - self.log_flops_centre))


@dataclass(frozen=True)
class IsoflopDetails:
    """Details of an isoFLOP fit.

    Attributes:
        degrees_of_freedom: number of used minima less 2.
        line_errors: standard errors of ln N_opt.
        loss_covariance: covariance of E, ln c and g, shape (3, 3); None without degrees of freedom.
        interpolation: interpolation of the curves.
        window: largest ratio between the best size and other sizes in a parabola.
        minima: the minimum of each budget.
    """

    degrees_of_freedom: int = 0
    line_errors: LineErrors | None = None
    loss_covariance: tuple[tuple[float, ...], ...] | None = None
    interpolation: Interpolation = "parabola"
    window: float | None = None
    minima: tuple[Minimum, ...] = ()


@dataclass(frozen=True)
class FixedTokensLaw:
    """Law L = (N_c / N)^alpha_N at one number of tokens."""

    tokens: float
    alpha_N: float  # noqa: N815  the paper's name
    N_c: float
    r_squared: float


@dataclass(frozen=True)
class GeneralDetails:
    """Details of a fit of the general form or of Kaplan's form.

    Attributes:
        huber_delta: Huber's threshold in log loss.
        objective_of_surface: summed loss of the additive surface on the same runs.
        fixed_tokens: Kaplan's law at each number of tokens; None for the general form.
    """

    huber_delta: float
    objective_of_surface: float
    fixed_tokens: tuple[FixedTokensLaw, ...] | None = None


@dataclass(frozen=True)
class EnvelopeDetails:
    """Details of an envelope fit: how it was computed, and how many points lie on it."""

    reading: Reading
    num_points: int
    num_on_envelope: int


@dataclass(frozen=True)
class OwnError:
    """Error of the combination at one budget, when fitted to smaller budgets.

    Attributes:
        flops: the budget.
        decades: distance beyond the largest fitted run, in powers of ten.
        is_next: whether it is the first level above the fitted ones.
        loss: error of ln loss, observed minus predicted; None if it is not known.
        params: error of ln N; None if the budget has no usable minimum.
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
    """Details of the combination of methods.

    Attributes:
        at_flops: budget for which the weights are stated.
        params_weights: weight of each method in ln N at this budget.
        loss_weights: weight of each method in ln loss at this budget.
        num_folds: number of budgets that were compared with fits to smaller budgets.
        levels: number of levels of compute among the runs; 0 if too few for a back-test.
        own_errors: errors of the combination at the compared budgets.
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
    """Share of a budget wasted by one method's allocation if another method's law is true."""

    budget_flops: float
    chosen: str
    true: str
    wasted_share: float


@dataclass(frozen=True)
class Gain:
    """Optimum at a target, predicted from the runs up to one level of compute.

    Attributes:
        up_to_flops: compute of the largest of these runs.
        num_runs: number of these runs.
        spent_flops: total compute of these runs, each counted as if trained alone.
        target_flops: the target budget.
        params, loss: the optimum at the target.
        params_interval, loss_interval: 95 % intervals from the noise of the runs only.
    """

    up_to_flops: float
    num_runs: int
    spent_flops: float
    target_flops: float
    params: float
    params_interval: Interval | None
    loss: float | None
    loss_interval: Interval | None
